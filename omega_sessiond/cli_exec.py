"""`omegactl exec`: a command run in a session, followed live, whatever happens to the daemon meanwhile.

On a pipe the text is exactly the execution's `output`: plain, with the motions of a terminal carried out line by line.
On a terminal it appears as it comes.
"""

from __future__ import annotations

import secrets
import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from omega_sessiond.client import session_path
from omega_sessiond.errors import SessionNotFound
from omega_sessiond.following import Asker, Detached, Following, LeftBehind, Text, notes
from omega_sessiond.inputlines import answers, is_standard_input, not_text
from omega_sessiond.invocation import Invocation, TimedOut, UsageError
from omega_sessiond.keyboard import Keyboard
from omega_sessiond.richdata import how_to_get
from omega_sessiond.screen import Screen

Json = dict[str, Any]

UNBOUNDED = 2**53
"""As `max_output`: all of it."""


def run(call: Invocation) -> int:
    """omegactl exec."""
    args = call.args
    code = _code(call)
    form = "json" if args.json else (args.format or "text")
    begun = call.begun
    options: Json = {"command": code, "idempotency_key": secrets.token_hex(16) if args.key is None else args.key}
    if begun is not None:
        options["idempotency_key"] = begun.idempotency_key
    if args.timeout is not None:
        options["timeout_s"] = args.timeout
    if args.engine is not None:
        _refuse_other_engine(call)
    creation = None if args.no_create else _Creation(call)

    def begins() -> None:
        if (creation is None or not creation.was_needed) and (note := unheeded(args, args.name)):
            call.screen.say(note)

    if args.detach:
        execution = call.client.submit(args.name, {**options, "wait_s": 0, "max_output": 0}, creation)
        begins()
        if form == "text":
            call.screen.line(str(execution["id"]))
        else:
            call.screen.json(execution)
        return 0
    options["max_output"] = 0 if form == "text" else UNBOUNDED
    return _follow(call, options, form, creation, begins)


def _refuse_other_engine(call: Invocation) -> None:
    """Code that was meant for one engine does not run in another."""
    name, engine = call.args.name, call.args.engine
    try:
        session = call.client.get(session_path(name))
    except SessionNotFound:
        return
    if session["engine"] != engine:
        raise UsageError(
            f"Session '{name}' exists, and its engine is {session['engine']}, not {engine}",
            hint="Leave --engine out, or name another session.",
        )


class _Creation:
    """Makes what a session is created with. Called only where there is none."""

    def __init__(self, call: Invocation) -> None:
        self._call = call
        self.was_needed = False

    def __call__(self) -> Json:
        from omega_sessiond.cli_sessions import creation_body  # for a session that is not there alone

        self.was_needed = True
        return creation_body(self._call)


def unheeded(args: Namespace, name: str) -> str:
    """What is said where options of a session to be created were given for one that exists; nothing without any."""
    fixed = [option for option in ("env", "cwd", "python") if getattr(args, option)]
    # A limit that is not given is not among the arguments: as None it would be lifted.
    settable = [option for option in ("mem", "tasks", "cpu_weight") if hasattr(args, option)]
    settable += ["label"] if args.label else []
    if not fixed and not settable:
        return ""
    options = [f"--{option.replace('_', '-')}" for option in fixed + settable]
    verb = "has" if len(options) == 1 else "have"
    remedy = f"; 'omegactl set {name}' changes limits and labels" if settable else ""
    return f"Session '{name}' exists already: {', '.join(options)} {verb} no effect there{remedy}."


def run_as_omegallm(call: Invocation) -> int:
    """omegactl -s NAME -c CMD [--json]: OmegaLLM's own keys."""
    options: Json = {"command": _code(call), "idempotency_key": secrets.token_hex(16)}
    options["max_output"] = UNBOUNDED if call.args.json else 0
    if call.args.timeout is not None:
        options["timeout_s"] = call.args.timeout
    return _follow(call, options, "omegallm" if call.args.json else "text", call.creation)


def _follow(
    call: Invocation,
    options: Json,
    form: str,
    creation: Callable[[], Json] | None,
    begins: Callable[[], None] = lambda: None,
) -> int:
    """Run the command to its end, or until it is left, and show it in the form asked for; the exit code. `begins` is
    called once the session has it."""
    screen, name = call.screen, call.args.name
    text = Text(screen, colors=screen.forces_colors)

    def see(event: Json) -> None:
        if event["kind"] == "execution_queued":
            begins()
        if form == "jsonl":
            screen.json_line(event)
        elif form == "text" and event["kind"] == "output":
            text.show(event)

    following = Following(call, name, see, _asker(call, form))
    try:
        execution = following.execute(options, creation)
    except Detached:
        text.close()
        id = following.execution_id
        screen.say(f"Detached; execution {id} goes on: {_how_to_see(id)}")
        return 130
    except LeftBehind:
        text.close()
        id = following.execution_id
        raise TimedOut(
            f"Execution {id} was interrupted by its time-out, has not yielded and goes on",
            hint=f"'omegactl kill {name}' ends the session's process; {_how_to_see(id)} shows it.",
        ) from None
    if execution is None:
        return 130
    match form:
        case "text":
            text.close()
        case "json":
            screen.json(execution)
        case "omegallm":
            answer = {key: execution[key] for key in ("session", "command", "output")}
            screen.json({**answer, "output": execution["output"].removesuffix("\n")})
    tell(screen, execution)
    return exit_code(execution)


def _asker(call: Invocation, form: str) -> Asker | None:
    """Who answers the command's questions: the person at the terminal, or what stands in standard input, unless the
    command itself stood there."""
    args = call.args
    if call.screen.can_ask:
        return Keyboard() if form == "text" else None
    is_command = args.code is None and (args.file in (None, "-") or is_standard_input(args.file))
    return None if is_command else answers()


def _how_to_see(execution_id: int | None) -> str:
    return f"omegactl wait {execution_id}; omegactl output {execution_id}"


def _code(call: Invocation) -> str:
    args = call.args
    if args.code is not None:
        code: str = args.code
    elif args.file is not None and args.file != "-":
        try:
            with open(args.file, encoding="utf-8-sig") as stream:
                code = stream.read()
        except UnicodeDecodeError:
            raise UsageError(f"{args.file} is not UTF-8", hint="Convert it first.") from None
        except OSError as error:
            raise UsageError(f"Cannot read {args.file}: {error.strerror}") from None
    else:
        if sys.stdin is None:
            raise UsageError("Standard input is closed", hint="Give the command with -c CODE or -f FILE.")
        try:
            code = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError:
            raise not_text() from None
    if not code:
        raise UsageError("The command is empty", hint="Give it with -c CODE, -f FILE or - for standard input.")
    try:
        code.encode()
    except UnicodeEncodeError:
        raise UsageError("The command is not UTF-8") from None
    return code


def exit_code(execution: Json) -> int:
    """What became of a command, as omegactl's exit code."""
    match execution["status"], execution["reason"]:
        case "ok", _:
            return 0
        case (("interrupted" | "cancelled"), "timeout"):
            return 124
        case "interrupted", _:
            return 130
        case "cancelled", "user":
            return 130
        case "cancelled", _:
            return 5
        case (("queued" | "running" | "waiting_input"), _):
            return 124
        case _:
            return 1


def tell(screen: Screen, execution: Json) -> None:
    """On stderr, what a reader of the output alone would not know."""
    for note in notes(execution):
        screen.say(note)
    if screen.talks_to_terminal:
        for line in how_to_get(execution):
            screen.say(line)
        if execution["should_exit"]:
            screen.say("The code asked to leave; the session lives on.")
