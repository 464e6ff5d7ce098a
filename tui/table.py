"""The session table: rows drawn one by one on ScrollView's line API, a header that stays, a cursor that follows its
session.

Costs what is seen: a row is laid out when it is shown and has changed. Knows the model's sessions; acts on none.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.geometry import Size
from textual.message import Message
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.strip import Strip

from omega_sessiond.screen import size as shown_size
from omega_sessiond.terminal import one_line
from tui import filter
from tui.model import Session
from tui.roles import ROLES, UNICODE, Glyphs, look_of

RESORT_S = 2.0
"""Rows that change places faster cannot be read."""

QUIET_S = 1.0
"""Nor may they move under somebody's finger."""

LAST_CHARS = 200


class Column(NamedTuple):
    """A column. Those with the highest `drop` go first where it is narrow; 0 stays."""

    key: str
    title: str
    width: int
    drop: int
    is_right: bool
    order: Callable[[Session], tuple[object, ...]]


COLUMNS = (
    Column("name", "NAME", 0, 0, False, lambda row: (row.name,)),
    Column("state", "STATE", 12, 0, False, lambda row: (look_of(row.state).order, row.name)),
    Column("engine", "ENGINE", 8, 5, False, lambda row: (row.engine, row.name)),
    Column("mem", "MEM", 5, 2, True, lambda row: (-(row.memory_bytes or -1), row.name)),
    Column("cpu", "CPU", 5, 1, True, lambda row: (-(row.cpu if row.cpu is not None else -1.0), row.name)),
    Column("count", "N", 4, 4, True, lambda row: (-row.count, row.name)),
    Column("age", "AGE", 4, 3, True, lambda row: (-row.used_at, row.name)),
    Column("last", "LAST", 6, 6, False, lambda row: (row.last_command or "", row.name)),
)
NAME_MIN, NAME_MAX = 8, 24
ENGINE_MAX = 10
MARK = 2
"""Columns before the name: the cursor's mark and a blank."""

VOLATILE = frozenset(("state", "mem", "cpu", "count", "age", "last"))
"""Orders that change while sessions work."""


class Place(NamedTuple):
    column: Column
    start: int
    width: int


class SessionTable(ScrollView, can_focus=True):
    """Shows the sessions it is given; `selected_id` follows its session through sorts and filters."""

    COMPONENT_CLASSES = {
        "table--header", "table--name", "table--text", "table--cursor", "table--cursor-blurred",
        *(f"table--{role}" for role in ROLES),
    }  # fmt: skip

    selected_id: reactive[str | None] = reactive(None)

    class Selected(Message):
        """Another session has the cursor; None when there is none."""

        def __init__(self, session_id: str | None) -> None:
            super().__init__()
            self.session_id = session_id

    class Opened(Message):
        """Somebody clicked twice on the session."""

        def __init__(self, session_id: str) -> None:
            super().__init__()
            self.session_id = session_id

    class Sorted(Message):
        """The order has been changed by a click."""

    def __init__(
        self,
        sessions: dict[str, Session],
        *,
        clock: Callable[[], float] = time.time,
        glyphs: Glyphs = UNICODE,
        id: str | None = None,
    ) -> None:
        super().__init__(id=id)
        self._sessions = sessions
        self._clock = clock
        self._glyphs = glyphs
        self._order: list[str] = []
        self._places: dict[str, int] = {}
        self._shown_places: list[Place] = []
        self._layout_width = self._layout_name = -1
        self._longest_name = self._longest_engine = 0
        self._last_row = 0
        self._strips: dict[str, tuple[tuple[object, ...], Strip]] = {}
        self._styles_made: dict[str, Style] | None = None
        self._test: filter.Test = filter.parse("")
        self.filter_text = ""
        self.sort_key = "name"
        self.is_reversed = False
        self.is_paused = False
        self._steady: Callable[[], float] = time.monotonic
        self._sorted_at = 0.0
        self._key_at = 0.0
        self._is_unsorted = False

    # ---- content ----

    def take(self, changed: set[str], came_or_went: bool) -> None:
        """Show what has changed. Rows move only when the rules of rest allow it."""
        if came_or_went:
            self._order = [id for id in self._order if id in self._sessions]
            known = set(self._order)
            new = [id for id, session in self._sessions.items() if id not in known and self._test(session)]
            self._order += new
            for id in [id for id in self._strips if id not in self._sessions]:
                del self._strips[id]
            self._is_unsorted = self._is_unsorted or bool(new)
            self._longest_name = max((len(session.name) for session in self._sessions.values()), default=0)
            self._longest_engine = max((len(session.engine) for session in self._sessions.values()), default=0)
            self._layout_width = -1
            self._number()
        if changed and (self.sort_key in VOLATILE or self.filter_text):
            self._is_unsorted = True
        if self._is_unsorted:
            self.sort_when_calm()
        if came_or_went:
            self.refresh()
        else:
            self._refresh_rows(changed)

    def _refresh_rows(self, changed: Iterable[str]) -> None:
        top, height = self.scroll_offset.y, self.size.height - 1
        seen = [row for id in changed if (row := self._places.get(id)) is not None and top <= row < top + height]
        if len(seen) * 3 > height:
            self.refresh()
        else:
            for row in seen:
                self.refresh_line(row + 1)

    def sort_when_calm(self) -> None:
        """Sort and filter anew, unless that was a moment ago, or a key was; then the app asks again."""
        now = self._steady()
        if self.is_paused or now - self._sorted_at < RESORT_S or now - self._key_at < QUIET_S:
            return
        self.sort()

    @property
    def is_unsorted(self) -> bool:
        return self._is_unsorted

    def sort(self) -> None:
        """Sort and filter now."""
        column = next(column for column in COLUMNS if column.key == self.sort_key)
        rows = [session for session in self._sessions.values() if self._test(session)]
        rows.sort(key=column.order, reverse=self.is_reversed)
        order = [session.id for session in rows]
        self._sorted_at = self._steady()
        self._is_unsorted = False
        if order != self._order:
            self._order = order
            self._number()
            self.refresh()

    def _number(self) -> None:
        self._places = {id: row for row, id in enumerate(self._order)}
        self.virtual_size = Size(self.size.width, len(self._order) + 1)
        if self.selected_id is None or self.selected_id not in self._places:
            row = min(self._last_row, len(self._order) - 1)
            self.selected_id = self._order[row] if row >= 0 else None
        self._last_row = self._places.get(self.selected_id or "", 0)
        self._keep_cursor_in_view()

    def set_filter(self, text: str) -> None:
        self.filter_text = text
        self._test = filter.parse(text)
        self.sort()

    def set_sort(self, key: str, is_reversed: bool) -> None:
        self.sort_key, self.is_reversed = key, is_reversed
        self.sort()
        self.refresh()

    def next_sort(self) -> None:
        keys = [column.key for column in COLUMNS]
        self.set_sort(keys[(keys.index(self.sort_key) + 1) % len(keys)], False)

    @property
    def shown_ids(self) -> list[str]:
        """All sessions that pass the filter, in order."""
        return list(self._order)

    @property
    def visible_ids(self) -> list[str]:
        """Those on the screen."""
        top = self.scroll_offset.y
        return self._order[top : top + max(self.size.height - 1, 0)]

    # ---- cursor ----

    def note_key(self) -> None:
        """A key was pressed: the rows stay where they are for a moment."""
        self._key_at = self._steady()

    def move(self, rows: int) -> None:
        self.move_to(self._places.get(self.selected_id or "", 0) + rows)

    def move_to(self, row: int) -> None:
        if self._order:
            row = min(max(row, 0), len(self._order) - 1)
            self._last_row = row
            self.selected_id = self._order[row]
            self._keep_cursor_in_view()

    def select(self, session_id: str) -> None:
        if session_id in self._places:
            self.move_to(self._places[session_id])

    def watch_selected_id(self, before: str | None, after: str | None) -> None:
        for id in (before, after):
            if id is not None and id in self._places:
                self.refresh_line(self._places[id] + 1)
        self.post_message(self.Selected(after))

    def _keep_cursor_in_view(self) -> None:
        row, page = self._last_row, max(self.size.height - 1, 1)
        top = self.scroll_offset.y
        if row < top:
            self.scroll_to(y=row, animate=False)
        elif row >= top + page:
            self.scroll_to(y=row - page + 1, animate=False)

    @property
    def page(self) -> int:
        return max(self.size.height - 2, 1)

    # ---- events ----

    def on_resize(self, event: events.Resize) -> None:
        self.virtual_size = Size(self.size.width, len(self._order) + 1)
        self._keep_cursor_in_view()

    def on_click(self, event: events.Click) -> None:
        self.note_key()
        if event.y == 0:
            for place in self._lay_out(self.size.width):
                if place.start <= event.x < place.start + place.width:
                    is_same = place.column.key == self.sort_key
                    self.set_sort(place.column.key, is_same and not self.is_reversed)
                    self.post_message(self.Sorted())
            return
        row = self.scroll_offset.y + event.y - 1
        if row < len(self._order):
            self.move_to(row)
            if event.chain == 2:
                self.post_message(self.Opened(self._order[row]))

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._styles_made = None
        self._strips.clear()

    def refresh_ages(self) -> None:
        """Draw the rows whose age reads differently by now."""
        now = self._clock()
        for id in self.visible_ids:
            cached = self._strips.get(id)
            if cached is not None and cached[0][1] != shown_age(now - self._sessions[id].used_at):
                self.refresh_line(self._places[id] + 1)

    # ---- drawing ----

    def render_line(self, y: int) -> Strip:
        width = self.size.width
        if y == 0:
            return self._header(width)
        row = self.scroll_offset.y + y - 1
        if row >= len(self._order):
            return self._blank(width)
        id = self._order[row]
        session = self._sessions.get(id)
        if session is None:  # gone since the last flush
            return self._blank(width)
        age = shown_age(self._clock() - session.used_at)
        has_cursor = id == self.selected_id
        key = (session.version, age, width, has_cursor, has_cursor and self.has_focus)
        cached = self._strips.get(id)
        if cached is not None and cached[0] == key:
            return cached[1]
        strip = self._row(session, age, width, has_cursor)
        self._strips[id] = (key, strip)
        return strip

    def _style(self, name: str) -> Style:
        if self._styles_made is None:
            self._styles_made = {"base": self.rich_style} | {
                found.removeprefix("table--"): self.get_component_rich_style(found, partial=True)
                for found in self.COMPONENT_CLASSES
            }
        return self._styles_made[name]

    def _blank(self, width: int) -> Strip:
        return Strip.blank(width, self._style("base"))

    def _header(self, width: int) -> Strip:
        style = self._style("base") + self._style("header")
        segments = []
        at = 0
        for column, start, cells in self._lay_out(width):
            title = column.title
            if column.key == self.sort_key:
                title += self._glyphs.ascending if self.is_reversed else self._glyphs.descending
            segments.append(Segment(" " * (start - at) + _fitted(title, cells, column.is_right, ""), style))
            at = start + cells
        return Strip([*segments, Segment(" " * (width - at), style)], width)

    def _row(self, session: Session, age: str, width: int, has_cursor: bool) -> Strip:
        base = self._style("base")
        if has_cursor:
            base += self._style("cursor" if self.has_focus else "cursor-blurred")
        text, look = base + self._style("text"), look_of(session.state)
        glyph = look.ascii_glyph if self._glyphs.is_ascii else look.glyph
        gap = f"{self._glyphs.cursor} " if has_cursor else " " * MARK
        segments = []
        at = MARK
        for column, start, cells in self._lay_out(width):
            style = text
            match column.key:
                case "name":
                    shown, style = session.name, base + self._style("name")
                case "state":
                    queued = f" +{session.queued}" if session.queued else ""
                    shown, style = f"{glyph} {look.word}{queued}", base + self._style(look.role)
                case "engine":
                    shown = session.engine
                case "mem":
                    shown = shown_size(session.memory_bytes)
                case "cpu":
                    shown = "-" if session.cpu is None else f"{session.cpu * 100:.0f}%"
                case "count":
                    shown = str(session.count)
                case "age":
                    shown = age
                case _:
                    shown = _last(session)
                    if session.state == "dead":
                        style = base + self._style("dead")
            fitted = _fitted(one_line(shown), cells, column.is_right, self._glyphs.ellipsis)
            # The gap goes with the cell: half as many segments to carry through the compositor.
            segments.append(Segment(gap + fitted, style))
            at, gap = start + cells, " "
        return Strip([*segments, Segment(" " * (width - at), base)], width)

    def _lay_out(self, width: int) -> list[Place]:
        """Which columns there are, and where, in so many cells."""
        name = min(max(self._longest_name, NAME_MIN), NAME_MAX)
        if (width, name) == (self._layout_width, self._layout_name):
            return self._shown_places
        engine = min(max(self._longest_engine, len("ENGINE")), ENGINE_MAX)
        columns = [column._replace(width=engine) if column.key == "engine" else column for column in COLUMNS]
        while len(columns) > 2 and MARK + name + sum(column.width + 1 for column in columns[1:]) > width:
            columns.remove(max(columns, key=lambda column: column.drop))
        self._shown_places, at = [], MARK
        fixed = MARK + sum(column.width + 1 for column in columns[1:])
        name_cells = max(min(name, width - fixed), 1) if columns[-1].key == "last" else max(width - fixed, 1)
        for column in columns:
            cells = name_cells if column.key == "name" else column.width
            if column.key == "last":
                cells = max(width - at - 1, 1)
            self._shown_places.append(Place(column, at, cells))
            at += cells + 1
        self._layout_width, self._layout_name = width, name
        return self._shown_places


def _last(session: Session) -> str:
    if session.state == "dead" and session.reason:
        return session.reason
    if session.state == "waiting_input" and session.prompt:
        return session.prompt
    return (session.last_command or "")[:LAST_CHARS]


def _fitted(text: str, cells: int, is_right: bool, ellipsis: str) -> str:
    size = len(text) if text.isascii() else cell_len(text)
    if size > cells:
        return set_cell_size(text, cells - 1) + ellipsis if ellipsis and cells > 1 else set_cell_size(text, cells)
    padding = " " * (cells - size)
    return padding + text if is_right else text + padding


def shown_age(seconds: float) -> str:
    """How long ago, in at most four characters: now, 42s, 12m, 3h, 9d."""
    if seconds < 1:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def ago(seconds: float) -> str:
    """The same in a sentence: now, 42s ago."""
    return "now" if seconds < 1 else f"{shown_age(seconds)} ago"
