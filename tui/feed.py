"""The stream worker: one thread that reads the daemon's feed and hands over what came, and says how it stands with it.

Looking wakes nobody: where systemd listens and no daemon runs it is asked first, and a daemon that stopped stays
stopped. Resumes by event id; where events are no longer kept, the sessions are listed afresh. Touches no widget: the
app is called, from this thread, when there is something to take.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from omega_sessiond import __version__, manager
from omega_sessiond.client import Client, find_daemon, with_query
from omega_sessiond.errors import (
    DaemonUnreachable,
    Forbidden,
    OmegaError,
    ProtocolError,
    RouteNotFound,
    Unauthorized,
    UnknownField,
)
from omega_sessiond.launch import DaemonAsleep, SocketDenied
from omega_sessiond.target import Target, managed_socket

FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 10.0
"""Asking systemd costs a process: often enough for a person who waits, seldom enough for one who sleeps."""

HELD_EVENTS, HELD_CHARS = 20_000, 16 * 1024 * 1024
"""Events and their text held for the app, while it is paused for instance; the daemon keeps what is not read."""

LEAVE_S = 1.0
"""How long the end waits for the thread: a daemon that never answers holds nobody back."""

NEVER = 2**62
"""An event id that is never reached: asked for what comes after it, the feed begins with a gap that names its end."""

Json = dict[str, Any]
Kind = Literal["connecting", "live", "asleep", "stopped", "absent", "denied", "mismatch", "lost"]


class Standing(NamedTuple):
    """How it stands with the daemon: in a sentence, with the next step (keys by their ids in braces), and when it is
    tried again."""

    kind: Kind
    message: str = ""
    hint: str = ""
    retry_at: float | None = None


class Hello(NamedTuple):
    """A daemon answers: GET /api/server."""

    server: Json


class Listing(NamedTuple):
    """All sessions: what was known of them before is void."""

    sessions: list[Json]


Item = Standing | Hello | Listing | Json


class Feed:
    """Begin with `start`, take with `take` whenever `wake` was called, `retry` at once on a key, `stop` at the end."""

    def __init__(self, target: Target, wake: Callable[[], None]) -> None:
        self._target = target
        self._wake = wake
        self._items: deque[Item] = deque()
        self._chars = 0
        self._condition = threading.Condition()
        self._told = False
        self._stopping = False
        self._hurry = False
        self._client: Client | None = None
        self._last_id: int | None = None
        self._delay_s = FIRST_RETRY_S
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread, which does not come back from a stream by itself."""
        with self._condition:
            self._stopping = True
            self._condition.notify_all()
        end_at = time.monotonic() + LEAVE_S
        while self._thread.is_alive() and time.monotonic() < end_at:
            if (client := self._client) is not None:
                client.hang_up()
            self._thread.join(0.05)

    def retry(self) -> None:
        """Try again now."""
        with self._condition:
            self._hurry = True
            self._condition.notify_all()

    def take(self, limit: int) -> tuple[list[Item], bool]:
        """What came, up to `limit`, in order; and whether there is more."""
        with self._condition:
            taken = [self._items.popleft() for _ in range(min(limit, len(self._items)))]
            self._chars -= sum(_chars(item) for item in taken)
            has_more = bool(self._items)
            self._told = has_more
            self._condition.notify_all()
        return taken, has_more

    def _put(self, item: Item) -> None:
        with self._condition:
            while (len(self._items) >= HELD_EVENTS or self._chars >= HELD_CHARS) and not self._stopping:
                self._condition.wait()
            self._items.append(item)
            self._chars += _chars(item)
            told, self._told = self._told, True
        if not told:
            self._wake()

    # ---- the thread ----

    def _run(self) -> None:
        self._put(Standing("connecting"))
        while not self._stopping:
            standing = self._follow()
            if self._stopping:
                return
            self._put(standing._replace(retry_at=time.time() + self._delay_s))
            with self._condition:
                self._condition.wait_for(lambda: self._stopping or self._hurry, self._delay_s)
                self._delay_s = FIRST_RETRY_S if self._hurry else min(self._delay_s * 2, LONGEST_RETRY_S)
                self._hurry = False

    def _follow(self) -> Standing:
        """Read the feed until it ends; why it did."""
        try:
            if is_managed(self._target):
                units = manager.look()
                if units is not None and units.are_installed and units.socket.active != "active":
                    return _unit_standing(units)
                if units is not None and units.are_asleep:
                    raise DaemonAsleep("The daemon sleeps: systemd listens for it")
            target = find_daemon(self._target)
            with Client(target, may_start=False, may_wake=False) as client:
                self._client = client
                try:
                    self._read(client)
                finally:
                    self._client = None
            return Standing("lost", "The daemon left")
        except OmegaError as error:
            return _standing(error)
        except OSError as error:
            return Standing("lost", str(error.strerror or error))

    def _read(self, client: Client) -> None:
        server = client.get("/api/server")
        if server["version"] != __version__:
            hint = "'omegactl service restart' starts the installed one."
            message = f"The daemon has version {server['version']}, this dashboard {__version__}"
            self._put(Standing("live", message, hint))
        else:
            self._put(Standing("live"))
        self._put(Hello(server))
        since = NEVER if self._last_id is None else self._last_id
        for event in client.stream("GET", with_query("/api/events", {"since": since})):
            self._delay_s = FIRST_RETRY_S
            if event["kind"] == "gap":
                if since != NEVER:
                    self._put(event)
                self._put(Listing(client.get("/api/sessions")))
                since = event["id"]
            else:
                self._put(event)
            self._last_id = event["id"]
            if self._stopping:
                return


def _chars(item: Item) -> int:
    return len(item.get("text") or "") if isinstance(item, dict) else 0


def is_managed(target: Target) -> bool:
    """Whether a connection to this daemon may go to systemd's socket."""
    if target.socket_path == managed_socket():
        return True
    return target.state_dir is not None and not os.path.exists(target.socket_path)


def _unit_standing(units: manager.Units) -> Standing:
    if units.have_failed:
        failed = " ".join(unit.name for unit in units if unit.active == "failed")
        hint = "{service} shows its journal; {open} starts it again."
        return Standing("stopped", f"The service has failed: {failed}", hint)
    message = f"The service is stopped: {manager.SOCKET} is {units.socket.active}"
    return Standing("stopped", message, "{open} starts it.")


def _standing(error: OmegaError) -> Standing:
    match error:
        case DaemonAsleep():
            return Standing("asleep", error.message, "{open} wakes it.")
        case SocketDenied() | Forbidden() | Unauthorized():
            return Standing("denied", error.message, error.hint)
        case ProtocolError() | RouteNotFound() | UnknownField():
            return Standing(
                "mismatch",
                f"The daemon does not speak as this dashboard expects: {error.message}",
                "'omegactl service restart' starts the installed version.",
            )
        case DaemonUnreachable() if error.code == "daemon_unreachable":
            return Standing("absent", error.message, "{open} starts one.")
        case _:
            return Standing("lost", error.message, error.hint)
