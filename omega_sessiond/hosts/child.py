"""One program at the other end of pipes or of a pty: its birth, its bytes, its signals, what it is doing, its end.

It has a session and process group of its own, and it does not outlive this process: a shell that waits on a pipe only
we hold open kills its session when that pipe ends. Knows processes; nothing of what the bytes mean.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
from collections import deque
from typing import Deque, Dict, List, NamedTuple, Optional, Tuple

from omega_sessiond.hosts.oom import Oom

PIPE_BYTES = 1024 * 1024
"""Of a pipe's buffer, where the system grants it: a flood then costs fewer switches between the two processes."""

READ_BYTES = 64 * 1024
END_S = 1.0
"""For each step of a polite end: its input ends, SIGHUP, then SIGKILL."""

MAX_LINE_BYTES = 4095
"""termios(3): a terminal that edits lines takes no longer one."""

GUARD = 'trap "" INT TERM HUP QUIT; read _; pkill -KILL -s "$1" 2>/dev/null; kill -s KILL -- "-$1" 2>/dev/null'
TAKE_TERMINAL = 'exec "$@" <>"$0" >&0 2>&0'
"""A session's leader that opens a terminal has it for its own."""

READ_CALLS = {"x86_64": 0, "aarch64": 63, "riscv64": 63, "armv7l": 3, "i686": 3, "ppc64le": 3, "s390x": 3}
"""The number of read(2), by machine."""


class Posture(NamedTuple):
    """What a program does: `reads` our end of its input, `computes`, `waits`, is `stopped`, or `unknown`; and whether
    it has no child that does something."""

    kind: str
    cpu_ticks: int = 0
    is_alone: bool = False


class Child:
    """A running program. `out` and `err` are to be polled and read; `err` is -1 where a terminal carries both, `end`
    is a descriptor that is readable once it is dead, or -1."""

    def __init__(self, name: str, command: List[str], env: Dict[str, str], terminal: bool) -> None:
        """Raises OSError when it cannot be started."""
        self.name = name
        self.is_terminal = terminal
        self.exit_status: Optional[int] = None
        self.is_finished = False
        self.oom = Oom()
        self._end = ""
        self._killed_by_us = False
        self._unsent: Deque[bytes] = deque()
        self._slave = -1
        if terminal:
            self._start_at_terminal(command, env)
        else:
            self._start_at_pipes(command, env)
        self.pid = self._process.pid
        self.end = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else -1
        self._guard, self._guard_in = self._post_guard()

    # ---- birth ----

    def _start_at_pipes(self, command: List[str], env: Dict[str, str]) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env, bufsize=0,
            start_new_session=True,
        )  # fmt: skip
        stdin, stdout, stderr = self._process.stdin, self._process.stdout, self._process.stderr
        assert stdin is not None and stdout is not None and stderr is not None
        self.into, self.out, self.err = (os.dup(pipe.fileno()) for pipe in (stdin, stdout, stderr))
        for pipe in (stdin, stdout, stderr):
            pipe.close()
        for descriptor in (self.into, self.out, self.err):
            os.set_blocking(descriptor, False)
        _widen(self.out)
        self._input_identity = _identity(os.fstat(self.into))

    def _start_at_terminal(self, command: List[str], env: Dict[str, str]) -> None:
        import fcntl
        import termios

        master, self._slave = os.openpty()
        self.quiet_terminal()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 200, 0, 0))
        try:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", TAKE_TERMINAL, os.ttyname(self._slave), *command],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env,
                start_new_session=True,
            )  # fmt: skip
        except OSError:
            os.close(master)
            os.close(self._slave)
            raise
        self.into = self.out = master
        self.err = -1
        os.set_blocking(master, False)
        self._input_identity = _identity(os.fstat(self._slave))

    def quiet_terminal(self) -> None:
        """No echo, no carriage returns, and an interrupt throws nothing away: also when the program undid it."""
        if self._slave < 0:
            return
        import termios

        modes = termios.tcgetattr(self._slave)
        wanted = list(modes)
        wanted[1] &= ~(termios.ONLCR | termios.OPOST)
        wanted[3] = (wanted[3] & ~termios.ECHO) | termios.NOFLSH
        if wanted != modes:
            termios.tcsetattr(self._slave, termios.TCSANOW, wanted)

    @property
    def edits_lines(self) -> bool:
        """Whether a terminal collects lines for the program, of MAX_LINE_BYTES at most."""
        if self._slave < 0:
            return False
        import termios

        return bool(termios.tcgetattr(self._slave)[3] & termios.ICANON)

    def _post_guard(self) -> Tuple[Optional[subprocess.Popen[bytes]], int]:
        out, into = os.pipe()
        try:
            guard = subprocess.Popen(
                ["/bin/sh", "-c", GUARD, "sh", str(self.pid)],
                stdin=out, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
        except OSError:  # no room for another process: the program's input ends with us all the same
            os.close(into)
            return None, -1
        finally:
            os.close(out)
        return guard, into

    # ---- bytes ----

    @property
    def has_unsent(self) -> bool:
        return bool(self._unsent)

    def send(self, data: bytes) -> None:
        """Write, as much as it takes now; `pump` sends the rest."""
        self._unsent.append(data)
        self.pump()

    def pump(self) -> None:
        while self._unsent:
            data = self._unsent[0]
            try:
                taken = os.write(self.into, data)
            except BlockingIOError:
                return
            except OSError:  # it reads no more; its end is told elsewhere
                self._unsent.clear()
                return
            if taken == len(data):
                self._unsent.popleft()
            else:
                self._unsent[0] = data[taken:]

    def forget_unsent(self) -> None:
        self._unsent.clear()

    def read(self, descriptor: int) -> Optional[bytes]:
        """What is there: b"" for nothing now, None at the end."""
        try:
            return os.read(descriptor, READ_BYTES) or None
        except BlockingIOError:
            return b""
        except OSError:  # EIO: nobody holds the terminal any more
            return None

    # ---- signals ----

    def signal(self, signum: int) -> None:
        """To its process group; at a terminal to the group in its foreground."""
        group = self.pid
        if self._slave >= 0:
            try:
                group = os.tcgetpgrp(self.out)
            except OSError:
                pass  # nobody is in the foreground
        try:
            os.killpg(group, signum)
        except ProcessLookupError:
            pass

    def kill(self) -> None:
        """By force, and without a word."""
        if not self.poll():
            self._killed_by_us = True
            os.kill(self.pid, signal.SIGKILL)

    def runs_something_else(self) -> bool:
        """Whether another program than ours has the terminal."""
        try:
            return self._slave >= 0 and os.tcgetpgrp(self.out) not in (0, self.pid)
        except OSError:
            return False

    # ---- what it does ----

    def posture(self) -> Posture:
        """What it and its children do at this moment, as far as the system tells."""
        kinds: List[str] = []
        ticks = 0
        pids = _tree(self.pid)
        for pid in pids:
            try:
                with open("/proc/%d/stat" % pid, "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            ticks += int(fields[11]) + int(fields[12])
            state = fields[0]
            if state in (b"T", b"t"):
                kinds.append("stopped")
            elif state == b"R":
                kinds.append("computes")
            elif self._reads_input(pid):
                kinds.append("reads")
            else:
                kinds.append("waits")
        for kind in ("reads", "computes", "stopped", "waits"):
            if kind in kinds:
                return Posture(kind, ticks, len(pids) == 1)
        return Posture("unknown", ticks)

    def _reads_input(self, pid: int) -> bool:
        try:
            with open("/proc/%d/syscall" % pid, encoding="ascii") as file:
                call = file.read().split()
            if len(call) < 2 or int(call[0]) != READ_CALLS.get(os.uname().machine, -1):
                return False
            return _identity(os.stat("/proc/%d/fd/%d" % (pid, int(call[1], 16)))) == self._input_identity
        except (OSError, ValueError):  # not ours to look at
            return False

    # ---- its end ----

    def poll(self) -> bool:
        """Whether it is dead."""
        if self.exit_status is None:
            self.exit_status = self._process.poll()
            if self.exit_status == -signal.SIGKILL and not self._killed_by_us:
                cause = self.oom.cause()
                self._end = "%s was %s" % (self.name, cause) if cause else ""
        return self.exit_status is not None

    def describe_end(self) -> str:
        status = self.exit_status
        if status is None:
            return "%s closed its output" % self.name
        if status >= 0:
            return "%s ended with exit status %d" % (self.name, status)
        if self._end:
            return self._end
        try:
            word = signal.Signals(-status).name
        except ValueError:
            word = "signal %d" % -status
        return "%s was killed by %s" % (self.name, word)

    def finish(self, farewell: bytes = b"") -> None:
        """End it: politely first, then by force. Nothing of it is left."""
        if self.is_finished:
            return
        self.is_finished = True
        if not self.poll():
            self.forget_unsent()
            if farewell:
                self.send(farewell)
            steps: List[int] = [signal.SIGHUP, signal.SIGKILL]
            if self._slave < 0:
                os.close(self.into)
                self.into = -1
            if self._slave < 0 or farewell:
                steps.insert(0, 0)
            for signum in steps:
                if signum:
                    self._killed_by_us = signum == signal.SIGKILL
                    self.signal(signum)
                    os.kill(self.pid, signum)
                try:
                    self._process.wait(None if signum == signal.SIGKILL else END_S)
                    break
                except subprocess.TimeoutExpired:
                    continue
            self.poll()
        self._dismiss_guard()
        for descriptor in {self.into, self.out, self.err, self.end, self._slave}:
            if descriptor >= 0:
                os.close(descriptor)
        self.into = self.out = self.err = self.end = self._slave = -1  # their numbers are others' now

    def _dismiss_guard(self) -> None:
        """Let the guard do its work: whatever is left of the program's session ends."""
        if self._guard is not None:
            os.close(self._guard_in)
            self._guard.wait()


def _identity(status: os.stat_result) -> Tuple[int, int, int]:
    return (0, 0, status.st_rdev) if status.st_rdev else (status.st_dev, status.st_ino, 0)


def _tree(pid: int) -> List[int]:
    """The process and its descendants."""
    found = [pid]
    for parent in found:
        try:
            with open("/proc/%d/task/%d/children" % (parent, parent), encoding="ascii") as file:
                found += map(int, file.read().split())
        except (OSError, ValueError):
            continue
    return found


def _widen(descriptor: int) -> None:
    if sys.platform == "linux":
        import fcntl

        try:
            fcntl.fcntl(descriptor, getattr(fcntl, "F_SETPIPE_SZ", 1031), PIPE_BYTES)
        except OSError:
            pass  # the user's share of pipe buffers is used up
