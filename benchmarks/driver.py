"""The client of every measurement: HTTP/1.1 on a Unix socket, keep-alive, as cheap as Python can. The same code drives
both sides, so that what it costs itself is in both. Knows HTTP as far as our servers speak it, and no route.
"""

from __future__ import annotations

import re
import select
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

TIMEOUT_S = 60.0
"""An answer that takes longer will not come."""

_LENGTH = re.compile(rb"\r\nContent-Length: (\d+)", re.IGNORECASE)


class Reply(NamedTuple):
    status: int
    body: bytes


class RequestFailed(Exception):
    """The server answered something else than a success, or nothing."""


def request(method: str, target: str, body: bytes | None = None) -> bytes:
    """A whole request as bytes, so that nothing is put together while the clock runs."""
    head = f"{method} {target} HTTP/1.1\r\nHost: localhost\r\n"
    if body is not None:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"\r\n" + (body or b"")


def connect(path: str) -> socket.socket:
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connected.settimeout(TIMEOUT_S)
    try:
        connected.connect(path)
    except BaseException:
        connected.close()
        raise
    return connected


def is_whole(data: bytes) -> Reply | None:
    """The reply in `data`, once all of it is there."""
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    status = int(data[9:12])
    length = _LENGTH.search(data, 0, end)
    if length is None and status not in (204, 304):
        raise RequestFailed(f"a reply without a length: {data[:200]!r}")
    body = data[end + 4 :]
    return None if length is not None and len(body) < int(length[1]) else Reply(status, body)


class Client:
    """One keep-alive connection."""

    def __init__(self, path: str) -> None:
        self._socket = connect(path)

    def exchange(self, whole_request: bytes) -> Reply:
        """Send a request, return its reply, whatever its status."""
        data = b""
        try:
            self._socket.sendall(whole_request)
            while received := self._socket.recv(65536):
                data += received
                if (reply := is_whole(data)) is not None:
                    return reply
        except OSError as error:
            raise RequestFailed(f"no whole answer: {error}") from error
        raise RequestFailed(f"the connection ended after {data[:200]!r}")

    def ask(self, method: str, target: str, body: bytes | None = None) -> bytes:
        """The body of a successful reply; RequestFailed for any other."""
        reply = self.exchange(request(method, target, body))
        if reply.status >= 300:
            raise RequestFailed(f"{method} {target}: {reply.status} {reply.body[:500].decode(errors='replace')}")
        return reply.body

    def time_of(self, whole_request: bytes, expected: bytes) -> float:
        """Microseconds from the first byte sent to the last one received; the reply must hold `expected`."""
        begun = time.perf_counter_ns()
        reply = self.exchange(whole_request)
        taken = time.perf_counter_ns() - begun
        if expected not in reply.body:
            raise RequestFailed(f"a wrong reply: {reply.status} {reply.body[:500].decode(errors='replace')}")
        return taken / 1000

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def requests_per_second(path: str, requests: Sequence[bytes], each: int) -> float:
    """Send each of `requests` `each` times, on a connection of its own, the next as soon as the last is answered."""
    poll = select.epoll()
    sockets = {}
    try:
        for whole_request in requests:
            connected = connect(path)
            sockets[connected.fileno()] = (connected, whole_request)
            poll.register(connected.fileno(), select.EPOLLIN)
        left = dict.fromkeys(sockets, each)
        unfinished = dict.fromkeys(sockets, b"")
        begun = time.perf_counter()
        for connected, whole_request in sockets.values():
            connected.sendall(whole_request)
        while left:
            ready = poll.poll(TIMEOUT_S)
            if not ready:
                raise RequestFailed("no answer")
            for descriptor, _ in ready:
                connected, whole_request = sockets[descriptor]
                received = connected.recv(65536)
                if not received:
                    raise RequestFailed("the connection ended")
                data = unfinished[descriptor] + received
                reply = is_whole(data)
                if reply is None:
                    unfinished[descriptor] = data
                    continue
                if reply.status != 200:
                    raise RequestFailed(f"{reply.status} {reply.body[:500].decode(errors='replace')}")
                unfinished[descriptor] = b""
                left[descriptor] -= 1
                if left[descriptor]:
                    connected.sendall(whole_request)
                else:
                    del left[descriptor]
        return len(requests) * each / (time.perf_counter() - begun)
    finally:
        poll.close()
        for connected, _ in sockets.values():
            connected.close()
