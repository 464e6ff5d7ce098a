"""A command in a session with a Jupyter kernel, beside the same command by jupyter_client alone to a kernel of the same
specification, and beside `1+1` in a Python session: what the engine adds is at most what an execute costs at all."""

from __future__ import annotations

import json
import statistics
import sys
import time
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.driver import Client, RequestFailed, request
from benchmarks.execute import BODY, EXECUTED, execute
from benchmarks.figures import Effort, Goal, Judged, Report, Samples
from benchmarks.servers import Site

KERNEL = "measured"

NEEDED = ("jupyter_client", "jupyter_core", "zmq", "traitlets", "dateutil", "platformdirs", "typing_extensions")


class Alone:
    """The kernel as jupyter_client reaches it, on Unix sockets like ours."""

    def __init__(self, site: Site, kernels: Path) -> None:
        from jupyter_client.kernelspec import KernelSpecManager  # an extra, which the other benchmarks do without
        from jupyter_client.manager import KernelManager

        self._manager = KernelManager(
            kernel_name=KERNEL,
            kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(kernels)]),
            transport="ipc",
            ip=str(site.base / "alone"),
            connection_file=str(site.base / "alone.json"),
        )
        self._manager.start_kernel(env=site.env)
        self._client = self._manager.client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=60)

    def time_of(self, code: str) -> float:
        """Microseconds until the kernel has replied and is idle, its output in hand."""
        seen: list[Any] = []
        begun = time.perf_counter()
        self._client.execute_interactive(code, store_history=True, allow_stdin=False, output_hook=seen.append)
        taken = (time.perf_counter() - begun) * 1e6
        if not any(message["msg_type"] == "execute_result" for message in seen):
            raise RequestFailed(f"jupyter_client alone: no result of {code}")
        return taken

    def close(self) -> None:
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


def kernel(site: Site, effort: Effort) -> Report:
    rounds, each = effort.count(20, 2), effort.count(40, 3)
    report = Report("jupyter", f"1+1 in ipykernel, {rounds} rounds of {each} a side")
    kernels = site.base / "home" / ".local" / "share" / "jupyter" / "kernels"
    (kernels / KERNEL).mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernels / KERNEL / "kernel.json").write_text(
        json.dumps({"argv": argv, "display_name": KERNEL, "language": "python"})
    )
    site.lend(*NEEDED, metadata="jupyter_client")
    sides: tuple[list[list[float]], list[list[float]], list[list[float]]] = ([], [], [])
    alone = Alone(site, kernels)
    try:
        with site.daemon() as path, Client(path) as client:
            options = {"name": "kernel", "engine": f"jupyter:{KERNEL}"}
            client.ask("POST", "/api/sessions", json.dumps(options).encode())
            whole_request = request("POST", "/api/sessions/kernel/execute", BODY)
            python = execute("python")
            client.ask("POST", "/api/sessions/python/execute", BODY)
            for _ in range(rounds):
                sides[0].append([alone.time_of("1+1") for _ in range(each)])
                sides[1].append([client.time_of(whole_request, EXECUTED) for _ in range(each)])
                sides[2].append([client.time_of(python, EXECUTED) for _ in range(each)])
    finally:
        alone.close()
    shares = [
        statistics.median(ours) / (statistics.median(bare) + statistics.median(base))
        for bare, ours, base in zip(*sides, strict=True)
    ]
    names = ("jupyter_client alone", "session", "1+1 in Python")
    report.samples = [Samples(name, "us", [*chain(*values)]) for name, values in zip(names, sides, strict=True)]
    report.judged = [Judged("session / (alone + 1+1 in Python)", statistics.median(shares), [Goal("now", 1.0)])]
    return report
