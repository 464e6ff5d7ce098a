"""The dashboard as it looks: pictures that somebody has looked at, the same until somebody changes them on purpose.

    UPDATE_SNAPSHOTS=1 ./tests/run tests/test_tui_snapshots.py      # then look at the pictures in tests/snapshots/

What is shown is made up, so that nothing in it depends on the moment: no daemon is behind it, and the clock stands.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import CHECKOUT
from omega_sessiond.target import Target
from photograph import photograph
from tui.app import Dashboard
from tui.feed import Hello, Item, Listing, Standing
from tui.keys import Settings
from tui.tape import Past

SNAPSHOTS = CHECKOUT / "tests" / "snapshots"
NOW = 1_767_355_200.0  # 2026-01-02T12:00:00Z
Json = dict[str, Any]


def at(seconds_ago: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(NOW - seconds_ago))


def session(id: str, name: str, state: str, **more: Any) -> Json:
    usage = {
        "sampled_at": at(0), "memory_bytes": 107 * 1024**2, "memory_peak_bytes": 200 * 1024**2, "cpu_s": 12.5,
        "tasks": 3, "source": "cgroup",
    }  # fmt: skip
    return {
        "id": id, "name": name, "engine": "python", "state": state, "state_reason": None, "pid": 4100,
        "python": "/usr/bin/python3", "cwd": "/home/ada", "created_at": at(90_000), "last_used_at": at(300),
        "execution_count": 41, "queue_length": 0, "running_execution_id": None, "labels": {},
        "limits": {"memory_bytes": None, "tasks": None, "cpu_weight": None}, "usage": usage, **more,
    }  # fmt: skip


SESSIONS = [
    session("aaaaaaaaaaaa", "analysis", "busy", running_execution_id=91, last_used_at=at(42)),
    session("bbbbbbbbbbbb", "agent-1", "idle", engine="omega", labels={"by": "agent"}),
    session("cccccccccccc", "wizard", "waiting_input", running_execution_id=80),
    session("dddddddddddd", "review", "hibernated", pid=None, usage=None),
    session("eeeeeeeeeeee", "fuzz", "dead", pid=None, usage=None, state_reason="out of memory", engine="bash"),
    session("ffffffffffff", "a-name-that-is-as-long-as-names-may-be-with-58-characters-yes", "starting", usage=None),
]

EVENTS: list[Json] = [
    {"id": 100, "kind": "execution_queued", "at": at(50), "session_id": "bbbbbbbbbbbb", "session": "agent-1",
     "execution_id": 100, "command": "answer = 6 * 7\nprint(answer)"},
    {"id": 101, "kind": "execution_started", "at": at(50), "session_id": "bbbbbbbbbbbb", "session": "agent-1",
     "execution_id": 100},
    {"id": 102, "kind": "execution_finished", "at": at(49), "session_id": "bbbbbbbbbbbb", "session": "agent-1",
     "execution_id": 100, "status": "error", "reason": None, "duration_ms": 1234.5, "execution_count": 42,
     "should_exit": False},
    {"id": 103, "kind": "session_changed", "at": at(20), "session_id": "eeeeeeeeeeee", "session": "fuzz",
     "state": "dead", "state_reason": "out of memory", "pid": None, "limits": {}, "labels": {}},
]  # fmt: skip


def past(id: int, count: int | None, status: str, command: str, output: str, duration_ms: float | None = 3.0) -> Past:
    execution = {
        "id": id, "command": command, "status": status, "reason": None, "lost": None, "started_at": at(60),
        "duration_ms": duration_ms, "execution_count": count, "data": None,
    }  # fmt: skip
    return Past(execution, output, len(output.encode()), 0)


TRANSCRIPT = [
    past(89, 40, "ok", "def f(x):\n    return x * x  # é 漢\n\nf(7)", "49\n"),
    past(90, 41, "error", "1 / 0", "Traceback (most recent call last):\n\x1b[31mZeroDivisionError\x1b[0m: division\n"),
    past(91, None, "running", "train(df)", "epoch 1 \x1b[32mloss 0.21\x1b[0m\nepoch 2 10%\repoch 2 99%", None),
]


class Canned:
    """A feed that has everything at once, and no more."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass

    def retry(self) -> None:
        pass

    def take(self, limit: int) -> tuple[list[Item], bool]:
        items, self._items = self._items, []
        return items, False


def picture(size: tuple[int, int], theme: str, keys: list[str], sees: str) -> tuple[str, list[str]]:
    """The dashboard after these keys, once the text is seen and nothing moves: as an SVG, and as its lines."""
    server = {"version": "1.2.3", "pid": 4000, "started_at": at(11_520), "scopes": True, "state_dir": "/s"}

    async def taken() -> tuple[str, list[str]]:
        app = Dashboard(Target("/nowhere/api.sock", None, "--socket"), Settings(theme=theme, ascii=False),
                        clock=lambda: NOW)  # fmt: skip
        app.feed = Canned([Standing("live"), Hello(server), Listing(SESSIONS), *EVENTS])  # type: ignore[assignment]
        async with app.run_test(size=size) as pilot:
            app.model.replace(SESSIONS)
            app.model.watch("aaaaaaaaaaaa").load(TRANSCRIPT, has_older=False)
            app.on_feed_ready()
            while app.model.last_event_id != EVENTS[-1]["id"]:
                await pilot.pause(0.01)
            app.select("aaaaaaaaaaaa")
            await pilot.press(*keys)
            while True:
                before = photograph(app)
                await pilot.pause(0.05)
                lines = [strip.text.rstrip() for strip in app.screen._compositor.render_strips()]
                if any(sees in line for line in lines) and photograph(app) == before:
                    return before, lines

    return asyncio.run(taken())


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Times of day are the same everywhere."""
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("name", "size", "theme", "no_color", "keys", "sees"),
    [
        ("wide-dark", (120, 30), "dark", False, [], "epoch 2"),
        ("wide-light", (120, 30), "light", False, [], "epoch 2"),
        ("middle-dark", (80, 30), "dark", False, [], "epoch 2"),
        ("middle-no-color", (80, 30), "dark", True, [], "epoch 2"),
        ("small-dark", (58, 20), "dark", False, [], "analysis"),
        ("events-light", (100, 24), "light", False, ["E"], "queued:"),
        ("confirm-dark", (100, 24), "dark", False, ["K"], "Kill analysis?"),
    ],
)
def test_it_looks_as_it_did(
    name: str,
    size: tuple[int, int],
    theme: str,
    no_color: bool,
    keys: list[str],
    sees: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The screen is the one in the picture."""
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    svg, lines = picture(size, theme, keys, sees)
    file, text = SNAPSHOTS / f"{name}.svg", SNAPSHOTS / f"{name}.txt"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        file.write_text(svg)
        text.write_text("\n".join(lines) + "\n")
        return
    if svg != file.read_text():
        (tmp_path / file.name).write_text(svg)
        changed = "\n".join(
            difflib.unified_diff(text.read_text().splitlines(), lines, "as it was", "as it is", "", "", 1)
        )
        pytest.fail(f"{file} and {tmp_path / file.name} differ:\n{changed or 'in their colours alone'}", pytrace=False)
