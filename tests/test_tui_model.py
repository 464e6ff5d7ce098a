"""The model and its transcripts: listings and events folded, whatever their order and pieces."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from omega_sessiond.messages import iso
from tui import filter
from tui.model import Model, Session
from tui.tape import LINE_CHARS, MAX_LINES, TRIMMED_LINES, Past, Tape

AT = iso(1_700_000_000.0)


def view(id: str, name: str, **fields: Any) -> dict[str, Any]:
    """A session as the API shows it."""
    return {
        "id": id, "name": name, "engine": "python", "state": "idle", "state_reason": None, "pid": 1,
        "python": None, "cwd": "/", "created_at": AT, "last_used_at": AT, "execution_count": 0, "queue_length": 0,
        "running_execution_id": None, "limits": {}, "usage": None, "labels": {}, **fields,
    }  # fmt: skip


def event(kind: str, id: int, session: str = "s", **fields: Any) -> dict[str, Any]:
    return {"id": id, "kind": kind, "at": AT, "session_id": session, "session": session, **fields}


def usage(at: float, cpu_s: float | None, memory: int | None = 1) -> dict[str, Any]:
    return {"source": "proc", "sampled_at": iso(at), "memory_bytes": memory, "memory_peak_bytes": memory,
            "tasks": 1, "cpu_s": cpu_s}  # fmt: skip


TEXTS = st.text(alphabet="ab\n\r\x1b[1mé", max_size=20)

KINDS = st.sampled_from(
    ["execution_queued", "execution_started", "execution_finished", "input_requested", "input_answered",
     "session_changed", "session_created", "session_deleted", "output", "late_output", "gap", "from_next_year"]
)  # fmt: skip


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Any events, in any order, as a reader may meet them that begins somewhere."""
    events = []
    for id in range(1, draw(st.integers(1, 40))):
        execution = draw(st.integers(1, 4))
        events.append(
            event(
                draw(KINDS), id, draw(st.sampled_from("abc")),
                since=0, oldest_id=1, execution_id=execution, command=draw(TEXTS), offset=draw(st.integers(0, 50)),
                text=draw(TEXTS), stream="stdout", prompt="?", secret=False, engine="python", labels={},
                state=draw(st.sampled_from(["idle", "busy", "dead"])), state_reason=None, pid=None, limits={},
                status=draw(st.sampled_from(["ok", "error", "died", "interrupted", "cancelled"])), reason=None,
                duration_ms=1.0, execution_count=draw(st.integers(0, 9)), should_exit=False,
            )
        )  # fmt: skip
    return events


@given(histories())
def test_any_events_make_a_picture(events: list[dict[str, Any]]) -> None:
    """Whatever comes is folded: nothing raises, deleted sessions are gone, and busy ones name what runs."""
    model = Model()
    for id in "abc":
        model.watch(id).load([], has_older=False)
    for number, happened in enumerate(events):
        model.apply(happened)
        if happened["kind"] == "session_deleted":
            assert happened["session_id"] not in model.sessions
        assert model.last_event_id == happened["id"]
        if number % 7 == 0:
            changed, _ = model.take_changes()
            assert changed <= {"a", "b", "c"}
    for session in model.sessions.values():
        assert session.queued >= 0
    assert model.counts().sessions == len(model.sessions)


@given(histories())
def test_changes_are_told_once(events: list[dict[str, Any]]) -> None:
    """What was taken as changed is not told again until it changes again."""
    model = Model()
    for happened in events:
        model.apply(happened)
    model.take_changes()
    assert model.take_changes() == (set(), False)


@given(st.text(alphabet="ab\n", max_size=300), st.lists(st.integers(1, 9), min_size=1, max_size=60))
def test_output_is_the_same_in_any_pieces(text: str, sizes: list[int]) -> None:
    """Lines do not depend on how their text was cut."""
    whole, pieces = Tape(), Tape()
    for tape in (whole, pieces):
        tape.load([], has_older=False)
        tape.apply(event("execution_queued", 1, execution_id=1, command="run"), 0)
        tape.apply(event("execution_started", 2, execution_id=1), 0)
    whole.apply(event("output", 3, execution_id=1, stream="stdout", offset=0, text=text), 0)
    offset = 0
    for number in range(len(text)):
        size = sizes[number % len(sizes)]
        part = text[offset : offset + size]
        if not part:
            break
        pieces.apply(event("output", 4 + number, execution_id=1, stream="stdout", offset=offset, text=part), 0)
        offset += len(part.encode())
    assert pieces.text() == whole.text()


@given(st.integers(0, 60), st.text(alphabet="ab\né", max_size=60))
def test_loaded_and_live_output_meet(cut: int, text: str) -> None:
    """What the journal had and what the feed repeats stands once, wherever they meet."""
    loaded = text.encode()[:cut].decode(errors="ignore")
    tape = Tape()
    tape.apply(event("output", 5, execution_id=1, stream="stdout", offset=0, text=text), 0)  # came while it was read
    execution = {"id": 1, "command": "run", "status": "running", "reason": None, "execution_count": None,
                 "started_at": AT, "duration_ms": None, "lost": None, "data": None}  # fmt: skip
    tape.load([Past(execution, loaded, len(loaded.encode()), 0)], has_older=False)
    assert tape.text() == "1> run" + ("\n" + text.removesuffix("\n") if text else "")


def test_missing_output_is_counted() -> None:
    """Output that nobody kept is told with its bytes."""
    tape = Tape()
    tape.load([], has_older=False)
    tape.apply(event("execution_started", 1, execution_id=1), 0)
    tape.apply(event("output", 2, execution_id=1, stream="stdout", offset=100, text="late\n"), 0)
    assert tape.text().split("\n")[1:] == ["── 100 bytes are not kept ──", "late"]


def test_tape_is_bounded_and_numbers_stay() -> None:
    """Old lines go, in bulk; those that stay keep their numbers; endless lines are cut."""
    tape = Tape()
    tape.load([], has_older=False)
    for number in range(3 * MAX_LINES // 100):
        text = "".join(f"{number * 100 + line}\n" for line in range(100))
        tape.apply(event("late_output", number + 1, stream="stdout", text=text), 0)
    assert len(tape) <= MAX_LINES + TRIMMED_LINES + 100
    assert tape.end == 3 * MAX_LINES
    assert all(tape[number].text == str(number) for number in (tape.first, tape.end - 1))
    tape.apply(event("late_output", 10**6, stream="stdout", text="x" * 100_000 + "\n"), 0)
    assert len(tape[tape.end - 1].text) <= LINE_CHARS + 2


def test_older_executions_come_before() -> None:
    """What is loaded later from further back stands above, and the numbers of what was there stay."""
    tape = Tape()
    done = {"command": "now", "status": "ok", "reason": None, "execution_count": 2, "started_at": AT,
            "duration_ms": 1.0, "lost": None, "data": None}  # fmt: skip
    tape.load([Past({**done, "id": 9}, "new\n", 4, 0)], has_older=True)
    line = tape[tape.first]
    assert tape.prepend([Past({**done, "id": 3, "command": "then"}, "old\n", 4, 0)], has_older=False) == 2
    assert tape[0] == line
    assert tape.text() == "2> then\nold\n2> now\nnew"
    assert (tape.oldest_id, tape.has_older) == (3, False)


def test_secret_answers_are_in_no_line() -> None:
    """An answer whose text the daemon keeps to itself is told as given."""
    tape = Tape()
    tape.load([], has_older=False)
    tape.apply(event("execution_started", 1, execution_id=1), 0)
    tape.apply(event("output", 2, execution_id=1, stream="stdout", offset=0, text="password: "), 0)
    tape.apply(event("input_answered", 3, execution_id=1, text=None), 0)
    assert tape.text().endswith("password: (a secret, or end of file)")


def test_processor_use_is_between_samples() -> None:
    """The share of a core is the time used between two samples over the time between; a new process begins anew."""
    model = Model()
    model.replace([view("1", "work", usage=usage(100.0, 5.0))])
    session = model.sessions["1"]
    assert session.cpu is None
    model.update(view("1", "work", usage=usage(102.0, 6.0)))
    assert session.cpu == 0.5
    model.update(view("1", "work", usage=usage(104.0, 0.1)))
    assert session.cpu is None


def test_stale_answers_change_usage_alone() -> None:
    """A session read before an event and answered after it does not undo what the event said."""
    model = Model()
    model.replace([view("1", "work")])
    version = model.sessions["1"].version
    model.apply(event("execution_started", 7, "1", execution_id=3))
    model.refine(view("1", "work", usage=usage(100.0, 5.0, memory=77)), version)
    assert (model.sessions["1"].state, model.sessions["1"].memory_bytes) == ("busy", 77)


def test_listing_is_the_truth_after_a_gap() -> None:
    """Sessions that a listing does not have are gone."""
    model = Model()
    model.replace([view("1", "a"), view("2", "b")])
    model.take_changes()
    model.replace([view("2", "b", state="dead")])
    assert [session.state for session in model.sessions.values()] == ["dead"]
    assert model.take_changes()[1]


LABELLED = Session("1", "alpha", engine="python", state="busy", labels={"team": "red"}, last_command="train(df)")


@settings(max_examples=50)
@given(st.text(alphabet="a!:=st label\x1b", max_size=30))
def test_any_filter_is_understood(text: str) -> None:
    """A filter that is being typed never fails."""
    assert filter.parse(text)(LABELLED) in (True, False)


def test_filters() -> None:
    """Text, state, engine and label narrow the list; `!` turns a word round; all words must hold."""
    matching = ["", "alp", "ALPHA", "train", "st:busy", "st:b eng:py", "label:team", "label:team=red", "!st:dead"]
    failing = ["beta", "st:dead", "eng:bash", "label:team=blue", "label:stage", "!alpha", "alpha !st:busy", "label:x="]
    assert [text for text in matching if not filter.parse(text)(LABELLED)] == []
    assert [text for text in failing if filter.parse(text)(LABELLED)] == []
