"""The fork server: a process that has loaded all of a host's code. Forked from it, a spare waits; a session that is
wanted is an order to it, which it becomes in less than a millisecond.

`serve` returns in a child that is to be a session, in the state of a process that has just been started. The server
waits for its daemon and for its children's ends, and ends when the daemon does; hosts live on. Knows processes and
descriptors; what a host is, main knows.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import gc
import os
import select
import signal
import site
import sys
import time
import traceback
from importlib import import_module
from typing import Any, Dict, List, Optional, Sequence, Set, Tuple

from omega_sessiond import wire
from omega_sessiond.hosts import procfs, title
from omega_sessiond.hosts.rehearsal import Rehearsal as Rehearsal
from omega_sessiond.hosts.rehearsal import Stage

QUIET_MS, UNREHEARSED = 200, 4
"""When there is time for the rehearsal: nobody has wanted a host for so long, who waited for the first session has it;
or so many were wanted without a pause that there will be more."""

MAX_FDS = 8
FD_BYTES = 4
CONNECTIONS = ("control", "command")

PRELOAD_S = 120
"""An import that takes longer hangs: SIGALRM ends the server, and the daemon starts one without it."""

STEP_S = 30
"""Of the rehearsal, a few milliseconds. What hangs in it ends: nobody could tell the server to."""

Connections = Sequence[_socket.socket]
Mark = Optional[Tuple[int, int, int]]


class Birth:
    """What a spare is to be: the session's launch file as it was read, two descriptors, and the daemon's hello."""

    def __init__(self, order: wire.Frame, launch: wire.Frame, listener: int, trouble: int) -> None:
        self.hello = order["hello"]
        self.launch = launch
        self.listener = listener
        self.trouble = trouble
        self._file = str(order["launch"])
        self._birth_log = str(order["birth_log"])

    def show(self, where: title.Place) -> None:
        """Have others see whose process this is."""
        title.put([sys.executable, sys.argv[0], self._file], where)

    def fail(self, error: Exception) -> None:
        """It cannot become that: whoever waits for the session is told why."""
        tell(self._birth_log, error)


class ForkServer:
    """One server's connection to its daemon, and its children."""

    def __init__(self, connection: int) -> None:
        os.set_inheritable(connection, False)
        self._sock = _socket.socket(fileno=connection)
        self._sock.setblocking(True)
        self._out, self._in = os.pipe()
        os.set_blocking(self._in, False)
        os.set_blocking(self._out, False)
        self._children: Set[int] = set()
        self._retired = False
        self._births = 0
        self._rehearsal: Optional[Rehearsal] = None
        self._stage: Optional[Stage] = None
        self._environment: Dict[str, str] = {}
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(self._out, select.POLLIN)
        self._title = title.place()
        # Until one is a session's, without the room that was made for its arguments.
        title.put([sys.executable, *sys.argv[:3]], self._title)
        self._sigchld = _signal.signal(_signal.SIGCHLD, _wake)
        signal.set_wakeup_fd(self._in, warn_on_full_buffer=False)
        self._sigint = _signal.signal(_signal.SIGINT, _signal.SIG_IGN)  # ^C in the daemon's terminal is the daemon's
        self._seen = {path: _mark(path) for path in _read_at_start()}
        os.chdir("/")

    def begin(self) -> None:
        """Say that we are here, import what is to be imported, and wait until somebody wants a host."""
        self._ready([], {}, False)
        self._attend()

    def serve(self, rehearsal: Rehearsal) -> Spare:
        """Fork a spare whenever the daemon wants one; returns in a spare. Between two of them is the rehearsal."""
        gc.disable()
        _settle()
        self._rehearsal = rehearsal
        self._environment = dict(os.environ)
        try:
            while True:
                spare = self._fork()
                if spare is not None:
                    return spare
                self._attend()
        except Exception:  # the outermost edge: sys.stderr is a session's already
            os.write(2, traceback.format_exc().encode("utf-8", "backslashreplace"))
            os._exit(1)

    def spare(self, connections: Connections) -> Spare:
        """What this process would be as a child, with these connections to the daemon."""
        return Spare(connections, self._title, self._environment)

    def _attend(self) -> None:
        """Do as the daemon says; returns when that is a fork."""
        while True:
            rehearsal = self._rehearsal
            ready = self._poll.poll(None if rehearsal is None else 0 if rehearsal.is_on else QUIET_MS)
            if rehearsal is not None and (not ready or self._births >= UNREHEARSED) and self._has_rehearsed(rehearsal):
                self._rehearsal = None
                _settle()
                self._say({"t": "rehearsed"})
            for descriptor, _ in ready:
                if descriptor == self._out:
                    self._reap()
                    continue
                order, _ = receive(self._sock)
                kind = order.get("t")
                if kind == "fork":
                    return
                if kind == "preload":
                    self._preload([str(name) for name in order["packages"]])
                elif kind == "stage":
                    self._stage = Stage(str(order["directory"]), str(order["lent"]))
                elif kind == "retire":
                    self._retired = True
            if self._retired and not self._children:
                os._exit(0)

    def _has_rehearsed(self, rehearsal: Rehearsal) -> bool:
        """Go on with it; whether that was all."""
        signal.alarm(STEP_S)
        try:
            return rehearsal.go_on(self._stage)
        finally:
            signal.alarm(0)

    def _say(self, frame: wire.Frame) -> None:
        self._send(wire.pack(frame)[wire.HEADER_BYTES :], ())

    def _send(self, body: bytes, descriptors: Sequence[int]) -> None:
        data = len(body).to_bytes(wire.HEADER_BYTES, "big") + body
        rights = b"".join(descriptor.to_bytes(FD_BYTES, sys.byteorder) for descriptor in descriptors)
        try:
            sent = self._sock.sendmsg([data], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)] if rights else [])
            if sent < len(data):
                self._sock.sendall(data[sent:])
        except OSError:
            os._exit(0)

    def _ready(self, preloaded: List[str], refused: Dict[str, str], unfit: bool) -> None:
        seen = [[path, mark] for path, mark in self._seen.items()]
        self._say({"t": "ready", "preloaded": preloaded, "refused": refused, "unfit": unfit, "seen": seen})

    # ---- children ----

    def _fork(self) -> Optional[Spare]:
        """A new spare; in the child, itself."""
        pairs = [_socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM) for _ in CONNECTIONS]
        try:
            pid = os.fork()
        except OSError as error:
            self._say({"t": "failed", "reason": str(error)})
            return None
        if pid == 0:
            for ours, _ in pairs:
                ours.close()
            self._shed()
            return self.spare([theirs for _, theirs in pairs])
        self._children.add(pid)
        self._births += 1
        pidfd = os.pidfd_open(pid)
        self._send(
            b'{"t":"spare","pid":%d,"start_time":%d}' % (pid, procfs.start_time(pid)),
            [pidfd, *(ours.fileno() for ours, _ in pairs)],
        )
        os.close(pidfd)
        for pair in pairs:
            for one in pair:
                one.close()
        return None

    def _shed(self) -> None:
        """In a child: leave behind what is the server's."""
        os.setsid()
        _signal.set_wakeup_fd(-1)
        _signal.signal(_signal.SIGCHLD, self._sigchld)
        _signal.signal(_signal.SIGINT, self._sigint)
        self._sock.close()
        os.close(self._out)
        os.close(self._in)
        random = sys.modules.get("numpy.random")
        if random is not None:  # it was preloaded: its numbers would be the same in every session
            random.seed()
        gc.enable()

    def _reap(self) -> None:
        """Tell how children ended. What one left in its process group goes before its pid can be used again."""
        try:
            os.read(self._out, 4096)
        except BlockingIOError:
            pass
        while True:
            try:
                dead = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if dead is None:
                return
            pid = dead.si_pid
            if self._rehearsal is not None and pid == self._rehearsal.writer:
                self._rehearsal.writer = 0
            if pid in self._children:
                self._children.remove(pid)
                try:
                    os.killpg(pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
            _, status, usage = os.wait4(pid, 0)
            self._say({"t": "exit", "pid": pid, "status": status, "peak_kib": usage.ru_maxrss})

    # ---- packages ----

    def _preload(self, names: List[str]) -> None:
        """Import the user's packages, each only if a fork can carry what its import leaves running and open."""
        loaded: List[str] = []
        refused: Dict[str, str] = {}
        unfit = False
        for name in names:
            held = _descriptors()
            self._say({"t": "importing", "package": name})
            signal.alarm(PRELOAD_S)
            try:
                import_module(name)
            except BaseException as error:  # the package's own code
                self._end_strangers()
                refused[name] = "its import fails: %s: %s" % (type(error).__name__, str(error)[:500])
            else:
                refused_for = self._left_behind(held, self._end_strangers())
                if not refused_for:
                    loaded.append(name)
                    continue
                refused[name] = refused_for
                unfit = True
                break
            finally:
                signal.alarm(0)
        os.chdir("/")
        self._ready(loaded, refused, unfit)
        if unfit:
            os._exit(0)

    def _left_behind(self, held: Dict[int, str], children: Set[int]) -> str:
        """What an import left that no fork carries, "" for nothing. Pools of threads that end before a fork and begin
        anew when they are used (OpenBLAS) are seen to do so: a child is forked for it."""
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        threads = len(os.listdir("/proc/self/task")) - 1
        if threads:
            return "its import starts %d thread%s that a fork would not have" % (threads, "s" * (threads > 1))
        if signal.getsignal(signal.SIGCHLD) is not _wake or signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            return "its import takes over signals"
        opened = sorted(path for one, path in _descriptors().items() if one not in held)
        if opened:
            return "its import leaves %s open, which all sessions would share" % ", ".join(opened)[:300]
        return "its import starts a child process" if children else ""

    def _end_strangers(self) -> Set[int]:
        """The children that an import has started, and left to nobody who would end them."""
        strangers = procfs.children() - self._children
        for child in strangers:
            os.kill(child, signal.SIGKILL)
        return strangers


class Spare:
    """A child that is nobody's host yet, and has the connections of one. It ends when its daemon does not want it any
    more."""

    def __init__(self, connections: Connections, where: title.Place, environment: Dict[str, str]) -> None:
        self.connections = connections
        self.title = where
        self._environment = environment

    def wait(self) -> Birth:
        """Become what the daemon's order says: in the session's directory, with its environment."""
        order, descriptors = receive(self.connections[0])
        listener, trouble, directory = descriptors
        try:
            os.fchdir(directory)
            os.close(directory)
            os.umask(int(order["umask"]))
            launch = wire.unpack(procfs.contents(str(order["launch"])))
            _take_environment(self._environment, launch["env"])
        except Exception as error:  # the outermost edge, as in main
            tell(str(order["birth_log"]), error)
        return Birth(order, launch, listener, trouble)


def receive(sock: _socket.socket) -> Tuple[wire.Frame, List[int]]:
    """The daemon's next order and what came with it. The end of its connection is ours."""
    descriptors: List[int] = []
    try:
        header, ancillary, _, _ = sock.recvmsg(
            wire.HEADER_BYTES, _socket.CMSG_SPACE(MAX_FDS * FD_BYTES), _socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, data in ancillary:
            if (level, kind) == (_socket.SOL_SOCKET, _socket.SCM_RIGHTS):
                starts = range(0, len(data) - len(data) % FD_BYTES, FD_BYTES)
                descriptors += [int.from_bytes(data[at : at + FD_BYTES], sys.byteorder) for at in starts]
        if not header:
            os._exit(0)
        header += _read(sock, wire.HEADER_BYTES - len(header))
        return wire.unpack(_read(sock, int.from_bytes(header, "big"))), descriptors
    except OSError:
        os._exit(0)


def _read(sock: _socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            os._exit(0)
        data += piece
    return data


def tell(birth_log: str, error: Exception) -> None:
    """The last words of a spare that could not become a host: sys.stderr is a session's already."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    os.close(0)  # there is room for one more, whatever is short
    os.write(os.open(birth_log, flags, 0o600), repr(error).encode("utf-8", "backslashreplace"))
    os._exit(1)


def _wake(signum: int, frame: Any) -> None:
    """The wake-up descriptor says it."""


def _settle() -> None:
    """Collect what the start has left, and move the rest where no collection in a child touches it: each page that is
    touched is one that a session has to itself. For the same reason what is done for each child, here and there, is
    done with the plainest means: the module signal makes sets of enumerations, open() a buffer and two objects."""
    gc.collect()
    gc.freeze()


def _read_at_start() -> List[str]:
    """The files and directories that decide what a fresh interpreter would be like."""
    paths = [sys.executable, os.path.realpath(sys.executable)]
    paths.append(os.path.join(os.path.dirname(os.path.dirname(sys.executable)), "pyvenv.cfg"))
    users = getattr(site, "USER_SITE", None)
    for directory in [*sys.path, users]:
        if not directory:
            continue
        paths.append(directory)
        try:
            names = os.listdir(directory)
        except OSError:
            continue
        paths.extend(os.path.join(directory, name) for name in names if name.endswith(".pth"))
    for name in ("sitecustomize", "usercustomize"):
        file = getattr(sys.modules.get(name), "__file__", None)
        if file:
            paths.append(file)
    return paths


def _mark(path: str) -> Mark:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns


def _take_environment(present: Dict[str, str], env: Dict[str, str]) -> None:
    """Make `env` the environment, as far as the interpreter did not set it itself (LC_CTYPE, PEP 538)."""
    for name in [name for name in present if name not in env and name != "LC_CTYPE"]:
        del os.environ[name]
    for name, value in env.items():
        if present.get(name) != value:
            os.environ[name] = value
    if present.get("TZ") != env.get("TZ"):
        time.tzset()


def _descriptors() -> Dict[int, str]:
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink("/proc/self/fd/" + name)
        except OSError:
            pass  # the one by which the directory was read
    return found
