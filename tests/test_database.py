"""The journal's file: what it survives, and what is said when it cannot be used.

The faults are real: a killed writer, a full tmpfs, another user's permissions, damaged bytes, the journals of other
versions.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from conftest import unavailable
from isolation import Place
from journals import add, at, found, run, session
from omega_sessiond import __version__, database, schema
from omega_sessiond.errors import JournalCorrupt, JournalError, JournalFull, JournalReadOnly, JournalTooNew
from omega_sessiond.journal import Journal
from omega_sessiond.messages import ErrorValue, Limits, Lost, SessionDeleted
from omega_sessiond.records import HostRecord, SessionRecord

DATA = Path(__file__).resolve().parent / "data"
NOBODY = 65534


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
def book(path: Path) -> Iterator[Journal]:
    """A new journal."""
    opened = Journal.open(str(path))
    yield opened
    opened.close()


# ---- the file ----


def test_new_journal_is_private(tmp_path: Path) -> None:
    """A new journal and its log are 0600 in a directory of 0700, whatever the umask."""
    path = tmp_path / "a" / "b" / "journal.db"
    before = os.umask(0)
    try:
        book = Journal.open(str(path))
        add(book, session())
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert {stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()} == {0o600}
        assert len(list(path.parent.iterdir())) == 2
        book.close()
    finally:
        os.umask(before)


def test_journal_that_others_can_read_is_made_private(path: Path) -> None:
    """A journal of ours that a copy or a restore left open to others is closed to them again."""
    Journal.open(str(path)).close()
    path.chmod(0o644)
    Journal.open(str(path)).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["symlink", "directory"])
def test_what_is_no_plain_file_is_refused(tmp_path: Path, kind: str) -> None:
    """A link or a directory in the journal's place is refused by name, and nothing is written through it."""
    path, target = tmp_path / "journal.db", tmp_path / "target"
    path.symlink_to(target) if kind == "symlink" else path.mkdir()
    with pytest.raises(JournalError, match=f"{path} is not a plain file"):
        Journal.open(str(path))
    assert not target.exists()


def test_journal_has_one_owner(path: Path, book: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a journal is open nobody else opens it; the refusal names the file."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MS", 1)
    script = f"""
import sys
from omega_sessiond import database
from omega_sessiond.errors import JournalError
from omega_sessiond.journal import Journal
database.BUSY_TIMEOUT_MS = 1
try:
    Journal.open({str(path)!r})
except JournalError as error:
    sys.exit(error.message)
"""
    refused = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stderr) == (1, f"{path} is held by another program\n")


def test_no_descriptor_leaks(tmp_path: Path) -> None:
    """Opening, using, closing and failing to open leave no descriptor behind."""
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"no database at all" * 100)
    newer = tmp_path / "newer.db"
    Journal.open(str(newer)).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()

    def exercise() -> None:
        book = Journal.open(str(tmp_path / "journal.db"))
        work = add(book, session())
        execution_id = run(book, work, output="x" * 100)
        book.find(execution_id, "x", 3)
        book.piece(execution_id, 0, 3)
        book.delete_session(work.id, SessionDeleted(at(9), work.id, work.name))
        book.close()
        book.close()
        for broken, kind in ((garbage, JournalCorrupt), (newer, JournalTooNew), (tmp_path, JournalError)):
            with pytest.raises(kind):
                Journal.open(str(broken))

    exercise()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        exercise()
    assert len(os.listdir("/proc/self/fd")) == before


# ---- versions ----


@pytest.fixture
def old(path: Path) -> Path:
    """The journal of format 1 that is kept with the tests."""
    path.parent.mkdir(mode=0o700)
    connection = sqlite3.connect(path)
    connection.executescript((DATA / "journal-v1.sql").read_text())
    connection.close()
    return path


def test_journal_of_format_1_loads(old: Path) -> None:
    """The first format there was is read in full, and written on with ids that are new."""
    book = Journal.open(str(old))
    dead, work = book.sessions()
    assert work == SessionRecord(
        id="aaaaaaaaaaaa",
        name="work",
        engine="python",
        python="/usr/bin/python3.9",
        cwd="/home/user",
        created_at=at(0),
        last_used_at=at(41),
        execution_count=2,
        limits=Limits(memory_bytes=1 << 30, cpu_weight=50),
        labels={"team": "blå"},
        state_reason=None,
        lost=None,
        host=HostRecord(4242, 99, "0b0e9a8c-7d5e-4f3a-9c1b-000000000001", "omega-session-work.scope", "3.9.18"),
        host_seq=7,
    )
    assert (dead.name, dead.host, dead.lost) == ("dead", None, Lost("all", "probably out of memory"))
    first, second, cancelled, running, queued = book.executions(work.id, 0, 100)
    assert (first.id, first.command, first.status, first.timeout_s) == (4, "print('grüß', input())", "ok", 60.0)
    assert (first.dropped_bytes, first.output_bytes, first.duration_ms) == (982, 1005, 3000.5)
    assert book.output(4) == [("stdout", 0, "grüß "), ("stderr", 7, "→ 日本\n"), ("stdout", 1000, "tail\n")]
    assert second.error == ErrorValue("ZeroDivisionError", "division by zero", "Traceback…")
    assert (second.should_exit, second.lost, second.resumed_from) == (True, Lost(["x"], "restored"), "snapshot-1")
    assert (cancelled.status, cancelled.reason, cancelled.idempotency_key) == ("cancelled", "user", None)
    assert book.unfinished(work.id) == [running, queued]
    assert book.by_key(work.id, "key-3") == running
    kinds = [msgspec.json.decode(line)["kind"] for _, line in book.events(0, 100, 4)]
    assert kinds == [
        "execution_queued",
        "execution_started",
        "output",
        "input_requested",
        "input_answered",
        "output",
        "output",
        "execution_finished",
    ]
    assert (book.oldest_event_id(), book.last_event_id(), len(book.events(0, 100))) == (1, 25, 21)
    assert run(book, work) == 26
    book.close()
    with sqlite3.connect(old) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (schema.VERSION,)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


@contextmanager
def next_format(monkeypatch: pytest.MonkeyPatch, *statements: str) -> Iterator[None]:
    """This program as it will be with one more migration."""
    with monkeypatch.context() as patch:
        patch.setattr(schema, "MIGRATIONS", [*schema.MIGRATIONS, ("the next step", statements)])
        patch.setattr(schema, "VERSION", schema.VERSION + 1)
        yield


def test_migration_brings_an_old_journal_forward(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is applied once, in order, with a record of when and by what; the content stays."""
    with next_format(monkeypatch, "ALTER TABLE sessions ADD COLUMN aunt TEXT"):
        for _ in range(2):
            book = Journal.open(str(old))
            assert [row.name for row in book.sessions()] == ["dead", "work"]
            book.close()
    with sqlite3.connect(old) as connection:
        record = connection.execute("SELECT number, name, applied_by FROM migrations ORDER BY number").fetchall()
    connection.close()
    assert record[0] == (1, "sessions, executions, output, events", "0.1.0")
    assert record[-1] == (schema.VERSION + 1, "the next step", __version__)
    assert len(record) == schema.VERSION + 1


def test_failed_migration_leaves_the_journal_as_it_was(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that fails half-way is undone whole, and the journal still opens as what it was."""
    with (
        next_format(monkeypatch, "ALTER TABLE sessions ADD COLUMN aunt TEXT", "ALTER TABLE absent ADD COLUMN x TEXT"),
        pytest.raises(JournalError, match="no such table: absent"),
    ):
        Journal.open(str(old))
    book = Journal.open(str(old))
    assert [row.name for row in book.sessions()] == ["dead", "work"]
    book.close()


def test_newer_journal_is_refused_with_both_versions(path: Path) -> None:
    """A journal of a later program stays untouched, and the refusal names both versions, the file and the remedy."""
    Journal.open(str(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO migrations VALUES (?, 'later', '', '9.8.7')", (schema.VERSION + 1,))
        connection.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalTooNew) as refused:
        Journal.open(str(path))
    assert str(path) in refused.value.message
    assert "9.8.7" in refused.value.message
    assert f"this is {__version__}" in refused.value.message
    assert "Install omega-sessiond 9.8.7 or later" in refused.value.hint
    assert path.read_bytes() == before


# ---- damage ----


def write_much(path: Path) -> int:
    """Make a journal of a few hundred pages, for a fault to be put into; the id of its first execution."""
    book = Journal.open(str(path))
    owners = [add(book, session(name)) for name in ("one", "two")]
    ids = [run(book, owner, "c" * 3000, "o" * 3000) for owner in owners for _ in range(20)]
    book.close()
    return ids[0]


@pytest.mark.parametrize("content", [b"x", b"garbage " * 1000, b"SQLite format 3\0" + b"\xff" * 5000])
def test_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    """Bytes that were never a journal are named as such, and left as they are."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(JournalCorrupt, match=str(path)) as refused:
        Journal.open(str(path))
    assert "move it away" in refused.value.hint
    assert path.read_bytes() == content


def test_database_of_another_program_is_refused(path: Path) -> None:
    """A sound database that is not a journal is not written to."""
    path.parent.mkdir()
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE sessions (mine TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(JournalCorrupt, match="another program"):
        Journal.open(str(path))
    assert path.read_bytes() == before


def test_empty_file_becomes_a_journal(path: Path) -> None:
    """What a daemon that died while it made the file left behind is taken for a new journal."""
    path.parent.mkdir()
    path.touch(mode=0o600)
    book = Journal.open(str(path))
    run(book, add(book, session()))
    book.close()


@pytest.mark.parametrize("checked", [database.CHECKED_BYTES, 0])
def test_truncated_journal_is_refused(path: Path, checked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that lost its end is refused when it is opened, also when it is too large to be checked whole."""
    write_much(path)
    os.truncate(path, path.stat().st_size // 2)
    monkeypatch.setattr(database, "CHECKED_BYTES", checked)
    with pytest.raises(JournalCorrupt, match=str(path)):
        Journal.open(str(path))


def scramble(path: Path, table: str) -> None:
    """Overwrite the first page of a table."""
    with sqlite3.connect(path) as connection:
        root, size = connection.execute(
            "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = ?", (table,)
        ).fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * size)
        file.write(random.Random(7).randbytes(size))


@pytest.mark.parametrize("table", ["sessions", "executions", "output", "events", "executions_of_session"])
def test_damaged_page_is_found_at_open(path: Path, table: str) -> None:
    """A small journal with a damaged page, whichever it is, is refused when it is opened."""
    write_much(path)
    scramble(path, table)
    with pytest.raises(JournalCorrupt, match=str(path)):
        Journal.open(str(path))


def test_damaged_page_of_a_large_journal_is_named_where_it_is_met(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too large to be checked whole, a journal tells of the damage to whoever reads it, and goes on with the rest."""
    monkeypatch.setattr(database, "CHECKED_BYTES", 0)
    old = write_much(path)
    book = Journal.open(str(path))
    last = book.last_event_id()
    book.close()
    scramble(path, "output")
    book = Journal.open(str(path))
    one, _ = book.sessions()
    execution_id = book.queue(one, "x", at=at(1), started=True)
    assert execution_id > last  # although the damaged table does not tell its newest number
    for read in (
        lambda: book.output(old),
        lambda: book.piece(old, 0, 10),
        lambda: book.find(old, "o", 10),
        lambda: book.events(0, 1000),
        lambda: book.executions(one.id, 0, 10),
    ):
        with pytest.raises(JournalCorrupt, match=str(path)):
            read()
    with pytest.raises(JournalCorrupt, match=str(path)):
        book.add_output(one, execution_id, "stdout", 0, "text", at(2))
    assert book.finish(one, execution_id, status="ok", finished_at=at(3))
    assert [row.name for row in book.sessions()] == ["one", "two"]
    book.close()


def test_record_that_does_not_read_is_damage(path: Path) -> None:
    """A value that is sound to SQLite and none of ours is told as damage, with the record's id."""
    book = Journal.open(str(path))
    work = add(book, session())
    run(book, work)
    book.close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE sessions SET limits = '[]'")
        connection.execute("UPDATE executions SET lost = '7'")
    connection.close()
    book = Journal.open(str(path))
    with pytest.raises(JournalCorrupt, match=f"{path} is damaged: the record of {work.id} "):
        book.sessions()
    with pytest.raises(JournalCorrupt, match=f"{path} is damaged: the record of 2 "):
        book.executions(work.id, 0, 10)
    book.close()


# ---- read-only ----


@pytest.fixture
def unprivileged(place: Place, path: Path) -> Iterator[Callable[[], None]]:
    """Makes the state directory that of a user whom permissions bind, and this process that user."""
    became = False

    def become() -> None:
        nonlocal became
        if os.geteuid() != 0:
            return
        for parent in path.parents[1:]:
            if parent.stat().st_mode & 0o001 == 0:
                opened.append((parent, parent.stat().st_mode))
                parent.chmod(0o711)
        for file in (path.parent, *path.parent.iterdir()):
            os.chown(file, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        became = True

    opened: list[tuple[Path, int]] = []
    yield become
    if became:
        os.seteuid(0)
    for parent, mode in opened:
        parent.chmod(stat.S_IMODE(mode))
    if path.parent.exists():
        path.parent.chmod(0o700)


@pytest.mark.parametrize(
    ("directory", "file"), [(0o700, 0o400), (0o500, 0o600), (0o500, 0o400), (0o700, 0o000)], ids=oct
)
def test_journal_without_permission_is_read_only(
    path: Path, unprivileged: Callable[[], None], directory: int, file: int
) -> None:
    """A journal or a directory that cannot be written to is refused by name when it is opened."""
    Journal.open(str(path)).close()
    path.chmod(file)
    path.parent.chmod(directory)
    unprivileged()
    with pytest.raises(JournalReadOnly, match=str(path)) as refused:
        Journal.open(str(path))
    assert "writable" in refused.value.hint


def test_directory_without_permission_is_read_only(path: Path, unprivileged: Callable[[], None]) -> None:
    """Where no journal can be made the refusal says so, and why."""
    path.parent.mkdir()
    path.parent.chmod(0o500)
    unprivileged()
    with pytest.raises(JournalReadOnly, match=f"Cannot write {path}: Permission denied"):
        Journal.open(str(path))


# ---- a full disk ----


@pytest.fixture
def small_disk(place: Place) -> Iterator[Path]:
    """A file system of its own with one MiB."""
    disk = place.base / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "tmpfs", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        unavailable(f"no small file system can be mounted: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(book: Journal, owner: SessionRecord, execution_id: int) -> int:
    """Write output until the disk is full; how many pieces of 1000 bytes were taken."""
    for count in range(10_000):
        try:
            book.add_output(owner, execution_id, "stdout", count * 1000, "o" * 1000, at(2))
        except JournalFull as error:
            assert book.path in error.message
            assert "Free space" in error.hint
            return count
    raise AssertionError("the disk did not fill")


def holds(book: Journal, owner: SessionRecord, execution_id: int, count: int) -> bool:
    """Everything that was committed reads back, and nothing that was refused."""
    pieces = book.output(execution_id)
    return (
        [offset for _, offset, _ in pieces] == [index * 1000 for index in range(count)]
        and {text for _, _, text in pieces} <= {"o" * 1000}
        and found(book, owner, execution_id).output_bytes == count * 1000
        and len(book.events(0, 100_000)) == 3 + count
    )


def test_full_disk_loses_nothing_and_passes(small_disk: Path) -> None:
    """On a full disk a write is refused whole, everything committed is readable, and work goes on with new space."""
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(300_000))
    book = Journal.open(str(small_disk / "journal.db"))
    work = add(book, session())
    execution_id = book.queue(work, "x", at=at(1), started=True)
    count = fill(book, work, execution_id)
    assert holds(book, work, execution_id, count)
    with pytest.raises(JournalFull):
        book.queue(work, "c" * 5000, at=at(3), started=True)
    ballast.unlink()
    assert book.add_output(work, execution_id, "stdout", count * 1000, "o" * 1000, at(4))
    assert holds(book, work, execution_id, count + 1)
    book.close()
    book = Journal.open(str(small_disk / "journal.db"))
    assert holds(book, work, execution_id, count + 1)
    book.close()


def test_full_disk_at_the_start_is_named(small_disk: Path) -> None:
    """A daemon that starts on a full disk says so; what was journalled before is there when there is room."""
    path = small_disk / "journal.db"
    book = Journal.open(str(path))
    work = add(book, session())
    execution_id = run(book, work, output="kept")
    book.close()
    free = os.statvfs(small_disk)
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize))
    with pytest.raises(JournalFull, match=r"new\.db"):
        Journal.open(str(small_disk / "new.db"))
    ballast.unlink()
    book = Journal.open(str(path))
    assert book.output(execution_id) == [("stdout", 0, "kept")]
    book.close()


def test_refusal_that_sqlite_does_not_know_is_named(small_disk: Path) -> None:
    """An I/O error of SQLite is told as what the system refuses: a full disk, or nothing that is known."""
    path = str(small_disk / "journal.db")
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
    assert type(database.translated(error, path)) is JournalError
    free = os.statvfs(small_disk)
    (small_disk / "ballast").write_bytes(bytes(free.f_bavail * free.f_frsize))
    assert type(database.translated(error, path)) is JournalFull
    gone = str(small_disk / "absent" / "journal.db")
    assert "No such file or directory" in database.translated(error, gone).message


def test_journal_at_its_limit_goes_on_when_it_is_lifted(path: Path) -> None:
    """SQLite's own report of a full disk, which needs no mount: refused whole, then on as if nothing had been."""
    book = Journal.open(str(path))
    work = add(book, session())
    execution_id = book.queue(work, "x", at=at(1), started=True)
    book._database.row("PRAGMA max_page_count = 200")
    count = fill(book, work, execution_id)
    with pytest.raises(JournalFull), book.atomic():
        book.update_session(work.id, host_seq=9)
        book.queue(work, "c" * 100_000, at=at(3), started=True)
    assert book.sessions()[0].host_seq == 0
    assert holds(book, work, execution_id, count)
    book._database.row("PRAGMA max_page_count = 100000")
    assert book.finish(work, execution_id, status="ok", finished_at=at(4))
    book.close()


# ---- sudden death ----

WRITER = """
import os, sys
from omega_sessiond import database
from omega_sessiond.journal import Journal
from omega_sessiond.messages import Limits
database.CHECKPOINT_PAGES = 20
book = Journal.open(sys.argv[1])
(owner,) = book.sessions()
at = "2026-01-01T09:00:00.000000Z"
while True:
    id = book.queue(owner, "command", at=at, started=True, idempotency_key=os.urandom(8).hex())
    os.write(1, b"queued %d\\n" % id)
    with book.atomic():
        book.add_output(owner, id, "stdout", 0, f"output of {id} " * (id % 500), at)
        book.finish(owner, id, status="ok", finished_at=at, duration_ms=0.5, host_seq=id, session_count=1)
    os.write(1, b"finished %d\\n" % id)
"""


def test_killed_writer_loses_no_acknowledged_commit(path: Path) -> None:
    """A writer killed at any moment, in the middle of a checkpoint too, leaves all that it had acknowledged whole."""
    book = Journal.open(str(path))
    work = add(book, session())
    book.close()
    moments = random.Random(11)
    queued: set[int] = set()
    finished: set[int] = set()
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline() for _ in range(moments.randint(1, 100))]
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.readlines()  # what it wrote before it died was acknowledged as well
        fresh = set()
        for line in lines:
            word, _, number = line.decode().partition(" ")
            (queued if word == "queued" else finished).add(int(number))
            fresh.add(int(number))
        book = Journal.open(str(path))
        for execution_id in fresh:
            record = found(book, work, execution_id)
            if execution_id in finished:
                assert record.status == "ok"
            if record.status == "ok":  # the result and its output came as one
                text = "".join(text for _, _, text in book.output(execution_id))
                assert text == f"output of {execution_id} " * (execution_id % 500)
        assert len(book.unfinished(work.id)) <= 8
        assert book.sessions()[0].host_seq >= max(finished, default=0)
        book.close()
    book = Journal.open(str(path))
    kept = {record.id: record.status for record in book.executions(work.id, 0, 100_000)}
    book.close()
    assert queued <= kept.keys()
    assert {kept[execution_id] for execution_id in finished} == {"ok"}
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
