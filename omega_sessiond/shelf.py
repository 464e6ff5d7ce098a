"""Checkpoints and snapshots in the journal: what is on the disk, of which session, and under which names.

A part of the journal, which holds the transaction: knows SQL, and neither hosts nor files. A checkpoint is a state; a
snapshot is a name for one, and several may name the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from omega_sessiond.database import Database
from omega_sessiond.messages import SnapshotsKept


class CheckpointRecord(Struct, frozen=True):
    """A state on the disk. `execution_id`: the last command it holds."""

    id: str
    session_id: str
    at: str
    execution_id: int
    size_bytes: int
    sha256: str
    variables: int
    left_out: dict[str, str]
    obstacles: list[str]

    @property
    def is_complete(self) -> bool:
        """Whether it stands for the whole session."""
        return not self.left_out and not self.obstacles


class SnapshotRecord(Struct, frozen=True):
    """A name for a checkpoint. `automatic`: why it was made when nobody asked for it."""

    id: int
    session_id: str
    checkpoint_id: str
    name: str
    at: str
    note: str
    tags: list[str]
    automatic: str | None


class RestoreRecord(Struct, frozen=True):
    """A session's state was replaced, after its execution `after_id`; `source` says by whose."""

    id: int
    session_id: str
    at: str
    after_id: int
    source: dict[str, Any]


_CHECKPOINT = ", ".join(CheckpointRecord.__struct_fields__)
_SNAPSHOT = ", ".join(SnapshotRecord.__struct_fields__)
_RESTORE = ", ".join(RestoreRecord.__struct_fields__)

_json = msgspec.json.Encoder().encode
_names = msgspec.json.Decoder(dict[str, str]).decode
_list = msgspec.json.Decoder(list[str]).decode
_source = msgspec.json.Decoder(dict[str, Any]).decode


_HAS_NAME = "EXISTS (SELECT 1 FROM snapshots WHERE checkpoint_id = c.id AND automatic IS {}NULL)"
_NAMED = f"coalesce(c.session_id = ?1, TRUE) AND {_HAS_NAME.format('')}"
_AUTOMATIC = f"coalesce(c.session_id = ?1, TRUE) AND {_HAS_NAME.format('NOT ')} AND NOT {_HAS_NAME.format('')}"


class Shelf:
    """Those of all sessions."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._atomic = database.atomic
        self._execute = database.execute

    # ---- checkpoints ----

    def add(self, record: CheckpointRecord) -> None:
        """One that is there already, because its frame was read twice, stays as it is."""
        with self._atomic:
            self._execute(
                f"INSERT OR IGNORE INTO checkpoints ({_CHECKPOINT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [_stored(getattr(record, name)) for name in CheckpointRecord.__struct_fields__],
            )

    def checkpoint(self, id: str) -> CheckpointRecord | None:
        row = self._database.row(f"SELECT {_CHECKPOINT} FROM checkpoints WHERE id = ?", (id,))
        return None if row is None else _checkpoint(row)

    def ids(self, session_id: str) -> set[str]:
        """Every checkpoint of a session."""
        return {row[0] for row in self._database.rows("SELECT id FROM checkpoints WHERE session_id = ?", (session_id,))}

    def clear(self, session_id: str, current: str | None) -> None:
        """Forget the session's checkpoints that are neither current nor named."""
        with self._atomic:
            self._execute(
                "DELETE FROM checkpoints WHERE session_id = ? AND id IS NOT ?"
                " AND NOT EXISTS (SELECT 1 FROM snapshots WHERE checkpoint_id = checkpoints.id)",
                (session_id, current),
            )

    # ---- snapshots ----

    def add_snapshot(
        self,
        session_id: str,
        checkpoint_id: str,
        name: str,
        at: str,
        note: str = "",
        tags: Sequence[str] = (),
        automatic: str | None = None,
    ) -> SnapshotRecord:
        with self._atomic:
            cursor = self._execute(
                "INSERT INTO snapshots (session_id, checkpoint_id, name, at, note, tags, automatic)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (session_id, checkpoint_id, name, at, note, _stored(list(tags)), automatic),
            )
        assert cursor.lastrowid is not None
        return SnapshotRecord(cursor.lastrowid, session_id, checkpoint_id, name, at, note, list(tags), automatic)

    def snapshots(self, session_id: str) -> list[SnapshotRecord]:
        """Those of a session, oldest first."""
        rows = self._database.rows(f"SELECT {_SNAPSHOT} FROM snapshots WHERE session_id = ? ORDER BY id", (session_id,))
        return [_snapshot(row) for row in rows]

    def snapshot(self, session_id: str, name: str) -> SnapshotRecord | None:
        row = self._database.row(
            f"SELECT {_SNAPSHOT} FROM snapshots WHERE session_id = ? AND name = ?", (session_id, name)
        )
        return None if row is None else _snapshot(row)

    def kept(self, session_id: str | None = None) -> SnapshotsKept:
        """How many snapshots there are, of one session or of all, and how large. A checkpoint that has names of both
        kinds counts as named."""
        (named, named_bytes), (automatic, automatic_bytes) = (
            self._database.row(
                f"SELECT count(*), coalesce((SELECT sum(size_bytes) FROM checkpoints c WHERE {chosen}), 0)"
                f" FROM snapshots WHERE automatic IS {'' if is_named else 'NOT '}NULL"
                " AND coalesce(session_id = ?1, TRUE)",
                (session_id,),
            )
            for is_named, chosen in ((True, _NAMED), (False, _AUTOMATIC))
        )
        return SnapshotsKept(named, named_bytes, automatic, automatic_bytes)

    def forget_automatic(self, session_id: str, kept: int) -> list[str]:
        """Delete all but the newest automatic snapshots of a session; the names of those that are gone."""
        surplus = [*self._database.rows(
            "SELECT id, name FROM snapshots WHERE session_id = ? AND automatic IS NOT NULL"
            " ORDER BY id DESC LIMIT -1 OFFSET ?",
            (session_id, kept),
        )]  # fmt: skip
        with self._atomic:
            for id, _ in surplus:
                self.delete_snapshot(id)
        return [name for _, name in surplus]

    def delete_snapshot(self, id: int) -> None:
        with self._atomic:
            self._execute("DELETE FROM snapshots WHERE id = ?", (id,))

    # ---- restores: every time a process went on from a checkpoint ----

    def add_restore(self, session_id: str, at: str, after_id: int, source: dict[str, Any]) -> None:
        with self._atomic:
            self._execute(
                "INSERT INTO restores (session_id, at, after_id, source) VALUES (?, ?, ?, ?)",
                (session_id, at, after_id, _stored(source)),
            )

    def restores(self, session_id: str) -> list[RestoreRecord]:
        """Those of a session, oldest first."""
        rows = self._database.rows(f"SELECT {_RESTORE} FROM restores WHERE session_id = ? ORDER BY id", (session_id,))
        return [_restore(row) for row in rows]

    def copies(self, session_id: str) -> list[tuple[str, RestoreRecord]]:
        """The other sessions that began with a state of this one, by name."""
        rows = self._database.rows(
            f"SELECT s.name, {', '.join('r.' + name for name in RestoreRecord.__struct_fields__)} FROM restores r"
            " JOIN sessions s ON s.id = r.session_id WHERE r.source ->> 'session_id' = ? ORDER BY r.id",
            (session_id,),
        )
        return [(name, _restore(row)) for name, *row in rows]


def _stored(value: object) -> object:
    return _json(value).decode() if isinstance(value, dict | list) else value


def _checkpoint(row: Sequence[Any]) -> CheckpointRecord:
    fields = dict(zip(CheckpointRecord.__struct_fields__, row, strict=True))
    fields["left_out"], fields["obstacles"] = _names(fields["left_out"]), _list(fields["obstacles"])
    return CheckpointRecord(**fields)


def _restore(row: Sequence[Any]) -> RestoreRecord:
    fields = dict(zip(RestoreRecord.__struct_fields__, row, strict=True))
    fields["source"] = _source(fields["source"])
    return RestoreRecord(**fields)


def _snapshot(row: Sequence[Any]) -> SnapshotRecord:
    fields = dict(zip(SnapshotRecord.__struct_fields__, row, strict=True))
    fields["tags"] = _list(fields["tags"])
    return SnapshotRecord(**fields)
