"""The rich data of an execution at the client: what there is, how to get it, and saving one part to a file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

from omega_sessiond import filetypes
from omega_sessiond.errors import DataNotFound
from omega_sessiond.invocation import Invocation, UsageError
from omega_sessiond.screen import size
from omega_sessiond.terminal import one_line, sanitize

Json = dict[str, Any]

TOLD = 10
"""Parts named one a line after a command. More would push its output off the screen."""


def how_to_get(execution: Json) -> Iterator[str]:
    """A line for each part: what it is, and the command that saves it."""
    parts = execution.get("data") or []
    endings = Counter(filetypes.extension(part["mime"]) for part in parts if "href" in part)
    for part in parts[:TOLD]:
        if "href" not in part:
            yield f"{part['mime']}: omitted, {one_line(part['omitted'])}"
            continue
        ending = filetypes.extension(part["mime"])
        is_chosen_by_name = endings[ending] == 1 if ending else endings.total() == 1
        which = "" if is_chosen_by_name else f" --data {part['n']}"
        yield f"{_shown(part)}: omegactl output {execution['id']}{which} --save data{ending}"
    if len(parts) > TOLD:
        yield f"and {len(parts) - TOLD} more: omegactl output {execution['id']} --json"


def summary(execution: Json) -> str:
    """The types of what there is, for a cell of a table."""
    return ", ".join(dict.fromkeys(part["mime"] for part in execution.get("data") or [])) or "-"


def choose(execution: Json, number: int | None, file: str) -> Json:
    """The part to save: the one of that number, or the only one that a file of such a name holds."""
    id, parts = execution["id"], execution.get("data") or []
    if not parts:
        raise DataNotFound(
            f"Execution {id} has no pictures or other data, only text", hint=f"'omegactl output {id}' shows it."
        )
    if number is not None:
        for part in parts:
            if part["n"] == number:
                return _present(execution, part)
        raise DataNotFound(f"Execution {id} has no part {number}", hint=_listed(parts))
    present = [part for part in parts if "href" in part]
    ending = os.path.splitext(file)[1].lower()
    fitting = [part for part in present if filetypes.fits(part["mime"], ending)]
    if not fitting and not filetypes.is_known(ending):
        fitting = present
    match fitting:
        case [part]:
            return _present(execution, part)
        case []:
            raise DataNotFound(f"Execution {id} has nothing for a {ending or 'file'}", hint=_listed(parts))
        case _:
            raise UsageError(
                f"Execution {id} has {len(fitting)} parts that '{file}' could be: choose one with --data N",
                hint=_listed(parts),
            )


def _present(execution: Json, part: Json) -> Json:
    if "href" not in part:
        raise DataNotFound(f"Part {part['n']} of execution {execution['id']} was omitted: {part['omitted']}", hint="")
    return part


def _shown(part: Json) -> str:
    return f"{part['mime']} ({size(part['size_bytes'])})"


def _listed(parts: list[Json]) -> str:
    shown = [f"{part['n']} {_shown(part) if 'href' in part else part['mime'] + ' (omitted)'}" for part in parts[:TOLD]]
    return "It has: " + ", ".join(shown) + (", …" if len(parts) > TOLD else "") + "."


def save(call: Invocation, execution: Json) -> int:
    """omegactl output --save FILE: the bytes of one part in a file, or with - on standard output."""
    args, screen = call.args, call.screen
    file: str = args.save or "-"
    part = choose(execution, args.data, file)
    if file == "-" and screen.is_terminal and not part["mime"].startswith("text/"):
        raise UsageError(f"{_shown(part)} is not for a terminal", hint="Save it to a file: --save FILE.")
    if file != "-" and not args.force and os.path.lexists(file):
        raise _exists(file)
    body = call.client.download(part["href"])
    if file == "-":
        if screen.is_terminal:
            screen.write(sanitize(body.decode("utf-8", "replace")))
        else:
            screen.write_bytes(body)
        return 0
    try:
        with open(file, "wb" if args.force else "xb") as stream:
            stream.write(body)
    except FileExistsError:  # it came meanwhile
        raise _exists(file) from None
    if screen.talks_to_terminal:
        screen.say(f"Saved {_shown(part)} to {file}.")
    return 0


def _exists(file: str) -> UsageError:
    return UsageError(f"{file} exists already", hint="Overwrite it with -f.")
