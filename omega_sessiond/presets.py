"""Line REPLs as data: what the engine `lines` must know of a program to be its terminal.

The shipped ones stand in presets.toml; a table `[engines.NAME]` of the settings adds one or changes fields of one that
is shipped. Knows how such a table is written; nothing of where programs are or how they run.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from omega_sessiond.errors import ConfigError

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "presets.toml")

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,57}\Z"
RESERVED = ("python", "jupyter")


class Syntax(Struct, frozen=True, forbid_unknown_fields=True):
    """When code is whole, for `complete = "syntax"`."""

    brackets: list[Annotated[str, Meta(min_length=2, max_length=2)]] = []
    """Pairs: "()"."""
    strings: list[Annotated[str, Meta(min_length=1, max_length=1)]] = []
    """Quotes."""
    escape: str = ""
    """What takes the next character of a string for a plain one."""
    comments: list[str] = []
    """What begins a comment that ends with its line."""
    blocks: list[Annotated[list[str], Meta(min_length=2, max_length=2)]] = []
    """Pairs around a comment; they nest."""
    characters: str = ""
    """What makes the character behind it a plain one, outside of strings: Lisp's `#\\\\`."""


class State(Struct, frozen=True, forbid_unknown_fields=True):
    """How the program saves its state and loads it again. {name} is what the save is called."""

    save: str
    """The order to save, and in `saved` a regular expression for what it says when it has."""
    saved: str
    load: str
    loaded: str
    files: Annotated[list[str], Meta(min_length=1)]
    """The files of a save, in the directory {state} of the program's environment."""
    names: str
    """What makes it print what is defined; `name` finds each name in that, as its first group."""
    name: str
    show: str
    """What makes it show the values of all {names}: the proof that a save comes back."""
    unknown: str
    """Finds in that, as its first group, a name that has no value."""
    defines: str = ""
    """Finds in a command, as first groups, names that it may define and `names` does not tell."""


class LinePreset(Struct, frozen=True, forbid_unknown_fields=True):
    """One line REPL. docs/engines.md explains each field with examples. A session keeps the preset it was made with:
    what comes to these fields in a later version is missing there, and the host reads it with a default.

    In `setup`, `submit`, `sentinel`, `mark`, `begin`, `value`, `question`, `completions` and `inspect`, {token} is a
    word that nobody can guess, new for every command, {left} and {right} its halves.
    """

    command: Annotated[list[str], Meta(min_length=1)]
    """The program and its arguments."""
    sentinel: str
    """What makes the program print the mark."""
    mark: str
    """The mark as it is printed; {status} in it is a word that says how the command ended, 0 for well."""
    command_variable: str = ""
    """An environment variable that, where it is set, holds the command line instead."""
    install_hint: str = ""
    """What to do where the program is missing."""
    version: list[str] = []
    """Arguments with which the program prints its version and ends, for `omegactl engines`."""
    env: dict[str, str] = {}
    """Variables added to the session's environment."""
    terminal: bool = False
    """Speak to it through a terminal (a pty) instead of pipes."""
    start_s: Annotated[float, Meta(gt=0, le=25)] = 20.0
    """How long it may take until it answers."""
    setup: str = ""
    """What is sent once, before anything else. What it prints is dropped."""
    submit: str = "{code}\n"
    """How a command is sent: {code} as it is, {json} or {shell} as one quoted word, {file} in a file of that name.
    With the token in it the program marks the end by itself; else the sentinel is sent behind it."""
    file: str = "{code}\n"
    """What stands in that file."""
    echo: list[str] = []
    """What the program repeats of what it was sent, each dropped wherever it is printed."""
    begin: str = ""
    """What the program prints before a command's output; all up to its end is dropped."""
    value: str = ""
    """What the program prints before a command's value; what follows is the execution's `result`."""
    question: str = ""
    """What the program prints when its command wants a line of input, where the system cannot tell."""
    answer: str = ""
    """How it is then given the line {code}."""
    complete: Literal["lines", "syntax", "sql", "program", "ask"] = "lines"
    """How code is judged to be whole: every line is, by `syntax`, as SQL, by the program `check`, or by what `judge`
    makes it print."""
    judge: str = ""
    """What makes it print complete, incomplete or invalid of {code}, without running it."""
    syntax: Syntax = Syntax()
    check: list[str] = []
    """A program that reads code and ends with status 0 when it is whole."""
    check_incomplete: str = ""
    """A regular expression that finds in what `check` prints that the code goes on."""
    balance: Annotated[str, Meta(max_length=2)] = ""
    """A pair that the program counts wherever it stands, strings and comments too, and runs a command by that."""
    skips_lines: bool = False
    """Such a program passes over lines that are blank or begin with a comment, within strings too."""
    commands: str = ""
    """What the program's own commands begin with, which it obeys wherever such a line stands."""
    newline: str = ""
    """How a newline in a string is written: of lines of a string such a program would leave some out, or stop there."""
    incomplete_status: str = ""
    """The {status} that means: the code is not whole."""
    errors: list[str] = []
    """Regular expressions (multi-line); what one finds at the end of an output is an error, with the groups `name`
    and `message`."""
    error_stream: Literal["stdout", "stderr"] = "stdout"
    """Where `errors` look."""
    interrupt: Literal["signal", "key", "text", "none"] = "signal"
    """SIGINT to its process group, ^C at its terminal, `interrupt_text`, or nothing can."""
    interrupt_text: str = ""
    interrupt_repeats: Annotated[int, Meta(ge=0, le=100)] = 0
    """How often an interrupt is repeated, a second after the one before, when it is not obeyed."""
    quit: list[str] = []
    """Regular expressions of whole commands that ask to leave: they are not sent, and the session lives on."""
    farewell: str = ""
    """What is sent before its input ends, when the session does."""
    state: State | None = None
    """How its state is saved, where it can be."""
    renew_after: Annotated[int, Meta(ge=0)] = 0
    """After so many commands a fresh program takes its place, with its state; 0 is never. Needs `state`."""
    completions: str = ""
    """What makes the program print what may follow {code}, one a line."""
    inspect: str = ""
    """What makes it print what it knows of the name {code}, or nothing."""
    inspect_nothing: str = ""
    """A regular expression that finds in what it prints that it knows nothing."""
    word: str = r"""[^\s()\[\]{}'"`,;]+"""
    """A regular expression for what is one name, to find the one at the cursor."""


def check(tables: dict[str, dict[str, Any]]) -> None:
    """Raises ConfigError for a table that describes no engine."""
    if tables:
        read(tables)


def read(tables: dict[str, dict[str, Any]]) -> dict[str, LinePreset]:
    """Every preset by name, the shipped ones under the settings' tables. Raises ConfigError."""
    import re
    import tomllib  # only who asks for an engine, or has a table, needs it

    with open(FILE, "rb") as stream:
        shipped: dict[str, dict[str, Any]] = tomllib.load(stream)
    merged = dict(shipped)
    for name, table in tables.items():
        if re.match(NAME_PATTERN, name) is None or name in RESERVED:
            raise ConfigError(
                f"'{name}' cannot be the name of an engine in the settings",
                hint="Use 1 to 58 of a-z, 0-9, '.', '_', '-'; 'python' and 'jupyter' are taken.",
            )
        like = table.get("like", name)
        if "like" in table and like not in shipped:
            raise ConfigError(
                f"Setting 'engines.{name}.like': there is no shipped engine '{like}'",
                hint=f"Shipped are: {', '.join(shipped)}.",
            )
        own = {key: value for key, value in table.items() if key != "like"}
        merged[name] = {**shipped.get(like, {}), **own}
    return {name: _convert(name, table) for name, table in merged.items()}


def _convert(name: str, table: dict[str, Any]) -> LinePreset:
    try:
        preset = msgspec.convert(table, LinePreset)
    except msgspec.ValidationError as error:
        from omega_sessiond import complaints

        what, _, where = str(error).partition(" - at `$")
        place = f"engines.{name}{where.rstrip('`')}"
        said = complaints.about_setting(what, place, "", {})
        raise ConfigError(said, hint="docs/engines.md describes the fields.") from None
    _check_patterns(name, preset)
    return preset


def _check_patterns(name: str, preset: LinePreset) -> None:
    import re

    wrong: tuple[str, str] | None = None
    state = preset.state
    of_state = [] if state is None else [state.saved, state.loaded, state.name, state.unknown, state.defines]
    for field, patterns in (
        ("errors", preset.errors),
        ("quit", preset.quit),
        ("check_incomplete", [preset.check_incomplete]),
        ("inspect_nothing", [preset.inspect_nothing]),
        ("word", [preset.word]),
        ("state", of_state),
    ):
        for pattern in patterns:
            try:
                re.compile(pattern)
            except re.error as error:
                wrong = field, f"'{pattern}' is no regular expression ({error})"
    if "{token}" not in preset.mark and not ("{left}" in preset.mark and "{right}" in preset.mark):
        wrong = "mark", "it must hold {token}, or {left} and {right}"
    elif preset.complete == "program" and not preset.check:
        wrong = "check", 'it must name a program, for `complete` is "program"'
    elif preset.complete == "ask" and not preset.judge:
        wrong = "judge", 'it must say how to ask, for `complete` is "ask"'
    elif preset.renew_after and preset.state is None:
        wrong = "renew_after", "it needs `state`, for else the state would be lost"
    elif preset.question and not preset.answer:
        wrong = "answer", "it must say how a `question` is answered"
    elif preset.balance and not preset.syntax.comments:
        wrong = "syntax.comments", "`balance` needs a comment"
    if wrong is not None:
        raise ConfigError(
            f"Setting 'engines.{name}.{wrong[0]}': {wrong[1]}", hint="docs/engines.md describes the fields."
        )
