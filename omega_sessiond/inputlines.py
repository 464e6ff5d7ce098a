"""Standard input, line by line, without a byte past the line: what follows belongs to the next question, or to the
next program that reads it.

Knows bytes and text, and nothing of commands. The terminal's keys are `keyboard`'s.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import sys
import termios

from omega_sessiond.invocation import UsageError
from omega_sessiond.keyboard import NoLongerAsked

FILE_BYTES = 64 * 1024
"""Read at a time of a file, which can be told where the line ended."""

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
        if fcntl.fcntl(0, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY:
            return None
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
    """Reads a pipe byte by byte, some microseconds each: what is read too much could not be given back."""

    is_person = False

    def __init__(self) -> None:
        self._begun = bytearray()
        self._has_ended = sys.stdin is None

    def line(self, over: int, *, is_secret: bool) -> str | None:
        """A line, None at the end. Raises NoLongerAsked once `over` is readable, and what was begun is the next
        reader's; UsageError for what is no text, or no line."""
        text = self.read(over)
        if text is not None and "\r" in text:
            self._has_ended = True
            raise UsageError("Standard input holds a carriage return within a line", hint="Convert it first.")
        return text

    def read(self, over: int | None = None) -> str | None:
        """The same for whoever is not asked, and waits as long as it takes."""
        while not (self._has_ended or self._begun.endswith(b"\n")):
            if over is not None and over in select.select([0, over], [], [])[0]:
                raise NoLongerAsked
            try:
                self._read_on()
            except BlockingIOError:
                select.select([0] if over is None else [0, over], [], [])
        line, self._begun = bytes(self._begun), bytearray()
        if not line:
            return None
        try:
            text = line.decode()
        except UnicodeDecodeError:
            self._has_ended = True  # what it was to be is unknown, and so is what comes after
            raise not_text() from None
        return text.removesuffix("\n").removesuffix("\r")

    def _read_on(self) -> None:
        """Up to the end of the line, as far as there is something."""
        if stat.S_ISREG(os.fstat(0).st_mode):
            data = os.read(0, FILE_BYTES)
            if end := data.find(b"\n") + 1:
                os.lseek(0, end - len(data), os.SEEK_CUR)
            self._begun += data[:end] if end else data
            self._has_ended = not data
            return
        data = b"-"
        for _ in range(max(_waiting(), 1)):
            data = os.read(0, 1)
            self._begun += data
            if data in (b"", b"\n"):
                break
        self._has_ended = not data


def _waiting() -> int:
    """How many bytes can be read at once, where that can be told."""
    try:
        return int.from_bytes(fcntl.ioctl(0, termios.FIONREAD, bytes(4)), sys.byteorder)
    except OSError:
        return 1
