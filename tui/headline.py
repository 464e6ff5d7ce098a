"""The first line: the daemon's state and what goes on, in figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from rich.text import Text

from tui.lines import OneLine
from tui.model import posix
from tui.roles import look_of
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


class Headline(OneLine):
    """`show` again whenever something may have changed."""

    def show(self) -> None:
        app = cast("Dashboard", self.app)
        glyphs, counts = app.glyphs, app.model.counts()
        line = Text(" ")
        line.append("Omega" if glyphs.is_ascii else "Ω", "bold")
        if self.size.width >= 80:
            line.append(" omega-sessiond", "bold")
        role, glyph, ascii_glyph, word = WORDS[app.standing.kind]
        line.append("  ")
        line.append(f"{ascii_glyph if glyphs.is_ascii else glyph} {word}", app.role_style(role))
        if app.standing.kind == "live" and app.server is not None:
            line.append(f" {shown_age(app.clock() - posix(app.server['started_at']))}", "dim")
        line.append(f"   {counts.sessions} session{'' if counts.sessions == 1 else 's'}")
        for number, state, word in ((counts.busy, "busy", "busy"), (counts.dead, "dead", "dead")):
            if number:
                look = look_of(state)
                glyph = look.ascii_glyph if glyphs.is_ascii else look.glyph
                line.append(f"  {glyph} {number} {word}", app.role_style(look.role))
        if app.is_paused:
            line.append("   paused", "bold reverse")
        elif app.standing.kind == "live" and self.size.width >= 80 and app.server is not None:
            line.append("   ").append_text(cell(f"{app.server['version']}, pid {app.server['pid']}", "dim"))
        self.set(line)

    def on_resize(self) -> None:
        self.show()
