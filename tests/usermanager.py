"""A throw-away `systemd --user`, real, on a machine whose PID 1 need not be systemd (a container, CI).

Needs root, systemd, dbus-user-session and util-linux. Each manager has its own journald and lives in private mount,
pid, cgroup and ipc namespaces: nothing it does reaches the machine, several run side by side, and when its first
process dies the kernel ends everything in it. Run as a script, this file is that first process.

Knows systemd and nothing of omega-sessiond.

What cost time to find out: the manager must sit in user.slice/user-UID.slice/user@UID.service or `journalctl --user -u`
is empty; journald wants Storage=persistent and /run/systemd/journal/flushed before it starts; /run/systemd/unit-root
must exist; a process outside the manager's cgroup can be moved into no scope, so that clients start in a cgroup of
their own beneath it, as a login session's processes can be moved on a whole systemd.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

Hierarchy = Literal["v2", "hybrid"]

CGROUPS = Path("/sys/fs/cgroup")
SYSTEMD = "/lib/systemd/systemd"
JOURNALD = "/lib/systemd/systemd-journald"
UNSHARE = ("unshare", "--mount", "--pid", "--cgroup", "--ipc", "--fork", "--mount-proc", "--kill-child=SIGKILL")
NEEDED_COMMANDS = ("unshare", "nsenter", "setpriv", "mount", "umount", "systemctl", "journalctl", "dbus-daemon")
USER = "omega-test"
"""The user these managers belong to; ./tests/run makes it."""

START_S = 60.0
"""A manager is up in half a second; a machine that needs a minute is stuck."""

# Puts itself into the cgroups named first, then becomes the command: the only way in that needs no thread in between.
_ENTER_CGROUPS = 'n=$1; shift; while [ "$n" -gt 0 ]; do echo 0 > "$1"; shift; n=$((n - 1)); done; exec "$@"'


class Unavailable(Exception):
    """This machine cannot run a user manager for tests; the text says what is missing."""


def missing(user: str = USER) -> str | None:
    """Why no manager can be started here, or None."""
    if sys.platform != "linux":
        return "not Linux"
    if os.geteuid() != 0:
        return "not root (namespaces and cgroups are made by root)"
    for command in NEEDED_COMMANDS:
        if shutil.which(command) is None:
            return f"no command '{command}'"
    for program in (SYSTEMD, JOURNALD):
        if not os.access(program, os.X_OK):
            return f"no {program}"
    if not os.path.exists("/usr/lib/systemd/user/dbus.socket"):
        return "no session bus for user managers (Debian's dbus-user-session)"
    try:
        pwd.getpwnam(user)
    except KeyError:
        return f"no user '{user}'"
    if not (_pure_v2() or (CGROUPS / "unified").is_dir()):
        return "no cgroup v2 hierarchy"
    tried = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        return f"this root may not make namespaces ({tried.stderr.strip()})"
    for name in _hierarchies("hybrid"):
        if not os.access(CGROUPS / name, os.W_OK):
            return f"this root may not make cgroups in {CGROUPS / name}"
    return None


def _pure_v2() -> bool:
    return (CGROUPS / "cgroup.controllers").exists()


def _hierarchies(hierarchy: Hierarchy) -> list[str]:
    """Names below /sys/fs/cgroup; "" is that directory itself."""
    if _pure_v2():
        return [""]
    return ["systemd", "unified"] if hierarchy == "v2" else ["systemd", "unified", "memory", "pids"]


class UserManager:
    """One running `systemd --user`. Use it as a context manager, or call stop().

    `hierarchy` says which cgroups it sees: "v2" has CPU accounting, "hybrid" has memory and tasks limits enforced
    where the machine itself binds these controllers to v1. On a machine of pure v2 there is only that, with whatever
    controllers the machine lends. `path` is the PATH of the manager and of what runs in it.
    """

    def __init__(self, hierarchy: Hierarchy = "v2", *, user: str = USER, path: str = "/usr/local/bin:/usr/bin:/bin"):
        if why := missing(user):
            raise Unavailable(why)
        self.hierarchy: Hierarchy = "v2" if _pure_v2() else hierarchy
        self.user = user
        account = pwd.getpwnam(user)
        self.uid = account.pw_uid
        # Short, because socket paths below it must fit into 107 bytes; 0755 so that the user can come in.
        self.base = tempfile.mkdtemp(prefix="ou", dir="/var/tmp")
        os.chmod(self.base, 0o755)
        self.home = self.base + "/home"
        os.mkdir(self.home, 0o700)
        os.chown(self.home, account.pw_uid, account.pw_gid)
        self.runtime_dir = f"/run/user/{self.uid}"
        self.env = {
            "HOME": self.home,
            "USER": user,
            "LOGNAME": user,
            "SHELL": "/bin/bash",
            "LANG": "C.UTF-8",
            "PATH": path,
            "XDG_RUNTIME_DIR": self.runtime_dir,
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self.runtime_dir}/bus",
        }
        self._cgroups = [CGROUPS / name / os.path.basename(self.base) for name in _hierarchies(hierarchy)]
        self._clients = f"user.slice/user-{self.uid}.slice/user@{self.uid}.service/clients"
        self._running: list[subprocess.Popen[Any]] = []
        self._log = open(self.base + "/log", "wb")  # noqa: SIM115 - closed by stop()
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self) -> None:
        for cgroup in self._cgroups:
            cgroup.mkdir()
        # fmt: off
        self._unshare = subprocess.Popen(
            _in_cgroups(self._cgroups, [
                *UNSHARE, sys.executable, "-IS", os.path.abspath(__file__), self.user, self.base, self.hierarchy,
                *(f"{key}={value}" for key, value in self.env.items()),
            ]),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, start_new_session=True,
        )
        # fmt: on
        self._running.append(self._unshare)
        assert self._unshare.stdout is not None
        watchdog = threading.Timer(START_S, self._unshare.kill)
        watchdog.start()
        try:
            up = self._unshare.stdout.readline() == b"up\n"
        finally:
            watchdog.cancel()
        if not up:
            raise Unavailable("the manager did not start:\n" + Path(self.base + "/log").read_text(errors="replace"))
        task = Path(f"/proc/{self._unshare.pid}/task/{self._unshare.pid}/children")
        self._init_pid = int(task.read_text().split()[0])

    @property
    def is_running(self) -> bool:
        return self._unshare.poll() is None

    @property
    def memory_and_tasks_are_limited(self) -> bool:
        """Whether MemoryMax= and TasksMax= have effect here."""
        if self.hierarchy == "hybrid":
            return True
        controllers = (self._cgroups[-1] / self._clients / "cgroup.controllers").read_text().split()
        return {"memory", "pids"} <= set(controllers)

    def popen(
        self, *command: str, as_root: bool = False, env: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.Popen[Any]:
        """Start a command as the user, inside. The process returned is nsenter's: see signal() to reach the command.

        `env` adds to the user's environment. Text streams unless text=False; stdin is empty unless given.
        """
        enter = ["nsenter", "-t", str(self._init_pid), "-m", "-p", "-C", "-i", "-r", "-w", "--"]
        options.setdefault("stdin", subprocess.DEVNULL)
        options.setdefault("text", True)
        options.setdefault("cwd", "/")
        if as_root:
            full = _in_cgroups(self._cgroups, [*enter, *command])
        else:
            values = {**self.env, "TERM": "dumb", **(env or {})}
            identity = ["setpriv", f"--reuid={self.user}", f"--regid={pwd.getpwuid(self.uid).pw_gid}", "--init-groups"]
            settings = [f"{key}={value}" for key, value in values.items()]
            # In the v2 view systemd's own v1 hierarchy is not delegated: there a client stays at the top.
            clients = [below if (below := cgroup / self._clients).is_dir() else cgroup for cgroup in self._cgroups]
            # cd: the working directory outside is not the one inside.
            inside = ["sh", "-c", 'cd "$HOME" && exec "$@"', "sh", *command]
            full = _in_cgroups(clients, [*enter, *identity, "env", "-i", *settings, *inside])
        process = subprocess.Popen(full, **options)
        self._running.append(process)
        return process

    def run(
        self,
        *command: str,
        check: bool = True,
        as_root: bool = False,
        env: Mapping[str, str] | None = None,
        input: str | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user, inside, and return its text output. With `check`, a failure raises with it."""
        streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        if input is not None:
            streams["stdin"] = subprocess.PIPE
        process = self.popen(*command, as_root=as_root, env=env, **streams)
        try:
            out, err = process.communicate(input, timeout=timeout)
        except subprocess.TimeoutExpired:
            self.signal(process, signal.SIGKILL)
            out, err = process.communicate()
            raise AssertionError(f"{command} took more than {timeout} s\n{out}{err}") from None
        finally:
            if process in self._running:
                self._running.remove(process)
        if check and process.returncode != 0:
            raise AssertionError(f"{command} exited {process.returncode}\n{out}{err}")
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def signal(self, process: subprocess.Popen[Any], number: int) -> None:
        """Signal the command behind a process of popen()."""
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), number)

    def systemctl(self, *arguments: str, check: bool = True) -> str:
        """`systemctl --user …`, its stdout without the last newline."""
        return self.run("systemctl", "--user", *arguments, check=check).stdout.rstrip("\n")

    def show(self, unit: str, prop: str) -> str:
        """One property of a unit."""
        return self.systemctl("show", "--value", "-p", prop, unit)

    def journal(self, unit: str, *, form: str = "cat") -> str:
        """`journalctl --user -u UNIT`, everything logged so far."""
        self.run("journalctl", "--sync", as_root=True)
        return self.run("journalctl", "--user", "-u", unit, "--no-pager", "-q", "-o", form, check=False).stdout

    def wait_for_state(self, unit: str, *states: str, timeout_s: float = 30) -> str:
        """Wait until the unit is in one of these active states."""
        found = ""

        def reached() -> bool:
            nonlocal found
            found = self.show(unit, "ActiveState")
            return found in states

        self.wait_until(reached, timeout_s=timeout_s, what=lambda: f"{unit} is {found}, not {' or '.join(states)}")
        return found

    def wait_until(self, condition: Any, *, timeout_s: float = 30, what: Any = lambda: "the condition") -> None:
        """Ask until it holds. Each look costs a process inside, which is pause enough."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"{what()} after {timeout_s} s\n{self.status()}")

    def status(self) -> str:
        """All that a failed test wants to show."""
        units = self.systemctl("list-units", "--all", "--no-pager", "omega*", "app-omega*", check=False)
        log = self.run("journalctl", "--user", "--no-pager", "-q", "-n", "80", check=False).stdout
        return f"{units}\n{log}"

    def pids(self) -> list[int]:
        """The processes of the user in here, as this machine numbers them."""
        found: list[int] = []
        for procs in sorted(self._cgroups[-1].glob("user.slice/**/cgroup.procs")):
            found += map(int, procs.read_text().split())
        return found

    def reboot(self, *, in_order: bool) -> None:
        """End everything inside, in order as at a shutdown or at once as at a power cut, and start anew with the same
        home."""
        if in_order:
            self.systemctl("exit", check=False)
            self.wait_until(lambda: not self._manager_pids(), what=lambda: f"units are stopped: {self.pids()}")
        self._end()
        self._start()

    def _manager_pids(self) -> list[str]:
        """The processes of units and the manager's own, not those of clients."""
        clients = _all_pids(self._cgroups[-1] / self._clients)
        return [pid for pid in _all_pids(self._cgroups[-1] / "user.slice") if pid not in clients]

    def stop(self) -> None:
        """End everything inside and remove every trace."""
        self._end()
        self._log.close()
        shutil.rmtree(self.base, ignore_errors=True)

    def _end(self) -> None:
        for process in self._running:
            if process.stdin is not None:
                process.stdin.close()
        unshare = getattr(self, "_unshare", None)
        if unshare is not None:
            unshare.kill()  # and by --kill-child the first process inside, with which the kernel ends all others
        for cgroup in self._cgroups:
            _wait_until_empty(cgroup)
            for directory, _, _ in os.walk(cgroup, topdown=False):
                _remove_cgroup(Path(directory))
        for process in self._running:
            process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self._running.clear()

    def __enter__(self) -> UserManager:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


def _in_cgroups(cgroups: Sequence[Path], command: Sequence[str]) -> list[str]:
    files = [str(cgroup / "cgroup.procs") for cgroup in cgroups]
    return ["sh", "-c", _ENTER_CGROUPS, "sh", str(len(files)), *files, *command]


def _all_pids(cgroup: Path) -> list[str]:
    found: list[str] = []
    for directory, _, files in os.walk(cgroup):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError):
                found += (Path(directory) / "cgroup.procs").read_text().split()
    return found


def _wait_until_empty(cgroup: Path, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while pids := _all_pids(cgroup):
        if time.monotonic() > deadline:
            raise AssertionError(f"{cgroup} still holds processes: {' '.join(pids)}")
        time.sleep(0.005)


def _remove_cgroup(cgroup: Path) -> None:
    # A v1 cgroup whose last process has just died refuses to go for a moment.
    deadline = time.monotonic() + 5
    while True:
        try:
            cgroup.rmdir()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)


@contextlib.contextmanager
def installed_for(user: str, checkout: Path) -> Iterator[Path]:
    """A virtual environment that `user` can run, with the checkout's package in it; removed at the end.

    The interpreter of the test run may lie in a directory closed to others (root's home), so another one is looked
    for, and the package is installed from a copy.
    """
    account = pwd.getpwnam(user)
    base = Path(tempfile.mkdtemp(prefix="ov", dir="/var/tmp"))
    try:
        base.chmod(0o755)
        python = python_of(user)
        copy = base / "source"
        left_out = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", "__pycache__", ".*_cache")
        shutil.copytree(checkout, copy, ignore=left_out)
        venv = base / "venv"
        _checked([python, "-m", "venv", "--without-pip", str(venv)])
        # fmt: off
        _checked([
            sys.executable, "-m", "pip", "--python", str(venv / "bin/python"), "install", "--quiet", "--no-input",
            "-c", str(checkout / "constraints.txt"), str(copy),
        ])
        # fmt: on
        assert os.access(venv, os.R_OK), account
        yield venv
    finally:
        shutil.rmtree(base, ignore_errors=True)


def python_of(user: str) -> str:
    """A Python 3.11 or later with venv that `user` can run too."""
    account = pwd.getpwnam(user)
    candidates = ["/usr/bin/python3", "/usr/local/bin/python3", *(f"/usr/bin/python3.{n}" for n in range(20, 10, -1))]
    for candidate in [*candidates, sys.executable]:
        check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))"
        as_user = ["setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
        tried = subprocess.run([*as_user, candidate, "-IB", "-c", check], cwd="/", capture_output=True)
        if tried.returncode == 0:
            return candidate
    raise Unavailable(f"no Python 3.11 with venv that user '{user}' can run (Debian: python3-venv)")


def _checked(command: list[str]) -> None:
    # The directory of the test that needs it first may be gone already.
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd="/")
    if done.returncode != 0:
        raise Unavailable(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


# ---- the first process inside ----


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


def _write(path: Path, text: str) -> bool:
    try:
        path.write_text(text)
    except OSError:
        return False
    return True


def _inside(user: str, base: str, hierarchy: Hierarchy, settings: list[str]) -> NoReturn:
    os.chdir("/")
    account = pwd.getpwnam(user)
    uid, gid = account.pw_uid, account.pw_gid
    roots = [CGROUPS / name for name in _hierarchies(hierarchy)]
    pure_v2 = _pure_v2()
    _mount("--make-rprivate", "/")  # nothing below reaches the machine
    subprocess.run(["umount", "-R", str(CGROUPS)], check=True)
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run")
    _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/log")
    if hierarchy == "v2":
        _mount("-t", "cgroup2", "cgroup2", str(CGROUPS))
        roots = [CGROUPS]
    elif not pure_v2:
        _mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", str(CGROUPS))
        for root in roots:
            root.mkdir()
            match root.name:
                case "systemd":
                    _mount("-t", "cgroup", "-o", "none,name=systemd", "cgroup", str(root))
                case "unified":
                    _mount("-t", "cgroup2", "cgroup2", str(root))
                case controller:
                    _mount("-t", "cgroup", "-o", controller, "cgroup", str(root))

    manager = f"user.slice/user-{uid}.slice/user@{uid}.service"
    for root in roots:
        own = root / "system.slice/systemd-journald.service"
        own.mkdir(parents=True)
        (root / manager / "clients").mkdir(parents=True)
        _write(own / "cgroup.procs", "0")
        # Lend on what controllers there are, which v2 allows once the inner cgroups hold no process.
        level = root
        for part in ("", *manager.split("/")):
            level = level / part
            for controller in ("memory", "pids", "cpu"):
                _write(level / "cgroup.subtree_control", f"+{controller}")
        for directory in (root / manager, root / manager / "clients"):
            os.chown(directory, uid, gid)
            for name in ("cgroup.procs", "tasks", "cgroup.threads", "cgroup.subtree_control"):
                if (directory / name).exists():
                    os.chown(directory / name, uid, gid)

    for name in ("system", "journal", "journald.conf.d", "unit-root"):
        Path("/run/systemd", name).mkdir(parents=True)
    for name in ("/run/lock", "/var/log/journal"):
        Path(name).mkdir()
    Path("/run/systemd/journal/flushed").touch()
    Path("/run/systemd/journald.conf.d/test.conf").write_text(
        "[Journal]\nStorage=persistent\nReadKMsg=no\nAudit=no\nRateLimitBurst=0\nForwardToWall=no\n"
    )
    runtime_dir = Path(f"/run/user/{uid}")
    runtime_dir.mkdir(parents=True, mode=0o700)
    os.chown(runtime_dir, uid, gid)
    # Debian's base image has an empty machine id until a first boot, which journald will not have.
    if not Path("/etc/machine-id").read_text().strip():
        Path(base, "machine-id").write_text("0123456789abcdef0123456789abcdef\n")
        _mount("--bind", base + "/machine-id", "/etc/machine-id")

    def started(command: list[str], cgroups: list[Path], **values: str) -> None:
        """Start a systemd program and wait until it says READY."""
        address = "/run/notify-" + os.path.basename(command[-1].lstrip("-"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(address)
            os.chmod(address, 0o666)
            environment = {"NOTIFY_SOCKET": address, "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", **values}
            subprocess.Popen(
                _in_cgroups(cgroups, command), env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr
            )
            while b"READY=1" not in notify.recv(65536).splitlines():
                pass
        os.unlink(address)

    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    started([JOURNALD], [])
    identity = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups"]
    environment = dict(setting.split("=", 1) for setting in settings)
    started([*identity, SYSTEMD, "--user", "--log-target=journal"], [root / manager for root in roots], **environment)
    os.write(1, b"up\n")

    def leave_with_the_test_run() -> None:
        while os.read(0, 4096):
            pass
        os._exit(0)

    threading.Thread(target=leave_with_the_test_run, daemon=True).start()
    while True:  # the first process reaps: until it has, a dead process still answers to kill(pid, 0)
        try:
            os.wait()
        except ChildProcessError:
            os._exit(1)


if __name__ == "__main__":
    _user, _base, _hierarchy, *_settings = sys.argv[1:]
    assert _hierarchy in ("v2", "hybrid")
    _inside(_user, _base, _hierarchy, _settings)  # type: ignore[arg-type]
