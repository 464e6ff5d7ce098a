"""One session in full: its transcript, what is known of it, its journal, and the box that runs code in it.

Whoever puts it on a screen tells it which session, and when the model has changed. Asks the app for everything that
needs the daemon.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.widget import Widget
from textual.widgets import Input

from omega_sessiond.client import session_path
from omega_sessiond.errors import OmegaError
from tui.lines import Choices, OneLine
from tui.model import Session
from tui.roles import look_of
from tui.table import ago
from tui.tape import shown_duration
from tui.text import cell
from tui.transcript import Transcript

if TYPE_CHECKING:
    from tui.app import Dashboard
    from tui.info import Info
    from tui.prompt import Answer, Left, Prompt, WantsInterrupt
    from tui.scopelog import ScopeLog
    from tui.statetabs import Snapshots, Timeline, WantsForget, WantsRestore


READ_S = 1.0
"""A tab that is read from the daemon is read so often at most, however busy its session is."""


class Tab(NamedTuple):
    """A tab: `make` builds its widget when it is first shown, `show` brings it up to the session. `short` is its label
    where there is no room for all. A `live` one follows its session; one that `takes_keys` has them when it opens. What
    is read from the daemon is read again when its `version` is another."""

    id: str
    label: str
    short: str
    make: Callable[[Detail], Widget]
    show: Callable[[Detail, Session], None]
    is_live: bool = False
    takes_keys: bool = False
    version: Callable[[Session], int] = lambda session: session.version


class Detail(Vertical):
    """`show` a session by its id, `take` what has changed, `open_tab` by number."""

    def __init__(self, *, id: str | None = None) -> None:
        super().__init__(id=id)
        self.session_id: str | None = None
        self.tab = TABS[0]
        self._heading: tuple[object, ...] | None = None
        self._box: tuple[Prompt, Answer] | None = None
        """Where one writes, once somebody has: one of the two is shown."""
        self._read: tuple[str, str, int] | None = None
        """Which tab was last read from the daemon, for which session in which version."""
        self._read_at = 0.0
        self._is_reading = False

    @property
    def dashboard(self) -> Dashboard:
        return cast("Dashboard", self.app)

    @property
    def session(self) -> Session | None:
        return self.dashboard.model.sessions.get(self.session_id or "")

    @property
    def transcript(self) -> Transcript:
        return self.query_one("#transcript", Transcript)

    def compose(self) -> ComposeResult:
        yield Choices(id="tabs")
        yield Transcript(glyphs=self.dashboard.glyphs, id="transcript")
        yield OneLine(id="status")

    # ---- what is shown ----

    def show(self, session_id: str | None) -> None:
        """Show this session, from the end of its transcript."""
        if session_id == self.session_id:
            return
        self.session_id = session_id
        session = self.session
        tape = None
        if session is not None:
            tape = self.dashboard.tape_of(session)
        self.transcript.show(tape, session.engine if session is not None else "")
        if self._box is not None:
            self._box[0].use(session.engine if session is not None else "")
            self._box[0].commands = self._history()
        for tab in self.query("ScopeLog, Snapshots, Timeline").results():
            cast("ScopeLog | Snapshots | Timeline", tab).clear()
        self._show_session()
        if self.tab.id == "journal":
            self._show_tab()

    def take(self, changed: set[str]) -> None:
        """Sessions that have changed."""
        if self.session_id in changed:
            tape = self.dashboard.model.tapes.get(self.session_id)
            transcript = self.transcript
            if tape is not None:
                transcript.take()
            self._show_session()

    def tick(self) -> None:
        """A second has passed."""
        session = self.session
        if session is not None:
            self._show_status(session)
            if self.tab.is_live:
                self.tab.show(self, session)

    def _show_session(self) -> None:
        session = self.session
        if session is None:
            self.border_title = self._heading = None
            self.query_one("#tabs", Choices).set(Text())
            self.query_one("#status", OneLine).set(Text())
            return
        heading = (session.name, session.engine, session.pid)
        if heading != self._heading:
            self._heading = heading
            title = cell(session.name, "bold")
            title.append(" · ").append_text(cell(session.engine))
            if session.pid is not None:
                title.append(f" · pid {session.pid}")
            self.border_title = title
            self._show_tabs()
        self._show_status(session)
        self._show_box(session)
        if self.tab.is_live:
            self.tab.show(self, session)

    def _show_status(self, session: Session) -> None:
        glyphs, look = self.dashboard.glyphs, look_of(session.state)
        line = Text(" ")
        line.append(f"{look.ascii_glyph if glyphs.is_ascii else look.glyph} ", self.dashboard.role_style(look.role))
        if session.state == "waiting_input":
            line.append("asks").append_text(cell(f": {session.prompt}") if session.prompt else Text(" for a line"))
            otherwise = f"{self.dashboard.key('input')} answers"
            line.append("   " + ("Enter answers, ^D ends" if self._has_box_focus else otherwise), "dim")
            if session.is_secret:
                line.append("   not shown", "dim")
        elif session.running_id is not None:
            took = self.dashboard.clock() - (session.running_since or self.dashboard.clock())
            line.append(f"running {_clock(took)}")
            key = "^C" if self._has_box_focus else self.dashboard.key("interrupt")
            line.append(f" · {key} interrupts", "dim")
        elif session.state == "dead":
            line.append_text(cell(f"dead: {session.reason or 'no reason is known'}"))
            line.append("  the next command starts it anew", "dim")
        else:
            line.append(look.word)
            if session.used_at:
                line.append(f" · last used {ago(self.dashboard.clock() - session.used_at)}", "dim")
            if session.state == "hibernated":
                line.append("  the next command wakes it", "dim")
        if session.queued:
            line.append(f" · {session.queued} queued")
        if unseen := self.transcript.unseen_lines:
            line.append(f"   [{glyphs.down} {unseen} new]", "bold")
        elif not self.transcript.is_following:
            line.append("   [further up; End follows]", "dim")
        self.query_one("#status", OneLine).set(line)

    def on_transcript_moved(self, event: Transcript.Moved) -> None:
        event.stop()
        session = self.session
        if session is not None:
            self._show_status(session)
            if event.transcript.wants_older:
                self.dashboard.load_older(session)

    # ---- tabs ----

    def _show_tabs(self) -> None:
        line = self.query_one("#tabs", Choices)
        labels, gap = [tab.label for tab in TABS], "  "
        if line.size.width and sum(len(f"1 {label}{gap}") for label in labels) > line.size.width:
            labels, gap = [tab.label if tab is self.tab else tab.short for tab in TABS], " "
        choices = []
        for number, (tab, label) in enumerate(zip(TABS, labels, strict=True), 1):
            text = Text(f"{number} ", "dim")
            text.append(label, "bold underline" if tab is self.tab else "")
            choices.append((tab.id, text))
        line.offer(choices, gap)

    def on_resize(self) -> None:
        if self.session is not None:
            self.call_after_refresh(self._show_tabs)

    def on_choices_chosen(self, event: Choices.Chosen) -> None:
        event.stop()
        self.open_tab(next(number for number, tab in enumerate(TABS) if tab.id == event.key))

    def open_tab(self, number: int, *, takes_focus: bool = True) -> None:
        """Show the tab of this number, from 0. The keys that the tab before had are its own then."""
        if number < len(TABS):
            had_focus = self.has_focus_within and not self._has_box_focus
            self.tab = tab = TABS[number]
            self._show_tab()
            if takes_focus and (tab.takes_keys or had_focus):
                self.call_after_refresh(self._focus_tab, tab)

    def _focus_tab(self, tab: Tab) -> None:
        if tab is self.tab:
            self.query_one(f"#{tab.id}").focus()

    def _show_tab(self) -> None:
        wanted = self.query(f"#{self.tab.id}")
        if not wanted:
            self.mount(self.tab.make(self), after=self.transcript)
        for tab in TABS:
            for widget in self.query(f"#{tab.id}"):
                widget.display = tab is self.tab
        self._show_tabs()
        session = self.session
        if session is not None:
            self.call_after_refresh(self._fill_tab)

    def _fill_tab(self) -> None:
        session = self.session
        if session is not None:
            self.tab.show(self, session)

    # What a tab is made of is loaded when it is first shown.

    def make_info(self) -> Widget:
        from tui.info import Info

        return Info(glyphs=self.dashboard.glyphs, id="info")

    def show_info(self, session: Session) -> None:
        for info in self.query("#info").results():
            cast("Info", info).show(session, self.dashboard.clock())

    def make_journal(self) -> Widget:
        from tui.scopelog import ScopeLog

        return ScopeLog(id="journal")

    def show_journal(self, session: Session) -> None:
        self.dashboard.read_scope_log(session, self._show_journal)

    def _show_journal(self, session_id: str, lines: str, is_reason: bool) -> None:
        if session_id == self.session_id:
            for log in self.query("#journal").results():
                cast("ScopeLog", log).show(lines, is_reason)

    def make_snapshots(self) -> Widget:
        from tui.statetabs import Snapshots

        return Snapshots(self.dashboard.clock, self.dashboard.key, id="snapshots")

    def make_timeline(self) -> Widget:
        from tui.statetabs import Timeline

        return Timeline(self.dashboard.clock, id="timeline")

    def show_read(self, session: Session) -> None:
        """Read what the tab shows, when events have told since the last time that it is another."""
        asked, before = (self.tab.id, session.id, self.tab.version(session)), self._read
        if self._is_reading or asked == before or self.dashboard.is_paused:
            return
        now = time.monotonic()
        if before is not None and before[:2] == asked[:2] and now < self._read_at + READ_S:
            return  # a tick comes
        self._is_reading, self._read_at = True, now
        path = f"{session_path(session.name)}/{self.tab.id}"

        async def read() -> None:
            try:
                found = await self.dashboard.ask(lambda client: client.get(path))
            except OmegaError:
                return  # whether there is a daemon is said elsewhere; it is tried again
            finally:
                self._is_reading = False
            self._read = asked
            if session.id == self.session_id:
                for widget in self.query(f"#{asked[0]}"):
                    cast("Snapshots | Timeline", widget).show(found)

        self.run_worker(read(), exit_on_error=False)

    def on_wants_restore(self, event: WantsRestore) -> None:
        event.stop()
        from tui import formdeeds

        if (session := self.session) is not None:
            formdeeds.restore_snapshot(self.dashboard, session, event.snapshot)

    def on_wants_forget(self, event: WantsForget) -> None:
        event.stop()
        from tui import formdeeds

        if (session := self.session) is not None:
            formdeeds.delete_snapshot(self.dashboard, session, event.snapshot)

    # ---- the box ----

    def _show_box(self, session: Session) -> None:
        """Where a session asks, the box takes the answer."""
        if self._box is None:
            return
        prompt, answer = self._box
        asks = session.state == "waiting_input"
        question = (session.id, session.running_id, session.asked)
        if asks and answer.question != question:
            answer.question = question
            answer.password, answer.value = session.is_secret, ""
        if answer.display != asks:
            had_focus = self._has_box_focus
            prompt.display, answer.display = not asks, asks
            if had_focus:
                (answer if asks else prompt).focus()

    def focus_box(self) -> None:
        """Go to where one writes."""
        session = self.session
        if session is None:
            return
        if self.tab is not TABS[0]:
            self.open_tab(0, takes_focus=False)
        if self._box is None:
            from tui.prompt import Answer, Prompt  # a text area takes its time to load

            self._box = Prompt(id="prompt"), Answer(id="answer", compact=True)
            self._box[1].display = False
            self.mount(*self._box)
            self._box[0].use(session.engine)
            self._box[0].commands = self._history()
        self._show_box(session)
        prompt, answer = self._box
        (prompt if prompt.display else answer).focus()

    @property
    def _has_box_focus(self) -> bool:
        return self._box is not None and any(box.has_focus for box in self._box)

    def _history(self) -> list[str]:
        """The commands in the transcript, oldest first."""
        tape = self.dashboard.model.tapes.get(self.session_id or "")
        return tape.commands() if tape is not None else []

    def on_left(self, event: Left) -> None:
        event.stop()
        self.transcript.focus()
        self.dashboard.left_box()

    def on_prompt_ran(self, event: Prompt.Ran) -> None:
        event.stop()
        session = self.session
        if session is not None:
            self.dashboard.run_code(session, event.code, event.prompt, event.only_if_complete)

    def on_prompt_wants_completion(self, event: Prompt.WantsCompletion) -> None:
        event.stop()
        if (session := self.session) is not None:
            self.dashboard.complete(session, event.prompt, event.code, event.cursor)

    def on_wants_interrupt(self, event: WantsInterrupt) -> None:
        event.stop()
        self.dashboard.act("interrupt")

    def on_input_submitted(self, event: Input.Submitted) -> None:
        event.stop()
        if (session := self.session) is not None:
            self.dashboard.answer(session, event.value)
            event.input.value = ""

    def on_answer_ended(self, event: Answer.Ended) -> None:
        event.stop()
        if (session := self.session) is not None:
            self.dashboard.answer(session, None)

    def ran(self) -> None:
        """A command was handed over: what it prints is what one wants to see."""
        self.transcript.follow()
        if self._box is not None:
            self._box[0].commands = self._history()


TABS = (
    Tab("transcript", "Transcript", "Text", lambda detail: detail.transcript, lambda detail, session: None),
    Tab("info", "Info", "Info", Detail.make_info, Detail.show_info, is_live=True),
    Tab("journal", "Journal", "Log", Detail.make_journal, Detail.show_journal),
    Tab(
        "snapshots",
        "Snapshots",
        "Snaps",
        Detail.make_snapshots,
        Detail.show_read,
        is_live=True,
        takes_keys=True,
        version=lambda session: session.snapshots_version,
    ),
    Tab(
        "timeline",
        "Timeline",
        "Tree",
        Detail.make_timeline,
        Detail.show_read,
        is_live=True,
        takes_keys=True,
        version=lambda session: session.timeline_version,
    ),
)
"""In the order of their numbers."""


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(max(seconds, 0)), 60)
    return f"{minutes:02}:{rest:02}" if minutes < 60 else shown_duration(seconds)
