"""The rehearsal of a fork server: before it is anybody's host it plays a small session, with a daemon, a helper thread,
commands, a save and a waking, as often as it takes until everything has been done that is done once.

CPython writes to code and names when they are used for the first times: it counts calls, puts faster instructions in
place, fills its cache of attributes. In a forked child each such write makes a page its own. What has been rehearsed is
shared by all children: they need less memory, and are quicker than they were at their first command.
"""

from __future__ import annotations

import _socket
import json
import os
import select
import sys
from typing import Any, Callable, NamedTuple, Optional, Sequence

from omega_sessiond import wire
from omega_sessiond.hosts import checkpoint, obstacles, title
from omega_sessiond.hosts.engine import CannotLoad

TIMES = 12
"""CPython counts eight calls until it looks for faster instructions, and these want to be met once or twice."""

VARIABLE = "rehearsed"
COMMANDS = ("1+1", VARIABLE + " = None", "pass")

SESSION = "rehearsal"
BOUND = 64 * 1024
PATIENCE_S = 2.0
"""Without a helper thread, for which there may be no room, nobody answers."""

TERMS = {"lent": "", "budget_s": PATIENCE_S, "max_bytes": BOUND}
HELLO = {"t": "hello", "role": "control", "wire": wire.WIRE, "session": SESSION, "have": 0, **TERMS}

NOWHERE = os.devnull
"""A directory where nothing can be saved: what is rehearsed is the host's part, and its child has none."""


class Stage(NamedTuple):
    """Where a checkpoint may stand for a moment, in a directory that is not there before and after; and the directory
    of cloudpickle."""

    directory: str
    lent: str


Become = Callable[[Sequence[_socket.socket]], None]


class Rehearsal:
    """One server's. `become` has the host be what is ordered on the first of its connections, with this engine; both
    are as new after each step, and so is the process: the server goes on serving between any two."""

    def __init__(self, host: Any, engine: Any, become: Become) -> None:
        self.is_on = False
        """Whether there is something to do at once."""
        self.writer = 0
        """The child that sets the stage, to be set to 0 when it has ended."""
        self._host = host
        self._engine = engine
        self._become = become
        self._stage: Optional[Stage] = None
        self._sha256 = ""
        self._left = TIMES

    def go_on(self, stage: Optional[Stage]) -> bool:
        """Do the next part; whether it was the last one. Without a stage no waking is played, and nothing at all where
        there is no room for it, or an old C library."""
        if not hasattr(os, "memfd_create"):
            return True
        try:
            if self._stage is None and stage is not None:
                self._stage = stage
                self.writer = self._set(stage)
            elif not self.writer:
                self._begin()
                self._play_once()
                self._left -= 1
        except OSError:  # descriptors are short, or processes, or threads
            self._left = 0
        if self._left:
            return False
        if self._stage is not None:
            checkpoint.remove(self._stage.directory, SESSION)
            checkpoint.ignoring(os.rmdir, self._stage.directory)
        return True

    def _set(self, stage: Stage) -> int:
        """Have a child write what the sessions of the play wake from."""
        pid = os.fork()
        if pid == 0:
            try:
                self._engine.namespace[VARIABLE] = None
                about = {"session": SESSION, "execution_id": 0, "execution_count": 0, "obstacles": []}
                checkpoint.write(stage.directory, SESSION, self._engine, about, stage.lent, PATIENCE_S)
            finally:
                os._exit(0)
        return pid

    def _begin(self) -> None:
        if self._stage is not None and not self.is_on:
            try:
                self._sha256 = str(checkpoint.read_header(self._stage.directory, SESSION)["sha256"])
            except CannotLoad:
                pass  # there is no cloudpickle, or no room on the disk
        self.is_on = True

    def _play_once(self) -> None:
        standard = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
        arguments, shown, umask = sys.argv, title.shown(), os.umask(0)
        glance_s, obstacles.glance_s = obstacles.glance_s, 0.0  # at a process of which we know what it has
        launch = os.memfd_create("launch")
        try:
            os.write(launch, json.dumps(_launch()).encode())
            order = {"launch": "/proc/self/fd/%d" % launch, "birth_log": os.devnull, "umask": umask, "hello": HELLO}
            self._play(wire.pack(order))
        finally:
            obstacles.glance_s = glance_s
            os.umask(umask)
            os.close(launch)
            for descriptor, copy in standard.items():
                os.dup2(copy, descriptor)
                os.close(copy)
            sys.argv = arguments
            title.put(shown, title.place())

    def _play(self, order: bytes) -> None:
        """One session from its order to its end."""
        host = self._host
        (control, first), (command, second) = (
            _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM) for _ in range(2)
        )
        unread = select.poll()
        unread.register(second, select.POLLIN)
        for connection in (control, command):
            connection.settimeout(PATIENCE_S)

        def ask(frame: wire.Frame) -> None:
            command.send(wire.pack(frame))
            while unread.poll(0):  # and no longer: the answer may be the helper's, which wakes nobody here
                host.turn()
            command.recv(BOUND)

        try:
            _give(control, order)
            self._become((first, second))
            control.recv(BOUND)
            if self._stage is not None and self._sha256:
                host.saves.directory = self._stage.directory
                ask({"t": "load", "id": SESSION, "sha256": self._sha256})
            for number, code in enumerate(COMMANDS, 1):
                ask({"t": "execute", "id": number, "code": code})
            host.saves.directory = NOWHERE
            ask({"t": "save", "id": SESSION})
            ask({"t": "fork", "req": 0, "check": True})
            control.send(wire.pack({"t": "ack", "seq": host.outbox.seq}))
        finally:
            host.end_rehearsal()
            self._engine.end_rehearsal(VARIABLE)
            control.close()
            command.close()


def _launch() -> wire.Frame:
    bounds = {"head_bytes": BOUND, "tail_bytes": BOUND, "data_bytes": BOUND}
    return {"session": SESSION, "log": "", "env": dict(os.environ), "nofile": None, **bounds}


def _give(control: _socket.socket, order: bytes) -> None:
    """Order, with the descriptors that belong to it."""
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    listener.bind(b"")  # a name of the kernel's choice, that no file has
    listener.listen(1)
    given = (listener.detach(), os.dup(2), os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
    rights = b"".join(descriptor.to_bytes(4, sys.byteorder) for descriptor in given)
    control.sendmsg([order], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])
    for descriptor in given:
        os.close(descriptor)
