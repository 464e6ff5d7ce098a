"""A real host process from outside: its connections, its log, what it captures, how it is born, forks and ends."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hostdriver import INTERPRETERS, Daemon, Frame, HostProcess, Hosts, Silence, connect, receive, until
from isolation import Place
from omega_sessiond import __version__, wire


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


def numbers(frames: list[Frame]) -> list[int]:
    return [frame["seq"] for frame in frames if "seq" in frame]


def sockets_of(pid: int) -> list[str]:
    links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    return [link for link in links if link.startswith("socket:")]


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


# ---- introductions ----


def test_the_hello_tells_who_and_where(host: HostProcess) -> None:
    """The host's hello names its process, what it took last, what runs and what its log holds."""
    hello = host.connect().hello
    assert hello["t"] == "hello"
    assert (hello["wire"], hello["session"], hello["pid"]) == (wire.WIRE, "abcdefgh1234", host.pid)
    assert (hello["last_taken"], hello["running"], hello["log_from"], hello["log_to"]) == (0, 0, 1, 0)
    assert hello["version"] == __version__
    assert hello["engine_version"].count(".") == 2
    assert set(wire.FEATURES) <= set(hello["features"])
    host.run("1")
    running = host.start("print('go')\nwhile True: pass")
    host.daemon.wait_for_output("go\n", running)
    hello = host.connect().hello
    assert (hello["last_taken"], hello["running"]) == (2, 2)
    assert (hello["log_from"], hello["log_to"]) == (1, 5)


def test_a_hello_for_another_session_is_refused(host: HostProcess) -> None:
    """Who asks for another session is sent away, and harms nobody."""
    first = host.connect()
    with pytest.raises(Silence):
        Daemon(host.socket_path, session="zzzzzzzz9999")
    assert host.run("1 + 1").value == "2"
    assert host.daemon is first


@pytest.mark.parametrize(
    "noise", [b"\xff\xff\xff\xff", b"\x00\x00\x00\x01x", b"\x00\x00\x00\x02{}", b"\x00\x00\x00\x02[]"]
)
def test_noise_instead_of_a_hello_is_sent_away(host: HostProcess, noise: bytes) -> None:
    """Whatever is no hello ends its connection at once."""
    host.connect()
    with connect(host.socket_path) as stranger:
        stranger.sendall(noise)
        with pytest.raises((Silence, ConnectionResetError)):
            receive(stranger)
    assert host.run("1 + 1").value == "2"


def test_a_command_connection_needs_a_control_connection(host: HostProcess) -> None:
    """A command hello without a control hello before it is refused."""
    with connect(host.socket_path) as stranger:
        stranger.sendall(wire.pack({"t": "hello", "role": "command", "wire": 1, "session": "abcdefgh1234"}))
        with pytest.raises((Silence, ConnectionResetError)):
            receive(stranger)


def test_silence_instead_of_a_hello_has_a_deadline(host: HostProcess) -> None:
    """Who says nothing, or half a hello, is sent away after a while; meanwhile others are served."""
    with connect(host.socket_path) as silent, connect(host.socket_path) as slow:
        slow.sendall(wire.pack({"t": "hello", "role": "control"})[:9])
        assert host.run("1 + 1").value == "2"
        for stranger in (silent, slow):
            with pytest.raises(Silence):
                receive(stranger)


def test_a_hello_in_single_bytes_is_understood(host: HostProcess) -> None:
    """However the bytes of a hello are cut, it is one."""
    with connect(host.socket_path) as control:
        for byte in wire.pack({"t": "hello", "role": "control", "wire": 1, "session": "abcdefgh1234", "have": 0}):
            control.sendall(bytes([byte]))
        assert receive(control)["pid"] == host.pid


def test_frames_that_come_with_the_hello_are_heard(host: HostProcess) -> None:
    """A daemon need not wait between its hello and its first command."""
    control, command = connect(host.socket_path), connect(host.socket_path)
    with control, command:
        control.sendall(wire.pack({"t": "hello", "role": "control", "wire": 1, "session": "abcdefgh1234", "have": 0}))
        receive(control)
        hello = {"t": "hello", "role": "command", "wire": 1, "session": "abcdefgh1234"}
        frames = [hello, {"t": "execute", "id": 4, "code": "40 + 2"}, {"t": "execute", "id": 5, "code": "1"}]
        command.sendall(b"".join(map(wire.pack, frames)))
        seen = b""
        while seen.count(b'"t":"result"') < 2:
            seen += command.recv(65536)
    assert b'"text":"42\\n"' in seen


def test_a_daemon_of_another_wire_can_interrupt_and_end(host: HostProcess) -> None:
    """A foreign wire number gets a hello; its exit and the signal are obeyed, its command connection is not."""
    host.start("print('go')\nwhile True: pass")
    host.daemon.wait_for_output("go\n", 1)
    foreign = host.connect(wire_number=99)
    assert (foreign.hello["wire"], foreign.hello["running"]) == (1, 1)
    with connect(host.socket_path) as command:
        command.sendall(wire.pack({"t": "hello", "role": "command", "wire": 99, "session": "abcdefgh1234"}))
        with pytest.raises((Silence, ConnectionResetError)):
            receive(command)
    foreign.tell("exit", reason="too old")
    foreign.tell("future", anything=1)
    host.interrupt()
    assert host.wait() == 0
    assert [frame["t"] for frame in host.log_frames][-2:] == ["result", "bye"]
    assert host.log_frames[-1]["reason"] == "too old"


def test_unknown_frames_and_fields_are_ignored(host: HostProcess) -> None:
    """The wire may grow: what a host does not know it passes over."""
    daemon = host.connect()
    daemon.send("future", id=1)
    daemon.tell("future", seq=1)
    daemon.tell("ack", seq="x")
    daemon.send("execute", id=1, code="5", colour="blue")
    assert daemon.result(1).value == "5"
    daemon.send("execute", id="2", code="5")
    daemon.send("execute", id=3)
    assert daemon.ask("is_complete", code="1")["status"] == "complete"


def test_a_torn_command_connection_is_dropped_and_a_new_daemon_comes(host: HostProcess) -> None:
    """Nonsense on the command connection ends it; the session lives on."""
    daemon = host.connect()
    assert daemon.command is not None
    daemon.command.sendall(b"\xff\xff\xff\xff")
    while daemon.receive():
        pass
    assert daemon.closed
    host.connect()
    assert host.run("1 + 1").value == "2"
    assert "announces 4294967295 bytes" in host.trouble


# ---- numbers, log, replay ----


def test_frames_are_numbered_logged_and_coalesced(host: HostProcess) -> None:
    """`took` stands in the log before the command runs, and travels with the frame that follows."""
    daemon = host.connect()
    host.start(f"print(open({host.log!r}, 'rb').read())")
    until(daemon.receive, "frames")
    assert [frame["t"] for frame in daemon.frames] == ["took", "output", "result"]
    assert '"t":"took","seq":1,"id":1' in daemon.frames[1]["text"]
    assert host.log_frames == daemon.frames


def test_any_daemon_gets_exactly_what_it_has_not(host: HostProcess) -> None:
    """Whatever a new daemon has journalled, it gets all that lies above, once, in order."""
    for n in range(4):
        host.run(f"print('out', {n})\n{n}")
    everything = host.daemon.frames
    last = everything[-1]["seq"]
    for have in range(last + 1):
        daemon = host.connect(have)
        while len(daemon.frames) < last - have:
            assert daemon.receive()
        assert daemon.frames == everything[have:]
    assert host.run("'next'").result["seq"] == last + 3


def test_reconnecting_at_any_moment_loses_and_doubles_nothing(host: HostProcess) -> None:
    """Daemons come and go while a command floods: together they get every frame once, and the whole output."""
    lots = random.Random(7)
    got: list[Frame] = []
    while not got or got[-1]["t"] != "result":
        daemon = host.connect(got[-1]["seq"] if got else 0)
        daemon.send("execute", id=1, code="for n in range(60000): print(n)")  # again and again: it is taken once
        for _ in range(lots.randrange(6)):
            daemon.receive()
            if daemon.frames and daemon.frames[-1]["t"] == "result":
                break
        got += daemon.frames
        daemon.close()
    assert numbers(got) == list(range(1, len(got) + 1))
    text = "".join(frame["text"] for frame in got if frame["t"] == "output")
    assert text == "".join(f"{n}\n" for n in range(60000))
    assert [frame["t"] for frame in got].count("result") == 1


def test_a_second_daemon_replaces_a_connected_one(host: HostProcess) -> None:
    """The new hello ends the old connections; nothing that comes by them later is done."""
    first = host.connect()
    host.run("x = 1")
    second = host.connect(have=2)
    assert first.is_shut_out()
    try:
        first.send("execute", id=99, code="x = 2")
    except OSError:
        pass  # the host was faster
    assert host.run("x").value == "1"
    assert host.daemon is second


def test_a_command_of_a_replaced_daemon_is_never_begun(host: HostProcess) -> None:
    """What the old daemon sent behind a running command is not read once a new one has come."""
    first = host.connect()
    host.start("print('go'); input()")
    first.send("execute", id=2, code="print('by the old one')")
    first.wait_for("input_request")
    second = host.connect()
    second.tell("input", id=1, text="")
    second.result(1)
    second.send("execute", id=2, code="print('by the new one')")
    assert second.result(2).stdout == "by the new one\n"


def test_an_id_not_above_the_last_taken_is_ignored(host: HostProcess) -> None:
    """A command that is sent again is not run again."""
    daemon = host.connect()
    for execution_id in (5, 5, 3, 5, 6):
        daemon.send("execute", id=execution_id, code="runs = globals().get('runs', 0) + 1\nruns")
    assert daemon.result(6).value == "2"
    assert [frame["id"] for frame in daemon.frames if frame["t"] == "took"] == [5, 6]


def test_a_busy_host_is_adopted(host: HostProcess) -> None:
    """A new daemon is greeted, and gets output, while a command computes without a pause."""
    running = host.start("import itertools\nprint('go')\nfor n in itertools.count():\n    if n % 300000 == 0: print(n)")
    host.daemon.wait_for_output("go\n", running)
    daemon = host.connect(have=0)
    assert daemon.hello["running"] == running
    daemon.wait_for_output("600000\n", running)
    host.interrupt()
    assert daemon.result(running).status == "interrupted"


def test_the_log_is_cut_when_all_is_acknowledged(host: HostProcess) -> None:
    """An acknowledged log is empty, and the numbers go on."""
    host.run("print('x' * 1000)")
    assert os.path.getsize(host.log) > 1000
    host.daemon.acknowledge()
    until(lambda: os.path.getsize(host.log) == 0, "an empty log")
    hello = host.connect(have=3).hello
    assert (hello["log_from"], hello["log_to"]) == (4, 3)
    assert host.run("1").result["seq"] == 6
    assert numbers(host.log_frames) == [4, 5, 6]


def test_an_acknowledgement_of_less_cuts_nothing(host: HostProcess) -> None:
    """A log is kept as long as one frame of it is not acknowledged."""
    host.run("1")
    host.daemon.tell("ack", seq=2)
    host.daemon.tell("ack", seq=-5)
    host.connect(have=1)
    assert numbers(host.log_frames) == [1, 2, 3]
    assert [frame["seq"] for frame in (host.daemon.wait_for("output"), host.daemon.wait_for("result"))] == [2, 3]


def test_the_log_stays_short_under_steady_work(host: HostProcess) -> None:
    """Where every acknowledgement comes when the next command runs already, the log's front is cut all the same."""
    daemon = host.connect()
    inodes = set()
    for n in range(1, 61):
        daemon.send("execute", id=n, code="print('x' * 400_000); input()")
        daemon.wait_for("input_request")
        daemon.acknowledge()
        daemon.tell("input", id=n, text="")
        inodes.add(os.stat(host.log).st_ino)
    daemon.result(60)
    assert len(inodes) > 1
    assert os.path.getsize(host.log) < 16 << 20
    assert numbers(daemon.frames) == list(range(1, len(daemon.frames) + 1))
    logged = numbers(host.log_frames)
    assert logged == list(range(logged[0], daemon.frames[-1]["seq"] + 1))
    late = host.connect(have=logged[0] + 5)
    while not late.frames or late.frames[-1]["t"] != "result":
        assert late.receive()
    assert numbers(late.frames) == logged[6:]


def test_without_a_daemon_everything_goes_to_the_log(host: HostProcess) -> None:
    """A command whose daemon has gone runs to its end, and the next daemon learns of it."""
    host.start("import os, time\nprint('go')\nwhile not os.path.exists('on'): time.sleep(0.01)\nprint('end')\n7")
    host.daemon.wait_for_output("go\n")
    host.daemon.close()
    (host.work / "on").touch()
    until(lambda: any(frame["t"] == "result" for frame in host.log_frames), "a result in the log")
    run = host.connect().result(1)
    assert (run.output, run.status) == ("go\nend\n7\n", "ok")


def test_a_log_that_cannot_be_written_is_kept_in_memory(host: HostProcess) -> None:
    """A full disk (here: a limit on file sizes) costs no frame as long as the host lives, and is told as trouble."""
    host.run("import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))")
    for n in range(3):
        assert host.run(f"print('{n}' * 2000)").stdout == f"{n}" * 2000 + "\n"
    everything = host.daemon.frames
    assert "cannot write the log" in host.trouble
    late = host.connect(have=2)
    while len(late.frames) < len(everything) - 2:
        assert late.receive()
    assert late.frames == everything[2:]
    late.acknowledge()
    until(lambda: os.path.getsize(host.log) == 0, "an empty log")
    host.run("resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)")
    assert [frame["t"] for frame in host.log_frames] == ["took", "result"]


# ---- output ----


def test_a_child_that_prints_a_megabyte_does_not_deadlock(host: HostProcess) -> None:
    """Children may print more than a pipe holds, on both streams."""
    run = host.run("""
import subprocess, sys
code = "import os\\nfor _ in range(1000): os.write(1, b'o' * 1023 + b'\\\\n'); os.write(2, b'e' * 1023 + b'\\\\n')"
subprocess.run([sys.executable, "-c", code]).returncode
""")
    assert run.value == "0"
    assert run.stdout == ("o" * 1023 + "\n") * 1000
    assert run.stderr == ("e" * 1023 + "\n") * 1000


def test_bytes_of_children_that_are_no_text_become_escapes(host: HostProcess) -> None:
    """Invalid UTF-8 is shown as \\xNN, and a character that comes in two writes is one character."""
    run = host.run(r"""
import os, time
os.write(1, b"a\xff\xfeb\n")
os.write(1, "ü".encode()[:1]); print(end="", flush=True); os.write(1, "ü".encode()[1:] + b"\n")
os.write(2, b"end\xe2\x82")
""")
    assert run.stdout == "a\\xff\\xfeb\nü\n"
    assert run.stderr == "end\\xe2\\x82"
    assert host.run("os.write(2, b'ok\\n')").stderr == "ok\n"


def test_prints_of_one_command_are_one_frame(host: HostProcess) -> None:
    """Small prints travel together with the result's frame."""
    run = host.run("for n in range(100): print(n)")
    assert len(run.outputs) == 1


def test_output_comes_while_the_command_runs(host: HostProcess) -> None:
    """A print is seen soon though the command goes on without a pause, and so is a flushed one."""
    running = host.start("print('seen')\nwhile True: pass")
    host.daemon.wait_for_output("seen\n", running)
    host.interrupt()
    host.daemon.result(running)


def test_late_output_belongs_to_no_execution(host: HostProcess) -> None:
    """What a background child or thread prints after its command ended is output of execution 0."""
    run = host.run("""
import subprocess, threading
child = subprocess.Popen(["sh", "-c", "read x; echo late"], stdin=subprocess.PIPE)
event = threading.Event()
threading.Thread(target=lambda: (event.wait(), print("from a thread"))).start()
class Trigger:
    def __dir__(self):
        child.stdin.close()
        event.set()
        return ["x"]
t = Trigger()
""")
    assert run.output == ""
    host.daemon.send("complete", req=1, code="t.")
    seen = ""
    while "late\n" not in seen or "from a thread\n" not in seen:
        frame = host.daemon.wait_for("output", id=0)
        assert frame["off"] == 0
        seen += frame["text"]


def test_late_output_is_bounded_and_its_loss_is_told(host: HostProcess) -> None:
    """A background flood that no daemon takes does not fill the disk; what is lost is said when there is room."""
    host.run("""
import subprocess, sys, threading
code = "input()\\nimport os\\nfor _ in range(400): os.write(1, b'f' * 65535 + b'!')"
flood = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
def begin():
    flood.communicate(b"go\\n")
    open("done", "w").close()
""")
    host.run("threading.Thread(target=begin).start()")
    host.daemon.close()
    until((host.work / "done").exists, "the flood to end")
    assert os.path.getsize(host.log) < 18 << 20
    daemon = host.connect(have=host.daemon.frames[-1]["seq"])
    daemon.wait_for("output", id=0)
    until(lambda: daemon.receive(0.2) is False, "all of it")
    daemon.acknowledge()
    until(lambda: os.path.getsize(host.log) == 0, "an empty log")
    host.run("import signal\nsignal.signal(signal.SIGUSR1, lambda *_: print('again'))")
    until(host.is_asleep, "the host to be at rest")
    host.process.send_signal(signal.SIGUSR1)
    daemon.wait_for_output("of output dropped: nobody took them]\n")


def test_the_head_and_the_tail_of_a_large_output_are_kept(hosts: Hosts) -> None:
    """Offsets are those of the whole output, and what lies between head and tail is counted to the byte."""
    host = hosts(head_bytes=1000, tail_bytes=500)
    run = host.run("for n in range(1000): print('%09d' % n)")
    whole = "".join(f"{n:09d}\n" for n in range(1000))
    pieces = [(frame["off"], frame["text"]) for frame in run.outputs]
    assert all(whole[off : off + len(text)] == text for off, text in pieces)
    assert "".join(text for off, text in pieces if off < 1000) == whole[:1000]
    assert "".join(text for off, text in pieces if off >= 1000) == whole[-500:]
    assert run.result["dropped"] == 10_000 - 1500
    exact = host.run("print('x' * 1499)")
    assert (exact.stdout, exact.result.get("dropped")) == ("x" * 1499 + "\n", None)
    one_more = host.run("print('x' * 1500)")
    assert (len(one_more.stdout), one_more.result["dropped"]) == (1500, 1)


def test_bounds_never_cut_a_character(hosts: Hosts) -> None:
    """Head and tail are cut between characters; offsets and the count are in bytes."""
    host = hosts(head_bytes=100, tail_bytes=50)
    run = host.run("print('a' + '\\u20ac' * 200, end='')")  # 1 + 600 bytes
    head, tail = run.outputs
    assert (head["off"], head["text"]) == (0, "a" + "€" * 33)
    assert (tail["off"], tail["text"]) == (601 - 48, "€" * 16)
    assert run.result["dropped"] == 601 - 100 - 48


def test_bounds_hold_for_values_and_reports_too(hosts: Hosts) -> None:
    """A huge value and a huge traceback are output like any other."""
    host = hosts(head_bytes=1000, tail_bytes=100)
    run = host.run("'v' * 5_000_000")
    assert (len(run.output), run.result["dropped"]) == (1100, 5_000_003 - 1100)
    assert run.output.endswith("v'\n")
    run = host.run("raise ValueError('e' * 100_000)")
    assert len(run.output) == 1100
    assert run.outputs[-1]["off"] + 100 - len(run.output) == run.result["dropped"] + 1000 + 100 - len(run.output)
    no_tail = hosts(head_bytes=10, tail_bytes=0).run("print('x' * 99)")
    assert (no_tail.stdout, no_tail.result["dropped"]) == ("x" * 10, 90)


def test_a_flood_waits_for_the_daemon_and_can_be_interrupted(host: HostProcess) -> None:
    """A daemon that does not read stops the flood, not the interrupt; then everything is there, in order."""
    daemon = host.connect()
    running = host.start("n = 0\nwhile True:\n    n += 1\n    print('%099d' % n)")
    until(lambda: os.path.getsize(host.log) > 1 << 20 and host.is_asleep(), "the flood to be stopped")
    size = os.path.getsize(host.log)
    assert size < 4 << 20
    host.interrupt()
    until(lambda: any(frame["t"] == "result" for frame in host.log_frames), "a result in the log")
    run = daemon.result(running)
    assert run.status == "interrupted"
    lines = run.stdout.splitlines()
    assert lines == [f"{n:099d}" for n in range(1, len(lines) + 1)]
    assert host.run("n > 0").value == "True"


def test_a_stopped_flood_meets_a_new_daemon(host: HostProcess) -> None:
    """While a flood waits for a daemon that does not read, another one may come, and reads on."""
    host.connect()
    running = host.start("for n in range(50000): print('%099d' % n)\n'end'")
    until(lambda: os.path.getsize(host.log) > 1 << 20 and host.is_asleep(), "the flood to be stopped")
    run = host.connect(have=0).result(running)
    assert run.value == "'end'"
    assert len(run.stdout) == 50000 * 100


def test_a_flooding_child_waits_for_the_daemon(host: HostProcess) -> None:
    """Children are stopped by a daemon that does not read, as prints are, and end with the interrupt."""
    daemon = host.connect()
    running = host.start("import subprocess\nsubprocess.run(['yes', 'x' * 99])")
    until(lambda: os.path.getsize(host.log) > 1 << 20 and host.is_asleep(), "the flood to be stopped")
    assert os.path.getsize(host.log) < 4 << 20
    host.interrupt()
    run = daemon.result(running)
    assert run.status == "interrupted"
    assert set(run.stdout.splitlines()[:1000]) == {"x" * 99}


# ---- interrupts at the edges ----


def test_an_interrupt_at_rest_does_nothing(host: HostProcess) -> None:
    """^C at rest wakes the host and hits neither this nor the next command."""
    host.run("x = 1")
    for _ in range(20):
        until(host.is_asleep, "the host to be at rest")
        before = host.tasks()[host.pid]
        host.interrupt()
        until(lambda: host.tasks()[host.pid] > before and host.is_asleep(), "the signal to be looked at")  # noqa: B023
    assert host.run("x").value == "1"
    assert host.log_frames[-1]["t"] == "result"


def test_a_named_interrupt_reaches_a_command_not_yet_taken(host: HostProcess) -> None:
    """The daemon names the command behind the signal: if that is still to come, it is interrupted when it does."""
    daemon = host.connect()
    daemon.tell("interrupt", id=2)
    hello = host.connect().hello  # by now the control frame before it has been read
    assert hello["running"] == 0
    assert host.run("'untouched'").value == "'untouched'"
    assert host.run("import time; time.sleep(1000)").status == "interrupted"
    assert host.run("1").value == "1"


def test_a_named_interrupt_strikes_once(host: HostProcess) -> None:
    """The frame behind a signal that has struck already does nothing; without a signal it interrupts by itself."""
    running = host.start(
        "import time\ntry:\n    print('go')\n    time.sleep(1000)\nexcept KeyboardInterrupt:\n    print(input())"
    )
    host.daemon.wait_for_output("go\n", running)
    host.daemon.tell("interrupt", id=running)
    host.daemon.wait_for("input_request")
    host.daemon.tell("interrupt", id=running)
    host.daemon.tell("input", id=running, text="once")
    run = host.daemon.result(running)
    assert (run.status, run.stdout) == ("ok", "go\nonce\n")
    host.daemon.tell("interrupt", id=running)
    assert host.run("1").value == "1"


# ---- ends ----


def test_sigterm_at_rest_leaves_with_a_word(host: HostProcess) -> None:
    """An idle host runs its exit functions, says bye and ends well."""
    host.run("import atexit\natexit.register(print, 'last words')")
    until(host.is_asleep, "the host to be at rest")
    host.process.send_signal(signal.SIGTERM)
    assert host.daemon.wait_for("bye")["reason"] == "SIGTERM"
    assert host.wait() == 0
    assert [frame["t"] for frame in host.log_frames][-2:] == ["output", "bye"]
    assert host.log_frames[-2]["text"] == "last words\n"


def test_sigterm_interrupts_what_runs_and_leaves(host: HostProcess) -> None:
    """A busy host ends its command first."""
    running = host.start("import time\nprint('go')\ntime.sleep(1000)")
    host.daemon.wait_for_output("go\n", running)
    host.process.send_signal(signal.SIGTERM)
    assert host.daemon.result(running).status == "interrupted"
    assert host.daemon.wait_for("bye")["reason"] == "SIGTERM"
    assert host.wait() == 0


def test_asked_to_exit_it_leaves_at_rest(host: HostProcess) -> None:
    """An exit frame ends an idle host at once, a busy one when its command has ended."""
    host.start("input()")
    host.daemon.wait_for("input_request")
    host.daemon.tell("exit", reason="deleted")
    host.daemon.tell("input", id=1, text="x")
    assert host.daemon.result(1).value == "'x'"
    assert host.daemon.wait_for("bye")["reason"] == "deleted"
    assert host.wait() == 0


def test_a_host_without_a_daemon_leaves_too(host: HostProcess) -> None:
    """SIGTERM reaches a host that nobody is connected to."""
    host.run("1")
    host.daemon.close()
    host.process.send_signal(signal.SIGTERM)
    assert host.wait() == 0
    assert host.log_frames[-1]["t"] == "bye"


@pytest.mark.parametrize(
    ("death", "status"),
    [("os._exit(3)", 3), ("os.kill(os.getpid(), 9)", -9), ("os.abort()", -6), ("os.kill(os.getpid(), 11)", -11)],
)
def test_a_death_leaves_a_log_that_tells_what_ran(host: HostProcess, death: str, status: int) -> None:
    """Whatever kills the host, its log says what it took and what was printed before."""
    host.run("import os")
    host.start(f"print('before', flush=True)\n{death}")
    assert host.wait() == status
    frames = host.log_frames
    assert numbers(frames) == list(range(1, len(frames) + 1))
    assert [frame["t"] for frame in frames[-2:]] == ["took", "output"]
    assert frames[-1]["text"] == "before\n"


def test_killed_in_a_flood_it_leaves_whole_frames_before_a_torn_one(hosts: Hosts) -> None:
    """A kill in the middle of a frame leaves a log whose whole frames can be read."""
    for _ in range(5):
        host = hosts()
        host.start("while True: print('x' * 60000)")
        host.daemon.wait_for_output("x" * 60000)
        host.process.kill()
        host.wait()
        frames = host.log_frames
        assert numbers(frames) == list(range(1, len(frames) + 1))
        assert len(frames) > 1


def test_descriptors_the_host_needs_are_told_when_closed(host: HostProcess) -> None:
    """Code that closes every descriptor ends the host with a reason, not in a busy loop."""
    host.start("import os\nos.closerange(3, 20)\nos.write(1, b'x')\nwhile True: pass")
    assert host.wait() == 70


# ---- forks ----


def test_a_child_that_outlives_its_host_holds_none_of_its_sockets(host: HostProcess) -> None:
    """A multiprocessing child that is left behind has no socket of the host's: nobody can take it for the host."""
    run = host.run("""
import multiprocessing, subprocess, time
child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,), daemon=True)
child.start()
plain = subprocess.Popen(["sleep", "1000"], close_fds=False)
child.pid, plain.pid
""")
    pids = [int(word) for word in str(run.value).strip("()").split(",")]
    assert sockets_of(host.pid)
    until(lambda: [sockets_of(pid) for pid in pids] == [[], []], "the children to close what is the host's")
    host.process.kill()
    host.wait()
    with pytest.raises(ConnectionRefusedError):
        connect(host.socket_path)
    assert not any(map(is_gone, pids))
    os.killpg(host.pid, signal.SIGKILL)
    until(lambda: all(map(is_gone, pids)), "the children to end")


def test_children_inherit_no_descriptor_of_the_hosts(host: HostProcess) -> None:
    """A child that keeps all descriptors gets the three standard ones."""
    run = host.run("import subprocess\nsubprocess.run(['ls', '/proc/self/fd'], close_fds=False)")
    assert run.stdout.split() == ["0", "1", "2", "3"]  # 3 is the directory that ls reads
    forked = host.run("import os\nif os.fork() == 0: print(*os.listdir('/proc/self/fd')); os._exit(0)\nos.wait()[1]")
    assert [fd for fd in forked.stdout.split() if int(fd) > 3] == []


def test_a_child_that_exits_in_code_flushes_as_python_does(host: HostProcess) -> None:
    """Lines a forked child prints come whole, and its SIGTERM and SIGINT are its own."""
    run = host.run("""
import multiprocessing, os, signal, sys
context = multiprocessing.get_context("fork")
def hang():
    print("child up")
    signal.pause()
child = context.Process(target=hang)
child.start()
""")
    seen = run.stdout
    if "child up" not in seen:
        host.daemon.wait_for_output("child up\n", 0)
    assert host.run("child.terminate(); child.join(); child.exitcode").value == "-15"
    assert host.run("signal.getsignal(signal.SIGTERM) == signal.SIG_DFL").value == "True"


def test_a_newborn_child_can_be_ended(host: HostProcess) -> None:
    """A SIGTERM that comes while a child is still being born ends it, as in any Python."""
    run = host.run("""
import os, signal, time
ends = []
for _ in range(100):
    pid = os.fork()
    if not pid:
        while True: time.sleep(1000)
    os.kill(pid, signal.SIGTERM)
    ends.append(os.waitpid(pid, 0)[1])
set(ends)
""")
    assert run.value == "{15}"


def test_forks_in_threads_and_storms_of_forks_keep_the_host_whole(host: HostProcess) -> None:
    """Forks from several threads while others print lose no frame and leave no child."""
    run = host.run("""
import os, threading
def storm(n):
    for i in range(15):
        pid = os.fork()
        if not pid:
            os.write(1, b"child\\n")
            os._exit(0)
        os.waitpid(pid, 0)
        print("parent")
threads = [threading.Thread(target=storm, args=(n,)) for n in range(4)]
import warnings; warnings.simplefilter("ignore")
for t in threads: t.start()
for t in threads: t.join()
""")
    assert (run.stdout.count("child"), run.stdout.count("parent")) == (60, 60)
    until(lambda: len(host.tasks()) == 2, "the threads to end")
    assert numbers(host.daemon.frames) == list(range(1, len(host.daemon.frames) + 1))


def test_a_daemon_comes_between_forks(host: HostProcess) -> None:
    """Adoption works while user code forks without a pause."""
    running = host.start("import os\nwhile True:\n    if os.fork() == 0: os._exit(0)\n    os.wait()\n    print('.')")
    host.daemon.wait_for_output(".", running)
    for _ in range(10):
        daemon = host.connect(have=0)
        assert (daemon.hello["pid"], daemon.hello["running"]) == (host.pid, running)
        daemon.wait_for_output(".", running)
    host.interrupt()
    assert host.daemon.result(running).status == "interrupted"


@pytest.mark.skipif(os.getuid() != 0, reason="needs a user that runs nothing else, which only root can become")
def test_a_host_without_room_for_its_helper_gets_it_back(host: HostProcess) -> None:
    """Where a limit on tasks leaves no thread for the helper after a fork, commands still run, and it comes back."""
    host.run("""
import os, resource, threading, time
threading.stack_size(64 * 1024)
os.setresuid(54321, 54321, 54321)
resource.setrlimit(resource.RLIMIT_NPROC, (2, 2))
child = os.fork()
if not child: time.sleep(1000)
""")
    assert "no thread left" in host.trouble
    assert len(host.tasks()) == 1
    assert host.run("os.write(1, b'hi\\n')").output == "hi\n3\n"
    assert host.run("os.kill(child, 9)\nos.waitpid(child, 0)[1]").value == "9"
    until(lambda: len(host.tasks()) == 2, "the helper to be back")
    assert host.connect().hello["pid"] == host.pid
    assert host.run("threading.stack_size()").value == "65536"


# ---- the place ----


def test_an_idle_host_never_wakes(hosts: Hosts) -> None:
    """While another host works and is asked, no thread of an idle one runs for a moment."""
    idle, working = hosts(), hosts()
    idle.run("print('warm')")
    idle.daemon.acknowledge()
    until(lambda: os.path.getsize(idle.log) == 0 and idle.is_asleep(), "the host to be at rest")

    def has_settled() -> bool:
        """Whether nothing of the last command, such as the helper's timer for prints, is still to come."""
        earlier = idle.tasks()
        working.run("import time; time.sleep(0.05)")
        return idle.tasks() == earlier

    until(has_settled, "the last command's timers to be over")
    before = idle.tasks()
    assert len(before) == 2
    for _ in range(50):
        working.run("import time; time.sleep(0.01)")
    assert idle.tasks() == before


def test_the_soft_limit_on_descriptors_is_the_users(hosts: Hosts) -> None:
    """The limit the daemon names is the session's, as far as the hard one lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    host = hosts(nofile=[256, hard])
    assert host.run("import resource\nresource.getrlimit(resource.RLIMIT_NOFILE)[0]").value == "256"


def test_running_out_of_descriptors_is_survived(hosts: Hosts) -> None:
    """A session that has used up its descriptors answers new daemons when it has some again."""
    host = hosts(nofile=[64, 64])
    host.run("import os\nheld = []\ntry:\n    while True: held.append(os.open('/dev/null', 0))\nexcept OSError: pass")
    waiting = connect(host.socket_path)
    with waiting:
        hello = {"t": "hello", "role": "control", "wire": 1, "session": "abcdefgh1234", "have": 0}
        waiting.sendall(wire.pack(hello))
        assert host.run("len(held) > 10").value == "True"
        host.start("for fd in held: os.close(fd)")  # whose end goes to whoever the host speaks with by then
        assert receive(waiting)["pid"] == host.pid


def test_a_default_timeout_for_sockets_leaves_the_host_alone(host: HostProcess) -> None:
    """socket.setdefaulttimeout in the session does not reach the host's own connections."""
    host.run("import socket\nsocket.setdefaulttimeout(0.001)")
    host.connect()
    running = host.start("import time\nprint('go')\ntime.sleep(0.05)\n1")
    assert host.daemon.result(running).value == "1"
    until(host.is_asleep, "the host to be at rest")
    assert host.run("2").value == "2"


def test_sigpipe_by_default_does_not_kill_the_host(host: HostProcess) -> None:
    """Code that restores SIGPIPE's default does not make a vanished daemon deadly."""
    running = host.start("""
import os, signal, time
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
print("go", flush=True)
while not os.path.exists("on"): time.sleep(0.005)
print("x" * 100000)
"alive"
""")
    host.daemon.wait_for_output("go\n", running)
    host.daemon.close()
    (host.work / "on").touch()
    until(lambda: any(frame["t"] == "result" for frame in host.log_frames), "a result in the log")
    assert host.connect().result(running).value == "'alive'"


def test_trouble_is_one_line_without_control_characters(host: HostProcess) -> None:
    """What the host reports of itself cannot forge lines in a log."""
    with connect(host.socket_path) as control:
        control.sendall(wire.pack({"t": "hello", "role": "control", "wire": 1, "session": "abcdefgh1234", "have": 0}))
        receive(control)
        control.sendall((1 << 31).to_bytes(4, "big"))
        with pytest.raises((Silence, ConnectionResetError)):
            receive(control)
    assert host.trouble.count("\n") == 1
    assert host.trouble.startswith("omega-session abcdefgh1234: ")
    assert host.trouble.strip().isprintable()


def test_a_host_that_cannot_start_says_why(hosts: Hosts) -> None:
    """A launch the host cannot use ends it with a word in its birth log."""
    host = hosts(kind="nonsense")
    assert host.wait() == 2
    assert "nonsense" in host.birth_path.read_text()


@pytest.mark.parametrize("version", [version for version in INTERPRETERS if version != "default"])
def test_every_interpreter_carries_a_session_through_its_life(hosts: Hosts, version: str) -> None:
    """Adoption, flood, fork and end work in each Python of this machine."""
    host = hosts(python=INTERPRETERS[version])
    assert host.connect().hello["engine_version"].startswith(version + ".")
    running = host.start("while True: print('x' * 100)")
    host.daemon.wait_for_output("x", running)
    daemon = host.connect(have=0)
    daemon.wait_for_output("x", running)
    host.interrupt()
    run = daemon.result(running)
    assert run.status == "interrupted"
    assert numbers(daemon.frames) == list(range(1, len(daemon.frames) + 1))
    daemon.acknowledge()
    until(lambda: os.path.getsize(host.log) == 0, "an empty log")
    assert host.run("import os\nif not os.fork(): os._exit(0)\nos.wait()[1]").value == "0"
    host.process.send_signal(signal.SIGTERM)
    assert host.wait() == 0
    assert host.trouble == ""


def test_a_peer_that_shuts_its_side_is_gone(host: HostProcess) -> None:
    """A daemon that ends one direction is taken for gone; the next one is served."""
    daemon = host.connect()
    assert daemon.command is not None
    daemon.command.shutdown(socket.SHUT_WR)
    while daemon.receive():
        pass
    assert daemon.closed
    host.connect()
    assert host.run("1").value == "1"
