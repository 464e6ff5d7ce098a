"""The catalogue: which engines this machine has, what runs each, and why another is not here.

`python` is built in; line REPLs are presets (presets.py); `jupyter:KERNEL` is any kernel that Jupyter would find.
Knows files and settings; starts nothing and imports nothing of hosts/ or Jupyter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any, Literal

import msgspec
from msgspec import Struct

from omega_sessiond import kernelspecs, presets
from omega_sessiond.birthplace import base_python
from omega_sessiond.config import Settings
from omega_sessiond.errors import EngineUnavailable, InvalidField
from omega_sessiond.messages import Engine

Kind = Literal["python", "lines", "jupyter"]

JUPYTER = "jupyter:"

KERNEL_SHARE = 0.8
"""Of the time a host has to answer, what its kernel may take to do so."""

KERNEL_HINT = "'omegactl engines' lists the kernels that can be used."


NO_KERNELS = (
    "No kernel is installed here at all. In the Python environment that shall run it: python -m pip install ipykernel "
    "&& python -m ipykernel install --user. Beside the daemon: ./install.sh --with jupyter."
)


class Resolved(Struct, frozen=True):
    """What a session's hosts need: `python` is the interpreter the user chose, None where the daemon's own runs the
    host; `options` are the engine's, as its class in hosts/ takes them."""

    kind: Kind
    python: str | None
    options: dict[str, Any] = {}


class Catalogue:
    """The engines of one daemon's settings."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._presets: dict[str, presets.LinePreset] | None = None

    def resolve(self, name: str, python: str | None, env: dict[str, str]) -> Resolved:
        """What engine `name` is for a session with this environment. Raises EngineUnavailable, which says why it is
        not here and what to do about it."""
        if name == "python":
            return Resolved("python", self._python(python, env))
        if python is not None:
            raise InvalidField(f"`python` has no meaning for the engine '{name}'", hint="Leave it out.")
        if name.startswith(JUPYTER):
            return self._kernel(name, env)
        preset = self._lines().get(name)
        if preset is None:
            raise EngineUnavailable(
                f"There is no engine '{name}' here", hint=_nearest(name, ["python", *self._lines()])
            )
        command, why = _command(preset, env)
        if why is not None:
            raise EngineUnavailable(f"The engine '{name}' is not available: {why}", hint=_install(name, preset))
        options = {**msgspec.to_builtins(preset), "name": name, "command": command}
        return Resolved("lines", None, options)

    def inquiries(self) -> dict[str, list[str]]:
        """By engine, what makes its program say its version, for those that can."""
        python = find_program(self._settings.python or base_python(), None)
        inquiries = {} if python is None else {"python": [os.path.abspath(python), "--version"]}
        for name, preset in self._lines().items():
            if preset.version:
                command, why = _command(preset, dict(os.environ))
                if why is None:
                    inquiries[name] = [command[0], *preset.version]
        return inquiries

    def list(self) -> list[Engine]:
        """Every engine known here, with the reason why one cannot be used."""
        env = dict(os.environ)
        python = self._settings.python or base_python()
        found = find_program(python, None)
        engines = [Engine("python", "python", found is not None, found, None, _missing(python) if not found else None)]
        for name, preset in sorted(self._lines().items()):
            command, why = _command(preset, env)
            if why is not None:
                why = f"{why}; {_install(name, preset)}"
            engines.append(Engine(name, "lines", why is None, command[0] if why is None else None, None, why))
        for name, place in sorted(kernelspecs.find(env).items()):
            why = _missing_for_kernel(place, env)
            engines.append(Engine(JUPYTER + name, "jupyter", why is None, place, None, why))
        for name, gateway in sorted(self._settings.gateways.items()):
            engines.append(Engine(f"{JUPYTER}KERNEL@{name}", "jupyter", True, gateway.url, None, None))
        return engines

    def _lines(self) -> dict[str, presets.LinePreset]:
        if self._presets is None:
            self._presets = presets.read(self._settings.engines)
        return self._presets

    def default_python(self) -> str | None:
        """The interpreter of sessions that name none, where it can be found without their environment."""
        found = find_program(self._settings.python or base_python(), None)
        return None if found is None else os.path.abspath(found)

    def _python(self, python: str | None, env: dict[str, str]) -> str:
        python = python or self._settings.python or base_python()
        found = find_program(python, env.get("PATH"))
        if found is None:
            raise EngineUnavailable(
                f"There is no interpreter '{python}'", hint="Name an executable file, or leave `python` out."
            )
        return os.path.abspath(found)

    def _kernel(self, name: str, env: dict[str, str]) -> Resolved:
        # Less than the host's own time, so that the kernel's trouble is told and not the host's silence.
        start_s = self._settings.host_start_s * KERNEL_SHARE
        kernel, at, gateway = name.removeprefix(JUPYTER).partition("@")
        if at:
            return Resolved("jupyter", None, {**self._remote(kernel, gateway), "start_s": start_s})
        kernel = kernel.lower()
        found = kernelspecs.find(env)
        place = found.get(kernel)
        if place is None:
            hint = _nearest(name, [JUPYTER + other for other in found]) if found else NO_KERNELS
            raise EngineUnavailable(f"There is no Jupyter kernel '{kernel}' here", hint=hint)
        why = _missing_for_kernel(place, env)
        if why is not None:
            raise EngineUnavailable(f"The engine '{name}' is not available: {why}", hint=KERNEL_HINT)
        options = {"kernel": kernel, "directory": place, "program": kernelspecs.program(place, env)}
        return Resolved("jupyter", None, {**options, "start_s": start_s})

    def _remote(self, kernel: str, place: str) -> dict[str, Any]:
        """A kernel at a gateway: whether it has that kernel, only the gateway itself can tell."""
        gateway = self._settings.gateways.get(place)
        if gateway is None:
            near = _nearest(
                f"{JUPYTER}{kernel}@{place}", [f"{JUPYTER}{kernel}@{one}" for one in self._settings.gateways]
            )
            raise EngineUnavailable(f"There is no gateway '{place}' in the settings ([gateways.{place}])", hint=near)
        return {"kernel": kernel, "gateway": {"name": place, **msgspec.to_builtins(gateway)}}


def _nearest(name: str, known: Iterable[str]) -> str:
    import difflib  # for a mistake alone

    near = difflib.get_close_matches(name, known, n=1)
    meant = f"Did you mean '{near[0]}'? " if near else ""
    return meant + "'omegactl engines' lists the engines of this machine."


def _missing_for_kernel(place: str, env: dict[str, str]) -> str | None:
    """Why the kernel whose specification lies in `place` cannot be used."""
    if not kernelspecs.has_client():
        return kernelspecs.MISSING_EXTRA
    try:
        kernelspecs.program(place, env)
    except kernelspecs.Unusable as reason:
        return str(reason)
    return None


def find_program(program: str, search_path: str | None) -> str | None:
    """The executable file that `program` names, if there is one."""
    program = os.path.expanduser(program)
    if os.path.isabs(program):
        return program if os.path.isfile(program) and os.access(program, os.X_OK) else None
    import shutil  # with all it knows of archives it takes as long to import as the journal, and few need it

    return shutil.which(program, path=search_path)


def _command(preset: presets.LinePreset, env: dict[str, str]) -> tuple[list[str], str | None]:
    """The command with its program as a path, and why it cannot be had."""
    command, source = preset.command, ""
    variable = preset.command_variable
    given = env.get(variable) or os.environ.get(variable, "") if variable else ""
    if given:
        source = f", which {preset.command_variable} names"
        import shlex  # for a command line alone

        try:
            command = shlex.split(given)
        except ValueError as error:
            return command, f"{preset.command_variable} is no command line ({error})"
        if not command:
            return preset.command, f"{preset.command_variable} is empty"
    found = find_program(command[0], env.get("PATH"))
    if found is None:
        return command, _missing(command[0]) + source
    return [os.path.abspath(found), *command[1:]], None


def _missing(program: str) -> str:
    return f"there is no program '{program}'" + ("" if os.path.isabs(program) else " on PATH")


def _install(name: str, preset: presets.LinePreset) -> str:
    return preset.install_hint or f"install it, or give its path as `command` in [engines.{name}] of the settings"
