"""The host: reads commands, runs them in its engine, says what came of it. One main thread, one helper.

Everything that both threads touch (connections, numbers, what runs, the open question) changes under the outbox's
lock. User code is never called with that lock held. Knows what a daemon may say; nothing of Python the language.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import signal
import sys
import time
from _thread import allocate_lock, get_ident
from json import dumps
from typing import Any, Dict, List, Optional, Sequence, Set

import omega_sessiond
from omega_sessiond import wire
from omega_sessiond.hosts import border, obstacles
from omega_sessiond.hosts import engine as contract
from omega_sessiond.hosts.bell import Bell
from omega_sessiond.hosts.engine import Engine, ErrorReport, Outcome
from omega_sessiond.hosts.helper import Helper
from omega_sessiond.hosts.outbox import Connection, Outbox, plain, quote
from omega_sessiond.hosts.output import Output
from omega_sessiond.hosts.questions import Question, Questions
from omega_sessiond.hosts.saver import Saves, Terms
from omega_sessiond.hosts.twins import Twins, count_threads

EXIT_COLLAPSED = 70
"""Exit status after a defect; the reason stands in the trouble log. Source: sysexits.h, EX_SOFTWARE."""

HELPER_RETRY_MS = 1000
"""How often a host at rest tries to have a helper thread again when a limit on tasks took it."""


class Host:
    """One session's process. `serve` returns only in a forked child."""

    def __init__(self) -> None:
        self.session = ""
        self.directory = ""
        self.running = 0
        self.last_taken = 0
        self.forked = False
        self._trouble = 2
        self._main_thread = get_ident()
        self._bell = Bell()
        helper_bell = Bell()
        self.outbox = Outbox(self.report, self._retire)
        self.output = Output(self.outbox, helper_bell, self._bell)
        self.helper = Helper(self, helper_bell)
        self.saves = Saves(self)
        self.twins = Twins(self)
        self.count = 0
        self._engine: Engine
        border.cover()
        border.on_deferred = self._signal_deferred
        border.on_terminate = self._terminated
        self._have = 0
        self._leaving: Optional[str] = None
        self._goes_on = False
        self._questions = Questions(self.outbox)
        self._interrupt_id = 0
        self._interrupts_before = 0
        self._mine: Optional[Connection] = None  # the connection the main thread waits on: only it may close it
        self._poll = select.poll()
        self._watched: Sequence[int] = ()
        self._is_at_work = False
        self._fork_lock = allocate_lock()
        self._is_prepared = False
        self._mask: Set[int] = set()
        os.register_at_fork(
            before=self._before_fork,
            after_in_parent=self._after_fork_in_parent,
            after_in_child=self._after_fork_in_child,
        )

    # ---- what an engine may use ----

    @property
    def bell(self) -> Bell:
        return self._bell

    @property
    def printer(self) -> Output:
        return self.output

    @property
    def sockets(self) -> str:
        return wire.engine_sockets(self.helper.address)

    @property
    def is_leaving(self) -> bool:
        return self._leaving is not None

    def note(self, text: Optional[str]) -> None:
        with self.outbox.lock:
            self.outbox.reply({"t": "note", "text": text if text is None else plain(text)})
        if self.outbox.backlog:
            self.helper.bell.ring()

    def leave(self, reason: str) -> None:
        self._leaving = reason

    def ask(self, prompt: str, secret: bool) -> Optional[str]:
        """input(): tell the daemon and wait for the line. None at the end of input, in a forked child too."""
        question = self.question(prompt, secret)
        if question is None:
            return None
        try:
            if get_ident() != self._main_thread:
                question.lock.acquire()
            while not question.answered:
                if border.pending:
                    border.deliver()
                self._bell.wait()
        finally:
            self.withdraw(question)
        return question.text

    def question(self, prompt: str, secret: bool) -> Optional[Question]:
        """Tell the daemon that input is wanted. None where nobody could answer."""
        if self.forked or not self.running or self.helper.is_current():
            return None
        self.output.flush()
        question, unsent = self._questions.put(self.running, prompt, secret)
        if unsent:
            self.helper.bell.ring()
        return question

    def withdraw(self, question: contract.Question) -> None:
        self._questions.withdraw(question)

    # ---- life ----

    def take(
        self,
        session: str,
        log: str,
        listener: int,
        trouble: int,
        head_bytes: int,
        tail_bytes: int,
        data_bytes: int,
    ) -> None:
        """Be the host of this session: with its log, its listener, and the bounds of its output."""
        self.session = session
        self._trouble = trouble
        self._open_bells()
        self.outbox.open(log)
        self.output.bound(head_bytes, tail_bytes, data_bytes)
        self.helper.listen(_socket.socket(fileno=listener))
        self.directory = log.rpartition("/")[0]
        self.saves.directory = self.directory + "/checkpoints"

    def start(self, engine: Engine) -> None:
        """Take over the signals and descriptors 1 and 2, and begin to listen."""
        border.guard()
        self.listen(engine)

    def listen(self, engine: Engine) -> None:
        """All of it but the signals: a spare that is told to end does so."""
        self._engine = engine
        self._is_at_work = True
        self._open_bells()
        self.saves.attach(self._engine)
        self._poll.register(self._bell, select.POLLIN)
        self.output.capture()
        self.helper.start()

    def _open_bells(self) -> None:
        """A spare listens before it takes a session; in another process the engine's own making wants to hear them."""
        self._bell.open()
        self.helper.bell.open()

    def become(self, launch: wire.Frame, listener: _socket.socket) -> None:
        """In a forked child: go on as the host of another session, with all variables."""
        self.part(self.saves.last)
        self._engine.part()  # type: ignore[attr-defined]
        bounds = launch["head_bytes"], launch["tail_bytes"], launch["data_bytes"]
        self.take(launch["session"], launch["log"], listener.detach(), self._trouble, *bounds)
        self.listen(self._engine)

    def part(self, state_of: int) -> None:
        """Be nobody's host any more, whose descriptors are closed: to become another's."""
        self.saves = Saves(self, state_of)
        self.last_taken = self._have = self._interrupt_id = 0
        self._mine = None
        self._poll = select.poll()
        self.output.become_host()
        self.helper.listen(None)

    def end_rehearsal(self) -> None:
        """Be as new: what was played was no session."""
        self._is_at_work = False
        self.helper.stop()
        self._close_held()
        os.close(self._trouble)
        self.part(0)
        self.session, self._trouble, self.count = "", 2, 0

    def serve(self) -> None:
        """Run commands until asked to leave."""
        while self._leaving is None:
            self.turn()
        self._leave(self._leaving)

    def turn(self) -> None:
        """Wait for work, and do it."""
        connection = self._wait_for_work()
        while connection is not None and connection.bodies and self._leaving is None:
            try:
                frame = wire.unpack(connection.bodies.popleft())
            except wire.TornFrame as error:
                self._lose(connection, str(error))
                break
            self._work(connection, frame)

    def _leave(self, reason: str) -> None:
        """A session whose state goes on elsewhere: its exit functions are not for now."""
        border.discard_interrupts()
        goes_on = self._goes_on or reason == wire.HIBERNATE
        if reason == "SIGTERM":
            goes_on = self.saves.save_before_leaving()
        if not goes_on:
            try:
                self._engine.close()
            except BaseException as error:  # user code's last words
                self.report("the session's exit functions failed: %r" % error)
        self._end_child_if_forked(0)
        with self.outbox.lock:
            self.output.begin(0)
            self.outbox.emit("bye", ',"reason":%s' % quote(plain(reason)))
            self.outbox.commit()
            os._exit(0)

    def collapse(self, reason: str) -> None:
        self.report(reason)
        os._exit(EXIT_COLLAPSED)

    def report(self, text: str) -> None:
        """One line into the trouble log."""
        line = "omega-session %s: %s" % (self.session, text)
        printable = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in line)
        try:
            os.write(self._trouble, printable.encode("utf-8", "backslashreplace")[:4000] + b"\n")
        except OSError:
            pass  # nobody reads it, and there is no other place to say so

    # ---- the main thread at rest ----

    def _wait_for_work(self) -> Optional[Connection]:
        """The connection with something to read on it or already read; None: look around again."""
        connection = self._mine
        if connection is not self.outbox.connection:
            connection = self._change_connection()
        if connection is not None and connection.bodies:
            return connection
        if self._engine.watched is not self._watched:
            self._watch()
        timeout = None
        if not self._fork_lock.locked() and not self.helper.start():
            self.saves.settle()  # nobody else would hear the child out
            timeout = HELPER_RETRY_MS
        ready = self._poll.poll(timeout)
        for descriptor, event in ready:
            if event & select.POLLNVAL:
                self.collapse("the session's code closed descriptor %d, which the host needs" % descriptor)
            if descriptor == self._bell.fileno():
                self._bell.wait()
                if border.pending:
                    self._run_deferred_signals()
            elif descriptor in self._watched:
                self._engine.attend()
            elif connection is not None and connection is self.outbox.connection:
                self._read(connection)
        return connection

    def _watch(self) -> None:
        for descriptor in self._watched:
            try:
                self._poll.unregister(descriptor)
            except KeyError:
                pass  # this poll never had it
        self._watched = self._engine.watched
        for descriptor in self._watched:
            self._poll.register(descriptor, select.POLLIN)

    def _change_connection(self) -> Optional[Connection]:
        with self.outbox.lock:
            if self._mine is not None:
                self._mine.close()
            self._mine = connection = self.outbox.connection
        self._poll = select.poll()
        self._watched = ()
        self._poll.register(self._bell, select.POLLIN)
        if connection is not None:
            self._poll.register(connection, select.POLLIN)
        return connection

    def _read(self, connection: Connection) -> None:
        try:
            alive = connection.receive()
        except wire.TornFrame as error:
            self._lose(connection, str(error))
            return
        if not alive:
            self._lose(connection, "")

    def _lose(self, connection: Connection, trouble: str) -> None:
        if trouble:
            self.report("the command connection is torn: %s" % trouble)
        connection.bodies.clear()
        with self.outbox.lock:
            if self.outbox.connection is connection:
                self.outbox.detach()

    def _retire(self, connection: Connection) -> None:
        """A connection is spoken to no longer; the lock is held."""
        if connection is not self._mine:
            connection.close()

    def _run_deferred_signals(self) -> None:
        """The user's own handlers of signals that came at rest."""
        for call in border.take_deferred():
            try:
                border.run_user(call)
            except BaseException as error:  # user code may raise anything; it is told as late output
                self._engine.tell(error)
            self._end_child_if_forked(0)

    # ---- work ----

    def _work(self, connection: Connection, frame: wire.Frame) -> None:
        kind = frame.get("t")
        code = frame.get("code")
        if kind == "execute":
            execution_id = frame.get("id")
            if type(execution_id) is int and type(code) is str:
                self._execute(connection, execution_id, code)
            else:
                self.report("an execute frame without an id or code")
        elif kind in ("complete", "inspect", "is_complete") and type(code) is str:
            self._answer(connection, str(kind), frame, code)
        elif kind in ("save", "load"):
            self.saves.obey(frame)
            self._end_child_if_forked(0)
            self.helper.bell.ring()  # it hears the child out
        elif kind == "fork":
            self._fork(connection, frame)

    def _fork(self, connection: Connection, frame: wire.Frame) -> None:
        """Make a copy of this session, or say what stands in the way; the copy leaves here too."""
        is_only_asked = frame.get("check") is True
        if not is_only_asked:
            self.saves.settle()
        can_part = hasattr(self._engine, "part")
        others = self._engine.obstacles() if can_part else ["its engine"]  # type: ignore[attr-defined]
        body = self.twins.refusal(others, self.saves.children)
        if not body and not is_only_asked:
            self._engine.flush(self._own_descriptors())  # type: ignore[attr-defined]
            body = self.twins.fork(frame, lambda: self.outbox.connection is connection)
        with self.outbox.lock:
            if self.outbox.connection is connection:
                self.outbox.reply({"t": "reply", "req": frame.get("req"), "body": plain(body)})
            else:
                connection.bodies.clear()
        self.twins.reap()
        if self.outbox.backlog:
            self.helper.bell.ring()

    def _execute(self, connection: Connection, execution_id: int, code: str) -> None:
        outbox = self.outbox
        with outbox.lock:
            if outbox.connection is not connection or execution_id <= self.last_taken:
                return
            self.output.begin(execution_id)
            border.discard_interrupts()
            if self._interrupt_id == execution_id:
                border.pending.append(signal.SIGINT)
            self._interrupts_before = border.interrupts
            self.last_taken = self.running = execution_id
            self.count += 1
            outbox.busy = True
            outbox.emit("took", ',"id":%d,"at":%r' % (execution_id, time.time()))
            outbox.commit(hold=True)
        begun = time.perf_counter()
        try:
            outcome = self._engine.execute(execution_id, code)
        except Exception as error:  # a defect of the engine's must not cost the session
            self.report("the engine failed: %r" % error)
            outcome = Outcome("error", error=ErrorReport(type(error).__name__, "the engine failed: %s" % error, ""))
        duration_ms = (time.perf_counter() - begun) * 1000
        if self.forked:
            self._end_child_if_forked(outcome.exit_status)
        with outbox.lock:
            dropped = self.output.end()
            self.running = 0
            outbox.busy = False
            self._questions.end()
            border.discard_interrupts()
            outbox.emit("result", self._result(execution_id, outcome, duration_ms, dropped))
            unsent = outbox.commit()
        if unsent:
            self.helper.bell.ring()

    def _result(self, execution_id: int, outcome: Outcome, duration_ms: float, dropped: int) -> str:
        fields = ',"id":%d,"status":"%s","at":%r,"duration_ms":%r,"count":%d' % (
            execution_id,
            outcome.status,
            time.time(),
            round(duration_ms, 3),
            self.count,
        )
        if outcome.displayed:
            fields += ',"displayed":true'
        if outcome.error is not None:
            fields += ',"error":{"name":%s,"message":%s,"traceback":%s}' % (
                quote(plain(outcome.error.name)),
                quote(plain(outcome.error.message)),
                quote(plain(outcome.error.traceback)),
            )
        if outcome.lost is not None:
            fields += ',"lost":%s' % quote(plain(outcome.lost))
        if outcome.should_exit:
            fields += ',"should_exit":true'
        if dropped:
            fields += ',"dropped":%d' % dropped
        return fields

    def _answer(self, connection: Connection, kind: str, frame: wire.Frame, code: str) -> None:
        cursor = frame.get("cursor")
        if type(cursor) is not int or not 0 <= cursor <= len(code):
            cursor = len(code)
        border.discard_interrupts()
        try:
            if kind == "complete":
                body: wire.Frame = self._engine.complete(code, cursor)
            elif kind == "inspect":
                body = self._engine.inspect(code, cursor)
            else:
                body = self._engine.is_complete(code)
        except BaseException:  # user code (a __dir__, a __repr__) may raise anything: then nothing is known
            unknown: Dict[str, wire.Frame] = {
                "complete": {"matches": [], "start": cursor, "end": cursor},
                "inspect": {"found": False, "text": ""},
                "is_complete": {"status": "unknown", "indent": ""},
            }
            body = unknown[kind]
        self._end_child_if_forked(0)
        with self.outbox.lock:
            if self.outbox.connection is connection:
                self.outbox.reply({"t": "reply", "req": frame.get("req"), "body": plain(body)})
        if self.outbox.backlog:
            self.helper.bell.ring()

    # ---- what the helper tells; it holds no lock ----

    def introduce(self, hello: wire.Frame) -> wire.Frame:
        have = hello.get("have")
        have = have if type(have) is int else 0
        self.saves.terms = Terms.read(hello) or self.saves.terms
        with self.outbox.lock:
            self.outbox.detach()
            self.outbox.acknowledge(have)
            self._have = have
            log_from, log_to = self.outbox.log_range
            question = self._questions.open
            answer = {
                "t": "hello",
                "wire": wire.WIRE,
                "session": self.session,
                "pid": os.getpid(),
                "last_taken": self.last_taken,
                "running": self.running,
                "log_from": log_from,
                "log_to": log_to,
                "version": omega_sessiond.__version__,
                "engine_version": self._engine.version,
                "features": self._features(),
                "asks": 0 if question is None or question.answered else question.execution_id,
                "secret": question is not None and question.secret,
            }
        self._bell.ring()
        return answer

    def _features(self) -> List[str]:
        optional = (("save", self.saves.engine is not None), ("fork", hasattr(self._engine, "part")))
        return [*wire.FEATURES, *(name for name, can in optional if can)]

    def employ(self, connection: Connection) -> None:
        with self.outbox.lock:
            self.outbox.detach()
            self.outbox.attach(connection, self._have)
        self._bell.ring()

    def obey(self, frame: wire.Frame) -> None:
        kind = frame.get("t")
        number = frame.get("seq" if kind == "ack" else "id")
        if kind == "exit":
            self._leaving = str(frame.get("reason") or "asked to leave")
            self._goes_on = frame.get("goes_on") is True
            self._bell.ring()
        elif type(number) is not int:
            return
        elif kind == "ack":
            with self.outbox.lock:
                self.outbox.acknowledge(number)
        elif kind == "input":
            self._questions.answer(number, frame.get("text"))
            self._bell.ring()
        elif kind == "interrupt":
            self._interrupt(number)

    def _interrupt(self, execution_id: int) -> None:
        """SIGINT says nothing of its aim, and one that comes before its command is taken is lost. The daemon names
        the command behind the signal: not yet taken, it is interrupted when it is; running, unless a signal came."""
        with self.outbox.lock:
            if execution_id > self.last_taken:
                self._interrupt_id = execution_id
            elif execution_id == self.running and border.interrupts == self._interrupts_before:
                signal.pthread_kill(self._main_thread, signal.SIGINT)

    # ---- signals; in the handler, anywhere in the main thread ----

    def _signal_deferred(self) -> None:
        self._bell.ring()
        if self.running:
            self.helper.bell.ring()

    def _terminated(self) -> None:
        if self._leaving is None:
            self._leaving = "SIGTERM"
        self._bell.ring()

    # ---- forks ----

    def _before_fork(self) -> None:
        """Only one thread at a time forks, the helper is gone, and nothing is half said. Must not raise: the fork
        would happen all the same. A fork server's own forks are nobody's."""
        if not self._is_at_work:
            return
        self._fork_lock.acquire()
        # A SIGTERM to the newborn waits until it is deadly there: the host's own handler would swallow it.
        self._mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, (_signal.SIGTERM,))
        self._is_prepared = False
        try:
            if not self.forked:
                self.output.frame()
                self.helper.stop()
                self.outbox.lock.acquire()
                self._is_prepared = True
        except RecursionError:
            pass  # the child replaces the locks anyway

    def _after_fork_in_parent(self) -> None:
        if not self._is_at_work:
            return
        if self._is_prepared:
            self.outbox.lock.release()
        if self.twins.is_forking:
            self.twins.threads_left = count_threads()
        if sys.version_info >= (3, 13):
            _spare_false_warning()
        if not self.forked and not self.helper.start():
            self.report("no thread left for the helper: children's output and new daemons wait until there is one")
        mask = self._mask
        self._fork_lock.release()
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)

    def _after_fork_in_child(self) -> None:
        if not self._is_at_work:
            return
        self._fork_lock = allocate_lock()
        if self.twins.is_forking:
            self._close_held()
        elif not self.forked:
            self._become_child()
        _signal.pthread_sigmask(_signal.SIG_SETMASK, self._mask)

    def _become_child(self) -> None:
        """A child holds nothing of the host's: whoever connects must not find it in its place."""
        self.forked = True
        self._main_thread = get_ident()
        border.become_child()
        self._close_held()
        os.close(self._trouble)
        self._trouble = -1

    def _close_held(self) -> None:
        for holder in self._held():
            try:
                holder.close_in_child()
            except OSError:
                pass  # the user's code closed it before

    def tell(self, kind: str, fields: wire.Frame) -> None:
        """A numbered frame of no execution; from any thread."""
        with self.outbox.lock:
            self.outbox.emit(kind, "," + dumps(plain(fields))[1:-1])
            unsent = self.outbox.commit()
        if unsent:
            self.helper.bell.ring()

    def obstacles(self, engine: Sequence[int]) -> List[str]:
        """What this process has that neither a checkpoint nor a fork takes along; `engine` are its descriptors."""
        return obstacles.find(self.own_threads, lambda: self._own_descriptors().union(engine))

    def _own_descriptors(self) -> Set[int]:
        return {1, 2, self._trouble}.union(*(one.descriptors() for one in self._held()))

    def own_threads(self) -> Set[int]:
        return {self._main_thread, self.helper.ident}

    def _held(self) -> List[Any]:
        """What has descriptors of the host's own, but for the trouble log."""
        optional = {self._mine, self.outbox.connection, self.saves.writing}
        return [*self.helper.held(), self._bell, *(optional - {None}), self.output, self.outbox]

    def _end_child_if_forked(self, status: int) -> None:
        """A forked child that came back from user code is no host: it says what it has to say, and ends."""
        if not self.forked:
            return
        for flush in (sys.stdout.flush, sys.stderr.flush, self.output.flush):
            try:
                flush()
            except Exception:  # user's streams, or nobody reads any more: it ends all the same
                status = status or 1
        os._exit(status)


def _spare_false_warning() -> None:
    """Python 3.13 counts threads for its warning of forks only after the hooks, when the helper runs again: the
    warning is silenced exactly for forks of a process that has no threads of the user's."""
    import warnings

    text = "This process .* is multi-threaded, use of"
    try:
        is_alone = len(os.listdir("/proc/self/task")) == 1
    except OSError:
        return
    silenced = [one for one in warnings.filters if getattr(one[1], "pattern", "") == text]
    if is_alone:
        warnings.filterwarnings("ignore", text, DeprecationWarning)
    elif silenced and isinstance(warnings.filters, list):
        for one in silenced:
            warnings.filters.remove(one)
