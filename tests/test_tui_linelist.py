"""The list of lines: it follows its end, stays with a row when told to, and draws what is seen alone."""

from __future__ import annotations

from typing import Any

import pytest
from rich.text import Text
from textual.app import App, ComposeResult
from textual.pilot import Pilot

from dashboard import run
from tui.linelist import LineList


class Listed(App[None]):
    """A list of numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.drawn: list[int] = []

    def compose(self) -> ComposeResult:
        yield LineList[int](self._line, lambda number: number, empty="nothing here")

    def _line(self, number: int) -> Text:
        self.drawn.append(number)
        return Text(f"row {number}")

    @property
    def list(self) -> LineList[int]:
        return self.query_one(LineList)


def shown(app: App[None]) -> list[str]:
    return [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]


def story(body: Any) -> None:
    async def told() -> None:
        app = Listed()
        async with app.run_test(size=(20, 5)) as pilot:
            app.list.focus()
            await pilot.pause()
            await body(app, pilot)

    run(told())


def test_it_follows_its_end() -> None:
    """The newest row is seen and has the cursor, as rows come; nobody draws those that are not seen."""

    async def body(app: Listed, pilot: Pilot[None]) -> None:
        assert shown(app)[0] == "nothing here"
        app.list.show(range(3))
        await pilot.pause()
        assert shown(app) == ["row 0", "row 1", "row 2", "", ""]
        app.drawn.clear()
        app.list.show(range(1000))
        await pilot.pause()
        assert shown(app) == [f"row {number}" for number in range(995, 1000)]
        assert app.list.row == 999
        assert min(app.drawn) >= 995

    story(body)


def test_it_stays_with_a_row_that_was_chosen() -> None:
    """Once somebody moves up the cursor keeps its row while others come and go, until it is brought back to the end."""

    async def body(app: Listed, pilot: Pilot[None]) -> None:
        app.list.show(range(100))
        await pilot.press("up", "k")
        assert (app.list.row, app.list.is_following) == (97, False)
        app.list.show(range(50, 300))
        await pilot.pause()
        assert app.list.row == 97
        assert "row 97" in shown(app)
        app.list.show(range(98, 400))
        await pilot.pause()
        assert app.list.row is not None, "its own row is gone"
        await pilot.press("G")
        app.list.show(range(98, 500))
        assert (app.list.row, app.list.is_following) == (499, True)

    story(body)


@pytest.mark.parametrize(
    ("keys", "row"),
    [(["g"], 0), (["g", "j", "down"], 2), (["pageup"], 95), (["g", "pagedown"], 4), (["g", "G"], 99), (["g", "up"], 0)],
)
def test_keys_move(keys: list[str], row: int) -> None:
    """Rows, pages, the first and the last."""

    async def body(app: Listed, pilot: Pilot[None]) -> None:
        app.list.show(range(100))
        await pilot.press(*keys)
        await pilot.pause()
        assert app.list.row == row
        assert f"row {row}" in shown(app)

    story(body)


def test_it_shrinks_and_grows() -> None:
    """Fewer rows than before, none, and another size leave a cursor that stands on a row, or on nothing."""

    async def body(app: Listed, pilot: Pilot[None]) -> None:
        app.list.show(range(100))
        await pilot.press("g", "j", "j")
        app.list.show([7])
        await pilot.pause()
        assert (app.list.row, shown(app)[0]) == (7, "row 7")
        app.list.show([])
        await pilot.pause()
        assert (app.list.row, shown(app)[0]) == (None, "nothing here")
        app.list.show(range(100))
        await pilot.press("end")
        await pilot.resize_terminal(20, 10)
        await pilot.pause()
        assert shown(app) == [f"row {number}" for number in range(90, 100)]

    story(body)
