"""The first line: the daemon's state and what goes on, in figures."""

from __future__ import annotations

from itertools import dropwhile
from typing import TYPE_CHECKING, cast

from rich.text import Text

from omega_sessiond.screen import size
from tui.lines import OneLine
from tui.model import posix
from tui.roles import look_of
from tui.sparkline import sparkline
from tui.table import shown_age
from tui.text import cell

if TYPE_CHECKING:
    from tui.app import Dashboard

WORDS = {
    "live": ("idle", "●", "o", "active"),
    "connecting": ("changing", "◌", "~", "connecting"),
    "asleep": ("frozen", "❄", "z", "asleep"),
    "stopped": ("dead", "○", "-", "stopped"),
    "absent": ("dead", "○", "-", "no daemon"),
    "denied": ("dead", "✗", "x", "denied"),
    "mismatch": ("dead", "✗", "x", "another version"),
    "lost": ("warning", "✗", "x", "disconnected"),
}


CPU_COLUMNS = 8
"""Of the small columns beside the figure: a quarter of a minute."""


NARROW = 80
"""Columns below which the program says neither its name nor its version."""


class Headline(OneLine):
    """`show` again whenever something may have changed."""

    def show(self) -> None:
        app = cast("Dashboard", self.app)
        is_live = app.standing.kind == "live"
        sign = Text(" ").append("Omega" if app.glyphs.is_ascii else "Ω", "bold")
        standing = self._standing(app)
        more = Text("   paused", "bold reverse") if app.is_paused else Text()
        room = self.size.width - 1 - sign.cell_len - standing.cell_len - more.cell_len
        # What there is room for, the more telling first.
        name, identity = Text(" omega-sessiond", "bold"), self._identity(app)
        if is_live and not app.is_paused:
            wide, narrow = self._totals(app, CPU_COLUMNS), self._totals(app, 0)
            more = wide if wide.cell_len + name.cell_len <= room else narrow if narrow.cell_len <= room else Text()
            room -= more.cell_len
        if self.size.width < NARROW or name.cell_len > room:
            name = Text()
        room -= name.cell_len
        if not is_live or app.is_paused or self.size.width < NARROW or identity.cell_len > room:
            identity = Text()
        self.set(
            Text().append_text(sign).append_text(name).append_text(standing).append_text(more).append_text(identity)
        )

    def _standing(self, app: Dashboard) -> Text:
        """How it stands with the daemon, and how many sessions there are."""
        line, glyphs, counts = Text("  "), app.glyphs, app.model.counts()
        role, glyph, ascii_glyph, word = WORDS[app.standing.kind]
        line.append(f"{ascii_glyph if glyphs.is_ascii else glyph} {word}", app.role_style(role))
        if app.standing.kind == "live" and app.server is not None:
            line.append(f" {shown_age(app.clock() - posix(app.server['started_at']))}", "dim")
        line.append(f"   {counts.sessions} session{'' if counts.sessions == 1 else 's'}")
        for number, state, word in ((counts.busy, "busy", "busy"), (counts.dead, "dead", "dead")):
            if number:
                look = look_of(state)
                glyph = look.ascii_glyph if glyphs.is_ascii else look.glyph
                line.append(f"  {glyph} {number} {word}", app.role_style(look.role))
        return line

    def _totals(self, app: Dashboard, columns: int) -> Text:
        """What all sessions use together: of one core, as the table has it, and of memory."""
        samples, text = app.model.totals.samples, Text()
        if not samples:
            return text
        newest = samples[-1]
        if newest.cpu is not None:
            text.append("   cpu ", "dim").append(f"{newest.cpu * 100:.0f}%")
            if columns:
                cpus = [*dropwhile(lambda cpu: cpu is None, (sample.cpu for sample in samples))][-columns:]
                top = max(1.0, *(cpu or 0.0 for cpu in cpus))  # less than a core is not drawn as if it were all
                text.append(" ").append_text(sparkline(cpus, len(cpus), top=top, is_ascii=app.glyphs.is_ascii))
        if newest.memory_bytes is not None:
            text.append("   mem ", "dim").append(size(newest.memory_bytes))
        return text

    def _identity(self, app: Dashboard) -> Text:
        if app.server is None:
            return Text()
        return Text("   ").append_text(cell(f"{app.server['version']}, pid {app.server['pid']}", "dim"))

    def on_resize(self) -> None:
        self.show()
