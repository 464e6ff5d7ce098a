"""What the commands print, and how: stdout is data, stderr is talk, and each has this one writer.

On a terminal: sanitised, coloured, times as ages, columns fitted to the width, long texts through a pager. On a pipe:
every byte as it is, ISO times, nothing cut. Knows rows and columns, not what they mean.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import IO, Any, Literal, NamedTuple, TextIO

from omega_sessiond.terminal import one_line, sanitize

Format = Literal["table", "wide", "json", "jsonl", "name"]
FORMATS: tuple[Format, ...] = ("table", "wide", "json", "jsonl", "name")

Json = dict[str, Any]

_COLOURS = {"red": "31", "green": "32", "yellow": "33", "blue": "34", "cyan": "36", "dim": "2", "bold": "1"}
_UNSHOWABLE = re.compile("[\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What JSON may hold as it stands, and UTF-8 or a terminal, which it may also tell to reorder the line, may not."""

MIN_COLUMN = 8


class Column(NamedTuple):
    """One column of a table. `text` is the cell of a row; a `flexible` one is cut first where a terminal is narrow."""

    title: str
    text: Callable[[Json], str]
    is_wide: bool = False
    is_right: bool = False
    is_flexible: bool = False
    color: Callable[[Json], str] | None = None


class Screen:
    """The standard streams of one command."""

    def __init__(self, color: Literal["auto", "always", "never"] = "auto") -> None:
        self._out, self.is_terminal = _stream(sys.stdout)
        self._err, self.talks_to_terminal = _stream(sys.stderr)
        self.can_ask = sys.stdin is not None and sys.stdin.isatty() and self.talks_to_terminal
        self.forces_colors = color == "always"
        self.has_colors = _wants_color(color, self.is_terminal)
        self._colors_talk = _wants_color(color, self.talks_to_terminal)
        self.width = shutil.get_terminal_size().columns

    # ---- the two writers ----

    def write(self, text: str) -> None:
        """Data, as it is; whoever writes to a terminal has made it safe."""
        self._out.write(text.encode("utf-8", "backslashreplace"))
        self._out.flush()

    def write_bytes(self, data: bytes) -> None:
        """Data that is no text."""
        self._out.write(data)
        self._out.flush()

    def give_up(self) -> None:
        """Lose what could not be written, lest the interpreter tries once more as it ends."""
        try:
            self._out.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())

    def line(self, text: str) -> None:
        """A line of data, made safe where it goes to a terminal."""
        self.write((sanitize(text) if self.is_terminal else text) + "\n")

    def say(self, text: str) -> None:
        """Talk: safe wherever it goes."""
        self._err.write(f"{sanitize(text)}\n".encode("utf-8", "backslashreplace"))
        self._err.flush()

    def warn(self, text: str) -> None:
        self._err.write(f"{self._dyed_talk('omegactl:')} {sanitize(text)}\n".encode("utf-8", "backslashreplace"))
        self._err.flush()

    def note(self, text: str) -> None:
        """Talk by the way: dimmed where there are colours."""
        safe = sanitize(text)
        self._err.write(f"{self._dyed_talk(safe, 'dim')}\n".encode("utf-8", "backslashreplace"))
        self._err.flush()

    def _dyed_talk(self, text: str, color: str = "red") -> str:
        return f"\x1b[{_COLOURS[color]}m{text}\x1b[0m" if self._colors_talk else text

    def dyed(self, text: str, color: str) -> str:
        """The text in a colour, where there are colours; safe text only."""
        return f"\x1b[{_COLOURS[color]}m{text}\x1b[0m" if self.has_colors and color else text

    # ---- questions ----

    def confirm(self, question: str) -> bool:
        """Ask a person; only where `can_ask`. Anything but yes is no."""
        self._err.write(f"{sanitize(question)} [y/N] ".encode())
        self._err.flush()
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    # ---- rows ----

    def rows(self, rows: Iterable[Json], columns: Sequence[Column], form: Format) -> None:
        """Rows in the form asked for. `jsonl` and `name` are written row by row, as they come."""
        match form:
            case "json":
                self.json(list(rows))
            case "jsonl":
                for row in rows:
                    self.json_line(row)
            case "name":
                for row in rows:
                    self.line(str(row.get("name", row.get("id"))))
            case _:
                shown = [column for column in columns if form == "wide" or not column.is_wide]
                self._table(list(rows), shown)

    def row(self, row: Json, columns: Sequence[Column], form: Format) -> None:
        """One thing in the form asked for; as JSON it is that thing, and no list of one."""
        if form == "json":
            self.json(row)
        else:
            self.rows([row], columns, form)

    def json(self, value: Any) -> None:
        """One JSON value: spread out for a person, on one line for a program."""
        self.write(_shown_json(value, 2 if self.is_terminal else None) + "\n")

    def json_line(self, value: Any) -> None:
        self.write(_shown_json(value, None) + "\n")

    def _table(self, rows: list[Json], columns: list[Column]) -> None:
        cells = [[one_line(column.text(row)) for column in columns] for row in rows]
        widths = [
            max([len(column.title), *(_columns_of(line[at]) for line in cells)]) for at, column in enumerate(columns)
        ]
        if self.is_terminal:
            widths = _fitted(widths, columns, self.width)
        titles = [self.dyed(text, "dim") for text in _laid_out([column.title for column in columns], columns, widths)]
        lines = ["  ".join(titles).rstrip()]
        for row, line in zip(rows, cells, strict=True):
            laid_out = _laid_out(line, columns, widths)
            dyed = [
                self.dyed(text, column.color(row)) if column.color else text
                for text, column in zip(laid_out, columns, strict=True)
            ]
            lines.append("  ".join(dyed).rstrip())
        self.write("\n".join(lines) + "\n")

    def details(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Names and values, one a line."""
        shown = list(pairs)
        width = max(len(name) for name, _ in shown) + 2
        for name, value in shown:
            self.write(self.dyed((name + ":").ljust(width), "dim") + one_line(value) + "\n")

    # ---- times ----

    def when(self, at: str | None) -> str:
        """A time: how long ago on a terminal, ISO 8601 elsewhere."""
        if at is None:
            return "-"
        return age(at) if self.is_terminal else at

    # ---- pager ----

    @contextmanager
    def paged(self) -> Iterator[None]:
        """What is written meanwhile goes through the user's pager, on a terminal."""
        command = os.environ.get("PAGER", "less" if shutil.which("less") else "")
        if not self.is_terminal or not command or command == "cat" or os.environ.get("TERM", "dumb") == "dumb":
            yield
            return
        import signal
        import subprocess

        environment = {"LESS": "FRX", **os.environ}
        pager = subprocess.Popen(command, shell=True, stdin=subprocess.PIPE, env=environment)
        assert pager.stdin is not None
        before, self._out = self._out, pager.stdin
        # ^C belongs to the pager as long as it shows something.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            yield
        except BrokenPipeError:
            pass  # it was left before the end
        finally:
            self._out = before
            try:
                pager.stdin.close()
            except BrokenPipeError:
                pass
            pager.wait()
            signal.signal(signal.SIGINT, handler)


def _stream(stream: TextIO | None) -> tuple[IO[bytes], bool]:
    """The bytes of a standard stream, and whether they go to a terminal; nowhere when it was closed before us."""
    if stream is None:
        return open(os.devnull, "wb"), False
    return stream.buffer, stream.isatty()


def _wants_color(choice: str, is_terminal: bool) -> bool:
    """no-color.org and CLICOLOR_FORCE; the option is stronger than both."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("CLICOLOR_FORCE", "0") != "0":
        return True
    return is_terminal and os.environ.get("TERM") != "dumb"


def _shown_json(value: Any, indent: int | None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return _UNSHOWABLE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _columns_of(text: str) -> int:
    """Columns that a text takes: wide characters two, combining ones none."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _fitted(widths: list[int], columns: Sequence[Column], width: int) -> list[int]:
    """Flexible columns give way, the last first, until the line fits."""
    fitted = list(widths)
    excess = sum(fitted) + 2 * (len(fitted) - 1) - width
    for at in reversed(range(len(fitted))):
        if excess > 0 and columns[at].is_flexible:
            kept = max(fitted[at] - excess, min(MIN_COLUMN, fitted[at]))
            excess -= fitted[at] - kept
            fitted[at] = kept
    return fitted


def _laid_out(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int]) -> list[str]:
    laid_out = []
    for text, column, width in zip(cells, columns, widths, strict=True):
        size = _columns_of(text)
        if size > width:
            while _columns_of(text) > width - 1:
                text = text[:-1]
            text += "…"
            size = _columns_of(text)
        padding = " " * (width - size)
        laid_out.append(padding + text if column.is_right else text + padding)
    return laid_out


def age(at: str, now: float | None = None) -> str:
    """How long ago, as far as it matters: now, 5s ago, 12m ago, 3h ago, 9d ago."""
    passed = (time.time() if now is None else now) - datetime.fromisoformat(at).astimezone(UTC).timestamp()
    return "now" if passed < 1 else f"{int(passed)}s ago" if passed < 60 else f"{duration(passed)} ago"


def duration(seconds: float | None) -> str:
    """A duration for a person."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:.0f}s" if seconds >= 10 else f"{seconds:.1f}s"


def size(count: float | None) -> str:
    """A number of bytes for a person."""
    if count is None:
        return "-"
    for unit in ("B", "K", "M", "G"):
        if count < 1024:
            return f"{count:.0f}{unit}" if count >= 10 or unit == "B" else f"{count:.1f}{unit}"
        count /= 1024
    return f"{count:.1f}T"
