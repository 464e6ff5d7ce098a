"""A plain HTTP client on a Unix socket, as foreign to the package as curl: what the stories ask the daemon with.

Standard library only. Run as a script it is the part of a client that must be elsewhere, as another user in a user
manager's namespaces: it reads requests as JSON lines, answers each as it is done, and ends with its input.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Generator, Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

PATIENCE_S = 60.0
"""How long a request may take: whatever needs longer hangs."""

Json = dict[str, Any]
Events = Generator[Json, None, None]


class Answer(NamedTuple):
    """One reply. Header names are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The stable name of the error that the reply is."""
        return str(self.json["code"])


class _Connection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(
    path: str, method: str, route: str, body: Any, headers: Mapping[str, str], timeout: float
) -> tuple[_Connection, http.client.HTTPResponse]:
    connection = _Connection(path, timeout)
    try:
        connection.request(method, route, None if body is None else json.dumps(body), dict(headers))
        return connection, connection.getresponse()
    except BaseException:
        connection.close()
        raise


class Caller:
    """Asks the daemon that listens on `path`. Any number of threads may use it."""

    def __init__(self, path: str) -> None:
        self.path = path

    def call(
        self,
        method: str,
        route: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = PATIENCE_S,
    ) -> Answer:
        """One request, once: a daemon that goes away raises."""
        connection, response = ask(self.path, method, route, body, headers or {}, timeout)
        try:
            content = response.read()
        finally:
            connection.close()
        return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, content)

    def stream(self, method: str, route: str, body: Any = None, timeout: float = PATIENCE_S) -> Events:
        """The objects of an NDJSON answer as they come. Asks at once; closing the iterator leaves."""
        connection, response = ask(self.path, method, route, body, {"Accept": "application/x-ndjson"}, timeout)

        def events() -> Events:
            try:
                for line in response:
                    yield json.loads(line)
            finally:
                connection.close()

        if response.status != 200:
            content = response.read()
            connection.close()
            raise AssertionError(content)
        return events()

    # ---- what stories do most ----

    def get(self, route: str) -> Any:
        answer = self.call("GET", route)
        assert answer.status == 200, answer
        return answer.json

    def post(self, route: str, body: Any = None) -> Any:
        answer = self.call("POST", route, body)
        assert answer.status in (200, 201, 202), answer
        return answer.json

    def execute(self, name: str, command: str, **options: Any) -> Answer:
        return self.call("POST", f"/api/sessions/{name}/execute", {"command": command, **options})

    def run(self, name: str, command: str, **options: Any) -> Json:
        """Run a command to its end; the execution."""
        answer = self.execute(name, command, **options)
        assert answer.status == 200, answer
        execution: Json = answer.json
        return execution

    def value(self, name: str, command: str) -> Any:
        """What the command displays, which is JSON or near enough."""
        execution = self.run(name, command)
        assert execution["status"] == "ok", execution
        return None if execution["result"] is None else json.loads(execution["result"])

    def begin(self, name: str, command: str, **options: Any) -> int:
        """Hand a command in and do not wait; the execution's id."""
        answer = self.execute(name, command, wait_s=0, **options)
        assert answer.status in (200, 202), answer
        return int(answer.json["id"])

    def session(self, name: str) -> Json:
        found: Json = self.get(f"/api/sessions/{name}")
        return found

    def execution(self, name: str, id: int, wait_s: float = 0) -> Json:
        found: Json = self.get(f"/api/sessions/{name}/executions/{id}?wait_s={wait_s}")
        return found

    def finished(self, name: str, id: int) -> Json:
        """The execution once it has ended."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            execution = self.execution(name, id, 10)
            if execution["status"] not in ("queued", "running", "waiting_input"):
                return execution
            assert time.monotonic() < deadline, execution

    def history(self, name: str) -> list[Json]:
        """Every execution, oldest first, page by page."""
        found: list[Json] = []
        while True:
            after = found[-1]["id"] if found else 0
            page = self.get(f"/api/sessions/{name}/executions?after={after}&limit=1000")
            if not page:
                return found
            found += page

    def server_pid(self) -> int:
        return int(self.get("/api/server")["pid"])


class Remote(Caller):
    """A caller whose requests are made by this file run as a script: `process` is that, with pipes at both ends."""

    def __init__(self, path: str, process: Any) -> None:
        super().__init__(path)
        self._process = process
        self._writing = threading.Lock()
        self._waiting: dict[int, Future[Answer]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def call(
        self,
        method: str,
        route: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
        timeout: float = PATIENCE_S,
    ) -> Answer:
        answered: Future[Answer] = Future()
        with self._writing:
            number = len(self._waiting)
            self._waiting[number] = answered
            request = [number, self.path, method, route, body, dict(headers or {}), timeout]
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        return answered.result(timeout + 5)

    def stream(self, method: str, route: str, body: Any = None, timeout: float = PATIENCE_S) -> Events:
        raise NotImplementedError("streams do not go through the pipe: ask on the spot")

    def _read(self) -> None:
        for line in self._process.stdout:
            number, status, headers, content = json.loads(line)
            if status:
                self._waiting[number].set_result(Answer(status, headers, content.encode("latin-1")))
            else:
                self._waiting[number].set_exception(ConnectionError(content))

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait()
        self._reader.join()
        self._process.stdout.close()


def _serve() -> None:
    writing = threading.Lock()

    def answer(number: int, path: str, *request: Any) -> None:
        method, route, body, headers, timeout = request
        try:
            status, found, content = Caller(path).call(method, route, body, headers, timeout)
            reply = [number, status, found, content.decode("latin-1")]
        except (OSError, http.client.HTTPException) as error:
            reply = [number, 0, {}, f"{type(error).__name__}: {error}"]
        with writing:
            sys.stdout.write(json.dumps(reply) + "\n")
            sys.stdout.flush()

    for line in sys.stdin:
        threading.Thread(target=answer, args=json.loads(line), daemon=True).start()


if __name__ == "__main__":
    _serve()
