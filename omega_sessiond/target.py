"""Which daemon a client means: that of one state directory, or whoever listens on a socket the user named.

Reads the environment and, of the settings file, `session_dir` alone, as the daemon does. Connects to nothing.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from omega_sessiond import paths
from omega_sessiond.errors import ConfigError


class Target(NamedTuple):
    """`state_dir` is None where the user named a socket: such a daemon is asked and never started."""

    socket_path: str
    state_dir: str | None
    origin: str
    """What decided: the variable, the file or the option, for messages."""

    @property
    def is_default(self) -> bool:
        return self.state_dir == paths.default_state_dir()


def find(socket_path: str | None = None) -> Target:
    """The daemon of this environment. Raises ConfigError for a settings file that cannot be read."""
    if socket_path is not None:
        return Target(os.path.abspath(socket_path), None, "--socket")
    named, origin = os.environ.get("SESSION_DIR", ""), "SESSION_DIR"
    if not named:
        named, origin = _configured(), paths.config_file()
    if not named:
        state_dir, origin = paths.default_state_dir(), "the default"
    else:
        state_dir = os.path.abspath(os.path.expanduser(named))
    return Target(paths.api_socket(state_dir), state_dir, origin)


def _configured() -> str:
    file = paths.config_file()
    try:
        with open(file, "rb") as stream:
            content = stream.read()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ConfigError(f"Cannot read {file}: {error.strerror}", hint="Make it readable or remove it.") from None
    if b"session_dir" not in content:
        return ""
    import tomllib

    try:
        value = tomllib.loads(content.decode()).get("session_dir", "")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} is not TOML: {error}", hint="Correct the line it names.") from None
    if not isinstance(value, str):
        raise ConfigError(f"Setting 'session_dir' in {file}: expected a string", hint='session_dir = "/path/of/it"')
    return value


def managed_socket() -> str | None:
    """Where systemd listens for this user's daemon: the runtime directory's own place, whatever the state directory."""
    runtime_dir = paths.env("XDG_RUNTIME_DIR")
    return paths.api_socket(paths.default_state_dir()) if runtime_dir.startswith("/") else None


def check_length(socket_path: str) -> str | None:
    """What is wrong with a socket path that the kernel would refuse, and the remedy; None when it is short enough."""
    size = len(os.fsencode(socket_path))
    if size <= paths.MAX_SOCKET_PATH_BYTES:
        return None
    return (
        f"The socket path has {size} bytes and a Unix socket's at most {paths.MAX_SOCKET_PATH_BYTES}: {socket_path}\n"
        "Set XDG_RUNTIME_DIR to a shorter directory of your own (0700), or SESSION_DIR to a shorter path."
    )
