"""What a state looks like: a role, which has a colour, a glyph and a word, no one of them alone. Knows no widget."""

from __future__ import annotations

import locale
import os
from typing import NamedTuple


class Look(NamedTuple):
    """How one state is drawn. `role` names a component class of whoever draws it."""

    role: str
    glyph: str
    ascii_glyph: str
    word: str
    order: int
    """In a table sorted by state: what wants somebody comes first."""


LOOKS = {
    "waiting_input": Look("warning", "?", "?", "input", 0),
    "busy": Look("busy", "◐", "*", "busy", 1),
    "starting": Look("changing", "◌", "~", "starting", 2),
    "reconnecting": Look("changing", "◌", "~", "reconnect", 3),
    "interrupted": Look("warning", "⊘", "/", "intr", 4),
    "idle": Look("idle", "●", "o", "idle", 5),
    "hibernated": Look("frozen", "❄", "z", "hibernated", 6),
    "dead": Look("dead", "✗", "x", "dead", 7),
}
UNKNOWN = Look("changing", "·", ".", "unknown", 8)

ROLES = ("busy", "warning", "changing", "idle", "frozen", "dead")


class Glyphs(NamedTuple):
    """The characters of the frame; the second set is for terminals that have no others."""

    cursor: str
    ellipsis: str
    down: str
    descending: str
    ascending: str
    bar: str
    is_ascii: bool


UNICODE = Glyphs("▸", "…", "↓", "▼", "▲", "▐", False)
ASCII = Glyphs(">", "~", "v", "v", "^", "#", True)


def look_of(state: str) -> Look:
    return LOOKS.get(state, UNKNOWN._replace(word=state))


def is_poor_terminal() -> bool:
    """Whether the terminal shows ASCII alone: its encoding, or a console with a font of 256 characters."""
    encoding = locale.getpreferredencoding(False).lower().replace("-", "")
    return encoding not in ("utf8", "utf_8") or os.environ.get("TERM", "") in ("linux", "vt100", "vt220", "ansi")
