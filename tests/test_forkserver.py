"""Sessions that are forked: like started ones in all that they can see, whatever becomes of what they come from."""

from __future__ import annotations

import ast
import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caller import Caller
from daemon import Daemon, wait_until
from isolation import Place
from life import Life, is_alive, parent
from omega_sessiond.birthplace import Birthplace

UNREHEARSED = 4
"""So many a fork server forks at most before its rehearsal."""

SNAPSHOT = """
import sys
_modules = sorted(sys.modules)
import os, resource, signal, time, locale, gc, stat, atexit
def _depth(frame):
    return 0 if frame is None else 1 + _depth(frame.f_back)
def _kind(descriptor):
    try:
        return stat.S_IFMT(os.fstat(descriptor).st_mode), os.get_inheritable(descriptor)
    except OSError:
        return None
def _exported():
    with os.popen("env -0") as pipe:  # closed here: a shell that has not ended yet would keep it open
        return pipe.read().count(chr(0))
_status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
_internal = 3 << 31  # the C library's own two, which posix_spawn leaves otherwise than fork does
_umask = os.umask(0); os.umask(_umask)
{
    "modules": _modules,
    "path": sys.path,
    "argv": sys.argv,
    "flags": str(sys.flags),
    "orig_argv": sys.orig_argv[:2],
    "cmdline": open("/proc/self/cmdline", "rb").read().split(b"\\0")[:2],
    "executable": (sys.executable, sys.prefix, sys.base_prefix),
    "warnings": sys.warnoptions,
    "environ": dict(os.environ),
    "getenv": _exported(),
    "cwd": os.getcwd(),
    "umask": _umask,
    "limits": [resource.getrlimit(number) for number in range(16)],
    "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
    "masks": [int(_status[name], 16) & ~_internal for name in ("SigBlk", "SigIgn", "SigCgt")],
    "descriptors": sorted(str(_kind(number)) for number in range(64) if _kind(number)),
    "leads": (os.getsid(0) == os.getpid(), os.getpgid(0) == os.getpid()),
    "names": sorted(globals()),
    "main": sys.modules["__main__"].__dict__ is globals(),
    "gc": (gc.isenabled(), gc.get_threshold()),
    "recursion": (sys.getrecursionlimit(), _depth(sys._getframe())),
    "time": time.tzname,
    "locale": locale.setlocale(locale.LC_CTYPE),
    "encoding": (sys.getfilesystemencoding(), sys.stdout.encoding),
    "threads": len(os.listdir("/proc/self/task")),
    "exits": atexit._ncallbacks(),
    "nice": os.nice(0),
}
"""


def servers(life: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = life.call("GET", "/api/server").json["fork_servers"]
    return found


def ready(life: Any) -> dict[str, Any]:
    """The first fork server, once it is ready."""
    return dict(
        wait_until(lambda: [one for one in servers(life) if one["state"] == "ready"], "a fork server is ready")[0]
    )


def create(life: Any, name: str, **options: object) -> int:
    """A new session; its process."""
    reply = life.call("POST", "/api/sessions", {"name": name, **options})
    assert reply.status == 201, reply
    return int(reply.json["pid"])


def snapshot(life: Any, name: str) -> dict[str, Any]:
    found: dict[str, Any] = ast.literal_eval(life.run(name, SNAPSHOT)["result"])
    return found


def test_a_forked_session_is_like_a_started_one(life: Life, place: Place) -> None:
    """Modules, paths, environment, directory, limits, signals, descriptors, stack: a session cannot tell that its
    process was forked."""
    server = ready(life)
    env = {**place.env, "PYTHONPATH": str(place.base), "TZ": "Asia/Tokyo"}
    started = create(life, "started", env=env, cwd=str(place.home))
    wait_until(lambda: len([one for one in servers(life) if one["state"] == "ready"]) == 2, "a server of that place")
    forked = create(life, "forked", env=env, cwd=str(place.home))
    assert parent(started) == life.server_pid() != parent(forked) != server["pid"]
    one, other = snapshot(life, "started"), snapshot(life, "forked")
    for what, seen in one.items():
        assert other[what] == seen, what


def test_a_rehearsal_leaves_no_trace(life: Life) -> None:
    """A fork server plays a session before it forks many. Those have no last value, no command counted and none in
    their tracebacks' sources, and are like the first one."""
    server = ready(life)
    for number in range(UNREHEARSED + 2):
        assert parent(create(life, f"n{number}")) == server["pid"]
    wait_until(lambda: servers(life)[0]["is_rehearsed"], "it has rehearsed")
    assert not list((life.place.state_dir / "next").glob("rehearsal*"))
    assert parent(create(life, "after")) == server["pid"]
    trace = "hasattr(__import__('builtins'), '_'), list(__import__('linecache').cache)"
    first = life.run("after", trace)
    assert first["execution_count"] == 1
    assert first["result"] == f"(False, ['<omega-{first['id']}>'])"
    one, other = snapshot(life, "n0"), snapshot(life, "after")
    for what, seen in one.items():
        if what != "modules":
            assert other[what] == seen, what


SLOW = """
import os, sys, time
def slow(frame, event, argument):
    if event == "return" and frame.f_code.co_name == "_work":
        time.sleep(0.02)
_waitpid = os.waitpid
os.waitpid = lambda pid, options: (time.sleep(0.05), _waitpid(pid, options))[1]
sys.setprofile(slow)
"""
"""Time for a save to end, and some more until its process has ended too."""


def test_a_slow_rehearsal_ends(place: Place) -> None:
    """A server in the midst of it hears nobody: one that waited for what has come already would outlive its daemon."""
    Path(place.base, "sitecustomize.py").write_text(SLOW)
    with Daemon(place, env={"PYTHONPATH": str(place.base)}) as daemon:
        life = Caller(daemon.socket_path)
        wait_until(lambda: [one for one in servers(life) if one["is_rehearsed"]], "it has rehearsed")


HANGS = """
import os, signal, time
_alarm, _memfd_create = signal.alarm, os.memfd_create
signal.alarm = lambda seconds: _alarm(min(seconds, 1))
os.memfd_create = lambda name: time.sleep(600) if name == "launch" else _memfd_create(name)
"""
"""As a rehearsal does for a reason that nobody has thought of; half a minute is over sooner."""


def test_a_server_that_hangs_in_its_rehearsal_ends_by_itself(place: Place) -> None:
    """It hears neither its daemon's orders nor its end."""
    Path(place.base, "sitecustomize.py").write_text(HANGS)
    with Daemon(place, env={"PYTHONPATH": str(place.base)}) as daemon:
        life = Caller(daemon.socket_path)
        server = ready(life)["pid"]
        wait_until(lambda: not is_alive(server), "it has ended")
        assert life.run("work", "6 * 7")["result"] == "42"


def test_the_default_interpreter_is_ready_from_the_start(life: Life) -> None:
    """The first session of all is forked, with the daemon's environment less what is the daemon's own."""
    server = ready(life)
    pid = create(life, "first")
    assert parent(pid) == server["pid"] == ready(life)["pid"]
    assert ready(life)["births"] == 1
    assert life.run("first", "import os; [n for n in os.environ if n.startswith('OMEGA_')]")["result"] == "[]"


def test_sessions_outlive_what_they_were_forked_from(life: Life) -> None:
    """kill -9 of the fork server costs no session anything; there is a new one for those that come."""
    server = ready(life)
    pid = create(life, "a")
    life.run("a", "x = 41")
    os.kill(server["pid"], signal.SIGKILL)
    wait_until(lambda: any(one["pid"] != server["pid"] for one in servers(life)), "another fork server")
    assert life.run("a", "x + 1")["result"] == "42"
    assert is_alive(pid)
    new = ready(life)
    assert parent(create(life, "b")) == new["pid"]
    assert "killed by signal 9" in life.log


def test_a_birth_survives_the_death_of_its_fork_server(life: Life) -> None:
    """A session that is being made when the fork server is killed is started as a process of its own."""
    server = ready(life)
    wait_until(lambda: parent(create(life, f"n{len(life.get('/api/sessions'))}")) == server["pid"], "forks")
    os.kill(server["pid"], signal.SIGSTOP)
    made: list[int] = []
    threads = [threading.Thread(target=lambda n=n: made.append(create(life, f"late{n}"))) for n in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(life.get("/api/sessions")) >= 4, "the sessions are being made")
    os.kill(server["pid"], signal.SIGKILL)
    for thread in threads:
        thread.join()
    assert len({*made}) == 3
    for n in range(3):
        assert life.run(f"late{n}", "6 * 7")["result"] == "42"


def test_fifty_sessions_at_once(life: Life) -> None:
    """Fifty sessions that are asked for together are fifty processes, each with its own state."""
    made: list[int] = []
    threads = [threading.Thread(target=lambda n=n: made.append(create(life, f"s{n}"))) for n in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 50
    for n in range(0, 50, 7):
        life.run(f"s{n}", f"mine = {n}")
    for n in range(0, 50, 7):
        assert life.run(f"s{n}", "mine, __import__('os').getpid()")["result"].startswith(f"({n}, ")


def test_how_a_forked_host_ends_is_told(life: Life) -> None:
    """The fork server tells the exit status and the signal of its children, so that a death has its reason."""
    ready(life)
    for name, code, reason in (
        ("status", "import os; os._exit(3)", "its process ended with exit status 3"),
        ("signal", "import os; os.kill(os.getpid(), 11)", "killed by SIGSEGV"),
    ):
        create(life, name)
        execution = life.run(name, code)
        assert (execution["status"], execution["error"]["message"]) == ("died", reason)
        assert life.run(name, "1 + 1")["lost"]["reason"] == reason


def test_hosts_outlive_daemon_and_fork_server(life: Life) -> None:
    """kill -9 of the daemon ends its fork server and the spare, and no session; the next daemon has a server anew."""
    server = ready(life)
    pid = create(life, "a")
    life.run("a", "x = 1")
    life.kill()
    wait_until(lambda: not is_alive(server["pid"]), "the fork server ends with its daemon")
    wait_until(lambda: set(life.place.processes()) == {pid}, "nothing but the session is left")
    life.start()
    assert life.run("a", "x")["result"] == "1"
    assert parent(create(life, "b")) == ready(life)["pid"] != server["pid"]


def test_a_changed_interpreter_is_started_anew(place: Place) -> None:
    """A package that is installed while the fork server waits is there for the next session."""
    packages = place.base / "packages"
    packages.mkdir()
    with Daemon(place, env={"PYTHONPATH": f"{packages}:{Path(__file__).parent.parent}"}) as daemon:
        life = Caller(daemon.socket_path)
        assert parent(create(life, "before")) == ready(life)["pid"]
        (packages / "late.pth").write_text("")
        (packages / "late.py").write_text("here = True")
        assert parent(create(life, "after")) == daemon.pid
        assert life.run("after", "import late; late.here")["result"] == "True"


def test_without_a_fork_server_sessions_are_started(lives: Callable[..., Life]) -> None:
    """`fork_server = false` starts each session's process by itself."""
    life = lives(fork_server=False)
    assert servers(life) == []
    assert parent(create(life, "a")) == life.server_pid()


def test_a_directory_that_is_gone_is_named(life: Life, place: Place) -> None:
    """A session whose directory is gone when its process is to be made says so, forked or not."""
    directory = place.base / "gone"
    directory.mkdir()
    ready(life)
    create(life, "a", cwd=str(directory))
    life.call("POST", "/api/sessions/a/kill", {})
    directory.rmdir()
    reply = life.call("POST", "/api/sessions/a/execute", {"command": "1"})
    assert reply.status == 502, reply
    assert str(directory) in reply.json["error"]


# ---- packages ----

MODULES = {
    "plain_package": "value = 'loaded before'",
    "with_thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(3600,), daemon=True).start()",
    "with_file": "opened = open('/dev/zero', 'rb')",
    "with_child": "import os, subprocess\nchild = subprocess.Popen(['sleep', '3600'])\n"
    "print(child.pid, file=open(os.path.dirname(__file__) + '/../child', 'w'), flush=True)",
    "that_fails": "raise RuntimeError('not today')",
    "that_dies": "import os\nos._exit(9)",
}


def test_preload_loads_what_can_be_shared_and_says_what_cannot(place: Place) -> None:
    """Sessions begin with the packages of `preload`, but for those that a fork would break, each with its reason."""
    packages = place.base / "packages"
    packages.mkdir()
    for name, text in MODULES.items():
        (packages / f"{name}.py").write_text(text)
    settings = {"preload": [*MODULES, "no_such_package"]}
    path = f"{packages}:{Path(__file__).parent.parent}"
    with Daemon(place, settings=settings, env={"PYTHONPATH": path}) as daemon:
        life = Caller(daemon.socket_path)
        server = ready(life)
        assert server["preloaded"] == ["plain_package"]
        assert set(server["refused"]) == {*MODULES, "no_such_package"} - {"plain_package"}
        assert "starts 1 thread" in server["refused"]["with_thread"]
        assert "leaves /dev/zero open" in server["refused"]["with_file"]
        assert "starts a child process" in server["refused"]["with_child"]
        assert not is_alive(int((place.base / "child").read_text()))
        assert "RuntimeError: not today" in server["refused"]["that_fails"]
        assert "exit status 9" in server["refused"]["that_dies"]
        assert parent(create(life, "a")) == server["pid"]
        assert life.run("a", "import sys; 'plain_package' in sys.modules")["result"] == "True"
        assert life.run("a", "'with_thread' in sys.modules")["result"] == "False"
        assert "cannot preload with_thread" in daemon.log


def test_doctor_names_what_cannot_be_preloaded(lives: Callable[..., Life]) -> None:
    """`omegactl doctor` has a note for each package of `preload` that sessions do not begin with."""
    life = lives(preload=["no_such_package"])
    ready(life)
    found = life.omegactl("doctor").stdout
    assert "preload no_such_package: its import fails: ModuleNotFoundError" in found


def test_a_newborn_that_cannot_be_a_host_says_why(life: Life, place: Place) -> None:
    """What keeps a forked process from becoming its session's is in the answer, as of a started one."""
    ready(life)
    life.run("a", "1")
    life.post("/api/sessions/a/kill")
    launch = place.state_dir / "sessions" / life.session("a")["id"] / "launch.json"
    settings = json.loads(launch.read_text())
    launch.write_text(json.dumps({**settings, "nofile": [4, 4]}))
    answer = life.execute("a", "1")
    assert (answer.status, answer.code) == (502, "host_failed")
    assert "Too many open files" in answer.json["error"]


def test_numpy_is_preloaded(lives: Callable[..., Life]) -> None:
    """numpy, with the pool of threads its library starts, is preloaded and works; sessions draw different numbers."""
    life = lives(preload=["numpy"], python=sys.executable)
    server = ready(life)
    assert (server["preloaded"], server["refused"]) == (["numpy"], {})
    drawn = set()
    for name in ("a", "b"):
        assert parent(create(life, name)) == server["pid"]
        assert life.run(name, "import sys; 'numpy' in sys.modules")["result"] == "True"
        code = "import numpy; m = numpy.ones((400, 400)); int((m @ m)[0, 0]), numpy.random.rand()"
        product, number = ast.literal_eval(life.run(name, code)["result"])
        assert product == 400
        drawn.add(number)
    assert len(drawn) == 2


def test_preloaded_pyplot_shows_figures(
    lives: Callable[..., Life], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Figures of a preloaded matplotlib are pictures of their execution, unless the session's variables choose another
    backend."""
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path))
    life = lives(preload=["matplotlib.pyplot"], python=sys.executable)
    assert ready(life)["preloaded"] == ["matplotlib.pyplot"]
    create(life, "a")
    env = ast.literal_eval(life.run("a", "import os; dict(os.environ)")["result"])
    life.post("/api/sessions", {"name": "b", "env": {**env, "MPLBACKEND": "agg"}})
    plot = "import matplotlib.pyplot as plt; plt.plot([1]); None"
    for name, pictures, left_open in (("a", ["image/png"], "[]"), ("b", [], "[1]")):
        assert life.run(name, "import sys; 'matplotlib.pyplot' in sys.modules")["result"] == "True"
        assert [part["mime"] for part in life.run(name, plot)["data"] or ()] == pictures
        assert life.run(name, "plt.get_fignums()")["result"] == left_open


# ---- where a fork will do ----


@pytest.mark.parametrize(
    ("variables", "will_do"),
    [
        ({}, True),
        ({"PYTHONPATH": "/somewhere"}, True),
        ({"PYTHONPATH": "lib"}, False),
        ({"PYTHONPATH": "/somewhere:"}, False),
    ],
)
def test_relative_paths_are_for_a_start(variables: dict[str, str], will_do: bool) -> None:
    """An interpreter that looks into the session's directory as it starts is started there."""
    assert (Birthplace.of(sys.executable, variables) is not None) == will_do


def test_a_script_that_chooses_an_interpreter_is_started(tmp_path: Path) -> None:
    """What decides anew at each start which interpreter it is (pyenv's shims) is never forked."""
    script = tmp_path / "python3"
    script.write_text('#!/bin/sh\nexec python3.11 "$@"\n')
    script.chmod(0o755)
    assert Birthplace.of(str(script), {}) is None
    assert Birthplace.of(str(tmp_path / "none"), {}) is None


def test_variables_that_are_read_at_the_start_tell_birthplaces_apart() -> None:
    """Another locale or hash seed is another birthplace; another TERM or PATH is not."""
    home = Birthplace.of(sys.executable, {"HOME": "/h", "PATH": "/bin", "TERM": "xterm"})
    same = Birthplace.of(sys.executable, {"HOME": "/h", "PATH": "/usr/bin", "LANGUAGE": "de"})
    other = Birthplace.of(sys.executable, {"HOME": "/h", "LANG": "de_DE.UTF-8"})
    seeded = Birthplace.of(sys.executable, {"HOME": "/h", "PYTHONHASHSEED": "1"})
    assert home is not None and same is not None and other is not None and seeded is not None
    assert home.key == same.key
    assert len({home.key, other.key, seeded.key}) == 3
