"""Many clients, many sessions, and a daemon that is killed again and again: nothing is lost and nothing runs twice.

Without systemd, whose start limit is no part of this story: clients start the next daemon themselves.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path

from daemon import wait_until
from isolation import Place
from life import Life
from omega_sessiond import target
from omega_sessiond.client import Client, session_path

SESSIONS, CLIENTS = 20, 60
LOAD_S, KILL_EVERY_S = 20.0, 3.0


class Worker(threading.Thread):
    """One client: runs numbered commands in its session, one after the other, until the load is over.

    Half of them follow the events of their commands, half wait for the one answer.
    """

    def __init__(self, number: int, directory: Path, over: threading.Event, failed: threading.Event) -> None:
        super().__init__(name=f"client {number}")
        self.session = f"s{number % SESSIONS}"
        self.done: list[tuple[str, int]] = []
        """What was answered: the line the command wrote, and its execution's id."""
        self.failure: BaseException | None = None
        self._number = number
        self._file = str(directory / self.session)
        self._over = over
        self._failed = failed

    def run(self) -> None:
        client = Client(target.find())
        try:
            while not self._over.is_set():
                self._turn(client, f"{self._number}:{len(self.done)}")
        except BaseException as error:
            self.failure = error
            self._failed.set()
        finally:
            client.close()

    def _turn(self, client: Client, line: str) -> None:
        # Every fifth takes a moment, so that a kill finds commands in all their stages.
        pause = "import time; time.sleep(0.1)\n" if len(self.done) % 5 == 0 else ""
        options = {"command": f"{pause}open({self._file!r}, 'a').write({line!r} + '\\n')\nprint({line!r})"}
        if self._number % 2:
            *_, last = client.execute(self.session, options, dict)
            execution = last["execution"]
        else:
            key = f"{line} of {self.session}"
            execution = client.post(session_path(self.session) + "/execute", {**options, "idempotency_key": key})
        assert (execution["status"], execution["output"]) == ("ok", line + "\n"), execution
        self.done.append((line, execution["id"]))


def test_nothing_is_lost_while_the_daemon_is_killed_again_and_again(place: Place) -> None:
    """60 clients, 20 sessions, 20 seconds, kill -9 every 3: each command ran once, in order, and no client noticed."""
    life = Life(place)
    over, failed = threading.Event(), threading.Event()
    workers = [Worker(number, place.base, over, failed) for number in range(CLIENTS)]
    for worker in workers:
        worker.start()
    kills, end_at = 0, time.monotonic() + LOAD_S
    try:
        while not failed.wait(KILL_EVERY_S) and time.monotonic() < end_at:
            wait_until(life.daemons, "there is a daemon")
            for pid in life.daemons():
                os.kill(pid, signal.SIGKILL)
                kills += 1
    finally:
        over.set()
        for worker in workers:
            worker.join()
    assert [worker.failure for worker in workers if worker.failure is not None] == [], life.log
    assert kills >= 6

    answered: dict[str, dict[str, int]] = defaultdict(dict)
    for worker in workers:
        assert worker.done, f"{worker.name} never got an answer"
        answered[worker.session].update(worker.done)
    life.adopt()
    for session, lines in answered.items():
        written = (place.base / session).read_text().splitlines()
        assert len(written) == len(set(written)), f"{session} ran a command twice"
        assert set(written) == set(lines), f"{session} lost a command"
        for number in {line.partition(":")[0] for line in written}:
            own = [line for line in written if line.partition(":")[0] == number]
            assert own == [f"{number}:{turn}" for turn in range(len(own))], f"{session} mixed up client {number}"
        history = life.history(session)
        assert [row["output"].strip() for row in history] == written, f"the history of {session} is another"
        assert {row["output"].strip(): row["id"] for row in history} == lines
        assert {row["status"] for row in history} == {"ok"}
    life.end()
