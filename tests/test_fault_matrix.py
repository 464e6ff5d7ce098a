"""Every fault at every moment: the history is whole, the state is the last one promised, and the next answer says what
is lost.

A *moment* brings the session `work` to one point of its life and holds it there: code of the session shows a mark and
waits at a gate. There a *fault* strikes, and then the gates open. The *verdict* that stands for the two in MATRIX looks
at what came of it. Every session begins with x = 1, which is saved, and then sets x = 2.
"""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from caller import Json
from conftest import unavailable
from daemon import wait_until
from gates import Asked, Gate, loading
from isolation import Place
from life import Life, is_alive
from smalldisk import SmallDisk

WORK = "/api/sessions/work"
ONE = "x = 1; tag = 'as it was'"


class Stage:
    """The session `work` of one daemon. `is_saving`: a checkpoint shall be under way at the moment.

    `kept` is x in the checkpoint that a new process takes up, `now` what x comes to when nothing is lost; `resumes`: by
    then the session has gone on from a checkpoint; `is_loading`: it is doing so at the moment. `begun` and `queued` are
    unfinished commands, `telling` is the one of them that must say so. `reason` is told of what is lost or not kept.
    """

    def __init__(self, life: Life, disk: SmallDisk | None, *, is_saving: bool) -> None:
        self.life = life
        self.disk = disk
        self.is_saving = is_saving
        self.kept, self.now, self.resumes = 1, 2, False
        self.begun: int | None = None
        self.queued: int | None = None
        self.telling: int | None = None
        self.asked: Asked | None = None
        self.reason = ""
        self.is_loading = False
        self.saving, self.gate = Gate(life.place.base, "saving"), Gate(life.place.base, "moment")
        self._seen: dict[int, tuple[str, str]] = {}
        wait_until(lambda: self._fork_servers("ready"), "the first session can be forked")

    # ---- what moments are made of ----

    def run(self, command: str, output: str = "") -> None:
        """A command to its end."""
        execution = self.life.run("work", command)
        assert (execution["status"], execution["output"]) == ("ok", output), execution
        self._seen[execution["id"]] = command, output

    def begin(self, command: str, output: str, status: str) -> int:
        """A command up to where it has said `output` and has that status."""
        id = self.life.begin("work", command)
        self._seen[id] = command, output

        def is_there() -> bool:
            found = self.life.execution("work", id)
            return (found["status"], found["output"]) == (status, output)

        wait_until(is_there, f"{command} is {status}")
        return id

    def save(self) -> None:
        self.life.post(f"{WORK}/save")

    def begin_with_two(self, more: str = "") -> None:
        """x = 1 is saved and x = 2 is not. Where a checkpoint is to be under way, pickling comes to its gate."""
        self.run(f"{ONE}; print('one')", "one\n")
        self.save()
        if self.is_saving:
            more += f"\nclass Slow:\n    def __reduce__(self): {self.saving.code}; return int, ()\nslow = Slow()"
        self.run(f"x = 2; print('two')\n{more}", "two\n")

    def sleep_with_two(self, filler: str = "") -> None:
        """x = 2 is saved, no process has it, and loading it comes to the gate."""
        self.begin_with_two(loading(self.gate.code) + filler)
        self.run("slow = Slow(); rest = [bytes(1 << 20)]")
        self.save()
        self.kept = 2
        self.end_process()

    def end_process(self, pid: int | None = None) -> None:
        """kill -9, and the daemon knows."""
        pid = pid or self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid) and self.life.session("work")["pid"] != pid, "the death is noticed")

    @property
    def pid(self) -> int:
        return int(self.life.session("work")["pid"])

    def begin_save(self) -> None:
        self.asked = Asked(self.life, f"{WORK}/save")
        self.saving.pid()

    # ---- what faults are made of ----

    def _fork_servers(self, state: str) -> list[int]:
        found = self.life.get("/api/server")["fork_servers"]
        return [one["pid"] for one in found if one["state"] == state]

    def lose_fork_server(self) -> None:
        (old,) = self._fork_servers("ready")
        os.kill(old, signal.SIGKILL)
        wait_until(lambda: any(pid != old for pid in self._fork_servers("ready")), "there is another fork server")

    def checkpoint_file(self) -> Path:
        session = self.life.session("work")
        place = self.life.place.state_dir / "sessions" / session["id"] / "checkpoints"
        return Path(place, session["checkpoint"]["id"], "state")

    # ---- what verdicts are made of ----

    def let_go(self) -> None:
        """Open the gates, give the answer that is waited for, and hear what was asked for out."""
        self.saving.open()
        self.gate.open()
        wait_until(lambda: self.life.get("/api/health")["status"] == "ok", "the journal takes what comes")
        if self.begun is not None and self.life.execution("work", self.begun)["status"] == "waiting_input":
            self.life.post(f"{WORK}/input", {"execution_id": self.begun, "text": "3"})
        if self.asked is not None:
            self.asked.join()
        wait_until(lambda: self.life.session("work")["state"] not in ("starting", "reconnecting"), "it has settled")

    def unfinished_are(self, begun: str, queued: str) -> None:
        """What became of the commands that were begun and queued."""
        for id, status in ((self.begun, begun), (self.queued, queued)):
            if id is not None:
                assert self.life.finished("work", id)["status"] == status

    def next(self) -> Json:
        """The first command that finds what there is now: one that waited for it, or a new one."""
        waited, self.telling = self.telling, None
        found = None if waited is None else self.life.finished("work", waited)
        return found if found is not None and found["status"] != "cancelled" else self.life.run("work", "x")

    def goes_on(self, x: int, *, resumed: bool, lost: str = "") -> None:
        """The next command finds this x, and says where it went on from and that x was lost for this reason; the one
        after says no more."""
        done = self.next()
        checkpoint = self.life.session("work")["checkpoint"]["id"]
        assert (done["result"], done["resumed_from"]) == (str(x), checkpoint if resumed else None), done
        if lost:
            assert "x" in done["lost"]["variables"] and lost in done["lost"]["reason"], done
        else:
            assert done["lost"] is None, done
        again = self.life.run("work", "x")
        assert (again["result"], again["resumed_from"], again["lost"]) == (str(x), None, None)

    def is_refused(self) -> None:
        """The next command finds nothing: the answer says that all is lost and why; the checkpoint is a snapshot."""
        done = self.next()
        assert (done["status"], done["error"]["name"], done["resumed_from"]) == ("error", "NameError", None), done
        why = done["lost"]["reason"]
        assert done["lost"]["variables"] == "all" and "the checkpoint was not loaded" in why and self.reason in why, (
            done
        )
        assert any(one["automatic"] == "not loaded" for one in self.life.get(f"{WORK}/snapshots"))

    def history_is_whole(self) -> None:
        """Every command that was taken is there, once, in order, with all that it was seen to say."""
        rows = self.life.history("work")
        assert [row["id"] for row in rows] == sorted({row["id"] for row in rows})
        found = {row["id"]: (row["command"], row["output"]) for row in rows}
        for id, (command, output) in self._seen.items():
            assert found[id][0] == command and found[id][1].startswith(output), found[id]
        assert all(row["finished_at"] for row in rows)

    def close(self) -> None:
        """Let through whoever still waits."""
        self.saving.close()
        self.gate.close()
        if self.asked is not None:
            self.asked.join()


# ---- moments ----


def idle(stage: Stage) -> None:
    """Nothing runs."""
    stage.begin_with_two()
    if stage.is_saving:
        stage.begin_save()


def running(stage: Stage) -> None:
    """A command is in the middle of its work."""
    idle(stage)
    stage.begun = stage.begin(f"x = 3; print('three')\n{stage.gate.code}; None", "three\n", "running")
    stage.gate.pid()
    stage.now = 3


def queued(stage: Stage) -> None:
    """A command waits behind the one that runs."""
    running(stage)
    stage.queued = stage.begin("x = 4; print('four')", "", "queued")
    stage.now = 4


def waiting_input(stage: Stage) -> None:
    """A command asks for input."""
    idle(stage)
    stage.begun = stage.begin("print('three')\nx = int(input())", "three\n", "waiting_input")
    stage.now = 3


def hibernating(stage: Stage) -> None:
    """All is saved, the process has been put to sleep and is in its last step."""
    last = "import os\ndef last(status, end=os._exit, pid=os.getpid()):\n"
    last += f"    if os.getpid() == pid: {stage.gate.code}\n    end(status)\nos._exit = last"
    stage.begin_with_two(last)
    stage.save()
    stage.kept, stage.resumes = 2, True
    stage.life.post("/api/sessions", {"name": "other"})
    stage.gate.pid()


def leaving(stage: Stage) -> None:
    """An idle process was told to end (SIGTERM) and writes its last checkpoint, while a command comes."""
    if stage.is_saving:
        stage.reason = "SIGTERM"  # what ends it is no fault
    stage.is_saving, stage.resumes = True, True
    stage.begin_with_two()
    os.kill(stage.pid, signal.SIGTERM)
    stage.saving.pid()
    stage.queued = stage.telling = stage.begin("x", "", "running")


def waking(stage: Stage) -> None:
    """A new process loads the checkpoint, for a command that waits for it."""
    stage.sleep_with_two()
    stage.resumes = True
    stage.queued = stage.telling = stage.begin("x", "", "queued")
    stage.gate.pid()
    stage.is_loading = True


def forking(stage: Stage) -> None:
    """The process is about to be copied; or the copy waits until what is being saved is saved."""
    hold = f"import os\nos.register_at_fork(before=lambda: {stage.gate.code})"
    stage.begin_with_two("" if stage.is_saving else hold)
    if stage.is_saving:
        stage.begin_save()
    stage.asked = Asked(stage.life, f"{WORK}/fork", {"name": "copy"})
    if stage.is_saving:
        wait_until(lambda: len(stage.life.get("/api/sessions")) == 2, "the copy is being made")
    else:
        stage.gate.pid()


def restoring(stage: Stage) -> None:
    """A new process loads the snapshot that was asked for; or what there is is being saved before."""
    stage.run(f"{ONE}; print('one')", "one\n")
    stage.run(loading(stage.gate.code))
    stage.run("slow = Slow(); rest = [bytes(1 << 20)]")
    stage.life.post(f"{WORK}/snapshots", {"name": "first"})
    if stage.is_saving:
        stage.run(f"class Slow:\n    def __reduce__(self): {stage.saving.code}; return int, ()\nslow = Slow()")
    else:
        stage.run("del slow")
        stage.now, stage.resumes, stage.is_loading = 1, True, True
    stage.run("x = 2; print('two')", "two\n")
    stage.asked = Asked(stage.life, f"{WORK}/restore", {"snapshot": "first"})
    (stage.saving if stage.is_saving else stage.gate).pid()


MOMENTS = {
    m.__name__: m for m in (idle, running, queued, waiting_input, hibernating, leaving, waking, forking, restoring)
}

SETTINGS: dict[str, dict[str, object]] = {"hibernating": {"max_cached_sessions": 1}}

# ---- faults ----


def host(stage: Stage) -> None:
    """kill -9 of the session's process."""
    stage.end_process()


def daemon(stage: Stage) -> None:
    """kill -9 of the daemon, and the next one starts."""
    stage.life.kill()
    stage.life.start()


def fork_server(stage: Stage) -> None:
    """kill -9 of the process that the session was forked from."""
    stage.lose_fork_server()


def saver(stage: Stage) -> None:
    """kill -9 of the child that writes a checkpoint."""
    os.kill(stage.saving.pid(), signal.SIGKILL)


def full_disk(stage: Stage) -> None:
    """The disk is full while a checkpoint is written, and has room again afterwards."""
    assert stage.disk is not None
    stage.disk.fill()
    stage.saving.open()
    wait_until(lambda: not is_alive(stage.saving.pid()), "the save has come to its end")
    stage.disk.free()


def torn(stage: Stage) -> None:
    """The checkpoint is cut off. What is being loaded has been compared with what was noted already."""
    stage.reason = "truncated" if stage.is_loading else "is torn"
    os.truncate(stage.checkpoint_file(), stage.checkpoint_file().stat().st_size // 2)


def tampered(stage: Stage) -> None:
    """The checkpoint is changed, and as long as before: it would be loaded, were it not compared with what was noted,
    as has been done where it is being loaded."""
    file = stage.checkpoint_file()
    data = file.read_bytes()
    assert b"as it was" in data
    stage.reason = "invalid load key" if stage.is_loading else "its checksum differs"
    file.write_bytes(data[:-2] + b"xx" if stage.is_loading else data.replace(b"as it was", b"as it is!"))


def reboot(stage: Stage) -> None:
    """Everything ends at once, the runtime directory is gone, and the boot is another."""
    place = stage.life.place
    stage.life.kill()
    for pid in place.processes():
        with suppress(ProcessLookupError):  # the daemon's own go with it
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not place.processes(), "everything has ended")
    shutil.rmtree(place.runtime_dir / "omega-sessiond")
    with closing(sqlite3.connect(place.state_dir / "journal.db")) as journal, journal:
        journal.execute("UPDATE sessions SET host = json_set(host, '$.boot_id', 'another') WHERE host IS NOT NULL")
    stage.life.start()


FAULTS = {f.__name__: f for f in (host, daemon, fork_server, saver, full_disk, torn, tampered, reboot)}

# ---- verdicts ----


def lives(stage: Stage) -> None:
    """It costs nothing: every command ends well, and all that was ever set is there."""
    stage.let_go()
    stage.unfinished_are("ok", "ok")
    stage.goes_on(stage.now, resumed=stage.resumes)


def falls_back(stage: Stage) -> None:
    """The process is gone, and what was begun with it: the session goes on from its checkpoint."""
    stage.let_go()
    stage.unfinished_are("died", "cancelled")
    stage.goes_on(stage.kept, resumed=True, lost=stage.reason if stage.kept != stage.now else "")


def is_refused(stage: Stage) -> None:
    """The checkpoint is not loaded, and the session begins anew."""
    stage.let_go()
    stage.is_refused()


def outlives_it(stage: Stage) -> None:
    """It costs nothing as long as the process lives; the next one is refused the checkpoint."""
    lives(stage)
    stage.end_process()
    stage.is_refused()


def keeps_the_last(stage: Stage) -> None:
    """What was being written is not kept, and the session says why; the process lives, and the checkpoint before is the
    one that the next one takes up."""
    checkpoint = stage.life.session("work")["checkpoint"]["id"]
    lives(stage)
    found = stage.life.session("work")["checkpoint"]
    assert found["id"] == checkpoint and stage.reason in found["trouble"], found
    stage.end_process()
    stage.goes_on(stage.kept, resumed=True, lost="ran after the checkpoint")


Verdict = Callable[[Stage], None]

WHOLE = "nothing is written: all was saved before"
EMPTY = "nothing is written: what wakes has nothing to save yet"

MATRIX: dict[str, dict[str, Verdict | str]] = {
    "idle": {
        "host": falls_back,
        "daemon": lives,
        "fork_server": lives,
        "saver": keeps_the_last,
        "full_disk": keeps_the_last,
        "torn": outlives_it,
        "tampered": outlives_it,
        "reboot": falls_back,
    },
    "running": {
        "host": falls_back,
        "daemon": lives,
        "fork_server": lives,
        "saver": keeps_the_last,
        "full_disk": keeps_the_last,
        "torn": outlives_it,
        "tampered": outlives_it,
        "reboot": falls_back,
    },
    "queued": {
        "host": falls_back,
        "daemon": lives,
        "fork_server": lives,
        "saver": keeps_the_last,
        "full_disk": keeps_the_last,
        "torn": outlives_it,
        "tampered": outlives_it,
        "reboot": falls_back,
    },
    "waiting_input": {
        "host": falls_back,
        "daemon": lives,
        "fork_server": lives,
        "saver": keeps_the_last,
        "full_disk": keeps_the_last,
        "torn": outlives_it,
        "tampered": outlives_it,
        "reboot": falls_back,
    },
    "hibernating": {
        "host": falls_back,
        "daemon": lives,
        "fork_server": lives,
        "saver": WHOLE,
        "full_disk": WHOLE,
        "torn": is_refused,
        "tampered": is_refused,
        "reboot": falls_back,
    },
    "leaving": {
        "host": falls_back,
        "daemon": lives,
        "fork_server": lives,
        "saver": falls_back,
        "full_disk": falls_back,
        "torn": lives,  # a new one takes its place
        "tampered": lives,
        "reboot": falls_back,
    },
    "waking": {
        "host": falls_back,
        "daemon": lives,
        "fork_server": lives,
        "saver": EMPTY,
        "full_disk": EMPTY,
        "torn": is_refused,
        "tampered": is_refused,
        "reboot": falls_back,
    },
    "forking": {
        "host": falls_back,
        "daemon": lives,
        "fork_server": lives,
        "saver": keeps_the_last,
        "full_disk": keeps_the_last,
        "torn": outlives_it,
        "tampered": outlives_it,
        "reboot": falls_back,
    },
    "restoring": {
        "host": falls_back,
        "daemon": lives,
        "fork_server": lives,
        "saver": keeps_the_last,
        "full_disk": keeps_the_last,
        "torn": is_refused,
        "tampered": is_refused,
        "reboot": falls_back,
    },
}
"""What is to become of the session; a reason where the two cannot meet."""

REASONS = {
    "host": "SIGKILL",
    "saver": "the process that wrote it was ended",
    "full_disk": "No space left",
    "reboot": "the machine was restarted",
}
"""What is told of a fault where something is lost, or was not kept."""

# ---- what else a moment leaves ----


def copy_is_sound(stage: Stage) -> None:
    """A copy that was promised has everything; one that was refused is not there; one that nobody heard of says that it
    has lost all."""
    assert stage.asked is not None
    answer = stage.asked.answer
    is_there = any(one["name"] == "copy" for one in stage.life.get("/api/sessions"))
    assert is_there == (answer is None or answer.status in (201, 507)), answer
    if answer is None or answer.status == 507:  # it was in the journal already
        lost = stage.life.run("copy", "1")["lost"]
        assert lost["variables"] == "all" and "while it was being forked from 'work'" in lost["reason"]
    elif is_there:
        assert stage.life.run("copy", "x")["result"] == "2"


def replaced_is_kept(stage: Stage) -> None:
    """What a restore has replaced is a snapshot, whatever became of the restore; where it could not be saved, nothing
    was replaced."""
    assert stage.asked is not None
    answer = stage.asked.answer
    kept = [one["name"] for one in stage.life.get(f"{WORK}/snapshots") if one["automatic"] == "restore"]
    if stage.is_saving:
        assert answer is not None and answer.code in ("cannot_save", "journal_full"), answer
        assert kept == []
        return
    stage.life.post(f"{WORK}/restore", {"snapshot": kept[0]})
    assert stage.life.run("work", "x")["result"] == "2"


AFTERMATH = {"forking": copy_is_sound, "restoring": replaced_is_kept}


@pytest.fixture
def disk(place: Place, request: pytest.FixtureRequest) -> Iterator[SmallDisk | None]:
    """A small disk for the state directory, where the fault is that it is full."""
    if request.node.callspec.params["fault"] != "full_disk":
        yield None
        return
    if os.geteuid() != 0:
        unavailable("not root: a small disk cannot be mounted")
    small = SmallDisk(place.state_dir)
    yield small
    small.close()


CELLS = [(m, f) for m, row in MATRIX.items() for f, verdict in row.items() if not isinstance(verdict, str)]


@pytest.mark.parametrize(("moment", "fault"), CELLS, ids=[f"{fault}-{moment}" for moment, fault in CELLS])
def test_fault_at_a_moment(place: Place, disk: SmallDisk | None, moment: str, fault: str) -> None:
    """See MATRIX."""
    life = Life(place, SETTINGS.get(moment), disk.inside if disk is not None else ())
    life.daemon.log_may_have = ("No space left",) if disk is not None else ()
    life.start()
    stage = Stage(life, disk, is_saving=fault in ("saver", "full_disk"))
    stage.reason = REASONS.get(fault, "")
    try:
        MOMENTS[moment](stage)
        FAULTS[fault](stage)
        verdict = MATRIX[moment][fault]
        assert not isinstance(verdict, str)
        verdict(stage)
        if moment in AFTERMATH:
            AFTERMATH[moment](stage)
        stage.history_is_whole()
    finally:
        stage.close()
    life.end()


def test_no_cell_is_forgotten() -> None:
    """Each fault stands at each moment, with a verdict or with the reason why the two cannot meet."""
    assert MATRIX.keys() == MOMENTS.keys()
    assert all(row.keys() == FAULTS.keys() for row in MATRIX.values())
