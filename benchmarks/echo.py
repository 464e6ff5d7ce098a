"""The yardstick: a bare Tornado RequestHandler, JSON in and out, on a Unix socket. A program of its own, run by path.

It gets its listening socket as descriptor 3, as a socket-activated daemon does.
"""

from __future__ import annotations

import asyncio
import socket

from tornado.escape import json_decode
from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler


class Echo(RequestHandler):
    """Answers the JSON it was sent."""

    def post(self) -> None:
        self.write(json_decode(self.request.body))


async def main() -> None:
    listener = socket.socket(fileno=3)
    listener.setblocking(False)
    # No access log, as the daemon writes none.
    server = HTTPServer(Application([("/echo", Echo)], log_function=lambda handler: None))
    server.add_sockets([listener])
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
