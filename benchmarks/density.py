"""What many sessions cost: a thousand live ones, ten thousand that sleep. Memory, wake-ups while nothing happens, the
listing, and waking one of them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

from benchmarks.driver import Client, RequestFailed, request
from benchmarks.execute import EXECUTED, execute, first_execute
from benchmarks.figures import Effort, Goal, Judged, Report, Samples
from benchmarks.servers import Site, sessions
from benchmarks.sessions import pss_mib

WATCHED_S = 10.0
"""How long idle sessions are watched for wake-ups."""

SETTLED_S = 2.0
"""After the last command: until what it said is acknowledged, and its timers have passed."""

LIST = request("GET", "/api/sessions")


def density(site: Site, effort: Effort) -> Report:
    live, asleep = effort.count(1000, 20), effort.count(10_000, 50)
    report = Report("density", f"{live} live sessions, and {asleep} hibernated ones")
    settings = {"MAX_CACHED_SESSIONS": str(live + 1), "SAVE_INTERVAL_MS": "0"}
    with site.daemon(settings=settings) as path, Client(path) as client:
        begun = time.perf_counter()
        for number in range(live):
            client.time_of(first_execute(f"live-{number}", site.python), EXECUTED)
        created_ms = (time.perf_counter() - begun) * 1000 / live
        pids = [session["pid"] for session in sessions(path)]
        time.sleep(SETTLED_S)
        before = sum(map(_wakeups, pids))
        time.sleep(WATCHED_S)
        wakeups = sum(map(_wakeups, pids)) - before
        memory = Samples("memory of a live session (PSS)", "MiB", [pss_mib(pid) for pid in pids])
        listed_live = [client.time_of(LIST, b"live-0") / 1000 for _ in range(10)]
    with site.daemon(settings={"SAVE_INTERVAL_MS": "0"}) as path, Client(path) as client:
        client.time_of(first_execute("source", site.python), EXECUTED)
        client.ask("POST", "/api/sessions/source/snapshots", b'{"name":"small"}')
        for number in range(asleep):
            into = json.dumps({"snapshot": "small", "into": f"asleep-{number}"}).encode()
            client.ask("POST", "/api/sessions/source/restore", into)
        listed_asleep = [client.time_of(LIST, b"asleep-0") / 1000 for _ in range(10)]
        woken = [client.time_of(execute(f"asleep-{number}"), EXECUTED) / 1000 for number in range(min(asleep, 20))]
    report.samples = [
        memory,
        Samples(f"list {live} live sessions", "ms", listed_live),
        Samples(f"list {asleep} hibernated sessions", "ms", listed_asleep),
        Samples("wake one of them", "ms", woken),
    ]
    report.judged = [
        Judged("new session with its first execute, mean", created_ms, unit="ms"),
        Judged(
            "sessions in a GiB", 1024 / memory.median, [Goal("goal", 500, False), Goal("stretch", 700, False)], "count"
        ),
        Judged(f"wake-ups of all live sessions in {WATCHED_S:g} s", wakeups, [Goal("goal", 0)], "count"),
    ]
    return report


def _wakeups(pid: int) -> int:
    """How often the process's threads have gone to sleep so far. Source: proc(5), voluntary_ctxt_switches."""
    total = 0
    for status in Path(f"/proc/{pid}/task").glob("*/status"):
        for line in status.read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    if not total:
        raise RequestFailed(f"no figures of process {pid}")
    return total
