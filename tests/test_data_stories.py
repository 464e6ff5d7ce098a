"""Rich results from a session's code to who fetches them, through the real daemon, its restarts and its death."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest

from caller import Json
from daemon import wait_until
from isolation import Place
from life import Life

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8

SHOWN = f"""
class Shown:
    def __init__(self, **parts): self.parts = parts
    def __repr__(self): return 'shown'
    def _repr_mimebundle_(self, include=None, exclude=None):
        return {{name.replace('__', '/').replace('_', '+'): value for name, value in self.parts.items()}}
png = {PNG!r}
"""


@pytest.fixture
def rich(life: Life) -> Life:
    """A daemon whose session `work` has a class of objects that show what they are given."""
    life.run("work", SHOWN)
    return life


def fetch(life: Life, part: Json) -> bytes:
    answer = life.call("GET", part["href"])
    assert answer.status == 200, answer
    assert answer.headers["content-length"] == str(len(answer.body)) == str(part["size_bytes"])
    return answer.body


def test_a_picture_is_kept_beside_the_text(rich: Life) -> None:
    """A displayed object's picture is listed with its size and fetched by its address; without one, data is null."""
    execution = rich.run("work", "print('before'); Shown(image__png=png)")
    assert (execution["result"], execution["output"]) == ("shown", "before\nshown\n")
    [part] = execution["data"]
    assert part == {
        "n": 0,
        "bundle": 0,
        "role": "result",
        "offset": len("before\nshown\n"),
        "mime": "image/png",
        "size_bytes": len(PNG),
        "href": f"/api/sessions/work/executions/{execution['id']}/data/0",
    }
    answer = rich.call("GET", part["href"])
    assert (answer.body, answer.headers["content-type"]) == (PNG, "image/png")
    assert rich.run("work", "1 + 1")["data"] is None
    assert rich.history("work")[1]["data"] == [part]


def test_short_texts_and_json_stand_in_the_reply(rich: Life) -> None:
    """Markdown and JSON of a few KiB are in the part itself, HTML and what is longer only at their address."""
    command = "Shown(text__markdown='*grün*', application__json={'a': [1, None]}, text__html='<b>x</b>')"
    markdown, value, html = rich.run("work", command)["data"]
    assert (markdown["text"], fetch(rich, markdown).decode()) == ("*grün*", "*grün*")
    assert (value["json"], json.loads(fetch(rich, value))) == ({"a": [1, None]}, {"a": [1, None]})
    assert ("text" in html, fetch(rich, html)) == (False, b"<b>x</b>")
    [long] = rich.run("work", "Shown(text__markdown='x' * 5000)")["data"]
    assert ("text" in long, fetch(rich, long)) == (False, b"x" * 5000)


def test_data_outlives_restarts_and_kill_9(rich: Life) -> None:
    """What was shown is there, byte for byte, after a daemon's stop and after its death."""
    [part] = rich.run("work", "big = bytes(range(256)) * 4000\nShown(image__png=big)")["data"]
    assert part["size_bytes"] == 1_024_000
    for end in (rich.stop, rich.kill):
        end()
        rich.start()
        assert fetch(rich, part) == bytes(range(256)) * 4000
        assert rich.history("work")[-1]["data"] == [part]


def test_a_daemon_killed_in_the_midst_of_a_part_loses_none_of_it(rich: Life, place: Place) -> None:
    """Pieces that had come and pieces that had not are put together by the next daemon."""
    id = rich.begin("work", "Shown(image__png=b'a' * 40_000_000, image__jpeg=b'b' * 10_000_000)")
    log = place.state_dir / "journal.db-wal"
    wait_until(lambda: log.stat().st_size > 1_000_000, "some pieces are stored")
    rich.kill()
    with closing(sqlite3.connect(place.state_dir / "journal.db")) as journal:
        stored = journal.execute("SELECT sum(length(body)) FROM part_pieces").fetchone()[0]
    assert 0 < stored < 50_000_000
    rich.start()
    execution = rich.finished("work", id)
    assert [(part["mime"], part["size_bytes"]) for part in execution["data"]] == [
        ("image/png", 40_000_000),
        ("image/jpeg", 10_000_000),
    ]
    assert fetch(rich, execution["data"][0]) == b"a" * 40_000_000
    assert fetch(rich, execution["data"][1]) == b"b" * 10_000_000
