"""Which variables commands may have changed, as far as their texts tell. Knows Python's grammar and nothing else.

What is bound or deleted, what is stored into, what a method is called on, and what is handed to a call, which may do
anything with it. Not the name of a module: nothing of the session's is in there. Too much is told rather than too
little, but for what happens behind a call's back: a function that changes what it was not given is seen by its `global`
alone.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Sequence

MOST_CHARACTERS = 128 * 1024
"""Of all texts together that are read, the newest first. Reading so many takes up to a second, in which the daemon
does nothing else; what is beyond is told to be unread."""

HARMLESS = frozenset(
    {"abs", "bool", "callable", "chr", "complex", "dir", "display", "float", "format", "hasattr", "hash", "id", "int"}
    | {"isinstance", "issubclass", "len", "print", "range", "repr", "round", "str", "type"}
)
"""Built-in calls that leave alone what they are given."""

BUILTINS = frozenset(dir(builtins))

_Scope = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def touched(commands: Sequence[str], before: Sequence[str] = ()) -> tuple[set[str], bool]:
    """The names, and whether all commands could be read. `before` are the commands that ran earlier, oldest first, as
    `commands` are: they tell which names are modules."""
    left = MOST_CHARACTERS
    texts: list[str | None] = []
    for text in [*reversed(commands), *reversed(before)]:
        is_read = len(text) <= left
        texts.append(text if is_read else None)
        left -= len(text) if is_read else 0
    texts.reverse()
    imported: dict[str, str] = {}
    own: set[str] = set()
    found: set[str] = set()
    for number, source in enumerate(texts):
        if source is None:  # nobody knows what it has bound
            imported.clear()
            continue
        reading = _read(source)
        same = {name for name, origin in reading.imported.items() if imported.get(name) == origin} - reading.bound
        if number >= len(before):
            modules = imported.keys() | reading.imported.keys()
            alien = (modules | (BUILTINS - own)) - reading.bound
            found |= reading.bound | reading.stored | (reading.used - alien) | (reading.imported.keys() - same)
        own |= reading.bound
        imported |= reading.imported
        for name in reading.bound:
            imported.pop(name, None)
    return found, None not in texts[len(before) :]


class _Reading:
    """What one text, or one scope in it, does to names. `bound`: it gives or takes them a value; `stored`: it changes a
    part; `used`: by a method or as an argument; `imported`: where from."""

    def __init__(self) -> None:
        self.bound: set[str] = set()
        self.stored: set[str] = set()
        self.used: set[str] = set()
        self.imported: dict[str, str] = {}


def _read(text: str) -> _Reading:
    reading = _Reading()
    try:
        _visit(ast.parse(text).body, reading)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # no Python, or nested beyond measure
        pass
    return reading


def _visit(nodes: Iterable[ast.AST], reading: _Reading) -> None:
    waiting = list(nodes)
    loops: list[tuple[set[str], set[str]]] = []
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                reading.bound |= {node.name, *_globals(node)}
                waiting += [*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)]
                continue
            case ast.Lambda():
                waiting += [*node.args.defaults, *filter(None, node.args.kw_defaults)]
                continue
            case ast.ClassDef():
                reading.bound |= {node.name, *_globals(node)}
                waiting += [*node.decorator_list, *node.bases, *node.keywords]
                inner = _Reading()
                _visit(node.body, inner)
                _leave(inner, inner.bound | inner.imported.keys(), reading)
                continue
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                _visit_comprehension(node, reading)
                continue
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                reading.bound.add(name)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
                reading.bound.add(name)
            case ast.ExceptHandler(name=str(name)):
                reading.bound.add(name)
            case ast.AnnAssign(target=ast.Name(), value=None):
                continue
            case ast.Import(names=names):
                for alias in names:
                    name = alias.asname or alias.name.partition(".")[0]
                    reading.imported[name] = alias.name if alias.asname else name
            case ast.ImportFrom(names=names):
                for alias in names:
                    reading.imported[alias.asname or alias.name] = f"{node.level} {node.module} {alias.name}"
                reading.imported.pop("*", None)
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                reading.stored |= _roots(node)
            case ast.For() | ast.AsyncFor():
                loops.append((_names(node.target), _roots(node.iter)))
            case ast.Call():
                reading.used |= _used_by(node)
        waiting += ast.iter_child_nodes(node)
    for targets, sources in reversed(loops):  # what an element of them suffers, they do
        if targets & (reading.used | reading.stored):
            reading.used |= sources


def _visit_comprehension(node: _Scope, reading: _Reading) -> None:
    """Its targets are its own; what they suffer, suffers what they come from. A walrus binds outside."""
    results = [node.key, node.value] if isinstance(node, ast.DictComp) else [node.elt]
    inner, targets, sources = _Reading(), set[str](), set[str]()
    for part in node.generators:
        targets |= _names(part.target)
        sources |= _roots(part.iter)
        _visit([part.iter, part.target, *part.ifs], inner)
    _visit(results, inner)
    if targets & (inner.used | inner.stored):
        inner.used |= sources
    _leave(inner, targets, reading)
    reading.bound |= inner.bound - targets


def _leave(inner: _Reading, own: Iterable[str], outer: _Reading) -> None:
    """What a scope does to names that are not its own."""
    outer.stored |= inner.stored.difference(own)
    outer.used |= inner.used.difference(own)


def _globals(node: ast.AST) -> set[str]:
    """What a function, or one within it, may bind outside of itself when it is called."""
    return {name for one in ast.walk(node) if isinstance(one, ast.Global) for name in one.names}


def _used_by(call: ast.Call) -> set[str]:
    """What a call may change: what its method belongs to, and what it is given."""
    function = call.func
    found = _roots(function.value) if isinstance(function, ast.Attribute) else set[str]()
    is_of_text = isinstance(function, ast.Attribute) and isinstance(function.value, ast.Constant | ast.JoinedStr)
    if not is_of_text and not (isinstance(function, ast.Name) and function.id in HARMLESS):
        for argument in [*call.args, *(keyword.value for keyword in call.keywords)]:
            found |= _roots(argument)
    return found


def _names(target: ast.expr) -> set[str]:
    """What a target binds."""
    return {node.id for node in ast.walk(target) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


def _roots(node: ast.expr) -> set[str]:
    """The variables that an expression hands out, or a part of which: `a` and `b` of `[a.x, *b[0]]`. Those that only
    go into a new value are none."""
    found: set[str] = set()
    waiting: list[ast.expr | None] = [node]
    while waiting:
        match waiting.pop():
            case ast.Name(id=name):
                found.add(name)
            case ast.Attribute(value=value) | ast.Subscript(value=value) | ast.Starred(value=value):
                waiting.append(value)
            case ast.NamedExpr(value=value) | ast.Await(value=value):
                waiting.append(value)
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts) | ast.BoolOp(values=parts):
                waiting += parts
            case ast.Dict(keys=keys, values=values):
                waiting += [*keys, *values]
            case ast.IfExp(body=body, orelse=orelse):
                waiting += [body, orelse]
            case ast.ListComp() | ast.SetComp() | ast.GeneratorExp() as scope:
                waiting += [part.iter for part in scope.generators]
    return found
