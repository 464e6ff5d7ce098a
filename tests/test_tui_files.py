"""Export, import and prune in the dashboard: forms that show the omegactl line, beside a real daemon."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from textual.widgets import Select

from dashboard import Driver, driven, run
from isolation import Place
from life import Life
from test_tui_state import answer, fill, logs
from tui.forms import Export, Import


@pytest.fixture(autouse=True)
def home(place: Place, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where files without a directory go."""
    monkeypatch.chdir(place.home)
    return place.home


async def choose(dashboard: Driver, field: str, value: str) -> None:
    await dashboard.until(lambda: dashboard.app.screen.query("#ok"), "the form opens")
    dashboard.app.screen.query_one(f"#field-{field}", Select).value = value


def test_export_writes_a_file_here_and_asks_before_it_replaces_one(life: Life, home: Path) -> None:
    """`x` writes JSON lines under the session's name; what stands there already is replaced only when that is said."""
    life.run("work", "x = 41")

    async def story() -> None:
        async with driven(size=(120, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("x")
            await dashboard.sees("omegactl export work -o work.jsonl")
            await answer(dashboard, "ok")
            await logs(dashboard, "omegactl export work -o work.jsonl")
            lines = [json.loads(line) for line in (home / "work.jsonl").read_text().splitlines()]
            assert [line["t"] for line in lines] == ["session", "execution", "end"]
            life.run("work", "x + 1")
            await dashboard.press("x")
            await answer(dashboard, "ok")
            await dashboard.sees("Replace work.jsonl?")
            await answer(dashboard, "cancel")
            await dashboard.sees_no("Replace work.jsonl?")
            assert json.loads((home / "work.jsonl").read_text().splitlines()[-1])["executions"] == 1
            await dashboard.press("x")
            await answer(dashboard, "ok")
            await answer(dashboard, "yes")
            await logs(dashboard, "omegactl export work -o work.jsonl -f")
            assert json.loads((home / "work.jsonl").read_text().splitlines()[-1])["executions"] == 2
            assert os.listdir(home) == ["work.jsonl"]

    run(story())


def test_export_as_a_notebook_and_where_that_cannot_be(life: Life, home: Path) -> None:
    """A notebook is called so; a directory that is not there is said, and nothing is left."""
    life.run("work", "6 * 7")

    async def story() -> None:
        async with driven(size=(120, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("x")
            await choose(dashboard, "kind", Export.KINDS[2])
            await dashboard.sees("omegactl export work -o work.ipynb --notebook")
            await answer(dashboard, "ok")
            await logs(dashboard, "omegactl export work -o work.ipynb --notebook")
            assert json.loads((home / "work.ipynb").read_text())["nbformat"] == 4
            await dashboard.press("x")
            await fill(dashboard, file="nowhere/work.jsonl")
            await dashboard.sees("Cannot write nowhere/work.jsonl: No such file or directory")
            await dashboard.press("escape")
            assert os.listdir(home) == ["work.ipynb"]

    run(story())


def test_import_takes_variables_only_from_who_is_trusted(life: Life, home: Path) -> None:
    """`I` makes a session of a file and goes to it: without its variables, unless one says that the file is trusted."""
    life.run("work", "x = 41")
    life.post("/api/sessions/work/save")

    async def story() -> None:
        async with driven(size=(120, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("x")
            await choose(dashboard, "kind", Export.KINDS[1])
            await answer(dashboard, "ok")
            await logs(dashboard, "omegactl export work -o work.jsonl --state")
            await dashboard.press("I")
            await answer(dashboard, "ok")
            await dashboard.sees("Which file?")
            await fill(dashboard, file="work.jsonl", name="bare")
            await logs(dashboard, "omegactl import work.jsonl bare --no-state")
            await dashboard.until(
                lambda: dashboard.main.table.selected_id == life.session("bare")["id"], "the new one is selected"
            )
            assert life.run("bare", "'x' in globals()")["result"] == "False"
            await dashboard.press("I")
            await choose(dashboard, "variables", Import.VARIABLES[1])
            await fill(dashboard, file="~/work.jsonl", name="copy")
            await logs(dashboard, f"omegactl import {home}/work.jsonl copy --trust")
            assert life.run("copy", "x + 1")["result"] == "42"
            await dashboard.press("I")
            await fill(dashboard, file="work.jsonl")
            await dashboard.sees("Cannot import the session")
            await dashboard.sees("Session 'work' exists already")

    run(story())


def test_prune_shows_what_would_go_before_it_goes(life: Life) -> None:
    """`P` asks what may go, says what that is session by session, and removes it only when that is confirmed."""
    for number in range(3):
        life.run("work", f"x = {number}")
    life.run("other", "1")

    async def story() -> None:
        async with driven(size=(120, 40)) as dashboard:
            await dashboard.selects("work")
            await dashboard.press("P")
            await fill(dashboard, keep="few")
            await dashboard.sees("'few' is no count: 200, none")
            await fill(dashboard, keep="1")
            await dashboard.sees("Remove 2 executions")
            await dashboard.sees("of 1 session for good?")
            await dashboard.sees("work: 2 executions")
            await dashboard.sees("omegactl prune --keep 1 -y")
            await answer(dashboard, "cancel")
            await dashboard.sees_no("for good?")
            assert len(life.history("work")) == 3
            await dashboard.press("P")
            await fill(dashboard, keep="1", session="work")
            await answer(dashboard, "yes")
            await logs(dashboard, "omegactl prune work --keep 1 -y")
            assert len(life.history("work")) == 1
            await dashboard.press("P")
            life.post("/api/sessions/work/snapshots", {"name": "first"})
            await fill(dashboard, keep="1")
            await dashboard.sees("Nothing would go")
            await dashboard.sees("1 named")

    run(story())
