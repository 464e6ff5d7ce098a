"""The daemon's grip on one host: birth, scope, connection, signals, the ladder that ends it, and how it died.

Knows processes, sockets and scopes; what the frames mean is the service's business.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from omega_sessiond import cgroups, eventloop, paths, wire
from omega_sessiond.birthplace import MAIN
from omega_sessiond.errors import CannotFork, HostFailed, OmegaError
from omega_sessiond.frames import Bye, HostFrame, HostHello
from omega_sessiond.link import Link, control_hello
from omega_sessiond.messages import Limits, Step, now
from omega_sessiond.nursery import Birth, Forked, Nursery
from omega_sessiond.process import Exit, Process, boot_id, start_time
from omega_sessiond.records import HostRecord

CREATED = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""How a file is made. Where a pipe has its name (the session's code put it there) nobody waits for a reader of it."""

REFILL_AFTER_S = 0.0005
"""How long after a host's first word the next spare is asked for: who waits for the session has his answer by then."""

ASK_SHARE, INTERRUPT_SHARE = 0.3, 0.6
"""When the ladder leaves its first and second rung, as shares of its time. SIGTERM has the rest."""


class Launch(Struct, frozen=True):
    """How a session's hosts are started, now and at every wake: kept in the session's directory, 0600, for it holds
    the user's environment."""

    session: str
    name: str
    engine: str
    python: str
    cwd: str
    env: dict[str, str]
    log: str
    head_bytes: int
    tail_bytes: int
    nofile: tuple[int, int] | None
    kind: Literal["python", "lines", "jupyter"] = "python"
    options: dict[str, Any] = {}
    data_bytes: int = 64 * 1024 * 1024

    @property
    def interpreter(self) -> list[str]:
        """What runs the host: the user's interpreter for Python, the daemon's own for what speaks to another program.
        That one is not the user's to configure by PYTHONPATH and its like."""
        return [self.python] if self.kind == "python" else [sys.executable, "-E"]

    def save(self, file: str) -> None:
        """Write to `file`, readable for the user alone. No session is recorded whose file is not whole."""
        data = msgspec.json.encode(self)
        descriptor = os.open(file, CREATED, 0o600)
        try:
            while data:
                data = data[os.write(descriptor, data) :]
        finally:
            os.close(descriptor)

    @classmethod
    def load(cls, file: str) -> Launch:
        try:
            with wire.open_plain(file) as stream:
                return msgspec.json.decode(stream.read(), type=cls)
        except (OSError, msgspec.DecodeError) as error:
            raise HostFailed(
                f"Cannot read how the session is started: {error}", hint="Delete the session and create it again."
            ) from None


class Scopes(Protocol):
    """What systemd.Scopes offers; None stands for a machine without it."""

    async def start(self, unit: str, pid: int, description: str, limits: Limits, stop_s: float) -> None: ...
    async def stop(self, unit: str) -> None: ...
    async def kill(self, unit: str, signum: int) -> None: ...
    async def set_limits(self, unit: str, limits: Limits) -> None: ...
    async def cgroup(self, unit: str) -> str | None: ...


class Death(Struct, frozen=True):
    """How a host ended and what its log still held. `reason` is for people."""

    reason: str
    code: Literal["exit", "killed", "out_of_memory", "left", "unknown"]


def left(bye: str) -> str:
    """What a host's last word means, for people."""
    if bye == wire.HIBERNATE:
        return "saved and put to sleep"
    return "ended in order by SIGTERM" if bye == "SIGTERM" else f"left: {bye}"


def unit_name(name: str, state_dir: str) -> str:
    """The scope of a session. Its name needs no escape: its grammar is within that of unit names (systemd.unit(5)),
    and ':', which it cannot hold, sets off the tag of another state directory."""
    tag = paths.tag(state_dir)
    return f"omega-session-{name}{':' + tag if tag else ''}.scope"


class Host:
    """One host process. Made by `birth` or `find`; `on_frames`, `on_lost` and `on_death` are called from the loop."""

    def __init__(self, process: Process, session_id: str, state_dir: str, scope: str, limits: Limits) -> None:
        self.process = process
        self.session_id = session_id
        self.scope = scope
        self.limits = limits
        self.hello: HostHello | None = None
        self.bye: str | None = None
        self.terms: dict[str, object] = {}
        """How it may save itself: said at each connection."""
        self.on_frames: Callable[[list[HostFrame]], object] = lambda frames: None
        self.on_lost: Callable[[str], None] = lambda reason: None
        self.on_death: Callable[[Exit], None] = lambda exit: None
        self._socket_path = paths.host_socket(state_dir, session_id)
        self._link: Link | None = None
        self._questions: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._last_question = 0
        self._deaf_since = 0.0
        self._was_put_down = False
        self._forked: Forked | None = None
        process.watch(self._died)

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def speaks_our_wire(self) -> bool:
        return self.hello is not None and self.hello.wire == wire.WIRE

    # ---- birth and adoption ----

    @classmethod
    async def birth(
        cls,
        launch: Launch,
        state_dir: str,
        trouble_fd: int,
        umask: int,
        limits: Limits,
        terms: dict[str, object],
        nursery: Nursery,
    ) -> Host:
        """Fork the process, or start it. Raises HostFailed when the interpreter or the directory cannot be used."""
        _clear_place(launch, state_dir)
        with _birth(launch, state_dir, trouble_fd, umask, terms) as birth:
            forked = await nursery.fork(birth)
            process = _start(birth) if forked is None else forked.process
        return cls._born(process, forked, launch, state_dir, limits)

    @classmethod
    def of_spare(
        cls,
        launch: Launch,
        state_dir: str,
        trouble_fd: int,
        umask: int,
        limits: Limits,
        terms: dict[str, object],
        nursery: Nursery,
    ) -> Host | None:
        """As `birth`, at once and in a place where nothing was yet: None where nothing waits to become it. Raises
        HostFailed."""
        if not nursery.has_spare:
            return None
        with _birth(launch, state_dir, trouble_fd, umask, terms) as birth:
            forked = nursery.fork_at_once(birth)
        return None if forked is None else cls._born(forked.process, forked, launch, state_dir, limits)

    @classmethod
    def _born(cls, process: Process, forked: Forked | None, launch: Launch, state_dir: str, limits: Limits) -> Host:
        host = cls(process, launch.session, state_dir, "", limits)
        host._forked = forked
        return host

    @classmethod
    def find(
        cls, session_id: str, state_dir: str, pid: int, started: int, boot: str, scope: str, limits: Limits
    ) -> Host | None:
        """The host that an earlier daemon left, if it still lives."""
        process = Process.find(pid, started, boot)
        return None if process is None else cls(process, session_id, state_dir, scope, limits)

    async def connect(self, have: int, timeout_s: float | None) -> HostHello:
        """Open the connection. Raises HostFailed when the host does not answer in time or is dead."""
        link = Link(self._socket_path, self._received, self._disconnected)
        forked, self._forked = self._forked, None
        try:
            async with asyncio.timeout(timeout_s):
                if forked is None:
                    hello = await link.open(self.session_id, have, self.terms)
                else:
                    hello = await link.take_up(self.session_id, forked.control, forked.command)
                    asyncio.get_running_loop().call_later(REFILL_AFTER_S, forked.speaks)
        except TimeoutError:
            raise HostFailed(f"The session's process has not answered within {timeout_s:g} s") from None
        except ConnectionRefusedError:
            self._deaf_since = self._deaf_since or time.monotonic()
            raise HostFailed(
                "Nobody listens in the session's process", hint="It may run another program now; 'kill' ends it."
            ) from None
        except (OSError, OmegaError) as error:
            raise HostFailed(f"The session's process cannot be reached: {error}") from None
        self._deaf_since = 0.0
        if self.process.exit is not None:
            link.close()
            raise HostFailed("The session's process has ended")
        self._link, self.hello = link, hello
        return hello

    async def ask_about_fork(self, timeout_s: float) -> None:
        """Raises CannotFork, which says what stands in the way as far as can be known before, and HostFailed."""
        await self._ask_to_fork(timeout_s, check=True)

    async def fork(self, session_id: str, state_dir: str, scope_limits: Limits, timeout_s: float) -> Host:
        """Have this process copied: the grip on the copy. Raises CannotFork, which says what stands in the way, and
        HostFailed."""
        order = {"launch": paths.launch_file(state_dir, session_id), "socket": paths.host_socket(state_dir, session_id)}
        answer = await self._ask_to_fork(timeout_s, **order)
        process = None
        if "pid" in answer:
            process = Process.find(answer["pid"], answer["start_time"], boot_id())
        if process is None:
            raise HostFailed(f"The session's process could not be copied: {answer.get('failed', 'the copy has ended')}")
        return Host(process, session_id, state_dir, "", scope_limits)

    async def _ask_to_fork(self, timeout_s: float, **order: object) -> dict[str, Any]:
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self.ask("fork", **order)
        except TimeoutError:
            raise HostFailed(f"The session's process was not copied within {timeout_s:g} s") from None
        if "refused" in answer:
            raise CannotFork(f"It cannot be forked, for it has: {', '.join(answer['refused'])}")
        return answer

    async def enter_scope(self, scopes: Scopes, unit: str, description: str, stop_s: float) -> None:
        """Move the process into a scope of its own, with its limits."""
        await scopes.start(unit, self.pid, description, self.limits, stop_s)
        self.scope = unit

    def birth_trouble(self, state_dir: str) -> str:
        """The last lines a process wrote that ended before it could speak."""
        try:
            with wire.open_plain(_birth_log(state_dir, self.session_id)) as stream:
                text = stream.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return " / ".join(line.strip() for line in text.splitlines()[-3:] if line.strip())[:500]

    # ---- speech ----

    def _received(self, frames: list[HostFrame]) -> None:
        for frame in frames:
            if isinstance(frame, Bye):
                self.bye = frame.reason
        self.on_frames(frames)

    def _disconnected(self, reason: str) -> None:
        self._link = None
        self._fail_questions("The connection to the session's process was lost")
        if self.process.exit is None:
            self.on_lost(reason)

    def execute(self, execution_id: int, code: str) -> None:
        if self._link is not None:
            self._link.send({"t": "execute", "id": execution_id, "code": code})
            eventloop.expect()

    def save(self, checkpoint_id: str) -> None:
        """Have it save itself; the frame `saved` tells the end."""
        if self._link is not None:
            self._link.send({"t": "save", "id": checkpoint_id})

    def load(self, checkpoint_id: str, sha256: str) -> None:
        """Have it take up a checkpoint, before its first command; the frame `loaded` tells the end."""
        if self._link is not None:
            self._link.send({"t": "load", "id": checkpoint_id, "sha256": sha256})

    def give_input(self, execution_id: int, text: str | None) -> None:
        if self._link is not None:
            self._link.send_control({"t": "input", "id": execution_id, "text": text})

    def acknowledge(self, seq: int) -> None:
        if self._link is not None:
            self._link.send_control({"t": "ack", "seq": seq})

    async def ask(self, kind: str, **fields: object) -> dict[str, Any]:
        """A question to an engine at rest (complete, inspect, is_complete) and the body of its answer."""
        if self._link is None:
            raise HostFailed("The session's process cannot be reached just now", hint="Try again.")
        self._last_question += 1
        number = self._last_question
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._questions[number] = answer
        self._link.send({"t": kind, "req": number, **fields})
        try:
            return await answer
        finally:
            self._questions.pop(number, None)

    def answered(self, number: int, body: dict[str, Any]) -> None:
        answer = self._questions.get(number)
        if answer is not None and not answer.done():
            answer.set_result(body)

    def _fail_questions(self, message: str) -> None:
        for answer in self._questions.values():
            if not answer.done():
                answer.set_exception(HostFailed(message))

    # ---- end ----

    def interrupt(self, execution_id: int) -> bool:
        """SIGINT to the host's process group, as ^C at a terminal; False when it is gone.

        A signal says nothing of its aim, and at rest a host ignores it: the command it is meant for is named behind
        it, so that one which is sent and not begun yet is interrupted too.
        """
        if not self.process.signal_group(signal.SIGINT):
            return False
        if self._link is not None:
            self._link.send_control({"t": "interrupt", "id": execution_id})
        return True

    @property
    def deaf_s(self) -> float:
        """For how long nobody has listened on its socket, although the process lives."""
        return time.monotonic() - self._deaf_since if self._deaf_since else 0.0

    async def put_down(self, scopes: Scopes | None) -> None:
        """End what has taken a host's place: it cannot be asked, and holds the session's scope."""
        self._was_put_down = True
        if scopes is not None and self.scope:
            await scopes.kill(self.scope, signal.SIGKILL)
        self.process.kill()

    async def end(
        self,
        scopes: Scopes | None,
        budget_s: float,
        *,
        at_rest: bool,
        at_once: bool = False,
        reason: str = "asked to end",
        goes_on: bool = False,
    ) -> list[Step]:
        """The ladder: ask, SIGINT, SIGTERM, SIGKILL of everything in the scope, within `budget_s`; `at_once` its last
        rung alone. Where the session's state `goes_on` in another process, this one ends without exit functions."""
        begun = time.monotonic()
        steps: list[Step] = []

        async def climb(action: Literal["ask", "SIGINT", "SIGTERM", "SIGKILL"], share: float | None) -> bool:
            at = now()
            left = None if share is None else max(0.0, begun + share * budget_s - time.monotonic())
            ended = await self.process.ended(left)
            steps.append(Step(action, at, ended))
            return ended

        if not at_once:
            if self._link is not None:
                self._link.send_control({"t": "exit", "reason": reason, "goes_on": goes_on})
                if await climb("ask", ASK_SHARE if at_rest else 0.0):
                    return steps
            self.process.signal_group(signal.SIGINT)
            if await climb("SIGINT", INTERRUPT_SHARE):
                return steps
            self.process.signal(signal.SIGTERM)
            if await climb("SIGTERM", 1.0):
                return steps
        if scopes is not None and self.scope:
            await scopes.kill(self.scope, signal.SIGKILL)
        self.process.kill()
        await climb("SIGKILL", None)
        return steps

    def _died(self, exit: Exit) -> None:
        self._hang_up()
        self._fail_questions("The session's process has ended")
        self.on_death(exit)

    def describe_death(self, exit: Exit, bye: str | None, oom_killed: bool | None) -> Death:
        """Why the host is dead, as far as it can be known. `oom_killed` is the kernel's word (cgroup v2), if any."""
        if bye is not None:
            return Death(left(bye), "left")
        if self._was_put_down:
            return Death("its process became another program (exec) or closed its socket, and was ended", "killed")
        if oom_killed and exit.signal in (signal.SIGKILL, None) and exit.status is None:
            return Death("killed: out of memory" + self._memory_words(exit), "out_of_memory")
        if exit.signal == signal.SIGKILL and self._near_limit(exit):
            return Death("killed: probably out of memory" + self._memory_words(exit), "out_of_memory")
        if exit.signal is not None:
            try:
                word = signal.Signals(exit.signal).name
            except ValueError:
                word = f"signal {exit.signal}"
            return Death(f"killed by {word}", "killed")
        if exit.status is not None:
            return Death(f"its process ended with exit status {exit.status}", "exit")
        return Death("its process ended, cause unknown", "unknown")

    def _near_limit(self, exit: Exit) -> bool:
        limit, peak = self.limits.memory_bytes, exit.peak_bytes
        return limit is not None and peak is not None and peak >= cgroups.NEAR_LIMIT * limit

    def _memory_words(self, exit: Exit) -> str:
        mib = 1024 * 1024
        words = []
        if self.limits.memory_bytes is not None:
            words.append(f"limit {self.limits.memory_bytes // mib} MiB")
        if exit.peak_bytes is not None:
            words.append(f"peak {exit.peak_bytes // mib} MiB")
        return f" ({', '.join(words)})" if words else ""

    def disconnect(self) -> None:
        """Leave the connections: what the host says from now on waits in its log."""
        self._hang_up()
        self._fail_questions("The connection to the session's process was closed")

    def _hang_up(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None
        if self._forked is not None:
            self._forked.hang_up()
            self._forked = None

    def discard(self) -> None:
        """End it at once, and let go: nobody knows of it, and it has done nothing."""
        self.process.kill()
        self.detach()

    def detach(self) -> None:
        """Let go: the host lives on for the next daemon."""
        self.process.forget()
        self.disconnect()


def _birth_log(state_dir: str, session_id: str) -> str:
    """Where a process writes until it can speak."""
    return paths.session_dir(state_dir, session_id) + "/birth.log"


def _clear_place(launch: Launch, state_dir: str) -> None:
    """Remove what an earlier host has left, and begin the new one's log."""
    try:
        for path in (paths.host_socket(state_dir, launch.session), _birth_log(state_dir, launch.session)):
            try:
                os.unlink(path)
            except FileNotFoundError:
                pass
        os.close(os.open(launch.log, CREATED, 0o600))
    except OSError as error:
        raise HostFailed(
            f"Cannot make {error.filename}: {error.strerror}", hint="Make room there, and see that it is writable."
        ) from None


@contextmanager
def _birth(launch: Launch, state_dir: str, trouble_fd: int, umask: int, terms: dict[str, object]) -> Iterator[Birth]:
    """What a new host is told. The listener is made here, so that it can be connected to at once, and given away.
    Raises HostFailed when the interpreter or the directory cannot be used."""
    trouble = os.dup(trouble_fd)  # its own number may be one of the child's three standard ones
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path = paths.host_socket(state_dir, launch.session)
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(16)
        yield Birth(
            interpreter=launch.interpreter,
            can_be_forked=launch.kind == "python",
            env=launch.env,
            launch_file=paths.launch_file(state_dir, launch.session),
            birth_log=_birth_log(state_dir, launch.session),
            cwd=launch.cwd,
            umask=umask,
            listener=listener.fileno(),
            trouble=trouble,
            hello=control_hello(launch.session, 0, terms),
        )
    except OSError as error:
        what = error.filename or launch.interpreter[0]
        raise HostFailed(
            f"Cannot start {what}: {error.strerror}", hint="Check the session's interpreter and directory."
        ) from None
    finally:
        listener.close()
        os.close(trouble)


def _start(birth: Birth) -> Process:
    """The host as a process of its own from the start."""
    output = os.open(birth.birth_log, CREATED, 0o600)
    try:
        popen = subprocess.Popen(
            [*birth.interpreter, MAIN, birth.launch_file, str(birth.listener), str(birth.trouble)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd=birth.cwd,
            env=birth.env,
            pass_fds=(birth.listener, birth.trouble),
            start_new_session=True,
            umask=birth.umask,
        )
    finally:
        os.close(output)
    popen.returncode = 0  # from here on the pidfd tells when it ends, and Process reaps it
    return Process(popen.pid, start_time(popen.pid), is_child=True)


async def dismiss(session_id: str, state_dir: str, timeout_s: float) -> None:
    """End a host that stands in no record: its daemon died between making it and writing that down, so nothing was
    ever sent to it."""
    gone = asyncio.Event()
    link = Link(paths.host_socket(state_dir, session_id), lambda frames: None, lambda reason: gone.set())
    try:
        async with asyncio.timeout(timeout_s):
            await link.open(session_id, 0)
            link.send_control({"t": "exit", "reason": "nobody knows it"})
            await gone.wait()
    except (OSError, OmegaError):  # TimeoutError is an OSError: nobody is there, or nobody who can be asked
        pass
    finally:
        link.close()


def record(process: Process, scope: str = "", engine_version: str = "") -> HostRecord:
    """What tells this process from all others for ever, and what else a later daemon must know of it."""
    return HostRecord(process.pid, process.start_time, boot_id(), scope, engine_version)
