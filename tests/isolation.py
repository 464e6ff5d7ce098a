"""A place of its own for each test: HOME, the XDG directories, and a check that no process is left behind.

Every process a test starts carries the place's path in its environment or its arguments, which is how what is left
behind is found. Knows nothing of omega-sessiond but the names of the variables it reads.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# What a developer's shell may have set and no test may see.
FOREIGN = (
    "DBUS_SESSION_BUS_ADDRESS",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LOG_LEVEL",
    "MAX_CACHED_SESSIONS",
    "NOTIFY_SOCKET",
    "NO_COLOR",
    "CLICOLOR_FORCE",
    "PAGER",
    "PORT",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "SAVE_INTERVAL_MS",
    "SESSION_DIR",
    "SESSION_SERVER_PORT",
    "VIRTUAL_ENV",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
)

LEAVE_S = 5.0
"""How long a process may take to follow its test: it was told to end and is on its way."""


class Place:
    """One temporary HOME with everything below it. `env` is the whole environment for a child process."""

    def __init__(self) -> None:
        # Directly in /tmp and short: a Unix socket's path has 107 bytes, and TMPDIR may be long already.
        self.base = Path(tempfile.mkdtemp(prefix="o", dir="/tmp"))
        self.home = self._directory("h")
        self.runtime_dir = self._directory("r")
        self.state_home = self._directory("s")
        self.config_home = self._directory("c")
        self.data_home = self._directory("d")
        self.cache_home = self._directory("k")

    def _directory(self, name: str) -> Path:
        path = self.base / name
        path.mkdir(mode=0o700)
        return path

    @property
    def variables(self) -> dict[str, str]:
        """What makes a process live here."""
        return {
            "HOME": str(self.home),
            "XDG_RUNTIME_DIR": str(self.runtime_dir),
            "XDG_STATE_HOME": str(self.state_home),
            "XDG_CONFIG_HOME": str(self.config_home),
            "XDG_DATA_HOME": str(self.data_home),
            "XDG_CACHE_HOME": str(self.cache_home),
        }

    @property
    def env(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        return {**kept, **self.variables}

    @property
    def state_dir(self) -> Path:
        """Where omega-sessiond keeps its state in here."""
        return self.state_home / "omega-sessiond"

    def processes(self) -> dict[int, str]:
        """The living processes that belong here, with their command lines."""
        mark = os.fsencode(self.base)
        found = {}
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit() or int(entry.name) == os.getpid():
                continue
            try:
                command = Path(entry.path, "cmdline").read_bytes()
                if mark in command or mark in Path(entry.path, "environ").read_bytes():
                    found[int(entry.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
            except OSError:
                continue  # gone meanwhile, or not ours to read
        return found

    def clear(self) -> dict[int, str]:
        """Remove the place. Returns the processes that had to be killed: the leaks."""
        deadline = time.monotonic() + LEAVE_S
        while (leaked := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for pid in leaked:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        shutil.rmtree(self.base, ignore_errors=True)
        return leaked


def settled(place: Place) -> Iterator[Place]:
    """The body of a fixture: lend the place, then fail whatever left a process behind."""
    yield place
    leaked = place.clear()
    assert not leaked, "processes left behind: " + "; ".join(f"{pid} {command}" for pid, command in leaked.items())
