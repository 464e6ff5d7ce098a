"""Reads cgroups, v2 and v1, wherever they are mounted. Shared with hosts, like the wire: the standard library alone,
and Python 3.9. Knows no session and no unit.

Source: the kernel's cgroup-v2 and cgroup-v1 documentation, cgroups(7), proc_pid_mountinfo(5).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Dict, List, Optional, Tuple

NEAR_LIMIT = 0.9
"""A killed process whose peak came this near to its memory limit is taken for out of memory where the kernel counts no
kills. Lower blames memory for other kills, higher misses kills that came in one large allocation."""


def paths_of(pid: object) -> Dict[str, str]:
    """Path by controller, of a process or "self"; "" is the v2 hierarchy."""
    found: Dict[str, str] = {}
    for line in _lines("/proc/%s/cgroup" % pid):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def directory(controller: str, paths: Dict[str, str]) -> Optional[str]:
    """Where the files of that controller's cgroup are; None where it is not mounted."""
    mount, path = _mounts().get(controller), paths.get(controller)
    if mount is None or path is None:
        return None
    place, root = mount
    if root != "/" and (path == root or path.startswith(root + "/")):
        path = path[len(root) :]
    return place + path


def read(directory: Optional[str], name: str) -> str:
    """What a file says; nothing where there is none."""
    if directory is None:
        return ""
    try:
        with open("%s/%s" % (directory, name), encoding="ascii") as file:
            return file.read()
    except (OSError, ValueError):
        return ""


def number(directory: Optional[str], name: str) -> Optional[int]:
    text = read(directory, name).strip()
    return int(text) if text.isdigit() else None


def field(directory: Optional[str], name: str, key: str) -> Optional[int]:
    """The number behind a word at the beginning of a line."""
    for line in read(directory, name).splitlines():
        word, _, value = line.partition(" ")
        if word == key and value.isdigit():
            return int(value)
    return None


def _lines(file: str) -> List[str]:
    try:
        with open(file, encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read().splitlines()
    except OSError:
        return []


@lru_cache(maxsize=1)
def _mounts() -> Dict[str, Tuple[str, str]]:
    """Where each controller's hierarchy is mounted, and which of its directories is the mount's root."""
    found: Dict[str, Tuple[str, str]] = {}
    for line in _lines("/proc/self/mountinfo"):
        fields, _, tail = line.partition(" - ")
        kind, _, options = tail.split(" ", 2)
        _, _, _, root, place, *_ = fields.split(" ")
        if kind == "cgroup2":
            found.setdefault("", (place, root))
        elif kind == "cgroup":
            for option in options.rpartition(" ")[2].split(","):
                found.setdefault(option, (place, root))
    return found
