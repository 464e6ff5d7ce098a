"""How values are pickled and unpickled: cloudpickle, with what a session needs beyond it. Functions find the namespace
again, enumerations keep what their members have, what is one of its kind stays that.

Variables are written one after the other by one pickler, each after its name, and read so by one unpickler: what they
share stays shared, and whoever reads knows what it is at. What pickling calls is user code.
"""

from __future__ import annotations

import functools
import io
import os
import sys
import types
from copyreg import _slotnames  # type: ignore[attr-defined]
from enum import EnumMeta
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Optional, Tuple

from omega_sessiond.hosts import border
from omega_sessiond.hosts.engine import CannotSave

LENT_NAME = "_omega_cloudpickle"
"""The name our cloudpickle goes by in the files: the user's own, of whatever version, is another module."""

OURS = (LENT_NAME, "omega_sessiond")
"""Modules that no session imports: nothing else that lies beside them is to be found there."""

REASON_CHARS = 300

ANONYMOUS = "<dynamic-code>"
"""What cloudpickle calls the file of every code object."""

OF_MEMBERS = frozenset(("_value_", "_name_", "__objclass__", "_sort_order_", "_hashable_values_"))
"""What every member of an enumeration has, and is given when it is made."""

Namespace = Dict[str, Any]

stand_ins: Dict[int, Tuple[Any, Any, str]] = {}
"""What the host has put in the place of Python's own, by its identity, which is nobody else's as long as it is held
here; and module and name, under which the next process has another."""

HEAP_TYPE = 1 << 9
"""Of a class that a class statement made. Source: CPython, Py_TPFLAGS_HEAPTYPE."""

CACHED = functools._lru_cache_wrapper


def know_stand_in(module: Any, name: str) -> None:
    """What stands there now is the host's: it is saved by its name."""
    value = getattr(module, name)
    stand_ins[id(value)] = (value, module, name)


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
    _lend_makers(module)
    return module


def _lend_makers(cloudpickle: Any) -> None:
    """Put beside cloudpickle's own makers two of ours, for pickles to name: what fills the enumerations it makes, and
    what finds the one of its kind that a module has."""

    def _omega_fill_enum(made: Any, state: Any) -> Any:
        state_of_class, attributes = state
        cloudpickle._class_setstate(made, state_of_class)
        for name, values in attributes.items():
            vars(made._member_map_[name]).update(values)
        return made

    def _omega_the_one(kind: Any, name: str) -> Any:
        one = getattr(sys.modules.get(kind.__module__), name, None)
        return one if type(one) is kind else kind.__new__(kind)

    for function in (_omega_fill_enum, _omega_the_one):
        function.__module__, function.__qualname__ = LENT_NAME, function.__name__
        setattr(cloudpickle, function.__name__, function)


class TheNamespace:
    """Stands in a pickle for the namespace itself, whichever process loads it."""

    def __reduce__(self) -> Any:
        return vars, (sys.modules["__main__"],)


class ThePath:
    """Stands in a pickle for sys.path."""

    def __reduce__(self) -> Any:
        return getattr, (sys, "path")


class _Full(Exception):
    """More than there should be."""


class _Sink(io.RawIOBase):
    """Takes so much and keeps nothing: to see whether something can be pickled."""

    def __init__(self, most: int = sys.maxsize) -> None:
        self.size = 0
        self._most = most

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes  # what is large comes as a buffer, which has no length
        self.size += size
        if self.size > self._most:
            raise _Full
        return size

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
        is_pure = all(base is object or base.__flags__ & HEAP_TYPE for base in kind.__mro__)  # no dict, no list
        if not is_pure or _slotnames(kind):
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
            self.globals_ref[id(namespace)] = TheNamespace()
            for space in spaces:
                self.globals_ref[id(space)] = space

        def reducer_override(self, obj: Any) -> Any:
            if id(obj) in stand_ins:
                return getattr, stand_ins[id(obj)][1:]
            if type(obj) is CACHED and hasattr(obj, "cache_parameters") and by_name(obj) is None:
                settings = obj.cache_parameters()  # by itself it would go by a name that the next process has not
                made = (obj.__wrapped__, settings["maxsize"], settings["typed"], functools._CacheInfo)
                return CACHED, made, dict(vars(obj))
            if type(obj) in makers and by_name(obj) is None:
                return makers[type(obj)](obj)
            if obj is os.environ:
                return getattr, (os, "environ")
            if isinstance(obj, type):
                if isinstance(obj, EnumMeta) and by_name(obj) is None:
                    return remake_enum(obj, *super().reducer_override(obj))
            elif name := singletons.name_of(obj):
                return cloudpickle._omega_the_one, (type(obj), name)
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


class Writing:
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

    def small(self, variables: Namespace, most: int) -> BinaryIO:
        """Those that take no more than so many bytes each, as a file in memory."""
        kept = {}
        for name, value in variables.items():
            try:
                self._dump(_Sink(most), {name: value})
            except BaseException:  # it is larger; or user code, which did it a moment ago, does not do it again
                continue
            kept[name] = value
        out = io.BytesIO()
        self._dump(out, kept)
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
            return reason_of(error)
        except BaseException as error:  # user code may raise anything
            return reason_of(error)
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


Find = Callable[[Callable[[str, str], Any], str, str], Any]
"""(the usual way to find it, module, name) → what goes by that name."""


class Reading:
    """The variables of a file one after the other, each with its name."""

    def __init__(self, file: BinaryIO, find: Find, begin: Callable[[str], object] = str) -> None:
        pickle: Any = border.import_late("_pickle")

        class Unpickler(pickle.Unpickler):  # type: ignore[misc]
            def find_class(self, module: str, name: str) -> Any:
                return find(super().find_class, module, name)

        self._unpickler = Unpickler(file)
        self._begin = begin
        self.name = ""
        """Of the one that is being read."""

    def __iter__(self) -> Iterator[Tuple[str, Any]]:
        while True:
            name = self._unpickler.load()
            if name is None:
                return
            self.name = name
            self._begin(name)
            yield name, self._unpickler.load()

    def together(self) -> Namespace:
        """All of them, as they were written by earlier versions."""
        found: Namespace = self._unpickler.load()
        return found


def reason_of(error: BaseException) -> str:
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
