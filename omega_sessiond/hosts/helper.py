"""The helper thread: what must go on while a command runs. Signals are blocked in it; it never blocks on a lock's
holder for long, and it sleeps in poll() when there is nothing to do.

It reads the pipes behind descriptors 1 and 2 (else a child that prints a lot would wait for ever), frames what waited
long enough, meets daemons, listens on the control connection, sends what the command connection did not take at once,
and repeats a signal that came while the host itself was at work.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import signal
import struct
import time
from _thread import allocate_lock, get_ident, get_native_id, stack_size, start_new_thread
from typing import Any, Dict, List, Optional, Protocol, Sequence, Set, Tuple

from omega_sessiond import wire
from omega_sessiond.hosts import border
from omega_sessiond.hosts.bell import Bell
from omega_sessiond.hosts.outbox import MSG_DONTWAIT, Connection, Outbox
from omega_sessiond.hosts.output import BACKLOG_BYTES, Output
from omega_sessiond.hosts.saver import Saves, Writing

FLUSH_S = 0.010
"""How long a print may wait for more: a frame costs the daemon a commit, a reader does not see 10 ms."""

HELLO_S = 5.0
"""Who has not said hello by then is sent away."""

RETRY_S = 0.002
"""After which a signal is repeated that struck inside the host and was not raised yet."""

ACCEPT_AGAIN_S = 0.5
"""After which a daemon is met for whom there was no descriptor left."""

BEGIN_S, BEGIN_AGAIN_S = 2.0, 20.0
"""A thread that the system made and that has not begun by then never will: there was no memory for its first step. So
long after that another one is tried."""

STUMBLE_S = 0.1
"""A pause after a defect, which may be there again at once."""

MAX_STRANGERS = 16
PEER_CREDENTIALS = struct.Struct("3i")

_ALL_SIGNALS = _signal.valid_signals()


class Desk(Protocol):
    """What the helper needs of the host; everything here is called from the helper thread."""

    session: str
    running: int
    output: Output
    outbox: Outbox
    saves: Saves

    def introduce(self, hello: wire.Frame) -> wire.Frame:
        """A daemon said hello: the host's own hello."""

    def employ(self, connection: Connection) -> None:
        """Take commands from this connection from now on, and from no other."""

    def obey(self, frame: wire.Frame) -> None:
        """A frame of the control connection."""

    def report(self, text: str) -> None:
        """Trouble of the host's own."""

    def collapse(self, reason: str) -> None:
        """The host cannot go on: end the process."""


class Helper:
    """Runs `_turn` in a thread of its own until stopped; may be stopped and started any number of times."""

    def __init__(self, host: Desk, bell: Bell) -> None:
        self.bell = bell
        self.control: Optional[Connection] = None
        self._host = host
        self._output: Output = host.output
        self._listener: Optional[_socket.socket] = None  # a spare has none
        self._uid = os.getuid()  # of those who may speak to it, whoever the session's code becomes
        self._strangers: Dict[int, Tuple[Connection, float]] = {}
        self._main_thread = get_ident()
        self._flush_at: Optional[float] = None
        self._repeat_at: Optional[float] = None
        self._accept_at: Optional[float] = None
        self._stopping = False
        self._begin_again_at = 0.0
        self._ident = 0
        self._native_id = 0
        self._done: Any = None

    # ---- life ----

    def listen(self, listener: Optional[_socket.socket]) -> None:
        """Meet daemons here, and no others from now on; None: nowhere yet."""
        self._listener = listener
        self.control = None
        self._strangers.clear()
        self._flush_at = self._repeat_at = self._accept_at = None

    def welcome(self, connections: Sequence[_socket.socket], hello: wire.Frame) -> None:
        """Meet the daemon that has made this host, and these connections with it; in the calling thread, for the other
        one would have to wake first."""
        control, command = map(Connection, connections)
        self._greet(control, hello)
        self._host.employ(command)
        self.bell.ring()

    def start(self) -> bool:
        """Start the thread, if it does not run; False when there is no room for one (a limit on tasks)."""
        if self._done is not None:
            return True
        if time.monotonic() < self._begin_again_at:
            return False
        self._stopping = False
        done, begun = allocate_lock(), allocate_lock()
        done.acquire()
        begun.acquire()
        self._done = done
        # A thread inherits the mask: no signal ever finds the helper unprepared.
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _ALL_SIGNALS)
        users_stack_size = stack_size(0)
        try:
            self._ident = start_new_thread(self._run, (done, begun))
        except (RuntimeError, MemoryError):
            self._done, self._ident = None, 0
            return False
        finally:
            stack_size(users_stack_size)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        if not begun.acquire(timeout=BEGIN_S):
            self._done, self._ident = None, 0
            self._begin_again_at = time.monotonic() + BEGIN_AGAIN_S
            return False
        return True

    def stop(self) -> None:
        """Have the thread end, and wait until the system counts it no longer. Not from the helper itself."""
        done = self._done
        if done is None or self.is_current():
            return
        self._stopping = True
        self.bell.ring()
        done.acquire()
        task = "/proc/self/task/%d" % self._native_id
        while os.path.exists(task):
            time.sleep(0)
        self._done = None

    @property
    def address(self) -> str:
        """The path of the host's own socket."""
        assert self._listener is not None
        return str(self._listener.getsockname())

    def is_current(self) -> bool:
        """Whether the calling thread is the helper: a finalizer of the user's struck in it."""
        return get_ident() == self._ident

    def _run(self, done: Any, begun: Any) -> None:
        if self._done is not done:
            return  # it was given up
        self._native_id = get_native_id()
        begun.release()
        try:
            while not self._stopping:
                try:
                    self._turn()
                except Exception as error:  # the outermost edge of this thread: a deaf host is the worst host
                    self._host.report("the helper thread stumbled: %r" % error)
                    self._dismiss_all()
                    time.sleep(STUMBLE_S)
        finally:  # memory may be short for that, too
            self._ident = 0
            if not self._stopping:
                self._done = None
            done.release()

    @property
    def ident(self) -> int:
        """The running thread's; 0 for none."""
        return self._ident

    def held(self) -> List[Any]:
        """What has descriptors that a forked child must close."""
        held: List[Any] = [self.bell]
        if self._listener is not None:
            held.append(Connection(self._listener))
        if self.control is not None:
            held.append(self.control)
        held.extend(connection for connection, _ in self._strangers.values())
        return held

    # ---- one turn ----

    def _turn(self) -> None:
        poll = select.poll()
        poll.register(self.bell, select.POLLIN)
        listener = -1 if self._listener is None else self._listener.fileno()
        if listener >= 0 and len(self._strangers) < MAX_STRANGERS and self._accept_at is None:
            poll.register(listener, select.POLLIN)
        for descriptor in self._strangers:
            poll.register(descriptor, select.POLLIN)
        control = self.control
        if control is not None:
            poll.register(control, select.POLLIN)
        writing = self._writing
        if writing is not None:
            poll.register(writing, select.POLLIN)
        outbox = self._host.outbox
        backlog = outbox.backlog
        if backlog <= BACKLOG_BYTES:  # else children wait, as prints do
            for descriptor in self._output.pipes:
                poll.register(descriptor, select.POLLIN)
        command = outbox.connection
        descriptor = -1 if command is None else command.fileno()  # -1 too when the main thread has just closed it
        if descriptor >= 0 and backlog and not self._output.waiting_main:
            poll.register(descriptor, select.POLLOUT)
        events = dict(poll.poll(self._timeout_ms()))
        if self._stopping:
            return
        for descriptor in (self.bell.fileno(), listener, *self._output.pipes):
            if events.get(descriptor, 0) & select.POLLNVAL:
                self._host.collapse("the session's code closed descriptor %d, which the host needs" % descriptor)
        if writing is not None:
            self._host.saves.hear(writing)
        self._attend(set(events), control, command)
        if listener in events:
            self._accept()

    @property
    def _writing(self) -> Optional[Writing]:
        """The child to hear out, unless the main thread does."""
        saves = self._host.saves
        return None if saves.is_awaited else saves.writing

    def _timeout_ms(self) -> Optional[float]:
        """Until the next thing that time alone brings; None: for ever."""
        moments = [deadline for _, deadline in self._strangers.values()]
        if self._flush_at is not None:
            moments.append(self._flush_at)
        if self._repeat_at is not None:
            moments.append(self._repeat_at)
        if self._accept_at is not None:
            moments.append(self._accept_at)
        writing = self._writing
        if writing is not None:
            moments.append(writing.deadline)
        if not moments:
            return None
        return max(0.0, min(moments) - time.monotonic()) * 1000 + 1

    def _attend(self, ready: Set[int], control: Optional[Connection], command: Optional[Connection]) -> None:
        now = time.monotonic()
        if self.bell.fileno() in ready:
            self.bell.wait()
            if self._output.dirty and self._flush_at is None:
                self._flush_at = now + FLUSH_S
            if border.pending and self._repeat_at is None:
                self._repeat_at = now + RETRY_S
        if any(descriptor in ready for descriptor in self._output.pipes):
            self._output.flush()
        if self._flush_at is not None and now >= self._flush_at:
            self._flush_at = None
            if self._output.dirty:
                self._output.flush()
        if self._repeat_at is not None and now >= self._repeat_at:
            self._repeat_at = None
            self._repeat_signals()
        if command is not None and command.fileno() in ready:
            with self._host.outbox.lock:
                self._host.outbox.pump()
        if control is not None and control.fileno() in ready:
            self._hear(control)
        for descriptor in list(self._strangers):
            if descriptor in ready:
                self._meet(descriptor)
            elif now >= self._strangers[descriptor][1]:
                self._strangers.pop(descriptor)[0].close()
        if self._accept_at is not None and now >= self._accept_at:
            self._accept_at = None

    def _repeat_signals(self) -> None:
        """A signal that struck in a host function is raised when that is done; here is the net for the moment between
        its last look and its return."""
        if not self._host.running:
            return
        for signum in list(border.pending):
            signal.pthread_kill(self._main_thread, signum)
        if border.pending:
            self._repeat_at = time.monotonic() + RETRY_S

    # ---- daemons ----

    def _accept(self) -> None:
        try:
            descriptor, _ = self._listener._accept()  # type: ignore[union-attr]
        except OSError:  # descriptors are short; poll would tell of the waiting daemon again at once
            self._accept_at = time.monotonic() + ACCEPT_AGAIN_S
            return
        sock = _socket.socket(fileno=descriptor)
        if self._is_foreign(sock):
            sock.close()
            return
        self._strangers[descriptor] = (Connection(sock), time.monotonic() + HELLO_S)

    def _is_foreign(self, sock: _socket.socket) -> bool:
        """Whether the peer is another user. Where the system cannot tell, the directory's mode protects the socket."""
        option = getattr(_socket, "SO_PEERCRED", None)
        if option is None:
            return False
        _, uid, _ = PEER_CREDENTIALS.unpack(sock.getsockopt(_socket.SOL_SOCKET, option, PEER_CREDENTIALS.size))
        return bool(uid != self._uid)

    def _meet(self, descriptor: int) -> None:
        """Read a hello, or what there is of it."""
        connection, _ = self._strangers[descriptor]
        try:
            if connection.receive(MSG_DONTWAIT) and not connection.bodies:
                return
            hello = wire.unpack(connection.bodies.popleft()) if connection.bodies else {}
        except BlockingIOError:
            return
        except wire.TornFrame as error:
            self._host.report("a stranger spoke nonsense: %s" % error)
            hello = {}
        del self._strangers[descriptor]
        if hello.get("t") != "hello" or hello.get("session") != self._host.session:
            connection.close()
        elif hello.get("role") == "control":
            self._greet(connection, hello)
        elif hello.get("role") == "command" and self.control is not None and hello.get("wire") == wire.WIRE:
            self._host.employ(connection)
        else:
            connection.close()

    def _greet(self, connection: Connection, hello: wire.Frame) -> None:
        """A daemon has come: it replaces the one before. Its frames behind the hello are heard at once."""
        old, self.control = self.control, None
        if old is not None:
            old.shut()
            old.close()
        answer = self._host.introduce(hello)
        try:
            connection.send(wire.pack(answer))
        except OSError:
            connection.close()
            return
        self.control = connection
        self._obey(connection)

    def _hear(self, connection: Connection) -> None:
        try:
            alive = connection.receive(MSG_DONTWAIT)
        except BlockingIOError:
            return
        except wire.TornFrame as error:
            self._host.report("the control connection is torn: %s" % error)
            alive = False
        self._obey(connection)
        if not alive and self.control is connection:
            self.control = None
            connection.close()

    def _obey(self, connection: Connection) -> None:
        while connection.bodies:
            try:
                frame = wire.unpack(connection.bodies.popleft())
            except wire.TornFrame as error:
                self._host.report("the control connection is torn: %s" % error)
                connection.bodies.clear()
                connection.shut()
                return
            self._host.obey(frame)

    def _dismiss_all(self) -> None:
        """After a defect: away with whoever may have caused it. A daemon comes back."""
        for connection, _ in self._strangers.values():
            connection.close()
        self._strangers.clear()
        if self.control is not None:
            self.control.close()
            self.control = None
