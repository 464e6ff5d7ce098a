"""What happens to saved state is told in the feed: by whom it was asked for, in order, and once."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from daemon import wait_until
from life import Life

KINDS = ("state_saved", "snapshot_taken", "snapshot_removed", "session_restored")
WORK = "/api/sessions/work"


def told(life: Life, name: str = "work") -> list[dict[str, Any]]:
    """The events of saved state so far."""
    answer = life.call("GET", "/api/events?since=0&follow=0")
    events = [json.loads(line) for line in answer.body.splitlines()]
    return [event for event in events if event["kind"] in KINDS and event["session"] == name]


def test_each_act_is_an_event(life: Life) -> None:
    """A save, a snapshot, a restore and a removal that somebody asked for are each told with what they are about."""
    id = life.run("work", "x = 1; numbers = (n for n in range(3))")["id"]
    life.post(f"{WORK}/save")
    life.post(f"{WORK}/snapshots", {"name": "first", "note": "clean", "tags": ["a"]})
    life.run("work", "x = 2")
    kept = life.post(f"{WORK}/restore", {"snapshot": "first"})["kept_as"]
    life.post(f"{WORK}/restore", {"snapshot": "first", "into": "copy"})
    life.call("DELETE", f"{WORK}/snapshots/first")
    saved, taken, automatic, restored, copied, removed = told(life)
    assert (saved["kind"], saved["execution_id"], saved["left_out"]) == ("state_saved", id, ["numbers"])
    assert saved["size_bytes"] > 0
    assert (taken["kind"], taken["snapshot"], taken["note"], taken["tags"]) == (
        "snapshot_taken",
        "first",
        "clean",
        ["a"],
    )
    assert (taken["automatic"], taken["execution_id"], taken["checkpoint_id"]) == (None, id, saved["checkpoint_id"])
    assert (automatic["kind"], automatic["snapshot"]) == ("snapshot_taken", kept)
    assert automatic["automatic"] == "restore"
    assert (restored["kind"], restored["snapshot"], restored["kept_as"]) == ("session_restored", "first", kept)
    assert restored["into"] is None
    assert (copied["kind"], copied["into"], copied["kept_as"]) == ("session_restored", "copy", None)
    assert (removed["kind"], removed["snapshot"], removed["reason"]) == ("snapshot_removed", "first", "user")


def test_what_a_session_does_by_itself_is_told_where_a_name_comes_or_goes(lives: Callable[..., Life]) -> None:
    """A save of an idle session is no event; an automatic snapshot is one, and so is the oldest, which goes for it."""
    life = lives(save_interval_ms=50)
    for number in range(6):
        life.run("work", f"x = {number}")
        wait_until(lambda: (life.session("work")["checkpoint"] or {}).get("is_current"), "it is saved")
        life.post(f"{WORK}/restart")
    events = told(life)
    assert {event["kind"] for event in events} == {"snapshot_taken", "snapshot_removed"}
    names = [event["snapshot"] for event in events if event["kind"] == "snapshot_taken"]
    assert len(names) == 6
    gone = [(event["snapshot"], event["reason"]) for event in events if event["kind"] == "snapshot_removed"]
    assert gone == [(names[0], "newer")]
    assert [row["name"] for row in life.get(f"{WORK}/snapshots")] == names[1:]


def test_a_fork_of_what_is_saved_names_its_parent_at_once(life: Life) -> None:
    """The event of its creation says what it is a fork of, as that of a copied process does."""
    life.run("work", "x = 1")
    life.post(f"{WORK}/fork", {"name": "copy", "from_checkpoint": True})
    answer = life.call("GET", "/api/events?since=0&follow=0")
    created = [json.loads(line) for line in answer.body.splitlines() if b'"session_created"' in line]
    assert created[-1]["parent"]["session"] == "work"
    assert life.session("copy")["parent"] == created[-1]["parent"]
