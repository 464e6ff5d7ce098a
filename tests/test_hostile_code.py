"""Sessions whose code works against its own host: they are told of, stay in reach, and end when they must."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from threading import Thread

import pytest

import test_keeper
from daemon import wait_until
from isolation import Place
from life import Life
from omega_sessiond import service as services
from omega_sessiond import vault
from omega_sessiond.errors import CannotSave, HostFailed
from omega_sessiond.messages import CompleteRequest
from omega_sessiond.service import Service
from test_keeper import execute, until

Tell = Callable[..., None]
tell = test_keeper.tell

HANGS = """
def hang(*_):
    open({mark!r}, "w").close()
    while True: pass
"""


def test_report_that_never_ends_can_be_interrupted(life: Life, place: Place) -> None:
    """An interrupt reaches a command also while the source for its traceback is read, and variables are kept."""
    mark = place.base / "mark"
    code = HANGS.format(mark=str(mark)) + (
        "x = 41\n"
        "class Loader: get_source = hang\n"
        "__loader__ = Loader()\n"
        "exec(compile('1 / 0', 'elsewhere', 'exec'), globals())"
    )
    id = life.begin("work", code)
    wait_until(mark.exists, "the source is read")
    stopped = life.post("/api/sessions/work/interrupt", {"execution_id": id, "wait_s": 30})
    assert stopped["execution"]["error"]["name"] == "ZeroDivisionError"
    assert 'File "elsewhere", line 1, in <module>' in stopped["execution"]["error"]["traceback"]
    assert life.run("work", "x + 1")["result"] == "42"


@pytest.mark.parametrize("asked", ["inspect", "complete"])
def test_question_that_never_ends_can_be_interrupted(life: Life, place: Place, asked: str) -> None:
    """A __repr__ or __dir__ that goes on for ever gives way to the interrupt of the command that waits behind it."""
    mark = place.base / "mark"
    life.run("work", HANGS.format(mark=str(mark)) + "class Odd: __repr__ = __dir__ = hang\nx = Odd()\ny = 1")
    code = "x" if asked == "inspect" else "x."
    question = Thread(target=life.call, args=("POST", f"/api/sessions/work/{asked}", {"code": code}))
    question.start()
    wait_until(mark.exists, "the user's method runs")
    id = life.begin("work", "y")
    stopped = life.post("/api/sessions/work/interrupt", {"execution_id": id, "wait_s": 30})
    assert stopped["execution"]["status"] in ("interrupted", "ok")
    question.join()
    assert life.run("work", "y")["result"] == "1"


def test_session_without_room_for_a_thread_is_saved_and_forks(life: Life) -> None:
    """Where no memory is left for a thread of the host's own, a save still comes to an end, and so does a fork."""
    life.run("work", "x = 1")
    life.run(
        "work",
        "import resource\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(),) * 2)",
    )
    for _ in range(2):
        saved = life.call("POST", "/api/sessions/work/save")
        assert saved.status in (200, 409)
    forked = life.run("work", "import os\npid = os.fork()\nif not pid: os._exit(3)\nos.waitpid(pid, 0)[1] >> 8")
    assert forked["result"] == "3", forked
    assert life.run("work", "x")["result"] == "1"


def test_session_that_lets_go_of_its_socket_is_told_of(life: Life) -> None:
    """Code that puts something else behind every descriptor of its host's ends the session, with the reason."""
    life.execute(
        "work", "import os\nnull = os.open('/dev/null', os.O_RDWR)\nfor one in range(3, 64):\n    os.dup2(null, one)"
    )
    wait_until(lambda: life.session("work")["state"] == "dead", "it is given up")
    assert "closed its socket" in life.session("work")["state_reason"]
    after = life.run("work", "'null' in globals()")
    assert (after["result"], after["lost"]["variables"]) == ("False", "all")


def test_process_that_stands_still_keeps_nobody_waiting(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process is told of to whoever asks it or wants it saved, and goes on when it is let."""
    monkeypatch.setattr(services, "QUESTION_S", 0.2)
    monkeypatch.setattr(vault, "SAVE_GRACE_S", -119.8)

    async def story(service: Service) -> None:
        await execute(service, "work", "x = 1")
        pid = service.session("work").pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(HostFailed, match="has not answered within"):
                await service.complete("work", CompleteRequest("x"))
            with pytest.raises(CannotSave, match="does not answer"):
                await service.states.save("work")
            checkpoint = service.session("work").checkpoint
            assert checkpoint is not None and checkpoint.trouble == "its process does not answer"
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (await execute(service, "work", "x")).result == "1"
        await until(lambda: (now := service.session("work").checkpoint) is not None and now.id is not None)

    tell(story)
