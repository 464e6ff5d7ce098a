"""Session text as the dashboard shows it: the one way from an untrusted string to something a widget may draw.

Everything passes `terminal`, the one sanitiser; what it lets through becomes rich Text, in which nothing is markup and
colours are styles, never sequences. `LastFilter` stands behind all that, at the last place before the terminal, for
the string that somebody forgot. Knows no widget, no session and no daemon.
"""

from __future__ import annotations

import re

from rich.ansi import AnsiDecoder
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.color import Color
from textual.filter import LineFilter

from omega_sessiond.terminal import Sanitizer, one_line

MAX_LINE = 16_384
"""Characters after which a line is broken though its writer did not: without a bound, a program that never writes a
newline would be held in memory whole and folded anew with each piece."""

MAX_PENS = 8
"""How many colour settings since the last reset are carried to the next line; a program that never resets would else
make each line longer than the one before."""

TAB = 8

_OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
"""What a terminal obeys and a drawn line may not hold; that includes newline and tab, which would tear the row, and
what shows it in another order."""

_MOTION = re.compile(r"[\r\b]|\x1b\[[012]?K")
_PIECES = re.compile(r"([\r\b]|\x1b\[[012]?K|\x1b\[[0-9;:]*m)")
_PEN = re.compile(r"\x1b\[[0-9;:]*m")


def cell(text: str, style: str = "") -> Text:
    """A text on one line, in one style: names, labels, states, the head of a command, whatever shares its row."""
    return Text(one_line(text), style=style, no_wrap=True, end="")


def line(safe: str) -> Text:
    """One line of OutputLines, drawn: its colours as styles, its tabs as blanks."""
    drawn = AnsiDecoder().decode_line(safe) if "\x1b" in safe else Text(safe)
    drawn.no_wrap = True
    drawn.end = ""
    if "\t" in safe:
        drawn.expand_tabs(TAB)
    return drawn


def block(text: str) -> Text:
    """A whole text of any number of lines, as a terminal would show it."""
    lines = OutputLines()
    drawn = [line(safe) for safe in lines.feed(text)]
    if lines.rest:
        drawn.append(line(lines.rest))
    joined = Text("\n").join(drawn)
    joined.no_wrap = False
    return joined


class OutputLines:
    """Output that arrives in pieces, cut anywhere, as lines that can each be drawn by themselves.

    A line has its colours, those it inherits too, and nothing else that a terminal obeys but tabs; what moved within
    it (progress bars) has been carried out.
    """

    def __init__(self) -> None:
        self._sanitizer = Sanitizer(colors=True, motion=True)
        self._pen = ""
        self._line = ""
        self._row: _Row | None = None

    def feed(self, text: str) -> list[str]:
        """The lines that are whole now."""
        done: list[str] = []
        *whole, rest = self._sanitizer.feed(text).split("\n")
        for part in whole:
            self._write(part.rstrip("\r"), done)
            done.append(self.rest)
            self._line, self._row = self._pen, None
        if rest:
            self._write(rest, done)
        return done

    @property
    def rest(self) -> str:
        """The line that has no end yet."""
        if self._row is not None:
            return self._row.line()
        return "" if self._line == self._pen else self._line

    def _write(self, part: str, done: list[str]) -> None:
        if self._row is None:
            if _MOTION.search(part) is None and len(self._line) + len(part) <= MAX_LINE:
                self._line += part
                if "\x1b" in part:
                    for pen in _PEN.findall(part):
                        self._pen = _turned(self._pen, pen)
                return
            self._row = _Row(self._line)
        self._pen = self._row.write(part, self._pen)
        done.extend(self._row.take_full())


class _Row:
    """A line whose writer moves within it: each place holds a character and the colours it was written in."""

    def __init__(self, safe: str) -> None:
        self._cells: list[tuple[str, str]] = []
        self._at = 0
        self.write(safe, "")

    def write(self, safe: str, pen: str) -> str:
        """Carry out text, colours and motions; the colours in use afterwards."""
        cells = self._cells
        for piece in _PIECES.split(safe):
            if not piece:
                continue
            if piece == "\r":
                self._at = 0
            elif piece == "\b":
                self._at = max(self._at - 1, 0)
            elif piece[0] != "\x1b":
                cells[self._at : self._at + len(piece)] = [(character, pen) for character in piece]
                self._at += len(piece)
            elif piece[-1] == "m":
                pen = _turned(pen, piece)
            elif piece[-2] in "[0":
                del cells[self._at :]
            elif piece[-2] == "2":
                cells.clear()
                self._at = 0
        return pen

    def take_full(self) -> list[str]:
        """The beginning, in lines, of one that has become too long."""
        full: list[str] = []
        while len(self._cells) > MAX_LINE:
            full.append(_joined(self._cells[:MAX_LINE]))
            del self._cells[:MAX_LINE]
            self._at = max(self._at - MAX_LINE, 0)
        return full

    def line(self) -> str:
        return _joined(self._cells)


def _joined(cells: list[tuple[str, str]]) -> str:
    drawn: list[str] = []
    before = ""
    for character, pen in cells:
        if pen != before:
            drawn.append("\x1b[0m" + pen if before else pen)
            before = pen
        drawn.append(character)
    return "".join(drawn)


def _turned(pen: str, sequence: str) -> str:
    """The colours after one more sequence."""
    parameters = sequence[2:-1]
    if not parameters.strip("0;"):
        return ""
    if parameters.startswith("0;"):
        return sequence
    pens = [*_PEN.findall(pen), sequence]
    return "".join(pens[-MAX_PENS:])


class LastFilter(LineFilter):
    """The last look at each line before it is sent: nothing in it is obeyed by a terminal but its styles, and no style
    is a link. What it takes away has no width, so that the row keeps its own."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [_cleaned(segment) for segment in segments]


class NoNamedColors(LineFilter):
    """For NO_COLOR, before Textual turns colours into greys: red by name is nearly black then, and what somebody marked
    with it the one thing that cannot be read. Colours that we chose ourselves are true ones and stay apart as greys."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [_unnamed(segment) for segment in segments]


def _unnamed(segment: Segment) -> Segment:
    text, style, control = segment
    if style is None:
        return segment
    colors = [
        color if color is not None and color.triplet is not None else None for color in (style.color, style.bgcolor)
    ]
    if colors == [style.color, style.bgcolor]:
        return segment
    return Segment(text, style.without_color + Style.from_color(*colors), control)


def _cleaned(segment: Segment) -> Segment:
    text, style, control = segment
    clean = text if text.isascii() and text.isprintable() else _OBEYED.sub("", text)
    if style is not None and style.link:
        style = style.update_link(None)
    elif clean is text and control is None:
        return segment
    return Segment(clean, style)
