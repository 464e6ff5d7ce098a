"""Connections as clients meet them, below HTTP's surface: what is read ahead, and what waits."""

from __future__ import annotations

import json
import select

from daemon import Daemon, wait_until
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
