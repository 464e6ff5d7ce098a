"""Becomes another program that dies with the process that started it: PYTHON leash.py PARENT_PID PROGRAM ARGUMENT….

Started by path as its own program, before an engine's child: between fork and exec no Python may run in a process that
has threads. Where the system cannot do this the program runs all the same.
"""

from __future__ import annotations

import os
import signal
import sys

PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""


def tie(parent: int) -> None:
    """Have SIGKILL sent to this process when its parent ends. It outlives exec, see prctl(2)."""
    try:
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    except (ImportError, OSError, AttributeError):
        return  # no Linux, or a Python without ctypes
    if os.getppid() != parent:
        os._exit(0)  # it ended before the promise was given


def main(arguments: list[str]) -> None:
    tie(int(arguments[0]))
    program = arguments[1:]
    try:
        os.execvp(program[0], program)
    except OSError as error:
        sys.stderr.write("cannot start %s: %s\n" % (program[0], error.strerror))
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
