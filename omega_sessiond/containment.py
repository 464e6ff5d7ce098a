"""Where hosts live under systemd: each in a scope of its own, with its limits, in one slice that counts what the kernel
kills for memory. Without a user manager it holds nothing, and says why.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from omega_sessiond import host as hosts
from omega_sessiond import usage
from omega_sessiond.config import Settings
from omega_sessiond.errors import HostFailed, OmegaError
from omega_sessiond.host import Host
from omega_sessiond.live import Live
from omega_sessiond.messages import Limits

log = logging.getLogger("omega_sessiond.containment")


class Containment:
    """The scopes of all sessions. `scopes` is None until the first is needed, and where there is no user manager."""

    def __init__(self, settings: Settings) -> None:
        self.scopes: hosts.Scopes | None = None
        self._settings = settings
        self._asking = asyncio.Lock()
        self._is_asked = False
        self._no_scopes_reason = "not asked yet"
        self._slice_cgroup: str | None = None
        self.on_slice: Callable[[str], None] = lambda cgroup: None
        """Called with the cgroup of the sessions' slice whenever one more session is in it."""
        self._oom_kills: int | None = None

    async def connect(self) -> None:
        """Ask once whether a user manager answers."""
        async with self._asking:
            if self._is_asked:
                return
            from omega_sessiond.systemd import Scopes

            found = await Scopes.connect()
            self._is_asked = True
        if isinstance(found, str):
            self._no_scopes_reason = found
            log.info("sessions get no scope of their own: %s", found)
        else:
            self.scopes = found

    async def enter(self, live: Live, host: Host) -> None:
        """Move a new host into its scope, before it gets work. Raises HostFailed when it has ended already."""
        await self.connect()
        if self.scopes is None:
            return
        record = live.record
        unit = hosts.unit_name(record.name, self._settings.state_dir)
        try:
            await host.enter_scope(self.scopes, unit, f"omega session {record.name}", self._settings.stop_budget_s)
            await self.apply_limits(live)
        except OmegaError as error:
            if host.process.exit is not None:
                raise HostFailed("The session's process ended at once") from None
            live.note = f"not in a scope of its own: {error.message}"
            log.warning("session %s: %s", record.name, live.note)

    async def apply_limits(self, live: Live) -> None:
        """Give the scope of a session's host the limits that the session has by now: they can change meanwhile."""
        host = live.host
        while host is not None and live.host is host and host.limits != live.record.limits:
            limits = live.record.limits
            if host.scope:
                await self.connect()
                if self.scopes is not None:
                    await self.scopes.set_limits(host.scope, limits)
            elif live.is_starting:
                return  # its scope is being made; who makes it calls this afterwards
            host.limits = limits

    def note_limits(self, live: Live) -> None:
        limited = live.record.limits != Limits()
        if live.host is not None and limited and not live.host.scope:
            live.note = f"limits are not enforced: {self._no_scopes_reason}"
        elif live.note is not None and live.note.startswith("limits"):
            live.note = None

    async def clear(self, live: Live, scope: str) -> None:
        """What the host left running goes with it; its successor needs the name."""
        if not scope:
            return
        await self.connect()
        if self.scopes is not None:
            try:
                await self.scopes.stop(scope)
            except OmegaError as error:
                log.warning("session %s: cannot clear %s: %s", live.record.name, scope, error.message)

    def watch(self, host: Host) -> None:
        """Remember where the kernel counts its kills for memory among all sessions. The slice outlives the scope, in
        which the count of a dead host is gone."""
        if not host.scope:
            return
        if self._slice_cgroup is None:
            scope_cgroup = usage.cgroup_of(host.pid)
            if scope_cgroup is not None:
                self._slice_cgroup = scope_cgroup.rpartition("/")[0]
                self._oom_kills = usage.oom_kills(self._slice_cgroup)
        if self._slice_cgroup is not None:
            self.on_slice(self._slice_cgroup)

    def oom_kill_seen(self) -> bool:
        """Whether the kernel has killed for memory since this was asked last; False where it does not count."""
        if self._slice_cgroup is None:
            return False
        before, self._oom_kills = self._oom_kills, usage.oom_kills(self._slice_cgroup)
        return before is not None and self._oom_kills is not None and self._oom_kills > before
