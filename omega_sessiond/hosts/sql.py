"""Whether what sqlite3 is given is whole: statements, and its own commands, which are lines that begin with a dot where
no statement is open. Lines that begin with # there are comments. Source: process_input() of sqlite3's shell.c. Blanks
before the first one, with which a dot would begin no command, do not count.
"""

from __future__ import annotations

import re
from typing import Optional

_OWN = re.compile(r"^[.#]", re.MULTILINE)

_TOKEN = re.compile(
    r"""(?P<comment>--[^\n]*|/\*.*?\*/)"""
    r"""|(?P<newline>\n)"""
    r"""|(?P<end>;)"""
    r"""|'[^']*(?:'|\Z)|"[^"]*(?:"|\Z)|`[^`]*(?:`|\Z)|\[[^]]*(?:]|\Z)"""
    r"""|/\*.*|[^-/'"`\[;\n]+|.""",
    re.DOTALL,
)


def is_whole(code: str) -> bool:
    """Whether no statement is open at its end."""
    code = code.lstrip()
    open_part = code if _OWN.search(code) is None else _open_part(code)
    # Behind a semicolon a comment is whole by itself, and so is nothing.
    return _is_complete(";" + open_part)


def ended(code: str) -> Optional[str]:
    """The code as it is sent: where it lacks nothing but its last semicolon, with it. None when it lacks more."""
    code = code.lstrip()
    return next((text for text in (code, code + "\n;") if is_whole(text)), None)


def _is_complete(text: str) -> bool:
    import sqlite3  # which no other engine needs

    return sqlite3.complete_statement(text)


def _open_part(code: str) -> str:
    """What begins with the last statement, "" when that has ended and only comments or own commands follow."""
    start: Optional[int] = None
    is_at_end = False
    place = 0
    while place < len(code):
        if start is None and code[place] in ".#" and (place == 0 or code[place - 1] == "\n"):
            place = code.find("\n", place) + 1 or len(code)
            continue
        token = _TOKEN.match(code, place)
        assert token is not None, "it takes any character"
        kind = token.lastgroup
        if kind == "newline":
            # Within a trigger a semicolon at a line's end ends nothing.
            if start is not None and is_at_end and _is_complete(code[start:place]):
                start = None
        elif kind != "comment" and not token.group().isspace():
            start = place if start is None else start
            is_at_end = kind == "end"
        place = token.end()
    return "" if start is None else code[start:]
