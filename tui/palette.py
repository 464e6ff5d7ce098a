"""The command palette: every action by its name, with the command line that does the same."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, cast

from textual.command import DiscoveryHit, Hit, Hits, Provider

from tui.actions import ACTIONS, Action, shown_keys

if TYPE_CHECKING:
    from tui.app import Dashboard


class Actions(Provider):
    """Finds actions; those that do not apply now say why when they are chosen."""

    @property
    def _dashboard(self) -> Dashboard:
        return cast("Dashboard", self.app)

    async def discover(self) -> Hits:
        for action in ACTIONS:
            yield DiscoveryHit(action.label, partial(self._dashboard.act, action.id), help=self._help(action))

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for action in ACTIONS:
            if (score := matcher.match(f"{action.label} {action.help}")) > 0:
                yield Hit(
                    score, matcher.highlight(action.label), partial(self._dashboard.act, action.id),
                    help=self._help(action),
                )  # fmt: skip

    def _help(self, action: Action) -> str:
        return f"{shown_keys(self._dashboard.keys_of(action))}  {action.help}"
