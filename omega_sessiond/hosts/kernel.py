"""A Jupyter kernel as a child of this process, and the way to it: Unix sockets in a directory of the session's own.

The kernel is a process group of its own, so that a signal to the host reaches it only when the engine passes it on; it
dies with the host. jupyter_client reads the kernel specification, writes the connection file and signs messages; it is
loaded when the first kernel is started. Knows nothing of commands.
"""

from __future__ import annotations

import codecs
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from hmac import compare_digest
from typing import Any, Dict, List, NamedTuple, Optional, Protocol, Sequence, Tuple

from omega_sessiond.hosts.engine import Wakeup
from omega_sessiond.hosts.oom import Oom

LEASH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "leash.py")

PIPE_BYTES = 64 * 1024

RECONNECT_MS, RECONNECT_MAX_MS = 10, 50
"""How often a socket is tried that the kernel has not opened yet, at first and later. ZeroMQ's own 100 ms would be felt
at every start; less than this would keep the processor awake for a kernel that lacks one of its sockets."""

LAST_WORDS_MS = 200
"""What a dead kernel said is on its way for so long at most."""

FAREWELL_S = 2.0
"""How long a kernel may take to leave when it is asked to. Within the first rung of the daemon's ladder."""

WORDS_KEPT = 4000
"""Characters kept of what the kernel's process prints past Jupyter: why it ends stands there. It is no output:
ipykernel repeats there what it has sent, and others log there."""

LONG_S = 0.05
"""Who dies of memory has taken it first, which takes longer than this."""

CHANNELS = ("shell", "control", "stdin", "iopub")


class Message(NamedTuple):
    """`parent` is the id of the request it belongs to, "" if it names none."""

    channel: str
    kind: str
    parent: str
    content: Dict[str, Any]


class KernelGone(Exception):
    """The kernel has ended or cannot be reached, and with it all its variables. Says why, for people."""


class Kernel(Protocol):
    """A kernel and the way to it."""

    watched: Sequence[int]
    """Descriptors that are readable when it may be worth a `wait(0)`."""

    def send(self, channel: str, kind: str, content: Dict[str, Any]) -> str:
        """Send a request; its id."""

    def wait(self, timeout_s: Optional[float]) -> List[Message]:
        """The next messages, oldest first on each channel; none when the bell rings or time is up. Raises KernelGone
        once all that a dead kernel has said was given out."""

    def settle(self) -> None:
        """It has answered: what its process has printed until now explains no failure any more."""

    def interrupt(self) -> None: ...

    def explain_silence(self) -> str:
        """Why it may be that nothing comes, for people."""

    def close(self) -> None:
        """End the kernel and remove what it leaves."""


class LocalKernel:
    """Started by its constructor."""

    def __init__(self, name: str, spec_directory: str, program: str, directory: str, bell: Wakeup) -> None:
        """`spec_directory` holds kernel.json; `program`, unless empty, stands for the one it names, which would be
        taken for an interpreter of this process's own. `directory` is made for the sockets. Raises KernelGone."""
        import zmq

        self._zmq: Any = zmq
        self._bell = bell
        self._directory = directory
        self._pid = 0
        self._pidfd = -1
        self._end = ""
        self._words = ""
        self._is_settled = False
        self._oom = Oom()
        self._begun_at = 0.0
        self._sockets: Dict[Any, str] = {}
        self._pipes: Dict[int, Tuple[str, codecs.IncrementalDecoder]] = {}
        try:
            shutil.rmtree(directory, ignore_errors=True)
            os.mkdir(directory, 0o700)
            self._manager = _manager(name, spec_directory, program, directory)
        except OSError as error:
            raise KernelGone("cannot make %s: %s" % (directory, error.strerror)) from None
        self._session: Any = self._manager.session
        self._poller: Any = zmq.Poller()
        self._channels: Dict[str, Any] = {}
        self._start()
        self.watched: Sequence[int] = (
            self._pidfd,
            *self._pipes,
            *(socket.getsockopt(zmq.FD) for socket in self._sockets),
        )

    def _start(self) -> None:
        writing = []
        for stream in ("stdout", "stderr"):
            out, into = os.pipe()
            os.set_blocking(out, False)
            self._pipes[out] = (stream, codecs.getincrementaldecoder("utf-8")("backslashreplace"))
            writing.append(into)
        try:
            self._manager.start_kernel(
                env=dict(os.environ), stdin=subprocess.DEVNULL, stdout=writing[0], stderr=writing[1]
            )
            self._pid = self._manager.provisioner.process.pid
        except Exception as error:  # whatever jupyter_client and its provisioners make of a failure
            self._forget()
            raise KernelGone("the kernel cannot be started: %s" % error) from None
        finally:
            for into in writing:
                os.close(into)
        self._pidfd = os.pidfd_open(self._pid)
        zmq = self._zmq
        for descriptor in (self._bell.fileno(), self._pidfd, *self._pipes):
            self._poller.register(descriptor, zmq.POLLIN)
        for channel in CHANNELS:
            socket = self._manager.context.socket(zmq.SUB if channel == "iopub" else zmq.DEALER)
            socket.linger = 0
            socket.reconnect_ivl = RECONNECT_MS
            socket.reconnect_ivl_max = RECONNECT_MAX_MS
            socket.rcvhwm = 0  # at a limit the kernel would drop output, and nobody be told
            if channel == "iopub":
                socket.subscribe(b"")
            else:
                socket.identity = self._session.bsession  # a kernel asks on stdin whom it knows from shell
            socket.connect("ipc://" + self._path(channel))
            self._sockets[socket] = channel
            self._channels[channel] = socket
            self._poller.register(socket, zmq.POLLIN)

    def _path(self, channel: str) -> str:
        return "%s-%d" % (self._manager.ip, getattr(self._manager, channel + "_port"))

    # ---- speech ----

    def send(self, channel: str, kind: str, content: Dict[str, Any]) -> str:
        message = self._session.msg(kind, content)
        self._session.send(self._channels[channel], message)
        if kind == "execute_request":
            self._look_for_kills()
        return str(message["header"]["msg_id"])

    def _look_for_kills(self) -> None:
        """Something that the command before this one ran may have died of memory, if that took its time."""
        begun_at, self._begun_at = self._begun_at, time.monotonic()
        if self._begun_at - begun_at >= LONG_S:
            self._oom.look()

    def wait(self, timeout_s: Optional[float]) -> List[Message]:
        messages: List[Message] = []
        if self._end:  # nothing wakes us any more
            timeout_s = 0
        for source, _ in self._poller.poll(None if timeout_s is None else int(timeout_s * 1000 + 0.999)):
            if source in self._sockets:
                self._read_socket(source, messages)
            elif source in self._pipes:
                self._read_pipe(source)
            elif source == self._pidfd:
                self._end = self._describe_end()
                self._poller.unregister(source)
            else:
                self._bell.wait()
        if self._end and not messages:
            self._read_last_words(messages)
        return messages

    def _read_socket(self, socket: Any, messages: List[Message]) -> None:
        zmq = self._zmq
        while socket.getsockopt(zmq.EVENTS) & zmq.POLLIN:
            try:
                messages.append(self._read(self._sockets[socket], socket.recv_multipart(zmq.NOBLOCK)))
            except zmq.Again:
                return
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # not signed with this kernel's key, or no message at all

    def _read(self, channel: str, frames: List[bytes]) -> Message:
        """As the session's `recv`, but for what takes most of its time, with five messages for each command: it parses
        every date, and keeps every signature lest somebody says a thing twice, whom these sockets do not let in."""
        session = self._session
        _, (signature, *parts) = session.feed_identities(frames)
        header, parent, metadata, content = parts[:4]
        if not compare_digest(signature, session.sign([header, parent, metadata, content])):
            raise ValueError("a wrong signature")
        head = session.unpack(header)
        if not head["version"].startswith("5."):  # from before 2014: jupyter_client translates
            message = session.deserialize([signature, *parts])
            head, named, said = message["header"], message["parent_header"], message["content"]
        else:
            named, said = session.unpack(parent), session.unpack(content)
        return Message(channel, head["msg_type"], named.get("msg_id") or "", said)

    def _read_pipe(self, descriptor: int) -> None:
        try:
            data = os.read(descriptor, PIPE_BYTES)
        except BlockingIOError:
            return
        if not data and descriptor in self._poller:
            self._poller.unregister(descriptor)
        stream, decoder = self._pipes[descriptor]
        text = decoder.decode(data, not data)
        if stream == "stderr" or not self._is_settled:
            self._words = (self._words + text)[-WORDS_KEPT:]

    def _read_last_words(self, messages: List[Message]) -> None:
        """What a kernel said last comes by other ways than its end."""
        for source in self._pipes:
            if source in self._poller:
                self._poller.unregister(source)
            self._read_pipe(source)
        for source, _ in self._poller.poll(LAST_WORDS_MS):
            if source in self._sockets:
                self._read_socket(source, messages)
        if not messages:
            raise KernelGone(self._end + self._last_words())

    def _last_words(self) -> str:
        lines = [line.strip() for line in self._words.splitlines() if line.strip()]
        return "; it said: " + " / ".join(lines[-3:])[-500:] if lines else ""

    def settle(self) -> None:
        self._is_settled = True
        self._words = ""

    def explain_silence(self) -> str:
        if os.path.exists(self._path("shell")):
            return "its process lives" + self._last_words()
        return "its process lives and has opened no Unix sockets: it may know TCP only" + self._last_words()

    def interrupt(self) -> None:
        """By the means its specification names: a signal to its process group, or a message."""
        if not self._end:
            self._manager.interrupt_kernel()

    # ---- end ----

    def _describe_end(self) -> str:
        # It is left a zombie: until `close` its number stands for its process group.
        end = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOWAIT)
        if end is None:
            return "the kernel ended"
        if end.si_code == os.CLD_EXITED:
            return "the kernel ended with exit status %d" % end.si_status
        if end.si_status == signal.SIGKILL and (cause := self._oom.cause()):
            return "the kernel was " + cause
        try:
            name = signal.Signals(end.si_status).name
        except ValueError:
            name = "signal %d" % end.si_status
        return "the kernel was killed by %s" % name

    def close(self) -> None:
        if self._is_settled and not self._end:
            self.send("control", "shutdown_request", {"restart": False})
            self._await_end(time.monotonic() + FAREWELL_S)
        try:
            os.killpg(self._pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self._manager.provisioner.process.wait()
        os.close(self._pidfd)
        self._forget()

    def _await_end(self, deadline: float) -> None:
        poll = select.poll()
        for descriptor in (self._pidfd, *self._pipes):
            poll.register(descriptor, select.POLLIN)
        while True:
            left_s = deadline - time.monotonic()
            ready = [descriptor for descriptor, _ in poll.poll(max(0, int(left_s * 1000)))]
            if self._pidfd in ready or left_s <= 0:
                return
            for descriptor in ready:  # lest it waits for room in a pipe
                if not os.read(descriptor, PIPE_BYTES):
                    poll.unregister(descriptor)

    def _forget(self) -> None:
        for descriptor in self._pipes:
            os.close(descriptor)
        for socket in self._sockets:
            socket.close()
        self._manager.context.destroy(linger=0)
        shutil.rmtree(self._directory, ignore_errors=True)


def _manager(name: str, spec_directory: str, program: str, directory: str) -> Any:
    """jupyter_client's manager of one kernel that is not started yet."""
    import logging

    from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
    from jupyter_client.manager import KernelManager

    # What it logs is raised or seen otherwise, and standard error is the session's.
    logging.getLogger("traitlets").setLevel(logging.CRITICAL + 1)
    try:
        spec = KernelSpec.from_resource_dir(spec_directory)
    except Exception as error:  # OSError, json's own, traitlets' own: the file is the user's
        raise KernelGone("the specification %s/kernel.json cannot be used: %s" % (spec_directory, error)) from None
    if not spec.argv:
        raise KernelGone("the specification %s/kernel.json names no program: it has no argv" % spec_directory)
    command = [program or spec.argv[0], *spec.argv[1:]]
    spec.argv = [sys.executable, "-I", "-S", LEASH, str(os.getpid()), *command]

    class OneSpec(KernelSpecManager):
        def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
            return spec

    return KernelManager(
        kernel_name=name,
        kernel_spec_manager=OneSpec(),
        transport="ipc",
        ip=os.path.join(directory, "s"),
        connection_file=os.path.join(directory, "kernel.json"),
    )
