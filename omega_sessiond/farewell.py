"""What a daemon that cannot serve says to the clients that wait at the sockets it was given: why, in the form that
every error has. Otherwise systemd, at whose socket somebody waits, would start it again and again.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence

from omega_sessiond.access import UnixDoor
from omega_sessiond.errors import OmegaError
from omega_sessiond.http import refusal

BUDGET_S = 5.0
"""For all of them together; a client that sends nothing has half a second."""

CLIENT_S = 0.5
MOST_READ = 1024 * 1024
"""Of a request, which nobody looks at: the answer is the same. What is left unread would reset the connection."""


def tell(error: OmegaError, listeners: Sequence[socket.socket]) -> None:
    """Answer whoever waits at the Unix sockets among `listeners`. On TCP nobody has shown a token yet."""
    reply, door, until = refusal(error), UnixDoor(), time.monotonic() + BUDGET_S
    for listener in listeners:
        if listener.family != socket.AF_UNIX:
            continue
        listener.setblocking(False)
        while time.monotonic() < until:
            try:
                client, _ = listener.accept()
            except OSError:
                break  # nobody is left
            with client:
                if door.admits_peer(client):
                    _answer(client, reply)


def _answer(client: socket.socket, reply: bytes) -> None:
    client.settimeout(CLIENT_S)
    try:
        client.recv(MOST_READ)
        client.sendall(reply)
        client.shutdown(socket.SHUT_WR)
        read = 0
        while read < MOST_READ and (piece := client.recv(64 * 1024)):
            read += len(piece)
    except OSError:
        pass  # it has gone, or says nothing
