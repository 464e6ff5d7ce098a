"""Losses: what a session no longer has, as its next answer tells it. Pure: losses in, losses out."""

from __future__ import annotations

from omega_sessiond.messages import Lost

NAMES_TOLD = 100

REST = "…"
"""Stands in a host's frame for the names beyond those that it names."""


def joined(earlier: Lost | None, later: Lost | None) -> Lost | None:
    """Two losses of which nobody has been told yet, as the next answer tells them."""
    if earlier is None or later is None:
        return later if earlier is None else earlier
    reason = earlier.reason if later.reason in earlier.reason else f"{earlier.reason}; {later.reason}"
    if isinstance(earlier.variables, str) or isinstance(later.variables, str):
        return Lost("all", reason)
    names, more = named({*earlier.variables, *later.variables}, None)
    return Lost(names, "; ".join([reason, *more]))


def named(names: set[str], rest: str | None) -> tuple[list[str], list[str]]:
    """The names that a loss tells, of these; and in words what it does not: the others, and the `rest` that a host has
    not named."""
    known = sorted(names - {REST})
    told = [] if len(known) <= NAMES_TOLD else [f"{len(known) - NAMES_TOLD} more variables than are named"]
    if rest is not None:
        told.append(f"{rest} that are not named")
    return known[:NAMES_TOLD], told
