"""`omegactl tui` at a real terminal: it starts, lends it to a REPL, leaves it as it was, and refuses what is none."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from ctl import COMMAND, Omegactl, whatever_it_starts
from dashboard import driven, run
from isolation import Place
from life import Life


@pytest.fixture
def ctl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as found:
        yield found


def test_starts_shows_and_is_left(life: Life) -> None:
    """The dashboard shows the sessions, and `q` leaves it with 0 and the terminal's own screen."""
    life.execute("visible", "x = 1")
    with Omegactl(life.place).at_terminal("tui", env={"TERM": "xterm-256color"}) as terminal:
        terminal.until("Sessions")
        terminal.until("visible")
        terminal.type("q")
        assert terminal.end() == 0
        assert "\x1b[?1049l" in terminal.seen
    assert life.get("/api/sessions/visible")["state"] == "idle"


def test_attach_lends_the_terminal(life: Life) -> None:
    """`a` opens the REPL of the session in the same terminal; leaving it comes back to the dashboard."""
    life.execute("work", "answer = 6 * 7")
    with Omegactl(life.place).at_terminal("tui", env={"TERM": "xterm-256color"}) as terminal:
        terminal.until("work")
        terminal.until("1> ")
        terminal.type("a")
        terminal.until(r"\x1b\[\?1049l")
        terminal.until("work")
        terminal.type("print(answer + 1000)\r")
        terminal.until("1042")
        terminal.type("\x04")
        terminal.until("Sessions")
        terminal.type("q")
        assert terminal.end() == 0


@pytest.mark.parametrize("term", ["dumb", ""])
def test_terminals_that_cannot_draw_are_refused(ctl: Omegactl, term: str) -> None:
    """A terminal that cannot be drawn on is refused in a sentence, with what helps."""
    with ctl.at_terminal("tui", env={"TERM": term}) as terminal:
        terminal.until("cannot draw on this terminal")
        terminal.until("omegactl ls")
        assert terminal.end() == 2


def test_no_terminal_is_refused(ctl: Omegactl) -> None:
    """Without a terminal the dashboard says so, and starts nothing."""
    done = subprocess.run(
        [*COMMAND, "tui"], env=ctl.env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "needs a terminal" in done.stderr
    assert not ctl.place.processes()


def test_crash_prints_no_values(life: Life, capsys: pytest.CaptureFixture[str]) -> None:
    """A defect ends the dashboard with its traceback, and without what variables held."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()

            def fail() -> None:
                password = "hunter" + "2"
                raise ZeroDivisionError(len(password))

            dashboard.app.call_later(fail)
            await dashboard.until(lambda: dashboard.app._exception is not None, "it has failed")

    with pytest.raises(ZeroDivisionError):
        run(story())
    printed = capsys.readouterr()
    assert "ZeroDivisionError" in printed.err + printed.out
    assert "hunter2" not in printed.err + printed.out
