"""Whether the kernel has killed a child for memory: by the count that this process's cgroup keeps, v2 or v1.

The words are those the daemon has for a host (omega_sessiond/host.py). Knows files; nothing of who died. Source: the
kernel's cgroup-v2 and cgroup-v1 documentation, cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

from typing import Dict, List, Tuple

from omega_sessiond import cgroups

MIB = 1024 * 1024

Source = Tuple[str, str, str, str, str]

SOURCES: Tuple[Source, Source] = (
    ("", "memory.events", "oom_kill", "memory.max", "memory.peak"),
    ("memory", "memory.oom_control", "oom_kill", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
)
"""By hierarchy ("" is v2): the file and the line of the count, the limit, the most that was used."""


class Oom:
    """The count of kills at the last look."""

    def __init__(self) -> None:
        self._before: Dict[str, int] = {}
        self.look()

    def look(self) -> None:
        """Take what is counted now for known: it explains no later death."""
        for directory, source in sources():
            self._before[directory] = cgroups.field(directory, source[1], source[2]) or 0

    def cause(self) -> str:
        """Of a child that has just been killed by SIGKILL: why, as far as it can be known; "" when it was not for
        memory."""
        found = ""
        for directory, (_, file, key, limit_file, peak_file) in sources():
            kills = cgroups.field(directory, file, key)
            limit, peak = cgroups.number(directory, limit_file), cgroups.number(directory, peak_file)
            known = [("limit", limit)] if limit is not None and limit < 2**60 else []
            words = ", ".join("%s %d MiB" % (word, size // MIB) for word, size in [*known, ("peak", peak)] if size)
            if kills is not None and kills > self._before.get(directory, 0):
                found = "killed: out of memory"
            elif kills is None and known and limit and peak and peak >= cgroups.NEAR_LIMIT * limit:
                found = found or "killed: probably out of memory"
            else:
                continue
            if known and words:
                found += " (%s)" % words
            break
        self.look()
        return found


def sources() -> List[Tuple[str, Source]]:
    """The directories of this process's cgroup that may know."""
    paths = cgroups.paths_of("self")
    places = ((cgroups.directory(source[0], paths), source) for source in SOURCES)
    return [(place, source) for place, source in places if place is not None]
