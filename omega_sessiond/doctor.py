"""`omegactl doctor`: what is wrong with an installation, and the remedy. Starts no daemon.

What only the daemon can judge, its settings, directories and journal, `omega-sessiond --check` says.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from typing import NamedTuple

from omega_sessiond import __version__, control, launch, manager, paths
from omega_sessiond.client import Client
from omega_sessiond.errors import ConfigError, DaemonUnreachable, OmegaError
from omega_sessiond.invocation import Invocation
from omega_sessiond.target import Target, check_length, managed_socket


class Finding(NamedTuple):
    """One thing looked at. `is_note`: it may be meant so, and is no failure."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    is_note: bool = False


def run(call: Invocation) -> int:
    """omegactl doctor: 0 when nothing is wrong, 1 otherwise."""
    findings = list(_examine(call))
    is_well = all(finding.ok or finding.is_note for finding in findings)
    screen = call.screen
    if call.args.json:
        screen.json({"ok": is_well, "findings": [finding._asdict() for finding in findings]})
        return 0 if is_well else 1
    for finding in findings:
        mark, color = ("ok", "green") if finding.ok else ("note", "yellow") if finding.is_note else ("WRONG", "red")
        screen.write(screen.dyed(mark.ljust(6), color))
        screen.line(f"{finding.name}: {finding.detail}")
        for line in finding.remedy.splitlines() if not finding.ok else ():
            screen.line(f"      → {line}")
    return 0 if is_well else 1


def _examine(call: Invocation) -> Iterator[Finding]:
    yield from _commands()
    try:
        target = call.target
    except ConfigError as error:
        yield Finding("settings", False, error.message, error.hint)
        return
    units = manager.look()
    yield from _manager(units)
    if target.state_dir is not None:
        yield from _places(target, target.state_dir)
        yield from _daemon_check()
    if units is not None and units.are_asleep and target.socket_path == managed_socket():
        yield Finding("daemon", True, "not running; systemd listens, and the first request starts it")
    else:
        yield from _daemon(target)


# ---- commands ----


def _commands() -> Iterator[Finding]:
    for name in ("omegactl", "omega-sessiond"):
        found = shutil.which(name)
        remedy = 'Add ~/.local/bin to PATH, for instance: export PATH="$HOME/.local/bin:$PATH"'
        yield Finding(f"command {name}", found is not None, found or "not on PATH", remedy)


# ---- systemd ----


def _manager(units: manager.Units | None) -> Iterator[Finding]:
    if shutil.which("systemctl") is None:
        yield Finding("user manager", False, "no systemd here: a client starts the daemon", is_note=True)
        return
    if units is None:
        yield Finding(
            "user manager",
            False,
            "systemctl --user does not answer: a client starts the daemon",
            "Log in by a way that starts one (ssh, a desktop; not su or sudo), or as root: "
            f"loginctl enable-linger {os.environ.get('USER', 'NAME')}\n"
            "Then XDG_RUNTIME_DIR must be /run/user/UID.",
            is_note=True,
        )
        return
    yield Finding("user manager", True, "answers")
    if not units.are_installed:
        yield Finding("units", False, "not installed: a client starts the daemon", "./install.sh", is_note=True)
    else:
        yield from _units(units)
    linger = manager.has_linger()
    if linger is not None:
        yield Finding(
            "linger",
            linger,
            "on" if linger else "off: systemd ends the sessions some seconds after your last logout",
            "loginctl enable-linger",
            is_note=not linger,
        )


def _units(units: manager.Units) -> Iterator[Finding]:
    reset = (
        f"Find out why: omegactl logs\nsystemctl --user reset-failed {manager.SERVICE} {manager.SOCKET}\n"
        f"systemctl --user start {manager.SOCKET}"
    )
    for unit in units:
        if unit.load not in ("loaded", ""):
            yield Finding(
                f"unit {unit.name}", False, f"systemd has it as '{unit.load}'", "./install.sh writes it anew."
            )
        elif unit.active == "failed":
            yield Finding(f"unit {unit.name}", False, f"has failed ({unit.result})", reset)
        elif unit is units.socket and unit.active != "active":
            yield Finding(f"unit {unit.name}", False, f"is {unit.active}", "omegactl service start")
        else:
            yield Finding(f"unit {unit.name}", True, unit.active)
    if units.socket.enabled not in ("enabled", "enabled-runtime", "static", "linked"):
        yield Finding(
            "start at login", False, f"{manager.SOCKET} is {units.socket.enabled or 'not enabled'}",
            "omegactl service enable", is_note=True,
        )  # fmt: skip


# ---- directories, socket ----


def _places(target: Target, state_dir: str) -> Iterator[Finding]:
    runtime_dir = os.path.dirname(target.socket_path)
    for what, path in (("state directory", state_dir), ("runtime directory", runtime_dir)):
        if not os.path.lexists(path):
            yield Finding(what, True, f"{path} does not exist yet")
            continue
        fault = launch.private_dir_fault(path)
        yield Finding(what, fault is None, fault[0] if fault else path, fault[1] if fault else "")
    if wrong := check_length(target.socket_path):
        detail, _, remedy = wrong.partition("\n")
        yield Finding("socket path", False, detail, remedy)


def _daemon_check() -> Iterator[Finding]:
    """What the daemon says that this client would start."""
    try:
        for check in control.findings():
            yield Finding(check["name"], check["ok"], check["detail"], check["hint"])
    except control.ServiceFailed as error:
        yield Finding("omega-sessiond --check", False, error.message, error.hint)


# ---- the daemon ----


def _daemon(target: Target) -> Iterator[Finding]:
    path = target.socket_path
    if (other := launch.locate(target).socket_path) != path:
        yield Finding(
            "runtime directory in use", False, f"the daemon listens at {other}, this shell looks at {path}",
            "omegactl finds it all the same; for other clients set XDG_RUNTIME_DIR as it was when the daemon started.",
            is_note=True,
        )  # fmt: skip
        path = other
    elif not os.path.lexists(path) and target.state_dir is not None:
        path = managed_socket() or path
    state = _listening(path)
    if state == "nothing":
        yield Finding("daemon", True, "not running; the next command starts it")
        return
    if state == "stale":
        yield Finding(
            "socket", False, f"{path} is stale: nobody listens there",
            f"The next command replaces it where systemd does not run the daemon; else:\n"
            f"systemctl --user restart {manager.SOCKET}",
            is_note=target.state_dir is not None and not launch.is_locked(target.state_dir),
        )  # fmt: skip
        return
    if state != "listening":
        yield Finding("socket", False, f"cannot connect to {path}: {state}", "Check who owns it: ls -l " + path)
        return
    try:
        with Client(Target(path, None, "doctor"), may_start=False) as client:
            server, health = client.get("/api/server"), client.get("/api/health")
    except OmegaError as error:
        yield Finding("daemon", False, f"does not answer: {error.message}", "See: omegactl logs")
        return
    yield Finding("daemon", True, f"pid {server['pid']}, started by {server['activation']}")
    yield Finding(
        "versions",
        server["version"] == __version__,
        f"client {__version__}, daemon {server['version']}",
        "omegactl service restart (sessions go on); if that does not help: ./install.sh",
    )
    if target.state_dir is not None and server["state_dir"] != target.state_dir:
        yield Finding(
            "state directory in use", False,
            f"the daemon serves {server['state_dir']}, this shell means {target.state_dir} (from {target.origin})",
            f"Set session_dir in {paths.config_file()} and run 'omegactl service restart', or unset SESSION_DIR.",
        )  # fmt: skip
    refused = {name: why for one in server.get("fork_servers", ()) for name, why in one["refused"].items()}
    for name, why in refused.items():
        yield Finding(f"preload {name}", False, why, f"Take it out of preload in {paths.config_file()}.", is_note=True)
    yield Finding("health", health["status"] == "ok", health["detail"] or health["status"], "See: omegactl logs")


def _listening(path: str) -> str:
    """What a connection to the socket meets: listening, nothing, stale, or what the system says."""
    try:
        launch.dial(path).close()
    except FileNotFoundError:
        return "nothing"
    except ConnectionRefusedError:
        return "stale"
    except DaemonUnreachable as error:
        return error.message
    except OSError as error:
        return error.strerror or errno.errorcode.get(error.errno or 0, "")
    return "listening"
