"""The checkpoints of sessions: when one is made, what it is good for, what is lost without it.

Asks hosts to save and to load, and notes what they say; the files are theirs to write and to read, and are only removed
here. Knows no HTTP and starts no host.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import signal
from collections.abc import Callable

from msgspec.structs import replace

from omega_sessiond import paths, usage
from omega_sessiond.config import Settings
from omega_sessiond.errors import CannotSave, HostFailed, JournalError, SessionBusy
from omega_sessiond.frames import LoadedFrame, SavedFrame
from omega_sessiond.host import Death, Host
from omega_sessiond.journal import Journal
from omega_sessiond.live import Live, Saving
from omega_sessiond.losses import REST, joined, named
from omega_sessiond.messages import Checkpoint, Lost, SessionRestored, SnapshotRemoved, SnapshotTaken, iso, now
from omega_sessiond.nursery import cloudpickle_directory
from omega_sessiond.process import Exit
from omega_sessiond.recorder import Recorder
from omega_sessiond.shelf import CheckpointRecord, SnapshotRecord

log = logging.getLogger("omega_sessiond.vault")

REST_S = 0.2
"""A session is idle when no command has come for so long: a fork between two commands of a script would delay the
second one."""

COST_FACTOR = 20
"""Saving takes at most this share of the time."""

SAVE_GRACE_S = 20.0
"""So long after the time that a save may take its process has told of it; one that has not is stopped or stuck."""

LOAD_FACTOR = 2
"""Loading a checkpoint may take so many times what saving it may, and at least `host_start_s`. More keeps commands
waiting for a load that hangs, less refuses a large state on a machine that is busy with waking others."""

ENDING_S = 3.0
"""A process that ends closes its connection a little before its end can be seen, and before its parent has said how."""

OWN_DOING = frozenset(
    {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT, signal.SIGSYS, signal.SIGTRAP}
)
"""Signals by which a process ends for what it computes; others come from elsewhere, or from the kernel when memory is
short. A checkpoint that is blamed wrongly costs the session its variables until somebody restores them; one that is not
costs another attempt."""

COMMANDS_READ = 1000
"""How many commands are looked through for the names that a loss tells."""

NAMED_AS_OURS = re.compile(r"[A-Za-z0-9]{1,64}(\.new)?\Z")
"""A checkpoint's directory, or the draft of one."""

AUTOMATIC_KEPT = 5
"""Snapshots of one session that nobody asked for: enough to go back behind a few mistakes."""


class Vault:
    """Those of all sessions. `on_change` is called when a session has been saved, or has a new process."""

    def __init__(self, settings: Settings, journal: Journal, recorder: Recorder) -> None:
        self.on_change: Callable[[], None] = lambda: None
        self._settings = settings
        self._journal = journal
        self._shelf = journal.shelf
        self._recorder = recorder
        self._waiting: set[str] = set()
        self._terms: dict[str, object] = {}

    @property
    def terms(self) -> dict[str, object]:
        """What a host is told at each connection."""
        if not self._terms:
            self._terms = {
                "lent": cloudpickle_directory(),
                "budget_s": self._settings.save_budget_s,
                "max_bytes": self._settings.checkpoint_max_bytes,
            }
        return self._terms

    # ---- what is saved ----

    def current(self, live: Live) -> CheckpointRecord | None:
        """The checkpoint that the session's next process takes up."""
        id = live.record.keep.checkpoint_id
        if id is None:
            return None
        if live.checkpoint is None or live.checkpoint.id != id:
            live.checkpoint = self._shelf.checkpoint(id)
        return live.checkpoint

    def view(self, live: Live) -> Checkpoint | None:
        """As the API shows it; None when nothing was ever saved or tried."""
        keep, record = live.record.keep, self.current(live)
        if record is None:
            if keep.trouble is None:
                return None
            return Checkpoint(None, None, None, None, False, False, {}, [], keep.trouble)
        return Checkpoint(
            record.id,
            record.at,
            record.execution_id,
            record.size_bytes,
            record.is_complete,
            self.is_current(live),
            record.left_out,
            record.obstacles,
            keep.trouble,
        )

    def can_save(self, live: Live) -> bool:
        """Whether the session's process has a way to."""
        return live.host is not None and live.host.hello is not None and "save" in live.host.hello.features

    def is_current(self, live: Live) -> bool:
        """Whether nothing was begun since the checkpoint."""
        return max(live.taken, live.session.running or 0) <= live.record.keep.covers

    def is_whole(self, live: Live) -> bool:
        """Whether the session's process may end, as far as its state goes."""
        return self.stands_for(live, max(live.taken, live.session.running or 0))

    def stands_for(self, live: Live, last: int) -> bool:
        """Whether the checkpoint stands for all of the session up to this execution. One that has run nothing, and was
        no other's copy, needs none."""
        record = self.current(live)
        if record is None:
            is_unused = last == 0 and live.record.parent is None and self._journal.last_begun(live.record.id) == 0
            return is_unused and self.can_save(live)
        return record.is_complete and last <= live.record.keep.covers

    # ---- saving in the background ----

    def started(self, live: Live) -> None:
        """A new process, which has nothing to save before it has run something for a while."""
        live.tried_of = -1
        live.next_save_at = asyncio.get_running_loop().time() + self._settings.save_interval_ms / 1000
        self.touch(live)
        self.on_change()

    def touch(self, live: Live) -> None:
        """The session has come to rest: see to it that what changed is saved in due time."""
        if live.saving is not None or live.host is None or not self._settings.save_interval_ms:
            return
        loop = asyncio.get_running_loop()
        live.rested_at = loop.time()
        if live.save_timer is None and self._is_unsaved(live):
            self._arm(live, max(live.next_save_at, live.rested_at + REST_S))

    def _is_unsaved(self, live: Live) -> bool:
        """Whether there is something to save that was not tried yet: what commands did, or what a fork began with."""
        keep, record = live.record.keep, live.record
        if live.taken > max(keep.covers, live.tried_of):
            return True
        return record.parent is not None and keep.checkpoint_id is None and live.tried_of < 0

    def _arm(self, live: Live, at: float) -> None:
        self._waiting.add(live.record.id)
        live.save_timer = asyncio.get_running_loop().call_at(at, self._due, live)

    def _due(self, live: Live) -> None:
        live.save_timer = None
        self._waiting.discard(live.record.id)
        if live.is_deleted or not live.session.is_ready or live.host is None or live.saving is not None:
            return  # it is touched again when it comes to rest
        earliest = live.rested_at + REST_S
        if asyncio.get_running_loop().time() < earliest:
            self._arm(live, earliest)
            return
        trouble = self._refusal(live, live.host)
        if trouble is None:
            self._begin(live, live.host)
        else:
            live.tried_of = live.taken
            self._note(live, trouble)

    def _note(self, live: Live, trouble: str) -> None:
        if live.record.keep.trouble != trouble:
            try:
                self._recorder.update(live, keep=replace(live.record.keep, trouble=trouble))
            except JournalError as error:
                log.error("session %s: %s", live.record.name, error.message)

    def _refusal(self, live: Live, host: Host) -> str | None:
        """Why this host cannot be asked to save just now."""
        if not self.can_save(live):
            return f"its engine '{live.record.engine}' has no way to save its state"
        limit = live.record.limits.memory_bytes
        if limit is not None:
            used = usage.sample(host.pid).memory_bytes
            if used is not None and 2 * used > limit:
                return f"saving could need twice its memory ({used} bytes), which its limit of {limit} does not allow"
        return None

    def _begin(self, live: Live, host: Host) -> Saving:
        loop = asyncio.get_running_loop()
        live.saving = saving = Saving(os.urandom(6).hex(), loop.create_future())
        live.tried_of = live.taken
        self._waiting.add(live.record.id)
        host.save(saving.id)
        timer = loop.call_later(self._settings.save_budget_s + SAVE_GRACE_S, self._unheard, live, saving.id)
        saving.done.add_done_callback(lambda _: timer.cancel())
        return saving

    def _unheard(self, live: Live, id: str) -> None:
        trouble = "its process does not answer"
        self._note(live, trouble)
        self._ended(live, id, trouble)

    async def save(self, live: Live) -> None:
        """Save now. Raises SessionBusy, CannotSave with the reason, HostFailed."""
        name = live.record.name
        while live.saving is not None:
            await asyncio.wait([live.saving.done])
        host = live.host
        if host is None and live.session.link == "absent":
            if live.record.keep.checkpoint_id is None:
                raise CannotSave.without_process(name)
            return
        if host is None or not live.session.is_at_rest:
            raise SessionBusy(f"Session '{name}' is {live.session.state}")
        trouble = self._refusal(live, host)
        if trouble is None:
            trouble = await self._begin(live, host).done
        if trouble is not None:
            raise CannotSave(f"Session '{name}' cannot be saved: {trouble}")

    def unreachable(self, live: Live) -> None:
        """Nobody knows whether the host has heard of a save that we asked for; one that is done will be told."""
        self._ended(live, None, "the connection to its process was lost")
        if live.loading is not None and not live.loading.done():
            live.loading.set_result(None)

    def _ended(self, live: Live, id: str | None, trouble: str | None) -> None:
        saving = live.saving
        if saving is not None and id in (None, saving.id):
            live.saving = None
            self._waiting.discard(live.record.id)
            if not saving.done.done():
                saving.done.set_result(trouble)

    # ---- what hosts say ----

    def record(self, live: Live, frame: SavedFrame | LoadedFrame) -> None:
        """Note what a host has said; the caller opens the transaction."""
        keep = live.record.keep
        if isinstance(frame, LoadedFrame):
            if frame.id == keep.waking_from:
                self._record_load(live, frame)
        elif frame.reason is not None:
            self._recorder.update(live, keep=replace(keep, trouble=frame.reason))
        elif not keep.is_replaced:
            self._shelf.add(
                CheckpointRecord(
                    frame.id,
                    live.record.id,
                    iso(frame.at),
                    frame.execution_id,
                    frame.size,
                    frame.sha256,
                    frame.variables,
                    frame.left_out,
                    frame.obstacles,
                )
            )
            covers = max(keep.covers, frame.execution_id)
            self._recorder.update(live, keep=replace(keep, checkpoint_id=frame.id, covers=covers, trouble=None))
            self._shelf.clear(live.record.id, frame.id)

    def _record_load(self, live: Live, frame: LoadedFrame) -> None:
        if frame.reason is not None:
            self._refuse(live, frame.id, frame.reason)
            return
        keep, lost = replace(live.record.keep, waking_from=None, resumed_from=frame.id), live.record.lost
        taken_up = self._shelf.checkpoint(frame.id)
        if taken_up is not None:
            source = {"checkpoint": frame.id, "execution_id": taken_up.execution_id}
            self._shelf.add_restore(live.record.id, now(), self._journal.last_known(live.record.id), source)
        if frame.lost:
            names, more = named({*frame.lost}, frame.lost.get(REST))
            why = [f"{name}: {frame.lost[name]}" for name in names]
            lost = joined(lost, Lost(names, "; ".join([*why, *more])))
        self._recorder.update(live, keep=keep, lost=lost)

    def _refuse(self, live: Live, id: str, trouble: str) -> None:
        """A checkpoint was not loaded. The file stays, under a name: what hinders it may pass."""
        name = self._keep(live, id, "refused", "not loaded", trouble)
        keep = replace(live.record.keep, waking_from=None, resumed_from=None, checkpoint_id=None, trouble=trouble)
        refusal = f"the checkpoint was not loaded and is kept as snapshot {name}: {trouble}"
        self._recorder.update(live, keep=keep, lost=joined(live.record.lost, Lost("all", refusal)))

    def heard(self, live: Live, frame: SavedFrame | LoadedFrame) -> None:
        """What a host has said is committed."""
        if isinstance(frame, LoadedFrame):
            if live.loading is not None and not live.loading.done():
                live.loading.set_result(None)
            return
        cost_s = frame.duration_ms / 1000
        pause_s = max(self._settings.save_interval_ms / 1000, COST_FACTOR * cost_s)
        live.next_save_at = asyncio.get_running_loop().time() + pause_s
        self._ended(live, frame.id, frame.reason)
        self.sweep(live)
        if frame.reason is not None:
            log.info("session %s: not saved: %s", live.record.name, frame.reason)
        self.touch(live)
        self.on_change()

    def sweep(self, live: Live) -> None:
        """Remove the files of checkpoints that nobody knows; not while one is being written."""
        if live.saving is not None:
            return
        directory = paths.checkpoints_dir(self._settings.state_dir, live.record.id)
        try:
            known = self._shelf.ids(live.record.id)
            # What is not named as a checkpoint is not ours to remove, nor what stands where a link leads.
            names = [] if os.path.islink(directory) else os.listdir(directory)
            unknown = [name for name in names if name not in known and NAMED_AS_OURS.match(name)]
        except (OSError, JournalError):
            return
        for name in unknown:
            remove(f"{directory}/{name}")

    # ---- waking ----

    def waking(self, live: Live) -> str | None:
        """The checkpoint that a new host is to take up."""
        return None if self.current(live) is None else live.record.keep.checkpoint_id

    @property
    def load_s(self) -> float:
        """How long a process may take over a checkpoint."""
        return max(self._settings.host_start_s, LOAD_FACTOR * self._settings.save_budget_s)

    async def wake(self, live: Live, host: Host) -> None:
        """Have the host take up what it is to take up, unless it has told of that already. One that takes too long
        over it is ended. Raises HostFailed, and the JournalError that refused what it told."""
        id = live.record.keep.waking_from
        record = None if id is None else self._shelf.checkpoint(id)
        if id is None or record is None:
            return
        live.loading = asyncio.get_running_loop().create_future()
        live.told_to_load, live.is_overdue = id, False
        live.load_begun.set()
        host.load(id, record.sha256)
        try:
            async with asyncio.timeout(self.load_s):
                await live.loading  # also when the connection ends, as it does when the process does
        except TimeoutError:
            live.is_overdue = True
            host.process.kill()
        finally:
            live.loading = None
            live.load_begun.clear()
        if live.refusal is not None:
            raise live.refusal
        if live.record.keep.waking_from is not None:
            await host.process.ended(None if live.is_overdue else ENDING_S)
            exit = host.process.exit
            how = "did not get through" if exit is None else "ended"
            why = "" if exit is None else f": {host.describe_death(exit, host.bye, None).reason}"
            raise HostFailed(
                f"its process {how} while it loaded checkpoint {id}{why}",
                hint="'omegactl restart' starts afresh and keeps the checkpoint as a snapshot.",
            )

    def load_trouble(self, live: Live, death: Death, exit: Exit, bye: str | None) -> str | None:
        """Why the checkpoint is to be refused that a dead process was to take up: its loading has ended it. None when
        it had told of that, was never told to, left in order, or was ended by somebody."""
        id = live.record.keep.waking_from
        if id is None or id != live.told_to_load or bye is not None or live.end_reason is not None:
            return None
        if live.is_overdue:
            return f"it was not loaded within {self.load_s:g} s"
        if exit.status is None and exit.signal not in OWN_DOING:
            return None
        return f"its process ended while loading it ({death.reason.removeprefix('its process ended with ')})"

    def refuse(self, live: Live, trouble: str) -> None:
        """Keep the checkpoint that a process was to take up as a snapshot, and go on without it."""
        id, before = live.record.keep.waking_from, live.record
        assert id is not None
        try:
            with self._journal.atomic():
                self._refuse(live, id, trouble)
        except JournalError:
            live.record = before
            raise
        log.warning("session %s: checkpoint %s was not loaded: %s", live.record.name, id, trouble)

    # ---- giving up ----

    def give_up(self, live: Live, why: str) -> str | None:
        """The session's state is to be replaced: what is saved of it stays as a snapshot; its name. What its process
        may still save does not count."""
        before, keep, name = live.record, live.record.keep, None
        lost = before.lost
        try:
            with self._journal.atomic():
                if keep.checkpoint_id is not None:
                    name = self._keep(live, keep.checkpoint_id, f"before-{why}", why)
                    keep = replace(keep, checkpoint_id=None, resumed_from=None, is_asleep=False)
                    if live.host is None:  # no process whose end would tell: the checkpoint was all that there was
                        lost = Lost("all", f"{why}ed by request")
                self._recorder.update(live, keep=replace(keep, is_replaced=live.host is not None), lost=lost)
        except JournalError:
            live.record = before
            raise
        return name

    def put(self, live: Live, target: CheckpointRecord, source: dict[str, object]) -> str | None:
        """Have the session's next process take up `target`. What is saved of the present state stays as a snapshot; its
        name."""
        before = live.record
        last = self._journal.last_begun(before.id)
        try:
            with self._journal.atomic():
                kept_as = self.give_up(live, "restore")
                self._shelf.add_restore(before.id, now(), self._journal.last_known(before.id), source)
                told = str(source["snapshot"])
                self._journal.append(SessionRestored(now(), before.id, before.name, told, kept_as, None))
                covers, is_asleep = max(last, target.execution_id), live.host is None
                keep = replace(
                    live.record.keep, checkpoint_id=target.id, covers=covers, is_asleep=is_asleep, trouble=None
                )
                lost = self.lacking(target, "restored by request") if is_asleep else None  # else its end tells
                self._recorder.update(live, keep=keep, lost=lost)
        except JournalError:
            live.record = before
            raise
        live.session.is_asleep = is_asleep
        return kept_as

    def _keep(self, live: Live, checkpoint_id: str, stem: str, why: str, note: str = "") -> str:
        """Have a checkpoint stay although nobody asked for it: of such ones the newest stay."""
        name, session_id = f"{stem}-{checkpoint_id}", live.record.id
        if self._shelf.snapshot(session_id, name) is None:
            snapshot = self._shelf.add_snapshot(session_id, checkpoint_id, name, now(), note, automatic=why)
            self.tell_taken(live, snapshot)
        for gone in self._shelf.forget_automatic(session_id, AUTOMATIC_KEPT):
            self._journal.append(SnapshotRemoved(now(), session_id, live.record.name, gone, "newer"))
        return name

    def tell_taken(self, live: Live, snapshot: SnapshotRecord) -> None:
        """A state has got a name; the caller opens the transaction."""
        of = self._shelf.checkpoint(snapshot.checkpoint_id)
        assert of is not None, "a foreign key"
        self._journal.append(
            SnapshotTaken(
                snapshot.at, live.record.id, live.record.name, snapshot.name, snapshot.note, snapshot.tags,
                snapshot.automatic, of.id, of.execution_id, of.size_bytes,
            )
        )  # fmt: skip

    # ---- losses ----

    @staticmethod
    def lacking(record: CheckpointRecord, reason: str) -> Lost | None:
        """What a session does not get that goes on from this checkpoint."""
        names, more = named({*record.left_out}, record.left_out.get(REST))
        told = [reason, *more, *(["gone with it: " + ", ".join(record.obstacles)] if record.obstacles else [])]
        return Lost(names, "; ".join(told)) if names or record.obstacles else None

    def loss(self, live: Live, reason: str) -> Lost | None:
        """What is lost with a process that is gone, but for what its checkpoint holds."""
        record = self.current(live)
        if record is None:
            return Lost("all", reason)
        rows = self._journal.executions(live.record.id, live.record.keep.covers, COMMANDS_READ)
        later = [row for row in rows if row.started_at is not None]
        names = set(record.left_out)
        told = [reason]
        if later:
            from omega_sessiond.changes import touched  # the grammar of Python is needed for a loss alone

            covers = live.record.keep.covers
            before = self._journal.last_executions(live.record.id, COMMANDS_READ, covers + 1)
            changed, are_read = touched(
                [row.command for row in later], [row.command for row in before if row.status == "ok"]
            )
            names |= changed
            first, last = later[0].id, self._journal.last_begun(live.record.id)
            span = f"command {first}" if first == last else f"commands {first} to {last}"
            trouble = "" if are_read else ", too long to name all they changed"
            if later[-1].id < last:
                trouble = ", too many to name all they changed"
            told.append(f"{span} ran after the checkpoint{trouble}")
        if record.obstacles:
            told.append("gone with it: " + ", ".join(record.obstacles))
        if not names and len(told) == 1:
            return None
        shown, more = named(names, record.left_out.get(REST))
        return Lost(shown, "; ".join([*told, *more]))

    # ---- life ----

    @property
    def is_quiet(self) -> bool:
        """Whether nothing is unsaved that could be saved."""
        return not self._waiting

    def forget(self, live: Live) -> None:
        """The session is gone, or this daemon lets go of it."""
        if live.save_timer is not None:
            live.save_timer.cancel()
            live.save_timer = None
        self.unreachable(live)
        self._waiting.discard(live.record.id)


def remove(place: str) -> None:
    """Away with a checkpoint's directory, as far as that can be done."""
    try:
        if os.path.islink(place):
            os.unlink(place)
            return
        with os.scandir(place) as entries:
            for entry in entries:
                os.unlink(entry.path)
        os.rmdir(place)
    except OSError as error:
        log.warning("cannot remove %s: %s", place, error.strerror)
