"""The service screen beside a real user manager: what its keys do to real units, and what it shows of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import units
from daemon import wait_until
from remote_dashboard import RemoteDashboard
from usermanager import UserManager

SOCKET, SERVICE = "omega-sessiond.socket", "omega-sessiond.service"


@pytest.fixture
def installed(user_manager: UserManager, test_venv: Path) -> UserManager:
    """The units installed, the socket listening."""
    units.start(user_manager, f"{test_venv}/bin/python")
    return user_manager


@pytest.fixture
def screen(installed: UserManager, test_venv: Path) -> Iterator[RemoteDashboard]:
    """The dashboard on its service screen."""
    with RemoteDashboard(installed, test_venv) as dashboard:
        dashboard.press("S")
        dashboard.sees("Run by systemd")
        yield dashboard


def confirm(dashboard: RemoteDashboard) -> None:
    """Go from Cancel, which has the focus, to the verb."""
    dashboard.press("right", "enter")


def test_looking_wakes_nothing(installed: UserManager, screen: RemoteDashboard) -> None:
    """The dashboard and its service screen show a daemon that sleeps, and let it sleep."""
    screen.stands("listening")
    shown = screen.sees("first request starts the daemon")
    assert SOCKET in shown and SERVICE in shown
    screen.press("escape")
    screen.feed_is("asleep")
    screen.press("S")
    screen.stands("listening")
    assert installed.show(SERVICE, "ActiveState") == "inactive"


def test_stop_is_confirmed_and_stays(installed: UserManager, screen: RemoteDashboard) -> None:
    """x asks first and says that sessions go on; Cancel has the focus; confirmed, the daemon is stopped, stays so while
    one looks, its sessions live, and s brings it back."""
    installed.run("omegactl", "exec", "work", "-c", "x = 41")
    screen.stands("active")
    screen.feed_is("live")
    screen.press("x")
    screen.sees("Stop the daemon?", "Sessions and what runs in them go", "omegactl service stop")
    screen.press("enter")
    screen.stands("active")
    assert screen.commands() == []
    screen.press("x")
    screen.sees("Stop the daemon?")
    confirm(screen)
    screen.stands("inactive")
    screen.sees("$ omegactl service stop", "Stopped")
    screen.feed_is("stopped")
    assert [installed.show(unit, "ActiveState") for unit in (SOCKET, SERVICE)] == ["inactive", "inactive"]
    assert installed.show("omega-session-work.scope", "ActiveState") == "active"
    screen.press("escape")
    screen.sees("stopped")
    assert [installed.show(unit, "ActiveState") for unit in (SOCKET, SERVICE)] == ["inactive", "inactive"]
    screen.press("S")
    screen.stands("inactive")
    screen.press("s")
    screen.stands("listening")
    assert installed.show(SERVICE, "ActiveState") == "inactive"
    assert installed.run("omegactl", "exec", "work", "-c", "x + 1").stdout == "42\n"
    screen.stands("active")
    assert screen.commands() == ["omegactl service stop", "omegactl service start"]


def test_fork_servers_are_shown_while_a_daemon_runs(installed: UserManager, screen: RemoteDashboard) -> None:
    """What sessions are forked from is asked of the daemon that systemd runs, and of none that sleeps or is stopped."""
    screen.stands("listening")
    assert "FORK SERVER" not in screen.shown()
    assert installed.show(SERVICE, "ActiveState") == "inactive"
    installed.run("omegactl", "exec", "work", "-c", "1")
    screen.stands("active")
    screen.sees("FORK SERVER", "● ready")
    screen.press("x")
    screen.sees("Stop the daemon?")
    confirm(screen)
    screen.stands("inactive")
    wait_until(lambda: "FORK SERVER" not in screen.shown(), "they are gone with it")


def test_restart_replaces_the_daemon(installed: UserManager, screen: RemoteDashboard) -> None:
    """r, confirmed, restarts the daemon under its sessions; the new process is shown, and its lines in the log."""
    installed.run("omegactl", "exec", "work", "-c", "x = 41")
    screen.stands("active")
    before = installed.show(SERVICE, "MainPID")
    screen.sees(before)
    screen.press("r")
    screen.sees("Restart the daemon?")
    confirm(screen)
    screen.sees("Restarted; sessions go on.")
    after = installed.show(SERVICE, "MainPID")
    assert after not in (before, "0")
    screen.sees(after, f"pid {after}")
    assert installed.run("omegactl", "exec", "work", "-c", "x + 1").stdout == "42\n"


def test_enable_and_disable(installed: UserManager, screen: RemoteDashboard) -> None:
    """e makes systemd listen at the next login, d, confirmed, undoes it; only the one that makes sense is offered."""
    screen.sees("disabled", "e Enable")
    screen.press("e")
    screen.sees("Enabled: systemd listens", "d Disable")
    assert installed.systemctl("is-enabled", SOCKET) == "enabled"
    screen.press("d")
    screen.sees("Disable the service?")
    confirm(screen)
    screen.sees("$ omegactl service disable", "e Enable")
    assert installed.systemctl("is-enabled", SOCKET, check=False) == "disabled"


def test_failure_is_shown_and_forgotten(installed: UserManager, screen: RemoteDashboard) -> None:
    """A daemon that cannot start is shown as failed, with its reason in the log; f makes systemd listen again."""
    installed.run("mkdir", "-p", ".config/omega-sessiond")
    installed.run("sh", "-c", "echo 'max_queu = 3' > .config/omega-sessiond/config.toml")
    installed.systemctl("start", SERVICE, check=False)
    screen.stands("failed")
    screen.sees("f Forget failure", "max_queu")
    installed.run("rm", ".config/omega-sessiond/config.toml")
    screen.press("f")
    screen.stands("listening")
    screen.sees("$ omegactl service reset-failed")
    assert installed.run("omegactl", "exec", "work", "-c", "1 + 1").stdout == "2\n"
    screen.stands("active")


def test_log_is_followed_and_cut_off_by_priority(installed: UserManager, screen: RemoteDashboard) -> None:
    """What the daemon writes appears; l leaves out what is less than a warning, and brings it back."""
    installed.run("omegactl", "exec", "work", "-c", "1")
    screen.sees("info and worse", "serving ")
    screen.press("l")
    screen.sees("warning and worse")
    assert "serving " not in screen.shown()
    screen.press("l", "l")
    screen.sees("all", "serving ")


def test_hostile_lines_of_the_journal_are_text(installed: UserManager, screen: RemoteDashboard) -> None:
    """What somebody else writes into the unit's journal is shown as text, its escapes gone and its markup not read."""
    send = (
        "import socket; s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.connect('/run/systemd/journal/socket');"
        r"s.send(b'MESSAGE=before \x1b]52;c;ZXZpbA==\x07\x1b[2J\xc2\x9b5n[@click=app.quit]x[/] [/nope] after\n"
        r"PRIORITY=4\nSYSLOG_IDENTIFIER=[red]\x1b[5mwho\nUSER_UNIT=omega-sessiond.service\n')"
    )
    installed.run("python3", "-c", send)
    screen.sees("warning [red]who: before [@click=app.quit]x[/] [/nope] after")


def test_units_that_come_are_seen(user_manager: UserManager, test_venv: Path) -> None:
    """Without units the screen says what runs the daemon instead; when they are installed it changes over by itself."""
    with RemoteDashboard(user_manager, test_venv) as dashboard:
        dashboard.press("S")
        dashboard.stands("absent")
        dashboard.sees("units are not installed", "s Start")
        units.start(user_manager, f"{test_venv}/bin/python")
        dashboard.stands("listening")
        dashboard.sees("Run by systemd")
