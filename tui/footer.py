"""The last line: the keys one needs, as many as there is room for. Made from the table of actions; each can be
clicked. While one writes, those of the box, which takes all others as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.text import Text

from tui.actions import ACTIONS, BOX_KEYS, shown_key
from tui.lines import Choices

if TYPE_CHECKING:
    from tui.app import Dashboard

BOX = ("prompt", "answer")
"""Where one writes, by id: to know the classes would be to load a text area before the first picture."""

LAST = ("help", "quit")
"""Kept at any width: without them one is lost."""


class Footer(Choices):
    """Shows the keys; acts when one is clicked."""

    def show(self) -> None:
        app = cast("Dashboard", self.app)
        if self.screen.focused is not None and self.screen.focused.id in BOX:
            self._offer([("", Text(keys, "bold").append(f" {label}", "dim")) for keys, label, _ in BOX_KEYS], 1)
            return
        is_list = self.screen is app.main  # also while a question stands before it
        offered = [action for action in ACTIONS if action.in_footer and (action.scope == "everywhere" or is_list)]
        hints = []
        for action in offered:
            text = Text(shown_key(app.keys_of(action)), "bold")
            text.append(f" {action.label}", "dim")
            hints.append((action.id, text))
        self._offer(hints, len(LAST))

    def _offer(self, hints: list[tuple[str, Text]], kept: int) -> None:
        """As many as there is room for; the last ones, which lead away from here, at any width."""
        room = self.size.width - 1
        while len(hints) > kept and sum(len(text) + 2 for _, text in hints) > room:
            hints.pop(-kept - 1)
        self.offer(hints)

    def on_mount(self) -> None:
        self.screen.bindings_updated_signal.subscribe(self, lambda screen: self.show())

    def on_resize(self) -> None:
        self.show()

    def on_choices_chosen(self, event: Choices.Chosen) -> None:
        event.stop()
        if event.key:  # those of the box are for the keyboard
            cast("Dashboard", self.app).act(event.key)
