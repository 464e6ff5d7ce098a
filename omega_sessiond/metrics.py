"""The figures of the daemon and its sessions in Prometheus' text format.

Knows sessions as the API shows them and what the history adds up to. Imported at the first scrape: the library that
writes the format takes as long to load as a cold start has left.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import get_args

from msgspec import Struct
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST as CONTENT_TYPE
from prometheus_client.exposition import generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from omega_sessiond import usage
from omega_sessiond.messages import ExecutionStatus, Server, Session, SessionState, SnapshotsKept, timestamp
from omega_sessiond.tally import Commands, Tally

__all__ = ["CONTENT_TYPE", "text", "written"]

SESSIONS_SHOWN = 1000
"""Sessions with series of their own, the ones used last. Every series is kept by who scrapes, for weeks."""


SESSIONS_IN_A_TURN = 16
"""Whose figures are read in one turn of the event loop: some 30 us each, where none is kept."""


class Scrape(Struct, frozen=True):
    """What is known at one moment. `commands` and `peaks` (bytes) are by the session's id."""

    server: Server
    sessions: Sequence[Session]
    commands: dict[str, Commands]
    peaks: dict[str, int]
    snapshots: SnapshotsKept


async def text(server: Server, sessions: Sequence[Session], tally: Tally, snapshots: SnapshotsKept) -> bytes:
    """Read the journal session by session, with turns for others in between; the rest in another thread. Raises
    JournalError."""
    commands = {}
    for number, session in enumerate(sessions):
        is_at_rest = session.running_execution_id is None and not session.queue_length
        version = (session.execution_count, session.last_used_at, session.pruned) if is_at_rest else object()
        commands[session.id] = tally.of(session.id, version)
        if number % SESSIONS_IN_A_TURN == 0:
            await asyncio.sleep(0)
    tally.forget_all_but(commands.keys())
    return await asyncio.to_thread(written, server, sessions, commands, snapshots)


def written(
    server: Server, sessions: Sequence[Session], commands: dict[str, Commands], snapshots: SnapshotsKept
) -> bytes:
    """The text, with what the system tells of the sessions' processes."""
    shown = sorted(sessions, key=lambda session: session.last_used_at, reverse=True)[:SESSIONS_SHOWN]
    peaks = {
        session.id: peak
        for session in shown
        if session.pid is not None and (peak := usage.peak(session.pid)) is not None
    }
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(Scrape(server, sessions, commands, peaks, snapshots), shown))
    return generate_latest(registry)


class _Figures(Collector):
    def __init__(self, scrape: Scrape, shown: Sequence[Session]) -> None:
        self._scrape = scrape
        self._shown = shown

    def collect(self) -> Iterator[Metric]:
        yield from self._of_the_daemon()
        yield from self._of_all_sessions()
        yield from self._of_each_session()

    def _of_the_daemon(self) -> Iterator[Metric]:
        server = self._scrape.server
        info = GaugeMetricFamily("omega_sessiond_info", "The daemon.", labels=["version", "activation"])
        info.add_metric([server.version, server.activation], 1)
        yield info
        uptime = time.time() - timestamp(server.started_at)
        yield GaugeMetricFamily("omega_sessiond_uptime_seconds", "Since the daemon was started.", value=uptime)
        yield GaugeMetricFamily("omega_commands_queued", "Commands that wait.", value=server.counts.queued)
        births = sum(one.births for one in server.fork_servers)
        yield CounterMetricFamily("omega_forked_sessions", "By the present fork servers.", value=births)

    def _of_all_sessions(self) -> Iterator[Metric]:
        states = Counter(session.state for session in self._scrape.sessions)
        sessions = GaugeMetricFamily("omega_sessions", "Sessions by state.", labels=["state"])
        for state in get_args(SessionState):
            sessions.add_metric([state], states[state])
        yield sessions
        kept = GaugeMetricFamily("omega_commands", "Commands that are kept, by status.", labels=["status"])
        seconds = GaugeMetricFamily("omega_commands_seconds", "Time they took together.", labels=["status"])
        mean = GaugeMetricFamily("omega_commands_mean_seconds", "Time they took on average.", labels=["status"])
        for status in get_args(ExecutionStatus):
            count = sum(one.by_status.get(status, 0) for one in self._scrape.commands.values())
            took = sum(one.seconds_by_status.get(status, 0.0) for one in self._scrape.commands.values())
            kept.add_metric([status], count)
            seconds.add_metric([status], took)
            if count:
                mean.add_metric([status], took / count)
        yield from (kept, seconds, mean)
        found = self._scrape.snapshots
        number = GaugeMetricFamily("omega_snapshots", "Snapshots, named by people or automatic.", labels=["kind"])
        size = GaugeMetricFamily("omega_snapshots_bytes", "What they hold on the disk.", labels=["kind"])
        for kind, there_are, they_hold in (
            ("named", found.named, found.named_bytes),
            ("automatic", found.automatic, found.automatic_bytes),
        ):
            number.add_metric([kind], there_are)
            size.add_metric([kind], they_hold)
        yield from (number, size)

    def _of_each_session(self) -> Iterator[Metric]:
        label = ["session"]
        ended = CounterMetricFamily("omega_session_commands", "Commands that ended in a session.", labels=label)
        seconds = GaugeMetricFamily("omega_session_commands_seconds", "Time of those that are kept.", labels=label)
        mean = GaugeMetricFamily("omega_session_commands_mean_seconds", "Their mean time.", labels=label)
        queued = GaugeMetricFamily("omega_session_commands_queued", "Commands that wait.", labels=label)
        used = GaugeMetricFamily("omega_session_last_used_timestamp_seconds", "When it was used last.", labels=label)
        peak = GaugeMetricFamily("omega_session_memory_peak_bytes", "Most memory its process had.", labels=label)
        size = GaugeMetricFamily("omega_session_history_bytes", "Commands and output that are kept.", labels=label)
        saved = GaugeMetricFamily("omega_session_checkpoint_bytes", "Its newest checkpoint.", labels=label)
        for session in self._shown:
            name = [session.name]
            commands = self._scrape.commands.get(session.id, Commands())
            ended.add_metric(name, session.execution_count)
            seconds.add_metric(name, commands.seconds)
            if commands.timed:
                mean.add_metric(name, commands.seconds / commands.timed)
            queued.add_metric(name, session.queue_length)
            used.add_metric(name, timestamp(session.last_used_at))
            if session.id in self._scrape.peaks:
                peak.add_metric(name, self._scrape.peaks[session.id])
            size.add_metric(name, commands.bytes)
            if session.checkpoint is not None and session.checkpoint.size_bytes is not None:
                saved.add_metric(name, session.checkpoint.size_bytes)
        yield from (ended, seconds, mean, queued, used, peak, size, saved)
        left_out = len(self._scrape.sessions) - len(self._shown)
        yield GaugeMetricFamily("omega_sessions_without_series", "Sessions beyond those shown above.", value=left_out)
