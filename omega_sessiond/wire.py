"""The frames between the daemon and a host. Standard library only, Python 3.9: hosts load it in the user's interpreter.

A frame is a 4-byte big-endian length and that many bytes of UTF-8 JSON, one object with its type in `t`. The same
bytes stand in a host's log. Unknown types and unknown fields are ignored by both sides, so the wire grows without
its number changing; docs/ARCHITECTURE.md names what each frame carries.

A host has two connections to its daemon. On *command* the daemon sends work, which the host's main thread reads; the
host answers there with numbered frames, in order. On *control* the daemon sends what must reach a busy host too.
Each opens with a `hello` from the daemon; the host answers the control hello with its own.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from typing import Any, BinaryIO, Dict, Iterator, List

WIRE = 1
FEATURES = ("execute", "interrupt", "input", "complete", "inspect", "is_complete")

HIBERNATE = "hibernate"
"""The reason of an `exit` for a session that is saved whole and goes on in another process."""

MAX_FRAME_BYTES = 72 * 1024 * 1024
"""Larger announces a broken peer. A command is at most the daemon's body limit (64 MiB), an output frame far less."""

OUTPUT_CHUNK = 64 * 1024
"""Characters of output in one frame at most: large enough to cost little per byte, small enough to stream."""

HEADER_BYTES = 4

Frame = Dict[str, Any]

_decode = json.JSONDecoder().raw_decode
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True).encode


def engine_sockets(host_socket: str) -> str:
    """The directory, beside a host's socket, of the sockets that its engine makes for a child. Without an ending, so
    that `/s-1` in it is no longer than the host's own path."""
    return host_socket[: -len(".sock")]


class TornFrame(ValueError):
    """Bytes that are no frame: an impossible length or a body that is not a JSON object."""


def pack(frame: Frame) -> bytes:
    """One frame as bytes. ASCII JSON, so that lone surrogates survive the way to the daemon as escapes."""
    body = _encode(frame).encode("ascii")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


def unpack(body: bytes) -> Frame:
    """The object of one frame's body; TornFrame if it is none."""
    try:
        # json.loads guesses the encoding and looks for white space around: three quarters of a small frame's time.
        text = body.decode("utf-8")
        frame, end = _decode(text)
        if end != len(text):
            raise ValueError("something follows its end")
    except ValueError as error:
        raise TornFrame("a frame is not JSON: %s" % error) from None
    if not isinstance(frame, dict):
        raise TornFrame("a frame is not an object")
    return frame


class Splitter:
    """Bytes in, whole frame bodies out, however the bytes were cut."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> List[bytes]:
        """The bodies completed by `data`, oldest first. Raises TornFrame on an impossible length, once all whole
        frames before it have been given out."""
        buffer = self._buffer
        buffer += data
        bodies: List[bytes] = []
        start = 0
        while len(buffer) - start >= HEADER_BYTES:
            size = int.from_bytes(buffer[start : start + HEADER_BYTES], "big")
            if size > MAX_FRAME_BYTES:
                if bodies:
                    break
                raise TornFrame("a frame announces %d bytes" % size)
            end = start + HEADER_BYTES + size
            if len(buffer) < end:
                break
            bodies.append(bytes(buffer[start + HEADER_BYTES : end]))
            start = end
        if start:
            del buffer[:start]
        return bodies


def open_plain(path: str) -> BinaryIO:
    """A file of a session's directory, for reading. Its code may put there what it likes: OSError for a link, for a
    pipe, which would hold the reader for ever, and for a device, which would feed him without end."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a plain file", path)
    return os.fdopen(descriptor, "rb")


def read_log(path: str) -> Iterator[Frame]:
    """The whole frames of a host's log, oldest first. A torn end (the host died while writing) is passed over."""
    splitter = Splitter()
    try:
        with open_plain(path) as log:
            while True:
                data = log.read(1 << 20)
                if not data:
                    return
                for body in splitter.feed(data):
                    yield unpack(body)
    except TornFrame:
        return
    except OSError as error:
        if error.errno not in (
            errno.ENOENT,
            errno.ENOTDIR,
            errno.EINVAL,
            errno.ELOOP,
            errno.ENXIO,
        ):  # those: it is no log
            raise
