"""A bell: one thread, or a signal handler, wakes another that waits on a descriptor. Says nothing of why."""

from __future__ import annotations

import os
import signal
from typing import List


class Bell:
    """A pipe in which a byte means "look around". Rings before anybody waits are not lost."""

    def __init__(self) -> None:
        self._out = self._in = -1

    def open(self) -> None:
        """Hang it up, unless it hangs: before that it cannot be heard."""
        if self._out < 0:
            self._out, self._in = os.pipe()
            os.set_blocking(self._in, False)

    def ring(self) -> None:
        try:
            os.write(self._in, b"!")
        except OSError:
            pass  # full: it rings already; closed: a forked child, where nobody listens

    def ring_at_signals(self) -> None:
        """Ring at each signal that has a handler, at once: the handler itself runs only when the main thread is back
        in Python code, and one that comes on the very way into a poll() would have to wait for its end."""
        signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)

    def wait(self) -> None:
        """Block until it rings, and silence it."""
        os.read(self._out, 4096)

    def fileno(self) -> int:
        return self._out

    def descriptors(self) -> List[int]:
        return [self._out, self._in]

    def close_in_child(self) -> None:
        """A forked child wakes nobody, and nobody wakes it."""
        out, into, self._out, self._in = self._out, self._in, -1, -1
        os.close(out)
        os.close(into)
