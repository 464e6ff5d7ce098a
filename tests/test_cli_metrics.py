"""`omegactl metrics`: the answer of GET /metrics for a pipe, a person, and whoever finds no daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from ctl import COMMAND, Omegactl, whatever_it_starts
from isolation import Place
from stub import Stub, refusal, reply

HOSTILE = b'omega{session="a\x1b]52;c;ZXZpbA==\x07\xc2\x9b2Jb"} 1\n'


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


@pytest.fixture
def socket_path(place: Place) -> Path:
    return place.runtime_dir / "omega-sessiond" / "api.sock"


def test_figures_are_those_of_the_daemon(omegactl: Omegactl) -> None:
    """Prometheus' own parser reads the output; with nothing running the command starts a daemon, as ls does."""
    assert omegactl("--no-start", "metrics").code == 3
    done = omegactl("metrics")
    assert (done.code, done.err) == (0, "")
    omegactl("exec", "work", "-c", "1")
    samples = [
        sample
        for family in text_string_to_metric_families(omegactl("--no-start", "metrics").out)
        for sample in family.samples
    ]
    assert [sample.value for sample in samples if sample.name == "omega_session_commands_total"] == [1]
    assert {"omega_sessiond_uptime_seconds", "omega_forked_sessions_total"} <= {sample.name for sample in samples}


def test_a_pipe_gets_every_byte(place: Place, socket_path: Path) -> None:
    """On a pipe the answer is printed as it is, whatever stands in it and however it ends."""
    figures = HOSTILE + b"\xff\r\nno newline"
    with Stub(socket_path, reply(figures)) as stub:
        done = subprocess.run([*COMMAND, "metrics"], env=place.env, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, figures, b"")
    assert [(asked.method, asked.path) for asked in stub.asked] == [("GET", "/metrics")]


def test_a_terminal_is_told_nothing_to_obey(place: Place, socket_path: Path) -> None:
    """On a terminal it is text, through the pager."""
    with (
        Stub(socket_path, reply(HOSTILE)),
        Omegactl(place).at_terminal("metrics", env={"PAGER": f"tee {place.home}/paged"}) as terminal,
    ):
        assert terminal.end() == 0
    assert 'omega{session="ab"} 1' in terminal.seen
    assert "\x1b" not in terminal.seen and "\x9b" not in terminal.seen
    assert (place.home / "paged").read_text() == 'omega{session="ab"} 1\n'


def test_a_refusal_is_an_error_as_of_every_command(place: Place, socket_path: Path) -> None:
    """What the daemon cannot answer is said on stderr, and nothing on stdout."""
    with Stub(socket_path, refusal("journal_error", "500 Internal Server Error", "the disk is gone", "look at it")):
        done = Omegactl(place)("metrics")
    assert (done.code, done.out) == (125, "")
    assert "the disk is gone" in done.err and "look at it" in done.err
