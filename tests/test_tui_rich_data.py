"""Pictures in the transcript: drawn where they were shown, with the command that saves them; hostile ones in words."""

from __future__ import annotations

import io
import subprocess
from typing import Any

from PIL import Image

from dashboard import Driver, driven, run
from life import Life
from tui.tape import PICTURE_ROWS, Past, Tape


def png(width: int = 64, height: int = 64, color: tuple[int, int, int] = (255, 0, 0)) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), color).save(file, "PNG")
    return file.getvalue()


def shows(data: bytes) -> str:
    """Code that shows these bytes as a picture."""
    return f"class P:\n    def _repr_png_(self): return {data!r}\n    def __repr__(self): return 'a picture'\nP()"


def picture_rows(dashboard: Driver) -> int:
    return sum("▀▀▀" in line for line in dashboard.shown().splitlines())


def test_a_picture_is_drawn_where_it_was_shown(life: Life) -> None:
    """A picture that comes while one looks, and one from before, stand in the transcript, each with its own command,
    which works."""
    life.execute("work", shows(png(color=(0, 0, 255))))

    async def story() -> None:
        async with driven(size=(150, 60)) as dashboard:
            await dashboard.selects("work")
            await dashboard.until(lambda: picture_rows(dashboard) == PICTURE_ROWS, "the first picture is drawn")
            life.execute("work", shows(png()))
            await dashboard.until(lambda: picture_rows(dashboard) == 2 * PICTURE_ROWS, "the second one, too")
            await dashboard.sees("image/png")
            lines = [line for line in dashboard.shown().splitlines() if "omegactl output" in line]
            assert len(lines) == 2
            words = lines[0].partition("omegactl ")[2].partition(" ──")[0].split()
            done: subprocess.CompletedProcess[str] = life.omegactl(*words)
            assert done.returncode == 0, done.stderr
            assert (life.place.home / words[-1]).read_bytes() == png(color=(0, 0, 255))

    run(story())


def test_a_bomb_is_refused_in_words(life: Life) -> None:
    """A picture that would cost too much to unpack is said to be one; how to save it stands beneath."""
    bomb = bytearray(png())
    bomb[16:24] = (20_000).to_bytes(4, "big") * 2

    async def story() -> None:
        async with driven(size=(150, 40)) as dashboard:
            await dashboard.is_live()
            life.execute("work", shows(bytes(bomb)))
            await dashboard.sees("20,000 x 20,000 pixels")
            await dashboard.sees("--save plot.png")

    run(story())


def part(n: int, mime: str, **more: Any) -> dict[str, Any]:
    return {"n": n, "bundle": n, "role": "display", "offset": 0, "mime": mime, "size_bytes": 9, "href": f"/{n}", **more}


def finished(output: str, *parts: dict[str, Any], id: int = 7) -> Past:
    execution = {
        "id": id, "command": "show()", "status": "ok", "reason": None, "lost": None, "started_at": "x",
        "duration_ms": 1.0, "execution_count": 1, "data": list(parts),
    }  # fmt: skip
    return Past(execution, output, len(output.encode()), 0)


def texts(tape: Tape) -> list[str]:
    return [line.text for line in tape.lines(tape.first, tape.end)]


def test_parts_stand_at_their_place_in_the_output() -> None:
    """Output before a picture stands before it, what came later after it, and the same with other parts."""
    tape = Tape()
    tape.load([finished("éa\nb\n", part(0, "image/png", offset=4), part(1, "text/html", offset=6))], has_older=False)
    found = texts(tape)
    assert found[:2] == ["1> show()", "éa"]
    assert found[2 : 2 + PICTURE_ROWS] == [""] * PICTURE_ROWS
    assert "omegactl output 7 --save plot.png" in found[2 + PICTURE_ROWS]
    assert found[-2] == "b"
    assert "omegactl output 7 --save data.html" in found[-1]


def test_of_a_bundle_the_picture_is_named() -> None:
    """Where an object can be shown in several ways, its picture is; a second picture is asked for by number."""
    tape = Tape()
    same = {"bundle": 0}
    tape.load([finished("", part(0, "image/png"), part(1, "text/html", **same), part(2, "image/png"))], has_older=False)
    captions = [text for text in texts(tape) if "omegactl" in text]
    assert len(captions) == 2
    assert "--data 2 --save plot-2.png" in captions[1]
    assert len(tape.take_pictures()) == 2
    assert tape.take_pictures() == []


def test_a_picture_finds_its_lines() -> None:
    """Drawn late, when older executions have come before it, a picture fills its own lines and no other."""
    tape = Tape()
    tape.load([finished("", part(0, "image/png"), id=9)], has_older=True)
    (late,) = tape.take_pictures()
    tape.prepend([finished("older\n", part(0, "image/png"), id=7)], has_older=False)
    (older,) = tape.take_pictures()
    tape.draw(late, ["late"] * 2)
    tape.draw(older, ["early"] * (PICTURE_ROWS + 9))
    found = texts(tape)
    assert found.count("early") == PICTURE_ROWS
    assert found.index("late") > found.index("early")
    assert [line.kind for line in tape.lines(tape.first, tape.end)].count("picture") == 2 * PICTURE_ROWS


def test_types_are_text() -> None:
    """What a session calls the type of its data has no way to act on the terminal."""
    tape = Tape()
    hostile = "image/\x1b]52;c;ZXZpbA==\x07[@click=app.quit]x"
    tape.load([finished("", part(0, hostile), part(1, hostile, href=None))], has_older=False)
    assert not [text for text in texts(tape) if "\x1b" in text or "\x07" in text]
