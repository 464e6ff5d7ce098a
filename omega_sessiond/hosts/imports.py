"""Modules that the host has something to do with when user code imports them: what it offers to one, what it does once
another is there. Imports nothing of the user's by itself."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Callable, Dict, Optional

from omega_sessiond.hosts import border

Act = Callable[[Any], None]


class Imports:
    """A finder, the first that is asked for a module."""

    def __init__(self) -> None:
        self._offered: Dict[str, Act] = {}
        self._watched: Dict[str, Act] = {}
        sys.meta_path.insert(0, self)

    def offer(self, name: str, fill: Act) -> None:
        """Have a module of this name made, and filled, for whoever imports it."""
        self._offered[name] = fill

    def watch(self, name: str, act: Act) -> None:
        """Have `act` called with the module, each time it has been loaded; now, if it is there already (preloaded)."""
        self._watched[name] = act
        if name in sys.modules:
            act(sys.modules[name])

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Optional[ModuleSpec]:
        if name in self._watched:
            return self._found(name, path, target)
        loader: Any = self
        return ModuleSpec(name, loader) if name in self._offered else None

    def create_module(self, spec: ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        self._offered[module.__name__](module)

    def _found(self, name: str, path: Any, target: Any) -> Optional[ModuleSpec]:
        """What the other finders find, with a loader that tells of its work once."""
        for finder in sys.meta_path:
            find: Any = None if finder is self else getattr(finder, "find_spec", None)
            spec: Optional[ModuleSpec] = find and border.call_user(find, name, path, target)
            if spec is not None:
                self._tap(spec.loader, self._watched[name])
                return spec
        return None

    def _tap(self, loader: Any, act: Act) -> None:
        execute: Any = getattr(loader, "exec_module", None)

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            border.call_user(execute, module)
            act(module)

        try:
            loader.exec_module = exec_module
        except AttributeError:
            pass  # a loader that takes no attributes: the module is as it is elsewhere
