"""Listening sockets and the connections they accept: how many, how long, and how one is refused so that the client
can read why.

Tornado parses HTTP; this module makes its streams answer in our words where Tornado would write a bare `400 Bad
Request` or nothing at all. Knows no route and no session.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import select
import socket
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import HTTPConnection, HTTPInputError, HTTPMessageDelegate
from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError

from omega_sessiond.access import Door
from omega_sessiond.errors import BadRequest, BodyTooLarge, HeadersTooLarge, OmegaError, RequestTimeout

log = logging.getLogger("omega_sessiond.http")

MAX_HEADER_BYTES = 64 * 1024
READ_BYTES = 16 * 1024
"""Read at a time. Tornado clears as much memory before each read, and most requests are small."""
MAX_BUFFER_BYTES = 1024 * 1024
"""Of a connection's unread input. Bodies are collected elsewhere; this bounds what is read ahead."""

LINGER_S = 2.0
LINGER_BYTES = 16 * 1024 * 1024
"""How long, and how much of, what a refused client still sends is read and thrown away. Without it the client meets a
reset instead of our answer; more would serve nobody but a flood."""

ACCEPTS_PER_TURN = 128
"""Connections accepted before the loop does other work."""

NO_DESCRIPTORS_PAUSE_S = 0.5
"""Rest after the system had no descriptor left for a connection: trying at once would only burn the processor."""

SLOWEST_BODY = 10
"""A body, and the reading of an answer, may take this many times `idle_connection_s`, however steadily it drips."""

_BARE_400 = b"HTTP/1.1 400 Bad Request\r\n\r\n"
"""What Tornado's HTTP1Connection writes when it cannot parse a request."""


class Refusal(Protocol):
    """Makes the whole reply, status line and all, of an error after which the connection is closed."""

    def __call__(self, error: OmegaError, /) -> bytes: ...


class Receiver(HTTPMessageDelegate):
    """One request and its reply, as the connection knows it."""

    is_reading_body: bool
    has_waited: bool
    """Whether the reply was not given in the turn of the loop that read the request."""
    replied_at: float | None

    def part(self, parting: Parting) -> None:
        """The client says no more and may listen still: the reply goes this way, which is to be closed otherwise."""
        raise NotImplementedError

    def gone(self) -> None:
        """The client has left, or its connection has parted."""
        raise NotImplementedError

    def hung_up(self) -> None:
        """The client of a connection that has parted has left."""
        raise NotImplementedError


class Parting:
    """The socket of a client that has closed its half of a connection (shutdown(SHUT_WR), as `nc -N` and socat do),
    from then on until it is answered. Tornado's stream knows one end alone, and would read the end of input for ever.
    """

    def __init__(self, hub: Hub, half_closed: socket.socket, door: Door) -> None:
        self.door = door
        self._hub = hub
        self._socket: socket.socket | None = half_closed

    def answer(self, reply: bytes) -> None:
        """Send the reply, and close."""
        if (taken := self._take()) is not None:
            self._hub.linger(taken, self.door, reply, self._hub.patience_s)

    def close(self) -> None:
        if (taken := self._take()) is not None:
            taken.close()

    def _take(self) -> socket.socket | None:
        taken, self._socket = self._socket, None
        if taken is not None:
            self._hub.forget_parting(self, taken)
        return taken


class Connection(IOStream):
    """An accepted socket."""

    def __init__(self, accepted: socket.socket, hub: Hub, door: Door) -> None:
        if accepted.family != socket.AF_UNIX:
            accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        super().__init__(accepted, max_buffer_size=MAX_BUFFER_BYTES, read_chunk_size=READ_BYTES)
        self.door = door
        self.is_admitted = door.admits_peer(accepted)
        self.exchange: Receiver | None = None
        """The request being read or answered, from the arrival of its headers on."""
        self.served = 0
        self.since = self.read_at = hub.time()
        self.has_read = False
        """Whether anything came since the last request was answered."""
        self.is_leaving = False
        """To be closed when the present reply has been sent."""
        self._hub = hub

    def reading(self) -> bool:
        """Whether to listen for input: also between the parts of a request, as long as little has been read ahead.
        Tornado would take the socket out of the loop's selector within each request and put it back, which costs more
        than parsing the request. Beyond that bound a client that sends on and on waits in the kernel, as ever."""
        return super().reading() or self._read_buffer_size < READ_BYTES

    def read_from_fd(self, buf: bytearray | memoryview) -> int | None:
        try:
            count = self.socket.recv_into(buf)
        except BlockingIOError:
            return None
        finally:
            del buf  # or the exception's traceback keeps the buffer alive
        if count == 0 and self.exchange is not None and self.exchange.replied_at is None:
            self._hub.part(self.socket, self.door, self.exchange)
        self.has_read = True
        self.read_at = self._hub.time()
        return count

    def write(self, data: bytes | memoryview) -> asyncio.Future[None]:
        if data == _BARE_400:
            self._refuse_malformed(sys.exc_info()[1])
            done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            done.set_result(None)
            return done
        return super().write(data)

    def set_nodelay(self, value: bool) -> None:
        """Nothing to do: a connection on TCP never waits to fill a packet. Tornado asks for this twice a request."""

    def send_now(self, data: bytes) -> bytes:
        """Send what the kernel takes at once, which is mostly everything; the rest, to be written. Tornado's own way
        costs a turn of the loop and three futures."""
        if self.writing():
            return data
        try:
            sent = self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            return data
        except OSError as error:
            self.close(error)
            return b""
        return data[sent:]

    def close(self, exc_info: Any = False) -> None:
        if isinstance(exc_info, UnsatisfiableReadError) and not self.closed():
            if self.exchange is None:
                self.refuse(HeadersTooLarge(f"The request's headers are larger than {MAX_HEADER_BYTES} bytes"))
            else:
                self.refuse(BadRequest("The chunked body is malformed"))
            return
        super().close(exc_info)

    def _refuse_malformed(self, error: BaseException | None) -> None:
        what = str(error) if isinstance(error, HTTPInputError) else ""
        if what in ("chunked body too large", "Content-Length too long"):
            self.refuse(BodyTooLarge(f"The body is larger than {self._hub.max_body_bytes} bytes"))
        else:
            shown = what.encode("ascii", "backslashreplace").decode()[:200]
            self.refuse(BadRequest(f"The request is not HTTP as it should be: {shown}"))

    def refuse(self, error: OmegaError) -> None:
        """Answer `error` and close, once what the client still sends has been read (within bounds)."""
        if self.closed():
            return
        replied = self.exchange is not None and self.exchange.replied_at is not None
        self._hub.linger(self.socket.dup(), self.door, b"" if replied else self._hub.refusal(error))
        self.close()


class Hub:
    """All listeners and connections. `start_exchange` makes the receiver of each request."""

    def __init__(
        self,
        start_exchange: Callable[[Connection, HTTPConnection], Receiver],
        refusal: Refusal,
        *,
        max_connections: int,
        max_body_bytes: int,
        idle_connection_s: float,
    ) -> None:
        self.refusal = refusal
        self.max_body_bytes = max_body_bytes
        self.connections: set[Connection] = set()
        self.is_closing = False
        self.changed = asyncio.Event()
        """Set whenever a request has been answered or a connection has gone."""
        self._start_exchange = start_exchange
        self._max_connections = max_connections
        self._idle_s = idle_connection_s
        self._loop = asyncio.get_running_loop()
        self.time = self._loop.time
        self._listeners: dict[socket.socket, Door] = {}
        self._is_wanted = False
        self._accepting: set[socket.socket] = set()
        self._held: Counter[Door] = Counter()
        """Sockets that came in by each door, refused ones that are still read included. Each door has room of its own:
        strangers, whom TCP lets in until they fail to show the token, must not keep the user from the Unix socket."""
        self._serving: set[asyncio.Task[None]] = set()
        self._lingering: set[asyncio.Task[None]] = set()
        self._sweeper: asyncio.TimerHandle | None = None
        self._parted: dict[int, tuple[Parting, Receiver]] = {}
        self._hang_ups: select.epoll | None = None
        """Readable once one of those has been closed altogether. It watches for nothing else: a half-closed socket is
        readable for ever, and would keep the loop's own selector awake."""
        # No time-outs of Tornado's: they cost a timer per request, and say nothing to the client.
        self._params = HTTP1ConnectionParameters(max_header_size=MAX_HEADER_BYTES, max_body_size=max_body_bytes)

    # ---- listening ----

    def listen(self, listener: socket.socket, door: Door) -> None:
        """Serve a listening socket, which is ours from now on."""
        listener.setblocking(False)
        self._listeners[listener] = door

    def accept(self) -> None:
        """Begin or resume accepting."""
        self._is_wanted = True
        self._resume()

    def _resume(self) -> None:
        if not self._is_wanted:
            return
        for listener, door in self._listeners.items():
            if listener not in self._accepting and self._held[door] < self._max_connections:
                self._accepting.add(listener)
                self._loop.add_reader(listener.fileno(), self._accept_from, listener, door)

    def pause(self) -> None:
        """Accept nothing; who connects waits in the kernel's queue."""
        self._is_wanted = False
        for listener in self._listeners:
            self._suspend(listener)

    def _suspend(self, listener: socket.socket) -> None:
        self._accepting.discard(listener)
        self._loop.remove_reader(listener.fileno())

    def take_waiting(self) -> None:
        """Accept who is in the kernel's queues now."""
        for listener, door in self._listeners.items():
            while self._accept_one(listener, door):
                pass

    def close_listeners(self) -> None:
        self.pause()
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def _accept_from(self, listener: socket.socket, door: Door) -> None:
        for _ in range(ACCEPTS_PER_TURN):
            if self._held[door] >= self._max_connections:
                self._suspend(listener)
                return
            if not self._accept_one(listener, door):
                return

    def _accept_one(self, listener: socket.socket, door: Door) -> bool:
        try:
            accepted, _ = listener.accept()
        except (BlockingIOError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                raise
            log.warning("cannot accept a connection: %s", error.strerror)
            self._suspend(listener)
            self._loop.call_later(NO_DESCRIPTORS_PAUSE_S, self._resume)
            return False
        connection = Connection(accepted, self, door)
        self.connections.add(connection)
        self._held[door] += 1
        task = self._loop.create_task(self._serve(connection))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(self._idle_s / 4, self._sweep)
        return True

    # ---- connections ----

    async def _serve(self, connection: Connection) -> None:
        """One request after the other, until the connection ends. Unlike Tornado's own loop it lets the others go first
        only after a reply that nobody had to wait for: who sends ahead must not keep the daemon to himself."""
        try:
            while True:
                request = HTTP1Connection(connection, False, self._params)
                receiver = self._start_request(connection, request)
                if not await request.read_response(receiver):
                    return
                if not receiver.has_waited:
                    await asyncio.sleep(0)
        except (StreamClosedError, UnsatisfiableReadError):
            pass  # it has gone, or has been told why it must
        except Exception:
            log.exception("a defect on a connection")
            connection.close()
        finally:
            self._ended(connection)

    def _start_request(self, connection: Connection, request: HTTPConnection) -> Receiver:
        connection.since = self.time()
        if connection.exchange is not None:
            # Tornado goes on to the next request also when the client left before the last one was answered.
            connection.exchange.gone()
        connection.exchange = None
        if connection.is_leaving or (self.is_closing and connection.served):
            connection.close()
        return self._start_exchange(connection, request)

    def _ended(self, connection: Connection) -> None:
        if connection in self.connections:
            self.connections.remove(connection)
            self._held[connection.door] -= 1
        if connection.exchange is not None:
            connection.exchange.gone()
            connection.exchange = None
        self.changed.set()
        self._resume()

    def _sweep(self) -> None:
        """Close who sends nothing, or half a request."""
        self._sweeper = None
        now = self.time()
        for connection in list(self.connections):
            exchange = connection.exchange
            if exchange is None:
                if now - connection.since > self._idle_s:
                    if connection.has_read:
                        connection.refuse(RequestTimeout(f"No whole request came within {self._idle_s:g} s"))
                    else:
                        connection.close()
            elif exchange.is_reading_body and (
                now - connection.read_at > self._idle_s or now - connection.since > SLOWEST_BODY * self._idle_s
            ):
                connection.refuse(RequestTimeout(f"The rest of the body did not come within {self._idle_s:g} s"))
            elif exchange.replied_at is not None and now - exchange.replied_at > self.patience_s:
                connection.close()  # it does not read its answer
        if self.connections:
            self._sweeper = self._loop.call_later(self._idle_s / 4, self._sweep)

    @property
    def patience_s(self) -> float:
        """How long a client may take to read its answer."""
        return SLOWEST_BODY * self._idle_s

    def part(self, ended: socket.socket, door: Door, exchange: Receiver) -> None:
        """Nothing more will come from `ended`, a socket that is about to be closed here. When its client has closed its
        own half alone, the exchange is given the means to answer. Only a Unix socket tells the one from the other."""
        if ended.family != socket.AF_UNIX or self.is_closing or not hasattr(select, "epoll"):
            return
        poll = select.poll()
        poll.register(ended, 0)
        if poll.poll(0):  # POLLHUP
            return
        try:
            if self._hang_ups is None:
                self._hang_ups = select.epoll()
                self._loop.add_reader(self._hang_ups.fileno(), self._hung_up)
            half_closed = ended.dup()
        except OSError:  # no descriptor is left: it gets no answer
            return
        parting = Parting(self, half_closed, door)
        self._parted[half_closed.fileno()] = parting, exchange
        self._hang_ups.register(half_closed, 0)
        self._held[door] += 1
        exchange.part(parting)

    def forget_parting(self, parting: Parting, taken: socket.socket) -> None:
        """Watch it no more."""
        del self._parted[taken.fileno()]
        if self._hang_ups is not None:
            self._hang_ups.unregister(taken)
        self._held[parting.door] -= 1
        self._resume()

    def _hung_up(self) -> None:
        assert self._hang_ups is not None
        for descriptor, _ in self._hang_ups.poll(0):
            if (parted := self._parted.get(descriptor)) is not None:  # else it has been answered in this very turn
                parted[1].hung_up()

    def linger(self, detached: socket.socket, door: Door, reply: bytes, patience_s: float = LINGER_S) -> None:
        """Send `reply` on a socket of ours, read what still comes, close it."""
        task = self._loop.create_task(self._linger(detached, reply, patience_s))
        self._lingering.add(task)
        self._held[door] += 1
        task.add_done_callback(partial(self._lingered, door))

    async def _linger(self, detached: socket.socket, reply: bytes, patience_s: float) -> None:
        try:
            async with asyncio.timeout(patience_s):
                if reply:
                    await self._loop.sock_sendall(detached, reply)
                detached.shutdown(socket.SHUT_WR)
                left = LINGER_BYTES
                while left > 0 and (data := await self._loop.sock_recv(detached, 65536)):
                    left -= len(data)
        except (TimeoutError, OSError):
            pass  # it has gone, or does not stop: either way there is nothing more to say
        finally:
            detached.close()

    def _lingered(self, door: Door, task: asyncio.Task[None]) -> None:
        self._lingering.discard(task)
        self._held[door] -= 1
        self.changed.set()
        self._resume()

    # ---- leaving ----

    @property
    def has_unserved(self) -> bool:
        """Whether someone was accepted whose first request has not been answered, or is told why it is refused."""
        return bool(self._lingering) or any(not connection.served for connection in self.connections)

    def close_served(self) -> None:
        """Close the connections that wait for a further request."""
        for connection in list(self.connections):
            if connection.served and connection.exchange is None:
                connection.close()

    async def close(self) -> None:
        """Close everything at once."""
        self.is_closing = True
        self.close_listeners()
        if self._sweeper is not None:
            self._sweeper.cancel()
            self._sweeper = None
        for connection in list(self.connections):
            connection.close()
        for parting, _ in list(self._parted.values()):
            parting.close()
        if self._hang_ups is not None:
            self._loop.remove_reader(self._hang_ups.fileno())
            self._hang_ups.close()
            self._hang_ups = None
        for task in self._lingering:
            task.cancel()
        await asyncio.gather(*self._lingering, return_exceptions=True)
