"""The arguments that others see of this process, in `ps` and the like: they lie in its memory, and can be replaced by
others that are no longer. For people only: where the system does not let us, nothing is changed.
"""

from __future__ import annotations

import os
import sys
from typing import List, Tuple

ARG_START, ARG_END = 45, 46
"""Fields of /proc/PID/stat behind the command, which is the second. Source: proc_pid_stat(5)."""

Place = Tuple[int, int]


def place() -> Place:
    """Where they lie, and how many bytes they have: the same in a forked child."""
    try:
        with open("/proc/self/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        start, end = int(fields[ARG_START]), int(fields[ARG_END])
    except (OSError, IndexError, ValueError):
        return 0, 0
    return start, end - start


def put(arguments: List[str], where: Place) -> None:
    """Have these shown."""
    if hasattr(sys, "orig_argv"):
        sys.orig_argv[:] = arguments
    start, size = where
    if size <= 0:
        return
    text = b"".join(os.fsencode(argument) + b"\0" for argument in arguments)
    try:
        memory = os.open("/proc/self/mem", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.pwrite(memory, text[: size - 1].ljust(size, b"\0"), start)
        finally:
            os.close(memory)
    except OSError:
        pass  # a kernel that lets nobody write there


def shown() -> List[str]:
    """What is shown now."""
    try:
        with open("/proc/self/cmdline", "rb") as file:
            return [os.fsdecode(argument) for argument in file.read().rstrip(b"\0").split(b"\0")]
    except OSError:
        return []
