"""Which Jupyter kernels are installed here, found as Jupyter finds them: kernels/NAME/kernel.json in its data
directories. Imports nothing of Jupyter's: the daemon must stay light, and the kernels run in hosts.

Source: https://docs.jupyter.org/en/latest/use/jupyter-directories.html
"""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec

from omega_sessiond import paths

MISSING_EXTRA = "jupyter_client is not installed beside the daemon: install omega-sessiond[jupyter]"


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
    native = os.path.join(sys.prefix, "share", "jupyter", "kernels", "python3")
    if "python3" not in found and find_spec("ipykernel") is not None:
        found["python3"] = native  # Jupyter makes the specification of its own interpreter's kernel up
    return found


def _directories(env: dict[str, str]) -> list[str]:
    data = env.get("XDG_DATA_HOME") or os.path.join(env.get("HOME") or paths.home(), ".local", "share")
    places = [place for place in env.get("JUPYTER_PATH", "").split(os.pathsep) if place]
    places.append(env.get("JUPYTER_DATA_DIR") or os.path.join(data, "jupyter"))
    places += [os.path.join(prefix, "share", "jupyter") for prefix in (sys.prefix, "/usr/local", "/usr")]
    return [os.path.join(place, "kernels") for place in places]
