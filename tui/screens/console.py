"""The console: one session at full size."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.widgets import Static

from tui.detail import Detail
from tui.footer import Footer
from tui.headline import Headline
from tui.screens.live import LiveScreen


class Console(LiveScreen):
    """Shows the session until somebody goes back, or it is gone."""

    AUTO_FOCUS = ""

    def __init__(self, session_id: str) -> None:
        super().__init__()
        self._session_id = session_id

    def compose(self) -> ComposeResult:
        yield Headline(id="headline")
        yield Static(id="banner", markup=False)
        yield Detail(id="detail")
        yield Footer(id="footer")

    @property
    def detail(self) -> Detail:
        return self.query_one("#detail", Detail)

    @property
    def target_id(self) -> str | None:
        return self._session_id

    def on_mount(self) -> None:
        self.detail.show(self._session_id)
        self.detail.focus_box()
        self.tick()

    def take(self, changed: set[str], came_or_went: bool) -> None:
        if self._session_id not in self.dashboard.model.sessions:
            if self.is_current:
                self.dashboard.tell("The session is gone")
                self.dismiss()
            return
        self.detail.take(changed)

    def tick(self) -> None:
        self.query_one(Headline).show()
        self.detail.tick()
        text = self.dashboard.standing_text()
        banner = self.query_one("#banner", Static)
        banner.display = bool(text)
        banner.update(text)
        self.set_class(self.dashboard.standing.kind != "live", "-stale")
