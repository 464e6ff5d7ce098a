"""Fork servers in words, for whoever shows them: what new sessions are forked from, as GET /api/server tells it.

Pure: the daemon's answer in, text out, safe and on one line, for why a package was refused is what its import said.
Does not know where it is shown.
"""

from __future__ import annotations

from typing import Any

from omega_sessiond.terminal import one_line

Json = dict[str, Any]

NONE = "No fork server: each new session is started by itself."


def fork_lines(server: Json) -> list[str]:
    """A line for each fork server, or one that there is none; nothing of a daemon that does not speak of them."""
    servers = server.get("fork_servers")
    if servers is None:
        return []
    return [_line(one) for one in servers] or [NONE]


def state_words(one: Json) -> str:
    """Whether sessions can be forked from it, and whether those are as small and fast as they get."""
    if one["state"] != "ready":
        return one_line(str(one["state"]))
    return "ready, rehearsed" if one["is_rehearsed"] else "ready, not rehearsed yet"


def preloaded_words(one: Json) -> str:
    """The packages that its sessions begin with; "" when there are none."""
    return one_line(", ".join(one["preloaded"]))


def refused_words(one: Json) -> list[str]:
    """Each package of the settings that they do not begin with, and why."""
    return [one_line(f"{name} ({why})") for name, why in one["refused"].items()]


def _line(one: Json) -> str:
    forked = f"{one['births']} session{'' if one['births'] == 1 else 's'} forked from it"
    line = f"Fork server {one['pid']} of {one_line(one['python'])}: {state_words(one)}; {forked}"
    if preloaded := preloaded_words(one):
        line += f"; preloaded: {preloaded}"
    if refused := refused_words(one):
        line += f"; refused: {', '.join(refused)}"
    return line + "."
