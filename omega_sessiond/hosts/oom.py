"""Whether the kernel has killed a child for memory: by the count that this process's cgroup keeps, v2 or v1.

The words are those the daemon has for a host (omega_sessiond/host.py). Knows files; nothing of who died. Source: the
kernel's cgroup-v2 and cgroup-v1 documentation, cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Dict, List, Optional, Tuple

NEAR_LIMIT = 0.9
"""Where the kernel counts nothing, a peak this near to the limit is taken for out of memory."""

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
            self._before[directory] = _field(directory, source[1], source[2]) or 0

    def cause(self) -> str:
        """Of a child that has just been killed by SIGKILL: why, as far as it can be known; "" when it was not for
        memory."""
        found = ""
        for directory, (_, file, key, limit_file, peak_file) in sources():
            kills = _field(directory, file, key)
            limit, peak = _number(directory, limit_file), _number(directory, peak_file)
            known = [("limit", limit)] if limit is not None and limit < 2**60 else []
            words = ", ".join("%s %d MiB" % (word, size // MIB) for word, size in [*known, ("peak", peak)] if size)
            if kills is not None and kills > self._before.get(directory, 0):
                found = "killed: out of memory"
            elif kills is None and known and limit and peak and peak >= NEAR_LIMIT * limit:
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
    try:
        with open("/proc/self/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.split(":", 2) for line in file.read().splitlines()]
        paths = {controller: path for _, controllers, path in lines for controller in controllers.split(",")}
        mounts = _mounts()
    except (OSError, ValueError):
        return []
    found = []
    for source in SOURCES:
        if source[0] in paths and source[0] in mounts:
            place, root = mounts[source[0]]
            path = paths[source[0]]
            if root != "/" and (path == root or path.startswith(root + "/")):
                path = path[len(root) :]
            found.append((place + path, source))
    return found


@lru_cache(maxsize=1)
def _mounts() -> Dict[str, Tuple[str, str]]:
    """Where each controller's hierarchy is mounted, and which of its directories is the mount's root."""
    found: Dict[str, Tuple[str, str]] = {}
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields, _, tail = line.partition(" - ")
            kind, _, options = tail.rstrip("\n").split(" ", 2)
            _, _, _, root, place, *_ = fields.split(" ")
            if kind == "cgroup2":
                found.setdefault("", (place, root))
            elif kind == "cgroup" and "memory" in options.rpartition(" ")[2].split(","):
                found.setdefault("memory", (place, root))
    return found


def _read(directory: str, name: str) -> str:
    try:
        with open("%s/%s" % (directory, name), encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def _number(directory: str, name: str) -> Optional[int]:
    text = _read(directory, name).strip()
    return int(text) if text.isdigit() else None


def _field(directory: str, name: str, key: str) -> Optional[int]:
    for line in _read(directory, name).splitlines():
        word, _, value = line.partition(" ")
        if word == key and value.isdigit():
            return int(value)
    return None
