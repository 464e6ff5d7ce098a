"""What an engine is to the host: something that runs commands. Knows no sockets, frames or daemons."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Protocol, Sequence

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
    `exit_status` is what a forked child that came back from user code ends with; `lost` says in words why the state
    went with this command although the host lives on: the next command is told."""

    __slots__ = ("displayed", "error", "exit_status", "lost", "should_exit", "status")

    def __init__(
        self,
        status: str,
        displayed: bool = False,
        error: Optional[ErrorReport] = None,
        should_exit: bool = False,
        exit_status: int = 0,
        lost: Optional[str] = None,
    ) -> None:
        self.status = status
        self.displayed = displayed
        self.error = error
        self.should_exit = should_exit
        self.exit_status = exit_status
        self.lost = lost


class Question(Protocol):
    """One request for input that is open; see Desk.question."""

    answered: bool
    text: Optional[str]


class Printer(Protocol):
    """Where output goes: the host's Output."""

    def write(self, stream: str, text: str) -> None:
        """Text of `stdout` or `stderr`. Waits while the daemon is far behind."""

    def write_last(self, stream: str, text: str) -> None:
        """As `write`, of text that the end of the execution, or a flush, follows at once: framed with that, it costs no
        other thread a wake-up."""

    def flush(self) -> None:
        """Send what was written so far."""

    def show(self, stream: str, text: str) -> None:
        """Text of `result` or `traceback`, at the end of an execution."""

    def write_late(self, stream: str, text: str) -> None:
        """Text of an earlier execution or of none, although one may be running."""

    def present(self, data: Mapping[str, Any], metadata: Optional[Mapping[str, Any]], role: str) -> None:
        """A MIME bundle; an interrupt that waits strikes before anything is sent."""


class Wakeup(Protocol):
    """Readable when the main thread should look around: an answer, a signal, the end. `wait` silences it."""

    def fileno(self) -> int: ...

    def wait(self) -> None: ...


class Desk(Protocol):
    """What the host is to an engine whose work is done by another process: it waits in a poll() of its own, with
    `bell` in it, and looks at `border.pending` and its questions when that rings."""

    @property
    def bell(self) -> Wakeup: ...

    @property
    def printer(self) -> Printer: ...

    @property
    def sockets(self) -> str:
        """The path for a directory of the engine's own sockets, short and the session's alone; the engine makes it and
        removes it."""

    @property
    def directory(self) -> str:
        """The session's own directory, private to the user."""

    @property
    def is_leaving(self) -> bool:
        """Whether the session ends: stop waiting and return."""

    def leave(self, reason: str) -> None:
        """End the session's process, at rest: what did the engine's work is gone. The next command is told why and
        begins in a fresh one."""

    def note(self, text: Optional[str]) -> None:
        """What there is to say of the session while a command runs, as its `state_reason`; None takes it back."""

    def question(self, prompt: str, secret: bool) -> Optional[Question]:
        """Ask for a line of input without waiting for it; the bell rings when `answered`, and `text` None is the end
        of input. None when nobody can answer."""

    def withdraw(self, question: Question) -> None:
        """Nobody wants the answer any more."""


Options = Dict[str, Any]


class Engine(Protocol):
    """Runs in the host's main thread. What it prints goes to the Output it was made with; user code runs inside
    border.run_user. Except for `execute`, everything is asked at rest only, and what a question raises becomes "I do
    not know".

    What a command has to say:
    - Text, as it comes: `output.write("stdout" or "stderr", text)`. At the end, what a prompt would show:
      `output.show("result", text + "\\n")` for the value, together with `Outcome(displayed=True)`;
      `output.show("traceback", text)` for an exception.
    - Rich data, as it comes and any number of times: `output.present({MIME type: value, …}, metadata, role)`, role
      "display" for what was shown on the way, "result" for the value itself. One call is one bundle: ways to show the
      same thing. Its `text/plain` is passed over, so print that as text: to stdout for a display, as the `result`
      stream for the value. A str is text (base64 for images, audio, video and PDF, as Jupyter's messages have it),
      bytes are bytes, everything else is JSON. Size and number are bounded there, and what is beyond is said.
    """

    version: str

    watched: Sequence[int]
    """Descriptors on which something can happen between commands; a new object when they change."""

    def attend(self) -> None:
        """Something can be read from one of `watched`, at rest."""

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


class Saved:
    """What `save` wrote: the names it can bring back, as far as the engine has names, and those that had to be left
    out, each with its reason."""

    __slots__ = ("left_out", "variables")

    def __init__(self, variables: List[str], left_out: Dict[str, str]) -> None:
        self.variables = variables
        self.left_out = left_out


class CannotSave(Exception):
    """Nothing was saved; the text says why, for people."""


class CannotLoad(Exception):
    """Nothing was taken up, and the engine is as fresh as before; the text says why, for people."""


class Saver(Engine, Protocol):
    """An engine whose state fits into a file. It is a part of the contract that an engine may leave out: the host asks
    for `save`, and a session without it says that its engine cannot be saved.

    The file is private to the user and checked before it is loaded; where it lies, what it is called and whether it is
    whole is the host's business. `lent` is a directory with the one library that the standard library lacks for this
    (cloudpickle): to be loaded from there, and not to be left on the user's sys.path.
    """

    saves_in_child: bool
    """True: `save` runs in a forked child of the host, while the session goes on. False: in the main thread, where
    commands wait for it."""

    def identity(self) -> Dict[str, str]:
        """What must be the same for a file to be loaded (the interpreter's version, its platform), as words."""

    def obstacles(self) -> List[str]:
        """What the session holds beside its variables that no file can: threads, children, open descriptors. Empty
        when a whole file stands for the whole session. Asked in the main thread, before `save`."""

    def descriptors(self) -> List[int]:
        """Descriptors of the engine's own, which a new process makes anew: they are no obstacle."""

    def save(self, file: str, lent: str, budget_s: float) -> Saved:
        """Write the state into `file`, which exists and is empty. Raises CannotSave, or OSError of the file's."""

    def load(self, file: str, lent: str) -> Dict[str, str]:
        """Take up what `save` wrote, before any command has run. What could not be taken up, by name with its reason;
        raises CannotLoad when that is everything."""
