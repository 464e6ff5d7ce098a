"""What of a process beside its variables belongs to a session: where it is, what it imports and from where, how it was
told to behave. Plain values, which a checkpoint holds before everything else.
"""

from __future__ import annotations

import linecache
import os
import sys
import time
import types
from importlib import import_module
from typing import Any, Dict, List, Optional, Tuple

from omega_sessiond.hosts.pickling import OURS, Namespace, reason_of

OWN_NAMES = frozenset(("__builtins__", "__name__", "__doc__", "__loader__", "__spec__", "__package__"))
"""What every `__main__` has of itself."""

SOURCE_PREFIX = "<omega-"
"""How the file names of commands begin."""


class Surroundings:
    """What of the process beside its variables belongs to the session: plain values."""

    FIELDS = (
        "path", "directory", "environment", "modules", "submodules", "sources", "places", "umask", "recursion_limit",
        "arguments",
    )  # fmt: skip

    def __init__(self, **values: Any) -> None:
        self.path: List[str] = values["path"]
        self.directory: str = values["directory"]
        self.environment: Dict[str, str] = values["environment"]
        self.modules: Dict[str, str] = values["modules"]
        self.submodules: List[str] = values["submodules"]
        self.sources: Dict[str, Tuple[int, Optional[float], List[str], str]] = values["sources"]
        self.places: List[str] = values.get("places", [])
        """Where modules came from that are not to be found by `path` any more, as after os.chdir()."""
        self.umask: Optional[int] = values.get("umask")
        self.recursion_limit: Optional[int] = values.get("recursion_limit")
        self.arguments: List[str] = values.get("arguments", [""])

    @classmethod
    def now(cls, namespace: Namespace) -> Surroundings:
        modules = {name: value.__name__ for name, value in namespace.items() if _is_importable(name, value)}
        packages = tuple({name.partition(".")[0] + "." for name in modules.values()})
        return cls(
            path=[entry for entry in sys.path if isinstance(entry, str)],
            directory=directory_now(),
            environment=dict(os.environ),
            modules=modules,
            submodules=[name for name in list(sys.modules) if name.startswith(packages)] if packages else [],
            sources={file: entry for file, entry in linecache.cache.items() if file.startswith(SOURCE_PREFIX)},
            places=_places(),
            umask=umask_now(),
            recursion_limit=sys.getrecursionlimit(),
            arguments=[str(argument) for argument in getattr(sys, "argv", ())],
        )

    def restore(self, namespace: Namespace) -> Dict[str, str]:
        """Put all of it in force; what could not be, with its reason. Imports run as if the session had asked. Modules
        that the variables need are found also in `places`, until `settle`."""
        lost: Dict[str, str] = {}
        sys.path[:] = self.path + self.places
        try:
            os.chdir(self.directory)
        except OSError as error:
            lost["working directory"] = "%s: %s" % (self.directory, error.strerror)
        take_environment(self.environment)
        sys.argv = list(self.arguments)
        if self.umask is not None:
            os.umask(self.umask)
        linecache.cache.update(self.sources)
        for name in self.submodules:  # `import a.b` binds `a` alone
            if name not in sys.modules:
                try:
                    import_module(name)
                except Exception:  # it may have been made by hand, or be private to its package
                    continue
        for variable, name in self.modules.items():
            try:
                namespace[variable] = import_module(name)
            except BaseException as error:  # an import runs whatever the module does
                lost[variable] = reason_of(error)
        return lost

    def settle(self) -> None:
        """All has been loaded."""
        if self.recursion_limit is not None:
            try:
                sys.setrecursionlimit(self.recursion_limit)
            except RecursionError:
                pass  # it is lower than we stand here
        sys.path[:] = [entry for entry in sys.path if entry not in self.places]


def _places() -> List[str]:
    """Directories of modules that were loaded from elsewhere than where absolute entries of sys.path lead."""
    known, found = set(sys.path), []
    for name, module in list(sys.modules.items()):
        file = getattr(getattr(module, "__spec__", None), "origin", None)
        if name in OURS or "." in name or type(file) is not str or not file.startswith("/"):
            continue
        place = os.path.dirname(file)
        if os.path.basename(file).startswith("__init__."):
            place = os.path.dirname(place)
        if place not in known:
            known.add(place)
            found.append(place)
    return found


def take_environment(environment: Dict[str, str]) -> None:
    """Make it the process's. What is as it should be is left alone: each change costs the C library a copy."""
    for name in [name for name in os.environ if name not in environment]:
        del os.environ[name]
    for name, value in environment.items():
        if os.environ.get(name) != value:
            os.environ[name] = value
    time.tzset()


def directory_now() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


def umask_now() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _is_importable(name: str, value: Any) -> bool:
    if type(value) is not types.ModuleType or type(name) is not str or name in OWN_NAMES:
        return False
    return sys.modules.get(value.__name__) is value and value.__name__ != "__main__"
