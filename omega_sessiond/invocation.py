"""One call of omegactl: its arguments, its streams, its daemon. What every command gets."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from omega_sessiond.errors import OmegaError
from omega_sessiond.screen import Format, Screen
from omega_sessiond.shortcut import Begun
from omega_sessiond.target import Target, find

if TYPE_CHECKING:
    from omega_sessiond.client import Client

Json = dict[str, Any]


class UsageError(OmegaError):
    """The arguments make no sense together."""

    code = "usage"
    exit_code = 2


class TimedOut(OmegaError):
    """What was waited for did not happen in time."""

    code = "timed_out"
    exit_code = 124


class Invocation:
    """`args` are those of the command and the options of all; `begun` is what the fast path has done already."""

    def __init__(self, args: argparse.Namespace, screen: Screen, begun: Begun | None = None) -> None:
        self.args = args
        self.screen = screen
        self.begun = begun

    @cached_property
    def target(self) -> Target:
        """The daemon meant, whether it runs or not."""
        return find(self.args.socket)

    @cached_property
    def client(self) -> Client:
        return self.new_client()

    def new_client(self, *, may_start: bool | None = None) -> Client:
        """Another connection to the same daemon, for another thread or a signal's sake."""
        from omega_sessiond.client import Client, find_daemon  # half of a command's imports, and some ask nothing

        if may_start is None:
            may_start = not self.args.no_start
        return Client(find_daemon(self.target), may_start=may_start)

    @property
    def form(self) -> Format:
        chosen: Format = "json" if self.args.json else (self.args.format or "table")
        return chosen

    def must_confirm(self, question: str) -> bool:
        """Whether to go on: asked of a person, or said by -y. Raises UsageError where nobody can be asked."""
        if self.args.yes:
            return True
        if not self.screen.can_ask:
            raise UsageError(f"{question} Nobody can be asked here", hint="Say yes with -y.")
        return self.screen.confirm(question)

    @property
    def creation(self) -> Callable[[], Json]:
        """The options a session is created with when a command finds none: this shell's place and environment."""
        return lambda: creation_options(self.screen.warn)


def creation_options(warn: Callable[[str], None]) -> Json:
    """Working directory, environment, the engine that OMEGA_ENGINE names and, inside a virtual environment, its
    interpreter."""
    options: Json = {}
    try:
        where = os.getcwd()
    except FileNotFoundError:
        where = os.path.expanduser("~")
        warn(f"the working directory no longer exists: the session starts in {where}")
    if is_text(where):
        options["cwd"] = where
    else:
        warn("the working directory's name is not UTF-8: the session starts elsewhere")
    environment = dict(os.environ)
    foreign = [name for name, value in environment.items() if not is_text(name + value)]
    for name in foreign:
        del environment[name]
        warn(f"left out of the session's environment, not UTF-8: {name}")
    options["env"] = environment
    engine = environment.get("OMEGA_ENGINE")
    if engine:
        options["engine"] = engine
    venv = os.environ.get("VIRTUAL_ENV")
    if venv and (engine or "python") == "python":
        python = os.path.join(venv, "bin", "python")
        if os.access(python, os.X_OK):
            options["python"] = python
    return options


def is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def suggestion(text: str, known: Sequence[str]) -> str:
    """ "; did you mean …?", or nothing when nothing is near."""
    import difflib

    near = difflib.get_close_matches(text, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""
