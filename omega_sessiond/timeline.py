"""How a session came to where it is: executions, snapshots, restores, wakes and losses as a tree. Pure: records in,
nodes out.

A node's parent is the state it went on from. Where a process was lost or its state replaced, what follows hangs from
the execution whose state was taken up, and not from the one before it in time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from omega_sessiond.messages import Parent, TimelineNode
from omega_sessiond.records import ExecutionRecord
from omega_sessiond.shelf import CheckpointRecord, RestoreRecord, SnapshotRecord

COMMAND_CHARS = 200


def nodes(
    executions: Sequence[ExecutionRecord],
    snapshots: Iterable[tuple[SnapshotRecord, CheckpointRecord]],
    restores: Iterable[RestoreRecord],
    copies: Iterable[tuple[str, RestoreRecord]],
    forks: Iterable[tuple[str, Parent]],
    origin: Parent | None,
    *,
    is_cut: bool = False,
) -> list[TimelineNode]:
    """The tree of one session, each parent before its children. `copies` and `forks` are the other sessions that began
    with a state of this one, by name; `origin` is what it was forked from itself. `is_cut`: there are older executions,
    and of what was taken up before those here only the last is told."""
    grower = _Grower()
    if origin is not None:
        grower.begin(origin)
    taken_up = sorted(restores, key=lambda restore: restore.id)
    if is_cut and executions:
        before = [restore for restore in taken_up if restore.after_id < executions[0].id]
        first = max(0, len(before) - 1)
        if first and _checkpoint(before[first]) == _checkpoint(before[first - 1]):
            first -= 1  # a wake, and the restore that asked for it
        taken_up = taken_up[first:]
    for row in executions:
        while taken_up and taken_up[0].after_id < row.id:
            grower.take_up(taken_up.pop(0))
        grower.run(row)
    for restore in taken_up:
        grower.take_up(restore)
    for snapshot, checkpoint in snapshots:
        grower.hang(
            "snapshot", snapshot.at, checkpoint.execution_id, snapshot.name, snapshot.automatic or snapshot.note
        )
    for name, copy in copies:
        grower.hang("copy", copy.at, int(copy.source.get("execution_id", 0)), name, "")
    for name, fork in forks:
        grower.hang("fork", fork.at, fork.execution_id or 0, name, "")
    return grower.nodes


class _Grower:
    def __init__(self) -> None:
        self.nodes: list[TimelineNode] = []
        self._tip: int | None = None
        self._by_execution: dict[int, int] = {}
        self._restored = ""
        self._lost_from: int | None = None

    def _add(
        self, kind: str, at: str, parent: int | None, title: str, detail: str = "", execution_id: int | None = None
    ) -> int:
        id = len(self.nodes) + 1
        self.nodes.append(TimelineNode(id, parent, kind, at, title, detail, execution_id))  # type: ignore[arg-type]
        return id

    def begin(self, origin: Parent) -> None:
        self._tip = self._add("origin", origin.at, None, origin.session)
        if origin.execution_id is not None:
            self._by_execution[origin.execution_id] = self._tip

    def take_up(self, restore: RestoreRecord) -> None:
        """A process went on from a checkpoint: because it was asked to, or because the one before was gone."""
        source = restore.source
        checkpoint = _checkpoint(restore)
        if "snapshot" not in source and checkpoint == self._restored:
            return  # the restore that asked for it stands there already
        kind = "restore" if "snapshot" in source else "wake"
        self._restored = checkpoint if kind == "restore" else ""
        parent = self._by_execution.get(int(source.get("execution_id", 0)))
        title = str(source.get("snapshot", checkpoint))
        self._lost_from = self._tip
        self._tip = self._add(kind, restore.at, parent, title, str(source.get("session", "")))
        if parent is None and "session" in source:  # what a copy began with was run elsewhere: its own states hang here
            self._by_execution[int(source.get("execution_id", 0))] = self._tip

    def run(self, row: ExecutionRecord) -> None:
        at = row.started_at or row.queued_at
        if row.lost is not None:
            before = self._lost_from if row.resumed_from is not None else self._tip
            self._add("loss", at, before, _names(row.lost.variables), row.lost.reason)
            if row.resumed_from is None:
                self._tip = None  # a process that knows nothing
        command = row.command.strip().partition("\n")[0][:COMMAND_CHARS]
        if row.started_at is None:
            self._add("execution", at, self._tip, command, row.status, row.id)
            return
        self._tip = self._add("execution", at, self._tip, command, row.status, row.id)
        self._by_execution[row.id] = self._tip
        self._restored = ""

    def hang(self, kind: str, at: str, execution_id: int, title: str, detail: str) -> None:
        self._add(kind, at, self._by_execution.get(execution_id), title, detail, execution_id or None)


def _checkpoint(restore: RestoreRecord) -> str:
    return str(restore.source.get("checkpoint", ""))


def _names(variables: str | list[str]) -> str:
    return variables if isinstance(variables, str) else ", ".join(variables)
