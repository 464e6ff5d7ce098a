"""Where things are: one answer for the daemon and for every client.

Uses `posix` instead of `os`, and binascii, instead of hashlib, only when it must: the short-lived client imports this
on its fast path, where each standard module costs as much as the request (docs/ARCHITECTURE.md, "The client").
Source: XDG Base Directory Specification.
"""

from __future__ import annotations

import posix
import sys

APP = "omega-sessiond"

MAX_SOCKET_PATH_BYTES = 107
"""unix(7): sun_path holds 108 bytes, the last one is NUL."""


def env(name: str) -> str:
    """An environment variable, or "" where it is unset. Follows os.environ where `os` is loaded already."""
    os = sys.modules.get("os")
    if os is not None:
        return str(os.environ.get(name, ""))
    return posix.environ.get(name.encode(), b"").decode("utf-8", "surrogateescape")


def home() -> str:
    """The user's home directory, from HOME or else from the password database."""
    value = env("HOME")
    if not value.startswith("/"):
        import pwd

        value = pwd.getpwuid(posix.getuid()).pw_dir
    return value.rstrip("/")


def _xdg(variable: str, fallback: str) -> str:
    """An XDG base directory; a relative value is ignored, as the specification asks."""
    value = env(variable)
    return value if value.startswith("/") else home() + fallback


def make_private(path: str) -> None:
    """Make a directory, 0700, and whatever is missing above it, 0700 too as the specification asks: whoever can write
    there could put another in its place. Raises OSError, FileExistsError where it is there already."""
    try:
        posix.mkdir(path, 0o700)
    except FileNotFoundError:
        above = path.rstrip("/").rpartition("/")[0]
        if not above:
            raise
        try:
            make_private(above)
        except FileExistsError:
            pass  # made by another process just now
        posix.mkdir(path, 0o700)


def config_file() -> str:
    """The settings file, whether or not it exists."""
    return _xdg("XDG_CONFIG_HOME", "/.config") + "/" + APP + "/config.toml"


def default_state_dir() -> str:
    return _xdg("XDG_STATE_HOME", "/.local/state") + "/" + APP


def tag(state_dir: str) -> str:
    """What tells the runtime paths and scopes of another state directory apart: "" for the default one."""
    if state_dir == default_state_dir():
        return ""
    from binascii import crc32

    return f"{crc32(state_dir.encode('utf-8', 'surrogateescape')):08x}"


def runtime_dir(state_dir: str) -> str:
    """The directory of the API socket and of the hosts' sockets, 0700.

    Under XDG_RUNTIME_DIR; without one, `run/` in the state directory (nothing predictable in a shared /tmp).
    """
    base = env("XDG_RUNTIME_DIR")
    if not base.startswith("/"):
        return state_dir + "/run"
    suffix = tag(state_dir)
    return base.rstrip("/") + "/" + APP + ("-" + suffix if suffix else "")


def api_socket(state_dir: str) -> str:
    return runtime_dir(state_dir) + "/api.sock"


def host_socket(state_dir: str, session_id: str) -> str:
    return runtime_dir(state_dir) + "/hosts/" + session_id + ".sock"


def engine_sockets(state_dir: str, session_id: str) -> str:
    """The directory of the sockets that a session's engine makes for a child. The host makes and names it."""
    return runtime_dir(state_dir) + "/hosts/" + session_id


def session_dir(state_dir: str, session_id: str) -> str:
    """A session's own directory, 0700: how it is launched, its host's log."""
    return state_dir + "/sessions/" + session_id


def ahead_dir(state_dir: str) -> str:
    """What is made before there is a session that it is for, and goes when the daemon does."""
    return state_dir + "/next"


def host_log(state_dir: str, session_id: str) -> str:
    return session_dir(state_dir, session_id) + "/frames.log"


def checkpoints_dir(state_dir: str, session_id: str) -> str:
    """Where a session's host writes its checkpoints, 0700: each a directory named by its id."""
    return session_dir(state_dir, session_id) + "/checkpoints"


def launch_file(state_dir: str, session_id: str) -> str:
    return session_dir(state_dir, session_id) + "/launch.json"


def journal_file(state_dir: str) -> str:
    return state_dir + "/journal.db"


def lock_file(state_dir: str) -> str:
    """Locked by the one daemon of a state directory, and by a client while it starts that daemon."""
    return state_dir + "/daemon.lock"


def hosts_note(state_dir: str) -> str:
    """Says in which directory the last daemon's hosts have their sockets."""
    return state_dir + "/hosts-directory"


def token_file(state_dir: str) -> str:
    """The bearer token of the TCP listener, 0600."""
    return state_dir + "/token"


def daemon_log(state_dir: str) -> str:
    """What a daemon writes where there is no systemd journal."""
    return state_dir + "/daemon.log"
