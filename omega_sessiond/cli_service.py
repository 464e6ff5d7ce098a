"""The commands about the daemon itself: service, logs, version.

Two ways run a daemon: the user's systemd, where our units are installed and it answers, or this program itself. Each
command does what it does in either way, and says which of them is in use.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from omega_sessiond import __version__, manager, paths
from omega_sessiond.cli_sessions import state_word
from omega_sessiond.client import Client, session_path
from omega_sessiond.errors import Conflict, DaemonUnreachable, OmegaError, SessionNotFound
from omega_sessiond.invocation import Invocation, TimedOut, UsageError
from omega_sessiond.launch import Backoff
from omega_sessiond.screen import Screen
from omega_sessiond.target import managed_socket

Json = dict[str, Any]

STOP_S = 30.0
"""A daemon leaves within milliseconds of being asked, on a busy machine within seconds."""

NOT_RUNNING = 3
"""systemctl's exit code for a unit that is not active: the same word in both ways."""

FOLLOW_S = 0.2
"""How often a followed log file is looked at."""

WITH_SYSTEMD = "Run by systemd (systemctl --user)."
WITHOUT_SYSTEMD = "Run in the background, without systemd"


class NotManaged(Conflict):
    """There is no service manager here to do it."""

    code = "not_managed"
    hint = "The daemon needs no start: the first command that needs it starts it in the background."


def service(call: Invocation) -> int:
    """omegactl service."""
    args = call.args
    if args.sessions and args.verb != "stop":
        raise UsageError(f"--sessions goes with 'stop', not with '{args.verb}'")
    units = manager.look()
    is_managed = units is not None and units.are_installed and call.target.state_dir is not None
    if is_managed and not _is_elsewhere(call):
        assert units is not None, "is_managed says so"
        return _Managed(call, units).do(args.verb)
    return _Background(call, units).do(args.verb)


def _is_elsewhere(call: Invocation) -> bool:
    """Whether this shell means a state directory whose daemon runs beside the one of systemd."""
    return call.target.socket_path != managed_socket() and os.path.exists(call.target.socket_path)


# ---- systemd runs it ----


class _Managed:
    """The service as systemd has it."""

    def __init__(self, call: Invocation, units: manager.Units) -> None:
        self._call = call
        self._units = units

    def do(self, verb: str) -> int:
        """One verb; systemctl's exit code."""
        screen = self._call.screen
        match verb:
            case "status":
                return self._status()
            case "start":
                code = manager.systemctl("start", manager.SOCKET)
                done = f"Listening: {manager.SOCKET} is active, the first request starts the daemon."
            case "stop":
                code = self._stop()
                done = "Stopped: nothing starts the daemon until 'omegactl service start'."
                if not self._call.args.sessions:
                    done += " Sessions go on."
            case "restart":
                code = manager.systemctl("restart", manager.SERVICE)
                done = "Restarted; sessions go on."
            case "enable":
                code = manager.systemctl("enable", "--now", manager.SOCKET)
                done = "Enabled: systemd listens for the daemon from your next login on, and now."
            case _:
                code = manager.systemctl("disable", manager.SOCKET)
                done = "Disabled: systemd does not listen any more after your next login; it does until then."
        if code == 0:
            screen.say(f"{done} {WITH_SYSTEMD}")
        else:
            screen.warn(
                f"systemctl failed with exit code {code}; 'omegactl doctor' looks for the cause. {WITH_SYSTEMD}"
            )
        return code

    def _stop(self) -> int:
        names = [manager.SOCKET, manager.SERVICE]
        if manager.ask("is-active", manager.TCP_SOCKET) is not None:
            names.insert(0, manager.TCP_SOCKET)
        if self._call.args.sessions:
            # Those without a scope (of a daemon from before the units) end by the daemon's own hand.
            if self._units.service.active == "active":
                _end_sessions(self._call)
            names.append(manager.SESSIONS_SLICE)
        return manager.systemctl("stop", *names)

    def _status(self) -> int:
        screen, units = self._call.screen, self._units
        serving = None
        if units.service.active == "active":
            serving = _ask_server(self._call)
        if self._call.args.json:
            screen.json({"managed_by": "systemd", "units": [unit._asdict() for unit in units], "server": serving})
            quiet = ["systemctl", "--user", "--quiet", "status", manager.SERVICE]
            return subprocess.run(quiet, stdout=subprocess.DEVNULL).returncode
        screen.line(WITH_SYSTEMD)
        if serving is not None:
            screen.line(_told(screen, serving))
        elif units.socket.active == "active":
            screen.line(
                f"Listening; the first request starts the daemon ({manager.SERVICE} is {units.service.active})."
            )
        sys.stdout.flush()
        pager = [] if screen.is_terminal else ["--no-pager"]
        return manager.systemctl("status", *pager, manager.SERVICE, manager.SOCKET)


# ---- this program runs it ----


class _Background:
    """The daemon as a process of its own, without systemd."""

    def __init__(self, call: Invocation, units: manager.Units | None) -> None:
        self._call = call
        if call.target.state_dir is None:
            self._way = f"{WITHOUT_SYSTEMD}: --socket names a daemon of its own."
        elif units is None:
            self._way = f"{WITHOUT_SYSTEMD}: no user manager answers here."
        elif not units.are_installed:
            self._way = f"{WITHOUT_SYSTEMD}: its units are not installed (./install.sh does that)."
        else:
            self._way = f"{WITHOUT_SYSTEMD}: for the state directory of {call.target.origin}."

    def do(self, verb: str) -> int:
        """One verb; 0, or 3 when a status finds no daemon."""
        match verb:
            case "status":
                return self._status()
            case "start":
                return self._start()
            case "stop":
                if self._call.args.sessions:
                    _end_sessions(self._call)
                pid = self._stop()
                self._say(f"Stopped the daemon (pid {pid})." if pid else "No daemon was running.")
                return 0
            case "restart":
                self._stop()
                return self._start()
            case _:
                raise NotManaged(f"There is nothing to {verb}. {self._way}")

    def _say(self, text: str) -> None:
        self._call.screen.say(f"{text} {self._way}")

    def _start(self) -> int:
        if self._call.args.no_start:
            raise UsageError("--no-start and 'service start' exclude each other")
        server = self._call.client.get("/api/server")
        self._say(_told(self._call.screen, server))
        return 0

    def _status(self) -> int:
        screen = self._call.screen
        server = _ask_server(self._call)
        if self._call.args.json:
            screen.json({"managed_by": "client", "units": [], "server": server})
        else:
            screen.line(self._way)
            screen.line(_told(screen, server) if server else "Not running; the first command that needs it starts it.")
        return 0 if server else NOT_RUNNING

    def _stop(self) -> int | None:
        """Ask the daemon to leave and see it gone; its pid, or None when none was there."""
        server = _ask_server(self._call)
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
            again = _ask_server(self._call)
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
        while (server := _ask_server(self._call)) is not None and server["pid"] == pid:
            if not backoff.pause():
                raise _still_there(pid)
        return pid


def _still_there(pid: int) -> TimedOut:
    return TimedOut(f"The daemon (pid {pid}) was asked to leave and is still there", hint="See 'omegactl logs'.")


def _is_readable(descriptor: int, timeout_s: float) -> bool:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def _ask_server(call: Invocation) -> Json | None:
    """What the daemon says of itself, or None when none runs; starts none."""
    try:
        with Client(call.target, may_start=False) as client:
            server: Json = client.get("/api/server")
    except DaemonUnreachable:
        return None
    return server


def _told(screen: Screen, server: Json) -> str:
    counts = server["counts"]
    older = "" if server["version"] == __version__ else f" (this client is {__version__})"
    return (
        f"Running: pid {server['pid']}, version {server['version']}{older}, "
        f"started {screen.when(server['started_at'])}; "
        f"sessions: {counts['sessions']}, with a process: {counts['live']}, busy: {counts['busy']}, "
        f"queued commands: {counts['queued']}."
    )


def _end_sessions(call: Invocation) -> None:
    """End the process of every session; names and history stay."""
    for session in call.client.get("/api/sessions"):
        if session["pid"] is None and session["state"] not in ("starting", "reconnecting"):
            continue
        try:
            call.client.post(session_path(session["name"]) + "/kill")
        except SessionNotFound:
            continue
        call.screen.say(f"Ended {session['name']} ({state_word(session)} before).")


# ---- logs ----


def logs(call: Invocation) -> int:
    """omegactl logs: journalctl's lines, or the daemon's log file's."""
    args, screen = call.args, call.screen
    state_dir = call.target.state_dir
    if state_dir is None:
        raise UsageError("The log of a daemon named by --socket is not known here")
    units = manager.look()
    if units is not None and units.are_installed and not _is_elsewhere(call):
        chosen = [manager.scope(args.name, state_dir)] if args.name else [manager.SERVICE, manager.SOCKET]
        command = ["journalctl", "--user", *(f"--unit={unit}" for unit in chosen)]
        command += ["--follow"] if args.follow else []
        command += [] if args.count is None else [f"--lines={args.count}"]
        command += [] if screen.is_terminal else ["--no-pager"]
        return subprocess.run(command).returncode
    path = paths.daemon_log(state_dir)
    if not os.path.exists(path):
        screen.say(f"There is no log yet: {path}")
        return 0
    wanted = _about(call, args.name) if args.name else None
    if args.follow:
        for line in _followed(path, args.count, wanted):
            screen.line(line)
    with screen.paged():
        for line in _last_lines(path, args.count, wanted):
            screen.line(line)
    return 0


def _about(call: Invocation, name: str) -> re.Pattern[str]:
    """What marks the lines of one session, its name or its id."""
    marks = [re.escape(name)]
    try:
        with Client(call.target, may_start=False) as client:
            marks.append(re.escape(client.get(session_path(name))["id"]))
    except OmegaError:
        pass  # not running, or gone: its name must do
    return re.compile(rf"(?<![\w.-])({'|'.join(marks)})(?![\w-])")


def _last_lines(path: str, count: int | None, wanted: re.Pattern[str] | None) -> Iterator[str]:
    from collections import deque

    with open(path, encoding="utf-8", errors="replace") as log:
        lines = (line.rstrip("\n") for line in log)
        chosen = lines if wanted is None else (line for line in lines if wanted.search(line))
        yield from chosen if count is None else deque(chosen, maxlen=count)


def _followed(path: str, count: int | None, wanted: re.Pattern[str] | None) -> Iterator[str]:
    import time

    with open(path, encoding="utf-8", errors="replace") as log:
        yield from _last_lines(path, 10 if count is None else count, wanted)
        log.seek(0, os.SEEK_END)
        pending = ""
        while True:
            pending += log.read()
            *whole, pending = pending.split("\n")
            yield from (line for line in whole if wanted is None or wanted.search(line))
            time.sleep(FOLLOW_S)


# ---- version ----


def version(call: Invocation) -> int:
    """omegactl version; starts no daemon."""
    units = manager.look()
    server = None
    if units is None or not units.are_asleep or call.target.socket_path != managed_socket():
        server = _ask_server(call)
    running = server["version"] if server else None
    if call.args.json:
        call.screen.json({"client": __version__, "server": running})
    else:
        call.screen.line(f"omegactl {__version__}")
        call.screen.line(f"omega-sessiond {running}" if running else "omega-sessiond is not running")
    return 0
