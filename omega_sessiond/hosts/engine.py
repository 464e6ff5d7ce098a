"""What an engine is to the host: something that runs commands. Knows no sockets, frames or daemons."""

from __future__ import annotations

from typing import Optional, Protocol

from omega_sessiond.wire import Frame

ERROR_BYTES = 64 * 1024
"""An error's message and traceback in a result are bounded to this each; the whole report is in the output."""


class ErrorReport:
    """An exception of the user's code, as the result tells it."""

    __slots__ = ("message", "name", "traceback")

    def __init__(self, name: str, message: str, traceback: str) -> None:
        self.name = name
        self.message = message
        self.traceback = traceback


class Outcome:
    """How a command ended: `status` is ok, error or interrupted; `displayed` says that a value was shown;
    `exit_status` is what a forked child that came back from user code ends with."""

    __slots__ = ("displayed", "error", "exit_status", "should_exit", "status")

    def __init__(
        self,
        status: str,
        displayed: bool = False,
        error: Optional[ErrorReport] = None,
        should_exit: bool = False,
        exit_status: int = 0,
    ) -> None:
        self.status = status
        self.displayed = displayed
        self.error = error
        self.should_exit = should_exit
        self.exit_status = exit_status


class Engine(Protocol):
    """Runs in the host's main thread. What it prints goes to the Output it was made with; user code runs inside
    border.run_user. Except for `execute`, everything is asked at rest only, and what a question raises becomes "I do
    not know"."""

    version: str

    def execute(self, execution_id: int, code: str) -> Outcome: ...

    def tell(self, error: BaseException) -> None:
        """Print an exception that belongs to no command."""

    def complete(self, code: str, cursor: int) -> Frame:
        """The fields of a CompleteReply; `cursor` counts characters."""

    def inspect(self, code: str, cursor: int) -> Frame:
        """The fields of an InspectReply."""

    def is_complete(self, code: str) -> Frame:
        """The fields of an IsCompleteReply."""

    def close(self) -> None:
        """The session ends: let the user's code clean up."""
