"""The commands about saved state: save."""

from __future__ import annotations

from omega_sessiond.client import Json, session_path
from omega_sessiond.invocation import Invocation
from omega_sessiond.screen import size
from omega_sessiond.terminal import one_line

NAMED = 3
"""How many of the things that a checkpoint lacks are named on one line."""


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
