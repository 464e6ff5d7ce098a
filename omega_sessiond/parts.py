"""The rich parts of executions in the journal: pictures, HTML and other data, whole once all their pieces have come.

A part of the journal, which holds the transaction: knows SQL, and neither hosts nor HTTP. What a host sends is taken
only where it goes on from what is stored, so that a part's length is true.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import msgspec
from msgspec import Struct

from omega_sessiond.database import Database
from omega_sessiond.frames import PartFrame
from omega_sessiond.messages import PartRole

SHORT_BYTES = 4096
"""A part up to this size is read together with its description."""

_STORED = (
    "coalesce((SELECT offset + length(body) FROM part_pieces WHERE part_id = p.id ORDER BY offset DESC LIMIT 1), 0)"
)
_SELECT = (
    "SELECT p.id, p.number, p.bundle, p.role, p.place, p.mime, p.encoding, p.size_bytes, p.metadata, p.omitted,"
    f" {_STORED}, CASE WHEN p.size_bytes <= {SHORT_BYTES} THEN"
    " (SELECT body FROM part_pieces WHERE part_id = p.id AND offset = 0) END"
    " FROM parts p WHERE p.execution_id = ?"
)


class PartRecord(Struct, frozen=True):
    """One way to show something, as it is kept. `metadata` is JSON; `omitted` says why there is no body; `stored_bytes`
    is less than `size_bytes` while pieces are missing; `short` is the body of a small one."""

    id: int
    number: int
    bundle: int
    role: PartRole
    place: int
    mime: str
    encoding: str
    size_bytes: int
    metadata: str | None
    omitted: str | None
    stored_bytes: int
    short: bytes | None

    @property
    def is_settled(self) -> bool:
        """Whether nothing of it is to come any more."""
        return self.omitted is not None or self.stored_bytes == self.size_bytes


class Parts:
    """The parts of all executions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._atomic = database.atomic
        self._execute = database.execute

    def add(self, frame: PartFrame) -> PartRecord | None:
        """Take what a host sent of a part; the part once nothing is missing, None before and when it had that."""
        with self._atomic:
            before = self.one(frame.id, frame.n)
            if before is None and frame.mime is not None:
                self._execute(
                    "INSERT INTO parts (execution_id, number, bundle, role, place, mime, encoding, size_bytes,"
                    " metadata, omitted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                    (
                        *(frame.id, frame.n, frame.bundle, frame.role, frame.place, frame.mime, frame.enc),
                        *(frame.size, _checked(frame.meta), frame.omitted),
                    ),
                )
                before = self.one(frame.id, frame.n)
            elif before is not None and before.is_settled:
                return None
            if before is None:
                return None
            if before.omitted is None and frame.body:
                if frame.off != before.stored_bytes or frame.off + len(frame.body) > before.size_bytes:
                    return None
                self._execute(
                    "INSERT INTO part_pieces (part_id, offset, body) VALUES (?, ?, ?)",
                    (before.id, frame.off, frame.body),
                )
            now = self.one(frame.id, frame.n)
        return now if now is not None and now.is_settled else None

    def of(self, execution_id: int) -> list[PartRecord]:
        """The execution's parts in order, those too of which pieces are missing."""
        return [PartRecord(*row) for row in self._database.rows(_SELECT + " ORDER BY p.number", (execution_id,))]

    def one(self, execution_id: int, number: int) -> PartRecord | None:
        row = self._database.row(_SELECT + " AND p.number = ?", (execution_id, number))
        return None if row is None else PartRecord(*row)

    def body(self, part: PartRecord) -> Generator[bytes, None, None]:
        """The part's pieces in order, each read when it is asked for: between two of them the journal is free."""
        offset = 0
        while offset < part.size_bytes:
            row = self._database.row("SELECT body FROM part_pieces WHERE part_id = ? AND offset = ?", (part.id, offset))
            if row is None:
                return
            offset += len(row[0])
            yield row[0]


def _checked(metadata: str | None) -> str | None:
    """The JSON of an object, as the column takes it; None for anything else."""
    if metadata is None:
        return None
    try:
        return msgspec.json.encode(msgspec.json.decode(metadata, type=dict[str, Any])).decode()
    except (msgspec.DecodeError, RecursionError):
        return None
