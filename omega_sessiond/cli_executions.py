"""The commands about executions that exist: wait, interrupt, input, history, output."""

from __future__ import annotations

import re
import sys
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from omega_sessiond.amounts import number_of
from omega_sessiond.cli_exec import UNBOUNDED, exit_code, tell
from omega_sessiond.client import execution_path, session_path
from omega_sessiond.errors import ExecutionNotFound, NotWaitingInput, SessionNotFound
from omega_sessiond.inputlines import InputLines
from omega_sessiond.invocation import Invocation, TimedOut, UsageError
from omega_sessiond.richdata import save, summary
from omega_sessiond.screen import Column, Screen, duration, size
from omega_sessiond.terminal import PlainLines, Sanitizer, one_line

Json = dict[str, Any]

UNFINISHED = ("queued", "running", "waiting_input")
POLL_S = 60.0
"""How long one request waits. Longer hides a dead peer, shorter asks in vain."""
PAGE = 1000
PIECE_BYTES = 1024 * 1024
LINE_BYTES = 200
"""What a line of output is expected to have, when its last lines are looked for."""

_STATUS_COLOURS = {"ok": "green", "error": "red", "died": "red", "interrupted": "yellow", "cancelled": "yellow"}


def columns(screen: Screen) -> list[Column]:
    """How executions are listed."""
    return [
        Column("ID", lambda row: str(row["id"]), is_right=True),
        Column("STATUS", _status, color=lambda row: _STATUS_COLOURS.get(row["status"], "cyan")),
        Column("QUEUED", lambda row: screen.when(row["queued_at"])),
        Column("TOOK", lambda row: duration(_seconds(row)), is_right=True),
        Column("COUNT", lambda row: str(row["execution_count"] or "-"), is_wide=True, is_right=True),
        Column("DATA", summary, is_wide=True),
        Column("STARTED", lambda row: screen.when(row["started_at"]), is_wide=True),
        Column("FINISHED", lambda row: screen.when(row["finished_at"]), is_wide=True),
        Column("COMMAND", lambda row: row["command"], is_flexible=True),
    ]


def _status(row: Json) -> str:
    return f"{row['status']} ({row['reason']})" if row["reason"] else str(row["status"])


def _seconds(row: Json) -> float | None:
    return None if row["duration_ms"] is None else row["duration_ms"] / 1000


# ---- one execution, however it is named ----


def _find(call: Invocation, what: str) -> tuple[str, int | None]:
    """The session and, where `what` is an execution's id, that. A session of that name comes first."""
    try:
        call.client.get(session_path(what))
    except SessionNotFound:
        id = number_of(what)
        if id is None:
            call.args.name = what
            raise
    else:
        return what, None
    for session in call.client.get("/api/sessions"):
        try:
            found = call.client.get(execution_path(session["name"], id), max_output=0)
        except (ExecutionNotFound, SessionNotFound):
            continue
        return found["session"], found["id"]
    raise ExecutionNotFound(f"No session and no execution is called '{what}'", hint="'omegactl ls' lists the sessions.")


def _last(call: Invocation, name: str) -> Json:
    newest: list[Json] = call.client.get(session_path(name) + "/executions", last=1, max_output=0)
    if not newest:
        raise ExecutionNotFound(f"Session '{name}' has run nothing yet", hint="")
    return newest[0]


def _history(call: Invocation, name: str, max_output: int | None) -> Iterator[Json]:
    """All executions, oldest first, page by page."""
    after = 0
    while True:
        page = call.client.get(session_path(name) + "/executions", after=after, limit=PAGE, max_output=max_output)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1]["id"]


# ---- the commands ----


def wait(call: Invocation) -> int:
    """omegactl wait: an execution's exit code, or 0 when a session has nothing left to do."""
    name, execution_id = _find(call, call.args.what)
    end_at = None if call.args.timeout is None else time.monotonic() + call.args.timeout
    if execution_id is not None:
        execution = _wait_for(call, name, execution_id, end_at)
        if call.form in ("json", "jsonl"):
            execution = call.client.get(execution_path(name, execution_id), max_output=UNBOUNDED)
        if call.args.json or call.args.format:
            call.screen.row(execution, columns(call.screen), call.form)
        tell(call.screen, execution)
        return exit_code(execution)
    while True:
        session = call.client.get(session_path(name))
        if session["running_execution_id"] is None and not session["queue_length"]:
            if session["state"] not in ("starting", "reconnecting"):
                if call.form in ("json", "jsonl"):
                    call.screen.row(session, [], call.form)
                return 0
            time.sleep(0.05)
        elif session["running_execution_id"] is None:
            time.sleep(0.05)
        else:
            _wait_for(call, name, session["running_execution_id"], end_at)
        if end_at is not None and time.monotonic() >= end_at:
            raise TimedOut(f"Session '{name}' is still {session['state']}", hint="")


def _wait_for(call: Invocation, name: str, execution_id: int, end_at: float | None) -> Json:
    while True:
        wait_s = POLL_S if end_at is None else max(min(end_at - time.monotonic(), POLL_S), 0)
        execution: Json = call.client.get(execution_path(name, execution_id), wait_s=round(wait_s, 3), max_output=0)
        if execution["status"] not in UNFINISHED:
            return execution
        if end_at is not None and time.monotonic() >= end_at:
            raise TimedOut(f"Execution {execution_id} is still {execution['status']}", hint="It goes on.")


def interrupt(call: Invocation) -> int:
    """omegactl interrupt."""
    body = {} if call.args.execution is None else {"execution_id": call.args.execution}
    return report_stop(call, call.client.post(session_path(call.args.name) + "/interrupt", body))


def report_stop(call: Invocation, stopped: Json) -> int:
    """What interrupt, kill and restart did; 124 when the command has not yielded."""
    if call.args.json or call.args.format in ("json", "jsonl"):
        call.screen.json(stopped)
    else:
        call.screen.say(_told_stop(stopped))
    has_steps = bool(stopped["steps"])
    return 124 if has_steps and not any(step["effective"] for step in stopped["steps"]) else 0


def _told_stop(stopped: Json) -> str:
    """What was done and what is left, in words."""
    if not any(step["effective"] for step in stopped["steps"]):
        return str(stopped["note"])
    steps = " → ".join(step["action"] for step in stopped["steps"] if step["action"] != "none")
    if stopped["variables_kept"]:
        return f"Interrupted execution {stopped['execution']['id']} ({steps}); variables are kept."
    return f"{stopped['note']} ({steps})"


def input_(call: Invocation) -> int:
    """omegactl input."""
    args = call.args
    if args.eof and args.text is not None:
        raise UsageError("TEXT and --eof exclude each other")
    execution_id = args.execution
    if execution_id is None:
        session = call.client.get(session_path(args.name))
        execution_id = session["running_execution_id"]
        if session["state"] != "waiting_input" or execution_id is None:
            raise NotWaitingInput(f"Session '{args.name}' waits for no input: it is {session['state']}", hint="")
    text = args.text
    if text is None and not args.eof:
        if sys.stdin is None:
            raise UsageError("Standard input is closed", hint="Give the answer as TEXT, or --eof for none.")
        text = InputLines().read()
    try:
        call.client.post(session_path(args.name) + "/input", {"execution_id": execution_id, "text": text})
    except NotWaitingInput:
        if not call.client.was_repeated:
            raise
        # It was answered by the first attempt, whose own answer was lost.
    return 0


def history(call: Invocation) -> int:
    """omegactl history."""
    args, screen = call.args, call.screen
    wants_all = call.form in ("json", "jsonl")
    max_output = None if wants_all else 0
    if args.count is None or args.count > PAGE:
        rows = _history(call, args.name, max_output)
        if args.count is not None:
            rows = iter(deque(rows, maxlen=args.count))
    else:
        path = session_path(args.name) + "/executions"
        rows = iter(call.client.get(path, last=args.count, max_output=max_output) if args.count else ())
    if not args.follow:
        with screen.paged():
            screen.rows(rows, columns(screen), call.form)
        return 0
    form = "jsonl" if call.form == "json" else call.form
    shown = list(rows)
    screen.rows(shown, columns(screen), form)
    ended = {row["id"] for row in shown if row["status"] not in UNFINISHED}
    session = call.client.get(session_path(args.name))
    # From the first that may still end: what ends between the two requests is in the feed.
    for event in call.client.events(min(ended, default=0), follow=True):
        if event.get("session_id") != session["id"] or event["kind"] != "execution_finished":
            continue
        if event["execution_id"] in ended:
            continue
        ended.add(event["execution_id"])
        path = execution_path(event["session"], event["execution_id"])
        row = call.client.get(path, max_output=None if wants_all else 0)
        if form in ("jsonl", "name"):
            screen.rows([row], [], form)
        else:
            took = duration(_seconds(row))
            screen.line(
                f"{row['id']}  {_status(row)}  {screen.when(row['queued_at'])}  {took}  {one_line(row['command'])}"
            )
    return 0


# ---- output ----


def output(call: Invocation) -> int:
    """omegactl output."""
    args, screen = call.args, call.screen
    name, execution_id = _find(call, args.what)
    if execution_id is None:
        execution_id = _last(call, name)["id"]
    saves = args.save is not None or args.data is not None
    if saves or args.json:
        if args.grep is not None or args.tail is not None or args.raw or (saves and args.json):
            raise UsageError("--save, --data and --json go with nothing that shows text")
        max_output = UNBOUNDED if args.json else 0
        execution = call.client.get(execution_path(name, execution_id), max_output=max_output)
        if saves:
            return save(call, execution)
        screen.json(execution)
        return 0
    path = execution_path(name, execution_id) + "/output"
    pattern = None
    if args.grep is not None:
        try:
            pattern = re.compile(args.grep)
        except re.error as error:
            raise UsageError(f"'{args.grep}' is no regular expression: {error}") from None
    start = 0
    if args.tail is not None and pattern is None:
        start = _start_of_last(call, path, args.tail)
    safe = _safe_texts(_pieces(call, path, start), screen, is_raw=args.raw)
    if pattern is None and args.tail is None:
        with screen.paged():
            for text in safe:
                screen.write(text)
        return 0
    lines = _lines(safe)
    if pattern is not None:
        lines = (line for line in lines if pattern.search(line))
    if args.tail is not None:
        lines = iter(deque(lines, maxlen=args.tail))
    for line in lines:
        screen.write(line + "\n")
    return 0


def _safe_texts(texts: Iterator[str], screen: Screen, *, is_raw: bool) -> Iterator[str]:
    """Plain; or raw, which is every byte as it was on a pipe, and made safe on a terminal."""
    if is_raw and not screen.is_terminal:
        yield from texts
        return
    safe = Sanitizer(colors=screen.has_colors, motion=True) if is_raw else PlainLines()
    for text in texts:
        yield safe.feed(text)
    yield safe.close()


def _pieces(call: Invocation, path: str, offset: int) -> Iterator[str]:
    """The output from a byte on, as far as there is any now."""
    while True:
        piece = call.client.get(path, offset=offset, limit=PIECE_BYTES)
        if piece["dropped_bytes"] and not piece["total_bytes"]:
            call.screen.say(f"{size(piece['dropped_bytes'])} were removed to keep the history within its limits.")
        if piece["offset"] > offset and piece["text"]:
            yield f"\n[… {piece['offset'] - offset} bytes left out …]\n"
        yield piece["text"]
        if piece["eof"] or piece["next_offset"] >= piece["total_bytes"] or piece["next_offset"] <= offset:
            return
        offset = piece["next_offset"]


def _start_of_last(call: Invocation, path: str, count: int) -> int:
    """A byte far enough from the end to hold the last lines, and no further than that takes."""
    total: int = call.client.get(path, offset=0, limit=1)["total_bytes"]
    span = max(count * LINE_BYTES, PIECE_BYTES // 16)
    while (start := max(total - span, 0)) > 0:
        # The first of them may be half a line: one more is needed.
        if sum(text.count("\n") for text in _pieces(call, path, start)) > count:
            break
        span *= 4
    return start


def _lines(texts: Iterator[str]) -> Iterator[str]:
    pending = ""
    for text in texts:
        *whole, pending = (pending + text).split("\n")
        yield from whole
    if pending:
        yield pending
