"""Writes what happens to sessions and executions into the journal, and keeps their records here in step with it.

Decides nothing and tells nobody. The caller opens the transaction; when it fails, the records here are wrong until
they are read again.
"""

from __future__ import annotations

from typing import Literal

from msgspec.structs import replace

from omega_sessiond import views
from omega_sessiond.frames import HostFrame, InputFrame, OutputFrame, PartFrame, ResultFrame
from omega_sessiond.journal import Journal
from omega_sessiond.live import Live, Work
from omega_sessiond.losses import joined
from omega_sessiond.messages import (
    DataEvent,
    ErrorValue,
    InputRequested,
    LateOutput,
    Lost,
    SessionChanged,
    Stream,
    iso,
    now,
)
from omega_sessiond.records import ExecutionRecord

LATE_KEPT_BYTES = 16 * 1024 * 1024
"""Output between two commands that is kept, from its start. It has no bound of its own at the host, and its events
count for little in `events_kept`."""


class Recorder:
    """The one who writes for the keeper."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def update(self, live: Live, **fields: object) -> None:
        """Change a session's record, in the journal and here."""
        self._journal.update_session(live.record.id, **fields)
        live.record = replace(live.record, **fields)

    def changed(self, live: Live) -> SessionChanged:
        record = live.record
        pid = live.host.pid if live.host is not None else None
        reason = live.note or record.state_reason
        return SessionChanged(
            now(), record.id, record.name, live.session.state, reason, pid, record.limits, record.labels
        )

    def frame(self, live: Live, frame: HostFrame, at: str) -> None:
        """What a host said."""
        record, journal = live.record, self._journal
        match frame:
            case OutputFrame():
                work = live.work.get(frame.id)
                if work is None:
                    self._commit_late(live, frame.s, frame.text, at)
                else:
                    journal.add_output(record, frame.id, frame.s, frame.off, frame.text, at)
                    work.keep(frame)
            case PartFrame():
                work = live.work.get(frame.id)
                if work is not None:
                    work.has_data = True
                    part = journal.parts.add(frame)
                    if part is not None:
                        told = views.part(part, record.name, frame.id, has_text=False)
                        journal.append(DataEvent(at, record.id, record.name, frame.id, told))
            case InputFrame(_, id, prompt, secret):
                work = live.work.get(id)
                if work is not None:
                    work.secret, work.record = secret, replace(work.record, status="waiting_input")
                    journal.waiting(id, True)
                    journal.append(InputRequested(at, record.id, record.name, id, prompt, secret))
            case ResultFrame():
                self._commit_end(live, frame)
                if frame.lost is not None and frame.id in live.work:
                    self.update(live, lost=Lost("all", frame.lost))

    def _commit_late(self, live: Live, stream: Stream, text: str, at: str) -> None:
        """Keep output of no execution, up to a bound: a background thread can print for ever."""
        record, before = live.record, live.late_bytes
        live.late_bytes += len(text.encode())
        if live.late_bytes <= LATE_KEPT_BYTES:
            self._journal.append(LateOutput(at, record.id, record.name, stream, text))
        elif before <= LATE_KEPT_BYTES:
            text = f"[… more output is dropped until the next command ends: {LATE_KEPT_BYTES} bytes are kept …]\n"
            self._journal.append(LateOutput(at, record.id, record.name, stream, text))

    def _commit_end(self, live: Live, frame: ResultFrame) -> None:
        """Where the execution's own row takes it, that also says how far the session has come."""
        work, count = live.work.get(frame.id), live.record.execution_count + 1
        if work is not None and self._commit_result(live, work, frame, count):
            live.record = replace(live.record, host_seq=frame.seq, execution_count=count)
        else:
            self.update(live, host_seq=frame.seq, execution_count=count)

    def _commit_result(self, live: Live, work: Work, frame: ResultFrame, session_count: int) -> bool:
        error = frame.error
        row = replace(
            work.record,
            status=frame.status,
            reason=(work.interrupt_reason or "signal") if frame.status == "interrupted" else None,
            error=None if error is None else ErrorValue(error.name, error.message, error.traceback),
            finished_at=iso(frame.at),
            duration_ms=frame.duration_ms,
            execution_count=frame.count,
            displayed=frame.displayed,
            should_exit=frame.should_exit,
            dropped_bytes=frame.dropped,
        )
        live.late_bytes = 0
        return self._finish(live, work, row, host_seq=frame.seq, session_count=session_count)

    def settle(self, live: Live, work: Work, status: Literal["cancelled", "died"], reason: str) -> None:
        """The end of an execution that will have no result."""
        error = None
        if reason == "host_failed" and live.start_failure:
            error = ErrorValue("HostFailed", live.start_failure, "")
        elif status == "died":
            error = ErrorValue("HostDied", live.record.state_reason or "", "")
        row = replace(work.record, status=status, reason=reason, finished_at=now(), error=error)
        self._finish(live, work, row)
        if status == "cancelled":  # the next command is to tell of it
            self._tell_again(live, row)

    def _finish(
        self,
        live: Live,
        work: Work,
        row: ExecutionRecord,
        *,
        host_seq: int | None = None,
        session_count: int | None = None,
    ) -> bool:
        work.record = row
        return self._journal.finish(
            live.record,
            row.id,
            status=row.status,
            reason=row.reason,
            error=row.error,
            execution_count=row.execution_count,
            finished_at=row.finished_at or now(),
            duration_ms=row.duration_ms,
            displayed=row.displayed,
            should_exit=row.should_exit,
            dropped_bytes=row.dropped_bytes,
            host_seq=host_seq,
            session_count=session_count,
        )

    def unbegin(self, live: Live, work: Work) -> None:
        """The host has not taken it: its time begins anew when it does, and what it would have told of a loss is yet
        to be told."""
        row = work.record
        self._journal.requeue(row.id)
        self._tell_again(live, row)
        work.record = replace(row, status="queued", started_at=None, lost=None, resumed_from=None)

    def _tell_again(self, live: Live, row: ExecutionRecord) -> None:
        """An execution that was to tell of a loss or of a wake has not begun: it is the next one's to tell."""
        if row.lost is not None:
            self.update(live, lost=joined(row.lost, live.record.lost))
        if row.resumed_from is not None:
            self.update(live, keep=replace(live.record.keep, resumed_from=row.resumed_from))
