"""Sessions as files: what is exported comes back elsewhere, and what a file says is not believed without asking."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from http.client import HTTPException
from pathlib import Path
from threading import Thread

import nbformat
import pytest

from ctl import Omegactl, whatever_it_starts
from daemon import wait_until
from isolation import Place
from life import FOREVER, Life

PICTURE = """
class Picture:
    def _repr_png_(self): return b"\\x89PNG fake"
    def __repr__(self): return "picture"
Picture()
"""


def lines(life: Life, name: str, query: str = "") -> list[dict[str, object]]:
    answer = life.call("GET", f"/api/sessions/{name}/export{query}")
    assert answer.status == 200, answer
    return [json.loads(line) for line in answer.body.splitlines()]


def put(place: Place, exported: list[dict[str, object]]) -> str:
    file = place.home / "session.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in exported))
    return str(file)


def changed(exported: list[dict[str, object]], **fields: object) -> list[dict[str, object]]:
    """The same file, with other words about its executions."""
    return [{**line, **fields} if line["t"] == "execution" else line for line in exported]


def test_history_comes_back_as_it_was(life: Life, place: Place) -> None:
    """An imported session has the same executions, with output, rich parts, errors and times, under ids of its own."""
    life.run("work", "print('grüß'); 6 * 7")
    life.run("work", "1 / 0")
    life.run("work", PICTURE)
    before = life.history("work")
    answer = life.call("POST", "/api/import", {"file": put(place, lines(life, "work")), "name": "copy"})
    assert answer.status == 201, answer
    assert (answer.json["executions"], answer.json["has_state"]) == (3, False)
    after = life.history("copy")
    own = {"id", "session", "data"}
    for old, new in zip(before, after, strict=True):
        assert {key: old[key] for key in old if key not in own} == {key: new[key] for key in new if key not in own}
        assert new["id"] > before[-1]["id"]
    assert after[2]["data"][0]["mime"] == "image/png"
    assert life.call("GET", after[2]["data"][0]["href"]).body == b"\x89PNG fake"
    fresh = life.run("copy", "'x' in globals()")
    assert (fresh["result"], fresh["lost"]["reason"]) == ("False", "imported without its variables")


def test_variables_come_along_only_from_who_is_trusted(life: Life, place: Place) -> None:
    """A file with saved variables is refused without trust, taken without them when told so, and whole with trust."""
    life.run("work", "def f(n): return n + 1\nx = [1, 2]")
    assert life.call("POST", "/api/sessions/work/save").status == 200
    file = put(place, lines(life, "work", "?state=true"))
    refused = life.call("POST", "/api/import", {"file": file, "name": "copy"})
    assert (refused.status, refused.code) == (400, "foreign_state")
    assert life.call("GET", "/api/sessions/copy").status == 404
    assert life.call("POST", "/api/import", {"file": file, "name": "bare", "state": False}).status == 201
    assert life.session("bare")["state_reason"] == "imported without its variables"
    taken = life.call("POST", "/api/import", {"file": file, "name": "copy", "trust": True})
    assert taken.json["has_state"] is True
    assert life.session("copy")["state"] == "hibernated"
    woken = life.run("copy", "f(x[1])")
    assert woken["result"] == "3"
    assert woken["resumed_from"] is not None
    assert "x" not in life.run("bare", "dir()")["result"]


def test_export_saves_first_what_has_changed(life: Life, place: Place) -> None:
    """A file with variables has those of this moment."""
    life.run("work", "x = 1")
    assert life.call("POST", "/api/sessions/work/save").status == 200
    life.run("work", "x = 2")
    taken = {"file": put(place, lines(life, "work", "?state=true")), "name": "copy", "trust": True}
    assert life.call("POST", "/api/import", taken).status == 201
    found = life.run("copy", "x")
    assert (found["result"], found["lost"]) == ("2", None)


def test_import_says_what_ran_after_the_state_was_saved(life: Life, place: Place) -> None:
    """Of a busy session the state saved last is exported, and the copy's first answer names what is not in it."""
    life.run("work", "x = 1")
    assert life.call("POST", "/api/sessions/work/save").status == 200
    life.begin_running("work", FOREVER, first="late = 2")
    exported = lines(life, "work", "?state=true")
    assert life.call("POST", "/api/sessions/work/interrupt").status == 200
    done = lines(life, "work")
    state = [line for line in exported if line["t"] in ("state", "piece")]
    history = [line for line in done if line["t"] != "end"]
    file = put(place, [*history, *state, done[-1]])
    assert life.call("POST", "/api/import", {"file": file, "name": "copy", "trust": True}).status == 201
    found = life.run("copy", "x, 'late' in dir()")
    assert found["result"] == "(1, False)"
    assert "late" in found["lost"]["variables"]
    assert "ran after the checkpoint" in found["lost"]["reason"]


def test_import_tells_the_loss_that_the_original_has_not_told_yet(life: Life, place: Place) -> None:
    """What was lost before the state was saved is not seen in the state, nor in the commands."""
    life.run("work", "x = 1; g = (i for i in ())")
    life.post("/api/sessions/work/snapshots", {"name": "early"})
    life.post("/api/sessions/work/restore", {"snapshot": "early"})
    life.post("/api/sessions/work/save", {})
    taken = {"file": put(place, lines(life, "work", "?state=true")), "name": "copy", "trust": True}
    assert life.call("POST", "/api/import", taken).status == 201
    assert life.run("copy", "x")["lost"]["variables"] == life.run("work", "x")["lost"]["variables"] == ["g"]
    assert life.run("copy", "x")["lost"] is None


def test_export_without_saved_variables_says_so(life: Life) -> None:
    """Asking for variables where none can be saved is an error that says why."""
    life.call("POST", "/api/sessions", {"name": "work", "engine": "bash"})
    answer = life.call("GET", "/api/sessions/work/export?state=true")
    assert (answer.status, answer.code) == (409, "cannot_save")
    assert "no way to save" in answer.json["error"]
    life.run("dead", "x = 1")
    life.post("/api/sessions/dead/kill")
    answer = life.call("GET", "/api/sessions/dead/export?state=true")
    assert (answer.status, answer.code) == (409, "cannot_save")
    assert answer.json["error"] == "Nothing is saved of session 'dead'"


@pytest.mark.parametrize(
    ("harm", "code"),
    [
        (lambda file: file[1:], "invalid_import"),
        (lambda file: file[:-1], "invalid_import"),
        (lambda file: [file[0], file[0], *file[1:]], "invalid_import"),
        (lambda file: [*file[:2], *file[1:]], "invalid_import"),
        (lambda file: [{**file[0], "format": 99}], "invalid_import"),
        (lambda file: [{**file[0], "engine": "nonsense"}, *file[1:]], "invalid_field"),
        (lambda file: [{**file[0], "name": "../x"}, *file[1:]], "invalid_name"),
        (
            lambda file: [file[0], {"t": "output", "seq": 0, "id": 5, "s": "stdout", "off": 0, "text": "x"}],
            "invalid_import",
        ),
        (lambda file: [file[0], {"t": "execution", "id": 1, "command": "x", "status": "running"}], "invalid_import"),
        (lambda file: [*file[:-1], {"t": "unheard"}], "invalid_import"),
        (lambda file: [], "invalid_import"),
        (lambda file: [file[0], file[-1]], "invalid_import"),
        (lambda file: [*file, *file], "invalid_import"),
        (lambda file: [file[0], {"t": "piece", "file": "state", "body": ""}, *file[1:]], "invalid_import"),
        (lambda file: changed(file, execution_count=2**63), "invalid_import"),
        (lambda file: changed(file, dropped_bytes=10**30), "invalid_import"),
        (lambda file: changed(file, duration_ms=-1), "invalid_import"),
        (lambda file: changed(file, queued_at="2026-02-30T00:00:00Z"), "invalid_import"),
        (lambda file: changed(file, finished_at="\N{FULLWIDTH DIGIT TWO}026-01-01T00:00:00Z"), "invalid_import"),
        (lambda file: [{**file[0], "labels": {"": "x"}}, *file[1:]], "invalid_import"),
    ],
    ids=[
        "headless",
        "torn",
        "two heads",
        "twice",
        "later",
        "engine",
        "name",
        "misplaced",
        "status",
        "unknown",
        "empty",
        "missing",
        "goes on",
        "stray piece",
        "count",
        "dropped",
        "duration",
        "day",
        "digits",
        "label",
    ],
)
def test_wrong_files_leave_nothing(
    life: Life, place: Place, harm: Callable[..., list[dict[str, object]]], code: str
) -> None:
    """A file that is not as it was written is refused in words, and no part of it stays."""
    life.run("work", "1")
    exported = lines(life, "work")
    life.call("DELETE", "/api/sessions/work")
    answer = life.call("POST", "/api/import", {"file": put(place, harm(exported))})
    assert (answer.status, answer.code) == (400, code)
    assert life.get("/api/sessions") == []


def test_line_that_is_nested_without_end(life: Life, place: Place) -> None:
    """A line that no parser can follow is a wrong line, not a failure of the daemon."""
    file = place.home / "deep.jsonl"
    file.write_text('{"t": "session", "x": ' + "[" * 100_000)
    assert life.call("POST", "/api/import", {"file": str(file)}).code == "invalid_import"


def test_tampered_variables_are_refused(life: Life, place: Place) -> None:
    """A state whose bytes are not those of its checksum is not taken, whoever is trusted."""
    life.run("work", "x = 1")
    life.call("POST", "/api/sessions/work/save")
    exported = lines(life, "work", "?state=true")
    for line in exported:
        if line["t"] == "piece" and line["file"] == "state":
            line["body"] = "AAAA" + str(line["body"])[4:]
    answer = life.call("POST", "/api/import", {"file": put(place, exported), "name": "copy", "trust": True})
    assert (answer.status, answer.code) == (400, "invalid_import")
    assert [session["name"] for session in life.get("/api/sessions")] == ["work"]


def test_files_that_cannot_be_read(life: Life, place: Place) -> None:
    """A missing file, what is no file or cannot be read like one, and a name that is taken are told apart."""
    for file in ("/nowhere/x", str(place.home), "relative", "/dev/zero", "/proc/self/mem", "/a\0b"):
        assert life.call("POST", "/api/import", {"file": file}).code == "invalid_field", file
    life.run("work", "1")
    assert life.call("POST", "/api/import", {"file": put(place, lines(life, "work"))}).code == "session_exists"


def test_long_commands_come_back_where_they_may_be_sent(lives: Callable[..., Life], place: Place) -> None:
    """With a larger `max_body_bytes` a line of an export may be as long."""
    life = lives(max_body_bytes=64 << 20)
    command = "text = '%s'; len(text)" % ("ä" * (9 << 20))
    assert life.run("work", command)["result"] == str(9 << 20)
    order = {"file": put(place, lines(life, "work")), "name": "copy"}
    assert life.call("POST", "/api/import", order).status == 201
    assert life.history("copy")[0]["command"] == command


def test_line_that_is_longer_than_a_command_may_be(life: Life, place: Place) -> None:
    """The answer names the line, and the setting that its daemon had."""
    life.run("work", "1")
    file = put(place, changed(lines(life, "work"), command="1" * (17 << 20)))
    answer = life.call("POST", "/api/import", {"file": file, "name": "copy"})
    assert (answer.status, "max_body_bytes" in answer.json["hint"]) == (400, True), answer
    assert "line 2, is longer than" in answer.json["error"]


def test_daemon_that_dies_in_the_middle_of_an_import(life: Life, place: Place) -> None:
    """What a killed daemon had taken in of a file is gone with the next one, and none of its commands has run."""
    mark = place.home / "run"
    life.run("work", "1")
    head, execution, *_ = lines(life, "work")
    life.call("DELETE", "/api/sessions/work")
    del execution["started_at"]
    output = {"t": "output", "seq": 0, "id": execution["id"], "s": "stdout"}
    many = [{**output, "off": off, "text": "x"} for off in range(300_000)]
    file = put(place, [head, {**execution, "command": f"open({str(mark)!r}, 'x').close()"}, *many])

    def ask() -> None:
        with pytest.raises((OSError, HTTPException)):
            life.call("POST", "/api/import", {"file": file})

    asked = Thread(target=ask)
    asked.start()
    wait_until(lambda: life.get("/api/sessions"), "the import has begun")
    assert life.call("GET", "/api/sessions/work").code == "session_busy"
    life.kill()
    asked.join()
    life.start()
    assert life.get("/api/sessions") == []
    assert list((place.state_dir / "sessions").iterdir()) == []
    life.run("work", "1")
    assert not mark.exists()


@pytest.mark.parametrize("is_trusted", [False, True])
def test_interpreter_that_a_file_names(life: Life, place: Place, is_trusted: bool) -> None:
    """A file alone cannot have any program run as its session's interpreter; who trusts it gets what it names."""
    program = place.home / "program"
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    life.run("work", "1")
    head, *rest = lines(life, "work")
    usual = head["python"]
    named = put(place, [{**head, "name": "copy", "python": str(program)}, *rest])
    answer = life.call("POST", "/api/import", {"file": named, "trust": is_trusted})
    assert answer.status == 201, answer
    assert answer.json["session"]["python"] == (str(program) if is_trusted else usual)
    assert is_trusted or str(program) in answer.json["notes"][0]


# ---- the command line ----


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


def test_command_line_carries_a_session(omegactl: Omegactl, place: Place) -> None:
    """export writes a new file, import makes a session of it that goes on where the other was."""
    omegactl("exec", "work", "-c", "x = 41")
    omegactl("save", "work")
    file = str(place.home / "work.jsonl")
    assert "1 execution, its variables" in omegactl("export", "work", "--state", "-o", file).err
    assert Path(file).stat().st_mode & 0o777 == 0o600
    again = omegactl("export", "work", "-o", file)
    assert again.code == 2
    assert "-f" in again.err
    assert "--trust" in omegactl("import", file, "copy").err
    assert omegactl("import", file, "copy", "--trust").code == 0
    assert omegactl("exec", "copy", "-c", "x + 1").out == "42\n"
    assert json.loads(omegactl("export", "copy").out.splitlines()[0])["name"] == "copy"


def test_export_takes_the_present_variables_along_or_says_which(omegactl: Omegactl, place: Place) -> None:
    """What has changed since the last save is saved for it; of a session that is busy one is told which state it is."""
    first = json.loads(omegactl("exec", "work", "-c", "x = 1", "--format", "json").out)["id"]
    assert f"as they were after execution {first}." in omegactl("export", "work", "--state", "-o", "one").err
    second = json.loads(omegactl("exec", "work", "-c", "x = 2", "--format", "json").out)["id"]
    assert f"as they were after execution {second}." in omegactl("export", "work", "--state", "-o", "two").err
    gate = place.home / "gate"
    os.mkfifo(gate)
    omegactl("exec", "work", "--detach", "-c", f"x = 3; open({str(gate)!r}).read()")
    assert f"as they were after execution {second}." in omegactl("export", "work", "--state", "-o", "three").err
    gate.write_text("go")
    assert omegactl("wait", "work").code == 0
    assert omegactl("import", str(place.home / "two"), "copy", "--trust").code == 0
    assert omegactl("exec", "copy", "-c", "x").out == "2\n"


def test_notebook(omegactl: Omegactl, place: Place) -> None:
    """A notebook has a cell for each command, with what it printed, showed and raised, as Jupyter's format says."""
    omegactl("exec", "work", "-c", "print('hello'); 6 * 7")
    omegactl("exec", "work", "-c", "1 / 0")
    omegactl("exec", "work", "-c", PICTURE)
    file = place.home / "work.ipynb"
    assert omegactl("export", "work", "--notebook", "-o", str(file)).code == 0
    notebook = json.loads(file.read_text())
    nbformat.validate(notebook)
    first, second, third = notebook["cells"]
    assert [output["output_type"] for output in first["outputs"]] == ["stream", "execute_result"]
    assert first["outputs"][1]["data"] == {"text/plain": "42"}
    assert second["outputs"][0]["ename"] == "ZeroDivisionError"
    picture = base64.b64encode(b"\x89PNG fake").decode()
    assert third["outputs"][0]["data"] == {"text/plain": "picture", "image/png": picture}
    assert omegactl("export", "work", "--notebook", "--state", "-o", str(file)).code == 2
