"""The use-cases of saved state, whoever asks: save, snapshots, restore, timeline. Knows no HTTP; how a session is saved
and woken is the vault's and the keeper's.
"""

from __future__ import annotations

import os
from typing import Protocol

from msgspec.structs import replace

from omega_sessiond import paths, timeline
from omega_sessiond.config import Settings
from omega_sessiond.database import from_system
from omega_sessiond.errors import (
    CannotSave,
    HostFailed,
    JournalError,
    SessionBusy,
    SessionExists,
    SnapshotExists,
    SnapshotNotFound,
)
from omega_sessiond.host import Launch
from omega_sessiond.journal import Journal
from omega_sessiond.keeper import Keeper
from omega_sessiond.live import Live
from omega_sessiond.losses import joined
from omega_sessiond.messages import (
    CreateOptions,
    Parent,
    Restored,
    RestoreRequest,
    Session,
    SessionRestored,
    Snapshot,
    SnapshotRemoved,
    SnapshotRequest,
    StateSaved,
    Timeline,
    now,
)
from omega_sessiond.records import Keep
from omega_sessiond.shelf import CheckpointRecord, SnapshotRecord

LACKING_TOLD = 10
"""How much of what a kept state lacks its note names; the snapshot has the rest."""


class Sessions(Protocol):
    """What this needs of the use-cases of sessions."""

    def check_kept(self, live: Live) -> None:
        """Raise when the session was deleted while something was waited for; another may have its name by now."""

    def find(self, name: str) -> Live:
        """Raises SessionNotFound."""

    def make(
        self, name: str, options: CreateOptions, parent: Parent | None = None, *, is_arriving: bool = False
    ) -> Live:
        """A session without a process; `parent`: what it is a fork of, `is_arriving`: should we end before it is whole,
        the next daemon removes it."""

    def discard(self, live: Live) -> None:
        """Remove a session that came to nothing, now or when the journal can be written."""

    def view(self, live: Live) -> Session: ...


class States:
    """The saved states of all sessions."""

    def __init__(self, settings: Settings, journal: Journal, keeper: Keeper, sessions: Sessions) -> None:
        self._settings = settings
        self._journal = journal
        self._shelf = journal.shelf
        self._keeper = keeper
        self._vault = keeper.vault
        self._sessions = sessions

    async def _settled(self, name: str) -> Live:
        live = self._sessions.find(name)
        await self._keeper.settled(live)
        self._sessions.check_kept(live)
        return live

    async def save(self, name: str) -> Session:
        """Save the session now. Raises SessionBusy, CannotSave, HostFailed."""
        live = await self._settled(name)
        await self._vault.save(live)
        self._sessions.check_kept(live)
        saved = self._vault.current(live)
        if saved is not None:
            lacking = sorted(saved.left_out)
            self._journal.append(
                StateSaved(
                    now(), live.record.id, name, saved.id, saved.execution_id, saved.size_bytes, lacking,
                    saved.obstacles,
                )
            )  # fmt: skip
            self._keeper.committed()
        return self._sessions.view(live)

    async def _save_changes(self, live: Live) -> CheckpointRecord | None:
        """The checkpoint of the present state, made now when there is none; None for a session that never had one."""
        view = self._vault.view(live)
        if live.host is not None and (view is None or view.id is None or not view.is_current):
            await self._vault.save(live)
            self._sessions.check_kept(live)
        elif live.host is not None and not live.session.is_at_rest:
            raise SessionBusy(f"Session '{live.record.name}' is {live.session.state}")
        return self._vault.current(live)

    # ---- snapshots ----

    async def snapshot(self, name: str, request: SnapshotRequest) -> Snapshot:
        """Give the present state a name. Raises SnapshotExists, SessionBusy, CannotSave."""
        live = await self._settled(name)
        self._refuse_name(live, request.name)
        checkpoint = await self._save_changes(live)
        if checkpoint is None:
            raise CannotSave.without_process(name)
        self._refuse_name(live, request.name)  # another request may have been faster
        with self._journal.atomic():
            made = self._shelf.add_snapshot(
                live.record.id, checkpoint.id, request.name, now(), request.note, request.tags
            )
            self._vault.tell_taken(live, made)
        self._keeper.committed()
        return _view(made, checkpoint)

    def _refuse_name(self, live: Live, name: str) -> None:
        if self._shelf.snapshot(live.record.id, name) is not None:
            raise SnapshotExists(f"Session '{live.record.name}' has a snapshot '{name}' already")

    def snapshots(self, name: str) -> list[Snapshot]:
        """Those of a session, oldest first."""
        return [_view(*found) for found in self._named(self._sessions.find(name))]

    def _named(self, live: Live) -> list[tuple[SnapshotRecord, CheckpointRecord]]:
        found = []
        for snapshot in self._shelf.snapshots(live.record.id):
            checkpoint = self._shelf.checkpoint(snapshot.checkpoint_id)
            assert checkpoint is not None, "a foreign key"
            found.append((snapshot, checkpoint))
        return found

    def _snapshot(self, live: Live, snapshot: str) -> tuple[SnapshotRecord, CheckpointRecord]:
        for found in self._named(live):
            if found[0].name == snapshot:
                return found
        raise SnapshotNotFound(f"Session '{live.record.name}' has no snapshot {snapshot[:80]!r}")

    def delete_snapshot(self, name: str, snapshot: str) -> None:
        """Forget a name; its file goes when nothing else needs it."""
        live = self._sessions.find(name)
        found, _ = self._snapshot(live, snapshot)
        with self._journal.atomic():
            self._shelf.delete_snapshot(found.id)
            self._shelf.clear(live.record.id, live.record.keep.checkpoint_id)
            self._journal.append(SnapshotRemoved(now(), live.record.id, name, found.name, "user"))
        self._keeper.committed()
        self._vault.sweep(live)

    # ---- restore ----

    async def restore(self, name: str, request: RestoreRequest) -> Restored:
        """Go on from a snapshot, in the session itself or in a new one. Raises SnapshotNotFound, SessionExists,
        SessionBusy, CannotSave when what there is could not be kept, HostFailed."""
        live = await self._settled(name)
        snapshot, checkpoint = self._snapshot(live, request.snapshot)
        if request.into is not None:
            return self._restore_into(live, snapshot, checkpoint, request.into)
        if live.host is not None and not live.session.is_ready:
            raise SessionBusy(f"Session '{name}' is {live.session.state}")
        if live.taken or live.record.keep.checkpoint_id is not None:
            await self._save_changes(live)
            if live.host is not None and not (live.session.is_ready and self._vault.is_current(live)):
                raise SessionBusy(f"Session '{name}' was used while it was saved: nothing was replaced")
            snapshot, checkpoint = self._snapshot(live, request.snapshot)  # it may have been removed meanwhile
        source: dict[str, object] = {
            "snapshot": snapshot.name,
            "checkpoint": checkpoint.id,
            "execution_id": checkpoint.execution_id,
        }
        kept, kept_as = self._vault.current(live), self._vault.put(live, checkpoint, source)
        if live.host is not None:
            budget_s = self._settings.stop_budget_s if request.budget_s is None else request.budget_s
            await self._keeper.end(live, "restored", budget_s, successor=True)
            await live.settled.wait()
            if live.start_failure is not None:
                raise HostFailed(live.start_failure)
            if live.record.keep.checkpoint_id != checkpoint.id:
                trouble = live.record.keep.trouble or "the session was restarted meanwhile"
                raise HostFailed(
                    f"Snapshot '{snapshot.name}' was not loaded: {trouble}",
                    hint="The session is without variables"
                    + (f"; what it had is snapshot '{kept_as}'." if kept_as is not None else "."),
                )
        else:
            self._keeper.announce(live)
        note = f"It goes on from snapshot '{snapshot.name}', after execution {checkpoint.execution_id}."
        if kept_as is not None:
            note += f" What it had is kept as snapshot {kept_as}{'' if kept is None else _but_for(kept)}."
        return Restored(self._sessions.view(live), kept_as, note)

    def _restore_into(self, live: Live, snapshot: SnapshotRecord, checkpoint: CheckpointRecord, into: str) -> Restored:
        source: dict[str, object] = {
            "snapshot": snapshot.name,
            "session": live.record.name,
            "session_id": live.record.id,
            "execution_id": checkpoint.execution_id,
        }
        copy = self._copy(live, checkpoint, into, source, None)
        note = f"Its next command goes on from snapshot '{snapshot.name}' of session '{live.record.name}'."
        return Restored(self._sessions.view(copy), None, note)

    async def fork(self, name: str, into: str) -> Session:
        """A new session with what is saved of this one. Raises SessionBusy, CannotSave."""
        live = await self._settled(name)
        checkpoint = await self._save_changes(live)
        if checkpoint is None:
            raise CannotSave.without_process(name)
        parent = Parent(live.record.id, name, checkpoint.execution_id or None, now())
        return self._sessions.view(self._copy(live, checkpoint, into, None, parent))

    def _copy(
        self,
        live: Live,
        checkpoint: CheckpointRecord,
        into: str,
        source: dict[str, object] | None,
        parent: Parent | None,
    ) -> Live:
        """A new session of the same making, asleep with the checkpoint's state."""
        if into in self._keeper.by_name:
            raise SessionExists(f"Session '{into}' exists already")
        record, state_dir = live.record, self._settings.state_dir
        launch = Launch.load(paths.launch_file(state_dir, record.id))
        options = CreateOptions(
            engine=record.engine,
            python=record.python,
            cwd=record.cwd,
            env=launch.env,
            limits=record.limits,
            labels=record.labels,
        )
        copy = self._sessions.make(into, options, parent, is_arriving=True)
        id = os.urandom(6).hex()
        try:
            _link_files(
                f"{paths.checkpoints_dir(state_dir, record.id)}/{checkpoint.id}",
                f"{paths.checkpoints_dir(state_dir, copy.record.id)}/{id}",
            )
            with self._journal.atomic():
                self._shelf.add(replace(checkpoint, id=id, session_id=copy.record.id))
                if source is not None:
                    self._shelf.add_restore(copy.record.id, now(), 0, {**source, "checkpoint": id})
                    told = str(source["snapshot"])
                    self._journal.append(SessionRestored(now(), record.id, record.name, told, None, into))
                keep = Keep(checkpoint_id=id, covers=checkpoint.execution_id, is_asleep=True)
                lost = self._vault.lacking(checkpoint, f"made from a checkpoint of session '{record.name}'")
                if parent is not None:  # not what a snapshot held, but what the session is: with less than it had
                    lost = joined(record.lost, lost)
                self._keeper.recorder.update(copy, keep=keep, lost=lost)
        except (OSError, JournalError) as error:
            self._sessions.discard(copy)
            if isinstance(error, FileNotFoundError | NotADirectoryError):
                raise JournalError(
                    f"The files of checkpoint {checkpoint.id} are gone", hint="Take another snapshot, or save again."
                ) from None
            refusal = error if isinstance(error, JournalError) else from_system(error, copy.record.name)
            raise refusal from None
        copy.session.is_asleep = True
        self._keeper.announce(copy)
        return copy

    def timeline(self, name: str, limit: int) -> Timeline:
        """How the session came to where it is, over its newest `limit` executions."""
        live = self._sessions.find(name)
        id = live.record.id
        parents = [(other.record.name, other.record.parent) for other in self._keeper.by_name.values()]
        executions = self._journal.last_executions(id, limit + 1)
        nodes = timeline.nodes(
            executions[-limit:],
            self._named(live),
            self._shelf.restores(id),
            self._shelf.copies(id),
            [(other, parent) for other, parent in parents if parent is not None and parent.session_id == id],
            live.record.parent,
            is_cut=len(executions) > limit,
        )
        return Timeline(name, nodes)


def _link_files(source: str, target: str) -> None:
    """The same files under another name: nothing writes to them any more."""
    os.makedirs(target, mode=0o700)
    for name in ("header.json", "state"):
        os.link(f"{source}/{name}", f"{target}/{name}")


def _but_for(kept: CheckpointRecord) -> str:
    """What a checkpoint lacks of the state that it was made of, in words."""
    lacking = [*sorted(kept.left_out), *kept.obstacles]
    told = [*lacking[:LACKING_TOLD], *([f"{len(lacking) - LACKING_TOLD} more"] if lacking[LACKING_TOLD:] else [])]
    return f", but for {', '.join(told)}" if told else ""


def _view(snapshot: SnapshotRecord, checkpoint: CheckpointRecord) -> Snapshot:
    return Snapshot(
        name=snapshot.name,
        at=snapshot.at,
        note=snapshot.note,
        tags=snapshot.tags,
        automatic=snapshot.automatic,
        checkpoint_id=checkpoint.id,
        execution_id=checkpoint.execution_id,
        size_bytes=checkpoint.size_bytes,
        variables=checkpoint.variables,
        complete=checkpoint.is_complete,
        left_out=checkpoint.left_out,
        obstacles=checkpoint.obstacles,
    )
