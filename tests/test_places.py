"""Directories of sessions that are made ahead: taken once, never needed, and gone with the daemon."""

from __future__ import annotations

import os
import shutil
import stat
from itertools import count
from pathlib import Path

from daemon import wait_until
from life import Life
from omega_sessiond.places import Places


def test_the_next_session_takes_what_was_made_ahead(life: Life) -> None:
    """Behind a new session the directory of the next one waits, which that one gets; a daemon that ends leaves none."""
    ahead = life.place.state_dir / "next"
    names = (f"n{number}" for number in count())

    def takes_it() -> str | None:
        """The name of a new session that did; one is made behind the other, and may be too late for the next."""
        waiting = os.listdir(ahead) if ahead.exists() else []
        made = life.call("POST", "/api/sessions", {"name": next(names)}).json
        return str(made["name"]) if made["id"] in waiting else None

    assert life.run(wait_until(takes_it, "a session takes what waits"), "6 * 7")["result"] == "42"
    life.stop()
    assert not ahead.exists()


def test_without_what_was_made_ahead_a_place_is_made(tmp_path: Path) -> None:
    """Whoever cleans up beside the daemon costs no session its place; each is for its user alone, and another one."""
    places = Places(str(tmp_path))
    first = places.take()
    places.prepare()
    wait_until(lambda: places.has_one, "one is ready")
    shutil.rmtree(tmp_path / "next")
    second = places.take()
    assert {first, second} == set(os.listdir(tmp_path / "sessions"))
    for id in (first, second):
        assert stat.S_IMODE((tmp_path / "sessions" / id).stat().st_mode) == 0o700
    places.close()
    places.prepare()
    assert not places.has_one
