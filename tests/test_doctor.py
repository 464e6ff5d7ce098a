"""`omegactl doctor`: each thing that can be wrong is found, with its remedy."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctl import Omegactl, whatever_it_starts
from isolation import Place
from stub import Stub, json_reply


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


def daemon_pid(place: Place) -> int:
    return int((place.state_dir / "daemon.lock").read_text().split()[0])


def background(place: Place) -> bool:
    return (place.state_dir / "daemon.lock").exists()


def findings(omegactl: Omegactl, **env: str) -> tuple[int, dict[str, Any]]:
    done = omegactl("doctor", "--json", env=env)
    return done.code, {finding["name"]: finding for finding in json.loads(done.out)["findings"]}


@pytest.fixture
def on_path(place: Place) -> dict[str, str]:
    """An environment in which both commands are found."""
    directory = place.home / ".local" / "bin"
    directory.mkdir(parents=True)
    for name in ("omegactl", "omega-sessiond"):
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def test_doctor_finds_a_sound_installation_sound(omegactl: Omegactl, on_path: dict[str, str]) -> None:
    """With nothing wrong it ends with 0, before and after the daemon runs; what may be meant so is a note."""
    code, before = findings(omegactl, **on_path)
    assert code == 0, before
    assert not background(omegactl.place) or before["daemon"]["detail"].startswith("not running")
    omegactl("exec", "work", "-c", "1")
    code, after = findings(omegactl, **on_path)
    assert code == 0, after
    assert after["daemon"]["detail"].endswith("started by client")
    assert after["versions"]["ok"] and after["health"]["ok"]


def test_doctor_says_what_is_not_on_path(omegactl: Omegactl) -> None:
    """Commands that PATH does not lead to are found, with the line that helps."""
    code, found = findings(omegactl)
    assert code == 1
    assert "PATH" in found["command omegactl"]["remedy"]


@pytest.mark.parametrize(
    ("spoil", "name", "words", "remedy"),
    [
        ("config", "settings", "max_queu", "max_queue"),
        ("state_mode", "state directory", "mode 0755", "chmod 700"),
        ("runtime_mode", "runtime directory", "mode 0755", "chmod 700"),
        ("corrupt", "journal", "journal.db", ".recover"),
        ("newer", "journal", "journal.db", "Install"),
    ],
)
def test_doctor_finds_what_is_wrong(
    omegactl: Omegactl, place: Place, on_path: dict[str, str], spoil: str, name: str, words: str, remedy: str
) -> None:
    """Each thing that keeps the daemon from running is named with its remedy, as text and as JSON, and exit code 1."""
    omegactl("ls")
    omegactl("service", "stop")
    journal = place.state_dir / "journal.db"
    match spoil:
        case "config":
            (place.config_home / "omega-sessiond").mkdir()
            (place.config_home / "omega-sessiond" / "config.toml").write_text("max_queu = 3\n")
        case "state_mode":
            place.state_dir.chmod(0o755)
        case "runtime_mode":
            (place.runtime_dir / "omega-sessiond").chmod(0o755)
        case "corrupt":
            journal.write_bytes(b"this was never a database" * 1000)
        case _:
            _make_newer(journal)
    code, found = findings(omegactl, **on_path)
    assert code == 1
    assert words in found[name]["detail"] and not found[name]["ok"], found
    assert remedy in found[name]["remedy"]
    text = omegactl("doctor", env=on_path)
    assert text.code == 1
    assert "WRONG" in text.out and remedy in text.out


def _make_newer(journal: Path) -> None:
    connection = sqlite3.connect(journal)
    connection.execute("PRAGMA user_version = 999")
    connection.commit()
    connection.close()


def test_doctor_finds_a_stale_socket(omegactl: Omegactl, place: Place, on_path: dict[str, str]) -> None:
    """A socket without a listener is noted: the next command replaces it."""
    omegactl("ls")
    os.kill(daemon_pid(place), signal.SIGKILL)
    while json.loads(omegactl("version", "--json").out)["server"] is not None:
        time.sleep(0)
    code, found = findings(omegactl, **on_path)
    assert "stale" in found["socket"]["detail"]
    assert code == 0


def test_doctor_finds_the_daemon_of_another_runtime_directory(
    omegactl: Omegactl, place: Place, on_path: dict[str, str]
) -> None:
    """Where this shell looks in one place and the daemon listens in another, both are named, and it is asked."""
    omegactl("ls")
    other = place.base / "other"
    other.mkdir(mode=0o700)
    code, found = findings(omegactl, XDG_RUNTIME_DIR=str(other), **on_path)
    detail = found["runtime directory in use"]["detail"]
    assert f"{place.runtime_dir}/omega-sessiond/api.sock" in detail and f"{other}/omega-sessiond/api.sock" in detail
    assert found["daemon"]["detail"].startswith(f"pid {daemon_pid(place)}")
    assert code == 0


def test_doctor_finds_another_state_directory(omegactl: Omegactl, place: Place, on_path: dict[str, str]) -> None:
    """A daemon that serves another state directory than this shell means is told with both."""

    def answer(asked: Any) -> bytes:
        if asked.path == "/api/server":
            return json_reply({"state_dir": "/its/own", "pid": 1, "activation": "systemd", "version": "9.9"})
        return json_reply({"status": "degraded", "detail": "disk full"})

    with Stub(place.runtime_dir / "omega-sessiond" / "api.sock", answer):
        code, found = findings(omegactl, **on_path)
    assert code == 1
    assert "/its/own" in found["state directory in use"]["detail"]
    assert "9.9" in found["versions"]["detail"] and not found["versions"]["ok"]
    assert found["health"]["detail"] == "disk full"


def test_doctor_finds_a_path_too_long(omegactl: Omegactl, place: Place, on_path: dict[str, str]) -> None:
    """A socket path over the kernel's limit is named with its length."""
    code, found = findings(omegactl, XDG_RUNTIME_DIR=str(place.runtime_dir / ("x" * 100)), **on_path)
    assert code == 1
    assert "107" in found["socket path"]["detail"]
