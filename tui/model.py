"""What the dashboard knows of sessions: listings and events folded into one picture. Pure: no I/O, no clock.

Everything goes by session id. Who shows it takes, at each flush, the ids of what has changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from tui.tape import Tape

Json = dict[str, Any]

WATCHED = 8
"""Transcripts kept at a time: those looked at last. One takes some megabytes at most."""

SAMPLES = 120
"""Usage samples kept of a session, for the sparklines."""

EVENTS = 2_000
"""Events kept for the events screen."""


TIMELINE_KINDS = frozenset(
    ("execution_queued", "execution_started", "execution_finished", "history_pruned", "snapshot_taken",
     "snapshot_removed", "session_restored")
)  # fmt: skip
"""Events after which a timeline looks different."""


class Sample(NamedTuple):
    """What a session used at a time; `cpu` in cores since the sample before."""

    at: float
    memory_bytes: int | None
    cpu: float | None
    tasks: int | None


@dataclass(slots=True)
class Session:
    """One session. `version` rises with every change that its row may show."""

    id: str
    name: str
    engine: str = ""
    state: str = "starting"
    reason: str | None = None
    pid: int | None = None
    python: str | None = None
    cwd: str = ""
    created_at: float = 0.0
    used_at: float = 0.0
    count: int = 0
    queued: int = 0
    running_id: int | None = None
    running_since: float | None = None
    prompt: str | None = None
    is_secret: bool = True
    """Whether what is asked for is one; where that is not known, it is taken for one."""
    asked: int = 0
    """How many questions have been seen."""
    limits: Json = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    last_command: str | None = None
    checkpoint: Json | None = None
    parent: Json | None = None
    pruned: Json | None = None
    extra: Json = field(default_factory=dict)
    samples: deque[Sample] = field(default_factory=lambda: deque(maxlen=SAMPLES))
    cpu_s: float | None = None
    usage: Json | None = None
    version: int = 0
    snapshots_version: int = 0
    """Rises when there is another list of snapshots; `timeline_version` when its timeline has another node."""
    timeline_version: int = 0

    @property
    def memory_bytes(self) -> int | None:
        return self.samples[-1].memory_bytes if self.samples else None

    @property
    def cpu(self) -> float | None:
        return self.samples[-1].cpu if self.samples else None


class Totals:
    """What all sessions use together, sample by sample."""

    def __init__(self) -> None:
        self.samples: deque[Sample] = deque(maxlen=SAMPLES)
        self._cpu_s: float | None = None

    def take(self, found: Json) -> None:
        """A sample as GET /api/usage has it."""
        at, cpu_s = posix(found["sampled_at"]), found["cpu_s"]
        self.samples.append(Sample(at, found["memory_bytes"], self._rate(at, cpu_s), found["tasks"]))
        self._cpu_s = cpu_s

    def _rate(self, at: float, cpu_s: float | None) -> float | None:
        """Cores since the sample before; None where time seems to run backwards, as when a session has gone."""
        before = self.samples[-1] if self.samples else None
        if before is None or cpu_s is None or self._cpu_s is None or cpu_s < self._cpu_s or at <= before.at:
            return None
        return (cpu_s - self._cpu_s) / (at - before.at)

    def clear(self) -> None:
        self.samples.clear()
        self._cpu_s = None


class Counts(NamedTuple):
    """How many sessions there are in all, busy (or waiting for an answer) and dead."""

    sessions: int
    busy: int
    dead: int


class Model:
    """The picture. `replace` and `apply` change it; `take_changes` says what since the last time."""

    def __init__(self) -> None:
        self.sessions: dict[str, Session] = {}
        self.tapes: dict[str, Tape] = {}
        self.events: deque[Json] = deque(maxlen=EVENTS)
        self.totals = Totals()
        self.last_event_id: int | None = None
        self.last_data_at: float | None = None
        self.gaps = 0
        self.is_listed = False
        self._changed: set[str] = set()
        self._membership_changed = False

    # ---- what has changed ----

    def take_changes(self) -> tuple[set[str], bool]:
        """Ids of sessions that changed, and whether some came or went, since the last call."""
        changed, came_or_went = self._changed, self._membership_changed
        self._changed, self._membership_changed = set(), False
        return changed, came_or_went

    def _touch(self, session: Session) -> None:
        session.version += 1
        self._changed.add(session.id)

    # ---- questions ----

    def by_name(self, name: str) -> Session | None:
        return next((session for session in self.sessions.values() if session.name == name), None)

    def counts(self) -> Counts:
        busy = dead = 0
        for session in self.sessions.values():
            busy += session.state in ("busy", "waiting_input")
            dead += session.state == "dead"
        return Counts(len(self.sessions), busy, dead)

    # ---- listings ----

    def replace(self, listing: Iterable[Json]) -> None:
        """The sessions as GET /api/sessions has them: those that are not there are gone."""
        seen = set()
        for view in listing:
            seen.add(view["id"])
            self.update(view)
            _reread(self.sessions[view["id"]])
        for id in [id for id in self.sessions if id not in seen]:
            self._remove(id)
        self.is_listed = True
        self._membership_changed = True

    def update(self, view: Json) -> None:
        """One session as the API has it."""
        session = self.sessions.get(view["id"])
        if session is None:
            session = self.sessions[view["id"]] = Session(view["id"], view["name"])
            self._membership_changed = True
        session.name, session.engine = view["name"], view["engine"]
        session.state, session.reason, session.pid = view["state"], view["state_reason"], view["pid"]
        session.python, session.cwd = view["python"], view["cwd"]
        session.created_at, session.used_at = posix(view["created_at"]), posix(view["last_used_at"])
        session.count, session.queued = view["execution_count"], view["queue_length"]
        if session.running_id != view["running_execution_id"]:
            session.running_id = view["running_execution_id"]
            session.running_since = None if session.running_id is None else session.used_at
        if session.state != "waiting_input":
            session.prompt = None
        session.limits, session.labels = view["limits"], view["labels"]
        session.checkpoint, session.parent = view.get("checkpoint"), view.get("parent")
        session.pruned = view.get("pruned")
        session.extra = {name: value for name, value in view.items() if name not in _KNOWN}
        if view["usage"] is not None:
            self._sample(session, view["usage"])
        self._touch(session)

    def refine(self, view: Json, version: int) -> None:
        """A session read at rest, beside the feed, when it had that version: where events have come since, only what
        it uses is news."""
        session = self.sessions.get(view["id"])
        if session is None:
            return
        if session.version == version:
            self.update(view)
        elif view["usage"] is not None:
            self._sample(session, view["usage"])
            self._touch(session)

    def _sample(self, session: Session, usage: Json) -> None:
        at, cpu_s = posix(usage["sampled_at"]), usage["cpu_s"]
        before = session.samples[-1] if session.samples else None
        if before is not None and at <= before.at:
            return
        cpu = None
        if before is not None and cpu_s is not None and session.cpu_s is not None and cpu_s >= session.cpu_s:
            cpu = (cpu_s - session.cpu_s) / (at - before.at)
        session.cpu_s, session.usage = cpu_s, usage
        session.samples.append(Sample(at, usage["memory_bytes"], cpu, usage["tasks"]))

    def set_last_command(self, id: str, command: str) -> None:
        session = self.sessions.get(id)
        if session is not None and session.last_command is None:
            session.last_command = command
            self._touch(session)

    # ---- transcripts ----

    def watch(self, id: str) -> Tape:
        """The transcript of a session, kept from now on; an empty one that waits to be loaded when it is new."""
        tape = self.tapes.pop(id, None)
        if tape is None:
            tape = Tape()
            for stale in list(self.tapes)[: max(len(self.tapes) - WATCHED + 1, 0)]:
                del self.tapes[stale]
        self.tapes[id] = tape
        return tape

    # ---- events ----

    def apply(self, event: Json) -> None:
        """The next event of the feed."""
        self.last_event_id = event["id"]
        kind = event["kind"]
        if kind == "gap":
            self.gaps += 1
            for tape in self.tapes.values():
                tape.gap()
            self.events.append(event)
            return
        if kind != "output":
            self.events.append(event)
        id = event["session_id"]
        if kind == "session_deleted":
            self._remove(id)
            for other in self.sessions.values():
                other.timeline_version += 1  # it may have been a copy of this one
            return
        session = self.sessions.get(id)
        if session is None:
            session = self.sessions[id] = Session(id, event["session"], created_at=posix(event["at"]))
            self._membership_changed = True
        followed = self.tapes.get(id)
        if followed is not None:
            followed.apply(event, session.count)
        if kind != "output":
            self._fold(session, event)
            self._touch(session)
        elif followed is not None:
            self._changed.add(id)

    def _fold(self, session: Session, event: Json) -> None:
        at = posix(event["at"])
        if event["kind"] in TIMELINE_KINDS:
            session.timeline_version += 1
        match event["kind"]:
            case "snapshot_taken" | "snapshot_removed":
                session.snapshots_version += 1
            case "session_created":
                parent = event.get("parent")
                if parent is not None and (source := self.sessions.get(parent["session_id"])) is not None:
                    source.timeline_version += 1
                    self._touch(source)
                session.engine, session.labels = event["engine"], event["labels"]
                session.parent = event.get("parent")
                session.created_at = session.used_at = at
            case "session_changed":
                session.state, session.reason, session.pid = event["state"], event["state_reason"], event["pid"]
                session.limits, session.labels = event["limits"], event["labels"]
                if session.state in ("idle", "dead", "hibernated"):
                    session.running_id = session.running_since = session.prompt = None
                if session.pid is None:
                    session.samples.clear()
                    session.usage = session.cpu_s = None
            case "execution_queued":
                session.queued += 1
                session.used_at = at
                session.last_command = event["command"]
            case "execution_started":
                session.queued = max(session.queued - 1, 0)
                session.state, session.reason = "busy", None
                session.running_id, session.running_since = event["execution_id"], at
            case "input_requested":
                session.state = "waiting_input"
                session.prompt, session.is_secret = event["prompt"], event["secret"]
                session.asked += 1
            case "input_answered":
                session.state, session.prompt, session.is_secret = "busy", None, True
            case "execution_finished":
                if event["execution_count"] is not None:
                    session.count = event["execution_count"]
                session.used_at = at
                if session.running_id in (None, event["execution_id"]):
                    session.running_id = session.running_since = session.prompt = None
                    if session.state in ("busy", "waiting_input"):
                        session.state = "idle"
                else:
                    session.queued = max(session.queued - 1, 0)

    def _remove(self, id: str) -> None:
        self.sessions.pop(id, None)
        self.tapes.pop(id, None)
        self._changed.add(id)
        self._membership_changed = True


def _reread(session: Session) -> None:
    """What has happened to it meanwhile nobody knows."""
    session.snapshots_version += 1
    session.timeline_version += 1


_KNOWN = frozenset(
    ("id", "name", "engine", "state", "state_reason", "pid", "python", "cwd", "created_at", "last_used_at",
     "execution_count", "queue_length", "running_execution_id", "limits", "usage", "labels",
     "checkpoint", "parent", "pruned")
)  # fmt: skip


def posix(at: str) -> float:
    """A time of the API as seconds."""
    return datetime.fromisoformat(at).timestamp()
