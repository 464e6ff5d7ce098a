"""Hosts as they must not be: real processes that take a session's place and break the rules in one way each.

`interpreter` makes an executable that the daemon starts as a session's Python. It gets what every interpreter gets (the
path of the host's code, the launch file, the listener) and, instead of running that code, speaks as it likes.
"""

from __future__ import annotations

import sys
from pathlib import Path

_SPEECH = '''
import json, os, signal, socket, sys, time

main, launch_file, listener, trouble = sys.argv[1:5]
launch = json.load(open(launch_file))
listener = socket.socket(fileno=int(listener))
log = open(launch["log"], "ab", buffering=0)
taken, seq, running = 0, 0, 0


def pack(frame):
    body = json.dumps(frame).encode()
    return len(body).to_bytes(4, "big") + body


def read(connection):
    """The next frame; None at the end."""
    head = connection.recv(4, socket.MSG_WAITALL)
    if len(head) < 4:
        return None
    return json.loads(connection.recv(int.from_bytes(head, "big"), socket.MSG_WAITALL))


def logged(kind, **fields):
    """A numbered frame, as it stands in the log."""
    global seq
    seq += 1
    data = pack({"t": kind, "seq": seq, **fields})
    log.write(data)
    return data


def took(id):
    global taken
    taken = id
    return logged("took", id=id, at=time.time())


def result(id, text):
    return logged("output", id=id, s="stdout", off=0, text=text) + logged(
        "result", id=id, status="ok", at=time.time(), duration_ms=1.0, count=1
    )


def hello(wire=1):
    """Take the daemon's control connection and answer its hello."""
    control = listener.accept()[0]
    asked = read(control)
    assert asked["role"] == "control", asked
    control.sendall(pack({
        "t": "hello", "wire": wire, "session": launch["session"], "pid": os.getpid(), "last_taken": taken,
        "running": running, "log_from": 1, "log_to": seq, "version": "0", "engine_version": "0", "features": [],
    }))
    return control, asked["have"]


def connected():
    """Both connections, as they should be, and the daemon's `have`."""
    control, have = hello()
    command = listener.accept()[0]
    assert read(command)["role"] == "command"
    return control, command, have


'''


def interpreter(directory: Path, name: str, behaviour: str) -> str:
    """The path of an executable that speaks the wire up to where `behaviour` takes over."""
    file = directory / name
    file.write_text(f"#!{sys.executable} -IB\n{_SPEECH}{behaviour}\n")
    file.chmod(0o700)
    return str(file)
