"""The daemon's life: how it was started, what it listens on, when it leaves. `main` is the command omega-sessiond,
behind what __main__ does first.

Wires the parts and owns the event loop. What requests do is the service's.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

from omega_sessiond import access, config, log, paths
from omega_sessiond.birthplace import Started
from omega_sessiond.config import Settings
from omega_sessiond.errors import ConfigError, InternalError, OmegaError, RuntimeDirError
from omega_sessiond.eventloop import Loop
from omega_sessiond.http import Frontend
from omega_sessiond.journal import Journal
from omega_sessiond.ownership import BACKLOG, ApiSocket, Lock, find_hosts, prepare
from omega_sessiond.routes import RouteTable
from omega_sessiond.service import Service
from omega_sessiond.systemd import Notifier, listen_fds

logger = logging.getLogger("omega_sessiond")

Activation = Literal["systemd", "client", "foreground"]

STDERR = 2

MAX_DESCRIPTORS = 1 << 20
"""The soft limit is raised to the hard one, but not beyond: some systems have a hard limit of a thousand million, and
some libraries walk over all of it."""

SETTLING_TURNS = 3
"""Turns of the loop after which what was accepted has been read, if it had come."""

FIRST_WORD_S = 0.2
"""How long a stopping daemon waits for the request of a client that was accepted and has not spoken."""

DRAIN_S = 3.0
"""How long a leaving daemon waits for replies to be written and for silent clients."""

LOOK_S = 15.0
"""How often at least the daemon looks whether it may leave and whether its socket is still its own. It leaves so much
later than `idle_exit_s`, at most; more often would wake an idle machine for nothing."""

LOADED_S = 1.0
"""When garbage is collected from: by then the first session is there, and all that is loaded for it."""

STATUS_S = 1.0
"""Between STATUS texts at least."""

USUAL_UMASK = 0o022
"""Of sessions under systemd: the unit's own umask protects the daemon's files and is not what the user has."""


class Start:
    """How this process was started and what it was given. Raises OmegaError when it must not run."""

    def __init__(
        self,
        settings: Settings,
        passed: Mapping[str, list[socket.socket]],
        *,
        with_tcp: bool,
        first_fork_server: Started | None,
    ) -> None:
        self.settings = settings
        self.first_fork_server = first_fork_server
        self.notifier = Notifier()
        self.api_socket: ApiSocket | None = None
        state_dir = settings.state_dir
        sockets = dict(passed)
        by_client = os.environ.pop("OMEGA_ACTIVATION", "") == "client"
        lock_fd = os.environ.pop("OMEGA_LOCK_FD", "")
        self.activation: Activation = "client" if by_client else "systemd" if sockets else "foreground"
        self.dies_with_its_unit = os.environ.get("SYSTEMD_EXEC_PID") == str(os.getpid())
        umask = os.umask(0o077)
        self.umask = USUAL_UMASK if self.activation == "systemd" else umask
        self.nofile = _raise_nofile()
        prepare(state_dir)
        self.lock = self._lock(paths.lock_file(state_dir), int(lock_fd) if lock_fd.isdigit() else None)
        find_hosts(state_dir)
        self.listeners: list[tuple[socket.socket, access.Door]] = []
        for listener in sockets.pop("api", []):
            self.listeners.append((listener, access.UnixDoor()))
        if self.activation == "client" and self.listeners:
            self.api_socket = ApiSocket(paths.api_socket(state_dir))
        if not self.listeners and self.activation != "systemd":
            listener, self.api_socket = ApiSocket.bind(paths.api_socket(state_dir))
            self.listeners.append((listener, access.UnixDoor()))
        for listener in sockets.pop("tcp", []):
            self._serve_tcp(listener)
        if with_tcp:
            self._serve_tcp(_bind_tcp(settings.port))
        for name, unknown in sockets.items():
            logger.warning("closing a passed socket of unknown name '%s'", name)
            for listener in unknown:
                listener.close()
        if not self.listeners:
            raise ConfigError("systemd passed no socket named 'api'", hint="Use the units that install.sh wrote.")
        for listener, _ in self.listeners:
            if listener.family == socket.AF_UNIX:
                self.lock.tell(os.path.abspath(listener.getsockname()))

    def _lock(self, file: str, inherited: int | None) -> Lock:
        if inherited is not None and (lock := Lock.inherited(inherited, file)) is not None:
            return lock
        if self.activation == "foreground":
            return Lock.take(file)
        told_at = 0.0

        def still_waiting() -> None:
            nonlocal told_at
            if time.monotonic() - told_at > 1:
                told_at = time.monotonic()
                self.notifier.extend(10)
                self.notifier.tell("STATUS=Waiting for the daemon before this one to leave")

        return Lock.take_over(file, still_waiting)

    def _serve_tcp(self, listener: socket.socket) -> None:
        address = listener.getsockname()
        if listener.family != socket.AF_INET or not address[0].startswith("127."):
            raise ConfigError(f"The TCP listener is on {address!r}", hint="Only 127.0.0.1 is served.")
        token = access.token(paths.token_file(self.settings.state_dir))
        self.listeners.append((listener, access.TcpDoor(address[1], token)))
        logger.info("listening on 127.0.0.1:%d, with the token of %s", address[1], self.settings.state_dir + "/token")


def _bind_tcp(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on 127.0.0.1:{port}: {error.strerror}", hint="Set another SESSION_SERVER_PORT."
        ) from None
    listener.listen(BACKLOG)
    return listener


def _raise_nofile() -> tuple[int, int]:
    """Raise our soft limit on descriptors; answers what it was, which is what sessions get."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = before
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return before


class Daemon:
    """The running daemon: serves until it is told to stop, is idle, or its socket is another's."""

    def __init__(self, start: Start, journal: Journal) -> None:
        self._start = start
        self._settings = settings = start.settings
        self._notifier = start.notifier
        self._service = Service(
            settings,
            journal,
            activation=start.activation,
            trouble_fd=STDERR,
            nofile=start.nofile,
            umask=start.umask,
            dies_with_its_unit=start.dies_with_its_unit,
            first_fork_server=start.first_fork_server,
        )
        self._front = Frontend(self._service, RouteTable(), settings)
        self._hub = self._front.hub
        self._loop = asyncio.get_running_loop()
        self._told_to_stop = asyncio.Event()
        self._stop_reason = ""
        self._quiet_since = self._loop.time()
        self._status = ""
        self._status_timer: asyncio.TimerHandle | None = None
        self._watchdog: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Serve; returns when everything is let go of."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            self._loop.add_signal_handler(number, self._stop, f"received {number.name}")
        for listener, door in self._start.listeners:
            self._hub.listen(listener, door)
        await self._service.start()
        self._hub.accept()
        self._loop.call_later(LOADED_S, _collect_garbage)
        self._notifier.tell("READY=1")
        if self._notifier.is_heard:
            self._front.on_done = self._status_is_due
            self._tell_status()
        self._tell_watchdog()
        logger.info("serving %s (pid %d, %s)", self._settings.state_dir, os.getpid(), self._start.activation)
        await self._until_it_is_time()
        await self._leave()

    def _stop(self, reason: str) -> None:
        if not self._told_to_stop.is_set():
            self._stop_reason = reason
            self._told_to_stop.set()

    # ---- when to leave ----

    async def _until_it_is_time(self) -> None:
        idle_s = self._settings.idle_exit_s
        pause = min(LOOK_S, max(0.02, idle_s / 8)) if idle_s else LOOK_S
        while not self._told_to_stop.is_set():
            try:
                async with asyncio.timeout(pause):
                    await self._told_to_stop.wait()
            except TimeoutError:
                pass
            else:
                return
            own = self._start.api_socket
            if own is not None and not own.is_ours:
                self._stop(f"{own.path} is gone or another daemon's")
            elif idle_s and self._idle_for() >= idle_s and await self._nobody_comes():
                self._stop(f"idle for {idle_s:g} s")

    def _idle_for(self) -> float:
        now = self._loop.time()
        if self._front.in_flight or not self._service.is_quiet:
            self._quiet_since = now
        return now - max(self._quiet_since, self._front.last_active_at)

    async def _nobody_comes(self) -> bool:
        """Stop accepting and see to those who were accepted. False, and accepting again, when one of them asked for
        anything: what comes meanwhile waits in the kernel, for us or for the next daemon."""
        before = self._front.last_active_at
        self._hub.pause()
        await self._settle()
        if self._start.api_socket is not None:
            self._hub.take_waiting()
            await self._settle()
        await self._drained(DRAIN_S, lambda: self._front.last_active_at != before)
        if self._front.last_active_at == before and not self._front.in_flight and self._service.is_quiet:
            return True
        self._hub.accept()
        return False

    async def _settle(self) -> None:
        for _ in range(SETTLING_TURNS):
            await asyncio.sleep(0)

    async def _drained(self, within_s: float, or_else: Callable[[], bool] = lambda: False) -> None:
        """Wait until all who were accepted are served."""
        try:
            async with asyncio.timeout(within_s):
                while (self._front.in_flight or self._hub.has_unserved) and not or_else():
                    self._hub.changed.clear()
                    await self._hub.changed.wait()
        except TimeoutError:
            pass

    # ---- leaving ----

    async def _leave(self) -> None:
        logger.info("leaving: %s; sessions go on", self._stop_reason)
        self._notifier.tell("STOPPING=1", "STATUS=Leaving")
        self._hub.pause()
        own = self._start.api_socket
        if own is not None:
            # Nobody new can come after this; who came before is in the queue, which goes with the listener.
            own.remove()
            self._hub.take_waiting()
        self._hub.close_listeners()
        await self._settle()
        self._front.is_stopping = True
        self._hub.close_served()
        if self._hub.has_unserved:
            await self._drained(FIRST_WORD_S)
        stopping = asyncio.ensure_future(self._service.stop())
        while not (await asyncio.wait([stopping], timeout=5.0))[0]:
            self._notifier.extend(10)
        stopping.result()
        await self._drained(DRAIN_S)
        await self._hub.close()
        for timer in (self._status_timer, self._watchdog):
            if timer is not None:
                timer.cancel()

    # ---- what systemd is told ----

    def _status_is_due(self) -> None:
        if self._status_timer is None and self._notifier.is_heard:
            self._status_timer = self._loop.call_later(STATUS_S, self._tell_status)

    def _tell_status(self) -> None:
        self._status_timer = None
        counts = self._service.server().counts
        status = f"STATUS=Serving {counts.sessions} sessions, {counts.busy} busy, {counts.queued} commands queued"
        if status != self._status:
            self._status = status
            self._notifier.tell(status)
        if not self._service.is_quiet:
            self._status_is_due()

    def _tell_watchdog(self) -> None:
        if self._notifier.watchdog_s is not None:
            self._notifier.tell("WATCHDOG=1")
            self._watchdog = self._loop.call_later(self._notifier.watchdog_s / 2, self._tell_watchdog)


def _collect_garbage() -> None:
    """From now on, and not among what was loaded, which stays."""
    gc.freeze()
    gc.enable()


def serve(
    settings: Settings,
    passed: Mapping[str, list[socket.socket]],
    *,
    with_tcp: bool,
    first_fork_server: Started | None,
) -> None:
    """Run the daemon until it leaves; `passed` are the sockets it was given, by name. Raises OmegaError when it cannot
    begin."""
    start = Start(settings, passed, with_tcp=with_tcp, first_fork_server=first_fork_server)
    try:
        journal = Journal.open(paths.journal_file(settings.state_dir))
        try:
            with asyncio.Runner(loop_factory=Loop) as runner:
                runner.run(_run(start, journal))
        finally:
            journal.close()
            for listener, _ in start.listeners:
                listener.close()
    finally:
        start.notifier.close()
        if start.activation != "systemd":  # where it is, whoever waits there is told why nobody comes
            for listener, _ in start.listeners:
                listener.close()
        if start.api_socket is not None:
            start.api_socket.remove()


async def _run(start: Start, journal: Journal) -> None:
    await Daemon(start, journal).run()


def main(argv: list[str] | None = None, *, first: Started | None = None) -> int:
    """The command; `first` is the fork server that was started before us. Exit status: 0 it left as it should, 2 wrong
    usage or settings, 3 directories, 5 already running, 125 the journal or a defect."""
    faulthandler.enable()
    arguments = sys.argv[1:] if argv is None else argv
    with_tcp = False
    if arguments:
        from omega_sessiond import commandline

        options = commandline.parse(arguments)
        if options.check:
            return commandline.check()
        with_tcp = options.tcp
    # A client that has started us sees our end, and its reason in the log; one of systemd's knows only the socket.
    is_systemd = "OMEGA_ACTIVATION" not in os.environ
    passed = listen_fds()
    waited_at = passed.get("api", []) if is_systemd else []
    try:
        settings = config.load()
        log.set_up(settings.log_level)
        serve(settings, passed, with_tcp=with_tcp, first_fork_server=first)
    except OmegaError as error:
        return _cannot_start(error, waited_at)
    except OSError as error:
        return _cannot_start(RuntimeDirError(f"{error.filename or 'The system'}: {error.strerror}"), waited_at)
    except Exception:
        logger.exception("a defect ended the daemon")
        return InternalError.exit_code
    finally:
        if first is not None:
            first.abandon()
    return 0


def _cannot_start(error: OmegaError, waited_at: Sequence[socket.socket]) -> int:
    if not logging.getLogger().handlers:
        log.set_up("info")
    logger.error("cannot run: %s: %s%s", error.code, error.message, f" ({error.hint})" if error.hint else "")
    if waited_at:
        from omega_sessiond import farewell

        farewell.tell(error, waited_at)
    return error.exit_code
