"""How the daemon's service stands, in words: its headline, and tables of its units and of its fork servers.

Pure: a condition, or what the daemon says of itself, in, text out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from omega_sessiond.control import Background, Managed
from omega_sessiond.forkwords import NONE, preloaded_words, refused_words, state_words
from omega_sessiond.manager import TCP_SOCKET, Unit
from omega_sessiond.screen import duration, size
from tui.text import cell

Kind = Literal["active", "listening", "changing", "inactive", "failed", "broken", "running", "absent"]

Condition = Managed | Background
Json = dict[str, Any]

GAP = "  "


class Standing(NamedTuple):
    """One state: a role with glyph and word, and what it means with the next step, keys by their ids in braces."""

    kind: Kind
    word: str
    meaning: str


STYLES: dict[Kind, str] = {
    "active": "green",
    "listening": "green",
    "running": "green",
    "changing": "yellow",
    "inactive": "yellow",
    "absent": "yellow",
    "failed": "red",
    "broken": "red",
}
GLYPHS: dict[Kind, tuple[str, str]] = {
    "active": ("●", "*"),
    "listening": ("◌", "~"),
    "running": ("●", "*"),
    "changing": ("◐", "/"),
    "inactive": ("○", "o"),
    "absent": ("○", "o"),
    "failed": ("✗", "x"),
    "broken": ("✗", "x"),
}
"""And their like in ASCII."""


def standing(found: Condition) -> Standing:
    """The one state that the whole is in: the worst of its units counts."""
    match found:
        case Background(server=None):
            meaning = "The first command that needs the daemon starts it; {service_start} starts it now."
            return Standing("absent", "not running", meaning)
        case Background(server=server):
            assert server is not None, "the case before has that"
            by = {"client": "by a client", "foreground": "in the foreground"}.get(server["activation"], "by systemd")
            return Standing("running", "running", f"Version {server['version']}, started {by}.")
        case Managed():
            return _managed(found)


def _managed(found: Managed) -> Standing:
    socket, service = found.socket, found.service
    if failed := found.failed:
        names = ", ".join(f"{unit.name} ({unit.result})" for unit in failed)
        why = f"{names}. The log says why; {{service_reset_failed}} forgets the failure and listens again."
        return Standing("failed", "failed", why)
    for unit in (socket, service):
        if unit.load not in ("loaded", "not-found", ""):
            return Standing(
                "broken", unit.load, f"systemd has {unit.name} as '{unit.load}'; ./install.sh writes it anew."
            )
    if not service.is_installed:
        return Standing("broken", "half installed", f"{service.name} is missing; ./install.sh writes it anew.")
    for unit in (service, socket):
        if unit.active in ("activating", "deactivating", "reloading"):
            return Standing("changing", unit.active, f"systemd is at work on {unit.name} ({unit.sub}).")
    if service.active == "active":
        if socket.active != "active":
            return Standing("active", "active", f"The daemon runs, but {socket.name} is {socket.active}: once it has "
                            "left, nothing starts it again. {service_start} listens.")  # fmt: skip
        return Standing("active", "active", "The daemon runs. It leaves by itself when it is idle; sessions go on.")
    if socket.active == "active":
        return Standing("listening", "listening", "systemd listens; the first request starts the daemon.")
    meaning = "Nothing listens and nothing starts the daemon until {service_start} does. Sessions go on."
    return Standing("inactive", "stopped", meaning)


def headline(found: Condition, keyed: Callable[[str], str], *, is_ascii: bool = False) -> Text:
    """The state on one line, with which of the two ways runs the daemon beneath. `keyed` puts keys in their places."""
    state = standing(found)
    line = Text()
    line.append(f"{GLYPHS[state.kind][is_ascii]} {cell(state.word).plain}{GAP}", style=f"bold {STYLES[state.kind]}")
    line.append_text(_part(keyed(state.meaning)))
    line.append("\n")
    line.append_text(_part(found.way, "dim"))
    return line


def table(found: Condition, *, is_ascii: bool = False, now: float | None = None) -> Text:
    """The units, or the process, one a row."""
    now = time.time() if now is None else now
    if isinstance(found, Background):
        rows = [_process(found, is_ascii, now)]
        titles = ["PROCESS", "STATE", "SINCE", "PID", "MEMORY"]
    else:
        rows = [_unit(unit, is_ascii, now) for unit in found.units]
        titles = ["UNIT", "STATE", "SINCE", "PID", "MEMORY", "AT LOGIN"]
    return Text("\n").join(_laid_out(titles, rows))


def fork_table(server: Json | None, *, is_ascii: bool = False) -> Text:
    """The fork servers of a daemon, one a row, and beneath each its packages and those it has refused; nothing where no
    daemon says anything of them."""
    servers = None if server is None else server.get("fork_servers")
    if servers is None:
        return Text()
    if not servers:
        return _part(NONE, "dim")
    titles = ["FORK SERVER", "STATE", "FORKED", "INTERPRETER"]
    head, *rows = _laid_out(titles, [_fork_server(one, is_ascii) for one in servers])
    lines = [head]
    for one, row in zip(servers, rows, strict=True):
        lines.append(row)
        if preloaded := preloaded_words(one):
            lines.append(Text(GAP).append_text(_part(f"preloaded: {preloaded}")))
        lines += [Text(GAP).append_text(_part(f"refused: {refused}", "yellow")) for refused in refused_words(one)]
    return Text("\n").join(lines)


def _fork_server(one: Json, is_ascii: bool) -> list[Text]:
    kind: Kind = "running" if one["state"] == "ready" else "changing"
    return [
        _part(str(one["pid"])),
        _part(f"{GLYPHS[kind][is_ascii]} {state_words(one)}", STYLES[kind]),
        _part(str(one["births"])),
        _part(one["python"]),  # last: it may be as long as the row
    ]


def _laid_out(titles: Sequence[str], rows: Sequence[list[Text]]) -> list[Text]:
    """The lines of a table, each column as wide as its widest cell."""
    rows = [[_part(title, "dim") for title in titles], *rows]
    widths = [max(cell_len(row[at].plain) for row in rows) for at in range(len(titles))]
    lines = []
    for row in rows:
        line = Text()
        for shown, width in zip(row, widths, strict=True):
            line.append_text(shown)
            line.append(" " * (width - cell_len(shown.plain)) + GAP)
        line.rstrip()
        lines.append(line)
    return lines


def _unit(unit: Unit, is_ascii: bool, now: float) -> list[Text]:
    if not unit.is_installed:
        absent = _part(f"{GLYPHS['inactive'][is_ascii]} not installed", "dim")
        return [_part(unit.name, "dim"), absent, *[_part("-", "dim")] * 4]
    kind = _kind_of(unit)
    # A listener that nobody asked for is no trouble.
    is_unwanted = unit.name == TCP_SOCKET and kind == "inactive" and not unit.enabled.startswith("enabled")
    style = "dim" if is_unwanted else STYLES[kind]
    word = (
        "listening"
        if kind == "listening"
        else f"{unit.active} ({unit.sub})"
        if unit.sub != unit.active
        else unit.active
    )
    return [
        _part(unit.name),
        _part(f"{GLYPHS[kind][is_ascii]} {word}", style),
        _part(_since(unit.since, now)),
        _part("-" if unit.pid is None else str(unit.pid)),
        _part(size(unit.memory_bytes if unit.pid is not None else None)),
        # A unit without [Install] of its own is started by the others.
        _part(unit.enabled if unit.enabled and unit.name.endswith(".socket") else "-"),
    ]


def _kind_of(unit: Unit) -> Kind:
    match unit.active:
        case "active":
            return "listening" if unit.name.endswith(".socket") else "active"
        case "failed":
            return "failed"
        case "activating" | "deactivating" | "reloading":
            return "changing"
        case _:
            return "inactive"


def _process(found: Background, is_ascii: bool, now: float) -> list[Text]:
    state = standing(found)
    shown = _part(f"{GLYPHS[state.kind][is_ascii]} {state.word}", STYLES[state.kind])
    if found.server is None:
        return [_part("omega-sessiond"), shown, *[_part("-", "dim")] * 3]
    pid = found.server["pid"]
    return [
        _part("omega-sessiond"),
        shown,
        _part(_since(found.started, now)),
        _part(str(pid)),
        _part(size(found.memory_bytes)),
    ]


def _since(at: float | None, now: float) -> str:
    if at is None:
        return "-"
    return "now" if now - at < 1 else duration(round(now - at))


def _part(text: str, style: str = "") -> Text:
    """A piece of a line: as `cell`, but wrapped with the rest."""
    return Text(cell(text).plain, style=style)


def keys_that_apply(found: Condition) -> Sequence[str]:
    """The verbs that make sense as it stands."""
    if isinstance(found, Background):
        return ("start",) if found.server is None else ("stop", "restart")
    verbs = []
    if found.failed:
        verbs.append("reset-failed")
    if found.socket.active != "active":
        verbs.append("start")
    if found.socket.active in ("active", "failed") or found.service.active not in ("inactive", "failed"):
        verbs.append("stop")
    if found.service.active == "active":
        verbs.append("restart")
    verbs.append("disable" if found.socket.enabled.startswith("enabled") else "enable")
    return verbs
