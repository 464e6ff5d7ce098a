"""What the actions do: ask where that is due, make the request, tell what came of it, write the command log.

A confirmation names its session as it was at the key press, and the request goes to that name; where the name belongs
to another session by then, nothing is done.
"""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

from rich.text import Text
from textual.app import SuspendNotSupported
from textual.command import CommandPalette

from omega_sessiond import manager
from omega_sessiond.client import Client, session_path
from omega_sessiond.errors import OmegaError, SessionNotFound
from tui.model import Session
from tui.text import cell

if TYPE_CHECKING:
    from tui.app import Dashboard

Json = dict[str, Any]

BUSY = ("busy", "waiting_input")


# ---- where actions do not apply ----


def why_no_interrupt(session: Session) -> str | None:
    return None if session.running_id is not None or session.queued else f"Nothing runs in {session.name}"


def why_no_kill(session: Session) -> str | None:
    return None if session.pid is not None else f"{session.name} has no process"


# ---- sessions ----


def open_session(app: Dashboard, session: Session) -> None:
    app.open_console(session.id)


def go_to_input(app: Dashboard, session: Session) -> None:
    app.focus_box()


def interrupt(app: Dashboard, session: Session) -> None:
    async def doing() -> None:
        answer = await app.ask(lambda client: client.post(session_path(session.name) + "/interrupt", {}))
        app.log_command(("interrupt", session.name), answer["note"])
        if answer["note"] and not all(step["effective"] for step in answer["steps"][-1:]):
            app.tell(answer["note"])

    app.begin(f"Cannot interrupt {session.name}", doing)


def kill(app: Dashboard, session: Session) -> None:
    consequence = "Its process ends. History stays; its next command goes on from what is saved."
    _end(app, session, "kill", f"Kill {session.name}?", consequence, ("kill", session.name))


def restart(app: Dashboard, session: Session) -> None:
    consequence = "Its process ends and a new one starts without variables. What is saved becomes a snapshot."
    _end(app, session, "restart", f"Restart {session.name}?", consequence, ("restart", session.name))


def _end(app: Dashboard, session: Session, verb: str, question: str, consequence: str, words: tuple[str, ...]) -> None:
    name, id = session.name, session.id
    if session.state in BUSY:
        consequence += " A command runs in it now."

    async def doing() -> None:
        if not await app.confirm(question_about(question, session), consequence, verb.title(), app.line(words)):
            return
        answer = await app.ask(lambda client: same(client, name, id).post(f"{session_path(name)}/{verb}", {}))
        app.log_command(words, answer["note"])
        app.tell(answer["note"] or f"{verb.title()}: done")

    app.begin(f"Cannot {verb} {name}", doing)


def delete(app: Dashboard, session: Session) -> None:
    name, id = session.name, session.id
    words = ("rm", "-y", name)
    consequence = f"It ends, and its {session.count} executions with all output are gone for good."

    async def doing() -> None:
        question = question_about(f"Delete {name}?", session)
        if not await app.confirm(question, consequence, "Delete", app.line(words)):
            return
        await app.ask(lambda client: same(client, name, id).request("DELETE", session_path(name)))
        app.log_command(words, "removed")
        app.tell(f"Removed {name}")

    app.begin(f"Cannot delete {name}", doing)


def question_about(question: str, session: Session) -> Text:
    text = cell(question, "bold")
    text.append("   ").append_text(cell(f"{session.engine}, {session.state}, {session.id}", "dim"))
    return text


def same(client: Client, name: str, id: str) -> Client:
    """The client, once it is sure that the name still means the session one was asked about."""
    if client.get(session_path(name))["id"] != id:
        raise SessionNotFound(f"'{name}' is another session by now: nothing was done", hint="Look again, and repeat.")
    return client


def attach(app: Dashboard, session: Session) -> None:
    """Lend the terminal to `omegactl repl`."""
    code = "import sys; from omega_sessiond.cli import main; sys.exit(main())"
    target = app.target
    where = ("--socket", target.socket_path) if target.state_dir is None else ()
    command = [sys.executable, "-IB", "-c", code, *where, "repl", session.name]
    try:
        with app.suspend():
            status = subprocess.run(command).returncode
    except SuspendNotSupported:
        app.tell("This terminal cannot be lent to a REPL")
        return
    app.log_command(("repl", session.name), f"left with {status}")


def copy(app: Dashboard, session: Session) -> None:
    selected = app.screen.get_selected_text()
    if selected:
        app.copy_to_clipboard(selected)
        app.tell("Copied what is selected")
    else:
        line = app.command_log[-1].line if app.command_log else app.line(("show", session.name))
        app.copy_to_clipboard(line)
        app.tell(f"Copied: {line}")


# ---- the list ----


def filter_list(app: Dashboard) -> None:
    app.main.open_filter()


def next_sort(app: Dashboard) -> None:
    app.main.table.next_sort()
    app.main.show_title()


def reverse_sort(app: Dashboard) -> None:
    table = app.main.table
    table.set_sort(table.sort_key, not table.is_reversed)
    app.main.show_title()


def move_down(app: Dashboard) -> None:
    app.main.table.move(1)


def move_up(app: Dashboard) -> None:
    app.main.table.move(-1)


def move_first(app: Dashboard) -> None:
    app.main.table.move_to(0)


def move_last(app: Dashboard) -> None:
    app.main.table.move(len(app.model.sessions))


def page_down(app: Dashboard) -> None:
    app.main.table.move(app.main.table.page)


def page_up(app: Dashboard) -> None:
    app.main.table.move(-app.main.table.page)


# ---- the view and the program ----


def pause(app: Dashboard) -> None:
    app.toggle_pause()


def zoom(app: Dashboard) -> None:
    app.main.toggle_zoom()


def tab_1(app: Dashboard) -> None:
    app.open_tab(0)


def tab_2(app: Dashboard) -> None:
    app.open_tab(1)


def tab_3(app: Dashboard) -> None:
    app.open_tab(2)


def tab_4(app: Dashboard) -> None:
    app.open_tab(3)


def tab_5(app: Dashboard) -> None:
    app.open_tab(4)


def open_service(app: Dashboard) -> None:
    app.open_service()


def open_events(app: Dashboard) -> None:
    app.open_events()


def switch_theme(app: Dashboard) -> None:
    app.theme = "omega-light" if app.current_theme.dark else "omega-dark"


def back(app: Dashboard) -> None:
    app.go_back()


def palette(app: Dashboard) -> None:
    app.push_screen(CommandPalette())


def show_help(app: Dashboard) -> None:
    app.open_help()


def leave(app: Dashboard) -> None:
    app.exit(0)


async def wake(app: Dashboard, kind: str) -> None:
    """Start what is stopped, or wake what sleeps: somebody has asked for it."""
    if kind == "stopped":
        await app.run_in_thread(lambda: manager.ask("reset-failed", manager.SERVICE, manager.SOCKET))
        if await app.run_in_thread(lambda: manager.ask("start", manager.SOCKET)) is None:
            raise OmegaError(f"systemd could not start {manager.SOCKET}", hint="'omegactl service status' says more.")
        app.log_command(("service", "start"), "started")
    await app.errands.start_daemon()
