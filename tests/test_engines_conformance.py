"""What every engine must do, whatever it evaluates: one row of EVERY is one engine, and each test is run with each.

A row says how its language states what the tests need. An engine whose program is missing is skipped; in CI it fails.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

import kernels
from conftest import unavailable
from daemon import CHECKOUT, wait_until
from isolation import Place
from life import Life

Json = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One engine's words for what the tests do. `{path}` in them is a file's path; None: its language cannot."""

    engine: str
    program: str
    remember: str
    """Keeps the number 41 under a name."""
    recall: str
    """Shows one more than the name holds."""
    recalled: str
    """What `recall` shows, as a part of the output."""
    prints: str
    """Prints PROMPTS, a line that looks like its prompt, then `end` without a newline."""
    printed: str
    """What exactly `prints` makes of it."""
    fails: str
    failure: str
    """A part of the message of what `fails` raises."""
    forever: str | None
    """Makes the file {path}, then computes without an end."""
    unicode: str
    """Prints ä€😀 and a newline, and then what `tail` says."""
    big: str | None
    """Prints 52 428 800 bytes, all of them x."""
    incomplete: str | None
    dies: str
    """Kills the process that evaluates, with SIGKILL."""
    slow: str
    """Makes the file {path}, waits until {path}.go is there, then prints done."""
    tail: str = ""
    """What the engine prints of every value, behind an output."""
    asks: str | None = None
    """Reads a line from its input and prints `got` and the line."""
    settings: Json = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    dies_with_host: bool = False
    """Whether the engine is the host itself."""


PYTHON = Row(
    engine="python",
    program="python3",
    remember="kept = 41",
    recall="kept + 1",
    recalled="42",
    prints="print('>>> not a prompt'); print('end', end='')",
    printed=">>> not a prompt\nend",
    fails="1 / 0",
    failure="division by zero",
    forever="open({path!r}, 'x').close()\nwhile True: pass",
    unicode="print('ä€😀')",
    big="print('x' * 52428800, end='')",
    incomplete="def f(:",
    dies="import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    slow="import os, time\nopen({path!r}, 'x').close()\n"
    "while not os.path.exists({path!r} + '.go'): time.sleep(0.01)\nprint('done')",
    asks="print('got', input('name? '))",
    dies_with_host=True,
)

BASH = Row(
    engine="bash",
    program="bash",
    remember="kept=41",
    recall="echo $((kept + 1))",
    recalled="42\n",
    prints="echo 'bash-5.2$ echo'; printf end",
    printed="bash-5.2$ echo\nend",
    fails="(echo no way >&2; exit 3)",
    failure="exit status 3",
    forever=": >{path}; while :; do :; done",
    unicode="echo ä€😀",
    big="head -c 52428800 /dev/zero | tr '\\0' x",
    incomplete="for i in 1 2; do",
    dies="kill -9 $$",
    slow="touch {path}; until [ -e {path}.go ]; do sleep 0.01; done; echo done",
    asks="read line; echo got $line",
)

NODE = Row(
    engine="node",
    program="node",
    remember="let kept = 41",
    recall="kept + 1",
    recalled="42",
    prints="console.log('> not a prompt'); process.stdout.write('end'); undefined",
    printed="> not a prompt\nend",
    fails="throw new TypeError('no way')",
    failure="no way",
    forever="require('fs').writeFileSync({path!r}, ''); while (true) {{}}",
    unicode="console.log('ä€😀')",
    big="for (let i = 0; i < 800; i++) process.stdout.write('x'.repeat(65536)); undefined",
    incomplete="function f() {",
    dies="process.kill(process.pid, 'SIGKILL')",
    slow="const fs = require('fs'); fs.writeFileSync({path!r}, '');"
    " while (!fs.existsSync({path!r} + '.go')) {{}}; console.log('done')",
    asks="var asking = require('readline/promises').createInterface({ input: process.stdin, output: process.stdout });"
    " console.log('got', await asking.question('name? ')); asking.close()",
)

SQLITE = Row(
    engine="sqlite3",
    program="sqlite3",
    remember="create table kept(n); insert into kept values (41);",
    recall="select n + 1 from kept",
    recalled="42\n",
    prints="select 'sqlite> select 1;';\n.system printf end",
    printed="sqlite> select 1;\nend",
    fails="select * from nowhere",
    failure="no such table: nowhere",
    forever="select writefile('{path}', '');\nwith recursive n(i) as (select 1 union all select i + 1 from n)"
    " select max(i) from n",
    unicode="select 'ä€😀'",
    big=".system head -c 52428800 /dev/zero | tr [:cntrl:] x",
    incomplete="select 'open",
    dies=".system kill -9 $PPID",
    slow=".system touch {path}; until [ -e {path}.go ]; do sleep 0.01; done; echo done",
)

GUILE = Row(
    engine="guile",
    program="guile",
    remember="(define kept 41)",
    recall="(+ kept 1)",
    recalled="42",
    prints='(begin (display "scheme@(guile-user)> no\\n") (display "end"))',
    printed="scheme@(guile-user)> no\nend",
    fails='(error "no way")',
    failure="no way",
    forever='(begin (close-port (open-output-file "{path}")) (let loop () (loop)))',
    unicode='(begin (display "ä€😀") (newline))',
    big="(do ((i 0 (+ i 1)) (s (make-string 65536 #\\x))) ((= i 800)) (display s))",
    incomplete="(define (f",
    dies="(kill (getpid) SIGKILL)",
    slow='(begin (close-port (open-output-file "{path}"))'
    ' (while (not (file-exists? "{path}.go")) (usleep 1000)) (display "done") (newline))',
    asks='(use-modules (ice-9 rdelim)) (let ((line (read-line))) (display (string-append "got " line)) (newline))',
)

GDB = Row(
    engine="gdb",
    program="gdb",
    remember="set $kept = 41",
    recall="print $kept + 1",
    recalled="42\n",
    prints="echo (gdb) no\\n\necho end",
    printed="(gdb) no\nend",
    fails="nothing at all",
    failure='Undefined command: "nothing"',
    forever="shell touch {path}\npython\nwhile True: pass\nend",
    unicode="shell echo ä€😀",
    big="shell head -c 52428800 /dev/zero | tr '\\0' x",
    incomplete="define f\necho 1\n",
    dies="shell kill -9 $PPID",
    slow="shell touch {path}; until [ -e {path}.go ]; do sleep 0.01; done; echo done",
)

OMEGA = Row(
    engine="omega",
    program=sys.executable,
    env={"OMEGA_REPL": f"{sys.executable} {CHECKOUT / 'tests' / 'linerepl.py'}"},
    remember="(define kept 41)",
    recall="(+ kept 1)",
    recalled="=> 42\n",
    prints='(begin (display "Unknown command: :x. Type :help for commands.\\n") (display "end") 1)',
    printed="Unknown command: :x. Type :help for commands.\nend=> 1\n",
    fails="(car 5)",
    failure="car: expected pair",
    forever=None,  # a signal would end it
    unicode='(display "ä€😀\\n")',
    tail="=> null\n",
    big='(display (repeat "x" 52428800))',
    incomplete="(define (f",
    dies="(die)",
    slow='(display (touch-and-wait "{path}"))',
)
"""Played by linerepl.py."""

IPYKERNEL = replace(PYTHON, engine="jupyter:python3", program=sys.executable, dies_with_host=False)

BASH_KERNEL = replace(
    BASH,
    engine="jupyter:bash",
    printed="bash-5.2$ echo\nend\n",  # the kernel ends each output with a newline of its own
    failure="3",
    dies="kill -9 $PPID",
    big=None,  # pexpect, by which it reads its bash, takes minutes for a line of that length
    asks=None,  # its bash reads from a terminal of its own
    incomplete=None,  # refused by ^C, and it may type the next command before its bash has taken that: a letter is lost
)

EVERY = [PYTHON, BASH, NODE, SQLITE, GUILE, GDB, OMEGA, IPYKERNEL, BASH_KERNEL]


@pytest.fixture(params=EVERY, ids=[row.engine for row in EVERY])
def row(request: pytest.FixtureRequest) -> Row:
    found: Row = request.param
    if shutil.which(found.program) is None:
        unavailable(f"{found.program} is not installed")
    return found


@pytest.fixture
def session(row: Row, lives: Callable[..., Life]) -> Session:
    """A session of that engine, in a daemon of its own."""
    life = lives(**row.settings)
    kernels.bash(life.place.data_home / "jupyter" / "kernels")  # its package installs no specification
    life.post("/api/sessions", {"name": "it", "engine": row.engine, "env": {**os.environ, **row.env}})
    return Session(life, row)


class Session:
    """The session that is tested."""

    def __init__(self, life: Life, row: Row) -> None:
        self.life = life
        self.row = row

    def run(self, command: str, **options: Any) -> Json:
        return self.life.run("it", command, **options)

    def begin(self, template: str) -> tuple[int, str]:
        """Hand in a command that makes a file, and wait until it has; its id and the file."""
        path = str(self.life.place.base / "begun")
        id = self.life.begin("it", template.format(path=path))
        wait_until(lambda: os.path.exists(path), f"{template} runs")
        return id, path

    def finished(self, id: int) -> Json:
        found: Json = self.life.get(f"/api/sessions/it/executions/{id}?wait_s=60")
        return found

    def is_whole(self) -> None:
        """It has what `remember` kept."""
        assert self.row.recalled in self.run(self.row.recall)["output"]


def test_state_is_kept(session: Session, row: Row) -> None:
    """What one command keeps, the next one has."""
    assert session.run(row.remember)["status"] == "ok"
    session.is_whole()


def test_output_is_exact(session: Session, row: Row) -> None:
    """An output is all of it and nothing else: a line like a prompt, and no newline at its end."""
    execution = session.run(row.prints)
    assert (execution["status"], execution["output"]) == ("ok", row.printed)
    assert session.run(row.prints)["output"] == row.printed


def test_error_is_told(session: Session, row: Row) -> None:
    """What fails has status error and the message, and what was kept before is still there."""
    session.run(row.remember)
    execution = session.run(row.fails)
    assert execution["status"] == "error"
    assert row.failure in execution["error"]["message"]
    session.is_whole()


def test_interrupt_ends_a_command(session: Session, row: Row) -> None:
    """A command without an end is interrupted, and what was kept before is still there."""
    if row.forever is None:
        return
    session.run(row.remember)
    id, _ = session.begin(row.forever)
    session.life.post("/api/sessions/it/interrupt", {"execution_id": id})
    execution = session.finished(id)
    assert (execution["status"], execution["reason"]) == ("interrupted", "user")
    session.is_whole()


def test_timeout_ends_a_command(session: Session, row: Row) -> None:
    """A command that takes longer than its timeout is interrupted."""
    if row.forever is None:
        return
    session.run(row.remember)
    path = str(session.life.place.base / "begun")
    execution = session.run(row.forever.format(path=path), timeout_s=0.5)
    assert (execution["status"], execution["reason"]) == ("interrupted", "timeout")
    session.is_whole()


def test_input_is_asked_for(session: Session, row: Row) -> None:
    """A command that reads its input waits until it is answered."""
    if row.asks is None:
        return
    id = session.life.begin("it", row.asks)
    wait_until(lambda: session.life.session("it")["state"] == "waiting_input", "it asks")
    session.life.post("/api/sessions/it/input", {"execution_id": id, "text": "Ada"})
    execution = session.finished(id)
    assert execution["status"] == "ok"
    assert "got Ada" in execution["output"]


def test_unicode_is_whole(session: Session, row: Row) -> None:
    """Characters of two, three and four bytes come out as they went in."""
    assert session.run(row.unicode)["stdout"] == "ä€😀\n" + row.tail


def test_big_output_is_whole(session: Session, row: Row) -> None:
    """50 MiB of output are all there."""
    if row.big is None:
        return
    execution = session.run(row.big, max_output=1000)
    assert execution["status"] == "ok", execution
    piece = session.life.get(f"/api/sessions/it/executions/{execution['id']}/output?offset=52428000&limit=2000")
    assert (piece["total_bytes"], piece["dropped_bytes"]) == (52428800 + len(row.tail), 0)
    assert piece["text"] == "x" * 800 + row.tail


def test_incomplete_command_does_not_hang(session: Session, row: Row) -> None:
    """A command that is not whole is an error at once, and changes nothing."""
    session.run(row.remember)
    if row.incomplete is not None:
        assert session.run(row.incomplete)["status"] == "error"
    session.is_whole()


def test_death_is_told(session: Session, row: Row) -> None:
    """When the program is killed the command says so, and the next one, in a new program, says what is lost."""
    session.run(row.remember)
    execution = session.run(row.dies)
    assert execution["status"] == ("died" if row.dies_with_host else "error"), execution
    assert "SIGKILL" in execution["error"]["message"]
    after = session.run(row.unicode)
    assert (after["status"], after["stdout"]) == ("ok", "ä€😀\n" + row.tail)
    assert "SIGKILL" in after["lost"]["reason"]
    assert session.run(row.unicode)["lost"] is None


def test_command_outlives_its_daemon(session: Session, row: Row) -> None:
    """A command goes on when the daemon is killed in its middle, and the next daemon has its result."""
    session.run(row.remember)
    id, path = session.begin(row.slow)
    session.life.kill()
    session.life.start()
    assert session.life.get(f"/api/sessions/it/executions/{id}")["status"] == "running"
    open(path + ".go", "x").close()
    execution = session.finished(id)
    assert (execution["status"], execution["stdout"]) == ("ok", "done" + (row.tail or "\n"))
    session.is_whole()


def test_nothing_is_left_behind(session: Session, row: Row, place: Place) -> None:
    """When a host is killed, the program that it spoke to ends with it."""
    session.begin(row.slow)
    pid = session.life.session("it")["pid"]
    os.kill(pid, 9)
    wait_until(lambda: all("omega_sessiond" in command for command in place.processes().values()), "all of it is gone")
