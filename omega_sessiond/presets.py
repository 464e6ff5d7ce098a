"""Line REPLs as data: what the engine `lines` must know of a program to be its terminal.

The shipped ones stand in presets.toml; a table `[engines.NAME]` of the settings adds one or changes fields of one that
is shipped. Knows how such a table is written; nothing of where programs are or how they run.
"""

from __future__ import annotations

import os
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from omega_sessiond.errors import ConfigError

FILE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "presets.toml")

NAME_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,57}\Z"
RESERVED = ("python", "jupyter")


class LinePreset(Struct, frozen=True, forbid_unknown_fields=True):
    """One line REPL. docs/engines.md explains each field with examples."""

    command: Annotated[list[str], Meta(min_length=1)] = []
    """The program and its arguments."""
    command_variable: str = ""
    """An environment variable that, where it is set, holds the command line instead."""
    install_hint: str = ""
    """What to do where the program is missing."""
    env: dict[str, str] = {}


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
        what, _, where = str(error).partition(" - at `$")
        place = f"engines.{name}{where.rstrip('`')}"
        raise ConfigError(
            f"Setting '{place}': {what[:1].lower()}{what[1:]}", hint="docs/engines.md describes the fields."
        ) from None
    if not preset.command:
        raise ConfigError(f"Setting 'engines.{name}' has no `command`", hint="docs/engines.md describes the fields.")
    return preset
