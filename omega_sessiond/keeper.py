"""Keeps sessions going: performs what they decide, hears their hosts, and knows why one died.

Everything happens on one event loop. What the journal must know is committed in the same turn in which it is decided,
before anyone is told; hosts and clients hear of it afterwards.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Coroutine
from typing import Any

from msgspec.structs import replace

from omega_sessiond import host as hosts
from omega_sessiond import paths, remains, wire
from omega_sessiond import session as decide
from omega_sessiond.config import Settings
from omega_sessiond.containment import Containment
from omega_sessiond.errors import HostFailed, JournalError, OmegaError, SessionNotFound, Stopping
from omega_sessiond.feed import Feed
from omega_sessiond.frames import (
    Bye,
    HostFrame,
    HostHello,
    InputFrame,
    LoadedFrame,
    Note,
    OutputFrame,
    PartFrame,
    Reply,
    ResultFrame,
    SavedFrame,
    Took,
)
from omega_sessiond.host import Death, Host, Launch
from omega_sessiond.journal import Journal
from omega_sessiond.live import Live, Work
from omega_sessiond.losses import joined
from omega_sessiond.messages import UNFINISHED, Limits, Step, now, timestamp
from omega_sessiond.nursery import Nursery
from omega_sessiond.process import Exit
from omega_sessiond.recorder import Recorder
from omega_sessiond.records import ExecutionRecord
from omega_sessiond.vault import Vault

log = logging.getLogger("omega_sessiond.keeper")

ACK_DELAY_S = 0.5
"""How long acknowledgements gather. Each wakes the host's helper thread; until one comes the host's log grows."""

ACK_FRAMES = 64
"""Frames after which an acknowledgement goes out at once, so that a flood's log is cut while it lasts."""

TIMEOUT_GRACE_S = 5.0
"""A command that has not yielded so long after its time-out is reported as still running to those who wait."""

RECONNECT_S = (0.02, 2.0)
"""First and longest pause between attempts to reach a host that lives and does not answer."""

DEAF_S = 2.0
"""A host that lives and on whose socket nobody listens has become another program (exec) or closed it: it will not come
back. One that is just dying looks the same, though not for so long."""

DISMISS_S = 2.0
"""Time for a host that nobody recorded to leave when asked; it has done nothing, so it answers at once or never."""

RECOVER_S = 1.0
"""Pause before a session that the journal refused is taken up again: a full disk seldom has room sooner."""

EVENTS_PRUNED_EVERY = 1000
"""Commits between looks at how many events are kept: rare enough to cost nothing."""


NUMBERED = (Took, OutputFrame, PartFrame, InputFrame, ResultFrame, SavedFrame, LoadedFrame, Bye)
"""The frames that stand in a host's log."""


class Keeper:
    """All sessions of one state directory at run time: `by_name`, and the unfinished executions in `work`."""

    def __init__(
        self,
        settings: Settings,
        journal: Journal,
        nursery: Nursery,
        *,
        trouble_fd: int,
        umask: int,
        dies_with_its_unit: bool,
    ) -> None:
        self.by_name: dict[str, Live] = {}
        self.work: dict[int, tuple[Live, Work]] = {}
        self.feed = Feed(journal)
        self.containment = Containment(settings)
        self.trouble: str | None = None
        self.is_stopping = False
        self._stop_begun = asyncio.Event()
        self._settings = settings
        self._journal = journal
        self._nursery = nursery
        self.recorder = Recorder(journal)
        self.vault = Vault(settings, journal, self.recorder)
        self._trouble_fd = trouble_fd
        self._umask = umask
        self._dies_with_its_unit = dies_with_its_unit
        self._state_dir = settings.state_dir
        self._tasks: set[asyncio.Task[None]] = set()
        self._births = asyncio.Semaphore(2 * (os.cpu_count() or 1) + 2)
        self._commits = 0

    # ---- life ----

    def start(self) -> None:
        """Adopt what an earlier daemon left. Returns at once; sessions are `reconnecting` until their host answers.
        Half a session, no command of which is ours to run, `is_deleted`: to be removed by whoever removes sessions."""
        for record in self._journal.sessions():
            is_half = record.keep.is_arriving or record.keep.is_leaving
            self.by_name[record.name] = live = Live(record, decide.Session(), is_deleted=is_half)
            if not is_half:
                self._restore(live)
        known = {live.record.id for live in self.by_name.values()}
        for id in remains.unknown(self._state_dir, known, self._journal.created_at()):
            self.spawn(self._sweep(id))

    async def _sweep(self, session_id: str) -> None:
        """Remove what is left of a session that nobody recorded, and its host, which may be on its way."""
        await hosts.dismiss(session_id, self._state_dir, DISMISS_S)
        remains.clear_session(self._state_dir, session_id)

    def _restore(self, live: Live) -> None:
        """Build a session's run-time state from the journal, and find its host."""
        unfinished = self._reread(live)
        record = live.record
        live.settled.clear()
        begun = next((row.id for row in unfinished if row.status != "queued"), None) if record.host else None
        live.session = decide.Session(
            (row.id for row in unfinished), link="reconnecting", running=begun, is_asleep=record.keep.is_asleep
        )
        if record.host is None:  # nothing was begun since the last host: what is queued is meant for the next one
            live.host = None
            live.taken = self._journal.last_begun(record.id)
            if os.path.exists(paths.host_socket(self._state_dir, record.id)):
                live.is_starting = True
                self.spawn(self._dismiss_then_start(live))
            else:
                self._begin_without_host(live)
            return
        if live.host is None:
            kept = record.host
            live.host = Host.find(
                record.id, self._state_dir, kept.pid, kept.start_time, kept.boot_id, kept.scope, record.limits
            )
        if live.host is None or live.host.process.exit is not None:  # it died while nobody watched or could note it
            self._begin_burial(live, Exit() if live.host is None else live.host.process.exit or Exit())
            return
        unit = hosts.unit_name(record.name, self._state_dir)
        if not live.host.scope and live.host.process.is_in_unit(unit):
            live.host.scope = unit
        self.containment.watch(live.host)
        self._listen(live, live.host)
        self.spawn(self._reconnect(live, live.host))

    def _reread(self, live: Live) -> list[ExecutionRecord]:
        """Take for true of a session what the journal knows of it; its unfinished executions."""
        unfinished = self._journal.unfinished(live.record.id)
        live.record = self._journal.session(live.record.id) or live.record
        for row in unfinished:
            known = self.work.get(row.id)
            work = known[1] if known else Work(row)
            work.record, work.pieces, work.has_data = row, None, True
            live.work[row.id] = work
            self.work[row.id] = (live, work)
        return unfinished

    async def _dismiss_then_start(self, live: Live) -> None:
        """A session without a recorded host, whose socket exists all the same: until who may listen there has left, no
        other host is made in his place."""
        try:
            await hosts.dismiss(live.record.id, self._state_dir, DISMISS_S)
        finally:
            live.is_starting = False
        self._begin_without_host(live)

    def _begin_without_host(self, live: Live) -> None:
        if live.session.ending:
            self.handle(live, decide.HostGone(0))
        else:
            live.session.link = "absent"
            if live.session.queue:
                self.handle(live, decide.StartAsked())
        if live.session.link == "absent":
            live.settled.set()

    async def stop(self) -> None:
        """Let go of every host (they live on), answer those who wait with what there is, end the feeds."""
        self.is_stopping = True
        self._stop_begun.set()
        self.feed.close()
        for _, work in list(self.work.values()):
            work.release()
        if self._dies_with_its_unit:
            doomed = [live for live in self.by_name.values() if live.host is not None and not live.host.scope]
            budget = self._settings.stop_budget_s
            endings = [self.end(live, "daemon_stopped", budget, farewell="SIGTERM") for live in doomed]
            for live, ending in zip(doomed, await asyncio.gather(*endings, return_exceptions=True), strict=True):
                if isinstance(ending, BaseException):
                    log.error("session %s: %s", live.record.name, ending)
        for task in list(self._tasks):
            task.cancel()
        for live in self.by_name.values():
            self.vault.forget(live)
            for work in live.work.values():
                work.disarm()
            if live.host is not None:
                self._acknowledge(live)
                live.host.detach()

    def refuse_when_stopping(self) -> None:
        """Raises Stopping: who let go of its hosts begins nothing with them."""
        if self.is_stopping:
            raise Stopping("The daemon is stopping")

    @property
    def is_quiet(self) -> bool:
        """Whether nothing runs, waits or starts: the daemon may leave."""
        is_settled = all(live.session.link != "starting" for live in self.by_name.values())
        return not self.work and is_settled and self.vault.is_quiet

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Have work done beside, until we stop. What it raises is logged."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)
        return task

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("internal error", exc_info=error)

    # ---- performing what sessions decide ----

    def handle(self, live: Live, event: decide.Event) -> None:
        """Hand an event to a session and do what it decides. A journal that refuses sends the session back to what
        the journal knows, and tries again later."""
        try:
            self._apply(live, event)
        except JournalError as error:
            self._recover(live, error)

    def _apply(self, live: Live, event: decide.Event, *, announced: bool = False, **fields: object) -> None:
        """Perform what a session decides upon an event. `fields` of its record change in one commit with what ends:
        a crash between the two would take what died with a host for work that nobody has begun. So does the feed's
        word of the state that it comes to, if that is to be `announced`."""
        effects = live.session.handle(event)
        ends = [effect for effect in effects if isinstance(effect, decide.Cancel | decide.Died)]
        if ends or fields:
            ended: list[Work] = []
            with self._journal.atomic():
                if fields:
                    self.recorder.update(live, **fields)
                for effect in ends:
                    ended += self._settle(live, effect)
                if announced:
                    self._journal.append(self.recorder.changed(live))
            for work in ended:
                self.forget(live, work)
            self.committed()
        for act in effects:
            match act:
                case decide.Begin(id):
                    self._begin(live, live.work[id])
                case decide.StartHost():
                    live.settled.clear()
                    live.start_failure = live.start_error = None
                    live.is_starting = True
                    self.spawn(self._start_host(live))
                case decide.Watch(id):
                    self._arm(live, live.work[id])
                case decide.Hibernate():
                    self.spawn(self._put_to_sleep(live))

    def _settle(self, live: Live, effect: decide.Cancel | decide.Died) -> list[Work]:
        """Journal the end of executions that will have no result."""
        match effect:
            case decide.Cancel(ids, reason):
                ended = [live.work[id] for id in ids]
                for work in ended:
                    self.recorder.settle(live, work, "cancelled", reason)
            case decide.Died(id):
                ended = [live.work[id]]
                self.recorder.settle(live, ended[0], "died", live.end_reason or live.death_code)
        return ended

    def _begin(self, live: Live, work: Work) -> None:
        record, row = live.record, work.record
        resumed_from = record.keep.resumed_from
        if row.started_at is None or record.lost is not None or resumed_from is not None:
            at = now()
            with self._journal.atomic():
                self._journal.start(record, row.id, at, record.lost, resumed_from)
                if record.lost is not None or resumed_from is not None:
                    self.recorder.update(live, lost=None, keep=replace(record.keep, resumed_from=None))
            work.record = row = replace(
                row, status="running", started_at=at, lost=record.lost, resumed_from=resumed_from
            )
            self.committed()
        assert live.host is not None
        live.host.execute(row.id, row.command)
        self._arm(live, work)

    def _arm(self, live: Live, work: Work) -> None:
        """Start the clock of `timeout_s`, counted from when the command began, by whichever daemon."""
        row = work.record
        if row.timeout_s is None or work.timeout is not None:
            return
        left = row.timeout_s
        if row.started_at is not None:
            left -= time.time() - timestamp(row.started_at)
        loop = asyncio.get_running_loop()
        work.timeout = loop.call_later(max(0.0, left), self._timed_out, live, work)

    def _timed_out(self, live: Live, work: Work) -> None:
        work.timeout = None
        if work.record.status in UNFINISHED and self.interrupt(live, work, "timeout"):
            loop = asyncio.get_running_loop()
            work.timeout = loop.call_later(TIMEOUT_GRACE_S, work.release)

    def forget(self, live: Live, work: Work) -> None:
        """An execution has ended: release what it holds and those who wait for it."""
        work.disarm()
        live.work.pop(work.record.id, None)
        self.work.pop(work.record.id, None)
        work.release()

    def committed(self) -> None:
        """Something new stands in the journal."""
        self.trouble = None
        self.feed.wake()
        self._commits += 1
        if self._commits % EVENTS_PRUNED_EVERY == 0:
            try:
                self.feed.prune(self._settings.events_kept)
            except JournalError as error:  # there is a next time; what was committed is
                self.trouble = error.message

    def announce(self, live: Live) -> None:
        """Tell the feed of a state that no execution's event tells of."""
        if live.is_deleted:
            return
        try:
            self._journal.append(self.recorder.changed(live))
        except JournalError as error:
            log.error("session %s: %s", live.record.name, error.message)
            self.trouble = error.message
        else:
            self.committed()

    # ---- interrupt and end ----

    def interrupt(self, live: Live, work: Work, reason: str) -> bool:
        host = live.host
        if host is None or work.record.status not in UNFINISHED:
            return False
        work.interrupt_reason = reason
        return host.interrupt(work.record.id)

    async def end(
        self, live: Live, reason: str, budget_s: float, *, successor: bool = False, farewell: str = "asked to end"
    ) -> list[Step]:
        """End the host, with all steps that it took. At the farewell SIGTERM an idle one saves itself first."""
        await self._started(live)
        if live.session.link == "reconnecting":  # a host that can be asked ends sooner and in order
            await _first(live.settled, live.load_begun, timeout_s=hosts.ASK_SHARE * budget_s)
            await self._started(live)
        if live.is_deleted and successor:  # no process may come after the last one
            raise SessionNotFound
        host, at_rest = live.host, live.session.is_at_rest
        has_nothing = live.loading is not None  # what it is loading stays on the disk
        running = live.session.running
        if running is not None and running in live.work:
            live.work[running].interrupt_reason = reason
        self.handle(live, decide.EndAsked(reason, successor))
        if host is None:
            return []
        live.end_reason = reason
        steps = await host.end(
            self.containment.scopes if host.scope else None,
            budget_s,
            at_rest=at_rest,
            at_once=has_nothing,
            reason=farewell,
            # The next process has what this one would clear away.
            goes_on=reason in ("killed", "restored") and self.vault.is_whole(live),
        )
        while live.host is host:  # until what it left is read and its place is clear
            if live.refusal is not None and self.is_stopping:  # nobody tries it again
                raise live.refusal
            live.settled.clear()
            await live.settled.wait()
            if live.refusal is not None:
                raise live.refusal
        return steps

    async def _started(self, live: Live) -> None:
        """Wait for the start that is under way, or until it has a process that takes up its checkpoint."""
        while live.session.link == "starting" and live.loading is None:
            await _first(live.settled, live.load_begun)

    async def ended(self, live: Live) -> None:
        """Wait for the end of a process that runs nothing and takes nothing any more: it is put to sleep, killed or
        replaced. Raises Stopping."""
        host = live.host
        while live.session.ending and live.session.running is None and live.host is host and live.refusal is None:
            live.settled.clear()
            await self._change(live)

    async def settled(self, live: Live) -> None:
        """The same, and then until the session has a process that can be spoken to, or none; one that cannot be found
        again is not waited for longer than for a start. Raises Stopping."""
        await self.ended(live)
        never_used = live.session.state == "hibernated" and self.vault.current(live) is None
        if never_used and not live.is_deleted:  # nothing is saved of it: what it has is what a process begins with
            self.handle(live, decide.StartAsked())
        if live.session.link == "starting":
            await self._change(live)
        if live.session.link == "reconnecting":
            await self._change(live, self._settings.host_start_s)

    async def _change(self, live: Live, timeout_s: float | None = None) -> None:
        await _first(live.settled, self._stop_begun, timeout_s=timeout_s)
        self.refuse_when_stopping()

    async def _replace(self, live: Live) -> None:
        """End a process whose state was replaced by a daemon that did not live to end it."""
        try:
            await self.end(live, "restored", self._settings.stop_budget_s, successor=True)
        except SessionNotFound:
            pass  # it is being deleted
        except JournalError as error:
            log.error("session %s: %s", live.record.name, error.message)

    async def _put_to_sleep(self, live: Live) -> None:
        host = live.host
        assert host is not None
        scopes = self.containment.scopes if host.scope else None
        await host.end(scopes, self._settings.stop_budget_s, at_rest=True, reason=wire.HIBERNATE)

    # ---- what hosts say ----

    def _listen(self, live: Live, host: Host) -> None:
        host.terms = self.vault.terms
        host.on_frames = lambda frames: self._frames(live, host, frames)
        host.on_lost = lambda reason: self._lost(live, host, reason)
        host.on_death = lambda exit: self._dead(live, host, exit)

    def _frames(self, live: Live, host: Host | None, frames: list[HostFrame]) -> bool:
        """Commit what a host has said, then act on it. `host` is None when its log is read after its death. False when
        the journal refused; what was said is then to be had again."""
        record, journal = live.record, self._journal
        fresh: list[HostFrame] = []
        seq = record.host_seq
        noted = False
        at = now()
        try:
            with journal.atomic():
                for frame in frames:
                    if isinstance(frame, NUMBERED):
                        if frame.seq > seq:
                            seq = frame.seq
                            fresh.append(frame)
                            if isinstance(frame, SavedFrame | LoadedFrame):
                                self.vault.record(live, frame)
                            else:
                                self.recorder.frame(live, frame, at)
                    elif isinstance(frame, Reply) and host is not None:
                        host.answered(frame.req, frame.body)
                    elif isinstance(frame, Note) and host is not None:
                        live.note = frame.text
                        journal.append(self.recorder.changed(live))
                        noted = True
                if live.record.host_seq < seq:
                    self.recorder.update(live, host_seq=seq)
        except JournalError as error:
            self._recover(live, error)
            return False
        if fresh or noted:
            self.committed()
        if not fresh:
            return True
        for frame in fresh:
            match frame:
                case Took():
                    live.taken = max(live.taken, frame.id)
                case InputFrame():
                    self.handle(live, decide.InputAsked(frame.id))
                case ResultFrame():
                    live.taken = max(live.taken, frame.id)
                    work = live.work.get(frame.id)
                    if work is not None:
                        self.forget(live, work)
                    self.handle(live, decide.Ended(frame.id))
                    self.vault.touch(live)
                case SavedFrame() | LoadedFrame():
                    self.vault.heard(live, frame)
        if host is not None:
            self._acknowledge_soon(live)
        return True

    def _acknowledge_soon(self, live: Live) -> None:
        if live.record.host_seq - live.acknowledged >= ACK_FRAMES:
            self._acknowledge(live)
        elif live.ack_timer is None:
            live.ack_timer = asyncio.get_running_loop().call_later(ACK_DELAY_S, self._acknowledge, live)

    def _acknowledge(self, live: Live) -> None:
        if live.ack_timer is not None:
            live.ack_timer.cancel()
            live.ack_timer = None
        if live.host is not None and live.record.host_seq > live.acknowledged:
            live.acknowledged = live.record.host_seq
            live.host.acknowledge(live.acknowledged)

    def _recover(self, live: Live, error: JournalError) -> None:
        """The journal refused: nothing was decided. Go back to what it knows; the host keeps its log meanwhile."""
        log.error("session %s: %s", live.record.name, error.message)
        self.trouble = error.message
        if live.host is not None:
            live.host.disconnect()
        live.session.link = "reconnecting"
        live.refusal = error
        self.vault.unreachable(live)
        try:
            self._reread(live)
        except JournalError:
            pass  # it is tried again
        live.settled.set()
        if not live.is_stale and not self.is_stopping:
            live.is_stale = True
            self.spawn(self._restore_later(live))

    async def _restore_later(self, live: Live) -> None:
        """Take a session up again, once no start and no burial of its host is under way."""
        while True:
            await asyncio.sleep(RECOVER_S)
            if self.by_name.get(live.record.name) is not live:
                return
            if live.is_starting or live.is_burying:
                continue
            live.is_stale = False
            live.refusal = None
            for work in live.work.values():
                work.disarm()
            if live.host is not None:
                live.host.disconnect()
            try:
                self._restore(live)
            except JournalError as error:
                self._recover(live, error)
            return

    # ---- hosts: start, reconnect, death ----

    async def _start_host(self, live: Live) -> None:
        try:
            await self._try_to_start(live)
        finally:
            live.is_starting = False

    async def _try_to_start(self, live: Live) -> None:
        settings = self._settings
        host: Host | None = None
        try:
            async with self._births:
                record = live.record
                launch = live.launch or Launch.load(paths.launch_file(self._state_dir, record.id))
                host, live.launch, live.born = live.born, None, None
                untold = None  # of a copy: what the process that it is forked from has lost
                if live.origin is not None:
                    untold = live.origin.record.lost
                    host = await self._fork(live, live.origin)
                elif host is None:
                    host = await Host.birth(*self._terms_of_birth(launch, record.limits))
                live.host = host
                process = host.process
                record = live.record  # what a restart has dropped while the process was being born stays dropped
                lost = record.lost if live.origin is None else untold
                live.origin = None
                if record.host is None:  # else it was recorded with its session
                    # What went with the process before is not lost again with this one.
                    covers = max(record.keep.covers, self._journal.last_begun(record.id))
                    keep = replace(record.keep, covers=covers, waking_from=self.vault.waking(live), is_replaced=False)
                    kept = hosts.record(process)
                    self.recorder.update(live, host=kept, host_seq=0, state_reason=None, keep=keep, lost=lost)
                live.taken = live.acknowledged = 0
                live.note = live.end_reason = live.told_to_load = None
                self._listen(live, host)
                host.on_death = lambda exit: self.vault.unreachable(live)
                await self.containment.enter(live, host)
                hello = await host.connect(0, settings.host_start_s)
            if not host.speaks_our_wire:
                raise HostFailed(f"its process speaks wire {hello.wire}, this daemon wire {wire.WIRE}")
            kept = hosts.record(process, host.scope, hello.engine_version)
            await self.vault.wake(live, host)
            self.containment.note_limits(live)
            self.containment.watch(host)
            self._listen(live, host)
            keep = replace(live.record.keep, is_asleep=False)
            self._apply(live, decide.HostStarted(), announced=True, host=kept, keep=keep)
        except JournalError as error:
            await self._start_refused(live, host, error)
            return
        except OmegaError as error:
            exit = None if host is None else host.process.exit
            if host is not None and exit is not None and self._has_ended_loading(live, host, exit):
                self._begin_burial(live, exit)
            else:
                await self._start_failed(live, host, error)
            return
        self.vault.started(live)
        live.settled.set()
        if process.exit is not None:
            self._dead(live, host, process.exit)

    def _has_ended_loading(self, live: Live, host: Host, exit: Exit) -> bool:
        """Whether a process that was to take up a checkpoint was ended by that, or by request meanwhile: what waits is
        for its successor, or has been cancelled."""
        is_asked = live.end_reason is not None and live.told_to_load is not None
        return is_asked or self._load_trouble(live, host, exit, host.bye) is not None

    def _load_trouble(self, live: Live, host: Host | None, exit: Exit, bye: str | None) -> str | None:
        return None if host is None else self.vault.load_trouble(live, host.describe_death(exit, bye, None), exit, bye)

    def beget(self, launch: Launch, limits: Limits) -> Host | None:
        """The host of a session that is about to be recorded, if a process waits to become one: it does so beside the
        commit. Who does not record the session kills it."""
        try:
            return Host.of_spare(*self._terms_of_birth(launch, limits))
        except HostFailed:
            return None  # who starts it in due course says why that cannot be

    def _terms_of_birth(
        self, launch: Launch, limits: Limits
    ) -> tuple[Launch, str, int, int, Limits, dict[str, object], Nursery]:
        return launch, self._state_dir, self._trouble_fd, self._umask, limits, self.vault.terms, self._nursery

    async def _fork(self, live: Live, source: Live) -> Host:
        if source.host is None:
            raise HostFailed(f"The process of session '{source.record.name}' has ended")
        return await source.host.fork(live.record.id, self._state_dir, live.record.limits, self._settings.host_start_s)

    async def _start_failed(self, live: Live, host: Host | None, error: OmegaError) -> None:
        message = error.message
        live.start_error, live.origin = error, None
        if host is not None:
            host.process.kill()
            await host.process.ended(None)
            trouble = host.birth_trouble(self._state_dir)
            message = f"{live.record.python or live.record.engine} did not become a session: {trouble or error.message}"
            await self.containment.clear(live, host.scope)
        log.warning("session %s: %s", live.record.name, message)
        live.host, live.start_failure = None, message
        reason = f"could not be started: {message}"
        try:
            self._apply(live, decide.StartFailed(), host=None, host_seq=0, state_reason=reason)
        except JournalError as refusal:
            self._recover(live, refusal)
        live.settled.set()
        self.announce(live)

    async def _start_refused(self, live: Live, host: Host | None, error: JournalError) -> None:
        """A host was born and the journal cannot be told. One that it knows is taken up again later."""
        if host is not None and self._journal_knows(live, host):
            live.host = host
        else:
            if host is not None:
                host.process.kill()
                await host.process.ended(None)
            live.host = None
        self._recover(live, error)

    def _journal_knows(self, live: Live, host: Host) -> bool:
        try:
            record = self._journal.session(live.record.id)
        except JournalError:
            return False
        kept = None if record is None else record.host
        return kept is not None and (kept.pid, kept.start_time) == (host.pid, host.process.start_time)

    def _lost(self, live: Live, host: Host, reason: str) -> None:
        """A connection ended. Whether the host did too is the pidfd's to say."""
        if live.host is not host or self.is_stopping:
            return
        log.debug("session %s: %s", live.record.name, reason)
        first, longest = RECONNECT_S
        lasted_s = asyncio.get_running_loop().time() - live.connected_at
        live.pause_s = min(longest, max(first, 2 * live.pause_s)) if lasted_s < longest else 0.0
        if live.pause_s == longest:
            live.note = f"its process breaks every connection: {reason}; 'omegactl kill' ends it"
            self.announce(live)
        self.handle(live, decide.HostUnreachable())
        self.vault.unreachable(live)
        live.settled.clear()
        self.spawn(self._reconnect(live, host))

    async def _reconnect(self, live: Live, host: Host) -> None:
        """Speak to a host that was there before; try for as long as it lives."""
        # One at a time: a host serves one connection, and two who try would take it from each other without end.
        if live.reconnecting is not None:
            live.reconnecting.cancel()
        live.reconnecting = asyncio.current_task()
        pause, longest = RECONNECT_S
        if live.pause_s:
            await asyncio.sleep(live.pause_s)
        while live.host is host and host.process.exit is None:
            try:
                hello = await host.connect(live.record.host_seq, None)
            except HostFailed as error:
                live.note = error.message
                if host.deaf_s >= DEAF_S:
                    await host.put_down(self.containment.scopes)
                    return
                await asyncio.sleep(pause)
                pause = min(longest, pause * 2)
                continue
            if not host.speaks_our_wire:
                live.note = (
                    f"its process speaks wire {hello.wire}, this daemon wire {wire.WIRE}: "
                    "use the version that started it, or 'omegactl restart' to start it anew"
                )
                live.settled.set()
                self.announce(live)
                return
            live.connected_at = asyncio.get_running_loop().time()
            live.note = live.note if live.pause_s == longest else None
            self.containment.note_limits(live)
            live.taken = max(live.taken, hello.last_taken)
            try:
                await self.vault.wake(live, host)
            except HostFailed as error:
                live.note = error.message
                await asyncio.sleep(pause)
                continue
            except JournalError:
                return  # it has been told, and the session is taken up again later
            try:
                waiting = self._compare(live, hello)
            except JournalError as error:
                self._recover(live, error)
                return
            self.handle(live, decide.HostAdopted(hello.last_taken, waiting))
            self.vault.started(live)
            live.settled.set()
            self.announce(live)
            if live.record.keep.is_replaced and not live.session.ending:
                self.spawn(self._replace(live))
            return

    def _compare(self, live: Live, hello: HostHello) -> bool:
        """Correct what the journal holds of unfinished work by what its host says; whether that waits for input.

        A command that was journalled as begun may never have reached the host, nor an answer to input() that was
        journalled as given.
        """
        waiting = False
        with self._journal.atomic():
            for work in live.work.values():
                row = work.record
                if row.status == "queued":
                    continue
                if row.id > hello.last_taken:
                    self.recorder.unbegin(live, work)
                    work.disarm()
                    continue
                asks = row.status == "waiting_input" if hello.asks is None else hello.asks == row.id
                waiting = asks and hello.running != 0
                if waiting != (row.status == "waiting_input"):
                    self._journal.waiting(row.id, waiting)
                work.record = replace(row, status="waiting_input" if waiting else "running")
                work.secret = hello.secret
        return waiting

    def _dead(self, live: Live, host: Host, exit: Exit) -> None:
        if live.host is host:
            self._begin_burial(live, exit)

    def _begin_burial(self, live: Live, exit: Exit) -> None:
        if not live.is_burying:
            live.is_burying = True
            self.handle(live, decide.HostDied())
            self.spawn(self._bury_once(live, exit))

    async def _bury_once(self, live: Live, exit: Exit) -> None:
        try:
            await self._bury(live, exit)
        except JournalError as error:
            self._recover(live, error)
        finally:
            live.is_burying = False

    async def _bury(self, live: Live, exit: Exit) -> None:
        """Read what a dead host left, say why it died and what went with it, and clear its place."""
        record, host = live.record, live.host
        self.handle(live, decide.HostUnreachable())  # what its log still holds must not begin anything new
        last_taken, bye = live.taken, host.bye if host is not None else None
        for batch in remains.frames(self._state_dir, record.id):
            for frame in batch:
                if isinstance(frame, Took):
                    last_taken = max(last_taken, frame.id)
                bye = frame.reason if isinstance(frame, Bye) else bye
            if not self._frames(live, None, batch):
                return
            await asyncio.sleep(0)
        # Output that is journalled proves a beginning whose `took` may have been cut from the log since.
        begun = (row.id for row in self._journal.unfinished(record.id) if row.output_bytes)
        last_taken = max(last_taken, *begun, 0)
        scope = host.scope if host is not None else record.host.scope if record.host is not None else ""
        await self.containment.clear(live, scope)
        if live.end_reason is not None:
            death = Death(f"{live.end_reason} by request", "killed")
        elif host is not None:
            death = host.describe_death(exit, bye, self.containment.oom_kill_seen())
        else:
            death = remains.unseen_death(record.host, bye)
        live.death_code = "out_of_memory" if death.code == "out_of_memory" else "host_died"
        reason = death.reason
        log.info("session %s: host %s: %s", record.name, record.host.pid if record.host else "-", reason)
        is_unused_fork = record.parent is not None and record.execution_count == 0
        was_used = last_taken > 0 or live.record.host_seq > 0 or is_unused_fork
        sent = live.work.get(live.session.running or 0)
        if sent is not None and sent.record.id > last_taken:  # it came while the host was leaving, or too late for it
            self.recorder.unbegin(live, sent)
        live.taken = max(live.taken, last_taken, self._journal.last_begun(record.id))
        is_saved = bye in (wire.HIBERNATE, "SIGTERM") and self.vault.stands_for(live, live.taken)
        if is_saved:
            reason = live.sleep_reason or reason
        load_trouble = self._load_trouble(live, host, exit, bye)
        if load_trouble is not None:
            self.vault.refuse(live, load_trouble)
            was_used = False  # the refusal says what is lost
        elif live.record.keep.waking_from is not None and self.vault.current(live) is None:
            was_used = True  # what it was to take up was given up meanwhile
        # What nobody has been told yet no later checkpoint tells: it was made of what was left.
        lost = joined(live.record.lost, self.vault.loss(live, reason) if was_used and not is_saved else None)
        keep = replace(live.record.keep, is_asleep=is_saved, waking_from=None, is_replaced=False)
        live.note = live.host = live.sleep_reason = None
        self.vault.unreachable(live)
        try:
            gone = decide.HostGone(last_taken, is_saved, load_trouble is not None)
            self._apply(live, gone, host=None, host_seq=0, state_reason=reason, lost=lost, keep=keep)
        except JournalError:
            live.host = host
            raise
        live.refusal = None
        remains.clear(self._state_dir, record.id)
        if live.session.link == "absent":
            live.settled.set()
            self.announce(live)


async def _first(*events: asyncio.Event, timeout_s: float | None = None) -> None:
    """Wait for one of them to be set, at most so long."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
