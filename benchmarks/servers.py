"""What is measured, as running programs in a temporary directory: the daemon, installed in a virtual environment of its
own, and the bare Tornado beside it. Both are given their listener and start in the same way, by the same interpreter,
and so do the sessions: what a machine's own site-packages add to each start of Python stays out of it.

Everything ends with its `with` block: processes by their pids, files with the directory.
"""

from __future__ import annotations

import compileall
import fcntl
import importlib.metadata
import importlib.util
import json
import os
import select
import shutil
import signal
import socket
import sysconfig
import tempfile
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.driver import Client, RequestFailed

PACKAGE = Path(__file__).resolve().parent.parent / "omega_sessiond"
ECHO = Path(__file__).resolve().with_name("echo.py")

NEEDED = ("tornado", "msgspec", "sdnotify", "dbus_fast", "prompt_toolkit", "wcwidth", "pygments", "cloudpickle")

MEMORY = "/dev/shm"

LISTENER_FD = 3
"""Where a program finds the socket it is given. Source: sd_listen_fds(3)."""

END_S = 15.0
"""A process that has not followed SIGTERM by then is killed."""


class Process:
    """A child started with as little as possible between the call and its first instruction."""

    def __init__(self, argv: list[str], env: Mapping[str, str], listener: socket.socket, log: Path) -> None:
        self._log = log
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        # Above the numbers it is copied to: copied onto itself it would be closed at exec.
        high = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD_CLOEXEC, 10)
        try:
            self.pid = os.posix_spawn(
                "/bin/sh",
                # LISTEN_PID is the pid of whoever may take the descriptors, which nobody knows before.
                ["sh", "-c", 'LISTEN_PID=$$ exec "$0" "$@"', *argv],
                {**env, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "api"},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, output, 1),
                    (os.POSIX_SPAWN_DUP2, output, 2),
                    (os.POSIX_SPAWN_DUP2, high, LISTENER_FD),
                ],
            )
        finally:
            os.close(output)
            os.close(high)

    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")[-2000:]

    def end(self) -> None:
        """SIGTERM, then SIGKILL."""
        os.kill(self.pid, signal.SIGTERM)
        descriptor = os.pidfd_open(self.pid)
        try:
            if not _ends(descriptor, END_S):
                signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        finally:
            os.close(descriptor)
        os.waitpid(self.pid, 0)


def _ends(pidfd: int, timeout_s: float) -> bool:
    return bool(select.select([pidfd], [], [], timeout_s)[0])


class Site:
    """A temporary directory with the package as an installation has it, and a home of its own for what it runs."""

    def __init__(self) -> None:
        # Short, directly in /tmp: a Unix socket's path has 107 bytes.
        self.base = Path(tempfile.mkdtemp(prefix="ob", dir="/tmp"))
        # In memory, as it is on every system with a user manager.
        self.runtime = Path(tempfile.mkdtemp(prefix="ob", dir=MEMORY if os.access(MEMORY, os.W_OK) else self.base))
        self.api_socket = self.runtime / "omega-sessiond" / "api.sock"
        self.echo_socket = self.base / "echo.sock"
        self.env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": str(self.base / "home"),
            "XDG_STATE_HOME": str(self.base / "state"),
            "XDG_CONFIG_HOME": str(self.base / "config"),
            "XDG_RUNTIME_DIR": str(self.runtime),
        }
        try:
            self.python = self._install()
            self.client_command = self._client_command()
            shutil.copy(ECHO, self.base / "echo.py")
            for directory in (*(self.base / name for name in ("home", "state", "config")), self.api_socket.parent):
                directory.mkdir(mode=0o700)
            settings = self.base / "config" / "omega-sessiond" / "config.toml"
            settings.parent.mkdir(mode=0o700)
            settings.write_text(f'python = "{self.python}"\n')
        except BaseException:
            self.close()
            raise

    def _install(self) -> str:
        """Make a virtual environment with our package, compiled, and links to what it needs; its interpreter."""
        home = self.base / "venv"
        venv.create(home, symlinks=True)
        library = Path(sysconfig.get_path("purelib", vars={"base": str(home)}))
        ours = library / "omega_sessiond"
        shutil.copytree(PACKAGE, ours, ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(ours, quiet=2)
        self.library = library
        self.lend(*NEEDED)
        return str(home / "bin" / "python")

    def lend(self, *names: str, metadata: str = "") -> None:
        """Link packages of our own environment into the one that is measured, and the `metadata` of one distribution,
        which says what it offers to others."""
        files = (importlib.metadata.files(metadata) or []) if metadata else []
        for described in {Path(file.locate()).parent for file in files if file.name == "METADATA"}:
            if not (self.library / described.name).exists():
                (self.library / described.name).symlink_to(described)
        for name in names:
            spec = importlib.util.find_spec(name)
            assert spec is not None and spec.origin is not None, name
            origin = Path(spec.origin)
            source = origin.parent if origin.name == "__init__.py" else origin
            if not (self.library / source.name).exists():
                (self.library / source.name).symlink_to(source)

    def _client_command(self) -> str:
        """omegactl as install.sh writes it."""
        path = self.base / "omegactl"
        path.write_text(
            f"#!{self.python} -IS\nimport sys\n\nsys.path.append({str(self.library)!r})\n"
            "from omega_sessiond.shortcut import main\n\nsys.exit(main())\n"
        )
        path.chmod(0o755)
        return str(path)

    def listener(self, path: Path) -> socket.socket:
        path.unlink(missing_ok=True)
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            bound.bind(str(path))
            path.chmod(0o600)
            bound.listen(4096)
        except BaseException:
            bound.close()
            raise
        return bound

    def spawn_daemon(self, *, scopes: bool = False, settings: Mapping[str, str] | None = None) -> Process:
        """Start the daemon, with `settings` in its environment; with `scopes` it may ask the user manager of whoever
        runs this."""
        env = self.env | dict(settings or {}) | ({"DBUS_SESSION_BUS_ADDRESS": bus_address()} if scopes else {})
        with self.listener(self.api_socket) as listener:
            return Process([self.python, "-I", "-m", "omega_sessiond"], env, listener, self.base / "daemon.log")

    def spawn_echo(self) -> Process:
        with self.listener(self.echo_socket) as listener:
            return Process([self.python, "-I", str(self.base / "echo.py")], self.env, listener, self.base / "echo.log")

    @contextmanager
    def echo(self) -> Iterator[str]:
        """A running echo; the path of its socket."""
        process = self.spawn_echo()
        try:
            with Client(str(self.echo_socket)) as client:
                client.ask("POST", "/echo", b"{}")
            yield str(self.echo_socket)
        except RequestFailed as error:
            raise RequestFailed(f"{error}\n{process.log()}") from error
        finally:
            process.end()

    @contextmanager
    def daemon(self, *, scopes: bool = False, settings: Mapping[str, str] | None = None) -> Iterator[str]:
        """A running daemon; the path of its socket. Its sessions are deleted at the end."""
        process = self.spawn_daemon(scopes=scopes, settings=settings)
        try:
            with Client(str(self.api_socket)) as client:
                client.ask("GET", "/api/health")
            yield str(self.api_socket)
            delete_sessions(str(self.api_socket))
        except RequestFailed as error:
            raise RequestFailed(f"{error}\n{process.log()}") from error
        finally:
            process.end()

    def _left(self) -> list[int]:
        """Processes started from here that still run: they have our path in their arguments."""
        mark = os.fsencode(f"{self.base}/")
        found = []
        for entry in os.scandir("/proc"):
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if mark in Path(entry.path, "cmdline").read_bytes():
                        found.append(int(entry.name))
                except OSError:
                    continue  # gone meanwhile
        return found

    def close(self) -> None:
        """End what is left (after a failure: hosts outlive their daemon) and remove the directory."""
        for pid in self._left():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.base, ignore_errors=True)
        shutil.rmtree(self.runtime, ignore_errors=True)

    def __enter__(self) -> Site:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def bus_address() -> str:
    """Where the session bus of whoever runs this would be; "" without a place for one."""
    address = os.environ.get("DBUS_SESSION_BUS_ADDRESS", "")
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if not address and runtime and os.path.exists(f"{runtime}/bus"):
        address = f"unix:path={runtime}/bus"
    return address


def sessions(path: str) -> list[dict[str, Any]]:
    with Client(path) as client:
        found: list[dict[str, Any]] = json.loads(client.ask("GET", "/api/sessions"))
        return found


def delete_sessions(path: str) -> None:
    for session in sessions(path):
        with Client(path) as client:
            client.ask("DELETE", f"/api/sessions/{session['name']}")
