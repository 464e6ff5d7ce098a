"""Whether what was written can be loaded, as far as that can be seen from the process that wrote it: it is loaded on
trial, in a child, for whatever that does is not to be done here.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import os
import select
import signal
import sys
import types
from json import dumps, loads
from types import MappingProxyType
from typing import Any, BinaryIO, Callable, Dict, Mapping, Optional

from omega_sessiond.hosts.pickling import LENT_NAME, Namespace, Reading, Writing, reason_of

TRIED_BYTES, TRIED_ALONE_BYTES = 64 << 20, 1 << 20
"""A file up to this size is read on trial as a whole; of a larger one, the variables up to that size."""

TRIAL_S = 10.0
"""What takes longer to be loaded is left out: it may wait for something that never comes."""


class Trial:
    """Loads what was written as the next process will, as far as that can be seen from here: in a child, for whatever
    it does is not to be done here."""

    def __init__(self, cloudpickle: Any, modules: Dict[str, str]) -> None:
        self._cloudpickle = cloudpickle
        self._modules = modules

    def run(self, writing: Writing, out: BinaryIO, variables: Namespace) -> Dict[str, str]:
        """Those of the variables that cannot be loaded, with the reason. Where there is no room for it, none."""
        if sum(writing.sizes.values()) <= TRIED_BYTES:
            found = _in_child(lambda: self._first_refused(writing.read_again(out)))
        else:
            variables = {name: variables[name] for name, size in writing.sizes.items() if size <= TRIED_ALONE_BYTES}
            found = _in_child(lambda: self._first_refused(writing.alone(variables)))
        if found == {}:
            return {}
        each = None if found is None else _in_child(lambda: self._all_refused(writing, variables))
        if each is None:
            each = {}
            for name in variables:
                end = _in_child(lambda name=name: self._refused(writing, variables, name))  # type: ignore[misc]
                each.update({name: "loading it again ends its process"} if end is None else end)
        return each or found or {}

    def _all_refused(self, writing: Writing, variables: Namespace) -> Dict[str, str]:
        refused: Dict[str, str] = {}
        for name in variables:
            kept = {name: value for name, value in variables.items() if name not in refused}
            refused.update(self._refused(writing, kept, name))
        return refused

    def _refused(self, writing: Writing, variables: Namespace, name: str) -> Dict[str, str]:
        """One by itself, with those before it as they are."""
        names = list(variables)
        before = {name: variables[name] for name in names[: names.index(name)]}
        return self._first_refused(writing.alone({name: variables[name]}), before)

    def _first_refused(self, file: BinaryIO, present: Mapping[str, Any] = MappingProxyType({})) -> Dict[str, str]:
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        namespace = vars(main)
        namespace.update({name: sys.modules[module] for name, module in self._modules.items()}, **present)
        cloudpickle = self._cloudpickle
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS.clear()  # or the classes would be found that are here
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID.clear()
        reading = Reading(file, _found_anew)
        try:
            for name, value in reading:
                namespace[name] = value
        except MemoryError:
            return {}
        except BaseException as error:  # user code
            return {reading.name: "loading it again fails: %s" % reason_of(error)}
        return {}


def _in_child(work: Callable[[], Dict[str, str]]) -> Optional[Dict[str, str]]:
    """What it finds in a forked child, whose output nobody hears; None when it ends that process, or for ever stays in
    it. Where there is no room for a child, nothing."""
    try:
        out, into = os.pipe()
        pid = os.fork()
    except OSError:
        return {}
    if pid == 0:
        try:
            silence = os.open(os.devnull, os.O_WRONLY)
            for descriptor in (1, 2):
                os.dup2(silence, descriptor)
            sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - this process ends soon
            _signal.signal(_signal.SIGALRM, _too_long)
            _signal.setitimer(_signal.ITIMER_REAL, TRIAL_S)
            os.write(into, dumps(work()).encode("ascii"))
        finally:
            os._exit(0)
    os.close(into)
    data = b""
    try:
        poll = select.poll()
        poll.register(out, select.POLLIN)
        while poll.poll(2000 * TRIAL_S) and (piece := os.read(out, 65536)):
            data += piece
    finally:
        os.close(out)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    found: Optional[Dict[str, str]] = loads(data.decode("ascii")) if data else None
    return found


def _too_long(number: int, frame: Any) -> None:
    raise TimeoutError("it takes longer than %d s" % TRIAL_S)


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
