"""Exceptions of the user's code as text: the user's own frames, with their source, and none of the host's."""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Iterator, List, Optional, Set

from omega_sessiond.hosts import border
from omega_sessiond.hosts.engine import ERROR_BYTES, ErrorReport

SOURCE_PREFIX = "<omega-"
"""How the file names of commands begin: `<omega-ID>`, ID the execution's."""

MAX_PLACES = 100
"""How many frames are told of an exception that has no report."""

HEADING = "Traceback (most recent call last):\n"


def prune(error: BaseException) -> None:
    """Take the host's frames out of the tracebacks of `error` and of what it came from."""
    seen: Set[int] = set()
    waiting: List[Optional[BaseException]] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = _users_part(one.__traceback__)
        waiting += [one.__cause__, one.__context__, *getattr(one, "exceptions", ())]


def _users_part(tb: Optional[TracebackType]) -> Optional[TracebackType]:
    """From the command's own first line on: what stands before is the host, or the event loop it was run in."""
    first = tb
    while first is not None and not first.tb_frame.f_code.co_filename.startswith(SOURCE_PREFIX):
        first = first.tb_next
    if first is None:
        first = tb
        while first is not None and border.is_own(first.tb_frame):
            first = first.tb_next
    entry = first
    while entry is not None:
        following = entry.tb_next
        if following is not None and border.is_own(following.tb_frame):
            entry.tb_next = following.tb_next
        else:
            entry = following
    return first


def users_traceback(error: BaseException) -> Optional[TracebackType]:
    """Where in the user's code an exception began that the event loop has made anew on its way (before 3.11)."""
    seen: Set[int] = set()
    one: Optional[BaseException] = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        tb = one.__traceback__
        while tb is not None:
            if tb.tb_frame.f_code.co_filename.startswith(SOURCE_PREFIX):
                return tb
            tb = tb.tb_next
        one = one.__context__
    return error.__traceback__


def describe(error: BaseException) -> ErrorReport:
    """Name, message and whole report of an exception, however hostile it is."""
    name = str.__str__(type.__getattribute__(type(error), "__name__"))
    message = ""
    try:
        prune(error)
        try:
            message = str.__str__(border.call_user(str, error))
        except Exception:
            pass  # traceback has its own words for that
        report = "".join(str.__str__(line) for line in _format(error))
    except BaseException as failure:  # __str__, a metaclass, a loader of source: all of it may be the user's code
        reason = type.__getattribute__(type(failure), "__name__")
        frames = "".join(_places(error.__traceback__))
        report = "%s%s: <no text: %s>\n" % (frames and HEADING + frames, name, reason)
    return ErrorReport(name, message, report)


def _format(error: BaseException) -> List[str]:
    kind = type(error)
    for name in ("ast", "unicodedata"):  # what traceback would look for in the session's directory first
        border.import_late(name)
    if isinstance(error, SyntaxError) and error.__traceback__ is None:
        lines: List[str] = border.call_user(traceback.format_exception_only, kind, error)
    else:
        lines = border.call_user(traceback.format_exception, kind, error, error.__traceback__)
    return lines


def _places(tb: Optional[TracebackType]) -> Iterator[str]:
    """Where an exception came through, without the source: to read that may be what failed, or never ends."""
    for _ in range(MAX_PLACES):
        if tb is None:
            return
        code = tb.tb_frame.f_code
        yield '  File "%s", line %s, in %s\n' % (code.co_filename, tb.tb_lineno, code.co_name)
        tb = tb.tb_next


def bounded(report: ErrorReport) -> ErrorReport:
    """For the result frame: the beginning and the end of what is too long."""
    return ErrorReport(report.name[:1000], _bounded(report.message), _bounded(report.traceback))


def _bounded(text: str) -> str:
    data = text.encode("utf-8", "backslashreplace")
    if len(data) <= ERROR_BYTES:
        return text
    half = ERROR_BYTES // 2 - 16
    return data[:half].decode("utf-8", "ignore") + "\n[…]\n" + data[-half:].decode("utf-8", "ignore")


def remember(error: BaseException) -> None:
    """For pdb.pm() and its like. Source: sys.last_exc."""
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.version_info >= (3, 12):
        sys.last_exc = error
