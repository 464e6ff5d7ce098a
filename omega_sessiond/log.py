"""What the daemon writes to stderr: one line an entry, fit for the systemd journal or for a file.

Text from outside is escaped, so that it can neither fake an entry nor steer a terminal. Headers, bodies and code are
never handed to it.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
"""Source: sd-daemon(3), the kernel's log levels."""

MAX_CHARACTERS = 2000
"""Of one line: an exception's text can be as large as what it complains of."""


def escaped(text: str) -> str:
    """Text on one line, without control characters."""
    if text.isprintable() and len(text) <= MAX_CHARACTERS:
        return text
    if len(text) > MAX_CHARACTERS:
        text = text[:MAX_CHARACTERS] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Formatter(logging.Formatter):
    """Lines with a `<6>` priority for the journal, which knows the time itself; with the time otherwise."""

    def __init__(self, *, for_journal: bool) -> None:
        super().__init__()
        self._for_journal = for_journal

    def format(self, record: logging.LogRecord) -> str:
        lines = [escaped(record.getMessage())]
        if record.exc_info and record.exc_info[1] is not None:
            for chunk in traceback.format_exception(record.exc_info[1]):
                lines += map(escaped, chunk.rstrip("\n").split("\n"))
        if self._for_journal:
            lead = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        else:
            at = self.formatTime(record, "%Y-%m-%dT%H:%M:%S")
            lead = f"{at}.{int(record.msecs):03} {record.levelname.lower():7} "
        return "\n".join(lead + line for line in lines)


def is_journal(descriptor: int) -> bool:
    """Whether a descriptor leads to the systemd journal. Source: systemd.exec(5), $JOURNAL_STREAM."""
    device, _, inode = os.environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(status.st_dev), str(status.st_ino))


def set_up(level: str) -> None:
    """Send all logging to stderr, from `level` on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter(for_journal=is_journal(2)))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Tornado's own remarks on a malformed request quote it: our reply says what is wrong, to the one who sent it.
    logging.getLogger("tornado.general").setLevel(logging.ERROR)
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, root.level))
