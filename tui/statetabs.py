"""The Snapshots and the Timeline tab: a session's named states, and how it came to where it is as a tree.

Show what somebody has read from the daemon; Enter and D are told to whoever holds the tab.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.message import Message
from textual.widgets import Static

from omega_sessiond.screen import size
from omega_sessiond.statewords import node_words, tree
from tui.actions import bindings_of
from tui.linelist import LineList
from tui.model import posix
from tui.table import ago, shown_age
from tui.text import cell

Json = dict[str, Any]

READING = " reading…"
NOTHING = " Nothing has happened yet."

NAME_COLUMNS = 16
"""A short name's room; a longer one moves what stands behind it."""


class WantsRestore(Message):
    """Go on from this snapshot."""

    def __init__(self, snapshot: str) -> None:
        super().__init__()
        self.snapshot = snapshot


class WantsForget(Message):
    """Delete this snapshot."""

    def __init__(self, snapshot: str) -> None:
        super().__init__()
        self.snapshot = snapshot


class Snapshots(Vertical):
    """A line for each snapshot, oldest first, and all of the one with the cursor beneath."""

    DEFAULT_CSS = """
    Snapshots #snapshot-more { height: auto; max-height: 40%; padding: 0 1; border-top: solid $border; display: none; }
    """

    BINDINGS = bindings_of("snapshots")

    def __init__(self, clock: Callable[[], float], key: Callable[[str], str], *, id: str | None = None) -> None:
        """`key` says by which key something is done."""
        super().__init__(id=id)
        self._clock = clock
        self._keys = tuple(map(key, ("snapshot", "snapshots_restore", "snapshots_delete")))
        self.lines: LineList[Json] = LineList(self._row, lambda row: row["name"], id="snapshot-list", empty=READING)
        self._told = Static(markup=False)
        self._more = VerticalScroll(self._told, id="snapshot-more", can_focus=False)

    def compose(self) -> ComposeResult:
        yield self.lines
        yield self._more

    def focus(self, scroll_visible: bool = True) -> Snapshots:
        self.lines.focus(scroll_visible)
        return self

    def clear(self) -> None:
        self.show([])
        self.lines.empty = READING

    def show(self, found: list[Json]) -> None:
        """The snapshots as GET …/snapshots has them."""
        new, restore, delete = self._keys
        self.lines.empty = f" No snapshots: {new} makes one, {restore} here goes on from one, {delete} deletes it."
        self.lines.show(found)
        self._show_more()

    def on_line_list_moved(self, event: LineList.Moved) -> None:
        event.stop()
        self._show_more()

    def _row(self, row: Json) -> Text:
        name = cell(row["name"], "bold")
        name.pad_right(max(NAME_COLUMNS - name.cell_len, 0))
        shown = Text(" ").append_text(name)
        shown.append(f"{shown_age(self._clock() - posix(row['at'])):>5}", "dim")
        shown.append(f"  after {row['execution_id']}")
        shown.append(f"  {size(row['size_bytes'])}", "dim")
        if lacking := [*sorted(row["left_out"]), *row["obstacles"]]:
            shown.append("  ").append_text(cell(f"but for {', '.join(lacking)}", "yellow"))
        if row["tags"]:
            shown.append("  ").append_text(cell(" ".join(f"#{tag}" for tag in row["tags"]), "cyan"))
        if said := row["automatic"] or row["note"]:
            shown.append("  ").append_text(cell(said, "dim"))
        return shown

    def _show_more(self) -> None:
        row = self.lines.row
        self._more.display = row is not None
        if row is None:
            return
        lines = [cell(row["name"], "bold").append(f"   saved {row['at']}, variables: {row['variables']}", "dim")]
        if row["automatic"]:
            lines.append(cell(f"made by itself: {row['automatic']}"))
        if row["note"]:
            lines.append(cell(row["note"]))
        if row["tags"]:
            lines.append(cell(" ".join(f"#{tag}" for tag in row["tags"]), "cyan"))
        lines += [cell(f"left out: {name}: {reason}", "yellow") for name, reason in sorted(row["left_out"].items())]
        lines += [cell(f"not saved: {obstacle}", "yellow") for obstacle in row["obstacles"]]
        new, restore, delete = self._keys
        lines.append(Text(f"{restore} goes on from it, {delete} deletes it, {new} makes another", "dim"))
        self._told.update(Text("\n").join(lines))

    def action_restore(self) -> None:
        if (row := self.lines.row) is not None:
            self.post_message(WantsRestore(row["name"]))

    def action_forget(self) -> None:
        if (row := self.lines.row) is not None:
            self.post_message(WantsForget(row["name"]))


class Branch(NamedTuple):
    """A line of the tree: what leads it, and the node that it tells of."""

    lead: str
    node: Json


class Timeline(Vertical):
    """The tree, followed at its end. Enter on a snapshot goes on from it."""

    STYLES = {
        "snapshot": "bold", "restore": "cyan", "wake": "cyan", "origin": "cyan", "fork": "green", "copy": "green",
        "loss": "red",
    }  # fmt: skip

    BINDINGS = bindings_of("timeline")

    def __init__(self, clock: Callable[[], float], *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._clock = clock
        self.lines: LineList[Branch] = LineList(
            self._row, lambda row: (row.node["kind"], row.node["at"], row.node["title"]), id="timeline-list",
            empty=READING,
        )  # fmt: skip

    def compose(self) -> ComposeResult:
        yield self.lines

    def focus(self, scroll_visible: bool = True) -> Timeline:
        self.lines.focus(scroll_visible)
        return self

    def clear(self) -> None:
        self.lines.empty = READING
        self.lines.show([])

    def show(self, found: Json) -> None:
        """The timeline as GET …/timeline has it."""
        self.lines.empty = NOTHING
        self.lines.show([Branch(*line) for line in tree(found["nodes"])])

    def _row(self, row: Branch) -> Text:
        node = row.node
        when = ago(self._clock() - posix(node["at"]))
        shown = Text(f" {row.lead}", "dim")
        return Text().append_text(shown).append_text(cell(node_words(node, when), self.STYLES.get(node["kind"], "")))

    def action_restore(self) -> None:
        row = self.lines.row
        if row is not None and row.node["kind"] == "snapshot":
            self.post_message(WantsRestore(row.node["title"]))
