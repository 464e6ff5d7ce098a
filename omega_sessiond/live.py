"""One session at run time: its record, its decisions, its host, and the work it has not finished.

Data and nothing else; the service is what moves it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct, field

from omega_sessiond.errors import JournalError, OmegaError
from omega_sessiond.frames import OutputFrame
from omega_sessiond.host import Host, Launch
from omega_sessiond.journal import Piece
from omega_sessiond.records import ExecutionRecord, SessionRecord
from omega_sessiond.session import Session
from omega_sessiond.shelf import CheckpointRecord

KEPT_IN_MEMORY = 256 * 1024
"""Characters of a running execution's output that are kept at hand, so that most replies read nothing back. One
reply's worth for most commands; more would be memory for every running session."""


class Work(Struct, eq=False):
    """One unfinished execution. `pieces` is its output so far, None once that is only in the journal; `has_data`:
    rich parts of it may stand there, too."""

    record: ExecutionRecord
    pieces: list[Piece] | None = []
    size: int = 0
    has_data: bool = False
    timeout: asyncio.TimerHandle | None = None
    interrupt_reason: str | None = None
    secret: bool = False
    waiters: list[Callable[[], None]] = []

    def keep(self, frame: OutputFrame) -> None:
        """Remember a piece of output, as long as it is little."""
        if self.pieces is None:
            return
        self.size += len(frame.text)
        if self.size > KEPT_IN_MEMORY:
            self.pieces = None
        else:
            self.pieces.append((frame.s, frame.off, frame.text))

    def disarm(self) -> None:
        """Stop the clock of its time-out."""
        if self.timeout is not None:
            self.timeout.cancel()
            self.timeout = None

    def release(self) -> None:
        """Tell everyone who waits to look."""
        waiters, self.waiters = self.waiters, []
        for tell in waiters:
            tell()


class Awaited:
    """One wait for the end of an execution, of `wait_s` at most (None: however long it takes)."""

    __slots__ = ("_tell", "_timer", "_wait_s", "_work")

    def __init__(self, work: Work, wait_s: float | None) -> None:
        self._work = work
        self._wait_s = wait_s
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, tell: Callable[[], None]) -> None:
        """Have `tell` called once when the wait is over, in the very turn of the loop in which the end is committed:
        going through a future and a task would cost two more turns. It must neither raise nor take long."""
        self._tell = tell
        self._work.waiters.append(self._ended)
        if self._wait_s is not None:
            self._timer = asyncio.get_running_loop().call_later(self._wait_s, self._expired)

    def _ended(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._tell()

    def _expired(self) -> None:
        self._work.waiters.remove(self._ended)
        self._tell()

    def stop(self) -> None:
        """Wait no longer: `tell` is not called any more."""
        if self._timer is not None:
            self._timer.cancel()
        if self._ended in self._work.waiters:
            self._work.waiters.remove(self._ended)


class Saving(Struct, eq=False):
    """A save under way; `done` carries why it came to nothing, None when it did not."""

    id: str
    done: asyncio.Future[str | None]


class Live(Struct, eq=False):
    """One session. `taken` is the last execution its present host is known to have begun, `note` what is unusual about
    it now, `end_reason` why we end its host, `settled` set whenever a start, adoption or burial is done or the journal
    refused to have it (`refusal`, until it is tried again). `is_starting` and `is_burying` while that goes on,
    `is_stale` while the session is to be taken up again from the journal."""

    record: SessionRecord
    session: Session
    host: Host | None = None
    launch: Launch | None = None
    """How it is started, until it is, when that is at hand."""
    born: Host | None = None
    """The process that is to be its host, when that was begotten before it was recorded."""
    work: dict[int, Work] = {}
    taken: int = 0
    note: str | None = None
    acknowledged: int = 0
    ack_timer: asyncio.TimerHandle | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)
    origin: Live | None = None
    """The session that this one's process is to be forked from; None: it is made anew."""
    start_failure: str | None = None
    start_error: OmegaError | None = None
    refusal: JournalError | None = None
    is_starting: bool = False
    is_burying: bool = False
    is_stale: bool = False
    reconnecting: asyncio.Task[None] | None = None
    """Who speaks to its host, which an earlier daemon has started or which is out of reach."""
    connected_at: float = 0.0
    pause_s: float = 0.0
    """How long to wait before the host is connected to again, since connections to it break at once."""
    end_reason: str | None = None
    death_code: str = "host_died"
    late_bytes: int = 0
    """Output of no execution since the last one ended."""
    is_deleted: bool = False
    is_arriving: bool = False
    """It is being imported."""
    checkpoint: CheckpointRecord | None = None
    """What `record.keep` names, once it has been looked up."""
    saving: Saving | None = None
    save_timer: asyncio.TimerHandle | None = None
    loading: asyncio.Future[None] | None = None
    load_begun: asyncio.Event = field(default_factory=asyncio.Event)
    """Set as long as its process takes up a checkpoint: it can be ended, though its start is not done."""
    told_to_load: str | None = None
    """The checkpoint that we have told its present process to take up."""
    is_overdue: bool = False
    """That process has been ended, for it did not come to an end with it."""
    rested_at: float = 0.0
    next_save_at: float = 0.0
    tried_of: int = -1
    """The last command before the last attempt to save: one that failed is not repeated before something changes."""
    sleep_reason: str | None = None
