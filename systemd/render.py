"""Writes the two commands and the units of an installation; install.sh runs it with the installation's own Python.

    python render.py VENV BIN_DIR [UNIT_DIR TCP_PORT]

Files are replaced in one step, because someone may be running them, and only when their text has changed. The names of
changed units go to stdout, one a line. Without UNIT_DIR no units are written.
"""

from __future__ import annotations

import os
import sys
import sysconfig

HERE = os.path.dirname(os.path.abspath(__file__))

MADE_BY = "Made by omega-sessiond's install.sh"
"""By this line install.sh knows its own files, in this spelling."""

SHEBANG_BYTES = 127
"""Linux before 5.1, and other kernels, cut a script's first line there."""

OMEGACTL = """\
import sys

sys.path.append({site!r})
from omega_sessiond.shortcut import main

sys.exit(main())
"""

OMEGA_SESSIOND = """\
import sys

from omega_sessiond.server import main

sys.exit(main())
"""


def script(python: str, options: str, body: str) -> str:
    """A script that `python` runs, whatever its path."""
    first = f"#!{python} {options}\n"
    if len(os.fsencode(first)) > SHEBANG_BYTES or any(letter.isspace() for letter in python):
        quoted = "".join("\\" + letter if letter in '\\"$`' else letter for letter in python)
        # Two lines that are a command to sh and a string to Python.
        first = f"#!/bin/sh\n'''exec' \"{quoted}\" {options} \"$0\" \"$@\"\n' '''\n"
    return f"{first}# {MADE_BY}.\n{body}"


def commands(venv: str) -> dict[str, str]:
    """The texts of the commands by name."""
    python = venv + "/bin/python"
    # Without `site` the interpreter is up in half the time: omegactl needs the standard library and our own package.
    site = sysconfig.get_path("purelib", scheme="venv", vars={"base": venv, "platbase": venv})
    return {
        "omegactl": script(python, "-IS", OMEGACTL.format(site=site)),
        "omega-sessiond": script(python, "-I", OMEGA_SESSIOND),
    }


def units(python: str, tcp_port: str) -> dict[str, str]:
    """The texts of the units by name."""
    # systemd.service(5), "Command lines". A program's path may hold no quote or backslash, an argument may.
    escaped = python.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if any(letter in python for letter in "\"'\\"):
        escaped = '/usr/bin/env "' + escaped.replace("$", "$$") + '"'
    elif any(letter.isspace() or letter == ";" for letter in python):
        escaped = f'"{escaped}"'
    texts = {}
    for name in sorted(os.listdir(HERE)):
        if name.endswith((".socket", ".service", ".slice")):
            with open(os.path.join(HERE, name), encoding="utf-8") as file:
                text = file.read().replace("@PYTHON@", escaped).replace("@PORT@", tcp_port)
            texts[name] = f"# {MADE_BY}; to change something use a drop-in.\n{text}"
    return texts


def write(path: str, text: str, mode: int) -> bool:
    """Make the file so; whether it was different."""
    try:
        with open(path, encoding="utf-8") as file:
            if file.read() == text and os.stat(path).st_mode & 0o777 == mode:
                return False
    except (FileNotFoundError, UnicodeDecodeError):
        pass
    os.makedirs(os.path.dirname(path), exist_ok=True)
    new = f"{path}.{os.getpid()}.new"
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
    os.replace(new, path)
    return True


def main(venv: str, bin_dir: str, unit_dir: str = "", tcp_port: str = "") -> None:
    for name, text in commands(venv).items():
        write(f"{bin_dir}/{name}", text, 0o755)
    if unit_dir:
        for name, text in units(venv + "/bin/python", tcp_port).items():
            if write(f"{unit_dir}/{name}", text, 0o644):
                print(name)


if __name__ == "__main__":
    main(*sys.argv[1:])
