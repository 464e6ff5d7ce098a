"""Rich results from a session's code to who fetches them, through the real daemon, its restarts and its death."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import IncompleteRead

import pytest

from caller import Json, ask
from daemon import wait_until
from isolation import Place
from life import Life, gate

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


def test_a_part_is_served_so_that_no_browser_runs_it(rich: Life) -> None:
    """Whatever it is, it is an attachment under a policy that denies everything, and its type is not guessed at."""
    command = "Shown(text__html='<script>alert(1)</script>', image__svg_xml='<svg onload=\"alert(1)\"/>')"
    html, svg = rich.run("work", command)["data"]
    types = {"text/html; charset=utf-8": html, "image/svg+xml; charset=utf-8": svg}
    for content_type, part in types.items():
        answer = rich.call("GET", part["href"])
        assert answer.status == 200
        assert answer.headers["content-type"] == content_type
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["content-security-policy"] == "default-src 'none'; sandbox"
        end = ".html" if part is html else ".svg"
        name = f"work-{part['href'].split('/')[5]}-{part['n']}{end}"
        assert answer.headers["content-disposition"] == f'attachment; filename="{name}"'
        head = rich.call("HEAD", part["href"])
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(part["size_bytes"]))
        assert rich.call("GET", part["href"], headers={"Origin": "http://evil"}).code == "forbidden"


def test_a_type_that_is_none_never_becomes_a_header(rich: Life) -> None:
    """What code calls a type is checked: nothing of it gets into the reply's head."""
    [part] = rich.run("work", "Shown(**{'image/png\\r\\nX-Evil: 1': 'x'})")["data"]
    assert (part["mime"], "href" in part) == ("application/octet-stream", False)
    assert "is no MIME type" in part["omitted"]


@pytest.mark.parametrize("number", ["1", "-1", "x", "0x0", "99999999999999999999", "%30%00"])
def test_a_part_that_is_not_there(rich: Life, number: str) -> None:
    """A wrong number is 404 with its own code, as is a part of an execution that has none."""
    [part] = rich.run("work", "Shown(image__png=png)")["data"]
    answer = rich.call("GET", part["href"].removesuffix("0") + number)
    assert (answer.status, answer.code) == (404, "data_not_found")
    assert rich.call("GET", part["href"]).status == 200


def test_an_omitted_part_says_why(rich: Life) -> None:
    """What could not be sent is listed with the reason, and its address answers that reason."""
    execution = rich.run("work", "Shown(image__png='not base64!', text__latex='$x$')")
    omitted, latex = execution["data"]
    assert omitted["omitted"].startswith("sending it raised ValueError")
    answer = rich.call("GET", f"/api/sessions/work/executions/{execution['id']}/data/0")
    assert (answer.status, answer.code) == (404, "data_not_found")
    assert omitted["omitted"] in answer.json["error"]
    assert latex["text"] == "$x$"


def test_observers_learn_of_parts_as_they_come(rich: Life, place: Place) -> None:
    """A data event comes when a part is whole, before its command has ended, without a body; again when asked later."""
    wait, fifo = gate(place)
    events = rich.stream(
        "POST", "/api/sessions/work/execute", {"command": f"print(1); display(Shown(text__latex='$x$'))\n{wait}"}
    )
    seen = []
    for event in events:
        seen.append(event)
        if event["kind"] == "data":
            with fifo.open("w"):
                pass
    id = seen[0]["execution_id"]
    [told] = [event for event in seen if event["kind"] == "data"]
    assert told["execution_id"] == id
    assert told["part"] == {
        "n": 0,
        "bundle": 0,
        "role": "display",
        "offset": len("1\nshown\n"),
        "mime": "text/latex",
        "size_bytes": 3,
        "href": f"/api/sessions/work/executions/{id}/data/0",
    }
    assert seen[-1]["execution"]["data"] == [{**told["part"], "text": "$x$"}]
    again = list(rich.stream("GET", f"/api/sessions/work/executions/{id}"))
    assert [event["id"] for event in again] == [event["id"] for event in seen]
    feed = rich.call("GET", "/api/events?since=0&follow=0").body.splitlines()
    assert told in [json.loads(line) for line in feed]


def test_a_bare_reply_has_data_in_a_header_only_when_there_is_any(rich: Life) -> None:
    """text/plain is the output alone; its header names the first parts."""
    path, accept = "/api/sessions/work/execute", {"Accept": "text/plain"}
    answer = rich.call("POST", path, {"command": "Shown(image__png=png, text__latex='$x$')"}, accept)
    assert (answer.body, answer.headers["omega-data"]) == (b"shown\n", f"0 image/png {len(PNG)}, 1 text/latex 3")
    answer = rich.call("POST", path, {"command": "for _ in range(12): display(Shown(text__latex=''))"}, accept)
    assert answer.headers["omega-data"].endswith("9 text/latex 0, ...")
    assert "omega-data" not in rich.call("POST", path, {"command": "1"}, accept).headers


def test_a_host_that_dies_leaves_what_it_had_shown(rich: Life) -> None:
    """Parts that were whole outlive the process that made them."""
    execution = rich.run("work", "display(Shown(image__png=png))\nimport os; os.kill(os.getpid(), 9)")
    assert execution["status"] == "died"
    [part] = execution["data"]
    assert fetch(rich, part) == PNG


def test_the_bound_is_a_setting(lives: Callable[..., Life]) -> None:
    """data_max_bytes bounds what one execution keeps, and the part says so."""
    life = lives(data_max_bytes=1000)
    life.run("work", SHOWN)
    small, large = life.run("work", "Shown(text__latex='x' * 900, image__png=png)")["data"]
    assert ("href" in small, "href" in large, large["size_bytes"]) == (True, False, len(PNG))
    assert large["omitted"] == "larger than the 100 bytes that were left of 1000 (setting data_max_bytes)"


def test_nothing_is_left_of_a_deleted_session(rich: Life) -> None:
    """With the session its parts go, and their addresses."""
    [part] = rich.run("work", "Shown(image__png=png)")["data"]
    assert rich.call("DELETE", "/api/sessions/work").status == 204
    assert rich.call("GET", part["href"]).code == "session_not_found"


def test_many_fetch_a_large_part_while_commands_run(rich: Life) -> None:
    """A part of many pieces is whole for everyone who fetches it at once, and commands go on meanwhile."""
    [part] = rich.run("work", "Shown(image__png=bytes(range(256)) * 80_000)")["data"]
    with ThreadPoolExecutor() as pool:
        fetching = [pool.submit(fetch, rich, part) for _ in range(4)]
        assert rich.value("work", "6 * 7") == 42
        bodies = {one.result() for one in fetching}
    assert bodies == {bytes(range(256)) * 80_000}


def test_a_part_removed_while_it_is_read_ends_short(rich: Life) -> None:
    """Who reads a part of a session that is deleted meanwhile gets a broken reply, not a wrong one; the daemon is
    well."""
    [part] = rich.run("work", "Shown(image__png=bytes(40_000_000))")["data"]
    connection, response = ask(rich.path, "GET", part["href"], None, {}, 60)
    with closing(connection):
        response.read(1000)
        assert rich.call("DELETE", "/api/sessions/work").status == 204
        with pytest.raises(IncompleteRead):
            response.read()
    assert rich.get("/api/health")["status"] == "ok"
    assert "defect" not in rich.log


def test_a_reply_without_output_has_no_text_of_parts_either(rich: Life) -> None:
    """max_output bounds both: a list that shows no output stays small."""
    [part] = rich.run("work", "Shown(text__latex='$x$')", max_output=0)["data"]
    assert ("href" in part, "text" in part) == (True, False)
    assert rich.get("/api/sessions/work/executions?last=1&max_output=2")[0]["data"] == [part]
    assert rich.get("/api/sessions/work/executions?last=1")[0]["data"] == [{**part, "text": "$x$"}]
