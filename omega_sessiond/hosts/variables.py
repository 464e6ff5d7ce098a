"""The variables of `__main__` as one file, and back: by value what the session defined, by name what it imported.

One pickler writes them one after the other and one unpickler reads them, so that what they share stays shared, and what
one of them runs when it is loaded finds those before it: first what code is made of, then the rest. A function of the
session's is saved without the variables it uses: they are saved as variables, and it finds them in the namespace again.
What was written is read once, on trial: a value that cannot be loaded is left out by name instead of costing all
others later. Knows pickling and Python; nothing of hosts. What pickling calls is user code: run `load` inside the
border, and `save` where nothing can be lost.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import builtins
import functools
import io
import linecache
import os
import select
import signal
import sys
import time
import types
from enum import EnumMeta
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from json import dumps, loads
from types import MappingProxyType
from typing import Any, BinaryIO, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Tuple

from omega_sessiond.hosts import border
from omega_sessiond.hosts.engine import CannotLoad, CannotSave, Saved

LENT_NAME = "_omega_cloudpickle"
"""The name our cloudpickle goes by in the files: the user's own, of whatever version, is another module."""

OURS = (LENT_NAME, "omega_sessiond")
"""Modules that no session imports: nothing else that lies beside them is to be found there."""

RECURSION_LIMIT = 10_000
"""For pickling, which calls itself for each level of a structure. More would need a deeper C stack than 8 MiB."""

TRIED_BYTES, TRIED_ALONE_BYTES = 64 << 20, 1 << 20
"""A file up to this size is read on trial as a whole; of a larger one, the variables up to that size."""

TRIALS = 4
"""What is left out may have been what others needed."""

TRIAL_S = 10.0
"""What takes longer to be loaded is left out: it may wait for something that never comes."""

REASON_CHARS = 300

OWN_NAMES = frozenset(("__builtins__", "__name__", "__doc__", "__loader__", "__spec__", "__package__"))
"""What every `__main__` has of itself."""

SOURCE_PREFIX = "<omega-"
"""How the file names of commands begin."""

ANONYMOUS = "<dynamic-code>"
"""What cloudpickle calls the file of every code object."""

PLAIN = frozenset((int, float, complex, bool, str, bytes, type(None), range, slice))
"""Types of values that need nothing but themselves."""

OF_MEMBERS = frozenset(("_value_", "_name_", "__objclass__", "_sort_order_", "_hashable_values_", "__doc__"))
"""What every member of an enumeration has, and is given when it is made."""

LAST = "_"
"""The name under which the last displayed value is told; it lies in builtins."""

HANDLERS = "signal handlers"
"""The name under which they are saved, which no variable has."""

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
            directory=_directory(),
            environment=dict(os.environ),
            modules=modules,
            submodules=[name for name in list(sys.modules) if name.startswith(packages)] if packages else [],
            sources={file: entry for file, entry in linecache.cache.items() if file.startswith(SOURCE_PREFIX)},
            places=_places(),
            umask=_umask(),
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
        os.environ.clear()
        os.environ.update(self.environment)
        time.tzset()
        sys.argv = list(self.arguments)
        if self.umask is not None:
            os.umask(self.umask)
        if self.recursion_limit is not None:
            sys.setrecursionlimit(self.recursion_limit)
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


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


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
    _lend_enum_setter(module)
    return module


def _lend_enum_setter(cloudpickle: Any) -> None:
    """Put beside cloudpickle's own what fills the enumerations it makes: pickles name it there."""

    def _omega_fill_enum(made: Any, state: Any) -> Any:
        state_of_class, attributes = state
        cloudpickle._class_setstate(made, state_of_class)
        for name, values in attributes.items():
            vars(made._member_map_[name]).update(values)
        return made

    _omega_fill_enum.__module__, _omega_fill_enum.__qualname__ = LENT_NAME, "_omega_fill_enum"
    cloudpickle._omega_fill_enum = _omega_fill_enum


# ---- saving ----


class _TheNamespace:
    """Stands in a pickle for the namespace itself, whichever process loads it."""

    def __reduce__(self) -> Any:
        return vars, (sys.modules["__main__"],)


class _ThePath:
    """Stands in a pickle for sys.path."""

    def __reduce__(self) -> Any:
        return getattr, (sys, "path")


class _Sink(io.RawIOBase):
    """Takes everything and keeps nothing: to see whether something can be pickled."""

    size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.size += len(data)
        return len(data)

    def tell(self) -> int:
        return self.size


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


class _Singletons:
    """What a module has one of, to be compared by identity: an instance without state that it has under a name."""

    def __init__(self) -> None:
        self._names: Dict[type, Dict[int, str]] = {}

    def name_of(self, value: Any) -> str:
        """Its name in the module of its type; "" for anything else."""
        kind = type(value)
        names = self._names.get(kind)
        if names is None:
            names = self._names[kind] = self._of_kind(kind)
        if not names or id(value) not in names:
            return ""
        try:
            return "" if object.__getattribute__(value, "__dict__") else names[id(value)]
        except AttributeError:
            return names[id(value)]

    @staticmethod
    def _of_kind(kind: type) -> Dict[int, str]:
        usual: Any = object
        plain = kind.__reduce_ex__ is usual.__reduce_ex__ and kind.__reduce__ is usual.__reduce__
        home = sys.modules.get(kind.__module__) if plain and type(kind.__module__) is str else None
        if type(home) is not types.ModuleType or kind.__module__ in ("__main__", "builtins"):
            return {}
        return {id(value): name for name, value in vars(home).items() if type(value) is kind and name.isidentifier()}


def _own_kinds(enumeration: Any) -> List[type]:
    """It and the enumerations it is made of, but for Python's."""
    return [kind for kind in enumeration.__mro__ if isinstance(kind, EnumMeta) and kind.__module__ != "enum"]


def _make_pickler(cloudpickle: Any, namespace: Namespace, spaces: List[Namespace]) -> Any:
    """cloudpickle's Pickler, which leaves the namespace where it is. Functions share those of `spaces`, as they did."""
    plain_state, by_name = cloudpickle._function_getstate, cloudpickle._lookup_module_and_qualname
    unpicklable = cloudpickle.pickle.PicklingError
    makers, singletons = _typing_makers(), _Singletons()

    def refuse_file(file: Any) -> Any:
        raise unpicklable("cannot pickle an open file (%r)" % getattr(file, "name", "?"))

    def remake_enum(made: Any, make: Any, arguments: Any, state: Any, *_: Any) -> Any:
        """As cloudpickle does it, and with aliases and the attributes of members."""
        members = made.__members__
        if made._member_type_ is not object and any("__new_member__" in vars(kind) for kind in _own_kinds(made)):
            raise unpicklable("cannot pickle an Enum of %s with a __new__ of its own" % made._member_type_.__name__)
        of_class, slots = state
        for name in members:
            of_class.pop(name, None)
        values = {name: member._value_ for name, member in members.items()}
        attributes = {
            name: kept
            for name, member in made._member_map_.items()
            if (kept := {key: value for key, value in vars(member).items() if key not in OF_MEMBERS})
        }
        arguments = (*arguments[:3], values, *arguments[4:])
        return make, arguments, ((of_class, slots), attributes), None, None, cloudpickle._omega_fill_enum

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
            if obj is os.environ:
                return getattr, (os, "environ")
            if isinstance(obj, type):
                if isinstance(obj, EnumMeta) and by_name(obj) is None:
                    return remake_enum(obj, *super().reducer_override(obj))
            elif name := singletons.name_of(obj):
                return getattr, (sys.modules[type(obj).__module__], name)
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
    """Write all that can be pickled and loaded. Meant for a process that ends afterwards: it changes the interpreter's
    settings and leaves cloudpickle where pickles can name it."""
    surroundings = Surroundings.now(namespace)
    sys.setrecursionlimit(RECURSION_LIMIT)
    try:
        cloudpickle = lend(lent)
    except (ImportError, OSError, SyntaxError) as error:
        raise CannotSave("cloudpickle cannot be loaded from %s: %s" % (lent, error)) from None
    sys.modules[LENT_NAME] = cloudpickle
    variables = {
        name: _TheNamespace() if value is namespace else _ThePath() if value is sys.path else value
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
    writing = _Writing(cloudpickle, namespace, spaces)
    with open(file, "r+b", buffering=1 << 20) as out:
        plain = {name: getattr(surroundings, name) for name in Surroundings.FIELDS}
        cloudpickle.pickle.dump({**plain, "extra": extra, "one_by_one": True}, out, protocol=4)
        left_out = writing.write(out, variables)
        trial = _Trial(cloudpickle, surroundings.modules)
        for _ in range(TRIALS):
            kept = {name: value for name, value in variables.items() if name not in left_out}
            refused = trial.run(writing, out, kept)
            if not refused:
                break
            left_out.update(refused)
            left_out.update(writing.write(out, {name: kept[name] for name in kept if name not in refused}))
        else:
            raise CannotSave("the variables cannot be loaded together: %s" % next(iter(refused.values())))
    if "builtins._" in left_out:
        left_out[LAST] = left_out.pop("builtins._")
    names = [name for name in kept if name not in ("builtins._", HANDLERS, "__annotations__")]
    return Saved(sorted([*names, *surroundings.modules]), left_out)


def _rank(value: Any) -> int:
    """When it is loaded: plain values, what makes classes, functions, classes, then what may need any of these."""
    if type(value) in PLAIN:
        return 0
    if isinstance(value, type):
        return 1 if issubclass(value, type) else 3
    return 2 if type(value) in (types.FunctionType, types.BuiltinFunctionType, _CACHED) else 4


class _Writing:
    """How this namespace is pickled."""

    def __init__(self, cloudpickle: Any, namespace: Namespace, spaces: List[Namespace]) -> None:
        self._make = functools.partial(_make_pickler, cloudpickle, namespace)
        self._spaces = spaces
        self._pickler = self._make(spaces)
        self.sizes: Dict[str, int] = {}
        """Of each variable, in bytes, when they were last written."""
        self._start = 0

    def write(self, out: BinaryIO, variables: Namespace) -> Dict[str, str]:
        """Write them at the end of the beginning of the file; what had to be left out, with its reason."""
        self._start = self._start or out.tell()
        left_out: Dict[str, str] = {}
        trouble = self._try(out, variables)
        if trouble is not None:
            # One that cannot be saved whole is not shared: its functions come back with what they use of it.
            self._pickler = self._make([one for one in self._spaces if self._try(_Sink(), {"": one}) is None])
            left_out = {
                name: reason for name, value in variables.items() if (reason := self._try(_Sink(), {name: value}))
            }
            trouble = self._try(out, {name: value for name, value in variables.items() if name not in left_out})
            if trouble is not None:
                raise CannotSave("the variables cannot be saved together: %s" % trouble)
        return left_out

    def read_again(self, out: BinaryIO) -> BinaryIO:
        """The file, where the variables begin."""
        out.seek(self._start)
        return out

    def alone(self, variables: Namespace) -> BinaryIO:
        """Some of them as a file in memory."""
        out = io.BytesIO()
        self._dump(out, variables)
        out.seek(0)
        return out

    def _try(self, out: Any, variables: Namespace) -> Optional[str]:
        """Pickle; why it cannot be done. What the disk says is not the variables' fault."""
        try:
            if self._start and not isinstance(out, _Sink):
                out.seek(self._start)
                out.truncate()
            self.sizes = self._dump(out, variables)
            out.flush()
        except (OSError, MemoryError) as error:
            if isinstance(error, MemoryError) or _is_of_the_disk(error):
                raise
            return _reason(error)
        except BaseException as error:  # user code may raise anything
            return _reason(error)
        return None

    def _dump(self, out: Any, variables: Namespace) -> Dict[str, int]:
        pickler, sizes, before = self._pickler(out), {}, out.tell()
        for name, value in variables.items():
            pickler.dump(name)
            pickler.dump(value)
            after = out.tell()
            sizes[name], before = after - before, after
        pickler.dump(None)
        return sizes


def _is_of_the_disk(error: OSError) -> bool:
    import errno

    return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


class _Trial:
    """Loads what was written as the next process will, as far as that can be seen from here: in a child, for whatever
    it does is not to be done here."""

    def __init__(self, cloudpickle: Any, modules: Dict[str, str]) -> None:
        self._cloudpickle = cloudpickle
        self._modules = modules

    def run(self, writing: _Writing, out: BinaryIO, variables: Namespace) -> Dict[str, str]:
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

    def _all_refused(self, writing: _Writing, variables: Namespace) -> Dict[str, str]:
        refused: Dict[str, str] = {}
        for name in variables:
            kept = {name: value for name, value in variables.items() if name not in refused}
            refused.update(self._refused(writing, kept, name))
        return refused

    def _refused(self, writing: _Writing, variables: Namespace, name: str) -> Dict[str, str]:
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
        reading = _Reading(file, _found_anew)
        try:
            for name, value in reading:
                namespace[name] = value
        except MemoryError:
            return {}
        except BaseException as error:  # user code
            return {reading.name: "loading it again fails: %s" % _reason(error)}
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


# ---- loading ----

Find = Callable[[Callable[[str, str], Any], str, str], Any]
"""(the usual way to find it, module, name) → what goes by that name."""


class _Reading:
    """The variables of a file one after the other, each with its name."""

    def __init__(self, file: BinaryIO, find: Find) -> None:
        pickle: Any = border.import_late("_pickle")

        class Unpickler(pickle.Unpickler):  # type: ignore[misc]
            def find_class(self, module: str, name: str) -> Any:
                return find(super().find_class, module, name)

        self._unpickler = Unpickler(file)
        self.name = ""
        """Of the one that is being read."""

    def __iter__(self) -> Iterator[Tuple[str, Any]]:
        while True:
            name = self._unpickler.load()
            if name is None:
                return
            self.name = name
            yield name, self._unpickler.load()

    def together(self) -> Namespace:
        """All of them, as they were written by earlier versions."""
        found: Namespace = self._unpickler.load()
        return found


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


class _Finder:
    """Finds what goes by a name, where it can be found still. For the rest something stands that does nothing: what is
    not there any more costs what uses it, and not everything."""

    def __init__(self, lent: str) -> None:
        self.missing: List[str] = []
        self._lent = lent
        self._borrowed: Optional[types.ModuleType] = None

    def __call__(self, usual: Callable[[str, str], Any], module: str, name: str) -> Any:
        if module == LENT_NAME:
            if self._borrowed is None:  # plain values do without it, and wake sooner
                self._borrowed = lend(self._lent)
            return getattr(self._borrowed, name)
        try:
            return usual(module, name)
        except Exception as error:  # an import runs whatever the module does
            why = "%s.%s is not to be had any more: %s" % (module, name, _reason(error))
            self.missing.append(why)
            return type(name.rpartition(".")[2], (_Missing,), {"__module__": module, "_why": why})


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
    path, directory, environment = list(sys.path), _directory(), dict(os.environ)
    umask, recursion_limit, arguments = _umask(), sys.getrecursionlimit(), list(getattr(sys, "argv", ()))
    finder = _Finder(lent)
    reading: Optional[_Reading] = None
    try:
        with open(file, "rb") as stored:
            values = _plain(stored).load()
            extra: Dict[str, Any] = values.pop("extra")
            one_by_one = values.pop("one_by_one", False)
            surroundings = Surroundings(**values)
            lost = surroundings.restore(namespace)
            reading = _Reading(stored, finder)
            variables: Iterable[Tuple[str, Any]] = reading if one_by_one else reading.together().items()
            for name, value in variables:
                if finder.missing:
                    lost[name if name != "builtins._" else LAST] = "; ".join(finder.missing)[:REASON_CHARS]
                    finder.missing.clear()
                if isinstance(value, _Missing) or (isinstance(value, type) and issubclass(value, _Missing)):
                    continue
                if name == HANDLERS:
                    for number, handler in value.items():
                        signal.signal(number, handler)
                elif name == "builtins._":
                    builtins._ = value  # type: ignore[attr-defined]
                else:
                    namespace[name] = value
            surroundings.settle()
        namespace["__builtins__"] = builtins
    except BaseException as error:  # user code may raise anything
        namespace.clear()
        namespace.update(before)
        sys.path[:], sys.argv = path, arguments
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        os.umask(umask)
        sys.setrecursionlimit(recursion_limit)
        os.chdir(directory)
        at = "%s: " % reading.name if reading is not None and reading.name else ""
        raise CannotLoad(at + _reason(error)) from None
    return extra, lost


def _plain(stored: BinaryIO) -> Any:
    """An unpickler of plain values: these need no code of anybody's."""
    pickle: Any = border.import_late("_pickle")

    class Plain(pickle.Unpickler):  # type: ignore[misc]
        def find_class(self, module: str, name: str) -> Any:
            raise CannotLoad("its beginning is not what this program writes")

    return Plain(stored)
