"""The use-cases of executions, whoever asks: submit, wait, read, follow, interrupt, answer. Knows no HTTP; how a
command comes to its host is the keeper's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Protocol

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from omega_sessiond import session as decide
from omega_sessiond import views
from omega_sessiond.config import Settings
from omega_sessiond.errors import (
    DataNotFound,
    ExecutionNotFound,
    IdempotencyConflict,
    InvalidField,
    JournalError,
    NotWaitingInput,
    QueueFull,
)
from omega_sessiond.journal import Journal
from omega_sessiond.keeper import Keeper
from omega_sessiond.live import Awaited, Live, Work
from omega_sessiond.messages import (
    UNFINISHED,
    CreateOptions,
    ExecuteRequest,
    Execution,
    InputAnswered,
    InputRequest,
    InterruptRequest,
    OutputMatches,
    OutputPiece,
    Session,
    Step,
    Stopped,
    now,
)
from omega_sessiond.parts import PartRecord
from omega_sessiond.records import ExecutionRecord

LINE_BREAKS = frozenset("\n\r")
"""Both end a line at a terminal."""

FIND_LIMIT = 1000


class Sessions(Protocol):
    """What this needs of the use-cases of sessions."""

    def find(self, name: str) -> Live:
        """Raises SessionNotFound."""

    def make(self, name: str, options: CreateOptions) -> Live:
        """A session without a process."""

    def view(self, live: Live) -> Session: ...

    def discard(self, live: Live) -> None:
        """Remove a session that came to nothing, now or when the journal can be written."""


class Executions:
    """The executions of all sessions."""

    def __init__(self, settings: Settings, journal: Journal, keeper: Keeper, sessions: Sessions) -> None:
        self._settings = settings
        self._journal = journal
        self._keeper = keeper
        self._sessions = sessions

    def submit(self, name: str, request: ExecuteRequest) -> int:
        """Commit a command to its session and set it going. Returns its execution's id, or that of the execution that
        holds the same idempotency key."""
        self._keeper.refuse_when_stopping()
        live = self._keeper.by_name.get(name)
        is_new = live is None
        if live is None:
            if request.create is False:
                self._sessions.find(name)
            live = self._sessions.make(name, CreateOptions() if request.create is True else _options(request.create))
        else:
            self._sessions.find(name)
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
            if is_new:
                self._sessions.discard(live)
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
            return None, lambda: self.get(name, execution_id, max_output)
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
            self._keeper.handle(live, decide.Withdrawn(execution_id, "disconnect"))
        else:
            self._keeper.interrupt(live, work, "disconnect")

    def get(self, name: str, execution_id: int, max_output: int | None = None) -> Execution:
        live = self._sessions.find(name)
        work = live.work.get(execution_id)
        row = work.record if work is not None else self._row(live, execution_id)
        return self._execution(row, name, max_output, work)

    def history(
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
        live = self._sessions.find(name)
        if last is None:
            rows = self._journal.executions(live.record.id, after, limit)
        else:
            rows = self._journal.last_executions(live.record.id, last, before)
        bound = views.LISTED_MAX_OUTPUT if max_output is None else max_output
        return [self._execution(row, name, bound, None) for row in rows]

    def output(self, name: str, execution_id: int, offset: int, limit: int) -> OutputPiece:
        """A piece of the whole output, in bytes of its UTF-8."""
        row = self._row(self._sessions.find(name), execution_id)
        text, start, following = self._journal.piece(execution_id, offset, limit)
        done = row.status not in UNFINISHED and following >= row.output_bytes
        return OutputPiece(start, text, following, row.output_bytes, row.dropped_bytes, done)

    def data(self, name: str, execution_id: int, number: int) -> tuple[PartRecord, Iterator[bytes]]:
        """A rich part and its bytes."""
        row = self._row(self._sessions.find(name), execution_id)
        record = self._journal.parts.one(execution_id, number)
        if record is None or (not record.is_settled and row.status in UNFINISHED):
            raise DataNotFound(f"Execution {execution_id} has no part {number}")
        part = views.part(record, name, execution_id, has_text=False)
        if part.omitted is not UNSET:
            raise DataNotFound(f"Part {number} of execution {execution_id} was omitted: {part.omitted}")
        return record, self._journal.parts.body(record)

    def find(self, name: str, execution_id: int, text: str) -> OutputMatches:
        """Where a literal text stands in the whole output."""
        if not text:
            raise InvalidField("`find` must not be empty")
        self._row(self._sessions.find(name), execution_id)
        offsets = self._journal.find(execution_id, text, FIND_LIMIT + 1)
        return OutputMatches(text, offsets[:FIND_LIMIT], len(offsets) > FIND_LIMIT)

    def follow(self, name: str, execution_id: int, max_output: int | None = None) -> AsyncIterator[bytes]:
        """The events of one execution from its first to its end, which carries the whole execution."""
        live = self._sessions.find(name)
        work = live.work.get(execution_id)
        kept = None if work is not None else self._row(live, execution_id)

        def final() -> bytes:  # the session may be gone by then
            row = work.record if work is not None else kept
            assert row is not None
            return msgspec.json.encode(self._execution(row, name, max_output, work))

        return self._keeper.feed.follow_execution(execution_id, lambda: execution_id not in self._keeper.work, final)

    # ---- those that run or wait ----

    async def interrupt(self, name: str, request: InterruptRequest) -> Stopped:
        """Interrupt what runs, or take back what is queued. Never waits for the queue; what has ended is left alone."""
        live = self._sessions.find(name)
        id = request.execution_id
        if id is not None and id in live.session.queue and live.work[id].record.status == "queued":
            self._keeper.handle(live, decide.Withdrawn(id, "user"))
            return self.stopped(live, id, [], True, "It was queued and has been taken back.")
        if id is not None:
            row = live.work[id].record if id in live.work else self._row(live, id)
            if row.status not in UNFINISHED:
                return self.stopped(live, id, [], True, f"It had ended already ({row.status}).")
        running = self._running(live)
        if id is None and running is None and live.session.queue and self._is_starting(live):
            id = live.session.queue[0]
            self._keeper.handle(live, decide.Withdrawn(id, "user"))
            return self.stopped(
                live, id, [], True, "Its session is starting: it had not begun and has been taken back."
            )
        if running is None or live.host is None:
            return self.stopped(live, id, [], True, "Nothing is running.")
        at = now()
        if not self._keeper.interrupt(live, running, "user"):
            return self.stopped(live, running.record.id, [], False, "Its process is gone.")
        await self._ended(running, request.wait_s)
        yielded = running.record.status not in UNFINISHED
        note = (
            "It yielded."
            if yielded
            else f"It has not yielded yet and goes on. 'omegactl kill {name}' ends the session's process."
        )
        return self.stopped(live, running.record.id, [Step("SIGINT", at, yielded)], True, note)

    def stopped(self, live: Live, id: int | None, steps: list[Step], kept: bool, note: str) -> Stopped:
        """What became of an attempt to stop an execution, or the whole process."""
        execution = None if id is None or live.is_deleted else self.get(live.record.name, id)
        return Stopped(self._sessions.view(live), execution, steps, kept, note)

    def _running(self, live: Live) -> Work | None:
        """What the host is at, as far as we know, also while it is out of reach."""
        if live.session.running is not None:
            return live.work.get(live.session.running)
        return next((work for work in live.work.values() if work.record.status in ("running", "waiting_input")), None)

    def _is_starting(self, live: Live) -> bool:
        """Whether its process is not there yet, or still takes up its state: for a daemon that has found it at that,
        too."""
        return live.session.link == "starting" or live.loading is not None

    async def _ended(self, work: Work, wait_s: float) -> None:
        if work.record.status in UNFINISHED and wait_s > 0:
            await _over(Awaited(work, wait_s))

    async def answer(self, name: str, request: InputRequest) -> Execution:
        """Answer the input() an execution waits in. One whose host is out of reach just now is waited for: an answer
        that is taken arrives."""
        if request.text is not None and not LINE_BREAKS.isdisjoint(request.text):
            raise InvalidField(
                "`text` is one line, and holds a line break",
                hint="Answer line by line: each is given to the read that asks for it.",
            )
        live = self._sessions.find(name)
        if live.session.link == "reconnecting":
            if live.refusal is not None:
                raise live.refusal
            await live.settled.wait()
        id = request.execution_id
        work = live.work.get(id)
        if work is None:
            self._row(live, id)
        is_there = live.host is not None and live.session.link == "up"
        if work is None or not is_there or live.session.running != id or not live.session.waiting:
            raise NotWaitingInput(f"Execution {id} does not wait for input")
        text = None if work.secret else request.text
        with self._journal.atomic():
            self._journal.waiting(id, False)
            self._journal.append(InputAnswered(now(), live.record.id, name, id, text))
        work.record = replace(work.record, status="running")
        self._keeper.committed()
        self._keeper.handle(live, decide.InputGiven(id))
        assert live.host is not None
        live.host.give_input(id, request.text)
        return self.get(name, id)


def _options(create: bool | CreateOptions) -> CreateOptions:
    return create if isinstance(create, CreateOptions) else CreateOptions()


async def _over(awaited: Awaited) -> None:
    over = asyncio.get_running_loop().create_future()
    awaited.begin(lambda: None if over.done() else over.set_result(None))
    try:
        await over
    finally:
        awaited.stop()
