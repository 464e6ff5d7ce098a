"""What those actions do that ask by a form, and all on saved state: the rest of `deeds`, loaded when the first of them
is done. The first picture does not wait for what it does not show.
"""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from omega_sessiond.cli_history import counted, staying
from omega_sessiond.cli_history import question as question_of
from omega_sessiond.cli_transfer import export_to, import_body, imported_words
from omega_sessiond.client import session_path
from omega_sessiond.errors import CannotFork, OmegaError
from omega_sessiond.invocation import creation_options
from omega_sessiond.screen import size
from omega_sessiond.statewords import checkpoint_words
from omega_sessiond.terminal import one_line
from tui import forms
from tui.deeds import question_about, same
from tui.model import Session
from tui.text import cell

if TYPE_CHECKING:
    from tui.app import Dashboard

Json = dict[str, Any]


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
        show_new(app, view)

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
                lambda client: same(client, name, id).request("PATCH", session_path(name), {"limits": wanted})
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
        await app.ask(lambda client: same(client, name, id).request("PATCH", session_path(name), {"labels": labels}))
        app.log_command(tuple(form.words(values)), "changed")

    app.begin(f"Cannot change the labels of {name}", doing)


def show_new(app: Dashboard, view: Json) -> None:
    app.model.update(view)
    app.publish()
    app.select(view["id"])


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
            view = await app.ask(lambda client: same(client, name, id).post(f"{session_path(name)}/fork", body))
        except CannotFork as refusal:
            words = (*words, "--from-checkpoint")
            offer = "A copy can be made of what is saved. It sleeps until its first command."
            consequence = f"{one_line(refusal.message)}.\n\n{offer}"
            question = cell(f"Fork what is saved of {name}?", "bold")
            if session.engine != "python" or not await app.confirm(question, consequence, "Fork", app.line(words)):
                raise
            body_saved = {**body, "from_checkpoint": True}
            view = await app.ask(lambda client: same(client, name, id).post(f"{session_path(name)}/fork", body_saved))
        show_new(app, view)
        app.log_command(words, "forked")

    app.begin(f"Cannot fork {name}", doing)


def snapshot(app: Dashboard, session: Session) -> None:
    name, id = session.name, session.id

    async def doing() -> None:
        form = forms.NewSnapshot(session)
        values = await app.fill(form)
        if values is None:
            return
        body = {"name": values["name"], "note": values["note"], "tags": forms.tags_of(values["tags"])}
        path = f"{session_path(name)}/snapshots"
        made = await app.ask(lambda client: same(client, name, id).post(path, body))
        lacking = [*sorted(made["left_out"]), *made["obstacles"]]
        said = f"after execution {made['execution_id']}" + (f", but for {', '.join(lacking)}" if lacking else "")
        app.log_command(tuple(form.words(values)), said)
        app.tell(f"Snapshot {made['name']} of {name}: {said}")

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
            app.tell(f"{name} has no snapshots; {app.key('snapshot')} makes one")
            return
        form = forms.Restore(session, [row["name"] for row in reversed(found)], snapshot)
        values = await app.fill(form)
        if values is None:
            return
        words, into = tuple(form.words(values)), values["into"]
        body = {"snapshot": values["snapshot"], **({"into": into} if into else {})}
        if not into:
            consequence = "Its variables are replaced by those of the snapshot. What it has now is kept as one first."
            question = question_about(f"Take {name} back to {values['snapshot']}?", session)
            if not await app.confirm(question, consequence, "Restore", app.line(words)):
                return
        done = await app.ask(lambda client: same(client, name, id).post(f"{path}/restore", body))
        app.log_command(words, done["note"])
        app.tell(done["note"])
        if into:
            show_new(app, done["session"])
        else:
            app.model.update(done["session"])
            app.publish()

    app.begin(f"Cannot restore {name}", doing)


def delete_snapshot(app: Dashboard, session: Session, snapshot: str) -> None:
    name, id = session.name, session.id
    words = ("snapshot", name, "--delete", snapshot)

    async def doing() -> None:
        question = question_about(f"Delete snapshot {snapshot} of {name}?", session)
        consequence = "The state that it names is gone for good, unless another snapshot holds the same."
        if not await app.confirm(question, consequence, "Delete", app.line(words)):
            return
        path = f"{session_path(name)}/snapshots/{quote(snapshot, safe='')}"
        await app.ask(lambda client: same(client, name, id).request("DELETE", path))
        app.log_command(words, "removed")

    app.begin(f"Cannot delete snapshot {snapshot} of {name}", doing)


# ---- files and old history ----


def export(app: Dashboard, session: Session) -> None:
    """Write a session into a file on this side."""
    name, id = session.name, session.id

    async def doing() -> None:
        form = forms.Export(session)
        values = await app.fill(form)
        if values is None:
            return
        words, file = tuple(form.words(values)), form.file(values)
        with_state, is_notebook = "--state" in words, "--notebook" in words
        if await app.run_in_thread(lambda: os.path.lexists(file)):
            words = (*words, "-f")
            question = cell(f"Replace {file}?", "bold")
            if not await app.confirm(question, "The file exists already.", "Replace", app.line(words)):
                return
        said = await app.ask(
            lambda client: export_to(
                same(client, name, id), name, file,
                with_state=with_state, is_notebook=is_notebook, may_replace="-f" in words,
            )
        )  # fmt: skip
        app.log_command(words, said)
        app.tell(said)

    app.begin(f"Cannot export {name}", doing)


def import_(app: Dashboard) -> None:
    """Make a session of a file, and go to it."""

    async def doing() -> None:
        form = forms.Import()
        values = await app.fill(form)
        if values is None:
            return
        trust = form.trusts(values)
        body = import_body(form.file(values), values["name"], trust=trust, with_state=trust, warn=app.tell)
        imported = await app.ask(lambda client: client.post("/api/import", body))
        said = " ".join(imported_words(imported))
        app.log_command(tuple(form.words(values)), said)
        app.tell(said)
        show_new(app, imported["session"])

    app.begin("Cannot import the session", doing)


PLANNED = 8
"""Sessions of which a question says by name what goes."""


def prune(app: Dashboard) -> None:
    """Say what would go of the history; then, if that is confirmed, have it go."""

    async def doing() -> None:
        form = forms.Prune()
        values = await app.fill(form)
        if values is None:
            return
        body, words = form.body(values), tuple(form.policy(values))
        planned = await app.ask(lambda client: client.post("/api/prune", {**body, "dry_run": True}))
        if not planned["sessions"]:
            app.log_command((*words, "--dry-run"), "nothing would go")
            app.tell(
                f"Nothing would go; the history takes {size(planned['journal_bytes'])}. {staying(planned)}".strip()
            )
            return
        rows = sorted(planned["sessions"], key=lambda row: row["bytes"], reverse=True)
        lines = [f"{row['session']}: {counted(row)}, up to {row['up_to_id']}" for row in rows[:PLANNED]]
        if len(rows) > PLANNED:
            lines.append(f"and of {len(rows) - PLANNED} more sessions")
        lines += ["", staying(planned)] if staying(planned) else []
        words = (*words, "-y")
        question = cell(question_of(planned), "bold")
        if not await app.confirm(question, one_by_one(lines), "Remove", app.line(words)):
            return
        report = await app.ask(lambda client: client.post("/api/prune", body))
        said = f"{counted(report)} removed"
        app.log_command(words, said)
        app.tell(said)

    app.begin("Cannot prune the history", doing)


def one_by_one(lines: list[str]) -> str:
    return "\n".join(one_line(line) for line in lines)
