"""Which idle sessions keep a process: the most recently used ones, and those that no checkpoint can stand for.

Decides who is hibernated, and when that is to be looked at again; how is the keeper's. Knows no HTTP and no files.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

from omega_sessiond import pressure, usage
from omega_sessiond import session as decide
from omega_sessiond.config import Settings
from omega_sessiond.keeper import Keeper
from omega_sessiond.live import Live
from omega_sessiond.messages import timestamp
from omega_sessiond.pressure import Pressure

RECENT_S = 10.0
"""Memory pressure takes no session that was used so shortly ago: its next command is likely to come, and to need the
memory again."""

LOOK_AFTER_S = 0.02
"""How long changes gather before the pool is looked at: the answers they make possible go out meanwhile."""


class Pool:
    """The live hosts of one state directory."""

    def __init__(self, settings: Settings, keeper: Keeper) -> None:
        self._settings = settings
        self._keeper = keeper
        self._vault = keeper.vault
        self._timer: asyncio.TimerHandle | None = None
        self._is_due = False
        self._pressure: Pressure | None = None
        self._slice_pressure: Pressure | None = None
        """Of the sessions' slice: told as well when it is at a limit of its own and the machine is not."""
        self._vault.on_change = self.look_soon

    def start(self) -> None:
        self._pressure = Pressure.watch(pressure.SYSTEM, self._pressed)
        self._keeper.containment.on_slice = self._watch_slice

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for watched in (self._pressure, self._slice_pressure):
            if watched is not None:
                watched.close()

    def _watch_slice(self, cgroup: str) -> None:
        if self._slice_pressure is not None and not self._slice_pressure.is_closed:
            return
        file = usage.pressure_file(cgroup)
        self._slice_pressure = None if file is None else Pressure.watch(file, self._pressed)

    def look_soon(self) -> None:
        """Something has changed; look once for all that changes now, when those who wait for it have their answers."""
        if not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_later(LOOK_AFTER_S, self._look)

    def _look(self) -> None:
        self._is_due = False
        if self._keeper.is_stopping:
            return
        idle = self._idle()
        excess = len(idle) - self._settings.max_cached_sessions
        # No other one goes in the place of one that is not saved yet or cannot be: a session in use would be put to
        # sleep after each command where ten old ones hold what no checkpoint can.
        for live in idle[: max(excess, 0)]:
            if self._may_sleep(live):
                self._hibernate(live, f"hibernated: more than {self._settings.max_cached_sessions} sessions were idle")
        self._hibernate_old(live for live in self._idle() if self._may_sleep(live))

    def _idle(self) -> list[Live]:
        """The sessions that have a process and nothing to do, least recently used first."""
        idle = [live for live in self._keeper.by_name.values() if live.host is not None and live.session.is_ready]
        return sorted(idle, key=lambda live: live.record.last_used_at)

    def _may_sleep(self, live: Live) -> bool:
        return live.saving is None and self._vault.is_whole(live)

    def _hibernate_old(self, ready: Iterator[Live]) -> None:
        """Hibernate those that were not used for long, and look again when the next one will be: no further than to
        that one."""
        after_s = self._settings.hibernate_after_s
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if not after_s:
            return
        for live in ready:
            left_s = after_s - _unused_s(live)
            if left_s > 0:
                self._timer = asyncio.get_running_loop().call_later(left_s, self._look)
                return
            self._hibernate(live, f"hibernated: not used for {after_s:g} s")

    def _pressed(self) -> None:
        """Memory is short: one session at a time, for the pressure tells itself again while it lasts."""
        for live in self._idle():
            if self._may_sleep(live) and _unused_s(live) >= RECENT_S:
                self._hibernate(live, "hibernated: memory was short")
                return

    def _hibernate(self, live: Live, reason: str) -> None:
        live.sleep_reason = reason
        self._keeper.handle(live, decide.HibernateAsked())


def _unused_s(live: Live) -> float:
    return time.time() - timestamp(live.record.last_used_at)
