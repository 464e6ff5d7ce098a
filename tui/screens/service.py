"""The service screen: how the daemon is run and how that stands, what its sessions are forked from, its verbs as keys,
and its log, followed.

Looking starts and wakes nothing. Each verb is the `omegactl service` line of the same name, which is shown and handed
to whoever keeps the log of commands. Knows no session.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.message import Message
from textual.widgets import RichLog, Static

from omega_sessiond import control, paths
from omega_sessiond.control import Background, Managed, Verb
from omega_sessiond.errors import OmegaError
from tui import logbook
from tui.actions import bindings_of
from tui.headline import Headline
from tui.keyline import KeyLine
from tui.logbook import PRIORITIES, Entry, Logbook
from tui.screens.live import LiveScreen
from tui.standing import Condition, Json, fork_table, headline, keys_that_apply, table
from tui.text import block, cell

if TYPE_CHECKING:
    from tui.app import Dashboard

LOOK_S = 1.0
"""How often systemd is asked. It costs a process of 5 ms; twice as seldom, a change is seen late enough to doubt it."""

LOG_ENTRIES = 2_000

LEVELS = (7, 6, 4, 3)
"""The priorities that the log is cut off at, one after the other: all, info, warnings, errors."""

ASKED: dict[Verb, tuple[str, str]] = {
    "stop": (
        "Stop the daemon?",
        "Sessions and what runs in them go on; what they print meanwhile is there when the daemon is. Where systemd "
        "runs it nothing starts it until you do: every command says that the service is stopped. Elsewhere the next "
        "command starts it.",
    ),
    "restart": (
        "Restart the daemon?",
        "Sessions and what runs in them go on. Who waits for an answer waits a moment longer.",
    ),
    "disable": (
        "Disable the service?",
        "systemd does not listen any more after your next login; it does until then. Sessions go on.",
    ),
}
"""Verbs that want a confirmation, and what comes of them."""


class ServiceScreen(LiveScreen):
    """`found` is how it stood when it was last looked at."""

    BINDINGS = bindings_of("service")
    keys_of_its_own = "service"

    DEFAULT_CSS = """
    ServiceScreen {
        layout: vertical;
        #standing { height: auto; padding: 0 1; }
        #units { height: auto; padding: 1 1 0 1; }
        #forks { height: auto; max-height: 25%; padding: 1 1 0 1; scrollbar-size-vertical: 1;
                 scrollbar-color: $border; scrollbar-background: $background; }
        #forks:focus { background: $panel; }
        #told { height: auto; max-height: 6; padding: 1 1 0 1; }
        #log { height: 1fr; border: round $border; border-title-color: $foreground; padding: 0 1;
               background: $background; background-tint: transparent; scrollbar-size-vertical: 1;
               scrollbar-color: $border; scrollbar-background: $background; }
        #log:focus { border: round $primary; background-tint: transparent; }
    }
    """

    class LogCame(Message):
        """The logbook has something."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Condition | None = None
        self._forks = Text()
        self._logbook: Logbook | None = None
        self._entries: deque[Entry] = deque(maxlen=LOG_ENTRIES)
        self._level = LEVELS[1]
        self._is_paused = False
        self._doing: Verb | None = None
        self._hurry = asyncio.Event()

    def compose(self) -> ComposeResult:
        yield Headline(id="headline")
        yield Static(Text("Asking systemd…", style="dim"), id="standing")
        yield Static(id="units")
        forks = VerticalScroll(Static(), id="forks")
        forks.display = False
        yield forks
        yield Static(Text(""), id="told")
        log = RichLog(id="log", max_lines=LOG_ENTRIES, wrap=True, markup=False, highlight=False)
        log.can_focus = True
        yield log
        yield KeyLine()

    def on_mount(self) -> None:
        self.query_one(RichLog).focus()
        self._entitle()
        self.tick()
        self.run_worker(self._watch(), group="watch", exit_on_error=False)
        self.run_worker(self._watch_forks(), group="forks", exit_on_error=False)

    def on_unmount(self) -> None:
        if self._logbook is not None:
            self._logbook.stop()

    def tick(self) -> None:
        self.query_one(Headline).show()

    def on_resize(self) -> None:
        self._rewrite()

    # ---- how it stands ----

    async def _watch(self) -> None:
        while True:
            self._hurry.clear()
            try:
                found = await asyncio.to_thread(control.look, self.dashboard.target)
            except OmegaError as error:
                self._show_trouble(error)
            else:
                self._show(found)
            try:
                await asyncio.wait_for(self._hurry.wait(), LOOK_S)
            except TimeoutError:
                pass  # time to look again

    def _show(self, found: Condition) -> None:
        if not self.query("#standing"):
            return  # it is being left
        before, self.found = self.found, found
        self.query_one("#standing", Static).update(
            headline(found, self.dashboard.keyed, is_ascii=self.dashboard.glyphs.is_ascii)
        )
        self.query_one("#units", Static).update(table(found, is_ascii=self.dashboard.glyphs.is_ascii))
        if isinstance(found, Background):
            self._show_forks(found.server)
        elif not self._is_served:
            self._show_forks(None)
        if before is None or isinstance(before, Managed) != isinstance(found, Managed):
            self._follow_log(found)
        if before is None or keys_that_apply(before) != keys_that_apply(found):
            self.refresh_bindings()

    @property
    def _is_served(self) -> bool:
        """Whether systemd runs a daemon now. Of one that we run ourselves we have asked already how it stands."""
        return isinstance(self.found, Managed) and self.found.service.active == "active"

    async def _watch_forks(self) -> None:
        """systemd does not know what the daemon forks from, so that the daemon itself is asked, beside the look at
        systemd: one that hangs does not keep the screen from saying how its service stands. Of one that has left
        the feed knows at once, and none is started by the question."""
        while True:
            if self._is_served and self.dashboard.standing.kind == "live":
                try:
                    server = await self.dashboard.ask(lambda client: client.get("/api/server"))
                except OmegaError:
                    server = None  # it has just left, or the feed says what is wrong
                if self._is_served:
                    self._show_forks(server)
            await asyncio.sleep(LOOK_S)

    def _show_forks(self, server: Json | None) -> None:
        shown = fork_table(server, is_ascii=self.dashboard.glyphs.is_ascii)
        if shown == self._forks:
            return  # most of the time: what has been scrolled to stays
        self._forks = shown
        for area in self.query("#forks"):  # none while the screen is taken down
            area.display = bool(shown)
            area.query_one(Static).update(shown)

    def _show_trouble(self, error: OmegaError) -> None:
        told = Text()
        told.append(block(error.message).plain, style="red")
        told.append(f"\n{block(error.hint).plain}")
        self.query_one("#standing", Static).update(told)

    # ---- the verbs ----

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that make no sense as it stands are not offered."""
        if action == "do" and self.found is not None:
            return parameters[0] in keys_that_apply(self.found)
        return True

    def action_do(self, verb: Verb) -> None:
        if self._doing is not None:
            self._tell(Text(f"Still at it: {self.dashboard.line(('service', self._doing))}"))
            return
        if self.found is not None:
            self._doing = verb
            # The app's worker, not ours: what was begun is carried out and logged though the screen has been left.
            self.app.run_worker(self._do(verb, self.dashboard), exit_on_error=False)

    async def _do(self, verb: Verb, app: Dashboard) -> None:
        words = ("service", verb)
        line = app.line(words)
        try:
            if verb in ASKED:
                question, consequence = ASKED[verb]
                if not await app.confirm(Text(question, style="bold"), consequence, verb.title(), line):
                    return
            self._tell(cell(f"$ {line} …", "bold"))
            try:
                said = await asyncio.to_thread(lambda: control.look(app.target).act(verb))
                style = "green"
            except OmegaError as error:
                said, style = f"{error.message}\n{error.hint}".rstrip(), "red"
            told = Text()
            told.append(f"$ {cell(line).plain}\n", style="bold")
            told.append(block(said).plain, style=style)
            self._tell(told)
            app.log_command(words, said)
            app.feed.retry()
            self._hurry.set()
        finally:
            self._doing = None

    def _tell(self, text: Text) -> None:
        if not self.is_running:
            return  # it has been left
        text.no_wrap = False
        self.query_one("#told", Static).update(text)

    def action_leave(self) -> None:
        self.dismiss()

    # ---- the log ----

    def _follow_log(self, found: Condition) -> None:
        if self._logbook is not None:
            self._logbook.stop()
        self._entries.clear()
        self.query_one(RichLog).clear()
        state_dir = self.dashboard.target.state_dir
        file = None if state_dir is None else paths.daemon_log(state_dir)
        if file is None and not isinstance(found, Managed):
            self._write(Entry(None, 5, "", "The log of a daemon that was named by its socket is not known here."))
            return
        self._logbook = logbook.daemon_log(isinstance(found, Managed), file, self._wake)
        self._logbook.start()

    def _wake(self) -> None:
        """Called from the logbook's thread; posting a message is what a thread may do."""
        self.post_message(self.LogCame())

    def on_service_screen_log_came(self, message: LogCame) -> None:
        assert self._logbook is not None, "it has called"
        for entry in self._logbook.take():
            self._entries.append(entry)
            self._write(entry)

    def _write(self, entry: Entry) -> None:
        if entry.priority > self._level:
            return
        for log in self.query(RichLog):  # none while the screen is taken down: the log goes on until it is gone
            # Without a width it would be wrapped at 80, the width of a console that there is not.
            width = log.scrollable_content_region.width or None
            log.write(drawn(entry), width, scroll_end=not self._is_paused and log.is_vertical_scroll_end)

    def action_level(self) -> None:
        self._level = LEVELS[(LEVELS.index(self._level) + 1) % len(LEVELS)]
        self._rewrite()
        self._entitle()

    def _rewrite(self) -> None:
        """All entries anew: lines are wrapped when they are written."""
        for log in self.query(RichLog):
            log.clear()
        for entry in self._entries:
            self._write(entry)

    def action_pause(self) -> None:
        self._is_paused = not self._is_paused
        if not self._is_paused:
            self.query_one(RichLog).scroll_end(animate=False)
        self._entitle()

    def _entitle(self) -> None:
        level = "all" if self._level == 7 else f"{PRIORITIES[self._level]} and worse"
        state = "paused" if self._is_paused else "following"
        self.query_one(RichLog).border_title = Text(f"Log · {level} · {state}")


def drawn(entry: Entry) -> Text:
    """An entry on a line of its own."""
    at = time.strftime("%b %d %H:%M:%S", time.localtime(entry.at)) if entry.at is not None else " " * 15
    line = Text()
    line.append(at + " ", style="dim")
    line.append(f"{PRIORITIES[entry.priority]:7} ", style=_STYLES.get(entry.priority, "dim"))
    if entry.source:
        line.append(cell(entry.source).plain + ": ", style="cyan")
    line.append_text(block(entry.text))
    line.no_wrap = False
    return line


_STYLES = {0: "bold red", 1: "bold red", 2: "bold red", 3: "red", 4: "yellow", 5: "", 6: ""}
