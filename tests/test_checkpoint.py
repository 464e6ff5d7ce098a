"""Checkpoints by real host processes: what comes back, what is left out and named, and files that are refused."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import signal
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from hostdriver import INTERPRETERS, Frame, HostProcess, Hosts, until
from life import is_alive, parent


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    started = Hosts(tmp_path)
    yield started
    started.close()


def lent() -> str:
    """The directory of our cloudpickle, as the daemon finds it."""
    found = find_spec("cloudpickle")
    assert found is not None and found.origin is not None
    return str(Path(found.origin).parent)


def lend(host: HostProcess, budget_s: float = 30.0, max_bytes: int = 1 << 30) -> None:
    """Come as a daemon that says how to save."""
    have = host.daemon.frames[-1]["seq"] if host.daemon.frames else 0
    host.connect(have, lent=lent(), budget_s=budget_s, max_bytes=max_bytes)


def save(host: HostProcess, id: str = "one") -> Frame:
    lend(host)
    host.daemon.send("save", id=id)
    return host.daemon.wait_for("saved", id=id)


def move(host: HostProcess, successor: HostProcess, saved: Frame, id: str = "one") -> Frame:
    """Have another process take up what one has saved."""
    lend(successor)
    target = Path(successor.directory) / "checkpoints"
    target.mkdir(mode=0o700, exist_ok=True)
    os.rename(Path(host.directory) / "checkpoints" / id, target / id)
    successor.daemon.send("load", id=id, sha256=saved["sha256"])
    successor.last_id = saved["execution_id"]
    return successor.daemon.wait_for("loaded", id=id)


def wake(hosts: Hosts, commands: str, **fields: Any) -> tuple[HostProcess, Frame, Frame]:
    """Run commands, save, and take it up in a new process: that, what was saved, what was loaded."""
    host = hosts(**fields)
    done = host.run(commands)
    assert done.status == "ok", done.output
    saved = save(host)
    assert saved["reason"] is None, saved
    successor = hosts(**fields)
    loaded = move(host, successor, saved)
    assert loaded["reason"] is None, loaded
    return successor, saved, loaded


VALUES = """
import math, threading, xml.etree.ElementTree, collections as c, sys, os
from __future__ import annotations
class Point:
    "A point."
    made = 0
    def __init__(self, x): self.x = x; Point.made += 1
    def twice(self): return Point(self.x * factor)
factor = 2
def counter():
    n = 0
    def count():
        nonlocal n
        n += 1
        return n
    return count
count = counter(); count()
def bump():
    global factor
    factor += 1
    return factor
points = [Point(1), Point(2)]
same = points[0]
loop = []; loop.append(loop)
table = {"square": lambda x: x * x, "point": same}
text = "a" * 1000
def fib(n): return n if n < 2 else fib(n - 1) + fib(n - 2)
me = globals()
out = sys.stdout
lock = threading.Lock()
guarded = {"lock": lock}
def locked(): return lock
numbers = (i for i in range(3))
file = open(os.devnull)
os.environ["MARK"] = "here"
sys.path.append("/nowhere")
os.chdir("/")
6 * 7
"""


def test_what_goes_by_a_name_of_the_session(hosts: Hosts) -> None:
    """Cached functions come back with their bounds; what can be saved as a name in `__main__` alone is left out by
    itself, and costs no other variable."""
    code = (
        "from functools import lru_cache\n"
        "@lru_cache(maxsize=7)\ndef f(n): return n if n < 2 else f(n - 1) + f(n - 2)\n"
        "class Kept:\n  @lru_cache\n  def twice(self): return 2\n"
        "class Named:\n  def __reduce__(self): return 'named'\n"
        "f.mark = 'mine'; f(20); named = Named(); kept = Kept(); precious = 5"
    )
    host, saved, loaded = wake(hosts, code)
    assert (set(saved["left_out"]), loaded["lost"]) == ({"named"}, {})
    assert host.run("f(20), f.cache_parameters()['maxsize'], f.mark, kept.twice(), precious").value == (
        "(6765, 7, 'mine', 2, 5)"
    )


@pytest.mark.parametrize("python", INTERPRETERS.values(), ids=INTERPRETERS.keys())
def test_types_of_the_session(hosts: Hosts, python: str) -> None:
    """What annotations name comes back with the functions that have it, the same one in all of them."""
    code = (
        "import typing, sys\nfrom typing import Generic, NewType, TypeVar\n"
        "Id = NewType('Id', int); T = TypeVar('T', bound=int)\n"
        "def find(id: Id) -> Id: return id\n"
        "class Box(Generic[T]):\n  def get(self) -> T: ...\n"
        "if sys.version_info >= (3, 10):\n"
        "  P = typing.ParamSpec('P')\n  def call(f: typing.Callable[P, Id], *args: P.args) -> Id: return f(*args)\n"
        "if sys.version_info >= (3, 11):\n"
        "  Ts = typing.TypeVarTuple('Ts')\n  class Row(Generic[typing.Unpack[Ts]]): ...\n"
    )
    host, saved, loaded = wake(hosts, code, python=python)
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    same = "find.__annotations__['id'] is Id, Id(3), Id.__supertype__, Box.get.__annotations__['return'] is T, Box[T]"
    assert host.run(f"str(({same}))").value == "\"(True, 3, <class 'int'>, True, __main__.Box[~T])\""
    newer = "call.__annotations__['f'].__args__[0] is P and call(find, 4)"
    assert host.run(f"{newer} if sys.version_info >= (3, 10) else 4").value == "4"
    again = save(host, "two")
    assert (again["reason"], again["left_out"]) == (None, {})


def test_what_takes_the_place_of_the_hosts_own(hosts: Hosts) -> None:
    """Objects made after the user has replaced input() are not mistaken for it."""
    code = (
        "import builtins, gc\nbuiltins.input = lambda prompt='': 'mine'\ngc.collect()\n"
        "made = [eval('lambda: %d' % n) for n in range(300)]"
    )
    host, saved, loaded = wake(hosts, code)
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    assert host.run("[one() for one in made] == list(range(300))").value == "True"


def test_space_that_cannot_be_saved(hosts: Hosts) -> None:
    """What exec() ran in is left out with a lock in it; functions made there come back without."""
    code = (
        "import threading\nspace = {'threading': threading}\n"
        "exec('lock = threading.Lock()\\none = 1\\ndef inc(n): return n + one', space)\n"
        "inc = space['inc']; precious = [inc]"
    )
    host, saved, loaded = wake(hosts, code)
    assert (set(saved["left_out"]), loaded["lost"]) == ({"space"}, {})
    assert host.run("inc(41), precious[0](1)").value == "(42, 2)"


def test_modules_beside_a_directory_that_was_left(hosts: Hosts, tmp_path: Path) -> None:
    """A module found in the session's directory is found again though it has gone to another one."""
    (tmp_path / "data").mkdir()
    (tmp_path / "omega_helper.py").write_text("class Thing: size = 6\n")
    (tmp_path / "data" / "omega_recipe.py").write_text("value = 7\n")
    code = (
        "import os, sys, importlib.util as finder\n"
        f"os.chdir({str(tmp_path)!r})\n"
        "import omega_helper\n"
        "spec = finder.spec_from_file_location('omega_recipe', os.path.abspath('data/omega_recipe.py'))\n"
        "omega_recipe = sys.modules['omega_recipe'] = finder.module_from_spec(spec)\n"
        "spec.loader.exec_module(omega_recipe)\n"
        "thing, path = omega_helper.Thing(), list(sys.path)\n"
        "os.chdir('/')"
    )
    host, saved, loaded = wake(hosts, code)
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    assert host.run("thing.size * omega_recipe.value, sys.path == path, os.getcwd()").value == "(42, True, '/')"


def test_what_the_host_stands_in_for(hosts: Hosts) -> None:
    """What the host has put in the place of Python's own comes back by name; what the user has put there, as it is."""
    code = (
        "import builtins, io, sys\nfrom getpass import getpass\nfrom signal import signal\n"
        "show, out, space = display, sys.stdout, {}\n"
        "exec('c = 0\\ndef inc():\\n  global c\\n  c += 1', space)\n"
        "text = io.StringIO('precious')\n"
        "def mine(prompt=''): return 'mine'\n"
        "builtins.input, sys.stdout = mine, text"
    )
    host, saved, loaded = wake(hosts, code)
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    assert host.run("text.getvalue(), mine(), space['inc'](), space['c']").value == "('precious', 'mine', None, 1)"
    same = "show is display, out is sys.stdout, signal is __import__('signal').signal"
    assert host.run(same + ", getpass is __import__('getpass').getpass").value == "(True, True, True, True)"


@pytest.mark.parametrize("version", sorted(INTERPRETERS))
def test_state_comes_back(hosts: Hosts, version: str) -> None:
    """Variables, what they share, functions over the live namespace, imports, `_`, path, directory and environment."""
    host, saved, loaded = wake(
        hosts, VALUES.replace("from __future__ import annotations\n", ""), python=INTERPRETERS[version]
    )
    assert set(saved["left_out"]) == {"lock", "guarded", "numbers", "file"}
    assert "lock" in saved["left_out"]["guarded"] and "generator" in saved["left_out"]["numbers"]
    assert loaded["lost"] == {}
    expected = {
        "_": "42",
        "same is points[0] is table['point']": "True",
        "loop[0] is loop": "True",
        "points[1].twice().x, Point.made, Point.__doc__": "(4, 3, 'A point.')",
        "count(), count()": "(2, 3)",
        "bump(), factor, points[1].twice().x": "(3, 3, 6)",
        "table['square'](5), fib(10)": "(25, 55)",
        "me is globals() and out is sys.stdout": "True",
        "xml.etree.ElementTree.fromstring('<a/>').tag, c.Counter('aab')['a'], math.pi > 3": "('a', 2, True)",
        "os.environ['MARK'], sys.path[-1], os.getcwd()": "('here', '/nowhere', '/')",
        "[name for name in sys.modules if 'cloudpickle' in name], '__builtins__' in globals()": "([], True)",
    }
    for code, value in expected.items():
        done = host.run(code)
        assert done.value == value, (code, done.output)
    assert "NameError" in host.run("locked()").output
    error = host.run("fib('x')")
    assert "n if n < 2" in error.traceback  # its source came along


KEPT = {
    "class": ("class A:\n    def f(self): return 'f'\nvalue = A()", "type(value) is A and value.f()", "'f'"),
    "class that inherits": ("class B(dict):\n    pass\nvalue = B(a=1)", "type(value).__mro__[1], value['a']", None),
    "dataclass": ("import dataclasses as d\n@d.dataclass\nclass D:\n    a: int = 1\nvalue = D(2)", "value", "D(a=2)"),
    "enumeration": ("import enum\nclass E(enum.Enum):\n    ONE = 1\nvalue = E.ONE", "value is E.ONE", "True"),
    "named tuple": ("import collections as c\nN = c.namedtuple('N', 'a b')\nvalue = N(1, 2)", "value", "N(a=1, b=2)"),
    "function": ("def value(x, *, y=2): return x + y", "value(1), value.__kwdefaults__", "(3, {'y': 2})"),
    "closure": ("def f(n):\n    return lambda: n, n.append\nvalue, add = f([])", "add(2), value()", "(None, [2])"),
    "lambda in a dict": ("value = {'double': lambda x: 2 * x}", "value['double'](21)", "42"),
    "partial": ("import functools\nvalue = functools.partial(max, 3)", "value(2)", "3"),
    "bound method": ("items = [1]\nvalue = items.append", "value(2), items", "(None, [1, 2])"),
    "recursive structure": ("value = {}\nvalue['me'] = [value]", "value['me'][0] is value", "True"),
    "shared structure": ("one = [1]\nvalue = [one, {'one': one}]", "value[0] is value[1]['one'] is one", "True"),
    "mutual structure": ("class P: pass\nvalue, q = P(), P()\nvalue.q, q.p = q, value", "value.q.p is value", "True"),
    "module": ("import os.path as value", "value.basename('/a/b')", "'b'"),
    "exception": ("value = ValueError('why')", "value", "ValueError('why')"),
    "bytes in memory": ("import io\nvalue = io.BytesIO(b'abc')\nvalue.read(1)", "value.read()", "b'bc'"),
    "type hint": ("import typing\nvalue = typing.Optional[int]", "value == typing.Optional[int]", "True"),
}  # fmt: skip
"""What a variable can be, how to make it, what to ask of it in the next process, and the answer: None stands for what
this process answers."""


@pytest.mark.parametrize("kind", KEPT)
def test_what_is_kept(hosts: Hosts, kind: str) -> None:
    """Whatever a session defines comes back as it was."""
    code, question, answer = KEPT[kind]
    host = hosts()
    assert host.run(code).status == "ok"
    saved = save(host)
    assert (saved["reason"], saved["left_out"], saved["obstacles"]) == (None, {}, []), saved
    successor = hosts()
    assert move(host, successor, saved)["lost"] == {}
    assert successor.run(question).value == (answer or host.run(question).value)


LEFT_OUT = {
    "generator": ("(i for i in range(3))", "'generator'"),
    "coroutine": ("wait()", "'coroutine'"),
    "text_file": ("open(os.devnull)", "an open file ('/dev/null')"),
    "binary_file": ("open(os.devnull, 'rb')", "'_io.BufferedReader'"),
    "file_iterator": ("iter(open(os.devnull))", "an open file"),
    "sock": ("socket.socket()", "'socket'"),
    "lock": ("threading.Lock()", "'_thread.lock'"),
    "event": ("threading.Event()", "'_thread.lock'"),
    "thread": ("threading.Thread(target=print)", "'_thread.lock'"),
    "pool": ("concurrent.futures.ThreadPoolExecutor(1)", "'_queue.SimpleQueue'"),
    "database": ("sqlite3.connect(':memory:')", "'sqlite3.Connection'"),
    "frame": ("sys._getframe()", "'frame'"),
    "holder": ("[{'deep': threading.Lock()}]", "'_thread.lock'"),
    "refuses": ("Refuses()", "not for pickling"),
}
"""What cannot be kept, how to make it, and what its reason names."""


def test_what_is_left_out(hosts: Hosts) -> None:
    """Each variable that cannot be kept is named with its reason, and costs no other variable anything."""
    code = "import os, sys, socket, threading, sqlite3, concurrent.futures\nasync def wait(): pass\n"
    code += "class Refuses:\n    def __reduce__(self): raise RuntimeError('not for pickling')\n"
    code += "\n".join(f"{name} = {make}\nafter_{name} = 1" for name, (make, _) in LEFT_OUT.items())
    host, saved, loaded = wake(hosts, code)
    assert saved["left_out"].keys() == LEFT_OUT.keys()
    for name, (_, words) in LEFT_OUT.items():
        assert words in saved["left_out"][name], (name, saved["left_out"][name])
    assert loaded["lost"] == {}
    assert host.run("sorted(n for n in globals() if n.startswith('after_'))").value == str(
        sorted(f"after_{name}" for name in LEFT_OUT)
    )


def test_future_flags_and_count_go_on(hosts: Hosts) -> None:
    """`from __future__` holds in the next process too, and commands are counted on."""
    host = hosts()
    host.run("from __future__ import annotations")
    saved = save(host)
    successor = hosts()
    move(host, successor, saved)
    done = successor.run("def f(x: nowhere): pass\nf.__annotations__['x']")
    assert done.value == "'nowhere'"
    assert done.result["count"] == 2


def test_numpy_and_pandas_come_back(hosts: Hosts) -> None:
    """Arrays and tables come back, views of one array too, and the threads of their libraries are no obstacle."""
    commands = "import numpy as np, pandas as pd\na = np.arange(12.0).reshape(3, 4); b = a @ a.T\n"
    commands += "t = pd.DataFrame({'x': [1, 2], 'y': ['p', 'q']}); both = [a, a]"
    host, saved, _ = wake(hosts, commands, python=sys.executable)
    assert (saved["left_out"], saved["obstacles"]) == ({}, [])
    assert host.run("float(b.sum()), t.y.tolist(), both[0] is both[1] is a").value == "(1134.0, ['p', 'q'], True)"


@pytest.mark.parametrize("size", [100_000, 9_000_000])
def test_large_arrays_come_back(hosts: Hosts, size: int) -> None:
    """Arrays hand their bytes over as buffers: beside what cannot be saved, and in a state that is too large to be
    loaded on trial as a whole."""
    commands = f"import numpy as np\nlarge, n, g = np.arange({size}.0), 7, iter(x for x in [])"
    host, saved, loaded = wake(hosts, commands, python=sys.executable)
    assert (set(saved["left_out"]), loaded["lost"]) == ({"g"}, {})
    assert host.run("large.shape, float(large[-1]), n").value == f"(({size},), {size - 1}.0, 7)"


def test_64_mb_come_back(hosts: Hosts) -> None:
    """A large value comes back as it was, and is as large on the disk as in memory, not larger."""
    host, saved, _ = wake(hosts, "import os, zlib\ndata = os.urandom(64 << 20); crc = zlib.crc32(data)")
    assert (64 << 20) < saved["size"] < (65 << 20)
    assert host.run("zlib.crc32(data) == crc").value == "True"


def test_deep_structure_comes_back(hosts: Hosts) -> None:
    """A list nested deeper than Python's own limit of recursion is saved; one beyond ours is named."""
    nest = "deep = None\nfor _ in range(3000): deep = [deep]\n"
    host, saved, _ = wake(hosts, nest + "deeper = None\nfor _ in range(200_000): deeper = [deeper]")
    assert list(saved["left_out"]) == ["deeper"]
    assert host.run("n = 0\nwhile deep: deep = deep[0]; n += 1\nn").value == "3000"


def test_what_is_no_variable_is_named(hosts: Hosts) -> None:
    """Threads, children, open descriptors and tasks are told as obstacles; the host's own are none."""
    host = hosts()
    host.run("x = 1")
    assert save(host, "none")["obstacles"] == []
    host.run("import asyncio\nawait asyncio.sleep(0)")
    assert save(host, "loop")["obstacles"] == []
    host.run(
        "import threading, subprocess, os\nstop = threading.Event()\n"
        "threading.Thread(target=stop.wait, name='busy').start()\n"
        "child = subprocess.Popen(['sleep', '1000'])\nout, into = os.pipe()\n"
        "task = asyncio.ensure_future(asyncio.sleep(1000), loop=asyncio.get_event_loop_policy().get_event_loop())"
    )
    found = save(host, "many")["obstacles"]
    assert [one.split()[0] for one in found] == ["thread", "child", "open", "open", "asyncio"], found
    assert "thread busy" in found
    host.run("child.kill(); child.wait(); stop.set(); task.cancel()")


def test_command_runs_while_a_save_is_written(hosts: Hosts) -> None:
    """A save that takes long delays no command; what commands change meanwhile is not in it."""
    host = hosts()
    gate = host.directory / "gate"
    os.mkfifo(gate)
    host.run(f"class Slow:\n    def __reduce__(self): open({str(gate)!r}).read(); return int, ()\nslow = Slow(); x = 1")
    lend(host)
    host.daemon.send("save", id="one")
    assert host.run("x = 2; x").value == "2"
    host.interrupt()  # reaches the whole process group; the save goes on
    gate.write_text("")
    saved = host.daemon.wait_for("saved", id="one")
    assert saved["reason"] is None and saved["execution_id"] == 1
    successor = hosts()
    move(host, successor, saved)
    assert successor.run("x, slow").value == "(1, 0)"


def test_code_that_waits_for_any_child_does_not_hurt_a_save(hosts: Hosts) -> None:
    """os.wait() of a command may meet the child that writes: the save is none the worse, and then there is none."""
    host = hosts()
    gate = host.directory / "gate"
    os.mkfifo(gate)
    host.run(f"class Slow:\n    def __reduce__(self): open({str(gate)!r}).read(); return int, ()\nslow = Slow()")
    lend(host)
    host.daemon.send("save", id="one")
    wait = "import os\nprint('waiting', flush=True)\ntry:\n    while True: os.wait()\nexcept ChildProcessError: pass"
    id = host.start(wait)
    host.daemon.wait_for_output("waiting")
    gate.write_text("")
    assert host.daemon.result(id).status == "ok"
    heard = [frame for frame in host.daemon.frames if frame["t"] == "saved"]
    saved = heard[0] if heard else host.daemon.wait_for("saved", id="one")
    assert saved["reason"] is None
    successor = hosts()
    move(host, successor, saved)
    assert successor.run("slow").value == "0"


def test_save_that_hangs_is_ended(hosts: Hosts) -> None:
    """A save has its time: then its process is killed, nothing is left of it, and the reason is told."""
    host = hosts()
    host.run("import threading\nclass Stuck:\n    def __reduce__(self): threading.Event().wait()\nx = Stuck()")
    lend(host, budget_s=0.2)
    host.daemon.send("save", id="one")
    assert host.daemon.wait_for("saved", id="one")["reason"] == "it took too long"
    assert os.listdir(host.directory / "checkpoints") == []
    assert host.run("6 * 7").value == "42"


def test_save_whose_process_is_killed_leaves_nothing(hosts: Hosts) -> None:
    """SIGKILL of the child that writes costs the checkpoint being written, and nothing else."""
    host = hosts()
    mark = host.directory / "pid"
    host.run(
        f"import os, threading\nclass Stuck:\n    def __reduce__(self):\n"
        f"        open({str(mark)!r}, 'w').write(str(os.getpid())); threading.Event().wait()\nx = Stuck(); y = 1"
    )
    lend(host)
    host.daemon.send("save", id="one")
    os.kill(int(until(lambda: mark.exists() and mark.read_text(), "the child writes")), signal.SIGKILL)
    assert host.daemon.wait_for("saved", id="one")["reason"] is not None
    assert os.listdir(host.directory / "checkpoints") == []
    assert host.run("y").value == "1"


def test_larger_than_allowed_is_told(hosts: Hosts) -> None:
    """A state above the size budget is not saved; the reason says so, and no file stays."""
    host = hosts()
    host.run("data = bytearray(2 << 20)")
    lend(host, max_bytes=1 << 20)
    host.daemon.send("save", id="one")
    assert "larger than a checkpoint may be" in host.daemon.wait_for("saved", id="one")["reason"]
    assert os.listdir(host.directory / "checkpoints") == []


def test_limit_on_files_bounds_a_checkpoint(hosts: Hosts) -> None:
    """A session with a limit on the size of files (`ulimit -f`) is saved as far as that allows."""
    host = hosts()
    host.run("import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); x = 1")
    assert save(host)["reason"] is None
    host.run("data = bytearray(2 << 20)")
    host.daemon.send("save", id="two")
    assert "larger" in host.daemon.wait_for("saved", id="two")["reason"]


def test_files_are_private(hosts: Hosts) -> None:
    """Directory and files of a checkpoint are the user's alone, and its header is JSON that people can read."""
    host = hosts()
    host.run("x = 1")
    save(host)
    place = host.directory / "checkpoints" / "one"
    for path, mode in ((place.parent, 0o700), (place, 0o700), (place / "state", 0o600), (place / "header.json", 0o600)):
        assert path.stat().st_mode & 0o777 == mode, path
    header = json.loads((place / "header.json").read_text())
    assert header["variables"] == ["x"] and header["identity"]["implementation"] == "cpython"


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def _reword(file: Path) -> None:
    header = json.loads(file.read_text())
    header["identity"]["version"] = "2.7"
    file.write_text(json.dumps(header))


def _link(file: Path) -> None:
    other = file.with_name("elsewhere")
    os.rename(file, other)
    os.symlink(other, file)


def _reword_count(file: Path) -> None:
    file.write_text(re.sub('"execution_count": [0-9]+', '"execution_count": null', file.read_text()))


DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "cut": ("state", lambda file: os.truncate(file, 100), "is torn: 100 of"),
    "flipped": ("state", _flip, "not as it was written"),
    "gone": ("state", os.unlink, "cannot be read: No such file"),
    "linked": ("state", _link, "cannot be read: Too many levels of symbolic links"),
    "header cut": ("header.json", lambda file: os.truncate(file, 100), "its header is not JSON"),
    "header of another kind": ("header.json", _reword_count, "is not one of ours"),
    "header without end": ("header.json", lambda file: file.write_text('{"a": ' + "[" * 100_000), "is not JSON"),
    "other interpreter": ("header.json", _reword, "made by another interpreter (version 2.7)"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_refused_in_words(hosts: Hosts, damage: str) -> None:
    """A checkpoint that is not what was written is not loaded; the session is as fresh, and says why."""
    file, harm, words = DAMAGES[damage]
    host = hosts()
    host.run("x = 1")
    saved = save(host)
    harm(host.directory / "checkpoints" / "one" / file)
    successor = hosts()
    loaded = move(host, successor, saved)
    assert words in loaded["reason"], loaded
    assert successor.run("'x' in globals()").value == "False"


def test_state_that_cannot_be_loaded_leaves_the_session_fresh(hosts: Hosts, tmp_path: Path) -> None:
    """What raises while it is loaded is told; directory, path and environment are then as they were."""
    host = hosts()
    mark = tmp_path / "mark"
    host.run(
        f"import os\nclass Thing:\n  def __setstate__(self, state): 1 / (not os.path.exists({str(mark)!r}))\n"
        "os.environ['MARK'] = 'x'; os.umask(0o027); thing = Thing(); thing.n = 1"
    )
    saved = save(host)
    assert (saved["reason"], saved["left_out"]) == (None, {})
    mark.touch()
    successor = hosts()
    loaded = move(host, successor, saved)
    assert loaded["reason"].startswith("thing: ZeroDivisionError")
    done = successor.run("import os; 'MARK' in os.environ, 'thing' in globals(), os.getcwd(), os.umask(0o022) == 0o027")
    assert done.value == repr((False, False, str(successor.work), False))


UNLOADABLE = """
class ApiError(Exception):
    def __init__(self, code, text): super().__init__(f"{code}: {text}"); self.code = code
class Proxy:
    def __init__(self, of): self._of = of
    def __getattr__(self, name): return getattr(self._of, name)
class Node:
    def __init__(self, name): self.name, self.near = name, set()
    def __hash__(self): return hash(self.name)
class Deadly:
    def __reduce__(self): return __import__('os')._exit, (3,)
import sys, types
sys.modules['hand'] = hand = types.ModuleType('hand')
exec("class Made: pass", vars(hand)); hand.Made.__module__ = 'hand'
error, proxy, a, b, made, deadly = ApiError(404, 'no'), Proxy([]), Node('a'), Node('b'), hand.Made(), Deadly()
a.near, b.near = {b}, {a}
del hand
precious = list(range(1000)); also = precious
"""


def test_values_that_cannot_be_loaded_are_left_out_by_name(hosts: Hosts) -> None:
    """What would raise when it is loaded is left out with its reason when it is saved, and costs no other later."""
    host, saved, loaded = wake(hosts, UNLOADABLE)
    assert loaded["lost"] == {}
    assert set(saved["left_out"]) == {"error", "proxy", "a", "b", "made", "deadly"}
    assert "missing 1 required positional argument" in saved["left_out"]["error"]
    assert "made by hand" in saved["left_out"]["made"]
    assert saved["left_out"]["deadly"] == "loading it again ends its process"
    assert host.run("precious == list(range(1000)), also is precious, str(ApiError(1, 'x'))").value == (
        "(True, True, '1: x')"
    )


def test_loading_finds_what_it_needs(hosts: Hosts) -> None:
    """Code that runs while a value is loaded finds functions, classes and plain values, also those made after it."""
    code = (
        "from threading import Lock\n"
        "class Counter:\n"
        "  def __init__(self): self.n = 7; self.lock = Lock()\n"
        "  def __getstate__(self): return {'n': self.n}\n"
        "  def __setstate__(self, state): self.n = state['n'] + STEP; self.lock = Lock()\n"
        "class Key:\n  def __init__(self, n): self.n = n\n  def __hash__(self): return hash((SALT, self.n))\n"
        "class Meta(type):\n"
        "  def __new__(cls, name, bases, space): return super(Meta, cls).__new__(cls, name, bases, space)\n"
        "class Made(metaclass=Meta): pass\n"
        "class Odd:\n  def __init__(self, x): self.x = x\n  def __reduce__(self): return rebuild, (self.x,)\n"
        "counter, table, odd = Counter(), {}, Odd(3)\n"
        "SALT, STEP = 5, 1; table[Key(1)] = 'one'\n"
        "def rebuild(x): return Odd(x)\n"
    )
    host, saved, loaded = wake(hosts, code)
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    assert host.run("counter.n, counter.lock.locked(), [*table.values()], odd.x, type(Made) is Meta").value == (
        "(8, False, ['one'], 3, True)"
    )


def test_what_cannot_be_imported_any_more_costs_what_uses_it(hosts: Hosts) -> None:
    """A function that was renamed, a module that is gone: what held them is named, and the rest comes back."""
    host = hosts(files={"helpers.py": "def load(): return 1\nclass Thing: pass", "going.py": "class Gone: pass"})
    host.run(
        "import going\nfrom helpers import load, Thing\n"
        "parts = {'load': load, 'n': 7}; thing = Thing(); gone = going.Gone(); other = going.Gone(); x = 5\n"
        "again, deep, modules = load, [[parts]], [going]\n"
        "class Late(going.Gone): pass\n"
        "def call(what=load): return x\n"
    )
    saved = save(host)
    os.unlink(host.work / "going.py")
    (host.work / "helpers.py").write_text("def read(): return 1\nclass Thing: pass")
    successor = hosts()
    loaded = move(host, successor, saved)
    assert loaded["reason"] is None
    whole, in_part = {"going", "load", "again", "gone", "other"}, {"parts", "deep", "modules", "Late", "call"}
    assert set(loaded["lost"]) == whole | in_part and "helpers.load" in loaded["lost"]["load"]
    assert all(loaded["lost"][name].startswith("in part: ") for name in in_part - {"modules", "Late"})
    assert successor.run("x, parts['n'], type(thing).__module__, call()").value == "(5, 7, 'helpers', 5)"
    assert successor.run(f"[name for name in {sorted(whole)!r} if name in globals()]").value == "[]"


@pytest.mark.parametrize("python", INTERPRETERS.values(), ids=INTERPRETERS.keys())
def test_enumerations_come_back_whole(hosts: Hosts, python: str) -> None:
    """Aliases, and what members have of their own; what cannot be made again is left out by name."""
    code = (
        "from enum import Enum, Flag, auto\n"
        "class Planet(Enum):\n  MERCURY = (3, 2)\n  def __init__(self, mass, radius): self.mass = mass\n"
        "class Coded(Enum):\n"
        "  def __new__(cls, code, label):\n"
        "    made = object.__new__(cls); made._value_ = code; made.label = label; return made\n"
        "  A = (1, 'one')\n"
        "class Color(Enum): RED = 1; CRIMSON = 1; BLUE = 2\n"
        "class Mode(Flag):\n  R = auto()\n  W = auto()\n  RW = R | W\n"
        "class Mixed(int, Enum):\n  ONE = 1\n  def twice(self): return self * 2\n"
        "class Strange(bytes, Enum):\n"
        "  def __new__(cls, n, label): made = bytes.__new__(cls, [n]); made._value_ = n; return made\n"
        "  A = (0, 'a')\n"
        "red, mode = Color.RED, Mode.R | Mode.W\n"
    )
    host, saved, loaded = wake(hosts, code, python=python)
    assert (set(saved["left_out"]), loaded["lost"]) == ({"Strange"}, {})
    asked = "Planet.MERCURY.mass, Coded.A.label, Coded(1) is Coded.A, Color['CRIMSON'] is red, list(Color.__members__)"
    assert host.run(asked).value == "(3, 'one', True, True, ['RED', 'CRIMSON', 'BLUE'])"
    assert host.run("mode is Mode.RW, Mixed.ONE.twice(), Mixed(1) is Mixed.ONE").value == "(True, 2, True)"
    assert (again := save(host, "two"))["reason"] is None and set(again["left_out"]) == set()


def test_what_is_one_stays_one(hosts: Hosts) -> None:
    """The marks that modules compare by identity, the environment and the path of imports are this process's."""
    code = (
        "import dataclasses, os, sys\nfrom dataclasses import MISSING, dataclass, field\nfrom os import environ\n"
        "from sys import path\n"
        "@dataclass\nclass P:\n  x: int\n  y: list = field(default_factory=list)\n"
        "bare = object()"
    )
    host, saved, loaded = wake(hosts, code)
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    same = "MISSING is dataclasses.MISSING, dataclasses.fields(P)[0].default is MISSING, environ is os.environ"
    assert host.run(f"{same}, path is sys.path").value == "(True, True, True, True)"
    assert "missing 1 required" in host.run("@dataclass\nclass Q(P): z: int = 3\nQ()").output


def test_settings_of_the_process_come_back(hosts: Hosts) -> None:
    """umask, time zone, recursion limit and sys.argv."""
    code = (
        "import os, sys, time\nos.umask(0o077); os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()\n"
        "sys.setrecursionlimit(5000); sys.argv = ['me', '-x']"
    )
    host, saved, loaded = wake(hosts, code)
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    assert host.run("os.umask(0o022), time.tzname[0], time.localtime(0).tm_hour").value == "(63, 'JST', 9)"
    assert host.run("sys.getrecursionlimit(), sys.argv").value == "(5000, ['me', '-x'])"


def test_one_value_that_cannot_be_loaded_costs_no_other(hosts: Hosts) -> None:
    """What shares with it, what calls its class's base by name, what is keyed by members of an enumeration: all of it
    loads, as it will without the one that does not."""
    code = (
        "from enum import Enum\n"
        "class Bad(Exception):\n  def __init__(self, a, b): super().__init__(a)\n"
        "class Base:\n  def __setstate__(self, state): self.__dict__.update(state)\n"
        "class Kept(Base):\n  def __setstate__(self, state): super(Kept, self).__setstate__(state)\n"
        "class Col(Enum):\n  R = 1\n"
        "TABLE = {Col.R: 'red'}\n"
        "class Looks:\n  def __init__(self): self.col = Col.R\n"
        "  def __setstate__(self, state): self.name = TABLE[state['col']]\n"
        "bad, kept, looks = Bad(1, 2), Kept(), Looks(); kept.n = 4; shared = [1, 2]; both = [shared, shared]\n"
    )
    host, saved, loaded = wake(hosts, code)
    assert (set(saved["left_out"]), loaded["lost"]) == ({"bad"}, {})
    assert host.run("kept.n, looks.name, both[0] is shared").value == "(4, 'red', True)"


def test_large_state_is_tried_in_part(hosts: Hosts) -> None:
    """Of a state that is too large to be loaded on trial the small variables are, and the large ones are kept."""
    code = (
        "class Bad(Exception):\n  def __init__(self, a, b): super().__init__(a)\n"
        "large, bad, small = bytes(70 << 20), Bad(1, 2), [1]"
    )
    host, saved, loaded = wake(hosts, code)
    assert (set(saved["left_out"]), loaded["lost"]) == ({"bad"}, {})
    assert host.run("len(large) >> 20, small").value == "(70, [1])"


def test_what_is_not_tried_in_time_is_saved(hosts: Hosts) -> None:
    """Half of the time for a save is for the trial: what it has not come to by then is no fault of a variable's."""
    host = hosts()
    host.run("class Slow:\n  def __setstate__(self, state): __import__('time').sleep(1000)\nx = Slow(); x.n = 1")
    lend(host, budget_s=4.0)
    host.daemon.send("save", id="one")
    saved = host.daemon.wait_for("saved", id="one")
    assert (saved["reason"], saved["left_out"]) == (None, {})


def test_checkpoint_of_the_format_before(hosts: Hosts) -> None:
    """All variables in one pickle, as a header of format 1 tells: it is taken up as ever."""
    host = hosts()
    host.run("import os; x = 5")
    saved = save(host)
    place = Path(host.directory) / "checkpoints" / "one"
    surroundings = {
        "path": ["/old"], "directory": "/", "environment": {"MARK": "old"}, "modules": {"os": "os"},
        "submodules": [], "sources": {}, "places": [], "extra": {"flags": 0},
    }  # fmt: skip
    state = pickle.dumps(surroundings, 4) + pickle.dumps({"x": 7, "builtins._": 42}, 5)
    (place / "state").write_bytes(state)
    saved["sha256"] = hashlib.sha256(state).hexdigest()
    header = json.loads((place / "header.json").read_text())
    header |= {"format": 1, "size": len(state), "sha256": saved["sha256"]}
    (place / "header.json").write_text(json.dumps(header))
    successor = hosts()
    loaded = move(host, successor, saved)
    assert (loaded["reason"], loaded["lost"]) == (None, {})
    assert successor.run("x, _, os.environ['MARK'], os.getcwd()").value == "(7, 42, 'old', '/')"


def test_trial_that_nobody_hears_ends(hosts: Hosts, tmp_path: Path) -> None:
    """Where the process that saves is killed while something hangs on trial, that ends by itself."""
    host, mark = hosts(), tmp_path / "trial"
    host.run(
        "import os, time\nclass Hangs:\n"
        f"  def __setstate__(self, state): open({str(mark)!r}, 'w').write(str(os.getpid())); time.sleep(1000)\n"
        "x = Hangs(); x.n = 1"
    )
    lend(host, budget_s=2.0)
    host.daemon.send("save", id="one")
    until(lambda: mark.exists() and mark.read_text() != "", "it is on trial")
    trial = int(mark.read_text())
    os.kill(parent(trial), signal.SIGKILL)
    until(lambda: not is_alive(trial), "the trial ends")
    assert host.daemon.wait_for("saved", id="one")["reason"] is not None


@pytest.mark.parametrize("ignores", ["signal.SIGCHLD", "signal.SIGUSR2"])
def test_signals_that_are_ignored(hosts: Hosts, ignores: str) -> None:
    """A session that ignores its children's ends is saved as any other, and goes on ignoring what it ignored."""
    host, saved, loaded = wake(hosts, f"import signal\nsignal.signal({ignores}, signal.SIG_IGN); x = 5")
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    assert host.run(f"x, signal.getsignal({ignores}) is signal.SIG_IGN").value == "(5, True)"


def test_values_that_pretend_to_be_others(hosts: Hosts) -> None:
    """A proxy whose `__class__` raises is left out by name."""
    host, saved, loaded = wake(hosts, "import weakref\nclass A: pass\na = A(); p = weakref.proxy(a); del a; x = 5")
    assert (set(saved["left_out"]), loaded["lost"]) == ({"p"}, {})
    assert host.run("x").value == "5"


def test_what_modules_have_one_of(hosts: Hosts) -> None:
    """Only what has no state is taken from the module again; what has some comes back with it."""
    helpers = (
        "class Registry(dict): pass\nREG = Registry()\n"
        "class Pt:\n  __slots__ = ('x', 'y')\n  def __init__(self, x, y): self.x, self.y = x, y\n"
        "ORIGIN = Pt(0, 0)\n"
        "class Api: pass\n"
        "def api():\n  global _api\n  _api = Api()\n  return _api\n"
        "NOTHING = Api()\n"
    )
    host = hosts(files={"helpers.py": helpers})
    host.run("import helpers\nfrom helpers import *\nREG['a'] = 1; ORIGIN.x = 7; client = helpers.api(); x = 5")
    saved = save(host)
    assert (saved["reason"], saved["left_out"]) == (None, {})
    successor = hosts(files={"helpers.py": helpers})
    loaded = move(host, successor, saved)
    assert (loaded["reason"], loaded["lost"]) == (None, {})
    assert successor.run("REG, ORIGIN.x, type(client).__name__, NOTHING is helpers.NOTHING").value == (
        "({'a': 1}, 7, 'Api', True)"
    )


def test_low_recursion_limit(hosts: Hosts) -> None:
    """A limit that loading would not keep to is in force afterwards."""
    host, saved, loaded = wake(hosts, "import sys\nx = [[[[1]]]]; sys.setrecursionlimit(80)")
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    assert host.run("x, sys.getrecursionlimit()").value == "([[[[1]]]], 80)"


def test_handlers_of_signals_come_back(hosts: Hosts) -> None:
    """What the session does at a signal it does in the next process; a timer that runs is an obstacle."""
    code = (
        "import os, signal\nn = 0\n"
        "def count(*_):\n  global n\n  n += 1\n"
        "signal.signal(signal.SIGALRM, count); signal.signal(signal.SIGUSR1, count); signal.alarm(1000)"
    )
    host, saved, loaded = wake(hosts, code)
    assert saved["obstacles"] == ["timer ITIMER_REAL"]
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    assert host.run("os.kill(os.getpid(), signal.SIGUSR1); signal.raise_signal(signal.SIGALRM); n").value == "2"


def test_what_a_library_reads_is_no_obstacle(hosts: Hosts, tmp_path: Path) -> None:
    """A font, or a file of an installed package, that is open for reading; not one that is written."""
    font, package = tmp_path / "sans.TTF", tmp_path / "site-packages"
    package.mkdir()
    for file in (font, package / "data.bin"):
        file.touch()
    code = f"import os\nfor file in ({str(font)!r}, {str(package / 'data.bin')!r}): os.open(file, os.O_RDONLY)"
    host = hosts()
    host.run(code)
    assert save(host)["obstacles"] == []
    host.run(f"os.open({str(font)!r}, os.O_RDWR)")
    assert ["sans.TTF" in one for one in save(host, "two")["obstacles"]] == [True]


def test_json_is_the_users_to_change(hosts: Hosts) -> None:
    """What the session does to `json` changes nothing for its host."""
    code = "import json\njson.dumps = json.loads = json.load = lambda *a, **k: 'mine'\ngröße = 1"
    host, saved, loaded = wake(hosts, code)
    assert (saved["left_out"], loaded["lost"]) == ({}, {})
    assert host.run("größe").value == "1"


def test_module_that_is_gone_costs_its_name_alone(hosts: Hosts) -> None:
    """An import that fails at the wake is lost by name; everything else is there."""
    host = hosts(files={"helper.py": ""})
    host.run("import helper\nx = 1")
    saved = save(host)
    os.unlink(host.work / "helper.py")
    successor = hosts()
    loaded = move(host, successor, saved)
    assert loaded["reason"] is None and list(loaded["lost"]) == ["helper"]
    assert successor.run("x").value == "1"


def test_idle_host_saves_itself_at_sigterm(hosts: Hosts) -> None:
    """SIGTERM at rest: a checkpoint, told in the log, and exit functions are left to whoever goes on."""
    host = hosts()
    host.run("import atexit\natexit.register(open, 'exited', 'w'); x = 1")
    lend(host)
    os.kill(host.pid, signal.SIGTERM)
    host.wait()
    saved, bye = host.log_frames[-2:]
    assert (saved["t"], saved["reason"], bye["t"]) == ("saved", None, "bye"), host.log_frames
    assert not (host.work / "exited").exists(), str(saved)


def test_incomplete_session_ends_at_sigterm_as_before(hosts: Hosts) -> None:
    """What cannot be saved whole is saved as far as it goes, and its exit functions run."""
    host = hosts()
    host.run("import atexit\natexit.register(open, 'exited', 'w'); x = (i for i in ())")
    lend(host)
    os.kill(host.pid, signal.SIGTERM)
    host.wait()
    assert list(host.log_frames[-2]["left_out"]) == ["x"]
    assert (host.work / "exited").exists()
