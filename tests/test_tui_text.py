"""Session text on its way to the dashboard: nothing but text and styles arrives, whatever was sent and however cut."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.color import Color
from textual.filter import LineFilter
from textual.strip import Strip
from textual.widgets import Static

from omega_sessiond.terminal import plain
from tui.text import MAX_LINE, MAX_PENS, LastFilter, NoNamedColors, OutputLines, block, cell, line

OBEYED = re.compile("[\x00-\x1f\x7f-\x9f]")
SGR = re.compile(r"\x1b\[[0-9;:]*m")

CHARACTERS = (
    "aZ01;:?mKH[]PX^_\\(B! \n\t\r\b\0\x07\x0b\x0c\x18\x1a\x1b\x7f\x85\x90\x98\x9b\x9c\x9d\x9e\x9fé漢\u202e\udc80"
)
pieces = st.sampled_from(CHARACTERS) | st.sampled_from(
    [
        "\x1b[31m", "\x1b[1;38;2;9;8;7m", "\x1b[38;5;300m", "\x1b[0m", "\x1b]0;t\x07", "\x1b]52;c;ZXZpbA==\x07",
        "\x1b]8;;http://x\x1b\\", "\x1bPq\x1b\\", "\x1b[2K", "\x1b[K", "[@click=app.quit]x[/]", "[/nope]", "[bold",
    ]
)  # fmt: skip
texts = st.lists(pieces, max_size=40).map("".join) | st.text(max_size=60)


def fed(text: str, cuts: list[int]) -> list[str]:
    lines = OutputLines()
    at = [0, *sorted(cut % (len(text) + 1) for cut in cuts), len(text)]
    return [safe for start, end in itertools.pairwise(at) for safe in lines.feed(text[start:end])] + [lines.rest]


@given(texts)
def test_nothing_obeyed_is_drawn(text: str) -> None:
    """Drawn text holds no control characters; its styles have neither links nor actions."""
    for drawn in [cell(text), block(text), *map(line, fed(text, []))]:
        assert OBEYED.search(drawn.plain.replace("\n", "")) is None
        assert all(isinstance(span.style, Style) for span in drawn.spans)
        assert all(not span.style.link and not span.style.meta for span in drawn.spans if isinstance(span.style, Style))
    assert "\n" not in cell(text).plain


@given(texts)
@example("a\r\nb\n")
@example("abc\r\x1b[Kd\b")
@example("ab\b\u00d7\b\b-c")
def test_output_reads_as_a_terminal_would_show_it(text: str) -> None:
    """The lines, without their colours, are what `terminal.plain` makes of the text, which carries out erasures only in
    lines with another motion."""
    moving = "\r" + re.sub("[\n\x0b\x0c]", "\n\r", text)
    assert [SGR.sub("", safe) for safe in fed(text, [])] == plain(moving).split("\n")


@given(texts, st.lists(st.integers(min_value=0), max_size=12))
def test_cuts_change_nothing(text: str, cuts: list[int]) -> None:
    """In pieces cut anywhere the output is drawn as in one."""
    assert [line(safe) for safe in fed(text, cuts)] == [line(safe) for safe in fed(text, [])]


def test_each_line_has_the_colours_it_inherits() -> None:
    """A colour left on goes on in the next lines, until it is turned off."""
    lines = [line(safe) for safe in fed("\x1b[31mred\nstill\x1b[0m not\nplain", [])]
    assert [[(span.start, span.end) for span in drawn.spans] for drawn in lines] == [[(0, 3)], [(0, 5)], []]


def test_a_progress_bar_is_one_line_in_its_own_colours() -> None:
    """What a carriage return overwrote is gone, and what it left keeps the colour it was written in."""
    lines = OutputLines()
    assert lines.feed("\x1b[31mlonger\x1b[0m") == []
    assert lines.feed("\r\x1b[32mab") == []
    drawn = line(lines.rest)
    assert drawn.plain == "abnger"
    assert [(span.start, span.end) for span in drawn.spans] == [(0, 2), (2, 6)]


def test_what_is_held_is_bounded() -> None:
    """Without newlines, or with colours that are never reset, what is held and handed on stays small."""
    lines = OutputLines()
    long = lines.feed("x" * (3 * MAX_LINE + 5))
    assert [len(safe) for safe in long] == [MAX_LINE] * 3
    assert lines.rest == "xxxxx"
    for _ in range(1000):
        lines.feed("\r" + "y" * 50)
    assert len(lines.rest) == 50
    colored = OutputLines()
    last = colored.feed("".join(f"\x1b[38;5;{number}mx\n" for number in range(200)))[-1]
    assert last.count("\x1b") <= MAX_PENS + 1


def test_markup_is_text() -> None:
    """What Textual would obey in a string stands there as it was written."""
    hostile = "[@click=app.quit]x[/] [/nope] [bold"
    assert cell(hostile).plain == block(hostile).plain == line(hostile).plain == hostile


@given(texts, st.booleans())
def test_last_filter_leaves_nothing(text: str, is_link: bool) -> None:
    """Whatever a widget let through, the filter takes away, and the row keeps its width."""
    style = Style(link="http://x", bold=True) if is_link else Style(bold=True)
    strip = Strip([Segment(text, style), Segment("end")])
    filtered = strip.apply_filter(LastFilter(), Color(0, 0, 0))
    for segment in filtered:
        assert OBEYED.search(segment.text) is None
        assert segment.control is None
        assert segment.style is None or (segment.style.link is None)
    assert Strip(list(filtered)).cell_length == Strip([Segment(text, style), Segment("end")]).cell_length


def test_named_colours_do_not_become_darkness() -> None:
    """Without colours a text that was red by name looks as any other; bold stays, and so do our own colours."""
    segments = [Segment("a", Style.parse("bold red on #102030")), Segment("b", Style.parse("#102030")), Segment("c")]
    named, ours, none = NoNamedColors().apply(segments, Color(0, 0, 0))
    assert named == Segment("a", Style.parse("bold on #102030"))
    assert (ours, none) == (segments[1], segments[2])


class Careless(App[None]):
    """Hands a raw string to a widget, as nobody should."""

    raw = "a\x1b]52;c;ZXZpbA==\x07b\x9b2Jc\u202ed"

    def get_line_filters(self) -> list[LineFilter]:
        return [*super().get_line_filters(), LastFilter()]

    def compose(self) -> ComposeResult:
        yield Static(self.raw, markup=False)
        yield Static(cell(self.raw))

    def on_mount(self) -> None:
        self.screen.styles.border = ("round", "white")


async def shown() -> list[str]:
    app = Careless()
    async with app.run_test(size=(40, 8)) as pilot:
        await pilot.pause()
        return ["".join(segment.text for segment in strip) for strip in app.screen._compositor.render_strips()]


def test_last_filter_stands_behind_every_widget() -> None:
    """A raw string in a widget arrives at the screen without what a terminal obeys."""
    import asyncio

    lines = asyncio.run(shown())
    assert any("a]52;c;ZXZpbA==bc" in found or "a]52;c;ZXZpbA==b2Jcd" in found for found in lines), lines
    assert any("abcd" in found for found in lines), lines
    assert all(OBEYED.search(found) is None for found in lines)


@pytest.mark.parametrize(
    ("text", "shown_as"),
    [
        ("a\tb", "a       b"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("one\ntwo\n", "one\ntwo"),
        ("10%\r20%\r\x1b[K100%", "100%"),
    ],
)
def test_blocks(text: str, shown_as: str) -> None:
    """Tabs stand at their stops, colours take no room, a last newline makes no empty line."""
    assert block(text).plain == shown_as
