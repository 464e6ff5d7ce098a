"""The transcript: followed at its end, read further up, older lines from the journal, selected and copied."""

from __future__ import annotations

from textual.geometry import Offset
from textual.selection import Selection

from dashboard import Driver, driven, run
from life import Life
from tui.past import PAGE

STEADY = "import time\nfor i in range(10**9): print('line', i); time.sleep(0.005)"


async def watched(dashboard: Driver, life: Life) -> None:
    """A session that prints, with the focus on its transcript."""
    await dashboard.is_live()
    life.begin_running("work", STEADY)
    await dashboard.selects("work")
    await dashboard.sees("line 30")
    dashboard.main.detail.transcript.focus()


def test_what_comes_while_one_reads_further_up_is_counted(life: Life) -> None:
    """Scrolled up, the lines stay where they are and the new ones are counted; End follows again."""

    async def story() -> None:
        async with driven() as dashboard:
            await watched(dashboard, life)
            transcript = dashboard.main.detail.transcript
            await dashboard.press("g")
            await dashboard.sees(". import time")
            first = transcript.render_line(0).text
            await dashboard.sees("new]")
            unseen = transcript.unseen_lines
            await dashboard.until(lambda: transcript.unseen_lines > unseen + 20, "more come")
            assert transcript.render_line(0).text == first
            await dashboard.press("end")
            await dashboard.sees_no("new]")
            assert transcript.is_following

    run(story())


def test_paging_down_to_the_end_follows(life: Life) -> None:
    """Whoever comes down to the last line by himself follows again."""
    life.execute("work", "for i in range(200): print('row', i)")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.selects("work")
            await dashboard.sees("row 199")
            transcript = dashboard.main.detail.transcript
            transcript.focus()
            await dashboard.press("pageup")
            assert not transcript.is_following
            await dashboard.press("up", "down", "pagedown", "pagedown")
            assert transcript.is_following

    run(story())


def test_older_executions_are_read_when_one_comes_to_the_top(life: Life) -> None:
    """At the top the journal's older executions are put above, down to the first, and what one reads stays in place."""
    for number in range(2 * PAGE + 5):
        life.execute("work", f"{number} + 1000")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.selects("work")
            transcript = dashboard.main.detail.transcript
            transcript.focus()
            session = dashboard.app.model.by_name("work")
            assert session is not None
            tape = dashboard.app.model.tapes[session.id]
            assert tape.has_older
            while tape.has_older:
                before = tape.first
                await dashboard.press("g")
                await dashboard.until(lambda: tape.first < before or not tape.has_older, "older ones come")  # noqa: B023
            await dashboard.press("g")
            await dashboard.sees("1> 0 + 1000")
            assert tape.text().count(" + 1000") == 2 * PAGE + 5

    run(story())


def test_long_lines_wrap_and_endless_ones_are_cut(life: Life) -> None:
    """A line is shown on as many rows as it needs; colours live, other sequences do not."""
    life.execute("work", "print('a' * 300); print('\\x1b[31mred\\x1b[0m\\x1b]0;title\\x07 end \\x1b[2Jx')")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.selects("work")
            await dashboard.sees("red end x")
            assert "aaaaaaaaaa" in dashboard.shown()
            assert not set(dashboard.shown()) & {"\x1b", "\x07", "\x9b"}
            transcript = dashboard.main.detail.transcript
            letters = sum(transcript.render_line(y).text.count("a") for y in range(transcript.size.height))
            assert letters >= 300

    run(story())


def test_progress_bars_are_one_line(life: Life) -> None:
    """A line that is written over and over is shown as it stands."""
    life.execute("work", "import sys\nfor i in range(101): sys.stdout.write('\\r%d%% done' % i)\nprint()")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.selects("work")
            await dashboard.sees("100% done")
            assert "99% done" not in dashboard.shown()

    run(story())


def test_selected_lines_are_copied(life: Life) -> None:
    """What is selected with the mouse is what `y` copies."""
    life.execute("work", "print('first'); print('second')")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.selects("work")
            await dashboard.sees("second")
            transcript = dashboard.main.detail.transcript
            dashboard.app.screen.selections = {transcript: Selection(Offset(0, 1), Offset(6, 2))}
            await dashboard.press("y")
            await dashboard.until(lambda: dashboard.app.clipboard == "first\nsecond", "it is copied")

    run(story())


def test_transcripts_of_two_sessions_do_not_mix(life: Life) -> None:
    """Another session's lines come when the cursor rests on it, and the first one's are there again afterwards."""
    life.execute("one", "print('from', 'one')")
    life.execute("two", "print('from', 'two')")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.selects("two")
            await dashboard.sees("from two")
            await dashboard.selects("one")
            await dashboard.sees("from one")
            await dashboard.sees_no("from two")

    run(story())
