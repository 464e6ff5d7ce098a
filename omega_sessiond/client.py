"""The one synchronous client: requests and event streams on the daemon's Unix socket, each asked until it is answered.

A daemon may leave, be upgraded or killed at any moment, and the next one answers in its stead. What is repeated is
safe to repeat: a request no byte of whose answer came, one the daemon refused because it is leaving, and, with its
idempotency key, an execute at any point. Raises the exceptions of `errors`, the daemon's own rebuilt from its reply.
One object belongs to one thread.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from omega_sessiond import errors, manager
from omega_sessiond.errors import DaemonUnreachable, OmegaError, ProtocolError, SessionNotFound, Stopping
from omega_sessiond.launch import Backoff, Launcher, locate
from omega_sessiond.target import Target, managed_socket

if TYPE_CHECKING:
    from http.client import HTTPResponse

    from omega_sessiond.transport import Connection

REPEAT_S = 60.0
"""How long a request is repeated while daemons go away under it, counted anew from each sign of life."""

READ_BYTES = 65536

Json = dict[str, Any]


class StreamLost(DaemonUnreachable):
    """A stream ended before its end."""

    code = "stream_lost"


class Client:
    """Requests to one daemon. Connects, and starts it where that is allowed, when the first request is made."""

    def __init__(self, target: Target, *, may_start: bool = True, may_wake: bool = True) -> None:
        self.target = target
        self._launcher = Launcher(target, may_start=may_start, may_wake=may_wake)
        self._kept: Connection | None = None
        self._streaming: socket.socket | None = None
        self._has_hung_up = False
        self.was_repeated = False
        """Whether the last request was asked more than once, so that an earlier one may have been carried out."""

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    def close(self) -> None:
        """Drop the kept connection; the next request makes another."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def _take_kept(self) -> Connection | None:
        """The kept connection, unless the daemon has closed it already."""
        connection, self._kept = self._kept, None
        if connection is not None and connection.has_ended:
            connection.close()
            return None
        return connection

    # ---- one request, one answer ----

    def get(self, path: str, **query: Any) -> Any:
        return self.request("GET", with_query(path, query))

    def post(self, path: str, body: Any = None) -> Any:
        return self.request("POST", path, body)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The decoded answer, None for an empty one. Raises the daemon's error, DaemonUnreachable or ProtocolError."""
        content = self._answer(method, path, body)
        return _decode(content) if content else None

    def download(self, path: str) -> bytes:
        """The whole answer as it is: what a rich part holds. Raises as `request`."""
        return self._answer("GET", path, None)

    def _answer(self, method: str, path: str, body: Any) -> bytes:
        from omega_sessiond.transport import (
            BROKEN,
            Connection,
            ask,
        )  # half of what a client loads, and who only looks may never ask

        backoff = Backoff(REPEAT_S)
        payload = _encode(body)
        self.was_repeated = False
        if method != "GET":
            self.close()  # the daemon may be closing it just now: the failure would leave open whether it did as asked
        while True:
            connection = self._take_kept() or Connection(self._launcher)
            try:
                response = ask(connection, method, path, payload, "application/json")
                content = response.read()
            except BROKEN as error:
                connection.close()
                if not backoff.pause():
                    raise DaemonUnreachable(f"The daemon keeps going away: {error or type(error).__name__}") from None
                self.was_repeated = True
                continue
            except BaseException:
                connection.close()
                raise
            self._launcher.answered()
            if response.will_close:
                connection.close()
            else:
                self._kept = connection
            if response.status < 400:
                return content
            refusal = _refusal(response.status, content)
            if method == "DELETE" and self.was_repeated and isinstance(refusal, SessionNotFound):
                return b""  # the answer to the first attempt was lost
            if not isinstance(refusal, Stopping) or not backoff.pause():
                raise refusal
            self.close()

    # ---- streams ----

    def stream(self, method: str, path: str, body: Any = None) -> Generator[Json, None, None]:
        """The objects of an NDJSON answer as they come. Raises StreamLost when the connection breaks in the middle."""
        from omega_sessiond.transport import BROKEN, Connection, ask

        backoff = Backoff(REPEAT_S)
        payload = _encode(body)
        while True:
            connection = Connection(self._launcher)
            try:
                response = ask(connection, method, path, payload, "application/x-ndjson")
                self._launcher.answered()
                if response.status < 400:
                    self._streaming = connection.sock
                    if self._has_hung_up:
                        raise StreamLost("It was hung up")
                    yield from _lines(response)
                    return
                refusal = _refusal(response.status, response.read())
            except BROKEN as failure:
                if not backoff.pause():
                    raise DaemonUnreachable(
                        f"The daemon keeps going away: {failure or type(failure).__name__}"
                    ) from None
                continue
            finally:
                self._streaming = None
                connection.close()
            if not isinstance(refusal, Stopping) or not backoff.pause():
                raise refusal

    def hang_up(self) -> None:
        """End the stream that another thread reads, and each that it may begin: StreamLost there, or its end."""
        self._has_hung_up = True
        if (streaming := self._streaming) is not None:
            try:
                streaming.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it has ended

    def follow(self, first: Callable[[], Iterator[Json]], again: Callable[[Json], Iterator[Json]]) -> Iterator[Json]:
        """The events of a stream that is asked for again, from the last event seen, each time it is lost.

        `first` makes the stream before any event came, `again` after the event it is given; what that repeats is
        passed over. Ends when a stream ends by itself.
        """
        last: Json | None = None
        backoff = Backoff(REPEAT_S)
        while True:
            events = first() if last is None else again(last)
            try:
                for event in events:
                    # The end of an execution whose events are no longer kept repeats the last id.
                    if last is None or event["id"] > last["id"] or "execution" in event:
                        last = event
                        backoff = Backoff(REPEAT_S)
                        yield event
            except StreamLost:
                if not backoff.pause():
                    raise
                continue
            return

    # ---- executions ----

    def submit(self, name: str, options: Json, creation: Callable[[], Json] | None) -> Json:
        """Hand over a command and answer its execution as it is when `wait_s` is over. As `execute` otherwise."""
        path = session_path(name) + "/execute"
        options = {"idempotency_key": os.urandom(16).hex(), **options, "create": False}
        try:
            execution: Json = self.post(path, options)
        except SessionNotFound:
            if creation is None:
                raise
            execution = self.post(path, {**options, "create": creation()})
        return execution

    def execute(self, name: str, options: Json, creation: Callable[[], Json] | None) -> Iterator[Json]:
        """Run a command and follow its events to `execution_finished`, which carries the whole execution.

        `options` are those of the route; a key is added if there is none. The session is created with what `creation`
        answers, when it does not exist; with None that is an error. Survives the death of any number of daemons.
        """
        options = {"idempotency_key": os.urandom(16).hex(), **options, "create": False}
        path = session_path(name) + "/execute"

        def begin() -> Iterator[Json]:
            try:
                yield from self.stream("POST", path, options)
            except SessionNotFound:
                if creation is None or options["create"] is not False:
                    raise
                options["create"] = creation()
                yield from self.stream("POST", path, options)

        def again(last: Json) -> Iterator[Json]:
            query = {"max_output": options.get("max_output")}
            return self.stream("GET", with_query(execution_path(name, last["execution_id"]), query))

        return self._to_its_end(begin, again)

    def follow_execution(self, name: str, execution_id: int, *, max_output: int | None = None) -> Iterator[Json]:
        """All events of an execution, from its start to `execution_finished`."""
        path = with_query(execution_path(name, execution_id), {"max_output": max_output})
        return self._to_its_end(lambda: self.stream("GET", path), lambda last: self.stream("GET", path))

    def _to_its_end(
        self, first: Callable[[], Iterator[Json]], again: Callable[[Json], Iterator[Json]]
    ) -> Iterator[Json]:
        def whole(events: Iterator[Json]) -> Iterator[Json]:
            """A daemon that leaves ends the stream in order, but not at its end: that is a loss, too."""
            for event in events:
                yield event
                if event["kind"] == "execution_finished" and "execution" in event:
                    return
            raise StreamLost("The daemon left before the command had ended")

        return self.follow(lambda: whole(first()), lambda last: whole(again(last)))

    def events(self, since: int | None, *, follow: bool) -> Iterator[Json]:
        """The feed of everything after event `since` (None: from now on), resumed whenever it is lost."""

        def ask(after: int | None) -> Iterator[Json]:
            query = {"since": after, "follow": None if follow else 0}
            yield from self.stream("GET", with_query("/api/events", query))
            if follow:
                raise StreamLost("The daemon left")

        return self.follow(lambda: ask(since), lambda last: ask(last["id"]))


def find_daemon(target: Target) -> Target:
    """The target itself; or where the daemon of its state directory listens, when that has another runtime directory
    than this shell; or the socket systemd holds, when the settings put the state directory elsewhere.

    Raises DaemonUnreachable when the daemon behind it serves another state directory.
    """
    if (told := locate(target)) is not target:
        return told
    managed = managed_socket()
    if target.state_dir is None or managed is None or target.socket_path == managed:
        return target
    if os.path.exists(target.socket_path):
        return target
    units = manager.look()
    if units is None or not units.are_installed or units.socket.active != "active":
        return target
    with Client(Target(managed, None, "systemd")) as client:
        served = client.get("/api/server")["state_dir"]
    if served != target.state_dir:
        raise DaemonUnreachable(
            f"The daemon serves the state directory {served}, and {target.origin} asks for {target.state_dir}",
            hint=f"The service does not see this shell's environment: set session_dir in the settings file and "
            f"restart the service, unset SESSION_DIR, or run a daemon of its own: SESSION_DIR={target.state_dir} "
            "omega-sessiond",
        )
    return target._replace(socket_path=managed)


def session_path(name: str) -> str:
    return "/api/sessions/" + quote(name.encode("utf-8", "surrogateescape"), safe="")


def execution_path(name: str, execution_id: int) -> str:
    return f"{session_path(name)}/executions/{execution_id}"


def with_query(path: str, query: Mapping[str, Any]) -> str:
    """The path with those parameters that are not None."""
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _encode(body: Any) -> bytes | None:
    return None if body is None else json.dumps(body).encode("ascii")


def _decode(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise ProtocolError(f"The daemon answered something that is not JSON: {content[:80]!r}") from None


def _refusal(status: int, content: bytes) -> OmegaError:
    try:
        body = json.loads(content)
        return errors.rebuild(body["code"], body["error"], body.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return ProtocolError(f"The daemon answered {status} without saying why: {content[:80]!r}")


def _lines(response: HTTPResponse) -> Iterator[Json]:
    from omega_sessiond.transport import BROKEN

    pending = b""
    while True:
        try:
            data = response.read1(READ_BYTES)
        except BROKEN as error:
            raise StreamLost(f"The stream broke: {error or type(error).__name__}") from None
        if not data:
            break
        *whole, pending = (pending + data).split(b"\n")
        for line in whole:
            if line:
                yield _decode(line)
    if pending:
        raise StreamLost("The stream ended in the middle of a line")
