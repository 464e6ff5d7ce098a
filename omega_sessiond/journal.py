"""What the daemon remembers: sessions, executions, their output and the events, in one SQLite file.

The only statements on its tables, which schema.py makes; database.py holds the file. Knows no host, no HTTP and no
policy: it records what it is told and answers what was recorded. Used by one thread of one process; every call is
synchronous, and every failure a JournalError that names the file.

Writing happens in `atomic()` alone, which nests: the outermost block is the transaction. Each writing method is
atomic by itself, and several in one block are one commit. Commits survive the death of any process; a power cut may
take the last of them (synchronous=NORMAL), never the file's integrity. Reading changes nothing.

Offsets and limits of output count bytes of UTF-8 in an execution's combined stream, and a text is never cut inside a
character.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, closing
from heapq import merge
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from omega_sessiond.database import Database
from omega_sessiond.errors import JournalCorrupt, JournalError
from omega_sessiond.ids import Ids
from omega_sessiond.messages import (
    DataEvent,
    ErrorValue,
    Event,
    ExecutionFinished,
    ExecutionQueued,
    ExecutionStarted,
    ExecutionStatus,
    InputAnswered,
    InputRequested,
    Limits,
    Lost,
    Parent,
    SessionCreated,
    SessionDeleted,
    Stream,
)
from omega_sessiond.parts import Parts
from omega_sessiond.pruning import Pruning
from omega_sessiond.records import ExecutionRecord, HostRecord, Keep, SessionRecord
from omega_sessiond.shelf import Shelf
from omega_sessiond.tally import Tally

EVENTS_BYTES = 4 * 1024 * 1024
"""About how much one answer of `events` holds at most: an event of output can be 256 KiB."""


Record = TypeVar("Record", SessionRecord, ExecutionRecord)

Piece = tuple[Stream, int, str]
"""Stream, byte offset in the combined output, text."""


class _Output(Event, frozen=True, tag="output"):
    """messages.OutputEvent without its id, which is put in front as it is for all events."""

    execution_id: int
    stream: Stream
    offset: int
    text: str


# Statements that take part in every execute are constants: SQLite keeps them prepared by their text.

_SESSION_FIELDS = SessionRecord.__struct_fields__
_LAST_USED_AT = (
    "max(s.last_used_at,"
    " coalesce((SELECT queued_at FROM executions WHERE session_id = s.id ORDER BY id DESC LIMIT 1), ''))"
)
_NEWEST_END = (
    "(SELECT id FROM executions WHERE session_id = s.id AND id > s.finished_up_to AND finished_event_id > s.as_of_event"
    " AND host_seq IS NOT NULL ORDER BY id DESC LIMIT 1)"
)
"""The last execution whose end told how far its host and session have come since the session's own row did."""
_DERIVED = {
    "last_used_at": _LAST_USED_AT,
    "host_seq": "coalesce(x.host_seq, s.host_seq)",
    "execution_count": "coalesce(x.session_count, s.execution_count)",
}
_SESSIONS = "SELECT {} FROM sessions s LEFT JOIN executions x ON x.id = {} {{}}".format(
    ", ".join(_DERIVED.get(name, f"s.{name}") for name in _SESSION_FIELDS), _NEWEST_END
)
_EXECUTION_FIELDS = ExecutionRecord.__struct_fields__
_OUTPUT_BYTES = (
    "coalesce((SELECT offset + length(text) FROM output WHERE execution_id = x.id ORDER BY offset DESC LIMIT 1), 0)"
)
_EXECUTIONS = "SELECT {} FROM executions x WHERE ".format(
    ", ".join(_EXECUTION_FIELDS).replace("output_bytes", _OUTPUT_BYTES)
)
_ADD_EVENT = "INSERT INTO events (id, session_id, execution_id, body) VALUES (?, ?, ?, ?)"
_QUEUE = (
    "INSERT INTO executions (id, session_id, started_event_id, status, queued_at, started_at, timeout_s,"
    " idempotency_key, command) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_ADD_OUTPUT = "INSERT INTO output (event_id, execution_id, offset, stream, at, text) VALUES (?, ?, ?, ?, ?, ?)"
_FINISH = (
    "UPDATE executions SET finished_event_id = ?, status = ?, reason = ?, error = ?, execution_count = ?,"
    " finished_at = ?, duration_ms = ?, displayed = ?, should_exit = ?, dropped_bytes = ?, host_seq = ?,"
    " session_count = ?"
    " WHERE id = ? AND finished_at IS NULL"
)
# Pieces do not overlap, so only the last one that begins at or before an offset can reach beyond it.
_OUTPUT_FROM = (
    "SELECT stream, offset, text FROM output WHERE execution_id = ? AND offset >= coalesce("
    "(SELECT max(offset) FROM output WHERE execution_id = ? AND offset <= ?), 0) ORDER BY offset"
)
_OWN_EVENTS = (
    "x.started_event_id, x.finished_event_id, x.queued_at, x.started_at, x.finished_at, x.status, x.reason,"
    " x.duration_ms, x.execution_count, x.should_exit, x.resumed_from, x.lost"
)
"""What `_own_event` tells an execution's events from, without the command."""
_EVENTS = (
    f"SELECT e.id, e.body, e.session_id, s.name, e.execution_id, {_OWN_EVENTS}"
    " FROM events e"
    " LEFT JOIN sessions s ON e.body IS NULL AND s.id = e.session_id"
    " LEFT JOIN executions x ON e.body IS NULL AND x.id = e.execution_id"
    " WHERE e.id > ? ORDER BY e.id LIMIT ?"
)
_BEGINNINGS = (
    f"SELECT x.session_id, s.name, x.id, {_OWN_EVENTS}, x.command"
    " FROM executions x LEFT JOIN sessions s ON s.id = x.session_id"
    " WHERE x.id >= ? ORDER BY x.id LIMIT ?"
)
_OUTPUTS = (
    "SELECT o.event_id, o.at, x.session_id, s.name, x.id, o.stream, o.offset, o.text"
    " FROM output o LEFT JOIN executions x ON x.id = o.execution_id LEFT JOIN sessions s ON s.id = x.session_id"
    " WHERE o.event_id > ? ORDER BY o.event_id LIMIT ?"
)

_COUNT_SO_FAR = (
    f"execution_count = coalesce((SELECT session_count FROM executions WHERE id = {_NEWEST_END}), execution_count)"
)
_NOTE_NEWEST_END = (
    "UPDATE sessions AS s SET host_seq = x.host_seq, execution_count = x.session_count,"
    f" as_of_event = x.finished_event_id FROM executions x WHERE x.session_id = s.id AND x.id = {_NEWEST_END}"
)
_NOTE_USE = f"UPDATE sessions AS s SET last_used_at = {_LAST_USED_AT} WHERE id = ?"
_FINISHED_UP_TO = (
    "UPDATE sessions SET finished_up_to = coalesce((SELECT id - 1 FROM executions WHERE session_id = sessions.id"
    " AND id > finished_up_to AND finished_at IS NULL ORDER BY id LIMIT 1),"
    " (SELECT max(id) FROM executions WHERE session_id = sessions.id))"
    " WHERE finished_up_to < (SELECT max(id) FROM executions WHERE session_id = sessions.id)"
)

_json = msgspec.json.Encoder().encode
_limits = msgspec.json.Decoder(Limits).decode
_labels = msgspec.json.Decoder(dict[str, str]).decode
_lost = msgspec.json.Decoder(Lost).decode
_host = msgspec.json.Decoder(HostRecord).decode
_keep = msgspec.json.Decoder(Keep).decode
_parent = msgspec.json.Decoder(Parent).decode
_error = msgspec.json.Decoder(ErrorValue).decode


class Journal:
    """The open journal of one state directory."""

    def __init__(self, database: Database) -> None:
        """`Journal.open` makes one."""
        self._database = database
        self._atomic = database.atomic
        self._execute = database.execute
        self._updates: dict[tuple[str, ...], str] = {}
        self._ids = Ids(database)
        database.atomic.on_roll_back = self._ids.undo
        self.parts = Parts(database)
        """Their rich parts, in the same transactions."""
        self.pruning = Pruning(database, self._before_removal)
        """The removal of what is old."""
        self.tally = Tally(database)
        """What the history adds up to."""
        self.shelf = Shelf(database)
        """Checkpoints and snapshots, in the same transactions."""

    @classmethod
    def open(cls, path: str) -> Journal:
        """The journal at `path`, made where there is none and brought to this version's format. Raises
        JournalCorrupt, JournalReadOnly, JournalFull, JournalTooNew or plain JournalError."""
        return cls(Database(path))

    @property
    def path(self) -> str:
        return self._database.path

    def close(self) -> None:
        """Let go of the file."""
        try:
            with self._atomic:
                self._settle()
        except JournalError:
            pass  # it only spares the next start a search
        self._database.close()

    def atomic(self) -> AbstractContextManager[None]:
        """A block whose writes are committed together or, on any exception, not at all. Inner blocks join the outer
        one: when an inner one fails the whole is lost, even if the exception is caught between the two."""
        return self._atomic

    # ---- sessions ----

    def add_session(self, record: SessionRecord, event: SessionCreated) -> None:
        with self._atomic:
            self._execute(
                f"INSERT INTO sessions ({', '.join(_SESSION_FIELDS)}) VALUES ({', '.join('?' * len(_SESSION_FIELDS))})",
                [_stored(getattr(record, name)) for name in _SESSION_FIELDS],
            )
            self.append(event)

    def update_session(self, session_id: str, **columns: object) -> None:
        """Set the named fields of the session's record."""
        names = tuple(columns)
        tells = "host_seq" in columns
        statement = self._updates.get(names)
        if statement is None:
            assert set(names) <= set(_SESSION_FIELDS), names
            changes = [f"{name} = ?" for name in names]
            if tells:  # from here on the row counts, and no end that came before
                changes += ["as_of_event = ?"] + [_COUNT_SO_FAR] * ("execution_count" not in names)
            statement = f"UPDATE sessions AS s SET {', '.join(changes)} WHERE id = ?"
            self._updates[names] = statement
        values = [*map(_stored, columns.values()), *([self._ids.last] if tells else []), session_id]
        with self._atomic:
            self._execute(statement, values)

    def settle(self, session_id: str) -> None:
        """Write into the session's row what the ends of its executions have told since. The next search for either
        begins there: without this, it walks all executions of a session whose host has told none of their ends."""
        with self._atomic:
            self._execute(f"{_NOTE_NEWEST_END} AND s.id = ?", (session_id,))
            self._execute(f"{_FINISHED_UP_TO} AND id = ?", (session_id,))

    def _settle(self) -> None:
        """The same for all sessions."""
        with self._atomic:
            self._execute(_NOTE_NEWEST_END)
            self._execute(_FINISHED_UP_TO)

    def delete_session(self, session_id: str, event: SessionDeleted) -> None:
        """Remove the session with its executions, output and events; only the deleted event stays."""
        with self._atomic:
            self._execute("DELETE FROM events WHERE session_id = ?", (session_id,))
            self._execute("DELETE FROM sessions WHERE id = ?", (session_id,))
            self.append(event)

    def sessions(self) -> list[SessionRecord]:
        """All sessions by name."""
        return [self._decoded(_session_record, row) for row in self._rows(_SESSIONS.format("ORDER BY s.name"))]

    def session(self, session_id: str) -> SessionRecord | None:
        row = self._row(_SESSIONS.format("WHERE s.id = ?"), session_id)
        return None if row is None else self._decoded(_session_record, row)

    # ---- executions: writing ----

    def queue(
        self,
        record: SessionRecord,
        command: str,
        *,
        at: str,
        started: bool,
        idempotency_key: str | None = None,
        timeout_s: float | None = None,
    ) -> int:
        """Commit a command, at once as running when `started`; the id of its execution."""
        session_id = record.id
        execution_id = self._ids.next()
        started_event_id = self._ids.next() if started else None
        status, started_at = ("running", at) if started else ("queued", None)
        self._atomic.only(
            _QUEUE,
            (execution_id, session_id, started_event_id, status, at, started_at, timeout_s, idempotency_key, command),
        )
        return execution_id

    def start(
        self,
        session: SessionRecord,
        execution_id: int,
        at: str,
        lost: Lost | None = None,
        resumed_from: str | None = None,
    ) -> None:
        """The execution runs. One that runs already keeps its start; what it lost and resumed from is added."""
        with self._atomic:
            if self._row("SELECT 1 FROM executions WHERE id = ? AND status = 'queued'", execution_id):
                follows = self._ids.last == execution_id
                started_event_id = self._ids.next() if follows else self._event(session.id, execution_id)
                self._execute(
                    "UPDATE executions SET status = 'running', started_event_id = ?, started_at = ? WHERE id = ?",
                    (started_event_id, at, execution_id),
                )
            if lost is not None or resumed_from is not None:
                self._execute(
                    "UPDATE executions SET lost = coalesce(?, lost), resumed_from = coalesce(?, resumed_from)"
                    " WHERE id = ? AND finished_at IS NULL",
                    (_stored(lost), resumed_from, execution_id),
                )

    def requeue(self, execution_id: int) -> None:
        """The execution was not taken after all: back to queued, as if it had never been started."""
        with self._atomic:
            self._ids.keep()
            self._execute(
                "DELETE FROM events WHERE id = (SELECT started_event_id FROM executions WHERE id = ?"
                " AND finished_at IS NULL)",
                (execution_id,),
            )
            self._execute(
                "UPDATE executions SET status = 'queued', started_event_id = NULL, started_at = NULL, lost = NULL,"
                " resumed_from = NULL WHERE id = ? AND finished_at IS NULL",
                (execution_id,),
            )

    def waiting(self, execution_id: int, waiting: bool) -> None:
        """The running execution waits for input, or no longer does."""
        with self._atomic:
            self._execute(
                "UPDATE executions SET status = ? WHERE id = ? AND status IN ('running', 'waiting_input')",
                ("waiting_input" if waiting else "running", execution_id),
            )

    def add_output(
        self, session: SessionRecord, execution_id: int, stream: Stream, offset: int, text: str, at: str
    ) -> int:
        """Add a piece of output; the id of its event. Empty text adds nothing and has no event: 0."""
        if not text:
            return 0
        with self._atomic:
            event_id = self._ids.next()
            self._execute(_ADD_OUTPUT, (event_id, execution_id, offset, stream, at, text.encode()))
        return event_id

    def finish(
        self,
        session: SessionRecord,
        execution_id: int,
        *,
        status: ExecutionStatus,
        reason: str | None = None,
        error: ErrorValue | None = None,
        execution_count: int | None = None,
        finished_at: str,
        duration_ms: float | None = None,
        displayed: bool = False,
        should_exit: bool = False,
        dropped_bytes: int = 0,
        host_seq: int | None = None,
        session_count: int | None = None,
    ) -> bool:
        """The execution has ended. False, and nothing changes, when it had already. `cancelled` frees its key.

        An end that its host has told says how far the session has come with it: the number of the host's frame, and
        the session's `execution_count`. That spares each execute a change of the session's own row.
        """
        with self._atomic:
            if not self._execute(
                _FINISH,
                (
                    self._ids.last + 1,
                    status,
                    reason,
                    _stored(error),
                    execution_count,
                    finished_at,
                    duration_ms,
                    displayed,
                    should_exit,
                    dropped_bytes,
                    host_seq,
                    session_count,
                    execution_id,
                ),
            ).rowcount:
                return False
            self._event(session.id, execution_id)
            if status == "cancelled":
                self._execute("UPDATE executions SET idempotency_key = NULL WHERE id = ?", (execution_id,))
        return True

    # ---- executions: reading ----

    def by_key(self, session_id: str, key: str) -> ExecutionRecord | None:
        """The session's execution that holds the idempotency key."""
        return self._execution("session_id = ? AND idempotency_key = ?", session_id, key)

    def execution(self, session_id: str, execution_id: int) -> ExecutionRecord | None:
        return self._execution("id = ? AND session_id = ?", execution_id, session_id)

    def unfinished(self, session_id: str) -> list[ExecutionRecord]:
        """The session's executions that have not ended, in order."""
        return self._executions(
            "session_id = ? AND id > (SELECT finished_up_to FROM sessions WHERE id = ?) AND finished_at IS NULL"
            " ORDER BY id",
            session_id,
            session_id,
        )

    def executions(self, session_id: str, after: int, limit: int) -> list[ExecutionRecord]:
        """At most `limit` executions of the session with an id above `after`, oldest first."""
        return self._executions("session_id = ? AND id > ? ORDER BY id LIMIT ?", session_id, after, limit)

    def last_executions(self, session_id: str, limit: int, before: int | None = None) -> list[ExecutionRecord]:
        """The newest `limit` executions of the session with an id below `before`, oldest first."""
        below = 2**63 - 1 if before is None else before
        return self._executions("session_id = ? AND id < ? ORDER BY id DESC LIMIT ?", session_id, below, limit)[::-1]

    def last_begun(self, session_id: str) -> int:
        """The id of the session's last execution that has begun; 0 when none has."""
        row = self._row(
            "SELECT id FROM executions WHERE session_id = ? AND started_at IS NOT NULL ORDER BY id DESC LIMIT 1",
            session_id,
        )
        return 0 if row is None else int(row[0])

    def last_known(self, session_id: str) -> int:
        """The same, or the last that was pruned: what comes next stands behind that, too."""
        row = self._row("SELECT up_to_id FROM prunings WHERE session_id = ?", session_id)
        return max(self.last_begun(session_id), 0 if row is None else int(row[0]))

    def _execution(self, condition: str, *values: object) -> ExecutionRecord | None:
        row = self._row(_EXECUTIONS + condition, *values)
        return None if row is None else self._decoded(_execution_record, row)

    def _executions(self, condition: str, *values: object) -> list[ExecutionRecord]:
        return [self._decoded(_execution_record, row) for row in self._rows(_EXECUTIONS + condition, *values)]

    # ---- output ----

    def output(self, execution_id: int, head_limit: int | None = None, tail_limit: int | None = None) -> list[Piece]:
        """The output in order: all of it, or when it is longer than both limits together, at most its first
        `head_limit` and its last `tail_limit` bytes. A limit of None next to a given one is 0."""
        head, tail = head_limit or 0, tail_limit or 0
        end = self._output_end(execution_id)
        if (head_limit is None and tail_limit is None) or end <= head + tail:
            return [(stream, offset, _text(data)) for stream, offset, data in self._pieces(execution_id, 0)]
        found: list[Piece] = []
        with closing(self._pieces(execution_id, 0)) as pieces:
            for stream, offset, data in pieces:
                cut = _character_start(data, max(0, head - offset))
                if cut:
                    found.append((stream, offset, _text(data[:cut])))
                if cut < len(data):
                    break
        if tail:
            for stream, offset, data in self._pieces(execution_id, end - tail):
                cut = _character_end(data, max(0, end - tail - offset))
                if cut < len(data):
                    found.append((stream, offset + cut, _text(data[cut:])))
        return found

    def piece(self, execution_id: int, offset: int, limit: int) -> tuple[str, int, int]:
        """About `limit` bytes of the output from `offset`: the text, where it starts and where the next one does.

        A start inside a character moves to the character's, one in a dropped range to what follows the range; the
        text ends before a dropped range. At least one character when there is any; empty when nothing is there (yet).
        """
        parts: list[bytes] = []
        start = position = offset
        with closing(self._pieces(execution_id, offset)) as pieces:
            for _, at, data in pieces:
                if not parts:
                    cut = _character_start(data, max(0, offset - at))
                    start = position = at + cut
                    data = data[cut:]
                elif at != position:
                    break
                room = _character_start(data, max(0, start + limit - position))
                if not room and not parts:
                    room = _character_end(data, 1)
                parts.append(data[:room])
                position += min(room, len(data))
                if room < len(data):
                    break
        return _text(b"".join(parts)), start, position

    def find(self, execution_id: int, needle: str, limit: int) -> list[int]:
        """The first `limit` offsets at which the literal text stands; of places that overlap each counts."""
        wanted = needle.encode("utf-8", "surrogatepass")
        found: list[int] = []
        carried = b""
        end = 0
        if not wanted:
            return found
        with closing(self._pieces(execution_id, 0)) as pieces:
            for _, offset, data in pieces:
                window = carried + data if offset == end else data
                end = offset + len(data)
                at = window.find(wanted)
                while at >= 0:
                    if len(found) == limit:
                        return found
                    found.append(end - len(window) + at)
                    at = window.find(wanted, at + 1)
                carried = window[max(0, len(window) - len(wanted) + 1) :]
        return found

    def pieces(self, execution_id: int) -> Generator[Piece, None, None]:
        """The output in order, piece by piece as it is stored."""
        for stream, offset, data in self._pieces(execution_id, 0):
            yield stream, offset, _text(data)

    def _pieces(self, execution_id: int, start: int) -> Generator[tuple[Stream, int, bytes], None, None]:
        """The stored pieces that end above `start`, one at a time: a large output is never held whole."""
        with closing(self._database.rows(_OUTPUT_FROM, (execution_id, execution_id, start))) as rows:
            for stream, offset, data in rows:
                if offset + len(data) > start:
                    yield stream, offset, data

    def _output_end(self, execution_id: int) -> int:
        row = self._row(
            "SELECT offset + length(text) FROM output WHERE execution_id = ? ORDER BY offset DESC LIMIT 1",
            execution_id,
        )
        return 0 if row is None else int(row[0])

    # ---- events ----

    def _before_removal(self, session_id: str) -> None:
        """Keep what is known only from rows that are going: their numbers, how far the session came and when."""
        self._ids.keep()
        self.settle(session_id)
        self._execute(_NOTE_USE, (session_id,))

    def append(self, event: Event) -> int:
        """Add an event that is told by itself; its id."""
        execution_id = event.execution_id if isinstance(event, InputRequested | InputAnswered | DataEvent) else None
        with self._atomic:
            return self._event(event.session_id, execution_id, _json(event))

    def _event(self, session_id: str, execution_id: int | None = None, body: bytes | None = None) -> int:
        event_id = self._ids.next()
        self._execute(_ADD_EVENT, (event_id, session_id, execution_id, body))
        return event_id

    def events(self, since: int, limit: int, execution_id: int | None = None) -> list[tuple[int, bytes]]:
        """Events after `since`, all or one execution's, oldest first: (id, JSON line without newline, `id` first).

        At most `limit` and at most about EVENTS_BYTES, so only an empty answer means that there are no more. Pruning
        takes nothing of an execution but its prompts, answers and data.
        """
        found: list[tuple[int, bytes]] = []
        size = 0
        told = self._feed(since, limit) if execution_id is None else self._feed_of(execution_id, since, limit)
        with closing(told) as lines:
            for event_id, body in lines:
                found.append((event_id, b'{"id":%d,' % event_id + body[1:]))
                size += len(body)
                if len(found) >= limit or size >= EVENTS_BYTES:
                    break
        return found

    def _feed(self, since: int, limit: int) -> Generator[tuple[int, bytes], None, None]:
        """From the three tables in which events stand, each in the order of its ids."""
        since = max(since, self._ids.pruned_to)
        beginnings = self._told_beginnings(since, limit)
        outputs = self._told_outputs(since, limit)
        events = self._told_events(since, limit)
        with closing(beginnings), closing(outputs), closing(events):
            yield from merge(beginnings, outputs, events)

    def _told_beginnings(self, since: int, limit: int) -> Generator[tuple[int, bytes], None, None]:
        with closing(self._rows(_BEGINNINGS, since, limit + 1)) as rows:
            for row in rows:
                execution_id, started_event_id = row[2], row[3]
                if execution_id > since:
                    yield execution_id, _own_event(execution_id, *row)
                if started_event_id == execution_id + 1:  # any other stands among the events
                    yield started_event_id, _own_event(started_event_id, *row)

    def _told_outputs(self, since: int, limit: int) -> Generator[tuple[int, bytes], None, None]:
        with closing(self._rows(_OUTPUTS, since, limit)) as rows:
            for event_id, at, session_id, name, execution_id, stream, offset, data in rows:
                yield event_id, _json(_Output(at, session_id, name, execution_id, stream, offset, _text(data)))

    def _told_events(self, since: int, limit: int) -> Generator[tuple[int, bytes], None, None]:
        with closing(self._rows(_EVENTS, since, limit)) as rows:
            for event_id, body, *row in rows:
                yield event_id, _own_event(event_id, *row) if body is None else body

    def _feed_of(self, execution_id: int, since: int, limit: int) -> Generator[tuple[int, bytes], None, None]:
        row = self._row(
            f"SELECT x.session_id, s.name, x.id, {_OWN_EVENTS}, x.command FROM executions x"
            " JOIN sessions s ON s.id = x.session_id WHERE x.id = ?",
            execution_id,
        )
        if row is None:
            return
        session_id, name, _, started_event_id, finished_event_id, *_ = row
        own = [
            (event_id, _own_event(event_id, *row))
            for event_id in (execution_id, started_event_id, finished_event_id)
            if event_id is not None and event_id > since
        ]
        asked = self._rows(
            "SELECT id, body FROM events WHERE execution_id = ? AND body IS NOT NULL AND id > ? ORDER BY id LIMIT ?",
            execution_id,
            since,
            limit,
        )
        pieces = self._rows(
            "SELECT event_id, at, stream, offset, text FROM output WHERE execution_id = ? AND offset >= ?"
            " ORDER BY offset LIMIT ?",
            execution_id,
            self._offset_after(execution_id, since),
            limit,
        )
        with closing(asked), closing(pieces):
            output = (
                (event_id, _json(_Output(at, session_id, name, execution_id, stream, offset, _text(data))))
                for event_id, at, stream, offset, data in pieces
            )
            yield from merge(own, asked, output)

    def _offset_after(self, execution_id: int, since: int) -> int:
        """The offset of the first output that came after event `since`; ids and offsets rise together."""
        low, high = 0, self._output_end(execution_id) if since >= execution_id else 0
        while low < high:
            middle = (low + high) // 2
            row = self._row(
                "SELECT offset, event_id FROM output WHERE execution_id = ? AND offset >= ? ORDER BY offset LIMIT 1",
                execution_id,
                middle,
            )
            if row is None or row[1] > since:
                high = middle
            else:
                low = row[0] + 1
        return low

    def oldest_event_id(self) -> int:
        """The oldest event that is kept; when none is, the one that will come next."""
        with closing(self._feed(0, 1)) as told:
            return next((event_id for event_id, _ in told), self._ids.last + 1)

    def created_at(self) -> str:
        """When this journal was made."""
        return str(self._row("SELECT applied_at FROM migrations WHERE number = 1")[0])

    def last_event_id(self) -> int:
        """The newest event there ever was, also when it is no longer kept; 0 when there was none."""
        return self._ids.last

    def prune_events(self, keep: int) -> int:
        """Forget all but about the newest `keep` events; how many went. Executions and their output stay."""
        up_to = self._ids.last - keep
        gone = max(0, up_to - self._ids.pruned_to)
        if gone:
            with self._atomic:
                self._settle()
                self._execute("DELETE FROM events WHERE id <= ?", (up_to,))
                self._ids.prune(up_to)
        return gone

    def _decoded(self, decode: Callable[[Sequence[Any]], Record], row: Sequence[Any]) -> Record:
        try:
            return decode(row)
        except msgspec.MsgspecError as error:
            raise JournalCorrupt(f"{self.path} is damaged: the record of {row[0]} reads: {error}") from error

    def _rows(self, statement: str, *values: object) -> Generator[Any, None, None]:
        return self._database.rows(statement, values)

    def _row(self, statement: str, *values: object) -> Any:
        return self._database.row(statement, values)


def _stored(value: object) -> object:
    """A record's field as its column holds it: structs and dicts as JSON text."""
    return _json(value).decode() if isinstance(value, Struct | dict) else value


def _session_record(row: Sequence[Any]) -> SessionRecord:
    fields = dict(zip(_SESSION_FIELDS, row, strict=True))
    fields["limits"] = _limits(fields["limits"])
    fields["labels"] = _labels(fields["labels"])
    fields["lost"] = None if fields["lost"] is None else _lost(fields["lost"])
    fields["host"] = None if fields["host"] is None else _host(fields["host"])
    fields["keep"] = Keep() if fields["keep"] is None else _keep(fields["keep"])
    fields["parent"] = None if fields["parent"] is None else _parent(fields["parent"])
    return SessionRecord(**fields)


def _execution_record(row: Sequence[Any]) -> ExecutionRecord:
    fields = dict(zip(_EXECUTION_FIELDS, row, strict=True))
    fields["error"] = None if fields["error"] is None else _error(fields["error"])
    fields["lost"] = None if fields["lost"] is None else _lost(fields["lost"])
    fields["displayed"] = bool(fields["displayed"])
    fields["should_exit"] = bool(fields["should_exit"])
    return ExecutionRecord(**fields)


def _own_event(
    event_id: int,
    session_id: str,
    name: str,
    execution_id: int,
    started_event_id: int | None,
    finished_event_id: int | None,
    queued_at: str,
    started_at: str,
    finished_at: str,
    status: ExecutionStatus,
    reason: str | None,
    duration_ms: float | None,
    execution_count: int | None,
    should_exit: int,
    resumed_from: str | None,
    lost: str | None,
    command: str = "",
) -> bytes:
    """The body of the event that an execution's own row tells."""
    event: Event
    if event_id == execution_id:
        event = ExecutionQueued(queued_at, session_id, name, execution_id, command)
    elif event_id == started_event_id:
        found = None if lost is None else _lost(lost)
        event = ExecutionStarted(started_at, session_id, name, execution_id, resumed_from, found)
    else:
        assert event_id == finished_event_id
        event = ExecutionFinished(
            finished_at, session_id, name, execution_id, status, reason, duration_ms, execution_count, bool(should_exit)
        )
    return _json(event)


def _text(data: bytes) -> str:
    # What was stored is UTF-8; "replace" is for bytes that rotted on the disk.
    return data.decode("utf-8", "replace")


def _character_start(data: bytes, at: int) -> int:
    """`at`, or the start of the character it is inside of."""
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _character_end(data: bytes, at: int) -> int:
    """`at`, or the end of the character it is inside of."""
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at += 1
    return at
