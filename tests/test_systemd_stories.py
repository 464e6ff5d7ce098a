"""Stories under a real `systemd --user`: a daemon nobody starts, sessions in scopes of their own that outlive it.

One manager in each view of the cgroups serves this whole file; each story begins without sessions and with the units
as they were installed. Requests are made inside, as the manager's user.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import caller
import units
from caller import Remote
from conftest import unavailable
from daemon import wait_until
from gates import loading
from life import FOREVER, text
from usermanager import UserManager

SERVICE, SOCKET = "omega-sessiond.service", "omega-sessiond.socket"
SLICE = "app-omega-sessions.slice"
MIB = 1024 * 1024


class Realm(Remote):
    """A user manager, and a caller that asks the daemon in it."""

    def __init__(self, manager: UserManager, python: str) -> None:
        self.manager = manager
        self.python = python
        self.home = Path(manager.home)
        self.config = self.home / ".config/omega-sessiond/config.toml"
        source = Path(caller.__file__).read_text()
        process = manager.popen(python, "-c", source, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        super().__init__(f"{manager.runtime_dir}/omega-sessiond/api.sock", process)
        self._fifos = 0

    def begin_anew(self) -> None:
        """No sessions, no daemon, no settings, nothing failed, the socket listens."""
        self.config.unlink(missing_ok=True)
        self.manager.systemctl("reset-failed")
        self.manager.systemctl("start", SOCKET)
        for session in self.get("/api/sessions"):
            assert self.call("DELETE", f"/api/sessions/{session['name']}", {"budget_s": 1}).status == 204
        self.manager.systemctl("stop", SERVICE)
        self.manager.systemctl("reset-failed")

    def configure(self, line: str) -> None:
        """Write the settings file; read at the next start."""
        for directory in (self.config.parent.parent, self.config.parent):
            directory.mkdir(exist_ok=True)
            os.chown(directory, self.manager.uid, self.manager.uid)
        self.config.write_text(line + "\n")

    def service(self, prop: str) -> str:
        return self.manager.show(SERVICE, prop)

    def scope(self, name: str, prop: str) -> str:
        return self.manager.show(f"omega-session-{name}.scope", prop)

    def kill_daemon(self) -> None:
        """kill -9 of the daemon, and nothing else."""
        pid = self.service("MainPID")
        self.manager.run("kill", "-9", pid)
        self.manager.wait_until(lambda: self.service("MainPID") != pid, what=lambda: "the daemon is dead")

    def file(self, name: str) -> Path:
        """A path in the user's home, where no file is."""
        path = self.home / name
        path.unlink(missing_ok=True)
        return path

    def gate(self) -> tuple[str, Path]:
        """An expression that waits until the test opens the gate for writing, and the gate."""
        self._fifos += 1
        fifo = self.home / f"gate-{self._fifos}"
        os.mkfifo(fifo)
        os.chown(fifo, self.manager.uid, self.manager.uid)
        return f"open({str(fifo)!r}).read()", fifo

    def begin_running(self, name: str, command: str) -> int:
        """Hand a command in and wait until it runs; the execution's id."""
        mark = self.file("mark")
        id = self.begin(name, f"open({str(mark)!r}, 'x').close()\n{command}")
        wait_until(mark.exists, f"{command} runs")
        return id


@pytest.fixture(scope="module")
def v2_manager(test_user: str, test_venv: Path) -> Iterator[UserManager]:
    with UserManager("v2", user=test_user, path=f"{test_venv}/bin:/usr/bin:/bin") as manager:
        yield manager


@pytest.fixture(scope="module")
def hybrid_manager(test_user: str, test_venv: Path) -> Iterator[UserManager]:
    with UserManager("hybrid", user=test_user, path=f"{test_venv}/bin:/usr/bin:/bin") as manager:
        yield manager


def installed(manager: UserManager, venv: Path) -> Iterator[Realm]:
    units.start(manager, f"{venv}/bin/python")
    realm = Realm(manager, f"{venv}/bin/python")
    yield realm
    realm.close()


@pytest.fixture(scope="module")
def v2_realm(v2_manager: UserManager, test_venv: Path) -> Iterator[Realm]:
    yield from installed(v2_manager, test_venv)


@pytest.fixture(scope="module")
def hybrid_realm(hybrid_manager: UserManager, test_venv: Path) -> Iterator[Realm]:
    yield from installed(hybrid_manager, test_venv)


@pytest.fixture
def realm(v2_realm: Realm) -> Realm:
    """The units installed, the socket listening, no daemon and no sessions."""
    v2_realm.begin_anew()
    return v2_realm


@pytest.fixture
def limiting(hybrid_realm: Realm) -> Realm:
    """The same where memory and tasks are limited."""
    if not hybrid_realm.manager.memory_and_tasks_are_limited:
        unavailable("this machine lends no memory and pids controllers")
    hybrid_realm.begin_anew()
    return hybrid_realm


# ---- the daemon comes, goes and comes back ----


def test_first_request_starts_the_daemon(realm: Realm) -> None:
    """Nobody starts it: the first request does, systemd holds the socket, and the session has a scope in its slice."""
    assert realm.service("ActiveState") == "inactive"
    assert realm.value("work", "41 + 1") == 42
    assert realm.service("ActiveState") == "active"
    server = realm.get("/api/server")
    assert (str(server["pid"]), server["activation"]) == (realm.service("MainPID"), "systemd")
    assert server["scopes"] is True
    assert realm.scope("work", "ActiveState") == "active"
    assert realm.scope("work", "Slice") == SLICE
    pid = realm.session("work")["pid"]
    cgroup = realm.manager.run("cat", f"/proc/{pid}/cgroup").stdout
    assert f"{SLICE}/omega-session-work.scope" in cgroup


def test_memory_pressure_of_the_slice_is_watched(realm: Realm) -> None:
    """With the first session in it, the slice tells the daemon when its memory is short, by one descriptor for all."""

    def watched() -> int:
        pid = realm.get("/api/server")["pid"]
        links = realm.manager.run("sh", "-c", f"readlink /proc/{pid}/fd/*; true").stdout.split("\n")
        return sum(link.endswith(f"/{SLICE}/memory.pressure") for link in links)

    assert watched() == 0
    realm.run("work", "1")
    realm.run("other", "1")
    assert watched() == 1


def test_hundred_first_requests_get_one_daemon(realm: Realm) -> None:
    """100 requests at once, with no daemon there, are all answered, and by the same one."""
    assert realm.service("ActiveState") == "inactive"
    with ThreadPoolExecutor(100) as pool:
        answers = list(pool.map(lambda _: realm.call("GET", "/api/server"), range(100)))
    assert {answer.status for answer in answers} == {200}
    assert {str(answer.json["pid"]) for answer in answers} == {realm.service("MainPID")}


def test_sessions_outlive_a_restart(realm: Realm) -> None:
    """systemctl restart: who waits is told 202, the command ends as if nothing were, variables and process stay."""
    realm.run("work", "x = 41")
    host = realm.session("work")["pid"]
    wait, fifo = realm.gate()
    mark = realm.file("mark")
    command = f"open({str(mark)!r}, 'x').close(); {wait}; x += 1; print('after', x)"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(realm.execute, "work", command)
        wait_until(mark.exists, "the command runs")
        before = realm.service("MainPID")
        realm.manager.systemctl("restart", SERVICE)
        answer = waiting.result(30)
    assert (answer.status, answer.json["status"]) == (202, "running")
    assert realm.service("MainPID") != before
    with fifo.open("w"):
        pass
    execution = realm.finished("work", answer.json["id"])
    assert (execution["status"], execution["output"]) == ("ok", "after 42\n")
    assert realm.session("work")["pid"] == host


def test_stopped_daemon_comes_back_when_asked(realm: Realm) -> None:
    """systemctl stop ends the daemon and no session; the next request starts another, which knows them."""
    realm.run("work", "x = 41")
    host = realm.session("work")["pid"]
    realm.manager.systemctl("stop", SERVICE)
    assert realm.service("ActiveState") == "inactive"
    assert realm.scope("work", "ActiveState") == "active"
    assert realm.value("work", "x + 1") == 42
    assert realm.session("work")["pid"] == host


def test_daemon_killed_during_a_command(realm: Realm) -> None:
    """kill -9 during a command, then one more request: it ran once, its whole output is in the history, x is 7."""
    file = realm.file("f")
    realm.run("work", f"import time; f = {str(file)!r}")
    id = realm.begin("work", 'open(f,"a").write("1"); time.sleep(3); x = 7; print("done")')
    wait_until(lambda: text(file) == "1", "the command runs")
    realm.kill_daemon()
    assert realm.value("work", "x") == 7
    assert file.read_text() == "1"
    _, story, _ = realm.history("work")
    assert (story["id"], story["status"], story["output"]) == (id, "ok", "done\n")


def test_command_line_survives_the_daemon(realm: Realm) -> None:
    """`omegactl exec` whose daemon is killed waits for the one systemd starts and prints the result, once."""
    file = realm.file("f")
    realm.run("work", f"import time; f = {str(file)!r}")
    code = 'open(f,"a").write("1"); print("first"); time.sleep(2); x = 7; print("done")'
    client = realm.manager.popen("omegactl", "exec", "work", "-c", code, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: text(file) == "1", "the command runs")
    realm.kill_daemon()
    out, err = client.communicate(timeout=60)
    assert (client.returncode, out) == (0, "first\ndone\n"), err
    assert file.read_text() == "1"
    assert realm.value("work", "x") == 7


def test_queued_commands_survive_a_restart(realm: Realm) -> None:
    """Three detached commands are queued, the service is restarted: all three run, in order, once."""
    file = realm.file("f")
    wait, fifo = realm.gate()
    realm.begin_running("work", wait)
    for number in range(3):
        realm.manager.run("omegactl", "exec", "work", "--detach", "-c", f"open({str(file)!r}, 'a').write('{number}')")
    assert realm.session("work")["queue_length"] == 3
    realm.manager.systemctl("restart", SERVICE)
    with fifo.open("w"):
        pass
    history = realm.history("work")
    assert len(history) == 4
    assert realm.finished("work", history[-1]["id"])["status"] == "ok"
    assert file.read_text() == "012"
    assert [row["status"] for row in realm.history("work")] == ["ok"] * 4


def test_idle_daemon_leaves_and_is_started_again(realm: Realm) -> None:
    """An idle daemon leaves in peace, the socket stays, and the next request finds the sessions as they were."""
    realm.configure("idle_exit_s = 0.5")
    realm.run("work", "x = 41")
    host = realm.session("work")["pid"]
    realm.manager.wait_for_state(SERVICE, "inactive")
    assert realm.service("Result") == "success"
    assert realm.manager.show(SOCKET, "ActiveState") == "active"
    assert realm.scope("work", "ActiveState") == "active"
    assert realm.value("work", "x + 1") == 42
    assert realm.session("work")["pid"] == host


def test_stopped_socket_is_told_and_not_worked_around(realm: Realm) -> None:
    """With the socket stopped the command line starts no daemon of its own: it says what to do, exit code 3."""
    realm.manager.systemctl("stop", SOCKET, SERVICE)
    done = realm.manager.run("omegactl", "exec", "work", "-c", "1", check=False)
    assert (done.returncode, done.stdout) == (3, "")
    assert "omegactl service start" in done.stderr
    assert realm.service("ActiveState") == "inactive"


def test_units_take_over_from_a_daemon_that_a_client_started(
    user_managers: Callable[..., UserManager], test_venv: Path
) -> None:
    """A daemon was started by a client, then the units come: the activated one takes over and keeps the sessions."""
    manager = user_managers("v2")
    realm = Realm(manager, f"{test_venv}/bin/python")
    manager.run("omegactl", "exec", "work", "-c", "x = 41")
    before = realm.get("/api/server")
    assert before["activation"] == "client"
    host = realm.session("work")["pid"]
    units.start(manager, realm.python)
    assert manager.run("omegactl", "exec", "work", "-c", "x + 1").stdout == "42\n"
    after = realm.get("/api/server")
    assert (after["activation"], str(after["pid"])) == ("systemd", manager.show(SERVICE, "MainPID"))
    assert manager.run("kill", "-0", str(before["pid"]), check=False).returncode == 1
    assert realm.session("work")["pid"] == host
    assert [row["output"] for row in realm.history("work")] == ["", "42\n"]
    realm.close()


# ---- scopes and limits ----


def test_limits_are_properties_of_the_scope(limiting: Realm) -> None:
    """Limits given at creation are the scope's own; PATCH changes them live, and a successor's scope has them too."""

    def shown() -> list[str]:
        return [limiting.scope("work", name) for name in ("MemoryMax", "TasksMax", "CPUWeight")]

    limits = {"memory_bytes": 256 * MIB, "tasks": 64, "cpu_weight": 50}
    created = limiting.post("/api/sessions", {"name": "work", "limits": limits})
    assert created["limits"] == limits
    assert shown() == [str(256 * MIB), "64", "50"]
    changed = limiting.call("PATCH", "/api/sessions/work", {"limits": {"memory_bytes": 512 * MIB, "tasks": None}})
    assert changed.json["limits"] == {"memory_bytes": 512 * MIB, "tasks": None, "cpu_weight": 50}
    assert shown() == [str(512 * MIB), "infinity", "50"]
    limiting.post("/api/sessions/work/restart")
    memory, tasks, weight = shown()
    assert (memory, weight) == (str(512 * MIB), "50")
    assert tasks != "64"
    limiting.manager.systemctl("restart", SERVICE)
    limiting.call("PATCH", "/api/sessions/work", {"limits": {"tasks": 32}})
    assert shown() == [str(512 * MIB), "32", "50"]


def test_limit_on_tasks_is_enforced(limiting: Realm) -> None:
    """A session with 16 tasks cannot start a 40th thread, and lives on."""
    limiting.post("/api/sessions", {"name": "work", "limits": {"tasks": 16}})
    code = (
        "import threading\nlock = threading.Lock(); lock.acquire(); started = []\n"
        "try:\n    for _ in range(40):\n        thread = threading.Thread(target=lock.acquire, daemon=True)\n"
        "        thread.start(); started.append(thread)\nexcept RuntimeError as error: print(error)"
    )
    assert "can't start new thread" in limiting.run("work", code)["output"]
    assert limiting.value("work", "len(started)") < 16


def test_usage_is_that_of_the_scope(limiting: Realm) -> None:
    """A session's usage counts its children and is read from its cgroup."""
    limiting.run(
        "work", "import subprocess; child = subprocess.Popen(['sleep', 'infinity']); ballast = b'x' * 50_000_000"
    )
    usage = limiting.session("work")["usage"]
    assert usage["source"] == "cgroup"
    assert usage["memory_bytes"] > 50_000_000
    assert usage["tasks"] >= 3
    limiting.run("other", "x = 1")
    together = limiting.get("/api/usage")
    assert (together["source"], together["sessions"]) == ("cgroup", 2)
    assert together["memory_bytes"] > usage["memory_bytes"] - 10_000_000
    assert together["tasks"] > usage["tasks"]


def test_child_out_of_memory_leaves_the_session(limiting: Realm) -> None:
    """The kernel kills a child for memory: the session sees a dead child and keeps its variables."""
    limiting.post("/api/sessions", {"name": "work", "limits": {"memory_bytes": 96 * MIB}})
    limiting.run("work", "import subprocess, sys; x = 7")
    host = limiting.session("work")["pid"]
    hungry = "b = bytearray(400 * 2**20)\nfor i in range(0, len(b), 4096): b[i] = 1"
    assert limiting.value("work", f"subprocess.run([sys.executable, '-c', {hungry!r}]).returncode") == -9
    assert limiting.value("work", "x") == 7
    assert limiting.session("work")["pid"] == host


def test_host_out_of_memory_is_named(limiting: Realm) -> None:
    """The kernel kills the host for memory: the execution and the session say so, and the next command what is lost."""
    limiting.post("/api/sessions", {"name": "work", "limits": {"memory_bytes": 96 * MIB}})
    died = limiting.run("work", "x = bytearray(400 * 2**20)\nfor i in range(0, len(x), 4096): x[i] = 1")
    assert died["status"] == "died"
    assert died["reason"] == "out_of_memory"
    session = limiting.session("work")
    assert session["state"] == "dead"
    assert "probably out of memory" in session["state_reason"]
    after = limiting.run("work", "1")
    assert "probably out of memory" in after["lost"]["reason"]
    assert after["lost"]["variables"] == "all"


def test_program_out_of_memory_is_named(limiting: Realm) -> None:
    """The kernel kills the program of a line REPL for memory: its command and the next answer say so, its host lives.
    Another child's end of memory, told before, is not taken for the cause when somebody kills the program."""
    limiting.post("/api/sessions", {"name": "work", "engine": "bash", "limits": {"memory_bytes": 96 * MIB}})
    host = limiting.session("work")["pid"]
    died = limiting.run("work", "hungry=$(head -c 400M /dev/zero | tr '\\0' x)")
    assert died["status"] == "error"
    assert died["error"]["message"].startswith("bash was killed: out of memory (limit 96 MiB, peak 9")
    after = limiting.run("work", "echo $$")
    assert "out of memory" in after["lost"]["reason"]
    assert limiting.session("work")["pid"] == host
    hungry = "import time; b = bytearray(400 * 2**20)\nfor i in range(0, len(b), 4096): b[i] = 1"
    limiting.run("work", f"sleep 0.2; {limiting.python} -c '{hungry}'")
    killed = limiting.run("work", "kill -9 $$")
    assert killed["error"]["message"].startswith("bash was killed by SIGKILL")


def test_session_out_of_memory_goes_on_from_its_checkpoint(limiting: Realm) -> None:
    """What was saved before the kernel killed the host is there again; the answer names what is lost and why."""
    limiting.post("/api/sessions", {"name": "work", "limits": {"memory_bytes": 96 * MIB}})
    limiting.run("work", "kept = 7")
    limiting.post("/api/sessions/work/save")
    died = limiting.run("work", "x = bytearray(400 * 2**20)\nfor i in range(0, len(x), 4096): x[i] = 1")
    assert died["reason"] == "out_of_memory"
    after = limiting.run("work", "kept")
    assert after["result"] == "7" and after["resumed_from"]
    assert "probably out of memory" in after["lost"]["reason"] and after["lost"]["variables"] == ["i", "x"]


@pytest.mark.parametrize("in_order", [True, False])
def test_sessions_outlive_a_reboot(test_user: str, test_venv: Path, in_order: bool) -> None:
    """The user manager ends, in order or at once, and starts anew, with a session at every moment: all go on from what
    was saved at the shutdown or before the power cut, history is whole, and what becomes of each command is told."""
    python = f"{test_venv}/bin/python"
    with UserManager("v2", user=test_user, path=f"{test_venv}/bin:/usr/bin:/bin") as manager:
        units.start(manager, python)
        realm = Realm(manager, python)
        load, fifo = realm.gate()
        mark = realm.file("loading")
        code = f"(open({str(mark)!r}, 'x').close(), {load}, None)"
        slow = loading(code) + "slow = Slow()"
        for name in ("idle", "busy", "asking", "asleep", "waking"):
            realm.run(name, "x = 1" if name != "waking" else f"x = 1\n{slow}")
            realm.post(f"/api/sessions/{name}/save")
        realm.run("idle", "x = 2")
        running = realm.begin_running("busy", "x = 2\n" + FOREVER)
        queued = realm.begin("busy", "x = 3")
        asked = realm.begin("asking", "x = 2; input()")
        wait_until(lambda: realm.session("asking")["state"] == "waiting_input", "it asks")
        manager.run("kill", "-TERM", str(realm.session("asleep")["pid"]))
        manager.run("kill", "-KILL", str(realm.session("waking")["pid"]))
        wait_until(lambda: {realm.session(name)["pid"] for name in ("asleep", "waking")} == {None}, "they have ended")
        if not in_order:  # a process that loads leaves when it has loaded, for which a shutdown waits
            woken_for = realm.begin("waking", "x")
            wait_until(mark.exists, "it is loading")
        manager.reboot(in_order=in_order)
        mark.unlink(missing_ok=True)
        realm.close()
        units.start(manager, python)
        realm = Realm(manager, python)
        for name, id in (("busy", running), ("asking", asked)):
            assert realm.finished(name, id)["status"] in ("died", "interrupted")
        waited = realm.finished("busy", queued)["status"]  # in order the one before it is interrupted, and all is saved
        assert waited == "cancelled" or (waited, in_order) == ("ok", True)
        if not in_order:
            assert realm.finished("waking", woken_for)["status"] == "cancelled"
        idle, busy = realm.run("idle", "x"), realm.run("busy", "x")
        assert (idle["result"], idle["lost"] is None) == (("2", True) if in_order else ("1", False)), idle
        assert idle["resumed_from"]
        assert busy["result"] in (("1", "2", "3") if in_order else ("1",)), busy
        assert busy["resumed_from"] or waited == "ok", busy
        asking, asleep = realm.run("asking", "x"), realm.run("asleep", "x")
        assert asking["result"] in ("1", "2") and asking["resumed_from"], asking
        assert (asleep["result"], asleep["lost"]) == ("1", None) and asleep["resumed_from"], asleep
        again = realm.begin("waking", "x")
        wait_until(mark.exists, "it is loading")
        fifo.write_text("")
        woken = realm.finished("waking", again)
        assert (woken["result"], woken["lost"]) == ("1", None) and woken["resumed_from"], woken
        assert [row["command"] for row in realm.history("idle")] == ["x = 1", "x = 2", "x"]
        assert [row["id"] for row in realm.history("busy")][1:3] == [running, queued]
        realm.close()


def test_stop_of_the_slice_ends_the_sessions(realm: Realm) -> None:
    """systemctl stop of the sessions' slice ends idle and busy ones and not the daemon; an idle one saves itself."""
    realm.run("idle", "x = 7")
    id = realm.begin_running("busy", FOREVER)
    daemon = realm.service("MainPID")
    realm.manager.systemctl("stop", SLICE)
    wait_until(lambda: realm.session("idle")["state"] == "hibernated", "the idle one is saved")
    wait_until(lambda: realm.session("busy")["pid"] is None, "the busy one is gone")
    for name in ("idle", "busy"):
        assert realm.scope(name, "ActiveState") == "inactive"
    assert realm.finished("busy", id)["status"] in ("interrupted", "died")
    assert realm.service("MainPID") == daemon
    after = realm.run("idle", "x")
    assert (after["result"], after["lost"]) == ("7", None) and after["resumed_from"]
    assert realm.scope("idle", "ActiveState") == "active"


def test_every_new_host_gets_the_scope_of_its_name(realm: Realm) -> None:
    """Killed and begun anew again and again, each new process is in the scope before it runs anything."""
    code = "open('/proc/self/cgroup').read().count('omega-session-work.scope') > 0"
    for _ in range(5):
        assert realm.run("work", code)["result"] == "True"
        realm.manager.run("kill", "-9", str(realm.session("work")["pid"]))
        wait_until(lambda: realm.session("work")["state"] == "dead", "the host is dead")
    assert realm.run("work", code)["result"] == "True"


def test_children_of_a_dead_host_go_with_it(realm: Realm) -> None:
    """A child in a process group of its own ends with its session's scope when the host is killed."""
    realm.run("work", "import subprocess; child = subprocess.Popen(['sleep', 'infinity'], start_new_session=True)")
    child = realm.value("work", "child.pid")
    realm.manager.run("kill", "-9", str(realm.session("work")["pid"]))
    wait_until(lambda: realm.session("work")["state"] == "dead", "the host is dead")
    assert realm.manager.run("kill", "-0", str(child), check=False).returncode == 1


# ---- what systemd is told, and what the journal shows ----


def test_status_says_what_is_served(realm: Realm) -> None:
    """systemctl status shows sessions, running and queued commands."""
    id = realm.begin_running("work", FOREVER)
    realm.begin("work", "1")
    wait_until(
        lambda: realm.service("StatusText") == "Serving 1 sessions, 1 busy, 1 commands queued", "the status is told"
    )
    realm.post("/api/sessions/work/interrupt", {"execution_id": id})
    wait_until(lambda: "0 busy, 0 commands queued" in realm.service("StatusText"), "the status is told again")
    assert realm.service("Type") == "notify"


def test_hanging_daemon_is_replaced_by_the_watchdog(realm: Realm) -> None:
    """A daemon that no longer tells that it lives is ended with its stack in the log; sessions are kept."""
    drop_in = realm.home / units.DIRECTORY / f"{SERVICE}.d"
    drop_in.mkdir()
    (drop_in / "watchdog.conf").write_text("[Service]\nWatchdogSec=1s\n")
    realm.manager.systemctl("daemon-reload")
    try:
        realm.run("work", "x = 7")
        pid = realm.service("MainPID")
        host = realm.session("work")["pid"]
        wait_until(lambda: realm.service("WatchdogTimestampMonotonic") != "0", "it tells that it lives")
        realm.manager.run("kill", "-STOP", pid)
        realm.manager.wait_until(lambda: realm.service("MainPID") not in (pid, "0"), what=lambda: "it is replaced")
        assert realm.value("work", "x") == 7
        assert realm.session("work")["pid"] == host
        log = realm.manager.journal(SERVICE)
        assert "Fatal Python error: Aborted" in log
    finally:
        (drop_in / "watchdog.conf").unlink()
        drop_in.rmdir()
        realm.manager.systemctl("daemon-reload")


def test_journal_of_the_daemon_reads_well(realm: Realm) -> None:
    """journalctl --user -u omega-sessiond tells of start, leave and sessions' deaths in whole lines, never of code."""
    realm.run("work", "secret = 'correct-horse-battery'")
    realm.manager.run("kill", "-9", str(realm.session("work")["pid"]))
    wait_until(lambda: realm.session("work")["state"] == "dead", "the host is dead")
    pid = realm.service("MainPID")
    realm.manager.systemctl("stop", SERVICE)
    lines = realm.manager.run(
        "journalctl", "--user", "-u", "omega-sessiond", "--no-pager", "-q", "-o", "short", f"_PID={pid}"
    ).stdout.splitlines()
    assert any(re.search(rf"omega-sessiond\[{pid}\]: serving .* systemd", line) for line in lines), lines
    assert any(re.search(r"session work: .*SIGKILL", line) for line in lines), lines
    assert any("leaving: received SIGTERM; sessions go on" in line for line in lines), lines
    assert not [line for line in lines if "correct-horse" in line or "Traceback" in line or "<6>" in line]


def test_journal_of_a_scope_has_the_hosts_own_trouble(realm: Realm) -> None:
    """What goes wrong in a host itself is found under its session's scope, also after the daemon was restarted."""
    realm.run("work", "x = 7")
    realm.manager.systemctl("restart", SERVICE)
    path = f"{realm.manager.runtime_dir}/omega-sessiond/hosts/{realm.session('work')['id']}.sock"
    code = f"import socket; peer = socket.socket(socket.AF_UNIX); peer.connect({path!r}); peer.sendall(b'\\xff' * 64)"
    realm.manager.run(realm.python, "-c", code)

    def shown() -> str:
        return realm.manager.journal("omega-session-work.scope")

    wait_until(lambda: "nonsense" in shown(), "the journal has it")
    assert realm.value("work", "x") == 7


# ---- forks ----


def test_a_fork_has_a_scope_of_its_own(realm: Realm) -> None:
    """A copy of a live session is in the scope of its name before it runs anything, and outlives the other's."""
    realm.run("first", "x = 1")
    answer = realm.call("POST", "/api/sessions/first/fork", {"name": "second"})
    assert answer.status == 201, answer
    code = "open('/proc/self/cgroup').read().count('omega-session-second.scope') > 0, x"
    assert realm.run("second", code)["result"] == "(True, 1)"
    realm.manager.systemctl("stop", "omega-session-first.scope")
    wait_until(lambda: realm.session("first")["pid"] is None, "the first has no process")
    assert realm.run("second", "x + 1")["result"] == "2"
    assert realm.scope("second", "ActiveState") == "active"


def test_what_sessions_are_forked_from_ends_with_the_service(realm: Realm) -> None:
    """The fork server and its spare are the service's: they end with it, quietly, and no session does."""
    realm.run("work", "x = 1")
    server = wait_until(
        lambda: [one for one in realm.get("/api/server")["fork_servers"] if one["state"] == "ready"], "it is ready"
    )[0]["pid"]
    cgroup = realm.manager.run("cat", f"/proc/{server}/cgroup").stdout
    assert SERVICE in cgroup
    realm.manager.systemctl("stop", SERVICE)
    wait_until(lambda: realm.manager.run("kill", "-0", str(server), check=False).returncode != 0, "it is gone")
    assert realm.service("Result") == "success"
    assert realm.run("work", "x")["result"] == "1"
