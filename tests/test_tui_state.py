"""Saved state in the dashboard: forks, snapshots, restores, the timeline, sleep and waking, beside a real daemon."""

from __future__ import annotations

import os
import signal
from typing import Any

from textual.screen import ModalScreen
from textual.widgets import Button, Input

from daemon import wait_until
from dashboard import Driver, driven, run
from life import Life
from tui.screens.console import Console

WORK = "/api/sessions/work"
THREAD = "import threading; threading.Thread(target=threading.Event().wait, name='watcher', daemon=True).start()"


async def answer(dashboard: Driver, button: str) -> None:
    """Press a button of the modal that is there."""
    await dashboard.until(lambda: isinstance(dashboard.app.screen, ModalScreen), "a question is asked")
    found = await dashboard.until(lambda: dashboard.app.screen.query(f"#{button}"), f"it has {button}")
    assert isinstance(found[0], Button)
    found[0].press()  # a click would miss it where a fault that goes away moves it


async def fill(dashboard: Driver, **values: str) -> None:
    """Fill the form that comes, and accept it."""
    await dashboard.until(lambda: dashboard.app.screen.query("#ok"), "the form opens")
    for name, value in values.items():
        dashboard.app.screen.query_one(f"#field-{name}", Input).value = value
    await answer(dashboard, "ok")


async def logs(dashboard: Driver, line: str) -> None:
    def last() -> str:
        return dashboard.app.command_log[-1].line if dashboard.app.command_log else ""

    await dashboard.until(lambda: last() == line, f"{line!r} is logged, not {last()!r}")


def snapshot(life: Life, name: str, **more: Any) -> None:
    life.post(f"{WORK}/snapshots", {"name": name, **more})


def test_fork_copies_what_is_in_memory(life: Life) -> None:
    """`f` makes a session of the name one gives, with the variables of the first, and goes to it."""
    life.run("work", "numbers = iter(range(9)); next(numbers)")

    async def story() -> None:
        async with driven(size=(140, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("f")
            await answer(dashboard, "ok")
            await dashboard.sees("The copy needs a name")
            await fill(dashboard, name="copy")
            await logs(dashboard, "omegactl fork work copy")
            await dashboard.until(
                lambda: dashboard.main.table.selected_id == life.session("copy")["id"], "the copy is selected"
            )
            assert life.run("copy", "next(numbers)")["result"] == "1"
            await dashboard.press("2")
            await dashboard.sees("forked from")

    run(story())


def test_fork_that_is_refused_offers_what_is_saved(life: Life) -> None:
    """A process with threads is not copied: the refusal names them, and one key makes the copy from what is saved."""
    life.run("work", f"x = 41; {THREAD}")

    async def story() -> None:
        async with driven(size=(140, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("f")
            await fill(dashboard, name="copy")
            await dashboard.sees("watcher")
            await dashboard.sees("omegactl fork work copy --from-checkpoint")
            await answer(dashboard, "yes")
            await logs(dashboard, "omegactl fork work copy --from-checkpoint")
            assert life.session("copy")["state"] == "hibernated"
            await dashboard.sees("❄ hibernated")
            await dashboard.selects("copy")
            await dashboard.sees("the next command wakes it")
            life.run("copy", "x + 1")
            await dashboard.sees("── resumed from checkpoint")

    run(story())


def test_fork_that_is_refused_and_not_offered_again_says_why(life: Life) -> None:
    """Who wants no copy of what is saved is left with the refusal, and nothing is made."""
    life.run("work", THREAD)

    async def story() -> None:
        async with driven(size=(140, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("f")
            await fill(dashboard, name="copy")
            await dashboard.sees("Fork what is saved of work?")
            await answer(dashboard, "cancel")
            await dashboard.sees("Cannot fork work")
            await dashboard.press("escape")
            assert [row["name"] for row in life.get("/api/sessions")] == ["work"]

    run(story())


def test_snapshots_are_made_listed_and_deleted(life: Life) -> None:
    """`s` names the present state; the tab lists it with what it lacks and why; `D` asks, and deletes it."""
    life.run("work", "x = 1; numbers = (n for n in range(3))")

    async def story() -> None:
        async with driven(size=(160, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("4")
            await dashboard.sees("No snapshots: s makes one")
            await dashboard.press("s")
            await fill(dashboard, name="first", note="before it all", tags="clean 'two words'")
            await logs(dashboard, "omegactl snapshot work first -m 'before it all' --tag clean --tag 'two words'")
            await dashboard.sees("but for numbers")
            await dashboard.sees("left out: numbers:")
            await dashboard.sees("#clean #two words")
            snapshot(life, "second")
            await dashboard.sees("second")
            await dashboard.press("D")
            await dashboard.sees("Delete snapshot second of work?")
            await answer(dashboard, "cancel")
            await dashboard.sees_no("Delete snapshot second")
            await dashboard.press("D")
            await answer(dashboard, "yes")
            await logs(dashboard, "omegactl snapshot work --delete second")
            await dashboard.sees_no("second")
            assert [row["name"] for row in life.get(f"{WORK}/snapshots")] == ["first"]

    run(story())


def test_snapshot_of_a_taken_name_is_refused_in_words(life: Life) -> None:
    """The daemon's refusal is shown, with what to do next."""
    life.run("work", "x = 1")
    snapshot(life, "first")

    async def story() -> None:
        async with driven(size=(140, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("s")
            await fill(dashboard, name="first")
            await dashboard.sees("has a snapshot 'first' already")
            await dashboard.sees("Choose another name")

    run(story())


def test_restore_asks_and_keeps_what_is_replaced(life: Life) -> None:
    """Enter on a snapshot goes on from it, after a question; what the session had is a snapshot, and is said so."""
    first = life.run("work", "x = 1")["id"]
    snapshot(life, "first")
    life.run("work", "x = 2")

    async def story() -> None:
        async with driven(size=(160, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("4")
            await dashboard.sees(f"after {first}")
            await dashboard.press("enter")
            await answer(dashboard, "ok")
            await dashboard.sees("Take work back to first?")
            await answer(dashboard, "cancel")
            await dashboard.sees_no("Take work back")
            assert life.run("work", "x")["result"] == "2"
            await dashboard.press("enter")
            await answer(dashboard, "ok")
            await dashboard.sees("Take work back to first?")
            await answer(dashboard, "yes")
            await logs(dashboard, "omegactl restore work first")
            assert life.run("work", "x")["result"] == "1"
            kept = next(row for row in life.get(f"{WORK}/snapshots") if row["automatic"])
            await dashboard.sees(kept["name"])
            await dashboard.press("1")
            await dashboard.sees("── resumed from checkpoint")

    run(story())


def test_restore_into_a_new_session_leaves_the_first(life: Life) -> None:
    """`r` with the name of a new session makes that one, asleep; nothing is asked, for nothing is replaced."""
    life.run("work", "x = 1")
    snapshot(life, "first")
    life.run("work", "x = 2")

    async def story() -> None:
        async with driven(size=(140, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("r")
            await fill(dashboard, into="copy")
            await logs(dashboard, "omegactl restore work first --into copy")
            await dashboard.sees("❄ hibernated")
            assert life.run("copy", "x")["result"] == "1"
            assert life.run("work", "x")["result"] == "2"

    run(story())


def test_restore_without_snapshots_says_how_to_make_one(life: Life) -> None:
    """There is no form without anything to choose."""
    life.run("work", "x = 1")

    async def story() -> None:
        async with driven(size=(140, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("r")
            await dashboard.sees("work has no snapshots")

    run(story())


def test_save_is_told_and_stands_in_the_info(life: Life) -> None:
    """`w` saves now; Info says after which execution, and each thing that is left out with its reason."""
    id = life.run("work", "x = 1; numbers = (n for n in range(3))")["id"]

    async def story() -> None:
        async with driven(size=(160, 50)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("w")
            await logs(dashboard, "omegactl save work")
            await dashboard.press("2")
            await dashboard.sees(f"but for numbers, after execution {id}")
            await dashboard.sees("numbers: ")

    run(story())


def test_info_says_what_has_gone_of_the_history(life: Life) -> None:
    """How many executions went to keep the history within its limits, and up to which."""
    ids = [life.run("work", f"x = {number}")["id"] for number in range(3)]
    life.post("/api/prune", {"keep": 1, "session": "work"})

    async def story() -> None:
        async with driven(size=(160, 50)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("2")
            await dashboard.sees("pruned        2 executions")
            await dashboard.sees(f"up to {ids[1]}")

    run(story())


def test_timeline_is_a_tree_that_goes_on(life: Life) -> None:
    """Snapshots, restores, forks and losses branch where they happened, and what happens meanwhile appears."""
    first = life.run("work", "x = 1")["id"]
    snapshot(life, "first")
    life.run("work", "x = 2")
    life.post(f"{WORK}/restore", {"snapshot": "first"})
    life.run("work", "x")

    async def story() -> None:
        async with driven(size=(180, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("5")
            await dashboard.sees(f"· {first} x = 1 (ok")
            await dashboard.sees("│ ◆ snapshot first")
            await dashboard.sees("↩ restored first")
            life.post(f"{WORK}/fork", {"name": "copy"})
            await dashboard.sees("→ forked into copy")
            os.kill(life.session("work")["pid"], signal.SIGKILL)
            wait_until(lambda: life.session("work")["state"] == "dead", "it is dead")
            life.run("work", "x * 100")
            await dashboard.sees("↩ woken from")
            await dashboard.sees("x * 100")
            await dashboard.press("home")
            while "◆ snapshot first" not in (line := cursor_line(dashboard)):
                assert line
                await dashboard.press("j")
            await dashboard.press("enter")
            await dashboard.sees("omegactl restore work first")
            await dashboard.press("escape")
            await dashboard.selects("copy")
            await dashboard.sees("↳ forked from work")

    run(story())


def cursor_line(dashboard: Driver) -> str:
    """The kind and title under the timeline's cursor."""
    row = dashboard.app.screen.query_one("#timeline-list").row  # type: ignore[attr-defined]
    return f"{'◆ ' if row.node['kind'] == 'snapshot' else ''}{row.node['kind']} {row.node['title']}"


def test_losses_stand_in_the_transcript_as_they_happen(life: Life) -> None:
    """After a crash the command that goes on from what is saved says so, live and when it is read again."""
    life.run("work", "kept = 1; numbers = (n for n in range(3))")
    life.post(f"{WORK}/save")

    async def story() -> None:
        async with driven(size=(160, 40)) as dashboard:
            await dashboard.selects("work")
            os.kill(life.session("work")["pid"], signal.SIGKILL)
            await dashboard.sees("✗ dead")
            life.run("work", "kept")
            await dashboard.sees("── resumed from checkpoint")
            await dashboard.sees("── lost: numbers")
        async with driven(size=(160, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.sees("── resumed from checkpoint")
            await dashboard.sees("── lost: numbers")

    run(story())


def test_tabs_have_short_names_where_it_is_narrow(life: Life) -> None:
    """All five are there in the narrow pane, the open one by its whole name."""
    life.run("work", "x = 1")

    async def story() -> None:
        async with driven(size=(104, 30)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("4")
            await dashboard.sees("4 Snapshots 5 Tree")
            await dashboard.press("5")
            await dashboard.sees("1 Text 2 Info 3 Log 4 Snaps 5 Timeline")

    run(story())


def test_hostile_names_and_notes_stay_text(life: Life) -> None:
    """A snapshot's note and tags and what the timeline says are shown without what a terminal obeys."""
    life.run("work", "x = 1  # \x1b[2Jhidden [red]markup[/]")
    snapshot(life, "first", note="\x1b]0;owned\x07 [red]note[/]\nsecond line", tags=["\x1b[6ntag [/nope]"])

    async def story() -> None:
        async with driven(size=(180, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("4")
            await dashboard.sees("[red]note[/]")
            await dashboard.sees("tag [/nope]")
            assert "owned" not in dashboard.shown()
            await dashboard.press("5")
            await dashboard.sees("[red]markup[/]")
            assert "\x1b" not in dashboard.shown()

    run(story())


def test_state_keys_work_at_full_size_and_writing_goes_on(life: Life) -> None:
    """In the console, out of the box, the tabs and actions are there; `i` goes from a tab to the box, where letters are
    letters again."""
    life.run("work", "x = 1")

    async def story() -> None:
        async with driven(size=(120, 36)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("enter")
            await dashboard.until(lambda: isinstance(dashboard.app.screen, Console), "the console opens")
            await dashboard.press("escape", "4")
            await dashboard.sees("No snapshots")
            await dashboard.press("s")
            await fill(dashboard, name="first")
            await logs(dashboard, "omegactl snapshot work first")
            await dashboard.sees("⏎ goes on from it")
            await dashboard.press("i")
            await dashboard.write("f = r'sw45'; f")
            await dashboard.press("ctrl+j")
            await dashboard.sees("'sw45'")

    run(story())


def test_reading_again_wakes_nobody_and_keeps_the_cursor(life: Life) -> None:
    """A hibernated session is looked at without being woken; a snapshot made elsewhere leaves the cursor on its own."""
    life.run("work", "x = 1")
    for name in ("one", "two", "three"):
        snapshot(life, name)
    life.post(f"{WORK}/restore", {"snapshot": "two", "into": "copy"})

    async def story() -> None:
        async with driven(size=(160, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("4")
            await dashboard.sees("three")
            await dashboard.press("k")
            snapshot(life, "four")
            await dashboard.sees("four")
            await dashboard.press("enter")
            await dashboard.sees("omegactl restore work two")
            await dashboard.press("escape")
            await dashboard.selects("copy")
            await dashboard.sees("No snapshots")
            await dashboard.press("5")
            await dashboard.sees("restored two")
            assert life.session("copy")["state"] == "hibernated"

    run(story())


def test_tabs_are_read_when_events_tell_of_news_and_not_otherwise(life: Life) -> None:
    """A snapshot made, removed and restored elsewhere appears in both tabs; while nothing happens, and while a session
    only prints, neither is read again."""
    life.run("work", "x = 1")
    life.run("other", "x = 1")

    async def story() -> None:
        async with driven(size=(180, 40)) as dashboard:
            await dashboard.selects("work")
            session = dashboard.app.model.by_name("work")
            assert session is not None

            async def follows(key: str, tab: str, seen: str) -> None:
                await dashboard.press(key)
                await dashboard.until(lambda: dashboard.main.detail.query(f"#{tab}"), "the tab opens")
                snapshot(life, "first")
                await dashboard.sees(seen)
                read = dashboard.main.detail._read
                life.run("other", "print('x' * 100)")
                samples = len(session.samples)
                await dashboard.until(lambda: len(session.samples) > samples + 1, "it was looked at twice more")
                assert dashboard.main.detail._read == read
                life.call("DELETE", f"{WORK}/snapshots/first")
                await dashboard.sees_no(seen)

            await follows("4", "snapshots", "first ")
            await follows("5", "timeline", "◆ snapshot first")
            life.post(f"{WORK}/fork", {"name": "copy", "from_checkpoint": True})
            await dashboard.sees("→ forked into copy")

    run(story())
