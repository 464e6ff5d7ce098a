"""Every row of the table of actions does what it says, by its key, and writes the command line that does the same."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from textual.screen import ModalScreen
from textual.widgets import Button, Input

from dashboard import Driver, driven, run
from life import FOREVER, Life
from omega_sessiond.cli import parse
from tui.actions import ACTIONS, BY_ID
from tui.keys import Settings, remapped
from tui.model import Session
from tui.screens.console import Console
from tui.screens.events import EventsScreen
from tui.screens.service import ServiceScreen

Story = Callable[[Driver, Life], Coroutine[Any, Any, None]]
STORIES: dict[str, Story] = {}


def does(*ids: str) -> Callable[[Story], Story]:
    """The story shows what these actions do, for a session called work that runs nothing."""

    def add(story: Story) -> Story:
        STORIES.update(dict.fromkeys(ids, story))
        return story

    return add


async def answer(dashboard: Driver, button: str) -> None:
    """Press a button of the modal that comes, by the keyboard: under a mouse it may move while something is told."""
    found = await _button(dashboard, button)
    await dashboard.until(lambda: not found.has_class("-active"), "it shows no longer that it has been pressed")
    found.focus()
    await dashboard.press("enter")


async def clicks(dashboard: Driver, button: str) -> None:
    """Press a button of the modal that comes, by the mouse."""
    found = await _button(dashboard, button)
    await dashboard.until(lambda: found.region.area, "it has a place")
    await dashboard.pilot.click(f"#{button}")


async def _button(dashboard: Driver, id: str) -> Button:
    await dashboard.until(lambda: isinstance(dashboard.app.screen, ModalScreen), "a question is asked")
    found = await dashboard.until(lambda: dashboard.app.screen.query(f"#{id}"), f"it has {id}")
    assert isinstance(found[0], Button)
    return found[0]


async def fills(dashboard: Driver, **values: str) -> None:
    """Fill the form that comes, and accept it."""
    await dashboard.until(lambda: dashboard.app.screen.query("#ok"), "the form opens")
    for name, value in values.items():
        dashboard.app.screen.query_one(f"#field-{name}", Input).value = value
    await answer(dashboard, "ok")


def last_line(dashboard: Driver) -> str:
    return dashboard.app.command_log[-1].line if dashboard.app.command_log else ""


@does("open", "back")
async def open_and_back(dashboard: Driver, life: Life) -> None:
    await dashboard.press("enter")
    await dashboard.until(lambda: isinstance(dashboard.app.screen, Console), "the console opens")
    await dashboard.write("1 + 1")
    await dashboard.press("ctrl+j")
    await dashboard.sees("2> 1 + 1")
    await dashboard.press("escape", "escape")
    await dashboard.until(lambda: dashboard.app.screen is dashboard.main, "back in the list")


@does("input")
async def go_to_input(dashboard: Driver, life: Life) -> None:
    await dashboard.press("i")
    await dashboard.write("x")
    await dashboard.press("enter")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl exec work -c x", "it is run")
    await dashboard.press("escape")
    await dashboard.until(lambda: dashboard.app.focused is dashboard.main.table, "the list has the focus again")


@does("interrupt")
async def interrupt(dashboard: Driver, life: Life) -> None:
    await dashboard.press("c")
    await dashboard.sees("Nothing runs in work")
    life.begin_running("work", FOREVER)
    await dashboard.sees("◐ busy")
    await dashboard.press("c")
    await dashboard.sees("interrupted (user)")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl interrupt work", "it is logged")


@does("kill")
async def kill(dashboard: Driver, life: Life) -> None:
    await dashboard.press("K")
    await dashboard.sees("Kill work?")
    assert dashboard.app.focused is dashboard.app.screen.query_one("#cancel")
    await dashboard.press("enter")
    await dashboard.sees_no("Kill work?")
    assert life.get("/api/sessions/work")["state"] == "idle"
    await dashboard.press("K")
    await answer(dashboard, "yes")
    await dashboard.sees("✗ dead")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl kill work", "it is logged")
    await dashboard.press("K")
    await dashboard.sees("work has no process")


@does("restart")
async def restart(dashboard: Driver, life: Life) -> None:
    before = life.get("/api/sessions/work")["pid"]
    await dashboard.press("R")
    await answer(dashboard, "yes")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl restart work", "it is logged")
    assert life.get("/api/sessions/work")["pid"] != before


@does("delete")
async def delete(dashboard: Driver, life: Life) -> None:
    await dashboard.press("D")
    await dashboard.sees("Delete work?")
    await dashboard.press("escape")
    await dashboard.sees_no("Delete work?")
    assert life.get("/api/sessions")
    await dashboard.press("D")
    await clicks(dashboard, "yes")
    await dashboard.sees("No sessions yet")
    assert life.get("/api/sessions") == []
    assert last_line(dashboard) == "omegactl rm -y work"


@does("export", "import")
async def export_and_import(dashboard: Driver, life: Life) -> None:
    file = life.place.base / "work.jsonl"
    await dashboard.press("x")
    await fills(dashboard, file=str(file))
    await dashboard.until(lambda: last_line(dashboard) == f"omegactl export work -o {file}", "it is logged")
    await dashboard.press("I")
    await fills(dashboard, file=str(file), name="copy")
    await dashboard.until(lambda: last_line(dashboard) == f"omegactl import {file} copy --no-state", "it is logged")
    assert life.get("/api/sessions/copy")["execution_count"] == 1


@does("prune")
async def prune(dashboard: Driver, life: Life) -> None:
    await dashboard.press("P")
    await fills(dashboard, keep="0")
    await dashboard.sees("Remove 1 execution")
    await answer(dashboard, "yes")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl prune --keep 0 -y", "it is logged")
    assert life.get("/api/sessions/work/executions") == []


@does("limits")
async def limits(dashboard: Driver, life: Life) -> None:
    await dashboard.press("L")
    field = await dashboard.until(lambda: dashboard.app.screen.query("#field-memory"), "the form opens")
    assert isinstance(field[0], Input)
    field[0].value = "lots"
    await answer(dashboard, "ok")
    await dashboard.sees("'lots' is no size")
    field[0].value = "512M"
    await dashboard.sees("omegactl set work --mem 512M")
    await answer(dashboard, "ok")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl set work --mem 512M", "it is logged")
    assert life.get("/api/sessions/work")["limits"]["memory_bytes"] == 512 * 1024 * 1024


@does("labels")
async def labels(dashboard: Driver, life: Life) -> None:
    await dashboard.press("l")
    await dashboard.until(lambda: dashboard.app.screen.query("#field-labels"), "the form opens")
    await dashboard.write("team=red")
    await dashboard.press("enter")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl set work --label team=red", "it is logged")
    assert life.get("/api/sessions/work")["labels"] == {"team": "red"}


@does("new")
async def new(dashboard: Driver, life: Life) -> None:
    await dashboard.press("n")
    await dashboard.until(lambda: dashboard.app.screen.query("#field-name"), "the form opens")
    await answer(dashboard, "ok")
    await dashboard.sees("A session needs a name")
    await dashboard.write("fresh")
    await dashboard.sees("omegactl new fresh")
    await dashboard.press("enter")
    await dashboard.sees("fresh")
    await dashboard.until(lambda: dashboard.main.table.selected_id == life.get("/api/sessions/fresh")["id"], "selected")
    assert last_line(dashboard) == "omegactl new fresh"
    await dashboard.press("n")
    await dashboard.until(lambda: dashboard.app.screen.query("#field-name"), "the form opens")
    await dashboard.write("fresh")
    await dashboard.press("enter")
    await dashboard.sees("exists already")
    await dashboard.press("escape")
    await dashboard.until(lambda: dashboard.app.screen is dashboard.main, "the error is closed")


@does("copy")
async def copy(dashboard: Driver, life: Life) -> None:
    await dashboard.press("y")
    await dashboard.until(lambda: dashboard.app.clipboard == "omegactl show work", "the line is copied")


@does("filter")
async def filter_list(dashboard: Driver, life: Life) -> None:
    life.execute("other", "x = 1")
    await dashboard.sees("other")
    await dashboard.press("slash")
    await dashboard.write("oth")
    await dashboard.sees("Sessions 1/2 · /oth")
    await dashboard.press("enter")
    assert len(dashboard.main.table.shown_ids) == 1
    await dashboard.press("escape")
    await dashboard.until(lambda: len(dashboard.main.table.shown_ids) == 2, "all are shown again")


@does("sort", "reverse")
async def sort_and_reverse(dashboard: Driver, life: Life) -> None:
    await dashboard.press("o")
    await dashboard.sees("STATE▼")
    await dashboard.press("O")
    await dashboard.sees("STATE▲")


@does("down", "up", "first", "last", "page_down", "page_up")
async def move(dashboard: Driver, life: Life) -> None:
    for name in ("a", "b", "zz"):
        life.execute(name, "x = 1")
    await dashboard.until(lambda: len(dashboard.main.table.shown_ids) == 4, "all are there")
    dashboard.main.table.sort()
    order = dashboard.main.table.shown_ids
    table = dashboard.main.table
    for key, place in (("g", 0), ("j", 1), ("down", 2), ("k", 1), ("up", 0), ("G", 3), ("home", 0), ("end", 3),
                       ("pageup", 0), ("pagedown", 3)):  # fmt: skip
        await dashboard.press(key)
        assert table.selected_id == order[place], key


@does("pause")
async def pause(dashboard: Driver, life: Life) -> None:
    await dashboard.press("p")
    await dashboard.sees("paused")
    life.execute("unseen", "x = 1")
    assert dashboard.app.model.by_name("unseen") is None
    await dashboard.press("p")
    await dashboard.sees("unseen")


@does("zoom")
async def zoom(dashboard: Driver, life: Life) -> None:
    await dashboard.press("z")
    await dashboard.until(lambda: not dashboard.main.detail.display, "the list is alone")
    await dashboard.press("z")
    await dashboard.until(lambda: dashboard.main.detail.display, "both are there")


@does("tab_1", "tab_2", "tab_3", "tab_4", "tab_5")
async def tabs(dashboard: Driver, life: Life) -> None:
    await dashboard.press("2")
    await dashboard.sees("interpreter")
    await dashboard.press("3")
    await dashboard.sees("Sessions have no scopes here")
    await dashboard.press("4")
    await dashboard.sees("No snapshots")
    await dashboard.press("5")
    await dashboard.sees("x = 41 (ok")
    await dashboard.press("1")
    await dashboard.sees("1> x = 41")


@does("service")
async def service(dashboard: Driver, life: Life) -> None:
    await dashboard.press("S")
    await dashboard.until(lambda: isinstance(dashboard.app.screen, ServiceScreen), "the service screen opens")
    await dashboard.press("escape")
    await dashboard.until(lambda: dashboard.app.screen is dashboard.main, "back")


@does("events")
async def events(dashboard: Driver, life: Life) -> None:
    await dashboard.press("E")
    await dashboard.until(lambda: isinstance(dashboard.app.screen, EventsScreen), "the events screen opens")
    await dashboard.press("escape")
    await dashboard.until(lambda: dashboard.app.screen is dashboard.main, "back")


@does("theme")
async def theme(dashboard: Driver, life: Life) -> None:
    assert dashboard.app.current_theme.dark
    await dashboard.press("t")
    assert not dashboard.app.current_theme.dark


@does("palette")
async def palette(dashboard: Driver, life: Life) -> None:
    await dashboard.press("colon")
    await dashboard.until(lambda: dashboard.app.screen is not dashboard.main, "the palette opens")
    await dashboard.write("reverse")
    await dashboard.sees("the order")
    await dashboard.press("enter", "enter")
    await dashboard.until(lambda: dashboard.main.table.is_reversed, "the action is done")


@does("help")
async def show_help(dashboard: Driver, life: Life) -> None:
    await dashboard.press("question_mark")
    await dashboard.sees("variables are kept")
    await dashboard.press("escape")
    await dashboard.sees_no("variables are kept")


@does("quit")
async def leave(dashboard: Driver, life: Life) -> None:
    await dashboard.press("q")
    await dashboard.until(lambda: dashboard.app.return_value == 0, "it is left")
    assert life.get("/api/sessions/work")["state"] == "idle"


@does("fork")
async def fork(dashboard: Driver, life: Life) -> None:
    await dashboard.press("f")
    await dashboard.until(lambda: dashboard.app.screen.query("#field-name"), "the form opens")
    await dashboard.write("copy")
    await dashboard.press("enter")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl fork work copy", "it is logged")
    assert life.run("copy", "x")["result"] == "41"


@does("snapshot", "restore", "save")
async def keep(dashboard: Driver, life: Life) -> None:
    await dashboard.press("w")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl save work", "it is logged")
    await dashboard.press("s")
    await dashboard.until(lambda: dashboard.app.screen.query("#field-name"), "the form opens")
    await dashboard.write("first")
    await dashboard.press("enter")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl snapshot work first", "it is logged")
    life.run("work", "x = 0")
    await dashboard.press("r")
    await answer(dashboard, "ok")
    await answer(dashboard, "yes")
    await dashboard.until(lambda: last_line(dashboard) == "omegactl restore work first", "it is logged")
    assert life.run("work", "x")["result"] == "41"


@does("attach")
async def attach(dashboard: Driver, life: Life) -> None:
    await dashboard.press("a")
    await dashboard.sees("cannot be lent")  # Pilot has no terminal; at one the REPL's own tests go on


def test_every_action_has_a_story() -> None:
    """No row of the table is without a test of what it does."""
    assert set(STORIES) == set(BY_ID)


@pytest.mark.parametrize("story", dict.fromkeys(STORIES.values()), ids=lambda story: story.__name__)
def test_action(life: Life, story: Story) -> None:
    """Each key does what its row says."""
    life.execute("work", "x = 41")

    async def whole() -> None:
        async with driven(size=(130, 36)) as dashboard:
            await dashboard.is_live()
            await dashboard.selects("work")
            await story(dashboard, life)

    run(whole())


@pytest.mark.parametrize("action", [action for action in ACTIONS if action.words(Session("1", "work"))])
def test_command_lines_are_understood(action: object) -> None:
    """The command line of each row is one that omegactl takes."""
    words = action.words(Session("1", "work"))  # type: ignore[attr-defined]
    given = ["1G" if word == "SIZE" else word for word in words]
    assert parse(given).command == words[0]


def test_confirmation_goes_to_the_session_it_named(life: Life) -> None:
    """When the name belongs to another session by the time one says yes, nothing is done to that."""
    life.execute("work", "x = 41")

    async def story() -> None:
        async with driven(size=(130, 36)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("D")
            await dashboard.sees("Delete work?")
            life.call("DELETE", "/api/sessions/work")
            life.execute("work", "y = 1")
            await answer(dashboard, "yes")
            await dashboard.sees("another session by now")
            assert life.get("/api/sessions/work")["execution_count"] == 1

    run(story())


def test_remapped_key_acts_and_the_old_one_does_not(life: Life) -> None:
    """A key of the settings file takes the place of the action's own."""
    life.execute("work", "x = 1")
    keys, troubles = remapped({"sort": "u"})
    assert troubles == []

    async def story() -> None:
        async with driven(settings=Settings(ascii=False, keys=keys)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("o")
            assert dashboard.main.table.sort_key == "name"
            await dashboard.press("u")
            assert dashboard.main.table.sort_key == "state"
            await dashboard.sees("u Sort")

    run(story())


def test_copied_lines_are_for_a_shell(life: Life) -> None:
    """A command line that is logged reads back as the words it was made of."""
    life.execute("work", "x = 1")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.selects("work")
            await dashboard.press("i")
            await dashboard.write("'it is'")
            await dashboard.press("ctrl+j")
            await dashboard.until(lambda: dashboard.app.command_log, "it is logged")
            assert shlex.split(last_line(dashboard)) == ["omegactl", "exec", "work", "-c", "'it is'"]

    run(story())
