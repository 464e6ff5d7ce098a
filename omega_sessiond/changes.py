"""Which variables a command may have changed, as far as its text tells. Knows Python's grammar and nothing else.

What is assigned, deleted, imported or defined at the top level; what is stored into; and what a method is called on. A
function that changes a global behind the scenes is not seen.
"""

from __future__ import annotations

import ast


def touched(source: str) -> set[str]:
    """The names; none for a text that is no Python."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return set()
    found: set[str] = set()
    _visit(tree.body, found)
    return found


def _visit(nodes: list[ast.stmt], found: set[str]) -> None:
    waiting: list[ast.AST] = list(nodes)
    while waiting:
        node = waiting.pop()
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                found.add(node.name)
                waiting += node.decorator_list
                continue
            case ast.Lambda():
                continue
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                found.add(name)
            case ast.alias():
                found.add((node.asname or node.name).partition(".")[0])
            case ast.Attribute(ctx=ast.Store() | ast.Del()) | ast.Subscript(ctx=ast.Store() | ast.Del()):
                found |= _base(node)
            case ast.Call(func=ast.Attribute() as method):
                found |= _base(method)
            case ast.ExceptHandler(name=str(name)):
                found.add(name)
        waiting += ast.iter_child_nodes(node)
    found.discard("*")


def _base(node: ast.expr) -> set[str]:
    """The variable at the root of `a.b[0].c`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return {node.id} if isinstance(node, ast.Name) else set()
