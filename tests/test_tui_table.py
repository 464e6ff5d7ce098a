"""The session table: a thousand sessions, a cursor that stays with its session, rows that rest under a key."""

from __future__ import annotations

import os

import pytest

from dashboard import driven, run
from life import Life
from omega_sessiond.messages import iso
from test_tui_model import event, view
from tui.feed import Listing
from tui.keys import Settings, load, remapped
from tui.table import RESORT_S, shown_age

MANY = 1000


def listing(count: int = MANY) -> Listing:
    return Listing(
        [
            view(f"{number:012}", f"s-{number:04}", state=("busy", "idle", "dead")[number % 3], execution_count=number,
                 last_used_at=iso(1_700_000_000 + number))
            for number in range(count)
        ]
    )  # fmt: skip


def test_a_thousand_sessions(life: Life) -> None:
    """A thousand sessions are listed, reached from end to end, and filtered."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            dashboard.app.feed._put(listing())
            await dashboard.sees("Sessions 1000")
            await dashboard.sees("s-0000")
            await dashboard.press("G")
            await dashboard.sees("s-0999")
            await dashboard.press("g")
            await dashboard.sees_no("s-0999")
            await dashboard.press("slash")
            await dashboard.write("st:dead 99")
            await dashboard.sees("/st:dead 99")
            shown = [dashboard.app.model.sessions[id].name for id in dashboard.main.table.shown_ids]
            assert shown == [f"s-{n:04}" for n in range(MANY) if n % 3 == 2 and "99" in f"{n:04}"]

    run(story())


def test_selection_follows_its_session(life: Life) -> None:
    """Sorts, changes and neighbours that go do not move the cursor to another session; its own end moves it on."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            dashboard.app.feed._put(listing(50))
            await dashboard.sees("Sessions 50")
            table = dashboard.main.table
            chosen = "000000000020"
            table.select(chosen)
            for key in ("o", "O", "o"):
                await dashboard.press(key)
                assert table.selected_id == chosen
            dashboard.app.feed._put(event("session_deleted", 10**6, "000000000019"))
            await dashboard.sees("Sessions 49")
            assert table.selected_id == chosen
            dashboard.app.feed._put(event("session_deleted", 10**6 + 1, chosen))
            await dashboard.sees("Sessions 48")
            assert table.selected_id in table.shown_ids

    run(story())


def test_rows_rest_under_a_key(life: Life) -> None:
    """Right after a key nothing changes places; some time later it does."""
    now = [1000.0]

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            dashboard.app.feed._put(listing(30))
            await dashboard.sees("Sessions 30")
            table = dashboard.main.table
            table._steady = lambda: now[0]
            table.set_sort("state", False)
            order = table.shown_ids
            await dashboard.press("j")
            dashboard.app.feed._put(event("execution_started", 10**6, order[-1], execution_id=1))
            await dashboard.until(lambda: dashboard.app.model.sessions[order[-1]].state == "busy", "it is busy")
            await dashboard.until(lambda: table.is_unsorted, "an order is due")
            assert table.shown_ids == order
            now[0] += RESORT_S
            await dashboard.until(lambda: table.shown_ids != order, "it is sorted when there is rest")

    run(story())


def test_header_sorts_by_a_click(life: Life) -> None:
    """A click on a column's title sorts by it, a second one turns it round."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            dashboard.app.feed._put(listing(9))
            await dashboard.sees("Sessions 9")
            at = dashboard.shown().splitlines()[2].index(" N ")
            await dashboard.pilot.click("#table", offset=(at, 0))
            await dashboard.sees("N▼")
            assert dashboard.main.table.sort_key == "count"
            await dashboard.pilot.click("#table", offset=(at, 0))
            await dashboard.sees("N▲")
            await dashboard.pilot.click("#table", offset=(5, 3))
            assert dashboard.main.table.selected_id == dashboard.main.table.shown_ids[2]

    run(story())


@pytest.mark.parametrize("width", [58, 80, 100, 140, 200])
def test_columns_fit(life: Life, width: int) -> None:
    """At any width each row is as wide as the table, with the name and the state."""

    async def story() -> None:
        async with driven(size=(width, 40)) as dashboard:
            await dashboard.is_live()
            dashboard.app.feed._put(Listing([view("1", "x" * 58), view("2", "ж漢" * 9, state="waiting_input")]))
            await dashboard.sees("? input")
            table = dashboard.main.table
            for line in range(4):
                assert table.render_line(line).cell_length == table.size.width

    run(story())


def test_resizing_goes_between_the_layouts(life: Life) -> None:
    """Wide is side by side, narrow is stacked, short is one pane."""
    life.execute("work", "x = 1")

    async def story() -> None:
        async with driven(size=(120, 40)) as dashboard:
            await dashboard.selects("work")
            main = dashboard.main
            assert main.detail.region.x > 0
            await dashboard.pilot.resize_terminal(80, 40)
            await dashboard.until(lambda: main.detail.region.x == 0 and main.detail.region.y > 2, "stacked")
            await dashboard.pilot.resize_terminal(80, 20)
            await dashboard.until(lambda: not main.detail.display, "one pane")
            await dashboard.pilot.resize_terminal(120, 40)
            await dashboard.until(lambda: main.detail.display and main.detail.region.x > 0, "side by side")

    run(story())


def test_ascii_terminals_get_ascii(life: Life) -> None:
    """With ASCII asked for, no other character is drawn by the list."""
    life.execute("work", "x = 1")

    async def story() -> None:
        async with driven(settings=Settings(ascii=True)) as dashboard:
            await dashboard.selects("work")
            await dashboard.sees("o idle")
            assert dashboard.shown().isascii()

    run(story())


def test_no_color_shows_the_cursor(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without colours the cursor is a mark, and states are words with glyphs."""
    monkeypatch.setenv("NO_COLOR", "1")
    life.execute("work", "x = 1")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.sees("▸ work")
            await dashboard.sees("● idle")

    run(story())


def test_ages() -> None:
    """An age is short and rounds down."""
    assert [shown_age(s) for s in (0, 1, 59, 60, 3599, 3600, 86399, 86400)] == [
        "now", "1s", "59s", "1m", "59m", "1h", "23h", "1d",
    ]  # fmt: skip


def test_clashing_keys_are_told_and_keep_their_defaults() -> None:
    """Two actions on one key, unknown actions and keys that are no texts are each told with what is done about it."""
    keys, troubles = remapped({"kill": "u", "sort": "u", "filer": "y", "quit": 3, "copy": "k"})
    assert keys == {"kill": "u"}
    assert len(troubles) == 4
    assert any("did you mean 'filter'" in trouble for trouble in troubles)
    assert any("sort keeps o" in trouble for trouble in troubles)


def test_keys_of_a_screen_clash_with_each_other_alone() -> None:
    """A screen's key may be one of the list's; two of one screen may not share one."""
    keys, troubles = remapped({"service_stop": "k", "service_start": "f", "events_follow": "g", "service_halt": "h"})
    assert keys == {"service_stop": "k", "events_follow": "g"}
    assert len(troubles) == 2
    assert any("service_start keeps s" in trouble for trouble in troubles)


def test_settings_file(tmp_path: os.PathLike[str]) -> None:
    """The file's words are used; what it says in vain is told."""
    file = os.path.join(tmp_path, "tui.toml")
    assert load(file) == Settings()
    with open(file, "w") as stream:
        stream.write('theme = "light"\nascii = "yes"\ncolour = 1\n[keys]\nkill = "ctrl+k"\n')
    found = load(file)
    assert (found.theme, found.ascii, dict(found.keys)) == ("light", None, {"kill": "ctrl+k"})
    assert len(found.troubles) == 2


def test_troubles_of_the_settings_are_shown_at_start(life: Life) -> None:
    """What the settings say in vain is told when the dashboard starts."""

    async def story() -> None:
        async with driven(settings=Settings(ascii=False, troubles=["[keys] x is both kill and sort"])) as dashboard:
            await dashboard.sees("x is both kill and sort")

    run(story())
