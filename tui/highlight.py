"""Code in the colours of its language. Pygments finds the words; the colours are few, and read on their background."""

from __future__ import annotations

from functools import cache
from typing import Any

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Keyword, Name, Number, Operator, String, Token
from pygments.util import ClassNotFound
from rich.style import Style
from rich.text import Text

LEXERS = {"omega": "scheme", "sqlite3": "sqlite3", "node": "javascript"}
"""Engines that are not called as their language."""

_DARK = {
    Comment: Style(color="#7f849c", italic=True),
    Keyword: Style(color="#c4a7e7"),
    Name.Builtin: Style(color="#9ccfd8"),
    Name.Function: Style(color="#9ccfd8"),
    Name.Class: Style(color="#9ccfd8"),
    Number: Style(color="#f6c177"),
    String: Style(color="#a3be8c"),
    Operator.Word: Style(color="#c4a7e7"),
}
_LIGHT = {
    Comment: Style(color="#797593", italic=True),
    Keyword: Style(color="#6f42c1"),
    Name.Builtin: Style(color="#1f6f8b"),
    Name.Function: Style(color="#1f6f8b"),
    Name.Class: Style(color="#1f6f8b"),
    Number: Style(color="#a1561b"),
    String: Style(color="#3f6f2f"),
    Operator.Word: Style(color="#6f42c1"),
}


@cache
def lexer(engine: str) -> Lexer | None:
    """The lexer of an engine's language, None where there is none."""
    name = engine.partition(":")[2] or engine
    try:
        return get_lexer_by_name(LEXERS.get(name, name), stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def stylize(text: Text, of: Lexer, start: int = 0, *, is_dark: bool) -> None:
    """Colour the text from character `start` on."""
    styles = _DARK if is_dark else _LIGHT
    for at, kind, value in of.get_tokens_unprocessed(text.plain[start:]):
        if (style := _style(kind, styles)) is not None:
            text.stylize(style, start + at, start + at + len(value))


def _style(kind: Any, styles: dict[Any, Style]) -> Style | None:
    while kind is not Token and kind is not None:
        if (style := styles.get(kind)) is not None:
            return style
        kind = kind.parent
    return None
