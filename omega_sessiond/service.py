"""The use-cases: what can be done with sessions, whoever asks. Knows no HTTP; how sessions are
kept going is the keeper's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator
from functools import cached_property
from time import time
from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from omega_sessiond import __version__, birthplace, forking, paths, remains, usage
from omega_sessiond import host as hosts
from omega_sessiond import session as decide
from omega_sessiond.birthplace import Started
from omega_sessiond.config import Settings
from omega_sessiond.database import from_system
from omega_sessiond.deletions import Deletions
from omega_sessiond.engines import Catalogue
from omega_sessiond.errors import (
    CannotFork,
    HostFailed,
    InvalidField,
    InvalidName,
    JournalError,
    SessionBusy,
    SessionExists,
    SessionNotFound,
)
from omega_sessiond.executions import Executions
from omega_sessiond.host import Host, Launch
from omega_sessiond.journal import Journal
from omega_sessiond.keeper import Keeper
from omega_sessiond.live import Live
from omega_sessiond.messages import (
    NAME_PATTERN,
    CompleteReply,
    CompleteRequest,
    Counts,
    CreateOptions,
    CreateSession,
    EndRequest,
    Engine,
    ForkRequest,
    Health,
    InspectReply,
    IsCompleteReply,
    IsCompleteRequest,
    Limits,
    Parent,
    PatchSession,
    PruneReport,
    PruneRequest,
    Server,
    SessionCreated,
    Stopped,
    Totals,
    Usage,
    iso,
    now,
)
from omega_sessiond.messages import Session as SessionView
from omega_sessiond.nursery import Nursery
from omega_sessiond.places import Places
from omega_sessiond.pool import Pool
from omega_sessiond.records import Keep, SessionRecord
from omega_sessiond.retention import Policy, Retention, by_settings
from omega_sessiond.states import States
from omega_sessiond.versions import Versions

if TYPE_CHECKING:
    from omega_sessiond.transfer import Transfer

log = logging.getLogger("omega_sessiond.service")

PREPARE_AFTER_S = 0.002
"""How long after a session was made known the place of the next one is: who asked has his answer by then, or about."""


QUESTION_S = 30.0
"""A question about code that is not answered by then never will be; the first one to a kernel can take seconds."""


class Service:
    """All sessions of one state directory."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        *,
        activation: Literal["systemd", "client", "foreground"],
        trouble_fd: int = 2,
        nofile: tuple[int, int] | None = None,
        umask: int = 0o022,
        dies_with_its_unit: bool = False,
        first_fork_server: Started | None = None,
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._activation = activation
        self._engines = Catalogue(settings)
        self._versions = Versions()
        self._nofile = nofile
        self._state_dir = settings.state_dir
        self._started_at = now()
        self._first_fork_server = first_fork_server
        self._nursery = Nursery(
            is_wanted=settings.fork_server,
            default_python=self._engines.default_python(),
            packages=settings.preload,
            ahead=paths.ahead_dir(settings.state_dir),
        )
        self._keeper = Keeper(
            settings,
            journal,
            self._nursery,
            trouble_fd=trouble_fd,
            umask=umask,
            dies_with_its_unit=dies_with_its_unit,
        )
        self._retention = Retention(settings, journal, self._names, self._keeper.committed)
        self._deletions = Deletions(journal, self._keeper, self._retention, settings.state_dir)
        self._pool = Pool(settings, self._keeper)
        self._places = Places(settings.state_dir)
        self.executions = Executions(settings, journal, self._keeper, self)
        self.states = States(settings, journal, self._keeper, self)

    @cached_property
    def transfer(self) -> Transfer:
        """Sessions as files. With hashlib as long to load as the journal, and few daemons are asked for it."""
        from omega_sessiond.transfer import Transfer

        return Transfer(self._settings, self._journal, self._keeper, self, self.states)

    async def start(self) -> None:
        """Adopt what an earlier daemon left. Returns at once; sessions are `reconnecting` until their host answers."""
        self._nursery.start(self._first_fork_server)
        self._places.clear()
        self._keeper.start()
        self._deletions.start()
        self._pool.start()
        self._retention.start()

    async def stop(self) -> None:
        """Let go of every host (they live on), answer those who wait with what there is, end the feeds."""
        self._retention.stop()
        self._pool.stop()
        await self._keeper.stop()
        self._nursery.close()
        self._places.close()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing runs, waits, starts or is unsettled: the daemon may leave."""
        return self._keeper.is_quiet

    # ---- sessions ----

    @cached_property
    def _environment(self) -> dict[str, str]:
        """The daemon's own, for a session whose maker gives none, without what is not UTF-8: it is kept as JSON."""
        own = birthplace.scrub(dict(os.environ))
        return {
            name: value
            for name, value in own.items()
            if (name + value).encode(errors="ignore").decode() == name + value
        }

    def find(self, name: str) -> Live:
        live = self._keeper.by_name.get(name)
        if live is None:
            _check_name(name)
            raise SessionNotFound
        if live.is_deleted or live.is_arriving:
            doing = "deleted" if live.is_deleted else "imported"
            raise SessionBusy(f"Session '{name}' is being {doing}", hint="Try again in a moment.")
        return live

    def sessions(
        self,
        state: str | None = None,
        label: str | None = None,
        limit: int | None = None,
        after: str | None = None,
        names: frozenset[str] | None = None,
        with_usage: bool = False,
    ) -> list[SessionView]:
        """All sessions by name, or those of `names`; `label` is `key` or `key=value`, `after` the name the page before
        ended with."""
        key, has_value, value = (label or "").partition("=")
        found: list[Live] = []
        for name in sorted(self._keeper.by_name if names is None else names & self._keeper.by_name.keys()):
            live = self._keeper.by_name[name]
            labels = live.record.labels
            if after is not None and name <= after:
                continue
            if state is not None and live.session.state != state:
                continue
            if key and (key not in labels or (has_value and labels[key] != value)):
                continue
            if limit is not None and len(found) >= limit:
                break
            found.append(live)
        if not with_usage:
            return [self.view(live) for live in found]
        used = usage.sample_many([live.host.pid for live in found if live.host is not None])
        return [self.view(live, None if live.host is None else used[live.host.pid]) for live in found]

    def session(self, name: str) -> SessionView:
        """One session, with what it uses now."""
        live = self.find(name)
        sampled = None if live.host is None else usage.sample(live.host.pid)
        return self.view(live, sampled)

    def check_kept(self, live: Live) -> None:
        """Raise when the session was deleted while something was waited for; another may have its name by now."""
        if self.find(live.record.name) is not live:
            raise SessionNotFound

    def view(self, live: Live, used: Usage | None = None) -> SessionView:
        record = live.record
        return SessionView(
            id=record.id,
            name=record.name,
            engine=record.engine,
            state=live.session.state,
            state_reason=live.note or record.state_reason,
            pid=live.host.pid if live.host is not None else None,
            python=record.python,
            cwd=record.cwd,
            created_at=record.created_at,
            last_used_at=record.last_used_at,
            execution_count=record.execution_count,
            queue_length=len(live.session.queue),
            running_execution_id=live.session.running,
            limits=record.limits,
            usage=used,
            labels=record.labels,
            checkpoint=self._keeper.vault.view(live),
            parent=record.parent,
            pruned=self._retention.noted.get(record.id),
        )

    async def create(self, request: CreateSession) -> SessionView:
        """Make a session and its host. Raises SessionExists, EngineUnavailable, InvalidField, HostFailed."""
        if request.name in self._keeper.by_name:
            raise SessionExists(f"Session '{request.name}' exists already")
        live = self.make(request.name, request)
        self._keeper.handle(live, decide.StartAsked())
        try:
            await live.settled.wait()
            _raise_failure(live)
        except HostFailed:
            if not live.work and live.session.link == "absent":
                self.discard(live)
            raise
        return self.view(live)

    def make(
        self, name: str, options: CreateOptions, parent: Parent | None = None, *, is_arriving: bool = False
    ) -> Live:
        self._keeper.refuse_when_stopping()
        _check_name(name)
        env = self._environment if options.env is None else options.env
        engine = options.engine or self._settings.engine
        # Who names no engine names an interpreter for the case that it is Python.
        python = options.python if options.engine is not None or engine == "python" else None
        resolved = self._engines.resolve(engine, python, env)
        cwd = options.cwd or env.get("HOME") or paths.home()
        if not os.path.isdir(cwd):
            raise InvalidField(
                f"The directory '{cwd}' does not exist", hint="Name an existing directory in `cwd` (--cwd)."
            )
        for key, value in env.items():
            if not key or "=" in key or "\0" in key + value:
                raise InvalidField("`env` holds a name or value no environment can hold")
        settings = self._settings
        limits = options.limits or Limits()
        limits = Limits(
            limits.memory_bytes or settings.memory_max_bytes,
            limits.tasks or settings.tasks_max,
            limits.cpu_weight or settings.cpu_weight,
        )
        try:
            id = self._places.take()
        except OSError as error:
            refusal = from_system(error, self._state_dir)
            self._keeper.trouble = refusal.message
            raise refusal from None
        launch = Launch(
            session=id,
            name=name,
            engine=engine,
            python=resolved.python or "",
            cwd=cwd,
            env=env,
            log=paths.host_log(self._state_dir, id),
            head_bytes=settings.output_head_bytes,
            tail_bytes=settings.output_tail_bytes,
            data_bytes=settings.data_max_bytes,
            nofile=self._nofile,
            kind=resolved.kind,
            options=resolved.options,
        )
        at = now()
        born: Host | None = None
        try:
            launch.save(paths.launch_file(self._state_dir, id))
            born = None if is_arriving else self._keeper.beget(launch, limits)
            record = SessionRecord(
                id=id,
                name=name,
                engine=engine,
                python=resolved.python,
                cwd=cwd,
                created_at=at,
                last_used_at=at,
                execution_count=0,
                limits=limits,
                labels=dict(options.labels),
                state_reason=None,
                lost=None,
                host=None if born is None else hosts.record(born.process),
                host_seq=0,
                keep=Keep(is_arriving=is_arriving),
                parent=parent,
            )
            self._journal.add_session(record, SessionCreated(at, id, name, engine, record.labels, parent))
        except (OSError, JournalError) as error:
            if born is not None:
                born.discard()
            remains.clear_session(self._state_dir, id)
            directory = paths.session_dir(self._state_dir, id)
            refusal = error if isinstance(error, JournalError) else from_system(error, directory)
            self._keeper.trouble = refusal.message
            raise refusal from None
        live = Live(record, decide.Session(), launch=launch, born=born)
        live.settled.set()
        self._keeper.by_name[name] = live
        self._keeper.committed()
        asyncio.get_running_loop().call_later(PREPARE_AFTER_S, self._places.prepare)
        return live

    async def fork(self, name: str, request: ForkRequest) -> SessionView:
        """Copy a live session, everything in memory included. Raises SessionBusy at once on a busy one, CannotFork."""
        self._keeper.refuse_when_stopping()
        source = self.find(name)
        _check_name(request.name)
        if request.name in self._keeper.by_name:
            raise SessionExists(f"Session '{request.name}' exists already")
        if request.from_checkpoint:
            return await self.states.fork(name, request.name)
        await self._keeper.settled(source)
        self.check_kept(source)
        if source.session.state == "dead" or source.session.state == "hibernated":
            raise CannotFork(
                f"Session '{name}' is {source.session.state}",
                hint="Run a command in it first, or fork what is saved (from_checkpoint).",
            )
        if not source.session.is_at_rest:
            raise SessionBusy(f"Session '{name}' is {source.session.state}")
        await forking.check(source, self._settings.host_start_s)
        self.check_kept(source)
        if request.name in self._keeper.by_name:  # another request may have been faster
            raise SessionExists(f"Session '{request.name}' exists already")
        try:
            record = forking.copy(source, request.name, self._state_dir, self._places, self._journal)
        except OSError as error:
            raise from_system(error, self._state_dir) from None
        asyncio.get_running_loop().call_later(PREPARE_AFTER_S, self._places.prepare)
        live = Live(record, decide.Session(), origin=source)
        self._keeper.by_name[record.name] = live
        self._keeper.committed()
        self._keeper.handle(live, decide.StartAsked())
        await live.settled.wait()
        if live.session.link == "absent" and live.start_error is not None:
            self.discard(live)
            raise live.start_error
        _raise_failure(live)
        return self.view(live)

    async def patch(self, name: str, request: PatchSession) -> SessionView:
        """Change limits, at once also those of the running host, and labels."""
        live = self.find(name)
        limits = live.record.limits
        if request.limits is not UNSET:
            named = {
                name: limit for name, limit in msgspec.structs.asdict(request.limits).items() if limit is not UNSET
            }
            limits = msgspec.structs.replace(limits, **named)
        before = live.record
        fields: dict[str, object] = {"limits": limits} if limits != before.limits else {}
        if request.labels is not UNSET or request.change_labels:
            labels: dict[str, str | None] = {**before.labels} if request.labels is UNSET else {**request.labels}
            labels |= request.change_labels
            fields["labels"] = {key: value for key, value in labels.items() if value is not None}
        try:
            with self._journal.atomic():
                if fields:
                    self._keeper.recorder.update(live, **fields)
                self._keeper.containment.note_limits(live)
                self._journal.append(self._keeper.recorder.changed(live))
        except JournalError:
            live.record = before
            raise
        self._keeper.committed()
        if "limits" in fields:
            await self._keeper.containment.apply_limits(live)
        return self.view(live)

    async def delete(self, name: str, request: EndRequest) -> None:
        """End the host, then remove the session with its history."""
        await self._deletions.delete(self.find(name), self._budget(request))

    def discard(self, live: Live) -> None:
        """Remove a session that came to nothing."""
        self._deletions.discard(live)

    def _names(self) -> dict[str, str]:
        return {live.record.id: name for name, live in self._keeper.by_name.items()}

    async def prune(self, request: PruneRequest) -> PruneReport:
        """Remove old history: what the settings let go, or what the request names instead."""
        session_id = None if request.session is None else self.find(request.session).record.id
        policy = by_settings(self._settings)
        age_s, keep, max_bytes = request.older_than_s, request.keep, request.max_bytes
        if (age_s, keep, max_bytes) != (None, None, None):
            older_than = None if age_s is None else iso(time() - age_s)
            policy = Policy(older_than=older_than, keep=keep, max_bytes=max_bytes, settled_at=now())
        return await self._retention.prune(replace(policy, session_id=session_id), dry_run=request.dry_run)

    # ---- end ----

    def _budget(self, request: EndRequest) -> float:
        return self._settings.stop_budget_s if request.budget_s is None else request.budget_s

    async def kill(self, name: str, request: EndRequest) -> Stopped:
        """End the session's process; its name and history stay, its variables go but for what is saved."""
        live = self.find(name)
        running = live.session.running
        steps = await self._keeper.end(live, "killed", self._budget(request))
        saved = self._keeper.vault.current(live)
        if not steps:
            note = "It had no process."
        elif saved is None:
            note = "Its process has ended, its variables are gone; the next command starts a new one."
        else:
            note = f"Its process has ended; the next command goes on from the checkpoint of {saved.at}."
        return self.executions.stopped(live, running, steps, not steps, note)

    async def restart(self, name: str, request: EndRequest) -> Stopped:
        """End the session's process and start a new one, with no variables: a checkpoint stays as a snapshot."""
        live = self.find(name)
        running = live.session.running
        kept = self._keeper.vault.give_up(live, "restart")
        steps = await self._keeper.end(live, "restarted", self._budget(request), successor=True)
        await live.settled.wait()
        _raise_failure(live)
        note = "A new process has been started; variables are gone."
        if kept is not None:
            note = f"A new process has been started, without variables; what was saved is snapshot {kept}."
        return self.executions.stopped(live, running, steps, not steps and kept is None, note)

    # ---- questions to an engine at rest ----

    async def complete(self, name: str, request: CompleteRequest) -> CompleteReply:
        return msgspec.convert(await self._question(name, "complete", request), CompleteReply)

    async def inspect(self, name: str, request: CompleteRequest) -> InspectReply:
        return msgspec.convert(await self._question(name, "inspect", request), InspectReply)

    async def is_complete(self, name: str, request: IsCompleteRequest) -> IsCompleteReply:
        return msgspec.convert(await self._question(name, "is_complete", request), IsCompleteReply)

    async def _question(self, name: str, kind: str, request: CompleteRequest | IsCompleteRequest) -> dict[str, Any]:
        live = self.find(name)
        await self._keeper.ended(live)
        self.check_kept(live)  # no process may come after its last one
        if live.session.state == "hibernated":
            self._keeper.handle(live, decide.StartAsked())
        if live.session.link == "starting":
            await live.settled.wait()
            _raise_failure(live)
        if live.session.state == "dead":
            raise SessionBusy(f"Session '{name}' has no process to ask", hint="Run a command or restart it first.")
        if not live.session.is_at_rest or live.host is None:
            raise SessionBusy(f"Session '{name}' is {live.session.state}")
        fields = msgspec.structs.asdict(request)
        if fields.get("cursor", 0) is None:
            fields["cursor"] = len(request.code)
        try:
            async with asyncio.timeout(QUESTION_S):
                return await live.host.ask(kind, **fields)
        except TimeoutError:
            if live.record.engine == "python" and live.session.is_at_rest and live.host is not None:
                live.host.interrupt(0)  # a __dir__ or __repr__ of the user's that goes on and on
            raise HostFailed(
                f"Session '{name}' has not answered within {QUESTION_S:g} s",
                hint=f"It may compute for ever what it was asked about. 'omegactl kill {name}' ends a stuck process.",
            ) from None

    # ---- the server itself ----

    def follow(self, since: int | None, *, forever: bool = True) -> AsyncIterator[bytes]:
        """Every event after `since` (None: from now on) as NDJSON, in chunks of whole lines."""
        return self._keeper.feed.follow(since, forever=forever)

    def health(self) -> Health:
        return Health("ok") if self._keeper.trouble is None else Health("degraded", self._keeper.trouble)

    async def totals(self) -> Totals:
        """What all sessions use together now."""
        hosts = [live.host for live in self._keeper.by_name.values() if live.host is not None]
        are_scoped = all(host.scope for host in hosts)
        return await asyncio.to_thread(usage.total, [host.pid for host in hosts], are_scoped=are_scoped)

    def server(self) -> Server:
        lives = self._keeper.by_name.values()
        states = [live.session.state for live in lives]
        counts = Counts(
            sessions=len(states),
            live=sum(live.host is not None for live in lives),
            busy=sum(state in ("busy", "waiting_input") for state in states),
            queued=sum(len(live.session.queue) for live in lives),
        )
        return Server(
            version=__version__,
            pid=os.getpid(),
            started_at=self._started_at,
            activation=self._activation,
            scopes=self._keeper.containment.scopes is not None,
            state_dir=self._state_dir,
            config_file=paths.config_file(),
            settings=msgspec.structs.asdict(self._settings),
            counts=counts,
            fork_servers=self._nursery.views(),
        )

    async def metrics(self) -> tuple[bytes, str]:
        """The figures of the daemon and its sessions for Prometheus, and their type."""
        metrics = await asyncio.to_thread(_metrics)
        return await metrics.text(
            self.server(), self.sessions(), self._journal.tally, self._journal.shelf.kept()
        ), metrics.CONTENT_TYPE

    async def engines(self, with_versions: bool) -> list[Engine]:
        """The engines of this machine, and why others cannot be used."""
        engines = self._engines.list()
        if not with_versions:
            return engines
        versions = await self._versions.of(self._engines.inquiries())
        return [replace(engine, version=versions.get(engine.name)) for engine in engines]


def _metrics() -> ModuleType:
    """With the library that writes the format: as long to load as a cold start, and most daemons are never scraped."""
    from omega_sessiond import metrics

    return metrics


def _check_name(name: str) -> None:
    if re.match(NAME_PATTERN, name) is None:
        shown = name if len(name) <= 80 else name[:80] + "…"
        raise InvalidName(f"{shown!r} is not a session name")


def _raise_failure(live: Live) -> None:
    """What became of a start that has been waited for, if it failed."""
    if live.refusal is not None:
        raise live.refusal
    if live.start_failure is not None:
        raise HostFailed(live.start_failure)
