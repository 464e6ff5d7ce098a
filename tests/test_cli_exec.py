"""`omegactl exec` with a real daemon: output, exit codes, ^C, input(), and daemons that die under it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import termios
from collections.abc import Iterator
from typing import Any

import pytest

from ctl import COMMAND, Omegactl, Terminal, whatever_it_starts
from isolation import Place
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


# ---- exec ----


def test_sessions_keep_their_variables(omegactl: Omegactl) -> None:
    """The first command creates the session, the next one finds what it left."""
    done = omegactl("exec", "work", "-c", "x = 41")
    assert (done.code, done.out, done.err) == (0, "", "")
    done = omegactl("exec", "work", "-c", "x + 1")
    assert (done.code, done.out, done.err) == (0, "42\n", "")


def test_daemon_of_another_runtime_directory_is_found(omegactl: Omegactl, place: Place) -> None:
    """A shell with another XDG_RUNTIME_DIR, as after su or in a container, meets the daemon of its state directory."""
    other = place.base / "other"
    other.mkdir(mode=0o700)
    elsewhere = {"XDG_RUNTIME_DIR": str(other)}
    omegactl("exec", "work", "-c", "x = 41")
    assert omegactl("exec", "work", "-c", "x + 1", env=elsewhere).out == "42\n"
    assert json.loads(omegactl("version", "--json", env=elsewhere).out)["server"] is not None
    status = omegactl("service", "status", env=elsewhere).out
    assert f"{place.runtime_dir}/omega-sessiond/api.sock" in status
    assert f"pid {daemon_pid(place)}" in status
    assert omegactl("service", "stop", env=elsewhere).code == 0
    assert omegactl("exec", "work", "-c", "x + 1", env=elsewhere).out == "42\n"
    assert (other / "omega-sessiond" / "api.sock").is_socket()
    # And back, to a session whose process has changed meanwhile, and to one that was made there.
    assert omegactl("restart", "work", env=elsewhere).code == 0
    assert omegactl("exec", "work", "-c", "x = 6", env=elsewhere).code == 0
    assert omegactl("exec", "new", "-c", "x = 7", env=elsewhere).code == 0
    omegactl("service", "stop", env=elsewhere)
    assert [omegactl("exec", name, "-c", "x").out for name in ("work", "new")] == ["6\n", "7\n"]
    assert str(place.runtime_dir) in omegactl("service", "status").out


def test_who_looks_leaves_no_trace(omegactl: Omegactl, place: Place) -> None:
    """A doctor in a shell with another runtime directory does not hide the sessions of later from its daemons."""
    other = place.base / "other"
    other.mkdir(mode=0o700)
    elsewhere = {"XDG_RUNTIME_DIR": str(other)}
    omegactl("ls")
    omegactl("doctor", env=elsewhere)
    omegactl("exec", "work", "-c", "x = 42")
    omegactl("service", "stop")
    assert omegactl("exec", "work", "-c", "x", env=elsewhere).out == "42\n"


def test_nothing_is_dropped_without_a_word(omegactl: Omegactl) -> None:
    """Two commands in one call, no standard input, and names that are no text are refused in words."""
    for options in (("-c", "1", "-c", "2"), ("-f", "a", "-f", "b"), ("-s", "work", "-c", "1", "-c", "2")):
        refused = omegactl(*(("exec", "work", *options) if options[0] != "-s" else options))
        assert (refused.code, refused.out) == (2, "") and "only once" in refused.err, refused
    done = shell(omegactl, '"$@" exec work - <&-')
    assert done.returncode == 2 and "Standard input is closed" in done.stderr, done
    done = shell(omegactl, '"$@" exec $(printf "w\\377") -c 1')
    assert done.returncode == 2 and "is not a session name" in done.stderr, done
    assert shell(omegactl, '"$@" repl work <&-').returncode == 0


def test_output_that_cannot_be_written(omegactl: Omegactl) -> None:
    """A full disk behind standard output is told once, with its own exit code."""
    omegactl("exec", "work", "-c", "1")
    for command in ("ls", "history work"):
        done = shell(omegactl, f'"$@" {command} > /dev/full')
        assert (done.returncode, done.stderr) == (125, "omegactl: No space left on device\n"), done


def test_daemon_that_cannot_start_is_told_by_its_own_words(omegactl: Omegactl, place: Place) -> None:
    """Settings that cannot be used are named, and nothing that an earlier daemon has logged is."""
    omegactl("ls")
    omegactl("service", "stop")
    before = (place.state_dir / "daemon.log").read_text().splitlines()
    assert before
    file = place.config_home / "omega-sessiond" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("max_queu = 3\n")
    refused = omegactl("ls")
    assert refused.code == 3 and "max_queu" in refused.err, refused
    assert not any(line in refused.err for line in before)
    file.unlink()
    assert omegactl("ls").code == 0


def test_daemon_is_not_stopped_for_one_that_cannot_start(omegactl: Omegactl, place: Place) -> None:
    """`service restart` looks first whether there can be a daemon afterwards, and leaves the one that serves alone."""
    omegactl("ls")
    pid = json.loads(omegactl("service", "status", "--json").out)["server"]["pid"]
    file = place.config_home / "omega-sessiond" / "config.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("max_queu = 3\n")
    refused = omegactl("service", "restart")
    assert refused.code == 125 and "Not restarted" in refused.err and "max_queu" in refused.err, refused
    file.unlink()
    for arguments in (("--no-start",), ("--socket", str(place.runtime_dir / "omega-sessiond" / "api.sock"))):
        assert omegactl("service", "restart", *arguments).code != 0
    assert json.loads(omegactl("service", "status", "--json").out)["server"]["pid"] == pid
    file.write_text('engine = "nope"\n')  # hinders new sessions alone
    assert omegactl("service", "restart").code == 0
    assert json.loads(omegactl("service", "status", "--json").out)["server"]["pid"] != pid


def test_program_that_ends_says_so(omegactl: Omegactl) -> None:
    """A line REPL that a command has ended with a status is told of, though it printed nothing."""
    done = omegactl("exec", "sh", "--engine", "bash", "-c", "exec sh -c 'exit 3'")
    assert (done.code, done.out) == (1, "")
    assert done.err == "bash ended with exit status 3: the next command starts anew.\n"


def shell(omegactl: Omegactl, script: str) -> subprocess.CompletedProcess[str]:
    """A shell's command line, in which "$@" is omegactl."""
    return subprocess.run(
        ["bash", "-c", script, "bash", *COMMAND],
        capture_output=True,
        text=True,
        env=omegactl.env,
        cwd=omegactl.place.home,
        timeout=60,
    )


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
    (place.home / "marked.py").write_bytes(b"\xef\xbb\xbfy = 6\r\ny * 7\r\n")
    assert omegactl("exec", "work", "-f", "marked.py").out == "42\n"
    assert omegactl("exec", "work", "-", given=b"\xef\xbb\xbfy").out == "6\n"
    done = omegactl("exec", "work", "-", given=b"\xff")
    assert (done.code, done.err) == (2, "omegactl: Standard input is not UTF-8\nConvert it first.\n")
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
    whole = json.loads(omegactl("output", id, "--json").out)
    assert json.loads(omegactl("wait", id, "--json").out) == whole
    assert json.loads(omegactl("wait", "work", "--json").out)["state"] == "idle"
    assert omegactl("exec", "work", "--key", "", "-c", "1").code == 2
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


def test_options_of_a_session_that_is_created(omegactl: Omegactl, place: Place) -> None:
    """exec takes what new takes, for a session that is not there; one that is there is used as it is, unless the code
    is meant for another engine."""
    options = ("--engine", "bash", "--cwd", "/", "--env", "WHO=me", "--label", "team=red")
    assert omegactl("exec", "work", *options, "-c", "pwd; echo $WHO").out == "/\nme\n"
    assert json.loads(omegactl("show", "work", "--json").out)["labels"] == {"team": "red"}
    assert omegactl("exec", "work", "--engine", "bash", "--label", "team=blue", "-c", "echo $WHO").out == "me\n"
    done = omegactl("exec", "work", "--engine", "python", "-c", "WHO = 1")
    assert (done.code, done.out, "its engine is bash, not python" in done.err) == (2, "", True)
    done = omegactl("exec", "other", "--engine", "bsah", "-c", "1")
    assert (done.code, "Did you mean 'bash'?" in done.err) == (2, True)


def test_options_of_a_session_that_exists_are_told_to_do_nothing(omegactl: Omegactl, place: Place) -> None:
    """What only a creation heeds is said to have no effect on a session that is there, and the command runs all the
    same; a session that is made by it, and one that exists without such options, are not told of."""
    said = "Session 'work' exists already: "
    options = ("--cwd", "/", "--env", "A=1", "--mem", "none")
    assert omegactl("exec", "work", "--label", "a=1", *options[:4], "-c", "1").err == ""
    for form in (("--format", "text"), ("--no-create",), ("--detach",)):
        done = omegactl("exec", "work", *options, *form, "-c", "1")
        assert (done.code, done.out.strip().isdigit()) == (0, True)
        effect = "--env, --cwd, --mem have no effect there; 'omegactl set work' changes limits and labels.\n"
        assert done.err == said + effect
    done = omegactl("exec", "work", "--python", "python3", "-c", "1 / 0", "--json")
    assert (done.code, done.err) == (1, said + "--python has no effect there.\n")
    assert json.loads(done.out)["status"] == "error"
    for given in ("1\n2\n", "x = 1\nx\n"):
        done = omegactl("repl", "work", "--label", "a=2", given=given)
        assert (done.code, done.err.count("--label has no effect there")) == (0, 1)
    assert omegactl("repl", "new", "--label", "a=2", given="1\n").err == ""
    assert json.loads(omegactl("show", "work", "--json").out)["labels"] == {"a": "1"}
    with omegactl.at_terminal("repl", "work", "--tasks", "9") as terminal:
        terminal.until("--tasks has no effect there")


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
    made = json_reply({"name": "work", "state_reason": None})
    with Stub(place.runtime_dir / "omega-sessiond" / "api.sock", b"", exists, made):
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
    process = omegactl.start("exec", "work", "-c", f"open({str(mark)!r}, 'w').close(); time.sleep(60)")
    while not mark.exists():
        os.sched_yield()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert json.loads(omegactl("history", "work", "--json").out)[-1]["status"] == "interrupted"


def test_second_interrupt_detaches(omegactl: Omegactl) -> None:
    """^C twice within two seconds leaves a command that does not yield, and says that it goes on."""
    code = (
        "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end:\n    try:\n"
        "        print('on', flush=True)\n        time.sleep(60)\n    except KeyboardInterrupt: pass"
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


# ---- exit() and input() ----


def test_exit_is_told_to_a_person(omegactl: Omegactl) -> None:
    """exit() ends no session: whoever typed it learns so, and a program finds an empty stderr."""
    assert omegactl("exec", "work", "-c", "exit()").err == ""
    with omegactl.at_terminal("exec", "work", "-c", "exit(3)") as terminal:
        terminal.until("the session lives on")
        assert terminal.end() == 0


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


def test_answer_from_elsewhere_ends_the_question(omegactl: Omegactl) -> None:
    """While input() is asked here, another command may answer it: the question is over, and the command goes on."""
    with omegactl.at_terminal("exec", "work", "-c", "print('hello ' + input('name? '))") as terminal:
        terminal.until(r"name\? ")
        terminal.type("half a na")
        terminal.until("half a na")
        assert omegactl("input", "work", "Ω").code == 0
        terminal.until("Answered elsewhere.")
        terminal.until("hello Ω")
        assert terminal.end() == 0


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


TWO = "[input('a? '), input('b? ')]"
"""Asks twice."""


def test_input_reads_a_pipe(omegactl: Omegactl, place: Place) -> None:
    """input() takes a line of a pipe or a file for each question, without its end; where that ends, so does the input.
    The prompts are part of the output, and of that alone."""
    for given, expected in (("1\r\n2\n3\n", "['1', '2']\n"), ("Ω\n\n", "['Ω', '']\n")):
        for form in ((), ("--format", "text")):
            done = omegactl("exec", "work", "-c", TWO, *form, given=given)
            assert (done.code, done.out, done.err) == (0, f"a? b? {expected}", "")
    done = omegactl("exec", "work", "-c", TWO, given="1\n")
    assert (done.code, "EOFError" in done.out, done.err) == (1, True, "")
    assert ran_with(omegactl, "5\n", "int(input()) + 1", "--json")["result"] == "6"
    done = omegactl("-s", "work", "-c", "int(input()) + 1", given="6\n")
    assert (done.code, done.out) == (0, "7\n")
    (place.home / "asks.py").write_text("input() + input()\n")
    (place.home / "answers").write_text("x\ny\n")
    answered = shell(omegactl, '"$@" exec work -f asks.py < answers')
    assert (answered.returncode, answered.stdout, answered.stderr) == (0, "'xy'\n", "")


def ran_with(omegactl: Omegactl, given: str, code: str, *options: str) -> Any:
    """One command as JSON, with that at its standard input."""
    return json.loads(omegactl("exec", "work", "-c", code, *options, given=given).out)


def test_input_reads_no_further_than_its_line(omegactl: Omegactl) -> None:
    """What follows the answer at the pipe is the next program's, and a command that asks nothing takes nothing."""
    done = shell(omegactl, r"""printf 'a\nb\nc\n' | { "$@" exec work -c 'input()'; "$@" exec work -c 1; cat; }""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "'a'\n1\nb\nc\n", "")


def test_secret_reads_a_pipe(omegactl: Omegactl) -> None:
    """getpass() takes its line from there, too, and the answer is in no history."""
    done = omegactl("exec", "work", "-c", "from getpass import getpass; len(getpass())", given="sesame\r\n")
    assert (done.code, done.out.endswith("6\n")) == (0, True), done
    assert "sesame" not in omegactl("events", "--json").out


def test_pipe_that_is_silent(omegactl: Omegactl) -> None:
    """While a pipe says nothing another command may answer, how is said, and the line that comes then is the next
    question's."""
    process = subprocess.Popen(
        [*COMMAND, "exec", "work", "-c", TWO],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=omegactl.env, cwd=omegactl.place.home, text=True, bufsize=1,
    )  # fmt: skip
    assert process.stdin is not None and process.stderr is not None
    process.stdin.write("half a ")
    process.stdin.flush()
    assert "waits for input: 'a? '" in process.stderr.readline()
    assert "omegactl input work" in process.stderr.readline()
    assert omegactl("input", "work", "elsewhere").code == 0
    assert process.stderr.readline() == "Answered elsewhere.\n"
    out, _ = process.communicate("line\n", timeout=60)
    assert (process.returncode, out) == (0, "a? b? ['elsewhere', 'half a line']\n")


def test_pipe_that_is_no_text(omegactl: Omegactl) -> None:
    """Bytes that are not UTF-8 answer nothing: that is said, and what else answers."""
    done = omegactl("exec", "work", "-c", "input()", given=b"\xff\n")
    assert (done.code, "Standard input is not UTF-8" in done.err, "omegactl input work TEXT" in done.err) == (2,) + (
        True,
    ) * 2
    done = omegactl("input", "work", given=b"\xff\n")
    assert (done.code, done.err) == (2, "omegactl: Standard input is not UTF-8\nConvert it first.\n")
    assert omegactl("input", "work", given=b"late\r\n").code == 0
    assert omegactl("wait", "work").code == 0
    assert omegactl("output", "work").out == "'late'\n"
    done = omegactl("exec", "work", "-c", "input()", given="a\rb\n")
    assert (done.code, "carriage return" in done.err, "omegactl interrupt work" in done.err) == (2, True, True)
    assert omegactl("interrupt", "work").code == 0
    done = omegactl("repl", "work", given="input()\na\rb\nprint(7)\n")
    assert (done.code, "carriage return" in done.err, "7" in done.out) == (2, True, False)


def test_long_lines_and_files_are_answers(omegactl: Omegactl) -> None:
    """A line of a pipe may be long; of a file what follows the line is the next reader's, as of a pipe."""
    assert omegactl("exec", "work", "-c", "len(input())", given="y" * 300_000 + "\n").out == "300000\n"
    (omegactl.place.home / "lines").write_text("a\nb\nc\n")
    done = shell(omegactl, """{ "$@" exec work -c 'input()'; "$@" exec work -c 'input()'; cat; } < lines""")
    assert (done.returncode, done.stdout, done.stderr) == (0, "'a'\n'b'\nc\n", "")


@pytest.mark.parametrize(
    "script",
    [
        'echo "input()" | "$@" exec work -',
        'echo "input()" | "$@" exec work -f /dev/stdin',
        '"$@" exec work -c "input()" <&-',
    ],
)
def test_input_that_was_the_command_is_no_answer(omegactl: Omegactl, script: str) -> None:
    """Where standard input was the command itself, or is closed, the end of it answers nothing."""
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *COMMAND],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=omegactl.env, cwd=omegactl.place.home, text=True,
    )  # fmt: skip
    assert process.stderr is not None
    assert "waits for input" in process.stderr.readline()
    assert omegactl("input", "work", "x").code == 0
    out, _ = process.communicate(timeout=60)
    assert out == "'x'\n"


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
