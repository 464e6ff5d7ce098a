"""input() of the session's code: what it asked, and how the answer reaches it. One question is open at a time.

Changes under the outbox's lock, as all that the host's two threads share.
"""

from __future__ import annotations

from _thread import allocate_lock
from typing import Any, Optional, Tuple

from omega_sessiond.hosts import engine as contract
from omega_sessiond.hosts.outbox import Outbox, plain, quote

PROMPT_CHARS = 64 * 1024


class Question:
    """One input() that waits for its answer, which releases its lock."""

    def __init__(self, execution_id: int, secret: bool) -> None:
        self.execution_id = execution_id
        self.secret = secret
        self.answered = False
        self.text: Optional[str] = None
        self.lock = allocate_lock()
        self.lock.acquire()

    def answer(self, text: Optional[str]) -> None:
        if not self.answered:
            self.text = text
            self.answered = True
            self.lock.release()


class Questions:
    """The open question, if any."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self.open: Optional[Question] = None

    def put(self, execution_id: int, prompt: str, secret: bool) -> Tuple[Question, bool]:
        """Open a question and tell of it; whether that is still to be sent. Raises RuntimeError where one is open."""
        question = Question(execution_id, secret)
        with self._outbox.lock:
            if self.open is not None:
                raise RuntimeError("another thread waits for input already")
            self.open = question
            fields = ',"id":%d,"prompt":%s,"secret":%s' % (
                execution_id,
                quote(plain(prompt)[:PROMPT_CHARS]),
                "true" if secret else "false",
            )
            self._outbox.emit("input_request", fields)
            return question, bool(self._outbox.commit())

    def answer(self, execution_id: int, text: Any) -> None:
        """An answer has come; no text is the end of input. One to another execution's question is nobody's."""
        with self._outbox.lock:
            if self.open is not None and self.open.execution_id == execution_id:
                self.open.answer(text if type(text) is str else None)

    def withdraw(self, question: contract.Question) -> None:
        with self._outbox.lock:
            if self.open is question:
                self.open = None

    def end(self) -> None:
        """Its execution is over: who still waits gets the end of input. With the outbox's lock held."""
        if self.open is not None:
            self.open.answer(None)
