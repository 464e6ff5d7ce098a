"""Requests that must be refused: each gets a JSON error with its code and the next step, on one path for all."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import CHECKOUT, Daemon, Reply, UnixConnection, wait_until
from isolation import Place
from omega_sessiond.routes import ROUTES

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def daemon(isolated_run: Place) -> Iterator[Daemon]:
    """One daemon for all requests that leave nothing behind."""
    with Daemon(isolated_run) as shared:
        yield shared


def raw(daemon: Daemon, data: bytes) -> Reply:
    """Send bytes, read to the end; exactly one reply must have come."""
    return parsed(daemon.send(data))


def parsed(received: bytes) -> Reply:
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode("ascii").split("\r\n")
    assert status_line.startswith("HTTP/1.1 "), received
    import http.client

    headers = http.client.HTTPMessage()
    for line in lines:
        name, _, value = line.partition(": ")
        headers[name] = value
    assert len(body) == int(headers["Content-Length"]), received
    return Reply(int(status_line.split()[1]), headers, body)


def refused(reply: Reply, status: int, code: str) -> Any:
    """The error's JSON, after checks of its shape."""
    assert reply.status == status, reply
    assert reply.headers["Content-Type"] == "application/json"
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert set(reply.json) == {"error", "code", "hint"}
    assert reply.json["code"] == code
    assert reply.json["error"]
    return reply.json


EXECUTE = "/api/sessions/never/execute"

BODIES = [
    (b"", "invalid_json", "empty"),
    (b"   ", "invalid_json", "empty"),
    (b"{", "invalid_json", "ends too early"),
    (b"command=1", "invalid_json", "invalid character"),
    (b'{"command": "x"} y', "invalid_json", "trailing"),
    (b'\xef\xbb\xbf{"command": "x"}', "invalid_json", "invalid character"),
    (b'{"command": "\xff"}', "invalid_json", "UTF-8"),
    (b'{"command": "\\ud800"}', "invalid_json", "surrogate"),
    (b"[]", "invalid_json", "expected an object, got an array"),
    (b"null", "invalid_json", "expected an object, got null"),
    (b'"x"', "invalid_json", "expected an object, got a string"),
    (b"{}", "invalid_field", "'command' is missing"),
    (b'{"command": ""}', "invalid_field", "'command': expected a string that is not empty"),
    (b'{"command": 1}', "invalid_field", "'command': expected a string, got a whole number"),
    (b'{"command": null}', "invalid_field", "'command': expected a string, got null"),
    (b'{"command": ["x"]}', "invalid_field", "'command': expected a string, got an array"),
    (b'{"command": "x", "wait_s": -1}', "invalid_field", "'wait_s': expected a number >= 0"),
    (b'{"command": "x", "wait_s": "1"}', "invalid_field", "'wait_s': expected a number or null, got a string"),
    (b'{"command": "x", "wait_s": 1e999}', "invalid_field", "'wait_s'"),
    (b'{"command": "x", "wait_s": NaN}', "invalid_json", ""),
    (b'{"command": "x", "timeout_s": 0}', "invalid_field", "'timeout_s'"),
    (b'{"command": "x", "on_disconnect": "die"}', "invalid_field", "'on_disconnect': there is no choice 'die'"),
    (b'{"command": "x", "idempotency_key": ""}', "invalid_field", "'idempotency_key'"),
    (b'{"command": "x", "create": 3}', "invalid_field", "'create': expected true or false or an object"),
    (b'{"command": "x", "create": {"cwd": "here"}}', "invalid_field", "'create.cwd': expected an absolute path"),
    (b'{"command": "x", "create": {"limits": {"tasks": 1}}}', "invalid_field", "'create.limits.tasks'"),
    (b'{"command": "x", "create": {"labels": {"": "v"}}}', "invalid_field", "A name in 'create.labels'"),
    (b'{"command": "x", "create": {"labels": {"a=b": "v"}}}', "invalid_field", "holds no '='"),
    (b'{"command": "x", "create": {"env": {"A": 1}}}', "invalid_field", "'create.env.*'"),
    (b'{"command": "x", "max_output": -1}', "invalid_field", "'max_output'"),
    (b'{"command": ' + b"[" * 200_000, "invalid_field", "'command'"),
    (b'{"command": "x", "create": {"labels": ' + b'{"a":' * 100_000, "invalid_field", "'create.labels"),
    (b"[" * 200_000, "invalid_json", ""),
]


@pytest.mark.parametrize(("body", "code", "words"), BODIES, ids=[repr(body[:44]) for body, _, _ in BODIES])
def test_wrong_body_is_named(daemon: Daemon, body: bytes, code: str, words: str) -> None:
    """A body that is not the request it should be gets 400 and a sentence that names the field."""
    error = refused(daemon.request("POST", EXECUTE, body=body), 400, code)
    assert words in error["error"]
    assert daemon.get("/api/sessions/never").status == 404, "a refused request created the session"


@pytest.mark.parametrize(
    ("body", "words", "hint"),
    [
        ({"comand": "x"}, "'comand'", "Did you mean 'command'? Known: command, wait_s,"),
        ({"command": "x", "zzz": 1}, "'zzz'", "Known: command,"),
        ({"command": "x", "create": {"cwdd": "/"}}, "'create.cwdd'", "Did you mean 'cwd'?"),
        ({"command": "x", "create": {"limits": {"memory": 1}}}, "'create.limits.memory'", "memory_bytes"),
        ({"command": "x", "a\nb" + "c" * 5000: 1}, "…", "Known:"),
    ],
)
def test_unknown_field_is_named_with_the_nearest(daemon: Daemon, body: object, words: str, hint: str) -> None:
    """An unknown field, at any depth, is refused by name with what it may have meant."""
    error = refused(daemon.post(EXECUTE, body), 400, "unknown_field")
    assert words in error["error"]
    assert hint in error["hint"]
    assert len(error["error"]) < 200


def test_limits_and_choices_are_refused_by_name(daemon: Daemon) -> None:
    """A wrong limit of a PATCH is named as any field is, and where one of some words is due the hint lists them."""
    assert daemon.post("/api/sessions", {"name": "limited"}).status == 201
    error = refused(daemon.request("PATCH", "/api/sessions/limited", {"limits": {"tasks": 1}}), 400, "invalid_field")
    assert error["error"] == "Field 'limits.tasks': expected a whole number >= 8"
    error = refused(daemon.get("/api/sessions?state=bussy"), 400, "invalid_field")
    assert (error["hint"][:8], "busy, waiting_input" in error["hint"]) == ("One of: ", True)
    error = refused(daemon.post(EXECUTE, {"command": "x", "on_disconnect": "die"}), 400, "invalid_field")
    assert error["hint"] == "One of: detach, interrupt."


@pytest.mark.parametrize(
    "segment",
    [
        "..",
        "%2e%2e%2fx",
        "",
        "%20",
        "a" * 59,
        "a" * 200,
        "a%0Ab",
        "a%0a",
        "a%2Fb",
        "%C3%A4",
        "a%00",
        "%FF",
        "-a",
        "%252e",
    ],
)
@pytest.mark.parametrize("route", ["/execute", "/kill", ""])
def test_bad_name_is_refused(daemon: Daemon, segment: str, route: str) -> None:
    """A name outside the grammar is a 400 that says the rule, whatever it is encoded as."""
    path = f"/api/sessions/{segment}{route}"
    method = "POST" if route else "GET"
    body = b'{"command": "1"}' if route == "/execute" else None
    error = refused(daemon.request(method, path, body=body), 400, "invalid_name")
    assert "1 to 58" in error["hint"]


def test_raw_bytes_in_a_path_are_no_name(daemon: Daemon) -> None:
    """Bytes that nobody encoded are refused as a name, or by the parser."""
    reply = raw(daemon, "GET /api/sessions/ä HTTP/1.1\r\nConnection: close\r\n\r\n".encode())
    assert reply.status == 400
    assert reply.json["code"] in ("invalid_name", "bad_request")


def test_bad_name_in_a_body(daemon: Daemon) -> None:
    """POST /api/sessions holds its name to the same grammar."""
    refused(daemon.post("/api/sessions", {"name": "../x"}), 400, "invalid_name")


def test_bad_snapshot_name_is_told_the_rule(daemon: Daemon) -> None:
    """In words, not as a pattern."""
    reply = daemon.post("/api/sessions/work/snapshots", {"name": "bad name"})
    refused(reply, 400, "invalid_field")
    assert "'name': a name is 1 to 58 of the letters" in reply.json["error"]


@pytest.mark.parametrize(
    "path", ["/", "/api", "/api/", "/api/nope", "/api/sessions/a/nope", "/api/health/", "//", "/api//health"]
)
def test_unknown_route(daemon: Daemon, path: str) -> None:
    """A path without a route is a 404 in JSON."""
    refused(daemon.get(path), 404, "route_not_found")
    refused(daemon.post(path, {"command": "x"}), 404, "route_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/api/health", "GET, HEAD"),
        ("PUT", "/api/sessions", "GET, HEAD, POST"),
        ("GET", "/api/sessions/a/execute", "POST"),
        ("OPTIONS", "/api/sessions/a", "DELETE, GET, HEAD, PATCH"),
        ("BREW", "/api/events", "GET, HEAD"),
    ],
)
def test_wrong_method(daemon: Daemon, method: str, path: str, allowed: str) -> None:
    """A method the route does not take is a 405 with Allow."""
    reply = daemon.request(method, path)
    refused(reply, 405, "method_not_allowed")
    assert reply.headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/health?verbose=1", "unknown_field"),
        ("/api/sessions?stat=idle", "unknown_field"),
        ("/api/sessions?state=asleep", "invalid_field"),
        ("/api/sessions?limit=0", "invalid_field"),
        ("/api/sessions?limit=x", "invalid_field"),
        ("/api/sessions?limit=1&limit=2", "invalid_field"),
        ("/api/sessions?label=%ff", "bad_request"),
        ("/api/sessions?label=", "invalid_field"),
        ("/api/sessions?label=%3Dred", "invalid_field"),
        ("/api/events?since=-1", "invalid_field"),
        ("/api/events?since=99999999999999999999999", "invalid_field"),
        ("/api/sessions/a/executions?limit=1001", "invalid_field"),
        ("/api/sessions/a/executions/1/output?find=x&offset=3", "invalid_field"),
        ("/api/sessions/a/executions/1?wait_s=-1", "invalid_field"),
    ],
)
def test_wrong_query(daemon: Daemon, path: str, code: str) -> None:
    """Query parameters are held to their names, types and bounds."""
    refused(daemon.get(path), 400, code)


@pytest.mark.parametrize("id", ["x", "-1", "1.5", "%00", "9" * 30, "\N{ARABIC-INDIC DIGIT ONE}"])
def test_wrong_execution_id(daemon: Daemon, id: str) -> None:
    """What is no number is no execution."""
    from urllib.parse import quote

    path = f"/api/sessions/a/executions/{quote(id, safe='%')}"
    refused(daemon.get(path), 404, "execution_not_found")


MALFORMED = [
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "bad_request"),
    (b"NONSENSE\r\n\r\n", 400, "bad_request"),
    (b"GET /api/health\r\n\r\n", 400, "bad_request"),
    (b"GET /api/health HTTP/9.9\r\n\r\n", 400, "bad_request"),
    (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "bad_request"),
    (b"GET /api/health HTTP/1.1\r\nno colon\r\n\r\n", 400, "bad_request"),
    (b"GET /api/health HTTP/1.1\r\nBad Name: x\r\n\r\n", 400, "bad_request"),
    (b"GET /api/health HTTP/1.1\r\nX: a\x00b\r\n\r\n", 400, "bad_request"),
    (b"GET /api/health HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431, "headers_too_large"),
    (b"GET /" + b"a" * 100_000, 431, "headers_too_large"),
    (b"POST /api/sessions HTTP/1.1\r\nContent-Length: x\r\n\r\n{}", 400, "bad_request"),
    (b"POST /api/sessions HTTP/1.1\r\nContent-Length: -1\r\n\r\n{}", 400, "bad_request"),
    (b"POST /api/sessions HTTP/1.1\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400, "bad_request"),
    (b"POST /api/sessions HTTP/1.1\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "bad_request"),
    (b"POST /api/sessions HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 400, "bad_request"),
    (b"POST /api/sessions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "bad_request"),
    (b"POST /api/sessions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * 100, 400, "bad_request"),
    (b"POST /api/sessions HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n", 400, "bad_request"),
    (b"POST /api/sessions HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n{}", 413, "body_too_large"),
    (b"POST /api/sessions HTTP/1.1\r\nContent-Length: 99999999, 99999999\r\n\r\n{}", 413, "body_too_large"),
]


@pytest.mark.parametrize(("data", "status", "code"), MALFORMED, ids=[repr(data[:60]) for data, _, _ in MALFORMED])
def test_what_is_not_http_is_answered_in_json(daemon: Daemon, data: bytes, status: int, code: str) -> None:
    """The parser's own refusals have our shape, come once, and end the connection."""
    reply = raw(daemon, data)
    refused(reply, status, code)
    assert reply.headers["Connection"] == "close"


@pytest.mark.parametrize("cut", [1, 9, 26])
def test_malformed_request_in_pieces(daemon: Daemon, cut: int) -> None:
    """It does not matter how the bytes of a malformed request arrive."""
    data = b"GET /api/health HTTP/1.1\r\nno colon\r\n\r\n"
    with daemon.connect() as connection:
        connection.sendall(data[:cut])
        assert daemon.get("/api/health").status == 200
        connection.sendall(data[cut:])
        refused(parsed(connection.makefile("rb").read()), 400, "bad_request")


def test_error_after_a_good_request_on_one_connection(daemon: Daemon) -> None:
    """A malformed request behind a good one leaves the good one's answer whole."""
    received = daemon.send(b"GET /api/health HTTP/1.1\r\n\r\nNONSENSE\r\n\r\n")
    _, first, second = received.split(b"HTTP/1.1 ")
    assert first.startswith(b"200 ")
    assert second.startswith(b"400 ")


def test_large_body_is_refused_unread(daemon: Daemon) -> None:
    """A body over the limit is refused when the headers have come: nobody waits for 100 MB."""
    head = f"POST {EXECUTE} HTTP/1.1\r\nContent-Length: {100 * MIB}\r\n\r\n".encode()
    with daemon.connect() as connection:
        connection.sendall(head)
        data = b""
        while b"}\n" not in data:
            data += connection.recv(65536)
        error = refused(parsed(data), 413, "body_too_large")
        assert str(8 * MIB) in error["error"]
        assert "max_body_bytes" in error["hint"]


def test_client_that_sends_a_large_body_reads_the_refusal(daemon: Daemon) -> None:
    """A client that sends 12 MB before it reads gets the 413 and no reset."""
    refused(daemon.request("POST", EXECUTE, body=b"x" * 12 * MIB), 413, "body_too_large")


def test_chunked_body_is_cut_at_the_limit(daemon: Daemon) -> None:
    """A body that does not say its size is refused once it is over the limit."""
    piece = b"100000\r\n" + b"x" * MIB + b"\r\n"
    reply = raw(daemon, f"POST {EXECUTE} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + piece * 10)
    refused(reply, 413, "body_too_large")


@pytest.mark.parametrize(
    ("path", "length", "status"), [(EXECUTE, 100 * MIB, 413), ("/api/nope", 10, 404), ("/api/health", 10, 405)]
)
def test_refused_request_is_not_told_to_continue(daemon: Daemon, path: str, length: int, status: int) -> None:
    """Expect: 100-continue is answered by the refusal, never by a 100."""
    head = f"POST {path} HTTP/1.1\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n"
    with daemon.connect() as connection:
        connection.sendall(head.encode())
        connection.shutdown(socket.SHUT_WR)
        received = connection.makefile("rb").read()
    assert parsed(received).status == status


def test_good_request_is_told_to_continue(daemon: Daemon) -> None:
    """Expect: 100-continue on a request that is taken is answered 100, then with the reply."""
    body = b'{"name": "../x"}'
    head = f"POST /api/sessions HTTP/1.1\r\nContent-Length: {len(body)}\r\nExpect: 100-continue\r\n\r\n"
    with daemon.connect() as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 ")
        connection.sendall(body)
        assert connection.recv(1000).startswith(b"HTTP/1.1 400 ")


def test_connection_goes_on_after_small_refusals(daemon: Daemon) -> None:
    """An error whose body was read keeps the connection for the next request."""
    connection = UnixConnection(daemon.socket_path)
    for path, status in (("/api/nope", 404), (EXECUTE, 400), ("/api/health", 405), ("/api/sessions", 400)):
        connection.request("POST", path, body=b"{}")
        reply = connection.getresponse()
        reply.read()
        assert reply.status == status
        socket_then = connection.sock
    connection.request("GET", "/api/health")
    assert connection.getresponse().read() == b'{"status":"ok","detail":null}\n'
    assert connection.sock is socket_then
    connection.close()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_origin_is_refused_everywhere(daemon: Daemon, route: Any) -> None:
    """No web page gets through, not even one of this machine."""
    path = route.path.replace("{name}", "a").replace("{id}", "1")
    reply = daemon.request(route.method, path, body=b"{}", headers={"Origin": "http://localhost"})
    refused(reply, 403, "forbidden")


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_refuses_in_one_shape(daemon: Daemon, route: Any) -> None:
    """Whatever is wrong on a route, the error has the same three fields."""
    path = route.path.replace("{name}", "nobody").replace("{id}", "1") + "?no-such-parameter=1"
    refused(daemon.request(route.method, path, body=b"{}"), 400, "unknown_field")


@pytest.mark.parametrize("accept", ["text/plain", "application/x-ndjson", "text/html"])
def test_errors_are_json_whatever_is_accepted(daemon: Daemon, accept: str) -> None:
    """Accept chooses the form of a result, not of an error."""
    reply = daemon.post(EXECUTE, {"command": "x", "create": False}, headers={"Accept": accept})
    refused(reply, 404, "session_not_found")
    assert reply.json["error"] == "Session not found"


@pytest.mark.parametrize("body", [b'{"wait_s": 1}', b"not JSON {{"])
def test_body_where_none_is_taken(daemon: Daemon, body: bytes) -> None:
    """A route that takes no body refuses one, instead of doing something else than its sender meant."""
    refused(daemon.request("POST", "/api/sessions/nobody/save", body=body), 400, "bad_request")
    refused(daemon.request("POST", "/api/sessions/nobody/save", body=b"{ }"), 404, "session_not_found")


def test_unknown_session(daemon: Daemon) -> None:
    """GET of a session that is not there is the specification's 404, and does not create it."""
    error = refused(daemon.get("/api/sessions/nobody"), 404, "session_not_found")
    assert error["error"] == "Session not found"
    assert "nobody" not in [session["name"] for session in daemon.get("/api/sessions").json]


def test_head_has_no_body(daemon: Daemon) -> None:
    """HEAD answers as GET would, without the body, on errors too."""
    for path, status in (("/api/health", 200), ("/api/nope", 404), ("/api/events", 200)):
        connection = UnixConnection(daemon.socket_path)
        connection.request("HEAD", path)
        reply = connection.getresponse()
        assert (reply.status, reply.read()) == (status, b"")
        connection.request("HEAD", "/api/health")
        assert connection.getresponse().status == 200
        connection.close()


def test_old_clients_are_served(daemon: Daemon) -> None:
    """HTTP/1.0 with and without keep-alive, bare line feeds, and a request in absolute form get their answer."""
    assert b"200 OK" in daemon.send(b"GET /api/health HTTP/1.0\r\n\r\n")
    twice = b"GET /api/health HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + b"GET /api/health HTTP/1.0\r\n\r\n"
    assert daemon.send(twice).count(b"200 OK") == 2
    assert b"200 OK" in daemon.send(b"GET http://localhost/api/health HTTP/1.1\r\nConnection: close\r\n\r\n")


def test_half_a_request_is_ended(place: Place) -> None:
    """Who sends half of a header or body and stays is told 408; who sends nothing is closed; others are served."""
    with Daemon(place, settings={"idle_connection_s": 0.3}) as daemon:
        refused(raw(daemon, b"GET /api/heal"), 408, "request_timeout")
        half = f"POST {EXECUTE} HTTP/1.1\r\nContent-Length: 100\r\n\r\n{{".encode()
        refused(raw(daemon, half), 408, "request_timeout")
        assert daemon.send(b"") == b""
        received = daemon.send(b"GET /api/health HTTP/1.1\r\n\r\n")
        assert received.count(b"HTTP/1.1") == 1
        assert b"200 OK" in received


def test_connections_over_the_cap_wait(place: Place) -> None:
    """With all connections taken a further client waits, and is served when one of them goes."""
    with Daemon(place, settings={"max_connections": 8}) as daemon:
        idle = [daemon.connect() for _ in range(8)]
        for connection in idle:  # each is served, so that all are known to be accepted
            connection.sendall(b"GET /api/health HTTP/1.1\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        with daemon.connect() as waiting:
            waiting.sendall(b"GET /api/health HTTP/1.1\r\nConnection: close\r\n\r\n")
            idle[0].sendall(b"GET /api/health HTTP/1.1\r\n\r\n")
            assert idle[0].recv(1000).startswith(b"HTTP/1.1 200")
            waiting.setblocking(False)
            with pytest.raises(BlockingIOError):
                waiting.recv(1)
            waiting.setblocking(True)
            idle.pop().close()
            assert waiting.makefile("rb").read().startswith(b"HTTP/1.1 200")
        for connection in idle:
            connection.close()


def test_body_limit_is_a_setting(place: Place) -> None:
    """max_body_bytes moves the border."""
    with Daemon(place, settings={"max_body_bytes": 2048}) as daemon:
        refused(daemon.request("POST", EXECUTE, body=b'{"command": "' + b"x" * 2048), 413, "body_too_large")
        refused(daemon.request("POST", EXECUTE, body=b'{"command": "' + b"x" * 2000), 400, "invalid_json")


def test_log_holds_no_text_of_requests(place: Place) -> None:
    """Headers, bodies, queries and code never reach the log, not even of requests that are refused."""
    with Daemon(place) as daemon:
        secret = "hunter2"
        headers = {"Authorization": f"Bearer {secret}", "X-Secret": secret}
        daemon.execute("work", f"x = {secret!r}; 1/0")
        daemon.post("/api/sessions/work/execute", {"command": secret, secret: 1}, headers=headers)
        daemon.get(f"/api/sessions?label={secret}", headers=headers)
        daemon.get(f"/{secret}?{secret}={secret}")
        daemon.send(f"GET / HTTP/1.1\r\n{secret} {secret}: x\r\n\r\n".encode())
        daemon.send(f"{secret}\r\n\r\n".encode())
        assert daemon.stop() == 0
        assert secret not in daemon.log


# ---- TCP ----


class Tcp:
    """A daemon with the loopback listener."""

    def __init__(self, daemon: Daemon, port: int, token: str) -> None:
        self.daemon, self.port, self.token = daemon, port, token

    def request(self, method: str, path: str, *, body: bytes | None = None, **headers: str | None) -> Reply:
        """A request with everything right but what `headers` say; None leaves one out."""
        import http.client

        wanted: dict[str, str | None] = {"Authorization": f"Bearer {self.token}"}
        if body is not None:
            wanted["Content-Type"] = "application/json"
        wanted |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.putrequest(method, path, skip_host="Host" in wanted)
            for name, value in wanted.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            reply = connection.getresponse()
            return Reply(reply.status, reply.headers, reply.read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def tcp(isolated_run: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tcp]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = Place()
    try:
        with Daemon(place, arguments=("--tcp",), env={"SESSION_SERVER_PORT": str(port)}) as daemon:
            file = place.state_dir / "token"
            assert file.stat().st_mode & 0o777 == 0o600
            yield Tcp(daemon, port, file.read_text().strip())
    finally:
        assert not place.clear()


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_wants_the_token(tcp: Tcp, route: Any) -> None:
    """On TCP no route, known or not, answers anything without the token."""
    path = route.path.replace("{name}", "a").replace("{id}", "1")
    for authorization in (None, "Bearer ", "Bearer wrong", tcp.token, f"Bearer {tcp.token}x", f"Basic {tcp.token}"):
        reply = tcp.request(route.method, path, body=b"{}", Authorization=authorization)
        refused(reply, 401, "unauthorized")
        assert reply.headers["WWW-Authenticate"] == "Bearer"


def test_unknown_routes_want_the_token_too(tcp: Tcp) -> None:
    """What exists is nobody's business without the token."""
    refused(tcp.request("GET", "/api/nope", Authorization=None), 401, "unauthorized")
    refused(tcp.request("BREW", "/api/health", Authorization=None), 401, "unauthorized")
    refused(tcp.request("GET", "/api/nope"), 404, "route_not_found")


def test_token_opens(tcp: Tcp) -> None:
    """With the token TCP is the same API."""
    assert tcp.request("GET", "/api/health").json["status"] == "ok"
    assert tcp.request("GET", "/api/health", Host=f"localhost:{tcp.port}").status == 200
    body = b'{"command": "40 + 2"}'
    assert tcp.request("POST", "/api/sessions/tcp/execute", body=body).json["result"] == "42"
    charset = "application/json; charset=utf-8"
    assert tcp.request("POST", "/api/sessions/tcp/execute", body=body, Content_Type=charset).status == 200


@pytest.mark.parametrize(
    "host", [None, "", "localhost", "127.0.0.1", "evil.example:{port}", "localhost:{port}.evil.example", "127.0.0.1:1"]
)
def test_foreign_host_is_refused(tcp: Tcp, host: str | None) -> None:
    """A Host that does not name us exactly is refused: a rebound name ends here."""
    value = host.format(port=tcp.port) if host else host
    refused(tcp.request("GET", "/api/health", Host=value), 403, "forbidden")


def test_origin_is_refused_on_tcp(tcp: Tcp) -> None:
    """The token does not excuse an Origin."""
    refused(tcp.request("GET", "/api/health", Origin=f"http://localhost:{tcp.port}"), 403, "forbidden")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "application/jsonx"])
def test_body_on_tcp_must_be_declared_json(tcp: Tcp, kind: str | None) -> None:
    """What a web form can send without asking is refused."""
    reply = tcp.request("POST", "/api/sessions/tcp/execute", body=b'{"command": "1"}', Content_Type=kind)
    refused(reply, 400, "bad_request")


def test_token_of_others_is_refused(place: Place) -> None:
    """A token file that others can read keeps the daemon from starting, with the remedy."""
    place.state_dir.mkdir(mode=0o700)
    (place.state_dir / "token").write_text("x" * 43)
    (place.state_dir / "token").chmod(0o644)
    daemon = Daemon(place, arguments=("--tcp",), env={"SESSION_SERVER_PORT": "1024"})
    daemon.spawn()
    assert daemon.wait() == 3 or "Cannot listen" in daemon.log
    assert "is not yours alone" in daemon.log


# ---- another user ----


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_another_user_is_refused(place: Place) -> None:
    """A caller of another uid is refused even where the socket's permissions would let it in."""
    with Daemon(place) as daemon:
        for directory in (place.base, place.runtime_dir, Path(daemon.socket_path).parent):
            directory.chmod(0o711)
        Path(daemon.socket_path).chmod(0o666)
        code = (
            "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
            "s.sendall(b'GET /api/health HTTP/1.1\\r\\n\\r\\n'); sys.stdout.buffer.write(s.makefile('rb').read())"
        )
        done = subprocess.run(
            ["/usr/bin/python3", "-c", code, daemon.socket_path], user=65534, capture_output=True, timeout=60, cwd="/"
        )
        refused(parsed(done.stdout), 403, "forbidden")


def test_many_bad_clients_leave_no_descriptor(place: Place) -> None:
    """Refused, broken and vanished connections all give their descriptor back."""
    with Daemon(place, settings={"fork_server": False}) as daemon:
        daemon.get("/api/health")
        descriptors = Path(f"/proc/{daemon.pid}/fd")
        before = len(list(descriptors.iterdir()))
        for _ in range(20):
            daemon.send(b"NONSENSE\r\n\r\n")
            daemon.request("POST", EXECUTE, body=b"x" * 9 * MIB)
            with daemon.connect() as connection:
                connection.sendall(b"POST /api/sessions HTTP/1.1\r\nContent-Length: 10\r\n\r\n{")
            with daemon.connect() as connection:
                connection.sendall(b"GET /api/events HTTP/1.1\r\n\r\n")
                connection.recv(1000)
        wait_until(lambda: len(list(descriptors.iterdir())) <= before, "the descriptors are closed")


def test_help_and_version() -> None:
    """--help documents every setting with its variables, and the exit statuses; --version answers the version."""
    from omega_sessiond import __version__, config

    def run(*arguments: str) -> str:
        env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "COLUMNS": "200"}
        command = [sys.executable, "-m", "omega_sessiond", *arguments]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=60).stdout

    text = run("--help")
    for setting in config.describe():
        assert f"{setting.name} = {setting.default}" in text
        assert all(f"${variable}" in text for variable in setting.env)
        assert setting.description.split()[0] in text
    for status in ("0 ", "2 ", "3 ", "5 ", "125"):
        assert f"  {status}" in text
    assert run("--version") == f"omega-sessiond {__version__}\n"


def test_check_reports_as_json(place: Place) -> None:
    """--check prints what a start would trip over and exits 1 then, else 0."""
    env = {**place.env, "PYTHONPATH": str(CHECKOUT)}

    def run() -> tuple[int, Any]:
        command = [sys.executable, "-m", "omega_sessiond", "--check"]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
        return done.returncode, json.loads(done.stdout)

    status, found = run()
    assert (status, found["ok"]) == (0, True)
    assert [check["name"] for check in found["checks"]] == ["settings", "engine", "directories", "journal"]
    assert not (place.state_dir / "sessions").exists(), "it looks, and makes nothing"
    place.state_dir.mkdir(mode=0o700, exist_ok=True)
    (place.state_dir / "journal.db").write_bytes(b"not a database, but long enough to be looked at" * 50)
    status, found = run()
    assert (status, found["ok"]) == (1, False)
    assert "journal.db" in found["checks"][3]["detail"]
    assert found["checks"][3]["hint"] and found["checks"][3]["prevents_start"]
    place.state_dir.chmod(0o755)
    status, found = run()
    assert status == 1
    assert "chmod 700" in found["checks"][-1]["hint"]


UNPRIVILEGED = ["setpriv", "--inh-caps=-dac_override", "--bounding-set=-dac_override"] if os.geteuid() == 0 else []
"""Root may write everywhere, unless it gives that up."""


def checked(place: Place, settings: str) -> dict[str, dict[str, Any]]:
    """What --check finds with this settings file, by name, in an environment without directories of its own."""
    file = place.config_home / "omega-sessiond" / "config.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(settings)
    env = {**place.env, "PYTHONPATH": str(CHECKOUT)}
    command = [*UNPRIVILEGED, sys.executable, "-m", "omega_sessiond", "--check"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60)
    found = json.loads(done.stdout)
    assert done.returncode == (0 if found["ok"] else 1)
    return {check["name"]: check for check in found["checks"]}


def test_check_makes_nothing(place: Place) -> None:
    """Directories that are not there yet are well where they can be made, and stay away; where they cannot, why is
    said."""
    before = sorted(place.base.rglob("*"))
    found = checked(place, f'session_dir = "{place.base}/a/b"')["directories"]
    assert found["ok"] and f"{place.base}/a/b (does not exist yet)" in found["detail"], found
    made = set(place.base.rglob("*")) - set(before)
    assert {path.name for path in made} <= {"omega-sessiond", "config.toml"}
    (place.base / "file").write_text("")
    for where in ("file/x", "file/x/y"):
        found = checked(place, f'session_dir = "{place.base}/{where}"')["directories"]
        assert not found["ok"] and found["prevents_start"]
        assert found["detail"].startswith(f"Cannot create {place.base}/{where}: "), found
    (place.base / "gone").symlink_to("/nowhere")
    found = checked(place, f'session_dir = "{place.base}/gone/x"')["directories"]
    assert f"{place.base}/gone is not a directory" in found["detail"]
    (place.base / "closed").mkdir(mode=0o500)
    found = checked(place, f'session_dir = "{place.base}/closed/x"')["directories"]
    assert f"{place.base}/closed cannot be written to" in found["detail"]


@pytest.mark.parametrize(
    ("settings", "detail"),
    [
        ('engine = "nope"', "There is no engine 'nope' here"),
        ('python = "/nope"', "There is no interpreter '/nope'"),
        ('engine = "bash"\npython = "/nope"', "There is no interpreter '/nope'"),
        ('engine = "jupyter:python3@nowhere"', "There is no gateway 'nowhere' in the settings"),
    ],
)
def test_check_finds_what_no_session_could_be_made_with(place: Place, settings: str, detail: str) -> None:
    """An engine or interpreter that is not here is found, in the words of a session's creation; the daemon starts."""
    found = checked(place, settings)
    assert (found["engine"]["ok"], found["engine"]["prevents_start"]) == (False, False)
    assert found["engine"]["detail"].startswith(detail) and found["engine"]["hint"]
    assert found["directories"]["ok"]
    create = {"engine": "python"} if "bash" in settings else {}
    with Daemon(place) as daemon:
        answer = refused(daemon.post(EXECUTE, {"command": "1", "create": create}), 400, "engine_unavailable")
    assert (answer["error"], answer["hint"]) == (found["engine"]["detail"], found["engine"]["hint"])


WRONG_SETTINGS = {
    "[gateways.g]\n": ("'gateways.g.url' in FILE is missing", "--help"),
    '[gateways.a]\nurl = "http://h"\n[gateways.g]\nurl = 1': (
        "'gateways.g.url' in FILE: expected a string, got a whole number",
        "--help",
    ),
    '[gateways.g]\nurl = "http://h"\ntoken = "x"': ("'gateways.g.token' in FILE is unknown", "token_file"),
    'log_level = "loud"': ("'log_level' in FILE: there is no choice 'loud'", "One of: debug, info, warning, error."),
    'max_queue = "many"': ("'max_queue' in FILE: expected a whole number, got a string", "--help"),
    "port = 70000": ("'port' in FILE: expected a whole number <= 65535", "--help"),
    "fork_server = 1": ("'fork_server' in FILE: expected true or false, got a whole number", "--help"),
    'tasks_max = "1G"': ("'tasks_max' in FILE: expected a whole number or null, got a string", "--help"),
    'preload = ["numpy", "a-b"]': ("'preload[1]' in FILE: expected the name of a module", "--help"),
    "[engines.x]\ncommand = 3": ("'engines.x.command': expected an array, got a whole number", "engines.md"),
}
"""A settings file, what is said of it, and a word of the remedy."""


@pytest.mark.parametrize("settings", WRONG_SETTINGS)
def test_check_says_what_is_wrong_with_a_setting(place: Place, settings: str) -> None:
    """A wrong setting is named with its table, and what it takes is said in plain words."""
    detail, hint = WRONG_SETTINGS[settings]
    found = checked(place, settings)["settings"]
    file = str(place.config_home / "omega-sessiond" / "config.toml")
    assert (found["ok"], found["detail"].replace(file, "FILE")) == (False, f"Setting {detail}")
    assert hint in found["hint"]


def test_log_level_is_told_in_any_case(place: Place) -> None:
    """As programs differ in how they write it."""
    assert checked(place, 'log_level = "INFO"')["settings"]["ok"]
    with Daemon(place, env={"LOG_LEVEL": "Warning"}) as daemon:
        assert daemon.get("/api/server").json["settings"]["log_level"] == "warning"
