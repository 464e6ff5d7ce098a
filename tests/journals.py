"""What tests put into a journal: sessions, and executions as an execute commits them."""

from __future__ import annotations

import hashlib

import msgspec

from omega_sessiond.journal import Journal
from omega_sessiond.messages import Limits, SessionCreated
from omega_sessiond.records import ExecutionRecord, SessionRecord


def at(second: int) -> str:
    """A time of the API; later for a larger number."""
    return f"2026-01-01T09:{second // 60:02d}:{second % 60:02d}.000000Z"


def session(name: str = "work", **fields: object) -> SessionRecord:
    blank = SessionRecord(
        id=hashlib.sha256(name.encode()).hexdigest()[:12],
        name=name,
        engine="python",
        python=None,
        cwd="/",
        created_at=at(0),
        last_used_at=at(0),
        execution_count=0,
        limits=Limits(),
        labels={},
        state_reason=None,
        lost=None,
        host=None,
        host_seq=0,
    )
    return msgspec.structs.replace(blank, **fields)


def add(journal: Journal, record: SessionRecord) -> SessionRecord:
    journal.add_session(record, SessionCreated(record.created_at, record.id, record.name, record.engine, record.labels))
    return record


def run(journal: Journal, owner: SessionRecord, command: str = "x", output: str = "", key: str | None = None) -> int:
    """One whole execution, as an execute commits it; its id."""
    execution_id = journal.queue(owner, command, at=at(1), started=True, idempotency_key=key)
    with journal.atomic():
        journal.add_output(owner, execution_id, "stdout", 0, output, at(2))
        journal.finish(owner, execution_id, status="ok", finished_at=at(2), duration_ms=0.5, execution_count=1)
    return execution_id


def found(journal: Journal, owner: SessionRecord, execution_id: int) -> ExecutionRecord:
    record = journal.execution(owner.id, execution_id)
    assert record is not None
    return record
