"""What a session holds beside its variables that neither a checkpoint nor a fork can take along: threads, child
processes, open descriptors. Looks at this process and nothing else.
"""

from __future__ import annotations

import os
import signal
import stat
import sys
import time
from typing import Callable, Dict, List, Optional, Set

from omega_sessiond.hosts import procfs

HARMLESS = frozenset(("/dev/null", "/dev/urandom", "/dev/random", "/dev/zero"))
"""Libraries keep these open for themselves, and open them again."""


INSTALLED = ("/site-packages/", "/dist-packages/")
FONTS = (".ttf", ".otf", ".ttc", ".pfb")

TIMERS = ("ITIMER_REAL", "ITIMER_VIRTUAL", "ITIMER_PROF")

glance_s = 0.006
"""Between two looks: longer than a thread of the host's can be kept from going on by this one (5 ms)."""


def find(threads: Callable[[], Set[int]], descriptors: Callable[[], Set[int]]) -> List[str]:
    """All there is beside what is the host's own, which has no children."""
    return _twice(lambda: [*_threads(threads()), *_children(set()), *_descriptors(descriptors), *_timers()])


def find_for_fork(threads: Callable[[], Set[int]], children: Set[int]) -> List[str]:
    """What a fork does not take along: it shares open descriptors with its copy."""
    return _twice(lambda: [*_threads(threads()), *_children(children)])


def _twice(look: Callable[[], List[str]]) -> List[str]:
    """Another thread of the host's may be opening or closing something just now: what counts is seen twice."""
    found = look()
    if found:
        time.sleep(glance_s)
        again = set(look())
        found = [one for one in found if one in again]
    return found


def _threads(own: Set[int]) -> List[str]:
    """Threads that run Python code. Those of BLAS and OpenMP, which a library makes again, do not."""
    strangers = set(sys._current_frames()) - own
    names: Dict[Optional[int], str] = {}
    threading = sys.modules.get("threading")
    if strangers and threading is not None:
        names = {thread.ident: thread.name for thread in threading.enumerate()}
    return ["thread %s" % names.get(ident, ident) for ident in sorted(strangers)]


def _children(own: Set[int]) -> List[str]:
    return ["child process %d" % child for child in sorted(procfs.children() - own)]


def _timers() -> List[str]:
    running = [name for name in TIMERS if signal.getitimer(getattr(signal, name))[0] > 0]
    return ["timer %s" % name for name in running]


def _is_librarys(descriptor: str, target: str) -> bool:
    """Whether it reads a file that was installed: what a library keeps open it opens again, as matplotlib its fonts."""
    is_installed = target.lower().endswith(FONTS) or any(place in target for place in INSTALLED)
    return is_installed and not _is_written(descriptor)


def _is_written(descriptor: str) -> bool:
    """Whether it is open for writing. Source: proc(5), fdinfo."""
    try:
        flags = procfs.contents("/proc/self/fdinfo/" + descriptor).partition(b"flags:")[2].split()
    except OSError:
        return True
    return not flags or int(flags[0], 8) & os.O_ACCMODE != os.O_RDONLY


def written_files() -> Set[int]:
    """Descriptors of regular files that are open for writing."""
    found = set()
    for name in os.listdir("/dev/fd"):
        try:
            if stat.S_ISREG(os.fstat(int(name)).st_mode) and _is_written(name):
                found.add(int(name))
        except OSError:
            continue  # the listing's own
    return found


def _descriptors(own: Callable[[], Set[int]]) -> List[str]:
    """What the session's code has open."""
    found = []
    try:
        names = os.listdir("/dev/fd")
    except OSError:
        return []
    hosts_own = own()
    for name in sorted(names, key=int):
        if int(name) in hosts_own:
            continue
        try:
            target = os.readlink("/proc/self/fd/" + name)
        except OSError:
            continue  # the listing's own
        if target not in HARMLESS and not _is_librarys(name, target):
            found.append("open descriptor %s (%s)" % (name, target[:200]))
    return found
