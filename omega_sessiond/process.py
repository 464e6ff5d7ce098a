"""Which process is meant, and whether it lives: by pidfd and start time, never by pid alone.

Source: pidfd_open(2), proc_pid_stat(5). Where there are no pidfds (macOS) the process is polled.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from functools import cache

from msgspec import Struct

TOLD_S = 1.0
"""How long a dead process's parent may take to tell how it died: it is woken by that death as we are."""

POLL_S = 0.5
"""How often a process is looked at where there are no pidfds: a death is noticed this late at most."""


class Exit(Struct, frozen=True):
    """How a process ended, as far as is known: `status` and `signal` only to its parent, `peak_bytes` likewise."""

    status: int | None = None
    signal: int | None = None
    peak_bytes: int | None = None


@cache
def boot_id() -> str:
    """What tells this boot from all others: a pid of another boot means nothing."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def start_time(pid: int) -> int:
    """Clock ticks from boot to the start of `pid`, 0 where it cannot be told. Field 22 of proc_pid_stat(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return 0


def exit_of(status: int, peak_bytes: int) -> Exit:
    """What a wait status says. Source: wait(2)."""
    code = os.waitstatus_to_exitcode(status)
    return Exit(None, -code, peak_bytes) if code < 0 else Exit(code, None, peak_bytes)


class Process:
    """One process, told from every later one with the same pid. `is_told`: its parent is another than we, who calls
    `told` with how it ended. `pidfd` is given where it was opened by who knew best."""

    def __init__(self, pid: int, started: int, *, is_child: bool, pidfd: int = -1, is_told: bool = False) -> None:
        self.pid = pid
        self.start_time = started
        self.is_child = is_child
        self.exit: Exit | None = None
        self._is_told = is_told
        self._told: Exit | None = None
        self._has_ended = False
        self._exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self._callback: Callable[[Exit], None] | None = None
        self._poll: asyncio.TimerHandle | None = None
        self._pidfd = pidfd if pidfd >= 0 else self._open()

    @classmethod
    def find(cls, pid: int, started: int, boot: str) -> Process | None:
        """The process that had this pid and start time in this boot, if it still lives."""
        if boot != boot_id():
            return None
        try:
            process = cls(pid, started, is_child=False)
        except ProcessLookupError:
            return None
        if start_time(pid) == started and not process._is_zombie():
            return process
        process.forget()
        return None

    def _open(self) -> int:
        if hasattr(os, "pidfd_open"):
            try:
                return os.pidfd_open(self.pid)
            except OSError as error:
                if isinstance(error, ProcessLookupError):
                    raise
        os.kill(self.pid, 0)
        return -1

    def _is_zombie(self) -> bool:
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[0] in (b"Z", b"X")
        except (OSError, IndexError):
            return False

    def is_in_unit(self, unit: str) -> bool:
        """Whether systemd counts the process to this unit. Source: cgroups(7), /proc/PID/cgroup."""
        try:
            with open(f"/proc/{self.pid}/cgroup", encoding="utf-8", errors="replace") as file:
                return any(line.rstrip("\n").endswith("/" + unit) for line in file)
        except OSError:
            return False

    def watch(self, callback: Callable[[Exit], None]) -> None:
        """Call `callback` when the process has ended."""
        self._callback = callback
        if self._pidfd >= 0:
            asyncio.get_running_loop().add_reader(self._pidfd, self._ended)
        else:
            self._look()

    def _look(self) -> None:
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            self._ended()
            return
        if self.is_child and self._reap(os.WNOHANG) is not None:
            self._ended()
            return
        self._poll = asyncio.get_running_loop().call_later(POLL_S, self._look)

    def told(self, exit: Exit) -> None:
        """How it ended, or will have ended: its parent says so, or can say no more."""
        if self._told is None:
            self._told = exit
            if self._has_ended:
                self._ended()

    def _ended(self) -> None:
        if self.exit is not None:
            return
        if self._is_told and self._told is None:
            loop = asyncio.get_running_loop()
            self._has_ended = True
            if self._pidfd >= 0:
                loop.remove_reader(self._pidfd)  # readable from now on
            self._poll = loop.call_later(TOLD_S, self.told, Exit())
            return
        # Children the host left in its process group go before its pid can be used again.
        self.signal_group(signal.SIGKILL)
        self.exit = self._told or self._reap(os.WNOHANG) or Exit()
        callback = self._callback
        self.forget()
        self._exited.set_result(self.exit)
        if callback is not None:
            callback(self.exit)

    def _reap(self, options: int) -> Exit | None:
        if not self.is_child:
            return None
        try:
            pid, status, usage = os.wait4(self.pid, options)
        except ChildProcessError:
            return None
        if pid == 0:
            return None
        unit = 1 if os.uname().sysname == "Darwin" else 1024
        return exit_of(status, usage.ru_maxrss * unit)

    def signal(self, signum: int) -> None:
        """Send a signal to the process alone, if it is still there: another may have reaped it before we noticed."""
        if self.exit is None:
            try:
                if self._pidfd >= 0:
                    signal.pidfd_send_signal(self._pidfd, signum)
                else:
                    os.kill(self.pid, signum)
            except (ProcessLookupError, PermissionError):
                pass

    def signal_group(self, signum: int) -> bool:
        """Send a signal to the process group that this process leads; False when it is gone."""
        if self.exit is not None:
            return False
        try:
            os.killpg(self.pid, signum)
        except (ProcessLookupError, PermissionError):
            return False
        return True

    def kill(self) -> None:
        """SIGKILL for all in the group that it leads, and for itself: one that was just forked leads none yet."""
        self.signal_group(signal.SIGKILL)
        self.signal(signal.SIGKILL)

    async def ended(self, timeout_s: float | None) -> bool:
        """Whether the process ended within `timeout_s`."""
        done, _ = await asyncio.wait([self._exited], timeout=timeout_s)
        return bool(done)

    def forget(self) -> None:
        """Stop watching; the process lives on."""
        self._callback = None
        if self._poll is not None:
            self._poll.cancel()
            self._poll = None
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
