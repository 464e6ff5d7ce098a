"""What the journal keeps and how it reads back. What befalls its file is in test_database.py.

Output is tested as a property: any text, cut anywhere, with anything dropped between, reads back whole.
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from journals import add, at, found, run, session
from omega_sessiond import journal
from omega_sessiond.errors import JournalError, JournalFull
from omega_sessiond.journal import Journal, Piece
from omega_sessiond.messages import (
    ErrorValue,
    ExecutionFinished,
    ExecutionQueued,
    ExecutionStarted,
    InputAnswered,
    InputRequested,
    LateOutput,
    Limits,
    Lost,
    OutputEvent,
    SessionChanged,
    SessionCreated,
    SessionDeleted,
    Stream,
)
from omega_sessiond.records import ExecutionRecord, HostRecord, SessionRecord


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "journal.db"


@pytest.fixture
def book(path: Path) -> Iterator[Journal]:
    """A new journal."""
    opened = Journal.open(str(path))
    yield opened
    opened.close()


@pytest.fixture
def work(book: Journal) -> SessionRecord:
    """A session in it."""
    return add(book, session())


# ---- records ----


def test_session_comes_back_as_it_was_added(book: Journal) -> None:
    """Every field of a session's record is kept."""
    record = session(
        python="/usr/bin/python3.9",
        limits=Limits(memory_bytes=1 << 30, tasks=64, cpu_weight=50),
        labels={"team": "blå"},
        state_reason="probably out of memory",
        lost=Lost("all", "probably out of memory"),
        host=HostRecord(4242, 99, "boot", "omega-session-work.scope", "3.9.18"),
        host_seq=7,
        execution_count=3,
    )
    add(book, record)
    assert book.sessions() == [record]


def test_update_sets_the_named_fields_alone(book: Journal, work: SessionRecord) -> None:
    """Updating a session changes the fields that are named, structs and None included, and no other session."""
    other = add(book, session("other"))
    host = HostRecord(1, 2, "boot", "", "")
    book.update_session(work.id, host=host, host_seq=5, labels={"a": "b"}, lost=Lost(["x"], "died"))
    changed = msgspec.structs.replace(work, host=host, host_seq=5, labels={"a": "b"}, lost=Lost(["x"], "died"))
    assert book.sessions() == [other, changed]
    book.update_session(work.id, host=None, lost=None)
    assert book.sessions() == [other, msgspec.structs.replace(changed, host=None, lost=None)]


def test_update_refuses_a_field_that_is_none(book: Journal, work: SessionRecord) -> None:
    """A name that is no field of the record never becomes part of a statement."""
    with pytest.raises(AssertionError):
        book.update_session(work.id, **{"name = 'x' --": 1})
    assert book.sessions() == [work]


def test_last_use_is_that_of_the_newest_command(book: Journal, work: SessionRecord) -> None:
    """Queueing a command counts as using the session; so does saying it."""
    book.queue(work, "x", at=at(30), started=False)
    assert book.sessions()[0].last_used_at == at(30)
    book.update_session(work.id, last_used_at=at(50))
    assert book.sessions()[0].last_used_at == at(50)


def test_execution_tells_its_whole_life(book: Journal, work: SessionRecord) -> None:
    """Queued, started, waiting, running and finished are what the record says at each moment."""
    execution_id = book.queue(work, "f()", at=at(1), started=False, idempotency_key="k", timeout_s=1.5)
    queued = found(book, work, execution_id)
    assert queued == ExecutionRecord(
        id=execution_id,
        session_id=work.id,
        command="f()",
        status="queued",
        reason=None,
        error=None,
        execution_count=None,
        queued_at=at(1),
        started_at=None,
        finished_at=None,
        duration_ms=None,
        timeout_s=1.5,
        displayed=False,
        should_exit=False,
        dropped_bytes=0,
        output_bytes=0,
        resumed_from=None,
        lost=None,
        idempotency_key="k",
        pruned_at=None,
    )
    book.start(work, execution_id, at(2), Lost("all", "died"), "snapshot")
    started = msgspec.structs.replace(
        queued, status="running", started_at=at(2), lost=Lost("all", "died"), resumed_from="snapshot"
    )
    assert found(book, work, execution_id) == started
    book.waiting(execution_id, True)
    assert found(book, work, execution_id).status == "waiting_input"
    book.waiting(execution_id, False)
    assert found(book, work, execution_id) == started
    error = ErrorValue("ValueError", "wörse", "Traceback")
    with book.atomic():
        book.add_output(work, execution_id, "stdout", 0, "é", at(3))
        book.add_output(work, execution_id, "stdout", 10, "ab", at(3))
        assert book.finish(
            work,
            execution_id,
            status="error",
            reason="user",
            error=error,
            execution_count=4,
            finished_at=at(3),
            duration_ms=1000.25,
            displayed=True,
            should_exit=True,
            dropped_bytes=8,
        )
    assert found(book, work, execution_id) == msgspec.structs.replace(
        started,
        status="error",
        reason="user",
        error=error,
        execution_count=4,
        finished_at=at(3),
        duration_ms=1000.25,
        displayed=True,
        should_exit=True,
        dropped_bytes=8,
        output_bytes=12,
    )


def test_execution_ends_once(book: Journal, work: SessionRecord) -> None:
    """A second end changes nothing, has no event and says so; nor does anything else move a finished execution."""
    execution_id = run(book, work, output="o")
    before, last = found(book, work, execution_id), book.last_event_id()
    assert not book.finish(work, execution_id, status="died", finished_at=at(9))
    book.start(work, execution_id, at(9), Lost("all", "late"))
    book.requeue(execution_id)
    book.waiting(execution_id, True)
    assert found(book, work, execution_id) == before
    assert [event_id for event_id, _ in book.events(last, 10)] == []


def test_start_of_a_running_execution_only_adds_what_it_lost(book: Journal, work: SessionRecord) -> None:
    """An execution that was queued as started keeps its start and gets no second event."""
    execution_id = book.queue(work, "x", at=at(1), started=True)
    last = book.last_event_id()
    book.start(work, execution_id, at(5), Lost("all", "died"))
    book.start(work, execution_id, at(6))
    record = found(book, work, execution_id)
    assert (record.status, record.started_at, record.lost) == ("running", at(1), Lost("all", "died"))
    assert book.last_event_id() == last


def test_requeued_execution_is_as_if_never_started(book: Journal, work: SessionRecord) -> None:
    """Requeueing takes the start back, its event included; starting again tells the new start."""
    execution_id = book.queue(work, "x", at=at(1), started=False)
    queued = found(book, work, execution_id)
    book.start(work, execution_id, at(2), Lost("all", "died"), "snapshot")
    book.requeue(execution_id)
    assert found(book, work, execution_id) == queued
    assert len(book.events(0, 10, execution_id)) == 1
    book.start(work, execution_id, at(3))
    lines = [line for _, line in book.events(0, 10, execution_id)]
    assert [msgspec.json.decode(line)["at"] for line in lines] == [at(1), at(3)]


def test_unfinished_are_told_in_order_and_across_restarts(path: Path) -> None:
    """The unfinished executions of a session are those without an end, whatever ended before, between and after."""
    book = Journal.open(str(path))
    work, other = add(book, session()), add(book, session("other"))
    run(book, work)
    first = book.queue(work, "a", at=at(1), started=True)
    book.queue(other, "b", at=at(1), started=True)
    withdrawn = book.queue(work, "c", at=at(1), started=False)
    second = book.queue(work, "d", at=at(1), started=False)
    book.finish(work, withdrawn, status="cancelled", finished_at=at(2))
    assert [row.id for row in book.unfinished(work.id)] == [first, second]
    for _ in range(2):
        book.prune_events(0)
        book.close()
        book = Journal.open(str(path))
        assert [row.id for row in book.unfinished(work.id)] == [first, second]
    book.finish(work, first, status="died", finished_at=at(3))
    third = book.queue(work, "e", at=at(4), started=False)
    book.close()
    book = Journal.open(str(path))
    assert [row.id for row in book.unfinished(work.id)] == [second, third]
    book.close()


def test_history_is_read_in_pages(book: Journal, work: SessionRecord) -> None:
    """Executions come oldest first, after the id asked for, as many as asked for, and of their session alone."""
    other = add(book, session("other"))
    ids = []
    for number in range(5):
        ids.append(run(book, work, str(number)))
        run(book, other)
    assert [row.id for row in book.executions(work.id, 0, 100)] == ids
    assert [row.id for row in book.executions(work.id, ids[1], 2)] == ids[2:4]
    assert book.execution(other.id, ids[0]) is None
    assert book.execution(work.id, 10**15) is None


def test_idempotency_key_is_unique_in_its_session(book: Journal, work: SessionRecord) -> None:
    """A key finds its execution, belongs to one execution of a session, and to another one of another session."""
    other = add(book, session("other"))
    execution_id, elsewhere = run(book, work, key="k"), run(book, other, key="k")
    run(book, work, key=None)
    run(book, work, key=None)
    kept, last = book.by_key(work.id, "k"), book.last_event_id()
    assert kept == book.execution(work.id, execution_id)
    assert book.by_key(other.id, "k") == book.execution(other.id, elsewhere)
    assert book.by_key(work.id, "other") is None
    with pytest.raises(JournalError):
        book.queue(work, "again", at=at(5), started=True, idempotency_key="k")
    assert book.by_key(work.id, "k") == kept
    assert book.last_event_id() == last


def test_cancelled_execution_frees_its_key(book: Journal, work: SessionRecord) -> None:
    """The key of an execution that was cancelled can be used again; that of a died one cannot."""
    cancelled = book.queue(work, "x", at=at(1), started=False, idempotency_key="k")
    book.finish(work, cancelled, status="cancelled", reason="host_died", finished_at=at(2))
    assert book.by_key(work.id, "k") is None
    again = book.queue(work, "x", at=at(3), started=True, idempotency_key="k")
    book.finish(work, again, status="died", reason="host_died", finished_at=at(4))
    kept = book.by_key(work.id, "k")
    assert kept is not None
    assert kept.id == again


def test_deleted_session_leaves_its_last_event_alone(book: Journal, work: SessionRecord) -> None:
    """Deleting takes executions, output and events with it, of that session only, and tells so."""
    other = add(book, session("other"))
    kept, gone = run(book, other, output="kept"), run(book, work, output="gone", key="k")
    book.delete_session(work.id, SessionDeleted(at(9), work.id, work.name))
    assert [row.name for row in book.sessions()] == ["other"]
    assert book.execution(work.id, gone) is None
    assert book.by_key(work.id, "k") is None
    assert book.output(gone) == []
    assert book.events(0, 10, gone) == []
    assert book.output(kept) == [("stdout", 0, "kept")]
    lines = [msgspec.json.decode(line) for _, line in book.events(0, 100)]
    assert [line["kind"] for line in lines if line["session_id"] == work.id] == ["session_deleted"]


def test_ids_are_never_used_twice(path: Path) -> None:
    """Neither deleting what is newest, nor pruning every event, nor closing gives an id out again."""
    book = Journal.open(str(path))
    for _ in range(3):
        work = add(book, session())
        newest = run(book, work, output="o")
        book.delete_session(work.id, SessionDeleted(at(9), work.id, work.name))
        book.prune_events(0)
        last = book.last_event_id()
        assert last > newest
        book.close()
        book = Journal.open(str(path))
        assert book.last_event_id() == last
        work = add(book, session())
        assert book.queue(work, "x", at=at(1), started=False) > last
        book.delete_session(work.id, SessionDeleted(at(9), work.id, work.name))
    book.close()


def test_number_of_a_beginning_taken_back_is_not_used_again(path: Path) -> None:
    """Not even when it was the newest there was, and the daemon died then."""
    book = Journal.open(str(path))
    work = add(book, session())
    execution_id = book.queue(work, "x", at=at(1), started=True)
    book.requeue(execution_id)
    last = book.last_event_id()
    assert last == execution_id + 1
    book.close()
    book = Journal.open(str(path))
    assert book.last_event_id() == last
    book.start(work, execution_id, at(2))
    assert [event_id for event_id, _ in book.events(0, 10, execution_id)] == [execution_id, last + 1]
    book.close()


def test_number_of_removed_history_is_not_used_again(path: Path) -> None:
    """What history gives up was given out for good, were it the newest there is."""
    book = Journal.open(str(path))
    work = add(book, session())
    first, second = run(book, work, output="o"), run(book, work, output="o")
    last = book.last_event_id()
    book.pruning.empty([first], at(3))
    book.pruning.remove([first, second])
    book.close()
    book = Journal.open(str(path))
    assert book.last_event_id() == last
    assert [event_id for event_id, _ in book.events(0, 10)] == [1]
    assert run(book, work) > last
    book.close()


# ---- how far a session has come ----


def progress(book: Journal) -> list[tuple[int, int]]:
    """Of each session by name: its host's last frame that is journalled, and how many commands it has run."""
    return [(row.host_seq, row.execution_count) for row in book.sessions()]


def end(book: Journal, owner: SessionRecord, host_seq: int, count: int) -> int:
    execution_id = book.queue(owner, "x", at=at(1), started=True)
    book.finish(owner, execution_id, status="ok", finished_at=at(2), host_seq=host_seq, session_count=count)
    return execution_id


def test_end_of_an_execution_tells_how_far_its_session_has_come(path: Path) -> None:
    """The last end counts, and so does what came behind it; closing, pruning and reading again change nothing."""
    book = Journal.open(str(path))
    add(book, session("idle"))
    work = add(book, session())
    for count in (1, 2, 3):
        end(book, work, 10 * count, count)
        assert progress(book) == [(0, 0), (10 * count, count)]
    cancelled = book.queue(work, "x", at=at(3), started=False)
    book.finish(work, cancelled, status="cancelled", finished_at=at(3))
    assert progress(book)[1] == (30, 3)
    book.update_session(work.id, host_seq=34)
    assert progress(book)[1] == (34, 3)
    end(book, work, 40, 4)
    book.prune_events(0)
    assert progress(book)[1] == (40, 4)
    end(book, work, 50, 5)
    book.close()
    book = Journal.open(str(path))
    assert progress(book)[1] == (50, 5)
    kept = book.session(work.id)
    assert kept is not None
    assert (kept.host_seq, kept.execution_count) == (50, 5)
    book.close()


def test_new_host_counts_its_frames_anew(book: Journal, work: SessionRecord) -> None:
    """No end that an earlier host has told is taken for one of the new host's; the commands go on being counted."""
    end(book, work, 70, 7)
    waiting = book.queue(work, "x", at=at(3), started=False)
    book.update_session(work.id, host=None, host_seq=0)
    assert progress(book) == [(0, 7)]
    book.finish(work, waiting, status="ok", finished_at=at(4), host_seq=3, session_count=8)
    assert progress(book) == [(3, 8)]
    book.prune_events(0)
    book.update_session(work.id, host_seq=0)
    book.prune_events(0)
    assert progress(book) == [(0, 8)]


def test_removed_history_was_run_all_the_same(book: Journal, work: SessionRecord) -> None:
    """When the execution goes that told how far its session has come, the session stays there."""
    ends = [end(book, work, 10 * count, count) for count in (1, 2)]
    book.pruning.remove(ends)
    assert book.executions(work.id, 0, 10) == []
    assert progress(book) == [(20, 2)]


def test_ends_that_told_nothing_are_looked_at_once(book: Journal, work: SessionRecord) -> None:
    """What no host has told the end of, as in a session that was imported, is not walked again with each removal."""
    with book.atomic():
        for _ in range(1000):
            run(book, work)
    own = [row.id for row in book.executions(work.id, 0, 1000)]
    connection = book._database._connection
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    def removal(id: int) -> int:
        nonlocal steps
        steps = 0
        connection.set_progress_handler(count, 1)
        book.pruning.remove([id])
        connection.set_progress_handler(None, 1)
        return steps

    first, second = removal(own[0]), removal(own[1])
    assert second < len(own) < first
    other = add(book, session("other"))
    with book.atomic():
        for _ in range(1000):
            run(book, other)
        book.settle(other.id)
    assert removal(book.executions(other.id, 0, 1)[0].id) < len(own)


def test_end_that_changes_nothing_tells_nothing(book: Journal, work: SessionRecord) -> None:
    """A second end of an execution does not move its session."""
    execution_id = end(book, work, 10, 1)
    assert not book.finish(work, execution_id, status="ok", finished_at=at(3), host_seq=99, session_count=99)
    assert progress(book) == [(10, 1)]


# ---- atomic ----


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt, asyncio.CancelledError])
def test_exception_undoes_the_whole_block(book: Journal, work: SessionRecord, kind: type[BaseException]) -> None:
    """Whatever leaves a block, nothing of the block is kept, and the journal goes on."""
    last = book.last_event_id()
    with pytest.raises(kind), book.atomic():
        execution_id = run(book, work, output="o", key="k")
        book.update_session(work.id, host_seq=9)
        raise kind
    assert book.sessions() == [work]
    assert book.execution(work.id, execution_id) is None
    assert book.output(execution_id) == []
    assert book.last_event_id() == last
    run(book, work, key="k")


def test_inner_blocks_join_the_outer_one(book: Journal, work: SessionRecord) -> None:
    """What inner blocks wrote goes when the outermost one fails, however well they ended."""
    with pytest.raises(ValueError), book.atomic():
        with book.atomic():
            run(book, work)
        with book.atomic(), book.atomic():
            book.update_session(work.id, host_seq=9)
        raise ValueError
    assert book.executions(work.id, 0, 10) == []
    assert book.sessions() == [work]


def test_failure_of_an_inner_block_cannot_be_half_committed(book: Journal, work: SessionRecord) -> None:
    """An inner failure that is caught on the way out still undoes the whole, and the outer block says so."""
    with pytest.raises(JournalError, match=r"journal\.db"), book.atomic():
        book.update_session(work.id, host_seq=9)
        with pytest.raises(ValueError), book.atomic():
            raise ValueError
    assert book.sessions() == [work]
    book.update_session(work.id, host_seq=3)
    assert book.sessions()[0].host_seq == 3


def test_nothing_is_written_after_a_failure_in_the_block(book: Journal, work: SessionRecord) -> None:
    """Once a part of a block has failed the rest of it is refused, also when SQLite has ended the transaction."""
    with pytest.raises(JournalError), book.atomic():
        book.update_session(work.id, host_seq=9)
        book._database.row("PRAGMA max_page_count = 1")
        with pytest.raises(JournalFull):
            book.queue(work, "c" * 100_000, at=at(1), started=True)
        with pytest.raises(JournalError, match="a part of the change had failed"):
            book.update_session(work.id, host_seq=10)
    assert book.sessions() == [work]


def test_a_value_that_cannot_be_kept_takes_no_number(book: Journal, work: SessionRecord) -> None:
    """What Python refuses before SQLite sees it leaves no gap either."""
    first, second = run(book, work), run(book, work)
    with pytest.raises(UnicodeEncodeError):
        book.queue(work, "\ud800", at=at(1), started=True)
    assert run(book, work) - second == second - first


def test_a_commit_is_there_for_the_next_to_open(path: Path) -> None:
    """What was committed is read by the next journal, also when this one was not closed but its process forgot it."""
    book = Journal.open(str(path))
    work = add(book, session())
    execution_id = run(book, work, output="kept")
    book._database._connection.close()
    book = Journal.open(str(path))
    assert book.output(execution_id) == [("stdout", 0, "kept")]
    book.close()


# ---- output ----

texts = st.lists(
    st.tuples(
        st.sampled_from(("stdout", "stderr", "result", "traceback")),
        st.text(st.sampled_from("ab\n\té→日🐍"), min_size=1, max_size=12),
        st.sampled_from((0, 0, 0, 1, 5)),  # bytes dropped before it
    ),
    max_size=8,
)


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Journal, SessionRecord]]:
    """A journal that all examples of a property share."""
    opened = Journal.open(str(tmp_path_factory.mktemp("shelf") / "journal.db"))
    yield opened, add(opened, session())
    opened.close()


def written(shelf: tuple[Journal, SessionRecord], chunks: list[tuple[str, str, int]]) -> tuple[int, list[Piece]]:
    """An execution with these pieces of output, and the pieces with their offsets."""
    book, owner = shelf
    pieces: list[Piece] = []
    offset = 0
    with book.atomic():
        execution_id = book.queue(owner, "x", at=at(1), started=True)
        for stream, text, dropped in chunks:
            offset += dropped
            pieces.append((msgspec.convert(stream, Stream), offset, text))
            book.add_output(owner, execution_id, pieces[-1][0], offset, text, at(2))
            offset += len(text.encode())
    return execution_id, pieces


def stored_bytes(pieces: list[Piece]) -> dict[int, int]:
    """Every byte of the output by its offset."""
    return {offset + index: byte for _, offset, text in pieces for index, byte in enumerate(text.encode())}


properties = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@properties
@given(chunks=texts)
def test_output_comes_back_in_order(shelf: tuple[Journal, SessionRecord], chunks: list[tuple[str, str, int]]) -> None:
    """All pieces of an output are there, each with its stream, its offset and its text."""
    execution_id, pieces = written(shelf, chunks)
    assert shelf[0].output(execution_id) == pieces


@properties
@given(chunks=texts, limit=st.integers(1, 40))
def test_pieces_reassemble(
    shelf: tuple[Journal, SessionRecord], chunks: list[tuple[str, str, int]], limit: int
) -> None:
    """Reading on from each piece's end gives every byte once, however the text was cut and whatever was dropped."""
    execution_id, pieces = written(shelf, chunks)
    seen: dict[int, int] = {}
    offset = 0
    while True:
        text, start, following = shelf[0].piece(execution_id, offset, limit)
        data = text.encode()
        assert following == start + len(data)
        assert start >= offset
        if not text:
            break
        assert len(data) <= limit or len(text) == 1
        seen.update((start + index, byte) for index, byte in enumerate(data))
        offset = following
    assert seen == stored_bytes(pieces)


@properties
@given(chunks=texts, offset=st.integers(0, 120), limit=st.integers(1, 40))
def test_piece_starts_at_the_character_of_its_offset(
    shelf: tuple[Journal, SessionRecord], chunks: list[tuple[str, str, int]], offset: int, limit: int
) -> None:
    """A piece begins at the start of the character at the offset, or where the output goes on after a gap."""
    execution_id, pieces = written(shelf, chunks)
    stored = stored_bytes(pieces)
    text, start, following = shelf[0].piece(execution_id, offset, limit)
    data = text.encode()
    assert data == bytes(stored[index] for index in range(start, following))
    later = [index for index in stored if index >= offset]
    if not later:
        assert (text, start, following) == ("", offset, offset)
    elif offset in stored:
        assert start <= offset < start + 4
        assert following > offset
    else:
        assert start == min(later)


@properties
@given(chunks=texts, head=st.integers(0, 60), tail=st.integers(0, 60))
def test_limits_keep_head_and_tail(
    shelf: tuple[Journal, SessionRecord], chunks: list[tuple[str, str, int]], head: int, tail: int
) -> None:
    """With limits a long output is its first and last bytes, whole characters, and a short one is all of it."""
    execution_id, pieces = written(shelf, chunks)
    stored = stored_bytes(pieces)
    end = max(stored, default=-1) + 1
    kept = stored_bytes(shelf[0].output(execution_id, head, tail))
    assert kept.items() <= stored.items()
    if end <= head + tail:
        assert kept == stored
        return
    wanted = {index for index in stored if index < head or index >= end - tail}
    assert kept.keys() <= wanted
    for missing in wanted - kept.keys():  # the rest of a character that the limit cuts
        assert head - 3 <= missing < head or end - tail <= missing < end - tail + 3


@properties
@given(chunks=texts, needle=st.text(st.sampled_from("ab\né→🐍"), min_size=1, max_size=4), limit=st.integers(1, 5))
def test_find_sees_across_pieces(
    shelf: tuple[Journal, SessionRecord], chunks: list[tuple[str, str, int]], needle: str, limit: int
) -> None:
    """A text is found wherever it stands, across the borders of pieces, but never across dropped bytes."""
    execution_id, pieces = written(shelf, chunks)
    stored, wanted = stored_bytes(pieces), needle.encode()
    places = [
        start for start in sorted(stored) if all(stored.get(start + index) == byte for index, byte in enumerate(wanted))
    ]
    assert shelf[0].find(execution_id, needle, limit) == places[:limit]


@properties
@given(chunks=texts, limit=st.integers(1, 6))
def test_events_of_an_execution_read_in_any_pages(
    shelf: tuple[Journal, SessionRecord], chunks: list[tuple[str, str, int]], limit: int
) -> None:
    """An execution's own feed, read a few at a time, is what the whole feed tells of it."""
    book, owner = shelf
    before = book.last_event_id()
    execution_id, _ = written(shelf, chunks)
    book.finish(owner, execution_id, status="ok", finished_at=at(3))
    whole = book.events(before, 1000)
    read: list[tuple[int, bytes]] = []
    while rows := book.events(read[-1][0] if read else 0, limit, execution_id):
        assert len(rows) <= limit
        read += rows
    assert read == whole


def test_output_that_is_not_there_is_empty(book: Journal, work: SessionRecord) -> None:
    """An execution without output has no pieces; empty text adds none and has no event."""
    execution_id = book.queue(work, "x", at=at(1), started=True)
    last = book.last_event_id()
    assert book.add_output(work, execution_id, "stdout", 0, "", at(2)) == 0
    assert book.last_event_id() == last
    assert book.output(execution_id) == []
    assert book.output(execution_id, 10, 10) == []
    assert book.piece(execution_id, 0, 10) == ("", 0, 0)
    assert book.piece(execution_id, 7, 10) == ("", 7, 7)
    assert book.find(execution_id, "x", 10) == []
    assert book.find(execution_id, "", 10) == []


def test_large_output_is_never_held_whole(book: Journal, work: SessionRecord) -> None:
    """Pieces, searches and bounded outputs of a large output take memory for what they answer, not for all of it."""
    chunk, count = "0123456789abcde\n" * 4096, 256
    execution_id = book.queue(work, "flood", at=at(1), started=True)
    with book.atomic():
        for index in range(count):
            book.add_output(work, execution_id, "stdout", index * len(chunk), chunk, at(2))
        book.add_output(work, execution_id, "stdout", count * len(chunk), "end→", at(2))
    total = count * len(chunk) + 6
    assert found(book, work, execution_id).output_bytes == total
    tracemalloc.start()
    assert book.piece(execution_id, count // 2 * len(chunk) + 3, 100)[0].startswith("3456789abcde\n")
    assert book.find(execution_id, "\nend", 10) == [total - 7]
    head, *_, tail = book.output(execution_id, 1000, 1000)
    assert (head[2], tail) == ((chunk * 2)[:1000], ("stdout", total - 6, "end→"))
    lines = book.events(0, 100_000)
    answered = sum(len(line) for _, line in lines)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert answered < journal.EVENTS_BYTES + 2 * len(chunk)
    assert peak < 3 * journal.EVENTS_BYTES < total


def test_repeated_piece_is_told_as_it_came(book: Journal, work: SessionRecord) -> None:
    """A host that says a piece twice gets both recorded, and reading on from piece to piece still ends."""
    execution_id = book.queue(work, "x", at=at(1), started=True)
    for _ in range(2):
        book.add_output(work, execution_id, "stdout", 0, "ab", at(2))
    assert book.output(execution_id) == [("stdout", 0, "ab")] * 2
    assert book.piece(execution_id, 0, 10) == ("ab", 0, 2)
    assert book.piece(execution_id, 2, 10) == ("", 2, 2)
    assert len(book.events(0, 10, execution_id)) == 4


def test_questions_about_one_execution_scan_no_table(book: Journal, work: SessionRecord) -> None:
    """Whatever is asked of a session or an execution is found by an index, however long the history."""
    execution_id = run(book, work, output="o", key="k")
    asked: list[str] = []
    connection = book._database._connection
    connection.set_trace_callback(asked.append)
    book.queue(work, "x", at=at(2), started=True)
    book.by_key(work.id, "k")
    book.unfinished(work.id)
    book.execution(work.id, execution_id)
    book.executions(work.id, execution_id - 1, 10)
    book.output(execution_id, 0, 0)
    book.output(execution_id)
    book.piece(execution_id, 0, 10)
    book.find(execution_id, "o", 10)
    book.events(execution_id, 10)
    book.events(execution_id, 10, execution_id)
    book.oldest_event_id()
    connection.set_trace_callback(None)
    questions = [statement for statement in asked if statement.startswith("SELECT")]
    assert len(questions) >= 12
    for statement in questions:
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
        assert not [step for step in plan if step.startswith("SCAN") and step != "SCAN sqlite_sequence"], statement


# ---- events ----


def test_feed_tells_every_kind_as_its_message(book: Journal) -> None:
    """Each event is one line of JSON, id first, that reads back as the message it was."""
    work = add(book, session())
    execution_id = book.queue(work, "prïnt()", at=at(1), started=False)
    book.start(work, execution_id, at(2))
    who = (work.id, work.name)
    sent = [
        SessionChanged(at(3), *who, "busy", None, 7, Limits(), {}),
        InputRequested(at(4), *who, execution_id, "näme? ", False),
        InputAnswered(at(5), *who, execution_id, None),
        LateOutput(at(6), *who, "stderr", "late\n"),
    ]
    for event in sent:
        book.append(event)
    book.add_output(work, execution_id, "stdout", 0, "a\n→", at(7))
    book.finish(work, execution_id, status="ok", finished_at=at(8), duration_ms=1.5, execution_count=1)
    rows = book.events(0, 100)
    assert [event_id for event_id, _ in rows] == list(range(1, 10))
    for event_id, line in rows:
        assert line.startswith(b'{"id":%d,"kind":"' % event_id)
        assert b"\n" not in line
    expected = [
        SessionCreated(at(0), *who, "python", {}),
        ExecutionQueued(at(1), *who, execution_id, "prïnt()"),
        ExecutionStarted(at(2), *who, execution_id),
        *sent,
        OutputEvent(8, at(7), *who, execution_id, "stdout", 0, "a\n→"),
        ExecutionFinished(at(8), *who, execution_id, "ok", None, 1.5, 1, False),
    ]
    assert [msgspec.json.decode(line, type=type(event)) for (_, line), event in zip(rows, expected, strict=True)] == (
        expected
    )
    assert book.events(0, 100, execution_id) == [row for row in rows if row[0] not in (1, 4, 7)]
    assert book.events(3, 2) == rows[3:5]
    assert book.events(9, 10) == []


acts = st.lists(
    st.tuples(st.sampled_from(["queue", "run", "start", "print", "tell", "requeue", "end"]), st.integers(0, 9))
)


@given(acts=acts, limit=st.integers(1, 4))
def test_feed_tells_each_thing_once_in_its_order(
    shelf: tuple[Journal, SessionRecord], acts: list[tuple[str, int]], limit: int
) -> None:
    """However executions are interleaved, and in whatever pages the feed is read."""
    book, owner = shelf
    since = book.last_event_id()
    happened: list[tuple[str, int]] = []
    queued: list[int] = []
    running: list[int] = []
    for act, choice in acts:
        if act in ("queue", "run"):
            id = book.queue(owner, "x", at=at(1), started=act == "run")
            happened.append(("execution_queued", id))
            (running if act == "run" else queued).append(id)
            if act == "run":
                happened.append(("execution_started", id))
        elif act == "start" and queued:
            running.append(id := queued.pop(choice % len(queued)))
            book.start(owner, id, at(2))
            happened.append(("execution_started", id))
        elif act == "tell":
            book.append(LateOutput(at(3), owner.id, owner.name, "stdout", "late"))
            happened.append(("late_output", 0))
        elif running and act in ("print", "requeue", "end"):
            id = running[choice % len(running)]
            if act == "print":
                book.add_output(owner, id, "stdout", len(happened), "o", at(3))
                happened.append(("output", id))
                continue
            running.remove(id)
            if act == "end":
                book.finish(owner, id, status="ok", finished_at=at(4))
                happened.append(("execution_finished", id))
            else:
                book.requeue(id)
                happened.remove(("execution_started", id))
                queued.append(id)
    told: list[tuple[str, int]] = []
    while rows := book.events(since, limit):
        assert len(rows) <= limit
        assert all(earlier < later for (earlier, _), (later, _) in pairwise([(since, b""), *rows]))
        since = rows[-1][0]
        lines = [msgspec.json.decode(line) for _, line in rows]
        told += [(line["kind"], line.get("execution_id", 0)) for line in lines]
    assert told == happened
    with book.atomic():
        for id in (*queued, *running):
            book.finish(owner, id, status="cancelled", finished_at=at(5))


def test_pruning_takes_events_and_nothing_else(book: Journal, work: SessionRecord) -> None:
    """Pruned events leave the feed; executions, output and what an execution tells of itself stay."""
    other = add(book, session("other"))
    execution_id = run(book, work, output="kept", key="k")
    told, record = book.events(0, 100, execution_id), found(book, work, execution_id)
    for _ in range(10):
        run(book, other)
    last = book.last_event_id()
    assert book.prune_events(5) == last - 5
    assert (book.oldest_event_id(), book.last_event_id()) == (last - 4, last)
    assert [event_id for event_id, _ in book.events(0, 100)] == list(range(last - 4, last + 1))
    assert book.events(0, 100, execution_id) == told
    assert found(book, work, execution_id) == record
    assert book.output(execution_id) == [("stdout", 0, "kept")]
    assert book.prune_events(5) == 0


def test_oldest_event_is_the_next_one_when_none_is_kept(book: Journal) -> None:
    """Without events the oldest is the one to come, so that a reader of nothing sees no gap."""
    assert (book.oldest_event_id(), book.last_event_id()) == (1, 0)
    work = add(book, session())
    assert (book.oldest_event_id(), book.last_event_id()) == (1, 1)
    run(book, work)
    book.prune_events(0)
    last = book.last_event_id()
    assert book.oldest_event_id() == last + 1


def test_reading_changes_nothing(book: Journal, work: SessionRecord, path: Path) -> None:
    """No question to the journal alters a byte of its files."""
    execution_id = run(book, work, output="o" * 1000, key="k")
    before = [(file, file.read_bytes()) for file in sorted(path.parent.iterdir())]
    book.sessions()
    book.by_key(work.id, "k")
    book.unfinished(work.id)
    book.execution(work.id, execution_id)
    book.executions(work.id, 0, 10)
    book.output(execution_id, 10, 10)
    book.piece(execution_id, 3, 10)
    book.find(execution_id, "o", 10)
    book.events(0, 10)
    book.events(0, 10, execution_id)
    book.oldest_event_id()
    assert [(file, file.read_bytes()) for file in sorted(path.parent.iterdir())] == before
