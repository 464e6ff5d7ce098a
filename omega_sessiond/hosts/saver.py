"""Saves the session: has a forked child write a checkpoint while the session goes on, and hears how it went.

The main thread begins a save, at rest; the helper thread hears the child out, ends one that takes too long, and reaps
it. A child of a process with threads may wait for ever for a lock that no thread of its own holds: then its time runs
out, and that is told as the reason. Knows processes; what is saved is the engine's business.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import gc
import os
import resource
import select
import signal
import sys
import time
from _thread import allocate_lock
from json import dumps, loads
from typing import List, Optional, Protocol, Sequence, Set, Tuple

from omega_sessiond.hosts import checkpoint
from omega_sessiond.hosts.engine import CannotLoad, CannotSave, Engine, Saver
from omega_sessiond.wire import Frame

OOM_SCORE_ADJ = b"1000"
"""The kernel ends the child before anything of the user's."""

NICENESS = 10

LEAVE_S = 8.0
"""Time for an idle host that is told to end to save itself. systemd gives its scope the setting stop_budget_s, 10
seconds by default."""

_DEADLY = (signal.SIGINT, signal.SIGTERM)


class Terms:
    """What the daemon lends and allows: the directory of cloudpickle, and bounds of time and size."""

    __slots__ = ("budget_s", "lent", "max_bytes")

    def __init__(self, lent: str, budget_s: float, max_bytes: int) -> None:
        self.lent = lent
        self.budget_s = budget_s
        self.max_bytes = max_bytes

    @classmethod
    def read(cls, frame: Frame) -> Optional[Terms]:
        lent, budget_s, max_bytes = frame.get("lent"), frame.get("budget_s"), frame.get("max_bytes")
        if type(lent) is not str or type(budget_s) not in (int, float) or type(max_bytes) is not int:
            return None
        return cls(lent, budget_s, max_bytes)  # type: ignore[arg-type]


class Writing:
    """A child at work. `end` is called once."""

    def __init__(self, id: str, pid: int, pipe: int, deadline: float) -> None:
        self.id = id
        self.pid = pid
        self.pipe = pipe
        self.deadline = deadline
        self.begun = time.monotonic()
        self._data = bytearray()

    def fileno(self) -> int:
        return self.pipe

    def hear(self) -> bool:
        """Read what the child says; True when it has said everything, or its time is over."""
        try:
            data = os.read(self.pipe, 65536)
        except BlockingIOError:
            return time.monotonic() >= self.deadline
        except OSError:
            return True  # the user's code closed it
        self._data += data
        return not data

    def end(self) -> Frame:
        """What came of it, with the child reaped."""
        expired = time.monotonic() >= self.deadline
        try:
            if os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                if expired:
                    os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
        except ChildProcessError:
            pass  # the user's code waits for any child and has met this one
        os.close(self.pipe)
        try:
            found: Frame = loads(self._data.decode("utf-8"))
        except ValueError:
            found = {"reason": "it took too long" if expired else "the process that wrote it was ended"}
        found["duration_ms"] = round((time.monotonic() - self.begun) * 1000, 3)
        return found

    def descriptors(self) -> List[int]:
        return [self.pipe]

    def close_in_child(self) -> None:
        os.close(self.pipe)


class Desk(Protocol):
    """What saving needs of the host."""

    session: str
    last_taken: int
    count: int

    def tell(self, kind: str, fields: Frame) -> None:
        """Say a numbered frame, from any thread."""

    def obstacles(self, engine: Sequence[int]) -> List[str]:
        """What no checkpoint of this process takes along, but for these descriptors of the engine's."""

    def report(self, text: str) -> None:
        """Trouble of the host's own."""


class Saves:
    """The saves of one host, one at a time. `writing` is the one under way, `engine` None when it cannot be saved."""

    def __init__(self, host: Desk, state_of: int = 0) -> None:
        self.directory = ""
        self.engine: Optional[Saver] = None
        self.terms: Optional[Terms] = None
        self.writing: Optional[Writing] = None
        self.is_awaited = False
        """Whether the main thread hears the child out, and not the helper."""
        self.loaded = ""
        """The checkpoint that this process has taken up, or has tried to."""
        self._host = host
        self._hearing = allocate_lock()
        self._state_of = state_of  # the execution whose end this process began with: of a checkpoint, of a fork
        self._whole_of = -1  # the last execution that a complete checkpoint holds, in this process

    def attach(self, engine: Engine) -> None:
        """The engine of this host."""
        self.engine = engine if hasattr(engine, "save") else None  # type: ignore[assignment]

    def obey(self, frame: Frame) -> None:
        """A `save` or `load`; in the main thread, at rest."""
        id = frame.get("id")
        if not checkpoint.is_id(id):
            return
        assert isinstance(id, str)
        if frame.get("t") == "save":
            self._save(id)
        elif self.loaded != id:  # a daemon that did not hear of it asks again
            self._load(id, str(frame.get("sha256")))

    def _save(self, id: str) -> None:
        engine = self.engine
        if engine is None:
            outcome: Frame = {"id": id, "reason": "its engine cannot be saved"}
        elif self.writing is not None:
            outcome = {"id": id, "reason": "another save is under way"}
        else:
            outcome = self._begin(id, engine)
        if outcome:
            self._tell_saved(outcome)

    def hear(self, writing: Writing) -> None:
        """Something has come from the child, or its time is over: for the helper."""
        with self._hearing:
            if self.writing is writing and not self.is_awaited and writing.hear():
                self._tell_saved(self._ended())

    def _tell_saved(self, fields: Frame) -> None:
        if not (fields.get("reason") or fields["left_out"] or fields["obstacles"]):
            self._whole_of = fields["execution_id"]
        self._host.tell("saved", fields)

    def _load(self, id: str, sha256: str) -> None:
        if self.engine is None or self._host.last_taken or self.loaded:
            outcome: Frame = {"id": id, "reason": "its process has a state of its own already", "lost": {}}
        else:
            outcome = self._take_up(id, sha256, self.engine)
        self._state_of = outcome.pop("execution_id", 0)
        self._host.count = outcome.pop("count", self._host.count)
        self._host.tell("loaded", outcome)

    @property
    def last(self) -> int:
        """The execution after which the state is as it is now."""
        return self._host.last_taken or self._state_of

    @property
    def children(self) -> Set[int]:
        """The child that writes, while one does."""
        writing = self.writing
        return set() if writing is None else {writing.pid}

    def settle(self) -> None:
        """Hear a save out that is under way."""
        if self.writing is not None:
            self._finish()
            self.is_awaited = False

    def save_before_leaving(self) -> bool:
        """Save an idle session whose process is told to end; whether all of it is saved."""
        self.settle()
        if self.terms is None or self.engine is None or not self.last:
            return False
        if self._whole_of != self.last:
            self.terms.budget_s = min(self.terms.budget_s, LEAVE_S)
            self.is_awaited = True
            self._save(os.urandom(6).hex())
            if self.writing is not None:
                self._finish()
        return self._whole_of == self.last

    def _begin(self, id: str, engine: Saver) -> Frame:
        """What came of it when that is known already; empty while a child writes."""
        terms = self.terms
        if terms is None:
            return {"id": id, "reason": "no daemon has said how"}
        found = engine.obstacles()
        if engine.saves_in_child:
            found = [*self._host.obstacles(engine.descriptors()), *found]
        about = {
            "session": self._host.session,
            "execution_id": self.last,
            "execution_count": self._host.count,
            "obstacles": found,
        }
        if not engine.saves_in_child:
            return self._write(id, engine, about, terms)
        try:
            out, into = os.pipe()
        except OSError as error:
            return {"id": id, "reason": "no pipe to the process that would write it: %s" % error.strerror}
        mask = _signal.pthread_sigmask(_signal.SIG_BLOCK, _DEADLY)
        pid, reason = _fork()
        if pid == 0:
            self._be_child(id, engine, about, terms, into, mask)
        _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
        os.close(into)
        if pid < 0:
            os.close(out)
            return {"id": id, "reason": "no process to write it: %s" % reason}
        os.set_blocking(out, False)
        self.writing = Writing(id, pid, out, time.monotonic() + terms.budget_s)
        return {}

    def _finish(self) -> None:
        """Hear the child out in the main thread."""
        with self._hearing:
            writing = self.writing
            self.is_awaited = True
        if writing is None:
            return  # the helper was faster
        poll = select.poll()
        poll.register(writing, select.POLLIN)
        while not writing.hear():
            poll.poll(max(0.0, writing.deadline - time.monotonic()) * 1000 + 1)
        self._tell_saved(self._ended())

    def _ended(self) -> Frame:
        """The child at work has said everything: what came of it, as a frame's fields."""
        writing, self.writing = self.writing, None
        assert writing is not None
        found = writing.end()
        if found.get("reason"):
            checkpoint.remove(self.directory, writing.id)
        return {"id": writing.id, **found}

    def _be_child(
        self,
        id: str,
        engine: Saver,
        about: Frame,
        terms: Terms,
        into: int,
        mask: Set[int],
    ) -> None:
        """Nothing of the user's may run here but what pickling calls: no finalizers, no exit functions."""
        try:
            gc.disable()
            # The session's interrupts reach its whole process group; the save goes on. So does the last one, when the
            # process is told to end: systemd signals again what was forked while it went through the scope's processes.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN if self.is_awaited else signal.SIG_DFL)
            _signal.pthread_sigmask(_signal.SIG_SETMASK, mask)
            _be_expendable()
            _bound_files(terms.max_bytes)
            text = dumps(self._write(id, engine, about, terms))
            data = text.encode("ascii")
            while data:
                data = data[os.write(into, data) :]
        except BaseException as error:  # the outermost edge of this process
            self._host.report("a save failed: %r" % error)
        finally:
            os._exit(0)

    def _write(self, id: str, engine: Saver, about: Frame, terms: Terms) -> Frame:
        begun = time.monotonic()
        try:
            header = checkpoint.write(self.directory, id, engine, about, terms.lent, terms.budget_s)
        except CannotSave as error:
            return {"id": id, "reason": str(error)}
        except MemoryError:
            return {"id": id, "reason": "there is not enough memory for it"}
        return {
            "id": id,
            "reason": None,
            "at": header["at"],
            "execution_id": header["execution_id"],
            "size": header["size"],
            "sha256": header["sha256"],
            "variables": len(header["variables"]),
            "left_out": checkpoint.bounded(header["left_out"]),
            "obstacles": header["obstacles"][:20],
            "duration_ms": round((time.monotonic() - begun) * 1000, 3),
        }

    def _take_up(self, id: str, sha256: str, engine: Saver) -> Frame:
        """Take up a checkpoint; the frame that tells of it."""
        self.loaded = id
        if self.terms is None:
            return {"id": id, "reason": "no daemon has said how", "lost": {}}
        try:
            header, lost = checkpoint.load(self.directory, id, sha256, engine, self.terms.lent)
        except CannotLoad as error:
            return {"id": id, "reason": str(error), "lost": {}}
        except KeyboardInterrupt:
            return {"id": id, "reason": "it was interrupted", "lost": {}}
        return {
            "id": id,
            "reason": None,
            "lost": checkpoint.bounded(lost),
            "execution_id": header["execution_id"],
            "count": header["execution_count"],
        }


def _fork() -> Tuple[int, str]:
    """As os.fork, without Python's warning of threads: what such a child cannot do is bounded in time and told. -1 and
    the reason when there can be no child."""
    try:
        if sys.version_info < (3, 12):
            return os.fork(), ""
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            return os.fork(), ""
    except OSError as error:
        return -1, error.strerror or str(error)


def _bound_files(most: int) -> None:
    """No file larger than this, or than the user's own limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _be_expendable() -> None:
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(OOM_SCORE_ADJ)
    except OSError:
        pass  # no Linux, or not allowed: it is as any process
    try:
        os.nice(NICENESS)
    except OSError:
        pass
