"""What a fork of a live session costs, empty and with memory: the time until the copy answers."""

from __future__ import annotations

import json
import statistics

from benchmarks.driver import Client, request
from benchmarks.execute import EXECUTED
from benchmarks.figures import Effort, Goal, Judged, Report, Samples
from benchmarks.servers import Site

HELD_MIB = (0, 100, 300)
"""As many small objects as make so much: what a fork copies is the page table, and objects are what fills pages."""

OBJECTS_IN_A_MIB = 1000
EMPTY_MS, MS_A_MIB = 3.0, 0.04


def live_fork(site: Site, effort: Effort) -> Report:
    count = effort.count(15, 1)
    report = Report("fork", f"POST …/fork until the copy is there, {count} times")
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
            goal = Goal("goal", EMPTY_MS + MS_A_MIB * mib)
            report.judged.append(Judged(f"with {mib} MiB", statistics.median(taken), [goal], "ms"))
    return report
