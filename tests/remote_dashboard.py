"""The dashboard where the test itself cannot be: in another process, inside a user manager's namespaces.

`RemoteDashboard` is the test's end: it hands over one step at a time and gets what came of it. Run as a script, this
file is the other end: the dashboard driven by Pilot, and a loop that reads steps.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

if __name__ != "__main__":
    from usermanager import UserManager


class RemoteDashboard:
    """A dashboard that runs as the manager's user, by the program installed in `venv`. Use it as a context manager."""

    def __init__(self, manager: UserManager, venv: Path, size: tuple[int, int] = (110, 32), **env: str) -> None:
        script = venv.parent / "source" / "tests" / Path(__file__).name
        self._process = manager.popen(
            f"{venv}/bin/python", str(script), *map(str, size),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={"TERM": "xterm-256color", **env},
        )  # fmt: skip

    def __enter__(self) -> RemoteDashboard:
        return self

    def __exit__(self, *exc: object) -> None:
        out, err = self._process.communicate()
        if exc[0] is None:
            assert self._process.returncode == 0, f"{out}{err}"

    def _ask(self, *step: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(step) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise AssertionError(f"the dashboard ended in step {step}\n{self._process.communicate()[1]}")
        value, trouble = json.loads(answer)
        assert trouble is None, f"step {step}: {trouble}"
        return value

    def press(self, *keys: str) -> None:
        self._ask("press", *keys)

    def sees(self, *texts: str) -> str:
        """Wait until all texts stand on the screen; the screen."""
        return str(self._ask("sees", *texts))

    def shown(self) -> str:
        return str(self._ask("shown"))

    def stands(self, kind: str) -> None:
        """Wait until the service stands so on the service screen."""
        self._ask("stands", kind)

    def feed_is(self, *kinds: str) -> str:
        """Wait until the feed stands in one of these ways; which."""
        return str(self._ask("feed_is", *kinds))

    def photograph(self) -> str:
        """The screen as an SVG."""
        return str(self._ask("photograph"))

    def commands(self) -> list[str]:
        """The command lines logged so far."""
        return [str(line) for line in self._ask("commands")]


# ---- the other end ----


async def _serve(width: int, height: int) -> None:
    from dashboard import Driver, driven
    from photograph import photograph
    from tui.screens.service import ServiceScreen
    from tui.standing import standing

    async def take(driver: Driver, verb: str, arguments: list[str]) -> Any:
        app = driver.app
        match verb:
            case "press":
                await driver.press(*arguments)
            case "sees":
                for text in arguments:
                    await driver.sees(text)
                return driver.shown()
            case "shown":
                return driver.shown()
            case "stands":

                def stands() -> bool:
                    screen = app.screen
                    found = screen.found if isinstance(screen, ServiceScreen) else None
                    return found is not None and standing(found).kind == arguments[0]

                await driver.until(stands, f"the service is {arguments[0]}")
            case "feed_is":
                await driver.until(lambda: app.standing.kind in arguments, f"the feed is {arguments}")
                return app.standing.kind
            case "photograph":
                return photograph(app)
            case "commands":
                return [command.line for command in app.command_log]
        return None

    async with driven(size=(width, height)) as driver:
        while line := await asyncio.to_thread(sys.stdin.readline):
            verb, *arguments = json.loads(line)
            answer: tuple[Any, str | None]
            try:
                answer = (await take(driver, verb, arguments), None)
            except AssertionError as error:
                answer = (None, str(error))
            # Textual takes sys.stdout for itself while an app runs.
            print(json.dumps(answer), file=sys.__stdout__, flush=True)


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
