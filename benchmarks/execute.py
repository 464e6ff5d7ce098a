"""The warm round trip of `1+1`, and how many of them eight sessions do at once, beside the echo."""

from __future__ import annotations

import json
import statistics
from itertools import chain

from benchmarks.driver import Client, request, requests_per_second
from benchmarks.figures import Effort, Goal, Judged, Report, Samples, ratio_by_round
from benchmarks.servers import Site

BODY = b'{"command":"1+1"}'
ECHO = request("POST", "/echo", BODY)
ECHOED = b'"1+1"'
EXECUTED = b'"result":"2"'

SESSIONS = 8

SET_AT_US = 152
"""An echo on the machine where other programs were measured and the goals in milliseconds were set. On another one
these are what they are in echoes."""

GATEWAY = {"best case": 5200 / SET_AT_US, "plain case": 48_000 / SET_AT_US}
"""Jupyter Kernel Gateway 3.0.1's warm `1+1`, in echoes of the run it was measured in: with TCP_QUICKACK, and plain."""

JUPYTER_PER_S = 136 / 6400
"""Jupyter Server 2.21.1's executes a second at 8 kernels, as a share of the echo's requests a second."""


def echo_us(site: Site, effort: Effort) -> float:
    """An echo here and now, in microseconds."""
    with site.echo() as path, Client(path) as echo:
        return statistics.median(echo.time_of(ECHO, ECHOED) for _ in range(effort.count(500, 2)))


def in_echoes(name: str, median_ms: float, echo: float, goal_ms: float) -> Judged:
    """A time as a multiple of the echo, held to what the goal is as one."""
    return Judged(f"{name} / echo", median_ms * 1000 / echo, [Goal("goal", goal_ms * 1000 / SET_AT_US)])


def execute(name: str) -> bytes:
    return request("POST", f"/api/sessions/{name}/execute", BODY)


def first_execute(name: str, python: str) -> bytes:
    """An execute that makes its session, in this interpreter."""
    body = json.dumps({"command": "1+1", "create": {"python": python}})
    return request("POST", f"/api/sessions/{name}/execute", body.encode())


def round_trip(site: Site, effort: Effort) -> Report:
    rounds, each = effort.count(30, 2), effort.count(100, 3)
    report = Report("execute", f"warm round trip of 1+1, {rounds} rounds of {each} a side")
    ours: list[list[float]] = []
    echoes: list[list[float]] = []
    with site.echo() as echo_path, site.daemon() as path, Client(echo_path) as echo, Client(path) as client:
        whole_request = execute("bench")
        for _ in range(effort.count(200, 2)):
            client.time_of(whole_request, EXECUTED)
            echo.time_of(ECHO, ECHOED)
        for _ in range(rounds):
            echoes.append([echo.time_of(ECHO, ECHOED) for _ in range(each)])
            ours.append([client.time_of(whole_request, EXECUTED) for _ in range(each)])
    ratio = ratio_by_round(ours, echoes)
    report.samples = [Samples("echo", "us", [*chain(*echoes)]), Samples("execute", "us", [*chain(*ours)])]
    report.judged = [
        Judged("execute / echo", ratio, [Goal("now", 2.0), Goal("goal", 1.8), Goal("stretch", 1.5)]),
        Judged("Kernel Gateway, best case / execute", GATEWAY["best case"] / ratio, [Goal("goal", 15, False)], "times"),
        Judged("Kernel Gateway, plain / execute", GATEWAY["plain case"] / ratio, [Goal("goal", 120, False)], "times"),
    ]
    return report


def throughput(site: Site, effort: Effort) -> Report:
    rounds, each = effort.count(8, 2), effort.count(250, 3)
    report = Report("throughput", f"{SESSIONS} sessions at once, {rounds} rounds of {SESSIONS} x {each} a side")
    names = [f"bench-{number}" for number in range(SESSIONS)]
    ours: list[float] = []
    echoes: list[float] = []
    with site.echo() as echo_path, site.daemon() as path:
        with Client(path) as client:
            for name in names:
                json.loads(client.ask("POST", f"/api/sessions/{name}/execute", BODY))
        requests_per_second(path, [execute(name) for name in names], effort.count(20, 1))
        requests_per_second(echo_path, [ECHO] * SESSIONS, effort.count(20, 1))
        for _ in range(rounds):
            echoes.append(requests_per_second(echo_path, [ECHO] * SESSIONS, each))
            ours.append(requests_per_second(path, [execute(name) for name in names], each))
    share = statistics.median(mine / other for mine, other in zip(ours, echoes, strict=True))
    report.samples = [Samples("echo", "/s", echoes), Samples("execute", "/s", ours)]
    report.judged = [
        Judged("execute / echo", 100 * share, [Goal("goal", 60, False), Goal("stretch", 80, False)], "%"),
        Judged(
            "execute / Jupyter Server",
            share / JUPYTER_PER_S,
            [Goal("goal", 20, False), Goal("stretch", 30, False)],
            "times",
        ),
    ]
    return report
