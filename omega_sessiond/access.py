"""Who may speak to the daemon: decided from the accepted socket and a request's headers, before anything else.

On the Unix socket the caller's uid is the credential. On TCP, which is opt-in and loopback, it is a bearer token, and
Host must name us exactly (a rebound DNS name does not). No browser has business here: an Origin is refused on both.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
from collections.abc import Mapping
from typing import Protocol

from omega_sessiond.errors import BadRequest, Forbidden, RuntimeDirError, Unauthorized

TOKEN_BYTES = 32


class Door(Protocol):
    """One listener's rule."""

    def admits_peer(self, connected: socket.socket) -> bool:
        """Whether the other end of an accepted connection may ask at all."""

    def check(self, headers: Mapping[str, str], has_body: bool) -> None:
        """Raise Forbidden, Unauthorized or BadRequest when a request must not be looked at further."""

    def target(self, asked: str) -> str:
        """The path and query of a request's target."""


def _refuse_origin(headers: Mapping[str, str]) -> None:
    if "Origin" in headers:
        raise Forbidden("Requests from web pages are refused", hint="Send no Origin header.")


class UnixDoor:
    """The API socket: the caller must have our uid. Host and Content-Type are not looked at."""

    def admits_peer(self, connected: socket.socket) -> bool:
        return peer_uid(connected) == os.getuid()

    def check(self, headers: Mapping[str, str], has_body: bool) -> None:
        _refuse_origin(headers)

    def target(self, asked: str) -> str:
        """A target in absolute form names a host, at which we do not look either."""
        if asked.startswith(("http://", "https://")):
            return "/" + asked.partition("://")[2].partition("/")[2]
        return asked


class TcpDoor:
    """The loopback listener on `port`: exact Host, the token, JSON declared as such."""

    def __init__(self, port: int, token: str) -> None:
        self._hosts = frozenset((f"127.0.0.1:{port}", f"localhost:{port}"))
        self._expected = f"Bearer {token}".encode("ascii")

    def admits_peer(self, connected: socket.socket) -> bool:
        return True

    def check(self, headers: Mapping[str, str], has_body: bool) -> None:
        from hmac import compare_digest

        _refuse_origin(headers)
        if headers.get("Host", "") not in self._hosts:
            raise Forbidden("The Host header does not name this server", hint=f"Use {min(self._hosts)} in the URL.")
        given = headers.get("Authorization", "").encode("utf-8", "replace")
        if not compare_digest(given, self._expected):
            raise Unauthorized("The bearer token is missing or wrong")
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if has_body and kind != "application/json":
            raise BadRequest("The Content-Type of a body must be application/json")

    def target(self, asked: str) -> str:
        """As it is: the absolute form would bring a second host past the check of the first."""
        return asked


def peer_uid(connected: socket.socket) -> int:
    """The uid at the other end, -1 where it cannot be told. Source: unix(7) SO_PEERCRED; unix(4) of the BSDs."""
    try:
        if hasattr(socket, "SO_PEERCRED"):
            data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            return int(struct.unpack("iii", data)[1])
        data = connected.getsockopt(0, getattr(socket, "LOCAL_PEERCRED", 1), 76)
        return int(struct.unpack_from("Ii", data)[1])
    except (OSError, struct.error):
        return -1


def token(file: str) -> str:
    """The TCP listener's token from its file, made at the first use. Raises RuntimeDirError when others can read it."""
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _make_token(file)
    except OSError as error:
        raise RuntimeDirError(f"Cannot read {file}: {error.strerror}") from None
    with open(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise RuntimeDirError(
                f"The token file {file} is not yours alone", hint=f"Remove it (a new one is made): rm {file}"
            )
        text = stream.read(4096).strip()
    if len(text) < TOKEN_BYTES or not text.isascii():
        raise RuntimeDirError(f"The token file {file} holds no token", hint=f"Remove it: rm {file}")
    return text.decode("ascii")


def _make_token(file: str) -> str:
    """Create the file 0600 and whole: it is never there empty, and never readable for others."""
    import secrets

    made = secrets.token_urlsafe(TOKEN_BYTES)
    draft = f"{file}.{os.getpid()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as stream:
        stream.write(made.encode("ascii") + b"\n")
    os.rename(draft, file)
    return made
