"""What clients and the daemon say to each other: the API's requests and replies, and the events.

Data only: no behaviour beyond construction. Times are ISO 8601 UTC strings (`…_at`), durations carry their unit. The
field order is the order of the JSON. docs/API.md and docs/openapi.yaml describe the same shapes for readers.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from time import time
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,57}\Z"
"""A session's name: safe in a URL, a unit name and a file name as it stands."""

SessionState = Literal["starting", "reconnecting", "idle", "busy", "waiting_input", "hibernated", "dead"]
ExecutionStatus = Literal["queued", "running", "waiting_input", "ok", "error", "interrupted", "died", "cancelled"]
UNFINISHED: frozenset[str] = frozenset(("queued", "running", "waiting_input"))
"""The statuses an execution leaves again."""

Stream = Literal["stdout", "stderr", "result", "traceback"]
"""Where a piece of the combined output came from: the program's own two streams, the displayed value, the report of
an uncaught exception."""


PartRole = Literal["display", "result"]
"""Why there is a part: the command showed it on its way, or its value is that."""


def now() -> str:
    """The present as the API writes times: ISO 8601, UTC, microseconds, `Z`."""
    return iso(time())


def timestamp(at: str) -> float:
    """The POSIX timestamp of a time as the API writes it."""
    return datetime.fromisoformat(at).timestamp()


def iso(seconds: float) -> str:
    """A POSIX timestamp as the API writes times."""
    second, microsecond = divmod(round(seconds * 1_000_000), 1_000_000)
    return f"{_second(second)}.{microsecond:06d}Z"


@lru_cache(maxsize=8)
def _second(timestamp: int) -> str:
    """Kept for the times that follow: it is most of the work, and three are written for each execute."""
    return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%dT%H:%M:%S")


# ---- the two nouns of the API ----


MemoryBytes = Annotated[int, Meta(ge=16 * 1024 * 1024, le=2**62)]
Tasks = Annotated[int, Meta(ge=8, le=2**31)]
CpuWeight = Annotated[int, Meta(ge=1, le=10_000)]


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """What a session may use; None is no limit of ours."""

    memory_bytes: MemoryBytes | None = None
    tasks: Tasks | None = None
    cpu_weight: CpuWeight | None = None


class Usage(Struct, frozen=True):
    """What a session uses, sampled when somebody asks. None where this machine cannot tell."""

    source: Literal["cgroup", "proc"]
    sampled_at: str
    memory_bytes: int | None = None
    memory_peak_bytes: int | None = None
    tasks: int | None = None
    cpu_s: float | None = None


class Totals(Struct, frozen=True):
    """What all sessions with a process use together, `sessions` of them, sampled when somebody asks: of the slice that
    their scopes stand in, or of their processes (shared memory counts in each). None where this machine cannot tell."""

    source: Literal["cgroup", "proc"]
    sampled_at: str
    sessions: int
    memory_bytes: int | None = None
    tasks: int | None = None
    cpu_s: float | None = None


class Pruned(Struct, frozen=True):
    """What has gone of a session's history to keep it within its limits: executions, and outputs of others, none newer
    than `up_to_id`; when last."""

    executions: int
    outputs: int
    bytes: int
    up_to_id: int
    at: str


class Checkpoint(Struct, frozen=True):
    """What of a session is saved: with `id` None nothing is. `is_current`: no command has run since. `left_out` names
    the variables that could not be saved, `obstacles` what else no checkpoint holds; with neither it is `complete`.
    `trouble`: why the last attempt came to nothing."""

    id: str | None
    at: str | None
    execution_id: int | None
    size_bytes: int | None
    complete: bool
    is_current: bool
    left_out: dict[str, str]
    obstacles: list[str]
    trouble: str | None


class Parent(Struct, frozen=True):
    """What a session was forked from: the session by its id and the name that it had, the last execution it had begun
    (None: none), and when."""

    session_id: str
    session: str
    execution_id: int | None
    at: str


class Session(Struct, frozen=True):
    """One session as the API shows it."""

    id: str
    name: str
    engine: str
    state: SessionState
    state_reason: str | None
    pid: int | None
    python: str | None
    cwd: str
    created_at: str
    last_used_at: str
    execution_count: int
    queue_length: int
    running_execution_id: int | None
    limits: Limits
    usage: Usage | None
    labels: dict[str, str]
    checkpoint: Checkpoint | None
    parent: Parent | None
    pruned: Pruned | None


class ErrorValue(Struct, frozen=True):
    """An exception of the user's code: a value, not a failure of the server."""

    name: str
    message: str
    traceback: str


class Truncated(Struct, frozen=True):
    """What `output` lacks: bytes dropped for good at the host, and bytes left out of this reply alone (they are at
    GET …/executions/ID/output). `pruned_at`: when its output was removed to keep the history within its limits."""

    dropped_bytes: int = 0
    omitted_bytes: int = 0
    pruned_at: str | None = None


class Lost(Struct, frozen=True):
    """What the session no longer had when this execution began, and why."""

    variables: Literal["all"] | list[str]
    reason: str


class DataPart(Struct, frozen=True):
    """One way to show something the command showed: a picture, HTML, JSON, …; `bundle` tells which belong together.

    Its body is at `href`, where there is one; a short text or JSON value stands here too. `offset` is where in the
    output it was shown, in bytes; `omitted` says why it has no body.
    """

    n: int
    bundle: int
    role: PartRole
    offset: int
    mime: str
    size_bytes: int
    href: str | UnsetType = UNSET
    text: str | UnsetType = UNSET
    json: Any = UNSET
    metadata: dict[str, Any] | UnsetType = UNSET
    omitted: str | UnsetType = UNSET


class Execution(Struct, frozen=True):
    """One command run in a session, wherever it appears."""

    id: int
    session: str
    command: str
    status: ExecutionStatus
    reason: str | None
    output: str
    stdout: str
    stderr: str
    result: str | None
    data: list[DataPart] | None
    error: ErrorValue | None
    execution_count: int | None
    queued_at: str
    started_at: str | None
    finished_at: str | None
    duration_ms: float | None
    truncated: Truncated | None
    should_exit: bool
    resumed_from: str | None
    lost: Lost | None


# ---- requests ----


class _Request(Struct, frozen=True, forbid_unknown_fields=True):
    pass


Id = Annotated[int, Meta(ge=0, le=2**62)]
"""Of an execution or event, as a request names it: what the journal can hold."""
Seconds = Annotated[float, Meta(ge=0, le=31_536_000)]
LABEL_KEY_PATTERN = "^[^=]+$"
"""What stands before the '=' wherever a label is written as one word."""
LABEL_FILTER_PATTERN = "^[^=]"
LabelKey = Annotated[str, Meta(max_length=63, pattern=LABEL_KEY_PATTERN)]
LabelValue = Annotated[str, Meta(max_length=256)]
Labels = dict[LabelKey, LabelValue]


class CreateOptions(_Request, frozen=True):
    """How a session is made. `env` is the whole environment of its host, `cwd` an absolute path; `engine` None is what
    the settings say."""

    engine: Annotated[str, Meta(min_length=1, max_length=100)] | None = None
    python: Annotated[str, Meta(min_length=1)] | None = None
    cwd: Annotated[str, Meta(pattern="^/")] | None = None
    env: dict[str, str] | None = None
    limits: Limits | None = None
    labels: Labels = {}


class CreateSession(CreateOptions, kw_only=True, frozen=True):
    name: str


class ExecuteRequest(_Request, frozen=True):
    """`wait_s` bounds the reply, `timeout_s` the command's run. None is no bound. `max_output` is in bytes of
    `output`."""

    command: Annotated[str, Meta(min_length=1)]
    wait_s: Seconds | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=31_536_000)] | None = None
    on_disconnect: Literal["detach", "interrupt"] = "detach"
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=200)] | None = None
    create: bool | CreateOptions = True
    max_output: Annotated[int, Meta(ge=0)] | None = None


class ForkRequest(_Request, frozen=True):
    """`name`: of the copy. `from_checkpoint`: of what is saved, whatever stands in the way of copying the process."""

    name: str
    from_checkpoint: bool = False


class PatchLimits(_Request, frozen=True):
    """Those named here replace the old ones, null lifts one."""

    memory_bytes: MemoryBytes | UnsetType | None = UNSET
    tasks: Tasks | UnsetType | None = UNSET
    cpu_weight: CpuWeight | UnsetType | None = UNSET


class PatchSession(_Request, frozen=True):
    """Limits named here replace the old ones, null lifts one. `labels` replace all labels; `change_labels` sets those
    it names, null removes one, and the others stay as they are."""

    limits: PatchLimits | UnsetType = UNSET
    labels: Labels | UnsetType = UNSET
    change_labels: dict[LabelKey, LabelValue | None] = {}


class PruneRequest(_Request, frozen=True):
    """What may go instead of what the settings say: executions that ended so long ago, all but the newest `keep` of
    each session, the oldest until the journal is no larger than `max_bytes`; of one `session` alone."""

    dry_run: bool = False
    older_than_s: Seconds | None = None
    keep: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    max_bytes: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    session: str | None = None


class ImportRequest(_Request, frozen=True):
    """A session from a `file` on the daemon's machine, an absolute path. `trust`: take its saved variables, whose
    loading runs what they say; `state` false: leave them. What the file says of interpreter and directory counts where
    it is to be had, else `python` and `cwd` as at a creation; `env` is the whole environment of its host."""

    file: Annotated[str, Meta(pattern="^/")]
    name: str | None = None
    trust: bool = False
    state: bool = True
    python: Annotated[str, Meta(min_length=1)] | None = None
    cwd: Annotated[str, Meta(pattern="^/")] | None = None
    env: dict[str, str] | None = None


class InterruptRequest(_Request, frozen=True):
    """Which execution (None: the running one) and how long to wait for it to yield."""

    execution_id: Id | None = None
    wait_s: Seconds = 2.0


class EndRequest(_Request, frozen=True):
    """`budget_s`: time for the whole ladder of a kill, restart or delete; None is the setting stop_budget_s."""

    budget_s: Annotated[float, Meta(ge=0, le=3600)] | None = None


class SnapshotRequest(_Request, frozen=True):
    """A name for the session's present state, with a note and tags for people."""

    name: Annotated[str, Meta(pattern=NAME_PATTERN)]
    note: Annotated[str, Meta(max_length=4096)] = ""
    tags: list[Annotated[str, Meta(min_length=1, max_length=63)]] = []


class RestoreRequest(_Request, frozen=True):
    """Which snapshot, by name, and the new session that shall have it (None: the session itself). `budget_s`: time for
    the present process to end."""

    snapshot: str
    into: Annotated[str, Meta(pattern=NAME_PATTERN)] | None = None
    budget_s: Annotated[float, Meta(ge=0, le=3600)] | None = None


class InputRequest(_Request, frozen=True):
    """An answer to input(): a line without its newline, or None for end of file."""

    execution_id: Id
    text: str | None


class CompleteRequest(_Request, frozen=True):
    """`cursor` counts characters (code points) from the start of `code`; None is its end."""

    code: str
    cursor: Annotated[int, Meta(ge=0)] | None = None


class InspectRequest(CompleteRequest, frozen=True):
    pass


class IsCompleteRequest(_Request, frozen=True):
    code: str


# ---- replies ----


class Step(Struct, frozen=True):
    """One rung of the ladder that ends or interrupts: what was done, when, and whether it was enough."""

    action: Literal["none", "ask", "SIGINT", "SIGTERM", "SIGKILL"]
    at: str
    effective: bool


class Stopped(Struct, frozen=True):
    """The answer to interrupt, kill and restart."""

    session: Session
    execution: Execution | None
    steps: list[Step]
    variables_kept: bool
    note: str


class CompleteReply(Struct, frozen=True):
    """Replace the characters start..end of the code by one of the matches."""

    matches: list[str]
    start: int
    end: int


class InspectReply(Struct, frozen=True):
    """`reason` says why nothing can be found of any name: the engine cannot inspect."""

    found: bool
    text: str
    reason: str | None = None


class IsCompleteReply(Struct, frozen=True):
    """`indent` is what a client should open the next line with when the code is incomplete."""

    status: Literal["complete", "incomplete", "invalid", "unknown"]
    indent: str = ""


class Snapshot(Struct, frozen=True):
    """A named state of a session. `automatic`: why it was made when nobody asked for it."""

    name: str
    at: str
    note: str
    tags: list[str]
    automatic: str | None
    checkpoint_id: str
    execution_id: int
    size_bytes: int
    variables: int
    complete: bool
    left_out: dict[str, str]
    obstacles: list[str]


class Restored(Struct, frozen=True):
    """The session whose next command goes on from the snapshot, and the snapshot that what it had before is kept as."""

    session: Session
    kept_as: str | None
    note: str


class TimelineNode(Struct, frozen=True):
    """A point in a session's life; `parent` is the node whose state it went on from, None for a state of its own."""

    id: int
    parent: int | None
    kind: Literal["execution", "snapshot", "restore", "wake", "loss", "copy", "fork", "origin"]
    at: str
    title: str
    detail: str
    execution_id: int | None


class Timeline(Struct, frozen=True):
    """Of a session: each node after its parent, oldest first."""

    session: str
    nodes: list[TimelineNode]


class OutputPiece(Struct, frozen=True):
    """Bytes `offset` to `next_offset` of an execution's combined output; `eof` when nothing follows for ever.

    `offset` and `text` meet at whole characters: a cut inside one moves to its start.
    """

    offset: int
    text: str
    next_offset: int
    total_bytes: int
    dropped_bytes: int
    eof: bool


class OutputMatches(Struct, frozen=True):
    """Byte offsets at which the literal text stands in the combined output, `more` when the list was cut."""

    find: str
    offsets: list[int]
    more: bool


class Imported(Struct, frozen=True):
    """An imported session: how many executions came, whether its variables did, and what is not as it was."""

    session: Session
    executions: int
    has_state: bool
    notes: list[str]


PruneReason = Literal["age", "count", "size"]


class PrunedSession(Struct, frozen=True):
    """What went of one session: whole executions, and the outputs of others; `up_to_id` is the last one concerned."""

    session: str
    executions: int
    outputs: int
    bytes: int
    up_to_id: int
    reasons: list[PruneReason]


class SnapshotsKept(Struct, frozen=True):
    """Snapshots and the checkpoints that they hold, each counted once: those that people named, which people alone
    remove, and the automatic ones, of which each session has the newest five."""

    named: int
    named_bytes: int
    automatic: int
    automatic_bytes: int


class PruneReport(Struct, frozen=True):
    """What went, or in a `dry_run` would. `journal_bytes`: what all history took before. `snapshots` stay."""

    dry_run: bool
    executions: int
    outputs: int
    bytes: int
    journal_bytes: int
    sessions: list[PrunedSession]
    snapshots: SnapshotsKept


class Health(Struct, frozen=True):
    status: Literal["ok", "degraded"]
    detail: str | None = None


class Counts(Struct, frozen=True):
    sessions: int
    live: int
    busy: int
    queued: int


class ForkServer(Struct, frozen=True):
    """A process that new sessions are forked from. `births`: how many it has forked; `is_rehearsed`: whether it has
    played a session already, after which those forked from it are smaller and faster; `preloaded`: the packages its
    sessions begin with; `refused`: those of the setting that they do not, and why."""

    pid: int
    python: str
    state: Literal["loading", "ready"]
    births: int
    is_rehearsed: bool
    preloaded: list[str]
    refused: dict[str, str]


class Server(Struct, frozen=True):
    version: str
    pid: int
    started_at: str
    activation: Literal["systemd", "client", "foreground"]
    scopes: bool
    state_dir: str
    config_file: str
    settings: dict[str, Any]
    counts: Counts
    fork_servers: list[ForkServer]


class Engine(Struct, frozen=True):
    """An engine of this machine: `path` is what runs it, `unavailable` why it cannot be used."""

    name: str
    kind: Literal["python", "lines", "jupyter"]
    available: bool
    path: str | None
    version: str | None
    unavailable: str | None


# ---- events ----
#
# Every event is a row of the journal, and its id that row's. `session` is the name at that moment.


def _snake(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")


class Event(Struct, frozen=True, tag_field="kind", tag=_snake):
    at: str
    session_id: str
    session: str


class SessionCreated(Event, frozen=True):
    """`parent`: what it is a fork of."""

    engine: str
    labels: dict[str, str]
    parent: Parent | None = None


class SessionChanged(Event, frozen=True):
    """State, limits or labels changed otherwise than by an execution's own events."""

    state: SessionState
    state_reason: str | None
    pid: int | None
    limits: Limits
    labels: dict[str, str]


class SessionDeleted(Event, frozen=True):
    pass


class ExecutionQueued(Event, frozen=True):
    execution_id: int
    command: str


class ExecutionStarted(Event, frozen=True):
    """`resumed_from` and `lost` as the execution has them."""

    execution_id: int
    resumed_from: str | None = None
    lost: Lost | None = None


class InputRequested(Event, frozen=True):
    execution_id: int
    prompt: str
    secret: bool


class InputAnswered(Event, frozen=True):
    """`text` is None for end of file and for the answer to a secret prompt."""

    execution_id: int
    text: str | None


class ExecutionFinished(Event, frozen=True):
    execution_id: int
    status: ExecutionStatus
    reason: str | None
    duration_ms: float | None
    execution_count: int | None
    should_exit: bool


class DataEvent(Event, frozen=True, tag="data"):
    """A picture, HTML or other data has come, whole; its text is left to the execution."""

    execution_id: int
    part: DataPart


class LateOutput(Event, frozen=True):
    """Output that came after its execution had ended: a background child's, a thread's."""

    stream: Stream
    text: str


class HistoryPruned(Event, frozen=True):
    """History went to keep it within its limits, or because somebody asked: whole executions and the outputs of
    others, none newer than `up_to_id`."""

    executions: int
    outputs: int
    bytes: int
    up_to_id: int
    reasons: list[PruneReason]


class StateSaved(Event, frozen=True):
    """A save that somebody asked for is done: the checkpoint, the last execution in it, and what it lacks. Those that a
    session makes by itself are not told."""

    checkpoint_id: str
    execution_id: int
    size_bytes: int
    left_out: list[str]
    obstacles: list[str]


class SnapshotTaken(Event, frozen=True):
    """A state has got a name. `automatic`: why, when nobody asked for it."""

    snapshot: str
    note: str
    tags: list[str]
    automatic: str | None
    checkpoint_id: str
    execution_id: int
    size_bytes: int


class SnapshotRemoved(Event, frozen=True):
    """A name is forgotten: at somebody's word, or because an automatic one has newer ones enough."""

    snapshot: str
    reason: Literal["user", "newer"]


class SessionRestored(Event, frozen=True):
    """The session goes on from a snapshot, and `kept_as` names what it had; or, `into` a new session of that name, a
    copy does."""

    snapshot: str
    kept_as: str | None
    into: str | None


# `output` events are made from the output itself and `gap` from nothing: neither is stored as an event's body.


class OutputEvent(Struct, frozen=True, tag_field="kind", tag="output"):
    id: int
    at: str
    session_id: str
    session: str
    execution_id: int
    stream: Stream
    offset: int
    text: str


class GapEvent(Struct, frozen=True, tag_field="kind", tag="gap"):
    """Events between `since` and `oldest_id` are no longer kept: read the sessions afresh."""

    id: int
    since: int
    oldest_id: int
