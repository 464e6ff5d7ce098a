"""Rich data at the command line: what is said of it, and `omegactl output --save`, with a real daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctl import Omegactl, whatever_it_starts
from isolation import Place

SHOWN = """
class Shown:
    def __init__(self, *parts): self.parts = parts
    def __repr__(self): return 'shown'
    def _repr_mimebundle_(self, include=None, exclude=None): return dict(self.parts)
png, html = ('image/png', b'\\x89PNG\\r\\n'), ('text/html', '<b>\\x1b]0;x\\x07grün</b>')
"""
PNG = b"\x89PNG\r\n"


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        assert command("exec", "work", "-c", SHOWN).code == 0
        yield command


def test_a_picture_is_saved_to_a_file(omegactl: Omegactl, place: Place) -> None:
    """--save writes the bytes; an existing file is overwritten only with -f."""
    assert omegactl("exec", "work", "-c", "Shown(png)").out == "shown\n"
    file = place.home / "plot.png"
    done = omegactl("output", "work", "--save", "plot.png")
    assert (done.code, done.out, done.err, file.read_bytes()) == (0, "", "", PNG)
    file.write_text("mine")
    done = omegactl("output", "work", "--save", str(file))
    assert (done.code, file.read_text()) == (2, "mine")
    assert "exists already" in done.err
    assert omegactl("output", "work", "--save", str(file), "-f").code == 0
    assert file.read_bytes() == PNG


def test_the_files_name_chooses_among_several(omegactl: Omegactl, place: Place) -> None:
    """Of several parts the one is saved that such a file holds; --data chooses by number, - is standard output."""
    id = json.loads(omegactl("exec", "work", "-c", "Shown(html, png)", "--json").out)["id"]
    assert omegactl("output", str(id), "--save", "a.PNG").code == 0
    assert (place.home / "a.PNG").read_bytes() == PNG
    assert omegactl("output", str(id), "--save", "b.htm").code == 0
    assert (place.home / "b.htm").read_text() == "<b>\x1b]0;x\x07grün</b>"
    assert omegactl("output", str(id), "--data", "1", "--save", "c.bin").code == 0
    assert (place.home / "c.bin").read_bytes() == PNG
    assert omegactl("output", str(id), "--data", "0", "--save", "-").out == "<b>\x1b]0;x\x07grün</b>"
    assert omegactl("output", str(id), "--data", "0").out == "<b>\x1b]0;x\x07grün</b>"


@pytest.mark.parametrize(
    ("command", "options", "code", "words"),
    [
        ("1 + 1", ["--save", "a.png"], 4, ["has no pictures or other data, only text", "'omegactl output"]),
        ("Shown(html, png)", ["--save", "a.pdf"], 4, ["has nothing for a .pdf", "0 text/html (18B), 1 image/png (6B)"]),
        ("Shown(html, png)", ["--save", "a"], 2, ["2 parts that 'a' could be: choose one with --data N", "It has: 0"]),
        ("Shown(png)", ["--data", "7"], 4, ["has no part 7", "It has: 0 image/png (6B)."]),
        ("Shown(png)", ["--data", "x"], 2, ["'x' is no number of a part"]),
        ("Shown(png)", ["--save", "a.png", "--tail", "3"], 2, ["go with nothing that shows text"]),
        ("Shown(png)", ["--save", "/nowhere/a.png"], 125, ["No such file or directory: /nowhere/a.png"]),
        ("Shown(('image/png', '!'))", ["--save", "a.png"], 4, ["has nothing for a .png", "0 image/png (omitted)"]),
        ("Shown(('image/png', '!'))", ["--data", "0"], 4, ["Part 0", "was omitted: sending it raised ValueError"]),
    ],
)
def test_what_cannot_be_saved_is_told(
    omegactl: Omegactl, place: Place, command: str, options: list[str], code: int, words: list[str]
) -> None:
    """The error says what the execution has, and no file is left behind."""
    omegactl("exec", "work", "-c", command)
    done = omegactl("output", "work", *options)
    assert done.code == code, done
    assert [word for word in words if word not in done.err] == []
    assert not list(place.home.glob("a*"))


def test_a_person_is_told_how_to_get_what_was_shown(omegactl: Omegactl) -> None:
    """At a terminal exec names each part and the command that saves it; on a pipe it says nothing."""
    done = omegactl("exec", "work", "-c", "Shown(html, png, ('text/latex', '$x$'))")
    assert (done.out, done.err) == ("shown\n", "")
    with omegactl.at_terminal("exec", "work", "-c", "Shown(html, png, ('image/jpeg', '!'))") as terminal:
        said = terminal.until("omitted, [^\r]*\r\n")
    id = json.loads(omegactl("output", "work", "--json").out)["id"]
    assert said.splitlines() == [
        "shown",
        f"text/html (18B): omegactl output {id} --save data.html",
        f"image/png (6B): omegactl output {id} --save data.png",
        "image/jpeg: omitted, sending it raised ValueError: a str stands for base64 here, and this is none",
    ]


def test_a_terminal_gets_no_binary_and_no_escapes(omegactl: Omegactl) -> None:
    """On a terminal text is made safe, and a picture is refused."""
    omegactl("exec", "work", "-c", "Shown(html, png)")
    with omegactl.at_terminal("output", "work", "--data", "0") as terminal:
        assert terminal.end() == 0
        assert "\x1b" not in terminal.seen and "grün</b>" in terminal.seen
    with omegactl.at_terminal("output", "work", "--data", "1") as terminal:
        assert terminal.end() == 2
        assert "image/png (6B) is not for a terminal" in terminal.seen


def test_listings_name_what_there_is(omegactl: Omegactl, place: Place) -> None:
    """history and output --json carry the parts; the wide table has their types."""
    omegactl("exec", "work", "-c", "Shown(html, png)")
    last = json.loads(omegactl("history", "work", "--json").out)[-1]
    assert [part["mime"] for part in last["data"]] == ["text/html", "image/png"]
    assert json.loads(omegactl("output", "work", "--json").out) == last
    assert "text/html, image/png" in omegactl("history", "work", "--format", "wide").out
    assert Path(last["data"][1]["href"]).name == "1"
