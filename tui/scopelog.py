"""The Journal tab: what systemd's journal has of a session's scope, or a sentence why it has nothing."""

from __future__ import annotations

import shutil
import subprocess

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.widgets import Static

from omega_sessiond import manager
from tui.text import block, cell

LINES = 200
ANSWER_S = 10.0


class ScopeLog(VerticalScroll):
    """Shows lines that somebody has read with `read`."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self._body = Static(markup=False)

    def compose(self) -> ComposeResult:
        yield self._body

    def show(self, lines: str, is_reason: bool) -> None:
        self._body.update(cell(lines, "dim") if is_reason else block(lines))
        self.scroll_end(animate=False)

    def clear(self) -> None:
        self._body.update(Text("reading…", "dim"))


def read(name: str, state_dir: str | None, has_scopes: bool) -> tuple[str, bool]:
    """The newest lines of the session's unit, or why there are none and True."""
    if state_dir is None:
        return "The daemon was named by its socket: which units its sessions have is not known.", True
    if not has_scopes:
        return "Sessions have no scopes here: without systemd, nothing of them is in a journal.", True
    if shutil.which("journalctl") is None:
        return "journalctl is not installed.", True
    unit = manager.scope(name, state_dir)
    command = ["journalctl", "--user", "-u", unit, "-n", str(LINES), "--no-pager", "-o", "short-iso"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=ANSWER_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"journalctl does not answer: {error}", True
    if done.returncode != 0:
        return f"journalctl says: {done.stderr.strip() or done.returncode}", True
    if not done.stdout.strip() or done.stdout.startswith("-- No entries"):
        return f"The journal has nothing of {unit}. It may not be kept for your user: journalctl --user says why.", True
    return done.stdout.rstrip("\n"), False
