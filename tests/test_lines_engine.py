"""The engine of line REPLs: OmegaLLM's habits, terminals, programs that are no REPLs, and what is told of a silent one.

What every engine must do is in test_engines_conformance.py; here a small REPL of our own (linerepl.py) stands in for
OmegaLLM, and hosts are driven over their real sockets.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import unavailable
from hostdriver import HostProcess, Hosts, Run, until
from life import Life, is_alive
from omega_sessiond.config import Settings
from omega_sessiond.engines import Catalogue

REPL = f"{sys.executable} {Path(__file__).with_name('linerepl.py')}"

Table = dict[str, Any]
Start = Callable[..., HostProcess]

PYTHON_PROMPT: Table = {
    "command": [sys.executable, "-i", "-q", "-u"],
    "setup": "import sys; sys.ps1 = sys.ps2 = ''\n",
    "submit": "{code}\n\n",
    "sentinel": "print('{left}' + '{right}')\n",
    "mark": "{token}\n",
    "errors": [r"^(?P<name>\w+(?:Error|Exception)): (?P<message>.*)\n\Z"],
    "error_stream": "stderr",
    "complete": "syntax",
    "syntax": {"brackets": ["()", "[]", "{}"], "strings": ["'", '"'], "escape": "\\", "comments": ["#"]},
}

SHELL: Table = {
    "command": ["bash", "--noprofile", "--norc", "--noediting", "-i"],
    "terminal": True,
    "interrupt": "key",
}
"""The shipped bash, at a terminal."""


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a host with an engine: `start("bash")`, or one of the given table: `start("toy", {…})`."""
    hosts = Hosts(tmp_path)

    def begin(name: str, table: Table | None = None, *, omega: str = REPL) -> HostProcess:
        env = {**os.environ, "OMEGA_REPL": omega}
        tables = {} if table is None else {name: table}
        resolved = Catalogue(Settings(engines=tables)).resolve(name, None, env)
        return hosts(python=sys.executable, engine=name, kind=resolved.kind, options=resolved.options)

    yield begin
    hosts.close()


def _error(run: Run) -> str:
    assert run.status == "error", run
    return str(run.result["error"]["message"])


# ---- OmegaLLM ----


def test_omega_keeps_its_definitions(start: Start) -> None:
    """A definition and its use in two commands give what OmegaLLM's own REPL prints."""
    host = start("omega")
    assert host.run("(define x 10)").output == "=> x\n"
    assert host.run("x").output == "=> 10\n"
    assert host.run("(+ x\n   1)").output == "=> 11\n"


@pytest.mark.parametrize(
    ("command", "output"),
    [
        ('(display "hi")', "hi=> null\n"),
        ('(begin (display "line\\n") 5)', "line\n=> 5\n"),
        ('(string-append "a(" "b")', '=> "a(b"\n'),
        ('(string-append ")" "b")', '=> ")b"\n'),
        ('(string-append ")"\n  "b" ; (\n  "c)")', '=> ")bc)"\n'),
        ('(string-append "((\n" "b")', '=> "((\\nb"\n'),
        ("; a comment (", ""),
        ("(+ 1 ; (\n 2)", "=> 3\n"),
        ("1\n(+ 1 1)", "=> 1\n=> 2\n"),
        (":help", "Commands:\n  :help, :h      — show this help\n"),
        (":nonsense", "Unknown command: :nonsense. Type :help for commands.\n"),
        (":session save mine", "Session saved as 'mine'\n"),
    ],
)
def test_omega_answers_as_its_own_repl(start: Start, command: str, output: str) -> None:
    """Forms, strings with brackets, comments and commands print what the REPL prints, and what follows is in step."""
    host = start("omega")
    found = host.run(command)
    assert (found.status, found.output) == ("ok", output)
    assert host.run("(+ 20 3)").output == "=> 23\n"


def test_omega_error_is_an_error(start: Start) -> None:
    """A last line `error: …` is status error with its message."""
    host = start("omega")
    found = host.run("(car 5)")
    assert (_error(found), found.output) == ("car: expected pair", "error: car: expected pair\n")
    assert host.run('(display "error: no")').status == "ok"


def test_omega_refuses_what_is_not_whole(start: Start) -> None:
    """An open form is refused before it is sent; a string with brackets and newlines arrives as it is."""
    host = start("omega")
    assert "'(' is open" in _error(host.run("(define y"))
    assert host.run('(display ")))\n")').output == ")))\n=> null\n"
    assert host.run("1").output == "=> 1\n"


def test_quit_leaves_the_session_alone(start: Start) -> None:
    """`:quit` answers should_exit, and the session has what it had."""
    host = start("omega")
    host.run("(define x 10)")
    assert host.run(":quit").result["should_exit"]
    assert host.run("x").output == "=> 10\n"


def test_omega_is_not_interrupted_to_death(start: Start) -> None:
    """What would die of an interrupt is left alone, and a command after it has the state."""
    host = start("omega")
    host.run("(define x 10)")
    path = host.directory / "begun"
    id = host.start(f'(touch-and-wait "{path}")')
    until(path.exists, "it runs")
    host.interrupt()
    assert "cannot be interrupted" in host.daemon.wait_for("note")["text"]
    Path(f"{path}.go").touch()
    assert host.daemon.result(id).output == '=> "done"\n'
    assert host.run("x").output == "=> 10\n"


def test_a_fresh_program_takes_the_place_of_a_slow_one(start: Start) -> None:
    """After so many commands a fresh program goes on with the state of the old one, and the session says so."""
    host = start("omega", {"renew_after": 3})
    for command in ("(define x 10)", "(define (f n) (+ n x))", '(define s "a b")'):
        host.run(command)
    renewed = host.run("(f 1)")
    assert renewed.stdout == "=> 11\n"
    assert renewed.stderr == "[omega has served 3 commands: a fresh one with its state goes on]\n"
    assert host.run("s").output == '=> "a b"\n'


def test_no_fresh_program_where_the_state_would_not_come_back(start: Start) -> None:
    """A program whose save does not bring everything back goes on itself, and the session says why."""
    host = start("omega", {"renew_after": 1}, omega=f"{REPL} forgets")
    host.run("(volatile x 10)")
    kept = host.run("x")
    assert kept.stdout == "=> 10\n"
    assert "goes on: a fresh one would lack something" in kept.stderr
    assert "unbound var x" in kept.stderr


def test_nothing_is_lost_that_the_program_does_not_name(start: Start) -> None:
    """What was loaded, and what is defined within another form, must come back too, though `:defs` names neither."""
    host = start("omega", {"renew_after": 2}, omega=f"{REPL} forgets")
    host.run("(begin (define inner 7) 1)")
    host.run("(define x 10)")
    assert "a fresh one with its state goes on" in host.run("(+ x inner)").stderr
    host.run("(begin (define later 5) 1)")
    kept = host.run(":defs")
    assert kept.stdout == "\n"
    assert "unbound var later" in kept.stderr
    assert host.run("(list x inner later)").stdout == "=> (10 7 5)\n"


def test_omega_leaves_lines_out_and_obeys_others(start: Start) -> None:
    """Lines that OmegaLLM's piped REPL passes over or obeys in the middle of a form arrive as they are meant."""
    host = start("omega")
    assert host.run("(define (f n)\n  ; see )))\n  (begin\n   (+ n 1))\n )").output == "=> f\n"
    assert host.run("(f 1)").output == "=> 2\n"
    assert host.run('(display "a\n\n; b (\n:help\n")').output == "a\n\n; b (\n:help\n=> null\n"
    assert "take it for a command" in _error(host.run("(list 1\n:help\n2)"))
    assert host.run("; a ( comment\n(+ 1 2) ; behind (\n\n:env f2").output == "=> 3\n(binding 'f2' not found)\n"


def test_program_that_dies_of_saving_is_told(start: Start) -> None:
    """A program that dies when it is to be replaced makes its command say so, and the next one has a new program."""
    host = start("omega", {"renew_after": 1}, omega=f"{REPL} 'dies of saving'")
    host.run("(define x 10)")
    died = host.run("x")
    assert died.result["lost"] == "omega was killed by SIGKILL"
    assert "killed by SIGKILL" in _error(died)
    assert host.run("(+ 1 2)").output == "=> 3\n"


def test_omega_session_is_saved_and_wakes(life: Life) -> None:
    """A save is OmegaLLM's own; after its process was killed the next command goes on from it, with what it defined."""
    env = {**os.environ, "OMEGA_REPL": REPL}
    life.post("/api/sessions", {"name": "work", "engine": "omega", "env": env})
    for command in ("(define x 10)", "(define (f n) (+ n x))"):
        life.run("work", command)
    assert life.post("/api/sessions/work/save")["checkpoint"]["complete"]
    os.kill(life.session("work")["pid"], signal.SIGKILL)
    until(lambda: life.session("work")["state"] == "dead", "its death is noticed")
    woken = life.run("work", "(f 1)")
    assert woken["output"] == "=> 11\n"
    assert woken["resumed_from"] is not None


def test_command_line_answers_as_omegas_own(life: Life) -> None:
    """With OMEGA_ENGINE the short form creates OmegaLLM sessions and prints their answers, as text and as JSON."""
    env = {"OMEGA_ENGINE": "omega", "OMEGA_REPL": REPL}
    assert life.omegactl("-s", "work", "-c", "(define x 10)", env=env).stdout == "=> x\n"
    assert life.omegactl("-s", "work", "-c", "x", env=env).stdout == "=> 10\n"
    answer = json.loads(life.omegactl("-s", "work", "-c", "(+ x 1)", "--json", env=env).stdout)
    assert (answer["session"], answer["command"], answer["output"]) == ("work", "(+ x 1)", "=> 11")


# ---- a table of one's own ----


def test_python_prompt_of_the_documentation(start: Start) -> None:
    """The table in docs/engines.md makes an engine of Python's own prompt."""
    host = start("prompt", PYTHON_PROMPT)
    assert host.run("def f(n):\n    return n * 2").output == ""
    assert host.run("f(21)").output == "42\n"
    failed = host.run("1 / 0")
    assert _error(failed) == "division by zero"
    assert failed.result["error"]["name"] == "ZeroDivisionError"


def test_reading_program_does_not_swallow_the_end(start: Start) -> None:
    """Where the mark follows the command, a command that reads it for input is noticed and told, not waited for."""
    host = start("prompt", PYTHON_PROMPT)
    swallowed = host.run("a = input(), input()")
    assert "waits for more" in _error(swallowed)
    assert host.run("1 + 1").output == "2\n"


# ---- terminals ----


def test_shell_at_a_terminal(start: Start) -> None:
    """At a terminal an output is exact: no echo, no carriage returns, also after the program turned them on."""
    host = start("tty", {"like": "bash", **SHELL})
    assert host.run("tty | cut -c1-8; printf end").output == "/dev/pts\nend"
    assert host.run("stty echo onlcr opost; echo on").status == "ok"
    assert host.run("echo quiet").output == "quiet\n"
    assert host.run("printf '\\033[1mbold\\033[0m \\303'; printf '\\244\\n'").output == "\x1b[1mbold\x1b[0m ä\n"


def test_interrupt_at_a_terminal(start: Start) -> None:
    """^C at the terminal ends what runs in the foreground; what it prints then belongs to the command."""
    host = start("tty", {"like": "bash", **SHELL})
    host.run("kept=7")
    id = host.start("bash -c 'trap \"echo caught; exit\" INT; echo begun; sleep 60'")
    host.daemon.wait_for_output("begun", id)
    host.interrupt()
    found = host.daemon.result(id)
    assert "caught" in found.output
    assert host.run("echo $kept").output == "7\n"


def test_long_line_at_a_terminal(start: Start) -> None:
    """A line that a terminal would cut is refused; through pipes it is whole."""
    code = "echo " + "x" * 5000
    assert "no line of more than 4095 bytes" in _error(start("tty", {"like": "bash", **SHELL}).run(code))
    assert start("bash").run(code).output == "x" * 5000 + "\n"


def test_big_output_at_a_terminal(start: Start) -> None:
    """50 MiB through a terminal are all there, and nothing else."""
    host = start("tty", {"like": "bash", **SHELL})
    found = host.run("head -c 52428800 /dev/zero | tr '\\0' x")
    assert (found.status, len(found.output), set(found.output)) == ("ok", 52428800, {"x"})


def test_full_screen_program_is_ended(start: Start) -> None:
    """A program that takes the whole screen is ended with a message, and the shell goes on."""
    host = start("tty", {"like": "bash", **SHELL})
    found = host.run("bash -c 'printf \"\\033[?1049h\"; sleep 60'")
    assert "whole screen" in _error(found)
    assert host.run("echo on").output == "on\n"


def test_password_is_asked_for(start: Start) -> None:
    """A prompt for a password makes the session wait for input that is kept secret."""
    host = start("tty", {"like": "bash", **SHELL})
    id = host.start("read -s -p 'Password: ' word; echo ${#word}")
    asked = host.daemon.wait_for("input_request")
    assert (asked["prompt"], asked["secret"]) == ("Password: ", True)
    host.daemon.tell("input", id=id, text="sesame")
    assert host.daemon.result(id).output == "Password: 6\n"


def test_end_of_input_at_a_terminal(start: Start) -> None:
    """The answer None is the end of input."""
    host = start("tty", {"like": "bash", **SHELL})
    id = host.start("cat; echo over")
    host.daemon.wait_for("input_request")
    host.daemon.tell("input", id=id, text=None)
    assert host.daemon.result(id).output == "over\n"


# ---- programs that are no REPLs ----


@pytest.mark.parametrize("terminal", [False, True], ids=["pipes", "terminal"])
@pytest.mark.parametrize(
    ("habit", "words"),
    [
        ("exits", ["ended with exit status 1 at once", "no licence found"]),
        ("silent", ["has not shown its prompt within 2 s", "welcome"]),
        ("password", ["asks for a password"]),
    ],
)
def test_program_that_is_no_repl(start: Start, habit: str, words: list[str], terminal: bool) -> None:
    """A program that cannot be spoken to ends the start of its session with the reason and what it printed."""
    host = start("omega", {"start_s": 2.0, "terminal": terminal}, omega=f"{REPL} {habit}")
    assert host.wait() == 1
    said = host.birth_path.read_text()
    assert all(word in said for word in words), said


def test_program_that_prints_its_sentinel_by_itself(start: Start) -> None:
    """A program whose echo holds the mark is refused, and `{left}` and `{right}` are the remedy."""
    command = f"{REPL} echoes".split()
    host = start("echo", {"command": command, "sentinel": '"{token}"\n', "mark": '"{token}"\n'})
    assert host.wait() == 1
    assert "prints its sentinel by itself" in host.birth_path.read_text()
    sentinel, mark = '(string-append "{left}" "{right}")\n', '=> "{token}"\n'
    table = {"command": command, "sentinel": sentinel, "mark": mark, "echo": [sentinel, "{code}\n"]}
    assert start("echo", table).run("(+ 1 2)").output == "=> 3\n"


def test_program_that_takes_the_screen_at_its_start(start: Start) -> None:
    """A program that begins with the whole screen is no REPL."""
    host = start("omega", {"terminal": True}, omega=f"{REPL} screen")
    assert host.wait() == 1
    assert "whole screen" in host.birth_path.read_text()


# ---- marks in the wrong place ----


def test_everything_bash_knows_is_no_mark(start: Start) -> None:
    """A shell that prints all its variables and functions, and the token among them, does not end its output by it."""
    host = start("bash")
    found = host.run("set; declare -f; echo the end")
    assert found.output.endswith("the end\n")
    assert "__omega_token" in found.output
    assert host.run("echo on").output == "on\n"


def test_output_sent_elsewhere(start: Start) -> None:
    """A shell whose own output goes elsewhere still ends its commands."""
    host = start("bash")
    assert host.run("exec >/dev/null; echo unseen").output == ""
    assert host.run("echo seen >&2").output == "seen\n"


def test_database_output_sent_to_a_file(start: Start) -> None:
    """Where sqlite3 is told to write elsewhere, it does until the end of that command; our mark is not in the file."""
    if shutil.which("sqlite3") is None:
        unavailable("sqlite3 is not installed")
    host = start("sqlite3")
    file = host.work / "rows"
    assert host.run("create table t (a); insert into t values (41);").status == "ok"
    assert host.run(f".output {file}\nselect a from t;\nselect a + 1 from t;").output == ""
    assert file.read_text() == "41\n42\n"
    assert host.run("select a from t;").output == "41\n"
    assert host.run(f".once {file}\nselect 1;").output == ""
    assert host.run("select 2;").output == "2\n"
    assert file.read_text() == "1\n"


def test_prompt_of_a_database_is_no_output(start: Start) -> None:
    """A prompt that the session's code sets would stand in the output of all that comes; also where a statement behind
    it lacks its semicolon, an error ends the command, or its lines are shown."""
    if shutil.which("sqlite3") is None:
        unavailable("sqlite3 is not installed")
    host = start("sqlite3")
    for code, output in (
        ('.prompt "mine> " "more> "', ""),
        ('.prompt "mine> "\nselect 40', "40\n"),
        ('select 40;\n.prompt "mine> "\n-- the end', "40\n"),
    ):
        assert host.run(code).output == output, code
        assert host.run("select 41;").output == "41\n", code
    assert host.run('.bail on\n.prompt "mine> "\nselect nothing;').status == "error"
    assert host.run("select 41;").output == "41\n"
    endless = "with recursive n(i) as (select 1 union all select i from n) select * from n where i = 2;"
    id = host.start(f'.prompt "mine> "\n.print begun\n{endless}')
    host.daemon.wait_for_output("begun", id)
    host.interrupt()
    assert host.daemon.result(id).status == "interrupted"
    assert host.run("select 41;").output == "41\n"
    assert host.run(".echo on").output == ""
    assert host.run('.prompt "mine> "\nselect 41;').output == '.prompt "mine> "\nselect 41;\n41\n'


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (".tables", "complete"),
        (".mode csv\nselect 1;\n.tables", "complete"),
        (".mode csv\nselect (", "incomplete"),
        ("select 1;\n-- the end", "complete"),
        ("select '\n.tables\n;", "incomplete"),
        ("create trigger t after insert on a begin\nselect 1;", "incomplete"),
        ("create trigger t after insert on a begin\nselect 1;\nend;\n.tables", "complete"),
        (".headers on\n-- show; them\n.mode column", "complete"),
        ("-- show\n.tables\n/* a\n.comment; */\n.tables", "complete"),
        (".print a\n# it's\nselect 2;", "complete"),
        (".print a\nselect 2; # it's", "incomplete"),
        (".print a\n/* select 2;", "incomplete"),
        (".print a\nselect ';\n.b', \"]\", [';], `'`; --'\n.tables", "complete"),
        ("  .tables", "complete"),
        (" \n.print a\n  .tables", "incomplete"),
    ],
)
def test_whole_statements(start: Start, code: str, status: str) -> None:
    """Statements want their end, sqlite3's own commands among them are lines."""
    if shutil.which("sqlite3") is None:
        unavailable("sqlite3 is not installed")
    assert start("sqlite3").daemon.ask("is_complete", code=code)["status"] == status


def test_sqlite_scripts_as_people_write_them(start: Start) -> None:
    """Blanks before a command of sqlite3's own, comments beside it; and a large text in a statement is read once."""
    if shutil.which("sqlite3") is None:
        unavailable("sqlite3 is not installed")
    host = start("sqlite3")
    assert host.run("  .print hi").output == "hi\n"
    assert host.run(".print a\n# it's\nselect 2;").output == "a\n2\n"
    assert host.run("-- what\n.print b\n/* is\n.this; */\nselect 3").output == "b\n3\n"
    text = "a { color: red; }\n.b { color: blue; }\n" * 50_000
    assert host.run(f".print c\ncreate table doc(t);\ninsert into doc values ('{text}')").output == "c\n"
    assert host.run("select length(t) from doc;").output == f"{len(text)}\n"


def test_background_output_is_late(start: Start) -> None:
    """What a background job prints between commands belongs to none."""
    host = start("bash")
    host.run("{ until [ -e go ]; do sleep 0.01; done; echo later; } &")
    (host.work / "go").touch()
    assert host.daemon.wait_for_output("later", 0) == "later\n"


def test_status_of_the_last_command_is_kept(start: Start) -> None:
    """`$?` is what the user's own last command left."""
    host = start("bash")
    assert _error(host.run("(exit 4)")) == "exit status 4"
    assert host.run("echo $?").output == "4\n"


def test_shell_that_ends_at_errors(start: Start) -> None:
    """`set -e` spares here what it spares in bash: a list whose last command was not the one that failed."""
    host = start("bash")
    assert host.run("x=1; set -e").status == "ok"
    for code in ("[[ a == b ]] && echo y", "! true"):
        assert _error(host.run(code)) == "exit status 1"
    assert host.run("echo x=$x").output == "x=1\n"


def test_what_a_shell_is_told_to_do_is_not_done_at_our_lines(start: Start) -> None:
    """A trap does not strike before a command, a prompt set later is in no output, and printf may be the user's."""
    host = start("bash")
    assert host.run("trap 'echo struck' ERR; false").output.startswith("struck\n")
    assert host.run("echo fine").output == "fine\n"
    host.run("PS1='(venv) '; trap - ERR")
    assert [host.run(code).output for code in ("echo hi", "printf x")] == ["hi\n", "x"]
    assert host.run("printf() { echo mine; }; printf x").output == "mine\n"
    assert _error(host.run("(exit 4)")) == "exit status 4"
    assert host.run("cat <<end\n$?\nend").output == "4\n"
    assert host.run("readonly PS1 PS2 status=9; false").status == "error"
    assert host.run("echo on").output.endswith("on\n")
    host.run("set -u; unset PS1 2>/dev/null")
    assert host.run("echo on").output.endswith("on\n")


def test_trace_of_a_shell_is_of_its_user(start: Start) -> None:
    """`set -x` shows the commands that were given, and nothing of what carries them."""
    host = start("bash")
    assert host.run("set() { echo mine; }; (exit 4)").status == "error"
    assert host.run("unset -f set; set -x").output == ""
    assert host.run("echo a )").status == "error"  # which no shell stops tracing for
    host.daemon.ask("complete", code="ech", cursor=3)
    assert host.run("x=4; echo $x").stderr == "++ x=4\n++ echo 4\n"
    assert _error(host.run("false")) == "exit status 1"
    assert host.run("echo $?").stdout == "1\n"
    id = host.start("echo on; sleep 100")
    host.daemon.wait_for_output("on\n", id)
    host.interrupt()
    assert host.daemon.result(id).status == "interrupted"
    assert host.run("set -e").output == "++ set -e\n"
    assert host.run("true").output == "++ true\n"
    assert host.run("set +x").output == "++ set +x\n"
    assert host.run("echo still").output == "still\n"


def test_what_is_not_whole_ends_with_its_command(start: Start) -> None:
    """A here-document without its end has nothing of ours in it, and the next command is its own."""
    host = start("bash")
    assert host.run("cat <<end\nhello").output.endswith("hello\n")
    assert host.run("echo on").output == "on\n"


@pytest.mark.parametrize("code", ["true &&", "echo hi |", "f() {", "a=(1 2", 'echo SIDE; echo "open', "if true; then"])
def test_shell_runs_nothing_of_what_is_not_whole(start: Start, code: str) -> None:
    """A command that is not whole is told as that, and nothing of it is run, of no line."""
    host = start("bash")
    for command in (code, f"echo SIDE\n{code}"):
        found = host.run(command)
        assert (found.result["error"]["name"], found.stdout) == ("Incomplete", ""), found
    assert host.run("echo on").output == "on\n"


def test_what_a_shell_runs_may_be_not_whole(start: Start) -> None:
    """A command that is whole has the status of what it ran, though that complains of its own code."""
    host = start("bash")
    for code in ("bash -c 'if true; then'", "eval 'f() {'", "echo a\neval 'f() {'"):
        found = host.run(code)
        assert (found.result["error"]["name"], "unexpected end" in found.stderr) == ("ExitStatus", True), found


@pytest.mark.parametrize("table", [None, SHELL], ids=["pipes", "terminal"])
def test_broken_characters_stay_in_their_command(start: Start, table: Table | None) -> None:
    """A character that a command only begins is shown as bytes, and is not completed by the next one's output."""
    host = start("tty", {"like": "bash", **(table or {})})
    assert host.run("printf 'a\\303'").output == "a\\xc3"
    assert host.run("printf '\\244b'").output == "\\xa4b"


NODE_LOOP = "fs.writeFileSync({path!r}, ''); while (true) {{}}"
NODE_AWAIT = "fs.writeFileSync({path!r}, ''); await new Promise(() => {{}})"
NODE_LATER = "setTimeout(() => fs.writeFileSync({path!r}, ''), 1); await new Promise(() => {{}})"


@pytest.mark.parametrize(
    "before",
    ["1", "await 1", "process.once('SIGINT', () => {}).emit('SIGINT')", "process.on('SIGINT', () => {}); 1"],
    ids=["at rest", "after an await", "after a listener", "beside a listener"],
)
def test_node_is_interrupted_whatever_listens(start: Start, before: str) -> None:
    """^C ends what computes and what awaits, again and again, whatever the session's code does with the signal."""
    if shutil.which("node") is None:
        unavailable("node is not installed")
    host = start("node")
    assert host.run("let kept = 41, run = 1, end = 2").status == "ok"  # names of the preset's own
    assert host.run(before).status == "ok"
    wait = NODE_LATER if before.endswith("1") and "process" in before else NODE_AWAIT
    for number, code in enumerate((wait, NODE_LOOP, NODE_LOOP, wait)):
        path = host.directory / f"begun{number}"
        id = host.start(code.format(path=str(path)))
        until(path.exists, "it runs")
        host.interrupt()
        assert host.daemon.result(id).status == "interrupted"
    assert host.run("kept + 1").value == "42"


def test_guile_outlives_an_interrupt_between_commands(start: Start) -> None:
    """A signal that finds guile at rest, or on its way from one command to the next, takes nothing of either."""
    if shutil.which("guile") is None:
        unavailable("guile is not installed")
    host = start("guile")
    pid = int(host.run("(getpid)").value or "")
    for number in range(100):
        os.kill(pid, signal.SIGINT)
        found = host.run(f"(+ {number} 1)")
        assert found.value == str(number + 1) or found.stderr == "Interrupted\n", found
    assert host.run("(getpid)").value == str(pid)


def test_guile_is_interrupted_while_it_reads(start: Start) -> None:
    """^C ends a command that waits for input, each time, and the next command answers."""
    if shutil.which("guile") is None:
        unavailable("guile is not installed")
    host = start("guile")
    host.run("(use-modules (ice-9 rdelim))")
    for _ in range(3):
        id = host.start("(read-line)")
        host.daemon.wait_for("input_request", id=id)
        host.interrupt()
        assert host.daemon.result(id).status == "interrupted"
        assert host.run("(+ 1 1)").value == "2"


def test_guile_goes_back_to_an_earlier_command(start: Start) -> None:
    """A continuation that was captured in one command is called in another, whose value it gives."""
    if shutil.which("guile") is None:
        unavailable("guile is not installed")
    host = start("guile")
    host.run("(define k #f) (define n 0)")
    host.run("(begin (call/cc (lambda (c) (set! k c))) (set! n (+ n 1)) n)")
    assert [host.run("(k 1)").value for _ in range(2)] == ["2", "3"]
    assert host.run("n").value == "3"


# ---- the end ----


@pytest.mark.parametrize("table", [None, SHELL], ids=["pipes", "terminal"])
def test_end_of_a_session_ends_what_does_not_obey(start: Start, table: Table | None) -> None:
    """A host that is told to leave ends its program with all that it runs, also what ignores interrupts."""
    host = start("tty", {"like": "bash", **(table or {})})
    id = host.start("trap '' INT HUP TERM; (trap '' INT HUP TERM; sleep 60 & echo $!; wait)")
    pid = int(host.daemon.wait_for_output("\n", id))
    host.process.terminate()
    assert host.wait() == 0
    assert host.log_frames[-1]["reason"] == "SIGTERM"
    until(lambda: not is_alive(pid), "its child is gone")


# ---- what is told of a silent program ----


@pytest.mark.parametrize(
    ("code", "word"),
    [("sleep 60", "waits for something"), ("while :; do :; done", "computes")],
    ids=["waits", "computes"],
)
def test_disobedience_is_told(start: Start, code: str, word: str) -> None:
    """A command that does not obey an interrupt is said to compute, or to wait."""
    host = start("bash")
    id = host.start(f"trap '' INT; echo begun; {code}")
    host.daemon.wait_for_output("begun", id)
    host.interrupt()
    until(lambda: word in (host.daemon.wait_for("note")["text"] or ""), word)


def test_death_between_commands_is_told(start: Start) -> None:
    """A program that dies between commands ends its host with the reason, which the next command tells."""
    host = start("bash")
    pid = int(host.run("echo $$").output)
    os.kill(pid, signal.SIGKILL)
    assert host.daemon.wait_for("bye")["reason"] == "bash was killed by SIGKILL"


# ---- questions ----


def test_questions_about_code(start: Start) -> None:
    """A shell says what may follow and whether a command is whole, and `$?` stays what it was."""
    host = start("bash")
    host.run("kept_for_test=1; (exit 3)")
    assert host.daemon.ask("complete", code="echo $kept_for") == {
        "matches": ["$kept_for_test"],
        "start": 5,
        "end": 14,
    }
    assert host.daemon.ask("is_complete", code="if true; then")["status"] == "incomplete"
    assert host.daemon.ask("is_complete", code="echo 'hi'")["status"] == "complete"
    assert host.daemon.ask("is_complete", code="fi")["status"] == "invalid"
    assert host.run("echo $?").output == "3\n"


@pytest.mark.parametrize(
    ("engine", "keeps", "code", "match", "start_at"),
    [
        ("node", "let kept_name = { inner: 1 }", "1 + kept_name.in", "kept_name.inner", 4),
        ("guile", "(define kept-name 1)", "(+ 1 kept-n", "kept-name", 5),
        ("gdb", "set $kept = 1", "info thr", "info threads", 0),
    ],
)
def test_completions_of_the_program(
    start: Start, engine: str, keeps: str, code: str, match: str, start_at: int
) -> None:
    """What may follow comes from the program itself, and replaces what is typed of it."""
    if shutil.which(engine) is None:
        unavailable(f"{engine} is not installed")
    host = start(engine)
    assert host.run(keeps).status == "ok"
    assert host.daemon.ask("complete", code=code) == {"matches": [match], "start": start_at, "end": len(code)}


@pytest.mark.parametrize(
    ("code", "status"),
    [("1 + 1", "complete"), ("await x", "complete"), ("function f() {", "incomplete"), ("f(1,", "incomplete"),
     ("`open", "incomplete"), ("1 +* 2", "invalid")],
)  # fmt: skip
def test_node_judges_code(start: Start, code: str, status: str) -> None:
    """node says of code whether it is whole, without running it."""
    if shutil.which("node") is None:
        unavailable("node is not installed")
    assert start("node").daemon.ask("is_complete", code=code)["status"] == status


@pytest.mark.parametrize(
    ("engine", "keeps", "code", "text"),
    [
        ("bash", "greet() { echo hello; }", "greet", "greet is a function\ngreet () \n{ \n    echo hello\n}\n"),
        ("bash", "kept=41; (exit 3)", "echo $kept", 'declare -- kept="41"\n'),
        ("node", "let kept = { inner: [41] }; 1", "1 + kept.inner", "[ 41 ]\n"),
        ("sqlite3", "create table kept(n);", "select * from kept", "CREATE TABLE kept(n);\n"),
        ("guile", '(define (kept n) "Adds one." (+ n 1))', "(kept", "#<procedure kept (n)>\nAdds one.\n"),
        ("gdb", "set $kept = 41", "print $kept", "type = int\n41\n"),
        ("omega", "(define kept 41)", "(+ kept", "kept = 41\n"),
    ],
)
def test_what_a_name_is(start: Start, engine: str, keeps: str, code: str, text: str) -> None:
    """The program itself says what the name at the cursor is, and what it does not know is not found."""
    if engine != "omega" and shutil.which(engine) is None:
        unavailable(f"{engine} is not installed")
    host = start(engine)
    status = host.run(keeps).status
    assert host.daemon.ask("inspect", code=code) == {"found": True, "text": text}
    assert host.daemon.ask("inspect", code="unheard_of") == {"found": False, "text": ""}
    assert host.daemon.ask("inspect", code="") == {"found": False, "text": ""}
    assert (status, host.run("echo $?").output) in (("ok", "0\n"), ("error", "3\n")) or engine != "bash"


def test_engine_that_cannot_inspect_says_so(start: Start) -> None:
    """A preset that does not say how is told from a name that is not found."""
    answer = start("python-prompt", PYTHON_PROMPT).daemon.ask("inspect", code="print")
    assert (answer["found"], answer["text"]) == (False, "")
    assert answer["reason"] == "python-prompt has no way to say what a name is: its preset has no `inspect`"


def test_question_that_takes_too_long_holds_nothing_up(start: Start) -> None:
    """What a question still computes when nobody waits for it any more is interrupted."""
    host = start("slow", {"like": "bash", "inspect": "__omega_begin {token}; while :; do :; done; __omega_end\n"})
    host.run("kept=41")
    assert host.daemon.ask("inspect", code="kept") == {"found": False, "text": ""}
    assert host.run("echo $kept").output == "41\n"


# ---- input ----

NODE_ASKS = (
    "var asking = require('readline/promises').createInterface({ input: process.stdin, output: process.stdout });"
    " var first = await asking.question('name? '), second = await asking.question('password: '); asking.close();"
    " first + second"
)


@pytest.mark.parametrize("table", [None, {"terminal": True}], ids=["pipes", "terminal"])
def test_child_of_node_reads_no_orders(start: Start, table: Table | None) -> None:
    """What inherits node's input, or reads its descriptor, finds an end there; the orders behind it are carried out."""
    if shutil.which("node") is None:
        unavailable("node is not installed")
    host = start("child", {"like": "node", **(table or {})})
    spawn = "require('child_process').spawn('cat', { stdio: 'inherit' })"
    id = host.start(f"await new Promise((done) => {spawn}.on('exit', done))")
    assert host.daemon.result(id).value == "0"
    assert host.run("require('child_process').spawnSync('cat', { stdio: 'inherit' }).status").value == "0"
    assert host.run("require('fs').readFileSync(0, 'utf8')").value == "''"


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        ("a b", "SyntaxError", "Unexpected identifier 'b'"),
        ("await 1; a b", "SyntaxError", "Unexpected token 'b'"),
        ("import fs from 'fs'", "SyntaxError", "Cannot use import statement outside a module"),
        ("throw new (class MyErr extends Error {})('mine')", "MyErr", "mine"),
        ("throw Object.assign(new Error('none'), { constructor: null })", "Error", "none"),
        ("throw 'a: b'", "Error", "'a: b'"),
    ],
)
def test_errors_of_node_have_their_names(start: Start, code: str, name: str, message: str) -> None:
    """What is wrong with code, and what it throws, is told by the name of its class."""
    if shutil.which("node") is None:
        unavailable("node is not installed")
    error = start("node").run(code).result["error"]
    assert (error["name"], error["message"]) == (name, message)


def test_prompt_of_gdb_is_no_output(start: Start) -> None:
    """A prompt that the session's code sets would stand in the output of all that comes."""
    if shutil.which("gdb") is None:
        unavailable("gdb is not installed")
    host = start("gdb")
    for code in ("set prompt (gdb)", "python gdb.prompt_hook = lambda present: 'hook> '"):
        assert host.run(code).status == "ok"
        assert host.run("print 1").stdout.endswith(" = 1\n")


def test_block_of_gdb_wants_its_end(start: Start) -> None:
    """A block without its end is refused, and nothing of it is done; what is text to its end opens none."""
    if shutil.which("gdb") is None:
        unavailable("gdb is not installed")
    host = start("gdb")
    for code in ("if 1", "while 0\necho", "define kept\nif 1\necho\nend", "python\nprint(1)", "document kept\nmine\n"):
        done = host.run(code)
        assert (done.status, done.result["error"]["name"]) == ("error", "Incomplete"), code
    whole = "define kept\nif 1\nprint 41\nend\nend\ndocument kept\nmine\nend\npython\nif True: print('mine')\nend\nkept"
    assert host.run(whole).stdout == "mine\n$1 = 41\n"


def test_node_asks_while_it_awaits(start: Start) -> None:
    """What node's code reads of process.stdin is asked for, with the prompt, as often as it wants; ^C ends it."""
    if shutil.which("node") is None:
        unavailable("node is not installed")
    host = start("node")
    id = host.start(NODE_ASKS)
    asked = host.daemon.wait_for("input_request", id=id)
    assert (asked["prompt"], asked["secret"]) == ("name? ", False)
    host.daemon.tell("input", id=id, text='["run", "x", "Ada"]')
    asked = host.daemon.wait_for("input_request", id=id)
    assert (asked["prompt"], asked["secret"]) == ("password: ", True)
    host.daemon.tell("input", id=id, text="ä")
    assert host.daemon.result(id).value == '\'["run", "x", "Ada"]ä\''
    id = host.start("await new Promise((done) => process.stdin.once('data', done))")
    host.daemon.wait_for("input_request", id=id)
    host.interrupt()
    assert host.daemon.result(id).status == "interrupted"
    assert host.run("first").value == '\'["run", "x", "Ada"]\''


@pytest.mark.parametrize(
    ("engine", "code"),
    [
        ("sqlite3", ".system read line; echo got $line"),
        ("gdb", "shell read line; echo got $line"),
        ("bash", "read -p 'name? ' line; echo got $line"),
    ],
)
def test_command_that_reads_never_hangs(start: Start, engine: str, code: str) -> None:
    """It is asked for a line, or it is told at once that the program reads the end of the command instead."""
    if shutil.which(engine) is None:
        unavailable(f"{engine} is not installed")
    host = start(engine)
    id = host.start(code)
    if engine == "sqlite3":
        assert host.daemon.result(id).output.startswith("got .prompt")
    else:
        host.daemon.wait_for("input_request", id=id)
        host.daemon.tell("input", id=id, text="Ada")
        assert "got Ada" in host.daemon.result(id).output
    assert host.run({"sqlite3": "select 1;", "gdb": "print 1", "bash": "echo 1"}[engine]).status == "ok"


def test_program_that_polls_for_input_is_told_and_interrupted(start: Start) -> None:
    """Of a program that waits for several things at once nobody can tell that it wants input: the session says that it
    waits, and an interrupt ends it."""
    host = start("bash")
    program = (
        f"{sys.executable} -c 'import select, sys; print(\"begun\", flush=True); select.select([sys.stdin], [], [])'"
    )
    id = host.start(program)
    host.daemon.wait_for_output("begun", id)
    until(lambda: "waits for something" in (host.daemon.wait_for("note")["text"] or ""), "it is told")
    host.interrupt()
    assert host.daemon.result(id).status == "interrupted"
