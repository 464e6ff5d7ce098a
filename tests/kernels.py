"""Jupyter kernels for the tests: the two real ones, and some that misbehave, as specifications in a directory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

IPYKERNEL = Path(sys.prefix, "share", "jupyter", "kernels", "python3")
"""The specification that comes with ipykernel."""


def specify(kernels: Path, name: str, *argv: str, **fields: object) -> Path:
    """Write a specification and return its directory."""
    directory = kernels / name
    directory.mkdir(parents=True)
    spec = {"argv": argv, "display_name": name, "language": "none", **fields}
    (directory / "kernel.json").write_text(json.dumps(spec))
    return directory


def ipykernel(kernels: Path, name: str = "python3", **fields: object) -> Path:
    """ipykernel as a kernel of its own name, with other fields than it has by itself."""
    argv = (sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}")
    return specify(kernels, name, *argv, language="python", **fields)


def bash(kernels: Path) -> Path:
    """bash_kernel, whose package leaves the specification to whoever installs it."""
    return specify(kernels, "bash", sys.executable, "-m", "bash_kernel", "-f", "{connection_file}", language="bash")


def script(kernels: Path, name: str, code: str) -> Path:
    """A kernel that is a piece of Python and no more."""
    return specify(kernels, name, sys.executable, "-c", code, "{connection_file}")
