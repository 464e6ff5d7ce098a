"""What a session uses and whether the kernel killed for memory: read from its cgroup, else from /proc.

Reads files and nothing else; keeps no samples. Source: the kernel's cgroup-v2 and cgroup-v1 documentation, cgroups(7),
proc_pid_stat(5), proc_pid_mountinfo(5).
"""

from __future__ import annotations

import os
from collections.abc import Collection

from omega_sessiond import cgroups
from omega_sessiond.messages import Totals, Usage, now

SCOPE_PREFIX = "omega-session-"
"""Scopes of sessions start with it (host.unit_name). A cgroup of another name is shared with others: its figures say
nothing of the session."""


def sample(pid: int) -> Usage:
    """What the session of host `pid` uses now."""
    return sample_many([pid])[pid]


def sample_many(pids: Collection[int]) -> dict[int, Usage]:
    """The same for several hosts. /proc is walked once for all whose cgroup does not say everything."""
    found = {pid: _from_cgroup(pid) for pid in pids}
    lacking = [pid for pid, usage in found.items() if None in (usage.memory_bytes, usage.tasks, usage.cpu_s)]
    if lacking:
        for pid, rest in _from_proc(lacking).items():
            known = found[pid]
            if known.memory_bytes is known.tasks is known.cpu_s is None:
                found[pid] = rest
                continue
            # The controllers that this machine does not lend us are made up for by the processes' own figures.
            found[pid] = Usage(
                "cgroup",
                known.sampled_at,
                rest.memory_bytes if known.memory_bytes is None else known.memory_bytes,
                rest.memory_peak_bytes if known.memory_peak_bytes is None else known.memory_peak_bytes,
                rest.tasks if known.tasks is None else known.tasks,
                rest.cpu_s if known.cpu_s is None else known.cpu_s,
            )
    return found


def total(pids: Collection[int], *, are_scoped: bool) -> Totals:
    """What all these hosts' sessions use. `are_scoped`: each has a scope of its own, so that the slice around them says
    it in a few reads, however many there are."""
    found = Usage("proc", now())
    if are_scoped and pids:
        paths = cgroups.paths_of(next(iter(pids)))
        found = _of({controller: path.rpartition("/")[0] for controller, path in paths.items() if _is_scope(path)})
    if pids and None in (found.memory_bytes, found.tasks, found.cpu_s):
        memory, tasks, ticks = map(sum, zip(*_sums(pids).values(), strict=True))
        is_unknown = found.memory_bytes is found.tasks is found.cpu_s is None
        found = Usage(
            "proc" if is_unknown else found.source,
            found.sampled_at,
            memory if found.memory_bytes is None else found.memory_bytes,
            None,
            tasks if found.tasks is None else found.tasks,
            ticks / os.sysconf("SC_CLK_TCK") if found.cpu_s is None else found.cpu_s,
        )
    return Totals(found.source, found.sampled_at, len(pids), found.memory_bytes, found.tasks, found.cpu_s)


def _from_cgroup(pid: int) -> Usage:
    """What the session's own cgroup says; None where it says nothing."""
    return _of({controller: path for controller, path in cgroups.paths_of(pid).items() if _is_scope(path)})


def _of(own: dict[str, str]) -> Usage:
    """What cgroups say, which are given by controller."""
    v2, memory, tasks = (cgroups.directory(name, own) for name in ("", "memory", "pids"))
    cpu = cgroups.directory("cpuacct", own)
    memory_bytes = cgroups.number(v2, "memory.current")
    if memory_bytes is None:
        memory_bytes = cgroups.number(memory, "memory.usage_in_bytes")
    peak = cgroups.number(v2, "memory.peak")
    if peak is None:
        peak = cgroups.number(memory, "memory.max_usage_in_bytes")
    count = cgroups.number(v2, "pids.current")
    if count is None:
        count = cgroups.number(tasks, "pids.current")
    used_us, used_ns = cgroups.field(v2, "cpu.stat", "usage_usec"), cgroups.number(cpu, "cpuacct.usage")
    cpu_s = used_us / 1e6 if used_us is not None else used_ns / 1e9 if used_ns is not None else None
    return Usage("cgroup", now(), memory_bytes, peak, count, cpu_s)


def peak(pid: int) -> int | None:
    """The most memory that the session of host `pid` had: of its scope, or of its process where it has none."""
    own = {controller: path for controller, path in cgroups.paths_of(pid).items() if _is_scope(path)}
    found = cgroups.number(cgroups.directory("", own), "memory.peak")
    if found is None:
        found = cgroups.number(cgroups.directory("memory", own), "memory.max_usage_in_bytes")
    return _peak(pid) if found is None else found


def oom_kills(cgroup: str) -> int | None:
    """How many processes below a cgroup ("/user.slice/…", as systemd's ControlGroup has it) the kernel has killed for
    memory; None where it does not count that (cgroup v1)."""
    directory = cgroups.directory("", {"": cgroup})
    return cgroups.field(directory, "memory.events", "oom_kill")


def pressure_file(cgroup: str) -> str | None:
    """Where the kernel tells how much tasks below a cgroup wait for memory, its own limits included."""
    directory = cgroups.directory("", {"": cgroup})
    return None if directory is None else f"{directory}/memory.pressure"


def cgroup_of(pid: int) -> str | None:
    """The cgroup v2 path of a process, as systemd's ControlGroup has it."""
    return cgroups.paths_of(pid).get("")


def _is_scope(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(SCOPE_PREFIX) and name.endswith(".scope")


def _from_proc(hosts: Collection[int]) -> dict[int, Usage]:
    """The sums over the processes of each host's own process session, which it began (setsid)."""
    ticks = os.sysconf("SC_CLK_TCK")
    return {
        host: Usage("proc", now(), memory, _peak(host), tasks, cpu / ticks) if tasks else Usage("proc", now())
        for host, (memory, tasks, cpu) in _sums(hosts).items()
    }


def _sums(hosts: Collection[int]) -> dict[int, list[int]]:
    """Resident bytes, tasks and clock ticks by host, in one walk of /proc."""
    page = os.sysconf("SC_PAGE_SIZE")
    sums = {host: [0, 0, 0] for host in hosts}
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        pids = []
    for name in pids:
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # ended meanwhile
        found = sums.get(int(fields[3]))
        if found is None or fields[0] in (b"Z", b"X"):
            continue
        found[0] += int(fields[21]) * page
        found[1] += int(fields[17])
        found[2] += sum(map(int, fields[11:15]))  # its own time and that of children it waited for
    return sums


def _peak(pid: int) -> int | None:
    for line in cgroups.read(f"/proc/{pid}", "status").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return None
