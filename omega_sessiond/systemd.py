"""systemd's side: the sockets it hands over, what it is told, and a scope for each session.

Knows unit names and properties; nothing of sessions. Source: sd_listen_fds(3), sd_notify(3),
org.freedesktop.systemd1(5), systemd.resource-control(5). dbus_fast is imported when the first scope is asked for: it
costs as much as the rest of a daemon's start.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from omega_sessiond import paths
from omega_sessiond.errors import HostFailed
from omega_sessiond.messages import Limits

if TYPE_CHECKING:
    from dbus_fast import Message, Variant
    from dbus_fast.aio import MessageBus
    from sdnotify import SystemdNotifier  # type: ignore[import-untyped]

FIRST_FD = 3
"""SD_LISTEN_FDS_START."""

SLICE = "app-omega-sessions.slice"

ANSWER_S = 10.0
"""A user manager that has not answered so long is hung; sessions go on without it."""

NAME_FREE_S = 5.0
"""How long a new scope waits beyond the old one's own stop time for its name."""

LOOK_AT_JOB_S = 2.0
"""How often a job is asked for whose end has not been heard: a manager that executes itself anew may forget to tell."""

INFINITY = 2**64 - 1
"""No limit: what systemd itself shows for one that is not set."""


# ---- sockets handed over ----


def listen_fds() -> dict[str, list[socket.socket]]:
    """The listening sockets meant for this process, by the name their unit gives them; the variables are cleared.

    The order of the descriptors is not that of the units: only the names tell them apart.
    """
    pid, count = os.environ.pop("LISTEN_PID", ""), os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "").split(":")
    os.environ.pop("LISTEN_PIDFDID", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return {}
    found: dict[str, list[socket.socket]] = {}
    for index in range(int(count)):
        descriptor = FIRST_FD + index
        os.set_inheritable(descriptor, False)
        name = names[index] if index < len(names) else ""
        found.setdefault(name, []).append(socket.socket(fileno=descriptor))
    return found


# ---- sd_notify ----


class Notifier:
    """Tells systemd how we are; does nothing where nobody listens. Clears NOTIFY_SOCKET: our children are not asked."""

    def __init__(self) -> None:
        self._notifier: SystemdNotifier | None = None
        if os.environ.get("NOTIFY_SOCKET"):
            from sdnotify import SystemdNotifier

            self._notifier = SystemdNotifier()
            del os.environ["NOTIFY_SOCKET"]
        microseconds, pid = os.environ.pop("WATCHDOG_USEC", ""), os.environ.pop("WATCHDOG_PID", "")
        meant = self._notifier is not None and microseconds.isdigit() and pid in ("", str(os.getpid()))
        self.watchdog_s: float | None = int(microseconds) / 1e6 if meant else None
        """How often systemd wants to hear WATCHDOG=1, at the latest."""

    @property
    def is_heard(self) -> bool:
        return self._notifier is not None

    def tell(self, *assignments: str) -> None:
        """Send `READY=1`, `STATUS=…` and the like. Not ASCII is escaped: the sdnotify package sends latin-1."""
        if self._notifier is not None:
            text = "\n".join(part.replace("\n", " ") for part in assignments)
            self._notifier.notify(text.encode("ascii", "backslashreplace").decode("ascii"))

    def close(self) -> None:
        if self._notifier is not None and self._notifier.socket is not None:
            self._notifier.socket.close()
            self._notifier = None

    def extend(self, seconds: float) -> None:
        """A start or stop takes so much longer."""
        self.tell(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")


# ---- scopes ----

_MANAGER = "org.freedesktop.systemd1.Manager"
_PROPERTIES = "org.freedesktop.DBus.Properties"
_SYSTEMD_PATH = "/org/freedesktop/systemd1"
_LOST = "lost"
"""In place of a job's path: the connection on which its end would have been told is gone."""

_PRIVATE = "/systemd/private"
"""Below XDG_RUNTIME_DIR: where systemd listens itself. Not documented, and there since systemd speaks D-Bus."""


class _Refused(Exception):
    """An error reply; `name` is the D-Bus name of the error without its prefix."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text)
        self.name = name.rpartition(".")[2]


class _Disconnected(Exception):
    pass


class Scopes:
    """The user manager's scopes. Made by `connect`; connects anew when the manager or the bus was restarted."""

    def __init__(self) -> None:
        self._bus: MessageBus | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._has_oom_policy = True
        self._finished_jobs: dict[str, list[asyncio.Queue[tuple[str, str]]]] = {}
        self._awaited_removals: dict[str, list[asyncio.Future[None]]] = {}
        self._on_removed: list[Callable[[str], None]] = []

    @classmethod
    async def connect(cls) -> Scopes | str:
        """The scopes of this user's manager, or why there are none."""
        if not _addresses():
            return "no user manager here (neither a session bus nor a systemd/private socket)"
        scopes = cls()
        try:
            await scopes._call("GetUnit", "s", ["-.slice"])
        except _Disconnected as error:
            return f"the user manager cannot be reached: {error}"
        except _Refused as error:
            return f"the user manager does not answer: {error}"
        return scopes

    async def close(self) -> None:
        if self._bus is not None:
            bus, self._bus = self._bus, None
            bus.disconnect()
        if self._watcher is not None:
            await self._watcher

    def on_removed(self, callback: Callable[[str], None]) -> None:
        """Call `callback` with the name of every unit that systemd forgets."""
        self._on_removed.append(callback)

    async def start(self, unit: str, pid: int, description: str, limits: Limits, stop_s: float) -> None:
        """Move `pid` into a new scope with these limits. Waits for an old scope of that name to go. HostFailed."""
        try:
            try:
                await self._start(unit, pid, description, limits, stop_s)
            except _Refused as error:
                if error.name != "UnitExists":
                    raise
                if _is_in(pid, unit):
                    return  # the answer to our first call was lost with the connection
                await self.reset(unit)
                async with asyncio.timeout(stop_s + NAME_FREE_S):
                    await self.removed(unit)
                await self._start(unit, pid, description, limits, stop_s)
        except TimeoutError:
            raise HostFailed(
                f"The scope {unit} of an earlier process does not go away", hint=f"systemctl --user stop {unit}"
            ) from None
        except (_Refused, _Disconnected) as error:
            raise HostFailed(f"systemd did not make the scope {unit}: {error}") from None

    async def _start(self, unit: str, pid: int, description: str, limits: Limits, stop_s: float) -> None:
        from dbus_fast import Variant

        properties = [
            ["Description", Variant("s", description)],
            ["Slice", Variant("s", SLICE)],
            ["PIDs", Variant("au", [pid])],
            ["TimeoutStopUSec", Variant("t", int(stop_s * 1e6))],
            *_limits(limits, only_set=True),
        ]
        if self._has_oom_policy:
            # A child killed for memory must not end the whole session, as the default would.
            properties.append(["OOMPolicy", Variant("s", "continue")])
        try:
            result = await self._job(unit, "StartTransientUnit", "ssa(sv)a(sa(sv))", [unit, "fail", properties, []])
        except _Refused as error:
            if error.name != "PropertyReadOnly" or not self._has_oom_policy:
                raise
            self._has_oom_policy = False
            await self._start(unit, pid, description, limits, stop_s)
            return
        if result != "done":
            raise _Refused("JobFailed", f"the job ended as '{result}'")

    async def stop(self, unit: str) -> None:
        """End everything in a scope and free its name; one that is not there is no failure."""
        try:
            await self._job(unit, "StopUnit", "ss", [unit, "replace"])
        except _Refused as error:
            if error.name != "NoSuchUnit":
                raise HostFailed(f"systemd did not stop {unit}: {error}") from None
        except _Disconnected as error:
            raise HostFailed(f"systemd did not stop {unit}: {error}") from None
        await self.reset(unit)

    async def kill(self, unit: str, signum: int) -> None:
        """Signal every process of a scope."""
        await self._quietly("KillUnit", "ssi", [unit, "all", signum])

    async def reset(self, unit: str) -> None:
        """Let systemd forget a failed scope."""
        await self._quietly("ResetFailedUnit", "s", [unit])

    async def set_limits(self, unit: str, limits: Limits) -> None:
        """Change a running scope's limits; None lifts one."""
        try:
            await self._call("SetUnitProperties", "sba(sv)", [unit, True, _limits(limits, only_set=False)])
        except (_Refused, _Disconnected) as error:
            raise HostFailed(f"systemd did not change the limits of {unit}: {error}") from None

    async def removed(self, unit: str) -> None:
        """Wait until systemd has forgotten a unit."""
        gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._awaited_removals.setdefault(unit, []).append(gone)
        try:
            try:
                await self._call("GetUnit", "s", [unit])
            except _Refused as error:
                if error.name == "NoSuchUnit":
                    return
                raise
            await gone
        finally:
            waiting = self._awaited_removals[unit]
            waiting.remove(gone)
            if not waiting:
                del self._awaited_removals[unit]

    async def cgroup(self, unit: str) -> str | None:
        """The path of a unit's cgroup ("/user.slice/…"), None when it has none."""
        kind = "Slice" if unit.endswith(".slice") else "Scope"
        try:
            path = (await self._call("GetUnit", "s", [unit]))[0]
            body = [f"org.freedesktop.systemd1.{kind}", "ControlGroup"]
            value = (await self._call("Get", "ss", body, path=path, interface=_PROPERTIES))[0]
        except (_Refused, _Disconnected):
            return None
        return value.value or None

    # ---- calls ----

    async def _quietly(self, member: str, signature: str, body: list[Any]) -> None:
        """A call for whose purpose it is as well when there is no such unit."""
        try:
            await self._call(member, signature, body)
        except _Refused as error:
            if error.name != "NoSuchUnit":
                raise HostFailed(f"systemd refused {member} of {body[0]}: {error}") from None
        except _Disconnected as error:
            raise HostFailed(f"systemd cannot be asked for {member} of {body[0]}: {error}") from None

    async def _job(self, unit: str, member: str, signature: str, body: list[Any]) -> str:
        """Call what queues a job, and wait for the job's end and result."""
        ended: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._finished_jobs.setdefault(unit, []).append(ended)
        try:
            job = (await self._call(member, signature, body))[0]
            while True:
                try:
                    async with asyncio.timeout(LOOK_AT_JOB_S):
                        path, result = await ended.get()
                except TimeoutError:
                    path = _LOST
                if path == job:
                    return result
                if path == _LOST and not await self._is_queued(job):
                    return "done"
        finally:
            waiting = self._finished_jobs[unit]
            waiting.remove(ended)
            if not waiting:
                del self._finished_jobs[unit]

    async def _is_queued(self, job: str) -> bool:
        """Whether a job still waits or runs, asked where its end may have gone unheard."""
        try:
            await self._call("GetJob", "u", [int(job.rpartition("/")[2])])
        except _Refused as error:
            if error.name == "NoSuchJob":
                return False
            raise
        return True

    async def _call(
        self, member: str, signature: str, body: list[Any], *, path: str = _SYSTEMD_PATH, interface: str = _MANAGER
    ) -> list[Any]:
        """One method call; once more on a new connection when the old one is lost while we wait."""
        from dbus_fast import Message

        for is_last in (False, True):
            bus = await self._connected()
            message = Message(
                destination="org.freedesktop.systemd1",
                path=path,
                interface=interface,
                member=member,
                signature=signature,
                body=body,
            )
            try:
                return await _ask(bus, message)
            except _Disconnected:
                if is_last:
                    raise
                self._lost(bus)
        raise AssertionError("unreachable")

    async def _connected(self) -> MessageBus:
        async with self._connecting:
            for _ in range(2):
                await asyncio.sleep(0)  # a connection that has ended meanwhile says so in these turns
            if self._bus is not None and self._bus.connected:
                return self._bus
            why = "there is no bus"
            for address in _addresses():
                try:
                    self._bus = await _open(address, self._heard)
                except _Disconnected as error:
                    why = str(error)
                    continue
                self._watcher = asyncio.get_running_loop().create_task(self._watch(self._bus))
                return self._bus
            raise _Disconnected(why)

    async def _watch(self, bus: MessageBus) -> None:
        try:
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        except (OSError, EOFError):
            pass
        self._lost(bus)

    def _lost(self, bus: MessageBus) -> None:
        """Nothing waits for a signal that cannot come."""
        if self._bus is not bus:
            return
        self._bus = None
        for waiting in self._finished_jobs.values():
            for queue in waiting:
                queue.put_nowait((_LOST, ""))

    def _heard(self, message: Message) -> None:
        match message.member:
            case "JobRemoved":
                _, job, unit, result = message.body
                for queue in self._finished_jobs.get(unit, ()):
                    queue.put_nowait((job, result))
            case "UnitRemoved":
                unit = message.body[0]
                for gone in self._awaited_removals.get(unit, ()):
                    if not gone.done():
                        gone.set_result(None)
                for callback in self._on_removed:
                    callback(unit)


async def _open(address: str, heard: Callable[[Message], None]) -> MessageBus:
    """A connection to a bus, or to the manager itself, on which the manager's signals are heard."""
    from dbus_fast import AuthError, Message
    from dbus_fast.aio import MessageBus

    is_private = address.endswith(_PRIVATE)
    bus = _private_bus(address) if is_private else MessageBus(bus_address=address)
    try:
        async with asyncio.timeout(ANSWER_S):
            await bus.connect()
    except (OSError, EOFError, AuthError, TimeoutError) as error:
        raise _Disconnected(str(error) or "it does not answer") from None
    bus.add_message_handler(heard)
    rule = f"type='signal',sender='org.freedesktop.systemd1',path='{_SYSTEMD_PATH}'"
    match = Message(
        destination="org.freedesktop.DBus",
        path="/org/freedesktop/DBus",
        interface="org.freedesktop.DBus",
        member="AddMatch",
        signature="s",
        body=[rule],
    )
    subscribe = Message(
        destination="org.freedesktop.systemd1", path=_SYSTEMD_PATH, interface=_MANAGER, member="Subscribe"
    )
    try:
        for message in (subscribe,) if is_private else (match, subscribe):
            await _ask(bus, message)
    except (_Refused, _Disconnected) as error:
        bus.disconnect()
        raise _Disconnected(str(error)) from None
    return bus


def _private_bus(address: str) -> MessageBus:
    """A connection to systemd's own socket, where there is no bus and hence nobody who answers its Hello: dbus_fast is
    answered by us. That reaches into dbus_fast; a version that does it otherwise leaves us without scopes here."""
    from dbus_fast import Message, MessageType
    from dbus_fast.aio import MessageBus

    class PrivateBus(MessageBus):
        async def _authenticate(self) -> None:
            await super()._authenticate()
            asyncio.get_running_loop().call_soon(self._answer_hello)  # connect() sends it in this very turn

        def _answer_hello(self) -> None:
            reply = Message(message_type=MessageType.METHOD_RETURN, reply_serial=1, signature="s", body=[":1.1"])
            self._process_message(reply)

    return PrivateBus(bus_address=address)


async def _ask(bus: MessageBus, message: Message) -> list[Any]:
    from dbus_fast import MessageType

    try:
        async with asyncio.timeout(ANSWER_S):
            reply = await bus.call(message)
    except TimeoutError:
        raise _Disconnected("it does not answer") from None
    except (OSError, EOFError) as error:
        raise _Disconnected(str(error) or "the connection was closed") from None
    if reply is None:
        raise _Disconnected("it gave no answer")
    if reply.message_type == MessageType.ERROR:
        name = reply.error_name or ""
        text = str(reply.body[0]) if reply.body else name
        if name.endswith((".NoReply", ".Disconnected", ".ServiceUnknown")):
            raise _Disconnected(text)
        raise _Refused(name, text)
    return list(reply.body)


def _addresses() -> list[str]:
    """Where a user manager may be asked, the best first."""
    found = []
    if address := paths.env("DBUS_SESSION_BUS_ADDRESS"):
        found.append(address)
    runtime = paths.env("XDG_RUNTIME_DIR")
    if runtime.startswith("/"):
        found += [
            f"unix:path={runtime}{name}" for name in ("/bus", "/systemd/private") if os.path.exists(runtime + name)
        ]
    return found


def _limits(limits: Limits, *, only_set: bool) -> list[list[str | Variant]]:
    from dbus_fast import Variant

    wanted = {"MemoryMax": limits.memory_bytes, "TasksMax": limits.tasks, "CPUWeight": limits.cpu_weight}
    return [
        [name, Variant("t", INFINITY if value is None else value)]
        for name, value in wanted.items()
        if value is not None or not only_set
    ]


def _is_in(pid: int, unit: str) -> bool:
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
            return any(line.rstrip("\n").endswith("/" + unit) for line in file)
    except OSError:
        return False
