"""A server that answers as a test dictates: daemons that die in the middle of a word, refuse, or talk nonsense."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple


class Asked(NamedTuple):
    """One request as it arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Answer = bytes | Iterable[bytes] | Callable[[Asked], bytes | Iterable[bytes]]
"""What is sent before the connection is closed: in one piece, in several, or made from the request."""


def reply(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """A whole HTTP reply; underscores in the names of headers are dashes."""
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode() + body


def json_reply(value: Any, status: str = "200 OK") -> bytes:
    return reply(json.dumps(value).encode(), status, Content_Type="application/json")


def refusal(code: str, status: str, error: str = "refused", hint: str = "") -> bytes:
    return json_reply({"error": error, "code": code, "hint": hint}, status)


def chunked(*chunks: bytes, ends: bool = True) -> bytes:
    """A stream's reply; one that does not end is a daemon that died."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + (b"0\r\n\r\n" if ends else b"")


def lines(*events: Any) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


class Stub:
    """Listens on a path; the n-th connection gets the n-th answer, and the last answer serves all that follow."""

    def __init__(self, path: Path, *answers: Answer) -> None:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._answers = list(answers)
        self.asked: list[Asked] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(os.fspath(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Stub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    asked = _read(connection)
                    if asked is None:
                        continue
                    answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
                    self.asked.append(asked)
                    parts = answer(asked) if callable(answer) else answer
                    for part in [parts] if isinstance(parts, bytes) else parts:
                        connection.sendall(part)
                except (BrokenPipeError, ConnectionResetError):
                    continue  # it had enough


def _read(connection: socket.socket) -> Asked | None:
    received = b""
    while b"\r\n\r\n" not in received:
        data = connection.recv(65536)
        if not data:
            return None
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    first, *rest = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in rest)}
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(65536)
    method, path, _ = first.split(" ")
    return Asked(method, path, headers, body)
