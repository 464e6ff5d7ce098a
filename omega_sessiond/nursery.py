"""Where new hosts come from: the fork servers, one for each interpreter and environment that sessions are started with.

A fork server is the daemon's child and ends with it; the hosts forked from it live on. Without one, or when it cannot
be like a start of one's own, `fork` gives None and the host is started as a process anew. Knows processes and the
frames of hosts/forkserver.py; nothing of sessions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from typing import Any

from msgspec import Struct, field

from omega_sessiond import birthplace, wire
from omega_sessiond.birthplace import Birthplace, Started
from omega_sessiond.link import pack
from omega_sessiond.messages import ForkServer as ForkServerView
from omega_sessiond.process import Exit, Process, exit_of, start_time

log = logging.getLogger("omega_sessiond.nursery")

BEGIN_AFTER_S = 0.5
"""How long after a start in a new place its fork server is started: the session that is being made goes first."""

SPARE_S = 5.0
"""A server that has forked nothing by then hangs, and is killed. It may be on its way to be ready: that takes as long
as the start that would be made instead."""

REFILL_S = 0.05
"""After which the next spare is made, whether or not the last one has become a host."""

KEPT_S = 600.0
"""How long a server is kept that nobody asks, other than the default one."""

SERVERS_AT_MOST = 4
"""Each is 6 MiB; more places than this at a time are seldom, and their sessions start all the same."""

STABLE_S = 60.0
"""A server that has lived so long has not failed: the next one is started at once."""

PAUSE_S = (0.05, 60.0)
"""The first and the longest pause before a server is started again that did not live long."""


@cache
def cloudpickle_directory() -> str:
    """What hosts borrow to save: "" where it is missing."""
    found = find_spec("cloudpickle")
    places = found.submodule_search_locations if found is not None else None
    return places[0] if places else ""


class Birth(Struct, frozen=True):
    """A host that is wanted. `listener` and `trouble` are descriptors that it gets; into `birth_log` goes why it could
    not become one. A forked one is said `hello` at once on its control connection."""

    interpreter: list[str]
    can_be_forked: bool
    env: dict[str, str]
    launch_file: str
    birth_log: str
    cwd: str
    umask: int
    listener: int
    trouble: int
    hello: dict[str, object]


class Forked(Struct):
    """A process that waits to become a host, or does; the connections to it, and what to call when it speaks: until
    then who makes the next spare would only be in its way."""

    process: Process
    control: socket.socket
    command: socket.socket
    speaks: Callable[[], None]

    def hang_up(self) -> None:
        """Close the connections, of which nobody has made use."""
        self.control.close()
        self.command.close()

    def dismiss(self) -> None:
        self.hang_up()
        self.process.forget()


class _Server:
    """One fork server: its process, its connection, its spares and the hosts that came of them."""

    def __init__(
        self, started: Started, packages: Sequence[str], ahead: str, on_end: Callable[[_Server, Exit], None]
    ) -> None:
        self.birthplace = started.birthplace
        self.preloaded: list[str] = []
        self.refused: dict[str, str] = {}
        self.importing = ""
        self.is_unfit = False
        self.births = 0
        self.is_retired = self.is_rehearsed = False
        self.is_loading = bool(packages)
        self._loop = asyncio.get_running_loop()
        self.started_at = self.used_at = self._loop.time()
        self.process = Process(started.pid, start_time(started.pid), is_child=True)
        self._hosts: dict[int, Process] = {}
        self._spares: deque[Forked] = deque()
        self._asked = 0
        self._waiting: deque[asyncio.Future[Forked | None]] = deque()
        self._seen: list[tuple[str, list[int] | None]] = []
        self._splitter = wire.Splitter()
        self._descriptors: deque[int] = deque()
        self._ahead = ahead
        self._on_end = on_end
        self._socket = socket.socket(fileno=started.connection.detach())
        self._socket.setblocking(False)
        self._loop.add_reader(self._socket, self._readable)
        self.process.watch(self._ended)
        if packages:
            self._send({"t": "preload", "packages": list(packages)})
        self._readable()

    @property
    def is_ready(self) -> bool:
        return bool(self._seen) and not self.is_loading and not self.is_unfit

    # ---- births ----

    async def fork(self, birth: Birth) -> Forked | None:
        """A new host; None when this server cannot. Raises OSError when the directory cannot be used."""
        self.used_at = self._loop.time()
        spare = await self._spare()
        return None if spare is None else self._order(spare, birth)

    @property
    def has_spare(self) -> bool:
        return bool(self._spares)

    def fork_at_once(self, birth: Birth) -> Forked | None:
        """As `fork`, of a spare that is there. Raises OSError."""
        self.used_at = self._loop.time()
        return self._order(self._spares.popleft(), birth) if self._spares else None

    def _order(self, spare: Forked, birth: Birth) -> Forked | None:
        """Have it become what is wanted; None when it cannot. Raises OSError when the directory cannot be used."""
        try:
            directory = os.open(birth.cwd, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            self._spares.appendleft(spare)
            raise
        try:
            order = {"launch": birth.launch_file, "birth_log": birth.birth_log, "umask": birth.umask}
            order["hello"] = birth.hello
            socket.send_fds(spare.control, [pack(order)], [birth.listener, birth.trouble, directory])
        except OSError:  # it has been killed meanwhile
            spare.dismiss()
            return None
        finally:
            os.close(directory)
        self.births += 1
        self._loop.call_later(REFILL_S, self._refill)
        return spare

    async def _spare(self) -> Forked | None:
        if self._spares:
            return self._spares.popleft()
        waiting: asyncio.Future[Forked | None] = self._loop.create_future()
        self._waiting.append(waiting)
        self._refill()
        try:
            async with asyncio.timeout(SPARE_S):
                return await waiting
        except asyncio.CancelledError:
            if waiting.done() and not waiting.cancelled() and (spare := waiting.result()) is not None:
                self._spares.append(spare)  # it came in the very turn in which nobody wanted it any more
            raise
        except TimeoutError:
            log.warning("fork server %d does not answer: killed", self.process.pid)
            self.process.signal(signal.SIGKILL)
            return None
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def _refill(self) -> None:
        """Have one spare for each who waits, and one for the next. Timers call this after the end, too."""
        if self.is_ready and not self.is_retired and self._socket.fileno() >= 0:
            while len(self._spares) + self._asked < len(self._waiting) + 1:
                self._asked += 1
                self._send({"t": "fork"})

    def changed(self) -> str | None:
        """What has changed of the interpreter since this server was started: a process started now would differ."""
        for path, mark in self._seen:
            try:
                status = os.stat(path)
                now = [status.st_dev, status.st_ino, status.st_mtime_ns]
            except OSError:
                now = None
            if now != mark:
                return path
        return None

    def _send(self, frame: dict[str, Any]) -> None:
        data = pack(frame)
        try:
            if self._socket.send(data) == len(data):
                return
        except OSError:
            pass  # it is dead, and we are about to hear of it; or it hangs
        self.process.signal(signal.SIGKILL)

    # ---- what it says ----

    def _readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 64)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)  # recv_fds passes no MSG_CMSG_CLOEXEC on
            self._descriptors.append(descriptor)
        if not data:
            self._loop.remove_reader(self._socket)
            return  # its end is the pidfd's to tell
        for body in self._splitter.feed(data):
            self._hear(wire.unpack(body))

    def _hear(self, frame: wire.Frame) -> None:
        match frame["t"]:
            case "spare":
                self._asked -= 1
                pidfd, control, command = (self._descriptors.popleft() for _ in range(3))
                process = Process(frame["pid"], frame["start_time"], is_child=False, pidfd=pidfd, is_told=True)
                self._hosts[process.pid] = process
                sockets = socket.socket(fileno=control), socket.socket(fileno=command)
                self._give(Forked(process, *sockets, self._refill))
            case "exit":
                self._heard_exit(frame["pid"], exit_of(frame["status"], frame["peak_kib"] * 1024))
            case "rehearsed":
                self.is_rehearsed = True
                self._dismiss_spares()  # made before it
                self._refill()
            case "importing":
                self.importing = frame["package"]
            case "ready":
                self._heard_ready(frame)
            case "failed":
                self._asked -= 1
                log.warning("fork server %d cannot fork: %s", self.process.pid, frame["reason"])
                if self._waiting:
                    self._waiting.popleft().set_result(None)

    def _give(self, spare: Forked) -> None:
        if self.is_retired:
            spare.dismiss()
            return
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(spare)
                return
        self._spares.append(spare)

    def _heard_exit(self, pid: int, exit: Exit) -> None:
        process = self._hosts.pop(pid, None)
        if process is None:
            return
        process.told(exit)
        for spare in self._spares:
            if spare.process is process:
                self._spares.remove(spare)
                spare.dismiss()
                break

    def _heard_ready(self, frame: wire.Frame) -> None:
        if self.is_loading and not self.importing:
            return  # the packages are still to come
        self.preloaded, self.refused = frame["preloaded"], frame["refused"]
        for package, reason in self.refused.items():
            log.warning("cannot preload %s: %s", package, reason)
        self.is_loading, self.importing, self.is_unfit = False, "", frame["unfit"]
        self._seen = [(path, mark) for path, mark in frame["seen"]]
        self._refill()
        if self.is_ready:
            stage = f"{self._ahead}/rehearsal-{self.process.pid}"
            self._send({"t": "stage", "directory": stage, "lent": cloudpickle_directory()})

    # ---- its end ----

    def retire(self) -> None:
        """Fork no more; it ends when the last host that it has forked does, for it alone can tell how that ends."""
        if not self.is_retired:
            self.is_retired = True
            self._let_go()
            self._send({"t": "retire"})

    def _dismiss_spares(self) -> None:
        while self._spares:
            self._spares.popleft().dismiss()

    def _let_go(self) -> None:
        self._dismiss_spares()
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)

    def _ended(self, exit: Exit) -> None:
        self._readable()  # its last words
        self.close()
        self._on_end(self, exit)

    def close(self) -> None:
        """Let go: it ends, its hosts live on, and how they end nobody tells us any more."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        self._let_go()
        while self._descriptors:
            os.close(self._descriptors.popleft())
        for process in self._hosts.values():
            process.told(Exit())
        self._hosts.clear()


class _Trouble(Struct):
    """How often servers of one place have failed in a row, and when the next may be started."""

    count: int = 0
    not_before: float = 0.0
    refused: dict[str, str] = field(default_factory=dict)


class Nursery:
    """All fork servers of this daemon. `default_python` is the interpreter of sessions that name none; what lies in
    `ahead` is removed when this daemon ends, or else when the next one begins."""

    def __init__(self, *, is_wanted: bool, default_python: str | None, packages: Sequence[str], ahead: str) -> None:
        self._is_wanted = is_wanted
        self._default_python = default_python
        self._packages = packages
        self._ahead = ahead
        self._default: Birthplace | None = None
        self._servers: dict[object, _Server] = {}
        self._retired: set[_Server] = set()
        self._troubles: dict[object, _Trouble] = {}
        self._timers: dict[object, asyncio.TimerHandle] = {}
        self._latest: tuple[str, dict[str, str], Birthplace | None] = ("", {}, None)
        self._is_closed = False

    def start(self, first: Started | None) -> None:
        """Begin, with the server that was started before anything else, if it is the right one."""
        if self._is_wanted and self._default_python is not None:
            self._default = Birthplace.of(self._default_python, birthplace.scrub(dict(os.environ)))
        if first is not None:
            if self._default is not None and first.birthplace.key == self._default.key:
                self._take(first)
                return
            first.abandon()
        if self._default is not None:
            self._begin(self._default)

    async def fork(self, birth: Birth) -> Forked | None:
        """A new host, forked; None where it must be started as a process of its own. Raises OSError."""
        server = self._server_for(birth)
        return None if server is None else await server.fork(birth)

    @property
    def has_spare(self) -> bool:
        """Whether any server has a process that waits to become a host."""
        return any(server.has_spare for server in self._servers.values())

    def fork_at_once(self, birth: Birth) -> Forked | None:
        """As `fork`, of a process that waits for it; None where none does. Raises OSError."""
        server = self._server_for(birth)
        return None if server is None else server.fork_at_once(birth)

    def _server_for(self, birth: Birth) -> _Server | None:
        if not self._is_wanted or self._is_closed or not birth.can_be_forked:
            return None
        place = self._place(birth)
        if place is None:
            return None
        server = self._servers.get(place.key)
        if server is None:
            self._begin_later(place, BEGIN_AFTER_S)
            return None
        if server.is_loading:  # it may take longer than any start
            return None
        changed = server.changed()
        if changed is not None:
            log.info("%s has changed: the fork server of %s is started anew", changed, place.python)
            self._put_aside(server)
            self._latest = ("", {}, None)
            self._begin_later(place, BEGIN_AFTER_S)
            return None
        return server

    def _place(self, birth: Birth) -> Birthplace | None:
        """Most births have the interpreter and the environment of the one before."""
        python, env, place = self._latest
        if place is None or birth.env is not env or birth.interpreter[0] != python:
            place = Birthplace.of(birth.interpreter[0], birth.env)
            self._latest = (birth.interpreter[0], birth.env, place)
        return place

    def views(self) -> list[ForkServerView]:
        """The servers as the API shows them."""
        return [
            ForkServerView(
                pid=server.process.pid,
                python=server.birthplace.python,
                state="ready" if server.is_ready else "loading",
                births=server.births,
                is_rehearsed=server.is_rehearsed,
                preloaded=server.preloaded,
                refused=server.refused | self._trouble(server.birthplace).refused,
            )
            for server in self._servers.values()
        ]

    # ---- servers ----

    def _trouble(self, place: Birthplace) -> _Trouble:
        return self._troubles.setdefault(place.key, _Trouble())

    def _begin_later(self, place: Birthplace, pause_s: float) -> None:
        if self._is_closed or place.key in self._timers:
            return
        loop = asyncio.get_running_loop()
        at = max(loop.time() + pause_s, self._trouble(place).not_before)
        self._timers[place.key] = loop.call_at(at, self._begin, place)

    def _begin(self, place: Birthplace) -> None:
        self._timers.pop(place.key, None)
        if self._is_closed or place.key in self._servers:
            return
        try:
            self._take(Started(place))
        except OSError as error:
            log.warning("cannot start a fork server of %s: %s", place.python, error)
            self._failed(place)

    def _take(self, started: Started) -> None:
        started.is_taken = True
        place = started.birthplace
        packages: list[str] = []
        if place.python == self._default_python:
            refused = self._trouble(place).refused
            packages = [name for name in self._packages if name not in refused]
        self._servers[place.key] = server = _Server(started, packages, self._ahead, self._ended)
        log.debug("fork server %d of %s", server.process.pid, place.python)
        others = [one for one in self._servers.values() if not self._is_default(one) and one is not server]
        if len(self._servers) > SERVERS_AT_MOST and others:
            self._put_aside(min(others, key=lambda one: one.used_at))
        if not self._is_default(server):
            self._timers[place.key] = asyncio.get_running_loop().call_later(KEPT_S, self._look, server)

    def _is_default(self, server: _Server) -> bool:
        return self._default is not None and server.birthplace.key == self._default.key

    def _look(self, server: _Server) -> None:
        """Whether a server is still asked now and then."""
        key = server.birthplace.key
        self._timers.pop(key, None)
        if self._servers.get(key) is server:
            loop = asyncio.get_running_loop()
            if loop.time() - server.used_at >= KEPT_S:
                self._put_aside(server)
            else:
                self._timers[key] = loop.call_at(server.used_at + KEPT_S, self._look, server)

    def _put_aside(self, server: _Server) -> None:
        key = server.birthplace.key
        if self._servers.get(key) is server:
            del self._servers[key]
            timer = self._timers.pop(key, None)
            if timer is not None:
                timer.cancel()
        self._retired.add(server)
        server.retire()

    def _ended(self, server: _Server, exit: Exit) -> None:
        self._retired.discard(server)
        if self._is_closed or server.is_retired:
            return
        place = server.birthplace
        if self._servers.get(place.key) is server:
            del self._servers[place.key]
        trouble = self._trouble(place)
        if server.is_unfit:
            trouble.refused.update(server.refused)
            self._begin_later(place, 0.0)  # it left so that one without them takes its place
            return
        if server.importing:
            hangs = exit.signal == signal.SIGALRM
            reason = "its import does not end" if hangs else f"its import ends the process: {_words(exit)}"
            log.warning("cannot preload %s: %s", server.importing, reason)
            trouble.refused[server.importing] = reason
        lived_s = asyncio.get_running_loop().time() - server.started_at
        if lived_s >= STABLE_S:
            trouble.count = 0
        # systemd, which stops the whole service, tells it to end as it tells the daemon.
        level = logging.INFO if exit.signal == signal.SIGTERM else logging.WARNING
        log.log(level, "fork server %d of %s ended: %s", server.process.pid, place.python, _words(exit))
        self._failed(place)

    def _failed(self, place: Birthplace) -> None:
        trouble = self._trouble(place)
        first, longest = PAUSE_S
        pause_s = min(longest, first * 4.0**trouble.count)
        trouble.count += 1
        trouble.not_before = asyncio.get_running_loop().time() + pause_s
        if self._default is not None and place.key == self._default.key:
            self._begin_later(place, 0.0)

    def close(self) -> None:
        """End all servers; what they have forked lives on."""
        self._is_closed = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        for server in [*self._servers.values(), *self._retired]:
            server.close()
            server.process.signal(signal.SIGKILL)
            server.process.forget()
        self._servers.clear()
        self._retired.clear()


def _words(exit: Exit) -> str:
    if exit.signal is not None:
        return f"killed by signal {exit.signal}"
    return f"exit status {exit.status}"
