"""One SQLite file of ours: how it is made, opened and checked, its transaction, and its errors as errors of ours.

Knows no table; schema.py brings those up to date and journal.py uses them. Every JournalError raised here names the
file and what to do.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Callable, Generator, Sequence
from types import TracebackType
from typing import Any

from omega_sessiond import __version__, schema
from omega_sessiond.errors import JournalCorrupt, JournalError, JournalFull, JournalReadOnly, JournalTooNew

PAGE_BYTES = 2048
"""A commit writes each page it touches twice, first to the log. Small pages make the short rows of an execute cheap
(a tenth of a commit against 4096); smaller ones would cost large outputs more than they save."""

CHECKPOINT_PAGES = 8000
"""The log is carried over into the file when it holds this many pages (16 MiB). That costs two fsyncs on the event
loop, so not often; a larger log is a longer stop, and is read whole at the start that follows a kill."""

CHECKED_BYTES = 512 * 1024
"""A journal up to this size is checked whole when it is opened, at 5 ms a MiB. A larger one would hold up every start
for a damage that no death of ours causes; it is met, and named the same way, by whoever reads the damaged page."""

BUSY_TIMEOUT_MS = 1000
"""How long to wait for a stranger (a backup, the sqlite3 shell) who has the file open when we open it."""

HEADER_BYTES = 100
"""Of a SQLite file."""


class Database:
    """The open file, ours alone. One connection for one thread; `rows` reads, `execute` inside `atomic` writes."""

    def __init__(self, path: str) -> None:
        """Open the file at `path`; make it (0600, in a directory of 0700) where there is none."""
        if sqlite3.sqlite_version_info < schema.MINIMUM_SQLITE:
            wanted = ".".join(map(str, schema.MINIMUM_SQLITE))
            raise JournalError(
                f"Python's SQLite is {sqlite3.sqlite_version}, the journal needs {wanted}",
                hint="Install the daemon with an interpreter that has a newer SQLite.",
            )
        self.path = os.path.abspath(path)
        try:
            _make_file(self.path)
            self._connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_MS / 1000, isolation_level=None)
        except OSError as error:
            raise from_system(error, self.path) from None
        except sqlite3.Error as error:
            raise translated(error, self.path) from error
        try:
            _prepare(self._connection, self.path)
        except sqlite3.Error as error:
            self.close()
            raise translated(error, self.path) from error
        except BaseException:
            self.close()
            raise
        self.atomic = Atomic(self._connection, self.path)
        # One cursor for all writes: making one for each costs as much as its Python part.
        self.execute = self._connection.cursor().execute

    def close(self) -> None:
        """Carry the log over into the file and let go of it. Closing twice is fine."""
        self._connection.close()

    def rows(self, statement: str, values: Sequence[Any] = ()) -> Generator[Any, None, None]:
        """The rows of a query, read as they are asked for. To stop before the end, close the iterator."""
        try:
            cursor = self._connection.execute(statement, values)
            try:
                yield from cursor
            finally:
                cursor.close()
        except sqlite3.Error as error:
            raise translated(error, self.path) from error

    def row(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """The first row of a query, or None."""
        try:
            return self._connection.execute(statement, values).fetchone()
        except sqlite3.Error as error:
            raise translated(error, self.path) from error


class Atomic:
    """The transaction of a database. Entered again inside itself it only counts: the outermost block decides."""

    __slots__ = ("_connection", "_depth", "_execute", "_failed", "_path", "on_roll_back")

    def __init__(self, connection: sqlite3.Connection, path: str) -> None:
        self._connection = connection
        self._execute = connection.cursor().execute
        self._path = path
        self._depth = 0
        self._failed = False
        self.on_roll_back: Callable[[], None] = _nothing
        """Called when a transaction was undone: what is known of the tables beside them is to be read again."""

    def __enter__(self) -> None:
        if self._depth == 0:
            try:
                self._execute("BEGIN IMMEDIATE")
            except sqlite3.Error as error:
                raise translated(error, self._path) from error
            self._failed = False
        elif self._failed:
            # SQLite may have ended the transaction with the failure: what is written now would be kept for itself.
            raise self._broken()
        self._depth += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._depth -= 1
        if error is not None:
            self._failed = True
        if self._depth == 0:
            if not self._failed:
                self._commit()
                return
            self._roll_back()
            if error is None:
                raise self._broken()
        if isinstance(error, sqlite3.Error):
            raise translated(error, self._path) from error

    def only(self, statement: str, values: Sequence[Any]) -> None:
        """A change of one statement, which outside of a block is a transaction by itself."""
        if self._depth:
            with self:
                self._execute(statement, values)
            return
        try:
            self._execute(statement, values)
        except BaseException as error:  # a value that SQLite cannot take is no error of its own
            self.on_roll_back()
            if isinstance(error, sqlite3.Error):
                raise translated(error, self._path) from error
            raise

    def _broken(self) -> JournalError:
        return JournalError(
            f"Nothing was written to {self._path}: a part of the change had failed",
            hint="This is a defect of omega-sessiond; its log has the first failure.",
        )

    def _commit(self) -> None:
        try:
            self._execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise translated(error, self._path) from error

    def _roll_back(self) -> None:
        # SQLite has rolled back by itself after some errors, a full disk among them.
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")
        self.on_roll_back()


def _nothing() -> None:
    pass


def _make_file(path: str) -> None:
    """See that a file is there which is ours to write. A new one is empty and 0600: at no moment can others open it."""
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o700, exist_ok=True)
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_RDWR, 0o600))
        return
    except FileExistsError:
        found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise JournalError(f"{path} is not a plain file", hint="Move it away.")
    for place, mode in ((directory, os.R_OK | os.W_OK | os.X_OK), (path, os.R_OK | os.W_OK)):
        if not os.access(place, mode, effective_ids=True):
            raise JournalReadOnly(f"{path} cannot be used: no permission to read and write {place}")
    if 0 < found.st_size < HEADER_BYTES:
        # SQLite would take it for an empty file and write over it.
        raise JournalCorrupt(f"{path} is damaged or no journal: it has {found.st_size} bytes")
    if found.st_mode & 0o077 and found.st_uid == os.geteuid():
        os.chmod(path, 0o600)


def _prepare(connection: sqlite3.Connection, path: str) -> None:
    """See what the file is, set the connection up and apply the migrations that are missing."""
    # One lock for as long as we have the file, instead of several at each commit, which saves a fifth of it; and no
    # shared memory, which a full disk could take away under us. Nobody else can write, or read, meanwhile.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
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
        # An empty file has nothing to roll back to: no rollback journal and none of its fsyncs.
        connection.execute("PRAGMA journal_mode = MEMORY")
        connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # Lets a later version give the space of deleted sessions back; it cannot be chosen afterwards.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute(f"PRAGMA journal_size_limit = {2 * CHECKPOINT_PAGES * PAGE_BYTES}")
    # Some builds overwrite all that is deleted: a session with much output would take seconds to go.
    connection.execute("PRAGMA secure_delete = FAST")
    pages, page_bytes = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if found and pages * page_bytes <= CHECKED_BYTES:
        problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise JournalCorrupt(f"{path} is damaged: {problem.splitlines()[-1]}")
    # A file or directory that cannot be written to shows here and not at the first command.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
    if found < schema.VERSION:
        schema.migrate(connection)


def from_system(error: OSError, path: str) -> JournalError:
    """A refusal of the system as one of ours."""
    text = f"Cannot write {path}: {error.strerror}"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return JournalReadOnly(text)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JournalFull(text)
    return JournalError(text)


def translated(error: sqlite3.Error, path: str) -> JournalError:
    """SQLite's error as one of ours. Only its primary code is promised, the low byte."""
    match getattr(error, "sqlite_errorcode", 0) & 0xFF:
        case sqlite3.SQLITE_FULL:
            return JournalFull(f"No space left for the journal {path}: {error}")
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return JournalCorrupt(f"{path} is damaged or no journal: {error}")
        case sqlite3.SQLITE_READONLY:
            return JournalReadOnly(f"{path} cannot be written to: {error}")
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN if (reason := _refusal(path)) is not None:
            return from_system(reason, path)
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return JournalError(
                f"{path} is held by another program", hint=f"Find it with 'fuser {path}' and close it; then repeat."
            )
        case _:
            return JournalError(f"The journal {path} failed: {error}")


def _refusal(path: str) -> OSError | None:
    """Why the system takes no page beside the journal. SQLite tells a used-up quota, a disk that is full only when
    written back, and one that has become read-only as the same I/O error."""
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=os.path.dirname(path), buffering=0) as probe:
            probe.write(bytes(PAGE_BYTES))
            os.fsync(probe.fileno())
    except OSError as error:
        return error
    return None
