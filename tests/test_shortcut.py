"""The fast path of `omegactl exec`: one request, one answer, and the long way for all that is not plain."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ctl import COMMAND, Omegactl
from isolation import Place
from stub import Asked, Stub, chunked, json_reply, lines, refusal, reply

PLAIN: dict[str, str] = {"Omega_Execution_Id": "7", "Omega_Session": "work", "Omega_Status": "ok"}
ANSWER = reply(b"42\n", **PLAIN)


@pytest.fixture
def omegactl(place: Place) -> Omegactl:
    return Omegactl(place)


@pytest.fixture
def socket_path(place: Place) -> Path:
    return place.runtime_dir / "omega-sessiond" / "api.sock"


def stream(output: str = "42\n", **fields: Any) -> bytes:
    """What the long way is answered: the same execution as events."""
    execution = {"id": 7, "session": "work", "status": "ok", "reason": None, "lost": None, "truncated": None,
                 "resumed_from": None, "error": None, **fields}  # fmt: skip
    return chunked(
        lines(
            {"id": 7, "kind": "execution_queued", "execution_id": 7},
            {"id": 8, "kind": "output", "execution_id": 7, "stream": "result", "offset": 0, "text": output},
            {"id": 9, "kind": "execution_finished", "execution_id": 7, "execution": execution},
        )
    )


@pytest.mark.parametrize(("status", "code"), [("ok", 0), ("error", 1)])
def test_output_and_exit_code(omegactl: Omegactl, socket_path: Path, status: str, code: int) -> None:
    """The body is printed as it is, and the status is the exit code."""
    with Stub(socket_path, reply("é\n".encode(), **{**PLAIN, "Omega_Status": status})) as stub:
        done = omegactl("exec", "work", "-c", "x")
    assert (done.code, done.out, done.err) == (code, "é\n", "")
    (asked,) = stub.asked
    assert (asked.method, asked.path) == ("POST", "/api/sessions/work/execute")
    assert asked.headers["accept"] == "text/plain"
    assert asked.json["create"] is False
    assert len(asked.json["idempotency_key"]) == 32


@pytest.mark.parametrize("code", ["print('a\\n\"b\"')", "é漢😀", "-1", "--help", "x\ny\t\x01\x7f", " "])
def test_code_travels_as_it_is(omegactl: Omegactl, socket_path: Path, code: str) -> None:
    """Whatever the code holds, the daemon reads the same characters."""
    with Stub(socket_path, ANSWER) as stub:
        assert omegactl("exec", "work", "-c", code).out == "42\n"
    assert stub.asked[0].json["command"] == code


def test_reply_may_come_byte_by_byte(omegactl: Omegactl, socket_path: Path) -> None:
    """However a reply is cut, it is read as one."""
    with Stub(socket_path, [bytes([byte]) for byte in ANSWER]) as stub:
        assert omegactl("exec", "work", "-c", "x").out == "42\n"
    assert len(stub.asked) == 1


@pytest.mark.parametrize("cut", [0, 5, 17, 40, len(ANSWER) - 4, len(ANSWER) - 3, len(ANSWER) - 1])
def test_reply_that_broke_off_goes_the_long_way(omegactl: Omegactl, socket_path: Path, cut: int) -> None:
    """A daemon that dies at any byte of its answer is replaced by the next, asked for the same execution: nothing runs
    twice and nothing is printed twice."""
    with Stub(socket_path, ANSWER[:cut], stream()) as stub:
        done = omegactl("exec", "work", "-c", "x")
    assert (done.code, done.out) == (0, "42\n")
    first, second = stub.asked
    if second.method == "POST":
        assert second.json["idempotency_key"] == first.json["idempotency_key"]
    else:
        assert second.path.startswith("/api/sessions/work/executions/7")


def test_long_command_is_followed(omegactl: Omegactl, socket_path: Path) -> None:
    """202 names the execution, whose output then comes as events."""
    with Stub(
        socket_path, reply(b"", "202 Accepted", **{**PLAIN, "Omega_Status": "running"}), stream("late\n")
    ) as stub:
        done = omegactl("exec", "work", "-c", "x")
    assert (done.code, done.out) == (0, "late\n")
    assert (stub.asked[1].method, stub.asked[1].path) == ("GET", "/api/sessions/work/executions/7?max_output=0")


@pytest.mark.parametrize(
    ("header", "fields", "told"),
    [
        (
            {"Omega_Lost": '{"variables": "all", "reason": "its process died"}'},
            {"lost": {"variables": "all", "reason": "its process died"}},
            "its process died",
        ),
        (
            {"Omega_Truncated": '{"dropped_bytes": 2048, "omitted_bytes": 0}'},
            {"truncated": {"dropped_bytes": 2048, "omitted_bytes": 0}},
            "2.0K",
        ),
        ({"Omega_Resumed_From": "monday"}, {"resumed_from": "monday"}, "monday"),
    ],
)
def test_what_has_to_be_told_is_told(
    omegactl: Omegactl, socket_path: Path, header: dict[str, str], fields: dict[str, Any], told: str
) -> None:
    """A loss is said on stderr, and the output is printed once."""
    with Stub(socket_path, reply(b"42\n", **PLAIN, **header), stream(**fields)):
        done = omegactl("exec", "work", "-c", "x")
    assert (done.code, done.out) == (0, "42\n")
    assert told in done.err


def test_missing_session_is_created_from_here(omegactl: Omegactl, socket_path: Path, place: Place) -> None:
    """After a 404 the session is created with this shell's directory, environment and virtual environment."""
    venv = place.home / "venv" / "bin"
    venv.mkdir(parents=True)
    (venv / "python").symlink_to(COMMAND[0])
    absent = refusal("session_not_found", "404 Not Found")
    with Stub(socket_path, absent, absent, stream()) as stub:
        done = omegactl("exec", "work", "-c", "x", env={"VIRTUAL_ENV": str(venv.parent), "MINE": "é"})
    assert done.out == "42\n"
    create = stub.asked[-1].json["create"]
    assert create["cwd"] == str(place.home)
    assert create["env"]["MINE"] == "é"
    assert create["python"] == str(venv / "python")
    assert len({asked.json["idempotency_key"] for asked in stub.asked}) == 1


def test_environment_that_is_no_text_is_left_out(omegactl: Omegactl, socket_path: Path) -> None:
    """A variable that is not UTF-8 cannot travel as JSON: the session is created without it, and that is said."""
    absent = refusal("session_not_found", "404 Not Found")
    with Stub(socket_path, absent, absent, stream()) as stub:
        done = omegactl("exec", "work", "-c", "x", env={"ODD": os.fsdecode(b"\xff")})
    assert "ODD" not in stub.asked[-1].json["create"]["env"]
    assert "ODD" in done.err


def test_reader_that_leaves_ends_it_quietly(omegactl: Omegactl, socket_path: Path, place: Place) -> None:
    """On a closed pipe it ends by SIGPIPE, like every filter, without a word."""
    with Stub(socket_path, reply(b"y\n" * 200_000, **PLAIN)):
        process = omegactl.start("exec", "work", "-c", "x")
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait() == -signal.SIGPIPE
        assert process.stderr.read() == ""
        process.stderr.close()


def test_full_disk_is_told(place: Place, socket_path: Path) -> None:
    """Output that cannot be written is a failure with a message."""
    with Stub(socket_path, ANSWER), open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*COMMAND, "exec", "work", "-c", "x"], stdout=full, stderr=subprocess.PIPE, env=place.env, text=True
        )
    assert done.returncode == 125
    assert "cannot write the output" in done.stderr


def test_output_is_written_whole_to_a_slow_reader(omegactl: Omegactl, socket_path: Path) -> None:
    """Far more than a pipe holds arrives whole."""
    body = b"".join(b"%d\n" % number for number in range(100_000))
    with Stub(socket_path, reply(body, **PLAIN)):
        assert omegactl("exec", "work", "-c", "x").out == body.decode()


def test_settings_file_decides_the_socket(place: Place, omegactl: Omegactl) -> None:
    """With session_dir in the settings file the daemon of that directory is asked."""
    from omega_sessiond.target import find

    file = place.config_home / "omega-sessiond" / "config.toml"
    file.parent.mkdir()
    file.write_text(f"session_dir = {json.dumps(str(place.home / 'state'))}\n")
    with Stub(Path(find().socket_path), stream()) as stub:
        assert omegactl("exec", "work", "-c", "x").out == "42\n"
    assert [asked.method for asked in stub.asked] == ["POST"]


def test_refusal_is_told_with_its_exit_code(omegactl: Omegactl, socket_path: Path) -> None:
    """An error of the daemon's is shown in its words and becomes its exit code."""
    with Stub(socket_path, refusal("queue_full", "429 Too Many", "100 commands are queued", "Wait.")):
        done = omegactl("exec", "work", "-c", "x")
    assert (done.code, done.out) == (5, "")
    assert done.err == "omegactl: 100 commands are queued\nWait.\n"


def test_nothing_else_is_taken_for_the_plain_case(omegactl: Omegactl, socket_path: Path) -> None:
    """With any further option the long way is asked, and answers in the form chosen."""

    def answer(asked: Asked) -> bytes:
        assert asked.headers["accept"] == "application/x-ndjson"
        return stream()

    with Stub(socket_path, answer):
        assert json.loads(omegactl("exec", "work", "-c", "x", "--json").out)["id"] == 7


def test_detached_command_prints_its_id(omegactl: Omegactl, socket_path: Path) -> None:
    """--detach hands the command over, waits for nothing and prints the id alone."""
    with Stub(socket_path, json_reply({"id": 12, "status": "queued"}, "202 Accepted")) as stub:
        done = omegactl("exec", "work", "-c", "x", "--detach")
    assert (done.code, done.out) == (0, "12\n")
    assert stub.asked[0].json["wait_s"] == 0
