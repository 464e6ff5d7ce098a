"""Moments that a test holds still: places where a session's code waits, and requests that are not waited for."""

from __future__ import annotations

import fcntl
import os
from http.client import HTTPException
from pathlib import Path
from threading import Thread

from caller import Answer, Caller
from daemon import wait_until


class Gate:
    """A place in the session's code where it shows its process and waits, as often as it comes by, until it is let
    through."""

    def __init__(self, base: Path, name: str) -> None:
        file, self._mark = base / f"{name}.gate", base / f"{name}.mark"
        self._lock = os.open(file, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        show = f"open({str(self._mark)!r}, 'w').write(str(__import__('os').getpid()))"
        self.code = f"({show}, __import__('fcntl').flock(open({str(file)!r}), {fcntl.LOCK_SH}))"
        """An expression."""

    def pid(self) -> int:
        """The process that waits here, once one does."""
        return int(wait_until(lambda: self._mark.exists() and self._mark.read_text(), f"somebody is at {self._mark}"))

    def open(self) -> None:
        fcntl.flock(self._lock, fcntl.LOCK_UN)

    def close(self) -> None:
        os.close(self._lock)


class Asked(Thread):
    """A request that is not waited for. `answer` is None where the daemon was killed before it came."""

    def __init__(self, caller: Caller, route: str, body: object = None) -> None:
        super().__init__()
        self.answer: Answer | None = None
        self._request = caller, route, body
        self.start()

    def run(self) -> None:
        caller, route, body = self._request
        try:
            self.answer = caller.call("POST", route, body)
        except (OSError, HTTPException):
            pass


def loading(code: str, name: str = "Slow") -> str:
    """A class of that name, whose instances come to the expression `code` where a checkpoint is loaded for good, and to
    nothing where that is on trial, with an output that nobody hears."""
    in_earnest = f"__import__('sys').stdout.name != '/dev/null' and ({code})"
    return f"class {name}:\n    def __reduce__(self): return eval, ({in_earnest!r},)\n"
