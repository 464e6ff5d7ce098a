"""Bytes at a real terminal, for hostile text wherever the REPL shows what a session or another client says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from caller import Caller
from ctl import Omegactl, whatever_it_starts
from isolation import Place
from person import END, ENTER, F1, TAB, UP, Person, at_terminal

EVIL = (
    "\x1b]52;c;ZXZpbA==\x07"  # sets the clipboard
    "\x1b]8;;http://evil/\x1b\\link\x1b]8;;\x1b\\"  # a link that says another address than it has
    "\x1b]0;evil title\x07\x1b]2;evil title\x1b\\"
    "\x1b[c\x1b[>c\x1b[5n\x1b[21t"  # the answers to these would be typed
    "\x1b[?1049h\x1b[3J"  # another screen, no history
    "\x9d0;evil\x9c\x9b5n\x90q\x9c"
    "\x1bP$qm\x1b\\\x1b_evil\x1b\\\x1b^evil\x1b\\\x1bc\x1b(0"
)

OBEYED = re.compile(
    "\x1b[\\]PX^_c()#]"  # control strings, reset, character sets
    "|[\x80-\x9f\x07]"
    "|\x1b\\[[>?]?[0-9;]*[ct]|\x1b\\[[5?][0-9;]*n|\x1b\\[\\?(?:1049|47)[hl]|\x1b\\[3J"
)
"""What the editor never sends by itself, so that it can only have come from a payload."""


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


@pytest.fixture
def api(omegactl: Omegactl, place: Place) -> Caller:
    """The session work with an engine that holds EVIL, and the API beside it."""
    omegactl("exec", "work", "-c", f"EVIL = {EVIL!r}; import threading; del __builtins__.exit")
    return Caller(str(place.runtime_dir / "omega-sessiond" / "api.sock"))


@pytest.fixture(params=["editor", "plain"])
def person(request: pytest.FixtureRequest, api: Caller, place: Place) -> Iterator[Person]:
    """At the prompt, with the line editor and without; at its end nothing hostile may have reached the terminal."""
    env = {"TERM": "dumb"} if request.param == "plain" else {}
    with at_terminal(place, "repl", "work", env=env) as person:
        person.sees(":help lists")
        person.is_prompted()
        yield person
        person.clears()
        person.says_goodbye()
        person.leaves()
        sent = person.sent.decode(errors="replace")
        assert not (found := OBEYED.search(sent)), (
            f"{found[0]!r} in {sent[max(found.start() - 200, 0) : found.end() + 50]!r}"
        )
        assert not person.title


def test_output_results_and_errors(person: Person) -> None:
    """What a command prints, displays and raises keeps its text and its colours, and loses everything else."""
    person.type("print('out', EVIL, 'put', '\\x1b[31mred')" + ENTER)
    person.sees("out link put red")
    person.type("type('R', (), {'__repr__': lambda self: 're' + EVIL + 'sult'})()" + ENTER)
    person.sees("relinksult")
    person.type("raise ValueError('mess' + EVIL + 'age')" + ENTER)
    person.sees("ValueError: messlinkage")
    person.type("raise type('E' + EVIL, (Exception,), {})()" + ENTER)
    person.sees("Elink")


def test_output_in_pieces(person: Person) -> None:
    """A sequence that is written character by character is dropped all the same."""
    person.type("for letter in 'begin' + EVIL + 'end': print(letter, end='', flush=True)" + ENTER + ENTER)
    person.sees("beginlinkend")


def test_prompts_of_questions(person: Person) -> None:
    """The prompt of input(), and what is answered elsewhere."""
    person.type("'got ' + input('na' + EVIL + 'me? ')" + ENTER)
    person.sees("nalinkme?")
    person.type("x" + ENTER)
    person.sees("'got x'")


def test_late_output(person: Person) -> None:
    """What a thread prints behind the prompt."""
    person.type("threading.Timer(0.2, lambda: print('be' + EVIL + 'hind')).start()" + ENTER)
    person.sees("belinkhind")


def test_completions_and_inspection(person: Person) -> None:
    """Completions with control characters are not offered; the text of an inspection is made safe."""
    person.type("def helper(): pass" + ENTER + ENTER)
    person.type("helper.__doc__ = 'he' + EVIL + 'lp'; helper.plain = 1; setattr(helper, 'pl' + EVIL, 2)" + ENTER)
    person.type("'now ' + 'typed'" + ENTER)
    person.sees("'now typed'\nwork>")
    person.type("helper.pl" + TAB)
    person.sees("work> helper.plain")
    person.clears()
    person.type(":inspect helper" + ENTER)
    person.sees("helinklp")
    person.type("helper?" + ENTER)
    person.sees("helinklp", times=2)
    person.is_prompted()


def test_history_labels_and_names(person: Person, api: Caller) -> None:
    """Commands of other clients in the history and its list, labels, names that are refused, mistyped commands."""
    api.call("POST", "/api/sessions/work/execute", {"command": f"'hist' + '''{EVIL}''' + 'ory'; None"})
    api.call("PATCH", "/api/sessions/work", {"labels": {"lab\x1b]0;evil title\x07\x9b5nel": f"val{EVIL}ue"}})
    person.type("0" + ENTER)
    person.sees("\n0\n")
    person.type(":history hist" + ENTER)
    person.sees("'hist' + '''link''' + 'ory'")
    person.type(UP + UP + UP)
    person.clears()
    person.type(":info" + ENTER)
    person.sees("label=vallinkue")
    person.type(":sessions --wide" + ENTER)
    person.sees("label=", times=2)
    person.type(":new na'me" + ENTER)
    person.sees("No closing quotation")
    person.type(":switch na/me" + ENTER)
    person.sees("is not a session name")


def test_header_of_a_hostile_session(api: Caller, place: Place) -> None:
    """Where one is told what a session ran last, by somebody else."""
    api.call("POST", "/api/sessions/work/execute", {"command": f"'la' + '''{EVIL}''' + 'st'; None"})
    with at_terminal(place, "repl", "work") as person:
        person.sees("last: 'la' + '''link''' + 'st'; None (ok")
        person.type("len" + F1)
        person.sees("Return the number of items")
        person.sees(lambda self: self.lines[-1].startswith("work> len"))  # before that the terminal echoes keys
        person.type(UP)
        person.sees("'''link'''", times=2)
        person.clears()
        person.type(END)
        person.leaves()
    assert not OBEYED.search(person.sent.decode(errors="replace"))


@pytest.mark.parametrize("term", ["xterm-256color", "dumb"])
def test_hostile_name_is_refused(omegactl: Omegactl, place: Place, term: str) -> None:
    """A name outside the grammar never becomes a prompt."""
    with at_terminal(place, "repl", f"na{EVIL}me", env={"TERM": term}) as person:
        assert person.leaves() == 2
    assert "is not a session name" in person.text
    assert not OBEYED.search(person.sent.decode(errors="replace"))
    assert json.loads(omegactl("ls", "--json").out) == []
