"""Pictures in cells: the right colours in the right places, and hostile files refused before they cost anything."""

from __future__ import annotations

import io
import random
import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.color import Color
from rich.style import Style
from rich.text import Text

from tui.pictures import MAX_BYTES, PictureRefused, half_blocks

RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


def png(picture: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claiming(width: int, height: int, data: bytes) -> bytes:
    """A PNG that says it has this size, with that much in it."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def looks(drawn: Text) -> list[tuple[object, object]]:
    """Colour and background of every cell."""
    found = []
    for at, character in enumerate(drawn.plain):
        if character == "\n":
            continue
        style = next((span.style for span in drawn.spans if span.start <= at < span.end), Style())
        assert isinstance(style, Style)
        colors = [color.triplet if color is not None else None for color in (style.color, style.bgcolor)]
        found.append((*[tuple(triplet) if triplet else None for triplet in colors],))
    return found  # type: ignore[return-value]


def test_two_pixels_stand_in_each_cell() -> None:
    """The upper pixel is the block's colour, the lower one its background; an odd last row has no lower ones."""
    picture = Image.new("RGB", (2, 3), RED)
    picture.putpixel((0, 1), BLUE)
    picture.putpixel((1, 2), WHITE)
    drawn = half_blocks(png(picture), 10, 10)
    assert drawn.plain == "▀▀\n▀▀"
    assert looks(drawn) == [(RED, BLUE), (RED, RED), (RED, None), (WHITE, None)]


@pytest.mark.parametrize(
    ("size", "room", "cells"),
    [
        ((640, 480), (60, 40), (60, 23)),
        ((640, 480), (200, 10), (27, 10)),
        ((10, 10), (80, 24), (10, 5)),
        ((10_000, 10), (80, 24), (80, 1)),
        ((10, 10_000), (80, 24), (1, 24)),
        ((1, 1), (1, 1), (1, 1)),
    ],
)
def test_proportions_are_kept(size: tuple[int, int], room: tuple[int, int], cells: tuple[int, int]) -> None:
    """A picture fills its room in one direction, keeps its shape, and a small one is not blown up."""
    rows = half_blocks(png(Image.new("RGB", size, RED)), *room).plain.split("\n")
    assert (len(rows[0]), len(rows)) == cells
    assert len({len(row) for row in rows}) == 1


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_is_drawn(mode: str) -> None:
    """Grey, palettes, 1 and 16 bits, with alpha or without, interlaced or not: white is white."""
    source = Image.new("L", (4, 4), 255)
    picture = Image.new("I;16", (4, 4), 65535) if mode == "I;16" else source.convert(mode)
    assert set(looks(half_blocks(png(picture), 4, 4))) == {(WHITE, WHITE)}


def test_what_is_clear_lies_on_white_paper() -> None:
    """Transparent places are white, half transparent ones pale."""
    picture = Image.new("RGBA", (1, 2), (0, 0, 0, 0))
    picture.putpixel((0, 1), (255, 0, 0, 128))
    assert looks(half_blocks(png(picture), 1, 1)) == [(WHITE, (255, 125, 125))]


def test_without_colours_density_speaks() -> None:
    """For NO_COLOR the picture is one of characters, black the lightest of them and white the densest."""
    picture = Image.new("RGB", (4, 2), (0, 0, 0))
    picture.paste(WHITE, (2, 0, 4, 2))
    for palette, line in (("shades", "  ██"), ("ascii", "  @@")):
        drawn = half_blocks(png(picture), 4, 1, palette=palette)  # type: ignore[arg-type]
        assert (drawn.plain, drawn.spans) == (line, [])


def test_fewer_colours_are_the_nearest() -> None:
    """The colours are true ones, which rich brings down to what the terminal has: red stays red in 256 and in 16."""
    drawn = half_blocks(png(Image.new("RGB", (1, 2), RED)), 1, 1)
    style = drawn.spans[0].style
    assert isinstance(style, Style) and style.color is not None
    assert style.color == Color.from_rgb(*RED)


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (claiming(20_000, 20_000, b""), "20,000 x 20,000 pixels"),
        (claiming(2**31 - 1, 1, b""), "pixels"),
        (claiming(0, 5, b""), "no whole PNG"),
        (claiming(100, 100, bytes(50)), "no whole PNG"),
        (b"", "no whole PNG"),
        (b"GIF89a" + bytes(100), "no whole PNG"),
        (png(Image.new("RGB", (50, 50)))[:60], "no whole PNG"),
        (bytes(MAX_BYTES + 1), "bytes"),
    ],
)
def test_bombs_and_fragments_are_refused(file: bytes, says: str) -> None:
    """What is too large by its own word, broken or no PNG is refused in words with what to do instead."""
    with pytest.raises(PictureRefused) as refused:
        half_blocks(file, 80, 24)
    assert says in str(refused.value)
    assert "omegactl output" in refused.value.hint


def test_text_bombs_are_refused() -> None:
    """A small file whose comment unpacks to a hundred megabytes is no picture."""
    comment = chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(100_000_000)))
    whole = png(Image.new("RGB", (2, 2)))
    with pytest.raises(PictureRefused):
        half_blocks(whole[:33] + comment + whole[33:], 80, 24)


@settings(max_examples=150)
@given(st.integers(min_value=0), st.lists(st.tuples(st.integers(min_value=0), st.integers(0, 255)), max_size=6))
def test_broken_files_are_drawn_or_refused(seed: int, changes: list[tuple[int, int]]) -> None:
    """Whatever bytes are changed, there is a picture or a refusal, and nothing else."""
    noise = random.Random(seed)
    picture = Image.frombytes("P", (9, 9), noise.randbytes(81))
    picture.putpalette(noise.randbytes(768))
    file = bytearray(png(picture, transparency=0))
    for at, value in changes:
        file[at % len(file)] = value
    try:
        drawn = half_blocks(bytes(file), 20, 20)
    except PictureRefused:
        return
    assert set(drawn.plain) <= {"▀", "\n"}
