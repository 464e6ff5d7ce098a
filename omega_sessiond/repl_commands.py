"""The REPL's own commands: a table, of which `:help` and docs/repl.md are made.

Most are a line of omegactl, with the session's name put in; a further one of that kind is one more row. The rest act on
the REPL itself. Which of two prefixes is ours depends on the engine: the other one belongs to the session.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from typing import Literal, NamedTuple, Protocol

from omega_sessiond.amounts import number_of
from omega_sessiond.invocation import Invocation, UsageError, suggestion
from omega_sessiond.keyboard import Keyboard
from omega_sessiond.repl_session import HISTORY, ReplSession
from omega_sessiond.screen import Screen

MAX_FILES = 200
"""File names that Tab offers."""

SHOWN = 20
"""Commands that `history` lists when nobody says how many."""


class Leave(Exception):
    """The user is done here; the session is not."""


class Desk(Protocol):
    """What a command can reach."""

    @property
    def call(self) -> Invocation: ...
    @property
    def session(self) -> ReplSession: ...
    @property
    def keyboard(self) -> Keyboard | None: ...
    def switch(self, name: str) -> None: ...
    def follow(self, execution_id: int | None) -> None: ...


class Row(NamedTuple):
    """A command of the REPL. `line` is that of omegactl which does it: in it "{name}" is the session, "{1}" and "{2}"
    are the first words typed, and "{rest}" those after them. `act` does what has no such line. `switches`: the first
    word typed is the session to go on in. `event`: what happens to the session's state then, by the snapshot typed."""

    name: str
    arguments: str
    help: str
    line: str = ""
    act: Callable[[Desk, str], None] | None = None
    switches: bool = False
    event: str = ""


def prefix(engine: str) -> str:
    """What our commands begin with: OmegaLLM has commands of its own with a colon, IPython's kernels with a percent
    sign, and no language begins a line with a colon and a letter."""
    return "%" if engine == "omega" else ":"


def is_command(text: str, engine: str) -> bool:
    """Whether a text is for us: our prefix and a letter right at its start, and one line. A blank before it, and it is
    the session's."""
    return text[:1] == prefix(engine) and text[1:2].isalpha() and "\n" not in text


def completions(text: str, engine: str) -> list[str]:
    """What a command that is begun may become: by its name, or by the file that it is to be given."""
    if not is_command(text, engine):
        return []
    name, blank, _ = text[1:].partition(" ")
    if not blank:
        return [prefix(engine) + row.name for row in ROWS if row.name.startswith(name)]
    row = find(name)
    if row is None or not row.arguments.startswith("FILE"):
        return []
    before, blank, word = text.rpartition(" ")
    return [before + blank + file for file in _files(word)]


def _files(word: str) -> list[str]:
    """What stands in the file system under names that begin so. Whoever quotes is left alone, and so is a name that
    would have to be quoted."""
    directory, slash, begun = word.rpartition("/")
    try:
        with os.scandir(directory + slash or ".") as entries:
            found = [entry.name + "/" * entry.is_dir() for entry in entries if entry.name.startswith(begun)]
    except OSError:
        return []
    shown = [name for name in found if shlex.quote(name) == name and (begun or not name.startswith("."))]
    return sorted(directory + slash + name for name in shown)[:MAX_FILES]


def run(desk: Desk, text: str) -> None:
    """Do what a command says. Raises Leave, OmegaError."""
    engine = desk.session.engine
    name, _, rest = text[1:].strip().partition(" ")
    rest = rest.strip()
    row = find(name)
    if row is None:
        near = suggestion(name, [row.name for row in ROWS])
        raise UsageError(
            f"unknown command '{text[0]}{name}'{near}",
            hint=f"{prefix(engine)}help lists them; with a blank before it the line goes to the session.",
        )
    if row.act is not None:
        row.act(desk, rest)
        return
    arguments = _arguments(row, rest, desk.session)
    if _omegactl(desk, arguments) != 0:
        return
    if row.switches:
        desk.switch(arguments[1])
    if row.name == "export" and "--state" in arguments:
        desk.session.done.add(("state_saved", ""))
    if row.event and "--into" not in arguments:
        event = "snapshot_removed" if "--delete" in arguments else row.event
        desk.session.done.add((event, arguments[2] if "{1}" in row.line else ""))


def find(name: str) -> Row | None:
    """The row of a command, by its name or another word for it."""
    name = ALIASES.get(name, name)
    return next((row for row in ROWS if row.name == name), None)


def _arguments(row: Row, rest: str, session: ReplSession) -> list[str]:
    """The command line of omegactl that a row stands for. Raises UsageError where words are missing."""
    try:
        typed = [os.path.expanduser(word) if word.startswith("~") else word for word in shlex.split(rest)]
    except ValueError as error:
        raise UsageError(f"{error} in: {rest}") from None
    taken = row.line.count("{1}") + row.line.count("{2}")
    if len(typed) < taken:
        raise UsageError(f"usage: {usage(row, prefix(session.engine))}")
    known = {"{name}": [session.name], "{1}": typed[:1], "{2}": typed[1:2], "{rest}": typed[taken:]}
    return [argument for word in row.line.split() for argument in known.get(word, [word])]


def _omegactl(desk: Desk, arguments: list[str]) -> int:
    """Run a command line of omegactl in this process; its exit code."""
    from omega_sessiond.cli import parse

    try:
        args = parse(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    for option in ("socket", "no_start", "color"):
        setattr(args, option, getattr(desk.call.args, option))
    module, _, function = args.run.partition(":")
    code: int = getattr(import_module("omega_sessiond." + module), function)(
        Invocation(args, _Screen(args.color, desk.keyboard))
    )
    return code


class _Screen(Screen):
    """That of a command within the REPL, whose keyboard is held."""

    def __init__(self, color: Literal["auto", "always", "never"], keyboard: Keyboard | None) -> None:
        super().__init__(color)
        self._keyboard = keyboard

    def confirm(self, question: str) -> bool:
        with self._keyboard.as_usual() if self._keyboard is not None else nullcontext():
            return super().confirm(question)


# ---- what has no line of omegactl ----


def _help(desk: Desk, rest: str) -> None:
    mark = prefix(desk.session.engine)
    row = find(rest.lstrip(":%")) if rest else None
    if row is not None:
        desk.call.screen.line(f"{usage(row, mark)}: {row.help}")
        if row.line:
            words = {"{name}": desk.session.name, "{1}": "…", "{2}": "…", "{rest}": ""}
            desk.call.screen.line(
                " ".join(["as: omegactl", *(words.get(word, word) for word in row.line.split())]).strip()
            )
        return
    width = max(len(usage(row, mark)) for row in ROWS) + 2
    for row in ROWS:
        _explain(desk.call.screen, usage(row, mark), row.help, width)
    desk.call.screen.line("")
    for key, does in KEYS:
        _explain(desk.call.screen, key, does, width)


def _explain(screen: Screen, what: str, help: str, width: int) -> None:
    """A word and what it means, beside each other; on a terminal the meaning keeps to its column."""
    import textwrap

    columns = max(screen.width - width - 1, 20)
    first, *more = textwrap.wrap(help, columns, break_on_hyphens=False) if screen.is_terminal else [help]
    screen.line(f"{what:{width}}{first}")
    for line in more:
        screen.line(f"{'':{width}}{line}")


def usage(row: Row, mark: str) -> str:
    """How a command is written."""
    return f"{mark}{row.name} {row.arguments}".rstrip()


def _history(desk: Desk, rest: str) -> None:
    from omega_sessiond.cli_executions import columns

    first, _, others = rest.partition(" ")
    found = number_of(first)
    count, text = (SHOWN, rest) if found is None else (found, others)
    wanted = min(count, HISTORY) if not text else HISTORY
    rows = desk.call.client.get(desk.session.path + "/executions", last=wanted, max_output=0) if wanted else []
    rows = [row for row in rows if text in row["command"]]
    rows = rows[max(len(rows) - count, 0) :]
    if rows:
        screen = Screen(desk.call.args.color)
        screen.rows(rows, columns(screen), "table")
    else:
        desk.call.screen.say(f"No command holds '{text}'." if text else "Nothing has been run yet.")


def _output(desk: Desk, rest: str) -> None:
    if not rest or rest.startswith("-"):
        rest = f"{desk.session.name} {rest}"
    _omegactl(desk, _arguments(Row("output", "", "", "output {rest}"), rest, desk.session))


def _save(desk: Desk, rest: str) -> None:
    line = "output {1} --save {2} {rest}" if rest else "save {name}"
    code = _omegactl(desk, _arguments(Row("save", "ID FILE", "", line), rest, desk.session))
    if code == 0 and not rest:
        desk.session.done.add(("state_saved", ""))


def _switch(desk: Desk, rest: str) -> None:
    if not rest:
        raise UsageError("Switch where? Give the name of a session")
    desk.switch(rest)


def _engine(desk: Desk, rest: str) -> None:
    screen, engine = desk.call.screen, desk.session.engine
    mark, theirs = prefix(engine), "%" if prefix(engine) == ":" else ":"
    known = {row["name"]: row for row in desk.call.client.get("/api/engines")}
    found = known.get(engine, {})
    version = f" {found['version']}" if found.get("version") else ""
    screen.line(f"{engine}{version}{': ' + found['path'] if found.get('path') else ''}")
    screen.line(f"{mark}word is the REPL's; {theirs}word, and everything else, goes to the session.")
    others = ", ".join(name for name, row in known.items() if row["available"] and name != engine)
    if others:
        screen.line(f"Others here: {others} ({mark}new NAME --engine E).")


def _inspect(desk: Desk, rest: str) -> None:
    if not rest:
        raise UsageError("Inspect what? Give a name")
    screen = Screen(desk.call.args.color)
    with screen.paged():
        screen.line(desk.session.inspect(rest, len(rest)))


def _follow(desk: Desk, rest: str) -> None:
    id = number_of(rest)
    if rest and id is None:
        raise UsageError(f"'{rest}' is no execution's id")
    desk.follow(id)


def _detach(desk: Desk, rest: str) -> None:
    raise Leave


ROWS = (
    Row("help", "[COMMAND]", "these commands and the keys", act=_help),
    Row("info", "", "the session: state, process, limits, labels", "show {name}"),
    Row("history", "[N] [TEXT]", f"the last N commands ({SHOWN}) of all clients, those that hold TEXT", act=_history),
    Row("output", "[ID] [--tail N]", "a command's whole output; without ID the last one's", act=_output),
    Row(
        "save",
        "[ID FILE]",
        "save the session's state now; with ID and FILE a picture or other result of a command",
        act=_save,
    ),
    Row("follow", "[ID]", "show a running command again as it goes on, and answer what it asks", act=_follow),
    Row("interrupt", "", "interrupt what runs; variables are kept", "interrupt {name}"),
    Row("inspect", "NAME", "what the engine knows of a name; in Python also NAME? and F1", act=_inspect),
    Row("engine", "", "the engine of this session, and the others here", act=_engine),
    Row(
        "server",
        "",
        "the daemon: how it is run, what it serves, and the fork servers that new sessions come from",
        "service status",
    ),
    Row("sessions", "", "all sessions", "ls {rest}"),
    Row("switch", "NAME", "go on in another session", act=_switch),
    Row(
        "new",
        "NAME [OPTIONS]",
        "create a session and go on in it: --engine, --python, --mem, …",
        "new {1} {rest}",
        None,
        True,
    ),
    Row(
        "fork",
        "COPY",
        "copy the session, everything in memory included; --from-checkpoint: what is saved of it",
        "fork {name} {1} {rest}",
    ),
    Row(
        "snapshot",
        "NAME [-m NOTE] [--tag TAG]",
        "give its present state a name; with --delete forget it",
        "snapshot {name} {1} {rest}",
        event="snapshot_taken",
    ),
    Row("snapshots", "", "its named states", "snapshots {name}"),
    Row(
        "restore",
        "SNAPSHOT [--into NEW]",
        "go on from a snapshot",
        "restore {name} {1} {rest}",
        event="session_restored",
    ),
    Row("timeline", "", "how the session came to where it is, as a tree", "timeline {name} {rest}"),
    Row(
        "export",
        "FILE [--notebook] [--state]",
        "its history as a file: JSON lines or a Jupyter notebook; --state: with its saved variables",
        "export {name} -o {1} {rest}",
    ),
    Row(
        "import",
        "FILE [NEW] [--trust]",
        "a session from such a file; --trust: with its variables, whose loading runs what they say",
        "import {1} {rest}",
    ),
    Row(
        "prune",
        "[OPTIONS]",
        "remove its old history: shows what would go and asks; --keep N, --older-than AGE, --max-size S, --dry-run",
        "prune {name} {rest}",
    ),
    Row("set", "OPTIONS", "limits and labels: --mem 4G, --tasks N, --label K=V", "set {name} {rest}"),
    Row("restart", "", "end the session's process and start a new one, without variables", "restart {name}"),
    Row("kill", "", "end the session's process; history stays, and what is saved", "kill {name}"),
    Row("detach", "", "leave; the session lives on", act=_detach),
)

ALIASES = {
    "quit": "detach",
    "exit": "detach",
    "q": "detach",
    "h": "help",
    "ls": "sessions",
    "service": "server",
    "show": "info",
}

KEYS = (
    ("Enter", "run, when the engine finds the code complete; else a new line with its indent"),
    ("Ctrl-J", "run as it is"),
    ("Alt-Enter", "a new line"),
    ("Tab", "complete from the session; at the start of a line indent"),
    ("F1", "what the engine knows of the name at the cursor"),
    ("Up, Down", "earlier commands of all clients, at the first and last line"),
    ("Ctrl-R", "search them"),
    ("Ctrl-C", "at the prompt: clear; while a command runs: interrupt it; twice within 2 s: leave it running"),
    ("Ctrl-D", "leave; the session lives on"),
    ("Ctrl-Z", "back to the shell; fg returns"),
)
"""The keys that a person has to be told."""
