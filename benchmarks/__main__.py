"""`python -m benchmarks [NAME…]`: measures, prints a table for each, ends."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from collections.abc import Callable
from contextlib import ExitStack

import tornado

from benchmarks.cold_start import cold_start
from benchmarks.command import whole_process
from benchmarks.dashboard import dashboard
from benchmarks.density import density
from benchmarks.driver import RequestFailed
from benchmarks.engines import line_engines
from benchmarks.execute import round_trip, throughput
from benchmarks.figures import Effort, Report
from benchmarks.fork import live_fork
from benchmarks.inside import NAMES as SCOPED
from benchmarks.inside import Inside, Told, Unavailable, user_manager
from benchmarks.journal import share
from benchmarks.jupyter import kernel
from benchmarks.large import large
from benchmarks.latency import latency
from benchmarks.repl import first_prompt
from benchmarks.servers import Site, bus_address
from benchmarks.sessions import new_session
from benchmarks.wake import wake
from omega_sessiond import __version__

BENCHMARKS: dict[str, Callable[[Site, Effort], Report]] = {
    "execute": round_trip,
    "throughput": throughput,
    "new-session": new_session,
    "fork": live_fork,
    "wake": wake,
    "large": large,
    "density": density,
    "journal": share,
    "cold-start": cold_start,
    "command": whole_process,
    "repl": first_prompt,
    "latency": latency,
    "dashboard": dashboard,
    "engines": line_engines,
    "jupyter": kernel,
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Measure omega-sessiond beside the parts it is made of."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"what to measure: {', '.join(BENCHMARKS)}; all")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument("--scale", type=float, default=1.0, metavar="X", help="measure X times as often (1)")
    parser.add_argument("--one-core", action="store_true", help="run everything on one core: no wake-ups across cores")
    options = parser.parse_args(arguments)
    names = list(BENCHMARKS) if not options.names or options.names == ["all"] else options.names
    if unknown := [name for name in names if name not in BENCHMARKS]:
        parser.error(f"there is no benchmark '{unknown[0]}': {', '.join(BENCHMARKS)}")
    if options.one_core:
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # what is started from here inherits it
    machine = {
        "omega-sessiond": __version__,
        "python": platform.python_version(),
        "tornado": tornado.version,
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)),
    }
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    reports: list[Report | Told] = []
    with ExitStack() as stack:
        site, inside = stack.enter_context(Site()), _inside(names, stack)
        for name in names:
            try:
                if inside is not None and name in SCOPED:
                    report: Report | Told = inside.run(name, options.scale)
                else:
                    report = BENCHMARKS[name](site, Effort(options.scale))
            except RequestFailed as error:
                print(f"\n{name}: {error}", file=sys.stderr)
                return 1
            print(f"\n{report.text()}", flush=True)
            reports.append(report)
    if options.json:
        found = {"machine": machine, "benchmarks": {report.name: report.values() for report in reports}}
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(found, file, indent=1)
            file.write("\n")
    return 0


def _inside(names: list[str], stack: ExitStack) -> Inside | None:
    """Where sessions get scopes, if that is not here and can be made."""
    if bus_address() or os.geteuid() != 0 or not SCOPED.intersection(names):
        return None
    try:
        return stack.enter_context(user_manager())
    except Unavailable as why:
        print(f"no user manager can be started for sessions in scopes: {why}", flush=True)
        return None


if __name__ == "__main__":
    sys.exit(main())
