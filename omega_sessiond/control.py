"""The daemon as a person controls it: which of two ways runs it, how it stands, and what each verb does.

Two ways run a daemon: the user's systemd, where our units are installed and it answers, or this program itself. The
command line and the dashboard take both from here; what they say of it is theirs. Prints nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from datetime import datetime
from typing import Any, Literal, NamedTuple

from omega_sessiond import manager
from omega_sessiond.client import Client, find_daemon
from omega_sessiond.errors import Conflict, DaemonUnreachable, OmegaError
from omega_sessiond.launch import Backoff, daemon_command, locate
from omega_sessiond.manager import SERVICE, SOCKET, TCP_SOCKET, Unit
from omega_sessiond.target import Target, managed_socket

Json = dict[str, Any]
Verb = Literal["start", "stop", "restart", "enable", "disable", "reset-failed"]

STOP_S = 30.0
"""A daemon leaves within milliseconds of being asked, on a busy machine within seconds."""

CHECK_S = 60.0
"""A journal of many gigabytes opens in seconds."""

WITH_SYSTEMD = "Run by systemd (systemctl --user)."
WITHOUT_SYSTEMD = "Run in the background, without systemd"

_DONE: dict[Verb, str] = {
    "start": f"Listening: {SOCKET} is active, the first request starts the daemon.",
    "stop": "Stopped: nothing starts the daemon until 'omegactl service start'.",
    "restart": "Restarted; sessions go on.",
    "enable": "Enabled: systemd listens for the daemon from your next login on, and now.",
    "disable": "Disabled: systemd does not listen any more after your next login; it does until then.",
    "reset-failed": f"The failure is forgotten: {SOCKET} is active, the first request starts the daemon.",
}


class NotManaged(Conflict):
    """There is no service manager here to do it."""

    code = "not_managed"
    hint = "The daemon needs no start: the first command that needs it starts it in the background."


class ServiceFailed(OmegaError):
    """What was asked of the service was not done."""

    code = "service_failed"
    hint = "'omegactl doctor' looks for the cause."


class NotGone(OmegaError):
    """The daemon was asked to leave and is still there."""

    code = "timed_out"
    exit_code = 124
    hint = "See 'omegactl logs'."


class Managed(NamedTuple):
    """The daemon as a service of the user's systemd."""

    socket: Unit
    service: Unit
    tcp: Unit
    way: str = WITH_SYSTEMD

    @property
    def units(self) -> tuple[Unit, Unit, Unit]:
        return self.socket, self.service, self.tcp

    @property
    def failed(self) -> list[Unit]:
        return [unit for unit in self.units if unit.active == "failed"]

    def steps(self, verb: Verb) -> list[list[str]]:
        """What `systemctl --user` is called with, in this order; the first failure ends it."""
        # Of others than failed ones it says that they are not loaded, and fails.
        forget = [["reset-failed", *(unit.name for unit in self.failed)]] if self.failed else []
        match verb:
            case "start" | "reset-failed":
                return [*forget, ["start", *self._listeners()]]
            case "stop":
                return [["stop", *self._all_sockets(), SERVICE]]
            case "restart":
                # What has failed too often is not started any more, the socket neither, until that is forgotten.
                return [*forget, *([["start", *self._listeners()]] if forget else []), ["restart", SERVICE]]
            case "enable":
                return [["enable", "--now", SOCKET]]
            case "disable":
                return [["disable", *self._all_sockets()]]

    def _all_sockets(self) -> list[str]:
        return [TCP_SOCKET, SOCKET] if self.tcp.is_installed else [SOCKET]

    def _listeners(self) -> list[str]:
        """The sockets to listen on. The one for TCP only where it is wanted, and not under a running daemon, which
        gets its listeners when it starts: systemd would refuse."""
        runs = self.service.active in ("active", "activating", "reloading")
        return [SOCKET, TCP_SOCKET] if self._wants_tcp and not runs else [SOCKET]

    @property
    def _wants_tcp(self) -> bool:
        return self.tcp.is_installed and self.tcp.enabled.startswith("enabled")

    def act(self, verb: Verb) -> str:
        """Do it; what is true now. Raises ServiceFailed with systemctl's words."""
        for step in self.steps(verb):
            code, said = manager.call(*step)
            if code != 0:
                raise ServiceFailed(
                    f"systemctl --user {' '.join(step)} failed with exit code {code}" + (f": {said}" if said else "")
                )
        return self.done(verb)

    def done(self, verb: Verb) -> str:
        """What is true once systemd has carried it out."""
        if verb == "disable" and self._wants_tcp:  # enabling does not bring it back: who wants it says so
            return f"{_DONE[verb]} The same goes for TCP: 'systemctl --user enable {TCP_SOCKET}' takes that back."
        return _DONE[verb]


class Background(NamedTuple):
    """The daemon as a process of its own. `server` is what it says of itself, None where none runs."""

    target: Target
    way: str
    server: Json | None

    @property
    def started(self) -> float | None:
        """Since when it runs, in seconds as time.time() counts them."""
        return None if self.server is None else datetime.fromisoformat(self.server["started_at"]).timestamp()

    @property
    def memory_bytes(self) -> int | None:
        """What it has in memory, where the system says it."""
        return None if self.server is None else manager.resident_bytes(str(self.server["pid"]))

    def act(self, verb: Verb) -> str:
        """Do it; what is true now. Raises NotManaged, NotGone, ServiceFailed or DaemonUnreachable."""
        match verb:
            case "start":
                return f"Running: pid {self.start()['pid']}."
            case "stop":
                pid = self.stop()
                return f"Stopped the daemon (pid {pid})." if pid else "No daemon was running."
            case "restart":
                return f"Restarted: pid {self.restart()['pid']}; sessions go on."
            case _:
                raise NotManaged(f"There is nothing to {verb}. {self.way}")

    def start(self) -> Json:
        """See to it that a daemon runs; what it says of itself."""
        with Client(find_daemon(self.target)) as client:
            server: Json = client.get("/api/server")
        return server

    def restart(self) -> Json:
        """Replace the daemon; what the new one says of itself. One that serves is not stopped for one that could not
        start: for that ServiceFailed is raised, NotManaged for one that nobody here can start."""
        if self.target.state_dir is None:
            raise NotManaged("A daemon named by --socket can be stopped, but is started by nobody here", hint="")
        for found in findings():
            if found.get("prevents_start", not found["ok"]):
                raise ServiceFailed(
                    f"Not restarted, a new daemon could not start: {found['detail']}", hint=found["hint"]
                )
        self.stop()
        return self.start()

    def stop(self) -> int | None:
        """Ask the daemon to leave and see it gone; its pid, or None when none was there."""
        server = ask_server(self.target)
        if server is None:
            return None
        pid: int = server["pid"]
        if not hasattr(os, "pidfd_open"):
            return self._stop_by_number(pid)
        try:
            process = os.pidfd_open(pid)
        except ProcessLookupError:
            return pid
        try:
            # Between its answer and now it may have gone, and its number to another: the daemon is asked once more.
            again = ask_server(self.target)
            if again is None or again["pid"] != pid:
                return pid
            signal.pidfd_send_signal(process, signal.SIGTERM)
            if not _is_readable(process, STOP_S):
                raise _still_there(pid)
        finally:
            os.close(process)
        return pid

    def _stop_by_number(self, pid: int) -> int:
        """Where the system has no pidfd: the daemon has gone when it answers no more."""
        os.kill(pid, signal.SIGTERM)
        backoff = Backoff(STOP_S)
        while (server := ask_server(self.target)) is not None and server["pid"] == pid:
            if not backoff.pause():
                raise _still_there(pid)
        return pid


def look(target: Target) -> Managed | Background:
    """Which way runs the daemon of this target, and how it stands. Starts and wakes none."""
    known = manager.examine(SOCKET, SERVICE, TCP_SOCKET)
    if known is not None and known[0].is_installed and target.state_dir is not None and not is_elsewhere(target):
        socket, service, tcp = known
        return Managed(socket, service, tcp)
    if target.state_dir is None:
        why = "--socket names a daemon of its own"
    elif known is None:
        why = "no user manager answers here"
    elif not known[0].is_installed:
        why = "its units are not installed (./install.sh does that)"
    else:
        why = f"for the state directory of {target.origin}"
    return Background(target, f"{WITHOUT_SYSTEMD}: {why}.", ask_server(target))


def is_elsewhere(target: Target) -> bool:
    """Whether the target is a state directory whose daemon runs beside the one of systemd."""
    return target.socket_path != managed_socket() and os.path.exists(target.socket_path)


def ask_server(target: Target) -> Json | None:
    """What the daemon says of itself, or None when none runs; starts none. Where systemd listens, this wakes it."""
    try:
        with Client(locate(target), may_start=False) as client:
            server: Json = client.get("/api/server")
    except DaemonUnreachable:
        return None
    return server


def findings() -> list[Json]:
    """What `omega-sessiond --check` finds, run as this client would start the daemon: name, ok, detail and hint of each
    thing looked at, and whether it `prevents_start`. Raises ServiceFailed where it cannot say."""
    try:
        done = subprocess.run(
            [*daemon_command(), "--check"], stdin=subprocess.DEVNULL, capture_output=True, timeout=CHECK_S
        )
        checks: list[Json] = json.loads(done.stdout)["checks"]
    except subprocess.TimeoutExpired:
        raise ServiceFailed(
            f"omega-sessiond --check did not end within {CHECK_S:.0f} s", hint="Run it by hand."
        ) from None
    except OSError as error:
        raise ServiceFailed(f"omega-sessiond --check cannot be run: {error}", hint="./install.sh") from None
    except (ValueError, KeyError):
        said = done.stderr.decode(errors="replace").strip().splitlines()
        why = said[-1] if said else f"exit code {done.returncode}"
        raise ServiceFailed(f"omega-sessiond --check ended with {why}", hint="Install it anew: ./install.sh") from None
    return checks


def _still_there(pid: int) -> NotGone:
    return NotGone(f"The daemon (pid {pid}) was asked to leave and is still there")


def _is_readable(descriptor: int, timeout_s: float) -> bool:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))
