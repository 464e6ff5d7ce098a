"""What a session with much in memory costs to keep: saving it, what commands feel of that meanwhile, waking it."""

from __future__ import annotations

import json
import threading
import time

from benchmarks.driver import Client, RequestFailed, request
from benchmarks.execute import EXECUTED, execute
from benchmarks.figures import Effort, Judged, Report, Samples
from benchmarks.servers import Site, sessions

MB = 1_000_000
PIECES = 1000
"""The data are so many objects: one alone would be written by a single call, which nobody's data are."""

SAVE_S = 60.0
BEGUN_S = 0.05
"""After which a save is under way: it begins in a session at rest alone."""


def large(site: Site, effort: Effort) -> Report:
    """With 1 GB, or as much less as the effort says."""
    megabytes = effort.count(1000, 8)
    report = Report("large", f"a session that holds {megabytes} MB in {PIECES} objects: saved, killed, woken")
    with site.daemon() as path, Client(path) as client:
        small = [client.time_of(execute("large"), EXECUTED) / 1000 for _ in range(100)]
        code = f"import os; held = [os.urandom({megabytes * MB // PIECES}) for _ in range({PIECES})]; 1 + 1"
        body = json.dumps({"command": code}).encode()
        client.time_of(request("POST", "/api/sessions/large/execute", body), EXECUTED)
        rested = [client.time_of(execute("large"), EXECUTED) / 1000 for _ in range(100)]
        saved_ms, meanwhile = _save(path, client)
        pid = next(session["pid"] for session in sessions(path))
        client.ask("POST", "/api/sessions/large/kill", b'{"budget_s": 5}')
        check = json.dumps({"command": "sum(map(len, held)) and 1 + 1"}).encode()
        woken_ms = client.time_of(request("POST", "/api/sessions/large/execute", check), EXECUTED) / 1000
        if next(session["pid"] for session in sessions(path)) == pid:
            raise RequestFailed("the session was not woken from its checkpoint")
    report.samples = [
        Samples("1+1 while the session is small", "ms", small),
        Samples("1+1 with the data", "ms", rested),
        Samples("1+1 while it is saved", "ms", meanwhile),
        Samples("save", "ms", [saved_ms]),
        Samples("wake, with a first command that reads all", "ms", [woken_ms]),
    ]
    report.judged = [Judged("megabytes saved in a second", megabytes / saved_ms * 1000, unit="count")]
    return report


def _save(path: str, client: Client) -> tuple[float, list[float]]:
    """Milliseconds that a save takes, and those of each command that runs in the session meanwhile."""
    taken: list[float] = []

    def save() -> None:
        with Client(path) as other:
            taken.append(other.time_of(request("POST", "/api/sessions/large/save", b""), b'"checkpoint":{') / 1000)

    saving = threading.Thread(target=save)
    meanwhile: list[float] = []
    until = time.monotonic() + SAVE_S
    saving.start()
    time.sleep(BEGUN_S)
    while not meanwhile or (saving.is_alive() and time.monotonic() < until):
        meanwhile.append(client.time_of(execute("large"), EXECUTED) / 1000)
    saving.join()
    if not taken:
        raise RequestFailed("the session could not be saved")
    return taken[0], meanwhile
