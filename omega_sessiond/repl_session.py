"""What the REPL asks of its session beside running commands: whether code is complete, what completes it, history.

Each request has a connection of its own, so that any thread may ask; only a look at the session starts a daemon. Knows
no terminal.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from itertools import pairwise
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from omega_sessiond.errors import Conflict, NotFound, OmegaError, SessionExists, SessionNotFound
from omega_sessiond.invocation import Invocation
from omega_sessiond.terminal import sanitize

Json = dict[str, Any]
Answer = TypeVar("Answer")

ANSWER_S = 2.0
"""How long a key waits for the engine. A longer silence looks like a hang, and none of the answers is indispensable."""

HISTORY = 1000
"""Commands of a session that ↑ and ^R reach."""


class Judgement(NamedTuple):
    """Whether Enter runs the code; if not, what the next line begins with."""

    runs: bool
    indent: str = ""


class Completions(NamedTuple):
    """Texts that may replace the characters `start` to `end` of the code."""

    texts: list[str]
    start: int
    end: int


class ReplSession:
    """The session the REPL is at. `creation` makes the options it is created with, should it not exist, and `planned`
    is its engine then (None: the daemon's choice)."""

    def __init__(self, call: Invocation, name: str, creation: Callable[[], Json], planned: str | None = None) -> None:
        self._call = call
        self.name = name
        self.creation = creation
        self._planned = planned
        self.seen: Json | None = None
        """The session as it was last looked at; None: it was not, or does not exist."""
        self.seen_event: int | None = None
        """The last event of which the person here has been told."""
        self.done: set[tuple[str, str]] = set()
        """What was done here, by the kind of its event and the snapshot that it names: it needs no telling again."""
        self.left: set[int] = set()
        """Executions that were left while they ran."""
        self._history: list[tuple[int, str]] = []
        self._history_lock = threading.Lock()
        self.has_history = False
        """Whether it has been read at least once."""

    @property
    def path(self) -> str:
        from omega_sessiond.client import session_path  # loaded when something is asked, after the first prompt

        return session_path(self.name)

    @property
    def engine(self) -> str:
        return str(self.seen["engine"]) if self.seen is not None else self._planned or "python"

    def look(self) -> Json | None:
        """The session as it is now; None when it does not exist. Raises DaemonUnreachable."""
        try:
            self.seen = self._ask("GET", self.path, may_start=None)
        except SessionNotFound:
            self.seen = None
            if self._planned is None:
                self._planned = self._ask("GET", "/api/server")["settings"]["engine"]
        return self.seen

    def create(self) -> None:
        """Make it, unless somebody has made it already."""
        with self._call.new_client() as client:
            try:
                client.post("/api/sessions", {"name": self.name, **self.creation()})
            except SessionExists:
                pass
        self.look()

    def last(self) -> Json | None:
        """What was run last."""
        newest: list[Json] = self._ask("GET", f"{self.path}/executions?last=1&max_output=0")
        return newest[0] if newest else None

    def _ask(self, method: str, path: str, body: Any = None, *, may_start: bool | None = False) -> Any:
        with self._call.new_client(may_start=may_start) as client:
            return client.request(method, path, body)

    # ---- the code that is being written ----

    def judge(self, code: str) -> Judgement:
        """By the engine, where it can be asked and answers in time; else Enter runs."""
        return _within(ANSWER_S, lambda: self._judged(code), Judgement(True))

    def _judged(self, code: str) -> Judgement:
        try:
            answer = self._ask("POST", self.path + "/is_complete", {"code": code})
        except (Conflict, NotFound):  # busy, or without a process: its language is known all the same
            return _guessed(code) if self.engine == "python" else Judgement(True)
        except OmegaError:
            return Judgement(True)
        return Judgement(answer["status"] != "incomplete", _blanks(answer["indent"]))

    def complete(self, code: str, cursor: int) -> Completions:
        """None where the engine cannot be asked. What is no plain text is not offered."""
        none = Completions([], cursor, cursor)
        return _within(ANSWER_S, lambda: self._completed(code, cursor), none)

    def _completed(self, code: str, cursor: int) -> Completions:
        try:
            answer = self._ask("POST", self.path + "/complete", {"code": code, "cursor": cursor})
        except OmegaError:
            return Completions([], cursor, cursor)
        texts = [text for text in answer["matches"] if sanitize(text) == text and "\n" not in text]
        return Completions(texts, answer["start"], answer["end"])

    def inspect(self, code: str, cursor: int) -> str:
        """What the engine says about the name at the cursor, made safe; or why it says nothing."""
        return _within(ANSWER_S, lambda: self._inspected(code, cursor), "The engine does not answer.")

    def _inspected(self, code: str, cursor: int) -> str:
        try:
            answer = self._ask("POST", self.path + "/inspect", {"code": code, "cursor": cursor})
        except OmegaError as error:
            return sanitize(error.message)
        text = sanitize(answer["text"]).strip("\n")
        unknown = sanitize(answer.get("reason") or "Nothing is known about it.")
        return text if answer["found"] and text else unknown

    # ---- what was run ----

    @property
    def history(self) -> list[str]:
        """The commands of all clients, oldest first, as far as they have been read."""
        commands = [sanitize(command).strip("\n") for _, command in self._history]
        return [command for before, command in pairwise(["", *commands]) if command and command != before]

    def read_history(self, limit_s: float = ANSWER_S) -> None:
        """Read on in the journal. What does not come in time is there the next time."""
        _within(limit_s, self._read_on, None)

    def _read_on(self) -> None:
        with self._history_lock:
            try:
                self._history += self._since(self._history[-1][0] if self._history else None)
            except OmegaError:
                return
            del self._history[:-HISTORY]
            self.has_history = True

    def remember(self, text: str) -> None:
        """Put into the history here what the session never saw: a command to the REPL itself."""
        self._history.append((self._history[-1][0] if self._history else 0, text))

    def _since(self, last_id: int | None) -> list[tuple[int, str]]:
        query = f"last={HISTORY}" if last_id is None else f"after={last_id}&limit={HISTORY}"
        rows = self._ask("GET", f"{self.path}/executions?{query}&max_output=0")
        return [(row["id"], row["command"]) for row in rows]


def _blanks(indent: str) -> str:
    """An engine may say anything."""
    return indent if not indent.strip(" \t") else ""


def _guessed(code: str) -> Judgement:
    """Python's own judgement, here instead of there."""
    import codeop

    try:
        compiled = codeop.compile_command(code, "<input>", "exec")
    except (SyntaxError, ValueError, OverflowError):
        return Judgement(True)
    *lines, last = code.split("\n")
    if compiled is not None and not (lines and last[:1].isspace() and last.strip()):
        return Judgement(True)
    indent = last[: len(last) - len(last.lstrip())]
    return Judgement(False, indent + "    " if last.rstrip().endswith(":") else indent)


def _within(limit_s: float, ask: Callable[[], Answer], otherwise: Answer) -> Answer:
    """What `ask` answers in time."""
    answers: SimpleQueue[Answer] = SimpleQueue()
    threading.Thread(target=lambda: answers.put(ask()), daemon=True).start()
    try:
        return answers.get(timeout=limit_s)
    except Empty:
        return otherwise
