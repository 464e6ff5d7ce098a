"""What happens under a REPL: commands interrupted and left, questions, daemons that die, other clients and sessions."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ctl import Omegactl, whatever_it_starts
from isolation import Place
from person import END, ENTER, INTERRUPT, UP, Person, at_terminal

STUBBORN = """import time
def stubborn():
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            print('on', flush=True)
            time.sleep(60)
        except KeyboardInterrupt: pass
"""


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


@pytest.fixture
def person(omegactl: Omegactl, place: Place) -> Iterator[Person]:
    """At the prompt of the session work, which exists."""
    omegactl("exec", "work", "-c", "import time, os, threading")
    with at_terminal(place, "repl", "work") as person:
        person.sees(":help lists")
        person.is_prompted()
        yield person


@pytest.fixture
def gate(place: Place) -> Path:
    """What a command can wait for."""
    path = place.home / "gate"
    os.mkfifo(path)
    return path


def daemon_pid(place: Place) -> int:
    return int((place.state_dir / "daemon.lock").read_text().split()[0])


# ---- ^C ----


def test_interrupt_clears_the_prompt_or_ends_the_command(person: Person) -> None:
    """^C at the prompt throws away what is typed; while a command runs it interrupts that, and its end is shown."""
    person.type("never run" + INTERRUPT)
    person.is_prompted(times=2)
    person.type("print('on', flush=True); time.sleep(60)" + ENTER)
    person.sees("\non\n")
    person.type(INTERRUPT)
    person.sees("KeyboardInterrupt")
    person.sees("Interrupted (user).")
    person.is_prompted(times=3)
    assert "NameError" not in person.text


def test_second_interrupt_leaves_the_command_running(person: Person, omegactl: Omegactl) -> None:
    """^C twice leaves a command that does not yield; :follow returns to it, and its end is told."""
    omegactl("exec", "work", "-c", STUBBORN)
    person.type("stubborn()" + ENTER)
    person.sees("\non\n")
    person.type(INTERRUPT)
    person.sees("Interrupting")
    person.type(INTERRUPT)
    person.sees(":follow returns to it")
    person.is_prompted(times=2)
    running = json.loads(omegactl("show", "work", "--json").out)["running_execution_id"]
    assert f"Left execution {running} running" in person.text
    person.type(":follow" + ENTER)
    person.sees("work> :follow\non\non\n")
    person.type(INTERRUPT)
    person.sees("Interrupting", times=2)
    person.type(INTERRUPT)
    person.sees(":follow returns to it", times=2)
    omegactl("kill", "work", "--budget", "0.1")
    person.sees(f"Execution {running} has ended: died.")
    person.type("1" + ENTER)
    person.sees("all variables (killed by request)")


def test_what_waits_in_the_queue_is_taken_back(person: Person, omegactl: Omegactl, gate: Path) -> None:
    """A command behind another client's says that it waits, and ^C takes it back."""
    omegactl("exec", "work", "--detach", "-c", f"open({str(gate)!r}).read(); 'theirs'")
    person.type("'mine'" + ENTER)
    person.sees("It waits for what runs in the session")
    person.type(INTERRUPT)
    person.sees("Cancelled (user).")
    gate.write_text("go")
    assert omegactl("wait", "work").code == 0
    person.type("'after'" + ENTER)
    person.sees("\n'after'\n")


# ---- leaving and coming back ----


def test_command_goes_on_without_us_and_is_followed_on_return(
    omegactl: Omegactl, place: Place, gate: Path, person: Person
) -> None:
    """Who leaves while a command runs finds it, on returning, with what it said meanwhile."""
    person.type(f"print('begun', flush=True); open({str(gate)!r}).read(); 'done'" + ENTER)
    person.sees("\nbegun\n")
    person.close()
    with at_terminal(place, "repl", "work") as again:
        again.sees(":follow shows it")
        again.is_prompted()
        again.type(":follow" + ENTER)
        again.sees("\nbegun\n")
        gate.write_text("go")
        again.sees("\n'done'\n")
        again.is_prompted(times=2)


def test_exit_leaves_and_the_session_stays(person: Person, omegactl: Omegactl) -> None:
    """exit() means the REPL, not the session."""
    person.type("x = 5; None" + ENTER)
    person.is_prompted(times=2)
    person.type("exit()" + ENTER)
    person.sees("session work lives on")
    assert person.leaves() == 0
    assert omegactl("exec", "work", "-c", "x").out == "5\n"


# ---- questions ----


def test_input_is_asked_here(person: Person) -> None:
    """input() asks below the command; a secret is not shown, and kept nowhere."""
    person.type("'hello ' + input('name? ')" + ENTER)
    person.sees("name? ")
    person.type("Ω 漢字" + ENTER)
    person.sees("name? Ω 漢字\n'hello Ω 漢字'\n")
    person.is_prompted(times=2)
    person.type("from getpass import getpass; len(getpass('pass: '))" + ENTER)
    person.sees("\npass:")
    person.type("sesame" + ENTER)
    person.sees("\n6\n")
    person.is_prompted(times=3)
    assert b"sesame" not in person.sent


def test_answer_from_elsewhere_is_noticed(person: Person, omegactl: Omegactl) -> None:
    """When another client answers, the question here is over; what was typed of an answer stands at the next prompt."""
    person.type("'hello ' + input('name? ')" + ENTER)
    person.sees("\nname?")
    person.type("half")
    person.sees("name? half")
    assert omegactl("input", "work", "Ω").code == 0
    person.sees("Answered elsewhere.")
    person.sees("\n'hello Ω'\nwork> half\n")


def test_question_that_waits_is_found_on_return(person: Person, omegactl: Omegactl) -> None:
    """:follow of a command that waits for its second input() asks that one, and not the first again."""
    omegactl("exec", "work", "--detach", "-c", "input('first? ') + input('second? ')")
    while json.loads(omegactl("show", "work", "--json").out)["state"] != "waiting_input":
        pass
    omegactl("input", "work", "a")
    while "second" not in omegactl("output", "work").out:
        pass
    person.type(":follow" + ENTER)
    person.sees("second?")
    person.type("b" + ENTER)
    person.sees("'ab'\nwork>")
    assert "elsewhere" not in person.text


def test_what_is_typed_meanwhile_is_not_lost(person: Person, gate: Path) -> None:
    """Keys pressed while a command runs are not shown; they stand at the next prompt, a paste without running."""
    person.type(f"print('on', flush=True); open({str(gate)!r}).read(); None" + ENTER)
    person.sees("\non\n")
    person.type("21 * 2" + ENTER)
    person.paste("1 +\n1")
    gate.write_text("go")
    person.sees("work> 21 * 2\n42\nwork> 1 +\n  ... 1\n")


# ---- daemons that go ----


def test_daemons_may_die_under_a_command(person: Person, place: Place, gate: Path) -> None:
    """Each kill -9 and each orderly stop under a running command is bridged: every line comes once, in order."""
    person.type(f"for n in range(4): print('line', n, flush=True); _ = open({str(gate)!r}).read()" + ENTER + ENTER)
    for number in range(4):
        person.sees(f"\nline {number}\n")
        os.kill(daemon_pid(place), signal.SIGKILL if number % 2 else signal.SIGTERM)
        gate.write_text("go")
    person.is_prompted(times=2)
    assert "line 0\nline 1\nline 2\nline 3\nwork>" in person.text
    person.type("n" + ENTER)
    person.sees("\n3\n")


def test_unsent_command_stands_at_the_next_prompt(omegactl: Omegactl, place: Place) -> None:
    """Where the daemon is gone and may not be started, that is said, and what was typed is still there."""
    omegactl("exec", "work", "-c", "1")
    with at_terminal(place, "--no-start", "repl", "work") as person:
        person.sees(":help lists")
        person.is_prompted()
        omegactl("service", "stop")
        person.type("'precious'" + ENTER)
        person.sees("'omegactl service start' starts")
        person.sees("\nwork> 'precious'\n", times=2)
        omegactl("service", "start")
        person.type(ENTER)
        person.sees("\n'precious'\n")
        person.is_prompted(times=3)
    assert omegactl("history", "work", "--json").out.count("precious") >= 1


def test_deleted_session_is_made_anew(person: Person, omegactl: Omegactl) -> None:
    """A session deleted under the prompt is told of, and comes back, empty, with the next command."""
    omegactl("rm", "work", "-y")
    person.sees("has been deleted")
    person.type("print('new')" + ENTER)
    person.sees("\nnew\n")


HALF = """
import json, sys
for line in sys.stdin:
    token, code = json.loads(line)
    status = "incomplete" if code.count("(") > code.count(")") else "0"
    if code and status == "0":
        print("ran", code.replace("\\n", " "))
    print(f"\\x1e{token} {status}\\x1e", end="", flush=True)
"""


def test_engine_that_only_knows_by_trying(omegactl: Omegactl, place: Place) -> None:
    """Where the engine finds out by running it that a command is incomplete, it stands at the next prompt to be
    completed."""
    program, settings = place.home / "half.py", place.config_home / "omega-sessiond" / "config.toml"
    program.write_text(HALF)
    settings.parent.mkdir(exist_ok=True)
    table = {
        "command": [sys.executable, str(program)],
        "sentinel": '["{token}", ""]\n',
        "submit": '["{token}", {json}]\n',
        "mark": "\x1e{token} {status}\x1e",
        "incomplete_status": "incomplete",
    }
    settings.write_text("[engines.half]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
    with at_terminal(place, "repl", "work", "--engine", "half") as person:
        person.sees("session work is new")
        person.is_prompted()
        person.type("f(1," + ENTER)
        person.sees("not complete")
        person.sees("work> f(1,\n  ...\n")
        person.type("2)" + ENTER)
        person.sees("\nran f(1, 2)\n")
        person.is_prompted(times=3)


# ---- what others do ----


def test_late_output_is_told(person: Person, gate: Path) -> None:
    """What a thread prints after its command has ended comes above the prompt, and keeps what is being typed."""
    code = f"threading.Thread(target=lambda: (open({str(gate)!r}).read(), print('from behind'))).start()"
    person.type(code + ENTER)
    person.is_prompted(times=2)
    person.type("1 + ")
    gate.write_text("go")
    person.sees("late output: from behind\nwork> 1 +\n")
    person.type("1" + ENTER)
    person.sees("\n2\n")


def test_loss_is_told(person: Person) -> None:
    """A process that dies under its command is told of, and so is what the next command finds lost."""
    person.type("os._exit(3)" + ENTER)
    person.sees("The session's process ended")
    person.is_prompted(times=2)
    person.type("def f():" + ENTER + "return 7" + ENTER + ENTER)
    person.sees("all variables")
    person.type("f()" + ENTER)
    person.sees("\n7\n")


# ---- commands of the REPL ----


def test_sessions_are_switched_and_made(person: Person, omegactl: Omegactl) -> None:
    """:switch goes on in another session, :new makes one and goes there; history and variables are theirs."""
    omegactl("exec", "other", "-c", "where = 'other'")
    person.type(":switch other" + ENTER)
    person.sees("session other · python")
    person.is_prompted("other> ")
    person.type("where" + ENTER)
    person.sees("\n'other'\n")
    person.is_prompted("other> ", times=2)
    person.type(":new third --label a=b" + ENTER)
    person.is_prompted("third> ")
    person.type("where" + ENTER)
    person.sees("NameError")
    person.is_prompted("third> ", times=2)
    person.type(":switch no/name" + ENTER)
    person.sees("is not a session name")
    person.is_prompted("third> ", times=3)
    person.type(UP + UP)
    person.sees("third> where\n", times=2)
    assert json.loads(omegactl("show", "third", "--json").out)["labels"] == {"a": "b"}


def test_commands_of_the_repl(person: Person, omegactl: Omegactl, place: Place) -> None:
    """The commands do what their lines of omegactl do; a mistyped one is told of, with the nearest."""
    person.type(":histroy" + ENTER)
    person.sees("unknown command ':histroy'; did you mean 'history'?")
    person.is_prompted(times=2)
    person.type(":history import" + ENTER)
    person.sees("import time, os, threading\nwork>")
    person.type(":set --label project=omega" + ENTER)
    person.sees("Changed work.")
    person.type(":info" + ENTER)
    person.sees("project=omega")
    person.type("print('a\\nb')" + ENTER)
    person.sees("\na\nb\n")
    person.type(":output" + ENTER)
    person.sees("\na\nb\n", times=2)
    person.type(":sessions" + ENTER)
    person.sees("NAME  STATE")
    person.type(":engine" + ENTER)
    person.sees(":word is the REPL's")
    person.type(":help fork" + ENTER)
    person.sees("as: omegactl fork work …")
    person.type(":save 5" + ENTER)
    person.sees("usage: :save ID FILE")
    person.type(":restart" + ENTER)
    person.sees("work> :restart")
    person.type("'time' in dir()" + ENTER)
    person.sees("\nFalse\n")
    person.type(":quit" + ENTER)
    assert person.leaves() == 0


def test_states_are_named_copied_and_gone_back_to(person: Person, omegactl: Omegactl) -> None:
    """:snapshot, :restore, :fork and :timeline do for the session at hand what omegactl does for any."""
    person.type("x = 1" + ENTER + ":snapshot before -m 'as it was'" + ENTER + "x = 2" + ENTER)
    person.is_prompted(times=4)
    person.type(":fork copy" + ENTER)
    person.is_prompted(times=5)
    person.type(":restore before" + ENTER)
    person.is_prompted(times=6)
    person.type("'x is', x" + ENTER)
    person.sees("('x is', 1)")
    assert omegactl("exec", "copy", "-c", "x").out == "2\n"
    person.type(":snapshots" + ENTER)
    person.sees("as it was")
    person.type(":timeline" + ENTER)
    person.sees("work> :timeline")
    person.sees("before", times=4)
    person.type(":save" + ENTER)
    person.sees("work> :save")


def test_rich_results_are_named(person: Person, place: Place) -> None:
    """A result with a picture is told of with the line that saves it, and :save does."""
    person.type("class P: _repr_png_ = lambda self: b'\\x89PNG....'" + ENTER + ENTER)
    person.is_prompted(times=2)
    person.type("P()" + ENTER)
    seen = person.sees("--save data.png")
    number = seen.partition("omegactl output ")[2].split()[0]
    person.type(f":save {number} mine.png" + ENTER)
    person.sees("Saved image/png (8B) to mine.png.")
    assert (place.home / "mine.png").read_bytes() == b"\x89PNG...."


# ---- terminals ----


def test_wide_characters_and_a_terminal_that_changes_its_size(person: Person) -> None:
    """Wide characters take two columns; after a resize the prompt and what is typed are drawn in the new width."""
    person.type("'漢字テスト' * 5" + ENTER)
    person.sees("漢字テスト" * 5 + "'")
    person.is_prompted(times=2)
    person.type("'" + "x" * 70)
    person.sees("x" * 70)
    person.resize(24, 50)
    person.sees(lambda person: any(line.endswith("x" * 40) and len(line) == 50 for line in person.lines))
    person.type("'" + ENTER)
    person.sees("x" * 40)


def test_no_color_means_none(omegactl: Omegactl, place: Place) -> None:
    """With NO_COLOR or --color never no colour is sent, by the editor, by the session, or by what is told."""
    code = "print('\\x1b[31mred\\x1b[0m'); 1/0"
    for arguments, env in ((("--color", "never"), {}), ((), {"NO_COLOR": "1"})):
        with at_terminal(place, *arguments, "repl", "work", env=env) as person:
            person.sees(":help lists")
            person.type(code + ENTER)
            person.sees("ZeroDivisionError")
            person.is_prompted(times=2)
            person.type(END)
            person.sees("lives on")
            person.leaves()
        rendition = {number for found in re.findall(rb"\x1b\[([0-9;]*)m", person.sent) for number in found.split(b";")}
        assert rendition <= {b"", b"0", b"1", b"2", b"4", b"7"}
