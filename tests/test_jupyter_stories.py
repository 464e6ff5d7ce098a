"""Jupyter kernels through the daemon: created, killed, adopted, ended, and refused in words."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import kernels
from daemon import wait_until
from isolation import Place
from life import Life, gate, is_alive

PYTHON = {"engine": "jupyter:python3"}


@pytest.fixture
def installed(place: Place) -> Path:
    """Where this test's user has kernels."""
    return place.data_home / "jupyter" / "kernels"


def kernel_of(life: Life, name: str) -> int:
    """The pid of a session's kernel."""
    host = life.get(f"/api/sessions/{name}")["pid"]
    (child,) = Path(f"/proc/{host}/task/{host}/children").read_text().split()
    return int(child)


def test_session_with_a_kernel(life: Life, place: Place) -> None:
    """`omegactl new --engine jupyter:NAME` makes a session of it, with results, questions and pictures."""
    assert "jupyter:python3" in life.omegactl("engines").stdout
    made = life.omegactl("new", "work", "--engine", "jupyter:python3")
    assert made.returncode == 0, made.stderr
    assert life.omegactl("exec", "work", "-c", "x = 6; x * 7").stdout == "42\n"
    shown = life.finished("work", life.begin("work", "from IPython.display import HTML\nHTML('<b>x</b>')"))
    assert [part["mime"] for part in shown["data"]] == ["text/html"]
    answer = life.call("POST", "/api/sessions/work/complete", {"code": "x.bit_c"})
    assert answer.json == {"matches": ["bit_count"], "start": 2, "end": 7}


def test_daemon_killed_during_a_kernels_command(life: Life, place: Place) -> None:
    """kill -9 of the daemon during a command in a kernel: it runs once, all its output is there, variables stay."""
    life.post("/api/sessions", {"name": "work", **PYTHON})
    wait, fifo = gate(place)
    id = life.begin_running("work", f"print('before'); {wait}; print('after'); x = 7")
    kernel = kernel_of(life, "work")
    life.kill()
    with fifo.open("w"):
        pass
    life.start()
    execution = life.finished("work", id)
    assert (execution["status"], execution["output"]) == ("ok", "before\nafter\n")
    assert life.value("work", "x") == 7
    assert kernel_of(life, "work") == kernel


def test_kernel_that_dies(life: Life) -> None:
    """The command that lost its kernel says so, and so does the next one, in a fresh kernel."""
    life.post("/api/sessions", {"name": "work", **PYTHON})
    life.run("work", "x = 1")
    died = life.execute("work", "import os; os.kill(os.getpid(), 9)").json
    assert (died["status"], died["error"]["name"]) == ("error", "KernelDied")
    fresh = life.execute("work", "'x' in globals()").json
    assert (fresh["result"], fresh["lost"]["reason"]) == ("False", "the kernel was killed by SIGKILL")
    assert life.execute("work", "1").json["lost"] is None


def test_kernel_that_dies_at_rest(life: Life) -> None:
    """A kernel killed between commands leaves a dead session with the reason; the next command says what is lost."""
    life.post("/api/sessions", {"name": "work", **PYTHON})
    life.run("work", "x = 1")
    os.kill(kernel_of(life, "work"), signal.SIGKILL)
    wait_until(lambda: life.get("/api/sessions/work")["state"] == "dead", "the session is dead")
    assert "the kernel was killed by SIGKILL" in life.get("/api/sessions/work")["state_reason"]
    fresh = life.execute("work", "'x' in globals()").json
    assert fresh["result"] == "False" and "SIGKILL" in fresh["lost"]["reason"]


def test_nothing_is_left_of_a_session(life: Life, place: Place) -> None:
    """Deleting a session ends its kernel and removes its sockets, killed or not."""
    hosts = place.runtime_dir / "omega-sessiond" / "hosts"
    for kill in (False, True):
        life.post("/api/sessions", {"name": "work", **PYTHON})
        kernel = kernel_of(life, "work")
        assert len(list(hosts.glob("*/*"))) == 6
        if kill:
            os.kill(life.get("/api/sessions/work")["pid"], signal.SIGKILL)
        assert life.call("DELETE", "/api/sessions/work").status == 204
        wait_until(lambda kernel=kernel: not is_alive(kernel), "the kernel ends")  # type: ignore[misc]
        assert not list(hosts.iterdir())


def test_restart_makes_a_fresh_kernel(life: Life) -> None:
    """A restarted session has a new kernel and none of its variables."""
    life.post("/api/sessions", {"name": "work", **PYTHON})
    life.run("work", "x = 1")
    assert life.call("POST", "/api/sessions/work/restart").status == 200
    assert life.execute("work", "'x' in globals()").json["result"] == "False"


def test_kernel_that_cannot_start(life: Life, installed: Path) -> None:
    """A session whose kernel ends while it starts is not made, and the answer has the kernel's own words."""
    kernels.script(installed, "brief", "import sys; sys.exit('no licence for this kernel')")
    answer = life.call("POST", "/api/sessions", {"name": "work", "engine": "jupyter:brief"})
    assert answer.code == "host_failed", answer
    assert "the kernel ended with exit status 1; it said: no licence for this kernel" in answer.json["error"]
    assert life.get("/api/sessions") == []


def test_unknown_kernel(life: Life) -> None:
    """A wrong name is refused with the nearest one that is here."""
    failed = life.omegactl("new", "work", "--engine", "jupyter:pyton3")
    assert failed.returncode != 0
    assert "There is no Jupyter kernel 'pyton3' here" in failed.stderr
    assert "Did you mean 'jupyter:python3'?" in failed.stderr
