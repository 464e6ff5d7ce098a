"""What the kernel tells of processes, read with as few objects in between as can be: open() makes a buffer, a decoder
and two objects of its own, and in a forked process each page that is touched for them is one more that it has to
itself. Source: proc(5).
"""

from __future__ import annotations

import os
from typing import List, Set

READ_BYTES = 16 * 1024


def contents(path: str) -> bytes:
    """A whole file. Raises OSError."""
    data = b""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while True:
            piece = os.read(descriptor, READ_BYTES)
            if not piece:
                return data
            data += piece
    finally:
        os.close(descriptor)


def start_time(pid: int) -> int:
    """When it was started, in clock ticks since the boot: with its pid, what tells it from all others."""
    return int(_stat(pid)[19])


def children() -> Set[int]:
    """Those of this process, of all its threads."""
    found: Set[int] = set()
    try:
        for task in os.listdir("/proc/self/task"):
            found.update(map(int, contents("/proc/self/task/%s/children" % task).split()))
    except OSError:  # a kernel without that list
        found = {pid for pid in _processes() if parent(pid) == os.getpid()}
    return found


def _processes() -> List[int]:
    try:
        return [int(name) for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return []


def parent(pid: int) -> int:
    """0 where there is no such process."""
    try:
        return int(_stat(pid)[1])
    except (OSError, IndexError):
        return 0


def _stat(pid: int) -> List[bytes]:
    """From its state on: what stands before may hold spaces and brackets."""
    return contents("/proc/%d/stat" % pid).rpartition(b")")[2].split()
