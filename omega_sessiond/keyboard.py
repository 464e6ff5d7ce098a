"""The keyboard of a terminal while a command runs: whoever reads next gets what was typed before, and loses nothing.

Knows the terminal behind standard input, and nothing of commands.
"""

from __future__ import annotations

import os
import select
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from omega_sessiond.terminal import sanitize

READ_BYTES = 4096

# Bracketed paste mode. Source: ctlseqs.txt of xterm.
MARK_PASTES, LEAVE_PASTES = b"\x1b[?2004h", b"\x1b[?2004l"
PASTE_MARKS = (b"\x1b[200~", b"\x1b[201~")


class NoLongerAsked(Exception):
    """Nobody waits for the line any more."""


class Keyboard:
    """Standard input, which is a terminal. `marks_pastes`: it can tell a paste from typing, and while held it does."""

    is_person = True

    def __init__(self, *, marks_pastes: bool = False) -> None:
        self._ahead = b""
        self._marks_pastes = marks_pastes

    @contextmanager
    def held(self) -> Iterator[None]:
        """What is typed meanwhile is neither shown nor made into lines: it waits for the next reader, Enter as the key
        that it is. The keys that send signals do so."""
        with _changed(termios.ICRNL, termios.ICANON | termios.ECHO, on=False), self._pastes_marked(True):
            yield

    @contextmanager
    def as_usual(self) -> Iterator[None]:
        """Within `held`: lines with an echo, for whoever asks a person something."""
        with self._pastes_marked(False), _changed(termios.ICRNL, termios.ICANON | termios.ECHO, on=True):
            yield

    @contextmanager
    def _pastes_marked(self, on: bool) -> Iterator[None]:
        if not self._marks_pastes:
            yield
            return
        os.write(1, MARK_PASTES if on else LEAVE_PASTES)
        try:
            yield
        finally:
            os.write(1, LEAVE_PASTES if on else MARK_PASTES)

    def take(self) -> str:
        """What was typed ahead and read already."""
        taken, self._ahead = self._ahead, b""
        return taken.decode(errors="replace")

    def line(self, over: int, *, is_secret: bool) -> str | None:
        """A line, None for end of file. Raises NoLongerAsked once `over` is readable: the rest of a line that is no
        secret is kept for the next reader."""
        is_held = not termios.tcgetattr(sys.stdin)[3] & termios.ICANON
        with self.as_usual(), _silent(is_secret):
            typed, self._ahead = self._ahead, b""
            if is_held and select.select([0], [], [], 0)[0]:
                typed += os.read(0, READ_BYTES)
            typed = _as_lines(typed)
            if typed and not is_secret:  # it was typed without an echo
                line, newline, _ = typed.partition(b"\n")
                os.write(1, sanitize((line + newline).decode(errors="replace")).encode())
            while b"\n" not in typed:
                ready = select.select([0, over], [], [])[0]
                if 0 not in ready:
                    self._ahead = b"" if is_secret else typed
                    raise NoLongerAsked
                data = os.read(0, READ_BYTES)
                if not data:
                    return typed.decode(errors="replace") if typed else None
                typed += _as_lines(data)
            answer, _, self._ahead = typed.partition(b"\n")
            return answer.decode(errors="replace")


def _as_lines(typed: bytes) -> bytes:
    for mark in PASTE_MARKS:
        typed = typed.replace(mark, b"")
    return typed.replace(b"\r", b"\n")


@contextmanager
def _changed(input_flags: int, local_flags: int, *, on: bool) -> Iterator[None]:
    """The flags of the terminal turned on or off."""
    before = termios.tcgetattr(sys.stdin)
    changed = list(before)
    changed[0] = before[0] | input_flags if on else before[0] & ~input_flags
    changed[3] = before[3] | local_flags if on else before[3] & ~local_flags
    termios.tcsetattr(sys.stdin, termios.TCSADRAIN, changed)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


@contextmanager
def _silent(is_secret: bool) -> Iterator[None]:
    """Without an echo, if it is a secret."""
    if not is_secret:
        yield
        return
    try:
        with _changed(0, termios.ECHO, on=False):
            yield
    finally:
        os.write(2, b"\n")
