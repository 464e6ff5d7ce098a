"""What the journal holds of a session and of an execution, as the daemon reads it. Data only."""

from __future__ import annotations

from msgspec import Struct

from omega_sessiond.messages import ErrorValue, ExecutionStatus, Limits, Lost, Parent


class HostRecord(Struct, frozen=True):
    """The process that carries a session: what identifies it beyond its pid, which the system uses again.

    `start_time` is in clock ticks since boot (/proc/PID/stat); `scope` "" means none.
    """

    pid: int
    start_time: int
    boot_id: str
    scope: str
    engine_version: str


class Keep(Struct, frozen=True):
    """What of a session is kept in checkpoints. The next process takes up `checkpoint_id`, whose state is as good as
    all commands up to `covers`; `waking_from` is what the present one has yet to tell about, `resumed_from` what the
    next command has to. `trouble`: why the last save came to nothing, `is_asleep`: hibernated, `is_arriving`: it is
    being imported or copied, `is_leaving`: deleted, and a part of its history is gone, `is_replaced`: the present
    process is to end, its state is not what the next one shall have."""

    checkpoint_id: str | None = None
    covers: int = 0
    waking_from: str | None = None
    resumed_from: str | None = None
    is_asleep: bool = False
    trouble: str | None = None
    is_arriving: bool = False
    is_leaving: bool = False
    is_replaced: bool = False


class SessionRecord(Struct, frozen=True):
    """A session as it is kept. `host` None: no process. `host_seq`: the last frame of its host that is journalled."""

    id: str
    name: str
    engine: str
    python: str | None
    cwd: str
    created_at: str
    last_used_at: str
    execution_count: int
    limits: Limits
    labels: dict[str, str]
    state_reason: str | None
    lost: Lost | None
    host: HostRecord | None
    host_seq: int
    keep: Keep = Keep()
    parent: Parent | None = None


class ExecutionRecord(Struct, frozen=True):
    """An execution without its output. `output_bytes`: length of the combined stream, what was dropped included."""

    id: int
    session_id: str
    command: str
    status: ExecutionStatus
    reason: str | None
    error: ErrorValue | None
    execution_count: int | None
    queued_at: str
    started_at: str | None
    finished_at: str | None
    duration_ms: float | None
    timeout_s: float | None
    displayed: bool
    should_exit: bool
    dropped_bytes: int
    output_bytes: int
    resumed_from: str | None
    lost: Lost | None
    idempotency_key: str | None
    pruned_at: str | None
