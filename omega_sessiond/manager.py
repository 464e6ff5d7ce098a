"""The user's service manager as a client sees it: what it says of our units, and asking it to act.

Goes through the commands `systemctl --user`, `journalctl --user` and `loginctl`, which say in their own words what
went wrong. Knows unit names and states; not what a daemon answers.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from omega_sessiond import paths

SOCKET = "omega-sessiond.socket"
SERVICE = "omega-sessiond.service"
TCP_SOCKET = "omega-sessiond-tcp.socket"
SESSIONS_SLICE = "app-omega-sessions.slice"

ACT_S = 120.0
"""Starting and stopping take systemd as long as our units allow, half a minute; this is for one that is stuck."""

_NOT_COUNTED = 2**63
"""What systemd says, or more, where a quantity is not counted. Source: systemd's UINT64_MAX as "no value"."""

ANSWER_S = 10.0
"""A manager answers in milliseconds; one that needs this long is taken for absent, and the user told by doctor."""

_PROPERTIES = (
    "Id", "LoadState", "ActiveState", "SubState", "Result", "UnitFileState",
    "StateChangeTimestampMonotonic", "MainPID", "MemoryCurrent",
)  # fmt: skip


class Unit(NamedTuple):
    """One unit as systemctl shows it; `load` is "not-found" where there is none. What is not known is None."""

    name: str
    load: str
    active: str
    sub: str
    result: str
    enabled: str
    since: float | None = None
    """When it came into this state, in seconds as time.time() counts them."""
    pid: int | None = None
    memory_bytes: int | None = None
    """Of all its processes, where systemd counts that, else of the one with `pid`."""

    @property
    def is_installed(self) -> bool:
        return self.load not in ("not-found", "")


class Units(NamedTuple):
    """What a user manager that answers knows of us."""

    socket: Unit
    service: Unit

    @property
    def are_installed(self) -> bool:
        """The manager listens for the daemon, or would: then nobody else starts one."""
        return self.socket.is_installed

    @property
    def have_failed(self) -> bool:
        return "failed" in (self.socket.active, self.service.active)

    @property
    def are_asleep(self) -> bool:
        """systemd listens, and a mere connection would start the daemon."""
        return self.socket.active == "active" and self.service.active == "inactive"

    @property
    def are_changing(self) -> bool:
        """A moment's state, worth waiting for."""
        return any(unit.active in ("activating", "deactivating", "reloading") for unit in self)


def may_exist() -> bool:
    """Whether there is a trace of a user manager: cheap, so that machines without one pay nothing."""
    runtime_dir = paths.env("XDG_RUNTIME_DIR")
    has_trace = bool(paths.env("DBUS_SESSION_BUS_ADDRESS")) or os.path.isdir((runtime_dir or "/nowhere") + "/systemd")
    return has_trace and shutil.which("systemctl") is not None


def look() -> Units | None:
    """Our units, or None where no user manager answers."""
    found = examine(SOCKET, SERVICE)
    return None if found is None else Units(*found)


def examine(*names: str) -> list[Unit] | None:
    """These units, in this order, or None where no user manager answers."""
    if not may_exist():
        return None
    shown = ask("show", "--property=" + ",".join(_PROPERTIES), *names)
    if shown is None:
        return None
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in shown.split("\n\n")]
    found = {block.get("Id"): _unit(block) for block in blocks}
    return [found.get(name) or Unit(name, "not-found", "", "", "", "") for name in names]


def _unit(block: dict[str, str]) -> Unit:
    *words, changed, pid, memory = (block.get(name, "") for name in _PROPERTIES)
    name, load, active, sub, result, enabled = words
    # systemd's own text of the time names the zone in a way that nobody reads back.
    since = time.time() - (time.monotonic() - int(changed) / 1e6) if changed.isdecimal() and changed != "0" else None
    return Unit(
        name, load, active, sub, result, enabled, since, int(pid) if pid.isdecimal() and pid != "0" else None,
        int(memory) if memory.isdecimal() and int(memory) < _NOT_COUNTED else resident_bytes(pid),
    )  # fmt: skip


def resident_bytes(pid: str) -> int | None:
    """What a process has in memory, where the system says it."""
    try:
        with open(f"/proc/{pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def ask(*arguments: str) -> str | None:
    """What `systemctl --user` prints, or None where it fails."""
    try:
        done = _captured(arguments, ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def call(*arguments: str) -> tuple[int, str]:
    """Run `systemctl --user` away from our own streams; its exit code and what it said."""
    try:
        done = _captured(arguments, ACT_S)
    except OSError as error:
        return 127, str(error.strerror)
    except subprocess.TimeoutExpired:
        return 124, f"no end within {ACT_S:.0f} s"
    return done.returncode, (done.stderr + done.stdout).strip()


def _captured(arguments: Sequence[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemctl", "--user", *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout_s,
    )


def systemctl(*arguments: str) -> int:
    """Run `systemctl --user` with our own standard streams; its exit code."""
    return subprocess.run(["systemctl", "--user", *arguments]).returncode


def scope(name: str, state_dir: str) -> str:
    """The unit a session's process runs in."""
    suffix = paths.tag(state_dir)
    return f"omega-session-{name}{':' + suffix if suffix else ''}.scope"


def has_linger() -> bool | None:
    """Whether the user's services outlive the last logout; None where logind does not run the logins."""
    if not os.path.isdir("/run/systemd/system") or shutil.which("loginctl") is None:
        return None
    import pwd

    return os.path.exists("/var/lib/systemd/linger/" + pwd.getpwuid(os.getuid()).pw_name)
