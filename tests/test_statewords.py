"""Saved state in words: a timeline's lines, and what a checkpoint holds."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from omega_sessiond.statewords import ASIDE, MARKS, checkpoint_words, lost_words, node_words, of_limit, tree


def node(id: int, parent: int | None, kind: str, title: str = "x") -> dict[str, Any]:
    return {"id": id, "parent": parent, "kind": kind, "at": "", "title": title, "detail": "ok", "execution_id": id}


@st.composite
def timelines(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Nodes in any shape that the API may answer: each after its parent, nothing after what stands aside."""
    nodes: list[dict[str, Any]] = []
    for id in range(1, draw(st.integers(1, 15))):
        parents = [None, *(made["id"] for made in nodes if made["kind"] not in ASIDE)]
        nodes.append(node(id, draw(st.sampled_from(parents)), draw(st.sampled_from(sorted(MARKS)))))
    return nodes


@given(timelines())
def test_each_node_has_a_line_below_its_parent(nodes: list[dict[str, Any]]) -> None:
    """No node is left out; it stands below its parent, as far to the right or one step further, and what stands aside
    is always further."""
    lines = list(tree(nodes))
    assert sorted(drawn["id"] for _, drawn in lines) == [made["id"] for made in nodes]
    leads: dict[int | None, str] = {None: ""}
    for lead, drawn in lines:
        above = leads[drawn["parent"]]
        further = drawn["parent"] is not None and drawn["kind"] in ASIDE
        assert lead == above + "│ " or (lead == above and not further)
        leads[drawn["id"]] = lead


def test_the_newest_branch_that_ran_is_the_trunk() -> None:
    """What was given up stands to the right of what went on; a snapshot does so also where nothing went on yet."""
    nodes = [
        node(1, None, "execution", "x = 1"), node(2, 1, "execution", "given up"), node(3, 1, "restore", "first"),
        node(4, 3, "execution", "goes on"), node(5, 2, "snapshot", "kept"), node(6, 4, "snapshot", "last"),
    ]  # fmt: skip
    assert [lead + node_words(drawn, "now") for lead, drawn in tree(nodes)] == [
        "· 1  x = 1  (ok, now)",
        "│ · 2  given up  (ok, now)",
        "│ │ ◆ snapshot kept: ok  (now)",
        "↩ restored first: ok  (now)",
        "· 4  goes on  (ok, now)",
        "│ ◆ snapshot last: ok  (now)",
    ]


def test_a_checkpoint_names_what_it_lacks() -> None:
    """Some of it by name, the rest by number; and what came after it."""
    lacking = dict.fromkeys("abcd", "cannot be pickled")
    found = {
        "id": "1", "execution_id": 7, "size_bytes": 2048, "complete": False, "is_current": False, "left_out": lacking,
        "obstacles": ["thread t"], "trouble": None,
    }  # fmt: skip
    assert checkpoint_words(found).startswith("but for a, b, c and 2 more, after execution 7, ")
    assert checkpoint_words(found).endswith(", not what came after it")
    assert checkpoint_words(None) == "nothing yet"


def test_losses_and_limits_in_words() -> None:
    """What is lost is named where it has names; a figure has a limit beside it only where there is one."""
    assert lost_words({"variables": "all", "reason": "killed"}) == "all variables (killed)"
    assert lost_words({"variables": ["a", "b"], "reason": "killed"}) == "a, b (killed)"
    assert lost_words({"variables": [], "reason": "killed"}) == "no variable that is known by name (killed)"
    assert (of_limit("12M", "-"), of_limit("12M", "4.0G")) == ("12M", "12M of 4.0G")
