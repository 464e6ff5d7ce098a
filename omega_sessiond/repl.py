"""`omegactl repl`: an interactive client of one session after the other, which all outlive it.

The loop: read a command, run it, show what becomes of it. What is typed is not lost: a command that could not be handed
over stands at the next prompt, under the same idempotency key.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

from omega_sessiond import repl_commands
from omega_sessiond.errors import InvalidName, OmegaError, SessionNotFound
from omega_sessiond.invocation import Invocation
from omega_sessiond.keyboard import Keyboard
from omega_sessiond.repl_plain import LineReader
from omega_sessiond.repl_session import Judgement, ReplSession
from omega_sessiond.screen import age
from omega_sessiond.terminal import one_line

if TYPE_CHECKING:
    from omega_sessiond.repl_running import Runner
    from omega_sessiond.repl_watch import Watch

Json = dict[str, Any]

DEFAULT_NAME = "main"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,57}"

HISTORY_S = 0.1
"""How long a prompt waits for the commands that others have run since the last one. It takes a millisecond."""

SHOWN_COMMAND = 60

LEAVING = re.compile(r"[\s:(]*(exit|quit|q)[\s()\d;]*")
"""Commands that ask an engine to end, by which a person means to leave."""

INSPECTING = re.compile(r"[ \t]*([\w.]+)[ \t]*\?{1,2}[ \t]*")
"""A name and a question mark, which is no Python."""


class Reader(Protocol):
    """Where commands come from."""

    def read(self, session: ReplSession, text: str = "", typed: str = "") -> str: ...
    def tell(self, show: Callable[[], None]) -> None: ...
    def once_shown(self, begin: Callable[[], None]) -> None: ...
    def engine_is_known(self) -> None: ...


def run(call: Invocation) -> int:
    """omegactl repl."""
    name = call.args.name or DEFAULT_NAME
    if re.fullmatch(NAME, name) is None:  # it would be a prompt before the daemon could say so
        raise InvalidName(f"{name!r} is not a session name")
    return Repl(call, name).run()


@contextmanager
def _interruptible() -> Iterator[None]:
    """^C raises KeyboardInterrupt meanwhile."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Repl:
    """One run of the REPL."""

    def __init__(self, call: Invocation, name: str) -> None:
        self.call = call
        self.session = ReplSession(call, name, self._creation, call.args.engine)
        self._screen = call.screen
        self._is_person = sys.stdin is not None and sys.stdin.isatty()
        self._lines = LineReader(self._judge, is_terminal=self._is_person)
        self._reader = self._made_reader()
        self.keyboard = Keyboard(marks_pastes=self._reader is not self._lines) if self._is_person else None
        self._watch: Watch | None = None
        self._watch_lock = threading.Lock()
        self._is_reading = False

    def _creation(self) -> Json:
        from omega_sessiond.cli_sessions import creation_body

        return creation_body(self.call)

    def _made_reader(self) -> Reader:
        if self._is_person and self._screen.is_terminal and os.environ.get("TERM", "dumb") != "dumb":
            try:
                from omega_sessiond.repl_editor import Editor
            except ImportError:
                pass  # prompt_toolkit is not installed where this interpreter looks
            else:
                return Editor(self._screen, self.session, self._judge, self._completions)
        return self._lines

    # ---- the loop ----

    def run(self) -> int:
        """Until the user leaves; the exit code."""
        if self.keyboard is None:
            return self._loop()
        # Between commands a ^C has nothing to interrupt: it must not end us.
        before = signal.signal(signal.SIGINT, lambda *_: None)
        try:
            with self.keyboard.held():
                self._reader.once_shown(self._greet)
                return self._loop()
        finally:
            signal.signal(signal.SIGINT, before)

    def _loop(self) -> int:
        while True:
            try:
                self._take(self._next())
            except (EOFError, repl_commands.Leave):
                return self._leave()
            except OmegaError as error:
                self._report(error)
            except KeyboardInterrupt:
                if not self._is_person:
                    raise
                self._runner.unsent = ""

    def _next(self) -> str:
        """The next command, when somebody has typed it. Raises EOFError and KeyboardInterrupt."""
        if self.session.has_history:
            self.session.read_history(HISTORY_S)
        text = self._runner.unsent if "_runner" in vars(self) else ""
        self._is_reading = True
        self._begin_watch()
        try:
            with self._reading():
                return self._reader.read(self.session, text, self.keyboard.take() if self.keyboard is not None else "")
        finally:
            self._end_watch()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Where the reader has no terminal mode of its own it gets the usual one."""
        with _interruptible():
            if self.keyboard is None or self._reader is not self._lines:
                yield
                return
            with self.keyboard.as_usual():
                yield

    def _take(self, text: str) -> None:
        command = re.sub(r"\n[ \t]*\Z", "", text.rstrip("\n"))
        if not command.strip():
            return
        engine = self.session.engine
        if repl_commands.is_command(command, engine):
            self._act(command)
        elif engine == "python" and (asked := INSPECTING.fullmatch(command)):
            self._act(f"{repl_commands.prefix(engine)}inspect {asked[1]}")
        else:
            self._execute(command)

    def _act(self, command: str) -> None:
        """A command that is for us."""
        self.session.remember(command)
        with _interruptible():
            repl_commands.run(self, command)

    def _judge(self, code: str) -> Judgement:
        if not code.strip() or repl_commands.is_command(code, self.session.engine):
            return Judgement(True)
        if self.session.engine == "python" and INSPECTING.fullmatch(code):
            return Judgement(True)
        if self.session.seen is None:
            try:
                if self.session.look() is None:
                    self.session.create()
                elif not self._is_person and (note := self._unheeded()):
                    self._note(note)
            except OmegaError:
                return Judgement(True)  # running it says what is wrong
        return self.session.judge(code)

    def _completions(self, text: str) -> list[str]:
        return repl_commands.completions(text, self.session.engine)

    def _leave(self) -> int:
        if self._is_person:
            name = self.session.name
            if self.session.seen is None:
                self._note("Left; there is no session yet.")
            else:
                back = "omegactl repl" if name == DEFAULT_NAME else f"omegactl repl {name}"
                self._note(f"Detached: session {name} lives on, and '{back}' returns to it.")
        return self._runner.exit_code

    # ---- running ----

    @cached_property
    def _runner(self) -> Runner:
        from omega_sessiond.repl_running import Runner  # with all that speaks HTTP: after the first prompt

        return Runner(self.call, self.keyboard or self._lines, is_person=self._is_person)

    def _execute(self, command: str) -> None:
        execution = self._runner.execute(self.session, command)
        if execution is not None and execution["should_exit"]:
            if LEAVING.fullmatch(command):
                raise repl_commands.Leave
            self._note("The code asked to leave; the session lives on.")

    def follow(self, execution_id: int | None) -> None:
        """Go on showing a command that was begun before: that which runs, if none is named."""
        session = self.session.look()
        id = execution_id if execution_id is not None or session is None else session["running_execution_id"]
        if id is None:
            self._note("Nothing is running.")
        else:
            self._runner.follow(self.session, id)

    def switch(self, name: str) -> None:
        """Go on in another session. Raises OmegaError, and stays where it is."""
        other = ReplSession(self.call, name, self.call.creation)
        other.look()
        self.session = other
        self._greet()

    # ---- what is told ----

    def _greet(self) -> None:
        """Say where one is. For the line editor in a thread, when the first prompt is there already."""
        from omega_sessiond.cli_sessions import state_word

        session = self.session
        try:
            seen = session.look()
            last = session.last() if seen is not None else None
        except OmegaError as error:
            found = error
            self._reader.tell(lambda: self._report(found))
            return
        self._reader.engine_is_known()
        self._begin_watch()
        mark = repl_commands.prefix(session.engine)
        if seen is None:
            lines = [f"session {session.name} is new: the first command creates it"]
        else:
            lines = [f"session {session.name} · {seen['engine']} · {state_word(seen)}"]
            if self.call.args.engine not in (None, seen["engine"]) and session.name == self.call.args.name:
                lines.append(f"it exists already: --engine {self.call.args.engine} has no effect")
            if note := self._unheeded():
                lines.append(note)
        if last is not None:
            shown = one_line(last["command"])
            shown = shown if len(shown) <= SHOWN_COMMAND else shown[: SHOWN_COMMAND - 1] + "…"
            lines.append(f"last: {shown} ({last['status']}, {age(last['queued_at'])})")
        if seen is not None and seen["running_execution_id"] is not None:
            lines.append(f"execution {seen['running_execution_id']} runs: {mark}follow shows it")
        lines.append(f"{mark}help lists commands and keys")
        self._reader.tell(lambda: self._note("\n".join(lines)))

    def _unheeded(self) -> str:
        """What to say of options that make no difference, the session being there already."""
        from omega_sessiond.cli_exec import unheeded

        name = self.session.name
        return unheeded(self.call.args, name) if name == (self.call.args.name or DEFAULT_NAME) else ""

    def _begin_watch(self) -> None:
        """See what happens while the prompt stands, from the moment that the session is known."""
        if self.session.seen is None:
            return
        from omega_sessiond.repl_watch import Watch

        def tell(line: str) -> None:
            self._reader.tell(lambda: self._note(line))

        with self._watch_lock:
            seen = self.session.seen
            if self._is_person and self._is_reading and seen is not None and self._watch is None:
                client = self.call.new_client(may_start=False)
                self._watch = Watch(
                    client, seen["id"], self.session.seen_event, self.session.left, self.session.done, tell
                )
                self._watch.begin()

    def _end_watch(self) -> None:
        with self._watch_lock:
            self._is_reading = False
            watch, self._watch = self._watch, None
        if watch is not None:
            watch.end()
            self.session.seen_event = watch.last_id

    def _note(self, text: str) -> None:
        self._screen.note(text)

    def _report(self, error: OmegaError) -> None:
        message, hint = error.message, error.hint
        if isinstance(error, SessionNotFound):
            message, hint = f"there is no session '{self.session.name}'", "The next command creates it."
        self._screen.warn(message)
        if hint:
            self._screen.say(hint)
        if not self._is_person:
            self._runner.exit_code = self._runner.exit_code or error.exit_code
