"""The use-cases: what can be done with sessions, whoever asks. Knows no HTTP; how sessions are
kept going is the keeper's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from time import time
from types import ModuleType
from typing import Any, Literal

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from omega_sessiond import __version__, birthplace, forking, paths, usage, views
from omega_sessiond import session as decide
from omega_sessiond.birthplace import Started
from omega_sessiond.config import Settings
from omega_sessiond.database import from_system
from omega_sessiond.engines import Catalogue
from omega_sessiond.errors import (
    CannotFork,
    DataNotFound,
    ExecutionNotFound,
    HostFailed,
    IdempotencyConflict,
    InvalidField,
    InvalidName,
    JournalError,
    NotWaitingInput,
    QueueFull,
    SessionBusy,
    SessionExists,
    SessionNotFound,
    Stopping,
)
from omega_sessiond.host import Launch
from omega_sessiond.journal import ExecutionRecord, Journal, SessionRecord
from omega_sessiond.keeper import Keeper
from omega_sessiond.live import Awaited, Live, Work
from omega_sessiond.messages import (
    NAME_PATTERN,
    UNFINISHED,
    CompleteReply,
    CompleteRequest,
    Counts,
    CreateOptions,
    CreateSession,
    EndRequest,
    Engine,
    ExecuteRequest,
    Execution,
    ForkRequest,
    Health,
    InputAnswered,
    InputRequest,
    InspectReply,
    InterruptRequest,
    IsCompleteReply,
    IsCompleteRequest,
    Limits,
    OutputMatches,
    OutputPiece,
    PatchSession,
    PruneReport,
    PruneRequest,
    Server,
    SessionCreated,
    SessionDeleted,
    Step,
    Stopped,
    Usage,
    iso,
    now,
)
from omega_sessiond.messages import Session as SessionView
from omega_sessiond.nursery import Nursery
from omega_sessiond.parts import PartRecord
from omega_sessiond.pool import Pool
from omega_sessiond.retention import Policy, Retention, by_settings
from omega_sessiond.states import States
from omega_sessiond.transfer import Transfer

log = logging.getLogger("omega_sessiond.service")

FIND_LIMIT = 1000


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
        self._nofile = nofile
        self._state_dir = settings.state_dir
        self._started_at = now()
        self._first_fork_server = first_fork_server
        self._nursery = Nursery(
            is_wanted=settings.fork_server,
            default_python=self._engines.default_python(),
            packages=settings.preload,
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
        self._pool = Pool(settings, self._keeper)
        self.states = States(settings, journal, self._keeper, self)
        self.transfer = Transfer(settings, journal, self._keeper, self)

    async def start(self) -> None:
        """Adopt what an earlier daemon left. Returns at once; sessions are `reconnecting` until their host answers."""
        self._nursery.start(self._first_fork_server)
        self._keeper.start()
        self._pool.start()
        self._retention.start()

    async def stop(self) -> None:
        """Let go of every host (they live on), answer those who wait with what there is, end the feeds."""
        self._retention.stop()
        self._pool.stop()
        await self._keeper.stop()
        self._nursery.close()

    @property
    def is_quiet(self) -> bool:
        """Whether nothing runs, waits, starts or is unsettled: the daemon may leave."""
        return self._keeper.is_quiet

    # ---- sessions ----

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
                self.remove(live)
            raise
        return self.view(live)

    def make(self, name: str, options: CreateOptions) -> Live:
        self._refuse_when_stopping()
        _check_name(name)
        env = birthplace.scrub(dict(os.environ)) if options.env is None else options.env
        engine = options.engine or self._settings.engine
        # Who names no engine names an interpreter for the case that it is Python.
        python = options.python if options.engine is not None or engine == "python" else None
        resolved = self._engines.resolve(engine, python, env)
        cwd = options.cwd or env.get("HOME") or paths.home()
        if not os.path.isdir(cwd):
            raise InvalidField(f"The directory '{cwd}' does not exist", hint="Name an existing directory in `cwd`.")
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
        id = os.urandom(6).hex()
        at = now()
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
            host=None,
            host_seq=0,
        )
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
        directory = paths.session_dir(self._state_dir, id)
        try:
            os.makedirs(directory, mode=0o700)
            launch.save(paths.launch_file(self._state_dir, id))
            self._journal.add_session(record, SessionCreated(at, id, name, engine, record.labels))
        except (OSError, JournalError) as error:
            _remove_directory(directory)
            refusal = error if isinstance(error, JournalError) else from_system(error, directory)
            self._keeper.trouble = refusal.message
            raise refusal from None
        live = Live(record, decide.Session())
        live.settled.set()
        self._keeper.by_name[name] = live
        self._keeper.committed()
        return live

    async def fork(self, name: str, request: ForkRequest) -> SessionView:
        """Copy a live session, everything in memory included. Raises SessionBusy at once on a busy one, CannotFork."""
        self._refuse_when_stopping()
        source = self.find(name)
        _check_name(request.name)
        if request.name in self._keeper.by_name:
            raise SessionExists(f"Session '{request.name}' exists already")
        if request.from_checkpoint:
            return await self.states.fork(name, request.name)
        if source.session.state == "dead" or source.session.state == "hibernated":
            raise CannotFork(
                f"Session '{name}' is {source.session.state}",
                hint="Run a command in it first, or fork what is saved (from_checkpoint).",
            )
        if not source.session.is_at_rest:
            raise SessionBusy(f"Session '{name}' is {source.session.state}")
        forking.check(source)
        try:
            record = forking.copy(source, request.name, self._state_dir, self._journal)
        except OSError as error:
            raise from_system(error, self._state_dir) from None
        live = Live(record, decide.Session(), origin=source)
        self._keeper.by_name[record.name] = live
        self._keeper.committed()
        self._keeper.handle(live, decide.StartAsked())
        await live.settled.wait()
        if live.session.link == "absent" and live.start_error is not None:
            self.remove(live)
            raise live.start_error
        _raise_failure(live)
        return self.view(live)

    async def patch(self, name: str, request: PatchSession) -> SessionView:
        """Change limits, at once also those of the running host, and labels."""
        live = self.find(name)
        limits = live.record.limits
        if request.limits is not UNSET:
            merged = msgspec.structs.asdict(limits) | request.limits
            try:
                limits = msgspec.convert(merged, Limits)
            except msgspec.ValidationError as error:
                raise InvalidField(f"Wrong limit: {error}") from None
        before = live.record
        fields: dict[str, object] = {"limits": limits} if limits != before.limits else {}
        if request.labels is not UNSET:
            fields["labels"] = dict(request.labels)
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
        live = self.find(name)
        live.is_deleted = True
        try:
            await self._keeper.end(live, "deleted", self._budget(request))
            if self._keeper.by_name.get(name) is live:
                self.remove(live)
        finally:
            live.is_deleted = self._keeper.by_name.get(name) is not live

    def remove(self, live: Live) -> None:
        record = live.record
        self._journal.delete_session(record.id, SessionDeleted(now(), record.id, record.name))
        live.is_deleted = True
        for work in list(live.work.values()):
            work.record = replace(work.record, status="cancelled", reason="deleted")
            self._keeper.forget(live, work)
        del self._keeper.by_name[record.name]
        _remove_directory(paths.session_dir(self._state_dir, record.id))
        _unlink(paths.host_socket(self._state_dir, record.id))
        _remove_directory(paths.engine_sockets(self._state_dir, record.id))
        self._keeper.committed()

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

    # ---- executions ----

    def submit(self, name: str, request: ExecuteRequest) -> int:
        """Commit a command to its session and set it going. Returns its execution's id, or that of the execution that
        holds the same idempotency key."""
        self._refuse_when_stopping()
        live = self._keeper.by_name.get(name)
        if live is None:
            if request.create is False:
                self.find(name)
            live = self.make(name, CreateOptions() if request.create is True else _options(request.create))
        else:
            self.find(name)
        record, session = live.record, live.session
        key = request.idempotency_key
        if key is not None and (earlier := self._journal.by_key(record.id, key)) is not None:
            if earlier.command != request.command:
                raise IdempotencyConflict(f"The key '{key}' belongs to another command, execution {earlier.id}")
            return earlier.id
        if len(session.queue) >= self._settings.max_queue:
            raise QueueFull(f"{len(session.queue)} commands wait in session '{name}' already")
        at = now()
        begins = session.is_ready and record.lost is None and record.keep.resumed_from is None
        try:
            id = self._journal.queue(
                record, request.command, at=at, started=begins, idempotency_key=key, timeout_s=request.timeout_s
            )
        except JournalError as error:
            self._keeper.trouble = error.message
            raise
        live.record = replace(record, last_used_at=at)
        work = Work(
            ExecutionRecord(
                id=id,
                session_id=record.id,
                command=request.command,
                status="running" if begins else "queued",
                reason=None,
                error=None,
                execution_count=None,
                queued_at=at,
                started_at=at if begins else None,
                finished_at=None,
                duration_ms=None,
                timeout_s=request.timeout_s,
                displayed=False,
                should_exit=False,
                dropped_bytes=0,
                output_bytes=0,
                resumed_from=None,
                lost=None,
                idempotency_key=key,
                pruned_at=None,
            )
        )
        live.work[id] = work
        self._keeper.work[id] = (live, work)
        self._keeper.committed()
        self._keeper.handle(live, decide.Submitted(id))
        return id

    def awaited(
        self, name: str, execution_id: int, wait_s: float | None, max_output: int | None = None
    ) -> tuple[Awaited | None, Callable[[], Execution]]:
        """What to wait for (None: it has ended, or nobody shall wait), and what the execution is like then."""
        entry = self._keeper.work.get(execution_id)
        if entry is None:
            return None, lambda: self.execution(name, execution_id, max_output)
        work = entry[1]
        is_over = work.record.status not in UNFINISHED or self._keeper.is_stopping or wait_s == 0
        return None if is_over else Awaited(work, wait_s), lambda: self._execution(work.record, name, max_output, work)

    async def finished(
        self, name: str, execution_id: int, wait_s: float | None, max_output: int | None = None
    ) -> Execution:
        """The execution once it has ended, or as it is after `wait_s`."""
        awaited, outcome = self.awaited(name, execution_id, wait_s, max_output)
        if awaited is not None:
            await _over(awaited)
        return outcome()

    def _row(self, live: Live, execution_id: int) -> ExecutionRecord:
        row = self._journal.execution(live.record.id, execution_id)
        if row is None:
            raise ExecutionNotFound(f"Session '{live.record.name}' has no execution {execution_id}")
        return row

    def _execution(self, row: ExecutionRecord, name: str, max_output: int | None, work: Work | None) -> Execution:
        bound = views.DEFAULT_MAX_OUTPUT if max_output is None else max_output
        if work is not None and work.pieces is not None and work.size * 4 <= bound:
            parts = self._journal.parts.of(row.id) if work.has_data else ()
            return views.execution(row, name, views.Pieces(work.pieces), parts, bound)
        if work is not None:
            stored = self._journal.execution(row.session_id, row.id)
            row = row if stored is None else replace(row, output_bytes=stored.output_bytes)
        head = bound // 2
        pieces = self._journal.output(row.id, head, bound - head)
        shown = sum(len(text.encode()) for _, _, text in pieces)
        parts = self._journal.parts.of(row.id) if work is None or work.has_data else ()
        omitted = max(0, row.output_bytes - row.dropped_bytes - shown)
        return views.execution(row, name, views.Pieces(pieces, omitted), parts, bound)

    def abandoned(self, execution_id: int) -> None:
        """The only client of an execution with `on_disconnect: interrupt` has gone."""
        entry = self._keeper.work.get(execution_id)
        if entry is None:
            return
        live, work = entry
        if execution_id in live.session.queue:
            self._keeper.handle(live, decide.Withdrawn(execution_id))
        else:
            self._keeper.interrupt(live, work, "disconnect")

    def execution(self, name: str, execution_id: int, max_output: int | None = None) -> Execution:
        live = self.find(name)
        work = live.work.get(execution_id)
        row = work.record if work is not None else self._row(live, execution_id)
        return self._execution(row, name, max_output, work)

    def executions(
        self,
        name: str,
        after: int,
        limit: int,
        last: int | None = None,
        before: int | None = None,
        max_output: int | None = None,
    ) -> list[Execution]:
        """History, oldest first: at most `limit` from the id after `after` on, or the `last` ones, those `before` an id
        alone. Their outputs are bounded for a list unless `max_output` says otherwise."""
        live = self.find(name)
        if last is None:
            rows = self._journal.executions(live.record.id, after, limit)
        else:
            rows = self._journal.last_executions(live.record.id, last, before)
        bound = views.LISTED_MAX_OUTPUT if max_output is None else max_output
        return [self._execution(row, name, bound, None) for row in rows]

    def output(self, name: str, execution_id: int, offset: int, limit: int) -> OutputPiece:
        """A piece of the whole output, in bytes of its UTF-8."""
        row = self._row(self.find(name), execution_id)
        text, start, following = self._journal.piece(execution_id, offset, limit)
        done = row.status not in UNFINISHED and following >= row.output_bytes
        return OutputPiece(start, text, following, row.output_bytes, row.dropped_bytes, done)

    def data(self, name: str, execution_id: int, number: int) -> tuple[PartRecord, Iterator[bytes]]:
        """A rich part and its bytes."""
        row = self._row(self.find(name), execution_id)
        record = self._journal.parts.one(execution_id, number)
        if record is None or (not record.is_settled and row.status in UNFINISHED):
            raise DataNotFound(f"Execution {execution_id} has no part {number}")
        part = views.part(record, name, execution_id, has_text=False)
        if part.omitted is not UNSET:
            raise DataNotFound(f"Part {number} of execution {execution_id} was omitted: {part.omitted}")
        return record, self._journal.parts.body(record)

    def find_output(self, name: str, execution_id: int, text: str) -> OutputMatches:
        """Where a literal text stands in the whole output."""
        if not text:
            raise InvalidField("`find` must not be empty")
        self._row(self.find(name), execution_id)
        offsets = self._journal.find(execution_id, text, FIND_LIMIT + 1)
        return OutputMatches(text, offsets[:FIND_LIMIT], len(offsets) > FIND_LIMIT)

    def follow(self, since: int | None, *, forever: bool = True) -> AsyncIterator[bytes]:
        """Every event after `since` (None: from now on) as NDJSON, in chunks of whole lines."""
        return self._keeper.feed.follow(since, forever=forever)

    def follow_execution(self, name: str, execution_id: int, max_output: int | None = None) -> AsyncIterator[bytes]:
        """The events of one execution from its first to its end, which carries the whole execution."""
        live = self.find(name)
        work = live.work.get(execution_id)
        kept = None if work is not None else self._row(live, execution_id)

        def final() -> bytes:  # the session may be gone by then
            row = work.record if work is not None else kept
            assert row is not None
            return msgspec.json.encode(self._execution(row, name, max_output, work))

        return self._keeper.feed.follow_execution(execution_id, lambda: execution_id not in self._keeper.work, final)

    # ---- interrupt, end, input ----

    async def interrupt(self, name: str, request: InterruptRequest) -> Stopped:
        """Interrupt what runs, or take back what is queued. Never waits for the queue; what has ended is left alone."""
        live = self.find(name)
        id = request.execution_id
        if id is not None and id in live.session.queue and live.work[id].record.status == "queued":
            self._keeper.handle(live, decide.Withdrawn(id))
            return self._stopped(live, id, [], True, "It was queued and has been taken back.")
        if id is not None:
            row = live.work[id].record if id in live.work else self._row(live, id)
            if row.status not in UNFINISHED:
                return self._stopped(live, id, [], True, f"It had ended already ({row.status}).")
        running = self._running(live)
        if running is None or live.host is None:
            return self._stopped(live, id, [], True, "Nothing is running.")
        at = now()
        if not self._keeper.interrupt(live, running, "user"):
            return self._stopped(live, running.record.id, [], False, "Its process is gone.")
        await self._ended(running, request.wait_s)
        yielded = running.record.status not in UNFINISHED
        note = (
            "It yielded."
            if yielded
            else f"It has not yielded yet and goes on. 'omegactl kill {name}' ends the session's process."
        )
        return self._stopped(live, running.record.id, [Step("SIGINT", at, yielded)], True, note)

    def _running(self, live: Live) -> Work | None:
        """What the host is at, as far as we know, also while it is out of reach."""
        if live.session.running is not None:
            return live.work.get(live.session.running)
        return next((work for work in live.work.values() if work.record.status in ("running", "waiting_input")), None)

    async def _ended(self, work: Work, wait_s: float) -> None:
        if work.record.status in UNFINISHED and wait_s > 0:
            await _over(Awaited(work, wait_s))

    def _stopped(self, live: Live, id: int | None, steps: list[Step], kept: bool, note: str) -> Stopped:
        execution = None if id is None or live.is_deleted else self.execution(live.record.name, id)
        return Stopped(self.view(live), execution, steps, kept, note)

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
        return self._stopped(live, running, steps, not steps, note)

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
        return self._stopped(live, running, steps, not steps and kept is None, note)

    async def input(self, name: str, request: InputRequest) -> Execution:
        """Answer the input() an execution waits in."""
        live = self.find(name)
        id = request.execution_id
        work = live.work.get(id)
        if work is None:
            self._row(live, id)
        if work is None or live.host is None or live.session.running != id or not live.session.waiting:
            raise NotWaitingInput(f"Execution {id} does not wait for input")
        text = None if work.secret else request.text
        with self._journal.atomic():
            self._journal.waiting(id, False)
            self._journal.append(InputAnswered(now(), live.record.id, name, id, text))
        work.record = replace(work.record, status="running")
        self._keeper.committed()
        self._keeper.handle(live, decide.InputGiven(id))
        live.host.give_input(id, request.text)
        return self.execution(name, id)

    # ---- questions to an engine at rest ----

    async def complete(self, name: str, request: CompleteRequest) -> CompleteReply:
        return msgspec.convert(await self._question(name, "complete", request), CompleteReply)

    async def inspect(self, name: str, request: CompleteRequest) -> InspectReply:
        return msgspec.convert(await self._question(name, "inspect", request), InspectReply)

    async def is_complete(self, name: str, request: IsCompleteRequest) -> IsCompleteReply:
        return msgspec.convert(await self._question(name, "is_complete", request), IsCompleteReply)

    async def _question(self, name: str, kind: str, request: CompleteRequest | IsCompleteRequest) -> dict[str, Any]:
        live = self.find(name)
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
        return await live.host.ask(kind, **fields)

    # ---- the server itself ----

    def health(self) -> Health:
        return Health("ok") if self._keeper.trouble is None else Health("degraded", self._keeper.trouble)

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
        return await metrics.text(self.server(), self.sessions(), self._journal.tally), metrics.CONTENT_TYPE

    def engines(self) -> list[Engine]:
        """The engines of this machine, and why others cannot be used."""
        return self._engines.list()

    def _refuse_when_stopping(self) -> None:
        if self._keeper.is_stopping:
            raise Stopping("The daemon is stopping")


def _metrics() -> ModuleType:
    """With the library that writes the format: as long to load as a cold start, and most daemons are never scraped."""
    from omega_sessiond import metrics

    return metrics


def _remove_directory(directory: str) -> None:
    import shutil

    shutil.rmtree(directory, ignore_errors=True)


def _check_name(name: str) -> None:
    if re.match(NAME_PATTERN, name) is None:
        shown = name if len(name) <= 80 else name[:80] + "…"
        raise InvalidName(f"{shown!r} is not a session name")


def _options(create: bool | CreateOptions) -> CreateOptions:
    return create if isinstance(create, CreateOptions) else CreateOptions()


def _raise_failure(live: Live) -> None:
    """What became of a start that has been waited for, if it failed."""
    if live.refusal is not None:
        raise live.refusal
    if live.start_failure is not None:
        raise HostFailed(live.start_failure)


async def _over(awaited: Awaited) -> None:
    over = asyncio.get_running_loop().create_future()
    awaited.begin(lambda: None if over.done() else over.set_result(None))
    try:
        await over
    finally:
        awaited.stop()


def _timestamp(at: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(at).timestamp()


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
