"""Whether a child was killed for memory, by what the cgroup's files say."""

from __future__ import annotations

from pathlib import Path

import pytest

from omega_sessiond.hosts import oom

V2, V1 = oom.SOURCES
LIMIT = 96 * oom.MIB


@pytest.mark.parametrize(
    ("source", "before", "after", "cause"),
    [
        (V2, "oom 1\noom_kill 0\n", "oom 2\noom_kill 1\n", "killed: out of memory (limit 96 MiB, peak 95 MiB)"),
        (V1, "oom_kill 3\n", "oom_kill 4\n", "killed: out of memory (limit 96 MiB, peak 95 MiB)"),
        (V2, "oom_kill 1\n", "oom_kill 1\n", ""),
        (V1, "", "", "killed: probably out of memory (limit 96 MiB, peak 95 MiB)"),
    ],
    ids=["v2", "v1", "another cause", "uncounted"],
)  # fmt: skip
def test_cause_of_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: oom.Source, before: str, after: str, cause: str
) -> None:
    """A count that has risen since the last look is the cause, once; without a count, a peak near the limit is."""
    _, events, _, limit, peak = source
    monkeypatch.setattr(oom, "sources", lambda: [(str(tmp_path), source)])
    for name, text in ((events, before), (limit, f"{LIMIT}\n"), (peak, f"{LIMIT - 1}\n")):
        (tmp_path / name).write_text(text)
    watch = oom.Oom()
    (tmp_path / events).write_text(after)
    assert watch.cause() == cause
    if after != before:
        assert watch.cause() == ""


def test_without_a_limit_nothing_is_guessed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count that has risen is told without a limit; nothing else is."""
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.peak").write_text(f"{LIMIT}\n")
    monkeypatch.setattr(oom, "sources", lambda: [(str(tmp_path), V2)])
    watch = oom.Oom()
    assert watch.cause() == ""
    (tmp_path / "memory.events").write_text("oom_kill 1\n")
    assert watch.cause() == "killed: out of memory"
