"""The variables of `__main__` as one file, and back: by value what the session defined, by name what it imported.

One pickle holds them all, so that what they share stays shared. A function of the session's is saved without the
variables it uses: they are saved as variables, and it finds them in the namespace again. Knows pickling and Python;
nothing of hosts. What pickling calls is user code: run `load` inside the border, and `save` where nothing can be lost.
"""

from __future__ import annotations

import builtins
import functools
import io
import linecache
import os
import sys
import types
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, BinaryIO, Callable, Dict, List, Optional, Tuple

from omega_sessiond.hosts import border
from omega_sessiond.hosts.engine import CannotLoad, CannotSave, Saved

LENT_NAME = "_omega_cloudpickle"
"""The name our cloudpickle goes by in the files: the user's own, of whatever version, is another module."""

OURS = (LENT_NAME, "omega_sessiond")
"""Modules that no session imports: nothing else that lies beside them is to be found there."""

RECURSION_LIMIT = 10_000
"""For pickling, which calls itself for each level of a structure. More would need a deeper C stack than 8 MiB."""

REASON_CHARS = 300

OWN_NAMES = frozenset(("__builtins__", "__name__", "__doc__", "__loader__", "__spec__", "__package__"))
"""What every `__main__` has of itself."""

SOURCE_PREFIX = "<omega-"
"""How the file names of commands begin."""

ANONYMOUS = "<dynamic-code>"
"""What cloudpickle calls the file of every code object."""

LAST = "_"
"""The name under which the last displayed value is told; it lies in builtins."""

Namespace = Dict[str, Any]

stand_ins: Dict[int, Tuple[Any, Any, str]] = {}
"""What the host has put in the place of Python's own, by its identity, which is nobody else's as long as it is held
here; and module and name, under which the next process has another."""

_CACHED = functools._lru_cache_wrapper


def know_stand_in(module: Any, name: str) -> None:
    """What stands there now is the host's: it is saved by its name."""
    value = getattr(module, name)
    stand_ins[id(value)] = (value, module, name)


class Surroundings:
    """What of the process beside its variables belongs to the session: plain values."""

    FIELDS = ("path", "directory", "environment", "modules", "submodules", "sources", "places")

    def __init__(self, **values: Any) -> None:
        self.path: List[str] = values["path"]
        self.directory: str = values["directory"]
        self.environment: Dict[str, str] = values["environment"]
        self.modules: Dict[str, str] = values["modules"]
        self.submodules: List[str] = values["submodules"]
        self.sources: Dict[str, Tuple[int, Optional[float], List[str], str]] = values["sources"]
        self.places: List[str] = values.get("places", [])
        """Where modules came from that are not to be found by `path` any more, as after os.chdir()."""

    @classmethod
    def now(cls, namespace: Namespace) -> Surroundings:
        modules = {name: value.__name__ for name, value in namespace.items() if _is_importable(name, value)}
        packages = tuple({name.partition(".")[0] + "." for name in modules.values()})
        return cls(
            path=[entry for entry in sys.path if isinstance(entry, str)],
            directory=_directory(),
            environment=dict(os.environ),
            modules=modules,
            submodules=[name for name in list(sys.modules) if name.startswith(packages)] if packages else [],
            sources={file: entry for file, entry in linecache.cache.items() if file.startswith(SOURCE_PREFIX)},
            places=_places(),
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
        os.environ.clear()
        os.environ.update(self.environment)
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
                lost[variable] = _reason(error)
        return lost

    def settle(self) -> None:
        """All modules have been found."""
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


def _directory() -> str:
    try:
        return os.getcwd()
    except OSError:
        return "/"


def _is_importable(name: str, value: Any) -> bool:
    if type(value) is not types.ModuleType or type(name) is not str or name in OWN_NAMES:
        return False
    return sys.modules.get(value.__name__) is value and value.__name__ != "__main__"


def _reason(error: BaseException) -> str:
    try:
        text = str(error)
    except BaseException:  # user code
        text = ""
    text = " ".join(text.split())[:REASON_CHARS]
    return text if text and isinstance(error, _pickling_errors()) else ("%s: %s" % (type(error).__name__, text))


def _pickling_errors() -> Tuple[type, ...]:
    """Errors whose text says by itself what is wrong."""
    found = sys.modules.get("_pickle") or sys.modules.get("pickle")
    return (TypeError, getattr(found, "PicklingError", TypeError))


def lend(directory: str) -> types.ModuleType:
    """cloudpickle from `directory`, under our own name for it and in no list of modules."""
    if LENT_NAME in sys.modules:
        return sys.modules[LENT_NAME]
    file = os.path.join(directory, "cloudpickle.py")
    spec = spec_from_file_location(LENT_NAME, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[LENT_NAME] = module
    path = sys.path
    sys.path = [entry for entry in path if entry]  # what it imports is the standard library's
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path = path
        del sys.modules[LENT_NAME]
    return module


# ---- saving ----


class _TheNamespace:
    """Stands in a pickle for the namespace itself, whichever process loads it."""

    def __reduce__(self) -> Any:
        return vars, (sys.modules["__main__"],)


class _Sink(io.RawIOBase):
    """Takes everything and keeps nothing: for a trial."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


def _typing_makers() -> Dict[type, Callable[[Any], Any]]:
    """How to make anew what `typing` pickles by a name alone, by its type: this interpreter's, once it is loaded."""
    typing = sys.modules.get("typing")

    def remake_new_type(made: Any) -> Any:
        return type(made), (made.__name__, made.__supertype__), {"__module__": made.__module__}

    def remake_parameter(made: Any) -> Any:
        kind: Callable[..., Any] = type(made)
        options = {
            option: getattr(made, "__%s__" % option)
            for option in ("bound", "covariant", "contravariant", "infer_variance")
            if getattr(made, "__%s__" % option, None)
        }
        if hasattr(made, "has_default") and made.has_default():
            options["default"] = made.__default__
        return functools.partial(kind, made.__name__, **options), ()

    makers = {"NewType": remake_new_type, "ParamSpec": remake_parameter, "TypeVarTuple": remake_parameter}
    kinds = {name: getattr(typing, name, None) for name in makers}
    return {kind: makers[name] for name, kind in kinds.items() if isinstance(kind, type)}


def _make_pickler(cloudpickle: Any, namespace: Namespace, spaces: List[Namespace]) -> Any:
    """cloudpickle's Pickler, which leaves the namespace where it is. Functions share those of `spaces`, as they did."""
    plain_state, by_name = cloudpickle._function_getstate, cloudpickle._lookup_module_and_qualname
    unpicklable = cloudpickle.pickle.PicklingError
    makers = _typing_makers()

    def refuse_file(file: Any) -> Any:
        raise unpicklable("cannot pickle an open file (%r)" % getattr(file, "name", "?"))

    def keep_file(code: types.CodeType) -> Any:
        """With the name of its file, under which its source is found."""
        kind, arguments = cloudpickle._code_reduce(code)
        return kind, tuple(code.co_filename if one == ANONYMOUS else one for one in arguments)

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        dispatch_table = cloudpickle.Pickler.dispatch_table.new_child(
            {io.TextIOWrapper: refuse_file, types.CodeType: keep_file}
        )

        def __init__(self, file: Any) -> None:
            super().__init__(file, protocol=5)
            self.globals_ref[id(namespace)] = _TheNamespace()
            for space in spaces:
                self.globals_ref[id(space)] = space

        def reducer_override(self, obj: Any) -> Any:
            if id(obj) in stand_ins:
                return getattr, stand_ins[id(obj)][1:]
            if type(obj) is _CACHED and hasattr(obj, "cache_parameters") and by_name(obj) is None:
                settings = obj.cache_parameters()  # by itself it would go by a name that the next process has not
                made = (obj.__wrapped__, settings["maxsize"], settings["typed"], functools._CacheInfo)
                return _CACHED, made, dict(vars(obj))
            if type(obj) in makers and by_name(obj) is None:
                return makers[type(obj)](obj)
            return super().reducer_override(obj)

        def _dynamic_function_reduce(self, func: Any) -> Any:
            if func.__globals__ is not namespace:
                return super()._dynamic_function_reduce(func)
            _, slots = plain_state(types.FunctionType(func.__code__, {}, closure=func.__closure__))
            for name in ("__name__", "__qualname__", "__annotations__", "__kwdefaults__", "__defaults__", "__module__"):
                slots[name] = getattr(func, name)
            slots["__doc__"] = func.__doc__
            return (
                cloudpickle._make_function,
                self._function_getnewargs(func),
                (dict(vars(func)), slots),
                None,
                None,
                cloudpickle._function_setstate,
            )

    return Pickler


def save(file: str, namespace: Namespace, extra: Dict[str, Any], lent: str) -> Saved:
    """Write all that can be pickled. Meant for a process that ends afterwards: it changes the interpreter's settings
    and leaves cloudpickle where pickles can name it."""
    sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))
    try:
        cloudpickle = lend(lent)
    except (ImportError, OSError, SyntaxError) as error:
        raise CannotSave("cloudpickle cannot be loaded from %s: %s" % (lent, error)) from None
    sys.modules[LENT_NAME] = cloudpickle
    surroundings = Surroundings.now(namespace)
    variables = {
        name: _TheNamespace() if value is namespace else value
        for name, value in namespace.items()
        if type(name) is str and name not in OWN_NAMES and name not in surroundings.modules
    }
    # What exec() ran in.
    spaces = [value for value in variables.values() if type(value) is dict and "__builtins__" in value]
    make_pickler = functools.partial(_make_pickler, cloudpickle, namespace)
    pickler = make_pickler(spaces)
    if not variables.get("__annotations__", True):
        del variables["__annotations__"]
    if getattr(builtins, LAST, None) is not None and LAST not in variables:
        variables["builtins._"] = getattr(builtins, LAST)
    left_out: Dict[str, str] = {}
    # As the next process finds it: what would go by a name in it is refused, and named, instead of being lost with all
    # the others when it is loaded.
    sys.modules["__main__"] = types.ModuleType("__main__")
    with open(file, "r+b", buffering=1 << 20) as out:
        plain = {name: getattr(surroundings, name) for name in Surroundings.FIELDS}
        cloudpickle.pickle.dump({**plain, "extra": extra}, out, protocol=4)
        start = out.tell()
        trouble = _try(pickler, out, variables)
        if trouble is not None:
            # One that cannot be saved whole is not shared: its functions come back with what they use of it.
            pickler = make_pickler([one for one in spaces if _try(pickler, _Sink(), {"": one}) is None])
            left_out = _find_culprits(pickler, variables)
            out.seek(start)
            out.truncate()
            kept = {name: value for name, value in variables.items() if name not in left_out}
            trouble = _try(pickler, out, kept)
            if trouble is not None:
                raise CannotSave("the variables cannot be saved together: %s" % trouble)
            variables = kept
        out.flush()
    if "builtins._" in left_out:
        left_out[LAST] = left_out.pop("builtins._")
    names = [name for name in variables if name not in ("builtins._", "__annotations__")]
    return Saved(sorted([*names, *surroundings.modules]), left_out)


def _try(pickler: Any, out: Any, variables: Namespace) -> Optional[str]:
    """Pickle; why it cannot be done. What the disk says is not the variables' fault."""
    try:
        pickler(out).dump(variables)
        out.flush()
    except (OSError, MemoryError) as error:
        if isinstance(error, MemoryError) or _is_of_the_disk(error):
            raise
        return _reason(error)
    except BaseException as error:  # user code may raise anything
        return _reason(error)
    return None


def _is_of_the_disk(error: OSError) -> bool:
    import errno

    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


def _find_culprits(pickler: Any, variables: Namespace) -> Dict[str, str]:
    """Each variable that cannot be pickled by itself, with the reason."""
    found = {}
    for name, value in variables.items():
        trouble = _try(pickler, _Sink(), {name: value})
        if trouble is not None:
            found[name] = trouble
    return found


# ---- loading ----


def load(file: str, namespace: Namespace, lent: str) -> Tuple[Dict[str, Any], Dict[str, str]]:
    """Bring the variables back into `namespace`; the `extra` they were saved with, and what could not be brought back.
    Raises CannotLoad, and then everything is as before."""
    pickle: Any = border.import_late("_pickle")
    before = dict(namespace)
    path, directory, environment = list(sys.path), _directory(), dict(os.environ)

    borrowed: List[types.ModuleType] = []

    class Unpickler(pickle.Unpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            if module != LENT_NAME:
                return super().find_class(module, name)
            if not borrowed:  # plain values do without it, and wake sooner
                borrowed.append(lend(lent))
            return getattr(borrowed[0], name)

    try:
        with open(file, "rb") as stored:
            values = _plain(stored).load()
            extra: Dict[str, Any] = values.pop("extra")
            surroundings = Surroundings(**values)
            lost = surroundings.restore(namespace)
            variables: Namespace = Unpickler(stored).load()
            surroundings.settle()
        if "builtins._" in variables:
            builtins._ = variables.pop("builtins._")  # type: ignore[attr-defined]
        namespace.update(variables)
        namespace["__builtins__"] = builtins
    except BaseException as error:  # user code may raise anything
        namespace.clear()
        namespace.update(before)
        sys.path[:] = path
        os.environ.clear()
        os.environ.update(environment)
        os.chdir(directory)
        raise CannotLoad(_reason(error)) from None
    return extra, lost


def _plain(stored: BinaryIO) -> Any:
    """An unpickler of plain values: these need no code of anybody's."""
    pickle: Any = border.import_late("_pickle")

    class Plain(pickle.Unpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            raise CannotLoad("its beginning is not what this program writes")

    return Plain(stored)
