"""Twins: a live session is copied by fork(2). The child takes everything in memory along and goes on as the host of a
session of its own; the parent answers, and goes on as if nothing had been. The copy is no child of it: code that waits
for whatever child must not meet one that it has not made.

A fork carries one thread and no children, so a process that has others is not copied, and the answer says which. A
library's pool of threads that ends before a fork and begins anew when it is used (OpenBLAS) is not there to be counted
once the fork is made; one that is made anew in the child (LLVM's and Intel's OpenMP) is known by its library's name.
"""

from __future__ import annotations

import _socket
import os
import sys
import time
from json import loads
from typing import Callable, List, Protocol, Set

from omega_sessiond.hosts import obstacles, procfs, title
from omega_sessiond.hosts.outbox import MSG_NOWAIT
from omega_sessiond.wire import Frame

MADE_ANEW = ("libomp", "libiomp")
"""Libraries whose threads are made anew in a forked child, by the beginning of their files' names."""

LISTENED = 16

PID_BYTES = 4

SETTLE_S, SETTLE_LOOKS = 0.0005, 20


class Desk(Protocol):
    """What copying needs of the host."""

    def own_threads(self) -> Set[int]:
        """The threads that are the host's own."""

    forked: bool
    """Whether this process is a child that is nobody's host."""

    def become(self, launch: Frame, listener: _socket.socket) -> None:
        """Be the host of another session from now on."""

    def report(self, text: str) -> None:
        """Trouble of the host's own."""


class Twins:
    """Makes the copies of one host."""

    def __init__(self, host: Desk) -> None:
        self.is_forking = False
        """Whether the child that is being forked is to be a host."""
        self.threads_left = 0
        """How many threads besides this one there are in the moment of the fork, when the host's own have ended."""
        self._between = 0
        self._host = host

    def refusal(self, others: List[str], own_children: Set[int]) -> Frame:
        """What stands in the way of a copy, as the body of an answer, beside `others`; empty when nothing does."""
        found = obstacles.find_for_fork(self._host.own_threads, own_children) + others
        return {"refused": found} if found else {}

    def fork(self, order: Frame, is_wanted: Callable[[], bool]) -> Frame:
        """Make a copy, unless whoever wants it has gone meanwhile. What this returns in the parent is the body of its
        answer."""
        try:
            launch: Frame = loads(procfs.contents(str(order["launch"])))
            listener = _listen(str(order["socket"]))
        except (OSError, KeyError, ValueError) as error:
            return {"failed": str(error)}
        leash, hand = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self.is_forking = True
        try:
            pid = os.fork()
        except OSError as error:
            for one in (listener, leash, hand):
                one.close()
            return {"failed": str(error)}
        finally:
            self.is_forking = False
        if pid == 0:
            hand.close()
            self._orphan_itself(leash)
            self._go_on(launch, str(order["launch"]), listener, leash)
            return {}
        leash.close()
        listener.close()
        self._between = pid
        try:
            return self._let_go(hand, is_wanted)
        finally:
            hand.close()

    def reap(self) -> None:
        """Take leave of the child between this process and the copy: to end takes it as long as it took to make."""
        pid, self._between = self._between, 0
        if pid:
            try:
                os.waitpid(pid, 0)
            except ChildProcessError:
                pass  # the user's code has children reaped as they end

    def _let_go(self, hand: _socket.socket, is_wanted: Callable[[], bool]) -> Frame:
        """In the parent: whether the copy may go on is known only now that the fork has been made. It ends with its
        leash when it may not. It is told before it asks: it needs not wait, and we only for its pid."""
        if self.threads_left and not _are_made_anew():
            return {"refused": ["%d threads of a library that would be missing in a fork" % self.threads_left]}
        if not is_wanted():
            return {"failed": "nobody waits for it any more"}
        try:
            hand.send(b"!", MSG_NOWAIT)
            said = hand.recv(PID_BYTES)
        except OSError:
            said = b""
        if len(said) < PID_BYTES:
            return {"failed": "the copy ended before it could go on"}
        pid = int.from_bytes(said, sys.byteorder)
        return {"pid": pid, "start_time": procfs.start_time(pid)}

    def _orphan_itself(self, leash: _socket.socket) -> None:
        """In the child: fork again and end, so that the copy is the child of whoever takes up orphans."""
        self._host.forked = True
        try:
            if os.fork():
                os._exit(0)
        except OSError:
            os._exit(1)  # the parent sees the end of the leash
        self._host.forked = False
        try:
            leash.send(os.getpid().to_bytes(PID_BYTES, sys.byteorder), MSG_NOWAIT)
        except OSError:
            os._exit(0)  # it is not wanted

    def _go_on(self, launch: Frame, launch_file: str, listener: _socket.socket, leash: _socket.socket) -> None:
        """In the child."""
        try:
            allowed = leash.recv(1) == b"!"
            leash.close()
            if not allowed:
                os._exit(0)
            os.setsid()
            self._host.become(launch, listener)
            arguments = [launch_file if one.endswith("/launch.json") else one for one in title.shown()]
            title.put(arguments, title.place())
        except BaseException as error:  # the outermost edge of this process: it is nobody's host, and must not seem one
            self._host.report("the copy of a session failed: %r" % error)
            os._exit(1)


def _listen(path: str) -> _socket.socket:
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(LISTENED)
    except OSError:
        listener.close()
        raise
    return listener


def count_threads() -> int:
    """Threads besides the calling one. One that was joined just now may be counted a moment longer, and is let go."""
    for _ in range(SETTLE_LOOKS):
        count = len(os.listdir("/proc/self/task")) - 1
        if not count:
            break
        time.sleep(SETTLE_S)
    return count


def _are_made_anew() -> bool:
    with open("/proc/self/maps", encoding="utf-8", errors="replace") as file:
        return any(os.path.basename(line.rstrip()).startswith(MADE_ANEW) for line in file)
