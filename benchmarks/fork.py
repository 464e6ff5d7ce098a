"""What a fork of a live session costs, empty and with memory: the time until the copy answers."""

from __future__ import annotations

import json
import statistics

from benchmarks.driver import Client, request
from benchmarks.execute import EXECUTED, echo_us, in_echoes
from benchmarks.figures import Effort, Goal, Judged, Report, Samples
from benchmarks.servers import Site

HELD_MIB = (0, 100, 300)
"""As many small objects as make so much: what a fork copies is the page table, and objects are what fills pages."""

OBJECTS_IN_A_MIB = 1000
EMPTY_MS, MS_A_MIB = 3.0, 0.04


def live_fork(site: Site, effort: Effort) -> Report:
    count = effort.count(15, 1)
    report = Report("fork", f"POST …/fork until the copy is there, {count} times")
    echo = echo_us(site, effort)
    with site.daemon() as path, Client(path) as client:
        for mib in HELD_MIB[: effort.count(len(HELD_MIB), 1)]:
            source = f"holds-{mib}"
            code = f"held = [bytes(1000) for _ in range({mib * OBJECTS_IN_A_MIB})]; 1 + 1"
            body = json.dumps({"command": code, "create": {"python": site.python}}).encode()
            client.time_of(request("POST", f"/api/sessions/{source}/execute", body), EXECUTED)
            taken = []
            for number in range(count):
                name = f"{source}-{number}"
                order = json.dumps({"name": name}).encode()
                taken.append(client.time_of(request("POST", f"/api/sessions/{source}/fork", order), b'"idle"') / 1000)
                client.ask("DELETE", f"/api/sessions/{name}", b'{"budget_s": 2}')
            client.ask("DELETE", f"/api/sessions/{source}", b'{"budget_s": 2}')
            report.samples.append(Samples(f"fork with {mib} MiB of objects", "ms", taken))
            goal_ms, median = EMPTY_MS + MS_A_MIB * mib, statistics.median(taken)
            report.judged.append(Judged(f"with {mib} MiB", median, [Goal("goal", goal_ms)], "ms"))
            report.judged.append(in_echoes(f"with {mib} MiB", median, echo, goal_ms))
    return report
