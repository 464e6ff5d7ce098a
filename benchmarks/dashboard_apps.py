"""The programs that `dashboard` measures, each in a process and at a terminal of its own:

    python -m benchmarks.dashboard_apps ours|datatable|flood|minimal FILE SECONDS [SOCKET]

`ours` and `datatable` show 1000 sessions that change twice a second, from the same events through the same model; they
differ in what draws. `flood` is the dashboard beside a real daemon. Each counts what it costs for so many seconds,
writes that into FILE as JSON and ends.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

from rich.text import Text
from textual import events
from textual.app import App, ComposeResult
from textual.widgets import DataTable, Static

from omega_sessiond.messages import iso
from omega_sessiond.target import Target
from tui.app import FLUSH_ITEMS, FLUSH_S, Dashboard, FeedReady
from tui.feed import Feed, Hello, Listing, Standing
from tui.model import Model, Session
from tui.roles import look_of
from tui.table import COLUMNS, shown_age

SESSIONS = 1000
TURN_S = 0.5

SETTLING_S = 2.0
"""Starting is measured elsewhere."""

SERVER = {"version": "0", "pid": 1, "started_at": "2026-01-01T00:00:00.000000Z", "scopes": False, "state_dir": "/"}

Json = dict[str, Any]


class Restless(Feed):
    """A feed of sessions that all change every TURN_S: half of them begin a command, half end one."""

    def _follow(self) -> Standing:
        self._put(Standing("live"))
        self._put(Hello(SERVER))
        self._put(Listing([_view(number) for number in range(SESSIONS)]))
        turn, id = 0, 0
        begun_at = time.monotonic()
        while not self._stopping:
            turn += 1
            at = iso(time.time())
            for number in range(SESSIONS):
                id += 1
                self._put(json.loads(_event(id, at, number, (number + turn) % 2 == 0)))
            with self._condition:
                self._condition.wait_for(lambda: self._stopping, max(begun_at + turn * TURN_S - time.monotonic(), 0))
        return Standing("lost", "over")


def _view(number: int) -> Json:
    return {
        "id": f"{number:012}", "name": f"session-{number:04}", "engine": "python", "state": "idle",
        "state_reason": None, "pid": number + 1, "python": "/usr/bin/python3", "cwd": "/",
        "created_at": iso(time.time()), "last_used_at": iso(time.time()), "execution_count": number,
        "queue_length": 0, "running_execution_id": None, "limits": {}, "usage": None, "labels": {},
    }  # fmt: skip


def _event(id: int, at: str, number: int, begins: bool) -> str:
    head = f'{{"id":{id},"at":"{at}","session_id":"{number:012}","session":"session-{number:04}",'
    if begins:
        return head + f'"kind":"execution_started","execution_id":{id}}}'
    return (
        head + f'"kind":"execution_finished","execution_id":{id},"status":"ok","reason":null,"duration_ms":1.5,'
        f'"execution_count":{id % 99999},"should_exit":false}}'
    )


class Measured(App[int]):
    """Counts processor time and, for each key, the time from its arrival until the frame that follows it is drawn."""

    file = Path()
    seconds = 0.0

    def measure(self) -> None:
        self.latencies: list[float] = []
        self.turns: set[int] = set()
        """Those that were drawn: one that cannot keep up leaves some out, and what it costs is what it drew."""
        self.set_timer(SETTLING_S, self._begin)

    def _begin(self) -> None:
        self.latencies.clear()
        self.turns.clear()
        self._begun = (time.monotonic(), _cpu_s())
        self.set_timer(self.seconds, self.end)

    def end(self) -> None:
        self.report()

    def report(self, **more: object) -> None:
        begun_at, cpu_s = self._begun
        found = {
            "cpu": (_cpu_s() - cpu_s) / (time.monotonic() - begun_at) * 100,
            "turn": 1000 * (_cpu_s() - cpu_s) / max(len(self.turns), 1),
            "latencies": [1000 * latency for latency in self.latencies],
            **more,
        }
        self.file.write_text(json.dumps(found))
        self.exit(0)

    async def on_event(self, event: events.Event) -> None:
        await super().on_event(event)
        if isinstance(event, events.Key):
            self.call_after_refresh(lambda: self.latencies.append(time.monotonic() - event.time))


def note_turn(app: Measured, model: Model) -> None:
    if model.last_event_id is not None and hasattr(app, "turns"):
        app.turns.add((model.last_event_id - 1) // SESSIONS)


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


class Ours(Measured, Dashboard):
    def __init__(self) -> None:
        super().__init__(Target("/nowhere/api.sock", None, "benchmark"))
        self.feed = Restless(self.target, self._announce)

    def on_ready(self) -> None:
        self.measure()

    def publish(self) -> None:
        super().publish()
        note_turn(self, self.model)


class Rows(Measured):
    """The same list with Textual's DataTable, filled anew when something has changed: the cheapest way it has where
    all rows change."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.feed = Restless(Target("/nowhere/api.sock", None, "benchmark"), lambda: self.post_message(FeedReady()))  # type: ignore[arg-type]
        self._flushed_at = 0.0
        self._is_waiting = False

    def compose(self) -> ComposeResult:
        yield DataTable(cursor_type="row")

    def on_mount(self) -> None:
        self.table: DataTable[Text | str] = self.query_one(DataTable)
        self.table.add_columns(*(column.title for column in COLUMNS))
        self.table.focus()
        self.feed.start()

    def on_ready(self) -> None:
        self.measure()

    def on_unmount(self) -> None:
        self.feed.stop()

    def on_feed_ready(self) -> None:
        if not self._is_waiting:
            self._is_waiting = True
            self.set_timer(max(self._flushed_at + FLUSH_S - time.monotonic(), 0.001), self._show)

    def _show(self) -> None:
        self._is_waiting = False
        self._flushed_at = time.monotonic()
        items, has_more = self.feed.take(FLUSH_ITEMS)
        for item in items:
            if isinstance(item, Listing):
                self.model.replace(item.sessions)
            elif isinstance(item, dict):
                self.model.apply(item)
        changed, came_or_went = self.model.take_changes()
        if changed or came_or_went:
            row, top = self.table.cursor_row, self.table.scroll_y
            self.table.clear()
            now = time.time()
            for session in self.model.sessions.values():
                self.table.add_row(*_cells(session, now))
            self.table.move_cursor(row=row)
            self.table.scroll_to(y=top, animate=False)
        note_turn(self, self.model)
        if has_more:
            self.on_feed_ready()

    def action_cursor_down(self) -> None:
        self.table.action_cursor_down()

    BINDINGS = [("j", "cursor_down", "Down")]


def _cells(session: Session, now: float) -> list[Text | str]:
    look = look_of(session.state)
    return [
        Text(session.name, "bold"), Text(f"{look.glyph} {look.word}", "green"), session.engine, "-", "-",
        str(session.count), shown_age(now - session.used_at), session.last_command or "",
    ]  # fmt: skip


class Flood(Measured, Dashboard):
    """The dashboard at a session that prints the time in each line; at the end it is interrupted by its key."""

    def __init__(self, socket_path: str) -> None:
        super().__init__(Target(socket_path, None, "benchmark"))
        self.lags: list[float] = []

    def on_ready(self) -> None:
        self.measure()
        self.set_interval(0.1, self._look)

    def _look(self) -> None:
        tape = next(iter(self.model.tapes.values()), None)
        if tape is not None and len(tape) > 2:
            words = tape[tape.end - 2].text.split()
            if len(words) == 3 and words[0] == "line":
                self.lags.append(1000 * (time.time() - float(words[2])))

    def end(self) -> None:
        self.asked_at = time.monotonic()
        self.act("interrupt")
        self.set_interval(0.005, self._wait_for_end)

    def _wait_for_end(self) -> None:
        if all(session.state == "idle" for session in self.model.sessions.values()):
            tape = next(iter(self.model.tapes.values()))
            self.report(lags=self.lags, interrupt=1000 * (time.monotonic() - self.asked_at), lines=tape.end)


class Minimal(App[int]):
    """What Textual costs with nothing in it."""

    def compose(self) -> ComposeResult:
        yield Static("Sessions")


def main() -> None:
    kind, file, seconds, *rest = sys.argv[1:]
    Measured.file, Measured.seconds = Path(file), float(seconds)
    app: App[int]
    match kind:
        case "ours":
            app = Ours()
        case "datatable":
            app = Rows()
        case "flood":
            app = Flood(rest[0])
        case _:
            app = Minimal()
    app.run()


if __name__ == "__main__":
    main()
