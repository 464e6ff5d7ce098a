"""Keeping sessions going, in one process: a real journal and real hosts, one keeper after another."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path

import pytest

from omega_sessiond import config, host, paths, recorder
from omega_sessiond.journal import Journal
from omega_sessiond.messages import CreateSession, EndRequest, ExecuteRequest, Execution, InterruptRequest
from omega_sessiond.process import Process, boot_id, start_time
from omega_sessiond.service import Service

Story = Callable[[Service], Coroutine[None, None, None]]


@pytest.fixture
def tell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Run one story after another, each with a service of its own on the same state; end the hosts afterwards."""
    monkeypatch.setenv("SESSION_DIR", str(tmp_path / "state"))
    settings = config.load()
    os.makedirs(paths.runtime_dir(settings.state_dir) + "/hosts", mode=0o700)

    async def run(stories: tuple[Story, ...]) -> None:
        for story in stories:
            journal = Journal.open(paths.journal_file(settings.state_dir))
            service = Service(settings, journal, activation="foreground")
            try:
                await service.start()
                await story(service)
            finally:
                await service.stop()
                journal.close()

    async def end(service: Service) -> None:
        for session in service.sessions():
            await service.delete(session.name, EndRequest(5.0))

    def told(*stories: Story) -> None:
        asyncio.run(run(stories))

    yield told
    asyncio.run(run((end,)))


async def execute(service: Service, name: str, command: str) -> Execution:
    return await service.executions.finished(name, service.executions.submit(name, ExecuteRequest(command)), 30.0)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():  # noqa: ASYNC110 - a condition, not an event of ours
            await asyncio.sleep(0.005)


def test_state_outlives_the_service(tell: Callable[..., None]) -> None:
    """A second service finds the session, its variables, and what is still running."""
    ids: list[int] = []

    async def first(service: Service) -> None:
        await execute(service, "work", "x = 41")
        ids.append(
            service.executions.submit(
                "work", ExecuteRequest("import time\nwhile not x == 42: time.sleep(0.01)\n'seen'")
            )
        )
        ids.append(service.executions.submit("work", ExecuteRequest("x")))
        await until(lambda: service.session("work").state == "busy")

    async def second(service: Service) -> None:
        assert service.session("work").state == "reconnecting"
        running = await service.executions.finished("work", ids[0], 0)
        assert running.status == "running"
        await until(lambda: service.session("work").state == "busy")
        assert service.session("work").queue_length == 1
        await service.executions.interrupt("work", InterruptRequest(ids[0], 10.0))
        assert (await service.executions.finished("work", ids[0], 30.0)).status == "interrupted"
        assert (await service.executions.finished("work", ids[1], 30.0)).result == "41"

    tell(first, second)


def test_unrecorded_host_is_dismissed(tell: Callable[..., None]) -> None:
    """A host that its daemon did not live to record is asked to leave, and the session gets another."""
    orphans: list[Process] = []

    async def first(service: Service) -> None:
        await service.create(CreateSession(name="work"))
        record = service._keeper.by_name["work"].record
        pid = service.session("work").pid
        assert pid is not None and record.host is not None
        orphans.append(Process(pid, start_time(pid), is_child=False))
        service._journal.update_session(record.id, host=None)

    async def second(service: Service) -> None:
        orphan = orphans[0]
        await until(lambda: Process.find(orphan.pid, orphan.start_time, boot_id()) is None)
        done = await execute(service, "work", "1 + 1")
        assert done.result == "2" and done.lost is None
        assert service.session("work").pid != orphan.pid

    tell(first, second)


def test_process_that_has_just_gone_can_be_signalled(tell: Callable[..., None]) -> None:
    """A rung of the ladder that comes to a process which its parent has reaped already is no failure."""

    async def story(service: Service) -> None:
        child = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220 - asyncio's would be reaped by asyncio, or by us
        process = Process(child.pid, start_time(child.pid), is_child=False)
        process.watch(lambda exit: None)
        child.kill()
        child.wait()  # the loop does not hear of it
        assert process.exit is None
        process.signal(signal.SIGTERM)
        assert process.signal_group(signal.SIGTERM) is False
        assert await process.ended(10.0)

    tell(story)


def test_process_that_leads_no_group_yet_is_killed(tell: Callable[..., None]) -> None:
    """One that was forked a moment ago, and whose session the journal has refused since."""

    async def story(service: Service) -> None:
        child = subprocess.Popen(["sleep", "600"])  # noqa: ASYNC220 - as above
        process = Process(child.pid, start_time(child.pid), is_child=True)
        process.watch(lambda exit: None)
        process.kill()
        assert await process.ended(10.0)
        assert process.exit is not None and process.exit.signal == signal.SIGKILL
        child.returncode = 0  # it is reaped

    tell(story)


def test_death_is_told_with_its_cause(tell: Callable[..., None]) -> None:
    """The running command dies with the reason, the next one says what is lost, and the one after is whole again."""

    async def story(service: Service) -> None:
        await execute(service, "work", "x = 1")
        died = await execute(
            service, "work", f"import os; print('last words', flush=True); os.kill(os.getpid(), {signal.SIGKILL:d})"
        )
        assert died.status == "died" and died.reason == "host_died"
        assert died.error is not None and "SIGKILL" in died.error.message
        assert died.stdout == "last words\n"
        after = await execute(service, "work", "'x' in globals()")
        assert after.result == "False"
        assert after.lost is not None and after.lost.variables == "all" and "SIGKILL" in after.lost.reason
        assert (await execute(service, "work", "2")).lost is None

    tell(story)


def test_dead_between_two_services(tell: Callable[..., None]) -> None:
    """What a host finished while no service watched is found in its log before a loss is spoken of."""
    ids: list[int] = []
    pids: list[int] = []

    async def first(service: Service) -> None:
        await execute(service, "work", "import os, time")
        ids.append(service.executions.submit("work", ExecuteRequest("print('kept'); 6 * 7")))
        pids.append(service.session("work").pid or 0)

    async def second(service: Service) -> None:
        found = await service.executions.finished("work", ids[0], 30.0)
        assert (found.status, found.stdout, found.result) == ("ok", "kept\n", "42")

    tell(first)
    process = Path(f"/proc/{pids[0]}")
    os.kill(pids[0], signal.SIGTERM)
    while process.exists() and "Z" not in (process / "stat").read_text().rpartition(")")[2].split()[0]:
        os.sched_yield()
    tell(second)


def test_environment_is_scrubbed_and_private(tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A session does not inherit what was meant for the daemon, and how it is started is readable by the user alone."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setenv("LISTEN_FDS", "1")

    async def story(service: Service) -> None:
        done = await execute(
            service, "work", "import os; [n for n in os.environ if n.startswith(('LISTEN', 'NOTIFY'))]"
        )
        assert done.result == "[]"
        file = paths.launch_file(config.load().state_dir, service.session("work").id)
        assert os.stat(file).st_mode & 0o077 == 0
        assert os.stat(os.path.dirname(file)).st_mode & 0o077 == 0

    tell(story)


def test_unit_names_need_no_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scope is named after its session; that of another state directory carries a tag no session's name can hold."""
    assert host.unit_name("a-b.c_d", paths.default_state_dir()) == "omega-session-a-b.c_d.scope"
    assert host.unit_name("work", "/elsewhere").startswith("omega-session-work:")


def test_newest_history_comes_without_the_rest(tell: Callable[..., None]) -> None:
    """`last` answers the newest executions, oldest first, and pages go on from where they ended."""

    async def story(service: Service) -> None:
        for number in range(5):
            await execute(service, "work", str(number))
        assert [done.result for done in service.executions.history("work", 0, 100, 2)] == ["3", "4"]
        page = service.executions.history("work", 0, 3)
        assert [done.result for done in page] == ["0", "1", "2"]
        assert [done.result for done in service.executions.history("work", page[-1].id, 3)] == ["3", "4"]

    tell(story)


def test_late_output_has_a_bound_that_is_told(tell: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Output between two commands is kept up to a bound, where the feed says that more is dropped."""
    monkeypatch.setattr(recorder, "LATE_KEPT_BYTES", 100_000)

    async def story(service: Service) -> None:
        code = "import threading\ngo = threading.Event()\ndef late():\n    go.wait()\n"
        code += "    for _ in range(1000): print('x' * 999)\nthreading.Thread(target=late).start()"
        await execute(service, "work", code)
        since = service._journal.last_event_id()
        await execute(service, "work", "threading.Timer(0.05, go.set).start()")

        def told() -> bytes:
            return b"\n".join(line for _, line in service._journal.events(since, 10_000))

        await until(lambda: b"more output is dropped" in told())
        await until(lambda: service._keeper.by_name["work"].late_bytes >= 1_000_000)
        assert told().count(b"x" * 999) <= 100
        assert (await execute(service, "work", "6 * 7")).result == "42"
        assert service._keeper.by_name["work"].late_bytes == 0

    tell(story)
