"""The benchmarks run, print their tables and leave nothing behind. How fast anything is, no test says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import BENCHMARKS, main
from benchmarks.figures import Goal, Judged, Report, Samples, ratio_by_round


@pytest.mark.parametrize("name", BENCHMARKS)
def test_runs_and_prints_its_table(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each benchmark ends by itself, prints its medians, and writes the same figures as JSON."""
    file = tmp_path / "figures.json"
    assert main([name, "--scale", "0", "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    found = json.loads(file.read_text())["benchmarks"][name]
    assert found["samples"]
    for row in found["samples"]:
        assert row["n"] > 0
        assert 0 < row["median"] <= row["p99"]
        assert re.search(rf"^  {re.escape(row['name'])} .* {row['n']}$", printed, re.MULTILINE)
    for figure in found["figures"]:
        # None is meant to be woken, and a difference of single measurements may be on either side of nothing.
        assert figure["value"] > 0 or figure["name"].startswith(("wake-ups", "("))
        assert figure["name"] in printed


def test_an_unknown_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """A benchmark that does not exist ends the program with the names of those that do."""
    with pytest.raises(SystemExit) as ended:
        main(["executes"])
    assert ended.value.code == 2
    assert "execute, throughput" in capsys.readouterr().err


def test_a_missed_goal_is_told() -> None:
    """A report says of each goal whether it is met."""
    report = Report("name", "title", [Samples("side", "us", [1.0, 2.0, 9.0])])
    report.judged = [
        Judged("ratio", 1.9, [Goal("now", 2.0), Goal("goal", 1.8)]),
        Judged("share", 70.0, [Goal("goal", 60, at_most=False)], "%"),
    ]
    lines = [" ".join(line.split()) for line in report.text().splitlines()]
    assert lines[2] == "side 2.0 us 9.0 us 3"
    assert lines[3] == "ratio 1.90 now <= 2.00 met, goal <= 1.80 MISSED"
    assert lines[4] == "share 70.0 % goal >= 60.0 % met"


def test_p99_leaves_out_the_worst_of_a_hundred() -> None:
    """With a hundred measurements one of them may exceed the p99, with fewer none."""
    assert Samples("many", "us", [*range(1, 101)]).p99 == 99
    assert Samples("few", "us", [1.0, 50.0]).p99 == 50


def test_a_slow_moment_changes_no_ratio() -> None:
    """A machine that is slow for a round slows both sides of it."""
    assert ratio_by_round([[2.0, 2.0], [20.0, 20.0]], [[1.0, 1.0], [10.0, 10.0]]) == 2.0


def test_the_readme_names_every_benchmark() -> None:
    """README.md has a row for each benchmark."""
    text = (Path(__file__).parent.parent / "benchmarks" / "README.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)` \|", text, re.MULTILINE)) == set(BENCHMARKS)
