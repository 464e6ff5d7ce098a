"""The catalogue of engines: what is found, what is refused, and what the refusal says."""

from __future__ import annotations

import asyncio
import os
import platform
import signal
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from daemon import CHECKOUT
from life import Life, is_alive
from omega_sessiond import presets
from omega_sessiond.config import Settings
from omega_sessiond.engines import Catalogue
from omega_sessiond.errors import ConfigError, EngineUnavailable, InvalidField
from omega_sessiond.hosts import border
from omega_sessiond.hosts.engine import Engine
from omega_sessiond.versions import Versions, ask

ENV = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


MARKED = {"sentinel": "{token}\n", "mark": "{token}"}


def _catalogue(**tables: dict[str, object]) -> Catalogue:
    return Catalogue(Settings(engines=tables))


def test_python_is_the_users() -> None:
    """The engine python is an interpreter of the session's PATH."""
    resolved = _catalogue().resolve("python", "python3", {"PATH": os.path.dirname(sys.executable)})
    assert resolved.kind == "python"
    assert resolved.python is not None and resolved.python.endswith("/python3")


def test_unknown_engine_names_the_nearest() -> None:
    """An engine that does not exist is refused with the nearest one that does."""
    with pytest.raises(EngineUnavailable) as refusal:
        _catalogue(shell={**MARKED, "command": ["sh"]}).resolve("shel", None, ENV)
    assert "'shell'" in refusal.value.hint


def test_table_of_the_settings_is_an_engine(tmp_path: Path) -> None:
    """A table in the settings adds an engine, whose program is found on the session's PATH."""
    program = tmp_path / "toy"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    resolved = _catalogue(toy={**MARKED, "command": ["toy", "-q"]}).resolve("toy", None, {"PATH": str(tmp_path)})
    assert (resolved.kind, resolved.python) == ("lines", None)
    assert resolved.options["command"] == [str(program), "-q"]


def test_missing_program_says_what_to_do() -> None:
    """An engine whose program is missing is refused with the program's name and the next step."""
    catalogue = _catalogue(toy={**MARKED, "command": ["no-such-repl"], "install_hint": "apt install toy"})
    with pytest.raises(EngineUnavailable, match="no program 'no-such-repl' on PATH") as refusal:
        catalogue.resolve("toy", None, ENV)
    assert refusal.value.hint == "apt install toy"
    listed = {engine.name: engine for engine in catalogue.list()}
    assert not listed["toy"].available
    assert "no-such-repl" in (listed["toy"].unavailable or "") and "apt install toy" in (
        listed["toy"].unavailable or ""
    )


def test_command_from_a_variable(tmp_path: Path) -> None:
    """Where the preset names a variable, the session's environment may hold the whole command line."""
    catalogue = _catalogue(toy={**MARKED, "command": ["no-such-repl"], "command_variable": "TOY"})
    resolved = catalogue.resolve("toy", None, {**ENV, "TOY": "sh -c 'echo hi'"})
    assert resolved.options["command"][1:] == ["-c", "echo hi"]
    with pytest.raises(EngineUnavailable, match="no command line"):
        catalogue.resolve("toy", None, {**ENV, "TOY": "sh 'open"})


def test_interpreter_for_another_engine_is_refused() -> None:
    """`python` beside an engine that is not Python is an error, not ignored."""
    with pytest.raises(InvalidField, match="no meaning"):
        _catalogue(shell={**MARKED, "command": ["sh"]}).resolve("shell", "python3", ENV)


@pytest.mark.parametrize(
    ("name", "table", "words"),
    [
        ("Toy", {"command": ["sh"]}, "cannot be the name"),
        ("python", {"command": ["sh"]}, "cannot be the name"),
        ("toy", {}, "'engines.toy.command' is missing"),
        ("toy", {"command": []}, "engines.toy.command"),
        ("toy", {"comand": ["sh"]}, "'engines.toy.comand' is unknown"),
        ("toy", {"command": "sh"}, "engines.toy.command"),
        ("toy", {"like": "nothing"}, "no shipped engine 'nothing'"),
    ],
)
def test_wrong_table_is_refused(name: str, table: dict[str, object], words: str) -> None:
    """A table that describes no engine is an error that names the place in the settings."""
    with pytest.raises(ConfigError) as refusal:
        _catalogue(**{name: table}).list()
    assert words in refusal.value.message


class _Screen:
    """A printer that keeps what it is given."""

    def __init__(self) -> None:
        self.shown = ""

    def show(self, stream: str, text: str) -> None:
        self.shown += text

    write = show


def test_engine_of_the_documentation_is_one() -> None:
    """The engine that docs/engines.md shows in full keeps its state, shows values and tells errors."""
    page = (CHECKOUT / "docs" / "engines.md").read_text()
    module: dict[str, Any] = {"__name__": "calculator"}
    exec(page.partition("```python\n")[2].partition("```")[0], module)
    screen = _Screen()
    engine = module["make"](SimpleNamespace(printer=screen), {})
    assert engine.execute(1, "40 2").status == "ok"
    assert engine.execute(2, "+ dup").displayed
    assert screen.shown == "2\n42\n"
    failed = engine.execute(3, "nonsense")
    assert (failed.status, failed.error.name) == ("error", "ValueError")
    border.pending.append(signal.SIGINT)
    assert engine.execute(4, "1").status == "interrupted"
    members = {name for name in vars(Engine) if not name.startswith("_")} | {"version", "watched"}
    assert members <= set(dir(engine))


def test_table_of_the_documentation_is_an_engine() -> None:
    """The table that docs/engines.md shows is a whole one, and every field there is stands on that page."""
    page = (CHECKOUT / "docs" / "engines.md").read_text()
    tables = tomllib.loads(page.partition("```toml\n")[2].partition("```")[0])["engines"]
    assert set(presets.read(tables)) > set(tables)
    for kind in (presets.LinePreset, presets.Syntax, presets.State):
        for field in kind.__struct_fields__:
            assert f"`{field}`" in page, field


def _program(directory: Path, script: str) -> str:
    program = directory / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo 'GNU toy (Debian 13.1-3) 13.1'", "13.1"),
        ("echo 'toy (version 2.0)'", "2.0"),
        ("echo 'GNU toy, version 5.2.15(1)-release (x86_64-pc-linux-gnu)'", "5.2.15(1)-release"),
        ("echo v20.20.2", "20.20.2"),
        ("echo 3.40.1 2022-12-28 >&2", "3.40.1"),
        ("echo no; exit 1", None),
        ("kill -9 $$", None),
        ("(sleep 60) & echo 1.2, behind it something that stays", "1.2"),
    ],
)
def test_program_says_its_version(tmp_path: Path, script: str, version: str | None) -> None:
    """A version is the first thing that looks like one, on either stream; without one there is none."""
    assert ask([_program(tmp_path, script)]) == version


def test_silent_program_has_no_version(tmp_path: Path) -> None:
    """A program that does not end is ended, and one that is not there is no error."""
    marker = tmp_path / "pid"
    assert ask([_program(tmp_path, f"echo $$ >{marker}; exec sleep 60")], answer_s=0.2) is None
    assert not marker.exists() or not is_alive(int(marker.read_text()))
    assert ask([str(tmp_path / "nothing")]) is None


def test_version_is_asked_again_when_the_program_changes(tmp_path: Path) -> None:
    """What a program has said is remembered until its file is another one."""
    versions, said = Versions(), tmp_path / "said"
    said.write_text("1.0")
    program = _program(tmp_path, f"cat {said}")

    def version() -> str | None:
        return asyncio.run(versions.of({"toy": [program]}))["toy"]

    assert version() == "1.0"
    said.write_text("2.0")
    assert version() == "1.0"
    os.utime(program, (1, 1))
    assert version() == "2.0"


def test_engines_have_versions_when_asked(lives: Callable[..., Life], tmp_path: Path) -> None:
    """The listing says versions only to who asks, also of an engine of the settings, and none where none is told."""
    program = _program(tmp_path, 'test "$*" = "-V now" && echo toy 7.1')
    life = lives(
        engines={
            "toy": {**MARKED, "command": [program], "version": ["-V", "now"]},
            "mute": {**MARKED, "command": [program]},
        }
    )
    assert all(engine["version"] is None for engine in life.get("/api/engines"))
    found = {engine["name"]: engine["version"] for engine in life.get("/api/engines?versions=true")}
    assert (found["toy"], found["mute"]) == ("7.1", None)
    assert found["python"] == platform.python_version()
