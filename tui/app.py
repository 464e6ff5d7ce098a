"""The dashboard: one app, its model, its feed, and what screens and actions ask of it.

The feed's thread fills a queue and says so; a flush, at most ten times a second, folds what came into the model and
tells the screens. Requests run in threads (`ask`); nothing here wakes a daemon unless somebody pressed a key for it.
"""

from __future__ import annotations

import re
import shlex
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from rich.console import RenderableType
from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.css.query import NoMatches
from textual.filter import LineFilter
from textual.message import Message
from textual.screen import ModalScreen, Screen
from textual.timer import Timer

from omega_sessiond.client import Client, session_path
from omega_sessiond.errors import InternalError, OmegaError, RouteNotFound
from omega_sessiond.target import Target
from omega_sessiond.terminal import one_line
from tui import deeds, past, pictures, scopelog
from tui.actions import (
    ACTIONS,
    BOX_KEYS,
    BY_ID,
    DEFAULT_KEYS,
    SCREEN_KEYS,
    SCREEN_TITLES,
    Action,
    ScreenKey,
    shown_key,
    shown_keys,
)
from tui.ascii import AsciiSigns
from tui.errands import Errands
from tui.feed import Feed, Hello, Listing, Standing
from tui.keys import THEMES, Settings
from tui.model import Model, Session
from tui.palette import Actions
from tui.roles import ASCII, UNICODE, is_poor_terminal
from tui.screens.console import Console
from tui.screens.live import LiveScreen
from tui.screens.main import Main
from tui.table import SessionTable, ago
from tui.tape import PICTURE_ROWS, Picture, Tape
from tui.text import LastFilter, NoNamedColors, cell
from tui.themes import DARK, LIGHT

if TYPE_CHECKING:
    from tui.modals import Form
    from tui.prompt import Prompt

FLUSH_S = 0.1
"""Ten times a second: more is not read, and it is frames that cost."""

FLUSH_ITEMS = 2_000
"""Folded between two frames: some ten milliseconds, which no key is kept waiting for."""

SAMPLE_S = 2.0
"""How often the sessions on the screen are asked what they use."""

COMMANDS_KEPT = 500

DEFECT = "This is a defect of the dashboard; please report it."

PICTURE_COLUMNS = 64
"""A square picture of 16 rows has half as many; a wide one is worth a pane's width."""

T = TypeVar("T")
Json = dict[str, Any]


class Command(NamedTuple):
    """Something done here: when, the command line that does the same, and what came of it."""

    at: float
    line: str
    outcome: str


class FeedReady(Message):
    """The feed has something to take. Posted by its thread."""


class Dashboard(App[int]):
    """`target` says which daemon. `clock` is replaced where pictures must be the same every time."""

    TITLE = "omega-sessiond"
    CSS_PATH = Path(__file__).with_name("app.tcss")
    COMMANDS = {Actions}
    COMMAND_PALETTE_BINDING = "ctrl+p"
    ENABLE_COMMAND_PALETTE = False  # its key is a row of our table
    BINDINGS = [
        Binding(action.keys, f"act({action.id!r})", action.label, id=action.id, show=False) for action in ACTIONS
    ]

    def __init__(
        self, target: Target, settings: Settings | None = None, *, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__()
        settings = settings or Settings()
        self.settings = settings
        self.target = target
        self.clock = clock
        self.glyphs = ASCII if (is_poor_terminal() if settings.ascii is None else settings.ascii) else UNICODE
        self.model = Model()
        self.standing = Standing("connecting")
        self.server: Json | None = None
        """What the daemon said of itself last; None before it has."""
        self.is_paused = False
        self.command_log: deque[Command] = deque(maxlen=COMMANDS_KEPT)
        self.errands = Errands(target)
        self.feed = Feed(target, self._announce)
        self.main = Main()
        self._first_filter: list[LineFilter] = [NoNamedColors()] if self.no_color else []
        self._last_filters: list[LineFilter] = [LastFilter()]
        if self.glyphs.is_ascii:
            self._last_filters.insert(0, AsciiSigns())
        self._flushed_at = 0.0
        self._flush_timer: Timer | None = None
        self._is_sampling = False
        self._loading: set[str] = set()
        self.register_theme(DARK)
        self.register_theme(LIGHT)
        self._begin_with(THEMES[settings.theme or "dark"])
        self.set_keymap(dict(settings.keys))

    def _begin_with(self, theme: str) -> None:
        """Have a theme from the first picture on. To set it, as `t` does, is to parse all styles once more."""
        self.set_reactive(App.theme, theme)
        is_dark = self.current_theme.dark
        self.set_class(is_dark, "-dark-mode", update=False)
        self.set_class(not is_dark, "-light-mode", update=False)
        self._refresh_truecolor_filter(self.ansi_theme)
        self.stylesheet.set_variables(self.get_css_variables())

    # ---- life ----

    def get_default_screen(self) -> Screen[None]:
        """The list, at once: nothing stands behind it that would have to be laid out first."""
        return self.main

    def on_mount(self) -> None:
        self.set_interval(1.0, self._tick)
        self.set_interval(SAMPLE_S, self._sample)
        self.call_after_refresh(self.feed.start)  # the first picture comes before the first request
        for trouble in self.settings.troubles:
            self.tell(trouble, "warning")

    def on_unmount(self) -> None:
        self.feed.stop()
        self.errands.close()

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Ours has the last word on every line of every widget."""
        return [*self._first_filter, *super().get_line_filters(), *self._last_filters]

    def _fatal_error(self) -> None:
        """As Textual's, without the values of variables: they hold what people typed."""
        from rich.segment import Segments
        from rich.traceback import Traceback

        self.bell()
        traceback: RenderableType = Traceback(show_locals=False, width=None)
        self._exit_renderables.append(Segments(self.console.render(traceback, self.console.options)))
        self._close_messages_no_wait()

    # ---- the feed ----

    def _announce(self) -> None:
        """Called by the feed's thread."""
        self.post_message(FeedReady())

    def on_feed_ready(self) -> None:
        if self._flush_timer is None and not self.is_paused:
            wait_s = self._flushed_at + FLUSH_S - time.monotonic()
            self._flush_timer = self.set_timer(max(wait_s, 0.001), self._take)

    def _take(self) -> None:
        self._flush_timer = None
        self._flushed_at = time.monotonic()
        items, has_more = self.feed.take(FLUSH_ITEMS)
        is_new_standing = False
        for item in items:
            match item:
                case Standing():
                    self.standing, is_new_standing = item, True
                case Hello(server):
                    self.server = server
                case Listing(sessions):
                    self.model.replace(sessions)
                    self._reload_tapes()
                case _:
                    self.model.apply(item)
        if items and self.standing.kind == "live":
            self.model.last_data_at = self.clock()
        self.publish()
        if is_new_standing:
            self._tick()
            self.call_after_refresh(self._sample)
        if has_more:
            self.on_feed_ready()

    def publish(self) -> None:
        """Tell the screens what has changed."""
        self._draw_pictures()
        changed, came_or_went = self.model.take_changes()
        if changed or came_or_went:
            self._tell_screens(lambda screen: screen.take(changed, came_or_went))

    def _tick(self) -> None:
        self._tell_screens(lambda screen: screen.tick())

    def _tell_screens(self, telling: Callable[[LiveScreen], None]) -> None:
        for screen in self._live_screens():
            try:
                telling(screen)
            except NoMatches:
                continue  # its widgets are being made, or taken down

    def _live_screens(self) -> list[LiveScreen]:
        """The screens that have their widgets: not yet those that are just coming, no more those of an app that ends,
        whose timers outlive them."""
        if not self.is_running:
            return []
        return [s for s in self.screen_stack if isinstance(s, LiveScreen) and s.is_mounted and s.is_attached]

    def toggle_pause(self) -> None:
        self.is_paused = not self.is_paused
        self.main.table.is_paused = self.is_paused
        self.on_feed_ready()
        self._tick()
        self.main.show_title()

    def standing_text(self, gap: str = "  ") -> Text:
        """How it stands with the daemon, in sentences with the gap between; nothing while all is well."""
        standing = self.standing
        if not standing.message:
            return Text("Connecting…") if standing.kind == "connecting" else Text()
        text = Text(no_wrap=False)
        text.append_text(cell(standing.message, "bold"))
        if standing.hint:
            text.append(gap)
            text.append_text(cell(self.keyed(standing.hint)))
        if standing.kind != "live":
            if self.model.last_data_at is not None and self.model.sessions:
                text.append(f"{gap}Shown as it was {ago(self.clock() - self.model.last_data_at)}.", "dim")
            if standing.retry_at is not None and standing.kind in ("lost", "mismatch", "denied"):
                text.append(f"{gap}Next try in {max(standing.retry_at - self.clock(), 0):.0f}s.", "dim")
        return text

    # ---- sampling, only what somebody sees ----

    def _sample(self) -> None:
        if self._is_sampling or self.is_paused or self.standing.kind != "live" or not self.app_focus:
            return
        # While it quits, the screen may stand without its table.
        tables = self.main.query("#table").results(SessionTable) if self.screen is self.main else ()
        ids = {id for table in tables for id in table.visible_ids}
        if isinstance(self.screen, LiveScreen) and self.screen.target_id is not None:
            ids.add(self.screen.target_id)
        seen = [session for id in ids if (session := self.model.sessions.get(id)) is not None]
        if any(session.pid is not None for session in self.model.sessions.values()):
            self._is_sampling = True
            self.run_worker(self._sample_these(seen), exit_on_error=False)
        else:
            self.model.totals.clear()

    async def _sample_these(self, seen: Sequence[Session]) -> None:
        versions = {session.id: session.version for session in seen}
        names = ",".join(session.name for session in seen)
        unknown = [
            (session.id, session.name)
            for session in seen
            if session.last_command is None and (session.count or session.running_id)
        ]

        def read(client: Client) -> tuple[Json | None, list[Json], dict[str, str]]:
            views = client.get("/api/sessions", names=names, usage="true") if names else []
            commands = {id: past.last_command(client, name) for id, name in unknown}
            try:
                totals = client.get("/api/usage")
            except RouteNotFound:
                totals = None  # a daemon that was started before there was such a thing
            return totals, views, commands

        try:
            totals, views, commands = await self.errands.run(read)
        except OmegaError:
            return  # the feed says how it stands
        finally:
            self._is_sampling = False
        if totals is not None:
            self.model.totals.take(totals)
        for view in views:
            if view["id"] in versions:
                self.model.refine(view, versions[view["id"]])
        for id, command in commands.items():
            self.model.set_last_command(id, command)
        self.publish()

    # ---- transcripts ----

    def tape_of(self, session: Session) -> Tape:
        """The transcript of a session, which is read from the journal if it is new."""
        tape = self.model.watch(session.id)
        if not tape.is_loaded:
            self._load(session, tape)
        return tape

    def _reload_tapes(self) -> None:
        """After a gap what transcripts have is not all: begin them anew."""
        for id, tape in self.model.tapes.items():
            if (session := self.model.sessions.get(id)) is not None:
                tape.is_loaded = False
                self._load(session, tape)

    def _load(self, session: Session, tape: Tape) -> None:
        if session.id in self._loading:
            return
        self._loading.add(session.id)
        id, name = session.id, session.name

        async def load() -> None:
            try:
                found, has_older = await self.errands.run(lambda client: past.newest(client, name))
            except OmegaError:
                return  # shown again when the feed is live
            finally:
                self._loading.discard(id)
            tape.load(found, has_older=has_older)
            self._show_tape(id)

        self.run_worker(load(), exit_on_error=False)

    def load_older(self, session: Session) -> None:
        """Older executions than the transcript has, if there are any."""
        tape = self.model.tapes.get(session.id)
        if tape is None or not tape.has_older or tape.oldest_id is None or session.id in self._loading:
            return
        self._loading.add(session.id)
        id, name, before = session.id, session.name, tape.oldest_id

        async def load() -> None:
            try:
                found, has_older = await self.errands.run(lambda client: past.older(client, name, before))
            except OmegaError:
                return
            finally:
                self._loading.discard(id)
            tape.prepend(found, has_older=has_older)
            self._show_tape(id)

        self.run_worker(load(), exit_on_error=False)

    def _show_tape(self, id: str) -> None:
        self._draw_pictures()
        for screen in self._live_screens():
            if isinstance(screen, (Main, Console)):
                screen.detail.take({id})

    # ---- pictures ----

    def _draw_pictures(self) -> None:
        """Fetch and draw what transcripts have room for and do not show yet."""
        for id, tape in self.model.tapes.items():
            for picture in tape.take_pictures():
                self.run_worker(self._draw_picture(id, tape, picture), exit_on_error=False)

    async def _draw_picture(self, id: str, tape: Tape, picture: Picture) -> None:
        palette: pictures.Palette = "ascii" if self.glyphs.is_ascii else "shades" if self.no_color else "colors"

        def draw(client: Client) -> list[str]:
            if picture.size_bytes > pictures.MAX_BYTES:
                raise pictures.PictureRefused("The picture is too large to be shown here")
            png = client.download(picture.href)
            return pictures.lines(pictures.half_blocks(png, PICTURE_COLUMNS, PICTURE_ROWS, palette=palette))

        try:
            rows = await self.errands.run(draw)
        except OmegaError as error:
            rows = [f"({one_line(error.message)})"]
        tape.draw(picture, rows)
        self._show_tape(id)

    # ---- what actions and widgets ask for ----

    def action_act(self, id: str) -> None:
        self.act(id)

    def act(self, id: str) -> None:
        """Do what a row of the table says, if it applies to what the screen is about."""
        action = BY_ID[id]
        if action.scope == "list" and self.screen is not self.main:
            return
        if id == "open" and self.standing.kind in ("asleep", "stopped", "absent"):
            self._wake(self.standing.kind)
            return
        if not action.needs_session:
            action.run(self)  # type: ignore[call-arg]
            return
        session = self.session
        if session is None:
            self.tell("There is no session here")
        elif (reason := action.why_not(session)) is not None:
            self.tell(reason)
        else:
            action.run(self, session)  # type: ignore[call-arg]

    @property
    def session(self) -> Session | None:
        """The session that actions are about."""
        id = self.screen.target_id if isinstance(self.screen, LiveScreen) else None
        return self.model.sessions.get(id or "")

    @property
    def client(self) -> Client:
        """A new client, for whoever has a thread of his own. It wakes no daemon."""
        return Client(self.target, may_start=False, may_wake=False)

    async def ask(self, function: Callable[[Client], T]) -> T:
        """What the function makes of a client, in a thread. Raises its errors."""
        return await self.errands.run(function)

    async def run_in_thread(self, function: Callable[[], T]) -> T:
        """The same for what needs no client."""
        return await self.errands.run_plain(function)

    def begin(self, failure: str, doing: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do something that takes its time; a failure is shown under that name."""

        async def guarded() -> None:
            try:
                await doing()
            except OmegaError as error:
                self.show_trouble(failure, error)
            except Exception as error:  # an edge of the program: said by its kind, for its text may hold what was typed
                self.show_trouble(failure, InternalError(f"{type(error).__name__} in the dashboard", hint=DEFECT))

        self.run_worker(guarded(), exit_on_error=False)

    def show_trouble(self, failure: str, error: OmegaError) -> None:
        from tui.modals import Trouble

        self.push_screen(Trouble(failure, error))

    def _wake(self, kind: str) -> None:
        async def doing() -> None:
            await deeds.wake(self, kind)
            self.feed.retry()

        self.begin("Cannot start the daemon", doing)

    async def confirm(self, question: Text, consequence: str, verb: str, line: str) -> bool:
        """Ask before something is done, which `line` would do too."""
        from tui.modals import Confirm  # with all that stands before a screen: nobody waits for it at the start

        answer: bool | None = await self.push_screen_wait(Confirm(question, consequence, verb, line))
        return answer is True

    async def fill(self, form: Form) -> dict[str, str] | None:
        return await self.push_screen_wait(form)

    def tell(self, text: str, severity: str = "information") -> None:
        """A word in the corner."""
        self.notify(cell(text).plain, severity=severity, markup=False)  # type: ignore[arg-type]

    def line(self, words: Sequence[str]) -> str:
        """The command line of these arguments."""
        where = ("--socket", self.target.socket_path) if self.target.state_dir is None else ()
        return shlex.join(("omegactl", *where, *words))

    def log_command(self, words: Sequence[str], outcome: str) -> None:
        self.command_log.append(Command(self.clock(), self.line(words), outcome))

    def keys_of(self, action: Action | ScreenKey) -> str:
        return self.settings.keys.get(action.id, action.keys)

    def key(self, id: str) -> str:
        """The first key of an action, or of a tab's or screen's, as people write it."""
        return shown_key(self.settings.keys.get(id, DEFAULT_KEYS[id]))

    def keyed(self, text: str) -> str:
        """A sentence with keys, as they are set, in the places that name them by their ids in braces."""

        def named(found: re.Match[str]) -> str:
            key = self.key(found[1]) if found[1] in DEFAULT_KEYS else found[0]
            return "Enter" if key == "⏎" else key

        return re.sub(r"\{(\w+)\}", named, text)

    def role_style(self, role: str) -> str:
        """A role's colour as a style for rich Text."""
        return self.theme_variables.get(f"role-{role}", "")

    # ---- screens ----

    def open_console(self, session_id: str) -> None:
        if not isinstance(self.screen, Console):
            self.push_screen(Console(session_id))

    def open_service(self) -> None:
        from tui.screens.service import ServiceScreen  # as much to load as all that is seen at first

        if not isinstance(self.screen, ServiceScreen):
            self.push_screen(ServiceScreen())

    def open_events(self) -> None:
        from tui.screens.events import EventsScreen

        if not isinstance(self.screen, EventsScreen):
            self.push_screen(EventsScreen())

    def focus_box(self) -> None:
        screen = self.screen
        if isinstance(screen, Main):
            screen.focus_detail()
        if isinstance(screen, (Main, Console)):
            screen.detail.focus_box()

    def left_box(self) -> None:
        if self.screen is self.main:
            self.main.focus_table()

    def open_tab(self, number: int) -> None:
        if isinstance(self.screen, (Main, Console)):
            self.screen.detail.open_tab(number)

    def select(self, session_id: str) -> None:
        self.main.table.sort()
        self.main.table.select(session_id)

    def go_back(self) -> None:
        if self.screen is not self.main and not isinstance(self.screen, ModalScreen):
            self.pop_screen()
        elif self.main.table.filter_text:
            self.main.table.set_filter("")
            self.main.show_title()
        else:
            self.main.focus_table()

    def open_help(self) -> None:
        from tui.modals import Help

        groups: dict[str, list[tuple[str, str, str]]] = {}
        for action in ACTIONS:
            groups.setdefault(action.group, []).append(self._help_on(action))
        groups["In the box"] = list(BOX_KEYS)
        for screen, rows in SCREEN_KEYS.items():
            groups[SCREEN_TITLES[screen]] = [self._help_on(row) for row in rows]
        # What applies here stands first.
        here = SCREEN_TITLES.get(self.screen.keys_of_its_own if isinstance(self.screen, LiveScreen) else "")
        self.push_screen(Help({title: groups[title] for title in sorted(groups, key=lambda title: title != here)}))

    def _help_on(self, row: Action | ScreenKey) -> tuple[str, str, str]:
        return shown_keys(self.keys_of(row)), row.label, row.help

    # ---- the box ----

    def run_code(self, session: Session, code: str, prompt: Prompt, only_if_complete: bool) -> None:
        """Run code in a session; where that is asked for, only what its engine calls whole."""
        path = session_path(session.name)

        def hand_over(client: Client) -> Json:
            if only_if_complete and session.state in ("idle", "hibernated"):
                judged: Json = client.post(path + "/is_complete", {"code": code})
                if judged["status"] == "incomplete":
                    return judged
            return client.submit(session.name, {"command": code, "wait_s": 0}, None)

        async def doing() -> None:
            answer = await self.ask(hand_over)
            if answer["status"] == "incomplete":
                prompt.open_line(answer["indent"])
                return
            prompt.clear_run()
            self.log_command(("exec", session.name, "-c", code), f"execution {answer['id']}")
            if isinstance(self.screen, (Main, Console)):
                self.screen.detail.ran()

        self.begin(f"Cannot run this in {session.name}", doing)

    def answer(self, session: Session, text: str | None) -> None:
        """Answer what a session asks, None with end of file. A secret stands in no log."""
        id, secret = session.running_id, session.is_secret

        async def doing() -> None:
            body = {"execution_id": id, "text": text}
            await self.ask(lambda client: client.post(session_path(session.name) + "/input", body))
            shown = ("--eof",) if text is None else () if secret else (text,)
            self.log_command(("input", session.name, *shown), "answered")

        self.begin(f"Cannot answer {session.name}", doing)

    def complete(self, session: Session, prompt: Prompt, code: str, cursor: int) -> None:
        """Complete what is written, as far as all matches agree."""

        async def doing() -> None:
            body = {"code": code, "cursor": cursor}
            answer = await self.ask(lambda client: client.post(session_path(session.name) + "/complete", body))
            matches = answer["matches"]
            if not matches:
                self.tell("Nothing completes this")
                return
            common = _common_start(matches)
            if (prompt.text == code and len(common) > answer["end"] - answer["start"]) or len(matches) == 1:
                prompt.replace_range(answer["start"], answer["end"], common)
            if len(matches) > 1:
                self.tell(", ".join(matches[:20]) + (" …" if len(matches) > 20 else ""))

        self.begin("Cannot complete this", doing)

    def read_scope_log(self, session: Session, show: Callable[[str, str, bool], None]) -> None:
        """What the journal has of a session."""
        id, name = session.id, session.name
        state_dir = self.server["state_dir"] if self.server is not None else self.target.state_dir
        has_scopes = bool(self.server is not None and self.server["scopes"])

        async def doing() -> None:
            lines, is_reason = await self.run_in_thread(lambda: scopelog.read(name, state_dir, has_scopes))
            show(id, lines, is_reason)

        self.begin(f"Cannot read the journal of {name}", doing)


def _common_start(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    for at, letter in enumerate(first):
        if at >= len(last) or last[at] != letter:
            return first[:at]
    return first
