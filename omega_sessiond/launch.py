"""Reaching a daemon, and starting one where systemd does not.

Whoever holds the lock file of a state directory is its daemon, or a client about to start it. A client that gets the
lock makes the listener itself and hands both to the daemon, which keeps them for life: the kernel drops the lock on
any death, and clients that come meanwhile wait in the listener's queue. Where our units are installed and a user
manager answers, nothing is started here. Knows sockets and processes; speaks no HTTP.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import stat
import struct
import sys
import time

from omega_sessiond import manager, paths
from omega_sessiond.errors import DaemonUnreachable, OmegaError, RuntimeDirError
from omega_sessiond.target import Target, check_length, managed_socket

PATIENCE_S = 30.0
"""How long to try before giving up. Shorter fails when a machine is slow, longer keeps a user waiting for an error."""

CRASHES_SHOWN = 5
"""So many daemons of ours in a row that died while starting are reported: the next one would die, too."""

SETTLED_EXITS = frozenset((2, 3, 125))
"""Exit codes of a daemon that said why it cannot run: starting it again would only repeat that."""

BACKLOG = 4096
"""As systemd's: clients that arrive together while the daemon starts wait in the kernel."""

LISTENER_FD, LOCK_FD = 3, 4
LOG_TAIL_BYTES = 4096

_START = 'cd /; LISTEN_PID=$$; export LISTEN_PID; exec "$@"'
"""The shell between us and the daemon: only the process itself can know the pid that LISTEN_PID must name, and a fork
of a process with threads, the dashboard, is no place to find it out."""


class Backoff:
    """Pauses that double up to a bound, until the patience is used up."""

    def __init__(self, patience_s: float, first_s: float = 0.005, longest_s: float = 0.5) -> None:
        self._end_at = time.monotonic() + patience_s
        self._next_s = first_s
        self._longest_s = longest_s

    def pause(self) -> bool:
        """Sleep; False, at once, when there is no patience left."""
        left = self._end_at - time.monotonic()
        if left <= 0:
            return False
        time.sleep(min(self._next_s, left))
        self._next_s = min(self._next_s * 2, self._longest_s)
        return True


def dial(path: str) -> socket.socket:
    """A connection to the daemon that listens on `path`. Raises OSError, or DaemonUnreachable for somebody else's."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(path)
        if hasattr(socket, "SO_PEERCRED"):
            # The credentials are those of whoever made the listener: its uid means something, its pid does not.
            credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            owner = struct.unpack("3i", credentials)[1]
            if owner not in (os.getuid(), 0):
                raise DaemonUnreachable(f"The daemon at {path} belongs to another user (uid {owner})", hint="")
    except BaseException:
        connection.close()
        raise
    return connection


class DaemonAsleep(DaemonUnreachable):
    """systemd listens and no daemon runs: a connection would start one, and only looking was allowed."""

    code = "daemon_asleep"


class SocketDenied(DaemonUnreachable):
    """The socket is there and we may not use it."""

    code = "socket_denied"


class Launcher:
    """Connections to the daemon of one target, which is started if need be and allowed.

    With `may_wake` false systemd is asked before each connection whether it would start a daemon, and DaemonAsleep
    raised instead.
    """

    def __init__(
        self, target: Target, *, may_start: bool = True, may_wake: bool = True, patience_s: float = PATIENCE_S
    ) -> None:
        self._target = target
        self._may_start = may_start and target.state_dir is not None
        self._may_wake = may_wake
        self._patience_s = patience_s
        self._child: int | None = None
        self._log_begins = 0
        """Where in the log its words begin."""
        self._crashes = 0

    def connect(self) -> socket.socket:
        """A connection. Raises DaemonUnreachable with the reason and the next step."""
        path = self._target.socket_path
        if wrong := check_length(path):
            message, _, hint = wrong.partition("\n")
            raise DaemonUnreachable(message, hint=hint)
        backoff = Backoff(self._patience_s)
        while True:
            if not self._may_wake and path == managed_socket():
                self._refuse_to_wake()
            try:
                return dial(path)
            except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError, ConnectionResetError):
                pass
            except BlockingIOError:
                pass  # its queue is full: it will come to us
            except PermissionError as error:
                raise SocketDenied(
                    f"Cannot connect to {path}: {error.strerror}", hint="Run 'omegactl doctor'."
                ) from None
            except OSError as error:
                raise DaemonUnreachable(
                    f"Cannot connect to {path}: {error.strerror}", hint="Run 'omegactl doctor'."
                ) from None
            self._make_listen()
            if not backoff.pause():
                raise DaemonUnreachable(f"No daemon answers at {path}", hint="Run 'omegactl doctor'.")

    def _refuse_to_wake(self) -> None:
        units = manager.look()
        if units is None or not units.are_installed or units.service.active not in ("inactive", "failed"):
            return
        if units.socket.active == "active":
            raise DaemonAsleep(
                f"The daemon sleeps: {manager.SOCKET} listens and {manager.SERVICE} is inactive",
                hint="Any request wakes it: 'omegactl ls'.",
            )
        self._wait_for_manager(units)

    def _make_listen(self) -> None:
        """One step towards a daemon that listens; returns when it is worth trying again."""
        path = self._target.socket_path
        if not self._may_start:
            raise DaemonUnreachable(f"No daemon listens at {path}", hint="'omegactl service start' starts one.")
        units = manager.look()
        if units is not None and units.are_installed:
            self._wait_for_manager(units)
            return
        state_dir = self._target.state_dir
        assert state_dir is not None, "such a target may not be started"
        lock = _take_lock(state_dir)
        if lock is None:
            return
        try:
            # Its lock is free, so that a daemon of ours has ended or is about to.
            backoff = Backoff(1.0, first_s=0.001)
            while self._child is not None and not self._has_ended(self._child, state_dir) and backoff.pause():
                pass
            try:
                dial(path).close()
            except OSError:
                self._log_begins = _log_size(state_dir)
                self._child = _start_daemon(state_dir, path, lock)
        finally:
            os.close(lock)

    def answered(self) -> None:
        """The daemon has answered: what crashed before it no longer counts."""
        self._crashes = 0

    def _wait_for_manager(self, units: manager.Units) -> None:
        """Where systemd listens for the daemon there is nothing to do but to wait, or to say what it says."""
        if units.have_failed:
            failed = " ".join(unit.name for unit in units if unit.active == "failed")
            raise DaemonUnreachable(
                f"The service has failed: {failed}",
                hint="See 'omegactl logs', then: omegactl service reset-failed",
            )
        if units.are_changing:
            return
        if units.socket.active != "active":
            raise DaemonUnreachable(
                f"The service is stopped: {manager.SOCKET} is {units.socket.active}",
                hint="'omegactl service start' starts it.",
            )
        if self._target.socket_path != managed_socket():
            raise DaemonUnreachable(
                f"The daemon of this user is run by systemd and does not serve the state directory "
                f"{self._target.state_dir} (from {self._target.origin})",
                hint=f"Set session_dir in {paths.config_file()} and restart the service, or start a daemon for it: "
                f"SESSION_DIR={self._target.state_dir} omega-sessiond",
            )
        if not os.path.lexists(self._target.socket_path):
            raise DaemonUnreachable(
                f"{manager.SOCKET} is active, yet its socket {self._target.socket_path} is gone",
                hint=f"systemctl --user restart {manager.SOCKET}",
            )

    def _has_ended(self, child: int, state_dir: str) -> bool:
        """Whether the daemon we started is gone; enough crashes are reported, with its last words."""
        try:
            pid, status = os.waitpid(child, os.WNOHANG)
        except ChildProcessError:
            pid, status = child, 0
        if pid == 0:
            return False
        self._child = None
        code = os.waitstatus_to_exitcode(status)
        if code == 0:
            return True
        self._crashes += 1
        if code in SETTLED_EXITS or self._crashes >= CRASHES_SHOWN:
            ended = f"ended with exit code {code}" if code > 0 else f"was ended by {signal.Signals(-code).name}"
            raise DaemonUnreachable(
                f"The daemon {ended} while starting:\n{log_tail(state_dir, self._log_begins)}".rstrip(),
                hint=f"Its log is {paths.daemon_log(state_dir)}; 'omegactl doctor' looks for the cause.",
            )
        return True


def _log_size(state_dir: str) -> int:
    try:
        return os.stat(paths.daemon_log(state_dir)).st_size
    except OSError:
        return 0


def log_tail(state_dir: str, start: int = 0) -> str:
    """The last words of the daemon's log, of what it has from byte `start` on."""
    try:
        with open(paths.daemon_log(state_dir), "rb") as log:
            log.seek(0, os.SEEK_END)
            end = log.tell()
            log.seek(max(end - LOG_TAIL_BYTES, start if start <= end else 0))
            lines = log.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-10:])


def make_private_dir(path: str) -> None:
    """A directory of ours alone; one that exists must be that already. Raises RuntimeDirError."""
    try:
        paths.make_private(path)
    except FileExistsError:
        pass
    except OSError as error:
        raise RuntimeDirError(
            f"Cannot make {path}: {error.strerror}", hint="Make its parent writable, or set XDG_RUNTIME_DIR."
        ) from None
    if wrong := private_dir_fault(path):
        raise RuntimeDirError(wrong[0], hint=wrong[1])


def private_dir_fault(path: str) -> tuple[str, str] | None:
    """Why a directory is not ours alone, and the remedy; None when it is."""
    try:
        found = os.lstat(path)
    except OSError as error:
        return f"Cannot look at {path}: {error.strerror}", "Make its parent readable."
    if not stat.S_ISDIR(found.st_mode):
        return f"{path} is not a directory", f"Move it away: mv {path} {path}.old"
    if found.st_uid != os.getuid():
        return f"{path} belongs to another user (uid {found.st_uid})", "Have it removed, or point XDG_RUNTIME_DIR away."
    if stat.S_IMODE(found.st_mode) & 0o077:
        mode = stat.S_IMODE(found.st_mode)
        return f"{path} can be entered by others (mode {mode:04o})", f"chmod 700 {path}"
    return None


def _take_lock(state_dir: str) -> int | None:
    """The lock file, locked, as a descriptor far from those the daemon gets; None when somebody holds it."""
    make_private_dir(state_dir)
    path = paths.lock_file(state_dir)
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RuntimeDirError(f"Cannot open {path}: {error.strerror}", hint="Make it yours and writable.") from None
    try:
        lock = _far(file)
    finally:
        os.close(file)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return None
        raise RuntimeDirError(f"Cannot lock {path}: {error.strerror}", hint="Use a local file system.") from None
    return lock


def is_locked(state_dir: str) -> bool:
    """Whether a daemon of this state directory lives, or is being started."""
    try:
        file = os.open(paths.lock_file(state_dir), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(file)
    return False


def locate(target: Target) -> Target:
    """The target with the socket at which the daemon of its state directory listens, when that is not where this shell
    looks for it: by `su`, cron or a container the two may have been given different runtime directories."""
    if target.state_dir is None:
        return target
    try:
        with open(paths.lock_file(target.state_dir), "rb") as file:
            holder, path, _ = file.read().split(b"\n")
        told = os.fsdecode(path)
        if told == target.socket_path:
            return target
        os.kill(int(holder.split()[0]), 0)  # or systemd would start one for whoever looks
        dial(told).close()
    except (OSError, ValueError, IndexError, DaemonUnreachable):
        return target  # there is none, or none that says where
    return target._replace(socket_path=told)


def _far(descriptor: int) -> int:
    """A copy at 10 or above: dup2 to 3 and 4 would overwrite one that stands there."""
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)


def _listen(path: str) -> int:
    """A listener on `path`, whose stale socket is removed: the caller holds the lock."""
    make_private_dir(os.path.dirname(path))
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        # The directory is 0700, so that nobody can connect between bind and chmod; the umask is the process's, and
        # the dashboard has threads.
        listener.bind(path)
        os.chmod(path, 0o600)
        listener.listen(BACKLOG)
        return _far(listener.fileno())
    except OSError as error:
        raise RuntimeDirError(f"Cannot listen at {path}: {error.strerror}", hint="Run 'omegactl doctor'.") from None
    finally:
        listener.close()


def daemon_command() -> list[str]:
    """How this installation starts its daemon."""
    return [sys.executable, "-I", "-m", "omega_sessiond"]


def _start_daemon(state_dir: str, path: str, lock: int) -> int:
    """Start the daemon with a listener and the lock; its pid. It has a session and a log of its own."""
    listener = _listen(path)
    log = -1
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        opened = os.open(paths.daemon_log(state_dir), flags, 0o600)
        log = _far(opened)
        os.close(opened)
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
            (os.POSIX_SPAWN_DUP2, listener, LISTENER_FD),
            (os.POSIX_SPAWN_DUP2, lock, LOCK_FD),
            *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable()),
        ]
        return os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", _START, "sh", *daemon_command()],
            _environment(state_dir),
            file_actions=actions,
            setsid=True,
            setsigmask=(),
            # A shell's background job ignores SIGINT; inherited, no session could ever be interrupted.
            setsigdef=(signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGPIPE),
        )
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        raise OmegaError(f"Cannot start the daemon: {error.strerror}{where}", hint="Run 'omegactl doctor'.") from None
    finally:
        os.close(listener)
        if log >= 0:
            os.close(log)


def _environment(state_dir: str) -> dict[str, str]:
    """Ours, with what tells the daemon how it was started and without what a service manager told us."""
    foreign = ("LISTEN_", "WATCHDOG_", "NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM", "SYSTEMD_EXEC_PID")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    if kept.get("SESSION_DIR"):
        kept["SESSION_DIR"] = state_dir  # the daemon's working directory is another
    return {
        **kept,
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "api",
        "OMEGA_LOCK_FD": str(LOCK_FD),
        "OMEGA_ACTIVATION": "client",
    }


def _inheritable() -> list[int]:
    """Descriptors above those of the daemon that our own parent left open to us: they are not the daemon's to keep."""
    found = []
    for name in os.listdir("/dev/fd"):
        descriptor = int(name)
        if descriptor > LOCK_FD:
            try:
                if os.get_inheritable(descriptor):
                    found.append(descriptor)
            except OSError:
                continue  # the listing's own
    return found
