"""The sanitiser: nothing a terminal obeys gets through, whatever the text and wherever it is cut."""

from __future__ import annotations

import itertools
import re

import pyte
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from omega_sessiond.terminal import PlainLines, Sanitizer, one_line, plain, sanitize

SGR = re.compile(r"\x1b\[[0-9;:]*m")
ERASURE = re.compile(r"\x1b\[[012]?K")
OBEYED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")

CHARACTERS = "aZ01;:?mKH[]PX^_\\(B! \n\t\r\b\0\x07\x0b\x0c\x18\x1a\x1b\x7f\x85\x90\x98\x9b\x9c\x9d\x9e\x9fé漢\udc80"
pieces = st.sampled_from(CHARACTERS) | st.sampled_from(
    ["\x1b[31m", "\x1b[0m", "\x1b]0;t\x07", "\x1b]8;;x\x1b\\", "\x1bPq\x1b\\", "\x1b[2K", "text"]
)
texts = st.lists(pieces, max_size=40).map("".join) | st.text(max_size=60)


def in_pieces(text: str, cuts: list[int], *, colors: bool, motion: bool) -> str:
    sanitizer = Sanitizer(colors=colors, motion=motion)
    at = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    safe = [sanitizer.feed(text[start:end]) for start, end in itertools.pairwise(at)]
    return "".join(safe) + sanitizer.close()


@given(texts)
def test_nothing_obeyed_is_left(text: str) -> None:
    """Without colours and motion the only control characters that pass are newline and tab."""
    assert OBEYED.search(sanitize(text)) is None
    assert OBEYED.search(plain(text)) is None
    assert "\n" not in one_line(text) and OBEYED.search(one_line(text)) is None


@given(texts)
def test_only_colours_and_motion_are_left_when_asked_for(text: str) -> None:
    """With both allowed, what is left after removing SGR, erasures, CR and BS holds nothing that is obeyed."""
    assert OBEYED.search(SGR.sub("", sanitize(text, colors=True))) is None
    left = SGR.sub("", ERASURE.sub("", sanitize(text, colors=True, motion=True)))
    assert OBEYED.search(left.replace("\r", "").replace("\b", "")) is None


@given(texts, st.lists(st.integers(min_value=0), max_size=12), st.booleans(), st.booleans())
@example("\x1b]0;x\x1b\\y", [6], False, False)
@example("\x1b[3\x1b[1mz", [3, 4], True, False)
def test_cuts_change_nothing(text: str, cuts: list[int], colors: bool, motion: bool) -> None:
    """A text in pieces comes out as the whole text does."""
    assert in_pieces(text, cuts, colors=colors, motion=motion) == sanitize(text, colors=colors, motion=motion)


@given(texts)
def test_every_single_cut_is_harmless(text: str) -> None:
    """Character by character, too, the text comes out as in one piece."""
    cuts = list(range(len(text)))
    assert in_pieces(text, cuts, colors=True, motion=True) == sanitize(text, colors=True, motion=True)


@given(texts, st.lists(st.integers(min_value=0), max_size=12))
def test_plain_in_pieces_is_plain(text: str, cuts: list[int]) -> None:
    """Line by line, out of pieces cut anywhere, comes what the whole text would have shown."""
    lines = PlainLines()
    at = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    shown = [lines.feed(text[start:end]) for start, end in itertools.pairwise(at)]
    assert all(part == "" or part.endswith("\n") for part in shown)
    assert "".join(shown) + lines.close() == plain(text)


anything = texts | st.binary(max_size=80).map(lambda data: data.decode("latin-1")) | st.text(max_size=80)
cuts = st.lists(st.integers(min_value=0), max_size=12)


@given(anything, cuts)
@example("a\x1b]52;c;ZXZpbA==\x07b", [2, 3, 9])
@example("\x1b\x1b[31m\x9b\x1b[5n", [1, 2, 7, 8])
def test_arbitrary_pieces_of_arbitrary_text_are_obeyed_in_nothing_but_colours(text: str, cuts: list[int]) -> None:
    """Whatever comes, and wherever it is cut: what is left after SGR is text, newline and tab."""
    assert OBEYED.search(SGR.sub("", in_pieces(text, cuts, colors=True, motion=False))) is None
    assert OBEYED.search(in_pieces(text, cuts, colors=False, motion=False)) is None


class _Terminal(pyte.Screen):
    """Notes what a program makes a terminal do beside showing text."""

    def __init__(self) -> None:
        super().__init__(40, 10)
        self.said: list[str] = []

    def write_process_input(self, data: str) -> None:
        self.said.append(data)

    def bell(self, *arguments: object) -> None:
        self.said.append("bell")


@given(anything, cuts)
@example("\x1b[6n\x1b[c\x1b]0;evil\x07\x1b[?25l\x1b[5;5Hx\x1b(0\x0e\x1b[2;3r", [])
def test_emulator_is_made_to_do_nothing(text: str, cuts: list[int]) -> None:
    """A terminal emulator that gets the safe text answers nothing, keeps its title, modes and character sets, and has
    its cursor where the text alone has put it."""
    fresh, screen, beside = _Terminal(), _Terminal(), _Terminal()
    safe = in_pieces(text, cuts, colors=True, motion=True)
    pyte.Stream(screen).feed(safe)
    pyte.Stream(beside).feed(SGR.sub("", safe))
    for name in ("title", "icon_name", "mode", "margins", "charset", "g0_charset", "g1_charset", "savepoints", "said"):
        assert getattr(screen, name) == getattr(fresh, name), name
    assert (screen.cursor.x, screen.cursor.y) == (beside.cursor.x, beside.cursor.y)
    assert screen.display == beside.display


@given(texts)
def test_safe_text_stays_as_it_is(text: str) -> None:
    """What the sanitiser and `plain` made, they leave alone."""
    safe = sanitize(text)
    assert sanitize(safe) == safe
    assert plain(plain(text)) == plain(text)


@given(st.text(st.characters(exclude_categories=["Cc"])) | st.just("a\tb\n\n"))
def test_ordinary_text_passes_untouched(text: str) -> None:
    """Text without control characters is answered as the same object."""
    assert sanitize(text) is text
    assert plain(text) is text


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("a\x1b]52;c;ZXZpbA==\x07b", "ab"),
        ("a\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "alink"),
        ("a\x1bP1$r0m\x1b\\b", "ab"),
        ("a\x9d0;title\x9cb", "ab"),
        ("a\x9b2Jb", "ab"),
        ("a\x1b[?1049hb\x1b[6n\x1b[>c", "ab"),
        ("a\x1bcb\x1b(0c\x1b#8d", "abcd"),
        ("a\x1b", "a"),
        ("a\x1b[12", "a"),
        ("a\x1b]never ends\nb", "a\nb"),
        ("a\x1b_hidden\nb", "a"),
        ("a\x1b[3\nb", "a\nb"),
        ("bell\x07 nul\x00 del\x7f", "bell nul del"),
        ("page\x0cnext", "page\nnext"),
        ("10%\r20%", "10%20%"),
    ],
)
def test_known_sequences(text: str, safe: str) -> None:
    """Each family of control sequences is dropped, with what belongs to it and no more."""
    assert sanitize(text) == safe


def test_colours_are_turned_off_at_the_end() -> None:
    """A text that leaves a colour on does not colour what follows it."""
    assert sanitize("\x9b31mred", colors=True) == "\x1b[31mred\x1b[0m"
    assert sanitize("\x1b[31mred\x1b[m.", colors=True) == "\x1b[31mred\x1b[m."
    assert sanitize("\x1b[?25m\x1b[>4;2mx", colors=True) == "x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("10%\r20%\r100%\n", "100%\n"),
        ("longer\rab", "abnger"),
        ("abc\r\n", "abc\n"),
        ("abc\r", "abc"),
        ("abc\b\bX", "aXc"),
        ("\b\bx", "x"),
        ("Downloading 99%\r\x1b[2KDone", "Done"),
        ("Downloading 99%\r\x1b[KDone", "Done"),
        ("abcdef\b\b\x1b[0K!", "abcd!"),
        ("abcdef\r\x1b[1mX\x1b[0m", "Xbcdef"),
        ("one\r1\ntwo\x1b[2K\nthree", "1ne\ntwo\nthree"),
        ("a\x1b]0;t\rq\x07b", "ab"),
    ],
)
def test_plain_shows_what_a_terminal_shows(text: str, shown: str) -> None:
    """CR, BS and erase-in-line act within their line, as on a screen."""
    assert plain(text) == shown


@given(st.lists(st.text("ab", max_size=5), min_size=1))
def test_carriage_returns_overlay_from_the_left(parts: list[str]) -> None:
    """At each column stands the last text that reached it."""
    width = max(len(part) for part in parts)
    expected = "".join([part for part in parts if len(part) > column][-1][column] for column in range(width))
    assert plain("\r".join(parts)) == expected


def test_one_line_keeps_a_cell_in_its_row() -> None:
    """Newlines, tabs and runs of blanks become single blanks, escapes vanish."""
    assert one_line(" def f(x):\n\treturn \x1b[31mx\x1b[0m\n") == "def f(x): return x"
