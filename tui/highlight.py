"""Code in the colours of its language. Pygments, which is loaded with the first line of code, finds the words; the
colours are few, and read on their background."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from rich.style import Style
from rich.text import Text

if TYPE_CHECKING:
    from pygments.lexer import Lexer

LEXERS = {"omega": "scheme", "sqlite3": "sqlite3", "node": "javascript"}
"""Engines that are not called as their language."""

COLOURS = {
    "Comment": ("#7f849c", "#797593"),
    "Keyword": ("#c4a7e7", "#6f42c1"),
    "Operator.Word": ("#c4a7e7", "#6f42c1"),
    "Name.Builtin": ("#9ccfd8", "#1f6f8b"),
    "Name.Function": ("#9ccfd8", "#1f6f8b"),
    "Name.Class": ("#9ccfd8", "#1f6f8b"),
    "Literal.Number": ("#f6c177", "#a1561b"),
    "Literal.String": ("#a3be8c", "#3f6f2f"),
}
"""By the kind of a word, as Pygments names it: on dark ground and on light."""


@cache
def lexer(engine: str) -> Lexer | None:
    """The lexer of an engine's language, None where there is none."""
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    name = engine.partition(":")[2] or engine
    try:
        return get_lexer_by_name(LEXERS.get(name, name), stripnl=False, ensurenl=False)
    except ClassNotFound:
        return None


def stylize(text: Text, of: Lexer, start: int = 0, *, is_dark: bool) -> None:
    """Colour the text from character `start` on."""
    for at, kind, value in of.get_tokens_unprocessed(text.plain[start:]):
        if (style := _style(kind, is_dark)) is not None:
            text.stylize(style, start + at, start + at + len(value))


@cache
def _style(kind: Any, is_dark: bool) -> Style | None:
    """The style of a kind of word: its own, or that of the kind it is one of."""
    words = str(kind).removeprefix("Token.").split(".")
    while words:
        if (colours := COLOURS.get(".".join(words))) is not None:
            return Style(color=colours[0 if is_dark else 1])
        words.pop()
    return None
