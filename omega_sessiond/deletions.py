"""Sessions that go, with their host, history and files. What a journal that cannot be written holds up is done later.

A deletion goes by steps, so that others are served meanwhile. Once a step has taken a part of the history there is no
way back: the session stays out of reach, and this daemon or the next one takes the rest.
"""

from __future__ import annotations

import asyncio
import logging

from msgspec.structs import replace

from omega_sessiond import remains
from omega_sessiond.errors import JournalError
from omega_sessiond.journal import Journal
from omega_sessiond.keeper import Keeper
from omega_sessiond.live import Live
from omega_sessiond.messages import SessionDeleted, now
from omega_sessiond.retention import Retention

log = logging.getLogger("omega_sessiond.deletions")

RETRY_S = 1.0
"""Between two attempts to go on: somebody may be making room on the disk."""

HALF_GONE = (
    "A part of the session's history is gone already; the rest goes as soon as the journal can be written. Until then"
    " its name is taken."
)


class Deletions:
    """Deletes sessions of the keeper. A session that is being deleted is `is_deleted` until it is gone."""

    def __init__(self, journal: Journal, keeper: Keeper, retention: Retention, state_dir: str) -> None:
        self._journal = journal
        self._keeper = keeper
        self._retention = retention
        self._state_dir = state_dir

    def start(self) -> None:
        """Remove the half sessions that the keeper found."""
        for live in [live for live in self._keeper.by_name.values() if live.is_deleted]:
            self.discard(live)

    async def delete(self, live: Live, budget_s: float) -> None:
        """End a session's host within about `budget_s`, then remove all of it. Raises JournalError: the session is as
        it was, or where a part of its history is gone, the rest goes as soon as the journal can be written."""
        live.is_deleted = True
        try:
            await self._keeper.end(live, "deleted", budget_s)
            await self._clear(live)
        except BaseException as error:
            if live.record.keep.is_leaving and self._is_there(live):
                self._keeper.spawn(self._end(live))
                if isinstance(error, JournalError):
                    error.hint = f"{HALF_GONE} {error.hint}"
            raise
        finally:
            live.is_deleted = live.record.keep.is_leaving or not self._is_there(live)

    def discard(self, live: Live) -> None:
        """Remove a session that came to nothing, or is half gone: now, or when the journal can be written."""
        live.is_deleted = True
        try:
            self._remove(live)
        except JournalError:
            self._keeper.spawn(self._end(live))

    async def _end(self, live: Live) -> None:
        log.warning("session %s is deleted when the journal can be written again", live.record.name)
        while self._is_there(live):
            await asyncio.sleep(RETRY_S)
            try:
                await self._clear(live)
            except JournalError as error:
                self._keeper.trouble = error.message

    async def _clear(self, live: Live) -> None:
        await self._retention.clear(live.record.id, lambda: self._begin(live))
        if self._is_there(live):
            self._remove(live)

    def _begin(self, live: Live) -> None:
        """Say, in a commit of its own, that from now on there is no way back: the next daemon sees it too."""
        if not live.record.keep.is_leaving:
            self._keeper.recorder.update(live, keep=replace(live.record.keep, is_leaving=True))

    def _remove(self, live: Live) -> None:
        record = live.record
        self._journal.delete_session(record.id, SessionDeleted(now(), record.id, record.name))
        live.is_deleted = True
        if live.born is not None:  # it was never started
            live.born.discard()
        for work in list(live.work.values()):
            work.record = replace(work.record, status="cancelled", reason="deleted")
            self._keeper.forget(live, work)
        del self._keeper.by_name[record.name]
        remains.clear_session(self._state_dir, record.id)
        self._keeper.committed()

    def _is_there(self, live: Live) -> bool:
        return self._keeper.by_name.get(live.record.name) is live
