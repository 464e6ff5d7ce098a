"""The commands about the daemon itself: service, logs, metrics, version.

Two ways run a daemon: the user's systemd, where our units are installed and it answers, or this program itself. Each
command does what it does in either way, and says which of them is in use.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from omega_sessiond import __version__, control, manager, paths
from omega_sessiond.cli_sessions import state_word
from omega_sessiond.client import Client, session_path
from omega_sessiond.errors import OmegaError, SessionNotFound
from omega_sessiond.forkwords import fork_lines
from omega_sessiond.invocation import Invocation, UsageError
from omega_sessiond.launch import locate
from omega_sessiond.screen import Screen
from omega_sessiond.target import managed_socket
from omega_sessiond.terminal import sanitize

Json = dict[str, Any]

NOT_RUNNING = 3
"""systemctl's exit code for a unit that is not active: the same word in both ways."""

FOLLOW_S = 0.2
"""How often a followed log file is looked at."""


def service(call: Invocation) -> int:
    """omegactl service."""
    args = call.args
    if args.sessions and args.verb != "stop":
        raise UsageError(f"--sessions goes with 'stop', not with '{args.verb}'")
    found = control.look(call.target)
    if isinstance(found, control.Managed):
        return _Managed(call, found).do(args.verb)
    return _Background(call, found).do(args.verb)


# ---- systemd runs it ----


class _Managed:
    """The service as systemd has it."""

    def __init__(self, call: Invocation, found: control.Managed) -> None:
        self._call = call
        self._found = found

    def do(self, verb: str) -> int:
        """One verb; systemctl's exit code."""
        if verb == "status":
            return self._status()
        known: control.Verb = verb  # type: ignore[assignment] # argparse has let only these through
        ends_sessions = self._call.args.sessions
        if ends_sessions and self._found.service.active == "active":
            # Those without a scope (of a daemon from before the units) end by the daemon's own hand.
            _end_sessions(self._call)
        code = 0
        for step in self._found.steps(known):
            code = code or manager.systemctl(*step, *([manager.SESSIONS_SLICE] if ends_sessions else []))
        screen, way = self._call.screen, self._found.way
        if code == 0:
            go_on = " Sessions go on." if verb == "stop" and not ends_sessions else ""
            screen.say(f"{self._found.done(known)}{go_on} {way}")
        else:
            screen.warn(f"systemctl failed with exit code {code}; 'omegactl doctor' looks for the cause. {way}")
        return code

    def _status(self) -> int:
        screen, found = self._call.screen, self._found
        serving = None
        if found.service.active == "active":
            serving = control.ask_server(self._call.target)
        if self._call.args.json:
            units = [unit._asdict() for unit in found.units if unit.is_installed]
            screen.json({"managed_by": "systemd", "units": units, "server": serving})
            quiet = ["systemctl", "--user", "--quiet", "status", manager.SERVICE]
            return subprocess.run(quiet, stdout=subprocess.DEVNULL).returncode
        screen.line(found.way)
        if serving is not None:
            _describe(screen, serving)
        elif found.socket.active == "active":
            screen.line(
                f"Listening; the first request starts the daemon ({manager.SERVICE} is {found.service.active})."
            )
        sys.stdout.flush()
        pager = [] if screen.is_terminal else ["--no-pager"]
        return manager.systemctl("status", *pager, manager.SERVICE, manager.SOCKET)


# ---- this program runs it ----


class _Background:
    """The daemon as a process of its own, without systemd."""

    def __init__(self, call: Invocation, found: control.Background) -> None:
        self._call = call
        self._found = found

    def do(self, verb: str) -> int:
        """One verb; 0, or 3 when a status finds no daemon."""
        match verb:
            case "status":
                return self._status()
            case "start" | "restart":
                if self._call.args.no_start:
                    raise UsageError(f"--no-start and 'service {verb}' exclude each other")
                self._say(_told(self._call.screen, self._found.restart() if verb == "restart" else self._found.start()))
            case "stop":
                if self._call.args.sessions:
                    _end_sessions(self._call)
                self._say(self._found.act("stop"))
            case _:
                raise control.NotManaged(f"There is nothing to {verb}. {self._found.way}")
        return 0

    def _say(self, text: str) -> None:
        self._call.screen.say(f"{text} {self._found.way}")

    def _status(self) -> int:
        screen, server = self._call.screen, self._found.server
        if self._call.args.json:
            screen.json({"managed_by": "client", "units": [], "server": server})
        else:
            screen.line(self._found.way)
            screen.line(f"Its socket is {locate(self._call.target).socket_path}.")
            if server:
                _describe(screen, server)
            else:
                screen.line("Not running; the first command that needs it starts it.")
        return 0 if server else NOT_RUNNING


def _describe(screen: Screen, server: Json) -> None:
    """A daemon that runs, and what its new sessions are forked from."""
    screen.line(_told(screen, server))
    for line in fork_lines(server):
        screen.line(line)


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
    marks, is_gone = _marks(call, args.name) if args.name else ([], False)
    gone = f"No session is called '{args.name}' now: this is what there was of one."
    units = manager.look()
    if units is not None and units.are_installed and not control.is_elsewhere(call.target):
        if is_gone:
            screen.say(gone)
        chosen = [manager.scope(args.name, state_dir)] if args.name else [manager.SERVICE, manager.SOCKET]
        command = ["journalctl", "--user", *(f"--unit={unit}" for unit in chosen)]
        command += ["--follow"] if args.follow else []
        command += [] if args.count is None else [f"--lines={args.count}"]
        command += [] if screen.is_terminal else ["--no-pager"]
        return subprocess.run(command).returncode
    path = paths.daemon_log(state_dir)
    wanted = re.compile(rf"(?<![\w.-])({'|'.join(map(re.escape, marks))})(?![\w-])") if marks else None
    if is_gone and not (os.path.exists(path) and any(_last_lines(path, None, wanted))):
        raise SessionNotFound
    if not os.path.exists(path):
        screen.say(f"There is no log yet: {path}")
        return 0
    if is_gone:
        screen.say(gone)
    if args.follow:
        for line in _followed(path, args.count, wanted):
            screen.line(line)
    with screen.paged():
        for line in _last_lines(path, args.count, wanted):
            screen.line(line)
    return 0


def _marks(call: Invocation, name: str) -> tuple[list[str], bool]:
    """What marks the lines of one session, its name and its id; and whether there is no session of that name now."""
    try:
        with Client(call.target, may_start=False, may_wake=False) as client:
            return [name, client.get(session_path(name))["id"]], False
    except SessionNotFound:
        return [name], True
    except OmegaError:
        return [name], False  # no daemon runs: its name must do


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


# ---- metrics ----


def metrics(call: Invocation) -> int:
    """omegactl metrics: what Prometheus reads, byte by byte where no terminal would obey any of them."""
    figures = call.client.download("/metrics")
    if not call.screen.is_terminal:
        call.screen.write_bytes(figures)
        return 0
    with call.screen.paged():
        call.screen.write(sanitize(figures.decode("utf-8", "replace")))
    return 0


# ---- version ----


def version(call: Invocation) -> int:
    """omegactl version; starts no daemon."""
    units = manager.look()
    server = None
    if units is None or not units.are_asleep or call.target.socket_path != managed_socket():
        server = control.ask_server(call.target)
    running = server["version"] if server else None
    if call.args.json:
        call.screen.json({"client": __version__, "server": running})
    else:
        call.screen.line(f"omegactl {__version__}")
        call.screen.line(f"omega-sessiond {running}" if running else "omega-sessiond is not running")
    return 0
