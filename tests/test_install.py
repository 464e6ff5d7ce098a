"""install.sh, run for real: what it makes, keeps and removes, and its words when it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import kernels
from conftest import CHECKOUT
from isolation import Place
from usermanager import UserManager

USAGE, NO_PYTHON, NO_MODULE, NO_PACKAGES, NO_FIRST_COMMAND = 2, 3, 4, 5, 6

# How this machine reaches its package index, which a clean environment would not know.
INDEX = {
    name: value
    for name, value in os.environ.items()
    if name.startswith(("PIP_", "SSL_", "REQUESTS_")) or name.lower().endswith("_proxy")
}


@pytest.fixture(scope="session")
def pip_cache(isolated_run: Place) -> dict[str, str]:
    """Lets the installations of one run share their downloads."""
    return {"PIP_CACHE_DIR": str(isolated_run.cache_home / "pip")}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A copy of the checkout to install from and to change."""
    return _copy(tmp_path / "checkout")


def _copy(target: Path) -> Path:
    left_out = shutil.ignore_patterns(".git", ".venv", "*.egg-info", "build", "__pycache__", ".*_cache", ".hypothesis")
    shutil.copytree(CHECKOUT, target, ignore=left_out)
    return target


def _another_version(source: Path, version: str) -> None:
    file = source / "omega_sessiond/__init__.py"
    lines = file.read_text().splitlines()
    file.write_text(
        "\n".join(f'__version__ = "{version}"' if "__version__ =" in line else line for line in lines) + "\n"
    )


class Here:
    """Installations without systemd, in the HOME of a test."""

    def __init__(self, place: Place, pip_cache: Mapping[str, str]) -> None:
        self.place = place
        self.bin = place.home / ".local/bin"
        self.app = place.data_home / "omega-sessiond"
        self.env = {**place.env, **pip_cache, "PATH": f"{self.bin}:/usr/local/bin:/usr/bin:/bin"}
        for name in ("SUDO_USER", "XDG_RUNTIME_DIR"):
            self.env.pop(name, None)

    def install(self, source: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [source / "install.sh", *arguments],
            env={**self.env, **env},
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd="/",
        )

    def omegactl(self, *arguments: str) -> str:
        done = subprocess.run(
            [self.bin / "omegactl", *arguments], env=self.env, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def here(place: Place, pip_cache: dict[str, str]) -> Iterator[Here]:
    here = Here(place, pip_cache)
    yield here
    if (here.bin / "omegactl").exists():
        here.omegactl("service", "stop", "--sessions")


# ---- without systemd ----


def _old_python(path: Path) -> str:
    return _interpreter(path, "sys.version_info = (3, 9, 18, 'final', 0)")


def test_install_runs_a_first_command(here: Here, source: Path, tmp_path: Path) -> None:
    """After ./install.sh a command has run in a session, and the commands are there for the next one.

    The first python3 on PATH is too old here, so a later one is taken; nothing is written beside the sources; and
    running it again, from a shell with another PATH, leaves environment, daemon and sessions as they are.
    """
    before = sorted(source.rglob("*"))
    old = tmp_path / "old"
    old.mkdir()
    _old_python(old / "python3")
    path = f"{old}:{Path(sys.executable).resolve().parent}:/usr/bin:/bin"
    done = here.install(source, PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "\n  42\n" in done.stdout
    assert "there is no systemd here" in done.stdout or "XDG_RUNTIME_DIR is not set" in done.stdout
    assert sorted(source.rglob("*")) == before
    assert f"{here.bin} is not on your PATH" in done.stdout
    assert "\n  ~/.local/bin/omegactl ls\n" in done.stdout

    here.omegactl("exec", "first", "-c", "x = 41")
    assert here.omegactl("exec", "first", "-c", "x + 1") == "42\n"
    daemon = subprocess.run([here.bin / "omega-sessiond", "--help"], env=here.env, capture_output=True, text=True)
    assert "max_queue" in daemon.stdout
    pid = json.loads(here.omegactl("show", "first", "--json"))["pid"]
    versions = os.listdir(here.app / "versions")

    again = here.install(source, PATH=f"{here.bin}:/usr/bin:/bin")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "up to date" in again.stdout
    assert "is not on your PATH" not in again.stdout
    assert os.listdir(here.app / "versions") == versions
    assert here.omegactl("exec", "first", "-c", "x") == "41\n"
    assert json.loads(here.omegactl("show", "first", "--json"))["pid"] == pid


def test_upgrade_keeps_running_sessions(here: Here, source: Path) -> None:
    """A failed upgrade changes nothing; one that works keeps the sessions, and the old files while a host uses them."""
    assert here.install(source).returncode == 0
    here.omegactl("exec", "kept", "-c", "x = 5")
    old = (here.app / "venv").resolve()

    _another_version(source, "0.1.1.dev7")
    failed = here.install(source, **NO_NETWORK)
    assert failed.returncode == NO_PACKAGES
    assert (here.app / "venv").resolve() == old
    assert os.listdir(here.app / "versions") == [old.name]
    assert here.omegactl("exec", "kept", "-c", "x") == "5\n"

    done = here.install(source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0.1.1.dev7" in here.omegactl("service", "status")
    assert here.omegactl("exec", "kept", "-c", "x") == "5\n"
    assert old.is_dir()
    here.omegactl("rm", "-y", "kept", "first")
    assert here.install(source).returncode == 0
    assert not old.exists()


def test_extra_is_installed_and_kept(here: Here, source: Path) -> None:
    """With --with jupyter sessions run in Jupyter kernels, and an upgrade that does not say so keeps the extra."""
    kernels.ipykernel(here.place.data_home / "jupyter" / "kernels")
    done = here.install(source, "--with", "jupyter")
    assert done.returncode == 0, done.stdout + done.stderr
    here.omegactl("new", "work", "--engine", "jupyter:python3")
    assert here.omegactl("exec", "work", "-c", "6 * 7") == "42\n"
    assert "is up to date" in here.install(source).stdout


def test_uninstall_keeps_state_unless_told(here: Here, source: Path) -> None:
    """Without a terminal sessions stay, and a new installation takes them up again; --purge leaves not a file."""
    assert here.install(source).returncode == 0
    here.omegactl("exec", "kept", "-c", "x = 5")
    done = here.install(source, "--uninstall")
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(here.place.state_dir) in done.stdout
    assert not here.app.exists()
    assert not list(here.bin.iterdir())

    assert here.install(source).returncode == 0
    assert here.omegactl("exec", "kept", "-c", "x") == "5\n"
    here.omegactl("exec", "busy", "--detach", "-c", "import time; time.sleep(600)")
    (here.place.config_home / "omega-sessiond").mkdir()
    (here.place.config_home / "omega-sessiond/config.toml").write_text("max_queue = 7\n")
    done = here.install(source, "--uninstall", "--purge")
    assert done.returncode == 0, done.stdout + done.stderr
    files = [path for path in here.place.base.rglob("*") if not path.is_dir()]
    assert [path for path in files if here.place.cache_home not in path.parents] == []


def test_purge_after_uninstall_ends_the_sessions_that_went_on(here: Here, source: Path) -> None:
    """Where an uninstall left sessions running, a later --purge ends them, idle and busy, without the program."""
    assert here.install(source).returncode == 0
    here.omegactl("exec", "idle", "-c", "x = 5")
    here.omegactl("exec", "busy", "--detach", "-c", "import time; time.sleep(600)")
    pids = [json.loads(here.omegactl("show", name, "--json"))["pid"] for name in ("idle", "busy")]
    assert here.install(source, "--uninstall").returncode == 0
    assert all(os.path.exists(f"/proc/{pid}") for pid in pids)
    done = here.install(source, "--uninstall", "--purge")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not any(f"{here.place.state_dir}/".encode() in _command_line(pid) for pid in pids)
    assert not here.place.state_dir.exists()


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def test_awkward_home_and_shared_state_directory(place: Place, source: Path, pip_cache: dict[str, str]) -> None:
    """A long home with blanks gets working commands; --purge spares what else lies in SESSION_DIR."""
    place.home = place.base / ("a long way home " * 6).strip()
    place.home.mkdir()
    place.data_home = place.home / ".local/share"
    state = place.base / "mixed"
    state.mkdir(mode=0o700)
    (state / "thesis.txt").write_text("years of work")
    here = Here(place, pip_cache)
    here.env["SESSION_DIR"] = str(state)
    done = here.install(source)
    assert done.returncode == 0, done.stdout + done.stderr
    assert here.omegactl("exec", "first", "-c", "1 + 1") == "2\n"
    assert (state / "journal.db").exists()
    done = here.install(source, "--uninstall", "--purge")
    assert done.returncode == 0, done.stdout + done.stderr
    assert os.listdir(state) == ["thesis.txt"]
    assert f"{state} holds files that are not" in done.stderr


@pytest.mark.parametrize("answer, kept", [("y", False), ("yes", False), ("n", True), ("", True), ("yo", True)])
def test_uninstall_asks_on_a_terminal(here: Here, answer: str, kept: bool) -> None:
    """On a terminal the state is asked about, and only a yes removes it."""
    here.place.state_dir.mkdir()
    (here.place.state_dir / "journal.db").touch()
    leader, terminal = os.openpty()
    command = [str(CHECKOUT / "install.sh"), "--uninstall"]
    with subprocess.Popen(command, env=here.env, stdin=terminal, stdout=terminal, stderr=terminal, cwd="/") as process:
        os.close(terminal)
        shown = b""
        while b"[y/N] " not in shown:
            shown += os.read(leader, 4096)
        os.write(leader, answer.encode() + b"\n")
        try:
            while data := os.read(leader, 4096):
                shown += data
        except OSError:
            pass  # so Linux ends a terminal's stream
    os.close(leader)
    assert process.returncode == 0, shown.decode()
    assert str(here.place.state_dir) in shown.decode()
    assert here.place.state_dir.exists() is kept


# ---- its words when it cannot ----

NO_NETWORK = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_EXTRA_INDEX_URL": "",
    "PIP_FIND_LINKS": "",
    "PIP_NO_CACHE_DIR": "1",
    "PIP_RETRIES": "0",
}


def _interpreter(path: Path, change: str) -> str:
    """A Python that is this one but for a change made before it runs what it is asked to: `-I -c CODE`."""
    path.write_text(f"#!{sys.executable} -IS\nimport sys\n{change}\nexec(sys.argv[3])\n")
    path.chmod(0o755)
    return str(path)


def test_help_tells_every_option(here: Here) -> None:
    """--help shows the options and exit codes and does nothing."""
    done = here.install(CHECKOUT, "--help")
    assert done.returncode == 0
    for word in (
        "--python PATH",
        "--with EXTRA",
        "--no-systemd",
        "--tcp",
        "--uninstall",
        "--purge",
        "--yes",
        "Exit codes",
    ):
        assert word in done.stdout
    assert not here.app.exists()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--frobnicate"], "unknown argument '--frobnicate'"),
        (["--python"], "--python needs a path"),
        (["--with"], "--with needs the name of an extra"),
        (["--with", "nothing"], "there is no extra 'nothing'"),
        (["--purge"], "--purge goes with --uninstall"),
        (["--tcp", "--no-systemd"], "--tcp needs systemd"),
        (["--tcp"], "--tcp needs a systemd user manager"),
    ],
)
def test_wrong_arguments(here: Here, arguments: list[str], words: str) -> None:
    """Arguments that make no sense are refused before anything is done."""
    done = here.install(CHECKOUT, *arguments)
    assert (done.returncode, done.stdout) == (USAGE, "")
    assert words in done.stderr
    assert not here.app.exists()


def test_sudo_is_refused(here: Here) -> None:
    """Root by sudo is told that this would install for root, and how to mean it."""
    if os.geteuid() != 0:
        pytest.skip("not root")
    done = here.install(CHECKOUT, SUDO_USER="someone")
    assert done.returncode == USAGE
    assert "not for someone" in done.stderr and "--root" in done.stderr


def test_no_home(here: Here) -> None:
    """Without HOME there is nowhere to install, which is said."""
    done = here.install(CHECKOUT, HOME="")
    assert done.returncode == USAGE
    assert "HOME is not set" in done.stderr


def test_old_python(here: Here, tmp_path: Path) -> None:
    """A Python before 3.11 is named with its version, and where to get another."""
    old = _old_python(tmp_path / "python3")
    done = here.install(CHECKOUT, "--python", old)
    assert done.returncode == NO_PYTHON
    assert f"{old} is 3.9, and 3.11 is needed" in done.stderr
    assert not here.app.exists()


def test_no_python_at_all(here: Here, tmp_path: Path) -> None:
    """A PATH without any Python ends with how to get one."""
    for tool in ("sh", "cat", "dirname", "grep", "id", "mktemp", "rm", "sed", "tail", "tr", "uname"):
        where = shutil.which(tool)
        assert where is not None
        (tmp_path / tool).symlink_to(where)
    done = here.install(CHECKOUT, PATH=str(tmp_path))
    assert done.returncode == NO_PYTHON
    assert "Python 3.11 or later is needed" in done.stderr and "--python" in done.stderr


@pytest.mark.parametrize("module, remedy", [("ensurepip", "apt install python3-venv"), ("sqlite3", "SQLite")])
def test_python_lacks_a_module(here: Here, tmp_path: Path, module: str, remedy: str) -> None:
    """A Python without venv's parts or SQLite is told from no Python, with the remedy."""
    poor = _interpreter(tmp_path / "python3", f"sys.modules['{module}'] = None")
    done = here.install(CHECKOUT, "--python", poor)
    assert done.returncode == NO_MODULE
    assert f"lacks the module '{module}'" in done.stderr and remedy in done.stderr


def test_no_network(here: Here) -> None:
    """Without a package index nothing is left half made, and the settings that could help are named."""
    done = here.install(CHECKOUT, **NO_NETWORK)
    assert done.returncode == NO_PACKAGES
    assert "pip could not fetch the packages" in done.stderr and "PIP_INDEX_URL" in done.stderr
    assert os.listdir(here.app / "versions") == []
    assert not here.bin.exists()


def test_foreign_command_is_not_overwritten(here: Here) -> None:
    """An omegactl that install.sh did not make stays, and stands in the way."""
    here.bin.mkdir(parents=True)
    (here.bin / "omegactl").write_text("#!/bin/sh\n")
    done = here.install(CHECKOUT)
    assert done.returncode == USAGE
    assert f"{here.bin}/omegactl exists and was not made by install.sh" in done.stderr
    (here.bin / "omegactl").unlink()


def test_incomplete_checkout(here: Here, source: Path) -> None:
    """A checkout without its package is refused by the name of what is missing."""
    shutil.rmtree(source / "omega_sessiond")
    done = here.install(source)
    assert done.returncode == 1
    assert f"{source}/omega_sessiond is missing" in done.stderr


def test_first_command_that_fails_is_shown(here: Here, source: Path) -> None:
    """When the daemon does not come up, its words are shown and doctor is named."""
    (here.place.config_home / "omega-sessiond").mkdir()
    (here.place.config_home / "omega-sessiond/config.toml").write_text("max_cue = 7\n")
    done = here.install(source)
    assert done.returncode == NO_FIRST_COMMAND
    assert "max_cue" in done.stderr and "omegactl doctor" in done.stderr
    (here.place.config_home / "omega-sessiond/config.toml").unlink()


# ---- under systemd ----


class There:
    """Installations of the test user in a real user manager."""

    def __init__(self, manager: UserManager, source: Path) -> None:
        self.manager = manager
        self.source = source
        self.bin = f"{manager.home}/.local/bin"
        self.app = f"{manager.home}/.local/share/omega-sessiond"

    def install(self, *arguments: str, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        return self.manager.run(f"{self.source}/install.sh", *arguments, env={**INDEX, **env}, check=check, timeout=110)

    def omegactl(self, *arguments: str) -> str:
        return self.manager.run(f"{self.bin}/omegactl", *arguments).stdout

    def server(self) -> dict[str, object]:
        """What the daemon says of itself."""
        socket = f"{self.manager.runtime_dir}/omega-sessiond/api.sock"
        code = (
            "import http.client, socket\n"
            "c = http.client.HTTPConnection('localhost'); c.sock = socket.socket(socket.AF_UNIX)\n"
            f"c.sock.connect({socket!r}); c.request('GET', '/api/server'); print(c.getresponse().read().decode())"
        )
        answer: dict[str, object] = json.loads(self.manager.run("/usr/bin/python3", "-I", "-c", code).stdout)
        return answer

    def status_by_tcp(self, port: int, token: str) -> int:
        """The HTTP status of a request with this token."""
        code = (
            "import sys, http.client\n"
            f"c = http.client.HTTPConnection('127.0.0.1', {port})\n"
            "c.request('GET', '/api/health', headers={'Authorization': 'Bearer ' + sys.stdin.readline().strip()})\n"
            "print(c.getresponse().status)"
        )
        return int(self.manager.run("/usr/bin/python3", "-I", "-c", code, input=token).stdout)


@pytest.fixture
def there(user_manager: UserManager) -> There:
    return There(user_manager, _copy(Path(user_manager.base) / "checkout"))


def test_install_under_systemd(there: There) -> None:
    """The socket is enabled and listens; the first command is served by the daemon that systemd started for it.

    A second run leaves the running daemon alone, and one with --tcp makes it listen on the port of the settings too,
    with the token that it names.
    """
    done = there.install()
    assert "\n  42\n" in done.stdout
    manager = there.manager
    assert manager.systemctl("is-enabled", "omega-sessiond.socket") == "enabled"
    assert manager.show("omega-sessiond.service", "ActiveState") == "active"
    assert manager.show("omega-sessiond-tcp.socket", "ActiveState") == "inactive"
    assert manager.show("omega-session-first.scope", "ActiveState") == "active"
    server = there.server()
    assert server["activation"] == "systemd"

    assert "up to date" in there.install().stdout
    assert there.server()["pid"] == server["pid"]

    done = there.install("--tcp", SESSION_SERVER_PORT="47811")
    assert "127.0.0.1:47811" in done.stdout
    token = manager.run("cat", f"{manager.home}/.local/state/omega-sessiond/token").stdout
    assert there.status_by_tcp(47811, token) == 200
    assert there.status_by_tcp(47811, "a guess\n") == 401


def test_upgrade_under_systemd(there: There) -> None:
    """The daemon is restarted in its new version; sessions and a command that was running go on."""
    there.install()
    there.omegactl("exec", "kept", "-c", "x = 5")
    there.omegactl("exec", "busy", "--detach", "-c", "open('begun', 'w').close(); input()")
    there.manager.wait_until(lambda: there.manager.run("test", "-e", "begun", check=False).returncode == 0)
    _another_version(there.source, "0.1.1.dev7")
    there.install()
    assert there.server()["version"] == "0.1.1.dev7"
    assert there.omegactl("exec", "kept", "-c", "x") == "5\n"
    busy = json.loads(there.omegactl("show", "busy", "--json"))
    assert busy["state"] == "waiting_input"
    assert busy["running_execution_id"]


def test_daemon_of_a_client_is_taken_over(there: There) -> None:
    """Where a client had started the daemon before there were units, the activated one takes over with its sessions."""
    there.install("--no-systemd")
    there.omegactl("exec", "kept", "-c", "x = 5")
    assert there.server()["activation"] == "client"
    there.install()
    assert there.server()["activation"] == "systemd"
    assert there.omegactl("exec", "kept", "-c", "x") == "5\n"


def test_going_without_systemd_removes_the_units(there: There) -> None:
    """--no-systemd after an installation with units leaves a daemon that clients start."""
    there.install()
    there.omegactl("exec", "kept", "-c", "x = 5")
    there.install("--no-systemd")
    assert there.manager.show("omega-sessiond.socket", "LoadState") == "not-found"
    assert there.omegactl("exec", "kept", "-c", "x") == "5\n"
    assert there.server()["activation"] == "client"


def test_uninstall_under_systemd(there: There) -> None:
    """--uninstall takes the units away and leaves running sessions; --purge then leaves nothing."""
    there.install()
    there.omegactl("exec", "kept", "-c", "x = 5")
    there.install("--uninstall")
    manager = there.manager
    assert manager.show("omega-sessiond.socket", "LoadState") == "not-found"
    assert manager.show("omega-session-kept.scope", "ActiveState") == "active"
    there.install()
    assert there.omegactl("exec", "kept", "-c", "x") == "5\n"
    there.install("--uninstall", "--purge")
    manager.wait_until(lambda: manager.show("omega-session-kept.scope", "ActiveState") == "inactive")
    left = manager.run("find", ".", "-path", "./.cache", "-prune", "-o", "-not", "-type", "d", "-print").stdout
    assert left.splitlines() == []


def test_no_user_manager(there: There) -> None:
    """Where the user manager does not answer, the installation is made without it and says how to get it."""
    done = there.install(XDG_RUNTIME_DIR=f"{there.manager.home}", DBUS_SESSION_BUS_ADDRESS="")
    assert "your systemd user manager does not answer" in done.stdout
    assert "run ./install.sh again" in done.stdout
    there.manager.run(
        f"{there.bin}/omegactl", "service", "stop", "--sessions", env={"XDG_RUNTIME_DIR": there.manager.home}
    )
