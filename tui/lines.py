"""Single lines of text as widgets: cheaper than a Static, and never parsed for markup. Knows nothing of sessions."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len
from rich.text import Text
from textual import events
from textual.message import Message
from textual.widget import Widget


class OneLine(Widget):
    """A line that is set anew as often as one likes; drawn when it differs."""

    DEFAULT_CSS = "OneLine { height: 1; width: 1fr; }"

    def __init__(self, *, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._text = Text()

    def set(self, text: Text) -> None:
        if text != self._text or text.spans != self._text.spans:
            text.no_wrap, text.overflow, text.end = True, "ellipsis", ""
            self._text = text
            self.refresh()

    @property
    def text(self) -> str:
        return self._text.plain

    def render(self) -> Text:
        return self._text


class Choices(OneLine):
    """Several things on a line, of which each can be clicked."""

    class Chosen(Message):
        def __init__(self, choices: Choices, key: str) -> None:
            super().__init__()
            self.choices = choices
            self.key = key

        @property
        def control(self) -> Choices:
            return self.choices

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._spans: list[tuple[int, int, str]] = []

    def offer(self, choices: Sequence[tuple[str, Text]], gap: str = "  ") -> None:
        """Keys and what is shown for each, as many as the width has room for."""
        line = Text(" ")
        self._spans = []
        at = 1
        for key, text in choices:
            cells = cell_len(text.plain)
            if self.size.width and at + cells > self.size.width - 1:
                break
            line.append(text)
            line.append(gap)
            self._spans.append((at, at + cells, key))
            at += cells + len(gap)
        self.set(line)

    def on_click(self, event: events.Click) -> None:
        for start, end, key in self._spans:
            if start <= event.x < end:
                self.post_message(self.Chosen(self, key))
                return
