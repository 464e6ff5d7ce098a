"""Fork servers in words, and where they are said: `omegactl service status` and `:server` of the REPL."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from daemon import wait_until
from life import Life
from omega_sessiond.forkwords import NONE, fork_lines
from person import ENTER, at_terminal

Json = dict[str, Any]


def server(**more: object) -> Json:
    known = {"pid": 7, "python": "/usr/bin/python3", "state": "ready", "births": 1, "is_rehearsed": True}
    return {**known, "preloaded": [], "refused": {}, **more}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        ({}, "ready, rehearsed; 1 session forked from it."),
        ({"births": 0, "is_rehearsed": False}, "ready, not rehearsed yet; 0 sessions forked from it."),
        ({"births": 0, "state": "loading"}, "loading; 0 sessions forked from it."),
        (
            {"births": 2, "preloaded": ["numpy", "pandas"], "refused": {"torch": "starts 2 threads"}},
            "ready, rehearsed; 2 sessions forked from it; preloaded: numpy, pandas; refused: torch (starts 2 threads).",
        ),
    ],
)
def test_each_has_a_line(more: Json, line: str) -> None:
    """Interpreter, state, how many were forked from it, and of packages those that came and those that did not."""
    assert fork_lines({"fork_servers": [server(**more)]}) == [f"Fork server 7 of /usr/bin/python3: {line}"]


def test_none_is_told_where_it_is_known() -> None:
    """Without a fork server that is said; a daemon that does not speak of them has none to tell of."""
    assert fork_lines({"fork_servers": []}) == [NONE]
    assert fork_lines({}) == []


def test_hostile_words_stay_on_their_line() -> None:
    """What an import says of itself ends no line and reaches no terminal as a command."""
    hostile = {"evil": "its import fails:\n\x1b]52;c;ZXZpbA==\x07\x9b2Jboom\u202e"}
    (line,) = fork_lines({"fork_servers": [server(refused=hostile, python="/a\nb/python")]})
    assert line.isprintable()
    assert "refused: evil (its import fails: boom)." in line and "/a b/python" in line


@pytest.fixture
def preloading(lives: Callable[..., Life]) -> Life:
    """A daemon whose fork server has a package and lacks another, and one session that came of it."""
    life = lives(preload=["tabnanny", "no_such_package"])
    wait_until(lambda: servers(life)[0]["state"] == "ready", "it is ready")
    life.run("work", "1")
    wait_until(lambda: servers(life)[0]["is_rehearsed"], "it has rehearsed")
    return life


def servers(life: Life) -> list[Json]:
    found: list[Json] = life.get("/api/server")["fork_servers"]
    return found or [{"state": "none"}]


def expected(life: Life) -> str:
    (one,) = servers(life)
    return (
        f"Fork server {one['pid']} of {one['python']}: ready, rehearsed; 1 session forked from it; "
        "preloaded: tabnanny; refused: no_such_package (its import fails: ModuleNotFoundError"
    )


def test_status_has_a_line_for_each_fork_server(preloading: Life) -> None:
    """`service status` says what sessions are forked from, for people below the daemon's line, and in its JSON."""
    status = preloading.omegactl("service", "status")
    assert status.returncode == 0
    told = [line for line in status.stdout.splitlines() if line.startswith("Fork server")]
    assert len(told) == 1 and told[0].startswith(expected(preloading))
    found = json.loads(preloading.omegactl("service", "status", "--json").stdout)
    assert found["server"]["fork_servers"] == servers(preloading)


def test_status_says_that_there_is_none(lives: Callable[..., Life]) -> None:
    """With `fork_server = false` status says how sessions are started instead."""
    assert NONE in lives(fork_server=False).omegactl("service", "status").stdout.splitlines()


def test_repl_shows_the_server(preloading: Life) -> None:
    """`:server` in the REPL says what `service status` says, of the daemon of this session."""
    with at_terminal(preloading.place, "repl", "work", columns=300) as person:
        person.sees(":help lists")
        person.is_prompted()
        person.type(":server" + ENTER)
        person.sees(f"Running: pid {preloading.server_pid()}")
        person.sees(expected(preloading))
        person.is_prompted(times=2)
        person.says_goodbye()
        assert person.leaves() == 0
