"""What of the history goes, and when: limits by age, count and size that nobody needs to think about, applied now and
then, and whatever somebody asks to prune.

Decides; pruning.py removes. Works in short steps, so that commands go on meanwhile, and stops at any of them without
harm. What goes is told: in an event, with the session, in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable
from functools import cache
from time import time

from msgspec import Struct

from omega_sessiond.config import Settings
from omega_sessiond.errors import JournalError
from omega_sessiond.journal import Journal
from omega_sessiond.messages import HistoryPruned, Pruned, PrunedSession, PruneReason, PruneReport, iso, now
from omega_sessiond.pruning import Candidate
from omega_sessiond.vault import COMMANDS_READ

log = logging.getLogger("omega_sessiond.retention")

SETTLED_S = 7 * 86400.0
"""Executions stay at least so long, unless somebody asks for less: a retry by its idempotency key finds one."""

FIRST_S = 60.0
EVERY_S = 6 * 3600.0
"""After the daemon's start, and then: history grows slowly, and a daemon that starts has others waiting for it."""

STEP_EXECUTIONS, STEP_BYTES = 50, 8 * 1024 * 1024
"""What is removed in one commit, about 10 ms of the loop's time."""

SLACK_BYTES = 64 * 1024 * 1024
"""Free space that the journal's file keeps for what comes; more is returned to the file system."""

ENOUGH = 0.9
"""To which share of its limit a history that is too large is brought: not to be at it again with the next command."""

ROW_BYTES = 190
"""What an execution takes beside its command and output, about. With more, a size would be reached on paper alone; with
less, more would go than has to."""


class Policy(Struct, frozen=True):
    """What may go; None is no limit. For `keep` and `max_bytes` nothing goes whole that ended after `settled_at`, and
    with `spares_last` no session's last execution goes by its age."""

    older_than: str | None = None
    keep: int | None = None
    max_bytes: int | None = None
    settled_at: str = ""
    spares_last: bool = False
    session_id: str | None = None


class Removal(Struct, frozen=True):
    """One execution that goes, or when not `whole` its output alone."""

    candidate: Candidate
    whole: bool
    reason: PruneReason

    @property
    def bytes(self) -> int:
        found = self.candidate
        return found.output_bytes + (found.command_bytes + ROW_BYTES if self.whole else 0)


def by_settings(settings: Settings) -> Policy:
    """What goes by itself."""
    return Policy(
        older_than=iso(time() - settings.history_days * 86400) if settings.history_days else None,
        keep=settings.history_count or None,
        max_bytes=settings.history_bytes or None,
        settled_at=iso(time() - SETTLED_S),
        spares_last=True,
    )


def plan(journal: Journal, policy: Policy, session_ids: Iterable[str]) -> Generator[Removal, None, None]:
    """What goes under a policy, oldest first for each reason. What was yielded may be removed before the next.

    Commands that a session's checkpoint lacks, so many as anybody reads, go without their output only: were the process
    to die, they name what is lost with it.
    """
    pruning = journal.pruning
    session_ids = [*session_ids] if policy.session_id is None else [policy.session_id]
    chosen: set[int] = set()
    freed = 0
    used = pruning.used_bytes()

    @cache
    def needed(session_id: str) -> range:
        record = journal.session(session_id)
        if record is None or record.keep.checkpoint_id is None:
            return range(0)
        covers = record.keep.covers
        return range(covers + 1, pruning.last_after(session_id, covers, COMMANDS_READ) + 1)

    newest = cache(pruning.newest_id)

    def removed(found: Candidate, reason: PruneReason) -> Removal | None:
        whole = found.id not in needed(found.session_id)
        return Removal(found, whole, reason) if whole or found.output_bytes else None

    if policy.older_than is not None:
        for found in pruning.oldest(session_ids):
            if found.queued_at >= policy.older_than:
                break
            if found.finished_at is not None and found.finished_at < policy.older_than:
                if policy.spares_last and found.id == newest(found.session_id):
                    continue
                chosen.add(found.id)
                if removal := removed(found, "age"):
                    freed += removal.bytes
                    yield removal
    if policy.keep is not None:
        for session_id in session_ids:
            last = pruning.last_surplus_id(session_id, policy.keep)
            for found in pruning.of(session_id) if last else ():
                if found.id > last:
                    break
                if found.id not in chosen and found.finished_at is not None and found.finished_at < policy.settled_at:
                    chosen.add(found.id)
                    if removal := removed(found, "count"):
                        freed += removal.bytes
                        yield removal
    if policy.max_bytes is None or used - freed <= policy.max_bytes:
        return
    for found in pruning.oldest(session_ids):
        if used - freed <= ENOUGH * policy.max_bytes:
            return
        if found.id in chosen or found.finished_at is None:
            continue
        is_settled = found.finished_at < policy.settled_at and found.id not in needed(found.session_id)
        whole = is_settled and found.id != newest(found.session_id)
        if whole or (found.output_bytes and found.id != newest(found.session_id)):
            removal = Removal(found, whole, "size")
            freed += removal.bytes
            yield removal


class Retention:
    """Keeps the history within its limits. `names` are the sessions by id, `committed` is called after each step."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        names: Callable[[], dict[str, str]],
        committed: Callable[[], None],
    ) -> None:
        self.noted: dict[str, Pruned] = journal.pruning.noted()
        """What has gone of each session so far, by its id."""
        self._settings = settings
        self._journal = journal
        self._names = names
        self._committed = committed
        self._task: asyncio.Task[None] | None = None
        self._is_pruning = asyncio.Lock()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._go_on())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _go_on(self) -> None:
        await asyncio.sleep(FIRST_S)
        while True:
            try:
                await self.prune(by_settings(self._settings))
            except JournalError as error:
                log.warning("the history could not be pruned: %s", error.message)
            await asyncio.sleep(EVERY_S)

    async def clear(self, session_id: str, begin: Callable[[], None]) -> None:
        """Remove what a session that is being deleted has run, without a word: the deletion is told. `begin` is called
        before the first step, if there is one before the deletion itself."""
        ids: list[int] = []
        size = steps = 0
        for candidate in self._journal.pruning.of(session_id):
            if candidate.finished_at is None:
                continue
            ids.append(candidate.id)
            size += candidate.command_bytes + candidate.output_bytes
            if len(ids) >= STEP_EXECUTIONS or size >= STEP_BYTES:
                if not steps:
                    begin()
                self._journal.pruning.remove(ids)
                ids, size, steps = [], 0, steps + 1
                await asyncio.sleep(0)

    async def prune(self, policy: Policy, *, dry_run: bool = False) -> PruneReport:
        """Remove what goes under a policy, or only say what would."""
        async with self._is_pruning:
            used_bytes = self._journal.pruning.used_bytes()
            tally: dict[str, PrunedSession] = {}
            # What an execution takes is estimated: once more where the limit is still missed.
            while await self._go_through(policy, tally, dry_run) and not dry_run:
                if policy.max_bytes is None or self._journal.pruning.used_bytes() <= policy.max_bytes:
                    break
            while not dry_run and tally and self._journal.pruning.free_bytes() > SLACK_BYTES:
                self._journal.pruning.give_back(STEP_BYTES)
                await asyncio.sleep(0)
        sessions = sorted(tally.values(), key=lambda one: one.session)
        report = PruneReport(
            dry_run=dry_run,
            executions=sum(one.executions for one in sessions),
            outputs=sum(one.outputs for one in sessions),
            bytes=sum(one.bytes for one in sessions),
            journal_bytes=used_bytes,
            sessions=sessions,
            snapshots=self._journal.shelf.kept(policy.session_id),
        )
        if sessions and not dry_run:
            log.info(
                "pruned %d executions, and the output of %d more, of %d sessions: %d bytes",
                *(report.executions, report.outputs, len(sessions), report.bytes),
            )
        return report

    async def _go_through(self, policy: Policy, tally: dict[str, PrunedSession], dry_run: bool) -> bool:
        """Remove what goes by the estimates, step by step; whether anything did."""
        count = 0
        step: list[Removal] = []
        for removal in plan(self._journal, policy, [*self._names()]):
            step.append(removal)
            count += 1
            if len(step) >= STEP_EXECUTIONS or sum(one.bytes for one in step) >= STEP_BYTES:
                await self._take(step, tally, dry_run)
                step = []
        await self._take(step, tally, dry_run)
        return count > 0

    async def _take(self, step: list[Removal], tally: dict[str, PrunedSession], dry_run: bool) -> None:
        names = self._names()
        step = [removal for removal in step if removal.candidate.session_id in names]
        if not dry_run and step:
            self._remove(step, names)
            self._committed()
        for removal in step:
            session_id = removal.candidate.session_id
            before = tally.get(session_id) or PrunedSession(names[session_id], 0, 0, 0, 0, [])
            tally[session_id] = PrunedSession(
                session=before.session,
                executions=before.executions + removal.whole,
                outputs=before.outputs + (not removal.whole),
                bytes=before.bytes + removal.bytes,
                up_to_id=max(before.up_to_id, removal.candidate.id),
                reasons=sorted({*before.reasons, removal.reason}),
            )
        await asyncio.sleep(0)

    def _remove(self, step: list[Removal], names: dict[str, str]) -> None:
        journal, at = self._journal, now()
        noted = dict(self.noted)
        with journal.atomic():
            journal.pruning.remove([one.candidate.id for one in step if one.whole])
            journal.pruning.empty([one.candidate.id for one in step if not one.whole], at)
            for session_id in {one.candidate.session_id for one in step}:
                own = [one for one in step if one.candidate.session_id == session_id]
                whole = sum(one.whole for one in own)
                size = sum(one.bytes for one in own)
                last = max(one.candidate.id for one in own)
                before = noted.get(session_id) or Pruned(0, 0, 0, 0, at)
                noted[session_id] = Pruned(
                    before.executions + whole,
                    before.outputs + len(own) - whole,
                    before.bytes + size,
                    max(before.up_to_id, last),
                    at,
                )
                journal.pruning.note(session_id, noted[session_id])
                journal.append(
                    HistoryPruned(
                        at, session_id, names[session_id], whole, len(own) - whole, size, last,
                        sorted({one.reason for one in own}),
                    )
                )  # fmt: skip
        self.noted = noted
