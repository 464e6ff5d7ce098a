"""The commands about saved state: save, snapshot, snapshots, restore, timeline."""

from __future__ import annotations

from urllib.parse import quote

from omega_sessiond.client import Json, session_path
from omega_sessiond.invocation import Invocation
from omega_sessiond.screen import Column, size
from omega_sessiond.statewords import checkpoint_words, node_words, tree
from omega_sessiond.terminal import one_line


def save(call: Invocation) -> int:
    """omegactl save."""
    row = call.client.post(f"{session_path(call.args.name)}/save", {})
    if call.args.json or call.args.format:
        call.screen.json(row)
    else:
        call.screen.say(f"Saved {row['name']}: {checkpoint_words(row['checkpoint'])}.")
        for name, reason in sorted(row["checkpoint"]["left_out"].items()):
            call.screen.warn(one_line(f"left out: {name}: {reason}"))
        for obstacle in row["checkpoint"]["obstacles"]:
            call.screen.warn(one_line(f"in no checkpoint: {obstacle}"))
    return 0


# ---- snapshots ----


def snapshot(call: Invocation) -> int:
    """omegactl snapshot."""
    args = call.args
    path = f"{session_path(args.name)}/snapshots"
    if args.delete:
        call.client.request("DELETE", f"{path}/{quote(args.snapshot, safe='')}")
        if args.json or args.format:
            call.screen.json({"deleted": args.snapshot})
        else:
            call.screen.say(f"Forgot snapshot {args.snapshot} of {args.name}.")
        return 0
    row = call.client.post(path, {"name": args.snapshot, "note": args.note, "tags": args.tag or []})
    if args.json or args.format:
        call.screen.json(row)
    else:
        call.screen.say(f"Snapshot {row['name']} of {args.name}: after execution {row['execution_id']}.")
        for name, reason in sorted(row["left_out"].items()):
            call.screen.warn(one_line(f"left out: {name}: {reason}"))
    return 0


def snapshots(call: Invocation) -> int:
    """omegactl snapshots."""
    screen = call.screen
    rows = call.client.get(f"{session_path(call.args.name)}/snapshots")
    if not rows and call.form == "table":
        screen.say("No snapshots.")
        return 0
    screen.rows(
        rows,
        [
            Column("NAME", lambda row: row["name"], is_flexible=True),
            Column("AT", lambda row: screen.when(row["at"]), is_right=True),
            Column("AFTER", lambda row: str(row["execution_id"]), is_right=True),
            Column("SIZE", lambda row: size(row["size_bytes"]), is_right=True),
            Column("LEFT OUT", lambda row: ", ".join(sorted(row["left_out"])) or "-", is_flexible=True),
            Column("TAGS", lambda row: ",".join(row["tags"]) or "-", is_flexible=True),
            Column("NOTE", lambda row: one_line(row["note"] or row["automatic"] or "-"), is_flexible=True),
        ],
        call.form,
    )
    return 0


def restore(call: Invocation) -> int:
    """omegactl restore."""
    args = call.args
    body: Json = {"snapshot": args.snapshot}
    if args.into is not None:
        body["into"] = args.into
    restored = call.client.post(f"{session_path(args.name)}/restore", body)
    if args.json or args.format:
        call.screen.json(restored)
    else:
        call.screen.say(f"{restored['session']['name']}: {restored['note']}")
    return 0


# ---- the timeline ----


def timeline(call: Invocation) -> int:
    """omegactl timeline."""
    args = call.args
    path = f"{session_path(args.name)}/timeline"
    found = call.client.get(path if args.count is None else f"{path}?limit={args.count}")
    if call.form in ("table", "wide"):
        for lead, node in tree(found["nodes"]):
            line = lead + node_words(node, call.screen.when(node["at"]))
            call.screen.line(one_line(line)[: call.screen.width if call.screen.is_terminal else None])
    elif call.form == "json":
        call.screen.json(found)
    elif call.form == "name":
        for node in found["nodes"]:
            if node["kind"] != "loss":  # which has the names of variables alone
                call.screen.line(str(node["execution_id"] if node["kind"] == "execution" else node["title"]))
    else:
        call.screen.rows(found["nodes"], [], "jsonl")
    return 0
