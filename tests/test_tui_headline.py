"""The dashboard's first line: how it stands, how many sessions, and what they use together."""

from __future__ import annotations

from dashboard import Driver, driven, run
from life import FOREVER, Life
from omega_sessiond.messages import iso
from tui.model import Totals


def headline(dashboard: Driver) -> str:
    return dashboard.shown().split("\n")[0]


def test_totals_of_all_sessions_stand_in_it(life: Life) -> None:
    """Processor time and memory of all sessions, those that are not on the screen too, as one request tells them."""
    life.run("work", "x = 1")
    life.begin_running("busy", FOREVER)
    found = life.get("/api/usage")
    assert (found["sessions"], found["source"]) == (2, "proc")
    assert found["memory_bytes"] > life.session("work")["usage"]["memory_bytes"]

    async def story() -> None:
        async with driven(size=(120, 30)) as dashboard:
            await dashboard.is_live()
            await dashboard.until(lambda: "   mem " in headline(dashboard), "the memory is shown")
            await dashboard.until(lambda: "   cpu " in headline(dashboard), "the processor time is shown")
            await dashboard.press("S")
            await dashboard.until(lambda: "   cpu " in headline(dashboard), "on every screen")
            await dashboard.press("escape")
            await dashboard.pilot.resize_terminal(80, 24)
            await dashboard.until(lambda: "   cpu " in headline(dashboard), "in a narrow terminal too")
            life.call("DELETE", "/api/sessions/busy", {"budget_s": 1})
            life.call("DELETE", "/api/sessions/work", {"budget_s": 1})
            await dashboard.until(lambda: "mem" not in headline(dashboard), "nothing is used when nothing is there")

    run(story())


def test_nothing_is_asked_while_nobody_looks(life: Life) -> None:
    """Paused, and in a terminal that has lost the focus, the dashboard takes no sample."""
    life.run("work", "x = 1")

    async def story() -> None:
        async with driven(size=(120, 30)) as dashboard:
            await dashboard.until(lambda: dashboard.app.model.totals.samples, "a first sample")
            dashboard.app.app_focus = False
            await dashboard.until(lambda: not dashboard.app._is_sampling, "it is answered")
            before = len(dashboard.app.model.totals.samples)
            dashboard.app._sample()
            assert not dashboard.app._is_sampling
            dashboard.app.app_focus = True
            dashboard.app._sample()
            await dashboard.until(lambda: len(dashboard.app.model.totals.samples) > before, "one more")

    run(story())


def test_rate_needs_two_samples_that_rise() -> None:
    """The first sample has no rate, nor has one after a session's time has gone from the sum."""
    totals = Totals()
    for at, cpu_s in ((10.0, 4.0), (12.0, 5.0), (14.0, 2.0), (16.0, 2.0)):
        totals.take({"sampled_at": iso(at), "cpu_s": cpu_s, "memory_bytes": 1, "tasks": 1})
    assert [sample.cpu for sample in totals.samples] == [None, 0.5, None, 0.0]
