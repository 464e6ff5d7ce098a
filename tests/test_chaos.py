"""Many clients, many sessions, and a daemon that is killed again and again: nothing is lost and nothing runs twice.

Without systemd, whose start limit is no part of this story: clients start the next daemon themselves.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence

import pytest

from daemon import wait_until
from isolation import Place
from life import Life
from omega_sessiond import target
from omega_sessiond.client import Client, execution_path, session_path
from omega_sessiond.errors import SessionExists

UNFINISHED = ("queued", "running", "waiting_input")
SESSIONS, CLIENTS = 20, 60


class Worker(threading.Thread):
    """One client that takes turn after turn until the load is over or somebody has failed."""

    def __init__(self, number: int, load: Load) -> None:
        super().__init__(name=f"client {number}")
        self.number = number
        self.turns = 0
        self.failure: BaseException | None = None
        self._load = load

    def run(self) -> None:
        client = Client(target.find())
        try:
            while not self._load.over.is_set():
                self.turn(client)
                self.turns += 1
        except BaseException as error:
            self.failure = error
            self._load.failed.set()
        finally:
            client.close()

    def turn(self, client: Client) -> None:
        raise NotImplementedError


class Load:
    """Clients at work in a place whose daemon is struck again and again; clients start the next one themselves."""

    def __init__(self, place: Place) -> None:
        self.life = Life(place)
        self.place = place
        self.over, self.failed = threading.Event(), threading.Event()

    def bear(self, workers: Sequence[Worker], blow: signal.Signals, *, every_s: float, for_s: float) -> None:
        """Let them work for so long, and strike the daemon as often. None may fail, each must get through.

        However slow the machine, nobody is struck a third time before he got through: a client that has met nothing but
        daemons that died rightly gives up.
        """
        for worker in workers:
            worker.start()
        blows, end_at = 0, time.monotonic() + for_s
        turns = [[-1, -1] for _ in workers]
        try:
            while not self.failed.wait(every_s) and time.monotonic() < end_at:
                while not all(worker.turns > before for worker, (before, _) in zip(workers, turns, strict=True)):
                    if self.failed.wait(0.01):
                        break
                turns = [[before, worker.turns] for worker, (_, before) in zip(workers, turns, strict=True)]
                for pid in wait_until(self.life.daemons, "there is a daemon"):
                    os.kill(pid, blow)
                    blows += 1
        finally:
            self.over.set()
            for worker in workers:
                worker.join()
        failures = [worker.failure for worker in workers if worker.failure is not None]
        assert not failures, f"{failures}\n{self.life.log}"
        assert blows >= 3
        assert all(worker.turns for worker in workers)


# ---- commands ----


class Counting(Worker):
    """Runs numbered commands in its session. Half of these clients follow the events, half wait for the answer."""

    def __init__(self, number: int, load: Load) -> None:
        super().__init__(number, load)
        self.session = f"s{number % SESSIONS}"
        self.done: dict[str, int] = {}
        """What was answered: the line the command wrote, and its execution's id."""
        self._file = str(load.place.base / self.session)

    def turn(self, client: Client) -> None:
        line = f"{self.number}:{self.turns}"
        # Every fifth takes a moment, so that a blow finds commands in all their stages.
        pause = "import time; time.sleep(0.1)\n" if self.turns % 5 == 0 else ""
        options = {"command": f"{pause}open({self._file!r}, 'a').write({line!r} + '\\n')\nprint({line!r})"}
        if self.number % 2:
            *_, last = client.execute(self.session, options, dict)
            execution = last["execution"]
        else:
            path = session_path(self.session) + "/execute"
            execution = client.post(path, {**options, "idempotency_key": f"{line} of {self.session}"})
            while execution["status"] in UNFINISHED:  # the daemon was leaving
                execution = client.get(execution_path(self.session, execution["id"]), wait_s=30)
        assert (execution["status"], execution["output"]) == ("ok", line + "\n"), execution
        self.done[line] = execution["id"]


@pytest.mark.parametrize(
    ("blow", "every_s", "for_s"), [(signal.SIGKILL, 3.0, 20.0), (signal.SIGTERM, 0.7, 7.0)], ids=["killed", "stopped"]
)
def test_each_command_runs_once_and_in_order(place: Place, blow: signal.Signals, every_s: float, for_s: float) -> None:
    """60 clients, 20 sessions, and the daemon struck all the time: each command ran once, in order, nobody noticed."""
    load = Load(place)
    workers = [Counting(number, load) for number in range(CLIENTS)]
    load.bear(workers, blow, every_s=every_s, for_s=for_s)
    life = load.life
    life.adopt()
    for session in {worker.session for worker in workers}:
        answered = {line: id for worker in workers if worker.session == session for line, id in worker.done.items()}
        written = (place.base / session).read_text().splitlines()
        assert len(written) == len(set(written)), f"{session} ran a command twice"
        assert set(written) == set(answered), f"{session} lost a command"
        for number in {line.partition(":")[0] for line in written}:
            own = [line for line in written if line.partition(":")[0] == number]
            assert own == [f"{number}:{turn}" for turn in range(len(own))], f"{session} mixed up client {number}"
        history = life.history(session)
        assert [row["output"].strip() for row in history] == written, f"the history of {session} is another"
        assert {row["output"].strip(): row["id"] for row in history} == answered
        assert {row["status"] for row in history} == {"ok"}
    life.end()


# ---- sessions ----


class Making(Worker):
    """Makes a session, uses it and deletes it, under a new name each time."""

    def turn(self, client: Client) -> None:
        name = f"c{self.number}-{self.turns}"
        if self.turns % 2:
            *_, last = client.execute(name, {"command": "6 * 7"}, dict)
            assert last["execution"]["result"] == "42", last
        else:
            try:
                client.post("/api/sessions", {"name": name})
            except SessionExists:
                pass  # made by a daemon that was struck before it could say so
        client.request("DELETE", session_path(name), {"budget_s": 5})


def test_sessions_that_come_and_go_leave_nothing(place: Place) -> None:
    """Sessions are made, used and deleted while the daemon is killed twice a second: no process, no file is left."""
    load = Load(place)
    load.bear([Making(number, load) for number in range(8)], signal.SIGKILL, every_s=0.5, for_s=8)
    load.life.adopt()
    assert load.life.get("/api/sessions") == []
    places = place.state_dir / "sessions", place.runtime_dir / "omega-sessiond/hosts"
    wait_until(lambda: not any(map(os.listdir, places)), "nothing is left of them")
    load.life.end()
