"""Where hosts are forked: an interpreter, and what of its environment it read at its start. And how the process that
they are forked from is started.

The daemon does this before it imports anything else, so that the two start side by side: nothing is imported here that
a bare interpreter has not loaded. Knows processes and files; what is asked of a fork server is the nursery's.
"""

from __future__ import annotations

import _socket
import os
import sys

MAIN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hosts", "main.py")

SCRUBBED = (
    "LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "INVOCATION_ID", "JOURNAL_STREAM", "MANAGERPID", "SYSTEMD_EXEC_PID",
    "MEMORY_PRESSURE_", "OMEGA_",
)  # fmt: skip
"""What belongs to the daemon alone, by prefix. Source: sd_listen_fds(3), sd_notify(3), systemd.exec(5)."""

READ_AT_START = (
    "PYTHON", "LD_", "MALLOC_", "GLIBC_TUNABLES", "LOCPATH", "GCONV_PATH", "COVERAGE_", "OMP_", "OPENBLAS_", "MKL_",
)  # fmt: skip
"""What an interpreter, its loader or a library reads once, by prefix: a fork would have the values of its server.
Source: ld.so(8), locale(7), python(1)."""

READ_AT_START_WHOLE = ("LANG", "LC_ALL", "LC_CTYPE", "HOME")
"""The same by whole name: the locale of texts, and where a user's own packages are."""

TITLE_BYTES = 512
"""Room in a fork server's arguments for those of the hosts it becomes; a longer line is cut."""


class Birthplace:
    """An interpreter and the variables it read at its start. `key` tells two of them apart."""

    __slots__ = ("key", "python", "variables")

    def __init__(self, python: str, variables: dict[str, str]) -> None:
        self.python = python
        self.variables = variables
        self.key = (python, tuple(sorted(variables.items())))

    @classmethod
    def of(cls, python: str, env: dict[str, str]) -> Birthplace | None:
        """The one whose forks are like a process started with this environment; None where only a start will do."""
        if sys.platform != "linux" or _is_script(python):
            return None
        for entry in env.get("PYTHONPATH", "/").split(os.pathsep):
            if not os.path.isabs(entry):
                return None  # the interpreter reads it from the session's directory
        return cls(python, {name: value for name, value in env.items() if _is_read_at_start(name)})


def _is_read_at_start(name: str) -> bool:
    return name in READ_AT_START_WHOLE or name.startswith(READ_AT_START)


def _is_script(python: str) -> bool:
    """Whether the interpreter is chosen anew at each start, by a script that looks at its surroundings (pyenv)."""
    try:
        descriptor = os.open(python, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        return os.read(descriptor, 2) == b"#!"
    except OSError:
        return True
    finally:
        os.close(descriptor)


def base_python() -> str:
    """The interpreter behind the daemon's own environment, as if the user had typed python3."""
    return getattr(sys, "_base_executable", "") or sys.executable


def scrub(environ: dict[str, str]) -> dict[str, str]:
    """An environment without what was meant for the daemon."""
    return {name: value for name, value in environ.items() if not name.startswith(SCRUBBED)}


class Started:
    """A fork server's process, our child, and our end of its connection, which it ends with."""

    __slots__ = ("birthplace", "connection", "is_taken", "pid")

    def __init__(self, birthplace: Birthplace) -> None:
        """Start it. Raises OSError when its interpreter cannot be run."""
        self.birthplace = birthplace
        self.is_taken = False
        """Whether somebody else sees to its end."""
        env = {name: value for name, value in scrub(dict(os.environ)).items() if not _is_read_at_start(name)}
        self.connection, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            os.set_inheritable(theirs.fileno(), True)
            self.pid = os.posix_spawn(
                birthplace.python,
                [birthplace.python, MAIN, "--fork-server", str(theirs.fileno()), " " * TITLE_BYTES],
                {**env, **birthplace.variables},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                ],
                setsigmask=(),
            )
        except BaseException:
            self.connection.close()
            raise
        finally:
            theirs.close()

    def abandon(self) -> None:
        """End it, unless it was taken; nothing has been forked from it yet."""
        if self.is_taken:
            return
        self.is_taken = True
        self.connection.close()
        os.waitpid(self.pid, 0)


def start_first() -> Started | None:
    """The fork server of the interpreter that sessions have which name none, as early as can be. What the settings
    say of it is guessed from their text; the nursery, which knows them, starts another when the guess is wrong."""
    _keep_to_ourselves()
    python = base_python()
    text = _settings_text()
    for line in text.splitlines():
        name, _, value = (part.strip() for part in line.partition("="))
        if name == "fork_server" and value.startswith("false"):
            return None
        if name == "python" and value[:1] in ("'", '"'):
            python = value[1:].partition(value[0])[0] or python
    if not os.path.isabs(python):
        return None
    birthplace = Birthplace.of(os.path.abspath(python), scrub(dict(os.environ)))
    if birthplace is None:
        return None
    try:
        return Started(birthplace)
    except OSError:
        return None


def _keep_to_ourselves() -> None:
    """Whatever we were given, the listener and the lock above all, is for no child of ours."""
    for name in os.listdir("/dev/fd"):
        if int(name) > 2:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                pass  # the descriptor by which the directory was read


def _settings_text() -> str:
    from omega_sessiond import paths

    try:
        with open(paths.config_file(), "rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid not in (os.getuid(), 0) or status.st_mode & 0o002:
                return ""  # will be refused: nothing it names may run
            return stream.read(65536).decode("utf-8", "replace")
    except (OSError, ValueError):
        return ""
