"""Reading a session's past from the journal, for its transcript. Requests only; the newest executions first."""

from __future__ import annotations

from typing import Any

from omega_sessiond.client import Client, execution_path, session_path
from omega_sessiond.errors import ExecutionNotFound
from tui.tape import UNFINISHED, Past

PAGE = 30
"""Executions read at a time: a screenful or two."""

TAIL_BYTES = 65_536
"""Read of each output. The rest is named, with the command that shows it."""

Json = dict[str, Any]


def newest(client: Client, name: str) -> tuple[list[Past], bool]:
    """The last executions of a session, oldest first, and whether there are older ones."""
    return _read(client, name, client.get(session_path(name) + "/executions", last=PAGE, max_output=0))


def older(client: Client, name: str, before: int) -> tuple[list[Past], bool]:
    """Those that came before one."""
    path = session_path(name) + "/executions"
    return _read(client, name, client.get(path, last=PAGE, before=before, max_output=0))


def last_command(client: Client, name: str) -> str:
    """What a session has run last, "" if nothing."""
    found = client.get(session_path(name) + "/executions", last=1, max_output=0)
    return str(found[0]["command"]) if found else ""


def _read(client: Client, name: str, executions: list[Json]) -> tuple[list[Past], bool]:
    past = []
    for execution in executions:
        is_open = execution["status"] in UNFINISHED
        if execution["status"] == "queued" or (execution["truncated"] is None and not is_open):
            past.append(Past(execution, "", 0, 0))
            continue
        try:
            past.append(_tail(client, name, execution))
        except ExecutionNotFound:
            continue  # removed meanwhile
    return past, len(executions) == PAGE


def _tail(client: Client, name: str, execution: Json) -> Past:
    path = execution_path(name, execution["id"]) + "/output"
    piece = client.get(path, offset=0, limit=TAIL_BYTES)
    skipped = 0
    if piece["total_bytes"] > piece["next_offset"]:
        skipped = max(piece["total_bytes"] - TAIL_BYTES, 0)
        piece = client.get(path, offset=skipped, limit=2 * TAIL_BYTES)
    return Past(execution, piece["text"], piece["next_offset"], piece["offset"])
