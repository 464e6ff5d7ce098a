"""What the daemon remembers: sessions, executions, their output and the events, in one SQLite file.

The only SQL of the program (its tables are in schema.py). Knows no host, no HTTP and no policy: it records what it is
told and answers what was recorded. One connection, used by one thread of one process; every call is synchronous.

Writing happens in `atomic()` alone, which nests: the outermost block is the transaction. Each writing method is
atomic by itself, and several in one block are one commit. Commits survive the death of any process; a power cut may
take the last moments of them (synchronous=NORMAL), never the file's integrity. Reading changes nothing.

Offsets and limits of output count bytes of UTF-8 in an execution's combined stream, and a text is never cut inside a
character.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing
from types import TracebackType
from typing import Any

import msgspec
from msgspec import Struct

from omega_sessiond import __version__, schema
from omega_sessiond.errors import JournalCorrupt, JournalError, JournalFull, JournalReadOnly, JournalTooNew
from omega_sessiond.messages import (
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
    SessionCreated,
    SessionDeleted,
    Stream,
)

BUSY_TIMEOUT_MS = 1000
"""Only a stranger (a backup, the sqlite3 shell) can hold the write lock. Waiting stops the whole daemon, so not long;
yet a shell's short transaction must not fail a command."""

CHECKPOINT_PAGES = 4000
"""The log is carried over into the file when it holds this many pages (16 MiB). That costs two fsyncs, so not often;
a larger log takes more disk and is read whole at the start that follows a kill."""

CHECKED_BYTES = 4 * 1024 * 1024
"""A journal up to this size is checked whole when it is opened. Larger ones would hold up the start; damage in them is
met, and named the same way, by whoever reads the page."""

EVENTS_BYTES = 4 * 1024 * 1024
"""About how much one answer of `events` holds at most: output is in events of up to 256 KiB."""

_LOW_SPACE_BYTES = 1024 * 1024
"""An I/O error with less than this free is a full disk: SQLite reports that of its shared memory as an I/O error."""


class HostRecord(Struct, frozen=True):
    """The process that carries a session: what identifies it beyond its pid, which the system uses again.

    `start_time` is in clock ticks since boot (/proc/PID/stat); `scope` "" means none.
    """

    pid: int
    start_time: int
    boot_id: str
    scope: str
    engine_version: str


class SessionRecord(Struct, frozen=True):
    """A session as it is kept. `host` None: no process. `host_seq`: the last frame of its host that is journalled."""

    id: str
    name: str
    engine: str
    python: str | None
    cwd: str
    created_at: str
    last_used_at: str
    execution_count: int
    limits: Limits
    labels: dict[str, str]
    state_reason: str | None
    lost: Lost | None
    host: HostRecord | None
    host_seq: int


class ExecutionRecord(Struct, frozen=True):
    """An execution without its output. `output_bytes`: length of the combined stream, what was dropped included."""

    id: int
    session_id: str
    command: str
    status: ExecutionStatus
    reason: str | None
    error: ErrorValue | None
    execution_count: int | None
    queued_at: str
    started_at: str | None
    finished_at: str | None
    duration_ms: float | None
    timeout_s: float | None
    displayed: bool
    should_exit: bool
    dropped_bytes: int
    output_bytes: int
    resumed_from: str | None
    lost: Lost | None
    idempotency_key: str | None


class _Output(Event, tag="output"):
    """messages.OutputEvent without its id, which is spliced in as it is for all events."""

    execution_id: int
    stream: Stream
    offset: int
    text: str


Piece = tuple[Stream, int, str]
"""Stream, byte offset in the combined output, text."""

_SESSION = ", ".join(SessionRecord.__struct_fields__)
_OUTPUT_BYTES = (
    "coalesce((SELECT offset + length(text) FROM output WHERE execution_id = id ORDER BY offset DESC LIMIT 1), 0)"
)
_EXECUTION = ", ".join(_OUTPUT_BYTES if name == "output_bytes" else name for name in ExecutionRecord.__struct_fields__)

_json = msgspec.json.Encoder().encode
_limits = msgspec.json.Decoder(Limits).decode
_labels = msgspec.json.Decoder(dict[str, str]).decode
_lost = msgspec.json.Decoder(Lost).decode
_host = msgspec.json.Decoder(HostRecord).decode
_error = msgspec.json.Decoder(ErrorValue).decode


class Journal:
    """The open journal. Everything raises JournalError or one of its kinds, which name the file."""

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        """Use `Journal.open`."""
        self.path = path
        self._connection = connection
        self._execute = connection.execute
        self._atomic = _Atomic(connection, path)

    # ---- opening and closing ----

    @classmethod
    def open(cls, path: str) -> Journal:
        """The journal at `path`, made (0600, in a directory of 0700) where there is none, brought to our version."""
        if sqlite3.sqlite_version_info < schema.MINIMUM_SQLITE:
            wanted = ".".join(map(str, schema.MINIMUM_SQLITE))
            raise JournalError(
                f"Python's SQLite is {sqlite3.sqlite_version}, the journal needs {wanted}",
                hint="Install the daemon with an interpreter that has a newer SQLite.",
            )
        path = os.path.abspath(path)
        try:
            _make_file(path)
        except OSError as error:
            raise _from_system(error, path) from None
        connection = None
        try:
            connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)
            _prepare(connection, path)
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            raise _translated(error, path) from error
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        return cls(connection, path)

    def close(self) -> None:
        """Carry the log over into the file and let go of it. Closing twice is fine."""
        self._connection.close()

    def atomic(self) -> AbstractContextManager[None]:
        """A block whose writes are committed together or, on any exception, not at all. Inner blocks join the outer
        one: when an inner one fails the whole is lost, even if the exception is caught between the two."""
        return self._atomic

    # ---- sessions ----

    def add_session(self, record: SessionRecord, event: SessionCreated) -> None:
        with self._atomic:
            marks = ", ".join("?" * len(SessionRecord.__struct_fields__))
            values = [_stored(getattr(record, name)) for name in SessionRecord.__struct_fields__]
            self._execute(f"INSERT INTO sessions ({_SESSION}) VALUES ({marks})", values)
            self.append(event)

    def update_session(self, session_id: str, **columns: Any) -> None:
        """Set the named fields of the session's record."""
        assert columns.keys() <= frozenset(SessionRecord.__struct_fields__), columns
        with self._atomic:
            self._execute(
                f"UPDATE sessions SET {', '.join(f'{name} = ?' for name in columns)} WHERE id = ?",
                [*map(_stored, columns.values()), session_id],
            )

    def delete_session(self, session_id: str, event: SessionDeleted) -> None:
        """Remove the session with its executions, output and events; only the deleted event stays."""
        with self._atomic:
            self._execute("DELETE FROM events WHERE session_id = ?", (session_id,))
            self._execute("DELETE FROM sessions WHERE id = ?", (session_id,))
            self.append(event)

    def sessions(self) -> list[SessionRecord]:
        """All sessions by name."""
        rows = self._all(f"SELECT {_SESSION} FROM sessions ORDER BY name", ())
        return [_session_record(dict(zip(SessionRecord.__struct_fields__, row, strict=True))) for row in rows]

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
        execute = self._execute
        session_id = record.id
        with self._atomic:
            execution_id = execute("INSERT INTO events (session_id) VALUES (?)", (session_id,)).lastrowid
            assert execution_id is not None
            execute(
                "INSERT INTO executions (id, session_id, status, queued_at, started_at, timeout_s, idempotency_key,"
                " command) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    execution_id,
                    session_id,
                    "running" if started else "queued",
                    at,
                    at if started else None,
                    timeout_s,
                    idempotency_key,
                    command,
                ),
            )
            if started:
                self._append(ExecutionStarted(at, session_id, record.name, execution_id), execution_id)
            execute("UPDATE sessions SET last_used_at = ? WHERE id = ?", (at, session_id))
        return execution_id

    def start(
        self,
        session: SessionRecord,
        execution_id: int,
        at: str,
        lost: Lost | None = None,
        resumed_from: str | None = None,
    ) -> None:
        """The execution runs. What it lost and resumed from is kept when it was said before."""
        with self._atomic:
            if self._execute(
                "UPDATE executions SET status = 'running', started_at = ? WHERE id = ? AND status = 'queued'",
                (at, execution_id),
            ).rowcount:
                self._append(ExecutionStarted(at, session.id, session.name, execution_id), execution_id)
            if lost is not None or resumed_from is not None:
                self._execute(
                    "UPDATE executions SET lost = coalesce(?, lost), resumed_from = coalesce(?, resumed_from)"
                    " WHERE id = ? AND finished_at IS NULL",
                    (_stored(lost), resumed_from, execution_id),
                )

    def requeue(self, execution_id: int) -> None:
        """The execution was not taken after all: back to queued, as if it had not been started."""
        with self._atomic:
            self._execute(
                "UPDATE executions SET status = 'queued', started_at = NULL, lost = NULL, resumed_from = NULL"
                " WHERE id = ? AND finished_at IS NULL",
                (execution_id,),
            )

    def waiting(self, execution_id: int, waiting: bool) -> None:
        """The execution waits for input, or runs again."""
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
            event_id = self._execute(
                "INSERT INTO events (session_id, execution_id, output_offset) VALUES (?, ?, ?)",
                (session.id, execution_id, offset),
            ).lastrowid
            assert event_id is not None
            self._execute(
                "INSERT INTO output (execution_id, offset, event_id, stream, at, text) VALUES (?, ?, ?, ?, ?, ?)",
                (execution_id, offset, event_id, stream, at, text.encode()),
            )
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
    ) -> bool:
        """The execution has ended. False, and nothing changes, when it had already. `cancelled` frees its key."""
        with self._atomic:
            if not self._execute(
                "UPDATE executions SET status = ?, reason = ?, error = ?, execution_count = ?, finished_at = ?,"
                " duration_ms = ?, displayed = ?, should_exit = ?, dropped_bytes = ?"
                " WHERE id = ? AND finished_at IS NULL",
                (
                    status,
                    reason,
                    None if error is None else _json(error).decode(),
                    execution_count,
                    finished_at,
                    duration_ms,
                    displayed,
                    should_exit,
                    dropped_bytes,
                    execution_id,
                ),
            ).rowcount:
                return False
            if status == "cancelled":
                self._execute("UPDATE executions SET idempotency_key = NULL WHERE id = ?", (execution_id,))
            event = ExecutionFinished(
                finished_at,
                session.id,
                session.name,
                execution_id,
                status,
                reason,
                duration_ms,
                execution_count,
                should_exit,
            )
            self._append(event, execution_id)
        return True

    # ---- executions: reading ----

    def by_key(self, session_id: str, key: str) -> ExecutionRecord | None:
        """The session's execution that holds the idempotency key."""
        rows = self._executions("session_id = ? AND idempotency_key = ?", (session_id, key))
        return rows[0] if rows else None

    def unfinished(self, session_id: str) -> list[ExecutionRecord]:
        """The session's executions that have not ended, in order."""
        return self._executions("session_id = ? AND finished_at IS NULL ORDER BY id", (session_id,))

    def execution(self, session_id: str, execution_id: int) -> ExecutionRecord | None:
        rows = self._executions("id = ? AND session_id = ?", (execution_id, session_id))
        return rows[0] if rows else None

    def executions(self, session_id: str, after: int, limit: int) -> list[ExecutionRecord]:
        """At most `limit` executions of the session with an id above `after`, oldest first."""
        return self._executions("session_id = ? AND id > ? ORDER BY id LIMIT ?", (session_id, after, limit))

    def _executions(self, condition: str, values: Sequence[Any]) -> list[ExecutionRecord]:
        rows = self._all(f"SELECT {_EXECUTION} FROM executions WHERE {condition}", values)
        return [_execution_record(dict(zip(ExecutionRecord.__struct_fields__, row, strict=True))) for row in rows]

    # ---- output ----

    def output(self, execution_id: int, head_limit: int | None = None, tail_limit: int | None = None) -> list[Piece]:
        """The output in order: all of it, or when it is longer than both limits together, its first `head_limit`
        and its last `tail_limit` bytes. A limit of None next to a given one is 0."""
        if head_limit is None and tail_limit is None:
            return [(stream, offset, _text(data)) for stream, offset, data in self._pieces(execution_id, 0)]
        head_limit, tail_limit = head_limit or 0, tail_limit or 0
        end = self._output_end(execution_id)
        if end <= head_limit + tail_limit:
            return self.output(execution_id)
        found: list[Piece] = []
        for stream, offset, data in self._pieces(execution_id, 0):
            if offset + len(data) > head_limit:
                data = data[: _character_start(data, head_limit - offset)] if offset < head_limit else b""
                if data:
                    found.append((stream, offset, _text(data)))
                break
            found.append((stream, offset, _text(data)))
        start = end - tail_limit
        for stream, offset, data in self._pieces(execution_id, start):
            cut = _next_character(data, start - offset) if offset < start else 0
            if cut < len(data):
                found.append((stream, offset + cut, _text(data[cut:])))
        return found

    def piece(self, execution_id: int, offset: int, limit: int) -> tuple[str, int, int]:
        """About `limit` bytes of the output from `offset`: the text, where it starts and where the next one does.

        A start inside a character moves to the character's, one in a dropped range to what follows the range. At
        least one character when there is any; empty when nothing is there (yet) at `offset`.
        """
        parts: list[bytes] = []
        start = position = offset
        for _, at, data in self._pieces(execution_id, offset):
            if not parts:
                cut = _character_start(data, offset - at) if at < offset else 0
                start = position = at + cut
                data = data[cut:]
            elif at != position:
                break
            room = offset + limit - position if parts else max(offset + limit - position, 1)
            if len(data) > room:
                end = _character_start(data, room)
                if end == 0 and not parts:
                    end = _next_character(data, 1)
                parts.append(data[:end])
                position += end
                break
            parts.append(data)
            position += len(data)
        return _text(b"".join(parts)), start, position

    def find(self, execution_id: int, needle: str, limit: int) -> list[int]:
        """The first `limit` offsets at which the literal text stands; ones that overlap count each."""
        wanted = needle.encode("utf-8", "surrogatepass")
        found: list[int] = []
        carried = b""
        end = 0
        if not wanted:
            return found
        for _, offset, data in self._pieces(execution_id, 0):
            window = carried + data if offset == end else data
            end = offset + len(data)
            base = end - len(window)
            at = window.find(wanted)
            while at >= 0:
                if len(found) == limit:
                    return found
                found.append(base + at)
                at = window.find(wanted, at + 1)
            carried = window[max(len(window) - len(wanted) + 1, 0) :]
        return found

    def _pieces(self, execution_id: int, start: int) -> Iterator[tuple[Stream, int, bytes]]:
        """The stored pieces that end above `start`, one at a time: a large output is never held whole."""
        try:
            # Pieces do not overlap, so only the last one that begins at or before `start` can reach beyond it.
            with closing(
                self._execute(
                    "SELECT stream, offset, text FROM output WHERE execution_id = ?1 AND offset >= coalesce("
                    " (SELECT max(offset) FROM output WHERE execution_id = ?1 AND offset <= ?2), 0) ORDER BY offset",
                    (execution_id, start),
                )
            ) as cursor:
                for stream, offset, data in cursor:
                    if offset + len(data) > start:
                        yield stream, offset, data
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error

    def _output_end(self, execution_id: int) -> int:
        rows = self._all(
            "SELECT offset + length(text) FROM output WHERE execution_id = ? ORDER BY offset DESC LIMIT 1",
            (execution_id,),
        )
        end: int = rows[0][0] if rows else 0
        return end

    # ---- events ----

    def append(self, event: Event) -> int:
        """Add an event; its id."""
        execution_id = event.execution_id if isinstance(event, InputRequested | InputAnswered) else None
        with self._atomic:
            return self._append(event, execution_id)

    def _append(self, event: Event, execution_id: int | None) -> int:
        event_id = self._execute(
            "INSERT INTO events (session_id, execution_id, body) VALUES (?, ?, ?)",
            (event.session_id, execution_id, _json(event)),
        ).lastrowid
        assert event_id is not None
        return event_id

    def events(self, since: int, limit: int, execution_id: int | None = None) -> list[tuple[int, bytes]]:
        """Events after `since`, all or one execution's, oldest first: (id, JSON line without newline, `id` first).

        At most `limit`, and at most about EVENTS_BYTES: only an empty answer means that there are no more.
        """
        of_execution = "" if execution_id is None else "AND (e.execution_id = ?3 OR e.id = ?3)"
        found: list[tuple[int, bytes]] = []
        size = 0
        try:
            with closing(
                self._execute(
                    "SELECT e.id, e.body, s.id, s.name, x.id, x.queued_at, x.command, o.at, o.stream, o.offset, o.text"
                    " FROM events e"
                    " LEFT JOIN executions x ON e.body IS NULL AND x.id = coalesce(e.execution_id, e.id)"
                    " LEFT JOIN sessions s ON s.id = x.session_id"
                    " LEFT JOIN output o ON o.execution_id = e.execution_id AND o.offset = e.output_offset"
                    f" WHERE e.id > ?1 {of_execution} ORDER BY e.id LIMIT ?2",
                    (since, limit) if execution_id is None else (since, limit, execution_id),
                )
            ) as cursor:
                for row in cursor:
                    line = _line(row)
                    found.append((row[0], line))
                    size += len(line)
                    if size >= EVENTS_BYTES:
                        break
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error
        return found

    def oldest_event_id(self) -> int:
        """The oldest event that is kept; when none is, the one that will come next."""
        rows = self._all("SELECT min(id) FROM events", ())
        oldest: int | None = rows[0][0]
        return self.last_event_id() + 1 if oldest is None else oldest

    def last_event_id(self) -> int:
        """The newest event there ever was, also when it is no longer kept; 0 when there was none."""
        rows = self._all("SELECT seq FROM sqlite_sequence WHERE name = 'events'", ())
        last: int = rows[0][0] if rows else 0
        return last

    def prune_events(self, keep: int) -> int:
        """Forget all but about the newest `keep` events; how many went. Executions and their output stay."""
        with self._atomic:
            return self._execute("DELETE FROM events WHERE id <= ?", (self.last_event_id() - keep,)).rowcount

    def _all(self, statement: str, values: Sequence[Any]) -> list[Any]:
        try:
            return self._execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _translated(error, self.path) from error


class _Atomic:
    """The transaction of a journal; entered again inside itself it only counts."""

    __slots__ = ("_connection", "_depth", "_failed", "_path")

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._depth = 0
        self._failed = False

    def __enter__(self) -> None:
        if self._depth == 0:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise _translated(error, self._path) from error
            self._failed = False
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if error is not None:
            self._failed = True
        if self._depth == 0:
            if not self._failed:
                try:
                    self._connection.execute("COMMIT")
                except sqlite3.Error as refused:
                    self._roll_back()
                    raise _translated(refused, self._path) from refused
                return
            self._roll_back()
            if error is None:
                raise JournalError(
                    f"Nothing was written to {self._path}: a part of the change failed before", hint="Repeat it."
                )
        if isinstance(error, sqlite3.Error):
            raise _translated(error, self._path) from error

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors, a full disk among them.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")


def _make_file(path: str) -> None:
    """An empty file of 0600 where there is none, so that no moment exists at which others could open it."""
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDWR, 0o600))
    except FileExistsError:
        found = os.lstat(path)
        if not stat.S_ISREG(found.st_mode):
            raise JournalError(f"{path} is not a plain file", hint="Move it away.") from None
        if found.st_mode & 0o077 and found.st_uid == os.geteuid():
            os.chmod(path, 0o600)


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    """Check what the file is, set the connection up and apply the migrations that are missing."""
    if schema.is_foreign(connection):
        raise JournalCorrupt(f"{path} is a database of another program", hint="Move it away to start afresh.")
    found = schema.version(connection)
    if found > schema.VERSION:
        writer = schema.writer(connection)
        raise JournalTooNew(
            f"{path} has format {found}, written by omega-sessiond {writer}; this is {__version__}, which knows formats"
            f" up to {schema.VERSION}",
            hint=f"Install omega-sessiond {writer} or later, or move the file away to start afresh.",
        )
    if found == 0:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    if found and os.stat(path).st_size <= CHECKED_BYTES:
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise JournalCorrupt(f"{path} is damaged: {problem}")
    # A file or directory that cannot be written to shows here and not at the first command.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
    if found < schema.VERSION:
        schema.migrate(connection)


def _stored(value: object) -> object:
    """A record's field as its column holds it: structs and dicts as JSON text."""
    return _json(value).decode() if isinstance(value, Struct | dict) else value


def _session_record(fields: dict[str, Any]) -> SessionRecord:
    fields["limits"] = _limits(fields["limits"])
    fields["labels"] = _labels(fields["labels"])
    fields["lost"] = None if fields["lost"] is None else _lost(fields["lost"])
    fields["host"] = None if fields["host"] is None else _host(fields["host"])
    return SessionRecord(**fields)


def _execution_record(fields: dict[str, Any]) -> ExecutionRecord:
    fields["error"] = None if fields["error"] is None else _error(fields["error"])
    fields["lost"] = None if fields["lost"] is None else _lost(fields["lost"])
    fields["displayed"] = bool(fields["displayed"])
    fields["should_exit"] = bool(fields["should_exit"])
    return ExecutionRecord(**fields)


def _line(row: Sequence[Any]) -> bytes:
    """An event as JSON. Output and queued commands are told from where their text stands."""
    event_id, body, session_id, name, execution_id, queued_at, command, at, stream, offset, data = row
    if stream is not None:
        body = _json(_Output(at, session_id, name, execution_id, stream, offset, _text(data)))
    elif body is None:
        body = _json(ExecutionQueued(queued_at, session_id, name, execution_id, command))
    line: bytes = b'{"id":%d,' % event_id + body[1:]
    return line


def _text(data: bytes) -> str:
    # What was stored is UTF-8; "replace" is for bytes that rotted on the disk.
    return data.decode("utf-8", "replace")


def _character_start(data: bytes, at: int) -> int:
    """`at`, or the start of the character it is inside of."""
    while 0 < at < len(data) and data[at] & 0xC0 == 0x80:
        at -= 1
    return at


def _next_character(data: bytes, at: int) -> int:
    """`at`, or the end of the character it is inside of."""
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at += 1
    return at


def _from_system(error: OSError, path: str) -> JournalError:
    """A failure to make the file, by what the system said."""
    import errno

    text = f"Cannot create {path}: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return JournalReadOnly(text)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JournalFull(text)
    return JournalError(text)


def _translated(error: sqlite3.Error, path: str) -> JournalError:
    """SQLite's error as one of ours. Only its primary code is promised, the low byte."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    directory = os.path.dirname(path)
    match code:
        case sqlite3.SQLITE_FULL:
            return JournalFull(f"No space left for the journal {path}: {error}")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return JournalCorrupt(f"{path} is damaged or no journal: {error}")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return JournalReadOnly(f"{path} cannot be written to: {error}")
        case sqlite3.SQLITE_CANTOPEN if not os.access(directory, os.W_OK, effective_ids=True):
            return JournalReadOnly(f"{path} cannot be written to: its directory is read-only")
        case sqlite3.SQLITE_CANTOPEN if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
            return JournalReadOnly(f"{path} cannot be read and written: {error}")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if _free_bytes(directory) < _LOW_SPACE_BYTES:
            return JournalFull(f"No space left for the journal {path}: {error}")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return JournalError(
                f"{path} is held by another program", hint="Find it with 'fuser FILE' and close it; then repeat."
            )
        case _:
            return JournalError(f"The journal {path} failed: {error}")


def _free_bytes(directory: str) -> int:
    try:
        space = os.statvfs(directory)
    except OSError:
        return _LOW_SPACE_BYTES
    return space.f_bavail * space.f_frsize
