"""Questions about code that has not run: completions, help on a name, whether it is a whole command.

A name is looked up without calling user code where that can be avoided: attributes first where they are stored, a
property only when there is no other way. Knows the language and a namespace.
"""

from __future__ import annotations

import builtins
import codeop
import keyword
import re
import sys
import types
from typing import Any, Dict, Iterable, List, Tuple

from omega_sessiond.hosts import border
from omega_sessiond.wire import Frame

MAX_MATCHES = 1000
MAX_DOC_CHARS = 64 * 1024

# Compiled, and kept by `re`, when first used: most sessions are never asked.
_DOTTED = r"(?:[^\W\d]\w*\s*\.\s*)*(?:[^\W\d]\w*)?\Z"
_NAME_AT = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_IMPORT = r"(?m)(?:^|;)\s*(?:import|from)\s+(?:[\w.]+\s*,\s*)*([\w.]*)\Z"

_FROM = r"(?m)(?:^|;)\s*from\s+([\w.]+)\s+import\s+\(?(?:[\w\s]+,\s*)*(\w*)\Z"

_PLAIN = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, type, types.ModuleType)
_MISSING = object()


# ---- names ----


def complete(code: str, cursor: int, namespace: Dict[str, Any]) -> Frame:
    """What may replace the name that ends at `cursor`: of a dotted one, its last part."""
    before = code[:cursor]
    imported = re.search(_IMPORT, before)
    if imported is not None:
        return _reply(cursor, *_modules(imported.group(1)))
    member = re.search(_FROM, before)
    if member is not None:
        module = sys.modules.get(member.group(1))
        return _reply(cursor, member.group(2), [] if module is None else border.call_user(dir, module))
    found = re.search(_DOTTED, before)
    dotted = found.group() if found is not None else ""
    owner, dot, prefix = dotted.rpartition(".")
    prefix = prefix.strip()
    if not dot:
        names = [*keyword.kwlist, *dir(builtins), *namespace]
        return _reply(cursor, prefix, names if prefix else list(namespace))
    if before[: cursor - len(dotted)].endswith((".", ")", "]", "}", "'", '"')):
        return _reply(cursor, prefix, [])  # an attribute of a value that only running the code would give
    value = _resolve([part.strip() for part in owner.split(".")], namespace)
    if value is _MISSING:
        return _reply(cursor, prefix, [])
    return _reply(cursor, prefix, border.call_user(dir, value))


def _reply(cursor: int, prefix: str, names: Iterable[Any]) -> Frame:
    matches = {name for name in names if type(name) is str and name.startswith(prefix)}
    if not prefix.startswith("_"):
        matches = {name for name in matches if not name.startswith("_")}
    return {"matches": sorted(matches)[:MAX_MATCHES], "start": cursor - len(prefix), "end": cursor}


def _modules(dotted: str) -> Tuple[str, List[str]]:
    """The part that is replaced, and the modules known without looking at the disk."""
    owner, dot, prefix = dotted.rpartition(".")
    start = owner + dot
    known = [*sys.modules, *getattr(sys, "stdlib_module_names", ()), *sys.builtin_module_names]
    return prefix, [name[len(start) :].partition(".")[0] for name in known if name.startswith(start)]


def _resolve(parts: List[str], namespace: Dict[str, Any]) -> Any:
    value = namespace.get(parts[0], vars(builtins).get(parts[0], _MISSING))
    for part in parts[1:]:
        if value is _MISSING:
            break
        value = _attribute(value, part)
    return value


def _attribute(value: Any, name: str) -> Any:
    """An attribute from where it is stored; by calling a property or __getattr__ only when it must be."""
    stored = _stored(value, name)
    if stored is not _MISSING:
        return stored
    try:
        return border.call_user(getattr, value, name)
    except Exception:  # user code
        return _MISSING


def _stored(value: Any, name: str) -> Any:
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return _MISSING
    found = own.get(name, _MISSING) if isinstance(own, (dict, types.MappingProxyType)) else _MISSING
    if isinstance(value, type) and not isinstance(found, _PLAIN):
        return _MISSING
    return found


# ---- help ----


def inspect(code: str, cursor: int, namespace: Dict[str, Any]) -> Frame:
    """Signature, type and documentation of the dotted name around `cursor`."""
    for found in re.finditer(_NAME_AT, code):
        if found.start() <= cursor <= found.end():
            end = found.end() if "." not in code[cursor : found.end()] else code.index(".", cursor)
            name = code[found.start() : end]
            value = _resolve(name.split("."), namespace)
            if value is not _MISSING:
                return {"found": True, "text": _describe(name, value)}
    return {"found": False, "text": ""}


def _describe(name: str, value: Any) -> str:
    inspection: Any = border.import_late("inspect")
    lines = []
    if callable(value):
        try:
            signature = border.call_user(str, border.call_user(inspection.signature, value))
            lines.append(name.rpartition(".")[2] + signature)
        except (ValueError, TypeError):
            lines.append(name.rpartition(".")[2] + "(…)")
    kind = type(value)
    lines.append("type: %s" % _full_name(kind))
    if not border.call_user(isinstance, value, _PLAIN):
        text = str.__str__(border.call_user(repr, value))
        lines.append("value: %s" % (text if len(text) <= 1000 else text[:1000] + "…"))
    doc = border.call_user(inspection.getdoc, value)
    if doc:
        lines += ["", doc[:MAX_DOC_CHARS]]
    return "\n".join(lines)


def _full_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else "%s.%s" % (kind.__module__, kind.__qualname__)


# ---- whole commands ----


def is_complete(code: str, flags: int) -> Frame:
    """Whether Enter should run `code` or open a line, and with which indent. As at Python's prompt, a block of more
    than one line ends with an empty one."""
    compiler = codeop.CommandCompiler()
    compiler.compiler.flags |= flags
    try:
        compiled = compiler(code, "<input>", "exec")
    except (SyntaxError, ValueError, OverflowError):
        return {"status": "invalid", "indent": ""}
    lines = code.split("\n")
    last = lines[-1]
    if compiled is None:
        return {"status": "incomplete", "indent": _indent(lines)}
    if len(lines) > 1 and last[:1] in (" ", "\t") and last.strip():
        return {"status": "incomplete", "indent": _indent(lines)}
    return {"status": "complete", "indent": ""}


def _indent(lines: List[str]) -> str:
    written = [line for line in lines if line.strip()]
    if not written:
        return ""
    last = written[-1]
    indent = last[: len(last) - len(last.lstrip())]
    statement = last.partition("#")[0].strip()
    if statement.endswith(":"):
        return indent + "    "
    if statement.partition(" ")[0] in ("return", "raise", "pass", "break", "continue"):
        return indent[:-4]
    return indent
