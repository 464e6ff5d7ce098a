"""What waking a hibernated session costs, over making a new one; and what saving a large state does."""

from __future__ import annotations

import json
import statistics

from benchmarks.driver import Client, request
from benchmarks.execute import EXECUTED, execute, first_execute
from benchmarks.figures import Effort, Goal, Judged, Report, Samples
from benchmarks.servers import Site

OVER_NEW_MS = 5.0
HELD_MIB = 64

SAVE = request("POST", "/api/sessions/source/save", b"")
SAVED = b'"is_current":true'


def wake(site: Site, effort: Effort) -> Report:
    count = effort.count(30, 2)
    report = Report("wake", f"1+1 in a new session and in a hibernated one, {count} times in turn; saving")
    with site.daemon() as path, Client(path) as client:
        client.time_of(first_execute("source", site.python), EXECUTED)
        small = [client.time_of(SAVE, SAVED) / 1000 for _ in range(effort.count(10, 1))]
        client.ask("POST", "/api/sessions/source/snapshots", b'{"name":"small"}')
        body = json.dumps({"command": f"import os; held = os.urandom({HELD_MIB << 20}); 1+1"}).encode()
        client.time_of(request("POST", "/api/sessions/source/execute", body), EXECUTED)
        large = [client.time_of(SAVE, SAVED) / 1000 for _ in range(effort.count(5, 1))]
        for number in range(count):
            into = json.dumps({"snapshot": "small", "into": f"asleep-{number}"}).encode()
            client.ask("POST", "/api/sessions/source/restore", into)
        new, woken = [], []
        for number in range(count):
            new.append(client.time_of(first_execute(f"new-{number}", site.python), EXECUTED) / 1000)
            woken.append(client.time_of(execute(f"asleep-{number}"), EXECUTED) / 1000)
    report.samples = [
        Samples("new session with its first execute", "ms", new),
        Samples("hibernated session with its next execute", "ms", woken),
        Samples("save, small", "ms", small),
        Samples(f"save, {HELD_MIB} MiB", "ms", large),
    ]
    over = statistics.median(woken) / (statistics.median(new) + OVER_NEW_MS)
    report.judged = [Judged(f"waking / a new session and {OVER_NEW_MS:g} ms", over, [Goal("goal", 1)])]
    return report
