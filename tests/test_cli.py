"""omegactl with a real daemon: what each command prints, to whom, and its exit code."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ctl import COMMAND, Omegactl, Terminal, whatever_it_starts
from isolation import Place
from omega_sessiond.cli import SORT_KEYS, parser
from stub import Stub, json_reply, refusal


@pytest.fixture
def omegactl(place: Place) -> Iterator[Omegactl]:
    with whatever_it_starts(place) as command:
        yield command


def ran(omegactl: Omegactl, code: str, *options: str, name: str = "work") -> Any:
    """One command as JSON."""
    done = omegactl("exec", name, "-c", code, "--json", *options)
    assert done.out, done
    return json.loads(done.out)


def daemon_pid(place: Place) -> int:
    return int((place.state_dir / "daemon.lock").read_text().split()[0])


def background(place: Place) -> bool:
    return (place.state_dir / "daemon.lock").exists()


# ---- exec ----


def test_sessions_keep_their_variables(omegactl: Omegactl) -> None:
    """The first command creates the session, the next one finds what it left."""
    done = omegactl("exec", "work", "-c", "x = 41")
    assert (done.code, done.out, done.err) == (0, "", "")
    done = omegactl("exec", "work", "-c", "x + 1")
    assert (done.code, done.out, done.err) == (0, "42\n", "")


def test_session_lives_where_it_was_created(omegactl: Omegactl, place: Place) -> None:
    """Directory and environment are the caller's at creation."""
    omegactl("exec", "work", "-c", "import os", env={"MINE": "é"})
    done = omegactl("exec", "work", "-c", "print(os.getcwd(), os.environ['MINE'])", env={"MINE": "other"})
    assert done.out == f"{place.home} é\n"


@pytest.mark.parametrize(
    ("code", "exit_code", "output"),
    [
        ("1 + 1", 0, "2\n"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero\n"),
        ("raise SystemExit(3)", 0, ""),
        ("def f(:", 1, "SyntaxError: invalid syntax\n"),
        ("print('a', end='')", 0, "a"),
        ("print('10%\\r20%')", 0, "20%\n"),
        ("print('\\x1b[31mred\\x1b[0m')", 0, "red\n"),
    ],
)
def test_exit_code_says_what_became_of_the_code(omegactl: Omegactl, code: str, exit_code: int, output: str) -> None:
    """0 when it ran, 1 when it raised; the output is what a terminal would have shown, in both ways of asking."""
    plain, live = omegactl("exec", "work", "-c", code), omegactl("exec", "work", "-c", code, "--format", "text")
    assert (plain.code, live.code) == (exit_code, exit_code)
    assert plain.out.endswith(output) and bool(plain.out) == bool(output)
    assert re.sub(r"omega-\d+", "", plain.out) == re.sub(r"omega-\d+", "", live.out)


def test_died_session_is_told(omegactl: Omegactl) -> None:
    """A process that ends under its command is exit code 1 and said, and so is what the next command finds lost."""
    done = omegactl("exec", "work", "-c", "import os; os._exit(3)")
    assert done.code == 1
    assert "process ended" in done.err
    done = omegactl("exec", "work", "-c", "1")
    assert (done.code, done.out) == (0, "1\n")
    assert "all variables" in done.err


def test_time_out_is_124_and_keeps_variables(omegactl: Omegactl) -> None:
    """--timeout interrupts the command, before or after its name, and is no kill."""
    omegactl("exec", "work", "-c", "x = 1; import time")
    assert omegactl("exec", "work", "-c", "time.sleep(60)", "--timeout", "0.3").code == 124
    assert omegactl("--timeout", "0.3s", "exec", "work", "-c", "time.sleep(60)").code == 124
    assert omegactl("exec", "work", "-c", "x").out == "1\n"


def test_command_that_ignores_its_time_out_is_left(omegactl: Omegactl, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that does not yield keeps running, and the client says so and ends with 124."""
    code = (
        "import time, signal\nend = time.monotonic() + 60\nprint('on')\n"
        "while time.monotonic() < end:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt: pass"
    )
    done = omegactl("exec", "work", "-c", code, "--timeout", "0.2")
    assert (done.code, done.out) == (124, "on\n")
    assert "goes on" in done.err
    assert json.loads(omegactl("show", "work", "--json").out)["state"] == "busy"
    omegactl("kill", "work", "--budget", "0.1")


def test_output_comes_as_it_is_made(omegactl: Omegactl, place: Place) -> None:
    """A long command's lines arrive before it ends."""
    gate = place.home / "gate"
    os.mkfifo(gate)
    process = omegactl.start("exec", "work", "-c", f"print('first', flush=True); open({str(gate)!r}).read(); 'last'")
    assert process.stdout is not None
    assert process.stdout.readline() == "first\n"
    gate.write_text("go")
    assert process.communicate(timeout=60) == ("'last'\n", "")
    assert process.returncode == 0


def test_code_from_files_and_standard_input(omegactl: Omegactl, place: Place) -> None:
    """-f reads a file, - standard input; what cannot be read is usage."""
    (place.home / "code.py").write_text("x = 'é'\nprint(x)\n")
    assert omegactl("exec", "work", "-f", "code.py").out == "é\n"
    assert omegactl("exec", "work", "-", given="print(x * 2)\n").out == "éé\n"
    assert omegactl("exec", "work", "-f", "-", given="x").out == "'é'\n"
    (place.home / "odd.py").write_bytes(b"\xff")
    for arguments in (("-f", "odd.py"), ("-f", "none.py"), ("-c", ""), ("-c", os.fsdecode(b"\xff"))):
        assert omegactl("exec", "work", *arguments).code == 2, arguments
    assert omegactl("exec", "work").code == 2


def test_detached_command_is_waited_for(omegactl: Omegactl, place: Place) -> None:
    """--detach prints an id; wait ends with the exit code exec would have had; output has all of it."""
    gate = place.home / "gate"
    os.mkfifo(gate)
    id = omegactl("exec", "work", "-c", f"open({str(gate)!r}).read(); print('late'); 1 / 0", "--detach").out.strip()
    assert id.isdigit()
    timed_out = omegactl("wait", id, "--timeout", "0.1")
    assert (timed_out.code, "still running" in timed_out.err) == (124, True)
    assert omegactl("wait", "work", "--timeout", "0.1").code == 124
    gate.write_text("go")
    assert omegactl("wait", id).code == 1
    assert omegactl("wait", "work").code == 0
    assert omegactl("output", id).out.startswith("late\nTraceback")


def test_json_is_the_whole_execution(omegactl: Omegactl) -> None:
    """--json prints one object with everything, untruncated, and the exit code is the same."""
    execution = ran(omegactl, "print('x' * 3_000_000); 5")
    assert (execution["status"], execution["result"], execution["truncated"]) == ("ok", "5", None)
    assert len(execution["output"]) == 3_000_003
    assert omegactl("exec", "work", "-c", "1/0", "--json").code == 1


def test_jsonl_is_the_events(omegactl: Omegactl) -> None:
    """--format jsonl prints each event as a line, the end with the execution in it."""
    events = [json.loads(line) for line in omegactl("exec", "work", "-c", "1", "--format", "jsonl").out.splitlines()]
    assert [event["kind"] for event in events] == [
        "execution_queued", "execution_started", "output", "execution_finished",
    ]  # fmt: skip
    assert events[-1]["execution"]["output"] == "1\n"


def test_large_output_is_printed_whole(omegactl: Omegactl) -> None:
    """More than a reply holds is neither cut nor doubled, on the fast path's way too."""
    done = omegactl("exec", "work", "-c", "for i in range(300_000): print(i)")
    assert done.out == "".join(f"{number}\n" for number in range(300_000))


def test_key_makes_a_repeated_command_run_once(omegactl: Omegactl) -> None:
    """The same --key answers the same execution; with another command it is a conflict."""
    omegactl("exec", "work", "-c", "n = 0")
    outputs = {omegactl("exec", "work", "-c", "n += 1; n", "--key", "once").out for _ in range(3)}
    assert outputs == {"1\n"}
    assert omegactl("exec", "work", "-c", "n", "--key", "once").code == 5


def test_no_create_creates_nothing(omegactl: Omegactl) -> None:
    """--no-create is exit code 4 for a session that is not there."""
    assert omegactl("exec", "work", "-c", "1", "--no-create").code == 4
    assert omegactl("ls", "-q").out == ""


def test_daemons_may_die_under_a_command(omegactl: Omegactl, place: Place) -> None:
    """Each kill -9 in the middle of the output is bridged: every line comes once, the command runs once."""
    gate = place.home / "gate"
    os.mkfifo(gate)
    code = f"""
for round in range(4):
    print('round', round, flush=True)
    with open({str(gate)!r}) as opened: opened.read()
_ = open({str(place.home / "runs")!r}, 'a').write('1')
"""
    process = omegactl.start("exec", "work", "-c", code)
    assert process.stdout is not None
    for round in range(4):
        assert process.stdout.readline() == f"round {round}\n"
        os.kill(daemon_pid(place), signal.SIGKILL)
        gate.write_text("go")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")
    assert (place.home / "runs").read_text() == "1"


def test_command_too_large_is_told(omegactl: Omegactl, place: Place) -> None:
    """A command over the daemon's limit is refused with the limit's name, before all of it was sent."""
    (place.home / "big.py").write_text("x = 1\n" * 2_000_000)
    done = omegactl("exec", "work", "-f", "big.py")
    assert done.code == 2
    assert "max_body_bytes" in done.err


def test_daemon_of_another_version_is_named(omegactl: Omegactl, place: Place) -> None:
    """When the daemon does not know what it is asked, and has another version, the remedy is said."""
    answers = (refusal("unknown_field", "400 Bad Request", "Unknown field"), json_reply({"version": "9.9"}))
    with Stub(place.runtime_dir / "omega-sessiond" / "api.sock", *answers):
        done = omegactl("new", "work")
    assert done.code == 2
    assert "9.9" in done.err and "service restart" in done.err


def test_creation_whose_answer_was_lost_is_done(omegactl: Omegactl, place: Place) -> None:
    """A daemon that dies after it made the session, before it said so, is no conflict with oneself."""
    exists = refusal("session_exists", "409 Conflict", "exists")
    with Stub(place.runtime_dir / "omega-sessiond" / "api.sock", b"", exists, json_reply({"name": "work"})):
        assert omegactl("new", "work").code == 0


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_closed_streams_are_nowhere(omegactl: Omegactl, place: Place, closed: str) -> None:
    """Started without one of its output streams, a command works all the same."""
    omegactl("exec", "work", "-c", "1")
    redirection = {"stdout": ">&-", "stderr": "2>&-"}[closed]
    done = subprocess.run(["sh", "-c", f'exec "$@" {redirection}', "sh", *COMMAND, "ls", "--json"], env=place.env)
    assert done.returncode == 0


# ---- ^C ----


def test_interrupt_ends_the_remote_command(omegactl: Omegactl) -> None:
    """^C interrupts what runs in the session, shows how it ended, and the variables stay."""
    process = omegactl.start("exec", "work", "-c", "import time; x = 1; print('on', flush=True); time.sleep(60)")
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out.endswith("KeyboardInterrupt\n")
    assert "Interrupting" in err
    assert omegactl("exec", "work", "-c", "x").out == "1\n"


def test_early_interrupt_counts(omegactl: Omegactl, place: Place) -> None:
    """^C while the fast path still waits for its first answer reaches the command, too."""
    omegactl("exec", "work", "-c", "import time")
    mark = place.home / "mark"
    process = omegactl.start("exec", "work", "-c", f"open({str(mark)!r}, 'w'); time.sleep(60)")
    while not mark.exists():
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(omegactl("history", "work", "--json").out)[-1]["status"] == "interrupted"


def test_second_interrupt_detaches(omegactl: Omegactl) -> None:
    """^C twice within two seconds leaves a command that does not yield, and says that it goes on."""
    code = (
        "import time\nend = time.monotonic() + 60\nprint('on', flush=True)\n"
        "while time.monotonic() < end:\n    try:\n        time.sleep(60)\n    except KeyboardInterrupt: pass"
    )
    process = omegactl.start("exec", "work", "-c", code)
    assert process.stdout is not None and process.stderr is not None
    assert process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGINT)
    while "Interrupting" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Detached" in err
    session = json.loads(omegactl("show", "work", "--json").out)
    assert session["running_execution_id"] is not None
    omegactl("kill", "work", "--budget", "0.1")


# ---- input() ----


def test_input_is_asked_at_the_terminal(omegactl: Omegactl) -> None:
    """input() in the session asks here; ^D is end of file, ^C interrupts."""
    with omegactl.at_terminal("exec", "work", "-c", "print('hello ' + input('name? '))") as terminal:
        terminal.until(r"name\? ")
        terminal.type("Ω\n")
        terminal.until("hello Ω")
        assert terminal.end() == 0
    with omegactl.at_terminal("exec", "work", "-c", "input('more? ')") as terminal:
        terminal.until(r"more\? ")
        terminal.type("\x04")
        terminal.until("EOFError")
        assert terminal.end() == 1
    with omegactl.at_terminal("exec", "work", "-c", "input('again? ')") as terminal:
        terminal.until(r"again\? ")
        terminal.type("\x03")
        terminal.until("KeyboardInterrupt")
        assert terminal.end() == 130


def test_secret_is_not_shown(omegactl: Omegactl) -> None:
    """getpass() in the session asks here without an echo, and the answer is in no history."""
    with omegactl.at_terminal("exec", "work", "-c", "from getpass import getpass; len(getpass('pass: '))") as terminal:
        terminal.until("pass: ")
        wait_for_silent_terminal(terminal)
        terminal.type("sesame\n")
        shown = terminal.until("6\r\n")
        assert terminal.end() == 0
    assert "sesame" not in shown
    assert "sesame" not in omegactl("events", "--json").out


def wait_for_silent_terminal(terminal: Terminal) -> None:
    """Until getpass has turned the echo off."""
    while termios.tcgetattr(terminal.descriptor)[3] & termios.ECHO:
        os.sched_yield()


def test_input_without_a_terminal_is_answered_by_another_command(omegactl: Omegactl) -> None:
    """Where nobody can be asked exec says how to answer, waits, and goes on with the answer given."""
    process = omegactl.start("exec", "work", "-c", "input('name? ') + '!'")
    assert process.stderr is not None
    assert "waits for input" in process.stderr.readline()
    assert "omegactl input work" in process.stderr.readline()
    assert json.loads(omegactl("show", "work", "--json").out)["state"] == "waiting_input"
    assert omegactl("input", "work", "Ω").code == 0
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out.endswith("'Ω!'\n")) == (0, True)
    assert omegactl("input", "work", "late").code == 5
    assert omegactl("input", "none", "x").code == 4


def test_input_reads_a_line_or_end_of_file(omegactl: Omegactl) -> None:
    """Without TEXT a line of standard input is the answer; --eof and an empty input are end of file."""
    for given, arguments, expected in (
        ("a line\n", (), "'a line'\n"),
        ("", (), "'EOF'\n"),
        ("", ("--eof",), "'EOF'\n"),
    ):
        code = "try: v = input()\nexcept EOFError: v = 'EOF'\nv"
        id = omegactl("exec", "work", "-c", code, "--detach").out.strip()
        while json.loads(omegactl("show", "work", "--json").out)["state"] != "waiting_input":
            pass
        assert omegactl("input", "work", *arguments, given=given).code == 0
        assert omegactl("wait", id).code == 0
        assert omegactl("exec", "work", "-c", "v").out == expected


# ---- terminals ----


def test_terminal_gets_safe_text(omegactl: Omegactl) -> None:
    """On a terminal, live output may move within its line and nothing else; on a pipe it is plain."""
    code = "import time; time.sleep(0.4); print('\\x1b]0;evil\\x07a\\x1b[2Jb\\x9bc 1%\\r2%')"
    with omegactl.at_terminal("exec", "work", "-c", code) as terminal:
        assert terminal.end() == 0
    assert "\x1b" not in terminal.seen and "evil" not in terminal.seen
    assert "1%\r2%" in terminal.seen
    assert omegactl("exec", "work", "-c", code).out == "2% 1%\n"


def test_colours_follow_the_conventions(omegactl: Omegactl) -> None:
    """Colours on a terminal, none on a pipe; NO_COLOR, CLICOLOR_FORCE and --color decide otherwise."""
    omegactl("exec", "work", "-c", "1")
    assert "\x1b" not in omegactl("ls").out
    assert "\x1b[" in omegactl("ls", env={"CLICOLOR_FORCE": "1"}).out
    assert "\x1b" not in omegactl("ls", env={"CLICOLOR_FORCE": "1", "NO_COLOR": "1"}).out
    assert "\x1b[" in omegactl("ls", "--color", "always", env={"NO_COLOR": "1"}).out
    for env, has_colors in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
        with omegactl.at_terminal("ls", env=env) as terminal:
            assert terminal.end() == 0
        assert ("\x1b[" in terminal.seen) == has_colors


def test_long_texts_go_through_the_pager(omegactl: Omegactl, place: Place) -> None:
    """On a terminal history goes through $PAGER, on a pipe it does not."""
    omegactl("exec", "work", "-c", "x = 'needle'")
    pager = {"PAGER": f"cat > {place.home}/paged"}
    with omegactl.at_terminal("history", "work", env=pager) as terminal:
        assert terminal.end() == 0
    assert "needle" in (place.home / "paged").read_text()
    assert "needle" not in terminal.seen
    assert "needle" in omegactl("history", "work", env=pager).out


# ---- sessions ----


def test_ls_in_every_form(omegactl: Omegactl) -> None:
    """table, wide, json, jsonl and name show the same sessions; on a pipe with ISO times and nothing cut."""
    assert omegactl("ls").out == ""
    assert omegactl("ls", "--json").out == "[]\n"
    label = "x" * 200
    for name in ("b", "a"):
        assert omegactl("new", name, "--label", f"k={label}").code == 0
    assert omegactl("ls", "-q").out == "a\nb\n" == omegactl("ls", "--format", "name").out
    assert [row["name"] for row in json.loads(omegactl("ls", "--json").out)] == ["a", "b"]
    assert [json.loads(line)["name"] for line in omegactl("ls", "--format", "jsonl").out.splitlines()] == ["a", "b"]
    table = omegactl("ls").out
    assert table.splitlines()[0].split()[:3] == ["NAME", "STATE", "ENGINE"]
    assert f"k={label}" in table
    assert re.search(r"\d{4}-\d\d-\d\dT", table)
    assert "PYTHON" in omegactl("ls", "-w").out == omegactl("ls", "--format", "wide").out


def test_ls_on_a_terminal_fits_it(omegactl: Omegactl) -> None:
    """On a terminal no line is wider than it, times are ages, and what is cut says so."""
    omegactl("new", "work", "--label", "k=" + "x" * 200)
    with omegactl.at_terminal("ls", env={"COLUMNS": "70", "NO_COLOR": "1"}) as terminal:
        assert terminal.end() == 0
    lines = terminal.seen.splitlines()
    assert all(len(line) <= 70 for line in lines)
    assert "…" in lines[1]
    assert re.search(r"\d(ms|s) ", lines[1])


def test_ls_filters_and_sorts(omegactl: Omegactl) -> None:
    """--filter narrows by state, name and label, --sort orders; an unknown key is told with the nearest."""
    omegactl("new", "one", "--label", "team=red")
    omegactl("new", "two", "--label", "team=blue")
    assert omegactl("ls", "-q", "--filter", "team=red").out == "one\n"
    assert omegactl("ls", "-q", "--filter", "team").out == "one\ntwo\n"
    assert omegactl("ls", "-q", "--filter", "name=t*", "--filter", "state=idle").out == "two\n"
    assert omegactl("ls", "-q", "--sort", "name", "-r").out == "two\none\n"
    assert {omegactl("ls", "-q", "--sort", key).code for key in SORT_KEYS} == {0}
    done = omegactl("ls", "--sort", "nmae")
    assert (done.code, "did you mean 'name'" in done.err) == (2, True)


def test_new_takes_what_a_session_can_have(omegactl: Omegactl, place: Place) -> None:
    """Directory, environment, interpreter, limits and labels are the session's; a second one of the name conflicts."""
    (place.home / "there").mkdir()
    done = omegactl(
        "new", "work", "--cwd", "there", "--env", "A=b=c", "--python", "python3",
        "--mem", "512M", "--tasks", "64", "--cpu-weight", "50", "--label", "k=v", "--json",
    )  # fmt: skip
    assert done.code == 0, done
    session = json.loads(done.out)[0]
    assert session["limits"] == {"memory_bytes": 512 * 1024 * 1024, "tasks": 64, "cpu_weight": 50}
    assert session["labels"] == {"k": "v"}
    code = "import os; print(os.getcwd(), os.environ['A'])"
    assert omegactl("exec", "work", "-c", code).out == f"{place.home / 'there'} b=c\n"
    again = omegactl("new", "work")
    assert (again.code, "exists" in again.err) == (5, True)
    assert omegactl("new", "other", "--python", "no-such-python").code == 2
    assert omegactl("new", "other", "--mem", "lots").code == 2
    assert omegactl("new", "-bad-").code == 2


def test_set_changes_limits_and_labels(omegactl: Omegactl) -> None:
    """Limits named are set or lifted, labels are added and removed, the rest stays."""
    omegactl("new", "work", "--mem", "1G", "--tasks", "64", "--label", "a=1", "--label", "b=2")
    done = omegactl("set", "work", "--mem", "none", "--cpu-weight", "7", "--label", "c=3", "--unlabel", "a", "--json")
    session = json.loads(done.out)[0]
    assert session["limits"] == {"memory_bytes": None, "tasks": 64, "cpu_weight": 7}
    assert session["labels"] == {"b": "2", "c": "3"}
    assert omegactl("set", "work").code == 2


def test_show_tells_all_of_a_session(omegactl: Omegactl, place: Place) -> None:
    """show prints details for a person and the session's object for a program."""
    omegactl("exec", "work", "-c", "1")
    out = omegactl("show", "work").out
    assert re.search(r"^state: +idle$", out, re.MULTILINE)
    assert re.search(rf"^working directory: +{place.home}$", out, re.MULTILINE)
    assert json.loads(omegactl("show", "work", "--json").out)["name"] == "work"
    assert omegactl("show", "work", "--format", "name").out == "work\n"


def test_unknown_session_is_4_with_a_suggestion(omegactl: Omegactl) -> None:
    """Every command about a session that is not there ends with 4 and names the nearest."""
    omegactl("new", "work")
    for arguments in (("show", "wrok"), ("history", "wrok"), ("kill", "wrok"), ("wait", "wrok"), ("output", "wrok")):
        done = omegactl(*arguments)
        assert (done.code, done.out) == (4, ""), arguments
        assert "did you mean 'work'?" in done.err


def test_rm_asks_a_person_and_takes_y_from_a_script(omegactl: Omegactl) -> None:
    """Without a terminal -y is needed; on one, anything but yes keeps the session."""
    for name in ("one", "two", "three"):
        omegactl("new", name)
    assert omegactl("rm", "one").code == 2
    assert omegactl("rm", "one", "two", "-y").code == 0
    assert omegactl("rm", "none", "-y").code == 4
    for answer, code, left in (("\n", 130, "three\n"), ("y\n", 0, "")):
        with omegactl.at_terminal("rm", "three") as terminal:
            terminal.until(r"\[y/N\] ")
            terminal.type(answer)
            assert terminal.end() == code
        assert omegactl("ls", "-q").out == left


def test_kill_and_restart_tell_what_they_did(omegactl: Omegactl) -> None:
    """kill ends the process and keeps history; restart has a new one; both say that the variables are gone."""
    omegactl("exec", "work", "-c", "x = 1")
    first = json.loads(omegactl("show", "work", "--json").out)["pid"]
    done = omegactl("kill", "work")
    assert (done.code, done.out, "gone" in done.err) == (0, "", True)
    assert json.loads(omegactl("show", "work", "--json").out)["state"] == "dead"
    assert omegactl("restart", "work", "--json").code == 0
    assert json.loads(omegactl("show", "work", "--json").out)["pid"] not in (None, first)
    assert len(json.loads(omegactl("history", "work", "--json").out)) == 1


def test_interrupt_from_elsewhere(omegactl: Omegactl) -> None:
    """interrupt ends what runs and says so; at rest it is a clear no-op."""
    process = omegactl.start("exec", "work", "-c", "import time; print('on', flush=True); time.sleep(60)")
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    done = omegactl("interrupt", "work")
    assert (done.code, "kept" in done.err) == (0, True)
    process.communicate(timeout=60)
    assert process.returncode == 130
    done = omegactl("interrupt", "work")
    assert (done.code, "Nothing is running" in done.err) == (0, True)


# ---- history and output ----


def test_history_lists_what_ran(omegactl: Omegactl) -> None:
    """history is oldest first, with -n only the last; --json has the outputs; a command cannot break its row."""
    for code in ("1", "print('\\x1b[2J')\n2", "1 / 0"):
        omegactl("exec", "work", "-c", code)
    lines = omegactl("history", "work").out.splitlines()
    assert len(lines) == 4
    assert [line.split()[1] for line in lines] == ["STATUS", "ok", "ok", "error"]
    assert omegactl("history", "work", "-n", "1").out.splitlines()[1].endswith("1 / 0")
    assert json.loads(omegactl("history", "work", "--json").out)[0]["output"] == "1\n"
    ids = omegactl("history", "work", "--format", "name").out.split()
    assert ids == sorted(ids, key=int) and len(ids) == 3


def test_history_follows(omegactl: Omegactl) -> None:
    """-f goes on with what ends from now on, also after the daemon was restarted."""
    omegactl("exec", "work", "-c", "1")
    process = omegactl.start("history", "work", "-f", "--format", "jsonl")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["command"] == "1"
    omegactl("exec", "work", "-c", "2")
    assert json.loads(process.stdout.readline())["command"] == "2"
    omegactl("service", "restart")
    omegactl("exec", "work", "-c", "3")
    assert json.loads(process.stdout.readline())["command"] == "3"
    process.terminate()
    process.communicate(timeout=60)


def test_output_in_parts(omegactl: Omegactl) -> None:
    """output has everything, --tail the last lines, --grep those that match, --raw every byte as it was."""
    omegactl("exec", "work", "-c", "for i in range(100_000): print('line', i)")
    id = omegactl("history", "work", "--format", "name").out.strip()
    whole = "".join(f"line {number}\n" for number in range(100_000))
    assert omegactl("output", id).out == whole == omegactl("output", "work").out
    assert omegactl("output", id, "--tail", "3").out == "line 99997\nline 99998\nline 99999\n"
    assert omegactl("output", id, "--tail", "200000").out == whole
    assert omegactl("output", id, "--grep", "^line 4+$").out.split("\n")[:2] == ["line 4", "line 44"]
    assert omegactl("output", id, "--grep", "0$", "--tail", "1").out == "line 99990\n"
    assert omegactl("output", id, "--grep", "(").code == 2
    omegactl("exec", "work", "-c", "print('\\x1b[31mred\\x1b[0m 1%\\r2%')")
    assert omegactl("output", "work").out == "2%d 1%\n"
    assert omegactl("output", "work", "--raw").out == "\x1b[31mred\x1b[0m 1%\r2%\n"


# ---- the rest ----


def test_events_once_and_followed(omegactl: Omegactl) -> None:
    """events prints what is kept; -f goes on; --since and --session narrow it."""
    omegactl("exec", "work", "-c", "1")
    omegactl("exec", "other", "-c", "2")
    events = [json.loads(line) for line in omegactl("events", "--format", "jsonl").out.splitlines()]
    assert [event["id"] for event in events] == sorted({event["id"] for event in events})
    last = events[-1]["id"]
    assert {event["session"] for event in json.loads(omegactl("events", "--json", "--session", "work").out)} == {"work"}
    assert omegactl("events", "--since", str(last), "--json").out == "[]\n"
    assert len(omegactl("events").out.splitlines()) == len(events)
    process = omegactl.start("events", "-f", "--since", str(last), "--format", "jsonl")
    assert process.stdout is not None
    omegactl("exec", "work", "-c", "3")
    assert json.loads(process.stdout.readline())["command"] == "3"
    process.terminate()
    process.communicate(timeout=60)


def test_engines_names_python(omegactl: Omegactl) -> None:
    """engines shows what can evaluate here."""
    assert "python" in omegactl("engines").out
    assert json.loads(omegactl("engines", "--json").out)[0]["name"] == "python"


def test_version_says_both_sides(omegactl: Omegactl) -> None:
    """version starts no daemon, and names the running one's version when there is one."""
    assert json.loads(omegactl("version", "--json").out)["server"] is None
    omegactl("ls")
    found = json.loads(omegactl("version", "--json").out)
    assert found["server"] == found["client"]


def test_logs_are_the_daemons_and_one_sessions(omegactl: Omegactl) -> None:
    """Without systemd logs shows the daemon's file, or its lines about one session."""
    omegactl("exec", "work", "-c", "1")
    assert "serving" in omegactl("logs").out
    assert len(omegactl("logs", "-n", "1").out.splitlines()) == 1
    omegactl("exec", "work", "-c", "import os; os.kill(os.getpid(), 9)")
    about = omegactl("logs", "work").out
    assert about and all("work" in line for line in about.splitlines())
    assert omegactl("logs", "nobody").out == ""


def test_omegallm_users_feel_at_home(omegactl: Omegactl, place: Place) -> None:
    """-s NAME with -c or -f behaves as OmegaLLM's own command line: bare output, or session, command and output."""
    assert omegactl("-s", "work", "-c", "x = 20").code == 0
    assert omegactl("-s", "work", "-c", "x + 1").out == "21\n"
    found = json.loads(omegactl("-s", "work", "-c", "x", "--json").out)
    assert found == {"session": "work", "command": "x", "output": "20\n"}
    (place.home / "code.py").write_text("x * 2")
    assert omegactl("--session=work", "-f", "code.py").out == "40\n"
    assert omegactl("-s", "work", "-c", "1/0").code == 1
    assert omegactl("-s", "work").code == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("lss",), "did you mean 'ls'?"),
        (("service", "stat"), "did you mean"),
        (("ls", "--jsno"), "did you mean '--json'?"),
        (("ls", "--format", "jason"), "did you mean 'json'?"),
        (("exec", "work"), "required"),
        (("exec", "work", "-c", "1", "-f", "x"), "not allowed"),
        (("wait",), "required"),
        (("--timeout", "soon", "ls"), "duration"),
        ((), "COMMAND"),
    ],
)
def test_wrong_usage_is_2_with_a_way_out(omegactl: Omegactl, arguments: tuple[str, ...], told: str) -> None:
    """Mistakes are told with the nearest right word, on stderr, and start nothing."""
    done = omegactl(*arguments)
    assert (done.code, done.out) == (2, "")
    assert told in done.err
    assert not background(omegactl.place)


@pytest.mark.parametrize(
    ("shell", "check"), [("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])]
)
def test_completion_scripts_are_valid(omegactl: Omegactl, place: Place, shell: str, check: list[str]) -> None:
    """Each shell's script names every command, and its shell, where it is here, can read it."""
    script = omegactl("completion", shell).out
    for action in parser()._actions:
        if action.dest == "command":
            assert all(re.search(rf"\b{name}\b", script) for name in action.choices or ())
    if shutil.which(shell):
        (place.home / "script").write_text(script)
        subprocess.run([shell, "-n", str(place.home / "script")], check=True)


def test_bash_completes_commands_options_and_sessions(omegactl: Omegactl, place: Place) -> None:
    """In bash, TAB completes commands, a command's options, and the names of sessions."""
    omegactl("new", "workshop")
    (place.home / "script").write_text(omegactl("completion", "bash").out)
    launcher = place.home / "omegactl"
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
    launcher.chmod(0o755)

    def completed(*words: str) -> list[str]:
        listed = " ".join(shlex.quote(word) for word in ("omegactl", *words))
        script = (
            f". {place.home}/script; COMP_WORDS=({listed}); COMP_CWORD={len(words)}\n_omegactl; echo ${{COMPREPLY[@]}}"
        )
        env = {**place.env, "PATH": f"{place.home}:{os.environ['PATH']}"}
        return subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True).stdout.split()

    assert completed("hist") == ["history"]
    assert completed("exec", "--det") == ["--detach"]
    assert completed("show", "wor") == ["workshop"]
    assert completed("service", "sta") == ["status", "start"]


def test_every_command_has_help(omegactl: Omegactl) -> None:
    """--help of the whole and of each command is data, and names the exit codes."""
    assert "exit codes" in omegactl("--help").out
    for action in parser()._actions:
        if action.dest == "command":
            for name in list(action.choices or ())[:3]:
                done = omegactl(name, "--help")
                assert (done.code, done.err) == (0, "")


# ---- doctor ----


def findings(omegactl: Omegactl, **env: str) -> tuple[int, dict[str, Any]]:
    done = omegactl("doctor", "--json", env=env)
    return done.code, {finding["name"]: finding for finding in json.loads(done.out)["findings"]}


@pytest.fixture
def on_path(place: Place) -> dict[str, str]:
    """An environment in which both commands are found."""
    directory = place.home / ".local" / "bin"
    directory.mkdir(parents=True)
    for name in ("omegactl", "omega-sessiond"):
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    return {"PATH": f"{directory}:{os.environ['PATH']}"}


def test_doctor_finds_a_sound_installation_sound(omegactl: Omegactl, on_path: dict[str, str]) -> None:
    """With nothing wrong it ends with 0, before and after the daemon runs; what may be meant so is a note."""
    code, before = findings(omegactl, **on_path)
    assert code == 0, before
    assert not background(omegactl.place) or before["daemon"]["detail"].startswith("not running")
    omegactl("exec", "work", "-c", "1")
    code, after = findings(omegactl, **on_path)
    assert code == 0, after
    assert after["daemon"]["detail"].endswith("started by client")
    assert after["versions"]["ok"] and after["health"]["ok"]


def test_doctor_says_what_is_not_on_path(omegactl: Omegactl) -> None:
    """Commands that PATH does not lead to are found, with the line that helps."""
    code, found = findings(omegactl)
    assert code == 1
    assert "PATH" in found["command omegactl"]["remedy"]


@pytest.mark.parametrize(
    ("spoil", "name", "words", "remedy"),
    [
        ("config", "settings", "max_queu", "max_queue"),
        ("state_mode", "state directory", "mode 0755", "chmod 700"),
        ("runtime_mode", "runtime directory", "mode 0755", "chmod 700"),
        ("corrupt", "journal", "journal.db", ".recover"),
        ("newer", "journal", "journal.db", "Install"),
    ],
)
def test_doctor_finds_what_is_wrong(
    omegactl: Omegactl, place: Place, on_path: dict[str, str], spoil: str, name: str, words: str, remedy: str
) -> None:
    """Each thing that keeps the daemon from running is named with its remedy, as text and as JSON, and exit code 1."""
    omegactl("ls")
    omegactl("service", "stop")
    journal = place.state_dir / "journal.db"
    match spoil:
        case "config":
            (place.config_home / "omega-sessiond").mkdir()
            (place.config_home / "omega-sessiond" / "config.toml").write_text("max_queu = 3\n")
        case "state_mode":
            place.state_dir.chmod(0o755)
        case "runtime_mode":
            (place.runtime_dir / "omega-sessiond").chmod(0o755)
        case "corrupt":
            journal.write_bytes(b"this was never a database" * 1000)
        case _:
            _make_newer(journal)
    code, found = findings(omegactl, **on_path)
    assert code == 1
    assert words in found[name]["detail"] and not found[name]["ok"], found
    assert remedy in found[name]["remedy"]
    text = omegactl("doctor", env=on_path)
    assert text.code == 1
    assert "WRONG" in text.out and remedy in text.out


def _make_newer(journal: Path) -> None:
    connection = sqlite3.connect(journal)
    connection.execute("PRAGMA user_version = 999")
    connection.commit()
    connection.close()


def test_doctor_finds_a_stale_socket(omegactl: Omegactl, place: Place, on_path: dict[str, str]) -> None:
    """A socket without a listener is noted: the next command replaces it."""
    omegactl("ls")
    os.kill(daemon_pid(place), signal.SIGKILL)
    while json.loads(omegactl("version", "--json").out)["server"] is not None:
        time.sleep(0)
    code, found = findings(omegactl, **on_path)
    assert "stale" in found["socket"]["detail"]
    assert code == 0


def test_doctor_finds_another_state_directory(omegactl: Omegactl, place: Place, on_path: dict[str, str]) -> None:
    """A daemon that serves another state directory than this shell means is told with both."""

    def answer(asked: Any) -> bytes:
        if asked.path == "/api/server":
            return json_reply({"state_dir": "/its/own", "pid": 1, "activation": "systemd", "version": "9.9"})
        return json_reply({"status": "degraded", "detail": "disk full"})

    with Stub(place.runtime_dir / "omega-sessiond" / "api.sock", answer):
        code, found = findings(omegactl, **on_path)
    assert code == 1
    assert "/its/own" in found["state directory in use"]["detail"]
    assert "9.9" in found["versions"]["detail"] and not found["versions"]["ok"]
    assert found["health"]["detail"] == "disk full"


def test_doctor_finds_a_path_too_long(omegactl: Omegactl, place: Place, on_path: dict[str, str]) -> None:
    """A socket path over the kernel's limit is named with its length."""
    code, found = findings(omegactl, XDG_RUNTIME_DIR=str(place.runtime_dir / ("x" * 100)), **on_path)
    assert code == 1
    assert "107" in found["socket path"]["detail"]
