"""Which sessions are hibernated, and that they wake as they were."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from daemon import wait_until
from life import Life
from omega_sessiond.pressure import Pressure

Lives = Callable[..., Life]


def state(life: Life, name: str) -> str:
    return str(life.session(name)["state"])


def test_least_recently_used_are_hibernated(lives: Lives) -> None:
    """Beyond max_cached_sessions the least recently used idle sessions end, and wake with all they had."""
    life = lives(save_interval_ms=100, max_cached_sessions=2)
    for name in ("a", "b", "c", "d"):
        life.run(name, f"x = {name!r}")
    wait_until(lambda: [state(life, name) for name in "ab"] == ["hibernated"] * 2, "two are hibernated")
    assert [state(life, name) for name in "cd"] == ["idle"] * 2
    session = life.session("a")
    assert (session["pid"], session["state_reason"]) == (None, "hibernated: more than 2 sessions were idle")
    woken = life.run("a", "x")
    assert woken["result"] == "'a'" and woken["resumed_from"] == session["checkpoint"]["id"] and woken["lost"] is None
    wait_until(lambda: state(life, "c") == "hibernated", "the next one follows")


def test_session_that_cannot_be_saved_whole_stays(lives: Lives) -> None:
    """A generator, a thread or an open file keeps the process; the session says what stands in the way."""
    life = lives(save_interval_ms=100, max_cached_sessions=1)
    life.run("plain", "x = 1")
    life.run("generator", "g = (i for i in ())")
    life.run("thread", "import threading; stop = threading.Event(); t = threading.Thread(target=stop.wait); t.start()")
    life.run("file", "import os; out, into = os.pipe()")
    wait_until(lambda: state(life, "plain") == "hibernated", "what can be hibernated is")
    found = {name: life.session(name)["checkpoint"] for name in ("generator", "thread", "file")}
    wait_until(
        lambda: all(life.session(name)["checkpoint"] for name in found), "the others are saved as far as it goes"
    )
    assert [state(life, name) for name in found] == ["idle"] * 3
    assert list(life.session("generator")["checkpoint"]["left_out"]) == ["g"]
    assert "thread" in life.session("thread")["checkpoint"]["obstacles"][0]
    assert "pipe" in life.session("file")["checkpoint"]["obstacles"][0]
    life.run("thread", "stop.set()")


def test_session_in_use_is_not_hibernated_for_others_that_stay(lives: Lives) -> None:
    """Where old sessions cannot be saved whole, the one that was used last keeps its process all the same."""
    life = lives(save_interval_ms=100, max_cached_sessions=1)
    for name in ("one", "two"):
        life.run(name, "g = (i for i in ())")
    life.run("work", "x = 0")
    for number in range(3):
        wait_until(lambda: (life.session("work")["checkpoint"] or {}).get("is_current"), "it is saved")
        wait_until(lambda: state(life, "work") == "idle", "it has a process")
        assert life.run("work", f"x = {number}")["resumed_from"] is None


def test_unused_session_is_hibernated_after_a_while(lives: Lives) -> None:
    """hibernate_after_s is enough of a reason, and exit functions do not run: the session goes on."""
    life = lives(save_interval_ms=100, hibernate_after_s=0.5)
    mark = life.place.base / "exited"
    life.run("work", f"import atexit, tempfile, os\natexit.register(open, {str(mark)!r}, 'w')\nx = 1")
    wait_until(lambda: state(life, "work") == "hibernated", "it is hibernated")
    assert life.session("work")["state_reason"] == "hibernated: not used for 0.5 s"
    assert not mark.exists()
    assert life.value("work", "x") == 1


def test_session_that_was_never_used_is_hibernated_too(lives: Lives) -> None:
    """It has nothing to save: its process goes without a checkpoint, and nothing is lost by that. One of an engine that
    cannot be saved may have become something by itself, and stays; one that was restarted has a history to tell of."""
    life = lives(save_interval_ms=100, max_cached_sessions=1)
    life.run("again", "g = (i for i in ())")
    life.post("/api/sessions/again/restart", {})
    for name, engine in (("shell", "bash"), ("one", "python"), ("two", "python")):
        life.post("/api/sessions", {"name": name, "engine": engine})
    wait_until(lambda: state(life, "one") == "hibernated", "the older one is hibernated")
    assert state(life, "again") == state(life, "shell") == state(life, "two") == "idle"
    woken = life.run("one", "1+1")
    assert (woken["result"], woken["execution_count"], woken["lost"]) == ("2", 1, None)


@pytest.mark.parametrize(
    ("what", "body"),
    [
        ("save", {}),
        ("snapshots", {"name": "base"}),
        ("fork", {"name": "copy"}),
        ("fork", {"name": "copy", "from_checkpoint": True}),
    ],
)
def test_session_that_was_never_used_is_asked_for_its_state(lives: Lives, what: str, body: dict[str, Any]) -> None:
    """What can be had of it does not depend on whether it has a process just now."""
    life = lives(save_interval_ms=0, hibernate_after_s=0.1)
    life.post("/api/sessions", {"name": "one"})
    wait_until(lambda: state(life, "one") == "hibernated", "it is hibernated")
    answer = life.call("POST", f"/api/sessions/one/{what}", body)
    assert answer.status in (200, 201), answer
    name = body.get("name", "one") if what == "fork" else "one"
    assert life.run(name, "1+1")["lost"] is None


def test_unused_session_that_cannot_be_saved_does_not_sleep(lives: Lives) -> None:
    """Told to end, it is as dead as any."""
    life = lives()
    life.post("/api/sessions", {"name": "shell", "engine": "bash"})
    os.kill(life.session("shell")["pid"], signal.SIGTERM)
    wait_until(lambda: life.session("shell")["pid"] is None, "it has ended")
    assert state(life, "shell") == "dead"


def test_numpy_session_hibernates_and_wakes(lives: Lives) -> None:
    """A session that computed with numpy has threads of BLAS and is hibernated all the same."""
    life = lives(save_interval_ms=100, hibernate_after_s=0.2)
    life.post("/api/sessions", {"name": "work", "python": sys.executable})
    life.run("work", "import numpy as np\na = np.ones((600, 600)); b = a @ a")
    wait_until(lambda: state(life, "work") == "hibernated", f"it is hibernated: {life.session('work')}")
    assert life.value("work", "float(b.sum())") == 600.0**3


def test_command_that_comes_while_it_falls_asleep_runs_once(lives: Lives) -> None:
    """Commands that come at any moment of hibernating and waking run, in order, each once."""
    life = lives(save_interval_ms=100, hibernate_after_s=0.15)
    life.run("work", "seen = []")
    resumed = 0
    for number in range(12):
        wait_until(
            lambda: not life.session("work")["checkpoint"] or life.session("work")["checkpoint"]["is_current"], ""
        )
        resumed += life.run("work", f"seen.append({number})")["resumed_from"] is not None
    assert life.value("work", "seen") == list(range(12))


def test_daemon_that_is_killed_while_sessions_fall_asleep(lives: Lives) -> None:
    """The next daemon finds each session whole, whichever way it was caught."""
    life = lives(save_interval_ms=100, max_cached_sessions=1)
    for name in ("a", "b", "c"):
        life.run(name, f"x = {name!r}")
    wait_until(lambda: "hibernated" in [state(life, name) for name in "abc"], "the first is hibernated")
    life.kill()
    life.start()
    for name in ("a", "b", "c"):
        done = life.run(name, "x")
        assert (done["result"], done["lost"]) == (repr(name), None), done


def test_process_that_is_killed_while_it_falls_asleep(lives: Lives) -> None:
    """A kill -9 at any moment of hibernating costs nothing: the checkpoint was complete before."""
    life = lives(save_interval_ms=100, hibernate_after_s=0.3)
    life.run("work", "x = 1")
    wait_until(lambda: (life.session("work")["checkpoint"] or {}).get("is_current"), "it is saved")
    pid = life.session("work")["pid"]
    if pid is not None:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it was faster
    wait_until(lambda: life.session("work")["pid"] is None, "it is gone")
    done = life.run("work", "x")
    assert (done["result"], done["lost"]) == ("1", None) and done["resumed_from"]


def test_kill_and_restart_of_a_hibernated_session(lives: Lives) -> None:
    """kill leaves it hibernated; restart starts it without variables, which stay as a snapshot; the next answer says
    that they are lost, for it may go to somebody else than who restarted."""
    life = lives(save_interval_ms=100, hibernate_after_s=0.2)
    life.run("work", "x = 1")
    wait_until(lambda: state(life, "work") == "hibernated", "it is hibernated")
    assert life.post("/api/sessions/work/kill", {})["session"]["state"] == "hibernated"
    answer = life.post("/api/sessions/work/restart", {})
    assert "is snapshot before-restart-" in answer["note"] and not answer["variables_kept"]
    after = life.run("work", "'x' in globals()")
    assert (after["result"], after["resumed_from"]) == ("False", None)
    assert after["lost"] == {"variables": "all", "reason": "restarted by request"}
    first, loss, execution, snapshot = life.get("/api/sessions/work/timeline")["nodes"]
    assert (loss["kind"], loss["parent"], snapshot["parent"]) == ("loss", first["id"], first["id"])
    assert (execution["execution_id"], execution["parent"]) == (after["id"], None)


def test_session_that_is_falling_asleep_is_asked_for_its_state(lives: Lives) -> None:
    """What is asked of a session between the decision to hibernate it and the end of its process is answered as of one
    that sleeps, not refused as of a busy one."""
    life = lives(save_interval_ms=100, hibernate_after_s=1.5, stop_budget_s=1)
    life.run("work", "x = 1")
    pid = life.session("work")["pid"]
    wait_until(lambda: (life.session("work")["checkpoint"] or {}).get("is_current"), "it is saved")
    os.kill(pid, signal.SIGSTOP)  # it takes its time over ending
    for number in count():
        answer = life.call("POST", "/api/sessions/work/snapshots", {"name": f"s{number}"})
        assert answer.status == 201, answer
        if life.session("work")["pid"] != pid:
            break
    assert life.run("work", "x")["result"] == "1"


def test_session_that_is_being_killed_is_asked_for_its_state(lives: Lives) -> None:
    """The same while somebody ends it: what is saved is there all along."""
    life = lives(stop_budget_s=2)
    life.run("work", "x = 1")
    life.post("/api/sessions/work/save", {})
    os.kill(life.session("work")["pid"], signal.SIGSTOP)  # it takes its time over ending
    killing = Thread(target=life.call, args=("POST", "/api/sessions/work/kill", {}))
    killing.start()
    for number in count():
        answer = life.call("POST", "/api/sessions/work/snapshots", {"name": f"s{number}"})
        assert answer.status == 201, answer
        if not killing.is_alive():
            break
    assert life.session("work")["pid"] is None
    assert life.run("work", "x")["result"] == "1"


def test_hundreds_of_sessions(lives: Lives) -> None:
    """100 live and 500 hibernated sessions are listed, found again by the next daemon, and wake one by one; no more
    than max_cached_sessions keep a process once all are saved."""
    life = lives(max_cached_sessions=100, save_interval_ms=100)
    life.run("first", "x = [0]")
    life.post("/api/sessions/first/snapshots", {"name": "zero"})
    for number in range(500):
        life.post("/api/sessions/first/restore", {"snapshot": "zero", "into": f"asleep-{number}"})
    for number in range(99):
        life.run(f"live-{number}", f"x = [{number}]")
    pids = {session["name"]: session["pid"] for session in life.get("/api/sessions")}
    assert len(pids) == 600
    life.restart()
    wait_until(lambda: len(life.get("/api/sessions?state=idle")) == 100, "all processes are found again")
    assert {session["name"]: session["pid"] for session in life.get("/api/sessions")} == pids
    assert len(life.get("/api/sessions?state=hibernated")) == 500
    woken = (0, 250, 499)
    for number in woken:
        assert life.value(f"asleep-{number}", f"x.append({number}); x") == [0, number]
    wait_until(lambda: len(life.get("/api/sessions?state=hibernated")) == 500, "as many others are hibernated")
    # One that is being saved is two for a moment.
    wait_until(lambda: " ".join(life.place.processes().values()).count("/launch.json") == 100, "100 processes are left")
    gone = [name for name, pid in pids.items() if pid is not None and life.session(name)["pid"] is None]
    assert sorted(gone) == ["first", "live-0", "live-1"]
    assert life.value("live-98", "x") == [98]
    assert life.value("live-0", "x") == [0]


def test_pressure_is_told_as_long_as_it_lasts() -> None:
    """What the kernel marks as urgent on the descriptor calls back, each time."""

    async def story() -> None:
        told = asyncio.Event()
        with (
            socket.create_server(("127.0.0.1", 0)) as listener,
            socket.create_connection(listener.getsockname()) as ours,
        ):
            theirs, _ = listener.accept()
            with theirs:
                pressure = Pressure(os.dup(theirs.fileno()), told.set)
                for _ in range(2):
                    ours.send(b"!", socket.MSG_OOB)
                    async with asyncio.timeout(20):
                        await told.wait()
                    theirs.recv(1, socket.MSG_OOB)
                    told.clear()
                pressure.close()

    asyncio.run(story())


def test_pressure_that_nobody_tells_is_no_trouble(tmp_path: Path) -> None:
    """Where the kernel does not tell, nothing is watched."""

    async def story() -> None:
        assert Pressure.watch(str(tmp_path / "none"), lambda: None) is None
        (tmp_path / "file").write_text("")
        assert Pressure.watch(str(tmp_path / "file"), lambda: None) is None

    asyncio.run(story())
