"""One daemon per state directory, in directories that are its user's alone: the lock, the take-over, the API socket.

Knows files and processes; nothing of HTTP or sessions.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import Callable

from omega_sessiond import paths
from omega_sessiond.errors import AlreadyRunning, RuntimeDirError
from omega_sessiond.process import start_time

log = logging.getLogger("omega_sessiond.ownership")

BACKLOG = 4096
"""Connections the kernel holds while we start or are busy; systemd's own figure."""

LISTENS = b"00010000"
"""The flags of a listening socket in /proc/net/unix (__SO_ACCEPTCON, include/linux/net.h)."""

LOOK_AGAIN_S = 0.02
"""Between attempts at a held lock. A blocking flock could not watch who holds it."""

PATIENCE_S = 20.0
"""How long a daemon that was asked to leave may take. Then it is killed: it owns nothing, and hung daemons exist."""


def make_private(directory: str) -> None:
    """Create a directory 0700, or hold an existing one against that. Raises RuntimeDirError with the remedy."""
    try:
        try:
            paths.make_private(directory)
        except FileExistsError:
            pass
        status = os.lstat(directory)
    except OSError as error:
        raise _cannot_create(error.filename or directory, error.strerror) from None
    _refuse_of_others(directory, status)


def look(directory: str) -> None:
    """What `make_private` would trip over, as far as can be seen; changes nothing. Raises RuntimeDirError."""
    try:
        status = os.lstat(directory)
    except FileNotFoundError:
        above = os.path.dirname(directory)
        while not os.path.lexists(above):
            above = os.path.dirname(above)
        if not os.path.isdir(above):
            raise _cannot_create(directory, f"{above} is not a directory") from None
        if not os.access(above, os.W_OK | os.X_OK):
            raise _cannot_create(directory, f"{above} cannot be written to") from None
    except OSError as error:
        raise _cannot_create(directory, error.strerror) from None
    else:
        _refuse_of_others(directory, status)


def _cannot_create(directory: str, why: str | None) -> RuntimeDirError:
    return RuntimeDirError(
        f"Cannot create {directory}: {why}", hint="Check the permissions and the file system of the directory above it."
    )


def _refuse_of_others(directory: str, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise RuntimeDirError(f"{directory} is a symbolic link", hint=f"Remove the link: rm {directory}")
    if not stat.S_ISDIR(status.st_mode):
        raise RuntimeDirError(f"{directory} is not a directory", hint=f"Move it away: mv {directory}{{,.old}}")
    if status.st_uid != os.getuid():
        raise RuntimeDirError(
            f"{directory} belongs to uid {status.st_uid}, not to yours ({os.getuid()})",
            hint="Check XDG_RUNTIME_DIR and SESSION_DIR (did you come here with su or sudo?), or remove the directory.",
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise RuntimeDirError(
            f"{directory} is open to others (mode {stat.S_IMODE(status.st_mode):04o})",
            hint=f"chmod 700 {directory}",
        )


def prepare(state_dir: str, each: Callable[[str], None] = make_private) -> None:
    """All directories of a daemon; `each` is what is done with one. Raises RuntimeDirError."""
    runtime_dir = paths.runtime_dir(state_dir)
    longest = max(paths.api_socket(state_dir), paths.host_socket(state_dir, "x" * 12), key=len)
    size = len(os.fsencode(longest))
    if size > paths.MAX_SOCKET_PATH_BYTES:
        raise RuntimeDirError(
            f"The path of a socket in {runtime_dir} would have {size} bytes, "
            f"and {paths.MAX_SOCKET_PATH_BYTES} is the system's limit",
            hint="Set XDG_RUNTIME_DIR or SESSION_DIR to a shorter path.",
        )
    for directory in (state_dir, state_dir + "/sessions", runtime_dir, runtime_dir + "/hosts"):
        each(directory)


def find_hosts(state_dir: str) -> None:
    """Have hosts that a daemon with another runtime directory has started be found by way of ours as well: without
    systemd whoever comes first starts the daemon, and may have come by `su` or cron. For who holds the lock."""
    note, hosts = paths.hosts_note(state_dir), paths.runtime_dir(state_dir) + "/hosts"
    try:
        try:
            with open(note, "rb") as file:
                before = os.fsdecode(file.read())
        except FileNotFoundError:
            before = ""
        if before == hosts:
            return
        for entry in os.scandir(before) if os.path.isdir(before) else ():
            ours = f"{hosts}/{entry.name}"
            if not entry.name.endswith(".sock"):
                continue
            if os.path.lexists(ours):
                if entry.is_symlink():  # it leads to a place that we, or one before us, had
                    continue
                os.unlink(ours)  # of an earlier host: this one listens where the last daemon had its own
            os.symlink(entry.path, ours)
        with open(note, "wb") as file:
            file.write(os.fsencode(hosts))
    except OSError as error:
        log.warning("sessions of an earlier daemon may not be found: %s: %s", error.filename, error.strerror)


class Lock:
    """The state directory's lock, held until the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_inheritable(descriptor, False)
        os.ftruncate(descriptor, 0)
        self._end = os.pwrite(descriptor, f"{os.getpid()} {start_time(os.getpid())}\n".encode(), 0)

    def tell(self, socket_path: str) -> None:
        """Say where we listen. A client with another runtime directory than ours, as after `su`, finds us by it."""
        os.pwrite(self._descriptor, os.fsencode(socket_path) + b"\n", self._end)

    def release(self) -> None:
        os.close(self._descriptor)

    @classmethod
    def inherited(cls, descriptor: int, file: str) -> Lock | None:
        """The lock a client took for us, if `descriptor` is that file and locked by us."""
        try:
            ours, named = os.fstat(descriptor), os.stat(file)
            if (ours.st_dev, ours.st_ino) != (named.st_dev, named.st_ino):
                return None
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return None
        return cls(descriptor)

    @classmethod
    def take(cls, file: str) -> Lock:
        """Take it at once. Raises AlreadyRunning, which names the holder."""
        descriptor = _open(file)
        if _try(descriptor):
            return cls(descriptor)
        holder = _holder(descriptor)
        os.close(descriptor)
        who = f"The daemon with pid {holder[0]}" if holder else "Another process"
        raise AlreadyRunning(f"{who} holds {file}")

    @classmethod
    def take_over(cls, file: str, still_waiting: Callable[[], None]) -> Lock:
        """Ask who holds it to leave, wait, and take it. `still_waiting` is called again and again meanwhile."""
        descriptor = _open(file)
        asked: dict[tuple[int, int], float] = {}
        while not _try(descriptor):
            holder = _holder(descriptor)
            if holder is not None:
                # None yet: a client holds it and is about to start a daemon, which will write its name.
                since = asked.get(holder)
                if since is None:
                    asked[holder] = time.monotonic()
                    _signal(holder, signal.SIGTERM)
                elif time.monotonic() - since > PATIENCE_S:
                    _signal(holder, signal.SIGKILL)
            still_waiting()
            time.sleep(LOOK_AGAIN_S)
        return cls(descriptor)


def _open(file: str) -> int:
    try:
        return os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RuntimeDirError(f"Cannot open {file}: {error.strerror}", hint="Make it yours, or remove it.") from None


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _holder(descriptor: int) -> tuple[int, int] | None:
    """Pid and start time of the living daemon that wrote its name into the lock file."""
    try:
        pid, started = map(int, os.pread(descriptor, 64, 0).partition(b"\n")[0].split())
    except ValueError:
        return None
    return (pid, started) if pid > 1 and pid != os.getpid() and start_time(pid) == started else None


def _signal(holder: tuple[int, int], number: signal.Signals) -> None:
    """By pidfd, looked at once more after it was opened: a pid used again is never hit."""
    pid, started = holder
    try:
        if not hasattr(os, "pidfd_open"):
            os.kill(pid, number)
            return
        pidfd = os.pidfd_open(pid)
        try:
            if start_time(pid) == started:
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)
    except ProcessLookupError:
        pass  # gone by itself


def _is_listened_on(path: str) -> bool:
    """Whether a listener has this name. Looked up where the system tells: a connection would start systemd's daemon."""
    try:
        with open("/proc/net/unix", "rb") as table:
            rows = [line.split(maxsplit=7) for line in table]
    except OSError:
        return False
    name = os.fsencode(path)
    # Flags with ACCEPTCON are those of listeners.
    return os.path.lexists(path) and any(
        len(row) == 8 and row[7].rstrip() == name and row[3] == LISTENS for row in rows
    )


class ApiSocket:
    """The socket file of a daemon that systemd does not serve. The lock is held whenever it is touched."""

    def __init__(self, path: str) -> None:
        self.path = path
        status = os.lstat(path)
        self._identity = status.st_dev, status.st_ino

    @classmethod
    def bind(cls, path: str) -> tuple[socket.socket, ApiSocket]:
        """Listen on `path`; what an earlier daemon left there is removed. Raises RuntimeDirError, and AlreadyRunning
        where somebody listens there: systemd, for no daemon does who holds the lock not."""
        if _is_listened_on(path):
            raise AlreadyRunning(
                f"systemd listens on {path} and starts the daemon at the first request",
                hint="To run it by hand, stop that first: 'omegactl service stop'; 'omegactl service start' undoes it.",
            )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            if stat.S_ISSOCK(os.lstat(path).st_mode):
                os.unlink(path)
        except FileNotFoundError:
            pass
        try:
            listener.bind(path)
        except OSError as error:
            listener.close()
            what = "something else has this name" if error.errno == errno.EADDRINUSE else error.strerror
            raise RuntimeDirError(f"Cannot listen on {path}: {what}", hint=f"Remove it: rm {path}") from None
        finally:
            os.umask(before)
        listener.listen(BACKLOG)
        return listener, cls(path)

    @property
    def is_ours(self) -> bool:
        """Whether clients who go by the path still come to us."""
        try:
            status = os.lstat(self.path)
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._identity

    def remove(self) -> None:
        if self.is_ours:
            os.unlink(self.path)
