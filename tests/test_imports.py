"""What each part of the program loads, seen in interpreters that have loaded nothing yet."""

from __future__ import annotations

import ast
import json
import re
import socket
import subprocess
import sys
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest

from conftest import CHECKOUT
from isolation import Place

PACKAGE = CHECKOUT / "omega_sessiond"

HEAVY = {"asyncio", "dbus_fast", "msgspec", "sqlite3", "textual", "tornado"}
"""What no client loads: each costs more than all that a client does."""

SHARED = {"errors", "filetypes", "paths", "terminal", "wire"}
"""Used on both sides."""


def _loaded(code: str, *options: str) -> set[str]:
    """The modules in a fresh interpreter after `code`."""
    done = subprocess.run(
        [sys.executable, "-I", *options, "-c", f"import sys; sys.path.insert(0, {str(CHECKOUT)!r})\n{code}\n"
         "print(__import__('json').dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(json.loads(done.stdout))


def _contracts() -> dict[str, dict[str, Any]]:
    with open(CHECKOUT / "pyproject.toml", "rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return {contract["name"]: contract for contract in contracts}


def _sources(name: str) -> set[str]:
    return {module.removeprefix("omega_sessiond.") for module in _contracts()[name]["source_modules"]}


CLIENT = sorted(_sources("Clients know the API, not the daemon"))
EDITOR = sorted(_sources("The line editor is a client that may load asyncio"))
DAEMON = sorted(_sources("The daemon never imports what runs in a host"))


def test_every_module_belongs_to_one_side() -> None:
    """The import contracts name every module of the package, each on the client's or the daemon's side alone."""
    modules = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert set(CLIENT) | set(EDITOR) | set(DAEMON) | SHARED == modules
    assert not set(CLIENT) & set(DAEMON)


@pytest.mark.parametrize("module", CLIENT)
def test_client_stays_light(module: str) -> None:
    """No module of the command line loads what the daemon is made of."""
    loaded = _loaded(f"import omega_sessiond.{module}")
    assert not {name.partition(".")[0] for name in loaded} & HEAVY
    assert not loaded & {f"omega_sessiond.{name}" for name in DAEMON}


@pytest.mark.parametrize("module", EDITOR)
def test_line_editor_loads_no_daemon_and_no_lexers(module: str) -> None:
    """The REPL's editor loads prompt_toolkit, and before its first prompt neither what a daemon is made of nor the
    lexers of pygments."""
    loaded = _loaded(f"import omega_sessiond.{module}")
    assert not {name.partition(".")[0] for name in loaded} & (HEAVY - {"asyncio"})
    assert not loaded & {f"omega_sessiond.{name}" for name in DAEMON}
    assert "pygments.lexers" not in loaded


def test_client_runs_on_the_standard_library_alone() -> None:
    """Every module of the command line loads where no package is installed: its launcher starts without `site`."""
    _loaded("\n".join(f"import omega_sessiond.{module}" for module in CLIENT), "-S")


def test_first_picture_waits_for_nothing_that_it_does_not_show() -> None:
    """The dashboard starts without the box, forms, questions, tabs that are not open, other screens and HTTP."""
    loaded = _loaded("import tui.app, tui.keys")
    later = {"forms", "formdeeds", "info", "modals", "prompt", "statetabs", "screens.events", "screens.service"}
    assert not loaded & {f"tui.{name}" for name in later}
    assert not loaded & {"http.client", "omega_sessiond.transport", "tomllib", "PIL"}


def test_daemon_loads_no_host_code() -> None:
    """The daemon, with all it loads at the start, has nothing of hosts/ and nothing that unpickles."""
    loaded = _loaded("import omega_sessiond.server")
    assert not [name for name in loaded if name.startswith("omega_sessiond.hosts")]
    assert not {"cloudpickle", "omega_sessiond.client", "textual"} & loaded


def test_daemon_asks_for_scopes_late() -> None:
    """D-Bus, as dear as the rest of a daemon's start, is not loaded before the first session needs a scope."""
    assert "dbus_fast" not in _loaded("import omega_sessiond.server")


def test_hosts_load_the_standard_library_alone() -> None:
    """The host's modules load nothing beyond the standard library but what the daemon shares with them."""
    names = [path.stem for path in (PACKAGE / "hosts").glob("*.py") if path.stem not in ("__init__", "main")]
    loaded = _loaded("\n".join(f"import omega_sessiond.hosts.{name}" for name in names), "-S")
    ours = {name for name in loaded if name.startswith("omega_sessiond.") and ".hosts" not in name}
    assert ours == {"omega_sessiond.cgroups", "omega_sessiond.wire"}
    foreign = {name.partition(".")[0] for name in loaded} - set(sys.stdlib_module_names) - {"omega_sessiond"}
    assert not {name for name in foreign if not name.startswith("__") and name != "sitecustomize"}


REPLY = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: 3\r\n"
    b"Omega-Execution-Id: 7\r\nOmega-Session: work\r\nOmega-Status: ok\r\n\r\n42\n"
)


def test_shortcut_loads_almost_nothing(place: Place) -> None:
    """`omegactl exec NAME -c CODE` gets and prints its answer without json, socket, os or anything above them."""
    directory = place.runtime_dir / "omega-sessiond"
    directory.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(directory / "api.sock"))
        listener.listen()

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                asked = b""
                while b"6 * 7" not in asked:
                    asked += connection.recv(65536)
                connection.sendall(REPLY)

        server = threading.Thread(target=answer)
        server.start()
        code = f"import sys; sys.path.append({str(CHECKOUT)!r}); from omega_sessiond.shortcut import main; main()"
        arguments = ["exec", "work", "-c", "6 * 7"]
        done = subprocess.run(
            [sys.executable, "-IS", "-X", "importtime", "-c", code, *arguments],
            env=place.env,
            capture_output=True,
            text=True,
        )
        server.join()
    assert (done.returncode, done.stdout) == (0, "42\n"), done.stderr
    loaded = set(re.findall(r"^import time:.*\| +(\S+)$", done.stderr, re.MULTILINE))
    assert "omega_sessiond.shortcut" in loaded
    ours = {name for name in loaded if name.startswith("omega_sessiond")}
    assert ours == {"omega_sessiond", "omega_sessiond.paths", "omega_sessiond.shortcut"}
    assert not loaded & {"json", "socket", "os", "re", "argparse", "http", "enum", "typing", "selectors", "site"}


def test_hosts_are_files_that_any_python_reads() -> None:
    """Everything a host loads is Python 3.9: no newer syntax, whatever interpreter the session has."""
    for path in [
        PACKAGE / "__init__.py",
        PACKAGE / "cgroups.py",
        PACKAGE / "wire.py",
        *(PACKAGE / "hosts").glob("*.py"),
    ]:
        ast.parse(path.read_text(), str(path), feature_version=(3, 9))


def test_working_directory_is_not_searched(tmp_path: Path) -> None:
    """Files named like modules in the working directory are loaded by neither the daemon nor the command line."""
    for name in ("json", "tornado", "omega_sessiond"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('loaded from the working directory')")
    modules = ["server", *CLIENT]
    code = "\n".join(f"import omega_sessiond.{module}" for module in modules)
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.append({str(CHECKOUT)!r})\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
