"""The daemon's loop: it looks before it sleeps, where that pays, and nothing that is ready waits for it."""

from __future__ import annotations

import asyncio
import os
import selectors
import socket
from collections.abc import Iterator

import pytest

from omega_sessiond import eventloop
from omega_sessiond.eventloop import Attention, Loop, expect

SLEEP_S = 0.002


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """The time-out of every look at the descriptors: 0 is a look, anything else a sleep."""
    found: list[float | None] = []
    plain = selectors.DefaultSelector.select

    def select(
        self: selectors.DefaultSelector, timeout: float | None = None
    ) -> list[tuple[selectors.SelectorKey, int]]:
        found.append(timeout)
        return plain(self, timeout)

    monkeypatch.setattr(selectors.DefaultSelector, "select", select)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    return found


@pytest.fixture
def attention(looks: list[float | None]) -> Iterator[Attention]:
    with Attention() as selector:
        yield selector


def test_without_an_expectation_it_sleeps_at_once(attention: Attention, looks: list[float | None]) -> None:
    """What expects nothing sleeps as it is told."""
    attention.select(SLEEP_S)
    assert looks == [SLEEP_S]


def test_what_was_expected_ends_the_looking(
    attention: Attention, looks: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is there is found without a sleep, and the next wait is a sleep again."""
    monkeypatch.setattr(eventloop, "ATTENTIVE_S", 60.0)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        attention.register(ours, selectors.EVENT_READ)
        theirs.send(b"answer")
        attention.expect()
        assert attention.select(None)
        assert set(looks) == {0}
        ours.recv(10)
        looks.clear()
        attention.select(SLEEP_S)
        assert looks == [SLEEP_S]


def test_a_timer_ends_the_looking(
    attention: Attention, looks: list[float | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wait that has an end is no longer for looking, however long that was meant to go on."""
    monkeypatch.setattr(eventloop, "ATTENTIVE_S", 600.0)
    attention.expect()
    attention.select(SLEEP_S)
    assert looks[-1] == SLEEP_S


def test_what_never_comes_at_once_is_seldom_looked_for(attention: Attention, looks: list[float | None]) -> None:
    """Each expectation in vain is followed by a longer row of plain sleeps, and a fulfilled one ends that."""
    looked = []
    for _ in range(200):
        looks.clear()
        attention.expect()
        attention.select(SLEEP_S / 10)
        looked.append(0 in looks)
    assert [number for number, did in enumerate(looked) if did] == [0, 2, 6, 14, 30, 62, 126, 190]
    ours, theirs = socket.socketpair()
    with ours, theirs:
        attention.register(ours, selectors.EVENT_READ)
        theirs.send(b"answer")
        for _ in range(64):
            attention.expect()
            attention.select(None)
        looks.clear()
        attention.expect()
        attention.select(None)
        assert looks == [0]


def test_on_one_core_it_never_looks(looks: list[float | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is one core to run on, looking would only keep it from who is to answer."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    with Attention() as attention:
        attention.expect()
        attention.select(SLEEP_S)
    assert looks == [SLEEP_S]


def test_the_daemons_loop_expects(looks: list[float | None], monkeypatch: pytest.MonkeyPatch) -> None:
    """An expectation told to the running loop reaches its selector; on another loop it is no error."""
    monkeypatch.setattr(eventloop, "ATTENTIVE_S", 60.0)
    ours, theirs = socket.socketpair()

    async def exchange() -> bytes:
        loop = asyncio.get_running_loop()
        received = loop.create_task(loop.sock_recv(ours, 10))
        await asyncio.sleep(0)
        expect()
        loop.call_soon(theirs.send, b"answer")
        return await received

    with ours, theirs:
        ours.setblocking(False)
        with asyncio.Runner(loop_factory=Loop) as runner:
            assert runner.run(exchange()) == b"answer"
        assert set(looks) == {0}
        assert asyncio.run(exchange()) == b"answer"
