"""The numbers of events and executions: one sequence, which rises and never gives a number twice.

A part of the journal, which holds the transaction. The last number is known from the rows that bear one; what those
bore that were removed is kept in a row of its own, so that neither a removal nor a death of the daemon brings a number
back. Not AUTOINCREMENT, which would write a page of its own in every commit.
"""

from __future__ import annotations

from omega_sessiond.database import Database
from omega_sessiond.errors import JournalCorrupt, JournalError

_NEWEST = (
    "SELECT coalesce(max(id), 0) FROM events",
    "SELECT coalesce(max(event_id), 0) FROM output",
    # Only the newest one's beginning can be above all else: a beginning that did not follow at once is an event.
    "SELECT coalesce((SELECT max(id, coalesce(started_event_id, 0)) FROM executions ORDER BY id DESC LIMIT 1), 0)",
)

SKIPPED = 1_000_000
"""More than were ever given since the newest number that can be read, where a damaged table hides its own."""


class Ids:
    """`last` is the newest number there ever was, `pruned_to` the newest that is told no longer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.last = self.pruned_to = 0
        self._read()

    def _read(self) -> None:
        marks = {str(name): int(value) for name, value in self._database.rows("SELECT name, value FROM marks")}
        self.pruned_to = marks["pruned_to"]
        found = max(marks.values())
        is_whole = True
        for statement in _NEWEST:
            try:
                found = max(found, int(self._database.row(statement)[0]))
            except JournalCorrupt:  # told by whoever needs what stands there
                is_whole = False
        self.last = found if is_whole else max(found, self.last) + SKIPPED

    def undo(self) -> None:
        """After a transaction was undone: what it took is free again."""
        try:
            self._read()
        except JournalError:
            pass  # then those numbers are skipped

    def next(self) -> int:
        self.last += 1
        return self.last

    def keep(self) -> None:
        """Before rows are removed, or lose a number: none of theirs comes back."""
        self._database.execute("UPDATE marks SET value = ? WHERE name = 'last'", (self.last,))

    def prune(self, up_to: int) -> None:
        """Events up to this one are told no longer."""
        self._database.execute("UPDATE marks SET value = ? WHERE name = 'pruned_to'", (up_to,))
        self.pruned_to = up_to
