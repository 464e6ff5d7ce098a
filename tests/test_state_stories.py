"""State that is kept: real sessions saved, killed and woken, through the API."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from threading import Thread
from typing import Any

import pytest

from daemon import wait_until
from gates import Gate, loading
from life import Life, gate, is_alive

Lives = Callable[..., Life]

SOON = 100
"""The shortest save_interval_ms."""


def saved(life: Life, name: str) -> Any:
    """The session's checkpoint once it holds what the session is now."""

    def current() -> Any:
        found = life.session(name)["checkpoint"]
        return found if found is not None and found["is_current"] and found["id"] else None

    return wait_until(current, f"session {name} is saved: {life.session(name)}")


def end_host(life: Life, name: str, signum: int = signal.SIGKILL) -> None:
    """End the session's process behind the daemon's back, and wait until the daemon knows."""
    pid = life.session(name)["pid"]
    os.kill(pid, signum)
    wait_until(lambda: life.session(name)["pid"] != pid, "the death is noticed")


def test_changed_session_is_saved_while_idle(lives: Lives) -> None:
    """A session is saved by itself soon after it changed; its checkpoint says what it holds."""
    life = lives(save_interval_ms=SOON)
    execution = life.run("work", "x = 41; g = (i for i in ())")
    found = saved(life, "work")
    assert found["execution_id"] == execution["id"] and not found["complete"]
    assert found["left_out"] == {"g": "cannot pickle 'generator' object"}
    assert (found["obstacles"], found["trouble"]) == ([], None)
    first = found["id"]
    life.run("work", "x = 42; del g")
    found = saved(life, "work")
    assert found["complete"] and found["id"] != first
    directory = life.place.state_dir / "sessions" / life.session("work")["id"] / "checkpoints"
    assert os.listdir(directory) == [found["id"]]


def test_crash_costs_only_what_came_after_the_checkpoint(life: Life) -> None:
    """After a kill -9 the next command finds the saved state, and its answer names what may be lost."""
    life.run("work", "x = 1; kept = [1]; g = (i for i in ())")
    life.post("/api/sessions/work/save")
    later = life.run("work", "x = 2; kept.append(2)")["id"]
    end_host(life, "work")
    assert life.session("work")["state"] == "dead"
    checkpoint = life.session("work")["checkpoint"]
    assert checkpoint["id"] and not checkpoint["is_current"]
    after = life.run("work", "x, kept")
    assert after["result"] == "(1, [1])"
    assert after["resumed_from"] == checkpoint["id"]
    assert after["lost"]["variables"] == ["g", "kept", "x"]
    assert after["lost"]["reason"] == f"killed by SIGKILL; command {later} ran after the checkpoint"
    again = life.run("work", "x")
    assert (again["resumed_from"], again["lost"]) == (None, None)


def test_command_that_takes_the_process_along_is_named(life: Life) -> None:
    """The command that died may have changed things too: the next answer names them, and no more."""
    life.run("work", "x = 1; y = 2")
    life.post("/api/sessions/work/save")
    died = life.run("work", "y = 3\nimport os; os.kill(os.getpid(), 9)")
    assert died["status"] == "died"
    after = life.run("work", "x, y")
    assert after["result"] == "(1, 2)"
    assert after["lost"]["variables"] == ["os", "y"]


def test_loss_names_what_calls_were_given_and_no_modules(life: Life) -> None:
    """What later commands handed to calls, or matched, may have changed; the modules that they called have not."""
    life.run("work", "import heapq, random\ndef fill(items): items += [1]\nitems, h, kept = [], [], []")
    life.post("/api/sessions/work/save")
    life.run("work", "random.shuffle(items); heapq.heappush(h, 1); fill(items)")
    life.run("work", "match [7, 8, 9]:\n  case [a, *rest]: print(kept)")
    end_host(life, "work")
    assert life.run("work", "items")["lost"]["variables"] == ["a", "h", "items", "rest"]


def test_death_without_loss_says_only_where_it_resumed(life: Life) -> None:
    """When the checkpoint held everything, nothing is said to be lost."""
    life.run("work", "x = 1")
    life.post("/api/sessions/work/save")
    end_host(life, "work")
    after = life.run("work", "x")
    assert (after["result"], after["lost"]) == ("1", None) and after["resumed_from"]


def test_session_without_checkpoint_loses_all(life: Life) -> None:
    """What was never saved is lost as a whole, and the answer says so."""
    life.run("work", "x = 1")
    end_host(life, "work")
    after = life.run("work", "'x' in globals()")
    assert (after["result"], after["resumed_from"]) == ("False", None)
    assert after["lost"]["variables"] == "all"


@pytest.mark.parametrize("state", ["running", "queued", "waiting_input"])
def test_death_in_the_middle_keeps_history_and_promise(life: Life, state: str) -> None:
    """Whatever a session was at when its process was killed: history is whole, the state the promised one."""
    life.run("work", "x = 1")
    life.post("/api/sessions/work/save")
    code = "x = 2\ninput()" if state == "waiting_input" else "x = 2\nimport time\nwhile True: time.sleep(0.01)"
    running = life.begin_running("work", code) if state != "waiting_input" else life.begin("work", code)
    queued = life.begin("work", "x = 3") if state == "queued" else None
    wanted = "waiting_input" if state == "waiting_input" else "busy"
    wait_until(lambda: life.session("work")["state"] == wanted, f"it is {wanted}")
    assert life.call("POST", "/api/sessions/work/save").status == 409
    end_host(life, "work")
    assert life.finished("work", running)["status"] == "died"
    if queued is not None:
        assert life.finished("work", queued)["status"] == "cancelled"
    after = life.run("work", "x")
    assert after["result"] == "1" and "x" in after["lost"]["variables"]
    assert [row["id"] for row in life.history("work")] == sorted(row["id"] for row in life.history("work"))


def test_daemon_that_is_killed_while_a_save_is_written(life: Life) -> None:
    """The save goes on without a daemon, and the next one learns of it."""
    wait, fifo = gate(life.place)
    life.run("work", f"class Slow:\n    def __reduce__(self): {wait}; return int, ()\nslow = Slow(); x = 1")
    asked = life.begin_save("work")
    life.kill()
    asked.join()
    life.start()
    fifo.write_text("")
    found = saved(life, "work")
    assert found["complete"]
    end_host(life, "work")
    assert life.run("work", "x, slow")["result"] == "(1, 0)"


def test_process_that_is_killed_while_its_save_is_written(life: Life) -> None:
    """Then the checkpoint before is the one that holds, and no half file stays for long."""
    life.run("work", "x = 1")
    life.post("/api/sessions/work/save")
    wait, _ = gate(life.place)
    life.run("work", f"class Slow:\n    def __reduce__(self): {wait}; return int, ()\nslow = Slow(); x = 2")
    asked = life.begin_save("work")
    end_host(life, "work")
    asked.join()
    after = life.run("work", "x, 'slow' in globals()")
    assert after["result"] == "(1, False)"
    assert {"slow", "x", "Slow"} <= set(after["lost"]["variables"])
    life.post("/api/sessions/work/save")
    directory = life.place.state_dir / "sessions" / life.session("work")["id"] / "checkpoints"
    assert os.listdir(directory) == [life.session("work")["checkpoint"]["id"]]


@pytest.mark.parametrize("harm", ["torn", "changed", "gone"])
def test_checkpoint_that_is_damaged_is_refused_in_words(life: Life, harm: str) -> None:
    """A torn or changed checkpoint is not loaded: the answer says so, and the file stays as a snapshot."""
    life.run("work", "x = 1")
    life.post("/api/sessions/work/save")
    session = life.session("work")
    file = life.place.state_dir / "sessions" / session["id"] / "checkpoints" / session["checkpoint"]["id"] / "state"
    end_host(life, "work")
    if harm == "torn":
        os.truncate(file, 10)
    elif harm == "changed":
        file.write_bytes(file.read_bytes()[:-2] + b"xx")
    else:
        file.unlink()
    after = life.run("work", "'x' in globals()")
    assert after["result"] == "False" and after["resumed_from"] is None
    words = {"torn": "is torn", "changed": "its checksum differs", "gone": "cannot be read"}[harm]
    assert after["lost"]["variables"] == "all" and words in after["lost"]["reason"]
    assert words in life.session("work")["checkpoint"]["trouble"]
    assert life.run("work", "2")["lost"] is None


def test_daemon_that_is_killed_while_a_session_wakes(life: Life) -> None:
    """The next daemon waits for the wake to end, and then the command that asked for it runs, once."""
    wait, fifo = gate(life.place)
    life.run("work", loading(wait) + "slow = Slow(); x = 1")
    life.post("/api/sessions/work/save")
    end_host(life, "work")
    life.begin("work", "x += 1")
    id = wait_until(lambda: [row["id"] for row in life.history("work")][1:], "it is queued")[0]
    wait_until(lambda: life.session("work")["pid"], "its process is there")
    life.kill()
    life.start()
    fifo.write_text("")
    done = life.finished("work", id)
    assert done["status"] == "ok" and done["resumed_from"], done
    assert life.value("work", "x") == 2


def test_process_that_is_told_to_end_while_it_wakes(life: Life) -> None:
    """SIGTERM in the middle of loading (a shutdown): it leaves when it has loaded; what waited for it has the next."""
    held = Gate(life.place.base, "load")
    life.run("work", loading(held.code) + "slow = Slow(); x = 1")
    life.post("/api/sessions/work/save")
    end_host(life, "work")
    waiting = life.begin("work", "x")
    leaving = held.pid()
    os.kill(leaving, signal.SIGTERM)
    held.open()
    done = life.finished("work", waiting)
    assert (done["result"], done["lost"]) == ("1", None) and done["resumed_from"], done
    assert life.session("work")["pid"] != leaving
    held.close()


def test_save_answers_why_it_cannot(lives: Lives) -> None:
    """A save that is refused says why: too large, or too near to the memory limit; the session says it too."""
    life = lives(checkpoint_max_bytes=1 << 20)
    life.run("work", "import os; data = os.urandom(2 << 20)")
    answer = life.call("POST", "/api/sessions/work/save")
    assert answer.status == 409 and answer.json["code"] == "cannot_save"
    assert "larger than a checkpoint may be" in answer.json["error"]
    assert "larger" in life.session("work")["checkpoint"]["trouble"]
    life.post("/api/sessions", {"name": "tight", "limits": {"memory_bytes": 16 << 20}})
    life.run("tight", "data = bytearray(12 << 20)")
    answer = life.call("POST", "/api/sessions/tight/save")
    assert answer.status == 409 and "twice its memory" in answer.json["error"]


def test_idle_process_that_is_told_to_end_is_hibernated(life: Life) -> None:
    """SIGTERM at rest: it saves itself and leaves; the next command goes on as if nothing had been."""
    life.run("work", "x = 1")
    end_host(life, "work", signal.SIGTERM)
    session = life.session("work")
    assert session["state"] == "hibernated" and session["checkpoint"]["complete"], session
    assert "SIGTERM" in session["state_reason"]
    after = life.run("work", "x")
    assert (after["result"], after["lost"], after["execution_count"]) == ("1", None, 2) and after["resumed_from"]
    assert life.session("work")["state"] == "idle"


def test_last_save_outlasts_what_ends_the_session(life: Life) -> None:
    """systemd signals all processes of a scope, also the one that was just forked to save the session; it goes on."""
    held = Gate(life.place.base, "save")
    life.run(
        "work", f"class Slow:\n    def __reduce__(self): return str, ((str({held.code}), 'saved')[1],)\nslow = Slow()"
    )
    pid = life.session("work")["pid"]
    os.kill(pid, signal.SIGTERM)
    writer = held.pid()
    assert writer != pid
    os.kill(writer, signal.SIGTERM)
    held.open()
    wait_until(lambda: not is_alive(pid), "it leaves")
    after = life.run("work", "slow")
    assert (after["result"], after["lost"]) == ("'saved'", None) and after["resumed_from"], after
    held.close()


def test_hibernated_session_outlives_the_daemon(life: Life) -> None:
    """It is hibernated for the next daemon too, and deleted it leaves nothing behind."""
    life.run("work", "x = 1")
    end_host(life, "work", signal.SIGTERM)
    life.restart()
    assert life.session("work")["state"] == "hibernated"
    assert life.value("work", "x") == 1
    end_host(life, "work", signal.SIGTERM)
    directory = life.place.state_dir / "sessions" / life.session("work")["id"]
    assert life.call("DELETE", "/api/sessions/work").status == 204
    assert not directory.exists()


def test_process_that_left_while_no_daemon_watched(life: Life) -> None:
    """What an idle process saved at its end is found in its log by the next daemon."""
    life.run("work", "x = 1")
    pid = life.session("work")["pid"]
    life.kill()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid), "it leaves")
    life.start()
    wait_until(lambda: life.session("work")["state"] == "hibernated", "it is known to be saved")
    assert life.value("work", "x") == 1


def test_unsaved_session_keeps_the_daemon(lives: Lives) -> None:
    """The daemon leaves when it is idle, and not before what changed is saved."""
    life = lives(save_interval_ms=300, idle_exit_s=0.1)
    life.run("work", "x = 1")
    assert life.wait() == 0
    life.start()
    assert life.session("work")["checkpoint"]["id"]


def test_fork_is_saved_before_its_first_command(lives: Lives) -> None:
    """A fork begins with a state of its own to save: killed before it has run anything it has lost nothing."""
    life = lives(save_interval_ms=SOON)
    life.run("work", "x = 1")
    life.post("/api/sessions/work/fork", {"name": "copy"})
    assert saved(life, "copy")["complete"]
    end_host(life, "copy")
    after = life.run("copy", "x")
    assert (after["result"], after["lost"]) == ("1", None) and after["resumed_from"]
    kinds = [node["kind"] for node in life.get("/api/sessions/copy/timeline")["nodes"]]
    assert kinds[:2] == ["origin", "wake"]
    assert "fork" in [node["kind"] for node in life.get("/api/sessions/work/timeline")["nodes"]]


def test_fork_waits_for_a_save_and_saves_go_on(life: Life) -> None:
    """A fork asked for while a checkpoint is written comes after it; both sessions can be saved again."""
    wait, fifo = gate(life.place)
    life.run("work", f"class Slow:\n    def __reduce__(self): {wait}; return int, ()\nslow = Slow(); x = 1")
    asked = life.begin_save("work")
    forked = Thread(target=life.post, args=("/api/sessions/work/fork", {"name": "copy"}))
    forked.start()
    fifo.write_text("")
    asked.join()
    forked.join()
    for name in ("work", "copy"):
        life.run(name, "x += 1; del slow")
        life.post(f"/api/sessions/{name}/save")
        assert life.session(name)["checkpoint"]["is_current"]


def test_end_of_a_process_whose_state_goes_on_clears_nothing_away(life: Life) -> None:
    """Exit functions and finalizers do not run where the next process has what they would clear away: after `kill`,
    and when a snapshot replaces the state."""
    base = life.place.base
    life.run("work", f"import tempfile, os\nkept = tempfile.TemporaryDirectory(dir={str(base)!r})")
    life.post("/api/sessions/work/snapshots", {"name": "here"})
    life.post("/api/sessions/work/kill")
    assert life.value("work", "int(os.path.isdir(kept.name))") == 1
    life.post("/api/sessions/work/restore", {"snapshot": "here"})
    assert life.value("work", "int(os.path.isdir(kept.name))") == 1


def test_end_of_a_process_whose_state_is_lost_runs_its_exit_functions(life: Life) -> None:
    """What `kill` ends for good is ended in order."""
    mark = life.place.base / "mark"
    life.run("work", f"import atexit, pathlib\natexit.register(pathlib.Path({str(mark)!r}).touch); g = (i for i in ())")
    life.post("/api/sessions/work/save")
    life.post("/api/sessions/work/kill")
    assert mark.exists()


def lose_g(life: Life) -> None:
    """Bring the session `work` to where it lives, has lost `g` and no answer has told of it: it was restored."""
    life.run("work", "x = 1; g = (i for i in ())")
    life.post("/api/sessions/work/snapshots", {"name": "one"})
    life.post("/api/sessions/work/restore", {"snapshot": "one"})


def test_loss_outlasts_a_checkpoint_of_what_was_left(life: Life) -> None:
    """What no answer has told of yet is told after a save and a death, too: that checkpoint lacks nothing, for it was
    made of what was left."""
    lose_g(life)
    assert life.post("/api/sessions/work/save")["checkpoint"]["complete"]
    life.post("/api/sessions/work/fork", {"name": "copy", "from_checkpoint": True})
    end_host(life, "work")
    for name in ("work", "copy"):
        after = life.run(name, "x")
        assert (after["result"], after["lost"]["variables"]) == ("1", ["g"])


def test_copy_of_a_session_names_what_that_has_lost(life: Life) -> None:
    """A fork of a session that has not told of its loss yet has lost the same; so does a copy of the checkpoint of a
    session that died after it."""
    lose_g(life)
    life.post("/api/sessions/work/fork", {"name": "fork"})
    after = life.run("fork", "x")
    assert (after["result"], after["lost"]["variables"]) == ("1", ["g"])
    life.run("work", "x = 2")
    end_host(life, "work")
    life.post("/api/sessions/work/fork", {"name": "copy", "from_checkpoint": True})
    for name in ("work", "copy"):
        after = life.run(name, "x")
        assert (after["result"], after["lost"]["variables"]) == ("1", ["g", "x"])


def test_loss_of_more_than_are_named_says_how_many(life: Life) -> None:
    """An answer names a hundred variables at most; how many more there are its reason says, of those that commands
    changed and of those that a checkpoint lacks."""
    life.run("work", "for n in range(230): globals()[f'g{n:03}'] = (i for i in ())")
    life.post("/api/sessions/work/save")
    life.run("work", "\n".join(f"x{n:03} = {n}" for n in range(120)))
    end_host(life, "work")
    lost = life.run("work", "1")["lost"]
    assert len(lost["variables"]) == 100
    assert "220 more variables than are named; and 30 more that are not named" in lost["reason"]


def test_loss_is_told_once(life: Life) -> None:
    """What went with one process has not gone with the next one too."""
    life.run("work", "x = 1")
    life.post("/api/sessions/work/save")
    life.run("work", "x = 2")
    end_host(life, "work")
    assert life.run("work", "1")["lost"]["variables"] == ["x"]
    later = life.run("work", "y = 3")["id"]
    end_host(life, "work")
    lost = life.run("work", "1")["lost"]
    assert lost["variables"] == ["y"]
    assert lost["reason"] == f"killed by SIGKILL; commands {later - 5} to {later} ran after the checkpoint"


def test_values_that_cannot_be_loaded_are_named_as_far_as_that_goes(life: Life) -> None:
    """A hundred names of all that is lacking, whether it was left out or could not be loaded, and how many more."""
    module = life.place.home / "gone.py"
    module.write_text("class Kept:\n    pass\n")
    made = f"import sys; sys.dont_write_bytecode = True; sys.path.insert(0, {str(module.parent)!r}); import gone"
    life.run(
        "work",
        f"{made}\nfor n in range(150): globals()[f'k{{n}}'] = gone.Kept(); globals()[f'g{{n}}'] = (i for i in ())",
    )
    life.post("/api/sessions/work/save")
    end_host(life, "work")
    module.unlink()
    lost = life.run("work", "1")["lost"]
    assert len(lost["variables"]) == 100
    assert (
        "50 more variables than are named" in lost["reason"] and "100 more variables than are named" in lost["reason"]
    )


def test_loss_of_more_commands_than_are_read_says_so(life: Life) -> None:
    """The first thousand commands after a checkpoint are looked through for names; that there were more is told."""
    life.run("work", "x = 1")
    life.post("/api/sessions/work/save")
    first = life.run("work", "x = 2")["id"]
    for _ in range(1000):
        last = life.run("work", "1")["id"]
    end_host(life, "work")
    lost = life.run("work", "x")["lost"]
    assert lost["variables"] == ["x"]
    assert f"commands {first} to {last} ran after the checkpoint, too many to name all they changed" in lost["reason"]


def test_command_that_never_ran_does_not_hide_a_later_loss(life: Life) -> None:
    """A command was to tell of a loss and never ran; by then more is lost, and the next one tells all of it."""
    lose_g(life)
    os.kill(life.session("work")["pid"], signal.SIGSTOP)
    id = life.begin("work", "x = 2")
    life.post("/api/sessions/work/restart", {"budget_s": 0.2})
    assert life.execution("work", id)["status"] == "cancelled"
    after = life.run("work", "'x' in globals()")
    assert (after["result"], after["lost"]["variables"]) == ("False", "all")


def test_command_that_never_ran_is_not_said_to_have_changed_anything(life: Life) -> None:
    """A command reached a process that was killed before it took it: it has lost nothing."""
    life.run("work", "x = 1")
    life.post("/api/sessions/work/save")
    os.kill(life.session("work")["pid"], signal.SIGSTOP)
    id = life.begin("work", "x = 2")
    end_host(life, "work")
    cancelled = life.finished("work", id)
    assert (cancelled["status"], cancelled["started_at"]) == ("cancelled", None)
    after = life.run("work", "x")
    assert (after["result"], after["lost"]) == ("1", None)


def test_exception_that_cannot_be_loaded_costs_itself_alone(lives: Callable[..., Life]) -> None:
    """It is named when the session is saved, which then is not saved whole, and so keeps its process."""
    life = lives(save_interval_ms=100, hibernate_after_s=0.2)
    life.run(
        "work",
        "class ApiError(Exception):\n  def __init__(self, code, text): super().__init__(text)\n"
        "error = ApiError(404, 'no'); precious = 5",
    )
    wait_until(lambda: (life.session("work")["checkpoint"] or {}).get("left_out"), "it is saved but for that")
    assert list(life.session("work")["checkpoint"]["left_out"]) == ["error"]
    end_host(life, "work")
    execution = life.run("work", "precious")
    assert (execution["result"], list(execution["lost"]["variables"])) == ("5", ["error"])
