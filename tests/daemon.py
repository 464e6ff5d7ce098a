"""The real daemon as a child process, on the directories of one test's Place.

    with Daemon(place) as daemon:
        reply = daemon.post("/api/sessions/work/execute", {"command": "1 + 1"})
        assert reply.json["result"] == "2"

Started in the foreground, or as a client starts it (`how="client"`: listener on fd 3, the locked file on fd 4), or as
systemd does (`how="systemd"`: a listener on fd 3 that this process keeps, like a socket unit). At the end the daemon is
stopped, the hosts it left are killed, and its log may hold neither a traceback nor a warning of Python's. Nothing here
sleeps for a fixed time.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from isolation import Place

CHECKOUT = Path(__file__).resolve().parent.parent

START_S = 30.0
"""A daemon is there in a fifth of a second; a machine that needs this long is stuck."""

# Moves the listener and the lock to 3 and 4 by way of high numbers (else one could land on the other), names itself in
# LISTEN_PID and becomes the daemon.
_HAND_OVER = """
import fcntl, os, sys
given = list(map(int, sys.argv[1].split(",")))
high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in given]
for target, source in enumerate(high, 3):
    os.dup2(source, target)
    os.close(source)
for fd in given:
    if fd >= 3 + len(given):
        os.close(fd)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[2], sys.argv[2:])
"""


class Reply:
    """An HTTP reply: unpacks into status, headers, body."""

    def __init__(self, status: int, headers: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def __iter__(self) -> Any:
        return iter((self.status, self.headers, self.body))

    def __repr__(self) -> str:
        return f"Reply({self.status}, {self.body[:2000]!r})"

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


class UnixConnection(http.client.HTTPConnection):
    """http.client on a Unix socket."""

    def __init__(self, path: str, timeout: float | None = 60) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = connected(self._path, self.timeout)


def connected(path: str, timeout: float | None = 60) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    found.settimeout(timeout)
    try:
        found.connect(path)
    except OSError:
        found.close()
        raise
    return found


def wait_until(condition: Callable[[], Any], what: str, timeout_s: float = 30) -> Any:
    """Ask until the condition holds, and return its value."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s} s: {what}")
        select.select([], [], [], 0.005)
    return value


def _toml(value: object) -> str:
    """A value as it stands in TOML, which differs from JSON in tables."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + "}"
    return json.dumps(value)


class Daemon:
    """One daemon and its successors on the same state directory.

    `settings` become the TOML file, `env` adds to its environment. `log_may_have` names what its log may hold that
    would fail the test otherwise.
    """

    def __init__(
        self,
        place: Place,
        *,
        how: Literal["foreground", "client", "systemd"] = "foreground",
        settings: Mapping[str, object] | None = None,
        env: Mapping[str, str] | None = None,
        arguments: tuple[str, ...] = (),
        log_may_have: tuple[str, ...] = (),
        python: str = sys.executable,
    ) -> None:
        self.place = place
        self.how = how
        self.env = {**place.env, "PYTHONPATH": str(CHECKOUT), "LOG_LEVEL": "debug", **(env or {})}
        if "save_interval_ms" not in (settings or {}):
            # When a session is saved in the background is a matter of time: tests that want it say so.
            self.env.setdefault("SAVE_INTERVAL_MS", "0")
        self.command = [python, "-W", "default", "-m", "omega_sessiond", *arguments]
        self.log_may_have = log_may_have
        self.socket_path = str(place.runtime_dir / "omega-sessiond" / "api.sock")
        self.lock_path = str(place.state_dir / "daemon.lock")
        self.log_path = place.base / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.listener: socket.socket | None = None
        if settings is not None:
            file = place.config_home / "omega-sessiond" / "config.toml"
            file.parent.mkdir(exist_ok=True)
            file.write_text("".join(f"{name} = {_toml(value)}\n" for name, value in settings.items()))

    # ---- life ----

    def __enter__(self) -> Daemon:
        self.start()
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.close(check_log=kind is None)

    def start(self) -> Daemon:
        """Start it and wait until it answers."""
        self.spawn()
        wait_until(self._answers, f"the daemon answers; its log:\n{self.log}", START_S)
        return self

    def spawn(self) -> subprocess.Popen[bytes]:
        """Start it and wait for nothing."""
        with open(self.log_path, "ab") as log:
            options: dict[str, Any] = {
                "stdin": subprocess.DEVNULL,
                "stdout": log,
                "stderr": log,
                "start_new_session": True,
                "cwd": "/",
            }
            if self.how == "client":
                self.process = self._spawn_as_client(options)
            elif self.how == "systemd":
                self.process = self._spawn_as_systemd(options)
            else:
                self.process = subprocess.Popen(self.command, env=self.env, **options)
        return self.process

    def _spawn_as_client(self, options: dict[str, Any]) -> subprocess.Popen[bytes]:
        os.makedirs(os.path.dirname(self.socket_path), mode=0o700, exist_ok=True)
        os.makedirs(os.path.dirname(self.lock_path), mode=0o700, exist_ok=True)
        lock = os.open(self.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._bound() as listener:
                env = {"OMEGA_LOCK_FD": "4", "OMEGA_ACTIVATION": "client"}
                return self._hand_over((listener.fileno(), lock), env, options)
        finally:
            os.close(lock)

    def _spawn_as_systemd(self, options: dict[str, Any]) -> subprocess.Popen[bytes]:
        if self.listener is None:
            os.makedirs(os.path.dirname(self.socket_path), mode=0o700, exist_ok=True)
            self.listener = self._bound()
        return self._hand_over((self.listener.fileno(),), {}, options)

    def _bound(self) -> socket.socket:
        """A new listener in the place of whatever is there, as systemd and clients make it."""
        Path(self.socket_path).unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(self.socket_path)
        finally:
            os.umask(before)
        listener.listen(4096)
        return listener

    def _hand_over(
        self, descriptors: tuple[int, ...], env: dict[str, str], options: dict[str, Any]
    ) -> subprocess.Popen[bytes]:
        env = {**self.env, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "api", **env}
        launcher = [sys.executable, "-IS", "-c", _HAND_OVER, ",".join(map(str, descriptors))]
        return subprocess.Popen([*launcher, *self.command], env=env, pass_fds=descriptors, **options)

    def _answers(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon exited with {self.process.returncode}:\n{self.log}")
        try:
            return self.get("/api/health").status == 200
        except (OSError, http.client.HTTPException):
            return False

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill9(self) -> None:
        """Kill it as nobody should, and wait for its end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        assert self.process is not None
        self.process.terminate()
        return self.wait()

    def wait(self, timeout_s: float = 30) -> int:
        """Its exit status, once it has left."""
        assert self.process is not None
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.send_signal(signal.SIGABRT)  # its stack goes to the log
            self.process.wait(30)
            raise AssertionError(f"the daemon did not leave:\n{self.log}") from None

    def restart(self) -> Daemon:
        assert self.stop() == 0, self.log
        return self.start()

    def close(self, *, check_log: bool = True) -> None:
        """Stop it, kill the hosts that live on by design, look through the log."""
        if self.process is not None and self.process.poll() is None:
            self.stop()
        if self.listener is not None:
            self.listener.close()
        for pid in self.place.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if check_log:
            self.check_log()

    def check_log(self) -> None:
        """No traceback, no warning of Python's, no error."""
        for line in self.log.splitlines():
            is_bad = any(mark in line for mark in ("Traceback", "Warning:", " error  ", " critical "))
            if is_bad and not any(known in line for known in self.log_may_have):
                raise AssertionError(f"the daemon's log has: {line}\n\n{self.log}")

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    # ---- requests ----

    def request(
        self,
        method: str,
        path: str,
        json_body: object = None,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = 60,
    ) -> Reply:
        """One request on a connection of its own."""
        if json_body is not None:
            body = json.dumps(json_body).encode()
        connection = UnixConnection(self.socket_path, timeout)
        try:
            connection.request(method, path, body=body, headers=dict(headers or {}))
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()

    def get(self, path: str, **options: Any) -> Reply:
        return self.request("GET", path, **options)

    def post(self, path: str, json_body: object = None, **options: Any) -> Reply:
        return self.request("POST", path, json_body, **options)

    def execute(self, name: str, command: str, **fields: object) -> Any:
        """Run a command; its execution. Fails unless the reply is 200."""
        reply = self.post(f"/api/sessions/{name}/execute", {"command": command, **fields})
        assert reply.status == 200, reply
        return reply.json

    def connect(self, timeout: float | None = 60) -> socket.socket:
        """A bare connection."""
        return connected(self.socket_path, timeout)

    def send(self, data: bytes, *, timeout: float | None = 60) -> bytes:
        """Send bytes as they are and read until the daemon closes."""
        with self.connect(timeout) as found:
            try:
                found.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused in the middle: what it said is still to be read
            received = bytearray()
            while chunk := found.recv(65536):
                received += chunk
            return bytes(received)
