"""The commands that carry a session elsewhere: export, import. A notebook is made here, of what the daemon exports."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from typing import IO, Any

from omega_sessiond.client import Client, Json, session_path, with_query
from omega_sessiond.errors import ProtocolError
from omega_sessiond.invocation import Invocation, UsageError, creation_options, is_text

LANGUAGES = {"bash": "bash", "node": "javascript", "sqlite3": "sql", "guile": "scheme", "omega": "scheme"}
"""What the cells of an engine are written in, where it is not Python."""


def export(call: Invocation) -> int:
    """omegactl export: to a file, which must be new, or to standard output."""
    args = call.args
    if args.output in (None, "-"):
        if not args.output and call.screen.is_terminal:
            raise UsageError("An export is not for a terminal", hint="Name a file with -o, or '-o -' all the same.")
        with _begun(call.client, args.name, with_state=args.state, is_notebook=args.notebook) as (first, rest):
            _write(sys.stdout.buffer, first, rest, is_notebook=args.notebook)
        return 0
    said = export_to(
        call.client, args.name, args.output, with_state=args.state, is_notebook=args.notebook, may_replace=args.force
    )
    call.screen.say(said)
    return 0


def export_to(
    client: Client, name: str, file: str, *, with_state: bool, is_notebook: bool, may_replace: bool = False
) -> str:
    """Write a session into a file; a sentence about it. Raises UsageError where the file exists and may not be
    replaced; one that is replaced goes when the new one is whole."""
    target, how = os.path.realpath(file), os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    if not may_replace:
        written = file
    elif os.path.exists(target) and not os.path.isfile(target):
        written, how = file, 0  # a pipe, /dev/null: written to as it is
    else:
        written = f"{target}.{os.urandom(4).hex()}"
    with _begun(client, name, with_state=with_state, is_notebook=is_notebook) as (first, rest):
        try:
            stream = os.fdopen(os.open(written, os.O_WRONLY | how, 0o600), "wb")
        except FileExistsError:
            raise UsageError(f"{file} exists already", hint="Give -f to overwrite it, or another name.") from None
        except OSError as error:
            hint = "Name a file in a directory of yours."
            raise UsageError(f"Cannot write {file}: {error.strerror}", hint=hint) from None
        try:
            with stream:
                what = _write(stream, first, rest, is_notebook=is_notebook)
            if written != file:
                os.replace(written, target)
        except BaseException:
            if how:
                os.unlink(written)
            raise
    return f"Exported {name} to {file}: {what}."


@contextmanager
def _begun(client: Client, name: str, *, with_state: bool, is_notebook: bool) -> Iterator[tuple[Json, Iterator[Json]]]:
    """The first line of an export and those after it: a refusal comes before a file is made."""
    if is_notebook and with_state:
        raise UsageError("A notebook holds no saved variables", hint="Leave --state or --notebook out.")
    path = with_query(f"{session_path(name)}/export", {"state": "true" if with_state else None})
    with closing(client.stream("GET", path)) as lines:
        first = next(lines, None)
        if first is None:
            raise ProtocolError("The daemon exported nothing")
        yield first, lines


def _write(file: IO[bytes], first: Json, rest: Iterator[Json], *, is_notebook: bool) -> str:
    """All lines into a file; what there was, in words. Raises ProtocolError when the end is missing."""
    cells: list[Json] = []
    end = None
    variables = ""
    if not is_notebook:
        file.write(_dumped(first))
    for line in rest:
        if line["t"] == "end":
            end = line
        elif line["t"] == "state":
            variables = f", its variables as they were after execution {line['execution_id']}"
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
    return f"{end['executions']} execution{'' if end['executions'] == 1 else 's'}{variables}"


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
    body = import_body(args.file, args.name, trust=args.trust, with_state=not args.no_state, warn=call.screen.warn)
    if args.python is not None:
        body["python"] = args.python
    imported = call.client.post("/api/import", body)
    if args.json or args.format:
        call.screen.json(imported)
        return 0
    for said in imported_words(imported):
        call.screen.say(said)
    return 0


def import_body(file: str, name: str | None, *, trust: bool, with_state: bool, warn: Callable[[str], None]) -> Json:
    """What POST /api/import is asked from here: the daemon reads the file."""
    path = os.path.abspath(file)
    if not is_text(path):
        raise UsageError(f"The file's name is not UTF-8: {path!r}", hint="Rename it.")
    made = creation_options(warn)
    body: Json = {"file": path, "env": made["env"], "trust": trust, "state": with_state}
    if "cwd" in made:
        body["cwd"] = made["cwd"]
    if name:
        body["name"] = name
    return body


def imported_words(imported: Json) -> list[str]:
    """What came of it, in sentences."""
    count = imported["executions"]
    state = "its variables come with the next command" if imported["has_state"] else "without its variables"
    came = f"{count} execution{'' if count == 1 else 's'}, {state}"
    return [f"Imported {imported['session']['name']}: {came}.", *imported["notes"]]
