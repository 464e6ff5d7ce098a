"""One request and its reply: checks, decoding, errors, streams. The one path that every route and every error takes.

Sits directly on Tornado's HTTP parser: RequestHandler costs more than the work of an execute. Knows the shape of a
route, not which there are.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from functools import cache, partial
from http import HTTPStatus
from inspect import isawaitable
from typing import Any, Protocol, TypeVar

import msgspec
from tornado.httputil import HTTPConnection, HTTPHeaders, RequestStartLine, ResponseStartLine
from tornado.iostream import StreamClosedError

from omega_sessiond import decoding
from omega_sessiond.config import Settings
from omega_sessiond.connection import Connection, Hub, Parting, Receiver
from omega_sessiond.errors import (
    BadRequest,
    BodyTooLarge,
    Forbidden,
    InternalError,
    MethodNotAllowed,
    OmegaError,
    Unauthorized,
)
from omega_sessiond.live import Awaited
from omega_sessiond.service import Service

log = logging.getLogger("omega_sessiond.http")

T = TypeVar("T")

JSON, TEXT, NDJSON = "application/json", "text/plain", "application/x-ndjson"

READ_AND_REFUSED_BYTES = 64 * 1024
"""A refused request's body up to this size is read, so that its connection can go on; a larger one costs more than a
new connection."""

_encode = msgspec.json.Encoder().encode


class Call:
    """What a handler is given: the path's variables, the decoded query and body, what the client wants back."""

    __slots__ = ("accept", "body", "params", "query")

    def __init__(self, params: tuple[str, ...], query: Any, body: Any, accept: str) -> None:
        self.params = params
        self.query = query
        self.body = body
        self.accept = accept


class Reply:
    """A whole reply. `headers` must be ASCII without control characters: see `header_text`."""

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self, status: int, body: bytes, content_type: str = JSON, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.status = status
        self.body = body
        self.content_type = content_type
        self.headers = headers


class Wait:
    """An answer made when a wait is over (None: it is). Nobody misses it when the client has gone: then the waiting
    ends, and `gone` is called unless another client waits for the same `execution_id`."""

    __slots__ = ("answer", "awaited", "execution_id", "gone")

    def __init__(
        self,
        awaited: Awaited | None,
        answer: Callable[[], Reply],
        execution_id: int = 0,
        gone: Callable[[], None] | None = None,
    ) -> None:
        self.awaited = awaited
        self.answer = answer
        self.execution_id = execution_id
        self.gone = gone


class Stream:
    """A body made as it is sent: NDJSON for as long as there is some and the client stays, unless `content_type` says
    otherwise. `headers` as for a Reply."""

    __slots__ = ("chunks", "content_type", "execution_id", "gone", "headers")

    def __init__(
        self,
        chunks: AsyncIterator[bytes],
        execution_id: int = 0,
        gone: Callable[[], None] | None = None,
        *,
        content_type: str = NDJSON,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.chunks = chunks
        self.execution_id = execution_id
        self.gone = gone
        self.content_type = content_type
        self.headers = headers


class Route(Protocol):
    """One row of the table. `query` and `body` are the structs to decode; `body` None takes none; a body that may be
    left out is `body_is_optional`. The handler answers a struct, a list, a Reply, a Wait, a Stream, or an awaitable
    (carried through even when the client goes) of a struct, a Reply or a Stream."""

    @property
    def method(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def handler(self) -> Callable[[Service, Call], Any]: ...
    @property
    def query(self) -> type[Any]: ...
    @property
    def body(self) -> type[Any] | None: ...
    @property
    def body_is_optional(self) -> bool: ...


class Table(Protocol):
    """Finds the route of a request; raises RouteNotFound or MethodNotAllowed."""

    def find(self, method: str, path: str) -> tuple[Route, tuple[str, ...]]: ...


def header_text(text: str) -> str:
    """Text that is safe as a header's value: ASCII, no control character."""
    return "".join(c if " " <= c <= "~" else c.encode("unicode_escape").decode("ascii") for c in text)


def _head(status: int, content_type: str, length: int, headers: tuple[tuple[str, str], ...]) -> list[str]:
    lines = [_first_lines(status, content_type)]
    if status != HTTPStatus.NO_CONTENT:
        lines.append(f"Content-Length: {length}")
    if headers:
        lines.extend(f"{name}: {value}" for name, value in headers)
    return lines


@cache
def _first_lines(status: int, content_type: str) -> str:
    lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", "X-Content-Type-Options: nosniff"]
    if status != HTTPStatus.NO_CONTENT:
        lines.append(f"Content-Type: {content_type}")
    return "\r\n".join(lines)


async def _close(chunks: AsyncIterator[bytes]) -> None:
    close = getattr(chunks, "aclose", None)
    if close is not None:
        await close()


def _error_reply(error: OmegaError) -> Reply:
    headers: tuple[tuple[str, str], ...] = ()
    match error:
        case Unauthorized():
            headers = (("WWW-Authenticate", "Bearer"),)
        case MethodNotAllowed():
            headers = (("Allow", error.hint.partition(": ")[2]),)
    return Reply(error.http_status, _encode(error.as_json()) + b"\n", JSON, headers)


def refusal(error: OmegaError) -> bytes:
    """The whole reply of an error after which the connection is closed."""
    reply = _error_reply(error)
    lines = _head(reply.status, reply.content_type, len(reply.body), (*reply.headers, ("Connection", "close")))
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii") + reply.body


class Frontend:
    """What all requests share: the service, the table, who is being answered."""

    def __init__(self, service: Service, table: Table, settings: Settings) -> None:
        self.service = service
        self.table = table
        self.max_body_bytes = settings.max_body_bytes
        self.in_flight: set[Exchange] = set()
        self.watched: Counter[int] = Counter()
        self.is_stopping = False
        self.on_done: Callable[[], None] = lambda: None
        self.hub = Hub(
            self._start_exchange,
            refusal,
            max_connections=settings.max_connections,
            max_body_bytes=settings.max_body_bytes,
            idle_connection_s=settings.idle_connection_s,
        )
        self.last_active_at = self.hub.time()

    def _start_exchange(self, connection: Connection, request: HTTPConnection) -> Receiver:
        return Exchange(self, connection, request)


class Exchange(Receiver):
    """One request, from its headers to the last byte of its reply."""

    def __init__(self, front: Frontend, connection: Connection, request: HTTPConnection) -> None:
        self.is_reading_body = self.has_waited = False
        self.replied_at: float | None = None
        self._front = front
        self._connection = connection
        self._request = request
        self._method = ""
        self._is_1_0 = self._closes = False
        self._query = self._accept = ""
        self._chunks: list[bytes] = []
        self._refused: OmegaError | None = None
        self._route: Route | None = None
        self._params: tuple[str, ...] = ()
        self._task: asyncio.Task[None] | None = None
        self._awaited: Awaited | None = None
        self._parting: Parting | None = None
        self._is_begun = self._is_stream = False
        self._ends_with_client = False
        self._watching = 0
        self._when_gone: Callable[[], None] | None = None

    # ---- Tornado's side: the request ----

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        assert isinstance(start_line, RequestStartLine)
        self._connection.exchange = self
        self._front.in_flight.add(self)
        self._method = method = start_line.method
        wish = headers.get("Connection", "").lower()
        self._is_1_0 = start_line.version == "HTTP/1.0"
        self._closes = wish != "keep-alive" if self._is_1_0 else wish == "close"
        self._accept = headers.get("Accept", "")
        length, is_chunked = headers.get("Content-Length", ""), "Transfer-Encoding" in headers
        announced = int(length[:19]) if length.isascii() and length.isdigit() else 0
        try:
            self._admit(start_line, headers, has_body=is_chunked or length not in ("", "0"))
            if announced > self._front.max_body_bytes:
                raise BodyTooLarge(f"The body is larger than {self._front.max_body_bytes} bytes")
        except OmegaError as error:
            is_long = is_chunked or "Expect" in headers or announced > READ_AND_REFUSED_BYTES
            if is_long or isinstance(error, Forbidden | Unauthorized | BodyTooLarge):
                self._refuse_unread(error)
                return
            self._refused = error
        self.is_reading_body = method != "GET"

    def _admit(self, start_line: RequestStartLine, headers: Mapping[str, str], *, has_body: bool) -> None:
        connection = self._connection
        if not connection.is_admitted:
            raise Forbidden("Only the user who runs the daemon may speak to it", hint="Use your own daemon's socket.")
        connection.door.check(headers, has_body)
        path, _, self._query = connection.door.target(start_line.path).partition("?")
        method = "GET" if start_line.method == "HEAD" else start_line.method
        self._route, self._params = self._front.table.find(method, path)

    def _refuse_unread(self, error: OmegaError) -> None:
        """Answer before the body is read (and before a 100 Continue is sent), then close."""
        self.is_reading_body = False
        detach = getattr(self._request, "detach")  # noqa: B009 - HTTP1Connection's alone, not in the interface
        detach()
        self._connection.refuse(error)
        self._done(error.http_status)

    def data_received(self, chunk: bytes) -> None:
        if self._refused is None:
            self._chunks.append(chunk)

    def finish(self) -> None:
        self.is_reading_body = False
        self._is_begun = True
        if self._refused is not None:
            self._send(_error_reply(self._refused))
            return
        try:
            self._begin()
        except OmegaError as error:
            self._fail(error)
        except Exception:
            self._defect()

    def on_connection_close(self) -> None:
        self.gone()

    def part(self, parting: Parting) -> None:
        if self._is_stream:  # it is written as it is made, to Tornado's stream
            parting.close()
        else:
            self._parting = parting

    # ---- the answer ----

    def _begin(self) -> None:
        route = self._route
        assert route is not None
        query = decoding.query(self._query, route.query)
        body, data = None, b"".join(self._chunks)
        if route.body is None:
            if data.translate(None, b" \t\r\n") not in (b"", b"{}"):
                raise BadRequest(f"{self._method} takes no body here", hint="Leave it out.")
        else:
            body = route.body() if not data and route.body_is_optional else decoding.body(data, route.body)
        self._chunks.clear()
        answer = route.handler(self._front.service, Call(self._params, query, body, self._accept))
        if isinstance(answer, Stream):
            self._is_stream = True
            self._drop_parting()
            self._watch(answer.execution_id, answer.gone)
            self._start(self._stream(answer))
        elif isinstance(answer, Wait):
            self._watch(answer.execution_id, answer.gone)
            self._wait(answer.awaited, answer.answer)
        elif isawaitable(answer):
            self._start(self._later(answer))
        else:
            self._answer(answer)

    def _start(self, work: Any) -> None:
        self.has_waited = True
        self._task = asyncio.get_running_loop().create_task(work)

    def _watch(self, execution_id: int, gone: Callable[[], None] | None) -> None:
        self._ends_with_client, self._watching, self._when_gone = True, execution_id, gone
        if execution_id:
            self._front.watched[execution_id] += 1

    def _wait(self, awaited: Awaited | None, answer: Callable[[], Reply]) -> None:
        if awaited is None:
            self._send(answer())
            return
        self.has_waited = True
        self._awaited = awaited
        awaited.begin(partial(self._answer_with, answer))

    def _answer_with(self, answer: Callable[[], Reply]) -> None:
        self._awaited = None
        try:
            self._send(answer())
        except OmegaError as error:
            self._fail(error)
        except Exception:
            self._defect()

    async def _later(self, answer: Awaitable[Any]) -> None:
        try:
            found = await answer
            if not isinstance(found, Stream):
                self._answer(found)
                return
        except OmegaError as error:
            self._fail(error)
            return
        except Exception:
            self._defect()
            return
        if self._connection.closed():
            await _close(found.chunks)
            self._done(200)
            return
        self._is_stream = True
        self._watch(found.execution_id, found.gone)
        await self._stream(found)

    async def _stream(self, answer: Stream) -> None:
        chunks = answer.chunks
        headers = HTTPHeaders({"Content-Type": answer.content_type, "X-Content-Type-Options": "nosniff"})
        headers.update(answer.headers)
        if self._is_1_0:
            headers["Connection"] = "close"
            self._connection.is_leaving = True
        request = self._request
        try:
            await request.write_headers(ResponseStartLine("HTTP/1.1", 200, "OK"), headers)
            if self._method != "HEAD":
                async for chunk in chunks:
                    await request.write(chunk)
            request.finish()
        except StreamClosedError:
            return  # the client has left; `gone` does the rest
        except OmegaError as error:
            log.warning("a stream ended: %s", error.message)
            self._connection.close()
            return
        except Exception:
            log.exception("a defect in a stream")
            self._connection.close()
            return
        finally:
            await _close(chunks)
        self._done(200)

    def _answer(self, answer: Any) -> None:
        self._send(answer if isinstance(answer, Reply) else Reply(200, _encode(answer) + b"\n"))

    def _fail(self, error: OmegaError) -> None:
        if error.http_status >= 500:
            log.warning("%s: %s", error.code, error.message)
        self._send(_error_reply(error))

    def _defect(self) -> None:
        """A failure that has no name: the log has its traceback, the client a sentence."""
        log.exception("a defect answering %s %s", self._method, getattr(self._route, "path", "?"))
        self._send(_error_reply(InternalError("The daemon failed to answer this")))

    def _send(self, reply: Reply) -> None:
        connection, parting = self._connection, self._parting
        if (connection.closed() and parting is None) or self.replied_at is not None:
            self._done(reply.status)
            return
        lines = _head(reply.status, reply.content_type, len(reply.body), reply.headers)
        if self._closes or self._front.is_stopping or parting is not None:
            lines.append("Connection: close")
            connection.is_leaving = True
        elif self._is_1_0:
            lines.append("Connection: Keep-Alive")
        data = ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")
        if self._method != "HEAD" and reply.body:
            data += reply.body
        if parting is not None:
            parting.answer(data)
            self._done(reply.status)
            return
        self._done(reply.status)
        if rest := connection.send_now(data):
            self._request.write(rest)
        self._request.finish()

    def _done(self, status: int) -> None:
        front = self._front
        self.replied_at = front.last_active_at = front.hub.time()
        self._connection.served += 1
        self._connection.has_read = False
        self._drop_parting()
        self._unwatch()
        front.in_flight.discard(self)
        front.hub.changed.set()
        front.on_done()
        if log.isEnabledFor(logging.DEBUG):
            took_ms = (self.replied_at - self._connection.since) * 1000
            log.debug("%s %s: %d in %.1f ms", self._method, getattr(self._route, "path", "?"), status, took_ms)

    def _drop_parting(self) -> None:
        parting, self._parting = self._parting, None
        if parting is not None:
            parting.close()

    def _unwatch(self) -> bool:
        """Stop watching an execution; whether nobody watches it any more."""
        execution_id, self._watching = self._watching, 0
        if not execution_id:
            return False
        watched = self._front.watched
        watched[execution_id] -= 1
        if watched[execution_id] > 0:
            return False
        del watched[execution_id]
        return True

    def gone(self) -> None:
        front = self._front
        if self not in front.in_flight:
            return
        if self._parting is not None and self._is_begun:
            return  # it waits for its answer still
        self._drop_parting()
        if self._ends_with_client:
            if self._task is not None:
                self._task.cancel()
            if self._awaited is not None:
                self._awaited.stop()
            if self._unwatch() and self._when_gone is not None:
                self._when_gone()
            front.in_flight.discard(self)
            front.last_active_at = front.hub.time()
        elif self._task is None:
            front.in_flight.discard(self)

    def hung_up(self) -> None:
        self._drop_parting()
        self.gone()
