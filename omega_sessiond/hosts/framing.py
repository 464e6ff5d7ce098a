"""How a command's end is found in what a program prints: marks that nobody can guess, new ones for every command.

A mark is literal text with a token in it, and may carry a status. The program prints it because it was told to; what
echoes the order shows the token's two halves apart, so the order is no mark. Bytes in, pieces out; knows no processes.
"""

from __future__ import annotations

import json
import os
import re
from functools import lru_cache
from types import MappingProxyType
from typing import List, Mapping, NamedTuple, Optional, Tuple

_encode_json = json.JSONEncoder(ensure_ascii=False).encode

STATUS_BYTES = 32
"""What stands for `{status}` is at most so long: longer text is the program's own."""

_PLACE = re.compile(r"{(token|left|right|code|json|shell|file|name|names)}")
_STATUS = re.compile(rb"[A-Za-z0-9_.-]{1,%d}" % STATUS_BYTES)


class Token:
    """128 random bits in two halves."""

    __slots__ = ("left", "right")

    def __init__(self) -> None:
        bits = os.urandom(16).hex()
        self.left, self.right = bits[:16], bits[16:]


class Mark:
    """One mark as it is printed: `before`, then, when the template holds `{status}`, a word and `after`."""

    __slots__ = ("after", "before", "has_status", "kind")

    def __init__(
        self, kind: str, template: str, token: Token, values: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        before, status, after = fill(template, token, values).partition("{status}")
        self.kind = kind
        self.before = before.encode("utf-8")
        self.has_status = bool(status)
        self.after = after.encode("utf-8")


class Piece(NamedTuple):
    """Something found in the stream: `text` of the program, or the mark of that `kind`."""

    kind: str
    text: bytes = b""
    status: str = ""
    mark: Optional[Mark] = None


class Scanner:
    """Cuts a stream at its marks. What may be the beginning of one is held back until it is known."""

    def __init__(self) -> None:
        self.marks: List[Mark] = []
        self._rest = b""

    def feed(self, data: bytes) -> List[Piece]:
        """The pieces that `data` completes, in order."""
        buffer = self._rest + data if self._rest else data
        pieces: List[Piece] = []
        start = 0
        while start < len(buffer):
            found = self._find(buffer, start)
            if found is None:
                break
            mark, place, end, status = found
            if place > start:
                pieces.append(Piece("text", buffer[start:place]))
            if end < 0:  # its status is not whole yet
                self._rest = buffer[place:]
                return pieces
            pieces.append(Piece(mark.kind, status=status, mark=mark))
            start = end
        else:
            self._rest = b""
            return pieces
        held = self._held(buffer, start)
        if len(buffer) - held > start:
            pieces.append(Piece("text", buffer[start : len(buffer) - held]))
        self._rest = buffer[len(buffer) - held :] if held else b""
        return pieces

    def flush(self) -> bytes:
        """What was held back: nothing follows that would make a mark of it."""
        rest, self._rest = self._rest, b""
        return rest

    def _find(self, buffer: bytes, start: int) -> Optional[Tuple[Mark, int, int, str]]:
        """The first mark from `start` on, where it begins and ends (-1: more is needed to know), and its status."""
        best: Optional[Tuple[Mark, int, int, str]] = None
        for mark in self.marks:
            place = buffer.find(mark.before, start)
            while place >= 0 and (best is None or place < best[1]):
                end, status = self._end(buffer, place, mark)
                if status is not None:
                    best = (mark, place, end, status)
                    break
                place = buffer.find(mark.before, place + 1)
        return best

    def _end(self, buffer: bytes, place: int, mark: Mark) -> Tuple[int, Optional[str]]:
        """Where the mark at `place` ends, and its status; None when it is none."""
        end = place + len(mark.before)
        if not mark.has_status:
            return end, ""
        word = _STATUS.match(buffer, end)
        if word is None:
            return (-1, "") if end == len(buffer) else (0, None)
        close = word.end() + len(mark.after)
        tail = buffer[word.end() : close]
        if tail == mark.after:
            return close, word.group().decode("ascii")
        return (-1, "") if mark.after.startswith(tail) else (0, None)

    def _held(self, buffer: bytes, start: int) -> int:
        """How many of the last bytes may be the beginning of a mark."""
        held = 0
        size = len(buffer) - start
        for mark in self.marks:
            before = mark.before
            for length in range(min(len(before) - 1, size), held, -1):
                if buffer.endswith(before[:length]):
                    held = length
                    break
        return held


_SHELL = str.maketrans({"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"})


def quote_shell(code: str) -> str:
    """The code as one word of bash on one line: $'…'."""
    return "$'%s'" % code.translate(_SHELL)


@lru_cache(maxsize=256)
def _cut(template: str) -> Tuple[str, ...]:
    """Text and the names of places by turns."""
    return tuple(_PLACE.split(template))


def fill(template: str, token: Token, values: Mapping[str, str] = MappingProxyType({})) -> str:
    """The template with token and values in their places; what the values hold is no template any more. From `code`
    come {json} and {shell}, too. A place for which there is no value stays as it is."""
    parts = list(_cut(template))
    for index in range(1, len(parts), 2):
        name = parts[index]
        if name == "token":
            parts[index] = token.left + token.right
        elif name in ("left", "right"):
            parts[index] = token.left if name == "left" else token.right
        elif name in values:
            parts[index] = values[name]
        elif name == "json" and "code" in values:
            parts[index] = _encode_json(values["code"])
        elif name == "shell" and "code" in values:
            parts[index] = quote_shell(values["code"])
        else:
            parts[index] = "{%s}" % name
    return "".join(parts)


@lru_cache(maxsize=256)
def has_token(template: str) -> bool:
    """Whether the template makes the program print the mark by itself."""
    return any(name in ("token", "left", "right") for name in _cut(template)[1::2])
