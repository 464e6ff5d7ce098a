"""sys.stdin, sys.stdout and sys.stderr of a session, as close to a terminal's as a file-like object gets.

Each public method may be called by user code from any thread, and in a forked child. Knows where text goes to and
comes from, not how.
"""

from __future__ import annotations

import builtins
import codecs
import io
import sys
from typing import Any, Callable, Iterable, List, Optional

from omega_sessiond.hosts import border
from omega_sessiond.hosts.output import Output

Ask = Callable[[str, bool], Optional[str]]
"""(prompt, secret) → a line without its newline, None at the end of input. Blocks; interruptible."""


class _Stream(io.TextIOBase):
    encoding = "utf-8"
    errors = "backslashreplace"
    newlines = None
    line_buffering = True

    def __init__(self, name: str, mode: str, descriptor: int) -> None:
        self.name = name
        self.mode = mode
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return False

    def reconfigure(self, **settings: Any) -> None:
        """Accepted and without effect: what a session writes is always UTF-8."""

    def close(self) -> None:
        """Without effect: exit() closes sys.stdin, and the session lives on."""

    def __repr__(self) -> str:
        return "<session stream name=%r mode=%r encoding='utf-8'>" % (self.name, self.mode)


class TextOutput(_Stream):
    """sys.stdout or sys.stderr."""

    write_through = True

    def __init__(self, output: Output, stream: str, descriptor: int) -> None:
        super().__init__("<%s>" % stream, "w", descriptor)
        self._output = output
        self._stream = stream
        self._buffer = BinaryOutput(output, stream, descriptor)

    @property
    def buffer(self) -> BinaryOutput:
        return self._buffer

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if type(text) is not str:
            if not isinstance(text, str):
                raise TypeError("write() argument must be str, not %s" % type(text).__name__)
            text = str.__str__(text)
        self._output.write(self._stream, text)
        if border.pending:
            border.release()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._output.flush()
        if border.pending:
            border.release()


class BinaryOutput(io.BufferedIOBase):
    """sys.stdout.buffer: bytes become text as those of children do."""

    def __init__(self, output: Output, stream: str, descriptor: int) -> None:
        self.name = "<%s>" % stream
        self.mode = "wb"
        self._output = output
        self._stream = stream
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")

    @property
    def raw(self) -> BinaryOutput:
        return self

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        view = memoryview(data)
        text = self._decoder.decode(view.tobytes())
        if text:
            self._output.write(self._stream, text)
        if border.pending:
            border.release()
        return view.nbytes

    def flush(self) -> None:
        self._output.flush()
        if border.pending:
            border.release()

    def close(self) -> None:
        """Without effect, as for the text stream."""


class TextInput(_Stream):
    """sys.stdin: asks for a line whenever it has none. The end of input lasts for one read, as ^D at a terminal."""

    def __init__(self, ask: Ask) -> None:
        super().__init__("<stdin>", "r", 0)
        self._ask = ask
        self._rest = ""
        self._buffer = BinaryInput(self)

    @property
    def buffer(self) -> BinaryInput:
        return self._buffer

    def readable(self) -> bool:
        return True

    def answer(self, prompt: str, secret: bool) -> Optional[str]:
        """One line without its newline, None at the end of input: what is left over, else what the client answers."""
        if not self._rest:
            return self._ask(prompt, secret)
        line, _, self._rest = self._rest.partition("\n")
        return line

    def forget(self) -> None:
        """Drop what was not read of the answers: they were given to one execution, and are no other's."""
        self._rest = ""
        self._buffer.forget()

    def _more(self) -> bool:
        answer = self._ask("", False)
        if answer is None:
            return False
        self._rest += answer + "\n"
        return True

    def _take(self, size: int) -> str:
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def readline(self, size: Optional[int] = -1) -> str:  # type: ignore[override]
        if not self._rest:
            self._more()
        end = self._rest.find("\n") + 1 or len(self._rest)
        line = self._take(end if size is None or size < 0 else min(size, end))
        if border.pending:
            border.release()
        return line

    def read(self, size: Optional[int] = -1) -> str:
        if size is None or size < 0:
            while self._more():
                pass
            text = self._take(len(self._rest))
        else:
            while len(self._rest) < size and self._more():
                pass
            text = self._take(size)
        if border.pending:
            border.release()
        return text

    def readlines(self, hint: Optional[int] = -1) -> List[str]:  # type: ignore[override]
        return self.read().splitlines(True)

    def __iter__(self) -> TextInput:  # type: ignore[override]
        return self

    def __next__(self) -> str:  # type: ignore[override]
        line = self.readline()
        if not line:
            raise StopIteration
        return line


class BinaryInput(io.BufferedIOBase):
    """sys.stdin.buffer: the same lines as bytes."""

    def __init__(self, text: TextInput) -> None:
        self._text = text
        self._rest = b""

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 0

    def isatty(self) -> bool:
        return False

    def forget(self) -> None:
        self._rest = b""

    def _take(self, size: int) -> bytes:
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def readline(self, size: Optional[int] = -1) -> bytes:
        if not self._rest:
            self._rest = self._text.readline().encode("utf-8", "backslashreplace")
        end = self._rest.find(b"\n") + 1 or len(self._rest)
        return self._take(end if size is None or size < 0 else min(size, end))

    def read(self, size: Optional[int] = -1) -> bytes:
        if size is None or size < 0:
            self._rest += self._text.read().encode("utf-8", "backslashreplace")
            return self._take(len(self._rest))
        while len(self._rest) < size:
            line = self._text.readline().encode("utf-8", "backslashreplace")
            if not line:
                break
            self._rest += line
        return self._take(size)

    def read1(self, size: int = -1) -> bytes:
        if not self._rest:
            self._rest = self._text.readline().encode("utf-8", "backslashreplace")
        return self._take(size if size >= 0 else len(self._rest))

    def close(self) -> None:
        """Without effect, as for the text stream."""


def make_input(stdin: TextInput) -> Callable[..., str]:
    """The session's `input`."""
    plain_input = builtins.input

    def input(prompt: object = "", /) -> str:
        """Read a string from the session's client. The trailing newline is stripped.

        The prompt string, if given, is printed to standard output and told to the client that answers.
        """
        if sys.stdin is not stdin:
            typed: str = border.call_user(plain_input, prompt)
            return typed
        text: str = border.call_user(str, prompt)
        if text and sys.stdout is not None:
            border.call_user(sys.stdout.write, text)
        answer: Optional[str] = stdin.answer(text, False)
        if border.pending:
            border.release()
        if answer is None:
            raise EOFError("end of input")
        return answer

    return input


def make_getpass(stdin: TextInput) -> Callable[..., str]:
    """The session's `getpass.getpass`."""

    def getpass(prompt: str = "Password: ", stream: Any = None, *, echo_char: Optional[str] = None) -> str:
        """Prompt for a password; the client that answers does not show it, and it is not kept."""
        into = stream if stream is not None else sys.stderr
        if into is not None:
            border.call_user(into.write, prompt)
        answer = stdin.answer(prompt, True)
        if border.pending:
            border.release()
        if answer is None:
            raise EOFError("end of input")
        return answer

    return getpass
