"""A person at a terminal: a command at a real pty, its screen as an emulator shows it, and every byte it was sent."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import pyte

from ctl import COMMAND, PATIENCE_S
from isolation import Place

ENTER, TAB, UP, DOWN, F1, ALT_ENTER = "\r", "\t", "\x1b[A", "\x1b[B", "\x1bOP", "\x1b\r"
INTERRUPT, END, RUN, SEARCH = "\x03", "\x04", "\n", "\x12"
AGAIN_S = 5
"""When a person presses a key again that did nothing."""


class Person:
    """Types, reads the screen, and never sleeps: waits until something is seen."""

    def __init__(self, pid: int, descriptor: int, rows: int, columns: int) -> None:
        self._pid = pid
        self.descriptor = descriptor
        self._code: int | None = None
        self.sent = b""
        """All bytes that the terminal got."""
        self._screen = pyte.HistoryScreen(columns, rows, history=5000, ratio=1.0)
        self._screen.write_process_input = self._reply  # type: ignore[method-assign, assignment]
        self._stream = pyte.ByteStream(self._screen)
        self._is_open = True

    def _reply(self, text: str) -> None:
        """What a terminal answers by itself: where the cursor is, what it can do."""
        os.write(self.descriptor, text.encode())

    def type(self, text: str) -> None:
        os.write(self.descriptor, text.encode())

    def paste(self, text: str) -> None:
        self.type(f"\x1b[200~{text}\x1b[201~")

    def clears(self) -> None:
        """^C at the prompt, once it stands, until the next one does. (What is typed between them, the terminal throws
        away.) As anybody would, press it again where nothing comes of it: CPython's `readline` has shown its prompt
        before it waits for keys, and sees a signal between the two only with the next one."""
        self.sees(lambda self: bool(self.lines) and self.lines[-1].startswith("work>"))
        before = self.text.count("work>")
        self.type(INTERRUPT)
        if not select.select([self.descriptor], [], [], AGAIN_S)[0]:
            self.type(INTERRUPT)
        self.is_prompted(times=before + 1)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self._screen.resize(rows, columns)

    @property
    def title(self) -> str:
        """What the window is called by now; nothing of ours names it."""
        return self._screen.title + self._screen.icon_name

    @property
    def lines(self) -> list[str]:
        """All lines there ever were, those that have scrolled away too, without what is empty at the end."""
        rows = [*self._screen.history.top, *(self._screen.buffer[row] for row in range(self._screen.lines))]
        shown = ["".join(row[column].data for column in range(self._screen.columns)).rstrip() for row in rows]
        while shown and not shown[-1]:
            shown.pop()
        return shown

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n"

    def sees(self, wanted: str | Callable[[Person], bool], *, times: int = 1, patience_s: float = PATIENCE_S) -> str:
        """Wait until the text stands on the screen, or what is wanted is so; all that was ever on it."""
        deadline = time.monotonic() + patience_s
        while not (self.text.count(wanted) >= times if isinstance(wanted, str) else wanted(self)):
            if not self._read(deadline):
                raise AssertionError(f"it ended, and {wanted!r} was not seen:\n{self.text}")
        return self.text

    def is_prompted(self, prompt: str = "work> ", *, times: int = 1) -> str:
        """Wait until an empty prompt is the last line, with the cursor in it, and `times` lines begin as it does."""

        def is_there(self: Person) -> bool:
            prompts = [line for line in self.lines if line.startswith(prompt.rstrip())]
            return (
                len(prompts) >= times
                and self.lines[-1].rstrip() == prompt.rstrip()
                and self._screen.cursor.x == len(prompt)
            )

        return self.sees(is_there)

    def _read(self, deadline: float) -> bool:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([self.descriptor], [], [], left)[0]:
            raise AssertionError(f"nothing more came:\n{self.text}")
        try:
            data = os.read(self.descriptor, 65536)
        except OSError:
            data = b""  # EIO: the other side has closed
        self.sent += data
        self._stream.feed(data)
        return bool(data)

    def says_goodbye(self) -> None:
        """^D at an empty prompt. One that comes between two prompts is lost by the terminal, as it is for a person, who
        types it again."""
        for patience_s in (10.0, 10.0, PATIENCE_S):
            self.type(END)
            try:
                self.sees("lives on", patience_s=patience_s)
                return
            except AssertionError:
                if patience_s == PATIENCE_S:
                    raise

    def leaves(self) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + PATIENCE_S
        while self._read(deadline):
            pass
        return self._wait()

    def _wait(self) -> int:
        if self._code is None:
            self._code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return self._code

    def close(self) -> None:
        """Its terminal goes away, and so does it."""
        if not self._is_open:
            return
        self._is_open = False
        if self._code is None:
            try:
                os.kill(self._pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self._wait()
        os.close(self.descriptor)


@contextmanager
def at_terminal(
    place: Place,
    *arguments: str,
    env: Mapping[str, str] | None = None,
    rows: int = 30,
    columns: int = 100,
) -> Iterator[Person]:
    """omegactl as the foreground of a terminal of its own."""
    pid, descriptor = pty.fork()
    if pid == 0:
        try:
            os.chdir(place.home)
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
            os.execve(COMMAND[0], [*COMMAND, *arguments], {**place.env, "TERM": "xterm-256color", **(env or {})})
        finally:
            os._exit(127)
    person = Person(pid, descriptor, rows, columns)
    try:
        yield person
    finally:
        person.close()
