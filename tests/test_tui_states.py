"""How it stands with the daemon, drawn: each state is caused, and looking at it changes nothing."""

from __future__ import annotations

import os
import select
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from daemon import Daemon
from dashboard import driven, run
from isolation import Place
from life import FOREVER, Life
from omega_sessiond.target import Target
from stub import Stub, refusal
from tui.keys import Settings, remapped

WIDE = (200, 40)
"""Sentences stand on one line."""

SYSTEMCTL = """#!/bin/sh
echo "$*" >> {log}
case "$2" in
  show) cat {units} ;;
  start) cp {started} {units} ;;
esac
"""

UNITS = """Id=omega-sessiond.socket
LoadState={load}
ActiveState={socket}
SubState=listening
Result=success
UnitFileState=enabled

Id=omega-sessiond.service
LoadState={load}
ActiveState={service}
SubState=running
Result=success
UnitFileState=static
"""


class Manager:
    """A `systemctl` that says what the test dictates. The socket is the test's own, as a socket unit's is systemd's."""

    def __init__(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        programs = place.base / "bin"
        programs.mkdir()
        (place.runtime_dir / "systemd").mkdir()
        self._units = place.base / "units"
        self._log = place.base / "systemctl.log"
        started = place.base / "started"
        started.write_text(UNITS.format(load="loaded", socket="active", service="inactive"))
        script = programs / "systemctl"
        script.write_text(SYSTEMCTL.format(log=self._log, units=self._units, started=started))
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")

    def say(self, *, socket: str = "active", service: str = "inactive", load: str = "loaded") -> None:
        new = self._units.with_suffix(".new")
        new.write_text(UNITS.format(load=load, socket=socket, service=service))
        new.replace(self._units)

    @property
    def verbs(self) -> list[str]:
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [line.split()[1] for line in lines if line.split()[1] != "show"]


@pytest.fixture
def manager(place: Place, monkeypatch: pytest.MonkeyPatch) -> Manager:
    return Manager(place, monkeypatch)


@contextmanager
def woken(daemon: Daemon, manager: Manager) -> Iterator[socket.socket]:
    """A listener like systemd's: at the first connection the daemon is started."""
    Path(daemon.socket_path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    daemon.listener = daemon._bound()
    stopping = threading.Event()

    def wait() -> None:
        assert daemon.listener is not None
        while not stopping.is_set():
            if select.select([daemon.listener], [], [], 0.05)[0]:
                manager.say(service="active")
                daemon.spawn()
                return

    thread = threading.Thread(target=wait)
    thread.start()
    try:
        yield daemon.listener
    finally:
        stopping.set()
        thread.join()
        daemon.close()


def test_sleeping_daemon_is_looked_at_and_woken_by_enter(place: Place, manager: Manager) -> None:
    """Where systemd listens and no daemon runs, the dashboard says so and connects to nothing until Enter."""
    manager.say()
    daemon = Daemon(place, how="systemd")

    async def story() -> None:
        async with driven(size=WIDE) as dashboard:
            await dashboard.sees("asleep")
            await dashboard.sees("Enter wakes it")
            before = dashboard.app.standing.retry_at
            await dashboard.until(lambda: dashboard.app.standing.retry_at != before, "it has looked again")
            assert daemon.process is None
            await dashboard.press("enter")
            await dashboard.sees("No sessions yet")
            assert daemon.process is not None

    with woken(daemon, manager):
        run(story())


def test_daemon_stopped_under_the_dashboard_stays_stopped(place: Place, manager: Manager) -> None:
    """When the service is stopped while one looks, the last picture stays, dimmed, and nothing connects again; with
    Enter the socket is started."""
    daemon = Daemon(place, how="systemd")
    manager.say(service="active")

    async def story() -> None:
        async with driven(size=WIDE) as dashboard:
            await dashboard.is_live()
            daemon.execute("work", "x = 1")
            await dashboard.sees("work")
            manager.say(socket="inactive")
            assert daemon.stop() == 0
            await dashboard.sees("stopped")
            await dashboard.sees("Enter starts it")
            await dashboard.sees("Shown as it was")
            assert "work" in dashboard.shown()
            assert dashboard.main.has_class("-stale")
            before = dashboard.app.standing.retry_at
            await dashboard.until(lambda: dashboard.app.standing.retry_at != before, "it has looked again")
            assert manager.verbs == []
            assert daemon.listener is not None
            assert not select.select([daemon.listener], [], [], 0)[0], "somebody has connected"
            await dashboard.press("enter")
            await dashboard.until(lambda: "start" in manager.verbs, "the socket is started")
            manager.say(service="active")
            daemon.spawn()
            await dashboard.is_live()

    with daemon:
        run(story())


def test_failed_service_is_named(place: Place, manager: Manager) -> None:
    """A service that systemd has given up is told as failed, with the way to its journal."""
    manager.say(socket="failed", service="failed")

    async def story() -> None:
        async with driven(size=WIDE) as dashboard:
            await dashboard.sees("has failed")
            await dashboard.sees("Enter starts it again")

    run(story())


def test_no_daemon_and_no_systemd(place: Place) -> None:
    """Without systemd and without a daemon the dashboard starts none by itself; Enter does."""

    async def story() -> None:
        async with driven(size=WIDE) as dashboard:
            await dashboard.sees("no daemon")
            await dashboard.sees("Enter starts one")
            assert not place.processes()
            await dashboard.press("enter")
            await dashboard.sees("No sessions yet")

    try:
        run(story())
    finally:
        Daemon(place).close(check_log=False)


def test_hint_names_the_key_as_it_is_set(place: Place) -> None:
    """Who has given the next step another key is told that one, on the service screen too."""
    keys, troubles = remapped({"open": "u", "service_start": "w"})
    assert troubles == []

    async def story() -> None:
        async with driven(size=WIDE, settings=Settings(ascii=False, keys=keys)) as dashboard:
            await dashboard.sees("u starts one")
            await dashboard.press("S")
            await dashboard.sees("w starts it now")

    run(story())
    assert not place.processes()


def test_connecting_is_said(place: Place) -> None:
    """Before the first answer the dashboard says that it connects."""

    path = place.runtime_dir / "omega-sessiond" / "api.sock"
    path.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()

        async def story() -> None:
            async with driven(size=WIDE) as dashboard:
                await dashboard.sees("◌ connecting")
                await dashboard.sees("Connecting…")
                silent.close()  # nobody waits for an answer any more

        run(story())


def test_refusal_is_shown(place: Place) -> None:
    """A daemon that refuses this user is told as denied, with its own words."""
    path = place.runtime_dir / "omega-sessiond" / "api.sock"

    async def story() -> None:
        async with driven(at=Target(str(path), None, "test"), size=WIDE) as dashboard:
            await dashboard.sees("denied")
            await dashboard.sees("this socket belongs to uid 4711")

    with Stub(path, refusal("forbidden", "403 Forbidden", "this socket belongs to uid 4711")):
        run(story())


def test_foreign_daemon_is_shown(place: Place) -> None:
    """A daemon that knows none of our routes is told as another version, with the command that mends it."""
    path = place.runtime_dir / "omega-sessiond" / "api.sock"

    async def story() -> None:
        async with driven(at=Target(str(path), None, "test"), size=WIDE) as dashboard:
            await dashboard.sees("another version")
            await dashboard.sees("omegactl service restart")

    with Stub(path, refusal("route_not_found", "404 Not Found", "No such route")):
        run(story())


def test_other_version_is_a_warning(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon of another version is worked with, and the difference is told."""
    monkeypatch.setattr("tui.feed.__version__", "99.0")
    life.execute("work", "x = 1")

    async def story() -> None:
        async with driven(size=WIDE) as dashboard:
            await dashboard.sees("this dashboard 99.0")
            await dashboard.sees("● idle")

    run(story())


def test_lost_daemon_is_told_with_the_age_of_the_picture(life: Life) -> None:
    """When the daemon is killed, the last picture stays with its age, and the next try is announced."""
    life.execute("work", "x = 1")

    async def story() -> None:
        async with driven(size=WIDE) as dashboard:
            await dashboard.sees("work")
            life.kill()
            await dashboard.sees("Shown as it was")
            assert dashboard.main.has_class("-stale")
            life.start()
            await dashboard.is_live()
            await dashboard.until(lambda: not dashboard.main.has_class("-stale"), "the picture is fresh")

    run(story())


def test_gap_in_the_stream(life: Life) -> None:
    """When what happened meanwhile is not to be had, the sessions are listed afresh and the transcript read anew."""
    life.execute("work", "print('before')")

    async def story() -> None:
        async with driven(size=WIDE) as dashboard:
            await dashboard.sees("before")
            life.kill()
            dashboard.app.feed._last_id = 10**12  # as after another journal was put in its place
            life.start()
            await dashboard.until(lambda: dashboard.app.model.gaps, "the gap is seen")
            life.execute("other", "x = 1")
            await dashboard.sees("other")
            life.execute("work", "print('after')")
            await dashboard.sees("after")
            assert dashboard.shown().count("print('before')") == 1

    run(story())


def test_execution_of_unknown_outcome(life: Life) -> None:
    """A command whose process was killed is shown as died, and that nobody knows how far it came."""

    async def story() -> None:
        async with driven(size=WIDE) as dashboard:
            life.begin_running("work", FOREVER)
            await dashboard.sees("◐ busy")
            os.kill(life.get("/api/sessions/work")["pid"], signal.SIGKILL)
            await dashboard.sees("how far it came is unknown")
            await dashboard.sees("✗ dead")

    run(story())


def test_daemon_that_does_not_answer_holds_nobody_back(life: Life) -> None:
    """A daemon that is stopped in the middle keeps the dashboard from showing news, and not from being left."""
    life.execute("work", "x = 1")
    pid = life.server_pid()

    async def story() -> None:
        async with driven(size=WIDE) as dashboard:
            await dashboard.sees("work")
            os.kill(pid, signal.SIGSTOP)
            await dashboard.press("j", "2")
            await dashboard.sees("interpreter")
            await dashboard.press("q")
            await dashboard.until(lambda: dashboard.app.return_value == 0, "it is left")

    try:
        run(story())
    finally:
        os.kill(pid, signal.SIGCONT)
