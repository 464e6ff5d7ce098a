"""The journal's share of an execute: its two commits, against the whole round trip."""

from __future__ import annotations

import statistics
import time

from benchmarks.driver import Client
from benchmarks.execute import EXECUTED, execute
from benchmarks.figures import Effort, Goal, Judged, Report, Samples
from benchmarks.servers import Site
from omega_sessiond.journal import Journal
from omega_sessiond.messages import Limits, SessionCreated, now
from omega_sessiond.records import HostRecord, SessionRecord


def share(site: Site, effort: Effort) -> Report:
    count = effort.count(3000, 5)
    report = Report("journal", f"the two commits of {count} executes of 1+1, and their share of a round trip")
    journal = Journal.open(str(site.base / "journal" / "journal.db"))
    try:
        record = _session()
        journal.add_session(record, SessionCreated(record.created_at, record.id, record.name, record.engine, {}))
        queued, finished = [], []
        for seq in range(1, count + 1):
            at = now()
            begun = time.perf_counter_ns()
            id = journal.queue(record, "1+1", at=at, started=True, idempotency_key=None, timeout_s=None)
            queued.append((time.perf_counter_ns() - begun) / 1000)
            begun = time.perf_counter_ns()
            with journal.atomic():
                journal.add_output(record, id, "result", 0, "2\n", at)
                journal.finish(
                    record, id, status="ok", execution_count=seq, finished_at=at, duration_ms=0.01, displayed=True,
                    host_seq=3 * seq, session_count=seq,
                )  # fmt: skip
            finished.append((time.perf_counter_ns() - begun) / 1000)
    finally:
        journal.close()
    with site.daemon() as path, Client(path) as client:
        whole = [client.time_of(execute("bench"), EXECUTED) for _ in range(effort.count(1000, 5))]
    both = [first + second for first, second in zip(queued, finished, strict=True)]
    report.samples = [
        Samples("commit of the command", "us", queued),
        Samples("commit of output and result", "us", finished),
        Samples("both", "us", both),
        Samples("execute", "us", whole),
    ]
    percent = 100 * statistics.median(both) / statistics.median(whole)
    report.judged = [Judged("journal / execute", percent, [Goal("goal", 10), Goal("stretch", 5)], "%")]
    return report


def _session() -> SessionRecord:
    at = now()
    return SessionRecord(
        id="0123456789ab",
        name="bench",
        engine="python",
        python="/usr/bin/python3",
        cwd="/",
        created_at=at,
        last_used_at=at,
        execution_count=0,
        limits=Limits(),
        labels={},
        state_reason=None,
        lost=None,
        host=HostRecord(1, 1, "boot", "", "3.11"),
        host_seq=0,
    )
