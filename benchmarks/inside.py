"""Benchmarks inside a throw-away user manager, where sessions get scopes: for root on a machine whose own manager does
not answer. The same one the tests have; the program and both sides of each ratio run in it, as the test user.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.driver import RequestFailed

CHECKOUT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 900.0
NAMES = frozenset(("new-session", "cold-start"))
"""Those with figures of sessions in scopes."""


class Unavailable(Exception):
    """Why there is no such manager here."""


class Told:
    """A report as the program inside has printed it."""

    def __init__(self, name: str, text: str, values: dict[str, Any]) -> None:
        self.name = name
        self._text = text
        self._values = values

    def text(self) -> str:
        return self._text

    def values(self) -> dict[str, Any]:
        return self._values


class Inside:
    """A running manager and the checkout installed for its user."""

    def __init__(self, manager: Any, venv: Path) -> None:
        self._manager = manager
        self._venv = venv

    def run(self, name: str, scale: float) -> Told:
        with tempfile.TemporaryDirectory(prefix="ob", dir="/var/tmp") as directory:
            Path(directory).chmod(0o777)
            file = Path(directory) / "figures.json"
            command = f"cd {self._venv.parent}/source && exec {self._venv}/bin/python -m benchmarks {name}"
            done = self._manager.run(
                *("sh", "-c", f"{command} --scale {scale} --json {file}"), check=False, timeout=TIMEOUT_S
            )
            if done.returncode:
                raise RequestFailed(f"{done.stdout}{done.stderr}")
            text = done.stdout.split("\n\n", 1)[1].rstrip()
            note = f"  all of it as user {self._manager.user}, with a user manager started for it"
            return Told(name, f"{text}\n{note}", json.loads(file.read_text())["benchmarks"][name])


@contextmanager
def user_manager() -> Iterator[Inside]:
    """Raises Unavailable."""
    sys.path.insert(0, str(CHECKOUT / "tests"))
    try:
        usermanager: Any = importlib.import_module("usermanager")
    finally:
        del sys.path[0]
    try:
        with (
            usermanager.installed_for(usermanager.USER, CHECKOUT) as venv,
            usermanager.UserManager() as manager,
        ):
            yield Inside(manager, venv)
    except usermanager.Unavailable as error:
        raise Unavailable(str(error)) from None
