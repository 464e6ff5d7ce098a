"""What a session uses where it has no cgroup of its own: the sum over its processes. Its scope's figures are tested
under a real user manager in test_systemd_module."""

from __future__ import annotations

import os
import subprocess
import sys

from isolation import Place
from omega_sessiond.usage import cgroup_of, oom_kills, sample, total

_HOST = """
import subprocess, sys
held = bytearray(40 << 20)
sum(range(5_000_000))
child = subprocess.Popen([sys.executable, "-c", "held = bytearray(30 << 20); print(1, flush=True); input()"],
                         stdin=subprocess.PIPE, stdout=subprocess.PIPE)
child.stdout.readline()
print("ready", flush=True)
sys.stdin.readline()
child.communicate(b"\\n")
"""


def test_processes_of_a_session_are_summed(place: Place) -> None:
    """Memory, tasks and CPU time are those of the process and its children, and of no process outside."""
    command = [sys.executable, "-c", _HOST]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=place.env, stdin=pipe, stdout=pipe, start_new_session=True) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == b"ready\n"
        usage = sample(host.pid)
        host.communicate(b"\n")
    assert usage.source == "proc"
    assert usage.tasks == 2
    assert usage.memory_bytes is not None
    assert 70 << 20 < usage.memory_bytes < 300 << 20
    assert usage.memory_peak_bytes is not None
    assert usage.memory_peak_bytes > 40 << 20
    assert usage.cpu_s is not None
    assert usage.cpu_s > 0


def test_process_that_is_gone_uses_nothing_we_know(place: Place) -> None:
    """A dead process has no figures, and asking is no failure."""
    with subprocess.Popen([sys.executable, "-c", ""], env=place.env, start_new_session=True) as gone:
        gone.wait()
    usage = sample(gone.pid)
    assert (usage.memory_bytes, usage.memory_peak_bytes, usage.tasks, usage.cpu_s) == (None, None, None, None)


def test_unknown_cgroup_counts_no_kills() -> None:
    """Where the kernel keeps no count of kills for memory the answer is None."""
    assert oom_kills("/no/such.slice") is None


def test_cgroup_of_this_process_is_known() -> None:
    """The path of a process in the v2 hierarchy begins at the root, where there is such a hierarchy."""
    path = cgroup_of(os.getpid())
    assert path is None or path.startswith("/")


def test_total_is_the_sum_over_the_processes_where_there_are_no_scopes(place: Place) -> None:
    """Two hosts are counted together, their children included, and none is no failure."""
    command = [sys.executable, "-c", _HOST]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(command, env=place.env, stdin=pipe, stdout=pipe, start_new_session=True) as one,
        subprocess.Popen(command, env=place.env, stdin=pipe, stdout=pipe, start_new_session=True) as other,
    ):
        for host in (one, other):
            assert host.stdout is not None
            assert host.stdout.readline() == b"ready\n"
        together = total([one.pid, other.pid], are_scoped=False)
        apart = [sample(one.pid), sample(other.pid)]
        one.communicate(b"\n")
        other.communicate(b"\n")
    assert (together.source, together.sessions, together.tasks) == ("proc", 2, 4)
    assert together.memory_bytes == sum(usage.memory_bytes or 0 for usage in apart)
    assert together.cpu_s is not None
    assert together.cpu_s > 0
    nothing = total([], are_scoped=True)
    assert (nothing.sessions, nothing.memory_bytes, nothing.cpu_s) == (0, None, None)
