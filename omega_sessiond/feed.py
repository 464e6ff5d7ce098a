"""The event feed: every reader is a cursor into the journal.

Nothing is queued for a reader, so a slow one costs no memory and loses nothing that the journal still keeps; what is
no longer kept is announced by a `gap` event.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec

from omega_sessiond.journal import Journal
from omega_sessiond.messages import GapEvent

BATCH = 64
"""Events read at a time: each can carry 64 KiB of output, and a batch is in memory once for every reader."""

_FINISHED = b'"kind":"execution_finished"'


class Feed:
    """Wakes readers when something was committed. `close` ends all of them."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._sleepers: list[asyncio.Future[None]] = []
        self._closed = False
        self._pruned_to = 0

    def prune(self, keep: int) -> None:
        """Forget all but about the newest `keep` events; readers who have not come so far are told of the gap."""
        pruned_to = self._journal.last_event_id() - keep
        if self._journal.prune_events(keep):
            self._pruned_to = pruned_to

    def wake(self) -> None:
        """Something was committed."""
        if self._sleepers:
            sleepers, self._sleepers = self._sleepers, []
            for sleeper in sleepers:
                if not sleeper.done():
                    sleeper.set_result(None)

    def close(self) -> None:
        self._closed = True
        self.wake()

    async def _sleep(self) -> None:
        sleeper = asyncio.get_running_loop().create_future()
        self._sleepers.append(sleeper)
        await sleeper

    async def follow(self, since: int | None, *, forever: bool = True) -> AsyncIterator[bytes]:
        """All events after `since` (None: from now on) as NDJSON, in chunks of whole lines; ends only when closed, or
        when caught up if not `forever`."""
        last, oldest = self._journal.last_event_id(), self._journal.oldest_event_id()
        cursor = last if since is None else since
        first_kept = oldest or last + 1
        if since is not None and (since < first_kept - 1 or since > last):
            cursor = first_kept - 1 if since <= last else last
            yield msgspec.json.encode(GapEvent(cursor, since, first_kept)) + b"\n"
        while not self._closed:
            if cursor < self._pruned_to:  # the reader is that slow
                since, cursor = cursor, self._pruned_to
                yield msgspec.json.encode(GapEvent(cursor, since, cursor + 1)) + b"\n"
            rows = self._journal.events(cursor, BATCH)
            if rows:
                cursor = rows[-1][0]
                yield b"\n".join(line for _, line in rows) + b"\n"
            elif forever:
                await self._sleep()
            else:
                return

    async def follow_execution(
        self, execution_id: int, is_finished: Callable[[], bool], final: Callable[[], bytes]
    ) -> AsyncIterator[bytes]:
        """The events of one execution from its first on. The last line is its end with the whole `execution` in it,
        made by `final`, also when the events themselves are no longer kept."""
        cursor = 0
        while not self._closed:
            finished = is_finished()  # asked before reading: what is committed after the reading wakes us
            rows = self._journal.events(cursor, BATCH, execution_id)
            lines = []
            for id, line in rows:
                cursor = id
                if line.partition(b",")[2].startswith(_FINISHED):
                    lines.append(line[:-1] + b',"execution":' + final() + b"}\n")
                    yield b"".join(lines)
                    return
                lines.append(line + b"\n")
            if lines:
                yield b"".join(lines)
            elif finished:
                yield b'{"id":%d,"kind":"execution_finished","execution":' % cursor + final() + b"}\n"
                return
            else:
                await self._sleep()
