"""The events screen beside a real daemon: what happens appears, and what is done here, as omegactl lines."""

from __future__ import annotations

import base64

from dashboard import Driver, driven, run
from life import Life
from tui.keys import Settings, remapped
from tui.screens.events import EventsScreen


def screen(dashboard: Driver) -> EventsScreen:
    assert isinstance(dashboard.app.screen, EventsScreen)
    return dashboard.app.screen


def test_what_happens_is_told_and_found(life: Life) -> None:
    """Events appear as they come; the filter leaves those that match, and Esc brings back the rest, then the list."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            await dashboard.press("E")
            await dashboard.sees("Nothing has happened since")
            life.execute("alpha", "x = 1")
            await dashboard.sees("created, engine python")
            life.execute("beta", "1 / 0")
            await dashboard.sees("error after")
            await dashboard.press("slash")
            await dashboard.write("beta !queued")
            await dashboard.sees_no("alpha ")
            await dashboard.sees_no("queued: 1 / 0")
            assert "error after" in dashboard.shown()
            await dashboard.press("escape")
            await dashboard.sees("queued: x = 1")
            await dashboard.press("escape")
            await dashboard.sees("Sessions 2")

    run(story())


def test_an_event_leads_to_its_session(life: Life) -> None:
    """Enter on an event goes to its session in the list; of one that is gone it says so."""
    life.execute("alpha", "x = 1")
    life.execute("omega", "x = 1")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.selects("alpha")
            life.execute("omega", "x = 2")
            life.execute("gone", "x = 3")
            life.call("DELETE", "/api/sessions/gone")
            await dashboard.press("E")
            await dashboard.sees("removed with its history")
            await dashboard.press("enter")
            await dashboard.sees("gone is no more")
            events = screen(dashboard).events
            at = next(at for at, event in enumerate(events.rows) if event["session"] == "omega")
            events.move_to(at)
            await dashboard.press("enter")
            await dashboard.until(lambda: dashboard.app.screen is dashboard.main, "the list is back")
            omega = dashboard.app.model.by_name("omega")
            assert omega is not None
            await dashboard.until(lambda: dashboard.main.table.selected_id == omega.id, "omega is selected")

    run(story())


def test_the_list_is_held_and_followed(life: Life) -> None:
    """Moving up holds the list while more comes; f follows again."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            life.execute("alpha", "first")
            await dashboard.press("E")
            await dashboard.sees("queued: first")
            await dashboard.press("g")
            await dashboard.sees("held")
            events = screen(dashboard).events
            first = events.row
            life.execute("alpha", "second")
            await dashboard.until(lambda: any(e.get("command") == "second" for e in events.rows), "it has come")
            assert events.row == first
            await dashboard.press("f")
            await dashboard.sees("following")
            assert events.row == events.rows[-1]

    run(story())


def test_what_was_done_here_can_be_copied(life: Life) -> None:
    """Each action stands in the second list as its omegactl line; y puts it on the clipboard."""
    life.execute("alpha", "x = 1")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.selects("alpha")
            await dashboard.press("K")
            await dashboard.sees("Kill alpha?")
            await dashboard.press("right", "enter")
            await dashboard.sees("dead")
            await dashboard.press("E")
            await dashboard.sees("omegactl kill alpha")
            await dashboard.press("tab", "y")
            await dashboard.sees("Copied: omegactl kill alpha")
            assert dashboard.app.clipboard == "omegactl kill alpha"

    run(story())


def test_hostile_events_are_text(life: Life) -> None:
    """Commands, errors and prompts with sequences and markup are shown without the one and with the other as text."""
    hostile = "'\x1b]52;c;" + base64.b64encode(b"evil").decode() + "\x07\x9b2J[@click=app.quit]x[/] [/nope]'"

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            await dashboard.press("E")
            life.execute("alpha", hostile)
            await dashboard.sees("queued: '[@click=app.quit]x[/] [/nope]'")
            await dashboard.press("y")
            assert "\x1b" not in dashboard.app.clipboard

    run(story())


def test_keys_of_the_screens_can_be_moved(life: Life) -> None:
    """Those of the service and the events screen and of the tabs are given others by their ids; help and the last line
    say so, and the old ones do nothing there."""
    life.run("work", "x = 1")
    moved = {"service_level": "v", "service_back": "b", "events_back": "b", "events_copy": "u"}
    keys, troubles = remapped({**moved, "snapshots_delete": "X"})
    assert troubles == []

    async def story() -> None:
        async with driven(settings=Settings(ascii=False, keys=keys), size=(140, 40)) as dashboard:
            await dashboard.selects("work")
            life.post("/api/sessions/work/snapshots", {"name": "first"})
            await dashboard.press("4")
            await dashboard.sees("X deletes it")
            await dashboard.press("X")
            await dashboard.sees("Delete snapshot first of work?")
            await dashboard.press("escape")
            await dashboard.press("S")
            await dashboard.sees("v Level")
            await dashboard.sees("Log · info and worse")
            await dashboard.press("l", "v")
            await dashboard.sees("Log · warning and worse")
            await dashboard.press("question_mark")
            await dashboard.sees("The service screen")
            await dashboard.press("escape", "b")
            await dashboard.until(lambda: dashboard.app.screen is dashboard.main, "back in the list")
            await dashboard.press("E")
            await dashboard.sees("u Copy")
            life.run("work", "x = 2")
            await dashboard.sees("queued: x = 2")
            await dashboard.press("u")
            await dashboard.sees("Copied: ")
            await dashboard.press("b")
            await dashboard.until(lambda: dashboard.app.screen is dashboard.main, "back in the list")

    run(story())
