"""What the dashboard costs: beside Textual's own table with the same sessions, under a flood of output, to start."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import random
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.driver import Client, RequestFailed, request
from benchmarks.figures import Effort, Goal, Judged, Report, Samples, ratio_by_round
from benchmarks.servers import Site

CHECKOUT = Path(__file__).resolve().parent.parent
COLUMNS, ROWS = 160, 50
KEY_S = 0.25
"""Between two keys on average: somebody who goes through a list."""

START_S = 30.0
"""A start that takes longer has failed."""

LINES = 5000
FLOOD = f"""
import time
begun, n = time.time(), 0
while True:
    while n < (time.time() - begun) * {LINES}:
        print("line", n, time.time())
        n += 1
    time.sleep(0.01)
"""

OURS = "import sys; sys.path.insert(0, {checkout!r}); from omega_sessiond.cli import main; main()"


class Terminal:
    """A program at a terminal of its own; what it writes is read and thrown away, but for what is looked for."""

    def __init__(self, argv: Sequence[str], env: dict[str, str]) -> None:
        self.begun_at = time.perf_counter()
        self.pid, self._descriptor = pty.fork()
        if self.pid == 0:
            try:
                os.chdir("/")
                fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
                os.execve(argv[0], list(argv), env)
            finally:
                os._exit(127)

    def read(self, timeout_s: float) -> bytes | None:
        """What came, b"" when nothing did; None when it has ended."""
        if not select.select([self._descriptor], [], [], timeout_s)[0]:
            return b""
        try:
            return os.read(self._descriptor, 1 << 16) or None
        except OSError:
            return None  # EIO: the other side is closed

    def time_until(self, mark: bytes) -> float:
        """Milliseconds from the start until it has written the mark."""
        seen = b""
        while time.perf_counter() - self.begun_at < START_S:
            data = self.read(1.0)
            if data is None:
                break
            seen += data
            if mark in seen:
                return 1000 * (time.perf_counter() - self.begun_at)
        raise RequestFailed(f"it never wrote {mark!r}: {seen[-2000:]!r}")

    def press_until_end(self, key: bytes) -> None:
        """Press a key again and again, at uneven times, until the program has ended."""
        chance = random.Random(1)
        press_at = time.monotonic()
        while self.read(max(press_at - time.monotonic(), 0)) is not None:
            if time.monotonic() >= press_at:
                os.write(self._descriptor, key)
                press_at = time.monotonic() + KEY_S * chance.uniform(0.5, 1.5)

    def close(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.close(self._descriptor)
        os.waitpid(self.pid, 0)


def dashboard(site: Site, effort: Effort) -> Report:
    seconds = max(1.0, 12 * effort.scale)
    report = Report("dashboard", f"1000 sessions that change twice a second, {COLUMNS}x{ROWS}, {seconds:.0f} s each")
    ours, theirs = (_measured(site, kind, seconds) for kind in ("ours", "datatable"))
    report.samples += [
        Samples("key to frame, dashboard", "ms", ours["latencies"]),
        Samples("key to frame, DataTable", "ms", theirs["latencies"]),
    ]
    report.judged += [
        Judged("dashboard, of a core", ours["cpu"], unit="%"),
        Judged("DataTable, of a core", theirs["cpu"], unit="%"),
        Judged("dashboard, each time all have changed", ours["turn"], unit="ms"),
        Judged("DataTable, each time all have changed", theirs["turn"], unit="ms"),
        Judged("dashboard / DataTable", ours["turn"] / theirs["turn"], [Goal("now", 1 / 3)]),
        Judged("key to frame, p95", _p95(ours["latencies"]), [Goal("now", 60)], "ms"),
    ]
    _flood(site, seconds, report)
    _first_paint(site, effort.count(9, 1), report)
    return report


def _p95(values: Sequence[float]) -> float:
    return sorted(values)[int(len(values) * 0.95)]


def _app(site: Site, *arguments: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.dashboard_apps", *arguments]


def _environment(site: Site) -> dict[str, str]:
    return {**site.env, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm-256color", "COLORTERM": "truecolor"}


def _measured(site: Site, kind: str, seconds: float, *rest: str) -> dict[str, Any]:
    """What a program has measured of itself while keys were pressed."""
    file = site.base / f"{kind}.json"
    terminal = Terminal(_app(site, kind, str(file), str(seconds), *rest), _environment(site))
    try:
        terminal.press_until_end(b"j")
    finally:
        terminal.close()
    if not file.exists():
        raise RequestFailed(f"{kind} has measured nothing")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def _flood(site: Site, seconds: float, report: Report) -> None:
    with site.daemon() as path:
        with Client(path) as client:
            create = json.dumps({"name": "flood", "python": site.python}).encode()
            client.ask("POST", "/api/sessions", create)
            run = json.dumps({"command": FLOOD, "wait_s": 0}).encode()
            client.time_of(request("POST", "/api/sessions/flood/execute", run), b'"id"')
        found = _measured(site, "flood", seconds, path)
    report.samples += [
        Samples(f"{LINES} lines/s: shown after", "ms", found["lags"]),
        Samples(f"{LINES} lines/s: key to frame", "ms", found["latencies"]),
    ]
    report.judged += [
        Judged(f"{LINES} lines/s, of a core", found["cpu"], unit="%"),
        Judged(f"{LINES} lines/s: interrupt to idle", found["interrupt"], unit="ms"),
    ]


def _first_paint(site: Site, rounds: int, report: Report) -> None:
    minimal = _app(site, "minimal", str(site.base / "minimal.json"), "0")
    minimal[1:3] = ["-c", _MINIMAL]
    with site.daemon() as path:
        command = [sys.executable, "-c", OURS.format(checkout=str(CHECKOUT)), "--socket", path, "tui"]
        starts: dict[str, list[float]] = {"ours": [], "minimal": []}
        for argv in (command, minimal):  # once unmeasured: the files are read
            _start(argv, site)
        for _ in range(rounds):
            starts["ours"].append(_start(command, site))
            starts["minimal"].append(_start(minimal, site))
    report.samples += [
        Samples("first paint, dashboard", "ms", starts["ours"]),
        Samples("first paint, minimal Textual", "ms", starts["minimal"]),
    ]
    pairs: Callable[[str], list[list[float]]] = lambda name: [[value] for value in starts[name]]  # noqa: E731
    report.judged.append(
        Judged("first paint / minimal", ratio_by_round(pairs("ours"), pairs("minimal")), [Goal("now", 1.65)])
    )


_MINIMAL = """
from textual.app import App
from textual.widgets import Static

class Minimal(App):
    def compose(self):
        yield Static("Sessions")

Minimal().run()
"""


def _start(argv: Sequence[str], site: Site) -> float:
    terminal = Terminal(argv, _environment(site))
    try:
        return terminal.time_until(b"Sessions")
    finally:
        terminal.close()
