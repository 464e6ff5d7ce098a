"""The dashboard's screen as an SVG that depends on nothing but what is shown."""

from __future__ import annotations

import re

from textual.app import App


def photograph(app: App[int], title: str = "omegactl tui") -> str:
    """The present screen. Nothing is fetched when it is shown: a reader's browser takes its own monospaced font."""
    svg = app.export_screenshot(title=title, simplify=True)
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    svg = svg.replace("Fira Code", "Fira Code, DejaVu Sans Mono, Menlo, Consolas")
    svg = re.sub(r"terminal-\d+", "terminal", svg)
    return "\n".join(line.rstrip() for line in svg.splitlines() if line.strip()) + "\n"
