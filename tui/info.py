"""The Info tab: everything that is known of a session, and what it has used lately."""

from __future__ import annotations

import json
from collections.abc import Iterator

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from omega_sessiond.screen import size
from omega_sessiond.statewords import checkpoint_words, of_limit
from tui.model import Session, posix
from tui.roles import Glyphs, look_of
from tui.sparkline import sparkline
from tui.table import ago
from tui.text import cell

NAMES = 14


class Info(VerticalScroll):
    """Shows one session; `show` again when it has changed."""

    def __init__(self, *, glyphs: Glyphs, id: str | None = None) -> None:
        super().__init__(id=id)
        self._glyphs = glyphs
        self._body = Static(markup=False)

    def compose(self) -> ComposeResult:
        yield self._body

    def show(self, session: Session, now: float) -> None:
        self._body.update(described(session, now, max(self.size.width - NAMES - 12, 10), self._glyphs))


def described(session: Session, now: float, width: int, glyphs: Glyphs) -> Text:
    """All fields, one a line."""
    text = Text()

    def row(name: str, value: Text | str, style: str = "") -> None:
        text.append(f"{name:<{NAMES}}", "dim")
        text.append_text(value if isinstance(value, Text) else cell(value, style))
        text.append("\n")

    look = look_of(session.state)
    row("name", session.name, "bold")
    row("state", f"{look.ascii_glyph if glyphs.is_ascii else look.glyph} {look.word}"
        + (f": {session.reason}" if session.reason else ""))  # fmt: skip
    row("engine", session.engine)
    row("interpreter", session.python or "-")
    row("directory", session.cwd or "-")
    row("pid", str(session.pid or "-"))
    row("id", session.id)
    row("created", ago(now - session.created_at) if session.created_at else "-")
    row("last used", ago(now - session.used_at) if session.used_at else "-")
    row("executions", str(session.count))
    row("running", str(session.running_id or "-"))
    row("queued", str(session.queued))
    text.append("\n")
    for name, value, style in _saved(session, now):
        row(name, value, style)
    text.append("\n")
    usage, limits = session.usage or {}, session.limits
    memory = of_limit(size(usage.get("memory_bytes")), size(limits.get("memory_bytes")))
    row("memory", _with_line(memory, [sample.memory_bytes for sample in session.samples], width, glyphs))
    row("peak", size(usage.get("memory_peak_bytes")))
    cpu = "-" if session.cpu is None else f"{session.cpu * 100:.0f}%"
    row("cpu", _with_line(cpu, [sample.cpu for sample in session.samples], width, glyphs))
    row("cpu time", "-" if usage.get("cpu_s") is None else f"{usage['cpu_s']:.1f}s")
    row("cpu weight", str(limits.get("cpu_weight") or "-"))
    row("tasks", of_limit(str(usage.get("tasks") or "-"), str(limits.get("tasks") or "-")))
    row("measured by", {"cgroup": "its cgroup", "proc": "its processes"}.get(usage.get("source", ""), "-"))
    text.append("\n")
    for key, value in sorted(session.labels.items()) or [("-", "")]:
        row("label", f"{key}={value}" if value else key)
    for name, value in session.extra.items():
        if value is not None:
            row(name.replace("_", " "), json.dumps(value, ensure_ascii=False))
    return text


def _saved(session: Session, now: float) -> Iterator[tuple[str, str, str]]:
    """What is saved of it and what is not, where it comes from, and what has gone of its history."""
    checkpoint, parent, pruned = session.checkpoint, session.parent, session.pruned
    yield "saved", checkpoint_words(checkpoint), ""
    if checkpoint is not None:
        if checkpoint["at"] is not None:
            yield "saved at", ago(now - posix(checkpoint["at"])), ""
        for name, reason in sorted(checkpoint["left_out"].items()):
            yield "left out", f"{name}: {reason}", "yellow"
        for obstacle in checkpoint["obstacles"]:
            yield "not saved", obstacle, "yellow"
        if checkpoint["trouble"] and checkpoint["id"] is not None:
            yield "last attempt", checkpoint["trouble"], "yellow"
    if parent is not None:
        after = "" if parent["execution_id"] is None else f" after execution {parent['execution_id']}"
        yield "forked from", f"{parent['session']}{after}, {ago(now - posix(parent['at']))}", ""
    if pruned is not None:
        what = f"{pruned['executions']} executions, {pruned['outputs']} outputs, {size(pruned['bytes'])}"
        yield "pruned", f"{what}, up to {pruned['up_to_id']}, {ago(now - posix(pruned['at']))}", ""


def _with_line(figure: str, values: list[float | None] | list[int | None], width: int, glyphs: Glyphs) -> Text:
    text = Text(f"{figure:<12}")
    text.append_text(sparkline(values, min(width, len(values)), is_ascii=glyphs.is_ascii, style="cyan"))
    return text
