"""The dashboard's frames and signs in ASCII, for terminals that show nothing else: a filter on each drawn line."""

from __future__ import annotations

from rich.segment import Segment
from textual.color import Color
from textual.filter import LineFilter

SIGNS = str.maketrans(
    {
        **dict.fromkeys("─━═╌┄▔▁▂▃▄▀", "-"),
        **dict.fromkeys("│┃║▏▎▍▌▋▊▉▐▕", "|"),
        **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼┏┓┗┛", "+"),
        **dict.fromkeys("█▇▆▅", "#"),
        "·": "-", "…": "~", "▸": ">", "▶": ">", "•": "*", "▼": "v", "▲": "^", "Ω": "O", "⏎": "<",
        "◆": "*", "↩": "<", "✗": "x", "→": ">", "↳": "`",
    }
)  # fmt: skip
"""Each takes one cell, as what it stands for does."""


class AsciiSigns(LineFilter):
    """Replaces our own signs; what sessions print is left to the terminal."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment
            if segment.text.isascii()
            else Segment(segment.text.translate(SIGNS), segment.style, segment.control)
            for segment in segments
        ]
