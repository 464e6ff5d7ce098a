"""Standard input, line by line, without a byte past the line: what follows belongs to the next question, or to the
next program that reads it.

Knows bytes and text, and nothing of commands. The terminal's keys are `keyboard`'s.
"""

from __future__ import annotations

import os
import select
import stat
import sys

from omega_sessiond.invocation import UsageError
from omega_sessiond.keyboard import NoLongerAsked

BYTE_ORDER_MARK = "\ufeff"
"""What some editors write before the first line, and no engine takes for code."""


def not_text() -> UsageError:
    """What is said of bytes that are no text, wherever they were read for."""
    return UsageError("Standard input is not UTF-8", hint="Convert it first.")


def answers() -> InputLines | None:
    """Standard input, where what asks may read it: a pipe, a socket or a file. A terminal has a person, and a device
    such as /dev/null says that nobody is there to answer."""
    if sys.stdin is None:  # closed before us: the descriptor may be anything by now
        return None
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return None
    return InputLines() if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISREG(mode) else None


def is_standard_input(path: str) -> bool:
    """Whether a path is another name of it, as /dev/stdin is."""
    try:
        return sys.stdin is not None and os.path.samestat(os.stat(path), os.fstat(0))
    except OSError:
        return False


class InputLines:
    """Reads byte by byte: a line costs some microseconds, and what is read too much could not be given back."""

    is_person = False

    def __init__(self) -> None:
        self._begun = b""
        self._has_ended = sys.stdin is None

    def line(self, over: int, *, is_secret: bool) -> str | None:
        """A line, None at the end. Raises NoLongerAsked once `over` is readable, and what was begun is the next
        reader's; UsageError for what is no text."""
        return self.read(over)

    def read(self, over: int | None = None) -> str | None:
        """The same for whoever is not asked, and waits as long as it takes."""
        while not (self._has_ended or self._begun.endswith(b"\n")):
            if over is not None and over in select.select([0, over], [], [])[0]:
                raise NoLongerAsked
            try:
                data = os.read(0, 1)
            except BlockingIOError:
                select.select([0] if over is None else [0, over], [], [])
                continue
            self._begun += data
            self._has_ended = not data
        line, self._begun = self._begun, b""
        if not line:
            return None
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self._has_ended = True  # what it was to be is unknown, and so is what comes after
            raise not_text() from None
        return text.removesuffix("\n").removesuffix("\r")
