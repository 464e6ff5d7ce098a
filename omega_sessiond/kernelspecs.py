"""Which Jupyter kernels are installed here, found as Jupyter finds them: kernels/NAME/kernel.json in its data
directories. Imports nothing of Jupyter's: the daemon must stay light, and the kernels run in hosts.

Source: https://docs.jupyter.org/en/latest/use/jupyter-directories.html and jupyter_core.paths
"""

from __future__ import annotations

import json
import os
import re
import sys
from importlib.util import find_spec

from omega_sessiond import paths

MISSING_EXTRA = "jupyter_client is not installed beside the daemon: ./install.sh --with jupyter"

ANY_PYTHON = re.compile(r"python(3(\.\d+)?)?")


class Unusable(Exception):
    """Says why a kernel cannot be started."""


def has_client() -> bool:
    """Whether the extra [jupyter] is installed where the daemon, and so its hosts, look for it."""
    return find_spec("jupyter_client") is not None


def find(env: dict[str, str]) -> dict[str, str]:
    """Kernels by name, each with the directory of its specification; of two with one name the nearer one."""
    found: dict[str, str] = {}
    for directory in _directories(env):
        try:
            names = sorted(os.listdir(directory))
        except OSError:
            continue
        for name in names:
            place = os.path.join(directory, name)
            if os.path.isfile(os.path.join(place, "kernel.json")):
                found.setdefault(name.lower(), place)
    return found


def program(place: str, env: dict[str, str]) -> str:
    """The program that the specification in `place` starts; "" where only the kernel's start can tell. Unusable says
    why there is none."""
    file = os.path.join(place, "kernel.json")
    try:
        with open(file, encoding="utf-8") as stream:
            spec = json.load(stream)
    except OSError as error:
        raise Unusable(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise Unusable(f"{file} is not JSON: {error}") from None
    argv = spec.get("argv") if isinstance(spec, dict) else None
    if not isinstance(argv, list) or not argv or not all(isinstance(word, str) for word in argv):
        raise Unusable(f"{file} names no program: `argv` must be a list of texts")
    word = os.path.expanduser(argv[0])
    if "{" in word:
        return ""
    import shutil  # takes as long to import as the journal, and few need it

    # `python` means the interpreter that the kernel was installed for.
    beside = os.path.join(place, *[os.pardir] * 4, "bin", word)
    found = beside if ANY_PYTHON.fullmatch(word) and os.access(beside, os.X_OK) else None
    found = found or shutil.which(word, path=env.get("PATH"))
    if found is None:
        raise Unusable(f"there is no program '{argv[0]}', which {file} names")
    return os.path.abspath(found)


def _directories(env: dict[str, str]) -> list[str]:
    home = env.get("HOME") or paths.home()
    if sys.platform == "darwin":
        data = os.path.join(home, "Library", "Jupyter")
    else:
        data = os.path.join(env.get("XDG_DATA_HOME") or os.path.join(home, ".local", "share"), "jupyter")
    places = [place for place in env.get("JUPYTER_PATH", "").split(os.pathsep) if place]
    # What is active where the session was made: hosts run in another environment.
    active = [env[name] for name in ("VIRTUAL_ENV", "CONDA_PREFIX") if env.get(name)]
    places += [os.path.join(prefix, "share", "jupyter") for prefix in active]
    places.append(env.get("JUPYTER_DATA_DIR") or data)
    places += [os.path.join(prefix, "share", "jupyter") for prefix in (sys.prefix, "/usr/local", "/usr")]
    return [os.path.join(place, "kernels") for place in places]
