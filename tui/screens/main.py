"""The main screen: the session table and, beside or below it, the session under the cursor."""

from __future__ import annotations

from rich.text import Text
from textual import events
from textual.app import ComposeResult
from textual.containers import Container, Vertical
from textual.timer import Timer
from textual.widgets import Input, Static

from tui import filter
from tui.detail import Detail
from tui.footer import Footer
from tui.headline import Headline
from tui.screens.live import LiveScreen
from tui.table import SessionTable
from tui.text import cell

SETTLE_S = 0.12
"""The detail follows the cursor when it rests: whoever runs through the list asks for nothing on the way."""


class FilterLine(Input):
    """Where the filter is written: Enter keeps it, Escape clears it."""

    BINDINGS = [("escape", "cancel", "Clear"), ("down", "submit", "Keep")]

    def action_cancel(self) -> None:
        self.value = ""
        self.post_message(self.Submitted(self, ""))

    async def action_submit(self) -> None:
        self.post_message(self.Submitted(self, self.value))


class Main(LiveScreen):
    """Wide: side by side. Narrow: stacked. Short: one pane at a time. `z` shows one pane alone at any size."""

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]
    VERTICAL_BREAKPOINTS = [(0, "-short"), (24, "-tall")]
    AUTO_FOCUS = "#table"

    def __init__(self) -> None:
        super().__init__(classes="-stale")  # until a daemon answers
        self._settling: Timer | None = None

    def compose(self) -> ComposeResult:
        app = self.dashboard
        yield Headline(id="headline")
        yield Static(id="banner", markup=False)
        with Container(id="panes"):
            with Vertical(id="list"):
                yield Static(id="notice", markup=False)
                yield SessionTable(app.model.sessions, clock=app.clock, glyphs=app.glyphs, id="table")
            yield Detail(id="detail")
        yield Footer(id="footer")

    @property
    def table(self) -> SessionTable:
        return self.query_one("#table", SessionTable)

    @property
    def detail(self) -> Detail:
        return self.query_one("#detail", Detail)

    @property
    def target_id(self) -> str | None:
        # While the program quits, the screen may stand without its table.
        return next((table.selected_id for table in self.query("#table").results(SessionTable)), None)

    def on_mount(self) -> None:
        self.show_title()
        self.tick()

    # ---- what has changed ----

    def take(self, changed: set[str], came_or_went: bool) -> None:
        self.table.take(changed, came_or_went)
        self.detail.take(changed)
        if came_or_went:
            self._show_notice()
        self.show_title()

    def tick(self) -> None:
        standing = self.dashboard.standing
        self.query_one(Headline).show()
        self.table.refresh_ages()
        if self.table.is_unsorted:
            self.table.sort_when_calm()
        self.detail.tick()
        self.set_class(standing.kind != "live", "-stale")
        self._show_banner()
        self._show_notice()

    def show_title(self) -> None:
        """How many sessions are shown of how many, and why not all."""
        shown, all_of_them = len(self.table.shown_ids), len(self.dashboard.model.sessions)
        title = Text(f"Sessions {shown}/{all_of_them}" if self.table.filter_text else f"Sessions {all_of_them}")
        if self.table.filter_text:
            title.append(" · /").append_text(cell(self.table.filter_text))
        if self.dashboard.is_paused:
            title.append(" · paused", "bold")
        listed = self.query_one("#list")
        if listed.border_title != title.plain:
            listed.border_title = title

    def _show_banner(self) -> None:
        app, banner = self.dashboard, self.query_one("#banner", Static)
        text = app.standing_text()
        banner.display = bool(text) and (bool(app.model.sessions) or app.standing.kind == "live")
        if banner.display:
            banner.update(text)

    def _show_notice(self) -> None:
        """What stands in the list's place while there is none."""
        app, notice = self.dashboard, self.query_one("#notice", Static)
        is_empty = not app.model.sessions
        notice.display = is_empty
        self.table.display = not is_empty
        if is_empty:
            if app.standing.kind == "live" and app.model.is_listed:
                text = Text.assemble(("No sessions yet", "bold"), f"\n\n{app.key('new')} creates one")
            else:
                text = app.standing_text("\n\n") or Text("Connecting…")
            notice.update(text)

    # ---- cursor and panes ----

    def on_session_table_selected(self, event: SessionTable.Selected) -> None:
        if self._settling is not None:
            self._settling.stop()
        if self.detail.session_id is None:
            self.detail.show(event.session_id)
        else:
            self._settling = self.set_timer(SETTLE_S, lambda: self.detail.show(self.table.selected_id))

    def on_session_table_opened(self, event: SessionTable.Opened) -> None:
        self.dashboard.open_console(event.session_id)

    def on_session_table_sorted(self) -> None:
        self.show_title()

    def on_key(self, event: events.Key) -> None:
        self.table.note_key()

    def on_descendant_focus(self, event: events.DescendantFocus) -> None:
        """Where one pane is shown alone it is the one with the focus."""
        self.set_class(self.detail in event.widget.ancestors_with_self, "-detail")

    def toggle_zoom(self) -> None:
        self.toggle_class("-zoom")

    def focus_detail(self) -> None:
        self.detail.show(self.table.selected_id)
        self.add_class("-detail")

    def focus_table(self) -> None:
        self.remove_class("-detail")
        self.table.focus()

    # ---- filter ----

    def open_filter(self) -> None:
        if not self.query(FilterLine):
            line = FilterLine(self.table.filter_text, placeholder=filter.HELP, id="filter", compact=True)
            self.query_one("#list").mount(line, before=0)
        self.query_one(FilterLine).focus()

    def on_input_changed(self, event: Input.Changed) -> None:
        if isinstance(event.input, FilterLine):
            self.table.set_filter(event.value)
            self.show_title()

    def on_input_submitted(self, event: Input.Submitted) -> None:
        if isinstance(event.input, FilterLine):
            event.input.remove()
            self.table.set_filter(event.value)
            self.show_title()
            self.focus_table()
