"""The commands that carry a session elsewhere: export, import. A notebook is made here, of what the daemon exports."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any

from omega_sessiond.client import Json, session_path, with_query
from omega_sessiond.errors import ProtocolError
from omega_sessiond.invocation import Invocation, UsageError, creation_options

LANGUAGES = {"bash": "bash", "node": "javascript", "sqlite3": "sql", "guile": "scheme", "omega": "scheme"}
"""What the cells of an engine are written in, where it is not Python."""


def export(call: Invocation) -> int:
    """omegactl export: to a file, which must be new, or to standard output."""
    args = call.args
    if args.notebook and args.state:
        raise UsageError("A notebook holds no saved variables", hint="Leave --state or --notebook out.")
    path = with_query(f"{session_path(args.name)}/export", {"state": "true" if args.state else None})
    lines = call.client.stream("GET", path)
    first = next(lines, None)  # a refusal comes before a file is made
    if first is None:
        raise ProtocolError("The daemon exported nothing")
    if args.output in (None, "-"):
        if not args.output and call.screen.is_terminal:
            raise UsageError("An export is not for a terminal", hint="Name a file with -o, or '-o -' all the same.")
        _write(sys.stdout.buffer, first, lines, is_notebook=args.notebook)
        return 0
    flags = os.O_WRONLY | os.O_CREAT | (os.O_TRUNC if args.force else os.O_EXCL)
    try:
        file = os.fdopen(os.open(args.output, flags, 0o600), "wb")
    except FileExistsError:
        raise UsageError(f"{args.output} exists already", hint="Give -f to overwrite it, or another name.") from None
    try:
        with file:
            count = _write(file, first, lines, is_notebook=args.notebook)
    except BaseException:
        os.unlink(args.output)
        raise
    what = f"{count} executions, its variables" if args.state else f"{count} executions"
    call.screen.say(f"Exported {args.name} to {args.output}: {what}.")
    return 0


def _write(file: IO[bytes], first: Json, rest: Iterator[Json], *, is_notebook: bool) -> int:
    """All lines into a file; how many executions there were. Raises ProtocolError when the end is missing."""
    cells: list[Json] = []
    end = None
    if not is_notebook:
        file.write(_dumped(first))
    for line in rest:
        if line["t"] == "end":
            end = line
        if not is_notebook:
            file.write(_dumped(line))
        elif line["t"] == "execution":
            cells.append(_cell(line))
        elif line["t"] == "output":
            _add_output(cells[-1], line)
        elif line["t"] == "data":
            _add_part(cells[-1], line)
    if end is None:
        raise ProtocolError("The export ended too early")
    if is_notebook:
        file.write(_dumped(_notebook(first, cells)))
    file.flush()
    return int(end["executions"])


def _dumped(value: Json) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


# ---- notebooks. Source: the notebook format 4.5, nbformat.readthedocs.io ----


def _notebook(session: Json, cells: Iterable[Json]) -> Json:
    engine = session["engine"]
    language = LANGUAGES.get(engine.partition(":")[0], "python")
    kernel = engine.partition(":")[2] or ("python3" if engine == "python" else engine)
    return {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {
            "kernelspec": {"name": kernel, "display_name": kernel, "language": language},
            "language_info": {"name": language},
            "omega_sessiond": {"session": session["name"], "exported_at": session["exported_at"]},
        },
        "cells": [_finished(cell) for cell in cells],
    }


def _cell(line: Json) -> Json:
    return {
        "cell_type": "code",
        "id": f"execution-{line['id']}",
        "execution_count": line["execution_count"],
        "metadata": {"omega_sessiond": {"status": line["status"], "started_at": line["started_at"]}},
        "source": line["command"],
        "outputs": [],
        "bundles": {},
        "error": line["error"],
    }


def _add_output(cell: Json, line: Json) -> None:
    outputs, kind = cell["outputs"], line["s"]
    if kind == "traceback":
        return  # the error has it
    if kind == "result":
        cell["result"] = cell.get("result", "") + line["text"]
    elif outputs and outputs[-1].get("name") == kind:
        outputs[-1]["text"] += line["text"]
    else:
        outputs.append({"output_type": "stream", "name": kind, "text": line["text"]})


def _add_part(cell: Json, line: Json) -> None:
    parts = cell["bundles"]
    if line.get("mime") is not None:
        if line.get("omitted") is None:
            parts[line["n"]] = {**line, "bytes": b""}
    elif line["n"] in parts:
        parts[line["n"]]["bytes"] += base64.b64decode(line["body"])


def _finished(cell: Json) -> Json:
    """A cell as a notebook has it: what was shown, the value, the error."""
    outputs, result, error = cell["outputs"], cell.pop("result", None), cell.pop("error")
    shown: dict[tuple[str, int], Json] = {}
    for part in cell.pop("bundles").values():
        bundle = shown.setdefault((part["role"], part["bundle"]), {})
        bundle[part["mime"]] = _mime_value(part)
    for (role, _), bundle in shown.items():
        if role == "display":
            outputs.append({"output_type": "display_data", "data": bundle, "metadata": {}})
    values = [bundle for (role, _), bundle in shown.items() if role == "result"]
    if result is not None or values:
        data = values[0] if values else {}
        if result is not None:
            data = {"text/plain": result.removesuffix("\n"), **data}
        count = cell["execution_count"]
        outputs.append({"output_type": "execute_result", "execution_count": count, "data": data, "metadata": {}})
    if error is not None:
        trace = error["traceback"].splitlines()
        outputs.append({"output_type": "error", "ename": error["name"], "evalue": error["message"], "traceback": trace})
    return cell


def _mime_value(part: Json) -> Any:
    if part["enc"] == "binary":
        return base64.b64encode(part["bytes"]).decode("ascii")
    text = part["bytes"].decode("utf-8", "replace")
    if part["enc"] == "json":
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


# ---- import ----


def import_(call: Invocation) -> int:
    """omegactl import."""
    args = call.args
    made = creation_options(call.screen.warn)
    body: Json = {
        "file": os.path.abspath(args.file),
        "env": made["env"],
        "trust": args.trust,
        "state": not args.no_state,
    }
    if "cwd" in made:
        body["cwd"] = made["cwd"]
    if args.name is not None:
        body["name"] = args.name
    if args.python is not None:
        body["python"] = args.python
    imported = call.client.post("/api/import", body)
    if args.json or args.format:
        call.screen.json(imported)
        return 0
    state = "its variables come with the next command" if imported["has_state"] else "without its variables"
    call.screen.say(f"Imported {imported['session']['name']}: {imported['executions']} executions, {state}.")
    for note in imported["notes"]:
        call.screen.say(note)
    return 0
