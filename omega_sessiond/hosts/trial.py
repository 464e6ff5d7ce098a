"""Whether what was written can be loaded, as far as that can be seen from the process that wrote it: it is loaded on
trial, in a child, for whatever that does is not to be done here.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select
import signal
import sys
import time
import types
from json import dumps, loads
from typing import Any, BinaryIO, Callable, Dict, NamedTuple, Optional, Tuple

from omega_sessiond.hosts.pickling import LENT_NAME, Namespace, Reading, Writing, reason_of

TRIED_BYTES, TRIED_ALONE_BYTES = 64 << 20, 1 << 20
"""A file up to this size is read on trial as a whole; of a larger one, the variables up to that size."""

TRIAL_S = 10.0
"""A variable that takes longer to be loaded is left out: it may wait for something that never comes."""

GRACE_S = 2.0
"""By then whoever hears a trial has ended it. One that nobody hears any more ends by itself."""


class Refused(NamedTuple):
    """A variable that cannot be loaded, and why."""

    name: str
    reason: str


class Trial:
    """Loads what was written as the next process will: no later than at `deadline`, by time.monotonic()."""

    def __init__(self, cloudpickle: Any, modules: Dict[str, str], deadline: float) -> None:
        self._cloudpickle = cloudpickle
        self._modules = modules
        self._deadline = deadline

    def first_refused(self, writing: Writing, out: BinaryIO, variables: Namespace) -> Optional[Refused]:
        """The first of the variables that cannot be loaded. None where there is no room or time to find that out."""
        is_large = sum(writing.sizes.values()) > TRIED_BYTES
        file = writing.small(variables, TRIED_ALONE_BYTES) if is_large else writing.read_again(out)
        limit_s = min(TRIAL_S, self._deadline - time.monotonic())
        if limit_s <= 0:
            return None
        try:
            hear, say = os.pipe()
            pid = os.fork()
        except OSError:
            return None
        if pid == 0:
            try:
                os.close(hear)
                _be_unheard(self._deadline - time.monotonic() + GRACE_S)
                self._load(file, say)
            finally:
                os._exit(1)
        os.close(say)
        said, end = _hear_out(hear, pid, limit_s, self._deadline)
        *names, last = said.decode("utf-8", "surrogatepass").split("\n")
        if last == DONE or not names or end == UNKNOWN:
            return None
        why = "fails: " + last if last else "takes too long" if end == OVERDUE else "ends its process"
        return Refused(loads(names[-1]), "loading it again " + why)

    def _load(self, file: BinaryIO, say: int) -> None:
        """Load, and say each name before it is loaded, a line each; at the end what was wrong, or that nothing was."""
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        namespace = vars(main)
        namespace.update({name: sys.modules[module] for name, module in self._modules.items()})
        cloudpickle = self._cloudpickle
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.clear()  # or the classes would be found that are here
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.clear()
        try:
            for name, value in Reading(file, _found_anew, lambda name: _say(say, dumps(name) + "\n")):
                namespace[name] = value
            _say(say, DONE)
        except MemoryError:
            _say(say, DONE)
        except BaseException as error:  # user code
            _say(say, reason_of(error).replace("\n", " ") or "?")


DONE = "\0"
OVERDUE, UNKNOWN, ENDED = "overdue", "unknown", "ended"


def _be_unheard(longest_s: float) -> None:
    """What it prints is no output of any command's, what it starts goes with it, and it outlives nobody who hears it
    by more than so long."""
    os.setpgid(0, 0)
    _signal.signal(_signal.SIGALRM, _signal.SIG_DFL)
    _signal.setitimer(_signal.ITIMER_REAL, longest_s)
    silence = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(silence, descriptor)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - this process ends soon


def _say(pipe: int, text: str) -> None:
    data = text.encode("utf-8", "surrogatepass")
    while data:
        data = data[os.write(pipe, data) :]


def _hear_out(pipe: int, pid: int, limit_s: float, deadline: float) -> Tuple[bytes, str]:
    """All that a child says, and how it ended: silent for longer than the limit, for reasons that are not the
    variable's (the deadline, SIGKILL when memory is short), or else. It is gone then, with what it has started."""
    said, end = b"", ""
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    while not end:
        left_s = max(0.0, min(limit_s, deadline - time.monotonic()))
        if not poll.poll(left_s * 1000):
            end = OVERDUE if time.monotonic() < deadline else UNKNOWN
        elif piece := os.read(pipe, 65536):
            said += piece
        else:
            end = _end_of(pid)
    os.close(pipe)
    for kill in (os.killpg, os.kill):  # it may not have got as far as a group of its own
        try:
            kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        pass  # the session ignores SIGCHLD
    return said, end


def _end_of(pid: int) -> str:
    """How a child that says no more has ended, or ends within a moment."""
    for _ in range(100):
        try:
            found = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
        except ChildProcessError:
            break
        if found is not None:
            return UNKNOWN if (found.si_code, found.si_status) == (os.CLD_KILLED, signal.SIGKILL) else ENDED
        time.sleep(0.01)
    return ENDED


def _found_anew(usual: Callable[[str, str], Any], module: str, name: str) -> Any:
    """As another process would find it, which has no module that was made by hand."""
    found = usual(module, name)
    top = sys.modules.get(module.partition(".")[0])
    spec = getattr(top, "__spec__", None)
    if module not in (LENT_NAME, "__main__") and (
        spec is None or (spec.loader is None and spec.submodule_search_locations is None)
    ):
        raise ImportError("module %s was made by hand, and is to be found nowhere" % module)
    return found
