"""The dashboard driven by Pilot, in the test's own event loop, beside a real daemon.

    async with driven(life) as pilot: ...
    run(story(life))

Waits for conditions, never for time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from textual.pilot import Pilot

from omega_sessiond import target
from omega_sessiond.target import Target
from tui.app import Dashboard
from tui.keys import Settings
from tui.screens.console import Console
from tui.screens.main import Main

PATIENCE_S = 30.0


def run(story: Coroutine[Any, Any, None]) -> None:
    """Run one story to its end."""
    asyncio.run(story)


class Driver:
    """A running dashboard and its keyboard."""

    def __init__(self, app: Dashboard, pilot: Pilot[int]) -> None:
        self.app = app
        self.pilot = pilot

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Let the app run until the condition holds."""
        deadline = time.monotonic() + PATIENCE_S
        while not (value := condition()):
            assert time.monotonic() < deadline, f"never: {what}\n{self.shown()}"
            await self.pilot.pause(0.01)
        return value

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)

    async def write(self, text: str) -> None:
        """Type a text, each letter a key."""
        names = {" ": "space", "\n": "ctrl+j"}
        await self.pilot.press(*(names.get(letter, letter) for letter in text))

    async def sees(self, text: str) -> None:
        """Wait until the text stands somewhere on the screen."""
        await self.until(lambda: text in self.shown(), f"{text!r} is shown")

    async def sees_no(self, text: str) -> None:
        await self.until(lambda: text not in self.shown(), f"{text!r} is not shown")

    async def is_live(self) -> None:
        await self.until(lambda: self.app.model.is_listed and self.app.standing.kind == "live", "the feed is live")

    async def selects(self, name: str) -> None:
        """Put the cursor on a session and wait until its transcript is there."""
        session = await self.until(lambda: self.app.model.by_name(name), f"{name} is known")
        await self.until(lambda: session.id in self.main.table.shown_ids, f"{name} is listed")
        self.main.table.select(session.id)
        await self.until(lambda: self.main.detail.session_id == session.id, f"{name} is shown")
        await self.until(lambda: self.app.model.tapes[session.id].is_loaded, f"the transcript of {name} is read")

    def shown(self) -> str:
        """What stands on the screen, line by line."""
        width, height = self.app.size
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text[:width] for strip in strips[:height])

    @property
    def main(self) -> Main:
        return self.app.main

    @property
    def console(self) -> Console:
        assert isinstance(self.app.screen, Console)
        return self.app.screen


@asynccontextmanager
async def driven(
    *,
    size: tuple[int, int] = (120, 36),
    settings: Settings | None = None,
    at: Target | None = None,
    clock: Callable[[], float] = time.time,
) -> AsyncIterator[Driver]:
    """The dashboard of this place's daemon, whether that runs or not."""
    app = Dashboard(at or target.find(), settings or Settings(ascii=False), clock=clock)
    async with app.run_test(size=size, notifications=True) as pilot:
        yield Driver(app, pilot)
