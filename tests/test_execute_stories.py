"""Stories of single commands in a real session: bounds, streams, clients that leave, input, interrupts, children."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from caller import Json
from daemon import wait_until
from isolation import Place
from life import FOREVER, Life, gate, text

# ---- bounds: of the queue, the reply, the command, the output ----


def test_queue_is_bounded(lives: Callable[..., Life], place: Place) -> None:
    """A command beyond the bound is 429; interrupt gets through at once, and there is room again."""
    life = lives(max_queue=2)
    life.begin_running("work", FOREVER)
    queued = [life.begin("work", f"{n}") for n in range(2)]
    answer = life.execute("work", "'one too many'", wait_s=0)
    assert (answer.status, answer.code) == (429, "queue_full")
    life.post("/api/sessions/work/interrupt")
    assert [life.finished("work", id)["result"] for id in queued] == ["0", "1"]
    assert life.value("work", "2") == 2
    assert len(life.history("work")) == 4


def test_reply_is_bounded_and_the_work_goes_on(life: Life, place: Place) -> None:
    """After wait_s the answer is 202 with the execution as it is; a long-poll gets the rest when it is there."""
    wait, fifo = gate(place)
    answer = life.execute("work", f"print('begun', flush=True); {wait}; 7", wait_s=0.3)
    assert answer.status == 202
    id = answer.json["id"]
    with ThreadPoolExecutor() as pool:
        polling = pool.submit(life.execution, "work", id, 30)
        with fifo.open("w"):
            pass
        execution = polling.result(30)
    assert (execution["status"], execution["output"], execution["result"]) == ("ok", "begun\n7\n", "7")


def test_timeout_interrupts_and_keeps_variables(life: Life) -> None:
    """timeout_s ends the command, not the session: interrupted, reason timeout, variables kept."""
    execution = life.run("work", "x = 7\n" + FOREVER, timeout_s=0.3)
    assert (execution["status"], execution["reason"]) == ("interrupted", "timeout")
    assert life.value("work", "x") == 7


def test_timeout_holds_across_a_restart(life: Life, place: Place) -> None:
    """A new daemon arms timeout_s again, counted from when the command began."""
    id = life.begin_running("work", "x = 7\n" + FOREVER, timeout_s=2)
    life.kill()
    life.start()
    execution = life.finished("work", id)
    assert (execution["status"], execution["reason"]) == ("interrupted", "timeout")
    assert execution["duration_ms"] >= 1900
    assert life.value("work", "x") == 7


def test_long_output_is_cut_in_the_reply_alone(life: Life) -> None:
    """max_output keeps head and tail, says what is missing, and the whole is at …/output."""
    execution = life.run("work", "print('a' * 1000 + 'b' * 1000)", max_output=100)
    assert execution["truncated"] == {"dropped_bytes": 0, "omitted_bytes": 1901, "pruned_at": None}
    head, _, tail = execution["output"].strip().partition("\n")
    assert set(head) == {"a"}
    assert tail.endswith("b" * 49)
    assert execution["stdout"] == execution["output"]
    assert life.run("work", "123456789", max_output=4)["result"] == "12\n[… 6 bytes left out …]\n9"
    route = f"/api/sessions/work/executions/{execution['id']}/output"
    piece = life.get(route + "?offset=990&limit=20")
    assert (piece["text"], piece["next_offset"], piece["total_bytes"]) == ("a" * 10 + "b" * 10, 1010, 2001)
    assert life.get(route + "?find=ab")["offsets"] == [999]


def test_endless_output_keeps_its_ends(lives: Callable[..., Life]) -> None:
    """Beyond the kept head and tail output is dropped at the host and counted, and the ends are whole."""
    life = lives(output_head_bytes=65536, output_tail_bytes=4096)
    execution = life.run("work", "for n in range(200_000): print(n)", max_output=10**6)
    whole = "".join(f"{n}\n" for n in range(200_000))
    dropped = execution["truncated"]["dropped_bytes"]
    assert 0 < len(whole) - dropped <= 65536 + 4096
    head, mark, tail = execution["stdout"].partition(f"\n[… {dropped} bytes left out …]\n")
    assert mark
    assert head == whole[:65536]
    assert whole.endswith(tail)
    assert len(head + tail) == len(whole) - dropped
    piece = life.get(f"/api/sessions/work/executions/{execution['id']}/output?offset=65536")
    assert (piece["offset"], piece["text"], piece["eof"]) == (len(whole) - len(tail), tail, True)


# ---- clients that leave, streams ----


def leaving_client(life: Life, command: str, mark: Path, **options: object) -> None:
    """Ask for an execution, and go away while it runs."""
    body = json.dumps({"command": f"x = 7\nopen({str(mark)!r}, 'x').close()\n{command}", **options}).encode()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(life.path)
        client.sendall(
            b"POST /api/sessions/work/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )
        wait_until(mark.exists, "the command runs")


def test_client_that_leaves_interrupts_if_it_said_so(life: Life, place: Place) -> None:
    """With on_disconnect interrupt the command ends with its client, reason disconnect, variables kept."""
    leaving_client(life, FOREVER, place.base / "mark", on_disconnect="interrupt")
    wait_until(lambda: life.session("work")["state"] == "idle", "the command ends")
    (execution,) = life.history("work")
    assert (execution["status"], execution["reason"]) == ("interrupted", "disconnect")
    assert life.value("work", "x") == 7


def test_client_that_leaves_takes_back_what_waits(life: Life) -> None:
    """With on_disconnect interrupt a command that is still queued is cancelled with its client and never runs."""
    id = life.begin_running("work", FOREVER)
    body = json.dumps({"command": "x = 7", "on_disconnect": "interrupt"}).encode()
    head = b"POST /api/sessions/work/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(life.path)
        client.sendall(head % len(body) + body)
        wait_until(lambda: life.session("work")["queue_length"] == 1, "it is queued")
    wait_until(lambda: life.session("work")["queue_length"] == 0, "it is taken back")
    life.post("/api/sessions/work/interrupt", {"execution_id": id})
    assert life.value("work", "int('x' in globals())") == 0
    taken_back = life.history("work")[1]
    assert (taken_back["status"], taken_back["reason"]) == ("cancelled", "disconnect")


def test_client_that_leaves_detaches(life: Life, place: Place) -> None:
    """Without a word the command goes on when its client has gone."""
    wait, fifo = gate(place)
    leaving_client(life, f"{wait}; x += 1", place.base / "mark")
    life.get("/api/health")
    with fifo.open("w"):
        pass
    assert life.value("work", "x") == 8
    assert life.history("work")[0]["status"] == "ok"


def test_death_of_the_daemon_is_no_disconnect(life: Life, place: Place) -> None:
    """A command with on_disconnect interrupt outlives the daemon that its client was connected to."""
    wait, fifo = gate(place)
    mark = place.base / "mark"
    command = f"open({str(mark)!r}, 'w').write('1')\n{wait}; x = 7"
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(life.execute, "work", command, on_disconnect="interrupt")
        wait_until(lambda: text(mark), "the command runs")
        life.kill()
        with pytest.raises(OSError):
            waiting.result(30)
    life.start()
    with fifo.open("w"):
        pass
    assert life.value("work", "x") == 7


def outputs(events: list[Json]) -> str:
    """The output in a list of events; its offsets leave no gap."""
    whole = ""
    for event in events:
        if event["kind"] == "output":
            assert event["offset"] == len(whole.encode())
            whole += event["text"]
    return whole


def test_stream_is_complete(life: Life) -> None:
    """A streamed execute tells of the start, all output in order, and ends with the whole execution."""
    command = "import sys\nfor n in range(500): print(n, file=(sys.stdout, sys.stderr)[n % 2], flush=True)\n7"
    events = list(life.stream("POST", "/api/sessions/work/execute", {"command": command}))
    assert events[0]["kind"] == "execution_queued"
    assert events[-1]["kind"] == "execution_finished"
    assert outputs(events) == "".join(f"{n}\n" for n in range(500)) + "7\n"
    execution = events[-1]["execution"]
    assert (execution["output"], execution["status"], execution["result"]) == (outputs(events), "ok", "7")
    ids = [event["id"] for event in events]
    assert ids == sorted(set(ids))


def test_stream_comes_as_things_happen_and_can_be_taken_up_again(life: Life, place: Place) -> None:
    """Output is streamed while the command runs; after a crash the stream asked for again repeats and completes it."""
    wait, fifo = gate(place)
    stream = life.stream("POST", "/api/sessions/work/execute", {"command": f"print('one'); {wait}; print('two')"})
    seen = []
    for event in stream:
        seen.append(event)
        if event["kind"] == "output":
            break
    assert outputs(seen) == "one\n"
    stream.close()
    life.kill()
    life.start()
    again = life.stream("GET", f"/api/sessions/work/executions/{seen[0]['execution_id']}")
    with fifo.open("w"):
        pass
    whole = list(again)
    assert whole[: len(seen)] == seen
    assert outputs(whole) == "one\ntwo\n"
    assert whole[-1]["execution"]["output"] == "one\ntwo\n"
    rest = list(life.stream("GET", f"/api/events?since={seen[-1]['id']}&follow=0"))
    assert (
        outputs(seen + [event for event in rest if event.get("execution_id") == seen[0]["execution_id"]])
        == "one\ntwo\n"
    )


def test_feed_goes_on_from_any_event(life: Life) -> None:
    """GET /api/events follows everything, and since=ID gives exactly what came after ID."""
    everything = life.stream("GET", "/api/events?since=0")
    life.run("work", "1")
    seen = []
    for event in everything:
        seen.append(event["kind"])
        if event["kind"] == "execution_finished":
            assert life.call("DELETE", "/api/sessions/work").status == 204
        if event["kind"] == "session_deleted":
            last = event["id"]
            break
    everything.close()
    assert (seen[0], seen[-1]) == ("session_created", "session_deleted")
    life.run("work", "2")
    new = list(life.stream("GET", f"/api/events?since={last}&follow=0"))
    assert [event["kind"] for event in new if event["kind"] != "session_changed"] == [
        "session_created",
        "execution_queued",
        "execution_started",
        "output",
        "execution_finished",
    ]
    assert list(life.stream("GET", f"/api/events?since={new[2]['id']}&follow=0")) == new[3:]


def test_feed_tells_of_what_it_no_longer_keeps(lives: Callable[..., Life]) -> None:
    """A reader that comes too late gets a gap event first, and then all that is kept."""
    life = lives(events_kept=1000)
    life.run("work", "n = 0")
    for _ in range(1100):
        life.run("work", "n += 1")
    gap, *events = life.stream("GET", "/api/events?since=1&follow=0")
    assert (gap["kind"], gap["since"]) == ("gap", 1)
    assert gap["oldest_id"] == events[0]["id"] > 2
    assert len(events) >= 1000
    assert len(life.history("work")) == 1101


# ---- input ----


def test_input_is_answered_over_http(life: Life) -> None:
    """input() is a state of the session; the answer goes to the execution that asked, and the question is kept."""
    id = life.begin("work", "name = input('Who? ')\nprint('Hello', name)")
    wait_until(lambda: life.session("work")["state"] == "waiting_input", "the command asks")
    assert life.execution("work", id)["status"] == "waiting_input"
    assert life.call("POST", "/api/sessions/work/input", {"execution_id": id + 1, "text": "x"}).status == 404
    for lines in ("Ada\nyes", "Ada\r"):  # whose second one might be taken for a command
        refused = life.call("POST", "/api/sessions/work/input", {"execution_id": id, "text": lines})
        assert (refused.status, refused.json["code"]) == (400, "invalid_field")
    life.post("/api/sessions/work/input", {"execution_id": id, "text": "Ada"})
    execution = life.finished("work", id)
    assert execution["output"].endswith("Hello Ada\n")
    late = life.call("POST", "/api/sessions/work/input", {"execution_id": id, "text": "x"})
    assert (late.status, late.code) == (409, "not_waiting_input")
    kinds = [event["kind"] for event in life.stream("GET", f"/api/sessions/work/executions/{id}")]
    assert kinds.index("input_requested") < kinds.index("input_answered") < kinds.index("execution_finished")


def test_input_waits_across_a_crash(life: Life) -> None:
    """A question asked before the daemon died is answered through the next one; end of file ends input()."""
    id = life.begin("work", "try:\n    input('Who? ')\nexcept EOFError:\n    print('nobody')")
    wait_until(lambda: life.session("work")["state"] == "waiting_input", "the command asks")
    life.kill()
    life.start()
    wait_until(lambda: life.session("work")["state"] == "waiting_input", "the session is adopted")
    life.post("/api/sessions/work/input", {"execution_id": id, "text": None})
    assert life.finished("work", id)["output"].endswith("nobody\n")


def test_password_is_kept_nowhere(life: Life, place: Place) -> None:
    """The answer to a password prompt reaches the program and stands in no file of ours."""
    id = life.begin("work", "import getpass\nword = getpass.getpass('Password: ')\nlen(word)")
    wait_until(lambda: life.session("work")["state"] == "waiting_input", "the command asks")
    secret = "correct-horse-battery"
    life.post("/api/sessions/work/input", {"execution_id": id, "text": secret})
    assert life.finished("work", id)["result"] == str(len(secret))
    events = list(life.stream("GET", f"/api/sessions/work/executions/{id}"))
    assert [event["secret"] for event in events if event["kind"] == "input_requested"] == [True]
    assert [event["text"] for event in events if event["kind"] == "input_answered"] == [None]
    written = [file for file in place.base.rglob("*") if file.is_file()]
    assert place.state_dir / "journal.db" in written
    assert not [file for file in written if secret.encode() in file.read_bytes()]


# ---- interrupt, children ----


def prints(life: Life, route: str) -> str:
    return str(life.get(route)["text"])


def test_endless_print_loop_is_interrupted_200_times(life: Life) -> None:
    """200 interrupts inside an endless print loop end the loop each time, tear no frame and keep the variables."""
    life.run("work", "rounds = 0")
    pid = life.session("work")["pid"]
    line = "0123456789" * 4
    for _ in range(200):
        id = life.begin("work", f"rounds += 1\nwhile True: print({line!r})")
        route = f"/api/sessions/work/executions/{id}/output?limit="
        wait_until(partial(prints, life, route + "1"), "it prints")
        stopped = life.post("/api/sessions/work/interrupt", {"execution_id": id, "wait_s": 20})
        execution = stopped["execution"]
        assert (execution["status"], execution["reason"]) == ("interrupted", "user"), execution
        *lines, _ = prints(life, route + "100000").split("\n")
        assert set(lines[:-20]) <= {line}
    assert life.value("work", "rounds") == 200
    assert life.session("work")["pid"] == pid
    assert "connection" not in life.log


@pytest.mark.parametrize(
    "command",
    [
        "import time; time.sleep(60)",
        "while True: pass",
        "import subprocess; subprocess.run(['sleep', '60'])",
        "import asyncio; await asyncio.sleep(60)",
        "input()",
    ],
)
def test_interrupt_reaches_what_runs(life: Life, place: Place, command: str) -> None:
    """A command that sleeps, computes, waits for a child, awaits or asks is interrupted, and variables are kept."""
    life.begin_running("work", command, first="x = 7")
    stopped = life.post("/api/sessions/work/interrupt", {"wait_s": 20})
    assert stopped["execution"]["status"] == "interrupted"
    assert stopped["variables_kept"] is True
    assert life.value("work", "x") == 7


def test_interrupt_does_not_reach_the_next_command(life: Life) -> None:
    """An interrupt that comes when nothing runs is told so and does no harm to what comes after."""
    life.run("work", "x = 7")
    for _ in range(20):
        assert life.post("/api/sessions/work/interrupt")["note"] == "Nothing is running."
        assert life.value("work", "x") == 7


def test_child_that_prints_much_does_not_block(life: Life) -> None:
    """A child that prints 1 MB is read to its end while the session waits for it."""
    execution = life.run(
        "work", "import subprocess, sys\nsubprocess.run([sys.executable, '-c', 'print(\"y\" * 1000000)']).returncode"
    )
    assert execution["result"] == "0"
    assert execution["truncated"] is None
    assert execution["stdout"] == "y" * 1_000_000 + "\n"


def test_output_of_the_command_and_its_children_stays_in_order(life: Life) -> None:
    """print, child, print stand in this order, every time."""
    turn = "print('before', n); subprocess.run(['echo', 'child', str(n)]); print('after', n)"
    command = f"import subprocess\nfor n in range(40): {turn}"
    expected = "".join(f"before {n}\nchild {n}\nafter {n}\n" for n in range(40))
    assert life.run("work", command)["output"] == expected
