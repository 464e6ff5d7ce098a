"""The one table of what can be done: footer, help, palette, key bindings and docs/tui.md are made from it.

A row says what an action is called, where it applies, what it calls and which command line does the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Literal, NamedTuple

from textual.binding import Binding

from tui import deeds
from tui.model import Session

if TYPE_CHECKING:
    from tui.app import Dashboard

Group = Literal["Session", "List", "View", "Program"]
Scope = Literal["everywhere", "list"]


def _always(session: Session) -> str | None:
    return None


def _no_words(session: Session) -> tuple[str, ...]:
    return ()


def _filled(name: str) -> Callable[..., None]:
    """A deed that asks by a form, in a module that the first picture does not wait for."""

    def run(*about: object) -> None:
        getattr(import_module("tui.formdeeds"), name)(*about)

    return run


class Action(NamedTuple):
    """One thing that can be done.

    `keys` are Textual's names, separated by commas. `why_not` says why it does not apply to a session as it stands;
    `words` are the arguments of omegactl that do the same, none where nothing does.
    """

    id: str
    keys: str
    label: str
    help: str
    group: Group
    run: Callable[[Dashboard, Session], None] | Callable[[Dashboard], None]
    needs_session: bool = False
    why_not: Callable[[Session], str | None] = _always
    words: Callable[[Session], tuple[str, ...]] = _no_words
    scope: Scope = "everywhere"
    in_footer: bool = False


def _of_session(
    id: str,
    keys: str,
    label: str,
    help: str,
    run: Callable[[Dashboard, Session], None],
    *,
    why_not: Callable[[Session], str | None] = _always,
    words: Callable[[Session], tuple[str, ...]] = _no_words,
    scope: Scope = "everywhere",
    in_footer: bool = False,
) -> Action:
    return Action(
        id,
        keys,
        label,
        help,
        "Session",
        run,
        needs_session=True,
        why_not=why_not,
        words=words,
        scope=scope,
        in_footer=in_footer,
    )


ACTIONS: tuple[Action, ...] = (
    _of_session("open", "enter", "Open", "the session at full size; where the daemon sleeps or is stopped, wake it",
        deeds.open_session, words=lambda session: ("show", session.name), scope="list", in_footer=True),
    _of_session("input", "i", "Input", "write code for the session, or answer what it asks", deeds.go_to_input,
        words=lambda session: ("exec", session.name, "-c", "CODE"), in_footer=True),
    _of_session("attach", "a", "Attach", "a full REPL in this terminal until you detach with ^D", deeds.attach,
        words=lambda session: ("repl", session.name)),
    _of_session("interrupt", "c", "Interrupt", "what runs; variables are kept", deeds.interrupt,
        why_not=deeds.why_no_interrupt, words=lambda session: ("interrupt", session.name), in_footer=True),
    _of_session("kill", "K", "Kill", "end its process: history stays, and what is saved", deeds.kill,
        why_not=deeds.why_no_kill, words=lambda session: ("kill", session.name), in_footer=True),
    _of_session("restart", "R", "Restart", "end its process and start a new one", deeds.restart,
        words=lambda session: ("restart", session.name)),
    _of_session("delete", "D", "Delete", "end it and remove it with its history", deeds.delete,
        words=lambda session: ("rm", "-y", session.name)),
    _of_session("fork", "f", "Fork", "copy it, everything in memory included, into a new session", _filled("fork"),
        words=lambda session: ("fork", session.name, "COPY")),
    _of_session("snapshot", "s", "Snapshot", "give its present state a name", _filled("snapshot"),
        words=lambda session: ("snapshot", session.name, "SNAPSHOT")),
    _of_session("restore", "r", "Restore", "go on from a snapshot, in it or in a new session", _filled("restore"),
        words=lambda session: ("restore", session.name, "SNAPSHOT")),
    _of_session("save", "w", "Save", "its state now; it is saved by itself while it is idle", _filled("save"),
        words=lambda session: ("save", session.name)),
    _of_session("export", "x", "Export", "its history to a file, with its variables, or as a Jupyter notebook",
        _filled("export"), words=lambda session: ("export", session.name, "-o", "FILE")),
    _of_session("limits", "L", "Limits", "memory, tasks and share of the processors", _filled("change_limits"),
        words=lambda session: ("set", session.name, "--mem", "SIZE")),
    _of_session("labels", "l", "Labels", "what it is filed under", _filled("change_labels"),
        words=lambda session: ("set", session.name, "--label", "K=V")),
    _of_session("copy", "y", "Copy", "the selected text, else the command line of what was done last",
        deeds.copy),
    Action("new", "n", "New", "a session with its engine, interpreter, limits and labels", "Session", _filled("new"),
        words=lambda session: ("new", "NAME"), in_footer=True),
    Action("import", "I", "Import", "a session from an exported file", "Session", _filled("import_"),
        words=lambda session: ("import", "FILE")),
    Action("prune", "P", "Prune", "remove old history; what would go is shown first", "Session", _filled("prune"),
        words=lambda session: ("prune", "--dry-run")),
    Action("filter", "slash", "Filter", "text, st:busy, eng:python, label:key=value, !not", "List", deeds.filter_list,
        scope="list", in_footer=True),
    Action("sort", "o", "Sort", "by the next column", "List", deeds.next_sort, scope="list", in_footer=True),
    Action("reverse", "O", "Reverse", "the order", "List", deeds.reverse_sort, scope="list"),
    Action("down", "j,down", "Down", "the next session", "List", deeds.move_down, scope="list"),
    Action("up", "k,up", "Up", "the session before", "List", deeds.move_up, scope="list"),
    Action("first", "g,home", "First", "the first session", "List", deeds.move_first, scope="list"),
    Action("last", "G,end", "Last", "the last session", "List", deeds.move_last, scope="list"),
    Action("page_down", "pagedown,ctrl+f", "Page down", "a screen further", "List", deeds.page_down, scope="list"),
    Action("page_up", "pageup,ctrl+b", "Page up", "a screen back", "List", deeds.page_up, scope="list"),
    Action("pause", "p", "Pause", "hold the picture still; what happens meanwhile is shown afterwards", "View",
        deeds.pause),
    Action("zoom", "z", "Zoom", "the pane with the focus alone", "View", deeds.zoom, scope="list"),
    Action("tab_1", "1", "Transcript", "what was run and what it printed", "View", deeds.tab_1),
    Action("tab_2", "2", "Info", "all that is known of the session", "View", deeds.tab_2),
    Action("tab_3", "3", "Journal", "what systemd's journal has of it", "View", deeds.tab_3),
    Action("tab_4", "4", "Snapshots", "its named states: Enter goes on from one, D deletes it", "View", deeds.tab_4,
        words=lambda session: ("snapshots", session.name)),
    Action("tab_5", "5", "Timeline", "how it came to where it is, as a tree", "View", deeds.tab_5,
        words=lambda session: ("timeline", session.name)),
    Action("service", "S", "Service", "how the daemon is run: its state, start and stop, its log", "View",
        deeds.open_service, words=lambda session: ("service", "status"), in_footer=True),
    Action("events", "E", "Events", "what the daemon did, and what was done here", "View", deeds.open_events,
        words=lambda session: ("events", "-f")),
    Action("theme", "t", "Theme", "dark or light", "View", deeds.switch_theme),
    Action("back", "escape", "Back", "to the screen before", "View", deeds.back),
    Action("palette", "colon,ctrl+p", "Palette", "find an action by its name", "Program", deeds.palette),
    Action("help", "question_mark,f1", "Help", "these keys", "Program", deeds.show_help, in_footer=True),
    Action("quit", "q,ctrl+q", "Quit", "leave the dashboard; sessions go on", "Program", deeds.leave, in_footer=True),
)  # fmt: skip


class ScreenKey(NamedTuple):
    """A key that a tab or a screen has for itself; there it comes before one of the actions above. `action` is what
    Textual calls, `words` the arguments of omegactl that do the same."""

    id: str
    keys: str
    action: str
    label: str
    help: str
    words: tuple[str, ...] = ()


SCREEN_KEYS: dict[str, tuple[ScreenKey, ...]] = {
    "snapshots": (
        ScreenKey("snapshots_restore", "enter", "restore", "Restore", "go on from the one with the cursor",
            ("restore", "NAME", "SNAPSHOT")),
        ScreenKey("snapshots_delete", "D", "forget", "Delete", "the snapshot with the cursor",
            ("snapshot", "NAME", "--delete", "SNAPSHOT")),
    ),
    "timeline": (
        ScreenKey("timeline_restore", "enter", "restore", "Restore", "go on from that snapshot",
            ("restore", "NAME", "SNAPSHOT")),
    ),
    "service": (
        ScreenKey("service_start", "s", "do('start')", "Start",
            "listen for the daemon; without systemd, start it", ("service", "start")),
        ScreenKey("service_stop", "x", "do('stop')", "Stop",
            "the daemon and what would start it; sessions go on", ("service", "stop")),
        ScreenKey("service_restart", "r", "do('restart')", "Restart", "the daemon; sessions go on",
            ("service", "restart")),
        ScreenKey("service_enable", "e", "do('enable')", "Enable", "listen from the next login on",
            ("service", "enable")),
        ScreenKey("service_disable", "d", "do('disable')", "Disable", "do not listen any more after the next login",
            ("service", "disable")),
        ScreenKey("service_reset_failed", "f", "do('reset-failed')", "Forget failure",
            "clear a failure and listen again", ("service", "reset-failed")),
        ScreenKey("service_level", "l", "level", "Level", "all of the log, or only what is worse than that"),
        ScreenKey("service_pause", "p", "pause", "Pause", "hold the log still"),
        ScreenKey("service_back", "escape,S", "leave", "Back", "to the screen before"),
    ),
    "events": (
        ScreenKey("events_session", "enter", "jump", "Session", "go to the session of the event"),
        ScreenKey("events_filter", "slash", "filter", "Filter", "words that must stand in it, !word: must not"),
        ScreenKey("events_follow", "f", "follow", "Follow", "go to the end and follow what comes"),
        ScreenKey("events_copy", "y", "copy", "Copy", "the line with the cursor: an event, or an omegactl line"),
        ScreenKey("events_other", "tab", "other", "Other list", "from the events to the commands and back"),
        ScreenKey("events_back", "escape,E", "leave", "Back", "to the screen before"),
    ),
}  # fmt: skip
"""By the tab or screen that has them."""

SCREEN_TITLES = {
    "snapshots": "The snapshots tab",
    "timeline": "The timeline tab",
    "service": "The service screen",
    "events": "The events screen",
}


def bindings_of(screen: str) -> list[Binding | tuple[str, str] | tuple[str, str, str]]:
    """The keys of a tab or screen as Textual has them."""
    return [Binding(key.keys, key.action, key.label, id=key.id, tooltip=key.help) for key in SCREEN_KEYS[screen]]


BOX_KEYS = (
    ("⏎", "Run", "where the engine calls it complete; else a new line"),
    ("^J", "Run as it is", "complete or not"),
    ("Tab", "Complete", "from the session"),
    ("↑ ↓", "History", "at the first and the last line"),
    ("^C", "Copy", "what is selected; where nothing is, interrupt"),
    ("^D", "End of file", "as the answer to a question"),
    ("Esc", "Leave", "back to the transcript or the list"),
)
"""What keys mean where one writes. They stay as they are: the box takes all others as text."""

BY_ID = {action.id: action for action in ACTIONS}

PLACES: list[Sequence[Action | ScreenKey]] = [ACTIONS, *SCREEN_KEYS.values()]
"""All that has keys, by the place where a key means one thing."""

DEFAULT_KEYS = {row.id: row.keys for rows in PLACES for row in rows}

KEY_NAMES = {
    "enter": "⏎", "slash": "/", "colon": ":", "question_mark": "?", "escape": "Esc", "pagedown": "PgDn",
    "pageup": "PgUp", "up": "↑", "down": "↓", "home": "Home", "end": "End", "f1": "F1", "space": "Space", "tab": "Tab",
}  # fmt: skip


def shown_key(keys: str) -> str:
    """The first of some keys as people write it."""
    key = keys.partition(",")[0]
    if key.startswith("ctrl+"):
        return "^" + key.removeprefix("ctrl+").upper()
    return KEY_NAMES.get(key, key)


def shown_keys(keys: str) -> str:
    return " ".join(shown_key(key) for key in keys.split(","))
