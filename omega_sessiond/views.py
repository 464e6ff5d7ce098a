"""How records become what the API shows. Pure: records and pieces of output in, structs out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from omega_sessiond.journal import Piece
from omega_sessiond.messages import UNFINISHED, DataPart, Execution, Stream, Truncated
from omega_sessiond.parts import PartRecord
from omega_sessiond.records import ExecutionRecord
from omega_sessiond.terminal import plain

DEFAULT_MAX_OUTPUT = 1024 * 1024
"""Bytes of output in a reply that names no bound. More drowns a reader and an agent's context; the whole stays at
…/executions/ID/output."""

LISTED_MAX_OUTPUT = 64 * 1024
"""The same for each execution in a list, of which there can be a thousand in one reply."""


INLINE_BYTES = 16 * 1024
"""Of text and JSON of an execution's parts that stand in the reply itself. They are short by themselves (see parts),
and a loop that shows many is cut off here."""

_MARKUP = ("text/html", "text/css", "text/javascript")
"""Text that says less to its reader than the output beside it."""

NOT_ALL_CAME = "its command or its process ended before all of it had come"


class Pieces(Struct, frozen=True):
    """The part of an output that a reply shows, in order, and how many kept bytes it leaves out."""

    pieces: list[Piece]
    omitted_bytes: int = 0


def execution(
    record: ExecutionRecord,
    session_name: str,
    shown: Pieces,
    parts: Sequence[PartRecord] = (),
    inline_bytes: int = INLINE_BYTES,
) -> Execution:
    """One execution with its output and so many bytes of its parts' text and JSON, as every route shows it."""
    texts: dict[Stream, list[str]] = {"stdout": [], "stderr": [], "result": [], "traceback": []}
    combined: list[str] = []
    position, before = 0, None
    for stream, offset, text in shown.pieces:
        if offset > position:
            gap = f"\n[… {offset - position} bytes left out …]\n"
            combined.append(gap)
            for cut in {before or stream, stream}:  # either may be what was cut: none shall read as if it were whole
                texts[cut].append(gap)
        before = stream
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
        data=_data(record, session_name, parts, min(inline_bytes, INLINE_BYTES)),
        error=record.error,
        execution_count=record.execution_count,
        queued_at=record.queued_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        duration_ms=record.duration_ms,
        truncated=Truncated(record.dropped_bytes, shown.omitted_bytes, record.pruned_at) if missing else None,
        should_exit=record.should_exit,
        resumed_from=record.resumed_from,
        lost=record.lost,
    )


def _data(record: ExecutionRecord, session_name: str, parts: Sequence[PartRecord], left: int) -> list[DataPart] | None:
    found = []
    for one in parts:
        if not one.is_settled and record.status in UNFINISHED:
            continue  # it is on its way
        found.append(part(one, session_name, record.id, has_text=one.size_bytes <= left))
        if found[-1].text is not UNSET or found[-1].json is not UNSET:
            left -= one.size_bytes
    return found or None


def part(record: PartRecord, session_name: str, execution_id: int, *, has_text: bool) -> DataPart:
    """One rich part; `has_text`: with its text or JSON if it is short."""
    omitted = record.omitted if record.is_settled else NOT_ALL_CAME
    text: str | UnsetType = UNSET
    value: Any = UNSET
    if has_text and omitted is None and record.short is not None:
        if record.encoding == "json":
            value, text = _json_or_text(record.short)
        elif record.encoding == "text" and record.mime.startswith("text/") and record.mime not in _MARKUP:
            text = record.short.decode("utf-8", "replace")
    return DataPart(
        n=record.number,
        bundle=record.bundle,
        role=record.role,
        offset=record.place,
        mime=record.mime,
        size_bytes=record.size_bytes,
        href=UNSET if omitted else f"/api/sessions/{session_name}/executions/{execution_id}/data/{record.number}",
        text=text,
        json=value,
        metadata=UNSET if record.metadata is None else msgspec.json.decode(record.metadata, type=dict[str, Any]),
        omitted=UNSET if omitted is None else omitted,
    )


def _json_or_text(body: bytes) -> tuple[Any, str | UnsetType]:
    try:
        return msgspec.json.decode(body), UNSET
    except msgspec.DecodeError:  # a host sends what its user's code makes
        return UNSET, body.decode("utf-8", "replace")
