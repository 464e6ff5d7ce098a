"""omegactl where a real user manager runs the daemon: it starts none itself, and speaks of the service as it is."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import units
from usermanager import UserManager

Run = Callable[..., "subprocess.CompletedProcess[str]"]

SOCKET, SERVICE = "omega-sessiond.socket", "omega-sessiond.service"
TCP_SOCKET = "omega-sessiond-tcp.socket"


@pytest.fixture
def run(user_manager: UserManager) -> Run:
    """Runs omegactl inside, whatever its exit code."""

    def omegactl(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return user_manager.run("omegactl", *arguments, check=False, env=env)

    return omegactl


@pytest.fixture
def installed(user_manager: UserManager, test_venv: Path) -> UserManager:
    """The units installed, the socket listening."""
    units.start(user_manager, f"{test_venv}/bin/python")
    return user_manager


def findings(run: Run, **env: str) -> tuple[int, dict[str, Any]]:
    done = run("doctor", "--json", env=env)
    return done.returncode, {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}


def test_service_is_stopped_and_started(installed: UserManager, run: Run) -> None:
    """Stopped, every command says so and how to start it, and starts nothing; started, the first one is answered, in
    the session as it was."""
    assert run("exec", "work", "-c", "x = 1").returncode == 0
    stopped = run("service", "stop")
    assert (stopped.returncode, "Run by systemd" in stopped.stderr) == (0, True)
    for arguments in (("exec", "work", "-c", "x"), ("ls",)):
        done = run(*arguments)
        assert (done.returncode, done.stdout) == (3, "")
        assert "service is stopped" in done.stderr
        assert "omegactl service start" in done.stderr
    assert run("service", "status").returncode == 3
    started = run("service", "start")
    assert (started.returncode, "Run by systemd" in started.stderr) == (0, True)
    assert run("exec", "work", "-c", "x").stdout == "1\n"


def test_status_asks_systemd_and_wakes_nothing(installed: UserManager, run: Run) -> None:
    """status passes systemctl's code on and does not start what it is asked about; running, it names the daemon."""
    status = run("service", "status")
    assert status.returncode == 3
    assert "Run by systemd" in status.stdout and "Listening" in status.stdout
    assert json.loads(run("service", "status", "--json").stdout)["server"] is None
    assert json.loads(run("version", "--json").stdout)["server"] is None
    assert installed.show(SERVICE, "ActiveState") == "inactive"
    run("ls")
    assert json.loads(run("version", "--json").stdout)["server"] is not None
    status = run("service", "status")
    assert status.returncode == 0
    assert f"pid {installed.show(SERVICE, 'MainPID')}" in status.stdout
    assert re.search(r"^Fork server \d+ of /\S+: \w", status.stdout, re.MULTILINE)
    found = json.loads(run("service", "status", "--json").stdout)
    assert found["managed_by"] == "systemd"
    assert found["server"]["activation"] == "systemd"


def test_restart_keeps_sessions(installed: UserManager, run: Run) -> None:
    """service restart replaces the daemon under living sessions."""
    run("exec", "work", "-c", "x = 1")
    before = installed.show(SERVICE, "MainPID")
    assert run("service", "restart").returncode == 0
    assert run("exec", "work", "-c", "x").stdout == "1\n"
    assert installed.show(SERVICE, "MainPID") != before


def test_sessions_end_when_asked(installed: UserManager, run: Run) -> None:
    """service stop --sessions ends every scope; the history is there after the next start."""
    run("exec", "work", "-c", "x = 1")
    assert installed.show("omega-session-work.scope", "ActiveState") == "active"
    assert run("service", "stop", "--sessions").returncode == 0
    assert installed.show("omega-session-work.scope", "ActiveState") != "active"
    run("service", "start")
    assert json.loads(run("ls", "--json").stdout)[0]["state"] == "dead"
    assert len(json.loads(run("history", "work", "--json").stdout)) == 1


def test_enable_and_disable(installed: UserManager, run: Run) -> None:
    """enable and disable are the socket's."""
    assert run("service", "enable").returncode == 0
    assert installed.systemctl("is-enabled", SOCKET) == "enabled"
    assert run("service", "disable").returncode == 0
    assert installed.systemctl("is-enabled", SOCKET, check=False) == "disabled"


def test_wrong_settings_are_told_to_who_asks(installed: UserManager, run: Run) -> None:
    """A daemon that cannot run says why to the client at its socket, is not started again for nobody, and comes with
    the next request when the settings are right."""
    installed.run("mkdir", "-p", ".config/omega-sessiond")
    installed.run("sh", "-c", "echo 'max_queu = 3' > .config/omega-sessiond/config.toml")
    for _ in range(2):
        done = run("ls")
        assert (done.returncode, done.stdout) == (2, "")
        assert "max_queu" in done.stderr and "config.toml" in done.stderr
    installed.wait_for_state(SERVICE, "failed")
    assert installed.show(SERVICE, "NRestarts") == "0"
    assert installed.show(SOCKET, "ActiveState") == "active"
    installed.run("rm", ".config/omega-sessiond/config.toml")
    assert run("ls").returncode == 0


def fail(manager: UserManager) -> None:
    """Have systemd give up on a daemon that cannot start, however slowly this machine starts it five times."""
    directory = f".config/systemd/user/{SERVICE}.d"
    manager.run("mkdir", "-p", ".config/omega-sessiond", directory)
    manager.run("sh", "-c", "echo 'max_queu = 3' > .config/omega-sessiond/config.toml")
    override = "[Unit]\\nStartLimitIntervalSec=1h\\n[Service]\\nRestartPreventExitStatus=\\n"
    manager.run("sh", "-c", f"printf '{override}' > {directory}/stubborn.conf")
    manager.systemctl("daemon-reload")
    manager.systemctl("start", SERVICE, check=False)
    manager.wait_for_state(SERVICE, "failed")


def test_failed_service_is_told_and_healed(installed: UserManager, run: Run) -> None:
    """After too many crashes the client names the failed units and the commands that bring them back; those work, and
    doctor says the same."""
    fail(installed)
    done = run("ls")
    assert done.returncode == 3
    assert "has failed" in done.stderr and "reset-failed" in done.stderr
    code, found = findings(run)
    assert code == 1
    assert "max_queu" in found["settings"]["detail"]
    remedy = found[f"unit {SERVICE}"]["remedy"]
    assert "reset-failed" in remedy
    installed.run("rm", ".config/omega-sessiond/config.toml")
    for line in remedy.splitlines():
        if line.startswith("systemctl"):
            installed.run("sh", "-c", line)
    assert run("ls").returncode == 0


@pytest.mark.parametrize("verb", ["reset-failed", "restart", "start"])
def test_failure_is_forgotten_by_one_command(installed: UserManager, run: Run, verb: str) -> None:
    """service reset-failed makes failed units listen again, and so do restart and start, whose wish that is; where
    nothing has failed it is a start."""
    fail(installed)
    installed.run("rm", ".config/omega-sessiond/config.toml")
    done = run("service", verb)
    assert done.returncode == 0, done.stderr
    assert ("The failure is forgotten" in done.stderr) == (verb == "reset-failed")
    assert run("ls").returncode == 0
    run("service", "stop")
    assert run("service", "reset-failed").returncode == 0
    assert installed.show(SOCKET, "ActiveState") == "active"


def test_tcp_comes_back_where_it_is_wanted(installed: UserManager, run: Run) -> None:
    """The listener for TCP is stopped with the others and comes back with them while it is enabled; status shows it."""
    installed.systemctl("enable", "--now", TCP_SOCKET)
    assert run("service", "stop").returncode == 0
    assert installed.show(TCP_SOCKET, "ActiveState") == "inactive"
    assert run("service", "start").returncode == 0
    assert installed.show(TCP_SOCKET, "ActiveState") == "active"
    run("ls")
    assert run("service", "start").returncode == 0, "under a running daemon, too"
    shown = {unit["name"]: unit for unit in json.loads(run("service", "status", "--json").stdout)["units"]}
    assert shown[TCP_SOCKET]["enabled"] == "enabled"
    assert shown[SERVICE]["pid"] == int(installed.show(SERVICE, "MainPID"))
    assert shown[SERVICE]["since"] is not None
    disabled = run("service", "disable")
    assert disabled.returncode == 0
    assert f"enable {TCP_SOCKET}" in disabled.stderr + disabled.stdout
    assert [installed.systemctl("is-enabled", name, check=False) for name in (SOCKET, TCP_SOCKET)] == ["disabled"] * 2
    run("service", "stop")
    run("service", "start")
    assert installed.show(TCP_SOCKET, "ActiveState") == "inactive"


def test_doctor_finds_units_that_are_not_there_or_stopped(user_manager: UserManager, test_venv: Path, run: Run) -> None:
    """Units not installed are a note, a stopped socket is wrong, and a listening one is well."""
    code, found = findings(run)
    assert (code, found["units"]["is_note"], found["user manager"]["ok"]) == (0, True, True), found
    units.put(user_manager, f"{test_venv}/bin/python")
    code, found = findings(run)
    assert code == 1
    assert "service start" in found[f"unit {SOCKET}"]["remedy"]
    run("service", "enable")
    code, found = findings(run)
    assert code == 0, found
    assert user_manager.show(SERVICE, "ActiveState") == "inactive", "doctor wakes nothing"


def test_logs_are_the_journals(installed: UserManager, run: Run) -> None:
    """logs shows the daemon's journal, logs NAME that of the session's scope."""
    run("exec", "work", "-c", "1")
    installed.run("journalctl", "--sync", as_root=True)
    assert "serving" in run("logs").stdout
    about = run("logs", "work")
    assert about.returncode == 0
    assert "omega-session-work.scope" in about.stdout
    assert "serving" not in about.stdout


def test_other_state_directory_is_told(installed: UserManager, run: Run) -> None:
    """SESSION_DIR of a shell does not reach the service: the client says which directory is served, and starts none."""
    done = run("ls", env={"SESSION_DIR": "/var/tmp/other"})
    assert done.returncode == 3
    assert "/var/tmp/other" in done.stderr
    assert ".local/state/omega-sessiond" in done.stderr
    assert installed.run("test", "-e", "/var/tmp/other", check=False).returncode == 1


def test_configured_state_directory_is_served(installed: UserManager, run: Run) -> None:
    """session_dir in the settings file is seen by the service and by the client alike."""
    installed.run("mkdir", "-p", ".config/omega-sessiond")
    installed.run("sh", "-c", "echo \"session_dir = '$HOME/elsewhere'\" > .config/omega-sessiond/config.toml")
    assert run("exec", "work", "-c", "1 + 1").stdout == "2\n"
    installed.run("test", "-e", "elsewhere/journal.db")
    assert run("logs", "work").returncode == 0


def test_background_daemon_gives_way_to_the_units(user_manager: UserManager, test_venv: Path, run: Run) -> None:
    """A daemon started by a client before the units came is replaced by theirs, with its sessions."""
    assert run("exec", "work", "-c", "x = 1").returncode == 0
    assert "without systemd" in run("service", "status").stdout
    units.start(user_manager, f"{test_venv}/bin/python")
    assert run("exec", "work", "-c", "x").stdout == "1\n"
    found = json.loads(run("service", "status", "--json").stdout)
    assert (found["managed_by"], found["server"]["activation"]) == ("systemd", "systemd")
