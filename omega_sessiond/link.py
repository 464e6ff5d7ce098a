"""The two connections to a host: frames out, frames in. Knows sockets and frames, not what they mean."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import msgspec

from omega_sessiond import eventloop, wire
from omega_sessiond.errors import ProtocolError
from omega_sessiond.frames import HostFrame, HostHello

RECEIVE_BYTES = 64 * 1024
"""Read at a time. Python allocates as much before each read: from 128 KiB on by mapping memory, which costs more than
the read itself."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(HostFrame)


def pack(frame: dict[str, Any]) -> bytes:
    """One frame as bytes: wire.pack, by the encoder the daemon has."""
    body = _encoder.encode(frame)
    return len(body).to_bytes(wire.HEADER_BYTES, "big") + body


def decode(body: bytes) -> HostFrame | None:
    """A frame's struct; None for a type this version does not know. Raises ProtocolError for anything torn."""
    try:
        frame: HostFrame = _decoder.decode(body)
        return frame
    except msgspec.ValidationError:
        try:
            kind = wire.unpack(body).get("t")
        except wire.TornFrame as error:
            raise ProtocolError(f"A host sent {error}") from None
        if kind in KNOWN:
            raise ProtocolError(f"A host sent a wrong '{kind}' frame") from None
        return None
    except msgspec.DecodeError as error:
        raise ProtocolError(f"A host sent a torn frame: {error}") from None


KNOWN = frozenset(("took", "output", "data", "input_request", "result", "saved", "loaded", "bye", "reply", "hello"))


class _Connection:
    """One non-blocking socket that keeps what the kernel does not take at once."""

    def __init__(self, sock: socket.socket, lose: Callable[[str], None]) -> None:
        sock.setblocking(False)
        self.sock = sock
        self._lose = lose
        self._unsent = bytearray()
        self._loop = asyncio.get_running_loop()

    def send(self, data: bytes) -> None:
        if self._unsent:
            self._unsent += data
            return
        sent = self._try(data)
        if sent < len(data):
            self._unsent += data[sent:]
            self._loop.add_writer(self.sock, self._writable)

    def _try(self, data: bytes | bytearray) -> int:
        try:
            return self.sock.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._lose(str(error))
            return len(data)

    def _writable(self) -> None:
        del self._unsent[: self._try(self._unsent)]
        if not self._unsent and self.sock.fileno() >= 0:
            self._loop.remove_writer(self.sock)

    def read(self, react: Callable[[bytes], None]) -> None:
        """Call `react` with what arrives; the end of the stream loses the connection."""

        def readable() -> None:
            try:
                data = self.sock.recv(RECEIVE_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._lose(str(error))
                return
            if data:
                react(data)
            else:
                self._lose("the connection ended")

        self._loop.add_reader(self.sock, readable)

    def close(self) -> None:
        if self.sock.fileno() >= 0:
            self._loop.remove_reader(self.sock)
            self._loop.remove_writer(self.sock)
            self.sock.close()
        self._unsent.clear()


def control_hello(session_id: str, have: int, terms: dict[str, object]) -> dict[str, Any]:
    """How we introduce ourselves; see Link.open."""
    return {"t": "hello", "role": "control", "wire": wire.WIRE, "session": session_id, "have": have, **terms}


class Link:
    """Frames to and from one host over `path`. After `open`, `on_frames` gets what arrives, in order, in batches as
    read; `on_closed` is called once when either connection ends or speaks nonsense, with the reason."""

    def __init__(
        self, path: str, on_frames: Callable[[list[HostFrame]], None], on_closed: Callable[[str], None]
    ) -> None:
        self._path = path
        self._on_frames = on_frames
        self._on_closed = on_closed
        self._loop = asyncio.get_running_loop()
        self._control: _Connection | None = None
        self._command: _Connection | None = None
        self._splitter = wire.Splitter()

    async def open(self, session_id: str, have: int, terms: dict[str, object] | None = None) -> HostHello:
        """Introduce ourselves. `have` is the last frame that stands in the journal: the host sends what lies above.
        `terms` are those of saving.

        A host of another wire number gets no command connection: it can still be asked to end. Raises OSError, or
        ProtocolError when what answers is not this session's host.
        """
        try:
            self._control = control = await self._connect()
            await self._loop.sock_sendall(control.sock, pack(control_hello(session_id, have, terms or {})))
            answer = await self._hear(control, session_id)
            if answer.wire == wire.WIRE:
                self._command = command = await self._connect()
                hello = {"t": "hello", "role": "command", "wire": wire.WIRE, "session": session_id}
                await self._loop.sock_sendall(command.sock, pack(hello))
                command.read(self._received)
            return answer
        except BaseException:
            self.close()
            raise

    async def take_up(self, session_id: str, control: socket.socket, command: socket.socket) -> HostHello:
        """As `open`, of a host that was made with these connections and our hello."""
        self._control, self._command = _Connection(control, self._lose), _Connection(command, self._lose)
        eventloop.expect()
        try:
            answer = await self._hear(self._control, session_id)
            self._command.read(self._received)  # not before: its end would close what is waited for
            return answer
        except BaseException:
            self.close()
            raise

    async def _hear(self, control: _Connection, session_id: str) -> HostHello:
        answer = await self._read_hello(control.sock)
        if answer.session != session_id:
            raise ProtocolError(f"The host at {self._path} carries another session")
        control.read(lambda data: None)
        return answer

    async def _connect(self) -> _Connection:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            await self._loop.sock_connect(sock, self._path)
        except BaseException:
            sock.close()
            raise
        return _Connection(sock, self._lose)

    async def _read_hello(self, sock: socket.socket) -> HostHello:
        splitter = wire.Splitter()
        while True:
            data = await self._loop.sock_recv(sock, 65536)
            if not data:
                raise ConnectionResetError("the host closed the connection instead of answering")
            for body in splitter.feed(data):
                frame = decode(body)
                if isinstance(frame, HostHello):
                    return frame

    def _received(self, data: bytes) -> None:
        try:
            frames = [frame for body in self._splitter.feed(data) if (frame := decode(body)) is not None]
        except (ProtocolError, wire.TornFrame) as error:
            self._lose(str(error))
            return
        if frames:
            self._on_frames(frames)

    def send(self, frame: dict[str, Any]) -> None:
        """Send work to the host's main thread."""
        if self._command is not None:
            self._command.send(pack(frame))

    def send_control(self, frame: dict[str, Any]) -> None:
        """Send what must reach a busy host too."""
        if self._control is not None:
            self._control.send(pack(frame))

    def _lose(self, reason: str) -> None:
        if self._control is None:
            return
        self.close()
        self._on_closed(reason)

    def close(self) -> None:
        """Leave both connections; nothing is called any more."""
        for connection in (self._command, self._control):
            if connection is not None:
                connection.close()
        self._command = self._control = None
