"""Events in words: each kind has a sentence, later kinds are told as they are, and hostile fields stay text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omega_sessiond import messages
from tui.roles import ASCII, ROLES, UNICODE
from tui.telling import line, plain, told

CONTROLS = [chr(code) for code in (*range(32), *range(0x7F, 0xA0))]


KINDS: list[tuple[dict[str, object], str]] = [
        ({"kind": "session_created", "engine": "python", "labels": {}}, "created, engine python"),
        ({"kind": "session_changed", "state": "dead", "state_reason": "out of memory"}, "dead: out of memory"),
        ({"kind": "session_deleted"}, "removed with its history"),
        ({"kind": "execution_queued", "execution_id": 7, "command": "x = 1\nx"}, "7 queued: x = 1 x"),
        ({"kind": "execution_started", "execution_id": 7}, "7 started"),
        ({"kind": "execution_started", "execution_id": 7, "resumed_from": "ab12"}, "7 started from checkpoint ab12"),
        ({"kind": "input_requested", "execution_id": 7, "prompt": "name? "}, "7 asks: name?"),
        ({"kind": "input_answered", "execution_id": 7, "text": "Ada"}, "7 was answered: Ada"),
        ({"kind": "input_answered", "execution_id": 7, "text": None}, "7 was answered"),
        (
            {"kind": "execution_finished", "execution_id": 7, "status": "interrupted", "reason": "user",
             "duration_ms": 90},
            "7 interrupted (user) after 90ms",
        ),
        ({"kind": "late_output", "text": "done\n"}, "printed after its command had ended: done"),
        ({"kind": "gap", "id": 9, "since": 3, "oldest_id": 9}, "what happened between 3 and 9 is no longer kept"),
        ({"kind": "new", "id": 4, "label": "before"}, 'new {"label": "before"}'),
        (
            {"kind": "session_created", "engine": "python", "labels": {}, "parent": {"session": "base"}},
            "created, engine python, a fork of base",
        ),
        ({"kind": "data", "execution_id": 7, "part": {"n": 0, "mime": "image/png"}}, "7 showed image/png"),
        (
            {"kind": "history_pruned", "executions": 3, "outputs": 1, "bytes": 4096, "up_to_id": 9, "reasons": []},
            "history went, to keep it within its limits: 3 executions and 1 outputs of others, 4.0K",
        ),
        (
            {"kind": "state_saved", "checkpoint_id": "a", "execution_id": 7, "size_bytes": 4096, "left_out": ["lock"],
             "obstacles": ["a thread"]},
            "saved after execution 7, 4.0K, but for lock, a thread",
        ),
        (
            {"kind": "snapshot_taken", "snapshot": "first", "note": "clean", "tags": [], "automatic": None,
             "execution_id": 7},
            "snapshot first of the state after execution 7: clean",
        ),
        (
            {"kind": "snapshot_taken", "snapshot": "before-restart-a", "note": "", "automatic": "restart",
             "execution_id": 7},
            "snapshot before-restart-a of the state after execution 7, by itself: restart",
        ),
        ({"kind": "snapshot_removed", "snapshot": "first", "reason": "user"}, "snapshot first removed"),
        (
            {"kind": "snapshot_removed", "snapshot": "before-restart-a", "reason": "newer"},
            "snapshot before-restart-a removed: there are newer ones",
        ),
        (
            {"kind": "session_restored", "snapshot": "first", "kept_as": "before-restore-b", "into": None},
            "goes on from snapshot first; what it had is snapshot before-restore-b",
        ),
        (
            {"kind": "session_restored", "snapshot": "first", "kept_as": None, "into": "copy"},
            "a copy goes on from snapshot first: copy",
        ),
]  # fmt: skip


def test_no_kind_is_forgotten() -> None:
    """Every kind of event that the daemon has is told in a sentence of its own here."""
    sent = [kind for kind in messages.Event.__subclasses__() if kind.__module__ == messages.__name__]
    kinds = {kind.__struct_config__.tag for kind in sent}
    assert kinds <= {fields["kind"] for fields, _ in KINDS}


@pytest.mark.parametrize(("fields", "words"), KINDS)
def test_each_kind_is_told(fields: dict[str, object], words: str) -> None:
    """An event is one sentence; one of a kind that is not known shows its fields."""
    assert told(fields).words == words


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3), max_leaves=4
)
names = ["engine", "state", "state_reason", "execution_id", "command", "prompt", "text", "status", "reason",
         "duration_ms", "since", "oldest_id", "session", "label", "snapshot", "automatic", "note", "kept_as", "into",
         "size_bytes", "left_out", "obstacles"]  # fmt: skip
kinds = ["session_created", "session_changed", "session_deleted", "execution_queued", "execution_started",
         "input_requested", "input_answered", "execution_finished", "late_output", "gap", "new",
         "state_saved", "snapshot_taken", "snapshot_removed", "session_restored"]  # fmt: skip


@given(st.sampled_from(kinds), st.dictionaries(st.sampled_from(names), values))
def test_whatever_an_event_holds_is_a_line(kind: str, fields: dict[str, object]) -> None:
    """No field, of whatever type and text, breaks a row or gets a control character into it."""
    event = {**fields, "kind": kind}
    for glyphs in (UNICODE, ASCII):
        row = line(event, 0.0, glyphs, {})
        assert not [control for control in CONTROLS if control in row.plain]
    assert not [control for control in CONTROLS if control in told(event).words]
    assert told(event).role in ROLES
    assert isinstance(plain(event), str)


def test_markup_in_an_event_is_text() -> None:
    """Names and commands stand in the row as they were written."""
    event = {"kind": "execution_queued", "session": "[b]x[/b]", "execution_id": 1, "command": "[@click=app.quit]go[/]"}
    row = line(event, 0.0, UNICODE, {})
    assert "[b]x[/b]" in row.plain and "[@click=app.quit]go[/]" in row.plain
    assert all("@click" not in str(span.style) for span in row.spans)
