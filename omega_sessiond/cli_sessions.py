"""The commands about sessions: ls, show, new, set, rm, kill, restart, engines, events."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

from omega_sessiond.cli_executions import report_stop
from omega_sessiond.client import session_path
from omega_sessiond.errors import OmegaError, SessionExists, SessionNotFound
from omega_sessiond.invocation import Invocation, UsageError, creation_options, suggestion
from omega_sessiond.screen import Column, Screen, duration, size
from omega_sessiond.statewords import checkpoint_words, of_limit, snapshots_kept, snapshots_words

Json = dict[str, Any]

STATES = {
    "starting": ("◌", "cyan"),
    "reconnecting": ("◌", "cyan"),
    "idle": ("●", "green"),
    "busy": ("◐", "yellow"),
    "waiting_input": ("?", "yellow"),
    "hibernated": ("❄", "blue"),
    "dead": ("✗", "red"),
}
"""Role as glyph, word and colour: no one of them alone."""

SORT_KEYS = {
    "name": "name",
    "state": "state",
    "engine": "engine",
    "created": "created_at",
    "used": "last_used_at",
    "count": "execution_count",
}
"""What --sort takes, and the field it stands for."""

TIMED = 20
"""Executions that the mean time is of, the newest: what a session costs now. The reply has their commands whole."""


def columns(screen: Screen) -> list[Column]:
    """How sessions are listed."""
    return [
        Column("NAME", lambda row: row["name"], is_flexible=True),
        Column("STATE", lambda row: _state(screen, row), is_flexible=True, color=lambda row: STATES[row["state"]][1]),
        Column("ENGINE", lambda row: row["engine"]),
        Column("COUNT", lambda row: str(row["execution_count"]), is_right=True),
        Column("QUEUE", lambda row: str(row["queue_length"]), is_right=True),
        Column("RUNNING", lambda row: str(row["running_execution_id"] or "-"), is_right=True),
        Column("USED", lambda row: screen.when(row["last_used_at"]), is_right=True),
        Column("LABELS", lambda row: _labels(row), is_flexible=True),
        Column("PID", lambda row: str(row["pid"] or "-"), is_wide=True, is_right=True),
        Column("CREATED", lambda row: screen.when(row["created_at"]), is_wide=True, is_right=True),
        Column("SAVED", lambda row: checkpoint_words(row["checkpoint"]), is_wide=True, is_flexible=True),
        Column("CWD", lambda row: row["cwd"], is_wide=True, is_flexible=True),
        Column("PYTHON", lambda row: row["python"] or "-", is_wide=True, is_flexible=True),
        Column("ID", lambda row: row["id"], is_wide=True),
    ]


def state_word(row: Json) -> str:
    """A session's state with its reason, which may begin with the state's own word."""
    reason = (row["state_reason"] or "").removeprefix(f"{row['state']}: ")
    return f"{row['state']} ({reason})" if reason else str(row["state"])


def _state(screen: Screen, row: Json) -> str:
    return (STATES[row["state"]][0] + " " if screen.is_terminal else "") + state_word(row)


def _labels(row: Json) -> str:
    return ",".join(f"{key}={value}" for key, value in sorted(row["labels"].items())) or "-"


def ls(call: Invocation) -> int:
    """omegactl ls."""
    args = call.args
    for key, value in args.filter or []:
        if key == "state" and value is not None and value not in STATES:
            raise UsageError(
                f"There is no state '{value}'{suggestion(value, list(STATES))}", hint=f"One of {', '.join(STATES)}."
            )
    rows: list[Json] = [row for row in call.client.get("/api/sessions") if _matches(row, args.filter or [])]
    if args.sort:
        rows.sort(key=lambda row: row[SORT_KEYS[args.sort]])
    if args.reverse:
        rows.reverse()
    form = "name" if args.quiet else "wide" if args.wide and call.form == "table" else call.form
    if not rows and form in ("table", "wide"):
        call.screen.say("No sessions." if not args.filter else "No session matches.")
        return 0
    call.screen.rows(rows, columns(call.screen), form)
    return 0


def _matches(row: Json, filters: list[tuple[str, str | None]]) -> bool:
    from fnmatch import fnmatchcase

    for key, value in filters:
        match key, value:
            case (("state" | "engine"), str()):
                if row[key] != value:
                    return False
            case "name", str():
                if not fnmatchcase(row["name"], value):
                    return False
            case _:
                key = key.removeprefix("label.")
                if key not in row["labels"] or (value is not None and row["labels"][key] != value):
                    return False
    return True


def show(call: Invocation) -> int:
    """omegactl show."""
    row = call.client.get(session_path(call.args.name))
    if call.form in ("json", "jsonl", "name"):
        call.screen.row(row, [], call.form)
        return 0
    path = session_path(call.args.name)
    snapshots = call.client.get(path + "/snapshots")
    newest = call.client.get(path + "/executions", last=TIMED, max_output=0)
    with call.screen.paged():
        call.screen.details(_details(call.screen, row, snapshots, newest))
    return 0


def _details(screen: Screen, row: Json, snapshots: list[Json], newest: list[Json]) -> Iterator[tuple[str, str]]:
    limits, usage = row["limits"], row["usage"] or {}
    yield "name", row["name"]
    yield "id", row["id"]
    yield "state", _state(screen, row)
    yield "engine", row["engine"]
    yield "python", row["python"] or "-"
    yield "pid", str(row["pid"] or "-")
    yield "working directory", row["cwd"]
    yield "created", screen.when(row["created_at"])
    yield "last used", screen.when(row["last_used_at"])
    yield "executions", str(row["execution_count"])
    yield "mean time", _mean_time(newest)
    yield "running", str(row["running_execution_id"] or "-")
    yield "queued", str(row["queue_length"])
    yield "memory", of_limit(size(usage.get("memory_bytes")), size(limits["memory_bytes"]))
    yield "peak memory", size(usage.get("memory_peak_bytes"))
    yield "tasks", of_limit(str(usage.get("tasks") or "-"), str(limits["tasks"] or "-"))
    yield "cpu time", f"{usage['cpu_s']:.2f}s" if usage.get("cpu_s") is not None else "-"
    yield "cpu weight", str(limits["cpu_weight"] or "-")
    yield "labels", _labels(row)
    yield "saved", checkpoint_words(row["checkpoint"])
    for name, reason in sorted((row["checkpoint"] or {}).get("left_out", {}).items()):
        yield "  left out", f"{name}: {reason}"
    for obstacle in (row["checkpoint"] or {}).get("obstacles", []):
        yield "  in no checkpoint", obstacle
    yield "snapshots", snapshots_words(snapshots_kept(snapshots))
    if pruned := row["pruned"]:
        gone = f"{pruned['executions']} executions, outputs of {pruned['outputs']} more, up to {pruned['up_to_id']}"
        yield "removed", f"{gone} ({size(pruned['bytes'])}), {screen.when(pruned['at'])}"


def _mean_time(newest: list[Json]) -> str:
    """How long those executions took that have ended. Most commands take less than a millisecond."""
    took = [row["duration_ms"] for row in newest if row["duration_ms"] is not None]
    if not took:
        return "-"
    mean_ms = sum(took) / len(took)
    mean = f"{mean_ms:.1f}ms" if mean_ms < 10 else duration(mean_ms / 1000)
    return f"{mean} over the last {len(took)}"


def _limits(call: Invocation) -> Json:
    given = {"mem": "memory_bytes", "tasks": "tasks", "cpu_weight": "cpu_weight"}
    return {field: getattr(call.args, name) for name, field in given.items() if hasattr(call.args, name)}


def creation_body(call: Invocation) -> Json:
    """What a session is created with: this shell's place and environment, and what the options say."""
    args = call.args
    body = creation_options(call.screen.warn)
    if args.env:
        body["env"].update(args.env)
    if args.cwd:
        body["cwd"] = os.path.abspath(args.cwd)
    if args.python:
        # A command is looked up here: the daemon has another PATH.
        found = shutil.which(args.python)
        if found is None:
            raise UsageError(f"There is no interpreter '{args.python}'", hint="Name it by its path, or one on PATH.")
        body["python"] = os.path.abspath(found)
    if args.engine:
        body["engine"] = args.engine
        if args.engine != "python" and not args.python:
            body.pop("python", None)
    if limits := _limits(call):
        body["limits"] = limits
    if args.label:
        body["labels"] = dict(args.label)
    return body


def new(call: Invocation) -> int:
    """omegactl new."""
    args = call.args
    try:
        row = call.client.post("/api/sessions", {"name": args.name, **creation_body(call)})
    except SessionExists:
        if not call.client.was_repeated:
            raise
        row = call.client.get(session_path(args.name))  # we made it, and the answer was lost
    return _changed(call, row, "Created")


def fork(call: Invocation) -> int:
    """omegactl fork."""
    body = {"name": call.args.copy, **({"from_checkpoint": True} if call.args.from_checkpoint else {})}
    row = call.client.post(f"{session_path(call.args.name)}/fork", body)
    return _changed(call, row, f"Forked {call.args.name}:")


def set_(call: Invocation) -> int:
    """omegactl set."""
    args = call.args
    body: Json = {}
    if limits := _limits(call):
        body["limits"] = limits
    if args.label or args.unlabel:
        body["change_labels"] = dict(args.label or ()) | dict.fromkeys(args.unlabel or ())
    if not body:
        raise UsageError("Nothing to set", hint="Give one of --mem, --tasks, --cpu-weight, --label, --unlabel.")
    return _changed(call, call.client.request("PATCH", session_path(args.name), body), "Changed")


def _changed(call: Invocation, row: Json, what: str) -> int:
    if call.args.json or call.args.format:
        call.screen.row(row, columns(call.screen), call.form)
    else:
        call.screen.say(f"{what} {row['name']}.")
        if row["state_reason"]:
            call.screen.say(f"It is {state_word(row)}.")
    return 0


def rm(call: Invocation) -> int:
    """omegactl rm: all that can be removed are; the exit code is that of the last failure."""
    names = call.args.names
    what = f"session '{names[0]}'" if len(names) == 1 else f"{len(names)} sessions ({', '.join(names)})"
    if not call.must_confirm(f"Remove {what}, with all history?"):
        call.screen.say("Nothing was removed.")
        return 130
    code = 0
    for name in names:
        try:
            call.client.request("DELETE", session_path(name))
        except SessionNotFound as error:
            call.screen.warn(f"no session is called '{name}'")
            code = error.exit_code
        except OmegaError as error:
            call.screen.warn(f"{name}: {error.message}")
            code = error.exit_code
        else:
            call.screen.say(f"Removed {name}.")
    return code


def kill(call: Invocation) -> int:
    """omegactl kill."""
    return _end(call, "kill")


def restart(call: Invocation) -> int:
    """omegactl restart."""
    return _end(call, "restart")


def _end(call: Invocation, verb: str) -> int:
    body = {} if call.args.budget is None else {"budget_s": call.args.budget}
    return report_stop(call, call.client.post(f"{session_path(call.args.name)}/{verb}", body))


def engines(call: Invocation) -> int:
    """omegactl engines."""
    shown = [
        Column("NAME", lambda row: row["name"]),
        Column("AVAILABLE", lambda row: "yes" if row["available"] else "no"),
        Column("VERSION", lambda row: row["version"] or "-"),
        Column("PATH", lambda row: row["path"] or "-", is_flexible=True),
        Column("WHY NOT", lambda row: row["unavailable"] or "-", is_flexible=True),
    ]
    call.screen.rows(call.client.get("/api/engines?versions=true"), shown, call.form)
    return 0


def events(call: Invocation) -> int:
    """omegactl events: those that are kept, or with -f those to come."""
    args = call.args
    since = args.since if args.since is not None else (None if args.follow else 0)
    feed = call.client.events(since, follow=args.follow)
    chosen = (event for event in feed if args.session in (None, event.get("session")))
    shown: list[Json] = []
    is_known = False
    for event in chosen:
        if call.form == "json" and not args.follow:
            shown.append(event)
        elif call.form in ("json", "jsonl"):
            call.screen.json_line(event)
        else:
            call.screen.line(_told(call.screen, event))
        is_known = True
    if not is_known and args.session is not None:
        call.client.get(session_path(args.session))  # raises for a name that nothing has
    if call.form == "json" and not args.follow:
        call.screen.json(shown)
    return 0


def _told(screen: Screen, event: Json) -> str:
    """An event on one line."""
    from omega_sessiond.terminal import one_line

    known = ("id", "kind", "at", "session_id", "session")
    rest = " ".join(f"{key}={_value(value)}" for key, value in event.items() if key not in known)
    line = f"{event['id']} {event.get('at', '-')} {event['kind']} {event.get('session', '-')} {rest}"
    return one_line(line)[: screen.width if screen.is_terminal else None]


def _value(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)
