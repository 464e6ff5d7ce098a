"""Sparklines: the last values, to scale, in exactly the width asked for."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.sparkline import ASCII_BLOCKS, BLOCKS, RING, ring, sparkline

values = st.lists(st.none() | st.floats(allow_nan=True, allow_infinity=False), max_size=60)


@given(values, st.integers(min_value=0, max_value=80), st.none() | st.floats(min_value=0, max_value=1e9), st.booleans())
def test_any_values_fit(given_values: list[float | None], width: int, top: float | None, is_ascii: bool) -> None:
    """Whatever is measured, the line has its width and holds nothing but columns and gaps."""
    line = sparkline(given_values, width, top=top, is_ascii=is_ascii).plain
    assert len(line) == width
    assert set(line) <= set(ASCII_BLOCKS if is_ascii else BLOCKS) | {" "}


@given(st.lists(st.floats(min_value=0, max_value=1e6), min_size=2, max_size=40))
def test_greater_is_never_lower(found: list[float]) -> None:
    """Of two values the greater one has at least the other's column, and the greatest a full one."""
    line = sparkline(found, len(found)).plain
    heights = [BLOCKS.index(column) for column in line]
    for one, height in zip(found, heights, strict=True):
        for other, other_height in zip(found, heights, strict=True):
            assert one <= other or height >= other_height
    assert max(found) == 0 or max(heights) == len(BLOCKS) - 1


@pytest.mark.parametrize(
    ("found", "width", "top", "line"),
    [
        ([0, 25, 50, 75, 100], 5, 100.0, "▁▃▅▇█"),
        ([1, 2, 3], 2, None, "▆█"),
        ([1, 2], 4, None, "  ▅█"),
        ([None, 0, math.nan, 0.001, 1], 5, None, " ▁ ▂█"),
        ([0, 0], 2, None, "▁▁"),
        ([500], 1, 100.0, "█"),
        ([], 3, None, "   "),
    ],
)
def test_known_lines(found: list[float | None], width: int, top: float | None, line: str) -> None:
    """The newest stand at the right edge; zero, a little, all and unknown can be told apart."""
    assert sparkline(found, width, top=top).plain == line


def test_ring_forgets_the_oldest() -> None:
    """A ring holds the newest samples, however many come."""
    samples = ring()
    samples.extend(float(number) for number in range(RING + 100))
    assert len(samples) == RING
    assert samples[-1] == RING + 99
    assert sparkline(samples, 3).plain == "███"
