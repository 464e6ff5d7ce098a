"""The use-cases of saved state, whoever asks. Knows no HTTP; how a session is saved is the vault's."""

from __future__ import annotations

from collections.abc import Callable

from omega_sessiond.keeper import Keeper
from omega_sessiond.live import Live
from omega_sessiond.messages import Session


class States:
    """Of all sessions; `find` is by name and raises SessionNotFound, `view` shows one."""

    def __init__(self, keeper: Keeper, find: Callable[[str], Live], view: Callable[[Live], Session]) -> None:
        self._keeper = keeper
        self._vault = keeper.vault
        self._find = find
        self._view = view

    async def save(self, name: str) -> Session:
        """Save the session now. Raises SessionBusy, CannotSave, HostFailed."""
        live = self._find(name)
        if live.session.link in ("starting", "reconnecting"):
            await live.settled.wait()
        await self._vault.save(live)
        return self._view(live)
