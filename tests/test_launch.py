"""Starting the daemon without systemd: exactly one, whoever asks at once, and clear words where none can be."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ctl import COMMAND, Omegactl, whatever_it_starts
from isolation import Place
from omega_sessiond import launch, paths
from omega_sessiond.client import Client, find_daemon
from omega_sessiond.errors import DaemonUnreachable, RuntimeDirError
from omega_sessiond.target import find
from stub import Stub, json_reply

CLIENTS = 20


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


def server(omegactl: Omegactl) -> dict[str, object]:
    done = omegactl("service", "status", "--json")
    assert done.code == 0, done
    found: dict[str, object] = json.loads(done.out)["server"]
    return found


# ---- one daemon ----


def test_first_command_starts_the_daemon(omegactl: Omegactl, place: Place) -> None:
    """Nothing runs; a command is answered, and a daemon started by a client is there, with its files its user's."""
    assert omegactl("ls").code == 0
    found = server(omegactl)
    assert found["activation"] == "client"
    assert (place.state_dir / "daemon.log").stat().st_mode & 0o777 == 0o600
    assert (place.runtime_dir / "omega-sessiond").stat().st_mode & 0o777 == 0o700
    assert (place.runtime_dir / "omega-sessiond" / "api.sock").stat().st_mode & 0o777 == 0o600
    stat = Path(f"/proc/{found['pid']}/stat").read_text().rsplit(")", 1)[1].split()
    assert int(stat[3]) == found["pid"], "a session of its own"
    assert os.readlink(f"/proc/{found['pid']}/cwd") == "/"


def test_clients_at_once_start_one_daemon(omegactl: Omegactl, place: Place) -> None:
    """Twenty clients at the same moment, in three rounds with a kill -9 between: all are answered, by one daemon."""
    for _ in range(3):
        clients = [omegactl.start("ls", "--json") for _ in range(CLIENTS)]
        ends = [client.communicate(timeout=60) for client in clients]
        assert [(client.returncode, out) for client, (out, _) in zip(clients, ends, strict=True)] == [
            (0, "[]\n")
        ] * CLIENTS, ends
        daemons = [pid for pid, command in place.processes().items() if "-m omega_sessiond" in command]
        assert daemons == [server(omegactl)["pid"]]
        os.kill(daemons[0], signal.SIGKILL)
        while launch.is_locked(str(place.state_dir)):
            os.sched_yield()


def test_daemon_gets_what_it_is_given_and_no_more(omegactl: Omegactl, place: Place) -> None:
    """Called with descriptors 3 to 6 taken and open to children, the client hands over listener and lock as 3 and 4,
    and nothing of its own."""
    taken = (
        "import os, sys\n"
        f"mine = os.open({str(place.home / 'mine')!r}, os.O_CREAT | os.O_RDWR)\n"
        "for number in (3, 4, 5, 6):\n"
        "    if number != mine: os.dup2(mine, number)\n"
        "os.set_inheritable(mine, True)\n"
        "os.execv(sys.argv[1], sys.argv[1:])\n"
    )
    subprocess.run([sys.executable, "-c", taken, *COMMAND, "ls"], env=place.env, close_fds=True, check=True)
    pid = server(omegactl)["pid"]
    links = {name: os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}
    assert links["4"] == str(place.state_dir / "daemon.lock")
    assert links["3"].startswith("socket:")
    assert links["0"] == "/dev/null"
    assert links["1"] == links["2"] == str(place.state_dir / "daemon.log")
    assert str(place.home / "mine") not in links.values()


def test_ignored_signals_are_not_inherited(omegactl: Omegactl, place: Place) -> None:
    """A background job of a shell ignores SIGINT; a daemon it starts does not, or no session could be interrupted."""
    script = 'trap "" INT QUIT HUP; exec "$@"'
    subprocess.run(["sh", "-c", script, "sh", *COMMAND, "ls"], env=place.env, check=True)
    status = Path(f"/proc/{server(omegactl)['pid']}/status").read_text()
    ignored = int(next(line.split()[1] for line in status.splitlines() if line.startswith("SigIgn")), 16)
    for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
        assert not ignored >> (number - 1) & 1


def test_service_manager_of_the_client_is_not_the_daemons(place: Place) -> None:
    """What tells a service about its own manager does not reach the daemon that it starts."""
    with whatever_it_starts(place) as omegactl:
        env = {"NOTIFY_SOCKET": "/run/none", "WATCHDOG_USEC": "1000", "INVOCATION_ID": "x", "LISTEN_FDS": "2"}
        assert omegactl("ls", env=env).code == 0
        environ = Path(f"/proc/{server(omegactl)['pid']}/environ").read_bytes().split(b"\0")
        names = {entry.partition(b"=")[0] for entry in environ}
        assert not names & {b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"INVOCATION_ID"}
        assert b"LISTEN_FDS=1" in environ


def test_stale_socket_is_replaced(omegactl: Omegactl, place: Place) -> None:
    """A socket file whose listener died is no obstacle."""
    path = place.runtime_dir / "omega-sessiond" / "api.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert omegactl("ls").code == 0


def test_relative_state_directory_is_the_callers(omegactl: Omegactl, place: Place) -> None:
    """SESSION_DIR relative to the caller's directory means that one, though the daemon works elsewhere."""
    assert omegactl("ls", env={"SESSION_DIR": "mine"}).code == 0
    assert (place.home / "mine" / "journal.db").exists()


def test_without_runtime_directory_the_state_directory_serves(omegactl: Omegactl, place: Place) -> None:
    """Where there is no XDG_RUNTIME_DIR the socket is in the state directory, never in a shared place."""
    assert omegactl("ls", env={"XDG_RUNTIME_DIR": ""}).code == 0
    assert (place.state_dir / "run" / "api.sock").exists()


def test_no_start_starts_nothing(omegactl: Omegactl, place: Place) -> None:
    """--no-start is an error where no daemon listens, and leaves nothing behind."""
    done = omegactl("--no-start", "ls")
    assert done.code == 3
    assert "No daemon listens" in done.err
    assert not place.state_dir.exists()


@pytest.mark.usefixtures("omegactl")
def test_held_lock_is_waited_for(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another client holds the lock, about to start the daemon, a client waits; when that gives up, it is
    next."""
    tried_twice = threading.Event()
    tries: list[int | None] = []
    take = launch._take_lock

    def watched(state_dir: str) -> int | None:
        tries.append(take(state_dir))
        if len(tries) == 2:
            tried_twice.set()
        return tries[-1]

    monkeypatch.setattr(launch, "_take_lock", watched)
    answers: list[object] = []

    def ask() -> None:
        with Client(find()) as client:
            answers.append(client.get("/api/sessions"))

    place.state_dir.mkdir(mode=0o700)
    client = threading.Thread(target=ask)
    with open(place.state_dir / "daemon.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client.start()
        assert tried_twice.wait(60)
        assert tries[:2] == [None, None]
        assert not (place.state_dir / "journal.db").exists()
    client.join()
    assert answers == [[]]


# ---- daemons that cannot run ----


def test_daemon_that_cannot_run_is_told_at_once(omegactl: Omegactl, place: Place) -> None:
    """Wrong settings end the daemon; the client says so in the daemon's words and does not try again."""
    file = place.config_home / "omega-sessiond" / "config.toml"
    file.parent.mkdir()
    file.write_text("max_queu = 3\n")
    done = omegactl("ls")
    assert done.code == 3
    assert "exit code 2" in done.err
    assert "max_queu" in done.err and "max_queue" in done.err
    assert (place.state_dir / "daemon.log").read_text().count("max_queu'") == 1


def crashing(place: Place, monkeypatch: pytest.MonkeyPatch, times: int) -> Path:
    """Daemons that die at once so many times, and then are real. The file has a line for each start."""
    counter = place.home / "starts"
    script = (
        f'echo x >> {counter}; if [ $(wc -l < {counter}) -le {times} ]; then echo "no luck today" >&2; kill -9 $$; fi; '
        f'exec "$@"'
    )
    monkeypatch.setattr(
        launch, "daemon_command", lambda: ["sh", "-c", script, "sh", sys.executable, "-I", "-m", "omega_sessiond"]
    )
    return counter


@pytest.mark.usefixtures("omegactl")
def test_broken_daemon_is_not_started_for_ever(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that dies at each start is started a few times, then reported with how it ended and its last words."""
    counter = crashing(place, monkeypatch, times=1000)
    with Client(find()) as client, pytest.raises(DaemonUnreachable) as caught:
        client.get("/api/health")
    assert "SIGKILL" in caught.value.message
    assert "no luck today" in caught.value.message
    assert counter.read_text().count("x") == launch.CRASHES_SHOWN


@pytest.mark.usefixtures("omegactl")
def test_daemon_that_crashes_and_recovers_fails_no_request(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few crashed starts are no failure of the request that waits."""
    counter = crashing(place, monkeypatch, times=launch.CRASHES_SHOWN - 1)
    with Client(find()) as client:
        assert client.get("/api/health")["status"] == "ok"
    assert counter.read_text().count("x") == launch.CRASHES_SHOWN


def given_away(path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give files away")
    path.mkdir(mode=0o700)
    os.chown(path, 12345, 12345)


@pytest.mark.parametrize(
    ("prepare", "words", "remedy"),
    [
        (lambda path: path.mkdir(mode=0o755), "mode 0755", "chmod 700"),
        (lambda path: path.write_text(""), "not a directory", "mv "),
        (lambda path: path.symlink_to("/tmp"), "not a directory", "mv "),
        (given_away, "another user", "removed"),
    ],
    ids=["mode", "file", "link", "owner"],
)
def test_runtime_directory_must_be_ours_alone(
    place: Place, prepare: Callable[[Path], None], words: str, remedy: str
) -> None:
    """A runtime directory that others could use is refused with the remedy, and nothing is started."""
    path = place.runtime_dir / "omega-sessiond"
    prepare(path)
    with Client(find()) as client, pytest.raises(RuntimeDirError) as caught:
        client.get("/api/health")
    assert words in caught.value.message
    assert remedy in caught.value.hint
    assert not place.processes()


# ---- where systemd runs it ----


def units(place: Place, monkeypatch: pytest.MonkeyPatch, socket_state: str, service_state: str, load: str) -> None:
    """A `systemctl` that knows our units in these states."""
    directory = place.home / "bin"
    directory.mkdir()
    shown = "\n\n".join(
        f"Id={name}\nLoadState={load}\nActiveState={state}\nSubState=x\nResult=y\nUnitFileState=enabled"
        for name, state in (("omega-sessiond.socket", socket_state), ("omega-sessiond.service", service_state))
    )
    command = directory / "systemctl"
    command.write_text(f"#!/bin/sh\ncat <<'END'\n{shown}\nEND\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    (place.runtime_dir / "systemd").mkdir()


@pytest.mark.parametrize(
    ("socket_state", "service_state", "words", "remedy"),
    [
        ("inactive", "inactive", "stopped", "omegactl service start"),
        ("failed", "failed", "has failed", "reset-failed"),
        ("active", "failed", "has failed", "reset-failed"),
        ("active", "inactive", "is gone", "restart omega-sessiond.socket"),
    ],
)
def test_where_systemd_runs_it_nothing_is_started(
    place: Place, monkeypatch: pytest.MonkeyPatch, socket_state: str, service_state: str, words: str, remedy: str
) -> None:
    """With the units installed the client starts no daemon: it says what state the service is in, and the way out."""
    units(place, monkeypatch, socket_state, service_state, "loaded")
    with Client(find()) as client, pytest.raises(DaemonUnreachable) as caught:
        client.get("/api/health")
    assert words in caught.value.message
    assert remedy in caught.value.hint
    assert not place.state_dir.exists()


def test_without_units_the_client_starts_it(omegactl: Omegactl, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user manager that does not have our units is no reason not to start."""
    units(place, monkeypatch, "inactive", "inactive", "not-found")
    with Client(find()) as client:
        assert client.get("/api/server")["activation"] == "client"


def test_other_state_directory_is_told_from_the_services(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service does not see SESSION_DIR of a shell: who means another directory than it serves is told both."""
    managed = Path(paths.api_socket(paths.default_state_dir()))
    monkeypatch.setenv("SESSION_DIR", "/other/place")
    units(place, monkeypatch, "active", "active", "loaded")
    with Stub(managed, json_reply({"state_dir": "/its/own"})), pytest.raises(DaemonUnreachable) as caught:
        find_daemon(find())
    assert "/its/own" in caught.value.message and "/other/place" in caught.value.message


def test_configured_state_directory_is_the_services_own(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """session_dir in the settings file moves the state, not systemd's socket: the client goes there."""
    managed = Path(paths.api_socket(paths.default_state_dir()))
    file = place.config_home / "omega-sessiond" / "config.toml"
    file.parent.mkdir()
    file.write_text('session_dir = "/other/place"\n')
    units(place, monkeypatch, "active", "active", "loaded")
    with Stub(managed, json_reply({"state_dir": "/other/place"})):
        assert find_daemon(find()).socket_path == str(managed)


# ---- the service commands ----


def test_service_commands_manage_the_background_daemon(omegactl: Omegactl) -> None:
    """Without systemd status, start, restart and stop do their work, and each says which way is in use."""
    said = "without systemd"
    status = omegactl("service", "status")
    assert (status.code, said in status.out) == (3, True)
    started = omegactl("service", "start")
    assert (started.code, said in started.err) == (0, True)
    first = server(omegactl)["pid"]
    assert omegactl("exec", "work", "-c", "x = 1").code == 0
    restarted = omegactl("service", "restart")
    assert (restarted.code, said in restarted.err) == (0, True)
    assert server(omegactl)["pid"] != first
    assert omegactl("exec", "work", "-c", "x").out == "1\n"
    status = omegactl("service", "status")
    assert (status.code, said in status.out) == (0, True)
    stopped = omegactl("service", "stop")
    assert (stopped.code, said in stopped.err) == (0, True)
    assert omegactl("service", "status").code == 3
    assert omegactl("service", "stop").code == 0
    enabled = omegactl("service", "enable")
    assert (enabled.code, said in enabled.err) == (5, True)


def test_service_stop_ends_sessions_when_asked(omegactl: Omegactl, place: Place) -> None:
    """`service stop` leaves the sessions' processes; with --sessions nothing is left."""
    assert omegactl("exec", "work", "-c", "x = 1").code == 0
    assert omegactl("service", "stop").code == 0
    assert any("hosts/main.py" in command for command in place.processes().values())
    assert omegactl("exec", "work", "-c", "x").out == "1\n"
    done = omegactl("service", "stop", "--sessions")
    assert (done.code, "Ended work" in done.err) == (0, True)
    assert not place.processes()
