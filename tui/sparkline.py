"""A run of numbers as a line of small columns: CPU and memory over time. Knows neither their meaning nor a widget."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import islice
from math import ceil

from rich.text import Text

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII_BLOCKS = "_.:-=+*#"
"""For terminals whose font or encoding has no block elements; as many as BLOCKS, and rising as they do."""

GAP = " "

RING = 240
"""Samples kept of each quantity: more than the columns of a wide terminal, two minutes at 2 Hz."""

Samples = deque[float | None]


def ring() -> Samples:
    """The newest RING samples; None is one that could not be taken."""
    return deque(maxlen=RING)


def sparkline(
    values: Sequence[float | None] | Samples,
    width: int,
    *,
    top: float | None = None,
    is_ascii: bool = False,
    style: str = "",
) -> Text:
    """The last `width` values, the newest at the right edge.

    `top` is the value of a full column, without it the greatest one shown. Zero has the lowest column and a gap none,
    so that "nothing used" and "not known" differ.
    """
    blocks = ASCII_BLOCKS if is_ascii else BLOCKS
    width = max(width, 0)
    shown = list(islice(values, max(len(values) - width, 0), None))
    known = [value for value in shown if value is not None and value == value]
    full = top if top is not None else max(known, default=0.0)
    columns = "".join([_column(value, full, blocks) for value in shown])
    return Text(columns.rjust(width), style=style, no_wrap=True, end="")


def _column(value: float | None, full: float, blocks: str) -> str:
    if value is None or value != value:
        return GAP
    if value <= 0 or full <= 0:
        return blocks[0]
    if value >= full:
        return blocks[-1]
    # Every value above zero is seen to be above it.
    return blocks[min(max(ceil(value / full * (len(blocks) - 1)), 1), len(blocks) - 1)]
