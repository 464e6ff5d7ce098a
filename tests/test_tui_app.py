"""The dashboard beside a real daemon: what is shown is what happens."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dashboard import driven, run
from life import FOREVER, Life


def test_sessions_are_listed_as_they_come_and_go(life: Life) -> None:
    """Sessions, their states and their end appear without a key."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.sees("No sessions yet")
            life.execute("alpha", "x = 1")
            await dashboard.sees("alpha")
            life.begin_running("beta", FOREVER)
            await dashboard.sees("◐ busy")
            life.post("/api/sessions/beta/kill", {})
            await dashboard.sees("✗ dead")
            life.call("DELETE", "/api/sessions/beta")
            await dashboard.sees_no("beta")

    run(story())


def test_transcript_has_past_and_present(life: Life) -> None:
    """What was run before, and what runs now, stands in the transcript with its output, each once."""
    life.execute("work", "print('before', 6 * 7)")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.sees("before 42")
            life.execute("work", "print('after', 6 * 8)")
            await dashboard.sees("after 48")
            assert dashboard.shown().count("before 42") == 1
            life.execute("work", "1 / 0")
            await dashboard.sees("ZeroDivisionError")
            await dashboard.sees("error · ")

    run(story())


def test_code_is_run_from_the_box(life: Life) -> None:
    """`i` opens the box, Enter runs what is whole, and the output is shown."""
    life.execute("work", "x = 20")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.selects("work")
            await dashboard.press("i")
            await dashboard.write("print(x + 22)")
            await dashboard.press("enter")
            await dashboard.sees("> print(x + 22)")
            await dashboard.until(lambda: "\n" in dashboard.shown() and "42" in dashboard.shown(), "the result")
            assert dashboard.app.command_log[-1].line == "omegactl exec work -c 'print(x + 22)'"

    run(story())


def test_daemon_killed_while_streaming(lives: Callable[..., Life]) -> None:
    """A daemon that dies under a stream is said to be gone, and its successor goes on where it was, with each line
    once."""
    life = lives()

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            life.begin_running("work", "import time\nfor i in range(10**9): print('line', i); time.sleep(0.01)")
            await dashboard.sees("line 3")
            life.kill()
            await dashboard.until(lambda: dashboard.app.standing.kind != "live", "the daemon is missed")
            life.start()
            await dashboard.is_live()
            session = dashboard.app.model.by_name("work")
            assert session is not None
            tape = dashboard.app.model.tapes[session.id]
            seen = tape.end
            await dashboard.until(lambda: tape.end > seen + 20, "lines go on")
            numbers = [
                int(line.text.split()[1]) for line in tape.lines(tape.first, tape.end) if "line" in line.text[:4]
            ]
            assert numbers == list(range(len(numbers)))

    run(story())


@pytest.mark.parametrize("size", [(58, 40), (58, 20), (80, 30), (80, 20), (100, 30), (200, 50)])
def test_sizes(life: Life, size: tuple[int, int]) -> None:
    """At every size the sessions are there, and the transcript too where there is room or one goes to it."""
    life.execute("work", "print('seen')")

    async def story() -> None:
        async with driven(size=size) as dashboard:
            await dashboard.sees("work")
            if size[1] < 24:
                assert not dashboard.main.detail.display
                await dashboard.press("i")
            await dashboard.sees("seen")

    run(story())
