"""Which version of a program is installed, by its own word: asked only when somebody wants to know, in bounded time,
and remembered until its file changes. Knows nothing of engines.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence

ANSWER_S = 3.0
"""For each program, all of them at once. Most take 5 to 50 ms; one that opens a window or waits for something is ended
and has none."""

SAID_BYTES = 4096

_VERSION = re.compile(r"\d+(?:\.\d+)+\S*")

_ASIDE = re.compile(r"\s\([^)]*\)")
"""Such as "(Debian 13.1-3)", the package's."""


class Versions:
    """What programs have said."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[str, ...], int], str | None] = {}

    async def of(self, commands: Mapping[str, Sequence[str]]) -> dict[str, str | None]:
        """What each command says of itself, None for one that says nothing that looks like a version."""
        found = await asyncio.gather(*(self._of(tuple(command)) for command in commands.values()))
        return dict(zip(commands, found, strict=True))

    async def _of(self, command: tuple[str, ...]) -> str | None:
        try:
            key = command, os.stat(command[0]).st_mtime_ns
        except OSError:
            return None
        if key not in self._known:
            self._known[key] = await asyncio.to_thread(ask, command)
        return self._known[key]


def ask(command: Sequence[str], answer_s: float = ANSWER_S) -> str | None:
    """Run it without input and read the first version in what it prints."""
    import tempfile  # with its random names as long to load as the rest of this file, for a question seldom asked

    # One with a Python inside (gdb) would run what PYTHONPATH, or the directory the daemon was started in, has for it.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    with tempfile.TemporaryFile() as said:  # no pipe: what it leaves running could hold that open
        try:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd="/",
                env=env,
            )
        except OSError:
            return None
        try:
            process.wait(answer_s)
        except subprocess.TimeoutExpired:
            pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # it and all that it has started have ended
        process.wait()
        said.seek(0)
        text = said.read(SAID_BYTES).decode("utf-8", "replace")
        found = _VERSION.search(_ASIDE.sub("", text)) or _VERSION.search(text)
    return found.group().rstrip(",;:)") if found else None
