"""The state machine: events in, effects out."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from omega_sessiond.session import (
    Begin,
    Cancel,
    Died,
    Effect,
    EndAsked,
    Ended,
    Event,
    Hibernate,
    HibernateAsked,
    HostAdopted,
    HostDied,
    HostGone,
    HostStarted,
    HostUnreachable,
    InputAsked,
    InputGiven,
    Session,
    StartAsked,
    StartFailed,
    StartHost,
    Submitted,
    Watch,
    Withdrawn,
)


def feed(session: Session, *events: Event) -> list[Effect]:
    """All effects of some events, in order."""
    return [effect for event in events for effect in session.handle(event)]


def state_of(session: Session) -> str:
    """Its state at this moment: a call, because events change it under the type checker's eyes."""
    return session.state


def resting() -> Session:
    """A session with a host and nothing to do."""
    session = Session()
    feed(session, StartAsked(), HostStarted())
    return session


def test_command_that_comes_after_the_death_is_for_the_next_host() -> None:
    """Once the host is known to be dead, what was meant for it is cancelled and what comes is not."""
    session = Session([1, 2], link="reconnecting", running=1)
    assert session.handle(HostDied()) == []
    assert session.handle(Submitted(3)) == []
    assert session.handle(HostGone(1)) == [Died(1), Cancel((2,), "host_died"), StartHost()]
    assert session.handle(HostStarted()) == [Begin(3)]


def test_session_whose_state_ends_its_host_starts_without_it() -> None:
    """What waits is for the next host, which comes though nothing waits; an end that was asked for is the end."""
    session = Session([1, 2])
    assert session.handle(StartAsked()) == [StartHost()]
    session.handle(HostDied())
    session.handle(Submitted(3))
    assert session.handle(HostGone(0, was_loading=True)) == [StartHost()]
    assert session.handle(HostStarted()) == [Begin(1)] and list(session.queue) == [2, 3]
    session = Session()
    session.handle(StartAsked())
    assert session.handle(HostGone(0, was_loading=True)) == [StartHost()]
    assert session.handle(EndAsked("killed")) == []
    assert session.handle(HostGone(0, was_loading=True)) == [] and session.state == "dead"


def test_hibernated_session_wakes_for_the_next_command() -> None:
    """Only an idle session falls asleep; what comes while it does is for its next host."""
    session = Session()
    session.handle(Submitted(1))
    session.handle(HostStarted())
    assert session.handle(HibernateAsked()) == []
    session.handle(Ended(1))
    assert session.handle(HibernateAsked()) == [Hibernate()]
    assert session.handle(Submitted(2)) == []
    assert session.handle(HostGone(1, is_saved=True)) == [StartHost()]
    session.handle(HostStarted())
    session.handle(Ended(2))
    session.handle(HibernateAsked())
    session.handle(HostGone(2, is_saved=True))
    assert session.state == "hibernated"
    assert session.handle(EndAsked("killed")) == [] and session.state == "hibernated"


def test_first_command_starts_a_host_and_runs_in_it() -> None:
    """A command to a session without a host starts one and begins when it is there."""
    session = Session()
    assert state_of(session) == "dead"
    assert feed(session, Submitted(1)) == [StartHost()]
    assert state_of(session) == "starting"
    assert feed(session, HostStarted()) == [Begin(1)]
    assert state_of(session) == "busy"
    assert feed(session, Ended(1)) == []
    assert state_of(session) == "idle"


def test_commands_run_one_at_a_time_in_order() -> None:
    """A queued command begins when the one before it has ended."""
    session = resting()
    assert feed(session, Submitted(1), Submitted(2), Submitted(3)) == [Begin(1)]
    assert feed(session, Ended(1)) == [Begin(2)]
    assert feed(session, Ended(2)) == [Begin(3)]


def test_only_a_resting_session_begins_at_once() -> None:
    """`is_ready` says beforehand whether a submitted command begins."""
    session = resting()
    assert session.is_ready
    feed(session, Submitted(1))
    assert not session.is_ready
    assert not Session().is_ready


def test_input_is_a_state_of_the_running_command() -> None:
    """A command that asks shows as waiting_input until it is answered or ends; another's answer changes nothing."""
    session = resting()
    feed(session, Submitted(4), InputAsked(4))
    assert state_of(session) == "waiting_input"
    feed(session, InputGiven(3))
    assert state_of(session) == "waiting_input"
    feed(session, InputGiven(4))
    assert state_of(session) == "busy"
    feed(session, InputAsked(4), Ended(4))
    assert state_of(session) == "idle"


def test_withdrawn_is_cancelled_once() -> None:
    """Only a queued command can be taken back, and only once."""
    session = resting()
    feed(session, Submitted(1), Submitted(2))
    assert feed(session, Withdrawn(1, "user")) == []
    assert feed(session, Withdrawn(2, "user")) == [Cancel((2,), "user")]
    assert feed(session, Withdrawn(2, "user"), Ended(1)) == []


def test_death_ends_the_running_and_cancels_the_queued() -> None:
    """What had begun died; what was queued was meant for the state that is gone."""
    session = resting()
    feed(session, Submitted(1), Submitted(2), Submitted(3))
    assert feed(session, HostGone(1)) == [Died(1), Cancel((2, 3), "host_died")]
    assert state_of(session) == "dead"


def test_sent_but_never_begun_is_cancelled_not_died() -> None:
    """A command that the dead host had not begun never ran."""
    session = resting()
    feed(session, Submitted(7))
    assert feed(session, HostGone(6)) == [Cancel((7,), "host_died")]


def test_failed_start_cancels_with_its_reason() -> None:
    """A host that cannot be made leaves nothing queued, and the next command tries again."""
    session = Session()
    feed(session, Submitted(1), Submitted(2))
    assert feed(session, StartFailed()) == [Cancel((1, 2), "host_failed")]
    assert feed(session, Submitted(3)) == [StartHost()]


def test_adoption_parts_begun_from_not_begun() -> None:
    """After adoption the begun command is awaited and the others are sent in order, the one sent before included."""
    session = Session([3, 4, 5], link="reconnecting")
    assert state_of(session) == "reconnecting"
    assert feed(session, HostAdopted(3)) == [Watch(3)]
    assert session.running == 3
    assert feed(session, Ended(3)) == [Begin(4)]

    session = Session([3, 4], link="reconnecting")
    assert feed(session, HostAdopted(2)) == [Begin(3)]


def test_result_replayed_before_adoption_is_known() -> None:
    """A result that arrives before the host's place in the queue is known is not awaited again."""
    session = Session([3, 4], link="reconnecting")
    assert feed(session, Ended(3), HostAdopted(3)) == [Begin(4)]


def test_result_that_can_never_come_is_died() -> None:
    """A begun command below the last begun one has lost its result."""
    session = Session([3, 4], link="reconnecting")
    assert feed(session, HostAdopted(4)) == [Died(3), Watch(4)]


def test_lost_connection_keeps_the_queue() -> None:
    """An unreachable host keeps its running and queued commands."""
    session = resting()
    feed(session, Submitted(1), Submitted(2), HostUnreachable())
    assert state_of(session) == "reconnecting"
    assert feed(session, Submitted(3)) == []
    assert feed(session, HostAdopted(0)) == [Begin(1)]
    assert list(session.queue) == [2, 3]


def test_ending_keeps_what_comes_after() -> None:
    """Commands submitted while the host is being ended are meant for its successor."""
    session = resting()
    feed(session, Submitted(1), Submitted(2))
    assert feed(session, EndAsked("killed")) == [Cancel((2,), "killed")]
    assert feed(session, Submitted(3)) == []
    assert feed(session, HostGone(1)) == [Died(1), StartHost()]
    assert feed(session, HostStarted()) == [Begin(3)]


def test_restart_starts_a_successor_without_work() -> None:
    """A restart has a host again though nothing is queued; a kill has none."""
    session = resting()
    feed(session, EndAsked("restarted", True))
    assert feed(session, HostGone(0)) == [StartHost()]
    killed = resting()
    feed(killed, EndAsked("killed"))
    assert feed(killed, HostGone(0)) == []
    assert feed(Session(), EndAsked("restarted", True)) == [StartHost()]


@given(
    st.lists(
        st.sampled_from(
            ["submit", "end", "lose", "adopt", "notice", "die", "kill", "restart", "fail", "up", "sleep", "save"]
        ),
        max_size=60,
    )
)
def test_every_command_begins_in_order_or_is_settled(moves: list[str]) -> None:
    """Whatever happens, commands begin in rising order, none begins twice in one host, and each one is at every
    moment queued, running, or settled exactly once."""
    session = Session()
    submitted = 0
    last_taken = 0
    settled: list[int] = []
    begun: list[int] = []

    def take(effects: list[Effect]) -> None:
        nonlocal last_taken
        for effect in effects:
            match effect:
                case Begin(id):
                    assert id > last_taken
                    last_taken = id
                    begun.append(id)
                case Cancel(ids, _):
                    settled.extend(ids)
                case Died(id):
                    settled.append(id)
                case StartHost():
                    last_taken = 0
                    begun.clear()
                case Watch(id):
                    assert id == last_taken

    for move in moves:
        if move == "submit":
            submitted += 1
            take(session.handle(Submitted(submitted)))
        elif move == "end" and session.running is not None and session.link == "up":
            settled.append(session.running)
            take(session.handle(Ended(session.running)))
        elif move == "lose":
            take(session.handle(HostUnreachable()))
        elif move == "adopt" and session.link == "reconnecting":
            take(session.handle(HostAdopted(last_taken)))
        elif move == "die" and session.link in ("up", "reconnecting"):
            take(session.handle(HostGone(last_taken)))
        elif move == "notice" and session.link in ("up", "reconnecting"):
            take(session.handle(HostDied()))
            submitted += 1
            take(session.handle(Submitted(submitted)))
            take(session.handle(HostGone(last_taken)))
        elif move == "sleep":
            take(session.handle(HibernateAsked()))
        elif move == "save" and session.ending:
            take(session.handle(HostGone(last_taken, is_saved=True)))
        elif move in ("kill", "restart"):
            take(session.handle(EndAsked(move, move == "restart")))
        elif move == "fail" and session.link == "starting":
            take(session.handle(StartFailed()))
        elif move == "up" and session.link == "starting":
            take(session.handle(HostStarted()))
        assert begun == sorted(set(begun))
        open_ids = list(session.queue) + ([] if session.running is None else [session.running])
        assert sorted(open_ids + settled) == list(range(1, submitted + 1))
