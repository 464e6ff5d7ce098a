"""Jupyter kernels for the tests: the two real ones, and some that misbehave, as specifications in a directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

IPYKERNEL = Path(sys.prefix, "share", "jupyter", "kernels", "python3")
"""The specification that comes with ipykernel."""


def specify(kernels: Path, name: str, *argv: str, **fields: object) -> Path:
    """Write a specification and return its directory."""
    directory = kernels / name
    directory.mkdir(parents=True)
    spec = {"argv": argv, "display_name": name, "language": "none", **fields}
    (directory / "kernel.json").write_text(json.dumps(spec))
    return directory


def ipykernel(kernels: Path, name: str = "python3", **fields: object) -> Path:
    """ipykernel as a kernel of its own name, with other fields than it has by itself."""
    argv = (sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}")
    return specify(kernels, name, *argv, language="python", **fields)


def bash(kernels: Path) -> Path:
    """bash_kernel, whose package leaves the specification to whoever installs it."""
    return specify(kernels, "bash", sys.executable, "-m", "bash_kernel", "-f", "{connection_file}", language="bash")


LINGER = """
import pathlib, time
def linger(*ignored, shell=get_ipython()):
    del shell.user_expressions
    pathlib.Path({mark!r}).touch()
    time.sleep(600)
get_ipython().user_expressions = linger
"""
"""For ipykernel: stays on the way from the command's code to its reply, once. An interrupt there costs the reply."""

LINGER_BEFORE = """
import pathlib, time
def linger(lines, stages=get_ipython().input_transformers_cleanup):
    stages.remove(linger)
    pathlib.Path({mark!r}).touch()
    time.sleep(600)
get_ipython().input_transformers_cleanup.append(linger)
"""
"""For ipykernel: stays on the way to the next command's code. An interrupt there costs code and reply."""

CARELESS = """
import json, signal, sys, time, zmq
from jupyter_client.session import Session

signal.signal(signal.SIGINT, signal.default_int_handler)
where = json.load(open(sys.argv[1]))
session, context = Session(key=where["key"].encode()), zmq.Context()
def bind(kind, channel):
    socket = context.socket(kind)
    socket.bind("ipc://%s-%d" % (where["ip"], where[channel + "_port"]))
    return socket
shell, iopub = bind(zmq.ROUTER, "shell"), bind(zmq.PUB, "iopub")
unsaid = []
while True:
    ids, request = session.recv(shell, 0)
    def publish(kind, parent=request, **content):
        session.send(iopub, kind, content, parent=parent)
    def reply(kind, **content):
        session.send(shell, kind, {"status": "ok", **content}, parent=request, ident=ids)
    publish("status", execution_state="busy")
    if request["msg_type"] == "kernel_info_request":
        while unsaid:
            publish("stream", unsaid.pop(), name="stdout", text="late words")
        reply("kernel_info_reply")
        publish("status", execution_state="idle")
    elif request["msg_type"] == "execute_request":
        try:
            publish("stream", name="stdout", text="begun ")
            time.sleep(600)
        except KeyboardInterrupt:
            unsaid.append(request)
        if OWES != "reply":
            reply("execute_reply", execution_count=1)
        if OWES != "idle":
            publish("status", execution_state="idle")
"""


def careless(kernels: Path, owes: str) -> Path:
    """A kernel that leaves an interrupted command without its `reply` or `idle`, and has output of it still to say when
    it is asked something else."""
    return script(kernels, f"careless-{owes}", f"OWES = {owes!r}\n{CARELESS}")


def script(kernels: Path, name: str, code: str) -> Path:
    """A kernel that is a piece of Python and no more."""
    return specify(kernels, name, sys.executable, "-c", code, "{connection_file}")
