"""Jupyter kernels as the daemon finds them: by files alone, and with a reason for each that cannot be used."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import jupyter_core.paths
import pytest

import kernels
from isolation import Place
from omega_sessiond import kernelspecs
from omega_sessiond.config import Settings
from omega_sessiond.engines import Catalogue
from omega_sessiond.errors import EngineUnavailable

ENV = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}


def test_kernels_are_found_where_jupyter_finds_them(place: Place) -> None:
    """The directories are Jupyter's own for the same environment."""
    env = {**place.env, "JUPYTER_PATH": "/one:/two"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", env["JUPYTER_PATH"])
        expected = jupyter_core.paths.jupyter_path("kernels")
    assert set(kernelspecs._directories(env)) == set(expected)


def test_nearer_kernel_wins(tmp_path: Path) -> None:
    """Of two kernels with one name that of the first directory is taken, whatever letters its name is written in."""
    near, far = tmp_path / "near", tmp_path / "far"
    kernels.specify(near / "kernels", "Toy", "true")
    kernels.specify(far / "kernels", "toy", "true")
    env = {**ENV, "JUPYTER_PATH": f"{near}:{far}"}
    resolved = Catalogue(Settings()).resolve("jupyter:toy", None, env)
    assert (resolved.kind, resolved.python) == ("jupyter", None)
    assert resolved.options["directory"] == str(near / "kernels" / "Toy")
    assert os.path.basename(resolved.options["program"]) == "true"


def test_kernel_of_the_active_environment(tmp_path: Path) -> None:
    """A kernel installed in the session's virtual environment is found, and its `python` is that environment's."""
    venv = tmp_path / "venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "bin" / "python").symlink_to(sys.executable)
    kernels.specify(venv / "share" / "jupyter" / "kernels", "mine", "python", "-m", "mine")
    resolved = Catalogue(Settings()).resolve("jupyter:mine", None, {**ENV, "VIRTUAL_ENV": str(venv)})
    assert resolved.options["program"] == str(venv / "bin" / "python")


def test_unknown_kernel_names_the_nearest(tmp_path: Path) -> None:
    """A kernel that does not exist is refused with the nearest name that does."""
    kernels.specify(tmp_path / "kernels", "julia-1.10", "true")
    with pytest.raises(EngineUnavailable, match="no Jupyter kernel") as refusal:
        Catalogue(Settings()).resolve("jupyter:julia-1.1", None, {**ENV, "JUPYTER_PATH": str(tmp_path)})
    assert "'jupyter:julia-1.10'" in refusal.value.hint


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "is not JSON"),
        ("[]", "must be a list of texts"),
        ('{"argv": []}', "must be a list of texts"),
        ('{"argv": "python"}', "must be a list of texts"),
        ('{"argv": ["no-such-kernel"]}', "no program 'no-such-kernel'"),
    ],
)
def test_broken_specification(tmp_path: Path, text: str, words: str) -> None:
    """A specification that cannot be used is listed with the reason, and refused with it."""
    directory = kernels.specify(tmp_path / "kernels", "broken")
    (directory / "kernel.json").write_text(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(tmp_path))
        (row,) = [engine for engine in Catalogue(Settings()).list() if engine.name == "jupyter:broken"]
    assert not row.available and words in (row.unavailable or "")
    with pytest.raises(EngineUnavailable) as refusal:
        Catalogue(Settings()).resolve("jupyter:broken", None, {**ENV, "JUPYTER_PATH": str(tmp_path)})
    assert words in refusal.value.message and str(directory) in refusal.value.message


def test_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where jupyter_client is not installed kernels are listed, with what to do about it."""
    kernels.specify(tmp_path / "kernels", "toy", "true")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setattr(kernelspecs, "find_spec", lambda name: None)
    (row,) = [engine for engine in Catalogue(Settings()).list() if engine.name == "jupyter:toy"]
    assert (row.available, row.unavailable) == (False, kernelspecs.MISSING_EXTRA)
    with pytest.raises(EngineUnavailable, match="--with jupyter"):
        Catalogue(Settings()).resolve("jupyter:toy", None, {**ENV, "JUPYTER_PATH": str(tmp_path)})
