"""The table of routes and what each asks of the service. docs/openapi.yaml describes it; a test holds the two together.

Knows the service's use-cases; decides nothing about sessions.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Annotated, Any
from urllib.parse import unquote

import msgspec
from msgspec import Meta, Struct

from omega_sessiond.errors import (
    DataNotFound,
    ExecutionNotFound,
    HostFailed,
    InvalidField,
    MethodNotAllowed,
    RouteNotFound,
)
from omega_sessiond.filetypes import extension
from omega_sessiond.http import JSON, NDJSON, TEXT, Call, Reply, Stream, Wait, header_text
from omega_sessiond.messages import (
    LABEL_FILTER_PATTERN,
    UNFINISHED,
    CompleteRequest,
    CreateSession,
    DataPart,
    EndRequest,
    ExecuteRequest,
    Execution,
    ForkRequest,
    Id,
    ImportRequest,
    InputRequest,
    InspectRequest,
    InterruptRequest,
    IsCompleteRequest,
    Lost,
    PatchSession,
    PruneRequest,
    RestoreRequest,
    Seconds,
    SessionState,
    SnapshotRequest,
)
from omega_sessiond.service import Service

MAX_HEADER_VALUE = 4096
"""Of a header we make: clients refuse lines of 64 KiB, some of 8."""

HEADER_PARTS = 10
"""Rich parts named in the header of a bare reply; all of them are in the execution."""

Count = Annotated[int, Meta(ge=0, le=2**53)]


# ---- queries ----


class NoQuery(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class EnginesQuery(Struct, frozen=True, forbid_unknown_fields=True):
    versions: bool = False


class SessionsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    state: SessionState | None = None
    label: Annotated[str, Meta(pattern=LABEL_FILTER_PATTERN)] | None = None
    limit: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    after: str | None = None
    names: str | None = None
    usage: bool = False


class ExecutionsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    after: Id = 0
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100
    last: Annotated[int, Meta(ge=1, le=1000)] | None = None
    before: Id | None = None
    max_output: Count | None = None


class ExecutionQuery(Struct, frozen=True, forbid_unknown_fields=True):
    wait_s: Seconds | None = None
    max_output: Count | None = None


class OutputQuery(Struct, frozen=True, forbid_unknown_fields=True):
    offset: Annotated[int, Meta(ge=0, le=2**62)] | None = None
    limit: Annotated[int, Meta(ge=1, le=8 * 1024 * 1024)] | None = None
    find: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None


class TimelineQuery(Struct, frozen=True, forbid_unknown_fields=True):
    limit: Annotated[int, Meta(ge=1, le=1000)] = 200


class ExportQuery(Struct, frozen=True, forbid_unknown_fields=True):
    state: bool = False


class EventsQuery(Struct, frozen=True, forbid_unknown_fields=True):
    since: Id | None = None
    follow: bool = True


# ---- handlers ----


def health(service: Service, call: Call) -> Any:
    return service.health()


def server(service: Service, call: Call) -> Any:
    return service.server()


async def totals(service: Service, call: Call) -> Any:
    return await service.totals()


async def metrics(service: Service, call: Call) -> Any:
    text, content_type = await service.metrics()
    return Reply(200, text, content_type)


async def engines(service: Service, call: Call) -> Any:
    return await service.engines(call.query.versions)


def sessions(service: Service, call: Call) -> Any:
    query: SessionsQuery = call.query
    names = None if query.names is None else frozenset(query.names.split(","))
    return service.sessions(query.state, query.label, query.limit, query.after, names, query.usage)


async def create(service: Service, call: Call) -> Any:
    session = await service.create(call.body)
    return Reply(201, msgspec.json.encode(session) + b"\n", headers=(("Location", f"/api/sessions/{session.name}"),))


def session(service: Service, call: Call) -> Any:
    return service.session(call.params[0])


async def fork(service: Service, call: Call) -> Any:
    session = await service.fork(call.params[0], call.body)
    return Reply(201, msgspec.json.encode(session) + b"\n", headers=(("Location", f"/api/sessions/{session.name}"),))


async def patch(service: Service, call: Call) -> Any:
    return await service.patch(call.params[0], call.body)


async def delete(service: Service, call: Call) -> Any:
    await service.delete(call.params[0], call.body)
    return Reply(204, b"")


def execute(service: Service, call: Call) -> Any:
    name, request = call.params[0], call.body
    wanted = _wanted(call.accept)
    if wanted == NDJSON and request.wait_s is not None:
        raise InvalidField(
            "Field 'wait_s' has no meaning for a stream", hint="Leave it out, and close the connection to stop."
        )
    id = service.executions.submit(name, request)
    gone = partial(service.executions.abandoned, id) if request.on_disconnect == "interrupt" else None
    if wanted == NDJSON:
        return Stream(service.executions.follow(name, id, request.max_output), id, gone)
    awaited, outcome = service.executions.awaited(name, id, request.wait_s, request.max_output)
    return Wait(awaited, partial(_executed, outcome, wanted), id, gone)


def _executed(outcome: Callable[[], Execution], wanted: str) -> Reply:
    """The answer to who gave the command: that its session's process could not be started is a failure for them."""
    execution = outcome()
    if execution.reason == "host_failed" and execution.error is not None:
        raise HostFailed(
            execution.error.message, hint="GET the session to see how it is started; 'restart' tries again."
        )
    return _execution_reply(execution, wanted, 202 if execution.status in UNFINISHED else 200)


def executions(service: Service, call: Call) -> Any:
    query: ExecutionsQuery = call.query
    if query.last is not None and query.after:
        raise InvalidField("Query parameter 'last' does not go with 'after'")
    if query.before is not None and query.last is None:
        raise InvalidField("Query parameter 'before' goes with 'last'")
    return service.executions.history(
        call.params[0], query.after, query.limit, query.last, query.before, query.max_output
    )


def execution(service: Service, call: Call) -> Any:
    name, id, query = call.params[0], _id(call), call.query
    wanted = _wanted(call.accept)
    if wanted == NDJSON:
        return Stream(service.executions.follow(name, id, query.max_output), id)
    execution = service.executions.get(name, id, query.max_output)
    if query.wait_s:
        awaited, outcome = service.executions.awaited(name, id, query.wait_s, query.max_output)
        return Wait(awaited, lambda: _execution_reply(outcome(), wanted, 200), id)
    return _execution_reply(execution, wanted, 200)


def output(service: Service, call: Call) -> Any:
    query: OutputQuery = call.query
    if query.find is None:
        limit = 64 * 1024 if query.limit is None else query.limit
        return service.executions.output(call.params[0], _id(call), query.offset or 0, limit)
    if query.offset is not None or query.limit is not None:
        raise InvalidField("Query parameter 'find' goes with neither 'offset' nor 'limit'")
    return service.executions.find(call.params[0], _id(call), query.find)


def data(service: Service, call: Call) -> Any:
    """The bytes of a rich part. Whatever they are, a browser only saves them: in a page of ours they would have its
    rights."""
    name, id, number = call.params[0], _id(call), call.params[2]
    if not (number.isascii() and number.isdigit() and len(number) <= 9):
        raise DataNotFound(f"{number[:40]!r} is not the number of a part")
    part, pieces = service.executions.data(name, id, int(number))

    async def chunks() -> AsyncIterator[bytes]:
        left = part.size_bytes
        for piece in pieces:
            left -= len(piece)
            yield piece
        if left:
            raise DataNotFound(f"Part {part.number} of execution {id} was removed while it was read")

    content_type = part.mime if part.encoding != "text" else f"{part.mime}; charset=utf-8"
    file = f"{name}-{id}-{part.number}{extension(part.mime)}"
    headers = (
        ("Content-Length", str(part.size_bytes)),
        ("Content-Disposition", f'attachment; filename="{file}"'),
        ("Content-Security-Policy", "default-src 'none'; sandbox"),
    )
    return Stream(chunks(), content_type=content_type, headers=headers)


async def interrupt(service: Service, call: Call) -> Any:
    return await service.executions.interrupt(call.params[0], call.body)


async def kill(service: Service, call: Call) -> Any:
    return await service.kill(call.params[0], call.body)


async def restart(service: Service, call: Call) -> Any:
    return await service.restart(call.params[0], call.body)


async def save(service: Service, call: Call) -> Any:
    return await service.states.save(call.params[0])


async def snapshot(service: Service, call: Call) -> Any:
    made = await service.states.snapshot(call.params[0], call.body)
    return Reply(201, msgspec.json.encode(made) + b"\n")


def snapshots(service: Service, call: Call) -> Any:
    return service.states.snapshots(call.params[0])


def delete_snapshot(service: Service, call: Call) -> Any:
    service.states.delete_snapshot(call.params[0], call.params[1])
    return Reply(204, b"")


async def restore(service: Service, call: Call) -> Any:
    return await service.states.restore(call.params[0], call.body)


def timeline(service: Service, call: Call) -> Any:
    return service.states.timeline(call.params[0], call.query.limit)


async def input_(service: Service, call: Call) -> Any:
    return await service.executions.answer(call.params[0], call.body)


async def complete(service: Service, call: Call) -> Any:
    return await service.complete(call.params[0], call.body)


async def inspect(service: Service, call: Call) -> Any:
    return await service.inspect(call.params[0], call.body)


async def is_complete(service: Service, call: Call) -> Any:
    return await service.is_complete(call.params[0], call.body)


async def export(service: Service, call: Call) -> Any:
    return Stream(await service.transfer.export(call.params[0], with_state=call.query.state))


async def import_(service: Service, call: Call) -> Any:
    imported = await service.transfer.take_in(call.body)
    location = (("Location", f"/api/sessions/{imported.session.name}"),)
    return Reply(201, msgspec.json.encode(imported) + b"\n", headers=location)


async def prune(service: Service, call: Call) -> Any:
    return await service.prune(call.body)


def events(service: Service, call: Call) -> Any:
    query: EventsQuery = call.query
    return Stream(service.follow(query.since, forever=query.follow))


# ---- an execution as JSON or bare text ----

JSON_RANGES = (JSON, "application/*", "*/*")
"""What `Accept` says to whom JSON is right."""


def _wanted(accept: str) -> str:
    """Which of our forms the client asks for: what it likes best, of equals the first; JSON when it names none.
    Source: RFC 9110, section 12.5.1."""
    found, liking = JSON, 0.0
    for part in accept.split(",") if accept not in ("", "*/*") else ():  # as nearly all say
        kind, *parameters = (piece.strip().lower() for piece in part.split(";"))
        quality = next((piece[2:] for piece in parameters if piece.startswith("q=")), "1")
        likes = float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 0.0
        if kind in (NDJSON, TEXT, *JSON_RANGES) and likes > liking:
            found, liking = JSON if kind in JSON_RANGES else kind, likes
    return found


def _execution_reply(execution: Execution, wanted: str, status: int) -> Reply:
    if wanted != TEXT:
        return Reply(status, msgspec.json.encode(execution) + b"\n")
    headers = [
        ("Omega-Execution-Id", str(execution.id)),
        ("Omega-Session", execution.session),
        ("Omega-Status", execution.status),
    ]
    if execution.reason is not None:
        headers.append(("Omega-Reason", header_text(execution.reason)[:MAX_HEADER_VALUE]))
    if execution.should_exit:
        headers.append(("Omega-Should-Exit", "1"))
    if execution.lost is not None:
        headers.append(("Omega-Lost", _lost_header(execution.lost)))
    if execution.data is not None:
        headers.append(("Omega-Data", _data_header(execution.data)))
    if execution.truncated is not None:
        headers.append(("Omega-Truncated", msgspec.json.encode(execution.truncated).decode()))
    if execution.resumed_from is not None:
        headers.append(("Omega-Resumed-From", header_text(execution.resumed_from)[:MAX_HEADER_VALUE]))
    text = execution.output.encode("utf-8", "backslashreplace")
    return Reply(status, text, f"{TEXT}; charset=utf-8", tuple(headers))


def _data_header(parts: list[DataPart]) -> str:
    """The first parts: number, type, size."""
    shown = ", ".join(f"{part.n} {part.mime} {part.size_bytes}" for part in parts[:HEADER_PARTS])
    return shown if len(parts) <= HEADER_PARTS else shown + ", ..."


def _lost_header(lost: Lost) -> str:
    value = json.dumps(msgspec.to_builtins(lost))
    if len(value) > MAX_HEADER_VALUE:
        value = json.dumps({"reason": lost.reason[:500]})
    return value


def _id(call: Call) -> int:
    text = call.params[1]
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise ExecutionNotFound(f"{text[:40]!r} is not the id of an execution")
    return int(text)


# ---- the table ----


class Route(Struct, frozen=True):
    """A row: `{…}` in the path is one segment, percent-decoded once."""

    method: str
    path: str
    handler: Callable[[Service, Call], Any]
    query: type[Any] = NoQuery
    body: type[Any] | None = None
    body_is_optional: bool = False


_SESSION = "/api/sessions/{name}"
_EXECUTIONS = _SESSION + "/executions"

ROUTES = (
    Route("GET", "/api/health", health),
    Route("GET", "/api/server", server),
    Route("GET", "/api/usage", totals),
    Route("GET", "/api/engines", engines, query=EnginesQuery),
    Route("GET", "/api/sessions", sessions, query=SessionsQuery),
    Route("POST", "/api/sessions", create, body=CreateSession),
    Route("GET", _SESSION, session),
    Route("PATCH", _SESSION, patch, body=PatchSession),
    Route("DELETE", _SESSION, delete, body=EndRequest, body_is_optional=True),
    Route("POST", _SESSION + "/fork", fork, body=ForkRequest),
    Route("POST", _SESSION + "/execute", execute, body=ExecuteRequest),
    Route("POST", _SESSION + "/interrupt", interrupt, body=InterruptRequest, body_is_optional=True),
    Route("POST", _SESSION + "/kill", kill, body=EndRequest, body_is_optional=True),
    Route("POST", _SESSION + "/restart", restart, body=EndRequest, body_is_optional=True),
    Route("POST", _SESSION + "/save", save),
    Route("GET", _SESSION + "/snapshots", snapshots),
    Route("POST", _SESSION + "/snapshots", snapshot, body=SnapshotRequest),
    Route("DELETE", _SESSION + "/snapshots/{snapshot}", delete_snapshot),
    Route("POST", _SESSION + "/restore", restore, body=RestoreRequest),
    Route("GET", _SESSION + "/timeline", timeline, query=TimelineQuery),
    Route("POST", _SESSION + "/input", input_, body=InputRequest),
    Route("POST", _SESSION + "/complete", complete, body=CompleteRequest),
    Route("POST", _SESSION + "/inspect", inspect, body=InspectRequest),
    Route("POST", _SESSION + "/is_complete", is_complete, body=IsCompleteRequest),
    Route("GET", _EXECUTIONS, executions, query=ExecutionsQuery),
    Route("GET", _EXECUTIONS + "/{id}", execution, query=ExecutionQuery),
    Route("GET", _EXECUTIONS + "/{id}/output", output, query=OutputQuery),
    Route("GET", _EXECUTIONS + "/{id}/data/{n}", data),
    Route("GET", _SESSION + "/export", export, query=ExportQuery),
    Route("POST", "/api/import", import_, body=ImportRequest),
    Route("POST", "/api/prune", prune, body=PruneRequest, body_is_optional=True),
    Route("GET", "/metrics", metrics),
    Route("GET", "/api/events", events, query=EventsQuery),
)


class RouteTable:
    """Finds routes segment by segment, in the path as it was sent: an encoded slash is part of a segment."""

    def __init__(self, routes: tuple[Route, ...] = ROUTES) -> None:
        self._root: dict[str, Any] = {}
        for route in routes:
            node = self._root
            for segment in route.path.split("/")[1:]:
                node = node.setdefault("{}" if segment.startswith("{") else segment, {})
            node.setdefault("", {})[route.method] = route

    def find(self, method: str, path: str) -> tuple[Route, tuple[str, ...]]:
        """The route and the path's variables. Raises RouteNotFound or MethodNotAllowed."""
        node, params = self._root, []
        for segment in path.split("/")[1:]:
            following = node.get(segment) if segment else None
            if following is None:
                following = node.get("{}")
                if following is None:
                    raise RouteNotFound(f"There is no route {_shown(path)}")
                params.append(_decoded(segment))
            node = following
        methods: dict[str, Route] = node.get("", {})
        if not methods or not path.startswith("/"):
            raise RouteNotFound(f"There is no route {_shown(path)}")
        route = methods.get(method)
        if route is None:
            allowed = sorted({*methods, *(("HEAD",) if "GET" in methods else ())})
            raise MethodNotAllowed(
                f"{_shown(path)} does not take {_shown(method)}", hint=f"It takes: {', '.join(allowed)}"
            )
        return route, tuple(params)


def _decoded(segment: str) -> str:
    """Percent-decoded once. Tornado hands bytes over as latin-1; what is not UTF-8 can match no name."""
    if "%" not in segment and segment.isascii():
        return segment
    raw = segment.encode("latin-1").decode("utf-8", "surrogateescape")
    return unquote(raw, errors="surrogateescape")


def _shown(text: str) -> str:
    return header_text(text if len(text) <= 80 else text[:80] + "...")
