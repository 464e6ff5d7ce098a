"""The events screen: what the daemon did, and what was done here, each as the omegactl line that does the same.

Reads the model's events and the app's log of commands; asks for nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widgets import Input

from omega_sessiond.terminal import one_line
from tui import telling
from tui.actions import bindings_of
from tui.headline import Headline
from tui.keyline import KeyLine
from tui.linelist import LineList
from tui.model import posix
from tui.roles import ROLES
from tui.screens.live import LiveScreen
from tui.text import cell

if TYPE_CHECKING:
    from tui.app import Command

Json = dict[str, Any]


class EventsScreen(LiveScreen):
    """Both lists follow their ends. Enter on an event goes to its session."""

    BINDINGS = bindings_of("events")
    keys_of_its_own = "events"

    DEFAULT_CSS = """
    EventsScreen {
        layout: vertical;
        #events, #commands { border: round $border; border-title-color: $secondary; }
        #events { height: 2fr; }
        #commands { height: 1fr; min-height: 4; }
        #events:focus-within, #commands:focus-within { border: round $primary; border-title-color: $foreground; }
        #event-filter { margin: 0 1; background: $panel; display: none; }
        #event-filter.-open { display: block; }
    }
    """

    def __init__(self) -> None:
        super().__init__()
        self._words: list[str] = []
        self._shown: tuple[int | None, int, list[str]] | None = None
        self._last_command: Command | None = None

    def compose(self) -> ComposeResult:
        yield Headline(id="headline")
        with Vertical(id="events"):
            yield LineList(
                self._event_line, lambda event: (event["id"], event["kind"]), id="event-list",
                empty=" Nothing has happened since the dashboard was opened.",
            )  # fmt: skip
        yield Input(id="event-filter", placeholder="words that must stand in it, !word: must not", compact=True)
        with Vertical(id="commands"):
            yield LineList(
                self._command_line, lambda command: (command.at, command.line), id="command-list",
                empty=" Nothing has been done here yet.",
            )  # fmt: skip
        yield KeyLine()

    @property
    def events(self) -> LineList[Json]:
        return self.query_one("#event-list", LineList)

    @property
    def commands(self) -> LineList[Command]:
        return self.query_one("#command-list", LineList)

    def on_mount(self) -> None:
        self.events.focus()
        self._refresh()

    def on_screen_resume(self) -> None:
        self._refresh()

    def take(self, changed: set[str], came_or_went: bool) -> None:
        self._refresh()

    def tick(self) -> None:
        self.query_one(Headline).show()
        self._refresh()

    # ---- what is shown ----

    def _refresh(self) -> None:
        app = self.dashboard
        now = (app.model.last_event_id, app.model.gaps, self._words)
        if now != self._shown:
            self._shown = now
            kept = app.model.events
            self.events.show([event for event in kept if self._matches(event)] if self._words else list(kept))
            self._entitle()
        last = app.command_log[-1] if app.command_log else None
        if last is not self._last_command or last is None:
            self._last_command = last
            self.commands.show(list(app.command_log))
            self.query_one("#commands").border_title = Text(f"Done here · {len(app.command_log)}")

    def _entitle(self) -> None:
        title = Text(f"Events {len(self.events.rows)}")
        if self._words:
            title.append(f"/{len(self.dashboard.model.events)} · /{cell(' '.join(self._words)).plain}")
        title.append(" · following" if self.events.is_following else " · held")
        self.query_one("#events").border_title = title

    def on_line_list_moved(self) -> None:
        self._entitle()

    def _matches(self, event: Json) -> bool:
        text = telling.plain(event).casefold()
        return all((word[1:] not in text) if word[:1] == "!" and word[1:] else word in text for word in self._words)

    def _event_line(self, event: Json) -> Text:
        styles = {role: self.dashboard.role_style(role) for role in ROLES}
        at = posix(event["at"]) if "at" in event else None
        return telling.line(event, at, self.dashboard.glyphs, styles)

    def _command_line(self, command: Command) -> Text:
        shown = Text()
        shown.append(f" {telling.clock(command.at)}  ", style="dim")
        shown.append(one_line(command.line), style="bold")
        if command.outcome:
            shown.append(f"  {one_line(command.outcome)}", style="dim")
        return shown

    # ---- keys ----

    def action_jump(self) -> None:
        event = self.events.row
        if not self.events.has_focus or event is None:
            return
        id = event.get("session_id")
        if id not in self.dashboard.model.sessions:
            self.dashboard.tell(f"The session {event.get('session', '')} is no more")
            return
        self.dismiss()
        self.dashboard.select(id)

    def action_filter(self) -> None:
        box = self.query_one("#event-filter", Input)
        box.add_class("-open")
        box.focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        self._words = event.value.casefold().split()
        self._refresh()

    def on_input_submitted(self) -> None:
        self._close_filter()

    def _close_filter(self) -> None:
        box = self.query_one("#event-filter", Input)
        box.set_class(bool(box.value), "-open")
        self.events.focus()

    def action_follow(self) -> None:
        (self.commands if self.commands.has_focus else self.events).action_last()

    def action_other(self) -> None:
        (self.events if self.commands.has_focus else self.commands).focus()

    def action_copy(self) -> None:
        command, event = self.commands.row, self.events.row
        if self.commands.has_focus and command is not None:
            text = command.line
        elif event is not None:
            text = telling.plain(event)
        else:
            return
        self.dashboard.copy_to_clipboard(text)
        self.dashboard.tell(f"Copied: {text}")

    def action_leave(self) -> None:
        box = self.query_one("#event-filter", Input)
        if box.has_focus or box.value:
            box.value = ""
            self._close_filter()
        else:
            self.dismiss()
