"""Forks of live sessions: what the copy has, what the original keeps, what stands in the way, and who dies when."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from caller import Answer
from daemon import wait_until
from gates import Asked, Gate
from isolation import Place
from life import FOREVER, Life, is_alive, parent


def fork(life: Life, name: str, copy: str) -> Answer:
    return life.call("POST", f"/api/sessions/{name}/fork", {"name": copy})


def forked(life: Life, name: str, copy: str) -> dict[str, Any]:
    answer = fork(life, name, copy)
    assert answer.status == 201, answer
    return dict(answer.json)


def test_a_fork_waits_for_the_daemon_to_find_its_session(life: Life) -> None:
    """A daemon that has just begun looks for the processes that are there: a fork waits for that, as a command does."""
    life.run("a", "x = 1")
    pid = life.session("a")["pid"]
    os.kill(pid, signal.SIGSTOP)
    life.kill()
    life.start()
    answers: list[Answer] = []
    forking = Thread(target=lambda: answers.append(fork(life, "a", "b")))
    forking.start()
    assert life.session("a")["state"] == "reconnecting"
    os.kill(pid, signal.SIGCONT)
    forking.join()
    assert answers[0].status == 201, answers
    assert life.value("b", "x") == 1


def test_a_copy_has_everything_and_goes_its_own_way(life: Life) -> None:
    """Variables, closures, generators and modules are in the copy; what either does after that is its own."""
    life.run("a", "x = [1]; g = iter(range(9)); next(g); import os\ndef f():\n    return x, next(g)")
    copy = forked(life, "a", "b")
    assert life.run("b", "x.append(2); f(), os.getpid()")["result"] == f"(([1, 2], 1), {copy['pid']})"
    assert life.run("a", "f()")["result"] == "([1], 1)"
    assert life.run("b", "print('mine'); os.system('echo child'); len(os.listdir('/proc/self/task'))")["output"] == (
        "mine\nchild\n2\n"
    )
    assert copy["id"] != life.session("a")["id"]
    shown = Path(f"/proc/{copy['pid']}/cmdline").read_bytes().rstrip(b"\0")
    assert shown.endswith(f"{copy['id']}/launch.json".encode())
    assert (copy["state"], copy["execution_count"], copy["pid"]) == ("idle", 0, life.session("b")["pid"])


def test_a_copy_names_its_parent_and_has_its_own_history(life: Life) -> None:
    """`parent` says what it was forked from and after which command, in the session and in the event of its making."""
    first = life.run("a", "x = 1")
    copy = forked(life, "a", "b")
    expected = {"session_id": life.session("a")["id"], "session": "a", "execution_id": first["id"]}
    assert {name: copy["parent"][name] for name in expected} == expected
    life.run("b", "x")
    assert [row["command"] for row in life.history("b")] == ["x"]
    assert [row["command"] for row in life.history("a")] == ["x = 1"]
    events = list(life.stream("GET", "/api/events?since=0&follow=false"))
    made = {event["session"]: event["parent"] for event in events if event["kind"] == "session_created"}
    assert made["a"] is None
    assert made["b"] == copy["parent"]
    life.call("DELETE", "/api/sessions/a", {"budget_s": 1})
    assert life.session("b")["parent"] == copy["parent"]


def test_an_engine_that_cannot_be_saved_is_not_advised_to_be(life: Life) -> None:
    """The hint names the way by a checkpoint only where there can be one."""
    life.post("/api/sessions", {"name": "a", "engine": "bash"})
    life.run("a", "x=1")
    refused = fork(life, "a", "b")
    assert refused.code == "cannot_fork"
    assert "checkpoint" not in refused.json["hint"]
    assert "new session" in refused.json["hint"]


def test_a_busy_session_is_refused_at_once(life: Life) -> None:
    """409 session_busy while a command runs, and nothing is left of the copy."""
    id = life.begin_running("a", FOREVER)
    assert fork(life, "a", "b").code == "session_busy"
    assert [row["name"] for row in life.get("/api/sessions")] == ["a"]
    life.post("/api/sessions/a/interrupt", {})
    life.finished("a", id)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import threading as t, time\nt.Thread(target=time.sleep, args=(99,), name='w7', daemon=True).start()", "w7"),
        ("import subprocess; p = subprocess.Popen(['sleep', '99'])", "child process "),
        ("import asyncio\nasync def forever(): await asyncio.sleep(99)\n"
         "t = asyncio.ensure_future(forever()); t.set_name('t9'); await asyncio.sleep(0)", "asyncio task t9"),
    ],
)  # fmt: skip
def test_what_no_fork_takes_along_is_named(life: Life, code: str, words: str) -> None:
    """Threads, child processes and tasks refuse a fork; the answer says which, and the session goes on."""
    assert life.run("a", f"{code}\nx = 5")["status"] == "ok"
    answer = fork(life, "a", "b")
    assert (answer.status, answer.code) == (409, "cannot_fork")
    assert words in answer.json["error"]
    assert life.run("a", "x")["result"] == "5"
    assert [row["name"] for row in life.get("/api/sessions")] == ["a"]
    events = list(life.stream("GET", "/api/events?since=0&follow=false"))
    assert {event["session"] for event in events} == {"a"}, "nothing was made before the refusal was known"
    life.run("a", "p.kill(); p.wait()" if "Popen" in code else "0")


def test_a_session_with_numpy_is_forked(lives: Callable[..., Life]) -> None:
    """The threads that BLAS has started do not stand in the way: both sessions multiply after the fork."""
    life = lives(python=sys.executable)
    life.run("a", "import numpy; m = numpy.ones((400, 400)); n = int((m @ m)[0, 0])")
    forked(life, "a", "b")
    for name in ("b", "a", "b"):
        assert life.run(name, "n, int((m @ m)[5, 5])")["result"] == "(400, 400)"


def test_threads_that_no_fork_carries_are_found_in_the_fork(lives: Callable[..., Life], place: Place) -> None:
    """A thread of a library, which Python does not know of, refuses the fork; the child of the attempt is gone."""
    life = lives(python=sys.executable)
    code = (
        "import ctypes\nlibc = ctypes.CDLL(None)\nhandle = ctypes.c_ulong()\n"
        "start = ctypes.cast(libc.pause, ctypes.c_void_p)\n"
        "libc.pthread_create(ctypes.byref(handle), None, start, None)"
    )
    life.run("a", code)
    answer = fork(life, "a", "b")
    assert (answer.status, answer.code) == (409, "cannot_fork")
    assert "1 threads of a library" in answer.json["error"]
    pid = life.session("a")["pid"]
    assert [other for other in place.processes() if parent(other) == pid] == []
    assert life.run("a", "handle.value > 0")["result"] == "True"


def test_top_level_await_goes_on_in_both(life: Life) -> None:
    """The event loop of a session is not shared with its copy: either awaits, and is interrupted, by itself."""
    life.run("a", "import asyncio; await asyncio.sleep(0)")
    forked(life, "a", "b")
    for name in ("a", "b", "a"):
        assert life.run(name, "await asyncio.sleep(0.001, 'slept')")["result"] == "'slept'"


def test_a_copy_is_interrupted_asked_and_forked_like_any_session(life: Life) -> None:
    """A copy answers input(), is interrupted without harm to the original, and is itself forked."""
    life.run("a", "x = 1")
    forked(life, "a", "b")
    running = life.begin_running("b", FOREVER)
    life.post("/api/sessions/b/interrupt", {})
    assert life.finished("b", running)["status"] == "interrupted"
    id = life.begin("b", "x = int(input('n? '))")
    wait_until(lambda: life.execution("b", id)["status"] == "waiting_input", "it asks")
    life.post("/api/sessions/b/input", {"execution_id": id, "text": "7"})
    assert life.finished("b", id)["status"] == "ok"
    forked(life, "b", "c")
    assert [life.run(name, "x")["result"] for name in ("a", "b", "c")] == ["1", "7", "7"]


def test_a_copy_is_no_child_of_the_original(life: Life) -> None:
    """Code that waits for whatever child meets its own children alone, in the original and in the copy."""
    life.run("a", "import os; x = 1")
    copy = forked(life, "a", "b")
    assert parent(copy["pid"]) not in (life.session("a")["pid"], copy["pid"])
    wait = "child = os.fork()\nif not child: os._exit(7)\nfound = os.wait()\ntry: os.waitpid(-1, os.WNOHANG)\n"
    wait += "except ChildProcessError: print('no other')\nfound == (child, 7 << 8)"
    for name in ("a", "b"):
        assert life.run(name, wait)["output"] == "no other\nTrue\n"


def test_children_that_are_reaped_as_they_end(life: Life) -> None:
    """A session that ignores SIGCHLD, and so has no child to wait for, is forked like any other."""
    life.run("a", "import signal; x = 1; signal.signal(signal.SIGCHLD, signal.SIG_IGN)")
    forked(life, "a", "b")
    assert [life.run(name, "x")["result"] for name in ("a", "b")] == ["1", "1"]


def test_a_fork_that_nobody_waits_for_any_more_is_not_made(life: Life, place: Place) -> None:
    """A daemon that dies while a process is being copied gets no copy when its successor is served already."""
    held = Gate(place.base, "fork")
    life.run("a", f"import os; x = 1; os.register_at_fork(before=lambda: {held.code})")
    asked = Asked(life, "/api/sessions/a/fork", {"name": "b"})
    held.pid()
    life.kill()
    life.start()
    wait_until(lambda: life.session("b")["state"] == "dead", "nobody has answered for the copy")
    wait_until(lambda: life.session("a")["state"] == "idle", "the original is found again")
    held.open()
    asked.join()
    assert life.run("a", "x")["result"] == "1"
    assert [pid for pid, line in place.processes().items() if life.session("b")["id"] in line] == []
    assert life.run("b", "1")["lost"]["variables"] == "all"
    held.close()


def test_the_original_is_undisturbed_by_its_copys_end(life: Life) -> None:
    """A copy that dies costs the original nothing, which forks again as if there had been none."""
    life.run("a", "import os; x = 1")
    copy = forked(life, "a", "b")
    assert life.run("b", "os._exit(3)")["status"] == "died"
    wait_until(lambda: not is_alive(copy["pid"]), "the copy has ended")
    forked(life, "a", "c")
    assert life.run("c", "x")["result"] == "1"
    assert "forked" in life.run("b", "1")["lost"]["reason"] or life.history("b")[-1]["lost"] is not None


def test_copies_outlive_the_original_and_the_daemon(life: Life) -> None:
    """kill -9 of the original's process or of the daemon costs a copy nothing."""
    life.run("a", "x = 41")
    forked(life, "a", "b")
    os.kill(life.session("a")["pid"], signal.SIGKILL)
    wait_until(lambda: life.session("a")["state"] == "dead", "the original is dead")
    life.kill()
    life.start()
    assert life.run("b", "x + 1")["result"] == "42"


def test_a_copy_that_dies_unused_has_lost_what_it_had(life: Life) -> None:
    """The next command in a copy whose process died before its first command says what is gone."""
    life.run("a", "x = 1")
    os.kill(forked(life, "a", "b")["pid"], signal.SIGKILL)
    wait_until(lambda: life.session("b")["state"] == "dead", "the copy is dead")
    execution = life.run("b", "'x' in globals()")
    assert (execution["result"], execution["lost"]["variables"]) == ("False", "all")


def test_a_daemon_that_dies_while_forking_leaves_no_half_session(life: Life, place: Place) -> None:
    """A copy that stood in the journal before its process did has lost everything: the next daemon says so, and ends
    the process that nobody recorded."""
    life.run("a", "x = 1")
    copy = forked(life, "a", "b")
    life.kill()
    with sqlite3.connect(place.state_dir / "journal.db") as journal:  # as it stands before the host's answer is there
        lost = '{"variables":"all","reason":"the daemon ended while it was being forked from \'a\'"}'
        journal.execute("UPDATE sessions SET host = NULL, lost = ? WHERE name = 'b'", (lost,))
    journal.close()
    life.start()
    wait_until(lambda: not is_alive(copy["pid"]), "the copy that nobody knows ends")
    execution = life.run("b", "'x' in globals()")
    assert execution["result"] == "False"
    assert "while it was being forked from 'a'" in execution["lost"]["reason"]
    assert life.run("a", "x")["result"] == "1"


def test_the_original_is_killed_while_forking(life: Life) -> None:
    """A host that dies in the middle of a fork fails it in words, and leaves no copy."""
    life.run("a", "import os, signal\nos.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGKILL))")
    answer = fork(life, "a", "b")
    assert answer.status == 502, answer
    assert [row["name"] for row in life.get("/api/sessions")] == ["a"]


def test_names_that_cannot_be_are_refused(life: Life) -> None:
    """A copy needs a name of its own, and a session to be a copy of."""
    life.run("a", "1")
    assert fork(life, "a", "a").code == "session_exists"
    assert fork(life, "a", "no/name").code == "invalid_name"
    assert fork(life, "nobody", "b").code == "session_not_found"
    life.post("/api/sessions/a/kill", {})
    assert fork(life, "a", "b").code == "cannot_fork"


def test_forks_stand_in_the_timelines_of_both(life: Life) -> None:
    """The original's tree has the fork at the command it was made after, the copy's begins with where it came from."""
    first = life.run("a", "x = 1")["id"]
    forked(life, "a", "b")
    life.run("a", "x = 2")
    own = life.run("b", "x")["id"]
    nodes = life.get("/api/sessions/a/timeline")["nodes"]
    at = {node["id"]: node["execution_id"] for node in nodes}
    (branch,) = [node for node in nodes if node["kind"] == "fork"]
    assert (branch["title"], at[branch["parent"]]) == ("b", first)
    origin, execution = life.get("/api/sessions/b/timeline")["nodes"]
    assert (origin["kind"], origin["title"], origin["parent"]) == ("origin", "a", None)
    assert (execution["execution_id"], execution["parent"]) == (own, origin["id"])
    drawn = life.omegactl("timeline", "a").stdout.splitlines()
    assert [line[:17] for line in drawn if "forked" in line] == ["│ → forked into b"]


def test_omegactl_fork(life: Life) -> None:
    """`omegactl fork a b` says what it did."""
    life.run("a", "x = 6")
    done = life.omegactl("fork", "a", "b")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "Forked a: b." in done.stderr
    assert life.run("b", "x * 7")["result"] == "42"


def test_end_of_a_copy_clears_nothing_of_the_originals_away(life: Life) -> None:
    """Exit functions and finalizers that a copy has inherited are the original's to run; its own ones it runs."""
    base = life.place.base
    life.run(
        "a",
        "import atexit, tempfile, pathlib\n"
        f"kept = tempfile.TemporaryDirectory(dir={str(base)!r})\n"
        "atexit.register(pathlib.Path(kept.name, 'gone').touch)",
    )
    forked(life, "a", "b")
    life.run("b", f"own = tempfile.TemporaryDirectory(dir={str(base)!r}, prefix='own')")
    assert list(base.glob("own*"))
    life.call("DELETE", "/api/sessions/b")
    assert not list(base.glob("own*"))
    assert life.run("a", "print(list(pathlib.Path(kept.name).iterdir()))")["output"] == "[]\n"
    life.call("DELETE", "/api/sessions/a")
    assert [path.name for path in base.glob("tmp*")] == []


def test_copy_writes_nothing_twice(life: Life) -> None:
    """What waits in the buffer of an open file when a session is copied is in the file once."""
    file = life.place.base / "log.txt"
    life.run("a", f"f = open({str(file)!r}, 'w'); f.write('one\\n')")
    forked(life, "a", "b")
    for name in ("a", "b"):
        life.run(name, f"f.write('{name}\\n'); f.close()")
    assert sorted(file.read_text().splitlines()) == ["a", "b", "one"]
