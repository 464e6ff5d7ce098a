"""A list of lines with a cursor, which follows its end until somebody moves up, and again when he comes back down.

Draws the rows that are seen and no others, and scrolls by itself: a size that grows with each row would lay out the
whole screen again. Does not know what its rows are.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

from rich.style import Style
from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.strip import Strip
from textual.widget import Widget

R = TypeVar("R")

WHEEL_ROWS = 3


class LineList(Widget, Generic[R], can_focus=True):
    """`draw` makes a row's line, `key` is what a row is known by: the cursor stays with it whatever comes or goes.
    `empty` stands there while there is none."""

    COMPONENT_CLASSES = {"lines--cursor", "lines--empty"}

    DEFAULT_CSS = """
    LineList { height: 1fr; background: $background; }
    LineList > .lines--cursor { background: $primary 30%; }
    LineList > .lines--empty { color: $secondary; }
    """

    BINDINGS = [
        Binding("down,j", "move(1)", "Down", show=False, id="lines.down"),
        Binding("up,k", "move(-1)", "Up", show=False, id="lines.up"),
        Binding("pagedown,ctrl+f", "page(1)", "Page down", show=False, id="lines.page_down"),
        Binding("pageup,ctrl+b", "page(-1)", "Page up", show=False, id="lines.page_up"),
        Binding("home,g", "first", "First", show=False, id="lines.first"),
        Binding("end,G", "last", "Last, and follow", show=False, id="lines.last"),
    ]

    class Moved(Message):
        """The cursor is elsewhere, or the list follows now, or no more."""

    def __init__(
        self, draw: Callable[[R], Text], key: Callable[[R], Hashable], *, empty: str, id: str | None = None
    ) -> None:
        super().__init__(id=id)
        self._draw = draw
        self._key = key
        self.empty = empty
        self._rows: Sequence[R] = ()
        self._at = 0
        self._top = 0
        self.is_following = True

    # ---- content ----

    def show(self, rows: Sequence[R]) -> None:
        """These rows from now on."""
        key = self._key(self.row) if self.row is not None and not self.is_following else None
        self._rows = rows
        if key is not None:
            # Rows go at the top and come at the end: the cursor's has moved up, if it has moved at all. Where they
            # also come between, it may be further down.
            first = min(self._at, len(rows) - 1)
            for at in (*range(first, -1, -1), *range(first + 1, len(rows))):
                if self._key(rows[at]) == key:
                    self._top -= self._at - at
                    self._at = at
                    break
        self._settle()

    @property
    def row(self) -> R | None:
        """The one with the cursor."""
        return self._rows[self._at] if 0 <= self._at < len(self._rows) else None

    @property
    def rows(self) -> Sequence[R]:
        return self._rows

    def _settle(self) -> None:
        """Bring cursor and first row to where they can be, and draw."""
        last, height = len(self._rows) - 1, max(self.size.height, 1)
        self._at = last if self.is_following else min(max(self._at, 0), last)
        self._at = max(self._at, 0)
        self._top = min(max(self._top, self._at - height + 1), self._at)
        self._top = max(min(self._top, last - height + 1), 0)
        self.refresh()

    def on_resize(self) -> None:
        self._settle()

    # ---- moving ----

    def move_to(self, at: int) -> None:
        """Put the cursor on a row; on the last one it follows."""
        last = len(self._rows) - 1
        self._at = min(max(at, 0), max(last, 0))
        self.is_following = self._at >= last
        self._settle()
        self.post_message(self.Moved())

    def action_move(self, rows: int) -> None:
        self.move_to(self._at + rows)

    def action_page(self, pages: int) -> None:
        self.move_to(self._at + pages * max(self.size.height - 1, 1))

    def action_first(self) -> None:
        self.move_to(0)

    def action_last(self) -> None:
        self.move_to(len(self._rows) - 1)

    def on_click(self, event: events.Click) -> None:
        if self._top + event.y < len(self._rows):
            self.move_to(self._top + event.y)

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        event.stop()
        self.move_to(self._at + WHEEL_ROWS)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        event.stop()
        self.move_to(self._at - WHEEL_ROWS)

    # ---- drawing ----

    def on_focus(self) -> None:
        self.refresh()

    def on_blur(self) -> None:
        self.refresh()

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if not self._rows:
            style = self.get_component_rich_style("lines--empty")
            return _strip(Text(self.empty) if y == 0 else Text(), width, self.rich_style + style, self)
        at = self._top + y
        if at >= len(self._rows):
            return Strip.blank(width, self.rich_style)
        style = self.rich_style
        if at == self._at and self.has_focus:
            style += self.get_component_rich_style("lines--cursor")
        return _strip(self._draw(self._rows[at]), width, style, self)


def _strip(line: Text, width: int, style: Style, widget: Widget) -> Strip:
    """The line in exactly this width."""
    line.truncate(width, overflow="ellipsis")
    segments = list(line.render(widget.app.console))
    return Strip(segments).adjust_cell_length(width, Style()).apply_style(style)
