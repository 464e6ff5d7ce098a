"""omegactl as its launcher starts it, a bare interpreter, as a child process on a test's Place."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from isolation import Place

CHECKOUT = Path(__file__).resolve().parent.parent
PACKAGES = sysconfig.get_path("purelib")
"""The launcher that install.sh writes has them on its path, too."""
LAUNCHER = (
    f"import sys; sys.path += {[str(CHECKOUT), PACKAGES]!r}; from omega_sessiond.shortcut import main; sys.exit(main())"
)
COMMAND = [sys.executable, "-IS", "-c", LAUNCHER]

PATIENCE_S = 60.0
"""Whatever takes longer hangs."""


class Done(subprocess.CompletedProcess[str]):
    """What became of a command: `code`, `out`, `err`."""

    @property
    def code(self) -> int:
        return self.returncode

    @property
    def out(self) -> str:
        return self.stdout

    @property
    def err(self) -> str:
        return self.stderr


class Omegactl:
    """Runs omegactl in a Place; `env` adds to its environment."""

    def __init__(self, place: Place, env: Mapping[str, str] | None = None) -> None:
        self.place = place
        self.env = {**place.env, **(env or {})}

    def __call__(self, *arguments: str, given: str | bytes = "", env: Mapping[str, str] | None = None) -> Done:
        """Run it to its end."""
        done = subprocess.run(
            [*COMMAND, *arguments],
            input=given.encode() if isinstance(given, str) else given,
            capture_output=True,
            env={**self.env, **(env or {})},
            cwd=self.place.home,
            timeout=PATIENCE_S,
        )
        return Done(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start it with pipes."""
        return subprocess.Popen(
            [*COMMAND, *arguments],
            env=self.env,
            cwd=self.place.home,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    @contextmanager
    def at_terminal(self, *arguments: str, env: Mapping[str, str] | None = None) -> Iterator[Terminal]:
        """Start it as the foreground of a terminal of its own."""
        pid, descriptor = pty.fork()
        if pid == 0:
            try:
                os.chdir(self.place.home)
                os.execve(COMMAND[0], [*COMMAND, *arguments], {**self.env, "TERM": "xterm", **(env or {})})
            finally:
                os._exit(127)
        terminal = Terminal(pid, descriptor)
        try:
            yield terminal
        finally:
            terminal.close()


class Terminal:
    """The other side of a command's terminal."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self._pid = pid
        self.descriptor = descriptor
        self._code: int | None = None
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def until(self, pattern: str) -> str:
        """Read until the pattern was seen; all that was seen up to its end, and forget it."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := re.search(pattern, self.seen)) is None:
            if not self._read(deadline):
                raise AssertionError(f"the terminal ended without {pattern!r}: {self.seen!r}")
        before, self.seen = self.seen[: found.end()], self.seen[found.end() :]
        return before

    def _read(self, deadline: float) -> bool:
        if not select.select([self.descriptor], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise AssertionError(f"nothing more came: {self.seen!r}")
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:
            return False  # EIO: the other side has closed
        self.seen += data.decode(errors="replace")
        return bool(data)

    def end(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self.wait()

    def wait(self) -> int:
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._code

    def close(self) -> None:
        if self._code is None:
            try:
                os.kill(self._pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.wait()
        os.close(self.descriptor)


@contextmanager
def whatever_it_starts(place: Place) -> Iterator[Omegactl]:
    """omegactl in a place where the daemons it starts, and their hosts, end with the block. A daemon's log may hold no
    traceback."""
    try:
        yield Omegactl(place)
    finally:
        for pid in place.processes():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    log = place.state_dir / "daemon.log"
    if log.exists():
        assert "Traceback" not in log.read_text(), log.read_text()
