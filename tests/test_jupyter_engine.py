"""The Jupyter engine in a real host process, with real kernels: what commands mean, show and leave behind."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kernels
from hostdriver import Frame, HostProcess, Hosts, until
from isolation import Place
from omega_sessiond.hosts import oom

OUR_PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

Start = Callable[..., HostProcess]


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    """Starts a host with the kernel of a specification."""
    hosts = Hosts(place.base)

    def begin(directory: Path, **options: object) -> HostProcess:
        options = {"kernel": directory.name, "directory": str(directory), **options}
        return hosts(python=sys.executable, engine=f"jupyter:{directory.name}", kind="jupyter", options=options)

    yield begin
    hosts.close()


@pytest.fixture
def python(start: Start) -> HostProcess:
    """A host with ipykernel."""
    return start(kernels.IPYKERNEL, program=sys.executable)


@pytest.fixture
def bash(start: Start, place: Place) -> HostProcess:
    """A host with bash_kernel."""
    return start(kernels.bash(place.base / "kernels"))


def child_of(host: HostProcess) -> int:
    """The kernel's process."""
    assert host.daemon  # it answers: so the kernel has
    children = Path(f"/proc/{host.pid}/task/{host.pid}/children").read_text().split()
    assert len(children) == 1
    return int(children[0])


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def begun(host: HostProcess, code: str, word: str = "begun") -> int:
    """Start a command that prints `word` first, and wait for that."""
    id = host.start(code)
    host.daemon.wait_for_output(word, id)
    return id


# ---- commands ----


def test_a_session_keeps_state_and_shows_the_result(python: HostProcess) -> None:
    """Names last from command to command; a value is shown as the result, prints go to their streams in order."""
    assert python.run("x = 41").output == ""
    shown = python.run("x + 1")
    assert (shown.status, shown.value) == ("ok", "42")
    run = python.run("import sys\nprint('one'); print('two', file=sys.stderr); print('three')\n'four'")
    assert (run.stdout, run.stderr, run.value) == ("one\nthree\n", "two\n", "'four'")
    assert python.run("%%capture seen\nprint('caught')").output == ""
    assert python.run("seen.stdout").value == "'caught\\n'"
    assert python.run("!echo from a shell").stdout.split() == ["from", "a", "shell"]


def test_output_is_exact(python: HostProcess) -> None:
    """Everything a command prints is its output, once: without a newline, in any script, in bulk."""
    assert python.run("print('no newline', end='')").output == "no newline"
    assert python.run("print('grün 漢字 🐍')").output == "grün 漢字 🐍\n"
    run = python.run("for n in range(300_000): print(n)")
    assert run.stdout == "".join(f"{n}\n" for n in range(300_000))


def test_output_streams_while_the_command_runs(python: HostProcess) -> None:
    """What is printed is seen before the command ends."""
    id = begun(python, "print('begun', flush=True)\nimport time; time.sleep(600)")
    assert not [frame for frame in python.log_frames if frame["t"] == "result"]
    python.interrupt()
    assert python.daemon.result(id).status == "interrupted"


def test_an_error_is_the_commands_outcome_in_plain_text(python: HostProcess) -> None:
    """Name, message and traceback are told without the colours a notebook would have, and the session goes on."""
    run = python.run("print('before')\n1 / 0")
    assert run.status == "error"
    error = run.result["error"]
    assert (error["name"], error["message"]) == ("ZeroDivisionError", "division by zero")
    assert error["traceback"] == run.traceback
    assert "----> 2 1 / 0" in run.traceback and "\x1b" not in run.traceback
    assert run.stdout == "before\n"
    assert python.run("1").value == "1"


def test_rich_data_comes_as_bundles(python: HostProcess) -> None:
    """Displays and results hand over every MIME type they have; their plain text is the output."""
    run = python.run(f"""
import base64
from IPython.display import HTML, display, update_display
class Plot:
    def __repr__(self): return "<plot>"
    def _repr_png_(self): return base64.b64decode("{OUR_PNG}")
handle = display(HTML("<b>one</b>"), display_id="a")
update_display(HTML("<b>two</b>"), display_id="a")
Plot()
""")
    data = [frame for frame in run.frames if "mime" in frame]
    assert [(frame["mime"], frame["role"]) for frame in data] == [
        ("text/html", "display"),
        ("text/html", "display"),
        ("image/png", "result"),
    ]
    (png,) = [frame["body"] for frame in run.frames if frame.get("n") == data[2]["n"] and "body" in frame]
    assert png == OUR_PNG
    assert run.value == "<plot>"
    assert run.stdout == "<IPython.core.display.HTML object>\n" * 2


def test_exit_leaves_the_session_alive(python: HostProcess) -> None:
    """exit, quit and sys.exit() tell the client that the user meant to leave; kernel and variables stay."""
    python.run("x = 5")
    for code in ("exit", "quit()", "import sys; sys.exit(3)"):
        run = python.run(code)
        assert (run.status, run.result["should_exit"]) == ("ok", True), code
        assert python.run("x").value == "5"


def test_pages_and_cleared_output_are_text(python: HostProcess) -> None:
    """A help page is printed, and clear_output() is what it is at a terminal."""
    assert "Return the number of items" in python.run("len?").stdout
    run = python.run("from IPython.display import clear_output\nprint(1); clear_output(wait=True); print(2)")
    assert run.stdout == "1\n\x1b[2K\r2\n"


def test_comm_messages_are_ignored(python: HostProcess) -> None:
    """A widget's messages are no output."""
    run = python.run("from comm import create_comm\nc = create_comm(target_name='t', data={}); c.send({'a': 1})")
    assert (run.status, run.output) == ("ok", "")


def test_output_of_an_earlier_command_is_late(python: HostProcess) -> None:
    """What names an earlier command belongs to no execution, even while another runs."""
    python.run("kernel = get_ipython().kernel\nearlier = kernel.get_parent()")
    run = python.run("""
said = {"name": "stdout", "text": "from before"}
kernel.session.send(kernel.iopub_socket, "stream", said, parent=earlier)
print("mine")
""")
    assert run.output == "mine\n"
    late = [frame["text"] for frame in python.log_frames if frame["t"] == "output" and frame["id"] == 0]
    assert "".join(late) == "from before"


def test_late_output_comes_while_nothing_runs(python: HostProcess) -> None:
    """A timer that prints between commands is heard at once."""
    python.run("import threading\nt = threading.Timer(0.2, lambda: print('tick', flush=True)); t.start()")
    python.daemon.wait_for_output("tick", 0)


# ---- input ----


def test_input_asks_the_client(python: HostProcess) -> None:
    """input() and getpass wait for the client's answer, a refusal is the end of input, and the output before a
    prompt comes before it."""
    id = python.start("""
import getpass
print("first")
a = input("name? ")
b = getpass.getpass("word? ")
try: input()
except EOFError: print("eof")
(a, b)
""")
    for prompt, secret, answer in (("name? ", False, "grün"), ("word? ", True, "pw"), ("", False, None)):
        asked = python.daemon.wait_for("input_request")
        assert (asked["id"], asked["prompt"], asked["secret"]) == (id, prompt, secret)
        python.daemon.tell("input", id=id, text=answer)
    run = python.daemon.result(id)
    assert run.stdout == "first\nname? eof\n"
    assert run.stderr == "word? "
    assert run.value == "('grün', 'pw')"


def test_interrupt_ends_a_wait_for_input(python: HostProcess) -> None:
    """An interrupted input() ends its command, and the next one asks afresh."""
    id = python.start("input('one? ')")
    python.daemon.wait_for("input_request", id=id)
    python.interrupt()
    assert python.daemon.result(id).status == "interrupted"
    id = python.start("input('two? ')")
    python.daemon.wait_for("input_request", id=id, prompt="two? ")
    python.daemon.tell("input", id=id, text="yes")
    assert python.daemon.result(id).value == "'yes'"


# ---- interrupt ----


def test_interrupt_reaches_what_runs_once(python: HostProcess) -> None:
    """One ^C is one KeyboardInterrupt; variables stay, and at rest it means nothing."""
    python.run("import time\nseen = []")
    id = begun(
        python,
        "while len(seen) < 1:\n  try: print('begun'); time.sleep(600)\n  except KeyboardInterrupt: seen.append(1)",
    )
    python.interrupt()
    assert python.daemon.result(id).status == "ok"
    python.interrupt()
    assert python.run("seen").value == "[1]"
    id = begun(python, "print('begun', flush=True); time.sleep(600)")
    python.interrupt()
    run = python.daemon.result(id)
    assert (run.status, run.result["error"]["name"]) == ("interrupted", "KeyboardInterrupt")
    assert python.run("seen").value == "[1]"


def test_interrupt_by_message(start: Start, place: Place) -> None:
    """A kernel whose specification says so is interrupted by a message on its control channel."""
    host = start(kernels.ipykernel(place.base / "kernels", "messaged", interrupt_mode="message"))
    id = begun(host, "import time\nprint('begun', flush=True); time.sleep(600)")
    host.interrupt()
    assert host.daemon.result(id).status == "interrupted"


def test_interrupt_before_the_kernel_begins_is_kept(python: HostProcess) -> None:
    """A command that is interrupted on its way to the kernel does not run for ever."""
    python.run("import time")
    for _ in range(5):
        id = python.start("time.sleep(600)")
        until(lambda: python.log_frames[-1] == {**python.log_frames[-1], "t": "took", "id": python.last_id}, "took")
        python.interrupt()
        assert python.daemon.result(id).status == "interrupted"
    python.daemon.tell("interrupt", id=python.last_id + 1)
    assert python.run("time.sleep(600)").status == "interrupted"


def test_interrupt_that_comes_as_a_command_ends(python: HostProcess) -> None:
    """An interrupt that strikes ipykernel between the end of the code and the reply costs the reply: the command has
    ended well, says so, and is not waited for."""
    mark = python.work / "mark"
    id = python.start(kernels.LINGER.format(mark=str(mark)) + "print('all of it')\nx = 7\nexit()")
    until(mark.exists, "the code has ended")
    python.interrupt()
    run = python.daemon.result(id)
    assert (run.status, run.output, run.result["should_exit"]) == ("ok", "all of it\n", True)
    assert python.run("x").value == "7"


def test_reply_that_is_lost_again(python: HostProcess) -> None:
    """When the kernel's answer to the question behind a lost reply is lost as well, it is asked once more."""
    python.run("""
import time
session, lost = get_ipython().kernel.session, []
def send(stream, kind, content=None, *rest, send=session.send, **more):
    if kind != "execute_reply" or len(lost) == 2:
        return send(stream, kind, content, *rest, **more)
    lost.append(kind)
    return {"content": content}
""")
    id = begun(
        python,
        "print('begun', flush=True)\ntry: time.sleep(600)\nexcept KeyboardInterrupt: session.send = send",
    )
    python.interrupt()
    assert python.daemon.result(id).status == "ok"
    assert python.run("lost").value == "['execute_reply', 'execute_reply']"


def test_interrupt_that_comes_before_the_code(python: HostProcess) -> None:
    """A command whose code did not run is interrupted, although ipykernel says of it what it says of one that did."""
    mark = python.work / "mark"
    python.run(kernels.LINGER_BEFORE.format(mark=str(mark)))
    id = python.start("x = 7")
    until(mark.exists, "the kernel prepares the code")
    python.interrupt()
    run = python.daemon.result(id)
    assert (run.status, run.result["error"]["name"]) == ("interrupted", "KeyboardInterrupt")
    assert (run.output, python.run("'x' in globals()").value) == ("KeyboardInterrupt\n", "False")


@pytest.mark.parametrize(("owes", "status"), [("idle", "ok"), ("reply", "interrupted")])
def test_kernel_that_owes_the_end_of_a_command(start: Start, place: Place, owes: str, status: str) -> None:
    """A kernel that says one of the two words that end an interrupted command is asked for the other, and what it says
    to the command before it answers is the command's."""
    host = start(kernels.careless(place.base / "kernels", owes))
    for _ in range(2):
        id = begun(host, "anything")
        host.interrupt()
        run = host.daemon.result(id)
        assert (run.status, run.stdout) == (status, "begun late words")


def test_command_that_ignores_an_interrupt(python: HostProcess) -> None:
    """A command that goes on after an interrupt is not taken for one that has ended."""
    os.mkfifo(python.work / "gate")
    code = "try: time.sleep(600)\nexcept KeyboardInterrupt: print('caught', flush=True)\nprint(open('gate').read())"
    id = begun(python, f"import time\nprint('begun', flush=True)\n{code}\n'end'")
    python.interrupt()
    python.daemon.wait_for_output("caught", id)
    (python.work / "gate").write_text("went on")
    run = python.daemon.result(id)
    assert (run.status, run.stdout, run.value) == ("ok", "begun\ncaught\nwent on\n", "'end'")


# ---- questions ----


def test_questions_about_code(python: HostProcess) -> None:
    """Completion, documentation and completeness are the kernel's own; positions count characters."""
    python.run("größe = 1")
    ask = python.daemon.ask
    assert ask("complete", code="🐍 = grö", cursor=7) == {"matches": ["größe"], "start": 4, "end": 7}
    found = ask("inspect", code="len", cursor=3)
    assert found["found"] and "Return the number of items" in found["text"] and "\x1b" not in found["text"]
    assert not ask("inspect", code="nothing_here", cursor=3)["found"]
    statuses = [ask("is_complete", code=code)["status"] for code in ("1", "for x in y:", "1 +* 2")]
    assert statuses == ["complete", "incomplete", "invalid"]


# ---- bash ----


def test_bash_kernel(bash: HostProcess) -> None:
    """A kernel that is no Python: state, exit status, interrupt, completion."""
    assert bash.run("x=41").output == ""
    assert bash.run("echo $((x + 1))").stdout == "42\n"
    failed = bash.run("echo before; (exit 3)")
    assert (failed.status, failed.stdout) == ("error", "before\n")
    assert failed.result["error"]["message"] == "3"
    id = begun(bash, "echo begun; sleep 600")
    bash.interrupt()
    assert bash.daemon.result(id).status == "interrupted"
    assert bash.run("echo $x").stdout == "41\n"
    assert "basename" in bash.daemon.ask("complete", code="basena", cursor=6)["matches"]
    assert bash.daemon.ask("is_complete", code="echo")["status"] == "unknown"


# ---- how kernels are reached ----


def test_kernels_are_reached_by_unix_sockets_alone(python: HostProcess) -> None:
    """No channel is on TCP; the sockets lie in a directory nobody else can enter, and their key is as private."""
    python.run("1")
    directory = python.directory / "host"
    assert directory.stat().st_mode & 0o777 == 0o700
    assert (directory / "kernel.json").stat().st_mode & 0o777 == 0o600
    connection = json.loads((directory / "kernel.json").read_text())
    assert connection["transport"] == "ipc" and connection["key"]
    assert [path.is_socket() for path in directory.glob("s-*")] == [True] * 5
    links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{python.pid}/fd")]
    inodes = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
    for table in ("tcp", "tcp6"):
        rows = Path(f"/proc/{python.pid}/net/{table}").read_text().splitlines()[1:]
        assert not inodes & {row.split()[9] for row in rows}


def test_kernel_and_sockets_go_with_the_session(python: HostProcess) -> None:
    """A session that ends in order lets the kernel's exit functions run, and leaves no process and no socket."""
    kernel = child_of(python)
    python.run(f"import atexit, pathlib\natexit.register(pathlib.Path({str(python.work)!r}, 'bye').touch)")
    python.daemon.tell("exit", reason="test")
    assert python.wait() == 0
    assert is_gone(kernel)
    assert (python.work / "bye").exists()
    assert not (python.directory / "host").exists()


def test_kernel_dies_with_its_host(python: HostProcess) -> None:
    """A host that is killed leaves no kernel, even one that computes."""
    begun(python, "print('begun', flush=True)\nwhile True: pass")
    kernel = child_of(python)
    os.kill(python.pid, signal.SIGKILL)
    python.wait()
    until(lambda: is_gone(kernel), "the kernel to follow its host")


def test_session_ends_although_the_kernel_computes(python: HostProcess) -> None:
    """SIGTERM interrupts the kernel's command and ends both."""
    id = begun(python, "print('begun', flush=True)\nwhile True: pass")
    os.kill(python.pid, signal.SIGTERM)
    assert python.daemon.result(id).status == "interrupted"
    assert python.wait() == 0


def test_kernel_that_ignores_everything_ends_with_its_session(python: HostProcess) -> None:
    """A kernel that swallows interrupts is killed when its session ends."""
    id = begun(
        python,
        "import time\nprint('begun', flush=True)\nwhile True:\n  try: time.sleep(600)\n  except BaseException: pass",
    )
    kernel = child_of(python)
    os.kill(python.pid, signal.SIGTERM)
    assert python.daemon.result(id).status == "interrupted"
    assert python.wait() == 0
    assert is_gone(kernel)


# ---- death ----


def test_kernel_that_dies_in_a_command(python: HostProcess) -> None:
    """The command says how the kernel died and what is lost; the next one runs in a fresh kernel."""
    python.run("x = 1")
    id = begun(python, "print('last words', flush=True)\nimport time; time.sleep(600)", "last words")
    os.kill(child_of(python), signal.SIGKILL)
    run = python.daemon.result(id)
    assert (run.status, run.result["error"]["name"]) == ("error", "KernelDied")
    assert run.result["lost"] == "the kernel was killed by SIGKILL"
    assert run.stdout == "last words\n"
    fresh = python.run("x")
    assert (fresh.status, fresh.result["error"]["name"]) == ("error", "NameError")
    for _ in range(3):
        assert python.run("print('x')\nimport os\nos._exit(3)").result["lost"] == "the kernel ended with exit status 3"
    assert python.run("1").value == "1"


def test_kernel_that_is_out_of_memory(python: HostProcess) -> None:
    """The kernel kills it for memory, and the command says so: that needs a limit that may be set here."""
    directory = Path(next((place for place, source in oom.sources() if source == oom.SOURCES[1]), "/nowhere"))
    group = directory / f"omega-test-{os.getpid()}"
    kernel = child_of(python)
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(96 * oom.MIB))
        for pid in (python.pid, kernel):
            (group / "cgroup.procs").write_text(str(pid))
    except OSError:
        pytest.skip("no memory cgroup (v1) of ours")
    try:
        run = python.run("hungry = bytearray(400 * 2**20)\nfor i in range(0, len(hungry), 4096): hungry[i] = 1")
        assert run.result["error"]["name"] == "KernelDied"
        assert run.result["lost"].startswith("the kernel was killed: out of memory (limit 96 MiB, peak 9")
        assert python.run("'fresh'").value == "'fresh'"
    finally:
        python.close()
        until(lambda: not (group / "cgroup.procs").read_text(), "all of it has ended")
        group.rmdir()


def test_kernel_that_dies_while_it_waits_for_input(python: HostProcess) -> None:
    """A death is noticed although nobody answers the question."""
    id = python.start("input()")
    python.daemon.wait_for("input_request", id=id)
    os.kill(child_of(python), signal.SIGKILL)
    assert python.daemon.result(id).result["error"]["name"] == "KernelDied"


def test_kernel_that_dies_at_rest_ends_the_process(python: HostProcess) -> None:
    """Between commands the death of the kernel is the death of the session's process, which says why."""
    python.run("x = 1")
    os.kill(child_of(python), signal.SIGKILL)
    bye: Frame = python.daemon.wait_for("bye")
    assert bye["reason"] == "the kernel was killed by SIGKILL"
    assert python.wait() == 0


# ---- kernels that do not start ----


def why_not(host: HostProcess) -> str:
    """What the birth log says of a host that did not become one."""
    assert host.wait() == 1
    return host.birth_path.read_text().strip()


def test_program_that_is_missing(start: Start, place: Place) -> None:
    """A specification whose program does not exist says which."""
    host = start(kernels.specify(place.base / "kernels", "lost", "no-such-kernel", "{connection_file}"))
    assert "cannot start no-such-kernel: No such file or directory" in why_not(host)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be used: Expecting property name"),
        ('{"argv": 3}', "cannot be used"),
        ('{"argv": [], "display_name": "x", "language": "x"}', "names no program"),
        ("[]", "cannot be used"),
    ],
)
def test_specification_that_is_broken(start: Start, place: Place, text: str, words: str) -> None:
    """A kernel.json that cannot be used is named, with what is wrong with it."""
    directory = kernels.specify(place.base / "kernels", "broken")
    (directory / "kernel.json").write_text(text)
    said = why_not(start(directory))
    assert words in said and str(directory) in said and "\n" not in said


def test_kernel_that_exits_at_once(start: Start, place: Place) -> None:
    """What it wrote to stderr is the explanation."""
    code = "import sys; sys.exit('no licence for this kernel')"
    said = why_not(start(kernels.script(place.base / "kernels", "brief", code)))
    assert said == "the kernel ended with exit status 1; it said: no licence for this kernel"


def test_kernel_that_never_answers(start: Start, place: Place) -> None:
    """A process that lives and opens no Unix socket is given up and named, and does not stay."""
    code = "import time; time.sleep(600)"
    host = start(kernels.script(place.base / "kernels", "mute", code), start_s=0.5)
    assert "has not answered within 0.5 s; its process lives and has opened no Unix sockets" in why_not(host)


def test_kernel_that_listens_and_is_silent(start: Start, place: Place) -> None:
    """A kernel that opens its sockets and answers nothing is told from one that opens none."""
    code = (
        "import json, socket, sys, time\nwhere = json.load(open(sys.argv[1]))\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(where['ip'] + '-%d' % where['shell_port']); s.listen()\n"
        "time.sleep(600)"
    )
    host = start(kernels.script(place.base / "kernels", "deaf", code), start_s=8)
    assert why_not(host) == "the kernel has not answered within 8 s; its process lives"


def test_kernel_that_forges_messages(start: Start, place: Place) -> None:
    """Messages that are not signed with the session's key are passed over."""
    code = (
        "import json, sys, zmq\nfrom jupyter_client.session import Session\nw = json.load(open(sys.argv[1]))\n"
        "s = zmq.Context().socket(zmq.ROUTER); s.bind('ipc://%s-%d' % (w['ip'], w['shell_port']))\n"
        "good, bad = Session(key=w['key'].encode()), Session(key=b'guessed')\n"
        "while True:\n"
        "  ids, m = good.recv(s, 0)\n"
        "  bad.send(s, 'kernel_info_reply', {'status': 'ok'}, parent=m['header'], ident=ids)"
    )
    host = start(kernels.script(place.base / "kernels", "forger", code), start_s=2)
    assert "has not answered within 2 s" in why_not(host)
