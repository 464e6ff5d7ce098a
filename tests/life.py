"""The story of one state directory without systemd: a daemon, its deaths and successors, and whoever asks them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from http.client import HTTPException
from pathlib import Path
from threading import Thread

from caller import Caller
from daemon import Daemon, wait_until
from isolation import Place

FOREVER = "import time\nwhile True: time.sleep(0.01)"
"""A command that ends when it is interrupted."""

OMEGACTL = [sys.executable, "-IB", "-c", "import sys; from omega_sessiond.shortcut import main; sys.exit(main())"]


class Life(Caller):
    """A daemon that the test starts, kills and starts again, and the caller that asks whichever daemon there is.

    `inside` leads a command to where the daemon shall run (a namespace, fewer privileges).
    """

    def __init__(self, place: Place, settings: dict[str, object] | None = None, inside: Sequence[str] = ()) -> None:
        self.place = place
        self.daemon = Daemon(place, settings=settings)
        self.daemon.command[:0] = inside
        self._begun = 0
        super().__init__(self.daemon.socket_path)

    @property
    def log(self) -> str:
        """What all daemons of this place have written, those that clients started too."""
        return self.daemon.log + text(self.place.state_dir / "daemon.log")

    def start(self) -> None:
        self.daemon.start()

    def kill(self) -> None:
        """kill -9, and the daemon is gone."""
        self.daemon.kill9()

    def stop(self) -> int:
        return self.daemon.stop()

    def restart(self) -> None:
        self.daemon.restart()

    def wait(self) -> int:
        """The exit status of a daemon that leaves by itself."""
        return self.daemon.wait()

    def begin_running(self, name: str, command: str, *, first: str = "", **options: object) -> int:
        """Hand a command in and wait until it runs and has done what comes `first`; the execution's id."""
        self._begun += 1
        mark = self.place.base / f"begun-{self._begun}"
        id = self.begin(name, f"{first}\nopen({str(mark)!r}, 'x').close()\n{command}", **options)
        wait_until(mark.exists, f"{command} runs")
        return id

    def begin_save(self, name: str) -> Thread:
        """Ask for a save in a thread, and wait until it is being written; whatever comes of it."""
        asked = Thread(target=self._ask_to_save, args=(name,))
        asked.start()
        directory = self.place.state_dir / "sessions" / self.session(name)["id"] / "checkpoints"
        wait_until(lambda: list(directory.glob("*.new")), "a checkpoint is being written")
        return asked

    def _ask_to_save(self, name: str) -> None:
        try:
            self.call("POST", f"/api/sessions/{name}/save")
        except (OSError, HTTPException):
            pass  # the daemon was killed meanwhile

    def answers(self) -> bool:
        try:
            return self.call("GET", "/api/health").status == 200
        except OSError:
            return False

    def omegactl(self, *arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run a client command in this place, to its end; `env` adds to its environment."""
        return subprocess.run(
            [*OMEGACTL, *arguments],
            env={**self.place.env, **(env or {})},
            cwd=self.place.home,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def daemons(self) -> list[int]:
        """The daemons that live in this place, whoever started them."""
        found = [pid for pid, command in self.place.processes().items() if command.endswith("-m omega_sessiond")]
        # A host that has just been forked looks like its daemon until it has become itself.
        return [pid for pid in found if parent(pid) not in found]

    def adopt(self) -> None:
        """See to it that a daemon answers, whoever has started it."""
        if not self.answers():
            self.start()

    def end(self) -> None:
        """End every session by the API and the daemon by a signal: whatever is left after that has leaked."""
        self.adopt()
        for session in self.get("/api/sessions"):
            answer = self.call("DELETE", f"/api/sessions/{session['name']}", {"budget_s": 1})
            assert answer.status == 204, answer
        if self.daemon.process is not None and self.daemon.process.poll() is None:
            assert self.stop() == 0, self.log
        else:  # it was started by a client
            pid = self.server_pid()
            os.kill(pid, signal.SIGTERM)
            wait_until(lambda: not is_alive(pid), "the daemon leaves")
        self.daemon.check_log()


def _stat(pid: int) -> list[bytes]:
    """The fields of proc_pid_stat(5) from the third on; those of a dead process when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return [b"X", b"0"]


def is_alive(pid: int) -> bool:
    """Whether the process runs: one that nobody has reaped yet does not."""
    return _stat(pid)[0] not in (b"Z", b"X")


def parent(pid: int) -> int:
    return int(_stat(pid)[1])


def text(file: Path) -> str:
    """What stands in a file; nothing while there is none."""
    return file.read_text() if file.exists() else ""


def gate(place: Place) -> tuple[str, Path]:
    """An expression that waits until the test opens the gate for writing, and the gate."""
    fifo = place.base / "gate"
    os.mkfifo(fifo)
    return f"open({str(fifo)!r}).read()", fifo
