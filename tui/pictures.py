"""A PNG as characters: two pixels in each cell where there are colours, shades of grey as characters where not.

The picture comes from a session's code and is hostile until proven harmless: what it claims to be is looked at before
anything of it is unpacked, and what would cost too much is refused in words. Knows no widget and fetches nothing.
"""

from __future__ import annotations

import io
import struct
import warnings
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from rich.color import Color, ColorSystem
from rich.console import Console
from rich.style import Style
from rich.text import Text

from omega_sessiond.errors import OmegaError

if TYPE_CHECKING:
    from PIL.Image import Image

Palette = Literal["colors", "shades", "ascii"]
"""`colors`: half blocks, which a terminal of 256 or 16 colours gets in the nearest it has; `shades`: blocks of four
densities, for NO_COLOR; `ascii`: letters of rising weight, where the font has no blocks either."""

MAX_BYTES = 32 * 1024 * 1024
MAX_PIXELS = 16_000_000
"""Unpacked that is 64 MB for a moment. A figure of A4 at 300 dpi has 8.7 million; a bomb of 20,000 x 20,000 has 400."""

PAPER = (255, 255, 255)
"""What shines through: figures are made for white paper, and their black axes would vanish on a dark screen."""

STEP = 5
"""Colours are rounded to multiples of this: nobody sees it, and areas of one colour become one span instead of many."""

SHADES = {"shades": " ░▒▓█", "ascii": " .:-=+*#%@"}


class PictureRefused(OmegaError):
    """A picture that is not shown; the text says why."""

    code = "picture_refused"
    hint = "Save it with 'omegactl output ID --save FILE' and look at it there."


def half_blocks(png: bytes, width: int, height: int, *, palette: Palette = "colors") -> Text:
    """The picture in at most `width` columns and `height` rows, its proportions kept, never enlarged.

    A cell is taken to be twice as high as wide. Raises PictureRefused. Takes milliseconds for a usual figure and up to
    a second for the largest: a thread's work, not the event loop's.
    """
    if width < 1 or height < 1:
        raise PictureRefused("There is no room for a picture", hint="Make the terminal larger.")
    picture = _unpacked(png, width, 2 * height)
    return _colored(picture) if palette == "colors" else _shaded(picture, SHADES[palette])


def lines(drawn: Text) -> list[str]:
    """What was drawn as lines that `tui.text.line` draws again: colours as sequences, and no others."""
    console = Console(color_system="truecolor", width=drawn.cell_len + 1)
    return [
        "".join(
            segment.style.render(segment.text, color_system=ColorSystem.TRUECOLOR) if segment.style else segment.text
            for segment in row.render(console)
        )
        for row in drawn.split("\n")
    ]


def _unpacked(png: bytes, columns: int, rows: int) -> Image:
    """The picture in RGB, on paper, no larger than asked."""
    # Not with the module: a dashboard in which no session makes pictures need not wait for it.
    from PIL import Image

    if len(png) > MAX_BYTES:
        raise PictureRefused(f"The picture has {len(png):,} bytes, more than the {MAX_BYTES:,} that are shown here")
    across, down = _claimed_size(png)
    if across * down > MAX_PIXELS:
        raise PictureRefused(
            f"The picture has {across:,} x {down:,} pixels, more than the {MAX_PIXELS:,} that are shown here"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            opened = Image.open(io.BytesIO(png), formats=("PNG",))
            with opened:
                scale = min(columns / across, rows / down, 1.0)
                size = max(round(across * scale), 1), max(round(down * scale), 1)
                opened.load()
                is_clear = "A" in opened.mode or "transparency" in opened.info
                picture = opened.convert("RGBA" if is_clear else "RGB")
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, OverflowError, MemoryError,
            ZeroDivisionError, EOFError, Warning, Image.DecompressionBombError) as error:  # fmt: skip
        # Pillow has no one class for "this is no such file": broken chunks raise whatever the broken value leads to.
        raise PictureRefused(f"The picture is no whole PNG ({type(error).__name__})") from None
    picture = picture.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
    if picture.mode == "RGBA":
        paper = Image.new("RGBA", picture.size, (*PAPER, 255))
        picture = Image.alpha_composite(paper, picture).convert("RGB")
    return picture.point([STEP * round(value / STEP) for value in range(256)] * 3)


def _claimed_size(png: bytes) -> tuple[int, int]:
    """What the first chunk says; it has its fixed place (PNG specification, section 5.6)."""
    if png[:8] != b"\x89PNG\r\n\x1a\n" or png[12:16] != b"IHDR" or len(png) < 24:
        raise PictureRefused("The picture is no whole PNG")
    across, down = struct.unpack(">II", png[16:24])
    return across, down


def _colored(picture: Image) -> Text:
    """▀ in the upper pixel's colour on the lower one's; neighbours that look the same share a span."""
    across, down = picture.size
    pixels = picture.tobytes()
    stride = 3 * across
    drawn = Text(no_wrap=True, end="")
    for top in range(0, down, 2):
        if top:
            drawn.append("\n")
        above = pixels[top * stride : (top + 1) * stride]
        below = pixels[(top + 1) * stride : (top + 2) * stride] if top + 1 < down else None
        run, look = 0, (b"", b"")
        for at in range(0, stride, 3):
            found = (above[at : at + 3], below[at : at + 3] if below is not None else b"")
            if run and found != look:
                drawn.append("▀" * run, _style(*look))
                run = 0
            look = found
            run += 1
        drawn.append("▀" * run, _style(*look))
    return drawn


@lru_cache(4096)
def _style(above: bytes, below: bytes) -> Style:
    return Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below) if below else None)


def _shaded(picture: Image, shades: str) -> Text:
    """One character a cell, the denser the lighter: terminals without colours are dark more often than not."""
    from PIL import ImageOps

    across, down = picture.size
    grey = ImageOps.autocontrast(picture.convert("L").resize((across, (down + 1) // 2)))
    values = grey.tobytes()
    rows = [
        "".join([shades[value * (len(shades) - 1) // 255] for value in values[at : at + across]])
        for at in range(0, len(values), across)
    ]
    return Text("\n".join(rows), no_wrap=True, end="")
