"""The journal beside a model of it: whatever befalls sessions and executions, and whenever the daemon dies, it holds of
each session the last frame of its host, how much was run and what has not ended; and no number is given twice.
"""

from __future__ import annotations

import shutil
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from journals import add, at, session
from omega_sessiond.journal import Journal
from omega_sessiond.messages import SessionDeleted
from omega_sessiond.records import SessionRecord


class Known:
    """What the journal must hold of one session."""

    def __init__(self, record: SessionRecord) -> None:
        self.record = record
        self.host_seq = 0
        self.count = 0
        self.queued: list[int] = []
        self.running: list[int] = []


class JournalBesideItsModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.base = Path(tempfile.mkdtemp(prefix="omega-journal-"))
        self.lives = self.made = 0
        self.newest = 0
        self.told: dict[int, bytes] = {}
        self.known: list[Known] = []

    @initialize()
    def begin(self) -> None:
        self.journal = self._opened()
        self.make_a_session()

    def _opened(self) -> Journal:
        return Journal.open(str(self.base / str(self.lives) / "journal.db"))

    def _pick(self, number: int) -> Known:
        return self.known[number % len(self.known)]

    @rule()
    def make_a_session(self) -> None:
        self.made += 1
        self.known.append(Known(add(self.journal, session(f"s{self.made}"))))

    @precondition(lambda self: len(self.known) > 1)
    @rule(number=st.integers(0, 9))
    def delete_a_session(self, number: int) -> None:
        gone = self._pick(number)
        self.known.remove(gone)
        self.journal.delete_session(gone.record.id, SessionDeleted(at(9), gone.record.id, gone.record.name))

    @rule(number=st.integers(0, 9))
    def submit(self, number: int) -> None:
        known = self._pick(number)
        begins = not known.queued and not known.running
        id = self.journal.queue(known.record, "x", at=at(1), started=begins)
        assert id > self.newest
        self.newest = id
        (known.running if begins else known.queued).append(id)

    @rule(number=st.integers(0, 9))
    def start(self, number: int) -> None:
        known = self._pick(number)
        if known.queued and not known.running:
            known.running.append(known.queued.pop(0))
            self.journal.start(known.record, known.running[0], at(2))

    @rule(number=st.integers(0, 9))
    def requeue(self, number: int) -> None:
        """Its host has not taken it."""
        known = self._pick(number)
        if known.running:
            known.queued.insert(0, known.running.pop())
            self.journal.requeue(known.queued[0])

    @rule(number=st.integers(0, 9), frames=st.integers(1, 3), more=st.booleans())
    def end(self, number: int, frames: int, more: bool) -> None:
        """The host tells the end, and perhaps something behind it."""
        known = self._pick(number)
        if not known.running:
            return
        known.host_seq += frames
        known.count += 1
        told: dict[str, Any] = {"host_seq": known.host_seq, "session_count": known.count}
        with self.journal.atomic():
            self._finish(known, known.running.pop(), "ok", **told)
            if more:
                known.host_seq += 1
                self.journal.update_session(known.record.id, host_seq=known.host_seq)

    @rule(number=st.integers(0, 9))
    def end_untold(self, number: int) -> None:
        """With its host, or before it began."""
        known = self._pick(number)
        if known.running:
            self._finish(known, known.running.pop(), "died")
        elif known.queued:
            self._finish(known, known.queued.pop(), "cancelled")

    def _finish(self, known: Known, id: int, status: Any, **told: Any) -> None:
        assert self.journal.finish(known.record, id, status=status, finished_at=at(3), **told)
        assert not self.journal.finish(known.record, id, status="died", finished_at=at(4))

    @rule(number=st.integers(0, 9), is_end=st.booleans())
    def hear(self, number: int, is_end: bool) -> None:
        """A frame that ends nothing, or the end of what nobody waits for."""
        known = self._pick(number)
        known.host_seq += 1
        known.count += is_end
        counted = {"execution_count": known.count} if is_end else {}
        self.journal.update_session(known.record.id, host_seq=known.host_seq, **counted)

    @rule(number=st.integers(0, 9))
    def replace_the_host(self, number: int) -> None:
        known = self._pick(number)
        known.host_seq = 0
        self.journal.update_session(known.record.id, host=None, host_seq=0)

    @rule(number=st.integers(0, 9))
    def fail(self, number: int) -> None:
        """A transaction that comes to nothing."""
        known = self._pick(number)
        try:
            with self.journal.atomic():
                if known.running:
                    self._finish(known, known.running[0], "ok", host_seq=99, session_count=99)
                self.journal.queue(known.record, "y", at=at(5), started=False)
                self.journal.update_session(known.record.id, host_seq=77)
                raise KeyError
        except KeyError:
            pass

    @rule(kept=st.integers(0, 5))
    def prune(self, kept: int) -> None:
        self.journal.prune_events(kept)

    @rule(politely=st.booleans())
    def die(self, politely: bool) -> None:
        """The daemon ends; killed, it leaves what is committed and no more."""
        if politely:
            self.journal.close()
        else:
            shutil.copytree(self.base / str(self.lives), self.base / str(self.lives + 1))
            self.journal.close()
            self.lives += 1
        self.journal = self._opened()

    @invariant()
    def holds_what_is_known(self) -> None:
        if not hasattr(self, "journal"):
            return
        assert {record.id for record in self.journal.sessions()} == {known.record.id for known in self.known}
        for known in self.known:
            record = self.journal.session(known.record.id)
            assert record is not None
            assert (record.host_seq, record.execution_count) == (known.host_seq, known.count)
            unfinished = [row.id for row in self.journal.unfinished(known.record.id)]
            assert unfinished == sorted(known.running + known.queued)
        told = dict(self.journal.events(0, 10_000))
        assert all(one < next for one, next in pairwise(told))
        new = told.keys() - self.told.keys()
        assert not new or min(new) > max(self.told, default=0)
        assert all(self.told.get(id, line) == line for id, line in told.items())
        self.told |= told

    def teardown(self) -> None:
        self.journal.close()
        shutil.rmtree(self.base)


test_journal_beside_its_model = JournalBesideItsModel.TestCase
test_journal_beside_its_model.settings = hypothesis.settings(max_examples=60, stateful_step_count=40, deadline=None)
