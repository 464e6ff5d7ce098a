"""Whether memory is short, as the kernel tells it: a descriptor that becomes ready when tasks wait for memory.

Costs nothing until it happens. Source: the kernel's "PSI - Pressure Stall Information", "Monitoring for pressure
thresholds". Knows no sessions.
"""

from __future__ import annotations

import asyncio
import logging
import os
import select
from collections.abc import Callable

log = logging.getLogger("omega_sessiond.pressure")

SYSTEM = "/proc/pressure/memory"

TRIGGER = b"some 200000 2000000"
"""Tasks waited for memory for 0.2 s out of 2 s (in microseconds). Windows of whole multiples of 2 s need no privilege;
a lower share would take a busy disk cache for a shortage."""


class Pressure:
    """Calls `react` from the event loop, at most once a window, while memory is short. `descriptor` is one that becomes
    ready with POLLPRI."""

    def __init__(self, descriptor: int, react: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._react = react
        # The loop waits for reading alone; a set of descriptors is readable when one of them has what it waits for.
        self._set = select.epoll()
        self._set.register(descriptor, select.EPOLLPRI)
        asyncio.get_running_loop().add_reader(self._set.fileno(), self._ready)

    @classmethod
    def watch(cls, file: str, react: Callable[[], None]) -> Pressure | None:
        """Watch the pressure `file`; None where the kernel does not tell or not allow."""
        try:
            descriptor = os.open(file, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            log.debug("memory pressure is not watched: %s: %s", file, error.strerror)
            return None
        try:
            os.write(descriptor, TRIGGER)
            return cls(descriptor, react)
        except OSError as error:
            log.debug("memory pressure is not watched: %s: %s", file, error.strerror)
            os.close(descriptor)
            return None

    def _ready(self) -> None:
        if any(event & select.EPOLLERR for _, event in self._set.poll(0)):
            self.close()  # the cgroup it belongs to is gone
        else:
            self._react()

    @property
    def is_closed(self) -> bool:
        return self._set.closed

    def close(self) -> None:
        if not self._set.closed:
            asyncio.get_running_loop().remove_reader(self._set.fileno())
            self._set.close()
            os.close(self._descriptor)
