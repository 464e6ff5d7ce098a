"""A Jupyter kernel on another machine, behind a gateway: REST to start, interrupt and end it, one WebSocket for all its
channels, as Kernel Gateway and Enterprise Gateway speak it.

One thread runs the connection, the main thread reads what it has received; the WebSocket is opened again when it
breaks, and a command whose reply went with it is told so. The token is in this process alone: never in an argument, a
log or a message. tornado is loaded when the first kernel is asked for. Knows nothing of commands.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import stat
import threading
import time
from collections import deque
from typing import Any, Coroutine, Deque, Dict, List, Mapping, Optional, Sequence, Union
from urllib.parse import quote, urlsplit

from omega_sessiond.hosts.bell import Bell
from omega_sessiond.hosts.engine import Wakeup
from omega_sessiond.hosts.kernel import KernelGone, Message

CONNECT_S = 5.0
"""How long the gateway may take to accept a connection."""

PING_S = 30.0
"""How often a silent connection is tried, and how long the answer may take: a machine that is gone says nothing."""

INTERRUPT_S = 10.0
"""How long the gateway may take to interrupt a kernel."""

DELETE_S = 5.0
"""How long the gateway may take to end a kernel. Within the daemon's ladder; the gateway goes on with it after that."""

RETRY_S = 0.25

DEAD = ("restarting", "autorestarting", "dead")
"""States in which the variables are gone: a gateway starts a kernel that died again by itself."""

MAX_MESSAGE_BYTES = 256 * 1024 * 1024

LOST_REPLY = "the connection to the gateway broke, and what the command said while it was down is lost"
LOST_REQUEST = "the connection to the gateway broke, and nothing was heard of the command: it may not have run"


class GatewayKernel:
    """Started at the gateway by the constructor, which raises KernelGone. `gateway` is the table of the settings,
    with its name."""

    def __init__(self, kernel: str, gateway: Mapping[str, Any], start_s: float, bell: Wakeup) -> None:
        self._kernel = kernel
        self._gateway = gateway
        self._url = gateway["url"].rstrip("/")
        self._place = "the gateway '%s' (%s)" % (gateway["name"], self._url)
        self._token = _token(gateway)
        self._bell = bell
        self._received: Deque[Union[Message, KernelGone]] = deque()
        self._arrival = Bell()
        self._arrival.open()
        self.watched: Sequence[int] = (self._arrival.fileno(),)
        self._session = os.urandom(16).hex()
        self._count = 0
        self._id = ""
        self._socket: Any = None
        self._unsent: Deque[str] = deque()
        self._open_request = ""
        self._is_heard_of = False
        self._probe = ""
        self._closing = False
        self._loop = asyncio.new_event_loop()
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            self._thread = threading.Thread(target=self._loop.run_forever, name="gateway", daemon=True)
            self._thread.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            self._run(self._start(start_s), start_s + CONNECT_S)
        except BaseException:
            self._stop()
            raise

    # ---- called by the main thread ----

    def send(self, channel: str, kind: str, content: Dict[str, Any]) -> str:
        self._count += 1
        id = "%s-%d" % (self._session, self._count)
        if kind == "execute_request":
            self._open_request, self._is_heard_of = id, False
        self._loop.call_soon_threadsafe(self._push, self._pack(id, channel, kind, content))
        return id

    def wait(self, timeout_s: Optional[float]) -> List[Message]:
        messages = self._take()
        if messages:
            return messages
        poll = select.poll()
        poll.register(self._arrival, select.POLLIN)
        poll.register(self._bell.fileno(), select.POLLIN)
        for descriptor, _ in poll.poll(None if timeout_s is None else timeout_s * 1000 + 0.999):
            (self._arrival if descriptor == self._arrival.fileno() else self._bell).wait()
        return self._take()

    def _take(self) -> List[Message]:
        messages: List[Message] = []
        while self._received:
            if not isinstance(self._received[0], KernelGone):
                messages.append(self._received.popleft())  # type: ignore[arg-type]
            elif messages:
                break
            else:
                raise self._received[0]
        return messages

    def settle(self) -> None:
        pass

    def explain_silence(self) -> str:
        return "%s has started it" % self._place

    def interrupt(self) -> None:
        self._submit(self._interrupt())

    def close(self) -> None:
        self._closing = True
        try:
            self._run(self._end(), DELETE_S + 1)
        except KernelGone:
            pass  # it is gone already, or the gateway is: then its own culling ends the kernel
        self._stop()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        for descriptor in self._arrival.descriptors():
            os.close(descriptor)

    def _run(self, work: Coroutine[Any, Any, Any], timeout_s: float) -> Any:
        future = self._submit(work)
        try:
            return future.result(timeout_s)
        except (TimeoutError, asyncio.TimeoutError):
            future.cancel()
            raise KernelGone("%s did not answer within %g s" % (self._place, timeout_s)) from None

    def _submit(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _pack(self, id: str, channel: str, kind: str, content: Dict[str, Any]) -> str:
        header = {
            "msg_id": id,
            "msg_type": kind,
            "session": self._session,
            "username": "",
            "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "version": "5.3",
        }
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content, "buffers": []}
        return json.dumps({"channel": channel, **message})

    # ---- in the thread ----

    async def _start(self, start_s: float) -> None:
        body: Dict[str, Any] = {"name": self._kernel}
        # Enterprise Gateway's way to hand values to where a kernel runs. Any `env` replaces the gateway's own for it.
        secret = self._gateway.get("token_env")
        env = {name: value for name, value in os.environ.items() if name.startswith("KERNEL_") and name != secret}
        if env:
            body["env"] = env
        answer = await self._call("POST", "/api/kernels", body, start_s)
        self._id = str(answer.get("id", ""))
        if not self._id:
            raise KernelGone("%s started a kernel and did not say which: is it a Jupyter gateway?" % self._place)
        try:
            await self._connect()
        except KernelGone as gone:
            try:
                await self._end()  # nobody else knows of it
            except KernelGone:
                pass  # what came first says more
            raise gone
        self._submit(self._listen())

    async def _call(self, method: str, path: str, body: Optional[Dict[str, Any]], timeout_s: float) -> Dict[str, Any]:
        """One request and the object it is answered with; KernelGone says what went wrong."""
        from tornado.httpclient import AsyncHTTPClient, HTTPClientError

        request = self._request(
            self._url + path,
            method=method,
            body=None if method in ("GET", "DELETE") else json.dumps(body or {}),
            request_timeout=timeout_s,
        )
        try:
            response = await AsyncHTTPClient().fetch(request)
        except HTTPClientError as error:
            raise KernelGone(await self._refusal(error, method, path)) from None
        except (OSError, ValueError) as error:
            raise KernelGone("%s cannot be reached: %s" % (self._place, error)) from None
        try:
            answer = json.loads(response.body) if response.body else {}
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise KernelGone("%s does not answer as a Jupyter gateway does" % self._place)
        return answer

    def _request(self, url: str, **fields: Any) -> Any:
        from tornado.httpclient import HTTPRequest

        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = "token " + self._token
        ca_file = os.path.expanduser(self._gateway.get("ca_file") or "") or None
        return HTTPRequest(
            url,
            headers=headers,
            connect_timeout=CONNECT_S,
            ca_certs=ca_file,
            follow_redirects=False,  # the token is for the address it was given with
            **fields,
        )

    async def _refusal(self, error: Any, method: str, path: str) -> str:
        if error.code in (401, 403):
            told = "the token" if self._token else "a request without a token"
            return "%s refuses %s (HTTP %d)%s" % (self._place, told, error.code, _detail(error))
        if error.code == 599:
            return "%s cannot be reached: %s" % (self._place, error.message)
        if method == "POST" and path == "/api/kernels":
            names = await self._kernel_names()
            if names and self._kernel not in names:
                return "%s has no kernel '%s'; it has: %s" % (self._place, self._kernel, ", ".join(names))
        return "%s answered HTTP %d to %s %s%s" % (self._place, error.code, method, path, _detail(error))

    async def _kernel_names(self) -> List[str]:
        try:
            answer = await self._call("GET", "/api/kernelspecs", None, CONNECT_S)
        except KernelGone:
            return []
        specifications = answer.get("kernelspecs")
        return sorted(specifications) if isinstance(specifications, dict) else []

    async def _connect(self) -> None:
        from tornado.httpclient import HTTPClientError
        from tornado.websocket import websocket_connect

        scheme = "wss" if urlsplit(self._url).scheme == "https" else "ws"
        url = "%s%s/api/kernels/%s/channels?session_id=%s" % (
            scheme, self._url[self._url.index(":") :], quote(self._id), self._session,
        )  # fmt: skip
        try:
            self._socket = await websocket_connect(
                self._request(url), max_message_size=MAX_MESSAGE_BYTES, ping_interval=PING_S, ping_timeout=PING_S
            )
        except HTTPClientError as error:
            raise KernelGone(await self._refusal(error, "GET", "/api/kernels/…/channels")) from None
        except (OSError, ValueError) as error:
            raise KernelGone("%s cannot be reached: %s" % (self._place, error)) from None
        while self._unsent:
            self._socket.write_message(self._unsent.popleft())

    def _push(self, text: str) -> None:
        from tornado.websocket import WebSocketClosedError

        try:
            if self._socket is not None:
                self._socket.write_message(text)
                return
        except WebSocketClosedError:
            pass  # `_listen` hears of it too
        self._unsent.append(text)

    async def _listen(self) -> None:
        while True:
            data = await self._socket.read_message()
            if data is not None:
                self._hear(data)
                continue
            self._socket = None
            if self._closing:
                return
            try:
                await self._reconnect()
            except KernelGone as gone:
                self._deliver(gone)
                return

    async def _reconnect(self) -> None:
        deadline = time.monotonic() + self._gateway["reconnect_s"]
        while True:
            try:
                await self._call("GET", "/api/kernels/" + quote(self._id), None, CONNECT_S)
                await self._connect()
                break
            except KernelGone as gone:
                if "HTTP 404" in str(gone):
                    raise KernelGone("%s has the kernel no longer" % self._place) from None
                if time.monotonic() > deadline:
                    raise KernelGone("the connection broke, and %s" % gone) from None
            await asyncio.sleep(RETRY_S)
        # Answered behind the command that runs: if its own reply has not come by then, it never will.
        self._count += 1
        self._probe = "%s-%d" % (self._session, self._count)
        self._push(self._pack(self._probe, "shell", "kernel_info_request", {}))

    def _hear(self, data: Union[str, bytes]) -> None:
        message = _parse(data)
        if message is None:
            return
        if message.kind == "status" and message.content.get("execution_state") in (
            "restarting",
            "autorestarting",
            "dead",
        ):
            self._deliver(KernelGone("%s says that the kernel died" % self._place))
            return
        self._is_heard_of = self._is_heard_of or message.parent == self._open_request
        if message.channel == "shell" and message.parent == self._open_request:
            self._open_request = ""
        if message.channel == "shell" and message.parent == self._probe and self._open_request:
            why = LOST_REPLY if self._is_heard_of else LOST_REQUEST
            lost = {"status": "error", "ename": "ConnectionLost", "evalue": why, "traceback": []}
            self._deliver(Message("shell", "execute_reply", self._open_request, lost))
            self._deliver(Message("iopub", "status", self._open_request, {"execution_state": "idle"}))
            self._open_request = ""
        self._deliver(message)

    def _deliver(self, what: Union[Message, KernelGone]) -> None:
        self._received.append(what)
        self._arrival.ring()

    async def _interrupt(self) -> None:
        try:
            await self._call("POST", "/api/kernels/%s/interrupt" % quote(self._id), None, INTERRUPT_S)
        except KernelGone as gone:
            told = {"name": "stderr", "text": "[the interrupt did not reach the kernel: %s]\n" % gone}
            self._deliver(Message("iopub", "stream", "", told))

    async def _end(self) -> None:
        if self._socket is not None:
            self._socket.close()
        await self._call("DELETE", "/api/kernels/" + quote(self._id), None, DELETE_S)


def _detail(error: Any) -> str:
    """What a gateway says in the body of its refusal."""
    try:
        answer = json.loads(error.response.body)
        said = answer.get("message") or answer.get("reason") or ""
    except (AttributeError, TypeError, ValueError):
        return ""
    return ": " + " ".join(str(said).split())[:300] if said else ""


def _parse(data: Union[str, bytes]) -> Optional[Message]:
    """One message of the WebSocket; None for what is none. A binary one carries buffers behind its JSON, which nobody
    here asks for: their number and the places of all parts come first, 4 bytes each."""
    try:
        if isinstance(data, bytes):
            start, end = (int.from_bytes(data[place : place + 4], "big") for place in (4, 8))
            data = data[start:end] if int.from_bytes(data[:4], "big") > 1 else data[start:]
        message = json.loads(data)
        header, parent = message["header"], message.get("parent_header") or {}
        return Message(
            str(message.get("channel", "")),
            str(header["msg_type"]),
            str(parent.get("msg_id") or ""),
            message["content"],
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _token(gateway: Mapping[str, Any]) -> str:
    """The gateway's token, from where the settings say; KernelGone when it is not there or others can read it."""
    if gateway.get("token_env"):
        token = os.environ.get(gateway["token_env"], "")
        if not token:
            raise KernelGone(
                "the environment of the session has no %s, which holds the token of the gateway '%s'"
                % (gateway["token_env"], gateway["name"])
            )
        return token.strip()
    file = os.path.expanduser(gateway.get("token_file") or "")
    if not file:
        return ""
    try:
        with open(file, encoding="ascii") as stream:
            status = os.fstat(stream.fileno())
            if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
                raise KernelGone("others can read the token file %s: chmod 600 it" % file)
            return stream.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise KernelGone("cannot read the token file %s: %s" % (file, reason)) from None
