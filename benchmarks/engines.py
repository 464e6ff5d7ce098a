"""A command in a session of a line REPL, beside the same command to the same REPL on bare pipes, and beside `1+1` in a
Python session: what the engine adds is at most what an execute costs at all.

Twice: each side by itself, and command by command in turn. A REPL that is asked again at once answers in half the time
that it takes after the half millisecond for which a session leaves it alone; in turn it rests as long on bare pipes.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable
from itertools import chain

from benchmarks.driver import Client, request
from benchmarks.execute import BODY, EXECUTED, execute
from benchmarks.figures import Effort, Goal, Judged, Report, Samples
from benchmarks.servers import Site
from omega_sessiond.config import Settings
from omega_sessiond.engines import Catalogue
from omega_sessiond.errors import EngineUnavailable
from omega_sessiond.hosts.framing import Mark, Token, fill, has_token

COMMANDS = {"bash": ":", "node": "1+1", "omega": "(+ 1 1)"}
"""`omega` is measured where OMEGA_REPL says how to start it."""


class Bare:
    """The REPL on pipes, with the marks of its preset and nothing else: the least that a client can do."""

    def __init__(self, engine: str) -> None:
        self._preset = Catalogue(Settings()).resolve(engine, None, dict(os.environ)).options
        env = {**os.environ, **self._preset["env"]}
        self._process = subprocess.Popen(
            self._preset["command"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=env,
            cwd="/tmp",
            bufsize=0,
            start_new_session=True,
        )
        self._say(self._preset["setup"], self._preset["sentinel"], "")

    def time_of(self, command: str) -> float:
        """Microseconds from sending the command until its mark is there."""
        template = self._preset["submit"]
        if has_token(template):
            return self._say("", template, command)
        return self._say("", template + self._preset["sentinel"], command)

    def _say(self, before: str, template: str, command: str) -> float:
        token = Token()
        data = (before + fill(template, token, {"code": command})).encode()
        mark = Mark("end", self._preset["mark"], token).before
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        begun = time.perf_counter()
        stdin.write(data)
        heard = b""
        while mark not in heard:
            heard += os.read(stdout.fileno(), 65536)
        return (time.perf_counter() - begun) * 1e6

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


def line_engines(site: Site, effort: Effort) -> Report:
    rounds, each = effort.count(20, 2), effort.count(40, 3)
    report = Report("engines", f"a command in a line REPL, {rounds} rounds of {each} a side")
    with site.daemon() as path, Client(path) as client:
        for engine, command in COMMANDS.items():
            if engine == "omega" and not os.environ.get("OMEGA_REPL"):
                continue
            try:
                bare = Bare(engine)
            except EngineUnavailable as error:
                report.notes.append(f"{engine}: {error.message}")
                continue
            try:
                _measure(report, client, bare, engine, command, rounds, each)
            finally:
                bare.close()
    return report


def _measure(report: Report, client: Client, bare: Bare, engine: str, command: str, rounds: int, each: int) -> None:
    options = {"name": engine, "engine": engine, "env": dict(os.environ), "cwd": "/tmp"}
    client.ask("POST", "/api/sessions", json.dumps(options).encode())
    body = json.dumps({"command": command}).encode()
    whole_request = request("POST", f"/api/sessions/{engine}/execute", body)
    python = execute("python")
    client.ask("POST", "/api/sessions/python/execute", BODY)
    asks: list[Callable[[], float]] = [
        lambda: bare.time_of(command),
        lambda: client.time_of(whole_request, b'"status":"ok"'),
        lambda: client.time_of(python, EXECUTED),
    ]
    alone: list[list[list[float]]] = [[], [], []]
    in_turn: list[list[list[float]]] = [[], [], []]
    for _ in range(rounds):
        for side, ask in zip(alone, asks, strict=True):
            side.append([ask() for _ in range(each)])
        for side, times in zip(in_turn, zip(*[[ask() for ask in asks] for _ in range(each)], strict=True), strict=True):
            side.append([*times])
    names = (f"{engine}, bare pipes", f"{engine}, session", f"1+1 in Python, beside {engine}")
    for how, sides in (("", alone), (", in turn", in_turn)):
        shares = [
            (statistics.median(ours) - statistics.median(least)) / statistics.median(base)
            for least, ours, base in zip(*sides, strict=True)
        ]
        report.samples += [Samples(name + how, "us", [*chain(*side)]) for name, side in zip(names, sides, strict=True)]
        share = statistics.median(shares)
        report.judged.append(Judged(f"({engine} session - bare) / Python execute{how}", share, [Goal("goal", 1.0)]))
