"""What goes from the journal when history has a limit: which executions there are to choose from, and how they are
removed.

A part of the journal, which holds the transaction: knows SQL, and no policy. What is removed is noted with its session,
so that nothing goes silently.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import heappop, heappush
from typing import Any

from msgspec import Struct

from omega_sessiond.database import Database
from omega_sessiond.messages import Pruned

REMOVED = "removed to keep the history within its limits"
"""Why a rich part has no body any more."""

_SIZE = (
    "coalesce((SELECT sum(length(text)) FROM output WHERE execution_id = x.id), 0)"
    " + coalesce((SELECT sum(size_bytes) FROM parts WHERE execution_id = x.id AND omitted IS NULL), 0)"
)
_CANDIDATES = (
    f"SELECT x.id, x.session_id, x.queued_at, x.finished_at, length(CAST(x.command AS BLOB)), {_SIZE}"
    " FROM executions x WHERE x.id > ? AND x.session_id = ? ORDER BY x.id LIMIT ?"
)
_BEGINNINGS = (
    "SELECT * FROM (SELECT (SELECT x.queued_at FROM executions x WHERE x.session_id = s.id ORDER BY x.id LIMIT 1)"
    " AS begun_at, s.id FROM sessions s) WHERE begun_at IS NOT NULL ORDER BY begun_at"
)
_PAGE = 200
"""Candidates read at a time: between two pages whoever asks may remove what he has seen."""


class Candidate(Struct, frozen=True):
    """An execution that could go. `finished_at` None: it has not ended, and stays. `output_bytes`: its output and rich
    parts, as they are stored."""

    id: int
    session_id: str
    queued_at: str
    finished_at: str | None
    command_bytes: int
    output_bytes: int


class Pruning:
    """The oldest history of all sessions."""

    def __init__(self, database: Database, before_removal: Callable[[str], None]) -> None:
        """`before_removal` is called with each session of which something goes, in the same transaction."""
        self._database = database
        self._before_removal = before_removal
        self._atomic = database.atomic
        self._execute = database.execute

    # ---- looking ----

    def used_bytes(self) -> int:
        """How much of the file is in use; the rest is free for what comes next."""
        return self._pragma("page_size") * (self._pragma("page_count") - self._pragma("freelist_count"))

    def free_bytes(self) -> int:
        return self._pragma("page_size") * self._pragma("freelist_count")

    def oldest(self, session_ids: Iterable[str]) -> Iterator[Candidate]:
        """All executions of these sessions, those that came the longest ago first. Not by their ids: what was imported
        is older than its ids are. A session is read when it is the turn of its first one: of most, nothing goes."""
        wanted = {*session_ids}
        waiting = deque((begun_at, id) for begun_at, id in self._database.rows(_BEGINNINGS) if id in wanted)
        begun: list[tuple[str, int, Candidate, Iterator[Candidate]]] = []

        def go_on(others: Iterator[Candidate]) -> None:
            candidate = next(others, None)
            if candidate is not None:
                heappush(begun, (candidate.queued_at, candidate.id, candidate, others))

        while waiting or begun:
            if waiting and (not begun or waiting[0][0] < begun[0][0]):
                go_on(self.of(waiting.popleft()[1]))
            else:
                *_, candidate, others = heappop(begun)
                yield candidate
                go_on(others)

    def of(self, session_id: str) -> Iterator[Candidate]:
        """All executions of a session, in their order."""
        after = 0
        while True:
            rows = [*self._database.rows(_CANDIDATES, (after, session_id, _PAGE))]
            yield from (Candidate(*row) for row in rows)
            if len(rows) < _PAGE:
                return
            after = rows[-1][0]

    def newest_id(self, session_id: str) -> int:
        """The session's last execution; 0 when it has none."""
        return int(
            self._database.row("SELECT coalesce(max(id), 0) FROM executions WHERE session_id = ?", [session_id])[0]
        )

    def last_surplus_id(self, session_id: str, keep: int) -> int:
        """The last of the session's executions that has `keep` newer ones; 0 when there are not so many."""
        statement = "SELECT id FROM executions WHERE session_id = ? ORDER BY id DESC LIMIT 1 OFFSET ?"
        row = self._database.row(statement, (session_id, keep))
        return 0 if row is None else int(row[0])

    def last_after(self, session_id: str, execution_id: int, count: int) -> int:
        """The last of the first `count` of the session's executions after that one; 0 when there are none."""
        statement = "SELECT id FROM executions WHERE session_id = ? AND id > ? ORDER BY id LIMIT ?"
        row = self._database.row(f"SELECT coalesce(max(id), 0) FROM ({statement})", (session_id, execution_id, count))
        return int(row[0])

    def noted(self) -> dict[str, Pruned]:
        """What has gone of each session so far."""
        rows = self._database.rows("SELECT session_id, executions, outputs, bytes, up_to_id, at FROM prunings")
        return {session_id: Pruned(*rest) for session_id, *rest in rows}

    # ---- removing ----

    def remove(self, execution_ids: Sequence[int]) -> None:
        """Forget executions with all that belongs to them, their events included."""
        with self._atomic:
            self._announce(execution_ids)
            for id in execution_ids:
                self._execute("DELETE FROM events WHERE execution_id = ? AND body IS NOT NULL", (id,))
                self._execute(
                    "DELETE FROM events WHERE id IN (SELECT started_event_id FROM executions WHERE id = :id UNION ALL"
                    " SELECT finished_event_id FROM executions WHERE id = :id)",
                    {"id": id},
                )
                self._execute("DELETE FROM executions WHERE id = ?", (id,))

    def empty(self, execution_ids: Sequence[int], at: str) -> None:
        """Forget the output and rich parts of executions, and have the executions say so."""
        with self._atomic:
            self._announce(execution_ids)
            for id in execution_ids:
                self._execute(
                    "UPDATE executions SET pruned_at = ?, dropped_bytes = dropped_bytes"
                    " + coalesce((SELECT sum(length(text)) FROM output WHERE execution_id = executions.id), 0)"
                    " WHERE id = ?",
                    (at, id),
                )
                self._execute("DELETE FROM output WHERE execution_id = ?", (id,))
                self._execute(
                    "DELETE FROM part_pieces WHERE part_id IN (SELECT id FROM parts WHERE execution_id = ?)", (id,)
                )
                self._execute("UPDATE parts SET omitted = ? WHERE execution_id = ? AND omitted IS NULL", (REMOVED, id))

    def _announce(self, execution_ids: Sequence[int]) -> None:
        for session_id in {
            str(row[0])
            for id in execution_ids
            for row in self._database.rows("SELECT session_id FROM executions WHERE id = ?", (id,))
        }:
            self._before_removal(session_id)

    def note(self, session_id: str, pruned: Pruned) -> None:
        """Keep what has gone of a session, in place of what was kept before."""
        with self._atomic:
            self._execute(
                "INSERT OR REPLACE INTO prunings (session_id, executions, outputs, bytes, up_to_id, at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (session_id, pruned.executions, pruned.outputs, pruned.bytes, pruned.up_to_id, pruned.at),
            )

    def give_back(self, limit_bytes: int) -> None:
        """Return up to so much free space to the file system."""
        pages = max(1, limit_bytes // self._pragma("page_size"))
        for _ in self._database.rows(f"PRAGMA incremental_vacuum({pages})"):
            pass

    def _pragma(self, name: str) -> int:
        value: Any = self._database.row(f"PRAGMA {name}")[0]
        return int(value)
