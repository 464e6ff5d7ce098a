"""What systemd hands over, what it is told, and its scopes, asked of a real user manager."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from isolation import Place
from omega_sessiond.systemd import Notifier, Scopes
from usermanager import UserManager

CHECKOUT = Path(__file__).resolve().parent.parent

# Passes the descriptors argv[1:] as systemd would, under the pid of argv[0] or another's.
_HAND_OVER = """
import fcntl, os, sys
high = [fcntl.fcntl(int(fd), fcntl.F_DUPFD, 20) for fd in sys.argv[2:]]
for target, source in enumerate(high, 3):
    os.dup2(source, target)
os.environ["LISTEN_PID"] = str(os.getpid() + int(sys.argv[1]))
os.environ["LISTEN_FDS"] = str(len(high))
os.execv(sys.executable, [sys.executable, "-c", os.environ["SCRIPT"]])
"""

_LISTEN = """
import json, os
from omega_sessiond.systemd import listen_fds
found = listen_fds()
print(json.dumps({
    "names": {name: [s.getsockname() for s in sockets] for name, sockets in found.items()},
    "inheritable": [os.get_inheritable(s.fileno()) for sockets in found.values() for s in sockets],
    "left": sorted(name for name in os.environ if name.startswith("LISTEN_")),
}))
"""


def _hand_over(place: Place, pid_offset: int, names: str, *sockets: socket.socket) -> Any:
    env = {**place.env, "PYTHONPATH": str(CHECKOUT), "SCRIPT": _LISTEN, "LISTEN_FDNAMES": names}
    numbers = [sock.fileno() for sock in sockets]
    command = [sys.executable, "-c", _HAND_OVER, str(pid_offset), *map(str, numbers)]
    done = subprocess.run(command, env=env, pass_fds=numbers, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _listeners(place: Place, *names: str) -> list[socket.socket]:
    found = []
    for name in names:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place.base / name))
        listener.listen()
        found.append(listener)
    return found


def test_sockets_are_told_apart_by_name(place: Place) -> None:
    """Passed sockets are found by their unit's name whatever their order, close-on-exec, and leave no variable."""
    one, two, three = _listeners(place, "one", "two", "three")
    found = _hand_over(place, 0, "tcp:api:api", one, two, three)
    assert found["names"] == {
        "tcp": [str(place.base / "one")],
        "api": [str(place.base / "two"), found["names"]["api"][1]],
    }
    assert found["inheritable"] == [False, False, False]
    assert found["left"] == []
    for listener in (one, two, three):
        listener.close()


def test_sockets_meant_for_another_process_are_left_alone(place: Place) -> None:
    """With another process's LISTEN_PID nothing is taken, and the variables go all the same."""
    (one,) = _listeners(place, "one")
    found = _hand_over(place, 1, "api", one)
    assert found["names"] == {}
    assert found["left"] == []
    one.close()


@pytest.fixture
def notify_socket(place: Place, monkeypatch: pytest.MonkeyPatch) -> Any:
    heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    heard.bind(str(place.base / "notify"))
    heard.settimeout(10)
    monkeypatch.setenv("NOTIFY_SOCKET", str(place.base / "notify"))
    yield heard
    heard.close()


def test_notifier_speaks_ascii(notify_socket: socket.socket) -> None:
    """Assignments arrive one a line; what is not ASCII is escaped and no text can add a line of its own."""
    notifier = Notifier()
    notifier.tell("READY=1", "STATUS=Ω\nSTOPPING=1")
    assert notify_socket.recv(1000) == b"READY=1\nSTATUS=\\u03a9 STOPPING=1"
    notifier.extend(1.5)
    assert notify_socket.recv(1000) == b"EXTEND_TIMEOUT_USEC=1500000"
    assert "NOTIFY_SOCKET" not in os.environ
    notifier.close()


def test_watchdog_is_ours_only_if_the_pid_says_so(
    notify_socket: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WATCHDOG_USEC counts for the process WATCHDOG_PID names."""
    for pid, expected in ((str(os.getpid()), 2.0), (str(os.getpid() + 1), None)):
        monkeypatch.setenv("NOTIFY_SOCKET", notify_socket.getsockname())
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        monkeypatch.setenv("WATCHDOG_PID", pid)
        notifier = Notifier()
        assert notifier.watchdog_s == expected
        notifier.close()


def test_notifier_without_systemd_is_silent() -> None:
    """Where nobody listens nothing is sent and nothing fails."""
    notifier = Notifier()
    notifier.tell("READY=1")
    assert not notifier.is_heard
    assert notifier.watchdog_s is None


def test_no_manager_is_said_in_words(place: Place) -> None:
    """Without a bus, and with a dead bus address, connect answers the reason."""
    assert "no user manager" in str(asyncio.run(Scopes.connect()))
    (place.runtime_dir / "bus").touch()
    assert "cannot be reached" in str(asyncio.run(Scopes.connect()))


# ---- scopes, inside a real user manager ----

_PRELUDE = """
import asyncio, json, os, signal, subprocess, sys
from omega_sessiond.errors import HostFailed
from omega_sessiond.messages import Limits
from omega_sessiond.systemd import Scopes

UNIT = "omega-session-tried.scope"

def process(*command):
    null = subprocess.DEVNULL  # a pipe of ours in its hands would keep the test waiting when this script fails
    return subprocess.Popen(
        command or ("sleep", "infinity"), start_new_session=True, stdin=null, stdout=null, stderr=null
    )

def show(prop, unit=UNIT):
    command = ["systemctl", "--user", "show", "--value", "-p", prop, unit]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()

def cgroup_of(pid):
    with open(f"/proc/{pid}/cgroup") as file:
        return file.read()

async def connected():
    scopes = await Scopes.connect()
    assert isinstance(scopes, Scopes), scopes
    return scopes
"""


def _inside(manager: UserManager, body: str, env: dict[str, str] | None = None) -> Any:
    """Run the coroutine `main` of `body` inside; what it returns."""
    script = _PRELUDE + body + "\nprint(json.dumps(asyncio.run(main())))\n"
    return json.loads(manager.run("python3", "-I", "-c", script, env=env).stdout)


def test_scope_holds_the_process_with_its_limits(user_manager: UserManager) -> None:
    """A started scope contains the process, in the sessions' slice, with limits, and its stop ends it."""
    found = _inside(
        user_manager,
        """
async def main():
    scopes = await connected()
    child = process()
    await scopes.start(UNIT, child.pid, "tried", Limits(64 << 20, 20, 50), 3.0)
    cgroup = await scopes.cgroup(UNIT)
    found = {
        "in": cgroup in cgroup_of(child.pid), "cgroup": cgroup,
        "props": [show(p) for p in ("MemoryMax", "TasksMax", "CPUWeight", "OOMPolicy", "TimeoutStopUSec")],
    }
    await scopes.set_limits(UNIT, Limits(None, 30, None))
    found["changed"] = [show(p) for p in ("MemoryMax", "TasksMax", "CPUWeight")]
    await scopes.stop(UNIT)
    found["signal"] = child.wait(10)
    found["load"] = show("LoadState")
    await scopes.stop(UNIT)
    await scopes.kill(UNIT, signal.SIGKILL)
    found["gone"] = await scopes.cgroup(UNIT)
    await scopes.close()
    return found
""",
    )
    assert found["in"]
    assert "/app-omega-sessions.slice/omega-session-tried.scope" in found["cgroup"]
    assert found["props"] == [str(64 << 20), "20", "50", "continue", "3s"]
    assert found["changed"] == ["infinity", "30", "[not set]"]
    assert found["signal"] == -15
    assert found["load"] == "not-found"
    assert found["gone"] is None


def test_name_of_a_failed_scope_is_taken_again(user_manager: UserManager) -> None:
    """A scope that failed keeps its name only until the next start with it."""
    found = _inside(
        user_manager,
        """
async def main():
    scopes = await connected()
    stubborn = process("sh", "-c", "trap '' TERM; echo; while :; do sleep 1; done")
    await scopes.start(UNIT, stubborn.pid, "tried", Limits(), 0.3)
    subprocess.run(["systemctl", "--user", "stop", UNIT], check=True)
    state = show("ActiveState")
    child = process()
    await scopes.start(UNIT, child.pid, "tried", Limits(), 1.0)
    found = [state, show("ActiveState"), UNIT in cgroup_of(child.pid)]
    await scopes.kill(UNIT, signal.SIGKILL)
    await scopes.removed(UNIT)
    return [*found, child.wait(10), stubborn.wait(10)]
""",
    )
    assert found == ["failed", "active", True, -9, -9]


def test_successor_waits_for_the_old_scope(user_manager: UserManager) -> None:
    """A start while the old scope is still being stopped waits for its end instead of failing."""
    found = _inside(
        user_manager,
        """
async def main():
    scopes = await connected()
    slow = process("sh", "-c", "trap 'sleep 0.5; exit' TERM; while :; do sleep 0.1; done")
    await scopes.start(UNIT, slow.pid, "tried", Limits(), 5.0)
    stopping = asyncio.create_task(scopes.stop(UNIT))
    await asyncio.sleep(0)
    child = process()
    await scopes.start(UNIT, child.pid, "tried", Limits(), 5.0)
    await stopping
    inside = UNIT in cgroup_of(child.pid)
    await scopes.stop(UNIT)
    return [inside, slow.wait(10), child.wait(10)]
""",
    )
    assert found == [True, 0, -15]


def test_removal_is_heard_of(user_manager: UserManager) -> None:
    """The callback learns of a scope whose process died by itself."""
    found = _inside(
        user_manager,
        """
async def main():
    scopes = await connected()
    heard = asyncio.get_running_loop().create_future()
    scopes.on_removed(lambda unit: unit == UNIT and not heard.done() and heard.set_result(unit))
    child = process()
    await scopes.start(UNIT, child.pid, "tried", Limits(), 1.0)
    child.kill()
    child.wait()
    return await asyncio.wait_for(heard, 10)
""",
    )
    assert found == "omega-session-tried.scope"


@pytest.mark.parametrize("restart", ["daemon-reexec", "daemon-reload"])
@pytest.mark.parametrize("bus", ["session bus", "private socket"])
def test_manager_may_be_restarted(user_manager: UserManager, restart: str, bus: str) -> None:
    """After daemon-reexec and daemon-reload scopes are started and stopped as before, with a session bus or without."""
    env = {"PRIVATE": "1"} if bus == "private socket" else {}
    found = _inside(
        user_manager,
        f"""
async def main():
    manager = dict(os.environ)
    if "PRIVATE" in os.environ:
        del os.environ["DBUS_SESSION_BUS_ADDRESS"]
        os.environ["XDG_RUNTIME_DIR"] = os.environ["HOME"] + "/runtime"
        os.makedirs(os.environ["XDG_RUNTIME_DIR"])
        os.symlink(manager["XDG_RUNTIME_DIR"] + "/systemd", os.environ["XDG_RUNTIME_DIR"] + "/systemd")
    scopes = await connected()
    subprocess.run(["systemctl", "--user", "{restart}"], env=manager, check=True)
    child = process()
    await scopes.start(UNIT, child.pid, "tried", Limits(), 1.0)
    inside = UNIT in cgroup_of(child.pid)
    await scopes.stop(UNIT)
    return [inside, child.wait(10)]
""",
        env,
    )
    assert found == [True, -15]


def test_dead_process_is_no_scope(user_manager: UserManager) -> None:
    """A process that is gone already is refused in words."""
    found = _inside(
        user_manager,
        """
async def main():
    scopes = await connected()
    child = process("true")
    child.wait()
    try:
        await scopes.start(UNIT, child.pid, "tried", Limits(), 1.0)
    except HostFailed as error:
        return error.message
""",
    )
    assert "systemd did not make the scope omega-session-tried.scope" in found


def test_usage_comes_from_the_scope(limiting_manager: UserManager) -> None:
    """Memory, its peak and tasks of a scope are read from its cgroup, CPU time from there or its processes."""
    found = _inside(
        limiting_manager,
        """
from omega_sessiond.usage import sample
async def main():
    scopes = await connected()
    code = "input(); x = bytearray(40 << 20); sum(range(3000000)); print(1, flush=True); input()"
    child = subprocess.Popen([sys.executable, "-c", code], start_new_session=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    await scopes.start(UNIT, child.pid, "tried", Limits(256 << 20, 50), 1.0)
    child.stdin.write(b"\\n")  # what it has before the scope is charged elsewhere
    child.stdin.flush()
    child.stdout.readline()
    usage = sample(child.pid)
    child.communicate(b"\\n")
    return [usage.source, usage.memory_bytes, usage.memory_peak_bytes, usage.tasks, usage.cpu_s]
""",
    )
    source, memory, peak, tasks, cpu_s = found
    assert source == "cgroup"
    assert 30 << 20 < memory <= peak < 256 << 20
    assert tasks == 1
    assert cpu_s > 0
