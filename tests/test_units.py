"""The units as systemd itself reads them, and how install.sh writes them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import units
from units import render
from usermanager import UserManager

NAMES = ["app-omega-sessions.slice", "omega-sessiond-tcp.socket", "omega-sessiond.service", "omega-sessiond.socket"]


def _verify(manager: UserManager, names: list[str]) -> str:
    """What systemd-analyze has against the installed units; its exit code counts too."""
    files = [f"{manager.home}/{units.DIRECTORY}/{name}" for name in names]
    done = manager.run("systemd-analyze", "--user", "verify", "--man=no", *files, check=False)
    return done.stdout + done.stderr + (f"exit code {done.returncode}" if done.returncode else "")


def test_systemd_accepts_every_unit(user_manager: UserManager, test_venv: Path) -> None:
    """systemd-analyze verify has nothing to say about any of the units."""
    units.put(user_manager, f"{test_venv}/bin/python")
    assert _verify(user_manager, NAMES) == ""


@pytest.mark.parametrize("directory", ["plain", "with blank", "100%h;", "dollar$HOME", "quotes'\"", "back\\slash"])
def test_systemd_runs_an_interpreter_wherever_it_is(user_manager: UserManager, directory: str) -> None:
    """A unit's command line reaches an interpreter in a directory of any name."""
    python = f"{user_manager.home}/{directory}/python"
    user_manager.run("mkdir", f"{user_manager.home}/{directory}")
    text = '#!/bin/sh\necho "$0" "$@" >"$HOME/ran"\n'
    user_manager.run("sh", "-c", 'cat >"$0" && chmod +x "$0"', python, input=text)
    units.put(user_manager, python)
    user_manager.systemctl("start", "omega-sessiond.socket")
    user_manager.systemctl("start", "omega-sessiond.service", check=False)  # it never says READY
    assert user_manager.run("cat", "ran").stdout == f"{python} -I -m omega_sessiond\n"


def test_socket_is_for_its_user_alone(user_manager: UserManager, test_venv: Path) -> None:
    """The started socket has mode 0600 in a directory of mode 0700."""
    units.start(user_manager, f"{test_venv}/bin/python")
    directory = f"{user_manager.runtime_dir}/omega-sessiond"
    modes = user_manager.run("stat", "-c", "%a %F", directory, f"{directory}/api.sock").stdout
    assert modes == "700 directory\n600 socket\n"


def test_socket_file_goes_with_its_unit(user_manager: UserManager, test_venv: Path) -> None:
    """A stopped socket leaves no file that clients would take for a daemon."""
    units.start(user_manager, f"{test_venv}/bin/python")
    user_manager.systemctl("stop", "omega-sessiond.socket")
    user_manager.run("test", "!", "-e", f"{user_manager.runtime_dir}/omega-sessiond/api.sock")


def test_enabling_either_unit_enables_the_socket(user_manager: UserManager, test_venv: Path) -> None:
    """`systemctl --user enable` of the service is understood as the socket's, which starts it."""
    units.put(user_manager, f"{test_venv}/bin/python")
    user_manager.systemctl("enable", "omega-sessiond.service")
    assert user_manager.systemctl("is-enabled", "omega-sessiond.socket") == "enabled"


def test_sessions_are_a_slice_of_the_daemons_slice(user_manager: UserManager, test_venv: Path) -> None:
    """One slice holds everything of omega-sessiond, the sessions' is within it, and stopping that spares the daemon."""
    units.put(user_manager, f"{test_venv}/bin/python")
    assert user_manager.show("app-omega-sessions.slice", "Slice") == "app-omega.slice"
    assert user_manager.show("omega-sessiond.service", "Slice") == "app-omega.slice"
    assert "omega-sessiond.service" not in user_manager.show("app-omega-sessions.slice", "RequiredBy").split()


def test_tcp_listens_on_loopback_only(user_manager: UserManager, test_venv: Path) -> None:
    """The optional listener has the address 127.0.0.1 and the port it was rendered with."""
    units.put(user_manager, f"{test_venv}/bin/python", "4711")
    assert user_manager.show("omega-sessiond-tcp.socket", "Listen") == "127.0.0.1:4711 (Stream)"


def test_no_placeholder_is_left() -> None:
    """Every placeholder of the templates is filled."""
    texts = units.rendered("/usr/bin/python3")
    assert sorted(texts) == NAMES
    assert not [name for name, text in texts.items() if "@" in text]


@pytest.mark.parametrize("directory", ["plain", "with blank", "dollar$HOME `id` \"quote'", "x" * 150])
def test_launcher_runs_its_interpreter_wherever_that_is(tmp_path: Path, directory: str) -> None:
    """A launcher starts the interpreter bare, with all arguments, also where a #! line cannot name it."""
    interpreter = tmp_path / directory / "python"
    interpreter.parent.mkdir()
    interpreter.symlink_to(sys.executable)
    launcher = tmp_path / "launcher"
    body = "import sys\nprint(sys.flags.isolated, sys.flags.no_site, sys.argv[1:])\n"
    render.write(str(launcher), render.script(str(interpreter), "-IS", body), 0o755)
    done = subprocess.run([launcher, "a b", "$x"], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1 ['a b', '$x']\n"


def test_file_is_replaced_only_when_it_differs(tmp_path: Path) -> None:
    """write() says whether the text or the mode was another, and replaces the file in one step."""
    path = tmp_path / "sub" / "file"
    assert render.write(str(path), "one", 0o755)
    inode = path.stat().st_ino
    assert not render.write(str(path), "one", 0o755)
    assert path.stat().st_ino == inode
    assert render.write(str(path), "one", 0o644)
    assert render.write(str(path), "two", 0o644)
    assert path.read_text() == "two"
    assert [child.name for child in path.parent.iterdir()] == ["file"]
