"""What the history adds up to, session by session. Reads the journal in pieces as small as one session's, so that
whoever asks can let others have their turn between two.

A session's figures are kept until something has changed in it. Knows tables and no policy.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct

from omega_sessiond.database import Database


class Commands(Struct):
    """Executions of one session that are kept: how many by status, how long those with a result took together, how
    much their commands and output are."""

    by_status: dict[str, int] = {}
    seconds_by_status: dict[str, float] = {}
    timed: int = 0
    bytes: int = 0

    @property
    def seconds(self) -> float:
        return sum(self.seconds_by_status.values())


class Tally:
    """The sums of one journal."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, tuple[object, Commands]] = {}

    def of(self, session_id: str, version: object) -> Commands:
        """`version` differs when anything of the session's history does."""
        known = self._known.get(session_id)
        if known is not None and known[0] == version:
            return known[1]
        commands = self._read(session_id)
        self._known[session_id] = version, commands
        return commands

    def forget_all_but(self, session_ids: Collection[str]) -> None:
        for session_id in self._known.keys() - set(session_ids):
            del self._known[session_id]

    def _read(self, session_id: str) -> Commands:
        commands = Commands()
        for status, count, timed, milliseconds, size in self._database.rows(
            "SELECT status, count(*), count(duration_ms), total(duration_ms), total(length(CAST(command AS BLOB)))"
            " + total((SELECT offset + length(text) FROM output WHERE execution_id = executions.id"
            " ORDER BY offset DESC LIMIT 1)) FROM executions WHERE session_id = ? GROUP BY status",
            (session_id,),
        ):
            commands.by_status[status] = count
            commands.seconds_by_status[status] = milliseconds / 1000
            commands.timed += timed
            commands.bytes += int(size)
        return commands
