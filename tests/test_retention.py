"""History has limits: what goes, what stays, and how it is told."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from ctl import Omegactl, whatever_it_starts
from isolation import Place
from journals import add, at, found, run, session
from life import Life
from omega_sessiond import retention
from omega_sessiond.config import Settings
from omega_sessiond.journal import Journal
from omega_sessiond.messages import PruneReport, iso
from omega_sessiond.records import Keep, SessionRecord
from omega_sessiond.retention import Policy, Retention, by_settings

LATER = at(3000)
"""After everything that the journals here hold."""


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal.open(str(tmp_path / "journal.db"))
    yield journal
    journal.close()


@pytest.fixture
def work(book: Journal) -> SessionRecord:
    return add(book, session("work"))


def prune(book: Journal, policy: Policy, *, dry_run: bool = False) -> PruneReport:
    names = {record.id: record.name for record in book.sessions()}
    return asyncio.run(Retention(Settings(), book, lambda: names, lambda: None).prune(policy, dry_run=dry_run))


def ids(book: Journal, owner: SessionRecord) -> list[int]:
    return [row.id for row in book.executions(owner.id, 0, 10_000)]


def put(book: Journal, owner: SessionRecord, second: int, output: str = "x") -> int:
    """An execution that began and ended at a second."""
    id = book.queue(owner, "f()", at=at(second), started=True)
    with book.atomic():
        book.add_output(owner, id, "stdout", 0, output, at(second))
        book.finish(owner, id, status="ok", finished_at=at(second), duration_ms=1.0, execution_count=1)
    return id


def test_age(book: Journal, work: SessionRecord) -> None:
    """What ended before a moment goes, whole, and what has not ended stays, however old it is."""
    old, running, new = put(book, work, 1), book.queue(work, "long()", at=at(2), started=True), put(book, work, 100)
    report = prune(book, Policy(older_than=at(50)))
    assert ids(book, work) == [running, new]
    assert (report.executions, report.outputs, report.sessions[0].reasons) == (1, 0, ["age"])
    assert report.sessions[0].up_to_id == old
    assert book.output(old) == []


def test_oldest_of_many_sessions_come_first(book: Journal) -> None:
    """What there is to choose from stands in the order of its dates, in whichever sessions; one without history is no
    hindrance, and of those that are not asked for nothing comes."""
    dates = {"late": (5, 8), "other": (2, 3), "early": (1, 4, 9), "same": (5, 6), "empty": ()}
    owners = {name: add(book, session(name)) for name in dates}
    for name, seconds in dates.items():
        for second in seconds:
            put(book, owners[name], second)
    asked = [owner.id for name, owner in owners.items() if name != "other"]
    assert [found.queued_at for found in book.pruning.oldest(asked)] == [at(n) for n in (1, 4, 5, 5, 6, 8, 9)]


def test_imported_history_is_as_old_as_its_dates(book: Journal, work: SessionRecord) -> None:
    """It came last and is the oldest: its age and the size of all take it first, asked for by its name or not."""
    big = "y" * 100_000
    used = [put(book, work, second, big) for second in (100, 101)]
    other = add(book, session("imported"))
    old = [put(book, other, second, big) for second in (1, 2, 102)]
    aged = Policy(older_than=at(50))
    planned = prune(book, aged, dry_run=True)
    alone = prune(book, msgspec.structs.replace(aged, session_id=other.id), dry_run=True)
    assert planned.sessions == alone.sessions != []
    assert planned.executions == 2
    prune(book, Policy(max_bytes=450_000, settled_at=LATER))
    assert (ids(book, work), ids(book, other)) == (used, old[2:])


def test_a_deleted_session_is_cleared_in_steps(
    book: Journal, work: SessionRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others have their turn between two steps; what has not ended is left to the deletion itself."""
    monkeypatch.setattr(retention, "STEP_EXECUTIONS", 2)
    monkeypatch.setattr(retention, "STEP_BYTES", 1000)
    other = add(book, session("other"))
    kept, running = put(book, other, 1), book.queue(work, "long()", at=at(1), started=True)
    for second in range(2, 6):
        put(book, work, second)
    put(book, work, 6, "large" * 1000)
    left: list[list[int]] = []

    begun: list[int] = []

    async def clear() -> None:
        life = Retention(Settings(), book, dict, lambda: None)
        clearing = asyncio.ensure_future(life.clear(work.id, lambda: begun.append(len(ids(book, work)))))
        while not clearing.done():
            left.append(ids(book, work))
            await asyncio.sleep(0)
        await clearing

    asyncio.run(clear())
    assert ([len(of_step) for of_step in left], begun) == ([6, 4, 2, 1], [6])
    assert (ids(book, work), ids(book, other)) == ([running], [kept])


def test_last_execution_goes_by_no_age(book: Journal, work: SessionRecord) -> None:
    """By itself a history goes but for each session's last execution; who asks has that removed too."""
    old, last = put(book, work, 1), put(book, work, 2)
    assert prune(book, Policy(older_than=at(50), spares_last=True)).executions == 1
    assert ids(book, work) == [last] != [old]
    assert prune(book, Policy(older_than=at(50))).executions == 1


def test_commands_that_no_checkpoint_covers_stay(book: Journal, work: SessionRecord) -> None:
    """They name what is lost when the process dies; their output goes, and later, when they are saved, they do."""
    first, second, silent = put(book, work, 1), put(book, work, 2), put(book, work, 3, "")
    book.update_session(work.id, keep=Keep(checkpoint_id="c", covers=first))
    report = prune(book, Policy(older_than=at(50)))
    assert ids(book, work) == [second, silent]
    assert (report.executions, report.outputs) == (1, 1)
    assert prune(book, Policy(keep=0, settled_at=LATER)).executions == 0
    book.update_session(work.id, keep=Keep(checkpoint_id="d", covers=silent))
    assert prune(book, Policy(keep=0, settled_at=LATER)).executions == 2


def test_commands_that_nobody_reads_go(book: Journal, work: SessionRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a session is not saved any more, as many stay as a loss is told from, and no more."""
    monkeypatch.setattr(retention, "COMMANDS_READ", 2)
    own = [put(book, work, second) for second in range(1, 7)]
    book.update_session(work.id, keep=Keep(checkpoint_id="c", covers=own[0]))
    prune(book, Policy(keep=0, settled_at=LATER))
    assert ids(book, work) == own[1:3]


def test_last_use_outlives_its_execution(book: Journal, work: SessionRecord) -> None:
    """When a session was used last is known also when the execution that told has gone, or only its output."""
    put(book, work, 1)
    put(book, work, 70)
    book.pruning.empty(ids(book, work), LATER)
    book.pruning.remove(ids(book, work))
    assert book.sessions()[0].last_used_at == at(70)


def test_count(book: Journal, work: SessionRecord) -> None:
    """Each session keeps its newest ones, and what ended too late to be settled stays beside them."""
    other = add(book, session("other"))
    own = [put(book, work, second) for second in (1, 2, 3, 4, 5)]
    others = [put(book, other, 6)]
    prune(book, Policy(keep=2, settled_at=at(3)))
    assert ids(book, work) == own[2:]
    prune(book, Policy(keep=2, settled_at=LATER))
    assert (ids(book, work), ids(book, other)) == (own[3:], others)
    prune(book, Policy(keep=0, settled_at=LATER, session_id=other.id))
    assert (ids(book, work), ids(book, other)) == (own[3:], [])


def test_size(book: Journal, work: SessionRecord) -> None:
    """For size the oldest goes first: whole when it is settled, else its output alone, and never the last one's."""
    big = "y" * 300_000
    first, second, third, last = (put(book, work, number, big) for number in (1, 2, 3, 4))
    report = prune(book, Policy(max_bytes=400_000, settled_at=at(2)))
    assert (report.executions, report.outputs, report.sessions[0].reasons) == (1, 2, ["size"])
    assert ids(book, work) == [second, third, last]
    assert [book.output(id) for id in (second, third)] == [[], []]
    emptied = found(book, work, second)
    assert (emptied.dropped_bytes, emptied.output_bytes) == (300_000, 0)
    assert emptied.pruned_at is not None
    assert book.output(last) == [("stdout", 0, big)]
    assert book.pruning.used_bytes() < 400_000
    assert first not in ids(book, work)


def test_dry_run_tells_the_same_and_does_nothing(book: Journal, work: SessionRecord) -> None:
    """A dry run says what a run then does."""
    for second in range(120):
        put(book, work, second, "z" * 1000)
    before = ids(book, work)
    policy = Policy(older_than=at(20), keep=50, max_bytes=150_000, settled_at=at(90))
    planned = prune(book, policy, dry_run=True)
    assert ids(book, work) == before
    assert book.pruning.noted() == {}
    done = prune(book, policy)
    assert msgspec.structs.replace(planned, dry_run=False) == done
    assert done.executions and done.outputs
    assert done.sessions[0].reasons == ["age", "count", "size"]


def test_size_is_reached_with_short_commands(book: Journal, work: SessionRecord) -> None:
    """What rows take counts as it is: the limit is kept, no more is said to go than there was, and no more goes."""
    with book.atomic():
        for second in range(3000):
            put(book, work, second)
    before = book.pruning.used_bytes()
    everything = prune(book, Policy(keep=0, settled_at=at(59 * 60)), dry_run=True)
    assert everything.bytes <= everything.journal_bytes == before
    policy = Policy(max_bytes=before // 2, settled_at=at(59 * 60))
    planned = prune(book, policy, dry_run=True)
    done = prune(book, policy)
    assert planned.executions == done.executions
    assert before * 0.3 < book.pruning.used_bytes() <= before // 2


def test_events_go_with_their_executions(book: Journal, work: SessionRecord) -> None:
    """The feed tells nothing of what has gone but that it has, and all of what has stayed."""
    put(book, work, 1)
    kept = put(book, work, 100)
    prune(book, Policy(older_than=at(50)))
    told = [msgspec.json.decode(line) for _, line in book.events(0, 100)]
    assert {event["execution_id"] for event in told if "execution_id" in event} == {kept}
    assert [event["kind"] for event in told][-1] == "history_pruned"
    assert (told[-1]["executions"], told[-1]["reasons"]) == (1, ["age"])


def test_what_went_adds_up(book: Journal, work: SessionRecord) -> None:
    """The note of a session counts all that ever went of it, and goes with the session."""
    for second in (1, 2, 3):
        put(book, work, second)
        prune(book, Policy(older_than=LATER))
    noted = book.pruning.noted()[work.id]
    assert (noted.executions, noted.outputs) == (3, 0)
    assert noted.bytes > 0
    run(book, work)


def test_space_is_given_back(book: Journal, work: SessionRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """A journal that lost much becomes a smaller file."""
    monkeypatch.setattr(retention, "SLACK_BYTES", 100_000)
    for second in range(20):
        put(book, work, second, "z" * 200_000)
    prune(book, Policy(keep=1, settled_at=LATER))
    assert book.pruning.free_bytes() <= 100_000
    book.close()
    assert Path(book.path).stat().st_size < 1_000_000


def test_settings_decide_what_goes_by_itself() -> None:
    """A limit of 0 is none, and the last week is settled by nothing but a wish."""
    policy = by_settings(Settings(history_days=0, history_count=0, history_bytes=0))
    assert (policy.older_than, policy.keep, policy.max_bytes) == (None, None, None)
    usual = by_settings(Settings())
    assert usual.older_than is not None
    assert usual.older_than < usual.settled_at < iso(time.time())
    assert (usual.keep, usual.max_bytes) == (100_000, 4 * 2**30)


def test_old_history_goes_by_itself(book: Journal, work: SessionRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    """A daemon that runs prunes without being asked."""
    monkeypatch.setattr(retention, "FIRST_S", 0.0)
    old, new = put(book, work, 1), put(book, work, 2)
    monkeypatch.setattr(retention, "by_settings", lambda settings: Policy(older_than=at(2)))

    async def live() -> None:
        committed = asyncio.Event()
        keeping = Retention(Settings(), book, lambda: {work.id: "work"}, committed.set)
        keeping.start()
        await committed.wait()
        keeping.stop()

    asyncio.run(live())
    assert ids(book, work) == [new]
    assert old != new


# ---- with a daemon ----


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


def test_pruned_history_is_told_everywhere(life: Life) -> None:
    """What was pruned is in the answer, the session, the feed and the execution that lost its output, also after a
    restart."""
    for number in range(4):
        life.run("work", f"print('y' * 200000); {number}")
    gone = life.history("work")[0]["id"]
    answer = life.call("POST", "/api/prune", {"keep": 2}).json
    assert (answer["executions"], answer["sessions"][0]["session"]) == (2, "work")
    assert life.call("GET", f"/api/sessions/work/executions/{gone}").status == 404
    assert life.session("work")["pruned"]["executions"] == 2
    assert [line["executions"] for line in events(life) if line["kind"] == "history_pruned"] == [2]
    life.restart()
    assert life.session("work")["pruned"]["executions"] == 2
    assert life.run("work", "40 + 2")["result"] == "42"


def events(life: Life) -> list[dict[str, object]]:
    return [json.loads(line) for line in life.call("GET", "/api/events?since=0&follow=0").body.splitlines()]


def test_execution_without_its_output_says_so(lives: Callable[..., Life]) -> None:
    """A prune by the settings takes no more than outputs of the last week; what lacks its own stays and says so."""
    life = lives(history_bytes=500_000)
    first = life.run("work", "print('y' * 300000); 'value'")["id"]
    for _ in range(2):
        life.run("work", "print('y' * 100000)")
    report = life.call("POST", "/api/prune").json
    assert (report["executions"], report["outputs"]) == (0, 1)
    execution = life.get(f"/api/sessions/work/executions/{first}")
    assert (execution["status"], execution["output"], execution["command"][:5]) == ("ok", "", "print")
    assert execution["truncated"]["dropped_bytes"] > 300_000
    assert execution["truncated"]["pruned_at"] is not None
    piece = life.get(f"/api/sessions/work/executions/{first}/output")
    assert (piece["text"], piece["eof"], piece["dropped_bytes"]) == ("", True, execution["truncated"]["dropped_bytes"])
    assert "removed to keep" in life.omegactl("output", str(first)).stderr


def test_command_line(omegactl: Omegactl) -> None:
    """omegactl prune shows what would go, wants a yes, and does it."""
    for number in range(3):
        omegactl("exec", "work", "-c", str(number))
    dry = omegactl("prune", "--dry-run", "--keep", "1")
    assert dry.out.splitlines()[1].split()[:2] == ["work", "2"]
    assert "2 executions" in dry.err
    assert "would go" in dry.err
    refused = omegactl("prune", "--keep", "1")
    assert refused.code == 2
    assert "-y" in refused.err
    assert omegactl("prune", "--keep", "1", "-y").code == 0
    assert len(json.loads(omegactl("history", "work", "--json").out)) == 1
    assert "removed" in omegactl("show", "work").out
    nothing = json.loads(omegactl("prune", "-y", "--older-than", "30d", "--json").out)
    assert (nothing["dry_run"], nothing["sessions"]) == (False, [])
    assert json.loads(omegactl("prune", "-y", "-n", "--older-than", "30d", "--json").out)["dry_run"]
    nothing = omegactl("prune", "work", "--older-than", "30d", "--json")
    assert json.loads(nothing.out)["executions"] == 0
    assert omegactl("prune", "--older-than", "soon").code == 2
    assert omegactl("prune", "absent", "--dry-run").code == 4
