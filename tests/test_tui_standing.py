"""The service in words: each state it can be in has its own, with the next step, and only the keys that make sense."""

from __future__ import annotations

import itertools

import pytest

from omega_sessiond.control import Background, Managed
from omega_sessiond.manager import SERVICE, SOCKET, TCP_SOCKET, Unit
from omega_sessiond.target import Target
from tui.standing import GLYPHS, STYLES, Condition, fork_table, headline, keys_that_apply, standing, table

TARGET = Target("/run/api.sock", "/state", "the default")
MISSING = Unit(TCP_SOCKET, "not-found", "inactive", "dead", "success", "")


def unit(name: str, active: str, *, enabled: str = "", load: str = "loaded", **more: object) -> Unit:
    sub = {"active": "running" if name == SERVICE else "listening"}.get(active, "dead")
    result = "start-limit-hit" if active == "failed" else "success"
    return Unit(name, load, active, sub, result, enabled, **more)  # type: ignore[arg-type]


def managed(socket: str, service: str, *, enabled: str = "enabled", tcp: Unit = MISSING) -> Managed:
    return Managed(unit(SOCKET, socket, enabled=enabled), unit(SERVICE, service), tcp)


def background(server: dict[str, object] | None) -> Background:
    return Background(TARGET, "Run in the background, without systemd: no user manager answers here.", server)


SERVER: dict[str, object] = {"pid": 1, "version": "1.2.3", "started_at": "2026-01-02T03:04:05Z", "activation": "client"}

CASES: list[tuple[Condition, str, str, set[str]]] = [
    (managed("active", "active"), "active", "The daemon runs", {"stop", "restart", "disable"}),
    (managed("active", "inactive"), "listening", "first request starts", {"stop", "disable"}),
    (managed("active", "activating"), "changing", "at work", {"stop", "disable"}),
    (managed("deactivating", "active"), "changing", "at work", {"start", "stop", "restart", "disable"}),
    (managed("inactive", "inactive"), "inactive", "{service_start} does", {"start", "disable"}),
    (managed("inactive", "inactive", enabled="disabled"), "inactive", "{service_start} does", {"start", "enable"}),
    (managed("inactive", "active"), "active", "nothing starts it again", {"start", "stop", "restart", "disable"}),
    (managed("failed", "failed"), "failed", "start-limit-hit", {"reset-failed", "start", "stop", "disable"}),
    (managed("active", "failed"), "failed", "{service_reset_failed} forgets", {"reset-failed", "stop", "disable"}),
    (
        Managed(unit(SOCKET, "inactive", load="masked", enabled="masked"), unit(SERVICE, "inactive"), MISSING),
        "broken", "'masked'", {"start", "enable"},
    ),
    (
        Managed(unit(SOCKET, "inactive", enabled="enabled"), unit(SERVICE, "inactive", load="not-found"), MISSING),
        "broken", "missing", {"start", "disable"},
    ),
    (background(None), "absent", "starts it", {"start"}),
    (background(SERVER), "running", "1.2.3", {"stop", "restart"}),
]  # fmt: skip


def keyed(text: str) -> str:
    """As the dashboard does, which knows how the keys are set."""
    return text.replace("{service_start}", "s").replace("{service_reset_failed}", "f")


@pytest.mark.parametrize(("found", "kind", "means", "verbs"), CASES)
def test_each_state_has_its_words_and_keys(found: Condition, kind: str, means: str, verbs: set[str]) -> None:
    """A state has one word, says what it means and what to do, and offers the verbs that would change it."""
    state = standing(found)
    assert state.kind == kind
    assert means in state.meaning
    assert set(keys_that_apply(found)) == verbs
    first, second = headline(found, keyed).plain.split("\n")
    assert first.startswith(f"{GLYPHS[state.kind][0]} {state.word}")
    assert second == found.way
    assert "{" not in first


def test_no_two_states_look_alike() -> None:
    """Colour, glyph and word together tell the kinds apart; of two with one colour the glyphs or the words differ."""
    words = {standing(found).kind: standing(found).word for found, *_ in CASES}
    looks = {kind: (STYLES[kind], GLYPHS[kind], words[kind]) for kind in words}
    assert all(looks[one] != looks[other] for one, other in itertools.combinations(looks, 2))


def test_units_are_a_table() -> None:
    """Each unit has a row: state, since when, process, memory, and whether it listens at the next login."""
    found = Managed(
        unit(SOCKET, "active", enabled="enabled", since=1000.0),
        unit(SERVICE, "active", since=4000.0, pid=4100, memory_bytes=50 * 1024**2),
        MISSING,
    )
    assert table(found, now=4060.0).plain.splitlines() == [
        "UNIT                       STATE               SINCE  PID   MEMORY  AT LOGIN",
        "omega-sessiond.socket      ◌ listening         51m    -     -       enabled",
        "omega-sessiond.service     ● active (running)  1m     4100  50M     -",
        "omega-sessiond-tcp.socket  ○ not installed     -      -     -       -",
    ]
    assert "* active (running)" in table(found, now=4060.0, is_ascii=True).plain
    assert table(found, now=4060.0, is_ascii=True).plain.isascii()


def test_a_process_is_a_table_too() -> None:
    """Without systemd there is one row, of the daemon that runs or of none."""
    assert "not running" in table(background(None)).plain
    shown = table(background(SERVER), now=1767323105.0).plain
    assert "running" in shown and "1m" in shown


def fork_server(python: str, **more: object) -> dict[str, object]:
    known = {"pid": 70, "python": python, "state": "ready", "births": 12, "is_rehearsed": True}
    return {**known, "preloaded": [], "refused": {}, **more}


def test_fork_servers_are_a_table() -> None:
    """Each has a row, and beneath it its packages, and each that it has refused with the reason."""
    refused = {"torch": "starts 2 threads", "mine": "its import fails"}
    servers = [
        fork_server("/usr/bin/python3", preloaded=["numpy", "pandas"], refused=refused),
        fork_server("/v/bin/python", births=0, state="loading", is_rehearsed=False, pid=7),
    ]
    assert fork_table({"fork_servers": servers}).plain.splitlines() == [
        "FORK SERVER  STATE               FORKED  INTERPRETER",
        "70           ● ready, rehearsed  12      /usr/bin/python3",
        "  preloaded: numpy, pandas",
        "  refused: torch (starts 2 threads)",
        "  refused: mine (its import fails)",
        "7            ◐ loading           0       /v/bin/python",
    ]
    assert fork_table({"fork_servers": servers}, is_ascii=True).plain.isascii()


def test_no_fork_servers_are_told_where_that_is_known() -> None:
    """A daemon without any says how sessions are started; where none answers, or does not speak of them, nothing is."""
    assert "started by itself" in fork_table({"fork_servers": []}).plain
    assert not fork_table({}) and not fork_table(None)


def test_words_of_an_import_are_text() -> None:
    """Why a package was refused is on one line, in a table that neither the terminal nor Textual obeys."""
    hostile = {"[red]x": "its import fails:\n[@click=app.quit]y[/]\x1b]0;t\x07\x9b2J\u202e"}
    shown = fork_table({"fork_servers": [fork_server("/[b]/python", preloaded=["[i]p"], refused=hostile)]}).plain
    assert all(line.isprintable() for line in shown.splitlines())
    assert shown.splitlines()[3] == "  refused: [red]x (its import fails: [@click=app.quit]y[/])"
    assert "/[b]/python" in shown and "[i]p" in shown


def test_words_of_systemd_are_text() -> None:
    """What a unit calls itself or its result has no way to act on the terminal or on Textual."""
    hostile = unit(SOCKET, "failed", enabled="[@click=app.quit]x[/]\x1b]0;t\x07")._replace(result="[b]\x1b[2J")
    found = Managed(hostile, unit(SERVICE, "inactive"), MISSING)
    assert "\x1b" not in headline(found, keyed).plain + table(found).plain
    assert "[@click=app.quit]x[/]" in table(found).plain
