"""An event of the daemon in words: one line for a person. Pure. Kinds of a later daemon are told as they are."""

from __future__ import annotations

import json
import time
from typing import Any, NamedTuple

from rich.text import Text

from omega_sessiond.screen import duration, size
from omega_sessiond.terminal import one_line
from tui.roles import Glyphs, look_of

Json = dict[str, Any]

NAME_COLUMNS = 18

_KNOWN = ("id", "kind", "at", "session_id", "session")

_OUTCOMES = {
    "ok": ("idle", "✓", "+"),
    "error": ("dead", "✗", "x"),
    "interrupted": ("warning", "⊘", "/"),
    "died": ("dead", "✗", "x"),
    "cancelled": ("warning", "⊘", "/"),
}


class Told(NamedTuple):
    """What happened, with a role as glyph and word."""

    role: str
    glyph: str
    ascii_glyph: str
    words: str


def told(event: Json) -> Told:
    """An event's words, safe and on one line. Fields of another type than expected are shown, not trusted."""
    role, glyph, ascii_glyph, words = _told(event)
    return Told(role, glyph, ascii_glyph, one_line(words))


def _told(event: Json) -> Told:
    match event:
        case {"kind": "session_created", "engine": engine}:
            match event.get("parent"):
                case {"session": parent}:
                    return Told("changing", "+", "+", f"created, engine {engine}, a fork of {parent}")
            return Told("changing", "+", "+", f"created, engine {engine}")
        case {"kind": "session_deleted"}:
            return Told("dead", "-", "-", "removed with its history")
        case {"kind": "session_changed", "state": str(state)}:
            look = look_of(state)
            reason = f": {event['state_reason']}" if event.get("state_reason") else ""
            return Told(look.role, look.glyph, look.ascii_glyph, f"{look.word}{reason}")
        case {"kind": "execution_queued", "execution_id": number, "command": command}:
            return Told("changing", "◌", "~", f"{number} queued: {command}")
        case {"kind": "execution_started", "execution_id": number}:
            saved = event.get("resumed_from")
            return Told("busy", "◐", "*", f"{number} started" + (f" from checkpoint {saved}" if saved else ""))
        case {"kind": "input_requested", "execution_id": number, "prompt": prompt}:
            return Told("warning", "?", "?", f"{number} asks: {prompt}")
        case {"kind": "input_answered", "execution_id": number}:
            text = event.get("text")
            return Told("busy", "◐", "*", f"{number} was answered" + (f": {text}" if text is not None else ""))
        case {"kind": "execution_finished", "execution_id": number, "status": status}:
            outcome = _OUTCOMES.get(str(status), ("changing", "·", "."))
            reason = f" ({event['reason']})" if event.get("reason") else ""
            took = event.get("duration_ms")
            after = f" after {duration(took / 1000)}" if isinstance(took, int | float) else ""
            return Told(*outcome, f"{number} {status}{reason}{after}")
        case {"kind": "data", "execution_id": number, "part": {"mime": mime}}:
            return Told("busy", "◐", "*", f"{number} showed {mime}")
        case {"kind": "history_pruned", "executions": executions, "outputs": outputs, "bytes": int(freed)}:
            gone = f"{executions} executions and {outputs} outputs of others, {size(freed)}"
            return Told("changing", "-", "-", f"history went, to keep it within its limits: {gone}")
        case {"kind": "state_saved", "execution_id": number, "size_bytes": int(count)}:
            lacking = [*_names(event.get("left_out")), *_names(event.get("obstacles"))]
            but_for = f", but for {', '.join(lacking)}" if lacking else ""
            return Told("frozen", "◆", "=", f"saved after execution {number}, {size(count)}{but_for}")
        case {"kind": "snapshot_taken", "snapshot": name, "execution_id": number}:
            why = f", by itself: {event['automatic']}" if event.get("automatic") else ""
            note = f": {event['note']}" if event.get("note") else ""
            return Told("frozen", "◆", "=", f"snapshot {name} of the state after execution {number}{why}{note}")
        case {"kind": "snapshot_removed", "snapshot": name}:
            why = ": there are newer ones" if event.get("reason") == "newer" else ""
            return Told("frozen", "-", "-", f"snapshot {name} removed{why}")
        case {"kind": "session_restored", "snapshot": name}:
            if (into := event.get("into")) is not None:
                return Told("frozen", "→", ">", f"a copy goes on from snapshot {name}: {into}")
            kept = f"; what it had is snapshot {event['kept_as']}" if event.get("kept_as") else ""
            return Told("warning", "↩", "<", f"goes on from snapshot {name}{kept}")
        case {"kind": "late_output", "text": text}:
            return Told("changing", "·", ".", f"printed after its command had ended: {text}")
        case {"kind": "gap", "since": since, "oldest_id": oldest}:
            return Told("warning", "…", "~", f"what happened between {since} and {oldest} is no longer kept")
        case _:
            rest = {key: value for key, value in event.items() if key not in _KNOWN}
            fields = f" {json.dumps(rest, ensure_ascii=False)}" if rest else ""
            return Told("changing", "·", ".", f"{event.get('kind')}{fields}")


def _names(value: object) -> list[str]:
    return [str(name) for name in value] if isinstance(value, list) else []


def clock(at: float) -> str:
    """A time of day, the reader's own."""
    return time.strftime("%H:%M:%S", time.localtime(at))


def line(event: Json, at: float | None, glyphs: Glyphs, style_of: dict[str, str]) -> Text:
    """An event's row: when, which session, what."""
    what = told(event)
    name = one_line(str(event.get("session", "")))
    shown = Text()
    shown.append(f" {clock(at) if at is not None else ' ' * 8}  ", style="dim")
    room = Text(name, style="bold")
    room.truncate(NAME_COLUMNS, overflow="ellipsis", pad=True)
    shown.append_text(room)
    glyph = what.ascii_glyph if glyphs.is_ascii else what.glyph
    shown.append(f"  {glyph} ", style=style_of.get(what.role, ""))
    shown.append(what.words)
    return shown


def plain(event: Json) -> str:
    """An event as text, for the filter and the clipboard."""
    return f"{event.get('at', '')} {one_line(str(event.get('session', '')))} {told(event).words}".strip()
