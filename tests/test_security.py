"""Attacks on a daemon and its sessions: what others on this machine can reach, read, fake or bring to a halt.

Also what a session's process is handed, for its code is not held back by us: it may do what its user may do.
"""

from __future__ import annotations

import ast
import json
import os
import re
import socket
import stat
import struct
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from ctl import COMMAND, Omegactl, whatever_it_starts
from daemon import CHECKOUT, Daemon, connected, wait_until
from isolation import Place
from life import Life
from omega_sessiond import wire

NOBODY = 65534

needs_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


# ---- requests made to be read in two ways ----

POST = b"POST /api/sessions/never/execute HTTP/1.1\r\n"
GET = b"GET /api/health HTTP/1.1\r\n"
HIDDEN = b"GET /api/server HTTP/1.1\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "ambiguous",
    [
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        POST + b"Content-Length: +5\r\n\r\nabcde",
        POST + b"Content-Length: 0x5\r\n\r\nabcde",
        POST + b"Content-Length: 1_0\r\n\r\nabcdeabcde",
        POST + b"Content-Length: \r\n\r\n",
        POST + b"Content-Length: \xb2\r\n\r\nab",
        POST + b"Transfer-Encoding: chunked\r\n\r\n+5\r\nabcde\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nabcde\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\nOrigin: x\r\n\r\n",
        POST + b"Origin: x\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN),
        POST + b"Content-Length: 99999999\r\n\r\n",
        GET + b"X: a\r\n b\r\n\r\n",
        GET + b"X: a\rOrigin: b\r\n\r\n",
        b"GET /api/health\r\n\r\n",
        b"\r\n\r\n",
    ],
)
def test_nothing_hides_behind_an_ambiguous_request(life: Life, ambiguous: bytes) -> None:
    """A request that two readers could cut differently is refused alone, and what follows it is never answered."""
    received = life.daemon.send(ambiguous + HIDDEN)
    assert received.count(b"HTTP/1.1 ") == 1
    assert re.match(rb"HTTP/1.1 4\d\d ", received)
    assert b'"state_dir"' not in received


@pytest.mark.parametrize("number", [2**63, 10**30, -(10**30)])
def test_numbers_that_no_journal_holds(life: Life, number: int) -> None:
    """A whole number beyond what can be stored is refused as a field, wherever a body takes one."""
    assert life.execute("work", "1").status == 200
    for route, body in (
        ("interrupt", {"execution_id": number}),
        ("input", {"execution_id": number, "text": "x"}),
        ("execute", {"command": "1", "create": {"limits": {"tasks": number}}}),
    ):
        answer = life.call("POST", f"/api/sessions/work/{route}", body)
        assert (answer.status, answer.code) == (400, "invalid_field"), route
    for limit in ("memory_bytes", "tasks"):
        answer = life.call("PATCH", "/api/sessions/work", {"limits": {limit: number}})
        assert (answer.status, answer.code) == (400, "invalid_field"), limit


@pytest.mark.parametrize(
    "options",
    [
        {"cwd": "/tmp/\0"},
        {"cwd": "/" + "a" * 5000},
        {"python": "/usr/bin/python3\0"},
        {"python": "/etc/passwd"},
        {"engine": "python\0"},
        {"engine": "zzz"},
        {"engine": "jupyter:../../zzz"},
        {"engine": "jupyter:x@\0"},
        {"env": {"A\0": "b"}},
        {"env": {"A": "b\0"}},
        {"env": {"A=B": "c"}},
    ],
)
def test_options_that_no_process_can_have(life: Life, options: dict[str, object]) -> None:
    """What no system call could be given is a 400, and makes no session."""
    assert life.call("POST", "/api/sessions", {"name": "never", **options}).status == 400
    assert life.get("/api/sessions") == []


def test_environment_that_is_no_text(place: Place) -> None:
    """A variable of the daemon's own that is not UTF-8 keeps nobody from making a session; it is left out of it."""
    with Daemon(place, env={"LATIN": "\udce9t\udce9", "PLAIN": "yes"}) as daemon:
        result = daemon.execute("work", "import os; os.environ.get('LATIN'), os.environ.get('PLAIN')")["result"]
        assert result == "(None, 'yes')"
        daemon.request("DELETE", "/api/sessions/work")


def test_state_directory_that_is_no_text(place: Place) -> None:
    """A daemon that could name its state directory in no reply does not begin to serve from it."""
    env = {**place.env, "SESSION_DIR": f"{place.base}/\udcff"}
    refused = subprocess.run(
        [sys.executable, "-m", "omega_sessiond"],
        env=env,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert refused.returncode != 0
    assert "not UTF-8" in refused.stderr


def test_keys_and_labels_cannot_add_headers(life: Life) -> None:
    """Line ends in what a client names come back in no header."""
    key = "a\r\nX-Injected: 1\r\n\r\n"
    life.post("/api/sessions", {"name": "work", "labels": {key: key}})
    body = json.dumps({"command": "1", "idempotency_key": key})
    head = f"POST /api/sessions/work/execute HTTP/1.1\r\nAccept: text/plain\r\nContent-Length: {len(body)}\r\n"
    received = life.daemon.send(f"{head}Connection: close\r\n\r\n{body}".encode())
    assert received.endswith(b"\r\n\r\n1\n")
    assert b"X-Injected" not in received


@pytest.mark.parametrize("segment", ["%FF", "%ED%A0%80", "%00", "a%2F..%2Fb"])
def test_snapshot_names_that_are_no_text(life: Life, segment: str) -> None:
    """A name in a path that is no text names no snapshot, and is answered like any other."""
    assert life.execute("work", "1").status == 200
    answer = life.call("DELETE", f"/api/sessions/work/snapshots/{segment}")
    assert (answer.status, answer.code) == (404, "snapshot_not_found")


# ---- other users ----


def test_strangers_on_tcp_leave_the_unix_socket_its_room(place: Place) -> None:
    """Whoever occupies every connection that TCP has, without a token, keeps nobody from the Unix socket."""
    port = free_port()
    settings = {"max_connections": 8, "port": port, "fork_server": False}
    with Daemon(place, settings=settings, arguments=("--tcp",)) as daemon:
        strangers = [socket.create_connection(("127.0.0.1", port)) for _ in range(12)]
        for stranger in strangers[:8]:  # their requests never end
            stranger.sendall(b"GET /api/health HTTP/1.1\r\n")
        descriptors = Path(f"/proc/{daemon.pid}/fd")
        sockets = len(list(descriptors.iterdir()))
        assert daemon.get("/api/health").status == 200
        token = (place.state_dir / "token").read_text().strip()
        head = f"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
        strangers[11].sendall(f"{head}Connection: close\r\n\r\n".encode())
        for stranger in strangers[:11]:
            stranger.close()
        assert strangers[11].makefile("rb").read().startswith(b"HTTP/1.1 200")
        strangers[11].close()
        wait_until(lambda: len(list(descriptors.iterdir())) <= sockets, "the strangers are let go of")


LISTENS_AS_NOBODY = """
import os, socket, sys
listener = socket.socket(fileno=int(sys.argv[1]))
os.setgid(65534)
os.setuid(65534)
listener.listen()  # whose the listener is, is taken down here
print("listening", flush=True)
while True:
    connection, _ = listener.accept()
    sys.stdout.write(repr(connection.recv(65536)) + "\\n")
    sys.stdout.flush()
"""


@needs_root
@pytest.mark.parametrize("arguments", [("exec", "work", "-c", "secret = 1"), ("ls",)])
def test_client_says_nothing_to_another_users_daemon(place: Place, arguments: tuple[str, ...]) -> None:
    """Whoever else listens where the daemon should be is sent not one byte of a command."""
    file = place.runtime_dir / "omega-sessiond" / "api.sock"
    file.parent.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(file))
        command = ["/usr/bin/python3", "-c", LISTENS_AS_NOBODY, str(listener.fileno())]
        stranger = subprocess.Popen(
            command, pass_fds=(listener.fileno(),), stdout=subprocess.PIPE, text=True, env=place.env
        )
    assert stranger.stdout is not None
    with stranger:
        assert stranger.stdout.readline() == "listening\n"
        done = Omegactl(place)(*arguments)
        assert done.code == 3
        assert f"belongs to another user (uid {NOBODY})" in done.err
        assert stranger.stdout.readline() == "b''\n"
        stranger.kill()


SAYS_HELLO = """
import os, socket, sys
os.setgid(65534)
os.setuid(65534)
connection = socket.socket(socket.AF_UNIX)
connection.connect(sys.argv[1])
try:
    connection.sendall(bytes.fromhex(sys.argv[2]))
    sys.stdout.write(repr(connection.recv(65536)))
except ConnectionError:
    sys.stdout.write("b''")
"""


@needs_root
def test_another_user_is_no_daemon_to_a_host(life: Life, place: Place) -> None:
    """A host hangs up on another uid, even where the permissions of its socket would let it in."""
    assert life.value("work", "x = 41; x") == 41
    session = life.session("work")
    file = place.runtime_dir / "omega-sessiond" / "hosts" / f"{session['id']}.sock"
    for directory in (place.base, place.runtime_dir, *file.parents[:2]):
        directory.chmod(0o711)
    file.chmod(0o666)
    hello = wire.pack({"t": "hello", "role": "control", "wire": 1, "session": session["id"], "have": 0})
    command = ["/usr/bin/python3", "-c", SAYS_HELLO, str(file), hello.hex()]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd="/", check=True)
    assert answer.stdout == "b''"
    assert life.value("work", "x + 1") == 42
    for directory in file.parents[:2]:
        directory.chmod(0o700)


def test_code_that_plays_the_daemon_gains_nothing_for_long(life: Life, place: Place) -> None:
    """Code of the same user may take a host's connection, as it may do anything to its own processes; the daemon takes
    it back, and the session has lost nothing."""
    assert life.value("work", "x = 41; x") == 41
    session = life.session("work")
    file = str(place.runtime_dir / "omega-sessiond" / "hosts" / f"{session['id']}.sock")
    with connected(file) as impostor:
        impostor.sendall(
            wire.pack({"t": "hello", "role": "control", "wire": 1, "session": session["id"], "have": 0})
            + struct.pack(">I", 0xFFFFFFFF)
        )
        while impostor.recv(65536):
            pass
    assert life.value("work", "x + 1") == 42
    assert life.session("work")["pid"] == session["pid"]


# ---- files ----


def test_modes_under_a_careless_umask(place: Place) -> None:
    """With umask 000 whatever a client and its daemon make is still for the user alone, the directories above the state
    included; a session has the umask its user has."""
    before = os.umask(0)
    try:
        with whatever_it_starts(place):
            ctl = Omegactl(place)
            for name in place.variables:
                if name.startswith("XDG_"):
                    del ctl.env[name]
            ctl.env["HOME"] = str(place.home)
            done = ctl(
                "exec", "work", "-c", "import os; old = os.umask(0); print('%03o' % old); input('? ')", "--detach"
            )
            assert done.code == 0, done.err
            execution = done.out.strip()
            state = place.home / ".local" / "state" / "omega-sessiond"
            frames = wait_until(lambda: [*state.glob("sessions/*/frames.log")], "the session runs")
            assert ctl("--timeout", "60", "interrupt", "work").code == 0
            assert ctl("output", execution).out.startswith("000\n")
            made = [state.parent.parent, *state.parent.parent.rglob("*")]
            names = {path.name for path in made}
            assert {"api.sock", "daemon.lock", "daemon.log", "journal.db", "launch.json"} <= names
            assert frames
            for path in made:
                assert stat.S_IMODE(path.lstat().st_mode) & 0o077 == 0, path
    finally:
        os.umask(before)


def _start_by_client(place: Place) -> tuple[int, str]:
    done = Omegactl(place)("ls")
    return done.code, done.err


def _start_by_hand(place: Place) -> tuple[int, str]:
    daemon = Daemon(place, arguments=("--tcp",), env={"SESSION_SERVER_PORT": str(free_port())})
    daemon.spawn()
    return daemon.wait(), daemon.log


@pytest.mark.parametrize(
    ("name", "start"),
    [
        ("s/omega-sessiond/daemon.lock", _start_by_hand),
        ("s/omega-sessiond/daemon.lock", _start_by_client),
        ("s/omega-sessiond/daemon.log", _start_by_client),
        ("s/omega-sessiond/journal.db", _start_by_hand),
        ("s/omega-sessiond/token", _start_by_hand),
        ("s/omega-sessiond/sessions", _start_by_hand),
        ("r/omega-sessiond", _start_by_client),
        ("r/omega-sessiond/hosts", _start_by_hand),
        ("r/omega-sessiond/api.sock", _start_by_hand),
    ],
)
def test_links_are_not_followed(place: Place, name: str, start: Callable[[Place], tuple[int, str]]) -> None:
    """A symbolic link in the place of any file or directory of ours ends the start, and its target stays as it is."""
    is_directory = name.endswith(("sessions", "hosts", "r/omega-sessiond"))
    target = place.base / "target"
    if is_directory:
        target.mkdir(mode=0o700)
    else:
        target.write_text("precious")
        target.chmod(0o600)
    link = place.base / name
    if link.parent.name == "omega-sessiond":
        link.parent.mkdir(mode=0o700)
    link.symlink_to(target)
    with whatever_it_starts(place):
        code, words = start(place)
    assert code in (3, 125), words
    assert str(link) in words
    assert list(target.iterdir()) == [] if is_directory else target.read_text() == "precious"


@pytest.mark.parametrize("name", ["frames.log", "birth.log"])
def test_links_in_a_sessions_directory_are_not_followed(life: Life, place: Place, name: str) -> None:
    """A session's log that was replaced by a link keeps it from starting again, another file's link is removed; nothing
    is written where it leads."""
    life.run("work", "1")
    life.post("/api/sessions/work/kill")
    target = place.base / "target"
    target.write_text("precious")
    file = place.state_dir / "sessions" / life.session("work")["id"] / name
    file.unlink(missing_ok=True)
    file.symlink_to(target)
    answer = life.execute("work", "1")
    if name == "frames.log":
        assert (answer.status, answer.code) == (502, "host_failed")
    else:
        assert answer.status == 200
        assert not file.is_symlink()
    assert target.read_text() == "precious"


@pytest.mark.parametrize("name", ["launch.json", "frames.log", "birth.log", "checkpoints/{id}/state"])
def test_pipes_in_a_sessions_directory_hold_nobody(life: Life, place: Place, name: str) -> None:
    """A pipe that a session's code has put where a file of its own was keeps neither the daemon nor others waiting."""
    life.run("work", "x = 1")
    saved = life.post("/api/sessions/work/save")
    file = place.state_dir / "sessions" / saved["id"] / name.format(id=saved["checkpoint"]["id"])
    life.run("work", f"import os\nif os.path.exists({str(file)!r}): os.unlink({str(file)!r})\nos.mkfifo({str(file)!r})")
    for ask in ("kill", "fork", "restart"):
        body = {"name": "copy", "from_checkpoint": True} if ask == "fork" else {"budget_s": 2}
        assert life.call("POST", f"/api/sessions/work/{ask}", body).status in (200, 201, 409, 502)
    assert life.execute("work", "1").status in (200, 502)
    assert life.run("other", "1")["result"] == "1"
    life.call("GET", "/api/sessions/work/timeline")
    life.restart()
    assert life.run("other", "2")["result"] == "2"


def test_checkpoints_elsewhere_cost_nothing_there(life: Life, place: Place) -> None:
    """Where the directory of a session's checkpoints has become a link, nothing is removed from where it leads."""
    life.run("work", "x = 1")
    directory = place.state_dir / "sessions" / life.post("/api/sessions/work/save")["id"] / "checkpoints"
    precious = place.base / "elsewhere" / "thing"
    precious.mkdir(parents=True)
    (precious / "file").write_text("precious")
    directory.rename(place.base / "moved")
    directory.symlink_to(precious.parent)
    life.run("work", "x = 2")
    life.call("POST", "/api/sessions/work/save")
    life.call("POST", "/api/sessions/work/snapshots", {"name": "state"})
    life.call("DELETE", "/api/sessions/work/snapshots/state")
    assert life.call("DELETE", "/api/sessions/work", {"budget_s": 2}).status == 204
    assert (precious / "file").read_text() == "precious"


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda file: file.chmod(0o666), "Everybody can write to"),
        pytest.param(lambda file: os.chown(file, NOBODY, NOBODY), "belongs to another user", marks=needs_root),
    ],
)
def test_settings_of_others_are_refused(place: Place, spoil: Callable[[Path], None], words: str) -> None:
    """A settings file that somebody else can change ends the start: it names the programs that sessions run."""
    daemon = Daemon(place, settings={"python": "/nonexistent/python"})
    spoil(place.config_home / "omega-sessiond" / "config.toml")
    daemon.spawn()
    assert daemon.wait() == 2
    assert words in daemon.log


# ---- secrets ----

ENV_SECRET, CODE_SECRET, ANSWER_SECRET, LINE_SECRET = "env-hunter2", "code-hunter2", "answer-hunter2", "line-hunter2"


def _arguments(place: Place) -> bytes:
    """The command lines of every process of the place."""
    return b"\n".join(Path(f"/proc/{pid}/cmdline").read_bytes() for pid in place.processes())


def _holders(directory: Path, secret: str) -> set[str]:
    return {file.name for file in directory.rglob("*") if file.is_file() and secret.encode() in file.read_bytes()}


def test_secrets_stay_where_they_belong(place: Place) -> None:
    """Through a session's whole life: values of its environment are in its launch file alone, and no route or event
    shows them; answers to getpass() are nowhere; code is in the journal and in no log, not even at level debug; and
    none of it, nor the token, stands in the arguments of any process."""
    port = free_port()
    with Daemon(place, arguments=("--tcp",), env={"SESSION_SERVER_PORT": str(port)}) as daemon:
        life = Life(place)
        env = {"PATH": os.environ["PATH"], "HOME": str(place.home), "SECRET": ENV_SECRET}
        life.post("/api/sessions", {"name": "work", "env": env, "cwd": str(place.home)})
        code = f"import getpass; {CODE_SECRET!r}; p = getpass.getpass('Password: '); len(p), input('Line? ')"
        id = life.begin("work", code)
        wait_until(lambda: life.execution("work", id)["status"] == "waiting_input", "it asks")
        seen = _arguments(place)
        life.post("/api/sessions/work/input", {"execution_id": id, "text": ANSWER_SECRET})
        wait_until(lambda: "Line? " in life.execution("work", id)["output"], "it asks again")
        wait_until(lambda: life.execution("work", id)["status"] == "waiting_input", "it asks again")
        seen += _arguments(place)
        shown = json.dumps(
            [
                life.get("/api/sessions"),
                life.session("work"),
                life.get("/api/server"),
                life.get("/api/engines"),
                life.execution("work", id),
                list(life.stream("GET", "/api/events?since=0&follow=0")),
            ]
        )
        life.post("/api/sessions/work/input", {"execution_id": id, "text": LINE_SECRET})
        assert life.finished("work", id)["result"] == repr((len(ANSWER_SECRET), LINE_SECRET))
        life.execute("work", f"raise ValueError({CODE_SECRET!r})")
        life.execute("work", "import os; os.kill(os.getpid(), 9)")
        life.execute("work", CODE_SECRET + "(")
        shown += json.dumps([life.history("work"), list(life.stream("GET", "/api/events?since=0&follow=0"))])
        token = (place.state_dir / "token").read_text().strip()
        state = place.state_dir
        assert CODE_SECRET in shown
        for secret, places in ((ENV_SECRET, {"launch.json"}), (ANSWER_SECRET, set()), (token, {"token"})):
            assert secret not in shown
            assert _holders(state, secret) == places
        assert _holders(state, CODE_SECRET) <= {"journal.db", "journal.db-wal", "frames.log"}
        for secret in (ENV_SECRET, CODE_SECRET, ANSWER_SECRET, LINE_SECRET, token):
            assert secret.encode() not in seen
            assert secret not in daemon.log
        assert life.call("DELETE", "/api/sessions/work", {"budget_s": 1}).status == 204
        assert _holders(state, ENV_SECRET) == set()


def test_a_sessions_process_holds_what_is_its_own(life: Life, place: Place) -> None:
    """A host has its log, its listener, its two connections and its pipes; a child has the three standard streams and
    whatever it opened, however it was started."""
    listing = "sorted(f for f in os.listdir('/proc/self/fd') if os.path.exists('/proc/self/fd/' + f))"
    life.run("work", "import os, subprocess, sys")
    pid = life.session("work")["pid"]
    held = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    for link in held:
        assert re.fullmatch(
            r"(socket|pipe):\[\d+\]|/dev/null|.*/frames\.log|.*/daemon\.log|anon_inode:\[eventfd\]", link
        )
    assert sum(link.startswith("socket:") for link in held) == 3
    child = f"import os; print({listing})"
    expected = "['0', '1', '2']"
    started = (
        f"subprocess.run([sys.executable, '-c', {child!r}], close_fds=False)",
        f"os.system(sys.executable + ' -c ' + __import__('shlex').quote({child!r}))",
        f"os.waitpid(os.posix_spawn(sys.executable, [sys.executable, '-c', {child!r}], os.environ), 0)",
    )
    for code in started:
        assert life.run("work", code + "; None")["output"] == expected + "\n", code
    code = f"pid = os.fork()\nif not pid:\n    print({listing}, flush=True)\n    os._exit(0)\n_ = os.waitpid(pid, 0)"
    forked = ast.literal_eval(life.run("work", code)["output"])
    open_then = f"[os.readlink('/proc/self/fd/' + n) for n in {forked!r} if os.path.lexists('/proc/self/fd/' + n)]"
    assert set(forked) >= {"0", "1", "2"}
    code = f"pid = os.fork()\nif not pid:\n    print({open_then}, flush=True)\n    os._exit(0)\n_ = os.waitpid(pid, 0)"
    assert "socket:" not in life.run("work", code)["output"]


# ---- code from elsewhere ----


@pytest.fixture
def hostile(place: Place) -> tuple[Path, Path]:
    """A directory in which every module anybody may import leaves a mark, and the file with the marks."""
    directory, marks = place.base / "hostile", place.base / "marks"
    directory.mkdir()
    marks.touch()
    trap = f"import posix\nd = posix.open({str(marks)!r}, 1025)\nposix.write(d, (__name__ + ' ').encode())\n"
    names = {
        *sys.stdlib_module_names,
        "tornado",
        "msgspec",
        "dbus_fast",
        "omega_sessiond",
        "sitecustomize",
        "usercustomize",
    }
    for name in names - set(sys.builtin_module_names):
        (directory / f"{name}.py").write_text(trap + "raise ImportError('hostile')\n")
    for name in ("tornado", "omega_sessiond"):
        (directory / name).mkdir()
        (directory / name / "__init__.py").write_text(trap)
    return directory, marks


def test_commands_run_nothing_of_the_working_directory(place: Place, hostile: tuple[Path, Path]) -> None:
    """omegactl, and the daemon it starts, import nothing from the working directory, PYTHONPATH or PYTHONSTARTUP."""
    directory, marks = hostile
    startup = str(directory / "os.py")
    env = {**place.env, "PYTHONPATH": f":{directory}:.", "PYTHONSTARTUP": startup, "PYTHONUSERBASE": str(directory)}
    with whatever_it_starts(place):
        for arguments in (["ls"], ["engines"], ["show", "nobody"], ["service", "status"], ["doctor"], ["--help"]):
            done = subprocess.run([*COMMAND, *arguments], cwd=directory, env=env, capture_output=True, timeout=60)
            assert b"Traceback" not in done.stderr
        assert json.loads(Omegactl(place)("service", "status", "--json").out)["server"] is not None
    assert marks.read_text() == ""


def test_sessions_run_nothing_unasked(life: Life, hostile: tuple[Path, Path]) -> None:
    """To make a session in a directory, to ask about code there and to run code that imports nothing runs nothing that
    lies there; what the code asks for by name is found there first, as in every interactive Python."""
    directory, marks = hostile
    life.post("/api/sessions", {"name": "work", "cwd": str(directory)})
    for code in ("1 + 1", "1 / 0", "def f(:", "assert (1, 2)", "'\\d'", "raise SystemExit", "def f(): pass"):
        life.run("work", code)
    for kind, code in (("complete", "f.__na"), ("inspect", "f"), ("inspect", "print("), ("is_complete", "if f:")):
        assert life.call("POST", f"/api/sessions/work/{kind}", {"code": code}).status == 200
    assert life.run("work", "async def g(): return 7")["status"] == "ok"
    assert life.run("work", "await g()")["result"] == "7"
    assert marks.read_text() == ""
    assert "hostile" in life.run("work", "import chunk")["output"]
    assert marks.read_text() == "chunk "


def test_package_neither_unpickles_nor_evaluates() -> None:
    """No module loads what runs code out of data, and only hosts evaluate any."""
    for file in (CHECKOUT / "omega_sessiond").rglob("*.py"):
        tree = ast.parse(file.read_text())
        in_host = "hosts" in file.parts
        for node in ast.walk(tree):
            names = {alias.name for alias in node.names} if isinstance(node, ast.Import) else set()
            if isinstance(node, ast.ImportFrom):
                names = {node.module or ""}
            assert not names & {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}, file
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not in_host:
                assert node.func.id not in {"eval", "exec", "compile", "__import__"}, file


def test_tornado_has_its_parser_mended() -> None:
    """Versions of Tornado with known flaws in its parser cannot be installed with us."""
    with open(CHECKOUT / "pyproject.toml", "rb") as file:
        dependencies = tomllib.load(file)["project"]["dependencies"]
    (tornado,) = [found for found in dependencies if found.startswith("tornado")]
    floor = tuple(map(int, re.findall(r"\d+", tornado)))
    assert tornado.startswith("tornado>=")
    assert floor >= (6, 5, 3)


# ---- what a terminal and a log are shown ----

EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b2J\x1bP+q\x1b\\\r\nfake\trow\x08\u202eevil\u2066"
OBEYED = re.compile("\x1b(?!\\[[0-9;]*m|\\[[0-2]?K)|[\x00-\x06\x07\x0b\x0c\x0e-\x1a\x7f-\x9f]")


def test_no_text_steers_the_terminal(life: Life, place: Place) -> None:
    """Labels, directories, code, prompts, messages, tracebacks and output full of escape sequences: on a terminal no
    command prints anything but text, colours and motions within a line, and no cell leaves its row."""
    directory = place.base / ("d" + EVIL)
    directory.mkdir()
    life.post("/api/sessions", {"name": "work", "cwd": str(directory), "labels": {"k" + EVIL[:40]: EVIL}})
    code = f"class E(Exception): pass\nprint({EVIL!r}); input({EVIL!r}) # {EVIL}"
    code = code.replace("\r\n", " ").replace("\x08", "")
    asking = life.begin("work", code)
    wait_until(lambda: life.execution("work", asking)["status"] == "waiting_input", "it asks")
    life.post("/api/sessions/work/input", {"execution_id": asking, "text": EVIL.replace("\r\n", " ")})
    assert life.finished("work", asking)["status"] == "ok", life.history("work")
    failing = life.run("work", f"raise type({EVIL!r}, (Exception,), {{}})({EVIL!r})")
    assert failing["status"] == "error"
    ctl = Omegactl(place)
    for arguments in (
        ("ls", "-w"),
        ("ls", "--json"),
        ("ls", "--filter", EVIL),
        ("show", "work"),
        ("show", EVIL),
        ("new", EVIL),
        ("history", "work"),
        ("history", "work", "--json"),
        ("output", str(asking)),
        ("output", str(failing["id"])),
        ("output", str(failing["id"]), "--raw"),
        ("output", str(failing["id"]), "--grep", "x" + EVIL + "("),
        ("wait", str(failing["id"])),
        ("events",),
        ("events", "--format", "jsonl"),
        ("exec", "work", "-c", f"print({EVIL!r}); 1/0"),
        ("exec", "work", "--json", "-c", f"print({EVIL!r}); 1/0"),
        ("exec", "work", "--format", "jsonl", "-c", f"print({EVIL!r}); 1/0"),
        ("exec", "work", "--color", "never", "-c", f"import time; time.sleep(.3); print({EVIL!r})"),
        ("input", "work", EVIL),
        ("interrupt", "work"),
        ("logs",),
        ("frobnicate" + EVIL,),
        ("ls", "--sort", EVIL),
        ("exec", "work", "-f", EVIL),
        ("--socket", "/nonexistent/" + EVIL, "ls"),
    ):
        with ctl.at_terminal(*arguments, env={"PAGER": "cat", "COLUMNS": "100"}) as terminal:
            terminal.end()
            found = OBEYED.search(terminal.seen)
            assert found is None, (arguments, terminal.seen)
            if arguments[0] in ("ls", "show", "new", "history", "events"):
                assert "\u202e" not in terminal.seen, arguments
                assert not re.search("^fake", terminal.seen, re.MULTILINE), (arguments, terminal.seen)


def test_no_text_adds_a_line_to_the_log(life: Life, place: Place) -> None:
    """What a failure quotes stays on its line of the daemon's log, without control characters."""
    directory = place.base / "a\n2026-01-01T00:00:00.000 info    forged\x1b[2J\u202e"
    directory.mkdir()
    life.post("/api/sessions", {"name": "work", "cwd": str(directory)})
    life.post("/api/sessions/work/kill")
    directory.rmdir()
    assert life.execute("work", "1").status == 502
    life.run("other", "import os; os.write(2, b'x'); 1")
    assert "forged" in life.log
    assert not re.search(r"^\S+ info +forged", life.log, re.MULTILINE)
    assert re.fullmatch(r"[\x20-\x7e\n…]*", life.log)


# ---- full disks ----


class Unheard(Daemon):
    """A daemon whose every line of log meets a full disk."""

    log = ""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.log_path = Path("/dev/full")


def test_daemon_serves_though_its_log_is_full(place: Place) -> None:
    """When nothing can be logged any more the daemon goes on, and so does the next one."""
    with Unheard(place) as daemon:
        assert daemon.execute("work", "x = 42; x")["result"] == "42"
        assert daemon.request("POST", "/api/sessions/work/execute", body=b"{").status == 400
        daemon.kill9()
        daemon.start()
        assert daemon.execute("work", "x")["result"] == "42"
