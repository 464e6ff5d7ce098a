"""Plays the daemon to a real host process, over its real sockets: birth, hello, commands, acknowledgements.

Frames are plain dicts, so that a test sees what is on the wire. Every wait has a deadline and says what it waited for.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from omega_sessiond import wire

MAIN = Path(__file__).resolve().parent.parent / "omega_sessiond" / "hosts" / "main.py"
SESSION = "abcdefgh1234"
WAIT_S = 30.0
"""How long anything here may take: far more than it ever does, so that only a hang fails."""

Frame = dict[str, Any]


class Silence(AssertionError):
    """What was waited for did not come."""


def until(condition: Callable[[], Any], what: str) -> Any:
    """The condition's value as soon as it is true."""
    deadline = time.monotonic() + WAIT_S
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise Silence(f"waited in vain for {what}")
        time.sleep(0.002)
    return value


@dataclass
class Run:
    """What came of one command."""

    result: Frame
    frames: list[Frame] = field(default_factory=list)

    def stream(self, *names: str) -> str:
        return "".join(frame["text"] for frame in self.outputs if frame["s"] in names)

    @property
    def outputs(self) -> list[Frame]:
        return [frame for frame in self.frames if frame["t"] == "output" and frame["id"] == self.result["id"]]

    @property
    def output(self) -> str:
        return "".join(frame["text"] for frame in self.outputs)

    @property
    def stdout(self) -> str:
        return self.stream("stdout")

    @property
    def stderr(self) -> str:
        return self.stream("stderr")

    @property
    def value(self) -> str | None:
        """The displayed value, as a client would show it."""
        return self.stream("result").removesuffix("\n") if self.result.get("displayed") else None

    @property
    def parts(self) -> list[Frame]:
        """The rich parts in order: their first frames, with `bytes` put together from all."""
        found: dict[int, Frame] = {}
        for frame in self.frames:
            if frame["t"] == "data":
                part = found.setdefault(frame["n"], {**frame, "bytes": b""})
                assert len(part["bytes"]) == frame.get("off", 0)
                part["bytes"] += b64decode(frame.get("body", ""))
        return list(found.values())

    @property
    def traceback(self) -> str:
        return self.stream("traceback")

    @property
    def status(self) -> str:
        return str(self.result["status"])


class Daemon:
    """One daemon's two connections. Numbered frames are collected in `frames`, in order."""

    def __init__(
        self, path: str, have: int = 0, session: str = SESSION, wire_number: int = wire.WIRE, **terms: Any
    ) -> None:
        self.frames: list[Frame] = []
        self.have = have
        self.closed = False
        self._read = 0
        self._splitter = wire.Splitter()
        self.command: socket.socket | None = None
        self.control = connect(path)
        try:
            hello = {"t": "hello", "role": "control", "wire": wire_number, "session": session, "have": have, **terms}
            self.control.sendall(wire.pack(hello))
            self.hello = receive(self.control)
            if wire_number == wire.WIRE:
                self.command = connect(path)
                hello = {"t": "hello", "role": "command", "wire": wire.WIRE, "session": session}
                self.command.sendall(wire.pack(hello))
        except BaseException:
            self.close()
            raise

    # ---- speaking ----

    def send(self, kind: str, **fields: Any) -> None:
        assert self.command is not None
        self.command.sendall(wire.pack({"t": kind, **fields}))

    def tell(self, kind: str, **fields: Any) -> None:
        self.control.sendall(wire.pack({"t": kind, **fields}))

    def ask(self, kind: str, **fields: Any) -> Frame:
        """A question and the body of its answer."""
        self.send(kind, req=7, **fields)
        body: Frame = self.wait_for("reply")["body"]
        return body

    def acknowledge(self) -> None:
        numbered = [frame["seq"] for frame in self.frames if "seq" in frame]
        self.tell("ack", seq=numbered[-1] if numbered else self.have)

    # ---- listening ----

    def receive(self, timeout_s: float = WAIT_S) -> bool:
        """Read more frames; False when nothing came, or the connection ended."""
        assert self.command is not None
        if self.closed or not select.select([self.command], [], [], timeout_s)[0]:
            return False
        try:
            data = self.command.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        if not data:
            self.closed = True
            return False
        self.frames += [wire.unpack(body) for body in self._splitter.feed(data)]
        return True

    def following(self) -> Iterator[Frame]:
        """Frames not yet looked at by a wait, until nothing comes any more."""
        while True:
            while self._read < len(self.frames):
                self._read += 1
                yield self.frames[self._read - 1]
            if not self.receive():
                return

    def wait_for(self, kind: str, **fields: Any) -> Frame:
        """The next frame of this kind with these fields."""
        wanted = {"t": kind, **fields}
        for frame in self.following():
            if wanted.items() <= frame.items():
                return frame
        raise Silence(f"no {wanted}; the connection is {'closed' if self.closed else 'open'}; {self.frames[-5:]}")

    def wait_for_output(self, text: str, execution_id: int | None = None) -> str:
        """Until `text` has come as output (of this execution); everything that came of it so far."""
        seen: str = ""
        for frame in self.following():
            if frame["t"] == "output" and execution_id in (None, frame["id"]):
                seen += frame["text"]
                if text in seen:
                    return seen
        raise Silence(f"no output {text!r}, only {seen[-500:]!r}")

    def result(self, execution_id: int) -> Run:
        """What came of an execution, its frames from `took` on if they came by this connection."""
        result = self.wait_for("result", id=execution_id)
        return Run(result, [frame for frame in self.frames if frame.get("id") == execution_id])

    def is_shut_out(self) -> bool:
        """Whether the host ended both connections (waits for it)."""
        while self.receive():
            pass
        self.control.settimeout(WAIT_S)
        try:
            return self.closed and self.control.recv(1) == b""
        except ConnectionResetError:
            return self.closed

    def close(self) -> None:
        self.control.close()
        if self.command is not None:
            self.command.close()


class HostProcess:
    """A host in `directory`, started as the daemon starts it, with `files` in its working directory. `run` numbers
    its commands itself."""

    def __init__(
        self,
        directory: Path,
        *,
        python: str,
        engine: str = "python",
        kind: str = "python",
        options: Mapping[str, Any] = MappingProxyType({}),
        head_bytes: int = 1 << 28,
        tail_bytes: int = 1 << 20,
        data_bytes: int | None = 1 << 26,
        nofile: list[int] | None = None,
        env: dict[str, str] | None = None,
        files: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.directory = directory
        self.socket_path = str(directory / "host.sock")
        self.log = str(directory / "frames.log")
        self.trouble_path = directory / "trouble.log"
        self.birth_path = directory / "birth.log"
        self.work = directory / "work"
        self.work.mkdir()
        for name, text in files.items():
            (self.work / name).write_text(text)
        self.daemons: list[Daemon] = []
        self.last_id = 0
        launch = {
            "session": SESSION,
            "name": "test",
            "engine": engine,
            "kind": kind,
            "options": dict(options),
            "log": self.log,
            "head_bytes": head_bytes,
            "tail_bytes": tail_bytes,
            "data_bytes": data_bytes,
            "nofile": nofile,
            "env": {},
            "cwd": str(self.work),
            "python": python,
        }
        if data_bytes is None:  # as a version wrote it that knew no rich data
            del launch["data_bytes"]
        file = directory / "launch.json"
        file.write_text(json.dumps(launch))
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(self.socket_path)
        listener.listen(16)
        with listener, open(self.birth_path, "wb") as birth, open(self.trouble_path, "ab") as trouble:
            descriptors = (listener.fileno(), trouble.fileno())
            self.process = subprocess.Popen(
                [python, str(MAIN), str(file), *map(str, descriptors)],
                stdin=subprocess.DEVNULL,
                stdout=birth,
                stderr=birth,
                cwd=self.work,
                env=dict(os.environ) if env is None else env,
                pass_fds=descriptors,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def trouble(self) -> str:
        return self.trouble_path.read_text()

    @property
    def log_frames(self) -> list[Frame]:
        return list(wire.read_log(self.log))

    @property
    def daemon(self) -> Daemon:
        """The daemon that came last; the first one comes by itself."""
        return self.daemons[-1] if self.daemons else self.connect()

    def connect(self, have: int = 0, **fields: Any) -> Daemon:
        """A new daemon, which has all frames up to `have`."""
        try:
            daemon = Daemon(self.socket_path, have, **fields)
        except (OSError, Silence) as error:
            raise Silence(f"no hello: {error!r}; {self.birth_path.read_text()} {self.trouble}") from error
        self.daemons.append(daemon)
        return daemon

    def start(self, code: str) -> int:
        """Send a command; its execution's id."""
        self.last_id += 1
        self.daemon.send("execute", id=self.last_id, code=code)
        return self.last_id

    def run(self, code: str) -> Run:
        """Send a command and wait for its result."""
        return self.daemon.result(self.start(code))

    def interrupt(self) -> None:
        """^C, as at a terminal."""
        os.killpg(self.pid, signal.SIGINT)

    def wait(self) -> int:
        return self.process.wait(WAIT_S)

    def tasks(self) -> dict[int, int]:
        """The host's threads, and how often each went to sleep by itself."""
        return {
            task: int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])
            for task, status in self._of_tasks("status").items()
        }

    def is_asleep(self) -> bool:
        """Whether every thread of the host waits for something."""
        return all(stat.rpartition(")")[2].split()[0] == "S" for stat in self._of_tasks("stat").values())

    def _of_tasks(self, file: str) -> dict[int, str]:
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            try:
                found[int(task.name)] = (task / file).read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it ended while we looked
        return found

    def close(self) -> None:
        for daemon in self.daemons:
            daemon.close()
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()


def connect(path: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection


def receive(connection: socket.socket) -> Frame:
    """One frame from a fresh connection; Silence if it is closed instead."""
    connection.settimeout(WAIT_S)
    data = b""
    splitter = wire.Splitter()
    while True:
        data = connection.recv(65536)
        if not data:
            raise Silence("the host closed the connection")
        for body in splitter.feed(data):
            connection.settimeout(None)
            return wire.unpack(body)


def base_python() -> str:
    """The interpreter behind this one's environment, as sessions get it that name none."""
    return getattr(sys, "_base_executable", "") or sys.executable


def _find_interpreters() -> dict[str, str]:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found: dict[str, str] = {}
    for version in ("3.9", "3.10", "3.11", "3.12", "3.13", "3.14"):
        installed = sorted(map(str, pyenv.glob(f"{version}.*/bin/python3")))
        for candidate in (shutil.which(f"python{version}"), *reversed(installed)):
            if candidate is not None and _answers(candidate, version):
                found[version] = candidate
                break
    found["default"] = base_python()
    return found


def _answers(python: str, version: str) -> bool:
    ask = "import sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-c", ask], capture_output=True, text=True, timeout=WAIT_S)
    except OSError:
        return False
    return answer.stdout.strip() == version


INTERPRETERS = _find_interpreters()
"""Every Python of this machine that can carry a session, by version; the default one once more, by that name."""


class Hosts:
    """Starts hosts below a directory, and ends them together."""

    def __init__(self, base: Path) -> None:
        self._base = base
        self.started: list[HostProcess] = []

    def __call__(self, *, python: str = INTERPRETERS["default"], **fields: Any) -> HostProcess:
        directory = self._base / str(len(self.started))
        directory.mkdir()
        host = HostProcess(directory, python=python, **fields)
        self.started.append(host)
        return host

    def close(self) -> None:
        for host in self.started:
            host.close()
