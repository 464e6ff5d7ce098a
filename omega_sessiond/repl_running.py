"""Commands run for the REPL: handed over once, followed to their end or left, and what became of them told.

Knows sessions and the screen, not where commands come from. Loaded after the first prompt is shown.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable
from typing import Any

from omega_sessiond.cli_exec import exit_code
from omega_sessiond.client import execution_path
from omega_sessiond.errors import OmegaError
from omega_sessiond.following import Asker, Detached, Following, Text, notes
from omega_sessiond.invocation import Invocation
from omega_sessiond.repl_commands import prefix
from omega_sessiond.repl_session import ReplSession
from omega_sessiond.richdata import how_to_get
from omega_sessiond.screen import size

Json = dict[str, Any]

TAIL_BYTES = 16 * 1024
"""What is shown again of a running command's output when one comes back to it."""

WAITS_S = 1.0
"""How long a command waits in the session's queue before that is said."""


def _was_refused_as_half(execution: Json) -> bool:
    """Whether the engine, which could not be asked before, has found the command incomplete and run nothing of it."""
    error = execution["error"]
    return bool(error and error["name"] == "Incomplete" and not error["traceback"])


class Runner:
    """`asker` answers the questions of commands. For a person, what could not be handed over stays `unsent`, and lines
    end where a prompt must begin; for a script the exit code of the first failure is kept."""

    def __init__(self, call: Invocation, asker: Asker, *, is_person: bool) -> None:
        self._call = call
        self._screen = call.screen
        self._asker = asker
        self._is_person = is_person
        self._key = ""
        self.unsent = ""
        """A command that may not have reached the daemon, which when run again has the same idempotency key; or half a
        one, to be completed."""
        self.exit_code = 0

    def execute(self, session: ReplSession, command: str) -> Json | None:
        """Run a command; None when it was left, or taken back before it had begun. Raises OmegaError."""
        if command != self.unsent:
            self._key = secrets.token_hex(16)
        self.unsent = command if self._is_person else ""
        options = {"command": command, "idempotency_key": self._key, "max_output": 0}
        execution = self._run(session, lambda following: following.execute(options, session.creation))
        if self._is_person and execution is not None and _was_refused_as_half(execution):
            self.unsent = command + "\n"
        return execution

    def follow(self, session: ReplSession, execution_id: int) -> None:
        """Show a command that has been begun as it goes on, from the end of what it has said."""
        output = execution_path(session.name, execution_id) + "/output"
        skipped = max(self._call.client.get(output, offset=0, limit=1)["total_bytes"] - TAIL_BYTES, 0)
        if skipped:
            self._screen.note(f"… {size(skipped)} before: {prefix(session.engine)}output {execution_id}")
        self._run(session, lambda following: following.join(execution_id, max_output=0), skipped)

    def _run(self, session: ReplSession, begin: Callable[[Following], Json | None], skipped: int = 0) -> Json | None:
        screen = self._screen
        text = Text(screen, colors=screen.has_colors)
        text.skip_to(skipped)
        waiting = threading.Timer(WAITS_S, screen.note, ("It waits for what runs in the session; ^C takes it back.",))
        waiting.daemon = True

        def see(event: Json) -> None:
            self.unsent = ""  # it has arrived
            session.seen_event = event["id"]
            match event["kind"]:
                case "execution_queued":
                    waiting.start()
                case "execution_started":
                    waiting.cancel()
                case "output":
                    text.show(event)
                case "input_answered":
                    text.is_at_line_start = True
            if session.seen is None or session.seen["id"] != event["session_id"]:
                session.look()  # this command has made it

        following = Following(self._call, session.name, see, self._asker)
        execution, is_left = None, False
        try:
            execution = begin(following)
        except Detached:
            is_left = True
        except OmegaError:
            if following.execution_id is not None:
                screen.note(f"What became of execution {following.execution_id} is not known; it may go on.")
            raise
        finally:
            waiting.cancel()
            text.close()
            if self._is_person and not text.is_at_line_start:
                screen.write("\n")
        self.unsent = ""
        if is_left and (id := following.execution_id) is not None:
            session.left.add(id)
            mark = prefix(session.engine)
            screen.note(f"Left execution {id} running: {mark}follow returns to it, {mark}output {id} shows its output.")
        if execution is not None:
            self._conclude(session, execution)
        return execution

    def _conclude(self, session: ReplSession, execution: Json) -> None:
        session.left.discard(execution["id"])
        if not self._is_person:
            self.exit_code = self.exit_code or exit_code(execution)
        for note in notes(execution):
            self._screen.note(note)
        for line in how_to_get(execution):
            self._screen.note(line)
