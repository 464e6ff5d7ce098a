"""What every test gets without asking: a HOME of its own, and failure when it leaves a process behind.

Also the fixtures of the real `systemd --user`. Where this machine cannot run one, the tests that need it are skipped
with the reason; with CI set they fail instead, so that nothing is skipped unseen.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

import usermanager
from isolation import FOREIGN, Place, settled
from life import Life
from usermanager import Hierarchy, UserManager

CHECKOUT = Path(__file__).resolve().parent.parent


if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    # A shell's background job: what it starts would ignore ^C, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

for name in os.listdir("/dev/fd"):
    # What the caller of the tests left open is not for the sessions that they start.
    with contextlib.suppress(OSError):
        os.set_inheritable(int(name), int(name) <= 2)

hypothesis.settings.register_profile("any machine", suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("any machine")


@pytest.fixture(scope="session", autouse=True)
def isolated_run() -> Iterator[Place]:
    """The place of whatever outlives a single test."""
    place = Place()
    with pytest.MonkeyPatch.context() as patch:
        _move_to(place, patch)
        yield from settled(place)


@pytest.fixture(autouse=True)
def place(isolated_run: Place, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """The place of one test: os.environ points there, and nothing of it may be running when the test is over."""
    place = Place()
    _move_to(place, monkeypatch)
    yield from settled(place)


def _move_to(place: Place, patch: pytest.MonkeyPatch) -> None:
    for name in FOREIGN:
        patch.delenv(name, raising=False)
    for name, value in place.variables.items():
        patch.setenv(name, value)


def unavailable(reason: str) -> None:
    """Skip the test for what this machine lacks; in CI that is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"cannot run here, and CI skips nothing: {reason}")
    pytest.skip(reason)


@pytest.fixture
def lives(place: Place) -> Iterator[Callable[..., Life]]:
    """Starts the test's daemon with the given settings: `lives(max_queue=2)`."""
    begun: list[Life] = []

    def begin(**settings: object) -> Life:
        begun.append(Life(place, settings))
        begun[-1].start()
        return begun[-1]

    yield begin
    for life in begun:
        life.end()


@pytest.fixture
def life(lives: Callable[..., Life]) -> Life:
    """A running daemon with default settings, which the test may kill and start again."""
    return lives()


@pytest.fixture(scope="session")
def test_user() -> str:
    """The account that real user managers belong to."""
    if why := usermanager.missing():
        unavailable(f"no real systemd --user here: {why}; ./tests/run as root on Debian provides it")
    return usermanager.USER


@pytest.fixture(scope="session")
def test_venv(test_user: str) -> Iterator[Path]:
    """A virtual environment with this checkout installed, which the test user can run."""
    with usermanager.installed_for(test_user, CHECKOUT) as venv:
        yield venv


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failed test shows what its user managers had to say."""
    report = yield
    if report.when == "call" and report.failed and isinstance(item, pytest.Function):
        for value in item.funcargs.values():
            if isinstance(value, UserManager) and value.is_running:
                report.sections.append(("user manager", value.status()))
    return report


@pytest.fixture
def user_managers(test_user: str, test_venv: Path) -> Iterator[Callable[..., UserManager]]:
    """Starts real user managers with the installed commands on their PATH: `user_managers("hybrid")`."""
    started: list[UserManager] = []

    def start(
        hierarchy: Hierarchy = "v2", *, path: str = f"{test_venv}/bin:/usr/local/bin:/usr/bin:/bin"
    ) -> UserManager:
        manager = UserManager(hierarchy, user=test_user, path=path)
        started.append(manager)
        return manager

    yield start
    for manager in started:
        manager.stop()


@pytest.fixture
def user_manager(user_managers: Callable[..., UserManager]) -> UserManager:
    """A real `systemd --user` in the v2 view: CPU is accounted, memory and tasks are not limited."""
    return user_managers("v2")


@pytest.fixture
def limiting_manager(user_managers: Callable[..., UserManager]) -> UserManager:
    """A real `systemd --user` that enforces MemoryMax= and TasksMax=."""
    manager = user_managers("hybrid")
    if not manager.memory_and_tasks_are_limited:
        unavailable("this machine lends no memory and pids controllers")
    return manager
