"""The variables of `__main__` as one file, and back: by value what the session defined, by name what it imported.

One pickler writes them one after the other and one unpickler reads them, so that what they share stays shared, and what
one of them runs when it is loaded finds those before it: first what code is made of, then the rest. A function of the
session's is saved without the variables it uses: they are saved as variables, and it finds them in the namespace again.
What was written is read once, on trial: a value that cannot be loaded is left out by name instead of costing all
others later. Knows pickling and Python; nothing of hosts. What pickling calls is user code: run `load` inside the
border, and `save` where nothing can be lost.
"""

from __future__ import annotations

import builtins
import gc
import os
import signal
import sys
import time
import types
from typing import Any, BinaryIO, Callable, Dict, Iterable, List, Optional, Tuple

from omega_sessiond.hosts import border
from omega_sessiond.hosts.engine import CannotLoad, CannotSave, Saved
from omega_sessiond.hosts.pickling import (
    CACHED,
    LENT_NAME,
    REASON_CHARS,
    Namespace,
    Reading,
    TheNamespace,
    ThePath,
    Writing,
    lend,
    reason_of,
)
from omega_sessiond.hosts.surroundings import OWN_NAMES, Surroundings, directory_now, take_environment, umask_now
from omega_sessiond.hosts.trial import Trial

RECURSION_LIMIT = 10_000
"""For pickling, which calls itself for each level of a structure. More would need a deeper C stack than 8 MiB."""

TRIED_SHARE = 0.5
"""Of the time for a save: by then whatever is tried has been; the rest is for writing what is left."""

PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None), range, slice))
"""Types of values that need nothing but themselves."""

LOOKED_AT = 1_000_000
"""Objects that are looked through for what holds something missing: about a second."""

LAST = "_"
"""The name under which the last displayed value is told; it lies in builtins."""

HANDLERS = "signal handlers"
"""The name under which they are saved, which no variable has."""

NO_VARIABLES = ("builtins._", HANDLERS)
"""What is saved among the variables and is none."""


# ---- saving ----


def save(file: str, namespace: Namespace, extra: Dict[str, Any], lent: str, budget_s: float) -> Saved:
    """Write all that can be pickled and loaded, within so many seconds. Meant for a process that ends afterwards: it
    changes the interpreter's settings and leaves cloudpickle where pickles can name it."""
    begun = time.monotonic()
    surroundings = Surroundings.now(namespace)
    sys.setrecursionlimit(RECURSION_LIMIT)
    try:
        cloudpickle = lend(lent)
    except (ImportError, OSError, SyntaxError) as error:
        raise CannotSave("cloudpickle cannot be loaded from %s: %s" % (lent, error)) from None
    sys.modules[LENT_NAME] = cloudpickle
    variables = {
        name: TheNamespace() if value is namespace else ThePath() if value is sys.path else value
        for name, value in namespace.items()
        if type(name) is str and name not in OWN_NAMES and name not in surroundings.modules
    }
    # What exec() ran in.
    spaces = [value for value in variables.values() if type(value) is dict and "__builtins__" in value]
    if not variables.get("__annotations__", True):
        del variables["__annotations__"]
    if getattr(builtins, LAST, None) is not None and LAST not in variables:
        variables["builtins._"] = getattr(builtins, LAST)
    if handlers := border.handlers():
        variables[HANDLERS] = handlers
    variables = dict(sorted(variables.items(), key=lambda item: _rank(item[1])))
    # As the next process finds it: what would go by a name in it is refused, and named, instead of being lost with all
    # the others when it is loaded.
    sys.modules["__main__"] = types.ModuleType("__main__")
    writing = Writing(cloudpickle, namespace, spaces)
    with open(file, "r+b", buffering=1 << 20) as out:
        plain = {name: getattr(surroundings, name) for name in Surroundings.FIELDS}
        cloudpickle.pickle.dump({**plain, "extra": extra, "one_by_one": True}, out, protocol=4)
        left_out = writing.write(out, variables)
        trial = Trial(cloudpickle, surroundings.modules, begun + TRIED_SHARE * budget_s)
        while True:
            kept = {name: value for name, value in variables.items() if name not in left_out}
            refused = trial.first_refused(writing, out, kept)
            if refused is None:
                break
            left_out[refused.name] = refused.reason
            del kept[refused.name]
            left_out.update(writing.write(out, kept))
    if "builtins._" in left_out:
        left_out[LAST] = left_out.pop("builtins._")
    names = [name for name in kept if name not in (*NO_VARIABLES, "__annotations__")]
    return Saved(sorted([*names, *surroundings.modules]), left_out)


def _rank(value: Any) -> int:
    """When it is loaded: plain values, what makes classes, functions, classes, then what may need any of these."""
    if type(value) in PLAIN:
        return 0
    if issubclass(type(value), type):
        return 1 if issubclass(value, type) else 3
    return 2 if type(value) in (types.FunctionType, types.BuiltinFunctionType, CACHED) else 4


# ---- loading ----


class _Finder:
    """Finds what goes by a name, where it can be found still. For the rest something stands that does nothing: what is
    not there any more costs what uses it, and not everything."""

    def __init__(self, lent: str) -> None:
        self.missing: List[str] = []
        """Why not, since somebody has looked here."""
        self.stand_ins: List[type] = []
        self._lent = lent
        self._borrowed: Optional[types.ModuleType] = None

    def __call__(self, usual: Callable[[str, str], Any], module: str, name: str) -> Any:
        if module == LENT_NAME:
            if self._borrowed is None:  # plain values do without it, and wake sooner
                self._borrowed = lend(self._lent)
            return self._import if name == "subimport" else getattr(self._borrowed, name)
        try:
            return usual(module, name)
        except Exception as error:  # an import runs whatever the module does
            return self._stand_in(module, name, "%s.%s" % (module, name), error)

    def _import(self, name: str) -> Any:
        """A module that something holds: cloudpickle has it imported by this."""
        try:
            return getattr(self._borrowed, "subimport")(name)  # noqa: B009 - a module of no known type
        except Exception as error:
            return self._stand_in(name, name.rpartition(".")[2], name, error)

    def _stand_in(self, module: str, name: str, what: str, error: Exception) -> Any:
        why = "%s is not to be had any more: %s" % (what, reason_of(error))
        self.missing.append(why)
        made = type(name.rpartition(".")[2], (_Missing,), {"__module__": module, "_why": why})
        self.stand_ins.append(made)
        return made


def _why_missing(value: Any) -> str:
    """What it stands for and why; "" for anything else. Runs no user code, as isinstance() does."""
    kind = value if issubclass(type(value), type) else type(value)
    return str(kind._why) if _Missing in kind.__mro__ and kind.__dict__.get("_why") else ""


def _holders(namespace: Namespace, stand_ins: List[type], known: Dict[str, str]) -> Dict[str, str]:
    """Variables that hold what stands for something missing, as far as a look of bounded length finds them: what holds
    it a second time is loaded without a word."""
    found: Dict[str, str] = {}
    if not stand_ins:
        return found
    whys = {id(made): made.__dict__["_why"] for made in stand_ins}
    others = {id(vars(module)) for module in list(sys.modules.values()) if type(module) is types.ModuleType}
    left = LOOKED_AT
    for name, value in list(namespace.items()):
        seen, waiting = {id(namespace), *others}, [value]
        while waiting and left and name not in known and name not in OWN_NAMES:
            one = waiting.pop()
            if id(one) in whys:
                found[name] = "in part: " + whys[id(one)]
                break
            if id(one) not in seen and type(one) is not types.ModuleType:
                seen.add(id(one))
                left -= 1
                waiting.extend(gc.get_referents(one))
    return found


class _Missing:
    """Stands where something was that cannot be imported any more, and takes whatever it is given."""

    _why = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def _take(self, *args: Any) -> Any:
        return self

    __call__ = __setstate__ = append = extend = add = update = __setitem__ = _take

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(self._why)

    def __repr__(self) -> str:
        return "<%s>" % self._why


def load(file: str, namespace: Namespace, lent: str) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """Bring the variables back into `namespace`; the `extra` they were saved with, and what could not be brought back.
    Raises CannotLoad, and then everything is as before."""
    before = dict(namespace)
    path, directory, environment = list(sys.path), directory_now(), dict(os.environ)
    umask, recursion_limit, arguments = umask_now(), sys.getrecursionlimit(), list(getattr(sys, "argv", ()))
    finder = _Finder(lent)
    reading: Optional[Reading] = None
    aside: Namespace = {}
    try:
        with open(file, "rb") as stored:
            values = _plain(stored).load()
            extra: Dict[str, Any] = values.pop("extra")
            one_by_one = values.pop("one_by_one", False)
            surroundings = Surroundings(**values)
            lost = surroundings.restore(namespace)
            reading = Reading(stored, finder)
            variables: Iterable[Tuple[str, Any]] = reading if one_by_one else reading.together().items()
            for name, value in variables:
                shown = name if name != "builtins._" else LAST
                if finder.missing:
                    lost[shown] = "; ".join(finder.missing)[:REASON_CHARS]
                    finder.missing.clear()
                if why := _why_missing(value):
                    lost[shown] = why
                else:
                    (aside if name in NO_VARIABLES else namespace)[name] = value
            surroundings.settle()
        namespace["__builtins__"] = builtins
        lost.update(_holders(namespace, finder.stand_ins, lost))
        for number, handler in aside.get(HANDLERS, {}).items():
            signal.signal(number, handler)
        if "builtins._" in aside:
            builtins._ = aside["builtins._"]  # type: ignore[attr-defined]
    except BaseException as error:  # user code may raise anything
        namespace.clear()
        namespace.update(before)
        sys.path[:], sys.argv = path, arguments
        take_environment(environment)
        os.umask(umask)
        sys.setrecursionlimit(recursion_limit)
        os.chdir(directory)
        at = "%s: " % reading.name if reading is not None and reading.name else ""
        raise CannotLoad(at + reason_of(error)) from None
    return extra, lost


def _plain(stored: BinaryIO) -> Any:
    """An unpickler of plain values: these need no code of anybody's."""
    pickle: Any = border.import_late("_pickle")

    class Plain(pickle.Unpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            raise CannotLoad("its beginning is not what this program writes")

    return Plain(stored)
