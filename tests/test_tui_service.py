"""The service screen where no systemd runs the daemon: it manages the background process, and says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from daemon import wait_until
from dashboard import Driver, driven, run
from isolation import Place
from life import Life
from omega_sessiond.target import Target
from tui.app import Dashboard
from tui.screens.service import ServiceScreen
from tui.standing import standing


async def stands(dashboard: Driver, kind: str) -> None:
    """Wait until the service screen says so."""

    def is_so() -> bool:
        screen = dashboard.app.screen
        return isinstance(screen, ServiceScreen) and screen.found is not None and standing(screen.found).kind == kind

    await dashboard.until(is_so, f"the service is {kind}")


async def confirm(dashboard: Driver, question: str) -> None:
    await dashboard.sees(question)
    await dashboard.press("right", "enter")


def test_the_background_process_is_managed(life: Life) -> None:
    """Stop, start and restart do their work, sessions go on, the log is followed, and nothing is started by looking."""
    life.run("work", "x = 41")

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            await dashboard.press("S")
            await stands(dashboard, "running")
            await dashboard.sees("without systemd: no user manager answers here")
            await dashboard.sees_no("e Enable")
            await dashboard.press("x")
            await confirm(dashboard, "Stop the daemon?")
            await stands(dashboard, "absent")
            await dashboard.until(lambda: dashboard.app.standing.kind == "absent", "the feed knows")
            assert not life.daemons()
            await dashboard.press("s")
            await stands(dashboard, "running")
            await dashboard.sees("serving ")
            await dashboard.is_live()
            first = life.server_pid()
            await dashboard.press("r")
            await confirm(dashboard, "Restart the daemon?")
            await dashboard.sees("Restarted: pid ")
            await dashboard.sees("leaving: received SIGTERM")
            assert life.server_pid() != first
            assert life.value("work", "x + 1") == 42
            done = [command.line for command in dashboard.app.command_log]
            assert done == ["omegactl service stop", "omegactl service start", "omegactl service restart"]

    run(story())


@pytest.fixture
def preloading(place: Place) -> Iterator[Life]:
    """A daemon whose fork server has a package, and has refused one that says hostile things."""
    packages = place.base / "packages"
    packages.mkdir()
    (packages / "evil.py").write_text("raise RuntimeError('[@click=app.quit]x[/]\\x1b]0;t\\x07 [/nope]')")
    life = Life(place, {"preload": ["tabnanny", "evil"]})
    life.daemon.env["PYTHONPATH"] += f":{packages}"
    life.start()
    wait_until(lambda: any(one["is_rehearsed"] for one in life.get("/api/server")["fork_servers"]), "it has rehearsed")
    yield life
    life.end()


def test_fork_servers_are_shown_as_they_are(preloading: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """What sessions are forked from is shown with its packages, those refused as text, and counts on while one looks.
    Nothing is asked for it beside how the daemon stands; when that is stopped, it is gone."""
    (server,) = preloading.get("/api/server")["fork_servers"]
    asked: list[object] = []

    async def note(self: Dashboard, function: object) -> None:
        asked.append(function)

    def row(forked: int) -> str:
        return f"● ready, rehearsed  {forked:<6}  {server['python']}"

    async def story() -> None:
        async with driven(size=(160, 36)) as dashboard:
            await dashboard.is_live()
            monkeypatch.setattr(Dashboard, "ask", note)
            await dashboard.press("S")
            await stands(dashboard, "running")
            await dashboard.sees(row(forked=0))
            await dashboard.sees("preloaded: tabnanny")
            await dashboard.sees("refused: evil (its import fails: RuntimeError: [@click=app.quit]x[/] [/nope])")
            preloading.run("work", "1")
            await dashboard.sees(row(forked=1))
            await dashboard.press("x")
            await confirm(dashboard, "Stop the daemon?")
            await stands(dashboard, "absent")
            await dashboard.sees_no("FORK SERVER")
            assert preloading.wait() == 0
            assert not asked

    run(story())


@pytest.mark.parametrize("size", [(58, 20), (80, 24)])
def test_many_refusals_leave_room_for_the_log(lives: Callable[..., Life], size: tuple[int, int]) -> None:
    """However many packages were refused, the state, the log and the way back are there, and one can scroll to each."""
    missing = [f"missing_{number}" for number in range(20)]
    life = lives(preload=missing)
    wait_until(lambda: any(one["refused"] for one in life.get("/api/server")["fork_servers"]), "they are refused")

    async def story() -> None:
        async with driven(size=size) as dashboard:
            await dashboard.is_live()
            await dashboard.press("S")
            await dashboard.sees("refused: missing_0")
            for text in ("● running", "Log · info", "Esc Back"):
                await dashboard.sees(text)
            assert "missing_19 " not in dashboard.shown()
            await dashboard.press("shift+tab", "end")
            await dashboard.sees("refused: missing_19 ")

    run(story())


def test_what_was_begun_is_logged_though_the_screen_is_left(life: Life) -> None:
    """Who leaves the screen while a verb is carried out finds it in the log of commands all the same."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            await dashboard.press("S")
            await stands(dashboard, "running")
            await dashboard.press("r")
            await confirm(dashboard, "Restart the daemon?")
            await dashboard.press("escape")
            await dashboard.until(lambda: dashboard.app.screen is dashboard.main, "the screen is left")
            await dashboard.until(lambda: dashboard.app.command_log, "it is logged")
            assert dashboard.app.command_log[-1].line == "omegactl service restart"
            await dashboard.is_live()

    run(story())


def test_keys_that_make_no_sense_do_nothing(life: Life) -> None:
    """A verb that would change nothing is neither offered nor done when its key is pressed."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            await dashboard.press("S")
            await stands(dashboard, "running")
            await dashboard.press("s", "e", "d", "f")
            await dashboard.pilot.pause()
            assert isinstance(dashboard.app.screen, ServiceScreen)
            assert not dashboard.app.command_log

    run(story())


def test_what_fails_is_told_with_the_next_step(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that cannot be started is an error in words on the screen, and in the log of commands."""

    async def story() -> None:
        async with driven() as dashboard:
            await dashboard.is_live()
            await dashboard.press("S")
            await stands(dashboard, "running")
            await dashboard.press("x")
            await confirm(dashboard, "Stop the daemon?")
            await stands(dashboard, "absent")
            assert life.wait() == 0
            config = life.place.config_home / "omega-sessiond" / "config.toml"
            config.parent.mkdir(exist_ok=True)
            config.write_text("max_queu = 3\n")
            await dashboard.press("s")
            await dashboard.sees("omegactl doctor")
            await dashboard.sees("max_queu")
            config.unlink()
            assert "max_queu" in dashboard.app.command_log[-1].outcome

    run(story())


def test_a_daemon_named_by_its_socket(life: Life) -> None:
    """It can be stopped but its log is not known; the command lines name the socket."""

    async def story() -> None:
        async with driven(at=Target(life.daemon.socket_path, None, "--socket")) as dashboard:
            await dashboard.is_live()
            await dashboard.press("S")
            await stands(dashboard, "running")
            await dashboard.sees("--socket names a daemon of its own")
            await dashboard.sees("not known here")
            await dashboard.press("x")
            await confirm(dashboard, f"omegactl --socket {life.daemon.socket_path}")
            await stands(dashboard, "absent")
            assert life.wait() == 0

    run(story())


@pytest.mark.parametrize("size", [(58, 20), (80, 24), (200, 50)])
def test_it_fits_any_size(life: Life, size: tuple[int, int]) -> None:
    """The state, the log and the way back are there at every size, also after it has changed."""

    async def story() -> None:
        async with driven(size=size) as dashboard:
            await dashboard.is_live()
            await dashboard.press("S")
            await stands(dashboard, "running")
            for text in ("● running", "Log · info", "Esc Back"):
                await dashboard.sees(text)
            await dashboard.pilot.resize_terminal(70, 22)
            for text in ("● running", "Log · info", "Esc Back"):
                await dashboard.sees(text)

    run(story())
