"""`omegactl repl` at a real terminal, as a person sees it, with a real daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ctl import Omegactl, whatever_it_starts
from isolation import Place
from person import ALT_ENTER, END, ENTER, F1, INTERRUPT, RUN, SEARCH, TAB, UP, Person, at_terminal


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


@pytest.fixture
def person(omegactl: Omegactl, place: Place) -> Iterator[Person]:
    """At the prompt of the session work, which exists."""
    omegactl("exec", "work", "-c", "1")
    with at_terminal(place, "repl", "work") as person:
        person.sees(":help lists")
        person.is_prompted()
        yield person


def test_first_command_creates_the_session(omegactl: Omegactl, place: Place) -> None:
    """A REPL of a session that does not exist says so, makes it with the first command, and ^D leaves it there."""
    with at_terminal(place, "repl", "--label", "kind=test") as person:
        person.sees("session main is new")
        person.is_prompted("main> ")
        assert omegactl("ls", "-q").out == ""
        person.type("x = 41" + ENTER)
        person.is_prompted("main> ", times=2)
        person.type("x + 1" + ENTER)
        person.sees("\n42\n")
        person.is_prompted("main> ", times=3)
        person.type(END)
        person.sees("session main lives on, and 'omegactl repl' returns to it")
        assert person.leaves() == 0
    assert omegactl("exec", "main", "-c", "x").out == "41\n"
    assert '"kind":"test"' in omegactl("show", "main", "--json").out.replace(" ", "")


def test_leaving_before_anything_was_run_makes_no_session(omegactl: Omegactl, place: Place) -> None:
    """Who looks in and leaves has created nothing."""
    with at_terminal(place, "repl", "work") as person:
        person.sees("session work is new")
        person.is_prompted()
        person.type(END)
        person.sees("there is no session yet")
        assert person.leaves() == 0
    assert omegactl("ls", "-q").out == ""


def test_returning_says_where_one_is(omegactl: Omegactl, place: Place) -> None:
    """The header names the session, its engine, its state and what it ran last."""
    omegactl("exec", "work", "-c", "answer = 6 * 7")
    with at_terminal(place, "repl", "work") as person:
        seen = person.sees(":help lists")
        assert "session work · python · idle" in seen
        assert "last: answer = 6 * 7 (ok, " in seen
        person.is_prompted()
        person.type("answer" + ENTER)
        person.sees("\n42\n")


def test_engine_decides_when_a_command_is_complete(person: Person) -> None:
    """Enter opens a line, with the engine's indent, until the code is whole; then it runs."""
    person.type("def double(x):" + ENTER)
    person.sees("\n  ...")
    person.type("return x * 2" + ENTER)
    person.sees("  ...     return x * 2\n  ...")
    person.type(ENTER)
    person.is_prompted(times=2)
    person.type("double(21)" + ENTER)
    person.sees("\n42\n")
    person.is_prompted(times=3)
    person.type('"""who is it?' + ENTER + 'me"""' + ENTER)
    person.sees("'who is it?\\nme'")


def test_other_keys_run_or_go_on_whatever_the_engine_thinks(person: Person) -> None:
    """Alt-Enter opens a line in whole code, ^J runs what is not whole."""
    person.type("a = 1" + ALT_ENTER)
    person.sees("work> a = 1\n  ...")
    person.type("a + 1" + ENTER)
    person.sees("\n2\n")
    person.is_prompted(times=2)
    person.type("def f():" + RUN)
    person.sees("IndentationError")


def test_paste_does_not_run(person: Person) -> None:
    """A paste of several lines stands in the editor until Enter is pressed."""
    person.paste("b = 20\nb + 2\n")
    person.sees("work> b = 20\n  ... b + 2")
    assert "\n22" not in person.text
    person.type(ENTER)
    person.sees("\n22\n")


def test_tab_completes_from_the_session(person: Person) -> None:
    """Tab completes names that only the session knows; at the start of a line it indents."""
    person.type("remarkable = 5" + ENTER)
    person.is_prompted(times=2)
    person.type("rema" + TAB)
    person.sees("work> remarkable\n")
    person.type(ENTER)
    person.sees("\n5\n")
    person.is_prompted(times=3)
    person.type(":inf" + TAB)
    person.sees("work> :info")
    person.type(INTERRUPT)
    person.is_prompted(times=4)
    person.type("if 1:" + ENTER)
    person.sees("\n  ...")
    person.type(INTERRUPT)
    person.is_prompted(times=5)
    person.type(TAB + "'indented'.strip()" + ENTER)
    person.sees("work>     'indented'")


def test_tab_completes_files_where_a_command_wants_one(person: Person, place: Place) -> None:
    """After :export and :import Tab offers what stands in the file system, and no name that would have to be quoted."""
    (place.home / "old sessions.jsonl").write_text("")
    (place.home / "deep").mkdir()
    (place.home / "deep" / "work.jsonl").write_text("")
    person.type(":import de" + TAB)
    person.sees("work> :import deep/\n")
    person.type("w" + TAB)
    person.sees("work> :import deep/work.jsonl\n")
    person.type(INTERRUPT)
    person.is_prompted(times=2)
    person.type(":export ol" + TAB + "mine.jsonl" + ENTER)
    person.is_prompted(times=3)
    assert (place.home / "olmine.jsonl").exists()


def test_names_can_be_inspected(person: Person) -> None:
    """F1 shows what the engine knows of the name at the cursor and keeps what is typed; NAME? and :inspect do, too."""
    person.type("len" + F1)
    person.sees("Return the number of items in a container.\nwork> len\n")
    person.type(INTERRUPT)
    person.is_prompted(times=2)
    person.type("sorted?" + ENTER)
    person.sees("Return a new list containing all items from the iterable")
    person.is_prompted(times=3)
    person.type(":inspect abs" + ENTER)
    person.sees("Return the absolute value")


def test_history_is_that_of_the_session(person: Person, omegactl: Omegactl) -> None:
    """↑ brings what any client has run, also since the prompt before; ^R finds it."""
    person.type("'from here'" + ENTER)
    person.is_prompted(times=2)
    omegactl("exec", "work", "-c", "'from elsewhere'")
    person.type("0" + ENTER)
    person.is_prompted(times=3)
    person.type(UP + UP)
    person.sees("work> 'from elsewhere'")
    person.type(INTERRUPT)
    person.is_prompted(times=4)
    person.type(SEARCH + "from her")
    person.sees("from here'", times=3)
    person.type(ENTER + ENTER)
    person.sees("\n'from here'\n", times=2)
