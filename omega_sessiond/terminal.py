"""Untrusted text made safe for a terminal: the one sanitiser of the daemon and of every client.

Text in, safe text out. Of what a terminal obeys only newline and tab always pass; colours (SGR) and the motions within
a line (CR, BS, erase in line) pass where the caller asks for them. Everything else is dropped: other CSI, OSC, DCS,
SOS, PM, APC, two-character escapes, C0, DEL and C1. Knows no terminal and writes to none.

A sequence that is broken off by a character it cannot hold ends there, and that character counts as text again; a
control string without its end swallows what follows, as it does in a terminal, an OSC only to the end of its line.
Source: ECMA-48 (5th edition), sections 5.3 to 5.6 and 8.3.117.
"""

from __future__ import annotations

import re
from functools import cache

_SPECIAL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""What is not text, newline or tab."""


@cache
def _sequence() -> re.Pattern[str]:
    """A sequence, however short or broken. Compiled when one is met: that takes as long as loading this module.

    Every character that _SPECIAL finds begins a match of this, so that nothing special is ever left between matches.
    The repetitions are bounded where the text is held back until its end is known.
    """
    return re.compile(
        r"""
          (?:\x1b\[|\x9b) (?P<parameters>[0-?]{0,64}) (?P<intermediates>[ -/]{0,8}) (?P<final>[@-~]?)
        | (?:\x1b\]|\x9d) (?P<osc>) [^\x07\x18\x1a\x1b\x9c\n]* (?:\x07|\x18|\x1a|\x9c|\x1b\\)?
        | (?:\x1b[PX^_]|[\x90\x98\x9e\x9f]) (?P<string>) [^\x18\x1a\x1b\x9c]* (?:\x18|\x1a|\x9c|\x1b\\)?
        | \x1b [ -/]{0,8} (?P<escape_end>[0-~]?)
        | (?P<motion>[\r\b])
        | [\x00-\x07\x0e-\x1a\x1c-\x1f\x7f-\x8f\x91-\x97\x99\x9a\x9c]
        """,
        re.VERBOSE,
    )


_OSC_REST = re.compile(r"[^\x07\x18\x1a\x1b\x9c\n]*(?P<end>\x07|\x18|\x1a|\x9c|\x1b\\|)")
_STRING_REST = re.compile(r"[^\x18\x1a\x1b\x9c]*(?P<end>\x18|\x1a|\x9c|\x1b\\|)")
_COLOURS = re.compile(r"[0-9;:]*\Z")
_MOTION = re.compile(r"[\r\b]")
_FOLD = re.compile(r"([\r\b]|\x1b[02])")
_BLANKS = re.compile(r"\s+")
_REORDERING = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What tells a terminal to show a line in another order. Within a text of its own that is the text's affair; in a cell
it would move the rest of the row. Source: Unicode Standard Annex #9, section 2."""


def _break_lines(text: str) -> str:
    """Form feed and vertical tab go to another line too."""
    return text.replace("\x0b", "\n").replace("\x0c", "\n")


class Sanitizer:
    """Makes a text safe that arrives in pieces, wherever it was cut.

    `colors` lets SGR through; `motion` lets through what moves or erases within the present line (progress bars).
    """

    def __init__(self, *, colors: bool = False, motion: bool = False) -> None:
        self._colors = colors
        self._motion = motion
        self._held = ""
        self._rest: re.Pattern[str] | None = None
        self._coloured = False

    def feed(self, text: str) -> str:
        """What is safe of the text so far; a sequence that is not whole yet waits for the next piece."""
        if not self._held and self._rest is None and _SPECIAL.search(text) is None:
            return text
        text = _break_lines(self._held + text)
        self._held = ""
        at = 0
        if self._rest is not None:
            at = self._swallow(self._rest, text, 0)
        safe: list[str] = []
        sequence = _sequence()
        while at < len(text):
            found = sequence.search(text, at)
            if found is None:
                safe.append(text[at:])
                break
            safe.append(text[at : found.start()])
            at = found.end()
            if found["osc"] is not None:
                at = self._swallow(_OSC_REST, text, found.start("osc"))
            elif found["string"] is not None:
                at = self._swallow(_STRING_REST, text, found.start("string"))
            elif at == len(text) and "" in (found["final"], found["escape_end"]):
                self._held = found[0]
            else:
                safe.append(self._allowed(found))
        return "".join(safe)

    def _swallow(self, rest: re.Pattern[str], text: str, start: int) -> int:
        """Pass over a control string from `start`; where it goes on beyond the text, remember that."""
        found = rest.match(text, start)
        assert found is not None, "both patterns match the empty text"
        at = found.end()
        self._rest = None
        if not found["end"]:
            if at == len(text):
                self._rest = rest
            elif at == len(text) - 1 and text[at] == "\x1b":
                # The first half of the string terminator, perhaps.
                self._rest = rest
                self._held = "\x1b"
                return len(text)
        return at

    def _allowed(self, found: re.Match[str]) -> str:
        if found["motion"]:
            return found[0] if self._motion else ""
        final = found["final"]
        if not final or found["intermediates"]:
            return ""
        parameters = found["parameters"]
        if final == "m" and self._colors and _COLOURS.match(parameters):
            self._coloured = bool(parameters.strip("0;"))
            return f"\x1b[{parameters}m"
        if final == "K" and self._motion and parameters in ("", "0", "1", "2"):
            return f"\x1b[{parameters}K"
        return ""

    def close(self) -> str:
        """Forget a sequence that never ended; answers what turns colours off again that were left on."""
        self._held = ""
        self._rest = None
        coloured, self._coloured = self._coloured, False
        return "\x1b[0m" if coloured else ""


def sanitize(text: str, *, colors: bool = False, motion: bool = False) -> str:
    """A whole text made safe. Colours it leaves on are turned off at its end."""
    if _SPECIAL.search(text) is None:
        return text
    sanitizer = Sanitizer(colors=colors, motion=motion)
    return sanitizer.feed(text) + sanitizer.close()


def one_line(text: str) -> str:
    """A text for a cell of a table: safe, without colours and reordering, every run of white space one blank."""
    return _REORDERING.sub("", _BLANKS.sub(" ", sanitize(text))).strip()


def plain(text: str) -> str:
    """What a terminal would have shown, as text: no sequences, and CR and BS carried out, with erase-in-line in the
    lines that have one of them.

    Motion to other lines is dropped. Costs one scan where the text holds nothing special.
    """
    if _SPECIAL.search(text) is None:
        return text
    text = _break_lines(text.replace("\r\n", "\n"))
    if _MOTION.search(text) is None:
        return _sequence().sub("", text)
    return "\n".join([_fold(line) for line in _sequence().sub(_marked, text).split("\n")])


class PlainLines:
    """`plain` for a text that arrives in pieces: each line comes out when it is whole, for until then a motion may
    still change it."""

    def __init__(self) -> None:
        self._sanitizer = Sanitizer(motion=True)
        self._line: list[str] = []  # in pieces: joined with each that comes, a long line would cost its square

    def feed(self, text: str) -> str:
        """The lines that the text completed."""
        whole, newline, rest = self._sanitizer.feed(text).rpartition("\n")
        lines = ""
        if newline:
            lines = plain("".join((*self._line, whole, newline)))
            self._line.clear()
        self._line.append(rest)
        return lines

    def close(self) -> str:
        """The last line, though it has no end."""
        line = "".join((*self._line, self._sanitizer.close()))
        self._line.clear()
        return plain(line)


def _marked(found: re.Match[str]) -> str:
    """Keep the motions, and the erasures as ESC and one digit: no other ESC is left to be mistaken for them."""
    if found["motion"]:
        return found[0]
    if found["final"] == "K" and not found["intermediates"] and found["parameters"] in ("", "0", "2"):
        return "\x1b" + (found["parameters"] or "0")
    return ""


def _fold(line: str) -> str:
    """One line as it stands after its motions. Erasing the whole line also goes to its start, as those mean who do it:
    the columns left of it would else have to be filled, at a cost that a hostile line can choose."""
    if _MOTION.search(line) is None:
        return line.replace("\x1b0", "").replace("\x1b2", "")
    cells: list[str] = []
    at = 0
    for piece in _FOLD.split(line):
        match piece:
            case "\r":
                at = 0
            case "\b":
                at = max(at - 1, 0)
            case "\x1b0":
                del cells[at:]
            case "\x1b2":
                cells.clear()
                at = 0
            case _:
                cells[at : at + len(piece)] = piece
                at += len(piece)
    return "".join(cells)
