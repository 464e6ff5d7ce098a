"""A daemon whose journal is damaged, read-only, too new or on a full disk says so and loses nothing of it."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from caller import Caller
from conftest import unavailable
from daemon import wait_until
from isolation import Place
from life import Life, gate, is_alive
from smalldisk import SmallDisk

Lives = Callable[..., Life]


@pytest.fixture
def stopped(life: Life) -> Life:
    """A life with a session, a variable and a history, whose daemon has left."""
    life.run("work", "x = 41")
    life.run("work", "print('kept')")
    assert life.stop() == 0
    return life


def journal(life: Life) -> Path:
    return life.place.state_dir / "journal.db"


def refused(life: Life) -> str:
    """What a daemon says that cannot begin: in its log and, to whoever asks, by the command line."""
    life.daemon.log_may_have = ("cannot run",)
    before = len(life.daemon.log)
    life.daemon.spawn()
    assert life.wait() == 125
    (line,) = life.daemon.log[before:].strip().splitlines()
    assert "cannot run" in line
    done = life.omegactl("exec", "work", "-c", "x")
    assert (done.returncode, done.stdout) == (3, "")
    words = line.partition("cannot run: ")[2]
    assert words in done.stderr
    return words


def assert_all_is_there(life: Life) -> None:
    life.start()
    assert life.value("work", "x + 1") == 42
    assert [row["output"] for row in life.history("work")] == ["", "kept\n", "42\n"]


# ---- the file ----


def damage_start(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(b"\x00garbage\xff" * 200)


def damage_middle(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(stream.seek(0, os.SEEK_END) // 2)
        stream.write(b"\xa5" * 8192)


def cut(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


@pytest.mark.parametrize("damage", [damage_start, damage_middle, cut])
def test_damaged_journal(stopped: Life, damage: Callable[[Path], None]) -> None:
    """A damaged journal is named, with the next step, and left as it is; with a good copy back all is there."""
    file = journal(stopped)
    good = file.read_bytes()
    damage(file)
    bad = file.read_bytes()
    words = refused(stopped)
    assert "journal_corrupt" in words
    assert str(file) in words
    assert "recover" in words
    assert file.read_bytes() == bad
    file.write_bytes(good)
    assert_all_is_there(stopped)


def test_journal_of_a_newer_version(stopped: Life) -> None:
    """A journal of a later version is not touched: the error names both versions and what to install."""
    file = journal(stopped)
    with sqlite3.connect(file) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        connection.execute("PRAGMA user_version = 99")
        connection.execute("UPDATE migrations SET applied_by = '47.11'")
    connection.close()
    before = file.read_bytes()
    words = refused(stopped)
    assert "journal_too_new" in words
    assert "format 99, written by omega-sessiond 47.11" in words
    assert "Install omega-sessiond 47.11 or later" in words
    assert file.read_bytes() == before
    with sqlite3.connect(file) as connection:
        connection.execute(f"PRAGMA user_version = {version}")
    connection.close()
    assert_all_is_there(stopped)


def test_journal_of_another_program(stopped: Life) -> None:
    """A database that is not ours is refused and not written to."""
    file = journal(stopped)
    good = file.read_bytes()
    file.unlink()
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    connection.close()
    foreign = file.read_bytes()
    assert "another program" in refused(stopped)
    assert file.read_bytes() == foreign
    file.write_bytes(good)
    assert_all_is_there(stopped)


# As root, permissions bind only who has given up the capability to override them.
UNPRIVILEGED = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []


@pytest.mark.parametrize("what", ["file", "directory"])
def test_read_only_journal(stopped: Life, what: str) -> None:
    """A journal that cannot be written to is named with the remedy; made writable again, all is there."""
    file = journal(stopped)
    stopped.daemon.command[:0] = UNPRIVILEGED
    closed = file if what == "file" else file.parent
    mode = closed.stat().st_mode
    closed.chmod(0o400 if what == "file" else 0o500)
    stopped.daemon.log_may_have = ("cannot run",)
    stopped.daemon.spawn()
    assert stopped.wait() == 125
    assert "journal_read_only" in stopped.log
    assert str(file) in stopped.log
    assert "writable" in stopped.log
    closed.chmod(mode)
    assert_all_is_there(stopped)


# ---- the disk ----


@pytest.fixture
def disk(place: Place) -> Iterator[SmallDisk]:
    """A small disk for the state directory."""
    if os.geteuid() != 0:
        unavailable("not root: a small disk cannot be mounted")
    disk = SmallDisk(place.state_dir)
    yield disk
    disk.close()


@pytest.fixture
def small(place: Place, disk: SmallDisk) -> Iterator[Life]:
    """A running daemon on the small disk, with a session that has begun to count."""
    life = Life(place, inside=disk.inside)
    life.daemon.log_may_have = ("No space left",)
    life.start()
    life.run("count", "x = 0")
    yield life
    life.end()


def submit_until_refused(caller: Caller) -> list[int]:
    """Hand in commands until the daemon takes no more; those it took."""
    taken: list[int] = []
    while True:
        answer = caller.execute("count", f"x += 1; 'count {len(taken)}'.ljust(500)", wait_s=0)
        if answer.status not in (200, 202):
            assert (answer.status, answer.code) == (507, "journal_full"), answer
            assert "journal.db" in answer.json["error"]
            assert "Free space" in answer.json["hint"]
            return taken
        taken.append(answer.json["id"])
        assert len(taken) < 10_000


def test_full_disk_while_a_checkpoint_is_written(small: Life, disk: SmallDisk) -> None:
    """The save is told to have failed and leaves nothing; the checkpoint before is the one that holds."""
    small.run("work", "x = 1")
    small.post("/api/sessions/work/save")
    kept = small.session("work")["checkpoint"]["id"]
    small.run("work", "import os; x = 2; data = os.urandom(32 << 20)")
    answer = small.call("POST", "/api/sessions/work/save")
    assert answer.status == 409 and "No space left" in answer.json["error"], answer
    checkpoint = small.session("work")["checkpoint"]
    assert checkpoint["id"] == kept and "No space left" in checkpoint["trouble"]
    assert os.listdir(disk.path / "sessions" / small.session("work")["id"] / "checkpoints") == [kept]
    os.kill(small.session("work")["pid"], signal.SIGKILL)
    wait_until(lambda: small.session("work")["state"] == "dead", "it is dead")
    after = small.run("work", "x")
    assert after["result"] == "1" and after["lost"]["variables"] == ["data", "os", "x"]


def test_full_disk_while_commands_run(small: Life, disk: SmallDisk, place: Place) -> None:
    """On a full disk new commands are 507 and reading works; with room again all that was taken has run once."""
    wait, fifo = gate(place)
    running = small.begin_running("run", f"{wait}; print('to the end')")
    disk.fill()
    taken = submit_until_refused(small)
    assert small.get("/api/health")["status"] == "degraded"
    assert "No space left" in small.get("/api/health")["detail"]
    assert {session["name"] for session in small.get("/api/sessions")} == {"count", "run"}
    assert small.history("count")[0]["status"] == "ok"
    assert small.call("POST", "/api/sessions", {"name": "new"}).code == "journal_full"
    with fifo.open("w"):
        pass  # the command that runs ends while nothing can be written down
    disk.free()
    execution = small.finished("run", running)
    assert (execution["status"], execution["output"]) == ("ok", "to the end\n")
    wait_until(lambda: small.execute("count", "'room'").status == 200, "a command is taken again")
    assert [small.finished("count", id)["status"] for id in taken] == ["ok"] * len(taken)
    assert small.value("count", "x") == len(taken)
    assert small.get("/api/health") == {"status": "ok", "detail": None}
    assert [row["status"] for row in small.history("count")] == ["ok"] * (len(taken) + 3)


def test_output_that_does_not_fit_waits_for_room(small: Life, disk: SmallDisk) -> None:
    """A command whose output fills the disk goes on; its host keeps what it said until there is room for all of it."""
    disk.fill(leaving=1_000_000)
    id = small.begin("count", "for n in range(300_000): print(n)\n'done'")
    wait_until(lambda: small.get("/api/health")["status"] == "degraded", "the disk is full")
    assert is_alive(small.session("count")["pid"])
    disk.free()
    execution = small.finished("count", id)
    assert (execution["status"], execution["result"]) == ("ok", "'done'")
    whole = "".join(f"{n}\n" for n in range(300_000)) + "'done'\n"
    piece = small.get(f"/api/sessions/count/executions/{id}/output?limit=8000000")
    assert (piece["text"] == whole, piece["eof"], piece["dropped_bytes"]) == (True, True, 0)


def test_ends_on_a_full_disk(small: Life, disk: SmallDisk) -> None:
    """kill and delete on a full disk end the process and say that nothing could be written down; later they can."""
    disk.fill()
    submit_until_refused(small)
    pid = small.session("count")["pid"]
    for method, route in (("POST", "/api/sessions/count/kill"), ("DELETE", "/api/sessions/count")):
        answer = small.call(method, route, {"budget_s": 2})
        assert (answer.status, answer.code) == (507, "journal_full"), answer
    assert not is_alive(pid)
    disk.free()
    wait_until(lambda: small.session("count")["state"] == "dead", "its death is noted")
    after = small.run("count", "'x' in globals()")
    assert (after["result"], after["lost"]["variables"]) == ("False", "all")
    assert small.call("DELETE", "/api/sessions/count").status == 204


def test_daemon_that_dies_on_a_full_disk(small: Life, disk: SmallDisk) -> None:
    """Killed on a full disk, the next daemon runs or says what is wrong; with room again nothing is missing."""
    disk.fill()
    taken = submit_until_refused(small)
    small.kill()
    small.daemon.log_may_have = ("No space left", "cannot run")
    process = small.daemon.spawn()
    wait_until(lambda: process.poll() is not None or small.answers(), "it runs or has refused")
    if process.poll() is None:
        small.kill()
    else:
        assert process.returncode == 125
        assert "journal_full" in small.log
        assert "Free space" in small.log
    disk.free()
    small.start()
    assert [small.finished("count", id)["status"] for id in taken] == ["ok"] * len(taken)
    assert small.value("count", "x") == len(taken)


def test_disk_that_is_full_from_the_start(place: Place, disk: SmallDisk) -> None:
    """Without room for a first journal the daemon does not begin and says why; with room it does."""
    life = Life(place, inside=disk.inside)
    life.daemon.log_may_have = ("cannot run",)
    disk.fill()
    life.daemon.spawn()
    assert life.wait() in (3, 125)
    assert "pace" in life.log
    disk.free()
    life.start()
    assert life.value("work", "1") == 1
    life.end()
