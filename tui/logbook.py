"""What the daemon logs, followed: entries of the user's systemd journal, or of the daemon's log file without systemd.

One thread reads and holds what came until it is taken; whoever shows it is called once there is something. Text is
kept as it came: who shows it makes it safe. Touches no widget.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from omega_sessiond import manager

HISTORY = 200
"""Entries from before, shown at once."""

HELD = 2_000
"""Entries kept until they are taken: a person reads none of what lies further back."""

LINE_CHARS = 4_000
"""Of one entry's text; the daemon's own lines are half as long at most."""

LOOK_S = 0.2
"""How often a log file is looked at: nobody tells of its growth. A look costs some microseconds."""

TAIL_BYTES = 65_536

PRIORITIES = ("emerg", "alert", "crit", "error", "warning", "notice", "info", "debug")
"""Source: syslog(3); the place is the number."""

INFO = 6
_LEVELS = {"critical": 2, "error": 3, "warning": 4, "info": INFO, "debug": 7}
_FILE_LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}) (critical|error|warning|info|debug) +(.*)", re.DOTALL)


class Entry(NamedTuple):
    """One line of the log. `at` is seconds as time.time() counts them, None where the line does not say."""

    at: float | None
    priority: int
    source: str
    text: str


class Logbook:
    """Follows from `start` to `stop`. With `units` it reads their journal, else the file."""

    def __init__(self, wake: Callable[[], None], *, units: tuple[str, ...] = (), file: str | None = None) -> None:
        self._wake = wake
        self._units = units
        self._file = file
        self._entries: deque[Entry] = deque(maxlen=HELD)
        self._lock = threading.Lock()
        self._is_told = False
        self._stopping = threading.Event()
        self._journalctl: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="logbook", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and what it started, at once."""
        with self._lock:
            self._stopping.set()
            if self._journalctl is not None:
                self._journalctl.terminate()
        self._thread.join()

    def take(self) -> list[Entry]:
        """What came since the last time."""
        with self._lock:
            taken = list(self._entries)
            self._entries.clear()
            self._is_told = False
        return taken

    def _put(self, *entries: Entry) -> None:
        if not entries:
            return
        with self._lock:
            if self._stopping.is_set():
                return
            self._entries.extend(entries)
            is_told, self._is_told = self._is_told, True
        if not is_told:
            self._wake()

    def _say(self, text: str) -> None:
        """A remark of our own between the entries."""
        self._put(Entry(None, 4, "", text))

    # ---- the thread ----

    def _run(self) -> None:
        try:
            if self._units:
                self._follow_journal(self._units)
            elif self._file is not None:
                self._follow_file(self._file)
        except OSError as error:
            self._say(f"The log cannot be read: {error.strerror or error}")

    def _follow_journal(self, units: tuple[str, ...]) -> None:
        command = ["journalctl", "--user", "--follow", "--output=json", "--all", f"--lines={HISTORY}"]
        with self._lock:
            if self._stopping.is_set():
                return
            self._journalctl = subprocess.Popen(
                [*command, *(f"--unit={unit}" for unit in units)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "SYSTEMD_COLORS": "0"},
            )
        with self._journalctl as journalctl:
            assert journalctl.stdout is not None and journalctl.stderr is not None
            for line in journalctl.stdout:
                if (entry := of_journal(line)) is not None:
                    self._put(entry)
            said = journalctl.stderr.read().decode(errors="replace").strip()
        self._say(f"journalctl ended with exit code {journalctl.returncode}" + (f": {said}" if said else ""))

    def _follow_file(self, path: str) -> None:
        pending, read, inode = b"", 0, 0
        while not self._stopping.is_set():
            try:
                with open(path, "rb") as log:
                    found = os.fstat(log.fileno())
                    if found.st_ino != inode or found.st_size < read:
                        # Another file than before, or one that was cut: begin near its end.
                        pending, inode = b"", found.st_ino
                        read = max(found.st_size - TAIL_BYTES, 0)
                        if read:
                            log.seek(read - 1)
                            read += len(log.readline()) - 1
                    log.seek(read)
                    more = log.read(TAIL_BYTES)
            except FileNotFoundError:
                more = b""  # no daemon has been started yet
            read += len(more)
            *whole, pending = (pending + more).split(b"\n")
            if len(pending) > TAIL_BYTES:
                whole, pending = [*whole, pending], b""
            self._put(*[of_file(line.decode(errors="replace")) for line in whole if line])
            if not more:
                self._stopping.wait(LOOK_S)


def of_journal(line: bytes) -> Entry | None:
    """An entry of `journalctl --output=json`; None for a line that is none."""
    try:
        fields: dict[str, Any] = json.loads(line)
        text = _text(fields.get("MESSAGE"))
        at = int(_text(fields.get("__REALTIME_TIMESTAMP"))) / 1e6
        priority = int(_text(fields.get("PRIORITY")) or INFO)
    except (ValueError, AttributeError, TypeError):
        return None
    source = _text(fields.get("SYSLOG_IDENTIFIER")) or _text(fields.get("_COMM"))
    return Entry(at, min(max(priority, 0), 7), source, text)


def _text(value: Any) -> str:
    """A field: text, numbers where it is none, a list of these where it was given more than once.

    Source: systemd.io/JOURNAL_EXPORT_FORMATS, "Journal JSON Format".
    """
    match value:
        case None:
            return ""
        case str():
            return value[:LINE_CHARS]
        case [int(), *_]:
            return bytes(value[: LINE_CHARS * 4]).decode(errors="replace")[:LINE_CHARS]
        case [first, *_]:
            return _text(first)
        case _:
            return str(value)[:LINE_CHARS]


def of_file(line: str) -> Entry:
    """A line of the daemon's log file; what has another form is text without a time."""
    found = _FILE_LINE.match(line)
    if found is None:
        return Entry(None, INFO, "", line[:LINE_CHARS])
    at = datetime.fromisoformat(found[1]).timestamp()
    return Entry(at, _LEVELS[found[2]], "omega-sessiond", found[3][:LINE_CHARS])


def daemon_log(is_managed: bool, file: str | None, wake: Callable[[], None]) -> Logbook:
    """The daemon's own log, in whichever way it is run."""
    if is_managed:
        return Logbook(wake, units=(manager.SERVICE, manager.SOCKET))
    return Logbook(wake, file=file)
