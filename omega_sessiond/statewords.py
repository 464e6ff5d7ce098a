"""Saved state in words, for whoever shows it: what a checkpoint holds and lacks, and a timeline as the lines of a tree.

Pure: what the API answers in, text out, as untrusted as what it was made of. Does not know where it is shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from omega_sessiond.screen import size

Json = dict[str, Any]

NAMED = 3
"""How many of the things that a checkpoint lacks are named on one line."""

MARKS = {
    "execution": "·",
    "snapshot": "◆ snapshot",
    "restore": "↩ restored",
    "wake": "↩ woken from",
    "loss": "✗ lost",
    "copy": "→ copied into",
    "fork": "→ forked into",
    "origin": "↳ forked from",
}


UNNAMED = "no variable that is known by name"
"""What is lost where commands ran after the checkpoint whose text says nothing of what they changed."""

ASIDE = ("snapshot", "copy", "fork")
"""What nothing of this session follows."""


def checkpoint_words(checkpoint: Json | None) -> str:
    """What is saved of a session, in a few words."""
    if checkpoint is None:
        return "nothing yet"
    if checkpoint["id"] is None:
        return f"nothing: {checkpoint['trouble']}"
    lacking = [*sorted(checkpoint["left_out"]), *checkpoint["obstacles"]]
    what = "whole" if checkpoint["complete"] else f"but for {', '.join(lacking[:NAMED])}"
    if len(lacking) > NAMED:
        what += f" and {len(lacking) - NAMED} more"
    old = "" if checkpoint["is_current"] else ", not what came after it"
    return f"{what}, after execution {checkpoint['execution_id']}, {size(checkpoint['size_bytes'])}{old}"


def lost_words(lost: Json) -> str:
    """What a session no longer has, and why."""
    names = lost["variables"]
    what = "all variables" if names == "all" else ", ".join(names) or UNNAMED
    return f"{what} ({lost['reason']})"


def of_limit(used: str, limit: str) -> str:
    """A figure with its limit, where there is one: 12M, 12M of 4.0G."""
    return used if limit == "-" else f"{used} of {limit}"


def snapshots_words(kept: Json) -> str:
    """How many snapshots there are and what they take."""
    found = [f"{kept[kind]} {kind} ({size(kept[kind + '_bytes'])})" for kind in ("named", "automatic") if kept[kind]]
    return ", ".join(found) or "none"


def snapshots_kept(rows: list[Json]) -> Json:
    """The same of a list of snapshots, as POST /api/prune counts them: a checkpoint with several names once."""
    named = {row["checkpoint_id"]: row["size_bytes"] for row in rows if row["automatic"] is None}
    automatic = {row["checkpoint_id"]: row["size_bytes"] for row in rows if row["checkpoint_id"] not in named}
    by_hand = sum(row["automatic"] is None for row in rows)
    return {
        "named": by_hand,
        "named_bytes": sum(named.values()),
        "automatic": len(rows) - by_hand,
        "automatic_bytes": sum(automatic.values()),
    }


def tree(nodes: list[Json]) -> Iterator[tuple[str, Json]]:
    """The nodes of a timeline in the order of its lines, each with what leads its line: what went on stands below, what
    branched off stands to the right."""
    children: dict[int | None, list[Json]] = {}
    for node in nodes:
        children.setdefault(node["parent"], []).append(node)
    waiting = [(node, "") for node in reversed(children.get(None, []))]
    while waiting:
        node, lead = waiting.pop()
        yield lead, node
        below = children.get(node["id"], [])
        # The newest branch that ran something is the trunk.
        trunk = next((one for one in reversed(below) if one["kind"] not in ASIDE), None)
        if trunk is not None:
            waiting.append((trunk, lead))
        waiting += [(one, lead + "│ ") for one in reversed(below) if one is not trunk]


def node_words(node: Json, when: str) -> str:
    """What a node's line says behind its lead."""
    if node["kind"] == "execution":
        return f"{MARKS['execution']} {node['execution_id']}  {node['title']}  ({node['detail']}, {when})"
    detail = f": {node['detail']}" if node["detail"] else ""
    return f"{MARKS[node['kind']]} {node['title']}{detail}  ({when})"
