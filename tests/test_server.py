"""The daemon's life from outside: how it starts, what it needs, when and how it leaves, and that nothing is lost."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from daemon import CHECKOUT, Daemon, wait_until
from isolation import Place
from omega_sessiond import ownership
from omega_sessiond.errors import AlreadyRunning

MIB = 1024 * 1024


# ---- starts ----


@pytest.mark.parametrize("how", ["foreground", "client", "systemd"])
def test_daemon_serves_and_remembers(place: Place, how: Any) -> None:
    """However it is started it says so, runs commands in a session's context, and exits 0 on SIGTERM."""
    with Daemon(place, how=how) as daemon:
        assert daemon.get("/api/server").json["activation"] == how
        assert daemon.execute("work", "x = 41")["status"] == "ok"
        assert daemon.execute("work", "x + 1")["result"] == "42"
        assert daemon.stop() == 0
        assert Path(daemon.socket_path).exists() is (how == "systemd"), "the socket file is systemd's, or goes with us"


@pytest.mark.parametrize("how", ["foreground", "client", "systemd"])
@pytest.mark.parametrize("end", ["stop", "kill9"])
def test_sessions_outlive_the_daemon(place: Place, how: Any, end: str) -> None:
    """After a stop and after kill -9 the next daemon has the session, its variables and its history."""
    with Daemon(place, how=how) as daemon:
        before = daemon.execute("work", "import os; x = 41; os.getpid()")
        getattr(daemon, end)()
        daemon.start()
        after = daemon.execute("work", "x + 1, os.getpid()")
        assert after["result"] == f"(42, {before['result']})"
        assert [found["id"] for found in daemon.get("/api/sessions/work/executions").json] == [
            before["id"],
            after["id"],
        ]


def test_everything_is_private(place: Place) -> None:
    """What the daemon makes is for its user alone, whatever the umask; sessions keep the user's umask."""
    before = os.umask(0o002)
    try:
        with Daemon(place) as daemon:
            assert daemon.execute("work", "import os; old = os.umask(0o77); old")["result"] == str(0o002)
            for path in [*place.state_dir.rglob("*"), *(place.runtime_dir / "omega-sessiond").rglob("*")]:
                assert path.lstat().st_mode & 0o077 == 0, path
    finally:
        os.umask(before)


def test_descriptor_limit_is_raised_for_the_daemon_alone(place: Place) -> None:
    """The daemon may have as many descriptors as the hard limit allows; a session keeps the user's soft limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = min(soft, 512)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, hard))
    try:
        with Daemon(place) as daemon:
            limits = Path(f"/proc/{daemon.pid}/limits").read_text()
            (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
            assert int(line.split()[3]) == min(hard, 1 << 20)
            code = "import resource; resource.getrlimit(resource.RLIMIT_NOFILE)[0]"
            assert daemon.execute("work", code)["result"] == str(lowered)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_sessions_inherit_nothing_of_the_daemon(place: Place) -> None:
    """A session's process has none of the daemon's descriptors and none of the variables meant for it."""
    env = {"NOTIFY_SOCKET": "/nonexistent", "WATCHDOG_USEC": "9"}
    with Daemon(place, how="client", env=env, log_may_have=("ResourceWarning",)) as daemon:
        code = "import os; [n for n in os.environ if n.startswith(('LISTEN_', 'OMEGA_', 'NOTIFY_', 'WATCHDOG_'))]"
        assert daemon.execute("work", code)["result"] == "[]"
        code = "fds = '/proc/self/fd/'; [os.readlink(fds + n) for n in os.listdir(fds) if os.path.lexists(fds + n)]"
        held = daemon.execute("work", code)["result"]
        assert "daemon.lock" not in held
        assert "journal.db" not in held
        daemon.kill9()
        daemon.start()  # the lock went with the daemon, whatever lives on


def test_stale_socket_is_replaced(place: Place) -> None:
    """A socket file that a killed daemon left does not keep the next one from starting."""
    with Daemon(place) as daemon:
        daemon.kill9()
        assert Path(daemon.socket_path).exists()
        daemon.start()


def test_second_foreground_daemon_refuses(place: Place) -> None:
    """A second daemon by hand exits 5, names the pid of the first, and does it no harm."""
    with Daemon(place) as daemon:
        second = Daemon(place)
        second.log_path = place.base / "second.log"
        second.spawn()
        assert second.wait() == 5
        assert f"The daemon with pid {daemon.pid} holds" in second.log
        assert "omegactl service stop" in second.log
        assert daemon.get("/api/health").status == 200


def test_activated_daemon_takes_over(place: Place) -> None:
    """A daemon started by systemd asks the one that a client started to leave, and has its sessions."""
    with Daemon(place, how="client") as first:
        pid = first.execute("work", "import os; x = 5; os.getpid()")["result"]
        with Daemon(place, how="systemd") as second:  # binds the path anew, as systemd does
            assert first.wait() == 0
            assert second.get("/api/server").json["pid"] == second.pid
            assert second.execute("work", "x, os.getpid()")["result"] == f"(5, {pid})"
            assert Path(second.socket_path).exists(), "the first one took the second one's socket away"


def test_daemon_whose_socket_is_anothers_leaves(place: Place) -> None:
    """A daemon whose socket file was replaced notices, and leaves without touching the new one."""
    with Daemon(place, settings={"idle_exit_s": 8}) as daemon:
        os.unlink(daemon.socket_path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(daemon.socket_path)
            assert daemon.wait(60) == 0
            assert "is gone or another daemon's" in daemon.log
            assert Path(daemon.socket_path).exists()


_HOLDS_THE_LOCK = """
import fcntl, os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.path.insert(0, sys.argv[2])
from omega_sessiond.ownership import Lock
lock = Lock.take(sys.argv[1])
print("held", flush=True)
signal.pause()
"""


def _holder(place: Place, file: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _HOLDS_THE_LOCK, str(file), str(CHECKOUT)]
    holder = subprocess.Popen(command, env=place.env, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    return holder


def test_holder_that_does_not_leave_is_killed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that ignores the request to leave is killed when patience ends: it owns nothing."""
    monkeypatch.setattr(ownership, "PATIENCE_S", 0.1)
    file = place.base / "lock"
    with _holder(place, file) as holder:
        waited: list[None] = []
        lock = ownership.Lock.take_over(str(file), lambda: waited.append(None))
        assert holder.wait(30) == -9
        assert waited
        assert file.read_text().split()[0] == str(os.getpid())
        lock.release()


def test_lock_names_only_a_living_holder(place: Place) -> None:
    """A held lock whose file names a process of the past refuses without naming, or signalling, anyone."""
    file = place.base / "lock"
    with _holder(place, file) as holder:
        file.write_text(f"{os.getppid()} 1\n")
        with pytest.raises(AlreadyRunning, match="Another process holds"):
            ownership.Lock.take(str(file))
        holder.kill()


# ---- starts that must fail ----


def _refused_start(place: Place, status: int, *words: str, **options: Any) -> None:
    daemon = Daemon(place, **options)
    daemon.spawn()
    assert daemon.wait() == status, daemon.log
    for word in words:
        assert word in daemon.log
    assert "Traceback" not in daemon.log


def test_daemon_by_hand_leaves_systemds_socket_alone(place: Place) -> None:
    """Where systemd listens for a daemon that does not run, one started by hand does not take the socket's place."""
    path = place.runtime_dir / "omega-sessiond" / "api.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()
        before = path.stat().st_ino
        _refused_start(place, 5, "systemd listens on", "'omegactl service stop'")
        assert path.stat().st_ino == before
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()  # and it was not called either


def _open_to_others(directory: Path) -> None:
    directory.mkdir(mode=0o755)


def _link(directory: Path) -> None:
    directory.symlink_to("/var/tmp")


def _file(directory: Path) -> None:
    directory.touch()


def _foreign(directory: Path) -> None:
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (_open_to_others, ("is open to others (mode 0755)", "chmod 700")),
        (_link, ("is a symbolic link", "Remove the link")),
        (_file, ("is not a directory",)),
        pytest.param(
            _foreign,
            ("belongs to uid 65534", "su or sudo"),
            marks=pytest.mark.skipif(os.getuid() != 0, reason="only root can give a directory away"),
        ),
    ],
)
@pytest.mark.parametrize("which", ["runtime", "state"])
def test_directory_that_is_not_ours_alone(
    place: Place, make: Callable[[Path], None], words: tuple[str, ...], which: str
) -> None:
    """A runtime or state directory with the wrong owner, mode or kind ends the start with the remedy."""
    directory = place.runtime_dir / "omega-sessiond" if which == "runtime" else place.state_dir
    make(directory)
    _refused_start(place, 3, str(directory), *words)


def test_path_that_is_too_long_for_a_socket(place: Place) -> None:
    """A socket path over the system's limit is reported with its length and what to set."""
    long = place.base / ("l" * 90)
    long.mkdir(mode=0o700)
    _refused_start(place, 3, "107 is the system's limit", "Set XDG_RUNTIME_DIR", env={"XDG_RUNTIME_DIR": str(long)})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("idle_exit = 5", ("Unknown setting 'idle_exit'", "Did you mean 'idle_exit_s'?")),
        ('max_queue = "many"', ("Setting 'max_queue'", "config.toml")),
        ("max_queue = ", ("is not TOML",)),
    ],
)
def test_wrong_settings(place: Place, text: str, words: tuple[str, ...]) -> None:
    """A settings file with an unknown key, a wrong type or no TOML ends the start and names the place."""
    file = place.config_home / "omega-sessiond" / "config.toml"
    file.parent.mkdir()
    file.write_text(text)
    _refused_start(place, 2, *words)


def test_wrong_environment_setting(place: Place) -> None:
    """A variable with a wrong value is named."""
    _refused_start(place, 2, "SAVE_INTERVAL_MS", env={"SAVE_INTERVAL_MS": "often"})


def test_broken_journal(place: Place) -> None:
    """A journal that is no database ends the start, is left as it is, and the log says what to do."""
    place.state_dir.mkdir(mode=0o700)
    journal = place.state_dir / "journal.db"
    journal.write_bytes(b"this was a database once" * 1000)
    _refused_start(place, 125, "journal.db", "recover")
    assert journal.read_bytes() == b"this was a database once" * 1000


def test_taken_port(place: Place) -> None:
    """A TCP port that another program has is named with the setting to change."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        words = (f"Cannot listen on 127.0.0.1:{port}", "SESSION_SERVER_PORT")
        _refused_start(place, 2, *words, arguments=("--tcp",), env={"SESSION_SERVER_PORT": port})


# ---- what systemd is told ----


def test_systemd_hears_of_every_step(place: Place) -> None:
    """READY when it serves, STATUS when that changes, WATCHDOG in time, STOPPING when it leaves."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        path = str(place.base / "notify")
        heard.bind(path)
        heard.settimeout(30)
        messages: list[str] = []

        def until(wanted: str) -> None:
            while not any(wanted in message for message in messages):
                messages.append(heard.recv(4096).decode("ascii"))

        with Daemon(place, how="systemd", env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}) as daemon:
            until("READY=1")
            until("STATUS=Serving 0 sessions")
            daemon.execute("work", "1")
            until("STATUS=Serving 1 sessions, 0 busy")
            messages.clear()
            until("WATCHDOG=1")
            assert daemon.stop() == 0
            until("STOPPING=1")


@pytest.mark.parametrize("kind", ["journal", "file"])
def test_log_fits_where_it_goes(place: Place, kind: str) -> None:
    """Lines for the systemd journal carry a priority and no time, others a time; user text adds no line."""
    log = place.base / "daemon.log"
    log.touch()
    status = log.stat()
    env = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"} if kind == "journal" else {}
    with Daemon(place, env=env) as daemon:
        daemon.get("/api/%0A<3>faked")
        assert daemon.stop() == 0
        lines = daemon.log.splitlines()
        assert lines
        for line in lines:
            assert line.startswith(("<6>", "<7>")) if kind == "journal" else line.startswith("20"), line


# ---- leaving when idle ----


def test_idle_daemon_leaves_and_the_next_one_goes_on(place: Place) -> None:
    """After idle_exit_s without a request it exits 0; the session lives and the next daemon has it."""
    with Daemon(place, settings={"idle_exit_s": 0.2}) as daemon:
        pid = daemon.execute("work", "import os; x = 1; os.getpid()")["result"]
        assert daemon.wait() == 0
        assert "idle for 0.2 s; sessions go on" not in daemon.log.splitlines()[0]
        assert not Path(daemon.socket_path).exists()
        daemon.start()
        assert daemon.execute("work", "x, os.getpid()")["result"] == f"(1, {pid})"


@pytest.mark.parametrize("kind", ["execute", "detached", "stream"])
def test_work_keeps_it(place: Place, kind: str) -> None:
    """A waiting execute, a detached running command and a stream are no idleness; their end is its beginning."""
    with Daemon(place, settings={"idle_exit_s": 0.2}) as daemon:
        daemon.execute("work", "import time")
        began = time.monotonic()
        if kind == "execute":
            daemon.execute("work", "time.sleep(1.2)")
        elif kind == "detached":
            daemon.post("/api/sessions/work/execute", {"command": "time.sleep(1.2)", "wait_s": 0})
        else:
            with daemon.connect() as follower:
                follower.sendall(b"GET /api/events HTTP/1.1\r\n\r\n")
                follower.recv(100)
                assert daemon.process is not None
                with pytest.raises(subprocess.TimeoutExpired):
                    daemon.process.wait(1.2)
        assert daemon.wait() == 0
        assert time.monotonic() - began >= 1.2


def test_no_connection_is_lost_when_it_leaves(place: Place) -> None:
    """Clients that come again and again while activated daemons leave for idleness all get their answer."""
    with Daemon(place, how="systemd", settings={"idle_exit_s": 0.05}) as daemon:
        lives = _answer_everyone(daemon, clients=8, for_s=6.0)
        assert lives > 2, "the daemon hardly ever left: nothing was tried"


def _answer_everyone(daemon: Daemon, *, clients: int, for_s: float) -> int:
    """All clients at once, again and again, after pauses about as long as the idle time; a daemon is started whenever
    somebody waits for one. Answers how many there were."""
    end = time.monotonic() + for_s
    failures: list[BaseException] = []
    together = threading.Barrier(clients)
    lives = 0

    def client(number: int) -> None:
        turn = 0
        try:
            while time.monotonic() < end:
                together.wait(60)
                threading.Event().wait(0.04 + turn % 16 * 0.003 + number * 0.001)
                turn += 1
                with daemon.connect() as connection:
                    if number % 3 == 0:
                        threading.Event().wait(0.004)  # connected, and has not spoken yet
                    connection.sendall(b"GET /api/health HTTP/1.1\r\nConnection: close\r\n\r\n")
                    reply = connection.makefile("rb").read()
                assert b"200 OK" in reply, reply
        except (OSError, AssertionError) as error:
            failures.append(error)
        finally:
            together.abort()

    def run(number: int) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            client(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert daemon.process is not None
        assert daemon.listener is not None
        if daemon.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.process.wait(0.02)
        elif select.select([daemon.listener], [], [], 0.02)[0]:
            assert daemon.process.returncode == 0, daemon.log
            daemon.spawn()
            lives += 1
    for thread in threads:
        thread.join()
    assert not failures, failures
    return lives


# ---- being stopped ----


def test_stop_answers_who_waits(place: Place) -> None:
    """On SIGTERM a waiting execute is answered 202 with the execution; it ends, once, under the next daemon."""
    with Daemon(place) as daemon:
        daemon.execute("work", "import time")
        answers: list[Any] = []

        def wait() -> None:
            answers.append(daemon.post("/api/sessions/work/execute", {"command": "time.sleep(1); print('done')"}))

        waiting = threading.Thread(target=wait)
        waiting.start()
        wait_until(lambda: daemon.get("/api/sessions/work").json["state"] == "busy", "the command runs")
        assert daemon.stop() == 0
        waiting.join()
        (reply,) = answers
        assert reply.status == 202
        assert reply.headers["Connection"] == "close"
        daemon.start()
        done = daemon.get(f"/api/sessions/work/executions/{reply.json['id']}?wait_s=30").json
        assert (done["status"], done["output"]) == ("ok", "done\n")


def test_stop_ends_streams(place: Place) -> None:
    """A follower of events sees its stream end in order when the daemon leaves."""
    with Daemon(place) as daemon, daemon.connect() as follower:
        follower.sendall(b"GET /api/events HTTP/1.1\r\n\r\n")
        received = follower.recv(1000)
        daemon.post("/api/sessions", {"name": "work"})
        assert daemon.stop() == 0
        received += follower.makefile("rb").read()
        assert b"session_created" in received
        assert received.endswith(b"0\r\n\r\n")


def test_unread_stream_costs_no_memory(place: Place) -> None:
    """A follower that does not read holds up nobody, and the daemon collects nothing for it."""
    with Daemon(place) as daemon, daemon.connect() as follower:
        follower.sendall(b"GET /api/events?since=0 HTTP/1.1\r\n\r\n")
        assert follower.recv(10)
        before = _memory(daemon.pid)
        for _ in range(4):
            done = daemon.execute("work", "print('x' * (8 << 20))", max_output=100)
            assert done["status"] == "ok"
        assert _memory(daemon.pid) - before < 64 * MIB
        assert daemon.get("/api/health").status == 200


def _memory(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


def test_client_that_leaves_ends_its_stream(place: Place) -> None:
    """A follower that goes away is noticed without any event, and its descriptor is closed."""
    with Daemon(place, settings={"fork_server": False}) as daemon:
        daemon.get("/api/health")
        descriptors = Path(f"/proc/{daemon.pid}/fd")
        before = len(list(descriptors.iterdir()))
        with daemon.connect() as follower:
            follower.sendall(b"GET /api/events HTTP/1.1\r\n\r\n")
            follower.recv(1000)
        wait_until(lambda: len(list(descriptors.iterdir())) <= before, "the stream's descriptor is closed")


def test_hundred_first_requests_are_answered_by_one_daemon(place: Place) -> None:
    """A hundred clients that wait before the daemon starts all get their answer, from one pid."""
    daemon = Daemon(place, how="systemd")
    daemon.listener = None
    os.makedirs(os.path.dirname(daemon.socket_path), mode=0o700)
    daemon.listener = daemon._bound()
    waiting = [daemon.connect() for _ in range(100)]
    for connection in waiting:
        connection.sendall(b"GET /api/server HTTP/1.1\r\nConnection: close\r\n\r\n")
    with daemon:
        pids = set()
        for connection in waiting:
            reply = connection.makefile("rb").read()
            pids.add(json.loads(reply.partition(b"\r\n\r\n")[2])["pid"])
            connection.close()
        assert pids == {daemon.pid}


def test_text_reply_carries_the_rest_in_headers(place: Place) -> None:
    """Accept: text/plain answers the bare output, with id, status and what applies in ASCII headers."""
    with Daemon(place) as daemon:
        plain = {"Accept": "text/plain"}

        def run(command: str, **fields: object) -> Any:
            return daemon.post("/api/sessions/work/execute", {"command": command, **fields}, headers=plain)

        reply = run("print('Ω')")
        assert (reply.status, reply.body) == (200, "Ω\n".encode())
        assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Omega-Status"] == "ok"
        assert reply.headers["Omega-Session"] == "work"
        assert "Omega-Lost" not in reply.headers
        again = daemon.get(f"/api/sessions/work/executions/{reply.headers['Omega-Execution-Id']}", headers=plain)
        assert again.body == reply.body
        assert run("raise SystemExit(3)").headers["Omega-Should-Exit"] == "1"
        for accept, kind in (
            ("text/plain;q=0", "application/json"),
            ("application/json;q=0.1, text/plain;q=0.9", "text/plain"),
            ("text/plain;q=0.5, */*", "application/json"),
            ("application/*, text/plain;q=0.5", "application/json"),
        ):
            reply = daemon.post("/api/sessions/work/execute", {"command": "1"}, headers={"Accept": accept})
            assert reply.headers["Content-Type"].partition(";")[0] == kind
        assert json.loads(run("print('x' * 5000)", max_output=1000).headers["Omega-Truncated"])["omitted_bytes"] > 0
        daemon.post("/api/sessions/work/kill")
        assert json.loads(run("1").headers["Omega-Lost"])["variables"] == "all"
        assert run("import time; time.sleep(30)", wait_s=0).status == 202
        daemon.post("/api/sessions/work/kill", {"budget_s": 0})


def test_stream_of_an_execution_ends_with_all_of_it(place: Place) -> None:
    """Accept: application/x-ndjson answers the events as they happen; the last line has the execution."""
    with Daemon(place) as daemon:
        reply = daemon.post(
            "/api/sessions/work/execute", {"command": "print(1); 2"}, headers={"Accept": "application/x-ndjson"}
        )
        assert reply.headers["Content-Type"] == "application/x-ndjson"
        events = [json.loads(line) for line in reply.text.splitlines()]
        kinds = [event["kind"] for event in events]
        assert kinds[0] == "execution_queued"
        assert kinds[-1] == "execution_finished"
        assert "output" in kinds
        assert events[-1]["execution"]["output"] == "1\n2\n"
        assert [event["id"] for event in events] == sorted({event["id"] for event in events})
        refused = daemon.post(
            "/api/sessions/work/execute",
            {"command": "1", "wait_s": 1},
            headers={"Accept": "application/x-ndjson"},
        )
        assert (refused.status, refused.json["code"]) == (400, "invalid_field")


def test_create_is_carried_through_when_the_client_leaves(place: Place) -> None:
    """What changes a session is done whether or not the client stays for the answer."""
    with Daemon(place) as daemon:
        body = b'{"name": "work"}'
        with daemon.connect() as hasty:
            hasty.sendall(b"POST /api/sessions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            wait_until(lambda: daemon.get("/api/sessions/work").status == 200, "the session is being made")
        wait_until(lambda: daemon.get("/api/sessions/work").json["state"] == "idle", "the session is there")


def test_abandoned_by_all(place: Place) -> None:
    """on_disconnect=interrupt takes effect only when the last of the clients that share a key has left."""
    with Daemon(place) as daemon:
        daemon.execute("work", "import time")
        body = json.dumps({"command": "time.sleep(30)", "idempotency_key": "k", "on_disconnect": "interrupt"}).encode()
        request = b"POST /api/sessions/work/execute HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        first, second = daemon.connect(), daemon.connect()
        for client in (first, second):
            client.sendall(request)
            wait_until(lambda: daemon.get("/api/sessions/work").json["state"] == "busy", "the command runs")
        first.close()
        for _ in range(5):
            assert daemon.get("/api/sessions/work").json["state"] == "busy"
        second.close()
        (execution,) = [e for e in daemon.get("/api/sessions/work/executions").json if "sleep" in e["command"]]
        done = daemon.get(f"/api/sessions/work/executions/{execution['id']}?wait_s=30").json
        assert (done["status"], done["reason"]) == ("interrupted", "disconnect")


def test_keep_alive_serves_many(place: Place) -> None:
    """One connection serves request after request, and each answer has its length."""
    with Daemon(place) as daemon:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = daemon.connect()
        for _ in range(20):
            connection.request("GET", "/api/health")
            assert connection.getresponse().read() == b'{"status":"ok","detail":null}\n'
        connection.close()
