"""Awkward moments: requests that cross each other, daemons that die between two steps, hosts that lie."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

import test_keeper
from life import is_alive
from misbehaving import interpreter
from omega_sessiond import database, deletions, keeper, paths, retention, states
from omega_sessiond import session as decide
from omega_sessiond.errors import (
    CannotSave,
    HostFailed,
    JournalError,
    JournalFull,
    SessionBusy,
    SessionNotFound,
    SnapshotNotFound,
    Stopping,
)
from omega_sessiond.host import Host, Launch
from omega_sessiond.journal import Journal
from omega_sessiond.live import Live
from omega_sessiond.messages import (
    CompleteRequest,
    CreateOptions,
    CreateSession,
    EndRequest,
    ExecuteRequest,
    ForkRequest,
    InputRequest,
    InterruptRequest,
    Limits,
    PatchLimits,
    PatchSession,
    RestoreRequest,
    SnapshotRequest,
)
from omega_sessiond.pruning import Pruning
from omega_sessiond.service import Service
from omega_sessiond.shelf import Shelf
from test_keeper import execute, until

Tell = Callable[..., None]
tell = test_keeper.tell


def long(mark: Path) -> str:
    """A command that shows that it has begun and goes on until it is interrupted."""
    return f"open({str(mark)!r}, 'x').close()\nimport time\ntime.sleep(600)"


ASK = "import getpass\ngetpass.getpass('word: ')"


def test_secret_answer(tell: Tell) -> None:
    """A password given to a later daemon than the one that was asked is not journalled either."""
    ids: list[int] = []

    async def first(service: Service) -> None:
        await execute(service, "work", "1")
        ids.append(service.executions.submit("work", ExecuteRequest(ASK)))
        await until(lambda: service.session("work").state == "waiting_input")

    async def second(service: Service) -> None:
        await until(lambda: service.session("work").state == "waiting_input")
        await service.executions.answer("work", InputRequest(ids[0], "hush"))
        done = await service.executions.finished("work", ids[0], 30.0)
        assert done.result == "'hush'"
        told = [line for _, line in service._journal.events(0, 1000) if b'"input_answered"' in line]
        assert len(told) == 1 and b"hush" not in told[0]

    tell(first, second)


def test_answer_that_never_arrived(tell: Tell) -> None:
    """An answer journalled by a daemon that died before it sent it can be given again."""
    ids: list[int] = []

    async def first(service: Service) -> None:
        await execute(service, "work", "1")
        ids.append(service.executions.submit("work", ExecuteRequest("input('? ')")))
        await until(lambda: service.session("work").state == "waiting_input")
        deaf(service, "work")
        await service.executions.answer("work", InputRequest(ids[0], "one"))

    async def second(service: Service) -> None:
        await until(lambda: service.session("work").state != "reconnecting")
        assert service.session("work").state == "waiting_input"
        assert service.executions.get("work", ids[0]).status == "waiting_input"
        await service.executions.answer("work", InputRequest(ids[0], "two"))
        assert (await service.executions.finished("work", ids[0], 30.0)).result == "'two'"

    tell(first, second)


def test_kill_before_adoption(tell: Tell, tmp_path: Path) -> None:
    """A command that a host out of reach had begun is told as died when that host is killed, not as never begun."""
    ids: list[int] = []
    mark = tmp_path / "begun"

    async def first(service: Service) -> None:
        ids.append(service.executions.submit("work", ExecuteRequest(long(mark), idempotency_key="k")))
        ids.append(service.executions.submit("work", ExecuteRequest("2")))
        await until(mark.exists)
        os.kill(service.session("work").pid or 0, signal.SIGSTOP)

    async def second(service: Service) -> None:
        stopped = await service.kill("work", EndRequest(0.5))
        assert stopped.steps[-1].action == "SIGKILL"
        one, two = service.executions.get("work", ids[0]), service.executions.get("work", ids[1])
        assert (one.status, one.reason) == ("died", "killed")
        assert (two.status, two.reason) == ("cancelled", "killed")
        assert service.executions.submit("work", ExecuteRequest(long(mark), idempotency_key="k")) == ids[0]

    tell(first, second)


def test_abandon_before_adoption(tell: Tell, tmp_path: Path) -> None:
    """A client that leaves while its running command's host is out of reach does not make it a command never begun."""
    ids: list[int] = []
    mark = tmp_path / "begun"

    async def first(service: Service) -> None:
        ids.append(service.executions.submit("work", ExecuteRequest(long(mark))))
        await until(mark.exists)

    async def second(service: Service) -> None:
        assert service.session("work").state == "reconnecting"
        service.executions.abandoned(ids[0])
        assert (await service.executions.finished("work", ids[0], 30.0)).status == "interrupted"

    tell(first, second)


def test_follow_execution_of_deleted(tell: Tell, tmp_path: Path) -> None:
    """Who follows a command of a session that is deleted gets its end."""

    async def story(service: Service) -> None:
        id = service.executions.submit("work", ExecuteRequest(long(tmp_path / "begun")))
        queued = service.executions.submit("work", ExecuteRequest("2"))

        async def read(id: int) -> list[dict[str, Any]]:
            lines = b"".join([chunk async for chunk in service.executions.follow("work", id)])
            return [json.loads(line) for line in lines.splitlines()]

        readers = [asyncio.create_task(read(n)) for n in (id, queued)]
        await until(lambda: (tmp_path / "begun").exists() and len(service._keeper.feed._sleepers) == 2)
        await service.delete("work", EndRequest(5.0))
        one, two = await asyncio.gather(*readers)
        assert one[-1]["execution"]["status"] == "interrupted", one[-1]
        assert two[-1]["execution"]["status"] == "cancelled"
        assert two[-1]["execution"]["reason"] == "deleted"

    tell(story)


class Death(BaseException):
    """Stands for the end of the daemon between two steps."""


def test_restore_whose_daemon_ends_before_the_process_does(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A restore that stands in the journal is brought to its end by the next daemon: no process goes on with a state
    that is not the session's any more."""

    async def first(service: Service) -> None:
        await execute(service, "work", "x = 1")
        await service.states.snapshot("work", SnapshotRequest("one"))
        await execute(service, "work", "x = 2")

        def die(*args: object, **options: object) -> None:
            raise Death

        monkeypatch.setattr(service._keeper, "end", die)
        with pytest.raises(Death):
            await service.states.restore("work", RestoreRequest("one"))

    async def second(service: Service) -> None:
        await until(lambda: not service._keeper.by_name["work"].record.keep.is_replaced)
        done = await execute(service, "work", "x")
        assert (done.result, done.lost) == ("1", None) and done.resumed_from
        (kept,) = [one.name for one in service.states.snapshots("work") if one.automatic]
        await service.states.restore("work", RestoreRequest(kept))
        assert (await execute(service, "work", "x")).result == "2"

    tell(first, second)


def test_copy_whose_daemon_ends_in_the_middle(tell: Tell) -> None:
    """A session that was being made from a checkpoint is not there afterwards, rather than there without its state."""

    async def first(service: Service) -> None:
        await execute(service, "work", "x = 1")
        await service.states.snapshot("work", SnapshotRequest("one"))

        def die(*args: object) -> None:
            raise Death

        with pytest.MonkeyPatch.context() as patch, pytest.raises(Death):
            patch.setattr(states, "_link_files", die)
            await service.states.restore("work", RestoreRequest("one", into="copy"))

    async def second(service: Service) -> None:
        assert [session.name for session in service.sessions()] == ["work"]
        await service.states.restore("work", RestoreRequest("one", into="copy"))
        assert (await execute(service, "copy", "x")).result == "1"

    tell(first, second)


@pytest.mark.parametrize(("command", "state"), [("x = 1", "hibernated"), ("x = open('/etc/passwd')", "dead")])
def test_stop_with_unit(tell: Tell, command: str, state: str) -> None:
    """A daemon whose unit takes its hosts ends them before it leaves: one that can be saved whole sleeps."""

    async def first(service: Service) -> None:
        await execute(service, "work", command)
        service._keeper._dies_with_its_unit = True
        async with asyncio.timeout(20):
            await service.stop()

    async def second(service: Service) -> None:
        assert service.session("work").state == state
        assert service.session("work").state_reason == "daemon_stopped by request"

    tell(first, second)


def deaf(service: Service, name: str) -> None:
    """From now on nothing reaches the session's host, as if the daemon died before each sending."""
    host = service._keeper.by_name[name].host
    assert host is not None
    host.execute = lambda execution_id, code: None  # type: ignore[method-assign]
    host.give_input = lambda execution_id, text: None  # type: ignore[method-assign]


def test_daemon_dies_between_commit_and_sending(tell: Tell) -> None:
    """A command that was journalled as begun and never sent begins with the next daemon: with its whole time, and with
    the loss it is to tell of."""
    ids: list[int] = []

    async def first(service: Service) -> None:
        await execute(service, "work", "x = 1")
        await service.kill("work", EndRequest(5.0))
        await service.restart("work", EndRequest(5.0))
        deaf(service, "work")
        ids.append(
            service.executions.submit("work", ExecuteRequest("import time; time.sleep(0.2); 'whole'", timeout_s=5.0))
        )
        assert service.executions.get("work", ids[0]).status == "running"
        started = service._journal.execution(service.session("work").id, ids[0])
        assert started is not None and started.lost is not None
        with service._journal.atomic():
            service._journal._execute(
                "UPDATE executions SET started_at = '2026-01-01T00:00:00.000000Z' WHERE id = ?", ids
            )

    async def second(service: Service) -> None:
        done = await service.executions.finished("work", ids[0], 30.0)
        assert (done.status, done.result) == ("ok", "'whole'")
        assert done.lost is not None

    tell(first, second)


class Killed(BaseException):
    """The daemon dies here."""


def test_daemon_dies_before_a_newborn_is_recorded(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next daemon ends the process, removes what was made for it, and the name is free."""
    newborn: list[Host] = []
    places: list[str] = []

    async def first(service: Service) -> None:
        newborn.append(await watch_births(service, monkeypatch, Killed()))
        places.append(service._state_dir)
        assert os.listdir(service._state_dir + "/sessions") == [newborn[0].session_id]

    async def second(service: Service) -> None:
        await until(lambda: not is_alive(newborn[0].pid))
        await until(lambda: os.listdir(places[0] + "/sessions") == [])
        assert (await execute(service, "work", "6 * 7")).result == "42"

    tell(first, second)


def test_newborn_whose_session_cannot_be_recorded_ends(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that refuses a session keeps nothing of it: no process, no file."""

    async def story(service: Service) -> None:
        newborn = await watch_births(service, monkeypatch, JournalError("the disk is full"))
        assert os.listdir(service._state_dir + "/sessions") == []
        await until(lambda: not is_alive(newborn.pid))
        assert (await execute(service, "work", "6 * 7")).result == "42"

    tell(story)


def test_session_whose_first_command_is_refused(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that could not be taken leaves no session that was made for it, nor its process; others stay."""

    async def story(service: Service) -> None:
        await execute(service, "other", "x = 1")
        newborn = await watch_births(service, monkeypatch, JournalFull("the disk is full"), "queue")
        assert [session.name for session in service.sessions()] == ["other"]
        await until(lambda: not is_alive(newborn.pid))
        assert (await execute(service, "work", "6 * 7")).result == "42"
        with monkeypatch.context() as patched, pytest.raises(JournalFull):
            patched.setattr(service._journal, "queue", failing(JournalFull("the disk is full")))
            service.executions.submit("other", ExecuteRequest("2"))
        assert (await execute(service, "other", "x")).result == "1"

    tell(story)


async def watch_births(
    service: Service, monkeypatch: pytest.MonkeyPatch, error: BaseException, refuses: str = "add_session"
) -> Host:
    """Run a command in a new session that a process waits for, and have the journal fail; the process that was to be
    its host."""
    await until(lambda: service._keeper._nursery.has_spare)
    beget, born = service._keeper.beget, []

    def watched(launch: Launch, limits: Limits) -> Host | None:
        born.append(beget(launch, limits))
        return born[-1]

    with monkeypatch.context() as patched:
        patched.setattr(service._keeper, "beget", watched)
        patched.setattr(service._journal, refuses, failing(error))
        with pytest.raises(type(error)):
            service.executions.submit("work", ExecuteRequest("1"))
    (newborn,) = born
    assert newborn is not None
    return newborn


def failing(error: BaseException) -> Callable[..., Any]:
    def fail(*values: object, **options: object) -> Any:
        raise error

    return fail


def test_loss_is_told_by_the_command_that_runs(tell: Tell) -> None:
    """A loss that a command told of which was cancelled before it began is told by the next one."""

    async def story(service: Service) -> None:
        await execute(service, "work", "x = 1")
        await service.restart("work", EndRequest(5.0))
        deaf(service, "work")
        id = service.executions.submit("work", ExecuteRequest("2"))
        os.kill(service.session("work").pid or 0, signal.SIGKILL)
        cancelled = await service.executions.finished("work", id, 30.0)
        assert (cancelled.status, cancelled.reason) == ("cancelled", "host_died")
        assert (await execute(service, "work", "3")).lost is not None
        assert (await execute(service, "work", "4")).lost is None

    tell(story)


def test_reader_slower_than_what_is_kept(tell: Tell) -> None:
    """A reader of the feed that falls behind what is kept gets a gap event, and goes on with what there is."""

    async def story(service: Service) -> None:
        await execute(service, "work", "1")
        feed = service.follow(0)
        first = (await anext(feed)).splitlines()
        for _ in range(10):
            await execute(service, "work", "1")
        service._keeper.feed.prune(5)
        last = service._journal.last_event_id()
        gap = json.loads(await anext(feed))
        assert (gap["kind"], gap["since"]) == ("gap", json.loads(first[-1])["id"])
        assert gap["oldest_id"] == last - 4
        rest = (await anext(feed)).splitlines()
        assert [json.loads(line)["id"] for line in rest] == list(range(last - 4, last + 1))

    tell(story)


# ---- limits that change meanwhile ----


class Manager:
    """A user manager that answers when it may, and knows what it was told."""

    def __init__(self) -> None:
        self.limits: list[Limits] = []
        self.asked = 0
        self.may_answer = asyncio.Event()

    async def start(self, unit: str, pid: int, description: str, limits: Limits, stop_s: float) -> None:
        await self.set_limits(unit, limits)

    async def set_limits(self, unit: str, limits: Limits) -> None:
        self.asked += 1
        await self.may_answer.wait()
        self.limits.append(limits)

    async def stop(self, unit: str) -> None: ...
    async def kill(self, unit: str, signum: int) -> None: ...
    async def cgroup(self, unit: str) -> str | None:
        return None


SLOW = """
class Slow:
    def __reduce__(self):
        import time
        time.sleep(0.5)
        return (int, ())
slow = Slow()
"""
"""What makes a save last, so that something can happen meanwhile."""


def test_snapshot_removed_while_what_there_is_is_saved(tell: Tell) -> None:
    """A restore whose snapshot goes while the present state is saved is refused, and replaces nothing."""

    async def story(service: Service) -> None:
        await execute(service, "work", "x = 1")
        await service.states.snapshot("work", SnapshotRequest("first"))
        await execute(service, "work", SLOW + "\nx = 2")
        asked = asyncio.create_task(service.states.restore("work", RestoreRequest("first")))
        await until(lambda: service._keeper.by_name["work"].saving is not None)
        service.states.delete_snapshot("work", "first")
        with pytest.raises(SnapshotNotFound):
            await asked
        assert (await execute(service, "work", "x")).result == "2"

    tell(story)


@pytest.mark.parametrize("what", ["save", "snapshot", "restore", "fork", "fork from checkpoint"])
def test_session_deleted_while_something_else_is_asked_of_it(tell: Tell, what: str) -> None:
    """Whoever waits for a session that is deleted meanwhile is told so, and what has its name by then is untouched."""

    async def story(service: Service) -> None:
        await execute(service, "work", "x = 1")
        await service.states.snapshot("work", SnapshotRequest("first"))
        await execute(service, "work", SLOW)
        asks: dict[str, Callable[[], Awaitable[object]]] = {
            "save": lambda: service.states.save("work"),
            "snapshot": lambda: service.states.snapshot("work", SnapshotRequest("second")),
            "restore": lambda: service.states.restore("work", RestoreRequest("first")),
            "fork": lambda: service.fork("work", ForkRequest("copy")),
            "fork from checkpoint": lambda: service.fork("work", ForkRequest("copy", from_checkpoint=True)),
        }
        asked = asyncio.ensure_future(asks[what]())
        await asyncio.sleep(0)
        await service.delete("work", EndRequest(5.0))
        await service.create(CreateSession(name="work"))
        with pytest.raises((SessionNotFound, SessionBusy, CannotSave, HostFailed)):
            await asked
        assert [session.name for session in service.sessions()] == ["work"]
        assert (await execute(service, "work", "1")).lost is None

    tell(story)


def refuse_a_step(monkeypatch: pytest.MonkeyPatch, error: BaseException, refusals: int) -> None:
    """Have the second step of a deletion fail so many times, each soon after the other."""
    remove, left = Pruning.remove, [0, *[1] * refusals]

    def refusing(pruning: Pruning, ids: Any) -> None:
        if left and left.pop(0):
            raise error
        remove(pruning, ids)

    monkeypatch.setattr(retention, "STEP_EXECUTIONS", 2)
    monkeypatch.setattr(deletions, "RETRY_S", 0.01)
    monkeypatch.setattr(Pruning, "remove", refusing)


@pytest.mark.parametrize("error", [Killed(), JournalFull("the disk is full")], ids=["dies", "is refused"])
def test_daemon_dies_while_a_session_is_deleted(tell: Tell, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """With a part of its history gone nothing more runs in the session, and the next daemon deletes the rest."""

    async def first(service: Service) -> None:
        for number in range(5):
            await execute(service, "work", f"{number}")
        with monkeypatch.context() as patched:
            refuse_a_step(patched, error, 1000)
            with pytest.raises(type(error)):
                await service.delete("work", EndRequest(5.0))
        if isinstance(error, JournalFull):
            assert "is gone already" in error.hint
        for use in (service.session, lambda name: service.executions.submit(name, ExecuteRequest("6 * 7"))):
            with pytest.raises(SessionBusy, match="is being deleted"):
                use("work")
        left = service._journal.executions(service._keeper.by_name["work"].record.id, 0, 100)
        assert [row.command for row in left] == ["2", "3", "4"]

    async def second(service: Service) -> None:
        assert service.sessions() == []
        assert (await execute(service, "work", "6 * 7")).execution_count == 1

    tell(first, second)


def test_deletion_that_was_refused_is_finished(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the journal has held up goes as soon as it can be written, and the name is free again."""

    async def story(service: Service) -> None:
        for number in range(5):
            await execute(service, "work", f"{number}")
        directory = Path(paths.session_dir(service._state_dir, service.session("work").id))
        await until(directory.is_dir)
        refuse_a_step(monkeypatch, JournalFull("the disk is full"), 3)
        with pytest.raises(JournalFull):
            await service.delete("work", EndRequest(5.0))
        await until(lambda: service.sessions() == [] and not directory.exists())
        assert (await execute(service, "work", "6 * 7")).execution_count == 1
        await service.delete("work", EndRequest(5.0))

    tell(story)


def refuse_removal(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Have the removal of sessions fail three times, each soon after the other; how many times are left."""
    delete_session, left = Journal.delete_session, [3]

    def refusing(journal: Journal, session_id: str, event: Any) -> None:
        if left[0]:
            left[0] -= 1
            raise JournalFull("the disk is full")
        delete_session(journal, session_id, event)

    monkeypatch.setattr(deletions, "RETRY_S", 0.01)
    monkeypatch.setattr(Journal, "delete_session", refusing)
    return left


def test_deletion_that_cannot_begin(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A session of which nothing has gone is as before, also for the next daemon."""

    async def first(service: Service) -> None:
        await execute(service, "work", "1")
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "delete_session", failing(JournalFull("the disk is full")))
            with pytest.raises(JournalFull):
                await service.delete("work", EndRequest(5.0))
        service.executions.submit("work", ExecuteRequest("x = 2"))

    async def second(service: Service) -> None:
        assert (await execute(service, "work", "x")).result == "2"

    tell(first, second)


def test_daemon_begins_while_nothing_can_be_removed(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a session that the journal does not let go keeps no daemon from its work, and goes when it can."""
    left: list[list[int]] = []

    async def first(service: Service) -> None:
        await execute(service, "other", "x = 1")
        service.make("half", CreateOptions(), is_arriving=True)
        left.append(refuse_removal(monkeypatch))

    async def second(service: Service) -> None:
        with pytest.raises(SessionBusy, match="is being deleted"):
            service.session("half")
        assert (await execute(service, "other", "x")).result == "1"
        await until(lambda: "half" not in service._keeper.by_name)
        assert left == [[0]]

    tell(first, second)


def test_session_that_came_to_nothing_on_a_full_disk(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork that the journal refuses leaves no session that somebody could use, though it refuses its removal too."""

    async def story(service: Service) -> None:
        await execute(service, "work", "x = 1")
        await service.states.save("work")
        with monkeypatch.context() as patched:
            refusals = refuse_removal(patched)
            patched.setattr(Shelf, "add", failing(JournalFull("the disk is full")))
            with pytest.raises(JournalFull):
                await service.fork("work", ForkRequest("copy", from_checkpoint=True))
            with pytest.raises(SessionBusy, match="is being deleted"):
                service.session("copy")
            await until(lambda: "copy" not in service._keeper.by_name)
        assert refusals == [0]
        assert (await service.fork("work", ForkRequest("copy", from_checkpoint=True))).name == "copy"

    tell(story)


def test_export_of_a_session_that_is_deleted_meanwhile(tell: Tell) -> None:
    """A file from which a deletion took a part has no end, so that nobody takes it for whole."""

    async def story(service: Service) -> None:
        for number in range(60):
            await execute(service, "work", str(number))
        exported = await service.transfer.export("work", with_state=False)
        lines = [await anext(exported)]
        await service.delete("work", EndRequest(2.0))
        with pytest.raises(SessionNotFound, match="was deleted while"):
            while True:
                lines.append(await anext(exported))
        assert b'"end"' not in lines[-1]

    tell(story)


def test_export_whose_checkpoint_is_gone(tell: Tell) -> None:
    """Files of a checkpoint that somebody has removed are a failure in words."""

    async def story(service: Service) -> None:
        await execute(service, "work", "x = 1")
        await service.states.save("work")
        record = service._keeper.by_name["work"].record
        directory = Path(paths.checkpoints_dir(service._state_dir, record.id))
        (directory / str(record.keep.checkpoint_id) / "state").unlink()
        with pytest.raises(JournalError, match="No such file"):
            await anext(await service.transfer.export("work", with_state=True))

    tell(story)


def test_limits_that_change_while_a_scope_is_made(tell: Tell) -> None:
    """A PATCH that comes while the scope of a new host is being made reaches that scope."""

    async def story(service: Service) -> None:
        manager = service._keeper.containment.scopes = Manager()
        creation = asyncio.create_task(service.create(CreateSession(name="work", limits=Limits(tasks=100))))
        await until(lambda: manager.asked == 1)
        await service.patch("work", PatchSession(limits=PatchLimits(tasks=50)))
        manager.may_answer.set()
        assert (await creation).limits.tasks == 50
        assert manager.limits[-1].tasks == 50

    tell(story)


def test_changes_that_cross(tell: Tell) -> None:
    """Of two PATCHes at once neither takes back what the other changed."""

    async def story(service: Service) -> None:
        manager = service._keeper.containment.scopes = Manager()
        manager.may_answer.set()
        await service.create(CreateSession(name="work", limits=Limits(tasks=100)))
        manager.may_answer.clear()
        asked = manager.asked
        slow = asyncio.create_task(service.patch("work", PatchSession(limits=PatchLimits(tasks=50))))
        await until(lambda: manager.asked > asked)
        await service.patch("work", PatchSession(labels={"of": "mine"}))
        manager.may_answer.set()
        await slow
        session = service.session("work")
        assert (session.limits.tasks, session.labels) == (50, {"of": "mine"})
        assert manager.limits[-1].tasks == 50

    tell(story)


# ---- ends and starts that cross ----


def stopped_session(pids: list[int]) -> Callable[[Service], Awaitable[None]]:
    """A story that leaves a session whose host does not answer."""

    async def story(service: Service) -> None:
        await execute(service, "work", "x = 1")
        pids.append(service.session("work").pid or 0)
        os.kill(pids[0], signal.SIGSTOP)

    return story


def test_restart_and_delete_of_a_host_out_of_reach(tell: Tell) -> None:
    """No process comes after the deletion of its session."""
    pids: list[int] = []

    async def second(service: Service) -> None:
        live = service._keeper.by_name["work"]
        restart = asyncio.create_task(service.restart("work", EndRequest(2.0)))
        await asyncio.sleep(0)
        await service.delete("work", EndRequest(1.5))
        with pytest.raises(SessionNotFound):
            await restart
        assert live.host is None and not is_alive(pids[0])
        assert (await execute(service, "work", "6 * 7")).execution_count == 1

    tell(stopped_session(pids), second)


def test_restart_and_kill_while_the_host_dies(tell: Tell) -> None:
    """Whoever came second ends what the first has started, and the session goes on."""
    pids: list[int] = []

    async def second(service: Service) -> None:
        asked = [
            asyncio.create_task(service.restart("work", EndRequest(10.0))),
            asyncio.create_task(service.kill("work", EndRequest(10.0))),
        ]
        await asyncio.sleep(0)
        os.kill(pids[0], signal.SIGKILL)
        await asyncio.gather(*asked, return_exceptions=True)
        assert (await execute(service, "work", "6 * 7")).result == "42"

    tell(stopped_session(pids), second)


def test_kill_while_a_successor_starts(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill that began with a dead process ends the one that a command has started meanwhile."""

    async def first(service: Service) -> None:
        await execute(service, "work", "x = 1")
        pid = service.session("work").pid or 0
        await service._keeper.stop()
        os.kill(pid, signal.SIGKILL)

    async def second(service: Service) -> None:
        slow_births(monkeypatch)
        service.executions.submit("work", ExecuteRequest("1"))
        await service.kill("work", EndRequest(1.0))
        assert (await execute(service, "work", "6 * 7")).result == "42"

    tell(first, second)


def slow_births(monkeypatch: pytest.MonkeyPatch) -> None:
    """As of an interpreter that is not forked."""
    birth = Host.birth

    async def slow(*terms: Any) -> Host:
        host = await birth(*terms)
        await asyncio.sleep(0.5)
        return host

    monkeypatch.setattr(Host, "birth", slow)


async def hibernate(service: Service, command: str) -> Live:
    await execute(service, "work", command)
    await service.states.save("work")
    live = service._keeper.by_name["work"]
    service._keeper.handle(live, decide.HibernateAsked())
    await until(lambda: service.session("work").state == "hibernated")
    return live


def test_restart_while_the_session_wakes(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a restart has dropped stays dropped, though a process that was to take it up was on its way."""

    async def story(service: Service) -> None:
        live = await hibernate(service, "x = 41")
        slow_births(monkeypatch)
        service.executions.submit("work", ExecuteRequest("x"))
        await until(lambda: live.session.link == "starting")
        await service.restart("work", EndRequest(5.0))
        done = await execute(service, "work", "x")
        assert done.error is not None and done.error.name == "NameError"
        assert done.lost is not None and done.lost.variables == "all"

    tell(story)


def test_wake_that_the_journal_refuses_once(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk while a session takes up its checkpoint holds its command up until there is room, and no longer."""

    async def story(service: Service) -> None:
        await hibernate(service, "x = 41")
        vault, record = service._keeper.vault, service._keeper.vault._record_load
        refusals: list[Any] = []

        def once(live: Live, frame: Any) -> None:
            if not refusals:
                refusals.append(frame)
                raise full_disk()
            record(live, frame)

        monkeypatch.setattr(keeper, "RECOVER_S", 0.01)
        monkeypatch.setattr(vault, "_record_load", once)
        assert (await execute(service, "work", "x + 1")).result == "42"
        assert len(refusals) == 1

    tell(story)


def test_question_to_a_session_that_is_deleted_meanwhile(tell: Tell) -> None:
    """A question that waits for a session to fall asleep does not wake one that is deleted by then."""

    async def story(service: Service) -> None:
        await execute(service, "work", "x = 1")
        await service.states.save("work")
        live = service._keeper.by_name["work"]
        pid = service.session("work").pid or 0
        os.kill(pid, signal.SIGSTOP)
        live.sleep_reason = "hibernated: not used for 1 s"
        service._keeper.handle(live, decide.HibernateAsked())
        asking = asyncio.create_task(service.complete("work", CompleteRequest("x")))
        await asyncio.sleep(0)
        deleting = asyncio.create_task(service.delete("work", EndRequest(20.0)))
        await asyncio.sleep(0)
        assert live.is_deleted and not asking.done()
        os.kill(pid, signal.SIGCONT)
        with pytest.raises((SessionBusy, SessionNotFound)):
            await asking
        await deleting
        assert live.session.link == "absent" and live.host is None

    tell(story)


def test_who_waits_for_a_process_hears_that_the_daemon_stops(tell: Tell) -> None:
    """Neither for one that is out of reach nor for one that is being ended is anybody left without an answer."""
    pids: list[int] = []

    async def second(service: Service) -> None:
        forking = asyncio.create_task(service.fork("work", ForkRequest("copy")))
        saving = asyncio.create_task(service.states.save("work"))
        await asyncio.sleep(0)
        await service.stop()
        for waiting in (forking, saving):
            async with asyncio.timeout(5):
                with pytest.raises(Stopping):
                    await waiting

    async def third(service: Service) -> None:
        os.kill(pids[0], signal.SIGCONT)

    tell(stopped_session(pids), second, third)


def test_fork_of_a_session_out_of_reach_is_refused_in_the_end(tell: Tell) -> None:
    """It waits as long as for a start, and no longer."""
    pids: list[int] = []

    async def second(service: Service) -> None:
        service._keeper._settings = replace(service._keeper._settings, host_start_s=0.2)
        with pytest.raises(SessionBusy, match="is reconnecting"):
            await service.fork("work", ForkRequest("copy"))
        os.kill(pids[0], signal.SIGCONT)

    tell(stopped_session(pids), second)


def test_only_one_speaks_to_a_host(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two who try to reach a host that was out of reach do not break each other's connection."""
    pids: list[int] = []
    waiting: list[int] = []
    connects: list[str] = []

    async def first(service: Service) -> None:
        await execute(service, "work", "x = 1")
        pids.append(service.session("work").pid or 0)
        service.executions.submit("work", ExecuteRequest("import time; time.sleep(0.3)"))
        waiting.append(service.executions.submit("work", ExecuteRequest("2")))
        await until(lambda: service.session("work").state == "busy")
        os.kill(pids[0], signal.SIGSTOP)

    async def second(service: Service) -> None:
        connect = Host.connect

        async def counted(host: Host, *terms: Any) -> Any:
            hello = await connect(host, *terms)
            connects.append(host.session_id)
            return hello

        monkeypatch.setattr(Host, "connect", counted)
        live = service._keeper.by_name["work"]
        await until(lambda: live.reconnecting is not None)
        before = live.reconnecting
        refusal = Refusal(monkeypatch)
        refusal.left = 1
        await service.executions.interrupt("work", InterruptRequest(waiting[0], 0.0))
        await until(lambda: live.reconnecting is not before and live.refusal is None)
        os.kill(pids[0], signal.SIGCONT)
        await until(lambda: service.session("work").state == "idle")
        assert (await execute(service, "work", "x")).result == "1"
        assert len(connects) == 1

    tell(first, second)


def test_daemon_leaves_though_nothing_can_be_written(tell: Tell, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk a daemon that takes its hosts along ends all the same."""
    commit = database.Atomic._commit

    def full(atomic: database.Atomic) -> None:
        atomic._roll_back()
        raise database.translated(full_disk(), "the journal")

    async def first(service: Service) -> None:
        for name in ("work", "other"):
            await execute(service, name, "x = open('/dev/null')")
        service._keeper._dies_with_its_unit = True
        monkeypatch.setattr(database.Atomic, "_commit", full)

    async def second(service: Service) -> None:
        for name in ("work", "other"):
            assert (await execute(service, name, "6 * 7")).result == "42"

    tell(first)
    monkeypatch.setattr(database.Atomic, "_commit", commit)
    tell(second)


# ---- a journal that refuses ----


def full_disk() -> sqlite3.Error:
    """What SQLite says of one."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


class Refusal:
    """A disk that is full at one commit, the n-th from now, and has room again afterwards."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        commit = database.Atomic._commit

        def refusing(atomic: database.Atomic) -> None:
            self.left -= 1
            if self.left == 0:
                atomic._roll_back()
                raise database.translated(full_disk(), "the journal")
            commit(atomic)

        monkeypatch.setattr(database.Atomic, "_commit", refusing)
        monkeypatch.setattr(keeper, "RECOVER_S", 0.01)


async def insist(act: Callable[[], Awaitable[Any]]) -> Any:
    """Do what a client does whose request was refused with 507."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await act()
            except JournalError:
                await asyncio.sleep(0.01)


def test_journal_refuses_once_at_any_commit(tell: Tell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever commit of a session's life is refused: nothing hangs, every command ends, and each has run once."""
    refusal = Refusal(monkeypatch)

    async def life(service: Service, name: str) -> None:
        async def run(command: str, key: str) -> Any:
            async def attempt() -> Any:
                id = service.executions.submit(name, ExecuteRequest(command, idempotency_key=key))
                return await service.executions.finished(name, id, None)

            return await insist(attempt)

        begun = tmp_path / name
        ended = await run("print('once'); 1", "first")
        assert (ended.status, ended.output) == ("ok", "once\n1\n")
        endless = asyncio.create_task(run(long(begun), "endless"))
        queued = asyncio.create_task(run("2", "queued"))
        await until(begun.exists)
        await insist(lambda: service.kill(name, EndRequest(5.0)))
        assert (await endless).status in ("interrupted", "died")
        assert (await queued).status in ("cancelled", "ok")
        died = await run("print('last words', flush=True); import os; os.kill(os.getpid(), 9)", "die")
        assert (died.status, died.output) == ("died", "last words\n")
        await insist(lambda: service.restart(name, EndRequest(5.0)))
        assert (await run("3", "last")).status == "ok"
        await insist(lambda: service.delete(name, EndRequest(5.0)))
        assert service.sessions() == [] and service._keeper.work == {}

    async def story(service: Service) -> None:
        at = 0
        while refusal.left <= 0:
            at += 1
            refusal.left = at
            await life(service, f"refused-at-{at}")
        assert at > 20

    tell(story)


# ---- hosts that lie ----


ABSURD = {
    "a time after all years": "result(at=1e300)",
    "a place before the beginning": 'logged("output", id=id, s="stdout", off=-5, text="x")',
    "a place that no journal can hold": 'logged("output", id=id, s="stdout", off=2**63, text="x")',
    "less than nothing dropped": "result(dropped=-3)",
}
SPEECH = """
def result(**fields):
    return logged("result", **{"id": id, "status": "ok", "at": 1.0, "duration_ms": 1.0, "count": 1, **fields})
control, command, _ = connected()
id = read(command)["id"]
said = took(id) + %s
while True:
    command.sendall(said)
    while read(command): pass
    open("said", "w").close()
    control, command, _ = connected()
"""


@pytest.mark.parametrize("frame", ABSURD.values(), ids=list(ABSURD))
def test_absurd_number_harms_its_own_session_alone(tell: Tell, tmp_path: Path, frame: str) -> None:
    """A frame whose numbers cannot be is no fault of the journal's, and its session can be ended as any other."""

    async def story(service: Service) -> None:
        python = interpreter(tmp_path, "liar", SPEECH % frame)
        await service.create(CreateSession(name="odd", python=python, cwd=str(tmp_path)))
        id = service.executions.submit("odd", ExecuteRequest("1"))
        await until((tmp_path / "said").exists)
        assert service.health().status == "ok"
        async with asyncio.timeout(20):
            await service.kill("odd", EndRequest(0.5))
        assert service.executions.get("odd", id).status == "died"
        await service.delete("odd", EndRequest(0.5))

    tell(story)
