"""From nothing to the first result: the daemon's process, a session, `1+1`; beside a bare Tornado's first answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.driver import Client, RequestFailed, request
from benchmarks.execute import ECHO, ECHOED, EXECUTED, first_execute
from benchmarks.figures import Effort, Goal, Judged, Report, Samples, ratio_by_round
from benchmarks.servers import Process, Site, bus_address, delete_sessions

HEALTH = request("GET", "/api/health")


def cold_start(site: Site, effort: Effort) -> Report:
    rounds = effort.count(20, 1)
    report = Report("cold-start", f"from the start of the process to its answer, {rounds} rounds")
    echoes, health, first = Samples("bare Tornado", "ms", []), [], []
    with_scope: list[float] = []
    reference: list[float] = []
    has_bus = bool(bus_address())
    whole_request = first_execute("bench", site.python)
    with site.daemon():
        pass  # the journal is there: a daemon that starts again is the common case
    for _ in range(rounds):
        reference.append(_echo(site))
        health.append(_daemon(site, HEALTH, b'"ok"'))
        first.append(_daemon(site, whole_request, EXECUTED))
        if has_bus:
            with_scope.append(_daemon(site, whole_request, EXECUTED, scopes=True))
    echoes = Samples("bare Tornado, first answer", "ms", reference)
    report.samples = [
        echoes,
        Samples("daemon, first answer", "ms", health),
        Samples("daemon, session and first result", "ms", first),
    ]
    report.judged = [
        Judged("first result / bare Tornado", _ratio(first, reference), [Goal("now", 1.4), Goal("goal", 1.15)])
    ]
    if with_scope:
        report.samples.append(Samples("the same, session in its scope", "ms", with_scope))
        report.judged.append(Judged("in its scope / bare Tornado", _ratio(with_scope, reference), [Goal("goal", 1.45)]))
    else:
        report.notes.append("in its scope: not measured, no user manager answers here")
    return report


def _ratio(ours: list[float], reference: list[float]) -> float:
    return ratio_by_round([[value] for value in ours], [[value] for value in reference])


def _echo(site: Site) -> float:
    return _first_answer(site.spawn_echo, str(site.echo_socket), ECHO, ECHOED)


def _daemon(site: Site, whole_request: bytes, expected: bytes, *, scopes: bool = False) -> float:
    path = str(site.api_socket)
    return _first_answer(
        lambda: site.spawn_daemon(scopes=scopes), path, whole_request, expected, lambda: delete_sessions(path)
    )


def _first_answer(
    spawn: Callable[[], Process],
    path: str,
    whole_request: bytes,
    expected: bytes,
    clear: Callable[[], None] = lambda: None,
) -> float:
    """Milliseconds from the call that starts the process to its whole answer; what it began is cleared afterwards."""
    begun = time.perf_counter_ns()
    process = spawn()
    try:
        with Client(path) as client:
            client.time_of(whole_request, expected)
            taken = (time.perf_counter_ns() - begun) / 1e6
        clear()
        return taken
    except RequestFailed as error:
        raise RequestFailed(f"{error}\n{process.log()}") from error
    finally:
        process.end()
