"""What a new session costs: the time until it answers, with its first execute, and its memory. One at a time, as people
and programs ask for them: a spare waits for each; and one directly after the other, when the next is still being made.
"""

from __future__ import annotations

import json
import statistics
import time
from pathlib import Path

from benchmarks.driver import Client, RequestFailed, request
from benchmarks.execute import EXECUTED, SET_AT_US, echo_us, execute, first_execute, in_echoes
from benchmarks.figures import Effort, Goal, Judged, Report, Samples
from benchmarks.servers import Site, bus_address, sessions

GATEWAY_ECHOES = 396_000 / SET_AT_US
"""Jupyter Kernel Gateway 3.0.1's new kernel and first execute at its best, in echoes of the run that measured it."""

MIB = 1024 * 1024

PLAIN_MS, SCOPED_MS = 2.0, 5.0
SCOPED = "new session in its scope"

PAUSE_S = 0.01
"""Before each session: as long as it takes until there is a spare again, twice."""

REHEARSED_S = 10.0
"""By then the fork servers of a daemon that has just started have rehearsed, on whatever machine."""


def new_session(site: Site, effort: Effort) -> Report:
    count = effort.count(30, 2)
    report = Report(
        "new-session", f"POST /api/sessions, then the first 1+1, {count} times; and as often without a pause"
    )
    created, both, memory = _without_and_with_scope(site, count, report)
    echo = echo_us(site, effort)
    report.samples.append(Samples("echo", "us", [echo]))
    scoped = [row for row in report.samples if row.name == SCOPED]
    report.judged += [
        *(in_echoes(SCOPED, row.median, echo, SCOPED_MS) for row in scoped),
        Judged("new session, no scope", created.median, [Goal("goal", PLAIN_MS)], "ms"),
        in_echoes("new session, no scope", created.median, echo, PLAIN_MS),
        Judged(
            "Kernel Gateway / with first execute",
            GATEWAY_ECHOES * echo / 1000 / both.median,
            [Goal("goal", 80, False), Goal("stretch", 120, False)],
            "times",
        ),
        Judged(
            "sessions in a GiB", 1024 / memory.median, [Goal("goal", 500, False), Goal("stretch", 700, False)], "count"
        ),
    ]
    return report


def _without_and_with_scope(site: Site, count: int, report: Report) -> tuple[Samples, Samples, Samples]:
    with site.daemon(settings={"MAX_CACHED_SESSIONS": "1000"}) as path:
        created, both = _measure(path, site.python, count, PAUSE_S)
        in_a_row, _ = _measure(path, site.python, count, 0.0)
        memory = Samples("memory of a session (PSS)", "MiB", _memory(path))
        with Client(path) as client:
            for session in sessions(path):
                client.ask("POST", f"/api/sessions/{session['name']}/save", b"{}")
        saved = Samples("memory of a saved session (PSS)", "MiB", _memory(path))
    report.samples = [
        Samples("new session", "ms", created),
        Samples("with its first execute", "ms", both),
        Samples("new session, without a pause before", "ms", in_a_row),
        memory,
        saved,
    ]
    if not bus_address():
        report.notes.append("in its scope: not measured, no user manager answers here")
    else:
        with site.daemon(scopes=True) as path:
            scoped, scoped_both = _measure(path, site.python, count, PAUSE_S)
            with Client(path) as client:
                has_scopes = b'"scopes":true' in client.ask("GET", "/api/server")
        if has_scopes:
            report.samples += [
                Samples(SCOPED, "ms", scoped),
                Samples("in its scope with its first execute", "ms", scoped_both),
            ]
            report.judged.append(Judged(SCOPED, statistics.median(scoped), [Goal("goal", SCOPED_MS)], "ms"))
        else:
            report.notes.append("in its scope: not measured, the user manager refused")
    return report.samples[0], report.samples[1], memory


def _memory(path: str) -> list[float]:
    return [pss_mib(session["pid"]) for session in sessions(path)]


def _measure(path: str, python: str, count: int, pause_s: float) -> tuple[list[float], list[float]]:
    """Milliseconds to create a session, and until its first result."""
    created, both = [], []
    with Client(path) as client:
        client.time_of(first_execute("first", python), EXECUTED)  # what is imported with the first one is not counted
        _wait_until_rehearsed(client)
        for number in range(count):
            name = f"bench-{pause_s:g}-{number}"
            time.sleep(pause_s)
            create = json.dumps({"name": name, "python": python}).encode()
            taken = client.time_of(request("POST", "/api/sessions", create), b'"idle"')
            first = client.time_of(execute(name), EXECUTED)
            created.append(taken / 1000)
            both.append((taken + first) / 1000)
    return created, both


def _wait_until_rehearsed(client: Client) -> None:
    end = time.monotonic() + REHEARSED_S
    while b'"is_rehearsed":false' in client.ask("GET", "/api/server") and time.monotonic() < end:
        time.sleep(0.1)


def pss_mib(pid: int) -> float:
    """The process's share of memory in MiB. Source: proc(5), smaps_rollup."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024 / MIB
    raise RequestFailed(f"no memory figures of process {pid}")
