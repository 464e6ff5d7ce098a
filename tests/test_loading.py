"""A session's process while it takes up a checkpoint: what ends it then, and who waits meanwhile."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from daemon import wait_until
from gates import Asked, Gate, loading
from isolation import Place
from life import Life

Lives = Callable[..., Life]

DEADLY = {
    "exit": ("import os\ndef end(): os._exit(3)", "exit status 3"),
    "abort": ("import os\ndef end(): os.abort()", "killed by SIGABRT"),
    "segfault": ("import ctypes\ndef end(): ctypes.string_at(0)", "killed by SIGSEGV"),
}
"""What ends a process, and how that is told."""


@pytest.fixture
def held(place: Place) -> Iterator[Gate]:
    gate = Gate(place.base, "load")
    yield gate
    gate.close()


def fall_asleep(life: Life, name: str = "work") -> str:
    """Save the session and end its process; the checkpoint."""
    life.post(f"/api/sessions/{name}/save")
    session = life.session(name)
    os.kill(session["pid"], signal.SIGKILL)
    wait_until(lambda: life.session(name)["pid"] is None, "the death is noticed")
    return str(session["checkpoint"]["id"])


def begin_waking(life: Life, held: Gate) -> tuple[str, int]:
    """The session `work` with x = 1 takes up its checkpoint, for a command that waits: that checkpoint, the command."""
    life.run(
        "work",
        loading(held.code) + "slow = Slow(); x = 1",
    )
    checkpoint = fall_asleep(life)
    id = life.begin("work", "x")
    held.pid()
    return checkpoint, id


def refused(life: Life, execution: Any, checkpoint: str, why: str) -> None:
    """The command ran without variables and says so; the checkpoint is an automatic snapshot."""
    lost = execution["lost"]
    assert (execution["status"], execution["result"], execution["resumed_from"]) == ("ok", "False", None), execution
    assert lost["variables"] == "all" and f"kept as snapshot refused-{checkpoint}" in lost["reason"], lost
    assert why in lost["reason"]
    (kept,) = life.get("/api/sessions/work/snapshots")
    assert (kept["name"], kept["automatic"], kept["checkpoint_id"]) == (
        f"refused-{checkpoint}",
        "not loaded",
        checkpoint,
    )


@pytest.mark.parametrize("end", DEADLY)
def test_checkpoint_whose_loading_ends_the_process_is_refused(life: Life, end: str) -> None:
    """One attempt is enough: the command that woke the session runs without variables, as do those behind it, and its
    answer says why; the checkpoint stays as a snapshot."""
    define, how = DEADLY[end]
    life.run("work", define + "\n" + loading("__import__('__main__').end()", "Deadly") + "x = Deadly()")
    checkpoint = fall_asleep(life)
    refused(life, life.run("work", "'x' in globals()"), checkpoint, f"its process ended while loading it ({how}")
    assert "while loading it" in life.session("work")["checkpoint"]["trouble"]
    after = life.run("work", "y = 2; y")
    assert (after["result"], after["lost"]) == ("2", None)
    fall_asleep(life)
    assert life.run("work", "y")["result"] == "2", "it is saved and wakes as any session"


def test_commands_that_wait_for_such_a_load_run(life: Life, held: Gate) -> None:
    """What is queued while the checkpoint is loaded that ends its process runs in order in the next one."""
    code = f"{held.code}, __import__('os')._exit(3)"
    life.run("work", loading(code, "Deadly") + "x = Deadly()")
    checkpoint = fall_asleep(life)
    ids = [life.begin("work", code) for code in ("'x' in globals()", "y = 1", "y")]
    held.pid()
    held.open()
    first, _, last = (life.finished("work", id) for id in ids)
    refused(life, first, checkpoint, "exit status 3")
    assert (last["result"], last["lost"]) == ("1", None)


def test_restore_of_such_a_snapshot_says_so(life: Life) -> None:
    """The session is without variables then, lives, and what it had is a snapshot."""
    life.run("work", loading("__import__('os')._exit(3)", "Deadly") + "x = Deadly()")
    life.post("/api/sessions/work/snapshots", {"name": "deadly"})
    life.run("work", "x = 2")
    answer = life.call("POST", "/api/sessions/work/restore", {"snapshot": "deadly"})
    assert answer.status == 502 and "was not loaded: its process ended while loading it" in answer.json["error"]
    assert life.session("work")["state"] == "idle"
    after = life.run("work", "'x' in globals()")
    assert after["result"] == "False" and "while loading it" in after["lost"]["reason"]
    (kept,) = [one["name"] for one in life.get("/api/sessions/work/snapshots") if one["automatic"] == "restore"]
    life.post("/api/sessions/work/restore", {"snapshot": kept})
    assert life.value("work", "x") == 2


def test_process_that_somebody_kills_while_it_loads_keeps_its_checkpoint(life: Life, held: Gate) -> None:
    """A SIGKILL from outside says nothing of the checkpoint: the next command takes it up."""
    checkpoint, id = begin_waking(life, held)
    os.kill(held.pid(), signal.SIGKILL)
    cancelled = life.finished("work", id)
    assert cancelled["status"] == "cancelled" and "killed by SIGKILL" in cancelled["error"]["message"], cancelled
    held.open()
    after = life.run("work", "x")
    assert (after["result"], after["resumed_from"], after["lost"]) == ("1", checkpoint, None)


def test_load_that_a_new_daemon_has_found_is_refused_too(life: Life, held: Gate) -> None:
    """How a process ended that another daemon has started nobody can tell; its checkpoint is refused at the next
    attempt at the latest."""
    code = f"{held.code}, __import__('os').abort()"
    life.run("work", loading(code, "Deadly") + "x = Deadly()")
    checkpoint = fall_asleep(life)
    life.begin("work", "1")
    held.pid()
    life.kill()
    life.start()
    held.open()
    wait_until(lambda: life.session("work")["state"] not in ("starting", "reconnecting"), "it has settled")
    refused(life, life.run("work", "'x' in globals()"), checkpoint, "its process ended while loading it")


@pytest.mark.parametrize("verb", ["kill", "restart"])
def test_end_of_a_session_that_loads(life: Life, held: Gate, verb: str) -> None:
    """Kill and restart do not wait for a load that hangs; after a kill the checkpoint is what the session goes on
    from, after a restart it is a snapshot and no variables are there."""
    checkpoint, id = begin_waking(life, held)
    pid = held.pid()
    stopped = life.post(f"/api/sessions/work/{verb}")
    assert [(step["action"], step["effective"]) for step in stopped["steps"]] == [("SIGKILL", True)]
    assert life.session("work")["pid"] != pid
    cancelled = life.finished("work", id)
    assert (cancelled["status"], cancelled["reason"]) == ("cancelled", "killed" if verb == "kill" else "restarted")
    held.open()
    after = life.run("work", "globals().get('x')")
    if verb == "kill":
        assert (after["result"], after["resumed_from"], after["lost"]) == ("1", checkpoint, None)
    else:
        assert (after["output"], after["resumed_from"], after["lost"]["variables"]) == ("", None, "all")
        assert [one["automatic"] for one in life.get("/api/sessions/work/snapshots")] == ["restart"]


def test_kill_of_a_session_whose_load_a_new_daemon_has_found(life: Life, held: Gate) -> None:
    """Then too it works at once, and the checkpoint stays."""
    checkpoint, id = begin_waking(life, held)
    life.kill()
    life.start()
    asked = Asked(life, "/api/sessions/work/kill")
    assert life.finished("work", id)["reason"] == "killed"
    asked.join()
    held.open()
    after = life.run("work", "x")
    assert (after["result"], after["resumed_from"]) == ("1", checkpoint)


def test_delete_of_a_session_that_loads(life: Life, held: Gate) -> None:
    """It goes at once, and its process with it."""
    begin_waking(life, held)
    assert life.call("DELETE", "/api/sessions/work").status == 204
    assert life.get("/api/sessions") == []


def test_interrupt_of_a_session_that_loads_takes_a_command_back(life: Life, held: Gate) -> None:
    """It takes back the command it names, or the first that waits; the load goes on, and the others have its state."""
    checkpoint, first = begin_waking(life, held)
    named, last = life.begin("work", "x = 3"), life.begin("work", "x + 1")
    assert life.post("/api/sessions/work/interrupt", {"execution_id": named})["execution"]["reason"] == "user"
    stopped = life.post("/api/sessions/work/interrupt")
    assert (stopped["execution"]["id"], stopped["steps"]) == (first, []) and "is starting" in stopped["note"]
    held.open()
    for id in (first, named):
        assert (life.finished("work", id)["status"], life.finished("work", id)["reason"]) == ("cancelled", "user")
    done = life.finished("work", last)
    assert (done["result"], done["resumed_from"]) == ("2", checkpoint)
    assert life.post("/api/sessions/work/interrupt")["note"] == "Nothing is running."


def test_time_of_a_command_begins_with_it(life: Life, held: Gate) -> None:
    """`timeout_s` does not count the time in which the command waits for the session's state."""
    begin_waking(life, held)
    id = life.begin("work", "x", timeout_s=0.01)
    wait_until(lambda: life.execution("work", id)["status"] == "queued", "it waits")
    held.open()
    assert life.finished("work", id)["result"] == "1"


def test_load_that_takes_too_long_is_refused(lives: Lives, held: Gate) -> None:
    """A load that hangs is ended after twice the time a save may take, and the checkpoint refused."""
    life = lives(save_budget_s=1, host_start_s=1)
    life.run("work", loading(held.code) + "x = Slow()")
    checkpoint = fall_asleep(life)
    refused(life, life.run("work", "'x' in globals()"), checkpoint, "it was not loaded within 2 s")
