"""What every screen of the dashboard is: told when the model has changed, and once a second."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from textual.screen import Screen

if TYPE_CHECKING:
    from tui.app import Dashboard


class LiveScreen(Screen[None]):
    """`take` and `tick` do nothing unless a screen says otherwise."""

    keys_of_its_own = ""
    """Which rows of `actions.SCREEN_KEYS` are this screen's."""

    @property
    def dashboard(self) -> Dashboard:
        return cast("Dashboard", self.app)

    @property
    def target_id(self) -> str | None:
        """The session that actions are about here."""
        return None

    def take(self, changed: set[str], came_or_went: bool) -> None:
        """Sessions that have changed since the last flush, and whether some came or went."""

    def tick(self) -> None:
        """A second has passed, or how it stands with the daemon has changed."""
