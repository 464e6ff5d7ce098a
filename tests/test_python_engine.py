"""The Python engine in a real host process: what commands mean, what they show, how they fail and are interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hostdriver import INTERPRETERS, HostProcess, Hosts, until
from isolation import Place

OTHERS: list[Any] = [version for version in INTERPRETERS if version != "default"]


@pytest.fixture
def hosts(place: Place) -> Iterator[Hosts]:
    """Starts hosts, and ends them with the test."""
    started = Hosts(place.base)
    yield started
    started.close()


@pytest.fixture
def host(hosts: Hosts) -> HostProcess:
    """A host in the default interpreter."""
    return hosts()


@pytest.fixture(params=OTHERS or [pytest.param("", marks=pytest.mark.skip("only the default Python here"))])
def any_host(request: pytest.FixtureRequest, hosts: Hosts) -> HostProcess:
    """A host in each interpreter of this machine."""
    return hosts(python=INTERPRETERS[request.param])


# ---- in every interpreter ----


def test_a_session_keeps_state_and_shows_the_last_expression(any_host: HostProcess) -> None:
    """Names last from command to command, and the value of a last expression is shown and kept in `_`."""
    assert any_host.run("x = 41").value is None
    shown = any_host.run("y = 1\nx + y")
    assert (shown.status, shown.value, shown.output) == ("ok", "42", "42\n")
    assert any_host.run("_ + 1").value == "43"
    assert any_host.run("None").output == ""
    assert any_host.run("_").value == "43"


def test_prints_and_children_stay_in_order(any_host: HostProcess) -> None:
    """What commands, children and low-level writes print comes out in the order it was printed."""
    code = """
import os, subprocess, sys
print("one"); subprocess.run(["echo", "two"]); print("three", end=" ")
os.write(1, b"four\\n"); sys.stdout.buffer.write(b"five\\n"); os.system("echo six"); print("seven")
"""
    assert any_host.run(code).output == "one\ntwo\nthree four\nfive\nsix\nseven\n"


def test_handled_signals_cut_no_output(any_host: HostProcess) -> None:
    """A long text is whole, though a signal that the session handles strikes all the while it is printed."""
    code = """
import signal
struck = 0
def count(*_):
    global struck
    struck += 1
_ = signal.signal(signal.SIGALRM, count)
_ = signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
while not struck: pass
print("x" * 3_000_000)
_ = signal.setitimer(signal.ITIMER_REAL, 0)
"""
    done = any_host.run(code)
    assert (done.status, len(done.output)) == ("ok", 3_000_001)


def test_await_works_at_the_top_level_and_tasks_survive(any_host: HostProcess) -> None:
    """A command may await, and a task it leaves goes on whenever a later one awaits."""
    assert any_host.run("import asyncio\nx = await asyncio.sleep(0, 5)\nx").value == "5"
    any_host.run("""
seen = []
async def tick():
    for n in range(3):
        seen.append(n)
        await asyncio.sleep(0.001)
    return "done"
""")
    any_host.run("await asyncio.sleep(0)\ntask = asyncio.get_running_loop().create_task(tick())")
    assert any_host.run("task.done()").value == "False"
    assert any_host.run("await task").value == "'done'"
    assert any_host.run("seen").value == "[0, 1, 2]"


def test_input_asks_the_client(any_host: HostProcess) -> None:
    """input(), getpass and sys.stdin wait for the client's answer, and its refusal is the end of input."""
    daemon = any_host.connect()
    asked = any_host.start("""
import sys, getpass
a = input("name? ")
b = getpass.getpass()
c = sys.stdin.readline()
d = list(sys.stdin)
try: input()
except EOFError: print("eof")
(a, b, c, d)
""")
    for prompt, secret, answer in (
        ("name? ", False, "Bob"), ("Password: ", True, "pw"), ("", False, "grün"),
        ("", False, "l1"), ("", False, "l2"), ("", False, None), ("", False, None),
    ):  # fmt: skip
        request = daemon.wait_for("input_request")
        assert (request["id"], request["prompt"], request["secret"]) == (asked, prompt, secret)
        daemon.tell("input", id=asked, text=answer)
    run = daemon.result(asked)
    assert run.value == "('Bob', 'pw', 'grün\\n', ['l1\\n', 'l2\\n'])"
    assert run.stdout == "name? eof\n"
    assert run.stderr == "Password: "


def test_a_traceback_shows_the_users_frames_with_their_source(any_host: HostProcess) -> None:
    """The report names the command's own lines and no line of the host's."""
    any_host.run("def f(x):\n    return 1 / x\n")
    run = any_host.run("print('before')\nf(0)")
    lines = [line for line in run.traceback.splitlines() if set(line) - set(" ~^")]
    assert lines == [
        "Traceback (most recent call last):",
        '  File "<omega-2>", line 2, in <module>',
        "    f(0)",
        '  File "<omega-1>", line 2, in f',
        "    return 1 / x",
        "ZeroDivisionError: division by zero",
    ]
    assert run.status == "error"
    assert run.result["error"] == {
        "name": "ZeroDivisionError",
        "message": "division by zero",
        "traceback": run.traceback,
    }


def test_sleep_and_computing_are_interrupted(any_host: HostProcess) -> None:
    """^C ends what sleeps, what computes, what awaits and what waits for a child, and the session lives on."""
    for code in (
        "import time; print('go'); time.sleep(1000)",
        "print('go')\nwhile True: pass",
        "import asyncio; print('go'); await asyncio.sleep(1000)",
        "import subprocess; print('go'); subprocess.run(['sleep', '1000'])",
    ):
        running = any_host.start(code)
        any_host.daemon.wait_for_output("go\n", running)
        any_host.interrupt()
        run = any_host.daemon.result(running)
        assert (run.status, run.result["error"]["name"]) == ("interrupted", "KeyboardInterrupt"), code
        assert "<omega-" in run.traceback
    assert any_host.run("1 + 1").value == "2"


def test_a_forked_child_that_returns_is_no_host(any_host: HostProcess) -> None:
    """A raw fork that comes back from the command says its say and ends; the host is still the host."""
    run = any_host.run("import os\npid = os.fork()\nif pid: print('parent', os.waitpid(pid, 0)[1])\n"
                       "else: print('child')")  # fmt: skip
    assert run.output == "child\nparent 0\n"
    assert any_host.connect().hello["pid"] == any_host.pid
    assert (
        any_host.run("import os, sys\npid = os.fork()\nif not pid: sys.exit(7)\nos.waitpid(pid, 0)[1] >> 8").value
        == "7"
    )
    failed = any_host.run("if not os.fork(): 1 / 0\nos.wait()[1] >> 8")
    assert failed.value == "1"
    assert failed.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_multiprocessing_works_without_warnings(any_host: HostProcess) -> None:
    """A pool of forked workers computes and prints, and nothing warns of threads."""
    code = """
import multiprocessing, os
context = multiprocessing.get_context("fork")
def work(n):
    print("worker", n, flush=True)
    return n * n
with context.Pool(2) as pool:
    squares = pool.map(work, range(4))
squares
"""
    run = any_host.run(code)
    assert run.value == "[0, 1, 4, 9]", run.output
    assert sorted(run.stdout.splitlines()) == [f"worker {n}" for n in range(4)]
    assert run.stderr == ""
    until(lambda: len(any_host.tasks()) == 2, "the pool's threads to be gone")
    raw = any_host.run("if os.fork() == 0: os._exit(0)\nos.wait()[1]")
    assert (raw.value, raw.stderr) == ("0", "")


# ---- values ----


def test_underscore_and_hooks_are_as_at_the_prompt(host: HostProcess) -> None:
    """A display hook of the user's own shows values, and sys.__displayhook__ brings the plain way back."""
    host.run("import sys\ndef show(value): print('<<', value, '>>')\nsys.displayhook = show")
    run = host.run("5")
    assert (run.stdout, run.result.get("displayed")) == ("<< 5 >>\n", None)
    host.run("sys.displayhook = sys.__displayhook__")
    assert host.run("6").output == "6\n"


def test_only_a_last_expression_is_shown(host: HostProcess) -> None:
    """Expressions before the last one are silent; a statement at the end shows nothing."""
    assert host.run("1\n2\n3").output == "3\n"
    assert host.run("1\nx = 2").output == ""
    assert host.run("").status == "ok"
    assert host.run("# nothing").status == "ok"
    assert host.run("def f():\n    return 1").output == ""


def test_future_statements_last(host: HostProcess) -> None:
    """A `from __future__ import` holds for the commands after it."""
    host.run("from __future__ import annotations")
    assert host.run("def f(x: nowhere): pass\nf.__annotations__").value == "{'x': 'nowhere'}"


def test_a_wrong_escape_warns_once(host: HostProcess) -> None:
    """Compiling in two attempts does not warn twice."""
    run = host.run("import warnings; warnings.simplefilter('always')")
    run = host.run("x = '\\d'")
    assert run.stderr.count("invalid escape sequence") == 1
    run = host.run("'\\d'")
    assert run.stderr.count("invalid escape sequence") == 1


@pytest.mark.parametrize(
    ("body", "name"),
    [
        ("raise ValueError('no')", "ValueError"),
        ("return 7", "TypeError"),
        ("1 / 0", "ZeroDivisionError"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("return self.__repr__()", "RecursionError"),
    ],
)
def test_a_repr_that_fails_is_the_commands_error(host: HostProcess, body: str, name: str) -> None:
    """Whatever a repr does wrong is reported as the command's exception, and the session lives on."""
    host.run(f"class Odd:\n    def __repr__(self):\n        {body}")
    run = host.run("Odd()")
    assert run.result["error"]["name"] == name
    assert run.result.get("displayed") is None
    assert host.run("1").value == "1"


def test_a_repr_that_exits_asks_to_exit(host: HostProcess) -> None:
    """SystemExit from a repr is SystemExit."""
    run = host.run("class Odd:\n    def __repr__(self): raise SystemExit\nOdd()")
    assert (run.status, run.result["should_exit"]) == ("ok", True)


def test_a_repr_may_print(host: HostProcess) -> None:
    """What a repr prints comes before the value, as stdout."""
    run = host.run("class Loud:\n    def __repr__(self):\n        print('psst')\n        return 'Loud!'\nLoud()")
    assert [(frame["s"], frame["text"], frame["off"]) for frame in run.outputs] == [
        ("stdout", "psst\n", 0),
        ("result", "Loud!\n", 5),
    ]


def test_a_value_of_100_mb_streams_in_chunks(host: HostProcess) -> None:
    """A huge repr arrives whole, in bounded frames with true offsets."""
    run = host.run("'x' * 100_000_000")
    assert run.result.get("dropped") is None
    assert run.output == "'" + "x" * 100_000_000 + "'\n"
    place = 0
    for frame in run.outputs:
        assert frame["off"] == place
        assert len(frame["text"]) <= 65536
        place += len(frame["text"])


def test_surrogates_and_subclasses_of_str_become_plain_text(host: HostProcess) -> None:
    """Lone surrogates are shown as escapes, wherever text comes from."""
    assert host.run("print('\\ud800|\\U0001f600')").stdout == "\\ud800|\U0001f600\n"
    run = host.run(
        "class S(str):\n    def __str__(self): return 'no'\nclass A:\n    def __repr__(self): return S('\\udfff')\nA()"
    )
    assert run.value == "\\udfff"
    run = host.run("raise ValueError('\\ud800')")
    assert run.result["error"]["message"] == "\\ud800"
    assert host.run("import sys\nsys.stdout.write(S('sub'))").stdout == "sub"
    run = host.run("print('\ud800')")
    assert run.status == "error"


def test_writing_anything_but_text_is_a_type_error(host: HostProcess) -> None:
    """sys.stdout takes str, its buffer bytes, as any text file does."""
    assert host.run("import sys\nsys.stdout.write(b'x')").result["error"]["name"] == "TypeError"
    assert host.run("sys.stdout.buffer.write('x')").result["error"]["name"] == "TypeError"
    assert host.run("sys.stdout.buffer.write(bytearray(b'x\\n'))").output == "x\n2\n"
    assert host.run("sys.stdout.fileno(), sys.stderr.fileno(), sys.stdin.fileno(), sys.stdout.isatty()").value == (
        "(1, 2, 0, False)"
    )


# ---- errors ----


def test_a_syntax_error_shows_the_place(host: HostProcess) -> None:
    """The report of a syntax error is its line with a mark, and nothing of the host."""
    run = host.run("x = 1\ny = = 2\n")
    assert run.traceback == '  File "<omega-1>", line 2\n    y = = 2\n        ^\nSyntaxError: invalid syntax\n'
    assert run.result["error"]["name"] == "SyntaxError"
    assert host.run("x").result["error"]["name"] == "NameError"
    assert host.run("  1").result["error"]["name"] == "IndentationError"


def test_chained_exceptions_are_told_without_the_hosts_frames(host: HostProcess) -> None:
    """Causes and contexts are shown, each with the user's frames alone."""
    run = host.run("try:\n    1 / 0\nexcept ZeroDivisionError as e:\n    raise KeyError('k') from e")
    assert "The above exception was the direct cause" in run.traceback
    assert run.traceback.startswith("Traceback")
    assert run.traceback.count("<omega-1>") == 2
    assert "hosts" not in run.traceback


def test_host_frames_between_the_users_are_left_out(host: HostProcess) -> None:
    """An exception that comes through a stream of the host's shows only the user's frames."""
    host.run("class Bad:\n    def __str__(self): raise ValueError('bad str')")
    run = host.run("input(Bad())")
    assert run.result["error"]["message"] == "bad str"
    assert [line for line in run.traceback.splitlines() if "File" in line] == [
        '  File "<omega-2>", line 1, in <module>',
        '  File "<omega-1>", line 2, in __str__',
    ]


def test_endless_recursion_is_folded(host: HostProcess) -> None:
    """A RecursionError's report is short."""
    run = host.run("def f(): return f()\nf()")
    assert run.result["error"]["name"] == "RecursionError"
    assert "more times]" in run.traceback
    assert len(run.traceback) < 2000


def test_recursion_that_prints_never_tears_a_frame(host: HostProcess) -> None:
    """Wherever the stack ends, in the user's code or while the host frames a print, the wire stays whole."""
    for filler in ("", "'x' * 3000", "'x' * 40000, flush=True"):
        run = host.run(f"def f(n):\n    print({filler or 'n'})\n    f(n + 1)\nf(0)")
        assert run.result["error"]["name"] == "RecursionError"
    assert host.run("1 + 1").value == "2"
    numbers = [frame["seq"] for frame in host.daemon.frames if "seq" in frame]
    assert numbers == list(range(1, len(numbers) + 1))
    assert host.trouble == ""


def test_a_low_recursion_limit_spares_the_host(host: HostProcess) -> None:
    """A session may lower the recursion limit, and still print, fail, and get late output."""
    host.run("import os, subprocess, sys\nsys.setrecursionlimit(60)")
    run = host.run("print('x' * 100_000)\nos.system('echo hi')\n'y'")
    assert run.output == "x" * 100_000 + "\nhi\n'y'\n"
    assert host.run("def f(): return f()\nf()").result["error"]["name"] == "RecursionError"
    child = "child = subprocess.Popen(['sh', '-c', 'read x; echo late'], stdin=subprocess.PIPE)"
    host.run(f"sys.setrecursionlimit(1000)\n{child}\nsys.setrecursionlimit(60)")
    host.run("import signal\nsignal.signal(signal.SIGUSR1, lambda *_: child.stdin.close())")
    until(host.is_asleep, "the host to be at rest")
    host.process.send_signal(10)
    host.daemon.wait_for_output("late\n")
    assert host.trouble == ""


def test_sources_of_commands_that_define_nothing_are_forgotten(host: HostProcess) -> None:
    """A session's memory does not grow with each command, and functions keep their source."""
    host.run("import inspect, linecache\ndef f(): return 'kept'")
    for n in range(1010):
        host.start(f"x = {n}")
    assert host.run("len([name for name in linecache.cache if name.startswith('<omega-')]) <= 1002").value == "True"
    assert host.run("inspect.getsource(f)").value == "\"def f(): return 'kept'\\n\""


@pytest.mark.parametrize(
    "body",
    [
        "raise ValueError",
        "raise SystemExit",
        "raise KeyboardInterrupt",
        "return 5",
        "return str(self)",
        "return '\\ud800'",
    ],
)
def test_an_exception_with_a_hostile_str_is_reported(host: HostProcess, body: str) -> None:
    """An exception whose own text cannot be had is reported by its name."""
    run = host.run(f"class Odd(Exception):\n    def __str__(self): {body}\nraise Odd")
    assert run.status == "error"
    assert run.result["error"]["name"] == "Odd"
    assert "Odd" in run.traceback
    assert host.run("1").value == "1"


def test_a_large_message_is_bounded_in_the_result_and_whole_in_the_output(host: HostProcess) -> None:
    """The result frame holds the ends of a huge message, the output all of it."""
    run = host.run("raise ValueError('a' * 1_000_000 + 'z')")
    assert len(run.result["error"]["message"].encode()) <= 65536
    assert run.result["error"]["message"].endswith("z")
    assert len(run.result["error"]["traceback"].encode()) <= 65536
    assert run.traceback.count("a") > 1_000_000


def test_an_excepthook_of_the_users_own_is_used(host: HostProcess) -> None:
    """sys.excepthook shows the exception in its way; one that fails is told, and the plain report follows."""
    host.run("import sys\ndef hook(kind, value, tb): print('hooked', kind.__name__)\nsys.excepthook = hook")
    run = host.run("1 / 0")
    assert (run.stdout, run.traceback, run.status) == ("hooked ZeroDivisionError\n", "", "error")
    host.run("def hook(kind, value, tb): raise OSError('x')\nsys.excepthook = hook")
    run = host.run("1 / 0")
    assert "Error in sys.excepthook" in run.traceback
    assert run.traceback.endswith("ZeroDivisionError: division by zero\n")


def test_the_last_exception_is_kept_for_debuggers(host: HostProcess) -> None:
    """sys.last_value and its traceback are what pdb.pm() needs."""
    host.run("def f(): marker = 7; 1 / 0\nf()")
    assert host.run(
        "import sys\ntb = sys.last_traceback\nwhile tb.tb_next: tb = tb.tb_next\ntb.tb_frame.f_locals"
    ).value == ("{'marker': 7}")


def test_source_of_functions_can_be_had(host: HostProcess) -> None:
    """inspect.getsource finds what was defined in any command."""
    host.run("def f(x):\n    # a note\n    return x")
    assert host.run("import inspect\nprint(inspect.getsource(f))").stdout == "def f(x):\n    # a note\n    return x\n\n"


@pytest.mark.parametrize(
    ("argument", "printed"), [("", ""), ("0", ""), ("3", ""), ("None", ""), ("'bye'", "bye\n"), ("[1]", "[1]\n")]
)
def test_exit_is_told_and_the_session_lives(host: HostProcess, argument: str, printed: str) -> None:
    """SystemExit becomes should_exit; a code that Python would print is printed."""
    run = host.run(f"x = 5\nimport sys\nsys.exit({argument})")
    assert (run.status, run.result["should_exit"], run.stderr) == ("ok", True, printed)
    assert host.run("exit()").result["should_exit"] is True
    assert host.run("x").value == "5"


# ---- input ----


@pytest.mark.parametrize("read", ["sys.stdin.read(1)", "sys.stdin.buffer.read(1)"])
def test_what_is_left_of_an_answer_goes_with_its_execution(host: HostProcess, read: str) -> None:
    """The rest of a line serves the next read of the same command, and never that of a later one."""
    daemon = host.connect()
    asked = host.start(f"import sys\n{read}, {read}")
    daemon.wait_for("input_request")
    daemon.tell("input", id=asked, text="yes")
    assert daemon.result(asked).value in ("('y', 'e')", "(b'y', b'e')")
    for ask in (read, "input('Delete it? ')"):
        asked = host.start(ask)
        daemon.wait_for("input_request", id=asked)
        daemon.tell("input", id=asked, text="no")
        assert daemon.result(asked).value in ("'n'", "b'n'", "'no'")


def test_input_reads_a_redirected_stdin(host: HostProcess) -> None:
    """Where the user put another sys.stdin in place, input() reads that."""
    assert host.run("import io, sys\nsys.stdin = io.StringIO('from here\\n')\ninput()").value == "'from here'"


def test_binary_stdin_reads_bytes(host: HostProcess) -> None:
    """sys.stdin.buffer gives the same lines as bytes."""
    daemon = host.connect()
    asked = host.start("import sys\nsys.stdin.buffer.readline(), sys.stdin.buffer.read(2), sys.stdin.buffer.read1()")
    for text in ("ä", "xyz"):
        daemon.wait_for("input_request")
        daemon.tell("input", id=asked, text=text)
    assert daemon.result(asked).value == "(b'\\xc3\\xa4\\n', b'xy', b'z\\n')"


def test_an_answer_for_another_execution_is_ignored(host: HostProcess) -> None:
    """Only the answer that names the waiting execution counts, and only the first."""
    daemon = host.connect()
    asked = host.start("input()")
    daemon.wait_for("input_request")
    daemon.tell("input", id=asked + 1, text="wrong")
    daemon.tell("input", id=asked, text="right")
    daemon.tell("input", id=asked, text="late")
    assert daemon.result(asked).value == "'right'"
    asked = host.start("input()")
    daemon.wait_for("input_request")
    daemon.tell("input", id=asked, text="fresh")
    assert daemon.result(asked).value == "'fresh'"


def test_a_thread_may_ask_for_input(host: HostProcess) -> None:
    """input() works in a worker thread of a command that waits for it."""
    daemon = host.connect()
    asked = host.start("import asyncio\nawait asyncio.get_running_loop().run_in_executor(None, input, 'who? ')")
    assert daemon.wait_for("input_request")["prompt"] == "who? "
    daemon.tell("input", id=asked, text="me")
    assert daemon.result(asked).value == "'me'"


def test_a_debugger_works_and_ends_with_its_command(host: HostProcess) -> None:
    """breakpoint() prompts through input(), steps through the user's code, and never shows the host's."""
    daemon = host.connect()
    asked = host.start("def f():\n    x = 1\n    breakpoint()\n    y = 2\n    return x + y\nf()\nz = 9")
    for command in ("p x", "n", "n", "n", "n", "n", "n", "n"):
        frame = next(frame for frame in daemon.following() if frame["t"] in ("input_request", "result"))
        if frame["t"] == "result":
            break
        daemon.tell("input", id=asked, text=command)
    else:
        daemon.result(asked)
    output = "".join(frame["text"] for frame in daemon.frames if frame["t"] == "output")
    assert "-> y = 2" in output
    assert "hosts" not in output
    assert host.run("z").value == "9"


# ---- interrupts ----


def test_an_endless_print_loop_is_interrupted_200_times(host: HostProcess) -> None:
    """^C in the middle of prints always ends the command and never tears the wire."""
    for _ in range(200):
        running = host.start("while True: print('spam' * 10)")
        host.daemon.wait_for_output("spam", running)
        host.interrupt()
        assert host.daemon.result(running).status == "interrupted"
        host.daemon.acknowledge()
    numbers = [frame["seq"] for frame in host.daemon.frames if "seq" in frame]
    assert numbers == list(range(1, len(numbers) + 1))
    assert host.run("1 + 1").value == "2"
    assert host.trouble == ""


def test_input_is_interrupted(host: HostProcess) -> None:
    """^C ends a command that waits for an answer, and a late answer harms nothing."""
    daemon = host.connect()
    for code in ("input('? ')", "import sys; sys.stdin.read()", "async def f(): return input()\nawait f()"):
        asked = host.start(code)
        daemon.wait_for("input_request")
        host.interrupt()
        assert daemon.result(asked).status == "interrupted"
        daemon.tell("input", id=asked, text="late")
    assert host.run("1 + 1").value == "2"


def test_a_repr_is_interrupted(host: HostProcess) -> None:
    """^C reaches a repr that computes, and the display of a huge value."""
    running = host.start("class Slow:\n    def __repr__(self):\n        print('in')\n        while True: pass\nSlow()")
    host.daemon.wait_for_output("in\n", running)
    host.interrupt()
    assert host.daemon.result(running).status == "interrupted"


def test_the_report_of_an_exception_is_interrupted(host: HostProcess) -> None:
    """^C reaches a __str__ that computes while its exception is being reported."""
    running = host.start(
        "class E(Exception):\n    def __str__(self):\n        print('in')\n        while True: pass\nraise E"
    )
    host.daemon.wait_for_output("in\n", running)
    host.interrupt()
    run = host.daemon.result(running)
    assert run.result["error"]["name"] == "E"


def test_code_that_swallows_the_interrupt_goes_on(host: HostProcess) -> None:
    """A command that catches KeyboardInterrupt runs on, and the next one reaches it as well."""
    code = """
import time
for n in range(3):
    try:
        print("wait", n, flush=True)
        time.sleep(1000)
    except KeyboardInterrupt:
        print("no", n)
"""
    running = host.start(code)
    for n in range(3):
        host.daemon.wait_for_output(f"wait {n}\n", running)
        host.interrupt()
    run = host.daemon.result(running)
    assert run.status == "ok"
    assert run.stdout == "".join(f"wait {n}\nno {n}\n" for n in range(3))


def test_a_handler_of_the_users_own_is_called_in_user_code_only(host: HostProcess) -> None:
    """signal.signal(SIGINT, …) works: the handler runs, however often it strikes inside a print."""
    code = """
import os, signal
hits = []
def handler(signum, frame):
    hits.append(signum)
previous = signal.signal(signal.SIGINT, handler)
assert signal.getsignal(signal.SIGINT) is handler and previous is signal.default_int_handler
for n in range(500):
    os.kill(os.getpid(), signal.SIGINT)
    print("x" * 100)
signal.signal(signal.SIGINT, previous)
len(hits) > 0
"""
    assert host.run(code).value == "True"
    running = host.start("print('go')\nwhile True: pass")
    host.daemon.wait_for_output("go\n", running)
    host.interrupt()
    assert host.daemon.result(running).status == "interrupted"


def test_an_alarm_that_raises_never_tears_a_print(host: HostProcess) -> None:
    """The time-out by SIGALRM that everybody writes is raised between prints, not in them."""
    host.run("""
import signal
class Late(Exception): pass
def late(signum, frame): raise Late
signal.signal(signal.SIGALRM, late)
""")
    for _ in range(40):
        run = host.run("signal.setitimer(signal.ITIMER_REAL, 0.003)\nwhile True: print('x' * 200)")
        assert run.result["error"]["name"] == "Late"
        assert set(run.stdout) <= {"x", "\n"}
    asked = host.start("signal.setitimer(signal.ITIMER_REAL, 0.01)\ninput()")
    assert host.daemon.result(asked).result["error"]["name"] == "Late"
    numbers = [frame["seq"] for frame in host.daemon.frames if "seq" in frame]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_signal_at_rest_runs_the_users_handler(host: HostProcess) -> None:
    """A handler whose signal comes at rest is run then, and what it prints is nobody's output."""
    host.run("import signal\ndef bell(signum, frame): print('ding')\nsignal.signal(signal.SIGUSR1, bell)")
    until(host.is_asleep, "the host to be at rest")
    host.process.send_signal(10)
    assert host.daemon.wait_for("output", id=0)["text"] == "ding\n"
    host.run("def bell(signum, frame): 1 / 0\nsignal.signal(signal.SIGUSR1, bell)")
    until(host.is_asleep, "the host to be at rest")
    host.process.send_signal(10)
    host.daemon.wait_for_output("ZeroDivisionError", 0)
    assert host.run("1").value == "1"


def test_an_interrupt_cancels_what_is_awaited_and_spares_other_tasks(host: HostProcess) -> None:
    """^C in an await lets the command clean up and leaves background tasks alone."""
    host.run("""
import asyncio
async def background():
    while True:
        await asyncio.sleep(0.001)
        ticks.append(1)
ticks = []
""")
    host.run("await asyncio.sleep(0); task = asyncio.get_running_loop().create_task(background())")
    running = host.start("try:\n    print('go')\n    await asyncio.sleep(1000)\nfinally:\n    print('cleaned')")
    host.daemon.wait_for_output("go\n", running)
    host.interrupt()
    run = host.daemon.result(running)
    assert (run.status, run.stdout) == ("interrupted", "go\ncleaned\n")
    assert "await asyncio.sleep(1000)" in run.traceback
    assert host.run("ticks.clear()\nawait asyncio.sleep(0.05)\nbool(ticks), task.done()").value == "(True, False)"


def test_interrupts_upon_interrupts_leave_the_event_loop_whole(host: HostProcess) -> None:
    """However many ^C come while a command awaits, later commands can await."""
    host.run("import asyncio")
    for _ in range(40):
        running = host.start("while True:\n    await asyncio.sleep(0)\n    print('x')")
        host.daemon.wait_for_output("x", running)
        for _ in range(3):
            host.interrupt()
        assert host.daemon.result(running).status == "interrupted"
        assert host.run("await asyncio.sleep(0, 'fine')").value == "'fine'"


def test_a_handler_that_raises_within_the_event_loop_costs_one_command(host: HostProcess) -> None:
    """What a signal handler of the user's breaks in asyncio's own code is mended for the next command."""
    host.run("""
import asyncio, signal
class Late(Exception): pass
def late(signum, frame): raise Late
signal.signal(signal.SIGALRM, late)
""")
    for _ in range(40):
        run = host.run("signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)\nwhile True: await asyncio.sleep(0)")
        assert run.status == "error"
        until(lambda: host.run("signal.setitimer(signal.ITIMER_REAL, 0)").status == "ok", "the alarm to be off")
        assert host.run("await asyncio.sleep(0, 'fine')").value == "'fine'"


def test_asyncio_run_is_interrupted(host: HostProcess) -> None:
    """^C reaches an event loop of the user's own, and top-level await works after it."""
    running = host.start(
        "import asyncio\nasync def main():\n    print('go')\n    await asyncio.sleep(1000)\nasyncio.run(main())"
    )
    host.daemon.wait_for_output("go\n", running)
    host.interrupt()
    assert host.daemon.result(running).status == "interrupted"
    assert host.run("await asyncio.sleep(0, 'fine')").value == "'fine'"
    assert host.run("asyncio.run(asyncio.sleep(0, 1))").value == "1"


# ---- the place commands run in ----


def test_main_is_fresh_and_the_host_hides(host: HostProcess) -> None:
    """The namespace, sys.argv and sys.path are those of a Python at its prompt, and the host's modules are not seen."""
    assert host.run("sorted(globals())").value == (
        "['__annotations__', '__builtins__', '__doc__', '__loader__', '__name__', '__package__', '__spec__']"
    )
    assert host.run(
        "import sys\nsys.modules['__main__'].__dict__ is globals(), __name__, sys.argv, sys.path[0]"
    ).value == ("(True, '__main__', [''], '')")
    assert host.run("[name for name in sys.modules if 'omega' in name]").value == "[]"
    assert host.run("[path for path in sys.path if 'omega_sessiond' in path]").value == "[]"
    assert host.run("import threading; threading.active_count()").value == "1"


def test_the_users_modules_are_the_users(host: HostProcess) -> None:
    """Modules in the session's directory are found, whatever the host's own are called."""
    for name in ("omega_sessiond", "python", "loop", "wire", "engine"):
        (host.work / f"{name}.py").write_text(f"VALUE = 'my {name}'\n")
    assert host.run(
        "import omega_sessiond, python, loop, wire, engine\n"
        "[m.VALUE for m in (omega_sessiond, python, loop, wire, engine)]"
    ).value == ("['my omega_sessiond', 'my python', 'my loop', 'my wire', 'my engine']")


def test_modules_in_the_directory_do_not_break_the_start(hosts: Hosts) -> None:
    """A json.py or select.py in the session's directory stands in nobody's way."""
    names = ("json", "select", "typing", "traceback", "linecache", "codeop", "signals")
    host = hosts(files={f"{name}.py": "raise RuntimeError('the wrong one')\n" for name in names})
    assert host.run("1 + 1").value == "2"
    assert host.run("import signals").result["error"]["message"] == "the wrong one"


# ---- questions ----


def test_completion_knows_names_attributes_and_modules(host: HostProcess) -> None:
    """Names of the session, builtins, keywords, attributes and modules complete, each replacing its last part."""
    host.run("import os\nalpha_beta = {'k': 1}\nclass C:\n    def __init__(self): self.inner = os\nc = C()")
    daemon = host.daemon
    assert daemon.ask("complete", code="x = alpha_", cursor=None) == {"matches": ["alpha_beta"], "start": 4, "end": 10}
    assert daemon.ask("complete", code="os.getpi", cursor=8)["matches"] == ["getpid"]
    assert daemon.ask("complete", code="c.inner.path.basen)", cursor=18) == {
        "matches": ["basename"],
        "start": 13,
        "end": 18,
    }
    assert daemon.ask("complete", code="whi")["matches"] == ["while"]
    assert "isinstance" in daemon.ask("complete", code="isin")["matches"]
    assert "multiprocessing" in daemon.ask("complete", code="import multip")["matches"]
    assert daemon.ask("complete", code="from os import path, getpi")["matches"] == ["getpid"]
    assert daemon.ask("complete", code="nowhere.x") == {"matches": [], "start": 8, "end": 9}
    assert daemon.ask("complete", code="f().x")["matches"] == []
    assert daemon.ask("complete", code="é = alpha_", cursor=10)["matches"] == ["alpha_beta"]


def test_completion_spares_code_of_the_users_and_survives_it(host: HostProcess) -> None:
    """A property is not called for its siblings, and a __dir__ that raises or never ends costs no session."""
    host.run("""
class Trap:
    @property
    def trap(self): hits.append(1); return 1
    safe = 1
class Rude:
    def __dir__(self): raise SystemExit
class Slow:
    def __dir__(self):
        print('in', flush=True)
        while True: pass
hits = []; trap = Trap(); rude = Rude(); slow = Slow()
""")
    assert host.daemon.ask("complete", code="trap.s")["matches"] == ["safe"]
    assert host.daemon.ask("complete", code="trap.")["matches"] == ["safe", "trap"]
    assert host.run("hits").value == "[]"
    assert host.daemon.ask("complete", code="rude.s")["matches"] == []
    host.daemon.send("complete", req=9, code="slow.s")
    host.daemon.wait_for_output("in\n", 0)
    host.interrupt()
    assert host.daemon.wait_for("reply", req=9)["body"]["matches"] == []
    assert host.run("1").value == "1"


def test_inspection_gives_signature_and_documentation(host: HostProcess) -> None:
    """Help on the name at the cursor is plain text; an unknown name is not found."""
    host.run("import os\ndef area(width: int, height=2):\n    '''The area.\n\n    Of a rectangle.'''\nn = 5")
    found = host.daemon.ask("inspect", code="area(3)", cursor=2)
    assert found["found"]
    assert found["text"] == "area(width: int, height=2)\ntype: function\n\nThe area.\n\nOf a rectangle."
    assert "value: 5" in host.daemon.ask("inspect", code="n")["text"]
    assert host.daemon.ask("inspect", code="os.path.join", cursor=1)["text"].startswith("type: module")
    assert host.daemon.ask("inspect", code="nowhere") == {"found": False, "text": ""}


@pytest.mark.parametrize(
    ("code", "status", "indent"),
    [
        ("1 + 1", "complete", ""),
        ("x = (1,", "incomplete", ""),
        ("def f(x):", "incomplete", "    "),
        ("def f(x):  # why", "incomplete", "    "),
        ("def f(x):\n    return x", "incomplete", ""),
        ("def f(x):\n    if x:\n        y = 1", "incomplete", "        "),
        ("def f(x):\n    return x\n", "complete", ""),
        ("if x:\n    pass\nelse:", "incomplete", "    "),
        ("x = = 1", "invalid", ""),
        ("'''text", "incomplete", ""),
        ("await f()", "complete", ""),
        ("", "complete", ""),
        ("\x00", "invalid", ""),
    ],
)
def test_whole_commands_are_told_from_halves(host: HostProcess, code: str, status: str, indent: str) -> None:
    """A client learns whether Enter should run the code, and what indent the next line has."""
    assert host.daemon.ask("is_complete", code=code) == {"status": status, "indent": indent}
