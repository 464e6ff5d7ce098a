"""How soon an interrupt is done, and how soon a watcher sees what a command printed."""

from __future__ import annotations

import json
import socket
import time

from benchmarks.driver import TIMEOUT_S, Client, RequestFailed, connect, request
from benchmarks.figures import Effort, Report, Samples
from benchmarks.servers import Site

ENDLESS = b'{"command":"print(\'begun\', flush=True)\\nwhile True: pass"}'
CLOCK = b'{"command":"import time; print(time.time_ns())"}'


def latency(site: Site, effort: Effort) -> Report:
    count = effort.count(100, 2)
    report = Report("latency", f"interrupt of a computing command, and print to event feed, {count} times each")
    interrupts, seen = [], []
    with site.daemon() as path, Client(path) as client:
        client.ask("POST", "/api/sessions", b'{"name":"bench"}')
        with Feed(path) as feed:
            for _ in range(count):
                client.ask("POST", "/api/sessions/bench/execute", ENDLESS[:-1] + b',"wait_s":0}')
                feed.wait_for_output()
                begun = time.perf_counter_ns()
                answer = client.ask("POST", "/api/sessions/bench/interrupt", b'{"wait_s":10}')
                interrupts.append((time.perf_counter_ns() - begun) / 1000)
                if b'"interrupted"' not in answer:
                    raise RequestFailed(f"not interrupted: {answer!r}")
                feed.wait_for_end()
            for _ in range(count):
                client.ask("POST", "/api/sessions/bench/execute", CLOCK)
                printed_at = int(feed.wait_for_output())
                seen.append((time.time_ns() - printed_at) / 1000)
                feed.wait_for_end()
    report.samples = [
        Samples("interrupt, until it has yielded", "us", interrupts),
        Samples("print, until the feed shows it", "us", seen),
    ]
    return report


class Feed:
    """GET /api/events, read as it comes."""

    def __init__(self, path: str) -> None:
        self._socket = connect(path)
        self._socket.settimeout(TIMEOUT_S)
        self._socket.sendall(request("GET", "/api/events"))
        self._file = self._socket.makefile("rb")
        while self._file.readline().strip():
            pass

    def _event(self) -> dict[str, object]:
        while True:
            line = self._file.readline()
            if not line:
                raise RequestFailed("the feed ended")
            if line.startswith(b"{"):  # what else there is are the sizes and ends of chunks
                event: dict[str, object] = json.loads(line)
                return event

    def _wait_for(self, kind: str) -> dict[str, object]:
        while True:
            event = self._event()
            if event["kind"] == kind:
                return event

    def wait_for_output(self) -> str:
        return str(self._wait_for("output")["text"])

    def wait_for_end(self) -> None:
        self._wait_for("execution_finished")

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._file.close()
        self._socket.close()
