"""`omegactl exec`: a command run in a session, followed live, whatever happens to the daemon meanwhile.

On a pipe the text is exactly the execution's `output`: plain, with the motions of a terminal carried out line by line.
On a terminal it appears as it comes.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import FrameType
from typing import Any

from omega_sessiond.client import Client, execution_path, session_path
from omega_sessiond.errors import NotWaitingInput, OmegaError
from omega_sessiond.invocation import Invocation, TimedOut, UsageError
from omega_sessiond.screen import Screen, size
from omega_sessiond.terminal import PlainLines, Sanitizer, sanitize

Json = dict[str, Any]

SECOND_INTERRUPT_S = 2.0
YIELD_S = 5.0
"""How long after its time-out a command may take to yield before we leave it: it was interrupted on time."""

UNBOUNDED = 2**53
"""As `max_output`: all of it."""


def run(call: Invocation) -> int:
    """omegactl exec."""
    args = call.args
    code = _code(call)
    form = "json" if args.json else (args.format or "text")
    begun = call.begun
    options: Json = {"command": code, "idempotency_key": args.key or secrets.token_hex(16)}
    if begun is not None:
        options["idempotency_key"] = begun.idempotency_key
    if args.timeout is not None:
        options["timeout_s"] = args.timeout
    creation = None if args.no_create else call.creation
    if args.detach:
        execution = call.client.submit(args.name, {**options, "wait_s": 0, "max_output": 0}, creation)
        if form == "text":
            call.screen.line(str(execution["id"]))
        else:
            call.screen.json(execution)
        return 0
    options["max_output"] = 0 if form == "text" else UNBOUNDED
    return _Following(call, options, form).run(None if args.no_create else call)


def run_as_omegallm(call: Invocation) -> int:
    """omegactl -s NAME -c CMD [--json]: OmegaLLM's own keys."""
    options: Json = {"command": _code(call), "idempotency_key": secrets.token_hex(16)}
    options["max_output"] = UNBOUNDED if call.args.json else 0
    if call.args.timeout is not None:
        options["timeout_s"] = call.args.timeout
    following = _Following(call, options, "omegallm" if call.args.json else "text")
    return following.run(call)


def _code(call: Invocation) -> str:
    args = call.args
    if args.code is not None:
        code: str = args.code
    elif args.file is not None and args.file != "-":
        try:
            with open(args.file, encoding="utf-8") as stream:
                code = stream.read()
        except UnicodeDecodeError:
            raise UsageError(f"{args.file} is not UTF-8", hint="Convert it first.") from None
        except OSError as error:
            raise UsageError(f"Cannot read {args.file}: {error.strerror}") from None
    else:
        try:
            code = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError:
            raise UsageError("Standard input is not UTF-8", hint="Convert it first.") from None
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


class _Detached(Exception):
    """The user leaves; the command goes on."""


class _LeftBehind(Exception):
    """The command was interrupted by its time-out and has not yielded."""


class _Text:
    """The combined output as a person or a program reads it."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._next = 0
        self._safe: Sanitizer | PlainLines = PlainLines()
        if screen.is_terminal or screen.forces_colors:
            self._safe = Sanitizer(colors=screen.forces_colors, motion=True)

    def show(self, event: Json) -> None:
        text: str = event["text"]
        if event["offset"] > self._next:
            text = f"\n[… {event['offset'] - self._next} bytes left out …]\n" + text
        self._next = event["offset"] + len(event["text"].encode("utf-8", "surrogatepass"))
        self._screen.write(self._safe.feed(text))

    def close(self) -> None:
        self._screen.write(self._safe.close())


class _Following:
    """One command from its request to its end, with ^C, input() and time-out on the way."""

    def __init__(self, call: Invocation, options: Json, form: str) -> None:
        self._call = call
        self._screen = call.screen
        self._name: str = call.args.name
        self._options = options
        self._form = form
        self._text = _Text(call.screen)
        self._execution_id: int | None = None
        self._is_asking = False
        self._interrupted_at: float | None = None

    def run(self, creator: Invocation | None) -> int:
        """To the end of the command; the exit code."""
        client, begun = self._call.client, self._call.begun
        before = signal.signal(signal.SIGINT, self._on_interrupt)
        signal.signal(signal.SIGALRM, _on_alarm)
        try:
            if begun is not None and begun.execution_id is not None:
                self._knows(begun.execution_id)
                events = client.follow_execution(self._name, begun.execution_id, max_output=self._options["max_output"])
            else:
                events = client.execute(self._name, self._options, creator.creation if creator else None)
            if begun is not None and begun.interrupted and self._execution_id is None:
                raise KeyboardInterrupt
            return self._follow(events)
        except KeyboardInterrupt:
            return self._withdraw()
        except _Detached:
            self._text.close()
            self._screen.say(f"Detached; execution {self._execution_id} goes on: {self._how_to_see()}")
            return 130
        except _LeftBehind:
            self._text.close()
            raise TimedOut(
                f"Execution {self._execution_id} was interrupted by its time-out, has not yielded and goes on",
                hint=f"'omegactl kill {self._name}' ends the session's process; {self._how_to_see()} shows it.",
            ) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGINT, before)

    def _how_to_see(self) -> str:
        return f"omegactl wait {self._execution_id}; omegactl output {self._execution_id}"

    def _follow(self, events: Any) -> int:
        for event in events:
            if "execution_id" in event:
                self._knows(event["execution_id"])
            if self._form == "jsonl":
                self._screen.json_line(event)
            match event["kind"]:
                case "output" if self._form == "text":
                    self._text.show(event)
                case "execution_started":
                    if self._options.get("timeout_s"):
                        signal.setitimer(signal.ITIMER_REAL, self._options["timeout_s"] + YIELD_S)
                case "input_requested":
                    self._answer(event)
                case "execution_finished" if "execution" in event:
                    return self._finish(event["execution"])
        raise AssertionError("an execution's events end with its end")

    def _finish(self, execution: Json) -> int:
        match self._form:
            case "text":
                self._text.close()
            case "json":
                self._screen.json(execution)
            case "omegallm":
                self._screen.json({key: execution[key] for key in ("session", "command", "output")})
        tell(self._screen, execution)
        return exit_code(execution)

    # ---- ^C ----

    def _knows(self, execution_id: int) -> None:
        """From now on ^C has something to interrupt; one that came before counts."""
        if self._execution_id is None:
            self._execution_id = execution_id
            begun = self._call.begun
            if begun is not None and begun.interrupted:
                self._on_interrupt(signal.SIGINT, None)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raises nothing while the stream is read, for that would lose it: a second connection interrupts."""
        if self._execution_id is None or self._is_asking:
            raise KeyboardInterrupt
        now = time.monotonic()
        if self._interrupted_at is not None and now - self._interrupted_at < SECOND_INTERRUPT_S:
            raise _Detached
        self._interrupted_at = now
        os.write(2, b"\nInterrupting; ^C again within 2 s detaches.\n")
        threading.Thread(target=self._interrupt, args=(self._execution_id,), daemon=True).start()

    def _interrupt(self, execution_id: int) -> None:
        try:
            with self._call.new_client() as client:
                client.post(session_path(self._name) + "/interrupt", {"execution_id": execution_id, "wait_s": 0})
        except OmegaError as error:
            os.write(2, f"omegactl: cannot interrupt: {error.message}\n".encode(errors="replace"))

    def _withdraw(self) -> int:
        """^C before the daemon has named the execution: it may have it all the same. Its key says which it is."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if self._execution_id is None:
            try:
                with self._call.new_client(may_start=False) as client:
                    execution = client.submit(self._name, {**self._options, "wait_s": 0, "max_output": 0}, None)
                    client.post(session_path(self._name) + "/interrupt", {"execution_id": execution["id"], "wait_s": 2})
                self._screen.say(f"Interrupted execution {execution['id']}.")
            except OmegaError as error:
                self._screen.warn(f"interrupted; what became of the command is not known: {error.message}")
        return 130

    # ---- input() ----

    def _answer(self, event: Json) -> None:
        """Ask the user what the command asks, or say how to answer; a question from the past is left alone."""
        execution_id = event["execution_id"]
        with self._call.new_client() as client:
            if not self._waits(client, execution_id):
                return
            if not self._screen.can_ask or self._form != "text":
                self._screen.say(
                    f"Execution {execution_id} waits for input: {event['prompt']!r}\n"
                    f"Answer it with: omegactl input {self._name} TEXT"
                )
                return
            try:
                self._is_asking = True
                if not self._screen.is_terminal:
                    os.write(2, sanitize(event["prompt"]).encode("utf-8", "backslashreplace"))
                text = self._ask(client, execution_id, event["secret"])
            except _NoLongerAsked:
                return
            except KeyboardInterrupt:
                self._is_asking = False
                self._on_interrupt(signal.SIGINT, None)
                return
            finally:
                self._is_asking = False
            try:
                client.post(session_path(self._name) + "/input", {"execution_id": execution_id, "text": text})
            except NotWaitingInput as error:
                self._screen.warn(error.message)

    def _waits(self, client: Client, execution_id: int) -> bool:
        execution = client.get(execution_path(self._name, execution_id), max_output=0)
        return bool(execution["status"] == "waiting_input")

    def _ask(self, client: Client, execution_id: int, is_secret: bool) -> str | None:
        """A line from the terminal, None for end of file. Raises _NoLongerAsked when the command ends before."""
        with _echo_off() if is_secret else nullcontext():
            typed = b""
            while True:
                ending = client.ask_for_end(self._name, execution_id)
                try:
                    while not typed.endswith(b"\n"):
                        ready = select.select([0, ending.fileno()], [], [])[0]
                        if 0 not in ready:
                            break
                        data = os.read(0, 4096)
                        if not data:
                            return typed.decode(errors="replace") if typed else None
                        typed += data
                    else:
                        return typed.decode(errors="replace").removesuffix("\n")
                finally:
                    ending.close()
                if not self._waits(client, execution_id):
                    raise _NoLongerAsked


class _NoLongerAsked(Exception):
    """The command ended while its question stood on the screen."""


@contextmanager
def _echo_off() -> Iterator[None]:
    """What is typed meanwhile is not shown."""
    before = termios.tcgetattr(0)
    silent = [*before[:3], before[3] & ~termios.ECHO, *before[4:]]
    termios.tcsetattr(0, termios.TCSADRAIN, silent)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
        os.write(2, b"\n")


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise _LeftBehind


def tell(screen: Screen, execution: Json) -> None:
    """On stderr, what a reader of the output alone would not know."""
    lost, truncated = execution["lost"], execution["truncated"]
    if execution["resumed_from"]:
        screen.say(f"The session was resumed from {execution['resumed_from']}.")
    if lost:
        what = "all variables" if lost["variables"] == "all" else "variables: " + ", ".join(lost["variables"])
        screen.say(f"Lost before this command: {what} ({lost['reason']}).")
    if truncated and truncated["dropped_bytes"]:
        screen.say(f"{size(truncated['dropped_bytes'])} of the output were dropped for good (a setting bounds it).")
    match execution["status"]:
        case "died":
            error = execution["error"] or {}
            screen.say(f"The session's process ended: {error.get('message') or execution['reason']}.")
        case "interrupted" | "cancelled":
            screen.say(f"{execution['status'].capitalize()} ({execution['reason']}).")
