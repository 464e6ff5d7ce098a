"""The journal's tables, as numbered migrations, and the one way to apply them. Knows SQL and no records.

A migration, once released, is never edited: journals in the field were made by it. A change is a new number at the
end of MIGRATIONS; tests/data holds a journal of every version, which must load for ever.

How the tables serve the two commits of an execute, in which each page that is touched costs more than a statement:
- What an execution's own events and those of output say stands once, in `executions` and `output`, and they are told
  from there. Only the end of an execution, and a beginning that did not follow at once, have a row without a body in
  `events` for their place in the order. So an execution's events need no index, and pruning loses none of them.
- Ids are counted in memory (ids.py): AUTOINCREMENT would touch a page of its own.
- `output` is not clustered by (execution_id, offset), though that would spare its index a page: SQLite compares keys
  of such a table by loading the rows whole, 64 KiB each in a large output.
- No index tells the unfinished executions; `sessions.finished_up_to` bounds the search for them instead.
- A session's last use is that of its newest execution, and how far it has come stands in the row of the one that ended
  last: neither queueing nor an end touches the session's own.
- CHECK lists are chains of OR: an IN list of more than two values builds a temporary table at every statement.
- Wide columns stand last, so that reading the others does not walk their overflow pages.
"""

from __future__ import annotations

import sqlite3

from omega_sessiond import __version__
from omega_sessiond.messages import now

APPLICATION_ID = 0x6F6D6567
"""`omeg` in the file's header: tells a journal from another program's database (and `file` from both)."""

MINIMUM_SQLITE = (3, 38, 0)
"""STRICT tables came with 3.37, the JSON functions became part of every build with 3.38."""

MIGRATIONS: list[tuple[str, tuple[str, ...]]] = [
    (
        "sessions, executions, output, events",
        (
            """
            CREATE TABLE sessions (
                id TEXT PRIMARY KEY,
                name TEXT NOT NULL UNIQUE,
                engine TEXT NOT NULL,
                python TEXT,
                cwd TEXT NOT NULL,
                created_at TEXT NOT NULL,
                last_used_at TEXT NOT NULL,
                execution_count INTEGER NOT NULL CHECK (execution_count >= 0),
                limits TEXT NOT NULL CHECK (json_valid(limits)),
                labels TEXT NOT NULL CHECK (json_valid(labels)),
                state_reason TEXT,
                lost TEXT CHECK (lost IS NULL OR json_valid(lost)),
                host TEXT CHECK (host IS NULL OR json_valid(host)),
                host_seq INTEGER NOT NULL CHECK (host_seq >= 0),
                finished_up_to INTEGER NOT NULL DEFAULT 0    -- no execution up to this id is unfinished; lags behind
            ) STRICT, WITHOUT ROWID
            """,
            """
            CREATE TABLE executions (
                id INTEGER PRIMARY KEY,    -- that of its execution_queued event
                started_event_id INTEGER,
                finished_event_id INTEGER,
                session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
                status TEXT NOT NULL CHECK (
                    status = 'queued' OR status = 'running' OR status = 'waiting_input' OR status = 'ok'
                    OR status = 'error' OR status = 'interrupted' OR status = 'died' OR status = 'cancelled'
                ),
                reason TEXT,
                execution_count INTEGER,
                queued_at TEXT NOT NULL,
                started_at TEXT,
                finished_at TEXT,
                duration_ms REAL,
                timeout_s REAL,
                displayed INTEGER NOT NULL DEFAULT 0 CHECK (displayed IN (0, 1)),
                should_exit INTEGER NOT NULL DEFAULT 0 CHECK (should_exit IN (0, 1)),
                dropped_bytes INTEGER NOT NULL DEFAULT 0 CHECK (dropped_bytes >= 0),
                resumed_from TEXT,
                lost TEXT CHECK (lost IS NULL OR json_valid(lost)),
                idempotency_key TEXT,
                error TEXT CHECK (error IS NULL OR json_valid(error)),
                command TEXT NOT NULL,
                CHECK ((finished_at IS NULL) = (status = 'queued' OR status = 'running' OR status = 'waiting_input'))
            ) STRICT
            """,
            "CREATE INDEX executions_of_session ON executions (session_id)",
            """
            CREATE UNIQUE INDEX executions_by_key ON executions (session_id, idempotency_key)
            WHERE idempotency_key IS NOT NULL
            """,
            """
            CREATE TABLE output (
                event_id INTEGER PRIMARY KEY,
                execution_id INTEGER NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
                offset INTEGER NOT NULL CHECK (offset >= 0),    -- in bytes of the execution's combined output
                stream TEXT NOT NULL CHECK (
                    stream = 'stdout' OR stream = 'stderr' OR stream = 'result' OR stream = 'traceback'
                ),
                at TEXT NOT NULL,
                text BLOB NOT NULL CHECK (length(text) > 0)    -- UTF-8: a BLOB is measured and cut in bytes
            ) STRICT
            """,
            "CREATE INDEX output_in_order ON output (execution_id, offset)",
            """
            CREATE TABLE events (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                session_id TEXT NOT NULL,
                execution_id INTEGER,    -- NULL for execution_queued, whose execution has its id
                body BLOB                -- the JSON of every other event than those told from their tables
            ) STRICT
            """,
            """
            CREATE INDEX events_of_execution ON events (execution_id)
            WHERE execution_id IS NOT NULL AND body IS NOT NULL
            """,
        ),
    ),
    (
        "rich parts of executions",
        (
            """
            CREATE TABLE parts (
                id INTEGER PRIMARY KEY,
                execution_id INTEGER NOT NULL REFERENCES executions (id) ON DELETE CASCADE,
                number INTEGER NOT NULL CHECK (number >= 0),
                bundle INTEGER NOT NULL CHECK (bundle >= 0),
                role TEXT NOT NULL CHECK (role IN ('display', 'result')),
                place INTEGER NOT NULL CHECK (place >= 0),    -- in bytes of the execution's combined output
                mime TEXT NOT NULL,
                encoding TEXT NOT NULL CHECK (encoding = 'text' OR encoding = 'json' OR encoding = 'binary'),
                size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
                metadata TEXT CHECK (metadata IS NULL OR json_valid(metadata)),
                omitted TEXT
            ) STRICT
            """,
            "CREATE UNIQUE INDEX parts_of_execution ON parts (execution_id, number)",
            """
            CREATE TABLE part_pieces (
                id INTEGER PRIMARY KEY,
                part_id INTEGER NOT NULL REFERENCES parts (id) ON DELETE CASCADE,
                offset INTEGER NOT NULL CHECK (offset >= 0),
                body BLOB NOT NULL CHECK (length(body) > 0)
            ) STRICT
            """,
            "CREATE UNIQUE INDEX part_pieces_in_order ON part_pieces (part_id, offset)",
        ),
    ),
    (
        "what was removed to keep the history within its limits",
        (
            "ALTER TABLE executions ADD COLUMN pruned_at TEXT",
            """
            CREATE TABLE prunings (
                session_id TEXT PRIMARY KEY REFERENCES sessions (id) ON DELETE CASCADE,
                executions INTEGER NOT NULL CHECK (executions >= 0),
                outputs INTEGER NOT NULL CHECK (outputs >= 0),
                bytes INTEGER NOT NULL CHECK (bytes >= 0),
                up_to_id INTEGER NOT NULL,
                at TEXT NOT NULL
            ) STRICT
            """,
        ),
    ),
    (
        "checkpoints and snapshots",
        (
            "ALTER TABLE sessions ADD COLUMN keep TEXT CHECK (keep IS NULL OR json_valid(keep))",
            """
            CREATE TABLE checkpoints (
                id TEXT PRIMARY KEY,    -- also the name of its directory
                session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
                at TEXT NOT NULL,
                execution_id INTEGER NOT NULL CHECK (execution_id >= 0),    -- the last one it holds
                size_bytes INTEGER NOT NULL CHECK (size_bytes >= 0),
                sha256 TEXT NOT NULL,
                variables INTEGER NOT NULL CHECK (variables >= 0),
                left_out TEXT NOT NULL CHECK (json_valid(left_out)),
                obstacles TEXT NOT NULL CHECK (json_valid(obstacles))
            ) STRICT, WITHOUT ROWID
            """,
            "CREATE INDEX checkpoints_of_session ON checkpoints (session_id)",
            """
            CREATE TABLE snapshots (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
                checkpoint_id TEXT NOT NULL REFERENCES checkpoints (id) ON DELETE CASCADE,
                name TEXT NOT NULL,
                at TEXT NOT NULL,
                note TEXT NOT NULL,
                tags TEXT NOT NULL CHECK (json_valid(tags)),
                automatic TEXT    -- why it was made when nobody asked for it
            ) STRICT
            """,
            "CREATE UNIQUE INDEX snapshots_by_name ON snapshots (session_id, name)",
            "CREATE INDEX snapshots_of_checkpoint ON snapshots (checkpoint_id)",
            """
            CREATE TABLE restores (
                id INTEGER PRIMARY KEY AUTOINCREMENT,
                session_id TEXT NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
                at TEXT NOT NULL,
                after_id INTEGER NOT NULL,    -- the session's last execution before
                source TEXT NOT NULL CHECK (json_valid(source))    -- whose state it was: session, snapshot, execution
            ) STRICT
            """,
            "CREATE INDEX restores_of_session ON restores (session_id)",
        ),
    ),
    (
        "what a session was forked from",
        ("ALTER TABLE sessions ADD COLUMN parent TEXT CHECK (parent IS NULL OR json_valid(parent))",),
    ),
    (
        "no second row for what executions and output tell of themselves",
        (
            "CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID",
            "INSERT INTO marks VALUES ('last', coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0))",
            """
            INSERT INTO marks VALUES ('pruned_to', coalesce((SELECT min(id) - 1 FROM events),
                (SELECT value FROM marks WHERE name = 'last')))
            """,
            """
            CREATE TABLE told (
                id INTEGER PRIMARY KEY,
                session_id TEXT NOT NULL,
                execution_id INTEGER,    -- of an end, a late beginning, a question, an answer, or data
                body BLOB                -- the JSON of all events but those that `executions` tells
            ) STRICT
            """,
            """
            INSERT INTO told SELECT id, session_id, execution_id, body FROM events e WHERE body IS NOT NULL
            OR EXISTS (SELECT 1 FROM executions x WHERE x.id = e.execution_id
                AND (x.finished_event_id = e.id OR (x.started_event_id = e.id AND e.id <> x.id + 1)))
            """,
            "DROP TABLE events",
            "ALTER TABLE told RENAME TO events",
            """
            CREATE INDEX events_of_execution ON events (execution_id)
            WHERE execution_id IS NOT NULL AND body IS NOT NULL
            """,
        ),
    ),
    (
        "the end of an execution tells how far its session has come",
        (
            "ALTER TABLE executions ADD COLUMN host_seq INTEGER",  # NULL where no host has told its end
            "ALTER TABLE executions ADD COLUMN session_count INTEGER",
            "ALTER TABLE sessions ADD COLUMN as_of_event INTEGER NOT NULL DEFAULT 0",  # when the row's own were written
        ),
    ),
]

VERSION = len(MIGRATIONS)
"""The version of the newest journal this program writes and reads, kept in the file's `user_version`."""


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the journal to VERSION, one transaction for each step, with a record of when and by what."""
    for number, (name, statements) in enumerate(MIGRATIONS[version(connection) :], start=version(connection) + 1):
        connection.execute("BEGIN IMMEDIATE")
        try:
            if number == 1:
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(
                    "CREATE TABLE migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL,"
                    " applied_by TEXT NOT NULL) STRICT"
                )
            for statement in statements:
                connection.execute(statement)
            connection.execute("INSERT INTO migrations VALUES (?, ?, ?, ?)", (number, name, now(), __version__))
            connection.execute(f"PRAGMA user_version = {number}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def version(connection: sqlite3.Connection) -> int:
    """The migrations applied so far; 0 for an empty file."""
    number: int = connection.execute("PRAGMA user_version").fetchone()[0]
    return number


def writer(connection: sqlite3.Connection) -> str:
    """The version of the program that applied the last migration, as far as it can be read."""
    try:
        row = connection.execute("SELECT applied_by FROM migrations ORDER BY number DESC LIMIT 1").fetchone()
    except sqlite3.OperationalError:
        return "unknown"
    return str(row[0]) if row else "unknown"


def is_foreign(connection: sqlite3.Connection) -> bool:
    """Another program's database: it has tables, yet not our mark."""
    if connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
        return False
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is not None
