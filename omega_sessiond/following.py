"""One command from its request to its end: what it does is shown as it happens, whatever becomes of the daemon
meanwhile; ^C interrupts it, and its input() is asked for here.

Knows no command line: `omegactl exec` and `omegactl repl` decide what to show and what comes after.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from omega_sessiond.client import Client, execution_path, session_path, with_query
from omega_sessiond.errors import InvalidField, NotWaitingInput, OmegaError
from omega_sessiond.invocation import Invocation, UsageError
from omega_sessiond.keyboard import NoLongerAsked
from omega_sessiond.screen import Screen, size
from omega_sessiond.statewords import lost_words
from omega_sessiond.terminal import PlainLines, Sanitizer, sanitize

Json = dict[str, Any]

SECOND_INTERRUPT_S = 2.0
SILENCE_S = 1.0
"""How long a pipe may be silent before it is said how else to answer: it may be one that nobody writes to."""
YIELD_S = 5.0
"""How long after its time-out a command may take to yield before we leave it: it was interrupted on time."""


class Detached(Exception):
    """The user leaves; the command goes on."""


class LeftBehind(Exception):
    """The command was interrupted by its time-out and has not yielded."""


class Asker(Protocol):
    """Where the answers to input() come from."""

    @property
    def is_person(self) -> bool:
        """Whether somebody is asked, who has to see the question."""

    def line(self, over: int, *, is_secret: bool) -> str | None:
        """A line, None for end of file. Raises NoLongerAsked once `over` is readable, UsageError for what is no
        text."""


class Text:
    """The combined output as a person or a program reads it: live on a terminal, plain lines elsewhere."""

    def __init__(self, screen: Screen, *, colors: bool) -> None:
        self._screen = screen
        self._next = 0
        self._safe: Sanitizer | PlainLines = PlainLines()
        if screen.is_terminal or screen.forces_colors:
            self._safe = Sanitizer(colors=colors, motion=True)
        self.is_at_line_start = True
        """Whether the next character would stand in the first column."""

    def skip_to(self, offset: int) -> None:
        """Leave out what comes before that byte."""
        self._next = max(self._next, offset)

    def show(self, event: Json) -> None:
        """An `output` event."""
        text: str = event["text"]
        whole = text.encode("utf-8", "surrogatepass")
        start = event["offset"]
        if start + len(whole) <= self._next:
            return
        if start < self._next:
            text = whole[self._next - start :].decode("utf-8", "replace")
        elif start > self._next:
            text = f"\n[… {start - self._next} bytes left out …]\n" + text
        self._next = start + len(whole)
        self._write(self._safe.feed(text))

    def close(self) -> None:
        self._write(self._safe.close())

    def _write(self, text: str) -> None:
        if text:
            self._screen.write(text)
            self.is_at_line_start = text.endswith("\n")


class Following:
    """Follows one command. `see` gets each event; questions are put to the `asker`, where there is one."""

    def __init__(self, call: Invocation, name: str, see: Callable[[Json], None], asker: Asker | None) -> None:
        self._call = call
        self._screen = call.screen
        self._name = name
        self._see = see
        self._asker = asker
        self._is_replay = False
        self.execution_id: int | None = None
        """Known as soon as the daemon has named it."""
        self._is_asking = False
        self._interrupted_at: float | None = None

    # ---- from its start, or from when it is met ----

    def execute(self, options: Json, creation: Callable[[], Json] | None) -> Json | None:
        """Run a command to its end; the execution. None: it was interrupted before the daemon had named it.

        Raises Detached and LeftBehind, when the command goes on without us.
        """
        client, begun = self._call.client, self._call.begun
        try:
            with self._signals():
                if begun is not None and begun.execution_id is not None:
                    self._knows(begun.execution_id)
                    events = client.follow_execution(
                        self._name, begun.execution_id, max_output=options.get("max_output")
                    )
                else:
                    events = client.execute(self._name, options, creation)
                if begun is not None and begun.interrupted and self.execution_id is None:
                    raise KeyboardInterrupt
                return self._follow(events, options.get("timeout_s"))
        except KeyboardInterrupt:
            return self._withdraw(options)

    def join(self, execution_id: int, *, max_output: int) -> Json:
        """Follow an execution that exists to its end. Raises Detached."""
        self._is_replay = True
        with self._signals():
            self._knows(execution_id)
            events = self._call.client.follow_execution(self._name, execution_id, max_output=max_output)
            return self._follow(events, None)

    @contextmanager
    def _signals(self) -> Iterator[None]:
        before = signal.signal(signal.SIGINT, self._on_interrupt)
        alarm = signal.signal(signal.SIGALRM, _on_alarm)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, alarm)
            signal.signal(signal.SIGINT, before)

    def _follow(self, events: Iterator[Json], timeout_s: float | None) -> Json:
        for event in events:
            if "execution_id" in event:
                self._knows(event["execution_id"])
            self._see(event)
            match event["kind"]:
                case "execution_started" if timeout_s:
                    signal.setitimer(signal.ITIMER_REAL, timeout_s + YIELD_S)
                case "input_requested":
                    self._answer(event)
                case "execution_finished" if "execution" in event:
                    execution: Json = event["execution"]
                    return execution
        raise AssertionError("an execution's events end with its end")

    # ---- ^C ----

    def _knows(self, execution_id: int) -> None:
        """From now on ^C has something to interrupt; one that came before counts."""
        if self.execution_id is None:
            self.execution_id = execution_id
            begun = self._call.begun
            if begun is not None and begun.interrupted:
                self._on_interrupt(signal.SIGINT, None)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raises nothing while the stream is read, for that would lose it: a second connection interrupts."""
        if self.execution_id is None or self._is_asking:
            raise KeyboardInterrupt
        now = time.monotonic()
        if self._interrupted_at is not None and now - self._interrupted_at < SECOND_INTERRUPT_S:
            raise Detached
        self._interrupted_at = now
        os.write(2, b"\nInterrupting; ^C again within 2 s detaches.\n")
        threading.Thread(target=self._interrupt, args=(self.execution_id,), daemon=True).start()

    def _interrupt(self, execution_id: int) -> None:
        try:
            with self._call.new_client() as client:
                client.post(session_path(self._name) + "/interrupt", {"execution_id": execution_id, "wait_s": 0})
        except OmegaError as error:
            os.write(2, f"omegactl: cannot interrupt: {sanitize(error.message)}\n".encode(errors="replace"))

    def _withdraw(self, options: Json) -> Json | None:
        """^C before the daemon has named the execution: it may have it all the same. Its key says which it is."""
        if self.execution_id is None:
            before = signal.signal(signal.SIGINT, signal.SIG_DFL)
            try:
                with self._call.new_client(may_start=False) as client:
                    execution = client.submit(self._name, {**options, "wait_s": 0, "max_output": 0}, None)
                    client.post(session_path(self._name) + "/interrupt", {"execution_id": execution["id"], "wait_s": 2})
                self._screen.say(f"Interrupted execution {execution['id']}.")
            except OmegaError as error:
                self._screen.warn(f"interrupted; what became of the command is not known: {error.message}")
            finally:
                signal.signal(signal.SIGINT, before)
        return None

    # ---- input() ----

    def _answer(self, event: Json) -> None:
        """Ask the user what the command asks, or say how to answer; a question from the past is left alone."""
        execution_id = event["execution_id"]
        with self._call.new_client() as client:
            if self._status(client, execution_id) != "waiting_input":
                return
            if self._is_replay and self._is_past(client, event):
                return
            how = f"Answer it with: omegactl input {self._name} TEXT"
            waiting = f"Execution {execution_id} waits for input: {event['prompt']!r}\n{how}"
            if self._asker is None:
                self._screen.say(waiting)
                return
            over = self._question_over(event)
            is_person = self._asker.is_person
            silence = threading.Timer(SILENCE_S, self._screen.say, (waiting,))
            silence.daemon = True
            try:
                self._is_asking = True
                if not is_person:
                    silence.start()
                elif not self._screen.is_terminal:
                    os.write(2, sanitize(event["prompt"]).encode("utf-8", "backslashreplace"))
                text = self._asker.line(over, is_secret=event["secret"])
            except NoLongerAsked:
                end_of_prompt = b"\n" if is_person else b""
                if os.read(over, 1):
                    os.write(2, end_of_prompt + b"Answered elsewhere.\n")
                else:
                    os.write(2, end_of_prompt)
                    self._status(client, execution_id)  # raises when it was the daemon that went
                return
            except UsageError as error:
                raise self._unanswered(error, execution_id, how) from None
            except KeyboardInterrupt:
                self._is_asking = False
                self._on_interrupt(signal.SIGINT, None)
                return
            finally:
                self._is_asking = False
                silence.cancel()
                os.close(over)
            try:
                client.post(session_path(self._name) + "/input", {"execution_id": execution_id, "text": text})
            except NotWaitingInput as error:
                self._screen.warn(error.message)
            except InvalidField as error:  # of a pipe alone: no key is a line break within the line
                raise self._unanswered(error, execution_id, how) from None

    def _unanswered(self, error: OmegaError, execution_id: int, how: str) -> UsageError:
        """The same error, and what is to be done about the question that is open still."""
        end = f"omegactl interrupt {self._name}"
        return UsageError(
            error.message, hint=f"{error.hint} Execution {execution_id} still asks. {how}; or end it: {end}"
        )

    def _status(self, client: Client, execution_id: int) -> str:
        return str(client.get(execution_path(self._name, execution_id), max_output=0)["status"])

    def _is_past(self, client: Client, asked: Json) -> bool:
        """Whether a question that is met in the history of its execution has been answered: it may have had several."""
        path = with_query("/api/events", {"since": asked["id"], "follow": 0})
        return any(_ends_question(event, asked) for event in client.stream("GET", path))

    def _question_over(self, asked: Json) -> int:
        """A descriptor that becomes readable when the question is over: a byte when it was answered, by whomever, its
        end in any case."""
        reader, writer = os.pipe()

        def watch() -> None:
            try:
                with self._call.new_client() as client:
                    for event in client.events(asked["id"], follow=True):
                        if event["kind"] == "gap":
                            if self._status(client, asked["execution_id"]) != "waiting_input":
                                return
                        elif _ends_question(event, asked):
                            if event["kind"] == "input_answered":
                                os.write(writer, b"a")
                            return
            except (OmegaError, BrokenPipeError):
                pass  # whoever asks finds out, too, or asks no longer
            finally:
                os.close(writer)

        threading.Thread(target=watch, daemon=True).start()
        return reader


def _ends_question(event: Json, asked: Json) -> bool:
    match event["kind"]:
        case "session_deleted":
            return bool(event["session_id"] == asked["session_id"])
        case "input_answered" | "execution_finished":
            return bool(event["execution_id"] == asked["execution_id"])
        case _:
            return False


def _on_alarm(number: int, frame: FrameType | None) -> None:
    raise LeftBehind


def notes(execution: Json) -> Iterator[str]:
    """What a reader of the output alone would not know, a line each."""
    lost, truncated = execution["lost"], execution["truncated"]
    if execution["resumed_from"]:
        yield f"The session was resumed from checkpoint {execution['resumed_from']}."
    if lost:
        yield f"Lost before this command: {lost_words(lost)}."
    if truncated and truncated.get("pruned_at"):
        yield f"Its output ({size(truncated['dropped_bytes'])}) was removed to keep the history within its limits."
    elif truncated and truncated["dropped_bytes"]:
        yield f"{size(truncated['dropped_bytes'])} of the output were dropped for good (a setting bounds it)."
    match execution["status"]:
        case "died":
            error = execution["error"] or {}
            yield f"The session's process ended: {error.get('message') or execution['reason']}."
        case "error" if execution["should_exit"]:  # a program ends without a word
            yield f"{execution['error']['message']}: the next command starts anew."
        case "interrupted" | "cancelled":
            yield f"{execution['status'].capitalize()} ({execution['reason']})."
