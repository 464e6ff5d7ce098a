"""The input box: code for a session, or the answer to what it asks.

Enter runs what the engine calls complete and opens a new line otherwise; a paste never runs by itself. Decides what a
key means; whoever holds it makes the requests.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text
from textual import events
from textual.binding import Binding
from textual.message import Message
from textual.widgets import Input, TextArea

from omega_sessiond.terminal import sanitize
from tui import highlight

if TYPE_CHECKING:
    from pygments.lexer import Lexer


class WantsInterrupt(Message):
    """^C, and nothing is selected."""


class Left(Message):
    """Escape."""


class Prompt(TextArea):
    """Posts what somebody wants of the session; `commands` are its commands, oldest first."""

    BINDINGS = [
        Binding("ctrl+j", "run", "Run as it is", show=False),
        Binding("up", "back", "Back in history", show=False),
        Binding("down", "forth", "Forth in history", show=False),
        Binding("ctrl+c", "copy_or_interrupt", "Copy or interrupt", show=False),
    ]

    class Ran(Message):
        """Run this; `only_if_complete` asks the engine first whether it is whole."""

        def __init__(self, prompt: Prompt, code: str, only_if_complete: bool) -> None:
            super().__init__()
            self.prompt = prompt
            self.code = code
            self.only_if_complete = only_if_complete

    class WantsCompletion(Message):
        def __init__(self, prompt: Prompt, code: str, cursor: int) -> None:
            super().__init__()
            self.prompt = prompt
            self.code = code
            self.cursor = cursor

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(
            id=id, compact=True, tab_behavior="indent", highlight_cursor_line=False, show_line_numbers=False
        )
        self.commands: Sequence[str] = ()
        self._at: int | None = None
        self._draft = ""
        self._lexer: Lexer | None = None

    def use(self, engine: str) -> None:
        """The language that is written."""
        self._lexer = highlight.lexer(engine)
        self.refresh()

    def get_line(self, line_index: int) -> Text:
        text = super().get_line(line_index)
        if self._lexer is not None:
            highlight.stylize(text, self._lexer, is_dark=self.app.current_theme.dark)
        return text

    # ---- what keys mean ----

    def action_submit(self) -> None:
        if self.text.strip():
            self.post_message(self.Ran(self, self.text, only_if_complete=True))

    def action_run(self) -> None:
        if self.text.strip():
            self.post_message(self.Ran(self, self.text, only_if_complete=False))

    def action_complete(self) -> None:
        row, column = self.cursor_location
        lines = self.text.split("\n")
        if not lines[row][:column].strip():
            self.insert("    ")
            return
        self.post_message(self.WantsCompletion(self, self.text, sum(len(line) + 1 for line in lines[:row]) + column))

    def action_copy_or_interrupt(self) -> None:
        if self.selected_text:
            self.app.copy_to_clipboard(self.selected_text)
        elif (selected := self.screen.get_selected_text()) is not None:
            self.app.copy_to_clipboard(selected)
        else:
            self.post_message(WantsInterrupt())

    def action_leave(self) -> None:
        self.post_message(Left())

    def action_back(self) -> None:
        if self.cursor_location[0] > 0 or not self.commands:
            self.action_cursor_up()
            return
        if self._at is None:
            self._at, self._draft = len(self.commands), self.text
        if self._at > 0:
            self._at -= 1
            self._show(self.commands[self._at])

    def action_forth(self) -> None:
        if self.cursor_location[0] < self.document.line_count - 1 or self._at is None:
            self.action_cursor_down()
            return
        self._at += 1
        if self._at < len(self.commands):
            self._show(self.commands[self._at])
        else:
            self._at = None
            self._show(self._draft)

    def _show(self, text: str) -> None:
        self.load_text(text)
        self.move_cursor(self.document.end)

    # ---- what the engine answered ----

    def open_line(self, indent: str) -> None:
        """The code is not whole: go on with it."""
        self.move_cursor(self.document.end)
        self.insert("\n" + indent)

    def clear_run(self) -> None:
        """What was written has been handed over."""
        self._at, self._draft = None, ""
        self.load_text("")

    def replace_range(self, start: int, end: int, text: str) -> None:
        """Characters start..end of the text become another text."""
        self.replace(text, self._location(start), self._location(end))

    def _location(self, offset: int) -> tuple[int, int]:
        before = self.text[:offset]
        return before.count("\n"), len(before) - (before.rfind("\n") + 1)

    # The text area takes these keys before any binding; its own handlers would follow, were they not held back.

    async def _on_key(self, event: events.Key) -> None:
        action = {"enter": self.action_submit, "tab": self.action_complete, "escape": self.action_leave}.get(event.key)
        if action is not None:
            event.stop()
            event.prevent_default()
            action()

    async def _on_paste(self, event: events.Paste) -> None:
        """Pasted text is text: it waits for a key, whatever newlines it holds."""
        event.stop()
        event.prevent_default()
        self.insert(sanitize(event.text.replace("\r\n", "\n").replace("\r", "\n")))


class Answer(Input):
    """The box for what a session asks; a secret is not shown."""

    BINDINGS = [
        ("escape", "leave", "Leave"),
        ("ctrl+c", "interrupt", "Interrupt"),
        ("ctrl+d", "end_file", "End of file"),
    ]

    question: tuple[object, ...] = ()
    """Which question it is for."""

    class Ended(Message):
        """The answer is end of file."""

    def action_end_file(self) -> None:
        self.post_message(self.Ended())

    def action_interrupt(self) -> None:
        self.post_message(WantsInterrupt())

    def action_leave(self) -> None:
        self.post_message(Left())
