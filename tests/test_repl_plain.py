"""`omegactl repl` without a line editor: on a pipe, on a terminal that can do little; and its table of commands."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from ctl import Omegactl, whatever_it_starts
from daemon import CHECKOUT
from isolation import Place
from omega_sessiond import repl_commands
from omega_sessiond.repl_commands import KEYS, ROWS
from omega_sessiond.repl_editor import languages, lexer
from person import END, ENTER, INTERRUPT, TAB, UP, at_terminal


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


# ---- on a pipe ----


def test_pipe_works_like_a_script(omegactl: Omegactl) -> None:
    """Lines of standard input run as typed at a prompt: the session is made, blocks end with an empty line, stdout has
    the output and nothing else."""
    done = omegactl("repl", "work", given="x = 1\nx + 1\ndef f():\n    return 3\n\nf()\nif x:\n    print('yes')\n")
    assert (done.code, done.out, done.err) == (0, "2\n3\nyes\n", "")
    assert omegactl("repl", "work", given="x").out == "1\n"


def test_pipe_answers_questions_with_its_next_line(omegactl: Omegactl) -> None:
    """input() reads the line after the command, and finds the end of the file where there is none."""
    done = omegactl("repl", "work", given="n = input('n? ')\n21\nint(n) * 2\n")
    assert (done.code, done.out) == (0, "n? 42\n")
    done = omegactl("repl", "work", given="input()")
    assert (done.code, "EOFError" in done.out) == (1, True)


def test_pipe_is_text(omegactl: Omegactl) -> None:
    """A byte order mark is no code, and lines may end as those of Windows do; what is not UTF-8 is refused in the words
    that `exec -` has, and nothing that follows it is run."""
    done = omegactl("repl", "work", given=b"\xef\xbb\xbfx = input()\r\nan answer\r\nx\r\n")
    assert (done.code, done.out, done.err) == (0, "'an answer'\n", "")
    done = omegactl("repl", "work", given=b"x = 1\nif x:\n    y = '\xff'\n\nx = 2\n")
    assert (done.code, done.out) == (2, "")
    assert done.err == "omegactl: Standard input is not UTF-8\nConvert it first.\n"
    assert omegactl("exec", "work", "-c", "x").out == "1\n"


def test_pipe_goes_on_after_a_failure_and_tells_the_first(omegactl: Omegactl) -> None:
    """A command that fails does not stop those after it; the exit code is that of the first failure."""
    done = omegactl("repl", "work", given="1/0\nprint('after')\n:nonsense\n")
    assert done.code == 1 and done.out.endswith("ZeroDivisionError: division by zero\nafter\n")
    assert "unknown command ':nonsense'" in done.err
    assert omegactl("repl", "work", given=":nonsense\n1/0\n").code == 2
    assert omegactl("repl", "work", given="exit()\n1/0\n").code == 0


def test_commands_of_the_repl_on_a_pipe(omegactl: Omegactl) -> None:
    """Its own commands work on a pipe, too; with a blank before it a line goes to the session."""
    done = omegactl("repl", "work", given="x = 5\n:new other\nx\n:switch work\nx\n")
    assert "NameError" in done.out and done.out.endswith("\n5\n")
    assert "IndentationError" in omegactl("repl", "work", given=" :help\n").out
    done = omegactl("repl", "work", given=":switch none\n:info\n1 + 1\n:info\n")
    assert "there is no session 'none'\nThe next command creates it." in done.err
    assert done.code == 4 and "2\n" in done.out and "state" in done.out


def test_failure_to_reach_a_daemon_is_the_exit_code(omegactl: Omegactl) -> None:
    """Where no daemon may be started, that is what the exit code says."""
    done = omegactl("--no-start", "repl", "work", given="1\n")
    assert done.code == 3 and "service start" in done.err
    assert omegactl("repl", "no/name", given="1\n").code == 2


# ---- on a poor terminal ----


def test_poor_terminal(omegactl: Omegactl, place: Place) -> None:
    """With TERM=dumb lines are read by readline: blocks by the engine's judgement, history, completion, ^C and ^D."""
    omegactl("exec", "work", "-c", "remarkable = 7")
    with at_terminal(place, "repl", "work", env={"TERM": "dumb"}) as person:
        person.sees("session work · python · idle")
        person.is_prompted()
        person.type(UP)
        person.sees("work> remarkable = 7")
        person.clears()
        person.type("rema" + TAB)
        person.sees("work> remarkable\n")
        person.type(ENTER)
        person.is_prompted(times=3)
        person.type("def f():" + ENTER)
        person.sees("\n  ...")
        person.type("return 8" + ENTER + ENTER)
        person.is_prompted(times=4)
        person.type("f()" + ENTER)
        person.sees("\n8\n")
        person.is_prompted(times=5)
        person.type("import time; print('on', flush=True); time.sleep(60)" + ENTER)
        person.sees("\non\n")
        person.type(INTERRUPT)
        person.sees("Interrupted (user).")
        person.is_prompted(times=6)
        person.type("input('name? ')" + ENTER)
        person.sees("\nname?")
        person.type("Ω" + ENTER)
        person.sees("\n'Ω'\n")
        person.is_prompted(times=7)
        person.type(END)
        person.sees("session work lives on")
        assert person.leaves() == 0
    assert b"\x1b[?2004" not in person.sent and b"\x1b[6n" not in person.sent


def test_help_keeps_to_its_columns(omegactl: Omegactl, place: Place) -> None:
    """On a narrow terminal a long explanation goes on in its own column, between words."""
    width = max(len(repl_commands.usage(row, ":")) for row in ROWS) + 2
    with at_terminal(place, "repl", "work", env={"TERM": "dumb"}, columns=70) as person:
        person.is_prompted()
        person.type(":help" + ENTER)
        person.sees("Ctrl-Z")
        person.is_prompted(times=2)
        person.type(END)
        assert person.leaves() == 0
    text = re.sub(rf"\n {{{width}}}(?=\S)", " ", person.text)
    for what, help in [*((repl_commands.usage(row, ":"), row.help) for row in ROWS), *KEYS]:
        assert f"\n{what:{width}}{help}\n" in text


# ---- the table ----


def test_page_has_the_commands_and_the_keys() -> None:
    """docs/repl.md lists every command and key with what it does, as :help does."""
    page = (CHECKOUT / "docs" / "repl.md").read_text()
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", page, re.MULTILINE)
    assert [row for row in rows if row[0].startswith("`:")] == [
        (f"`{repl_commands.usage(row, ':')}`", row.help) for row in ROWS
    ]
    assert [row for row in rows if row in KEYS] == list(KEYS)


@pytest.mark.parametrize(
    ("name", "options"),
    [("snapshot", {"-m", "--tag", "--delete"}), ("prune", {"--older-than", "--keep", "--max-size", "--dry-run"})],
)
def test_help_names_what_a_command_takes(name: str, options: set[str]) -> None:
    """The options that decide what becomes of saved state and history are told, and omegactl has them."""
    from omega_sessiond.cli import parser

    row = repl_commands.find(name)
    assert row is not None
    assert options <= set(re.findall(r"(?<!\w)--?[a-z][a-z-]*", f"{row.arguments} {row.help}"))
    (commands,) = [action for action in parser()._actions if isinstance(action, argparse._SubParsersAction)]
    assert options <= set(commands.choices[name]._option_string_actions)


def test_lines_of_omegactl_exist() -> None:
    """Each command that stands for a line of omegactl stands for one that omegactl understands."""
    from omega_sessiond.cli import parse

    words = {"{name}": "work", "{1}": "1", "{2}": "file", "{rest}": ""}
    for row in ROWS:
        assert bool(row.line) != bool(row.act), row.name
        if row.line:
            arguments = [words.get(word, word) for word in row.line.split()]
            assert parse([argument for argument in arguments if argument]).command == arguments[0]


@pytest.mark.parametrize(
    ("engine", "ours", "theirs"),
    [
        ("python", ":help", "%timeit x"),
        ("bash", ":help", ": ${X:=1}"),
        ("omega", "%help", ":help"),
        ("jupyter:python3", ":help", "%matplotlib inline"),
        ("jupyter:python3", ":q", "%%time\nx"),
    ],
)
def test_prefix_is_the_one_that_the_engine_leaves(engine: str, ours: str, theirs: str) -> None:
    """The REPL takes the prefix that the engine has no use for, right at the start of a single line."""
    assert repl_commands.is_command(ours, engine)
    assert not repl_commands.is_command(theirs, engine)
    assert not repl_commands.is_command(" " + ours, engine)
    assert not repl_commands.is_command(ours + "\nmore", engine)


@pytest.mark.parametrize(
    ("engine", "language"),
    [
        ("python", "Python"),
        ("bash", "Bash"),
        ("node", "JavaScript"),
        ("sqlite3", "SQL"),
        ("omega", "Scheme"),
        ("guile", "Scheme"),
        ("jupyter:python3", "Python"),
        ("jupyter:julia-1.11", "Julia"),
        ("jupyter:ir", "S"),
        ("jupyter:python3@cluster", "Python"),
        ("jupyter:bash", "Bash"),
    ],
)
def test_colours_are_those_of_the_language(engine: str, language: str) -> None:
    """Each engine's language has its lexer, a kernel's by its name."""
    found = lexer(engine)
    assert found.pygments_lexer.name == language  # type: ignore[attr-defined]


@pytest.mark.parametrize("engine", ["mine", "jupyter:never-heard-of-it", "jupyter:"])
def test_unknown_languages_have_no_colours(engine: str) -> None:
    """What nobody knows is shown as it is."""
    assert type(lexer(engine)).__name__ == "SimpleLexer", languages(engine)
