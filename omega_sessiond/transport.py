"""One request on one connection to the daemon's socket, by HTTP. Loaded by the client with its first request.

Knows no route, and repeats nothing.
"""

from __future__ import annotations

import http.client
import select

from omega_sessiond.launch import Launcher

BROKEN = (http.client.HTTPException, ConnectionError)
"""What a connection fails with when the daemon goes away."""


class Connection(http.client.HTTPConnection):
    """HTTP over the socket that `connect_to` makes."""

    def __init__(self, launcher: Launcher) -> None:
        super().__init__("localhost")
        self._launcher = launcher

    def connect(self) -> None:
        self.sock = self._launcher.connect()

    @property
    def has_ended(self) -> bool:
        """Whether something, which can only be its end, came without being asked for."""
        if self.sock is None:
            return True
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return bool(poll.poll(0))


def ask(connection: Connection, method: str, path: str, payload: bytes | None, accept: str) -> http.client.HTTPResponse:
    """Ask, and answer with the head of what comes. Raises one of BROKEN."""
    headers = {"Accept": accept}
    if payload is not None:
        headers["Content-Type"] = "application/json"
    try:
        connection.request(method, path, payload, headers)
    except (BrokenPipeError, ConnectionResetError):
        # The daemon has answered before it read all (413, say); where it has not, this raises, too.
        pass
    response = connection.getresponse()
    if response.length is None and not response.chunked:
        # Ours say how long they are: this one broke off within its headers, which http.client does not see.
        raise http.client.IncompleteRead(b"")
    return response
