"""A session's transcript on the screen: wrapped lines of its tape, followed at the end or read further up.

Only the lines that are seen are styled. Scrolls by itself, without a virtual size: a size that grows with each line
would lay out the whole screen again. Knows tapes; asks for nothing itself.
"""

from __future__ import annotations

from bisect import bisect_right
from math import ceil
from typing import NamedTuple

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.cache import LRUCache
from textual.message import Message
from textual.selection import Selection
from textual.strip import Strip
from textual.widget import Widget

from tui import highlight
from tui.roles import UNICODE, Glyphs
from tui.tape import Line, Tape
from tui.text import line as drawn_line

WHEEL_ROWS = 3


class Anchor(NamedTuple):
    """The top of what is seen: a row of a line. It stays with its line whatever comes or goes around it."""

    number: int
    row: int


class Transcript(Widget, can_focus=True):
    """Follows the end of its tape until somebody scrolls up, and again when he comes back down."""

    COMPONENT_CLASSES = {
        "transcript--prompt", "transcript--output", "transcript--answer", "transcript--ok", "transcript--warning",
        "transcript--error", "transcript--rule", "transcript--bar",
    }  # fmt: skip

    BINDINGS = [
        Binding("up,k", "scroll_rows(-1)", "Up", show=False),
        Binding("down,j", "scroll_rows(1)", "Down", show=False),
        Binding("pageup,ctrl+b", "scroll_pages(-1)", "Page up", show=False),
        Binding("pagedown,ctrl+f,space", "scroll_pages(1)", "Page down", show=False),
        Binding("home,g", "scroll_to_start", "Oldest", show=False),
        Binding("end,G", "follow", "Newest", show=False),
    ]

    class Moved(Message):
        """What is seen has changed by scrolling: whether older lines are wanted, and how many are unseen below."""

        def __init__(self, transcript: Transcript) -> None:
            super().__init__()
            self.transcript = transcript

    def __init__(self, *, glyphs: Glyphs = UNICODE, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self._tape: Tape | None = None
        self._engine = ""
        self._anchor: Anchor | None = None
        self._seen_end = 0
        self._from = 0
        self._width = 0
        self._rows: list[int] = []
        """Rows up to and with each line from `_from` on."""
        self._version = -1
        self._strips: LRUCache[tuple[object, ...], Strip] = LRUCache(512)

    # ---- content ----

    def show(self, tape: Tape | None, engine: str) -> None:
        """Show this tape, from its end."""
        self._tape = tape
        self._engine = engine
        self._anchor = None
        self._rows.clear()
        self._version = -1
        self._strips.clear()
        self.refresh()

    def take(self) -> None:
        """The tape may have changed."""
        if self._tape is not None and self._tape.version != self._version:
            self.refresh()

    @property
    def is_following(self) -> bool:
        return self._anchor is None

    @property
    def unseen_lines(self) -> int:
        """Lines that came since it was left to stay further up."""
        return 0 if self._anchor is None or self._tape is None else self._tape.end - self._seen_end

    @property
    def wants_older(self) -> bool:
        """Whether what is seen begins with the first line there is."""
        tape = self._tape
        return tape is not None and self._anchor is not None and self._anchor <= Anchor(tape.first, 0)

    # ---- rows ----

    def _measure(self) -> None:
        """Bring the row counts up to the tape."""
        tape, width = self._tape, max(self.size.width - 1, 1)
        if tape is None:
            self._rows.clear()
            return
        if width != self._width or tape.first < self._from or tape.first > self._from + len(self._rows):
            self._rows.clear()
            self._strips.clear()
        elif tape.version == self._version:
            return
        self._version, self._width = tape.version, width
        if not self._rows:
            self._from = tape.first
        elif gone := tape.first - self._from:
            before = self._rows[gone - 1]
            self._rows = [rows - before for rows in self._rows[gone:]]
            self._from = tape.first
        known = min(len(self._rows), len(tape))
        # The last line may have grown, and those after it are new.
        del self._rows[max(known - 1, 0) :]
        total = self._rows[-1] if self._rows else 0
        for line in tape.lines(self._from + len(self._rows), tape.end):
            # A picture is cut off where there is no room: wrapped, it would be none.
            total += 1 if line.kind == "picture" else max(ceil(_cells(line.text) / width), 1)
            self._rows.append(total)

    @property
    def _total(self) -> int:
        return self._rows[-1] if self._rows else 0

    def _top(self) -> int:
        """The row that is seen first."""
        end = max(self._total - self.size.height, 0)
        if self._anchor is None:
            return end
        index = self._anchor.number - self._from
        if index < 0:
            return 0
        before = self._rows[index - 1] if 0 < index <= len(self._rows) else 0
        return min(before + self._anchor.row, end)

    def _at(self, row: int) -> Anchor:
        index = bisect_right(self._rows, row)
        return Anchor(self._from + index, row - (self._rows[index - 1] if index else 0))

    # ---- scrolling ----

    def action_scroll_rows(self, rows: int) -> None:
        self.scroll_rows(rows)

    def action_scroll_pages(self, pages: int) -> None:
        self.scroll_rows(pages * max(self.size.height - 1, 1))

    def action_scroll_to_start(self) -> None:
        self._measure()
        self.scroll_rows(-self._total)

    def action_follow(self) -> None:
        self.follow()

    def follow(self) -> None:
        """Go to the end and stay there."""
        self._anchor = None
        self.refresh()
        self.post_message(self.Moved(self))

    def scroll_rows(self, rows: int) -> None:
        if self._tape is None:
            return
        self._measure()
        top = self._top() + rows
        if top >= self._total - self.size.height and rows > 0:
            self.follow()
            return
        if self._anchor is None:
            self._seen_end = self._tape.end
        self._anchor = self._at(max(top, 0))
        self.refresh()
        self.post_message(self.Moved(self))

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.scroll_rows(-WHEEL_ROWS)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.scroll_rows(WHEEL_ROWS)

    def on_resize(self, event: events.Resize) -> None:
        self.refresh()

    # ---- selection ----

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        return (selection.extract(self._tape.text()), "\n") if self._tape is not None else None

    def selection_updated(self, selection: Selection | None) -> None:
        self._strips.clear()
        self.refresh()

    # ---- drawing ----

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips.clear()

    def render_line(self, y: int) -> Strip:
        if y == 0:
            self._measure()
        width, tape = self.size.width, self._tape
        blank = Strip.blank(width, self.rich_style)
        row = self._top() + y
        if tape is None or row >= self._total:
            return blank
        number, part = self._at(row)
        if not tape.first <= number < tape.end:
            return blank
        whole = self._drawn(tape[number], number)
        start = part * self._width
        strip = whole.crop_extend(start, start + self._width, self.rich_style).apply_offsets(start, number - tape.first)
        return Strip([*strip, self._bar(y)], width)

    def _bar(self, y: int) -> Segment:
        """The scrollbar's piece in this row: there while one reads further up."""
        if self._anchor is None or self._total <= self.size.height:
            return Segment(" ", self.rich_style)
        height = self.size.height
        size = max(height * height // self._total, 1)
        start = self._top() * (height - size) // max(self._total - height, 1)
        style = self.rich_style + self.get_component_rich_style("transcript--bar", partial=True)
        return Segment(self._glyphs.bar if start <= y < start + size else " ", style)

    def _drawn(self, line: Line, number: int) -> Strip:
        selection = self.text_selection
        key = (number, line.text, line.kind)
        if selection is None and (strip := self._strips.get(key)) is not None:
            return strip
        base = self.rich_style
        text = self._text(line)
        text.stylize_before(base)
        if selection is not None and self._tape is not None:
            span = selection.get_span(number - self._tape.first)
            if span is not None:
                end = len(text) if span[1] == -1 else span[1]
                text.stylize(self.screen.get_component_rich_style("screen--selection"), span[0], end)
        strip = Strip(text.render(self.app.console), cell_len(text.plain))
        if selection is None:
            self._strips[key] = strip
        return strip

    def _text(self, line: Line) -> Text:
        match line.kind:
            case "command" | "more":
                text = drawn_line(line.text)
                prompt = text.plain.find(">" if line.kind == "command" else ".") + 2
                if (lexer := highlight.lexer(self._engine)) is not None:
                    highlight.stylize(text, lexer, prompt, is_dark=self.app.current_theme.dark)
                text.stylize(self._style("prompt"), 0, prompt)
                return text
            case "picture":
                return drawn_line(line.text)
            case kind:
                text = drawn_line(line.text)
                text.stylize_before(self._style(kind))
                return text

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"transcript--{name}", partial=True)


def _cells(text: str) -> int:
    if text.isascii() and text.isprintable():
        return len(text)
    return cell_len(drawn_line(text).plain)
