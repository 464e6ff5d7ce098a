"""The rehearsal of a fork server: before it is anybody's host it plays a small session, with a daemon, a helper thread
and commands, as often as it takes until everything has been done that is done once.

CPython writes to code and names when they are used for the first times: it counts calls, puts faster instructions in
place, fills its cache of attributes. In a forked child each such write makes a page its own. What has been rehearsed is
shared by all children: they need less memory, and are quicker than they were at their first command.
"""

from __future__ import annotations

import _socket
import json
import os
import sys
from typing import Any, Callable, Sequence

from omega_sessiond import wire
from omega_sessiond.hosts import title

TIMES = 12
"""CPython counts eight calls until it looks for faster instructions, and these want to be met once or twice."""

COMMANDS = ("1+1", "pass", "None")
"""They leave nothing behind."""

SESSION = "rehearsal"
TERMS = {"lent": "", "budget_s": 1.0, "max_bytes": 1}
HELLO = {"t": "hello", "role": "control", "wire": wire.WIRE, "session": SESSION, "have": 0, **TERMS}
BOUND = 64 * 1024
PATIENCE_S = 2.0
"""Without a helper thread, for which there may be no room, nobody answers."""


Become = Callable[[Sequence[_socket.socket]], None]


def rehearse(host: Any, engine: Any, become: Become) -> None:
    """Play. `become` has the host be what is ordered on the first of its connections, with this engine; both are as new
    afterwards, and so is the process. Where there is no room for it, or an old C library, they are, too."""
    if not hasattr(os, "memfd_create"):
        return
    standard = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    arguments, shown, umask = sys.argv, title.shown(), os.umask(0)
    launch = os.memfd_create("launch")
    try:
        os.write(launch, json.dumps(_launch()).encode())
        order = {"launch": "/proc/self/fd/%d" % launch, "birth_log": os.devnull, "umask": umask, "hello": HELLO}
        for _ in range(TIMES):
            _play(host, engine, become, wire.pack(order))
    except OSError:
        pass  # descriptors are short, or threads
    finally:
        os.umask(umask)
        os.close(launch)
        for descriptor, copy in standard.items():
            os.dup2(copy, descriptor)
            os.close(copy)
        sys.argv = arguments
        title.put(shown, title.place())


def _launch() -> wire.Frame:
    bounds = {"head_bytes": BOUND, "tail_bytes": BOUND, "data_bytes": BOUND}
    return {"session": SESSION, "log": "", "env": dict(os.environ), "nofile": None, **bounds}


def _play(host: Any, engine: Any, become: Become, order: bytes) -> None:
    (control, first), (command, second) = (_socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM) for _ in range(2))
    for connection in (control, command):
        connection.settimeout(PATIENCE_S)
    try:
        _give(control, order)
        become((first, second))
        control.recv(BOUND)
        for number, code in enumerate(COMMANDS, 1):
            command.send(wire.pack({"t": "execute", "id": number, "code": code}))
            while host.last_taken < number:
                host.turn()
            command.recv(BOUND)
        control.send(wire.pack({"t": "ack", "seq": host.outbox.seq}))
    finally:
        host.end_rehearsal()
        engine.end_rehearsal()
        control.close()
        command.close()


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
