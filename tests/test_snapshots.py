"""Named states of sessions: made, listed, gone back to, copied, forgotten; and the tree that tells of it."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable
from typing import Any

from daemon import wait_until
from gates import Asked, Gate, loading
from life import Life

Lives = Callable[..., Life]
WORK = "/api/sessions/work"


def snap(life: Life, name: str, **fields: Any) -> Any:
    return life.post(f"{WORK}/snapshots", {"name": name, **fields})


def test_restore_goes_back_and_keeps_what_there_was(life: Life) -> None:
    """A restored session has the snapshot's state, and the state it had is a snapshot to go back to in its turn."""
    first = life.run("work", "x = 1; gone = 1")["id"]
    made = snap(life, "first", note="a start", tags=["clean"])
    assert (made["execution_id"], made["complete"], made["note"], made["tags"]) == (first, True, "a start", ["clean"])
    life.run("work", "x = 2; del gone; new = 1")
    restored = life.post(f"{WORK}/restore", {"snapshot": "first"})
    assert restored["kept_as"].startswith("before-restore-")
    done = life.run("work", "x, gone, 'new' in globals()")
    assert (done["result"], done["lost"]) == ("(1, 1, False)", None) and done["resumed_from"] == made["checkpoint_id"]
    (event,) = [
        event
        for event in life.stream("GET", "/api/events?since=0&follow=false")
        if event["kind"] == "execution_started" and event["execution_id"] == done["id"]
    ]
    assert (event["resumed_from"], event["lost"]) == (made["checkpoint_id"], None)
    life.post(f"{WORK}/restore", {"snapshot": restored["kept_as"]})
    assert life.run("work", "x, new")["result"] == "(2, 1)"
    names = [row["name"] for row in life.get(f"{WORK}/snapshots")]
    assert names[:2] == ["first", restored["kept_as"]]
    assert life.get(f"{WORK}/snapshots")[1]["automatic"] == "restore"


def test_restore_that_is_not_loaded_is_an_error(life: Life) -> None:
    """A snapshot whose file is damaged: the answer says so and where to find what there was, which is restored."""
    life.run("work", "x = 1")
    made = snap(life, "first")
    session = life.run("work", "x = 2") and life.session("work")
    os.truncate(life.place.state_dir / "sessions" / session["id"] / "checkpoints" / made["checkpoint_id"] / "state", 10)
    answer = life.call("POST", f"{WORK}/restore", {"snapshot": "first"})
    assert (answer.status, answer.code) == (502, "host_failed")
    assert "Snapshot 'first' was not loaded" in answer.json["error"] and "is torn" in answer.json["error"]
    (kept,) = [row["name"] for row in life.get(f"{WORK}/snapshots") if row["automatic"] == "restore"]
    assert f"what it had is snapshot '{kept}'" in answer.json["hint"]
    assert life.run("work", "'x' in globals()")["lost"]["variables"] == "all"
    life.post(f"{WORK}/restore", {"snapshot": kept})
    assert life.value("work", "x") == 2


def test_command_that_comes_while_a_restore_saves_is_not_lost(life: Life) -> None:
    """A restore whose session is used while what it has is saved is refused, and the command has run."""
    held = Gate(life.place.base, "save")
    life.run("work", "x = 1")
    snap(life, "first")
    life.run("work", f"class Slow:\n    def __reduce__(self): {held.code}; return int, ()\nslow = Slow()")
    asked = Asked(life, f"{WORK}/restore", {"snapshot": "first"})
    held.pid()
    life.run("work", "x = 2")
    held.open()
    asked.join()
    assert asked.answer is not None and asked.answer.code == "session_busy", asked.answer
    assert life.value("work", "x") == 2
    held.close()


def test_restore_into_a_new_session(life: Life) -> None:
    """The copy sleeps with the snapshot's state until its first command; the two share nothing from then on."""
    life.run("work", "x = [1]")
    snap(life, "first")
    restored = life.post(f"{WORK}/restore", {"snapshot": "first", "into": "copy"})
    assert restored["session"]["state"] == "hibernated" and restored["kept_as"] is None
    assert life.call("POST", f"{WORK}/restore", {"snapshot": "first", "into": "copy"}).status == 409
    assert life.call("DELETE", WORK).status == 204
    life.restart()
    done = life.run("copy", "x.append(2); x")
    assert done["result"] == "[1, 2]" and done["resumed_from"]


def test_snapshot_outlives_later_saves_and_goes_with_its_name(life: Life) -> None:
    """Later checkpoints replace one another and leave a named one alone; forgetting the name removes its files."""
    life.run("work", "x = 1")
    kept = snap(life, "first")["checkpoint_id"]
    directory = life.place.state_dir / "sessions" / life.session("work")["id"] / "checkpoints"
    for number in (2, 3):
        life.run("work", f"x = {number}")
        life.post(f"{WORK}/save")
    current = life.session("work")["checkpoint"]["id"]
    assert sorted(os.listdir(directory)) == sorted([kept, current])
    assert life.call("DELETE", f"{WORK}/snapshots/first").status == 204
    assert os.listdir(directory) == [current]
    assert life.call("DELETE", f"{WORK}/snapshots/first").json["code"] == "snapshot_not_found"


def test_refusals_name_what_is_wrong(life: Life) -> None:
    """A name that is taken, one that is unknown, a busy session, and a state that could not be kept."""
    life.run("work", "x = 1")
    snap(life, "first")
    assert life.call("POST", f"{WORK}/snapshots", {"name": "first"}).json["code"] == "snapshot_exists"
    assert life.call("POST", f"{WORK}/restore", {"snapshot": "none"}).json["code"] == "snapshot_not_found"
    assert life.call("POST", f"{WORK}/snapshots", {"name": "../x"}).status == 400
    running = life.begin_running("work", "import time\nwhile True: time.sleep(0.01)")
    for route, body in (("snapshots", {"name": "busy"}), ("restore", {"snapshot": "first"})):
        assert life.call("POST", f"{WORK}/{route}", body).json["code"] == "session_busy"
    life.post(f"{WORK}/interrupt")
    assert life.finished("work", running)["status"] == "interrupted"
    life.run("work", "import os\nclass Deadly:\n    def __reduce__(self): os._exit(1)\nd = Deadly()")
    answer = life.call("POST", f"{WORK}/restore", {"snapshot": "first"})
    assert answer.json["code"] == "cannot_save"
    assert life.value("work", "int('d' in globals())") == 1


def test_sleeping_session_is_restored_without_waking(lives: Lives) -> None:
    """A hibernated session takes another snapshot without a process; it wakes with that one."""
    life = lives(save_interval_ms=100, hibernate_after_s=0.2)
    life.run("work", "x = 1")
    snap(life, "first")
    life.run("work", "x = 2")
    wait_until(lambda: life.session("work")["state"] == "hibernated", "it sleeps")
    restored = life.post(f"{WORK}/restore", {"snapshot": "first"})
    assert restored["session"]["state"] == "hibernated" and restored["kept_as"]
    assert life.value("work", "x") == 1


def test_refused_checkpoint_stays_as_a_snapshot(life: Life) -> None:
    """A checkpoint that could not be loaded is restored once what hindered it has passed."""
    needed = life.place.base / "needed"
    life.run("work", loading(f"open({str(needed)!r}).close()") + "t = Slow(); x = 1")
    life.post(f"{WORK}/save")
    os.kill(life.session("work")["pid"], signal.SIGKILL)
    wait_until(lambda: life.session("work")["state"] == "dead", "it is dead")
    done = life.run("work", "1")
    assert "No such file" in done["lost"]["reason"]
    (kept,) = life.get(f"{WORK}/snapshots")
    assert kept["automatic"] == "not loaded"
    needed.touch()
    life.post(f"{WORK}/restore", {"snapshot": kept["name"]})
    assert life.value("work", "x") == 1


def test_restore_says_what_could_not_be_kept(life: Life) -> None:
    """What it had is kept but for what no checkpoint holds, which its note names."""
    life.run("work", "x = 1")
    life.post(f"{WORK}/snapshots", {"name": "first"})
    assert "but for" not in life.post(f"{WORK}/restore", {"snapshot": "first"})["note"]
    life.run("work", "g = (i for i in range(9)); f = open('/etc/passwd')")
    told = life.omegactl("restore", "work", "first").stderr
    assert "What it had is kept as snapshot before-restore-" in told
    assert ", but for f, g" in told


def test_timeline_of_a_copy_hangs_from_what_it_began_with(life: Life) -> None:
    """A snapshot of it before its first command, and the way back to that, hang from the state that it was made of."""
    life.run("work", "n = 0")
    life.post(f"{WORK}/snapshots", {"name": "foo"})
    life.post(f"{WORK}/restore", {"snapshot": "foo", "into": "copy"})
    life.post("/api/sessions/copy/snapshots", {"name": "bar"})
    life.run("copy", "n = 1")
    life.post("/api/sessions/copy/restore", {"snapshot": "bar"})
    life.run("copy", "n")
    nodes = life.get("/api/sessions/copy/timeline")["nodes"]
    of = {(node["kind"], node["title"]): node for node in nodes}
    start = of["restore", "foo"]
    assert start["parent"] is None
    assert of["restore", "bar"]["parent"] == of["snapshot", "bar"]["parent"] == start["id"]
    assert of["execution", "n"]["parent"] == of["restore", "bar"]["id"]


def test_timeline_draws_what_it_was_asked_for(life: Life) -> None:
    """Of the restores before the executions that it shows only the last one is drawn."""
    life.run("work", "n = 0")
    life.post(f"{WORK}/snapshots", {"name": "foo"})
    for number in range(3):
        life.post(f"{WORK}/restore", {"snapshot": "foo"})
        life.run("work", f"n + {number}")
    cut = life.get(f"{WORK}/timeline?limit=1")["nodes"]
    assert [node["kind"] for node in cut if node["kind"] in ("restore", "execution")] == ["restore", "execution"]
    assert cut[1]["title"] == "n + 2"
    whole = life.get(f"{WORK}/timeline?limit=4")["nodes"]
    assert [node["kind"] for node in whole].count("restore") == 3


def test_timeline_keeps_its_order_when_history_is_gone(life: Life) -> None:
    """A restore after all was pruned comes behind the one before it, and what is run then hangs from it."""
    life.run("work", "n = 0")
    life.post(f"{WORK}/snapshots", {"name": "foo"})
    life.post(f"{WORK}/snapshots", {"name": "bar"})
    life.post(f"{WORK}/restore", {"snapshot": "foo"})
    assert life.call("POST", "/api/prune", {"keep": 0}).json["executions"] == 1
    life.post(f"{WORK}/restore", {"snapshot": "bar"})
    life.run("work", "n")
    nodes = [node for node in life.get(f"{WORK}/timeline")["nodes"] if node["kind"] in ("restore", "execution")]
    assert [node["title"] for node in nodes] == ["foo", "bar", "n"]
    assert nodes[2]["parent"] == nodes[1]["id"]


def test_timeline_is_a_tree(life: Life) -> None:
    """What follows a restore hangs from the execution whose state it is; losses and copies branch off."""
    first = life.run("work", "x = 1")["id"]
    snap(life, "first")
    second = life.run("work", "x = 2")["id"]
    life.post(f"{WORK}/restore", {"snapshot": "first"})
    third = life.run("work", "x")["id"]
    life.post(f"{WORK}/restore", {"snapshot": "first", "into": "copy"})
    os.kill(life.session("work")["pid"], signal.SIGKILL)
    wait_until(lambda: life.session("work")["state"] == "dead", "it is dead")
    fourth = life.run("work", "x")["id"]
    nodes = life.get(f"{WORK}/timeline")["nodes"]
    by_id = {node["id"]: node for node in nodes}

    def trace(node: Any) -> list[tuple[str, Any]]:
        found = []
        while node is not None:
            found.append((node["kind"], node["execution_id"] or node["title"]))
            node = by_id.get(node["parent"])
        return found

    def of(kind: str, title: object) -> Any:
        (found,) = [n for n in nodes if n["kind"] == kind and title in (n["execution_id"], n["title"])]
        return found

    assert trace(of("execution", second)) == [("execution", second), ("execution", first)]
    assert trace(of("execution", third)) == [("execution", third), ("restore", "first"), ("execution", first)]
    woken = trace(of("execution", fourth))
    assert [kind for kind, _ in woken] == ["execution", "wake", "execution"] and woken[-1] == ("execution", first)
    assert trace(of("loss", ""))[1] == ("execution", third)
    assert trace(of("copy", "copy"))[-1] == ("execution", first)
    named = life.omegactl("timeline", "work", "--format", "name").stdout.split()
    assert {*map(str, (first, second, third, fourth)), "first", "copy"} <= set(named), named
    assert len(named) == len(nodes) - 1
    drawn = life.omegactl("timeline", "work").stdout.splitlines()
    assert life.omegactl("timeline", "work", "--format", "wide").stdout.splitlines() == drawn
    assert len(drawn) == len(nodes) and any(line.startswith("│ ◆ snapshot first") for line in drawn), drawn


def test_commands(life: Life) -> None:
    """save, snapshot, snapshots, restore and timeline speak in words, and in JSON when asked."""
    life.run("work", "x = 1; g = (i for i in ())")
    done = life.omegactl("save", "work")
    assert done.returncode == 0 and "Saved work: but for g, after execution" in done.stderr
    assert "left out: g: cannot pickle 'generator' object" in done.stderr
    assert life.omegactl("snapshot", "work", "first", "-m", "a start", "--tag", "t").returncode == 0
    (row,) = json.loads(life.omegactl("snapshots", "work", "--json").stdout)
    assert (row["name"], row["note"], row["tags"]) == ("first", "a start", ["t"])
    assert "first" in life.omegactl("snapshots", "work").stdout
    life.run("work", "x = 2")
    done = life.omegactl("restore", "work", "first")
    assert "kept as snapshot before-restore-" in done.stderr
    done = life.omegactl("exec", "work", "-c", "x")
    assert done.stdout == "1\n" and "resumed from" in done.stderr and "g" in done.stderr
    assert life.omegactl("restore", "work", "first", "--into", "copy").returncode == 0
    assert json.loads(life.omegactl("timeline", "work", "--json").stdout)["session"] == "work"
    assert life.omegactl("snapshot", "work", "first", "--delete").returncode == 0
    assert life.omegactl("restore", "work", "first").returncode == 4
    assert "but for g" in life.omegactl("ls", "-w").stdout
    assert "cannot pickle" in life.omegactl("show", "work").stdout
    life.omegactl("snapshot", "work", "second")
    assert json.loads(life.omegactl("snapshot", "work", "second", "--delete", "--json").stdout) == {"deleted": "second"}


def test_fork_from_a_checkpoint(life: Life) -> None:
    """Where a thread stands in the way of a fork, what is saved is copied; the copy's first answer names the rest."""
    first = life.run("work", "import threading; stop = threading.Event()\nx = [1]; g = (i for i in ())")
    life.run("work", "threading.Thread(target=stop.wait, name='busy').start()")
    assert life.call("POST", f"{WORK}/fork", {"name": "copy"}).json["code"] == "cannot_fork"
    copy = life.post(f"{WORK}/fork", {"name": "copy", "from_checkpoint": True})
    assert copy["state"] == "hibernated" and copy["parent"]["session"] == "work"
    assert copy["parent"]["execution_id"] > first["id"]
    done = life.run("copy", "x.append(2); x")
    assert done["result"] == "[1, 2]" and done["resumed_from"] == copy["checkpoint"]["id"]
    assert done["lost"]["variables"] == ["g", "stop"] and "thread busy" in done["lost"]["reason"]
    assert life.value("work", "len(x)") == 1
    assert life.omegactl("fork", "work", "other", "--from-checkpoint").returncode == 0
    life.run("work", "stop.set()")


def test_what_snapshots_take_is_told(life: Life) -> None:
    """prune, show and /metrics say how many snapshots there are and how large; what has two names counts once."""
    life.run("work", "x = b'x' * 100_000")
    for name in ("first", "again"):
        life.post("/api/sessions/work/snapshots", {"name": name})
    life.run("other", "y = b'y' * 50_000")
    life.post("/api/sessions/other/snapshots", {"name": "third"})
    life.run("other", "y = 1")
    kept = life.post("/api/sessions/other/restore", {"snapshot": "third"})["kept_as"]
    sizes = {
        row["name"]: row["size_bytes"]
        for name in ("work", "other")
        for row in life.get(f"/api/sessions/{name}/snapshots")
    }
    report = life.post("/api/prune", {"dry_run": True})["snapshots"]
    assert (report["named"], report["automatic"]) == (3, 1)
    assert report["named_bytes"] == sizes["first"] + sizes["third"]
    assert report["automatic_bytes"] == sizes[kept]
    alone = life.post("/api/prune", {"dry_run": True, "session": "work"})["snapshots"]
    assert alone == {"named": 2, "named_bytes": sizes["first"], "automatic": 0, "automatic_bytes": 0}
    said = life.omegactl("prune", "--dry-run").stderr
    assert "Snapshots stay: 3 named (" in said
    assert "1 automatic (" in said
    assert re.search(r"snapshots: +2 named \(.*K\)\n", life.omegactl("show", "work").stdout)
    metrics = life.call("GET", "/metrics").body.decode()
    assert 'omega_snapshots{kind="named"} 3.0' in metrics
    assert f'omega_snapshots_bytes{{kind="named"}} {float(report["named_bytes"])}' in metrics
