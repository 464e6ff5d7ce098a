"""The daemon's event loop: asyncio's own, which for a moment after a command was sent looks for what comes back instead
of falling asleep.

To wake a process whose core has gone idle costs more than a short command itself; to stay awake for a millisecond costs
nothing anybody notices. Nothing that is ready waits any longer for it: every look is at all descriptors. Where looking
does not pay, since commands take longer or the cores are busy, it is soon done seldom. Knows no hosts. Source: the idea
of SO_BUSY_POLL, socket(7).
"""

from __future__ import annotations

import asyncio
import os
import selectors
from time import perf_counter

ATTENTIVE_S = 0.001
"""How long to look after a command was sent. A trivial one is answered within 50 to 300 us, later on a busy machine:
shorter would end just before the answer there, longer burn more of a core for each command that takes its time."""

LONGEST_PAUSE = 63
"""Expectations that are passed over after one too many was in vain: of commands that always take longer one in 64 costs
its look, and a change to short ones is noticed within as many."""


class Attention(selectors.DefaultSelector):
    """A selector that sleeps only once nothing came within ATTENTIVE_S of what `expect` announced."""

    def __init__(self) -> None:
        super().__init__()
        affinity = getattr(os, "sched_getaffinity", None)
        # On a single core the answer is made while we sleep, and not before.
        self._may_look = affinity is not None and len(affinity(0)) > 1
        self._until = 0.0
        self._pause = self._passed_over = 0

    def expect(self) -> None:
        """An answer is likely to come at once."""
        if self._passed_over < self._pause:
            self._passed_over += 1
        elif self._may_look:
            self._passed_over = 0
            self._until = perf_counter() + ATTENTIVE_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if not self._until or (timeout is not None and timeout <= 0):
            return super().select(timeout)
        until, self._until = self._until, 0.0
        if timeout is not None:
            until = min(until, perf_counter() + timeout)
        while not (ready := super().select(0)) and perf_counter() < until:
            pass
        if ready:
            self._pause = 0
            return ready
        self._pause = min(2 * self._pause + 1, LONGEST_PAUSE)
        return super().select(timeout)


class Loop(asyncio.SelectorEventLoop):
    """asyncio's loop with `expect`."""

    def __init__(self) -> None:
        attention = Attention()
        self.expect = attention.expect
        super().__init__(attention)


def expect() -> None:
    """Tell the running loop, if it is one of ours, that an answer is likely to come at once."""
    loop = asyncio.get_running_loop()
    if isinstance(loop, Loop):
        loop.expect()
