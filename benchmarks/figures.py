"""Figures as they are shown and stored: samples with median and p99, ratios with their goals. Measures nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

FORMATS = {"us": "{:.1f} us", "ms": "{:.2f} ms", "/s": "{:.0f} /s", "MiB": "{:.2f} MiB"}


@dataclass(frozen=True)
class Effort:
    """How much is measured: `scale` times the counts that give steady figures."""

    scale: float

    def count(self, usual: int, least: int) -> int:
        return max(least, round(usual * self.scale))


@dataclass(frozen=True)
class Samples:
    """Measurements of one thing, in one unit."""

    name: str
    unit: str
    values: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def p99(self) -> float:
        """The value that 99 of 100 do not exceed: with fewer than 100 measurements, the worst one."""
        ordered = sorted(self.values)
        return ordered[math.ceil(len(ordered) * 0.99) - 1]

    def shown(self, value: float) -> str:
        return FORMATS[self.unit].format(value)


@dataclass(frozen=True)
class Goal:
    """A bound for a figure: `when` says whether it binds now or is where we mean to be."""

    when: str
    bound: float
    at_most: bool = True

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.at_most else value >= self.bound


@dataclass(frozen=True)
class Judged:
    """One figure that goals speak of: mostly a ratio of two medians of the same run."""

    name: str
    value: float
    goals: Sequence[Goal] = ()
    unit: str = ""

    def shown(self, value: float) -> str:
        match self.unit:
            case "":
                return f"{value:.2f}"
            case "%":
                return f"{value:.1f} %"
            case "count":
                return f"{value:.0f}"
            case "times":
                return f"{value:.0f} times"
            case unit:
                return FORMATS[unit].format(value)


@dataclass
class Report:
    """What one benchmark found."""

    name: str
    title: str
    samples: list[Samples] = field(default_factory=list)
    judged: list[Judged] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def text(self) -> str:
        """The report as a table for people."""
        names = [row.name for row in self.samples] + [judged.name for judged in self.judged]
        width = max(map(len, names), default=0) + 2
        lines = [f"{self.name}: {self.title}"]
        if self.samples:
            lines.append(f"  {'':{width}}{'median':>12}{'p99':>12}{'n':>8}")
        for row in self.samples:
            median, p99 = row.shown(row.median), row.shown(row.p99)
            lines.append(f"  {row.name:{width}}{median:>12}{p99:>12}{len(row.values):>8}")
        for judged in self.judged:
            goals = ", ".join(
                f"{goal.when} {'<=' if goal.at_most else '>='} {judged.shown(goal.bound)}"
                f" {'met' if goal.is_met(judged.value) else 'MISSED'}"
                for goal in judged.goals
            )
            lines.append(f"  {judged.name:{width}}{judged.shown(judged.value):>12}   {goals}".rstrip())
        lines += [f"  {note}" for note in self.notes]
        return "\n".join(lines)

    def values(self) -> dict[str, Any]:
        """The report as JSON holds it."""
        return {
            "title": self.title,
            "samples": [
                {"name": row.name, "unit": row.unit, "median": row.median, "p99": row.p99, "n": len(row.values)}
                for row in self.samples
            ],
            "figures": [
                {
                    "name": judged.name,
                    "unit": judged.unit,
                    "value": judged.value,
                    "goals": [
                        {
                            "when": goal.when,
                            "at_most" if goal.at_most else "at_least": goal.bound,
                            "met": goal.is_met(judged.value),
                        }
                        for goal in judged.goals
                    ],
                }
                for judged in self.judged
            ],
            "notes": self.notes,
        }


def ratio_by_round(ours: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> float:
    """How many times the reference we cost: the median over rounds of the ratio of the medians in a round. Rounds of
    both sides alternate, so that a machine that slows down for a while slows both."""
    return statistics.median(
        statistics.median(mine) / statistics.median(other) for mine, other in zip(ours, reference, strict=True)
    )
