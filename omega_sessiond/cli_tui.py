"""The command tui: the dashboard, and the one place that imports it."""

from __future__ import annotations

import os
import sys

from omega_sessiond.invocation import Invocation, UsageError


def run(call: Invocation) -> int:
    """omegactl tui."""
    if not sys.stdin.isatty() or not sys.stdout.isatty():
        raise UsageError("The dashboard needs a terminal", hint="'omegactl ls' and 'omegactl events' work without.")
    term = os.environ.get("TERM", "")
    if term in ("", "dumb"):
        raise UsageError(
            f"The dashboard cannot draw on this terminal: TERM is {term or 'not set'}",
            hint="Set TERM to what the terminal is, for instance xterm-256color; 'omegactl ls' works on any.",
        )
    # The dashboard costs twenty times what a command does: it is loaded where it is wanted alone.
    from tui.app import Dashboard
    from tui.keys import load, settings_file

    code = Dashboard(call.target, load(settings_file())).run()
    return 0 if code is None else code
