"""Stories without systemd: the daemon dies and comes back, sessions end and begin anew, and nothing is lost unsaid."""

from __future__ import annotations

import glob
import json
import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from daemon import wait_until
from isolation import Place
from life import FOREVER, OMEGACTL, Life, gate, is_alive, text

# ---- the daemon dies, leaves and comes back ----


def test_daemon_killed_during_a_command(life: Life, place: Place) -> None:
    """kill -9 of the daemon during a command: it runs once, its whole output is in the history once, variables stay."""
    file = place.base / "f"
    life.run("work", f"import time; f = {str(file)!r}")
    id = life.begin("work", 'open(f,"a").write("1"); time.sleep(3); x = 7; print("done")')
    wait_until(lambda: text(file) == "1", "the command runs")
    life.kill()
    life.start()
    assert life.value("work", "x") == 7
    assert file.read_text() == "1"
    first, story, _ = life.history("work")
    assert (story["id"], story["status"], story["output"]) == (id, "ok", "done\n")
    assert first["id"] < id


def test_command_line_survives_the_daemon(life: Life, place: Place) -> None:
    """`omegactl exec` whose daemon is killed starts the next one and prints the result of its one command."""
    file = place.base / "f"
    life.run("work", f"import time; f = {str(file)!r}")
    code = 'open(f,"a").write("1"); print("first"); time.sleep(2); x = 7; print("done")'
    client = subprocess.Popen(
        [*OMEGACTL, "exec", "work", "-c", code],
        env=place.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: text(file) == "1", "the command runs")
    life.kill()
    out, err = client.communicate(timeout=60)
    assert (client.returncode, out) == (0, "first\ndone\n"), err
    assert life.omegactl("exec", "work", "-c", "x").stdout == "7\n"
    assert file.read_text() == "1"
    assert [row["status"] for row in life.history("work")] == ["ok", "ok", "ok"]


def test_daemon_killed_while_the_host_finishes(life: Life, place: Place) -> None:
    """What a command says and finishes while there is no daemon is in the history of the next one."""
    wait, fifo = gate(place)
    id = life.begin_running("work", f"print('before'); {wait}; print('after'); x = 7")
    life.kill()
    with fifo.open("w"):
        pass  # the command goes on to its end, unheard
    life.start()
    execution = life.finished("work", id)
    assert (execution["status"], execution["output"]) == ("ok", "before\nafter\n")
    assert life.value("work", "x") == 7


def test_waiting_client_of_a_stopping_daemon(life: Life, place: Place) -> None:
    """A daemon that is told to stop answers who waits with 202, and its successor has the result."""
    wait, fifo = gate(place)
    mark = place.base / "mark"
    command = f"open({str(mark)!r}, 'w').write('1'); {wait}; 'result'"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(life.execute, "work", command)
        wait_until(lambda: text(mark), "the command runs")
        assert life.stop() == 0
        answer = waiting.result(30)
    assert answer.status == 202, answer
    assert answer.json["status"] == "running"
    life.start()
    with fifo.open("w"):
        pass
    assert life.finished("work", answer.json["id"])["result"] == "'result'"


def test_idle_daemon_leaves_and_the_next_request_finds_the_session(lives: Callable[..., Life]) -> None:
    """With nothing to do the daemon exits 0; the next client starts another, and the session is as it was."""
    life = lives(idle_exit_s=0.3)
    life.run("work", "x = 41")
    pid = life.session("work")["pid"]
    assert life.wait() == 0
    assert "idle" in life.log
    assert not os.path.exists(life.path)
    done = life.omegactl("exec", "work", "-c", "x + 1")
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    shown = life.omegactl("show", "work", "--json")
    assert json.loads(shown.stdout)["pid"] == pid, shown


def test_busy_daemon_does_not_leave(lives: Callable[..., Life], place: Place) -> None:
    """A running command keeps the daemon, however long nobody asks."""
    life = lives(idle_exit_s=0.2)
    mark = place.base / "mark"
    life.begin_running("work", f"import time\nfor n in range(12): time.sleep(0.1)\nopen({str(mark)!r}, 'x').close()")
    wait_until(mark.exists, "the command ends")
    assert life.wait() == 0
    life.start()
    assert life.history("work")[0]["status"] == "ok"


def test_queued_commands_survive_a_restart(life: Life, place: Place) -> None:
    """Three detached commands are queued, the daemon is killed: all three run, in order, once."""
    file = place.base / "f"
    wait, fifo = gate(place)
    life.begin_running("work", wait)
    ids = [life.begin("work", f"open({str(file)!r}, 'a').write('{n}')") for n in range(3)]
    assert life.session("work")["queue_length"] == 3
    life.kill()
    life.start()
    with fifo.open("w"):
        pass
    assert life.finished("work", ids[-1])["status"] == "ok"
    assert file.read_text() == "012"
    assert [row["id"] for row in life.history("work")[1:]] == ids


def test_twenty_clients_start_one_daemon(place: Place) -> None:
    """Twenty clients at once start exactly one daemon and all get their answer, again after each kill -9 of it."""
    life = Life(place)
    for round in range(4):
        clients = [
            subprocess.Popen(
                [*OMEGACTL, "exec", f"s{number % 3}", "-c", f"print({number} * {round})"],
                env=life.place.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(20)
        ]
        for number, client in enumerate(clients):
            out, err = client.communicate(timeout=60)
            assert (client.returncode, out) == (0, f"{number * round}\n"), err + life.log
        (pid,) = life.daemons()
        assert life.server_pid() == pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not life.daemons(), "the daemon is dead")
    life.start()
    assert sum(len(life.history(f"s{number}")) for number in range(3)) == 80
    life.end()


# ---- exactly once ----


def test_key_holds_across_a_crash(life: Life, place: Place) -> None:
    """A request repeated with its key after a crash of the daemon answers the same execution, run once."""
    file = place.base / "f"
    command = f"open({str(file)!r}, 'a').write('1')"
    first = life.run("work", command, idempotency_key="k")
    life.kill()
    life.start()
    assert life.run("work", command, idempotency_key="k") == first
    assert file.read_text() == "1"


def test_key_belongs_to_one_command(life: Life) -> None:
    """The same key with another command is 409 and runs nothing; in another session it is free."""
    life.run("work", "x = 1", idempotency_key="k")
    answer = life.execute("work", "x = 2", idempotency_key="k")
    assert (answer.status, answer.code) == (409, "idempotency_conflict")
    assert life.value("work", "x") == 1
    assert life.run("other", "x = 2", idempotency_key="k")["status"] == "ok"


def test_key_of_a_cancelled_command_is_free(life: Life, place: Place) -> None:
    """A command taken back before it began leaves its key to a new execution."""
    life.begin_running("work", FOREVER)
    id = life.begin("work", "6 * 7", idempotency_key="k")
    stopped = life.post("/api/sessions/work/interrupt", {"execution_id": id})
    assert (stopped["execution"]["status"], stopped["execution"]["reason"]) == ("cancelled", "user")
    life.post("/api/sessions/work/interrupt")
    again = life.run("work", "6 * 7", idempotency_key="k")
    assert (again["result"], again["id"] > id) == ("42", True)


# ---- ends ----


def test_session_is_deleted_during_a_run(life: Life, place: Place) -> None:
    """DELETE ends the running command, answers who waits for it, and leaves nothing under the name."""
    mark = place.base / "mark"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(life.execute, "work", f"open({str(mark)!r}, 'w').write('1'); x = 7\n" + FOREVER)
        wait_until(lambda: text(mark), "the command runs")
        pid = life.session("work")["pid"]
        assert life.call("DELETE", "/api/sessions/work").status == 204
        answer = waiting.result(30)
    assert answer.json["status"] in ("interrupted", "died"), answer
    assert not is_alive(pid)
    assert life.call("GET", "/api/sessions/work").code == "session_not_found"
    assert os.listdir(place.state_dir / "sessions") == []
    fresh = life.run("work", "x")
    assert (fresh["error"]["name"], fresh["lost"], fresh["execution_count"]) == ("NameError", None, 1)


def test_half_made_session_leaves_no_environment_behind(life: Life, place: Place) -> None:
    """What a daemon left that died while it made or deleted a session goes at the next start; older files stay."""
    life.run("work", "x = 7")
    (kept,) = os.listdir(place.state_dir / "sessions")
    life.kill()
    for name in ("abandoned", "of-another-journal"):
        directory = place.state_dir / "sessions" / name
        directory.mkdir()
        (directory / "launch.json").write_text("{}")
    os.utime(directory, (0, 0))
    life.start()
    assert set(os.listdir(place.state_dir / "sessions")) == {kept, "of-another-journal"}
    assert life.value("work", "x") == 7


def test_kill_ends_the_process_and_keeps_the_history(life: Life, place: Place) -> None:
    """kill interrupts and ends the host; queued commands are cancelled, and the next command names the loss."""
    id = life.begin_running("work", "x = 7\n" + FOREVER)
    queued = life.begin("work", "x")
    pid = life.session("work")["pid"]
    stopped = life.post("/api/sessions/work/kill")
    assert stopped["session"]["state"] == "dead"
    assert stopped["variables_kept"] is False
    assert stopped["steps"][-1]["effective"] is True
    assert not is_alive(pid)
    assert life.execution("work", id)["status"] in ("interrupted", "died")
    cancelled = life.execution("work", queued)
    assert (cancelled["status"], cancelled["reason"]) == ("cancelled", "killed")
    after = life.run("work", "x")
    assert after["error"]["name"] == "NameError"
    assert after["lost"]["variables"] == "all"
    assert life.run("work", "1")["lost"] is None
    assert len(life.history("work")) == 4


def test_restart_begins_anew(life: Life) -> None:
    """restart ends the host and starts another: same name and history, other process, no variables."""
    life.run("work", "x = 7")
    before = life.session("work")
    stopped = life.post("/api/sessions/work/restart")
    assert (stopped["session"]["state"], stopped["session"]["id"]) == ("idle", before["id"])
    assert stopped["session"]["pid"] != before["pid"]
    after = life.run("work", "'x' in globals()")
    assert (after["result"], after["lost"]["variables"]) == ("False", "all")


def test_death_of_a_host_is_named(life: Life, place: Place) -> None:
    """A host is killed: the running command died, the queued one never ran, the next one says what is lost."""
    id = life.begin_running("work", "print('so far', flush=True)\n" + FOREVER)
    queued = life.begin("work", "x")
    wait_until(lambda: life.execution("work", id)["output"] == "so far\n", "the output is there")
    os.kill(life.session("work")["pid"], signal.SIGKILL)
    died = life.finished("work", id)
    assert (died["status"], died["output"]) == ("died", "so far\n")
    assert life.finished("work", queued)["status"] == "cancelled"
    session = life.session("work")
    assert (session["state"], session["pid"]) == ("dead", None)
    assert "SIGKILL" in session["state_reason"]
    after = life.run("work", "1")
    assert after["lost"]["variables"] == "all"
    assert "SIGKILL" in after["lost"]["reason"]


def test_death_without_a_daemon_is_named(life: Life, place: Place) -> None:
    """A host that died while there was no daemon: what its log held is kept, the rest is named as lost."""
    id = life.begin_running("work", "print('so far', flush=True)\n" + FOREVER)
    wait_until(lambda: life.execution("work", id)["output"] == "so far\n", "the output is there")
    pid = life.session("work")["pid"]
    life.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the host is dead")
    life.start()
    died = life.finished("work", id)
    assert (died["status"], died["output"]) == ("died", "so far\n")
    assert life.run("work", "1")["lost"]["variables"] == "all"


def test_command_that_died_unheard_is_not_run_again(life: Life, place: Place) -> None:
    """A command that was begun and said nothing died with its host, with no daemon there: a retry is told so."""
    file = place.base / "f"
    life.run("work", "pass")
    command = f"open({str(file)!r}, 'a').write('1')\n" + FOREVER
    id = life.begin("work", command, idempotency_key="k")
    wait_until(lambda: text(file), "the command runs")
    pid = life.session("work")["pid"]
    life.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the host is dead")
    life.start()
    again = life.run("work", command, idempotency_key="k")
    assert (again["id"], again["status"]) == (id, "died")
    assert file.read_text() == "1"


def test_command_that_a_dead_host_never_began_may_be_sent_again(life: Life, place: Place) -> None:
    """What was queued when its host died, with no daemon there, never ran: it is cancelled and its key is free."""
    file = place.base / "f"
    life.begin_running("work", FOREVER)
    command = f"open({str(file)!r}, 'a').write('1')"
    id = life.begin("work", command, idempotency_key="k")
    pid = life.session("work")["pid"]
    life.kill()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not is_alive(pid), "the host is dead")
    life.start()
    assert life.finished("work", id)["status"] == "cancelled"
    assert not file.exists()
    again = life.run("work", command, idempotency_key="k")
    assert (again["id"] > id, again["status"], again["lost"]["variables"]) == (True, "ok", "all")
    assert file.read_text() == "1"


def test_children_of_a_dead_host_go_with_it(life: Life) -> None:
    """What a killed host had started and left in its process group ends with it."""
    child = life.value("work", "import subprocess; child = subprocess.Popen(['sleep', 'infinity']); child.pid")
    os.kill(life.session("work")["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(child), "the child ends")


def test_code_that_exits_leaves_the_session(life: Life) -> None:
    """exit() in a command is a wish told to the client; the session and its variables live."""
    execution = life.run("work", "x = 7\nexit()")
    assert (execution["status"], execution["should_exit"]) == ("ok", True)
    assert life.value("work", "x") == 7


def test_output_of_a_child_that_stayed_is_late(life: Life, place: Place) -> None:
    """What a background child prints after its command has ended is an event of its own, not added to the command."""
    _, fifo = gate(place)
    id = life.run("work", f"import subprocess\nchild = subprocess.Popen(['sh', '-c', 'read x < {fifo}; echo late'])")[
        "id"
    ]
    events = life.stream("GET", f"/api/events?since={id}")
    fifo.write_text("go\n")
    late = next(event for event in events if event["kind"] == "late_output")
    events.close()
    assert (late["stream"], late["text"], late["session"]) == ("stdout", "late\n", "work")
    assert life.execution("work", id)["output"] == ""
    assert life.value("work", "child.wait()") == 0


def test_plain_text_carries_the_rest_in_headers(life: Life) -> None:
    """Accept: text/plain answers the bare output; id, status and what there is to say are in headers."""

    def plain(command: str, **options: object) -> tuple[str, dict[str, str]]:
        body = {"command": command, **options}
        answer = life.call("POST", "/api/sessions/work/execute", body, {"Accept": "text/plain"})
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/plain")
        return answer.body.decode(), answer.headers

    output, headers = plain("print('ü'); 1 + 1")
    assert output == "ü\n2\n"
    execution = life.execution("work", int(headers["omega-execution-id"]))
    assert execution["result"] == "2"
    assert (headers["omega-session"], headers["omega-status"]) == ("work", "ok")
    said = {"omega-reason", "omega-should-exit", "omega-lost", "omega-truncated", "omega-resumed-from"}
    assert not said & headers.keys()
    assert plain("exit()")[1]["omega-should-exit"] == "1"
    output, headers = plain("1 / 0")
    assert "ZeroDivisionError" in output
    assert headers["omega-status"] == "error"
    assert plain(FOREVER, timeout_s=0.2)[1]["omega-reason"] == "timeout"
    assert json.loads(plain("'a' * 1000", max_output=10)[1]["omega-truncated"])["omitted_bytes"] == 993
    life.post("/api/sessions/work/kill")
    assert json.loads(plain("1")[1]["omega-lost"])["variables"] == "all"


# ---- other interpreters ----


def interpreters() -> list[str]:
    """One Python of each other minor version that this machine has, 3.9 and later."""
    home = pwd.getpwuid(os.getuid()).pw_dir
    places = ("/usr/bin/python3.*", "/usr/local/bin/python3.*", f"{home}/.pyenv/versions/*/bin/python3")
    found: dict[str, str] = {}
    for candidate in sorted(path for pattern in places for path in glob.glob(pattern)):
        code = "import sys; print('%d.%d' % sys.version_info[:2])"
        try:
            asked = subprocess.run([candidate, "-IS", "-c", code], capture_output=True, text=True, timeout=20)
        except OSError:
            continue
        version = asked.stdout.strip()
        if asked.returncode == 0 and tuple(map(int, version.split("."))) >= (3, 9):
            found.setdefault(version, candidate)
    found.pop(f"{sys.version_info.major}.{sys.version_info.minor}", None)
    return list(found.values())


OTHERS = interpreters()


@pytest.mark.skipif(not OTHERS, reason="this machine has no second interpreter")
@pytest.mark.parametrize("python", OTHERS)
def test_another_interpreter_carries_a_session(life: Life, place: Place, python: str) -> None:
    """A session in another Python runs, fails, asks, is interrupted, outlives the daemon and ends as any other."""
    version = subprocess.run(
        [python, "-IS", "-c", "import sys; print(sys.version_info[:3])"], capture_output=True, text=True
    )
    session = life.post("/api/sessions", {"name": "other", "python": python})
    assert session["python"] == python
    assert life.run("other", "import sys; sys.version_info[:3]")["result"] == version.stdout.strip()
    raised = life.run("other", "def f():\n    return 1 / 0\nf()")
    assert (raised["status"], raised["error"]["name"]) == ("error", "ZeroDivisionError")
    assert "return 1 / 0" in raised["output"]
    assert life.run("other", "import asyncio\nawait asyncio.sleep(0, 'awaited')")["result"] == "'awaited'"
    id = life.begin("other", "x = input()")
    wait_until(lambda: life.session("other")["state"] == "waiting_input", "the command asks")
    life.kill()
    life.start()
    wait_until(lambda: life.session("other")["state"] == "waiting_input", "the session is adopted")
    life.post("/api/sessions/other/input", {"execution_id": id, "text": "seven"})
    assert life.run("other", "x")["result"] == "'seven'"
    life.begin_running("other", FOREVER)
    assert life.post("/api/sessions/other/interrupt", {"wait_s": 20})["execution"]["status"] == "interrupted"
    out = life.run("other", "import subprocess\nprint('a'); subprocess.run(['echo', 'b']); print('c')")
    assert out["output"].startswith("a\nb\nc\n") or out["output"].startswith("a\nb\n")
    assert life.call("DELETE", "/api/sessions/other").status == 204
