"""How records become what the API shows. Pure: records and pieces of output in, structs out."""

from __future__ import annotations

from msgspec import Struct

from omega_sessiond.journal import ExecutionRecord, Piece
from omega_sessiond.messages import Execution, Stream, Truncated
from omega_sessiond.terminal import plain

DEFAULT_MAX_OUTPUT = 1024 * 1024
"""Bytes of output in a reply that names no bound. More drowns a reader and an agent's context; the whole stays at
…/executions/ID/output."""

LISTED_MAX_OUTPUT = 64 * 1024
"""The same for each execution in a list, of which there can be a thousand in one reply."""


class Pieces(Struct, frozen=True):
    """The part of an output that a reply shows, in order, and how many kept bytes it leaves out."""

    pieces: list[Piece]
    omitted_bytes: int = 0


def execution(record: ExecutionRecord, session_name: str, shown: Pieces) -> Execution:
    """One execution with its output, as every route shows it."""
    texts: dict[Stream, list[str]] = {"stdout": [], "stderr": [], "result": [], "traceback": []}
    combined: list[str] = []
    position = 0
    for stream, offset, text in shown.pieces:
        if offset > position:
            combined.append(f"\n[… {offset - position} bytes left out …]\n")
        texts[stream].append(text)
        combined.append(text)
        position = offset + (len(text) if text.isascii() else len(text.encode()))
    missing = record.dropped_bytes or shown.omitted_bytes
    return Execution(
        id=record.id,
        session=session_name,
        command=record.command,
        status=record.status,
        reason=record.reason,
        output=plain("".join(combined)),
        stdout="".join(texts["stdout"]),
        stderr="".join(texts["stderr"]),
        result="".join(texts["result"]).removesuffix("\n") if record.displayed else None,
        data=None,
        error=record.error,
        execution_count=record.execution_count,
        queued_at=record.queued_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        duration_ms=record.duration_ms,
        truncated=Truncated(record.dropped_bytes, shown.omitted_bytes) if missing else None,
        should_exit=record.should_exit,
        resumed_from=record.resumed_from,
        lost=record.lost,
    )
