"""Commands from a terminal that can do little, or from no terminal: line by line, with the engine's own judgement of
what belongs together. Has `readline` where the interpreter has it. Knows no prompt_toolkit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from omega_sessiond.inputlines import BYTE_ORDER_MARK, InputLines
from omega_sessiond.repl_session import Judgement, ReplSession

MORE = "... "


class LineReader:
    """Reads one command after the other; at a terminal it prompts."""

    def __init__(self, judge: Callable[[str], Judgement], *, is_terminal: bool) -> None:
        self._judge = judge
        self._is_terminal = self.is_person = is_terminal
        self._input = InputLines()
        self._is_first = True
        self._readline: Any = _readline() if is_terminal and sys.stdout.isatty() else None
        self._found: list[str] = []

    def read(self, session: ReplSession, text: str = "", typed: str = "") -> str:
        """A command, of as many lines as the engine wants; `text` and `typed` are where its first line begins.

        Raises EOFError, KeyboardInterrupt, and UsageError for what is no text.
        """
        *lines, first = (text + typed.replace("\r", "\n")).split("\n")
        prompt = f"{session.name}> "
        try:
            if self._readline is not None:
                self._know(session)
            return self._lines(prompt, lines, first)
        except (EOFError, KeyboardInterrupt):
            self._leave_line()
            raise

    def _lines(self, prompt: str, lines: list[str], first: str) -> str:
        """A command that begins with `lines`, the next of which begins with `first`."""
        while True:
            try:
                lines.append(self._line(prompt, first))
            except EOFError:
                if not lines:
                    raise
                self._leave_line()
                return "\n".join(lines)
            command = "\n".join(lines)
            judgement = self._judge(command)
            if judgement.runs:
                return command
            prompt, first = MORE.rjust(len(prompt)), judgement.indent if self._readline is not None else ""

    def _leave_line(self) -> None:
        """What is told next does not stand behind the prompt, or behind the terminal's ^C."""
        if self._is_terminal:
            os.write(2, b"\n")

    def tell(self, show: Callable[[], None]) -> None:
        """Show something at once: it may stand in the line that is being typed."""
        show()

    def once_shown(self, begin: Callable[[], None]) -> None:
        """Do it at once: what it tells would stand in the prompt's line."""
        begin()

    def engine_is_known(self) -> None:
        """There are no colours here."""

    def line(self, over: int, *, is_secret: bool) -> str | None:
        """The next line, as the answer to a question of the session; None at the end."""
        return self._input.line(over, is_secret=is_secret)

    def _line(self, prompt: str, first: str) -> str:
        if self._readline is not None:
            if first:
                self._readline.set_startup_hook(lambda: self._readline.insert_text(first))
            try:
                return input(prompt)
            finally:
                self._readline.set_startup_hook(None)
        if self._is_terminal:
            os.write(2, (prompt + first).encode())
        line = self._input.read()
        if line is None:
            raise EOFError
        if self._is_first:
            line, self._is_first = line.removeprefix(BYTE_ORDER_MARK), False
        return first + line

    # ---- readline ----

    def _know(self, session: ReplSession) -> None:
        if not session.has_history:
            session.read_history()
        self._readline.clear_history()
        for command in session.history:
            self._readline.add_history(command)
        self._readline.set_completer_delims("")
        self._readline.set_completer(lambda text, state: self._completed(session, text, state))
        self._readline.parse_and_bind("tab: complete")

    def _completed(self, session: ReplSession, text: str, state: int) -> str | None:
        if state == 0:
            found = session.complete(text, len(text))
            self._found = [text[: found.start] + each for each in found.texts]
        return self._found[state] if state < len(self._found) else None


def _readline() -> Any:
    try:
        import readline
    except ImportError:
        return None
    return readline
