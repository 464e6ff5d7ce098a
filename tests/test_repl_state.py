"""Files and old history in the REPL: export, import and prune, at a real terminal with a real daemon."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from ctl import Omegactl, whatever_it_starts
from isolation import Place
from person import ENTER, Person, at_terminal


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


@pytest.fixture
def person(omegactl: Omegactl, place: Place) -> Iterator[Person]:
    """At the prompt of the session work, which has a variable."""
    omegactl("exec", "work", "-c", "x = 41")
    with at_terminal(place, "repl", "work", columns=120) as person:
        person.sees(":help lists")
        person.is_prompted()
        yield person


def test_session_goes_into_a_file_and_comes_back(person: Person, omegactl: Omegactl, place: Place) -> None:
    """:export writes a new file at the client's place, ~ included, and :import makes a session of it."""
    person.type(":save" + ENTER)
    person.sees("Saved work")
    person.is_prompted(times=2)
    person.type(":export ~/work.jsonl --state" + ENTER)
    person.sees(f"Exported work to {place.home}/work.jsonl: 1 execution, its variables as they were after execution")
    person.is_prompted(times=3)
    person.type(":export work.jsonl" + ENTER)
    person.sees("work.jsonl exists already")
    person.is_prompted(times=4)
    person.type(":export work.ipynb --notebook" + ENTER)
    person.sees("Exported work to work.ipynb: 1 execution.")
    person.is_prompted(times=5)
    assert json.loads((place.home / "work.ipynb").read_text())["nbformat"] == 4
    person.type(":import work.jsonl copy" + ENTER)
    person.sees("--trust")
    person.is_prompted(times=6)
    person.type(":import work.jsonl copy --trust" + ENTER)
    person.sees("Imported copy: 1 execution, its variables come with the next command.")
    person.is_prompted(times=7)
    person.type(":switch copy" + ENTER)
    person.is_prompted("copy> ")
    person.type("x + 1" + ENTER)
    person.sees("\n42\n")
    person.is_prompted("copy> ", times=2)


def test_history_goes_when_one_has_seen_what_would(person: Person, omegactl: Omegactl) -> None:
    """:prune shows what would go of this session, asks, and takes no answer for no; --dry-run only shows."""
    omegactl("exec", "other", "-c", "1")
    for number in range(2):
        person.type(f"x = {number}" + ENTER)
        person.is_prompted(times=2 + number)
    person.type(":prune --keep 1 --dry-run" + ENTER)
    person.sees("2 executions")
    person.sees("would go; the history took")
    person.is_prompted(times=4)
    person.type(":prune --keep 1" + ENTER)
    person.sees("EXECUTIONS", times=2)
    person.sees("of 1 session for good? [y/N]")
    person.type(ENTER)
    person.sees("Nothing was removed.")
    person.is_prompted(times=5)
    person.type(":prune --keep 1" + ENTER)
    person.sees("of 1 session for good? [y/N]", times=2)
    person.type("y" + ENTER)
    person.sees("removed; the history took")
    person.is_prompted(times=6)
    assert len(omegactl("history", "work", "--format", "jsonl").out.splitlines()) == 1
    assert len(omegactl("history", "other", "--format", "jsonl").out.splitlines()) == 1


def test_what_others_do_to_the_state_is_told_and_what_one_does_oneself_is_not(
    person: Person, omegactl: Omegactl
) -> None:
    """A save, a snapshot and a restore by another client stand above the prompt; one's own have been told already."""
    person.type(":snapshot mine" + ENTER)
    person.sees("Snapshot mine of work: after execution")
    person.is_prompted(times=2)
    omegactl("save", "work")
    person.sees("The session's state was saved, after execution")
    omegactl("snapshot", "work", "theirs")
    person.sees("Snapshot theirs was taken, after execution")
    omegactl("snapshot", "work", "theirs", "--delete")
    person.sees("Snapshot theirs was removed.")
    omegactl("restore", "work", "mine")
    person.sees("Its variables are now those of snapshot mine. What it had is snapshot before-restore-")
    assert "Snapshot mine was taken" not in person.text
    person.is_prompted(times=2)
    person.type("x + 1" + ENTER)
    person.sees("\n42\n")
