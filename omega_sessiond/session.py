"""What a session decides: events in, effects out. No I/O, no clock, no ids of its own making.

A session runs one execution at a time, in order of arrival, in the host it has. Executions are known here by id alone;
their ids rise. The caller commits what an event reports before it hands the event in, and performs the effects in
order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Literal, assert_never

from msgspec import Struct

from omega_sessiond.messages import SessionState

Link = Literal["absent", "starting", "reconnecting", "up"]
"""The way to the host: none exists; it is being born; it exists and cannot be spoken to just now; it listens."""

# ---- events ----


class Submitted(Struct, frozen=True):
    """Execution `id` stands in the journal."""

    id: int


class StartAsked(Struct, frozen=True):
    """The session shall have a host, work or not."""


class HostStarted(Struct, frozen=True):
    """A new host listens; it has taken nothing yet."""


class StartFailed(Struct, frozen=True):
    """No host could be made."""


class HostAdopted(Struct, frozen=True):
    """A host that was there before speaks again; every id up to `last_taken` was begun by it."""

    last_taken: int
    waiting: bool = False


class HostUnreachable(Struct, frozen=True):
    """The connection is gone; whether the host is, nobody knows yet."""


class HostDied(Struct, frozen=True):
    """The host is known to be dead; what it left behind is yet to be read. What comes from now on is for the next."""


class HostGone(Struct, frozen=True):
    """The host is dead, and all it left behind has been read. It had begun every id up to `last_taken`; `is_saved`:
    its whole state is in a checkpoint, and what it had not begun is for the next host, which has that state.
    `was_loading`: the state that it was to take up has ended it. It had begun nothing, and the next host, which gets no
    state, is wanted as it was."""

    last_taken: int
    is_saved: bool = False
    was_loading: bool = False


class InputAsked(Struct, frozen=True):
    id: int


class InputGiven(Struct, frozen=True):
    id: int


class Ended(Struct, frozen=True):
    """The result of execution `id` stands in the journal."""

    id: int


class Withdrawn(Struct, frozen=True):
    """A queued execution is taken back."""

    id: int
    reason: Literal["user", "disconnect"]


class HibernateAsked(Struct, frozen=True):
    """All of the state is saved: the host shall end until it is needed, unless it is needed now."""


class EndAsked(Struct, frozen=True):
    """The host shall end (kill, restart, delete). What is queued was meant for the state that goes with it."""

    reason: str
    successor: bool = False


Event = (
    Submitted
    | StartAsked
    | HostStarted
    | StartFailed
    | HostAdopted
    | HostUnreachable
    | HostDied
    | HostGone
    | InputAsked
    | InputGiven
    | Ended
    | Withdrawn
    | HibernateAsked
    | EndAsked
)

# ---- effects ----


class StartHost(Struct, frozen=True):
    """Make a host; report HostStarted or StartFailed."""


class Begin(Struct, frozen=True):
    """Send execution `id` to the host."""

    id: int


class Watch(Struct, frozen=True):
    """Execution `id` is running in an adopted host: arm what bounds it again."""

    id: int


class Cancel(Struct, frozen=True):
    """These executions were never begun and never will be."""

    ids: tuple[int, ...]
    reason: str


class Died(Struct, frozen=True):
    """Execution `id` was begun and its result is lost."""

    id: int


class Hibernate(Struct, frozen=True):
    """Have the host end; what comes meanwhile is for its successor."""


Effect = StartHost | Begin | Watch | Cancel | Died | Hibernate


class Session:
    """The state of one session. Built from what the journal knows: its unfinished executions, oldest first, and which
    of them is `running`, as far as that was journalled: its host may have begun it."""

    def __init__(
        self,
        unfinished: Iterable[int] = (),
        *,
        link: Link = "absent",
        running: int | None = None,
        is_asleep: bool = False,
    ) -> None:
        self.link: Link = link
        self.is_asleep = is_asleep
        self.queue: deque[int] = deque(id for id in unfinished if id != running)
        self.running = running
        self.waiting = False
        self.ending = False
        self._successor = False
        self._last_meant: int | None = None  # once the host is known to be dead: the last id that was meant for it

    @property
    def state(self) -> SessionState:
        if self.link == "absent":
            return "hibernated" if self.is_asleep else "dead"
        if self.link != "up":
            return self.link
        if self.running is None:
            return "idle"
        return "waiting_input" if self.waiting else "busy"

    @property
    def is_ready(self) -> bool:
        """Whether a command submitted now begins now."""
        return self.link == "up" and self.running is None and not self.queue and not self.ending

    @property
    def is_at_rest(self) -> bool:
        """Whether the engine can answer questions about its state."""
        return self.link == "up" and self.running is None and not self.ending

    def handle(self, event: Event) -> list[Effect]:
        """Take one event; what to do now, in order."""
        match event:
            case Submitted(id):
                self.queue.append(id)
                return self._advance()
            case Ended(id):
                if self.running == id:
                    self.running, self.waiting = None, False
                elif id in self.queue:  # a result that was replayed before we learnt that the host had begun it
                    self.queue.remove(id)
                return self._advance()
            case StartAsked():
                return self._start()
            case HostStarted():
                self.link, self.is_asleep = "up", False
                return self._advance()
            case StartFailed():
                if self.ending:
                    return self._gone(0)
                self.link = "absent"
                return self._cancel_all("host_failed")
            case HostAdopted(last_taken, waiting):
                return self._adopt(last_taken, waiting)
            case HostUnreachable():
                if self.link == "up":
                    self.link = "reconnecting"
                return []
            case HostDied():
                if self.link == "up":
                    self.link = "reconnecting"
                if self._last_meant is None:
                    self._last_meant = max([*self.queue, self.running or 0])
                return []
            case HostGone(last_taken, is_saved, was_loading):
                self.is_asleep = is_saved
                if self.ending or not (is_saved or was_loading):
                    return self._gone(last_taken)
                return self._goes_on(is_wanted=was_loading)
            case InputAsked(id):
                self.waiting = self.running == id
                return []
            case InputGiven(id):
                if self.running == id:
                    self.waiting = False
                return []
            case Withdrawn(id, reason):
                if id not in self.queue:
                    return []
                self.queue.remove(id)
                return [Cancel((id,), reason)]
            case HibernateAsked():
                if not self.is_ready:
                    return []
                self.ending = True
                return [Hibernate()]
            case EndAsked(reason, successor):
                return self._end(reason, successor)
            case _:
                assert_never(event)

    def _advance(self) -> list[Effect]:
        if not self.queue or self.ending:
            return []
        if self.link == "up" and self.running is None:
            self.running = self.queue.popleft()
            return [Begin(self.running)]
        return self._start()

    def _start(self) -> list[Effect]:
        if self.link != "absent":
            return []
        self.link = "starting"
        return [StartHost()]

    def _adopt(self, last_taken: int, waiting: bool) -> list[Effect]:
        """Part what is unfinished into what the host has begun (at most one can still be running) and what it has
        not: that is sent, again or for the first time, in order."""
        unfinished = ([] if self.running is None else [self.running]) + list(self.queue)
        begun = [id for id in unfinished if id <= last_taken]
        self.queue = deque(id for id in unfinished if id > last_taken)
        self.running = begun.pop() if begun else None
        self.waiting = waiting and self.running is not None
        self.link = "up"
        effects: list[Effect] = [Died(id) for id in begun]
        if self.running is not None:
            effects.append(Watch(self.running))
        return effects + self._advance()

    def _goes_on(self, *, is_wanted: bool) -> list[Effect]:
        """The host has left at rest: it cannot have begun anything that has no result. `is_wanted`: another shall
        take its place, work or not."""
        if self.running is not None:
            self.queue.appendleft(self.running)
        self.link, self.running, self.waiting, self._last_meant = "absent", None, False, None
        return self._start() if self.queue or is_wanted else []

    def _gone(self, last_taken: int) -> list[Effect]:
        effects: list[Effect] = []
        if self.running is not None:
            begun = self.running <= last_taken
            effects.append(Died(self.running) if begun else Cancel((self.running,), "host_died"))
        ended, successor, last_meant = self.ending, self._successor, self._last_meant
        self._last_meant = None
        self.link, self.running, self.waiting = "absent", None, False
        self.ending = self._successor = False
        if ended:  # what is queued now was submitted after the end was asked for: it is meant for the successor
            return effects + (self._start() if successor or self.queue else [])
        died = [id for id in self.queue if id <= last_taken]
        waiting = [id for id in self.queue if id > last_taken]
        later = [] if last_meant is None else [id for id in waiting if id > last_meant]
        self.queue = deque(id for id in waiting if id not in later)
        effects += [Died(id) for id in died] + self._cancel_all("host_died")
        self.queue.extend(later)
        return effects + (self._start() if later else [])

    def _end(self, reason: str, successor: bool) -> list[Effect]:
        effects = self._cancel_all(reason)
        self._successor = successor
        if self.link == "absent":
            self._successor = False
            return effects + (self._start() if successor else [])
        self.ending = True
        return effects

    def _cancel_all(self, reason: str) -> list[Effect]:
        if not self.queue:
            return []
        ids = tuple(self.queue)
        self.queue.clear()
        return [Cancel(ids, reason)]
