"""The user managers of the tests are what they pose as: the ground that the systemd stories stand on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from usermanager import CGROUPS, UserManager

Start = Callable[..., UserManager]


def test_manager_runs_units_and_logs_them(user_manager: UserManager) -> None:
    """What a unit prints is in the journal under its name."""
    # It stays until its line was read: journald asks /proc whose line it is, and one whose process is gone is nobody's.
    spoken = "echo spoken $(id -un); exec sleep infinity"
    user_manager.run("systemd-run", "--user", "--unit=speaker", "sh", "-c", spoken)
    user_manager.wait_until(lambda: f"spoken {user_manager.user}" in user_manager.journal("speaker.service"))


def test_manager_runs_units_to_their_end(user_manager: UserManager) -> None:
    """The end of a unit is noticed, and told with its exit code."""
    done = user_manager.run("systemd-run", "--user", "--unit=brief", "--wait", "sh", "-c", "exit 7", check=False)
    assert done.returncode == 7


def test_clients_can_be_moved_into_scopes(user_manager: UserManager) -> None:
    """A command started by run() can put itself into a transient scope, as from a login session."""
    done = user_manager.run("systemd-run", "--user", "--scope", "--unit=mine", "cat", "/proc/self/cgroup")
    assert "/app.slice/mine.scope" in done.stdout


def test_limits_are_enforced(limiting_manager: UserManager) -> None:
    """A scope with TasksMax=1 cannot fork."""
    done = limiting_manager.run(
        "systemd-run", "--user", "--scope", "-p", "TasksMax=1", "sh", "-c", "true & wait $!; echo forked", check=False
    )
    assert done.returncode != 0
    assert "forked" not in done.stdout


def test_managers_run_side_by_side(user_managers: Start) -> None:
    """Two managers of one user know nothing of each other's units or homes."""
    first, second = user_managers("v2"), user_managers("hybrid")
    first.run("systemd-run", "--user", "--unit=only-here", "sleep", "infinity")
    assert first.show("only-here.service", "ActiveState") == "active"
    assert second.show("only-here.service", "LoadState") == "not-found"
    assert first.home != second.home


def test_stop_leaves_nothing_behind(user_managers: Start) -> None:
    """After stop() there is no process, no cgroup and no file of the manager."""
    manager = user_managers("hybrid")
    manager.run("systemd-run", "--user", "--unit=stubborn", "sh", "-c", "trap '' TERM; sleep infinity")
    pids = manager.pids()
    assert pids
    manager.stop()
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)
    name = os.path.basename(manager.base)
    assert not list(CGROUPS.glob(name)) + list(CGROUPS.glob(f"*/{name}"))
    assert not Path(manager.base).exists()


def test_signal_reaches_the_command(user_manager: UserManager) -> None:
    """signal() goes to the command inside, not to the process that carried it in."""
    process = user_manager.popen(
        "sh",
        "-c",
        "trap 'echo caught; exit 7' INT; echo ready; while :; do sleep 0.05; done",
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    user_manager.signal(process, signal.SIGINT)
    assert process.communicate(timeout=10)[0] == "caught\n"
    assert process.returncode == 7


def test_failed_command_is_shown(user_manager: UserManager) -> None:
    """run() of a failing command raises with what it printed."""
    with pytest.raises(AssertionError, match="exited 3\nwords"):
        user_manager.run("sh", "-c", "echo words; exit 3")
