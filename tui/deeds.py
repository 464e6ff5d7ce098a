"""What the actions do: ask where that is due, make the request, tell what came of it, write the command log.

A confirmation names its session as it was at the key press, and the request goes to that name; where the name belongs
to another session by then, nothing is done.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from rich.text import Text
from textual.app import SuspendNotSupported
from textual.command import CommandPalette

from omega_sessiond import manager
from omega_sessiond.client import Client, session_path
from omega_sessiond.errors import CannotFork, OmegaError, SessionNotFound
from omega_sessiond.invocation import creation_options
from omega_sessiond.statewords import checkpoint_words
from omega_sessiond.terminal import one_line
from tui import forms
from tui.modals import Confirm
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
        if not await app.confirm(Confirm(_question(question, session), consequence, verb.title(), app.line(words))):
            return
        answer = await app.ask(lambda client: _same(client, name, id).post(f"{session_path(name)}/{verb}", {}))
        app.log_command(words, answer["note"])
        app.tell(answer["note"] or f"{verb.title()}: done")

    app.begin(f"Cannot {verb} {name}", doing)


def delete(app: Dashboard, session: Session) -> None:
    name, id = session.name, session.id
    words = ("rm", "-y", name)
    consequence = f"It ends, and its {session.count} executions with all output are gone for good."

    async def doing() -> None:
        question = _question(f"Delete {name}?", session)
        if not await app.confirm(Confirm(question, consequence, "Delete", app.line(words))):
            return
        await app.ask(lambda client: _same(client, name, id).request("DELETE", session_path(name)))
        app.log_command(words, "removed")
        app.tell(f"Removed {name}")

    app.begin(f"Cannot delete {name}", doing)


def _question(question: str, session: Session) -> Text:
    text = cell(question, "bold")
    text.append("   ").append_text(cell(f"{session.engine}, {session.state}, {session.id}", "dim"))
    return text


def _same(client: Client, name: str, id: str) -> Client:
    """The client, once it is sure that the name still means the session one was asked about."""
    if client.get(session_path(name))["id"] != id:
        raise SessionNotFound(f"'{name}' is another session by now: nothing was done", hint="Look again, and repeat.")
    return client


def new(app: Dashboard) -> None:
    async def doing() -> None:
        found = await app.ask(lambda client: client.get("/api/engines"))
        engines = [engine["name"] for engine in found if engine["available"]] or ["python"]
        form = forms.NewSession(engines)
        values = await app.fill(form)
        if values is None:
            return
        body = _creation(app, values)
        view = await app.ask(lambda client: client.post("/api/sessions", {"name": values["name"], **body}))
        app.log_command(tuple(form.words(values)), "created")
        _show_new(app, view)

    app.begin("Cannot create the session", doing)


def _creation(app: Dashboard, values: dict[str, str]) -> Json:
    body = creation_options(app.tell)
    body["engine"] = values["engine"]
    if values["engine"] != "python":
        body.pop("python", None)
    if values["python"]:
        found = shutil.which(os.path.expanduser(values["python"]))
        if found is None:
            raise OmegaError(f"There is no interpreter '{values['python']}'", hint="Name it by its path.")
        body["python"] = os.path.abspath(found)
    if values["cwd"]:
        body["cwd"] = os.path.abspath(os.path.expanduser(values["cwd"]))
    limits = {name: value for name, value in forms.limits_of(values).items() if value is not None}
    if limits:
        body["limits"] = limits
    if labels := forms.labels_of(values["labels"]):
        body["labels"] = labels
    return body


def change_limits(app: Dashboard, session: Session) -> None:
    name, id, before = session.name, session.id, dict(session.limits)

    async def doing() -> None:
        form = forms.ChangeLimits(session)
        values = await app.fill(form)
        if values is None:
            return
        wanted = {key: value for key, value in forms.limits_of(values).items() if value != before.get(key)}
        if wanted:
            await app.ask(
                lambda client: _same(client, name, id).request("PATCH", session_path(name), {"limits": wanted})
            )
            app.log_command(tuple(form.words(values)), "changed")

    app.begin(f"Cannot change the limits of {name}", doing)


def change_labels(app: Dashboard, session: Session) -> None:
    name, id = session.name, session.id

    async def doing() -> None:
        form = forms.ChangeLabels(session)
        values = await app.fill(form)
        if values is None:
            return
        labels = forms.labels_of(values["labels"])
        await app.ask(lambda client: _same(client, name, id).request("PATCH", session_path(name), {"labels": labels}))
        app.log_command(tuple(form.words(values)), "changed")

    app.begin(f"Cannot change the labels of {name}", doing)


# ---- saved state ----


def save(app: Dashboard, session: Session) -> None:
    name = session.name

    async def doing() -> None:
        view = await app.ask(lambda client: client.post(f"{session_path(name)}/save", {}))
        said = checkpoint_words(view["checkpoint"])
        app.model.update(view)
        app.publish()
        app.log_command(("save", name), said)
        app.tell(f"Saved {name}: {said}")

    app.begin(f"Cannot save {name}", doing)


def fork(app: Dashboard, session: Session) -> None:
    """Copy the process; where that cannot be done, offer a copy of what is saved."""
    name, id = session.name, session.id

    async def doing() -> None:
        form = forms.Fork(session)
        values = await app.fill(form)
        if values is None:
            return
        words, body = (*form.words(values),), {"name": values["name"]}
        try:
            view = await app.ask(lambda client: _same(client, name, id).post(f"{session_path(name)}/fork", body))
        except CannotFork as refusal:
            words = (*words, "--from-checkpoint")
            offer = "A copy can be made of what is saved. It sleeps until its first command."
            consequence = f"{one_line(refusal.message)}.\n\n{offer}"
            question = Confirm(cell(f"Fork what is saved of {name}?", "bold"), consequence, "Fork", app.line(words))
            if session.engine != "python" or not await app.confirm(question):
                raise
            body_saved = {**body, "from_checkpoint": True}
            view = await app.ask(lambda client: _same(client, name, id).post(f"{session_path(name)}/fork", body_saved))
        _show_new(app, view)
        app.log_command(words, "forked")

    app.begin(f"Cannot fork {name}", doing)


def _show_new(app: Dashboard, view: Json) -> None:
    app.model.update(view)
    app.publish()
    app.select(view["id"])


def snapshot(app: Dashboard, session: Session) -> None:
    name, id = session.name, session.id

    async def doing() -> None:
        form = forms.NewSnapshot(session)
        values = await app.fill(form)
        if values is None:
            return
        body = {"name": values["name"], "note": values["note"], "tags": forms.tags_of(values["tags"])}
        path = f"{session_path(name)}/snapshots"
        made = await app.ask(lambda client: _same(client, name, id).post(path, body))
        lacking = [*sorted(made["left_out"]), *made["obstacles"]]
        said = f"after execution {made['execution_id']}" + (f", but for {', '.join(lacking)}" if lacking else "")
        app.log_command(tuple(form.words(values)), said)
        app.tell(f"Snapshot {made['name']} of {name}: {said}")
        app.refresh_detail()

    app.begin(f"Cannot make a snapshot of {name}", doing)


def restore(app: Dashboard, session: Session) -> None:
    restore_snapshot(app, session, None)


def restore_snapshot(app: Dashboard, session: Session, snapshot: str | None) -> None:
    """Go on from a snapshot, the newest where none is named; which and where to is asked."""
    name, id = session.name, session.id
    path = session_path(name)

    async def doing() -> None:
        found = await app.ask(lambda client: client.get(f"{path}/snapshots"))
        if not found:
            app.tell(f"{name} has no snapshots; s makes one")
            return
        form = forms.Restore(session, [row["name"] for row in reversed(found)], snapshot)
        values = await app.fill(form)
        if values is None:
            return
        words, into = tuple(form.words(values)), values["into"]
        body = {"snapshot": values["snapshot"], **({"into": into} if into else {})}
        if not into:
            consequence = "Its variables are replaced by those of the snapshot. What it has now is kept as one first."
            question = _question(f"Take {name} back to {values['snapshot']}?", session)
            if not await app.confirm(Confirm(question, consequence, "Restore", app.line(words))):
                return
        done = await app.ask(lambda client: _same(client, name, id).post(f"{path}/restore", body))
        kept = f" What it had is kept as snapshot {done['kept_as']}." if done["kept_as"] is not None else ""
        app.log_command(words, done["note"] + kept)
        app.tell(done["note"] + kept)
        if into:
            _show_new(app, done["session"])
        else:
            app.model.update(done["session"])
            app.publish()
            app.refresh_detail()

    app.begin(f"Cannot restore {name}", doing)


def delete_snapshot(app: Dashboard, session: Session, snapshot: str) -> None:
    name, id = session.name, session.id
    words = ("snapshot", name, "--delete", snapshot)

    async def doing() -> None:
        question = _question(f"Delete snapshot {snapshot} of {name}?", session)
        consequence = "The state that it names is gone for good, unless another snapshot holds the same."
        if not await app.confirm(Confirm(question, consequence, "Delete", app.line(words))):
            return
        path = f"{session_path(name)}/snapshots/{quote(snapshot, safe='')}"
        await app.ask(lambda client: _same(client, name, id).request("DELETE", path))
        app.log_command(words, "removed")
        app.refresh_detail()

    app.begin(f"Cannot delete snapshot {snapshot} of {name}", doing)


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
