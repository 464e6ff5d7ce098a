"""Connections as clients meet them, below HTTP's surface: what is read ahead, and what waits."""

from __future__ import annotations

import json
import os
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemon import Daemon, wait_until
from gates import Gate
from isolation import Place

MIB = 1024 * 1024


def test_who_sends_ahead_waits_in_the_kernel(place: Place) -> None:
    """A client that sends on and on while its command runs is read ahead by little, keeps its connection, and is
    answered in order when the command has ended."""
    mark = place.base / "go"
    waits = f"import os, time\nwhile not os.path.exists({str(mark)!r}): time.sleep(0.01)\n'through'"
    body = json.dumps({"command": waits}).encode()
    following = b"GET /api/health HTTP/1.1\r\nHost: localhost\r\nX-Padding: " + b"p" * 8000 + b"\r\n\r\n"
    with Daemon(place) as daemon, daemon.connect() as client:
        client.sendall(b"POST /api/sessions/work/execute HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        wait_until(lambda: daemon.get("/api/sessions").json[0]["state"] == "busy", "the command runs")
        client.setblocking(False)
        sent, left = 0, following * (8 * MIB // len(following))
        while select.select([], [client], [], 0.5)[1]:
            sent += client.send(left[sent : sent + 65536])
        assert sent < 2 * MIB, "the daemon goes on reading what it cannot answer yet"
        whole = -(-sent // len(following))
        mark.touch()
        client.settimeout(60)
        client.sendall(left[sent : whole * len(following)])
        received = b""
        while received.count(b'"status":"ok"') <= whole:
            chunk = client.recv(65536)
            assert chunk, received[-1000:]
            received += chunk
        assert received.index(b"'through'") < received.index(b'{"status":"ok"')


@pytest.fixture
def held(place: Place) -> Iterator[Gate]:
    gate = Gate(place.base, "held")
    yield gate
    gate.close()


def request(path: str, body: object = None, accept: str = "application/json") -> bytes:
    data = b"" if body is None else json.dumps(body).encode()
    method = "GET" if body is None else "POST"
    return f"{method} {path} HTTP/1.1\r\nAccept: {accept}\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data


def half_close(daemon: Daemon, data: bytes) -> socket.socket:
    """A client that has said this and says no more."""
    client = daemon.connect()
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)
    return client


def heard(client: socket.socket) -> tuple[str, str]:
    """The reply's status line and body, up to the end of the connection."""
    with client:
        received = b""
        while chunk := client.recv(65536):
            received += chunk
    head, _, body = received.decode().partition("\r\n\r\n")
    return head.partition("\r\n")[0], body


EXECUTE = "/api/sessions/work/execute"


def slow(held: Gate, **fields: Any) -> dict[str, Any]:
    return {"command": f"{held.code}; print('x' * 300_000); 6 * 7", **fields}


def descriptors(daemon: Daemon) -> int:
    return len(os.listdir(f"/proc/{daemon.pid}/fd"))


def processor_s(daemon: Daemon) -> float:
    fields = Path(f"/proc/{daemon.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("accept", ["application/json", "text/plain"])
def test_who_closes_its_half_gets_its_reply(place: Place, held: Gate, accept: str) -> None:
    """A client that says no more after its request, as `nc -N`, is answered when its command has ended; meanwhile the
    daemon rests."""
    with Daemon(place) as daemon:
        client = half_close(daemon, request(EXECUTE, slow(held), accept))
        held.pid()
        before = processor_s(daemon)
        assert not select.select([client], [], [], 0.6)[0], "it is neither answered nor closed yet"
        assert processor_s(daemon) - before < 0.2, "it spins"
        held.open()
        status, body = heard(client)
        assert status == "HTTP/1.1 200 OK"
        output = json.loads(body)["output"] if accept == "application/json" else body
        assert output.endswith("x\n42\n") and len(output) > 300_000


def test_who_closes_its_half_at_once_gets_its_reply(place: Place) -> None:
    """So is one whose request is answered at once, has a large body, or is refused."""
    with Daemon(place) as daemon:
        for _ in range(20):
            assert heard(half_close(daemon, request("/api/health")))[0] == "HTTP/1.1 200 OK"
            status, body = heard(half_close(daemon, request(EXECUTE, {"command": f"len('{'x' * 1_000_000}')"})))
            assert (status, json.loads(body)["result"]) == ("HTTP/1.1 200 OK", "1000000")
        status, body = heard(half_close(daemon, request(EXECUTE, {"command": ""})))
        assert status.startswith("HTTP/1.1 400") and "command" in json.loads(body)["error"]
        assert heard(half_close(daemon, request(EXECUTE, {"command": "1"})[:-1])) == ("", ""), "half a request is none"


def test_full_close_is_a_disconnect(place: Place, held: Gate) -> None:
    """`on_disconnect: interrupt` acts when the client has left, and not when it has closed its half alone, be that
    before or after."""
    options = {"on_disconnect": "interrupt"}
    with Daemon(place) as daemon:
        held.open()
        client = half_close(daemon, request(EXECUTE, {"command": "import time; time.sleep(0.5); 1", **options}))
        assert json.loads(heard(client)[1])["result"] == "1"
        for is_half_closed_first in (True, False):
            client = daemon.connect()
            client.sendall(request(EXECUTE, {"command": "time.sleep(60)", **options}))
            wait_until(lambda: daemon.get("/api/sessions").json[0]["state"] == "busy", "it runs")
            if is_half_closed_first:
                client.shutdown(socket.SHUT_WR)
                assert not select.select([client], [], [], 0.3)[0]
                assert daemon.get("/api/sessions").json[0]["state"] == "busy"
            client.close()
            wait_until(lambda: daemon.get("/api/sessions").json[0]["state"] == "idle", "it is interrupted")
            last = daemon.get("/api/sessions/work/executions?last=1").json[0]
            assert (last["status"], last["reason"]) == ("interrupted", "disconnect")


def test_halves_leave_nothing_behind(place: Place, held: Gate) -> None:
    """Whatever becomes of a client that has closed its half, answered, gone, or with a stream: no descriptor stays."""
    with Daemon(place, settings={"max_connections": 40}) as daemon:
        id = json.loads(heard(half_close(daemon, request(EXECUTE, {"command": "1"})))[1])["id"]
        before = descriptors(daemon)
        clients = [half_close(daemon, request(EXECUTE, {**slow(held), "idempotency_key": "one"})) for _ in range(20)]
        held.pid()
        wait_until(lambda: descriptors(daemon) >= before + 20, "all are there")
        for client in clients[10:]:
            client.close()
        wait_until(lambda: descriptors(daemon) <= before + 11, "those that have gone are let go")
        held.open()
        for client in clients[:10]:
            assert json.loads(heard(client)[1])["result"] == "42"
        for kind in ("/api/events", "/api/events?follow=0", f"/api/sessions/work/executions/{id}"):
            assert heard(half_close(daemon, request(kind, accept="application/x-ndjson")))[0] in ("", "HTTP/1.1 200 OK")
        wait_until(lambda: descriptors(daemon) <= before, "nothing is left")
        for _ in range(3 * 40):  # more than there may be at a time
            assert heard(half_close(daemon, request("/api/health")))[0] == "HTTP/1.1 200 OK"


def test_daemon_that_leaves_answers_who_has_closed_its_half(place: Place, held: Gate) -> None:
    """At the daemon's end it hears how far its command has come, as everybody does."""
    with Daemon(place) as daemon:
        client = half_close(daemon, request(EXECUTE, slow(held)))
        held.pid()
        time.sleep(0.1)
        assert daemon.stop() == 0
        status, body = heard(client)
        assert status.startswith("HTTP/1.1 202") and json.loads(body)["status"] == "running"
        held.open()
