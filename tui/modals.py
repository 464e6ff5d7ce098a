"""What stands before the screen and wants an answer: questions, forms, errors, help. Each knows what it was asked
about, as it was when it was asked; none makes a request."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Select, Static

from omega_sessiond.errors import OmegaError
from tui.text import block, cell

Json = dict[str, Any]


class Confirm(ModalScreen[bool]):
    """A question with its consequence; Cancel has the focus."""

    BINDINGS = [("escape", "answer(False)", "Cancel"), ("left", "app.focus_previous"), ("right", "app.focus_next")]

    def __init__(self, question: Text, consequence: str, verb: str, command: str) -> None:
        super().__init__()
        self._question = question
        self._consequence = consequence
        self._verb = verb
        self._command = command

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog"):
            yield Static(self._question, classes="question")
            yield Static(Text(self._consequence), classes="consequence")
            yield Static(cell(self._command, "dim"), classes="command")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel")
                yield Button(self._verb, id="yes", variant="error")

    def on_mount(self) -> None:
        self.query_one("#cancel", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")

    def action_answer(self, value: bool) -> None:
        self.dismiss(value)


class Trouble(ModalScreen[None]):
    """An error: what failed, on what, and the next step."""

    BINDINGS = [("escape,enter,q", "dismiss", "Close")]

    def __init__(self, what: str, error: OmegaError) -> None:
        super().__init__()
        self._what = what
        self._error = error

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -trouble"):
            yield Static(cell(self._what, "bold"), classes="question")
            with VerticalScroll(classes="message"):
                yield Static(block(self._error.message))
            if self._error.hint:
                yield Static(block(self._error.hint), classes="consequence")
            with Horizontal(classes="buttons"):
                yield Button("Close", id="close")

    def on_mount(self) -> None:
        self.query_one("#close", Button).focus()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss()


class Help(ModalScreen[None]):
    """All keys, by group: the key, what it is called, and what it does."""

    BINDINGS = [("escape,q,question_mark,f1", "dismiss", "Close")]

    def __init__(self, groups: Mapping[str, Sequence[tuple[str, str, str]]]) -> None:
        super().__init__()
        parts: list[Text | Table] = []
        for group, rows in groups.items():
            table = Table.grid(expand=True)  # so that a long help keeps to its column
            for width in (14, 12, None):
                table.add_column(width=width, ratio=None if width else 1)
            for keys, label, help in rows:
                table.add_row(Text(f"  {keys:<11} ", "bold"), Text(label), Text(help, "dim"))
            parts += [Text(group, "bold"), table, Text()]
        self._all = Group(*parts)

    def compose(self) -> ComposeResult:
        with VerticalScroll(classes="dialog -help"):
            yield Static(self._all)

    def on_mount(self) -> None:
        self.query_one(VerticalScroll).focus()


class Field:
    """A line of a form: `value` is what stands there at first, `hint` what stands in an empty one; one of `choices`
    where there are any."""

    def __init__(self, name: str, label: str, value: str = "", hint: str = "", choices: Sequence[str] = ()) -> None:
        self.name = name
        self.label = label
        self.value = value
        self.hint = hint
        self.choices = choices


class Form(ModalScreen[dict[str, str] | None]):
    """Some fields, the command line that they make, OK and Cancel. Answers the texts; None is Cancel."""

    BINDINGS = [("escape", "cancel", "Cancel")]

    def __init__(self, title: Text, fields: Sequence[Field], verb: str) -> None:
        super().__init__()
        self._title = title
        self._fields = fields
        self._verb = verb
        self._faulty: dict[str, str] | None = None
        """The values that something was said against."""

    def check(self, values: Mapping[str, str]) -> str | None:
        """What is wrong with the values; None when they can be used."""
        return None

    def words(self, values: Mapping[str, str]) -> Sequence[str]:
        """The arguments of omegactl that do the same."""
        return ()

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog -form"):
            yield Static(self._title, classes="question")
            with VerticalScroll(classes="fields", can_focus=False):
                for field in self._fields:
                    with Horizontal(classes="field"):
                        yield Static(Text(field.label, "dim"), classes="label")
                        if field.choices:
                            options = [(cell(choice), choice) for choice in field.choices]
                            yield Select(
                                options, value=field.value, allow_blank=False, id=f"field-{field.name}", compact=True
                            )
                        else:
                            yield Input(field.value, placeholder=field.hint, id=f"field-{field.name}", compact=True)
            yield Static(Text(), id="fault")
            yield Static(Text(), id="line", classes="command")
            with Horizontal(classes="buttons"):
                yield Button("Cancel", id="cancel")
                yield Button(self._verb, id="ok", variant="primary")

    def on_mount(self) -> None:
        self._show()

    @property
    def values(self) -> dict[str, str]:
        found = {}
        for field in self._fields:
            widget = self.query_one(f"#field-{field.name}")
            found[field.name] = widget.value.strip() if isinstance(widget, Input) else str(widget.value)  # type: ignore[attr-defined]
        return found

    def on_input_changed(self, event: Input.Changed) -> None:
        self._show()

    def on_select_changed(self, event: Select.Changed) -> None:
        self._show()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        self._accept()

    def on_button_pressed(self, event: Button.Pressed) -> None:
        if event.button.id == "ok":
            self._accept()
        else:
            self.dismiss(None)

    def action_cancel(self) -> None:
        self.dismiss(None)

    def on_key(self, event: events.Key) -> None:
        if event.key in ("up", "down") and isinstance(self.focused, Input):
            event.stop()
            (self.focus_previous if event.key == "up" else self.focus_next)()

    def _show(self) -> None:
        values = self.values
        self.query_one("#line", Static).update(cell("omegactl " + shlex.join(self.words(values)), "dim"))
        if values != self._faulty:
            self.query_one("#fault", Static).update(Text())

    def _accept(self) -> None:
        values = self.values
        if wrong := self.check(values):
            self._faulty = values
            self.query_one("#fault", Static).update(cell(wrong))
            self.query(Input).first().focus()
            return
        self.dismiss(values)
