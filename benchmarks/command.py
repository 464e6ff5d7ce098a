"""`omegactl exec` as a whole process, beside an interpreter that does nothing, and curl."""

from __future__ import annotations

import os
import shutil
import time

from benchmarks.driver import Client, RequestFailed
from benchmarks.execute import BODY, EXECUTED, execute
from benchmarks.figures import Effort, Goal, Judged, Report, Samples, ratio_by_round
from benchmarks.servers import Site

BARE = "python -I -S -c pass"


def whole_process(site: Site, effort: Effort) -> Report:
    rounds, each = effort.count(20, 1), effort.count(10, 2)
    report = Report("command", f"omegactl exec as a whole process, {rounds} rounds of {each} a side")
    commands: dict[str, tuple[list[str], bytes]] = {
        BARE: ([site.python, "-I", "-S", "-c", "pass"], b""),
        "omegactl exec": ([site.client_command, "exec", "bench", "-c", "1+1"], b"2\n"),
    }
    curl = shutil.which("curl")
    if curl is None:
        report.notes.append("curl: not installed here")
    else:
        # fmt: off
        commands["curl"] = ([
            curl, "--silent", "--unix-socket", str(site.api_socket), "--header", "Accept: text/plain",
            "--data", BODY.decode(), "http://localhost/api/sessions/bench/execute",
        ], b"2\n")
        # fmt: on
    taken: dict[str, list[list[float]]] = {name: [] for name in commands}
    with site.daemon() as path:
        with Client(path) as client:
            client.time_of(execute("bench"), EXECUTED)
        for argv, expected in commands.values():
            _run(argv, site.env, expected)
        for _ in range(rounds):
            for name, (argv, expected) in commands.items():
                taken[name].append([_run(argv, site.env, expected) for _ in range(each)])
    report.samples = [Samples(name, "ms", [ms for round in rounds for ms in round]) for name, rounds in taken.items()]
    report.judged = [
        Judged(
            f"omegactl exec / {BARE}",
            ratio_by_round(taken["omegactl exec"], taken[BARE]),
            [Goal("now", 2.0), Goal("goal", 1.5), Goal("stretch", 1.2)],
        )
    ]
    if curl is not None:
        report.judged.append(Judged("omegactl exec / curl", ratio_by_round(taken["omegactl exec"], taken["curl"])))
    return report


def _run(argv: list[str], env: dict[str, str], expected: bytes) -> float:
    """Milliseconds from the start of a process to its end; it must print `expected` and succeed."""
    reader, writer = os.pipe()
    try:
        begun = time.perf_counter_ns()
        pid = os.posix_spawn(argv[0], argv, env, file_actions=[(os.POSIX_SPAWN_DUP2, writer, 1)])
        os.close(writer)
        writer = -1
        printed = b""
        while data := os.read(reader, 65536):
            printed += data
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        taken = (time.perf_counter_ns() - begun) / 1e6
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)
    if status != 0 or printed != expected:
        raise RequestFailed(f"{' '.join(argv)} exited {status} and printed {printed!r}")
    return taken
