"""Hosts that flood, hang, die in the middle of a frame, speak nonsense or another wire, or never begin."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest

from caller import Answer
from daemon import wait_until
from isolation import Place
from life import FOREVER, Life, gate, is_alive
from misbehaving import interpreter

MIB = 1024 * 1024


def create(life: Life, **options: object) -> Answer:
    return life.call("POST", "/api/sessions", {"name": "odd", **options})


# ---- floods and hangs ----


def peak_mib(pid: int) -> float:
    """The most memory a process has had."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(pid)


@pytest.mark.parametrize(
    "command",
    [
        "import sys\nfor n in range(3200): sys.stdout.write(chunk)",
        "import subprocess\nsubprocess.run('yes | head -c 209715200', shell=True).returncode",
    ],
    ids=["by itself", "by a child"],
)
def test_flood_is_kept_whole_and_drowns_nobody(life: Life, command: str) -> None:
    """200 MB of output are kept to the byte, in little memory, and other sessions answer meanwhile."""
    life.run("odd", "chunk = ('x' * 1023 + '\\n') * 64")
    life.run("other", "x = 7")
    id = life.begin("odd", command)
    answered = 0
    while life.execution("odd", id)["status"] == "running":
        assert life.value("other", "x") == 7
        answered += 1
    assert answered > 3
    execution = life.finished("odd", id)
    assert (execution["status"], execution["truncated"]["dropped_bytes"]) == ("ok", 0)
    route = f"/api/sessions/odd/executions/{id}/output"
    piece = life.get(f"{route}?offset={100 * MIB}&limit=64")
    assert piece["total_bytes"] >= 200 * MIB
    assert len(piece["text"].encode()) == 64
    assert piece["dropped_bytes"] == 0
    assert peak_mib(life.daemon.pid) < 150
    assert life.value("odd", "len(chunk)") == 65536


STUBBORN = """
import signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
while True: pass
"""


def test_ladder_ends_what_ignores_signals(life: Life) -> None:
    """kill of a host that ignores SIGINT and SIGTERM climbs to SIGKILL within its budget and reports each step."""
    id = life.begin_running("odd", STUBBORN)
    pid = life.session("odd")["pid"]
    begun = life.post("/api/sessions/odd/interrupt", {"wait_s": 0.2})
    assert [(step["action"], step["effective"]) for step in begun["steps"]] == [("SIGINT", False)]
    stopped = life.post("/api/sessions/odd/kill", {"budget_s": 1})
    steps = [(step["action"], step["effective"]) for step in stopped["steps"]]
    assert steps == [("ask", False), ("SIGINT", False), ("SIGTERM", False), ("SIGKILL", True)]
    assert [step["at"] for step in stopped["steps"]] == sorted(step["at"] for step in stopped["steps"])
    assert stopped["variables_kept"] is False
    assert not is_alive(pid)
    died = life.execution("odd", id)
    assert (died["status"], died["reason"]) == ("died", "killed")
    assert life.run("odd", "1")["lost"]["variables"] == "all"


def test_ladder_stops_at_the_first_rung_that_is_enough(life: Life) -> None:
    """An idle host leaves when asked; a busy one that yields to SIGINT gets no SIGTERM."""
    life.run("odd", "x = 7")
    stopped = life.post("/api/sessions/odd/kill")
    assert [(step["action"], step["effective"]) for step in stopped["steps"]] == [("ask", True)]
    id = life.begin_running("odd", FOREVER)
    stopped = life.post("/api/sessions/odd/kill")
    assert [(step["action"], step["effective"]) for step in stopped["steps"]] == [("ask", False), ("SIGINT", True)]
    assert life.execution("odd", id)["status"] == "interrupted"


def test_hanging_session_is_deleted(life: Life) -> None:
    """DELETE of a session that ignores every signal it can ends it within the budget."""
    life.begin_running("odd", STUBBORN)
    pid = life.session("odd")["pid"]
    assert life.call("DELETE", "/api/sessions/odd", {"budget_s": 0.5}).status == 204
    assert not is_alive(pid)


# ---- broken speech ----


def test_death_in_the_middle_of_a_frame(life: Life, place: Place) -> None:
    """What a host had said before it died within a frame is kept, the torn frame is not, and the command died."""
    torn = """
control, command, _ = connected()
id = read(command)["id"]
whole = took(id) + logged("output", id=id, s="stdout", off=0, text="so far")
half = pack({"t": "output", "seq": seq + 1, "id": id, "s": "stdout", "off": 6, "text": "never" * 100})[:50]
log.write(half)
command.sendall(whole + half)
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert create(life, python=interpreter(place.base, "torn", torn)).status == 201
    execution = life.run("odd", "anything")
    assert (execution["status"], execution["output"]) == ("died", "so far")
    assert "SIGKILL" in execution["reason"] or "SIGKILL" in execution["error"]["message"]
    assert life.session("odd")["state"] == "dead"


def test_nonsense_is_answered_by_a_new_connection(life: Life, place: Place) -> None:
    """A host whose bytes are no frames is connected to anew, and what it has in its log is had whole and once."""
    nonsense = """
control, command, _ = connected()
id = read(command)["id"]
said = took(id) + result(id, "the truth\\n")
command.sendall(b"\\xff" * 64)
while True:
    control, command, have = connected()
    assert have == 0, have
    command.sendall(said)
    while read(command):
        pass
"""
    assert create(life, python=interpreter(place.base, "nonsense", nonsense)).status == 201
    execution = life.run("odd", "anything")
    assert (execution["status"], execution["output"]) == ("ok", "the truth\n")
    assert len(life.history("odd")) == 1


def test_host_that_only_speaks_nonsense_is_told_of(life: Life, place: Place) -> None:
    """A host that breaks each connection is said to, and can be ended."""
    nonsense = """
while True:
    control, command, _ = connected()
    command.sendall(b"\\xff" * 64)
    while read(command):
        pass
"""
    assert create(life, python=interpreter(place.base, "babbler", nonsense)).status == 201
    wait_until(lambda: "breaks every connection" in (life.session("odd")["state_reason"] or ""), "it is told")
    assert life.call("POST", "/api/sessions/odd/kill", {"budget_s": 0.2}).status == 200
    assert life.session("odd")["state"] == "dead"


def test_session_that_becomes_another_program_has_died(life: Life) -> None:
    """Code that replaces its process by another program has ended its session: the program is ended too, and the next
    command has a new host."""
    id = life.begin("swap", "import os; os.execvp('sleep', ['sleep', '1000'])")
    execution = life.get(f"/api/sessions/swap/executions/{id}?wait_s=30")
    assert execution["status"] == "died"
    assert "another program" in execution["error"]["message"]
    assert life.run("swap", "40 + 2")["result"] == "42"


def test_repeated_frames_count_once(life: Life, place: Place) -> None:
    """A host that sends every frame twice is believed once."""
    twice = """
control, command, _ = connected()
while True:
    id = read(command)["id"]
    said = took(id) + result(id, "once\\n")
    command.sendall(said + said)
"""
    assert create(life, python=interpreter(place.base, "twice", twice)).status == 201
    for _ in range(3):
        assert life.run("odd", "anything")["output"] == "once\n"
    assert life.session("odd")["execution_count"] == 3


OTHER_WIRE = """
control, command, _ = connected()
while True:
    control, _ = hello(wire=2)
    while (frame := read(control)) is not None:
        if frame["t"] == "exit":
            log.write(logged("bye", reason=frame["reason"]))
            sys.exit(0)
"""


def test_host_of_another_wire_can_be_ended(life: Life, place: Place) -> None:
    """A host that a daemon of another wire left behind is shown with the reason, and can be asked to end."""
    assert create(life, python=interpreter(place.base, "later", OTHER_WIRE)).status == 201
    pid = life.session("odd")["pid"]
    life.restart()
    wait_until(lambda: "wire 2" in (life.session("odd")["state_reason"] or ""), "the session says why")
    session = life.session("odd")
    assert (session["state"], session["pid"]) == ("reconnecting", pid)
    queued = life.begin("odd", "anything")
    interrupted = life.post("/api/sessions/odd/interrupt", {"execution_id": queued})
    assert interrupted["execution"]["status"] == "cancelled"
    stopped = life.post("/api/sessions/odd/kill", {"budget_s": 20})
    assert stopped["steps"][0]["action"] == "ask"
    assert stopped["steps"][-1]["effective"] is True
    assert stopped["session"]["state"] == "dead"
    assert not is_alive(pid)


def test_new_host_of_another_wire_is_refused(life: Life, place: Place) -> None:
    """A process that introduces itself with another wire at birth is no session: 502 that says so, nothing is left."""
    other = "control, _ = hello(wire=2)\nwhile read(control): pass"
    answer = create(life, python=interpreter(place.base, "other", other))
    assert (answer.status, answer.code) == (502, "host_failed")
    assert "wire 2" in answer.json["error"]
    assert life.call("GET", "/api/sessions/odd").status == 404


# ---- interpreters that are none ----


def test_interpreter_that_does_not_exist(life: Life, place: Place) -> None:
    """An interpreter that is not there is the request's fault: 400 that names it, and no session comes to be."""
    missing = str(place.base / "no" / "python3")
    answer = create(life, python=missing)
    assert (answer.status, answer.code) == (400, "engine_unavailable")
    assert missing in answer.json["error"]
    assert life.execute("odd", "1", create={"python": missing}).status == 400
    assert life.get("/api/sessions") == []


def test_interpreter_that_dies_at_once(life: Life, place: Place) -> None:
    """An interpreter that ends before it speaks is 502 with its last words; an execute that needs it fails alike."""
    file = place.base / "broken"
    file.write_text("#!/bin/sh\necho 'cannot find my library' >&2\nexit 3\n")
    file.chmod(0o700)
    answer = create(life, python=str(file))
    assert (answer.status, answer.code) == (502, "host_failed")
    assert "cannot find my library" in answer.json["error"]
    assert str(file) in answer.json["error"]
    assert life.get("/api/sessions") == []
    answer = life.execute("odd", "1", create={"python": str(file)})
    assert (answer.status, answer.code) == (502, "host_failed")
    assert "cannot find my library" in answer.json["error"]


def test_interpreter_that_went_away(life: Life, place: Place) -> None:
    """A session whose interpreter was removed says so, and goes on once it is back."""
    file = place.base / "python"
    file.symlink_to(sys.executable)
    assert create(life, python=str(file)).status == 201
    life.post("/api/sessions/odd/kill")
    file.unlink()
    answer = life.execute("odd", "1")
    assert (answer.status, answer.code) == (502, "host_failed")
    assert str(file) in answer.json["error"]
    assert life.session("odd")["state"] == "dead"
    assert [row["status"] for row in life.history("odd")] == ["cancelled"]
    file.symlink_to(sys.executable)
    assert life.run("odd", "1")["result"] == "1"


def test_interpreter_that_never_speaks(lives: object, place: Place) -> None:
    """A process that does not answer is given up after host_start_s, and ended."""
    assert callable(lives)
    life: Life = lives(host_start_s=0.3)
    silent = "open(launch['cwd'] + '/pid', 'w').write(str(os.getpid()))\nwhile True: time.sleep(60)"
    answer = create(life, python=interpreter(place.base, "silent", silent), cwd=str(place.base))
    assert (answer.status, answer.code) == (502, "host_failed")
    assert "0.3 s" in answer.json["error"]
    pid = place.base / "pid"
    assert not pid.exists() or not is_alive(int(pid.read_text()))


# ---- children that stay ----


LEFT_BEHIND = {
    "fork": """
import os
def begin(act):
    if (child := os.fork()) == 0:
        act()
        os._exit(0)
    return child
""",
    "multiprocessing": """
import multiprocessing
def begin(act):
    process = multiprocessing.get_context("fork").Process(target=act)
    process.start()
    return process.pid
""",
}


@pytest.mark.parametrize("way", list(LEFT_BEHIND))
@pytest.mark.parametrize("watched", [True, False], ids=["watched", "unwatched"])
def test_child_that_outlives_its_host_does_not_pose_as_it(life: Life, place: Place, way: str, watched: bool) -> None:
    """A forked child in a process group of its own lives on when its host is killed, and is not taken for the host."""
    wait, fifo = gate(place)
    act = f"def act():\n    os.setsid()\n    {wait}\n"
    child = life.value("work", f"import os\n{LEFT_BEHIND[way]}\n{act}\nbegin(act)")
    host = life.session("work")["pid"]
    if not watched:
        life.kill()
    os.kill(host, signal.SIGKILL)
    wait_until(lambda: not is_alive(host), "the host is dead")
    if not watched:
        life.start()
    wait_until(lambda: life.session("work")["state"] == "dead", "the death is noticed")
    assert is_alive(child)
    after = life.run("work", "'child' in globals()")
    assert (after["result"], after["lost"]["variables"]) == ("False", "all")
    assert life.session("work")["pid"] not in (host, child)
    assert is_alive(child)
    with fifo.open("w"):
        pass
    wait_until(lambda: not is_alive(child), "the child ends")


def test_forked_child_that_returns_is_no_second_host(life: Life) -> None:
    """A child of fork that falls out of its command leaves, with its output, and the session goes on alone."""
    execution = life.run(
        "work",
        "import os, sys\nchild = os.fork()\nsys.stdout.write('parent\\n' if child else 'child\\n')\n"
        "if child: os.waitpid(child, 0)",
    )
    assert sorted(execution["output"].split()) == ["child", "parent"]
    assert life.value("work", "child") > 0
    assert life.run("work", "print('one')")["output"] == "one\n"
