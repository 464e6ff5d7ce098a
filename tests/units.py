"""The project's units, rendered by the very code that install.sh uses, and put into a user manager for a test."""

from __future__ import annotations

import os
import pwd
import sys
from pathlib import Path

from usermanager import UserManager

CHECKOUT = Path(__file__).resolve().parent.parent

sys.path.insert(0, str(CHECKOUT / "systemd"))
import render as render  # noqa: E402 - a script beside its templates, not part of the package

DIRECTORY = ".local/share/systemd/user"
"""Below the home: where install.sh puts units."""


def rendered(python: str, tcp_port: str = "3000") -> dict[str, str]:
    """The texts of the units by name."""
    return render.units(python, tcp_port)


def put(manager: UserManager, python: str, tcp_port: str = "3000") -> None:
    """Install the units for a daemon run by `python`, and load them. Starts nothing."""
    account = pwd.getpwuid(manager.uid)
    directory = Path(manager.home)
    for part in DIRECTORY.split("/"):
        directory /= part
        directory.mkdir(exist_ok=True)
        os.chown(directory, account.pw_uid, account.pw_gid)
    for name, text in rendered(python, tcp_port).items():
        (directory / name).write_text(text)
    manager.systemctl("daemon-reload")


def start(manager: UserManager, python: str, *sockets: str) -> None:
    """Install the units and start the socket, and others: from then on the first request starts the daemon."""
    put(manager, python)
    manager.systemctl("start", "omega-sessiond.socket", *sockets)
