"""`omegactl repl` from its start to its first prompt at a terminal, beside the least that prompt_toolkit can do."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time

from benchmarks.driver import Client, RequestFailed
from benchmarks.execute import EXECUTED, execute
from benchmarks.figures import Effort, Goal, Judged, Report, Samples, ratio_by_round
from benchmarks.servers import Site

MINIMAL = "from prompt_toolkit import PromptSession; PromptSession().prompt('bench> ')"

PROMPT = b"bench>"
READY = b":help lists"
"""The end of the header: the session has been asked, and its answer stands above the prompt."""

CURSOR_ASKED, CURSOR_ANSWER = b"\x1b[6n", b"\x1b[1;1R"
"""What every terminal answers, and prompt_toolkit waits for before it writes above a prompt."""

WAIT_S = 30.0


def first_prompt(site: Site, effort: Effort) -> Report:
    rounds, each = effort.count(15, 1), effort.count(3, 1)
    report = Report("repl", f"start to first prompt at a pseudo-terminal, {rounds} rounds of {each} a side")
    program = site.base / "minimal"
    program.write_text(f"#!{site.python} -IS\nimport sys\n\nsys.path.append({str(site.library)!r})\n{MINIMAL}\n")
    program.chmod(0o755)
    minimal, ours = [str(program)], [site.client_command, "repl", "bench"]
    taken: dict[str, list[list[float]]] = {"minimal prompt_toolkit": [], "omegactl repl": []}
    headers: list[float] = []
    with site.daemon() as path:
        with Client(path) as client:
            client.time_of(execute("bench"), EXECUTED)
        for argv in (minimal, ours):
            _start(argv, site.env, PROMPT)
        for _ in range(rounds):
            taken["minimal prompt_toolkit"].append([_start(minimal, site.env, PROMPT) for _ in range(each)])
            taken["omegactl repl"].append([_start(ours, site.env, PROMPT) for _ in range(each)])
            headers.append(_start(ours, site.env, READY))
    report.samples = [Samples(name, "ms", [ms for round in rounds for ms in round]) for name, rounds in taken.items()]
    report.samples.append(Samples("omegactl repl, header too", "ms", headers))
    ratio = ratio_by_round(taken["omegactl repl"], taken["minimal prompt_toolkit"])
    report.judged = [Judged("omegactl repl / minimal prompt_toolkit", ratio, [Goal("now", 1.2), Goal("goal", 1.1)])]
    return report


def _start(argv: list[str], env: dict[str, str], expected: bytes) -> float:
    """Milliseconds from the start of a process until its terminal has got what is expected; it is ended then."""
    terminal, its_side = pty.openpty()
    try:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        begun = time.perf_counter_ns()
        pid = os.posix_spawn(
            argv[0],
            argv,
            {**env, "TERM": "xterm-256color"},
            file_actions=[(os.POSIX_SPAWN_DUP2, its_side, descriptor) for descriptor in (0, 1, 2)],
            setsid=True,
        )
        try:
            _await(terminal, expected, argv)
            return (time.perf_counter_ns() - begun) / 1e6
        finally:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    finally:
        os.close(its_side)
        os.close(terminal)


def _await(terminal: int, expected: bytes, argv: list[str]) -> None:
    shown = b""
    while expected not in shown:
        if not select.select([terminal], [], [], WAIT_S)[0]:
            raise RequestFailed(f"{' '.join(argv)} showed no prompt, but {shown!r}")
        data = os.read(terminal, 65536)
        if CURSOR_ASKED in data:
            os.write(terminal, CURSOR_ANSWER)
        shown += data
