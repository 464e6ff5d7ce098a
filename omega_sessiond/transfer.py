"""A session as a file: its history, and when asked its saved variables, written out and taken in again elsewhere.

The file is JSON lines: what the session is, its executions each with output and rich parts, the state, an end. Whatever
it says is somebody else's word: it is checked like a request, and its state, which runs code when a host loads it, is
taken only from who is trusted. Nothing is unpickled here.
"""

from __future__ import annotations

import asyncio
import os
import re
import stat
from collections.abc import AsyncIterator, Iterator
from hashlib import sha256
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from omega_sessiond import __version__, paths, wire
from omega_sessiond.config import Settings
from omega_sessiond.database import from_system
from omega_sessiond.errors import (
    CannotSave,
    ForeignState,
    InvalidField,
    InvalidImport,
    JournalError,
    OmegaError,
    SessionExists,
    SessionNotFound,
)
from omega_sessiond.frames import Number, OutputFrame, PartFrame
from omega_sessiond.journal import Journal
from omega_sessiond.keeper import Keeper
from omega_sessiond.live import Live
from omega_sessiond.losses import joined
from omega_sessiond.messages import (
    UNFINISHED,
    CreateOptions,
    ErrorValue,
    Imported,
    ImportRequest,
    Labels,
    Limits,
    Lost,
    now,
    timestamp,
)
from omega_sessiond.records import ExecutionRecord, Keep
from omega_sessiond.shelf import CheckpointRecord
from omega_sessiond.states import Sessions, States

FORMAT = 1
"""Of the file. A larger one is of a later version and refused."""

PIECE_BYTES = 192 * 1024
"""Of the state in one line."""

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line is not ours, unless bodies may be longer: a command is at most a request's body, and the rest comes in
pieces."""

BESIDE_COMMAND_BYTES = 1024 * 1024
"""What else may stand in an execution's line."""

STEP_LINES, STEP_BYTES = 200, 256 * 1024
"""Read and committed before others have their turn: at most so many lines, and no further one after so many bytes."""

HEADER_BYTES = 16 * 1024 * 1024
"""Of a checkpoint's header, at most."""


INTERPRETER = r"(python|pypy)[0-9.]*[dt]?"
"""The name of an interpreter that a file may name without `trust`."""

StateFile = Literal["header.json", "state"]
STATE_FILES: tuple[StateFile, ...] = ("header.json", "state")
"""What a checkpoint's directory holds."""


# ---- the lines of the file ----


class SessionLine(Struct, frozen=True, tag_field="t", tag="session"):
    """The first line: what the session was, where it lived, and what wrote this."""

    format: Annotated[int, Meta(ge=1)]
    name: str
    engine: str
    python: str | None
    cwd: str
    limits: Limits
    labels: Labels
    created_at: str
    exported_at: str
    version: str


Time = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?Z\Z")]


class ExecutionLine(Struct, frozen=True, tag_field="t", tag="execution"):
    """One command that ended. Its output and rich parts follow, by its `id`."""

    id: int
    command: str
    status: Literal["ok", "error", "interrupted", "died", "cancelled"]
    queued_at: Time
    finished_at: Time
    started_at: Time | None = None
    reason: str | None = None
    error: ErrorValue | None = None
    execution_count: Number | None = None
    duration_ms: Annotated[float, Meta(ge=0)] | None = None
    displayed: bool = False
    should_exit: bool = False
    dropped_bytes: Number = 0
    resumed_from: str | None = None
    lost: Lost | None = None

    def __post_init__(self) -> None:
        for at in (self.queued_at, self.started_at, self.finished_at):
            if at is not None:
                timestamp(at)  # ValueError: there is no such day


class StateLine(Struct, frozen=True, tag_field="t", tag="state"):
    """The checkpoint of the session; its two files follow in pieces."""

    at: Time
    execution_id: int
    size_bytes: Number
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
    variables: Number
    left_out: dict[str, str]
    obstacles: list[str]
    covers: int | None = None
    """The last execution whose work it holds, or that was given up for it; None in older files, which say nothing."""
    lost: Lost | None = None
    """What the session had lost before, as far as no answer has told of it yet."""

    def __post_init__(self) -> None:
        timestamp(self.at)


class PieceLine(Struct, frozen=True, tag_field="t", tag="piece"):
    """The next bytes of one of the state's files."""

    file: StateFile
    body: bytes


class EndLine(Struct, frozen=True, tag_field="t", tag="end"):
    """The last line: without it the file is torn."""

    executions: int


Line = SessionLine | ExecutionLine | OutputFrame | PartFrame | StateLine | PieceLine | EndLine

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode


class Transfer:
    """Export and import of all sessions."""

    def __init__(
        self, settings: Settings, journal: Journal, keeper: Keeper, sessions: Sessions, states: States
    ) -> None:
        self._state_dir = settings.state_dir
        self._max_line_bytes = max(MAX_LINE_BYTES, settings.max_body_bytes + BESIDE_COMMAND_BYTES)
        self._journal = journal
        self._keeper = keeper
        self._sessions = sessions
        self._states = states

    # ---- export ----

    async def export(self, name: str, *, with_state: bool) -> AsyncIterator[bytes]:
        """The file, in chunks of whole lines. Raises SessionNotFound; where nothing is saved nor can be, why."""
        live = self._sessions.find(name)
        checkpoint = await self._saved(live) if with_state else None
        return self._lines(live, checkpoint, live.record.keep.covers, live.record.lost)

    async def _saved(self, live: Live) -> CheckpointRecord:
        """The present state; where that cannot be saved now, because a command runs, say, the one saved last: what it
        lacks is told where it is imported."""
        vault = self._keeper.vault
        why: OmegaError | None = None
        view, has_process = vault.view(live), live.host is not None or live.session.link != "absent"
        if has_process and (view is None or not view.is_current):
            try:
                await self._states.save(live.record.name)
            except OmegaError as error:
                why = error
        checkpoint = vault.current(live)
        if checkpoint is None:
            raise why or CannotSave(
                f"Nothing is saved of session '{live.record.name}'", hint="Leave `state` (--state) out."
            )
        return checkpoint

    async def _lines(
        self, live: Live, checkpoint: CheckpointRecord | None, covers: int, lost: Lost | None
    ) -> AsyncIterator[bytes]:
        record = live.record
        state = self._open_state(live, checkpoint)  # now: what is saved next takes the place of these files
        yield _line(
            SessionLine(
                FORMAT, record.name, record.engine, record.python, record.cwd, record.limits, record.labels,
                record.created_at, now(), __version__,
            )
        )  # fmt: skip
        count, after = 0, 0
        while rows := self._journal.executions(record.id, after, 50):
            for row in rows:
                after = row.id
                if row.status in UNFINISHED or row.finished_at is None:
                    continue
                count += 1
                yield _line(_execution_line(row))
                for line in self._belongings(row):
                    yield line
            await asyncio.sleep(0)
        if live.is_deleted:  # what is missing then must not look like a whole file
            raise SessionNotFound(f"Session '{record.name}' was deleted while it was exported")
        if checkpoint is not None:
            yield _line(
                StateLine(
                    checkpoint.at, checkpoint.execution_id, checkpoint.size_bytes, checkpoint.sha256,
                    checkpoint.variables, checkpoint.left_out, checkpoint.obstacles, covers, lost,
                )
            )  # fmt: skip
        for name, file in state:
            with file:
                while piece := file.read(PIECE_BYTES):
                    yield _line(PieceLine(name, piece))
                    await asyncio.sleep(0)
        yield _line(EndLine(count))

    def _open_state(self, live: Live, checkpoint: CheckpointRecord | None) -> list[tuple[StateFile, BinaryIO]]:
        if checkpoint is None:
            return []
        place = f"{paths.checkpoints_dir(self._state_dir, live.record.id)}/{checkpoint.id}"
        opened: list[tuple[StateFile, BinaryIO]] = []
        try:
            opened.extend((name, wire.open_plain(f"{place}/{name}")) for name in STATE_FILES)
        except OSError as error:
            for _, file in opened:
                file.close()
            raise JournalError(
                f"Cannot read {error.filename}: {error.strerror}",
                hint="Run a command in the session and save it again.",
            ) from None
        return opened

    def _belongings(self, row: ExecutionRecord) -> Iterator[bytes]:
        for stream, offset, text in self._journal.pieces(row.id):
            yield _line(OutputFrame(0, row.id, stream, offset, text))
        for part in self._journal.parts.of(row.id):
            described = PartFrame(
                0, row.id, part.number, 0, b"", part.size_bytes, part.bundle, part.role, part.place, part.mime,
                _encoding(part.encoding), part.metadata, part.omitted,
            )  # fmt: skip
            yield _line(described)
            offset = 0
            for body in self._journal.parts.body(part) if part.omitted is None else ():
                yield _line(PartFrame(0, row.id, part.number, offset, body))
                offset += len(body)

    # ---- import ----

    async def take_in(self, request: ImportRequest) -> Imported:
        """A new session from a file on this machine. Raises InvalidImport, ForeignState, SessionExists,
        EngineUnavailable."""
        with _opened(request.file) as stream:
            lines = _read(stream, request.file, self._max_line_bytes)
            intake = _Intake(self._state_dir, self._journal, self._keeper, self._sessions, request, stream, lines)
            return await intake.run()


class _Intake:
    """One import on its way."""

    def __init__(
        self,
        state_dir: str,
        journal: Journal,
        keeper: Keeper,
        sessions: Sessions,
        request: ImportRequest,
        stream: BinaryIO,
        lines: Iterator[Line],
    ) -> None:
        self._state_dir = state_dir
        self._journal = journal
        self._keeper = keeper
        self._sessions = sessions
        self._request = request
        self._stream = stream
        self._lines = lines
        self._live: Live
        self._ids: dict[int, int] = {}
        self._unfinished: ExecutionLine | None = None
        self._notes: list[str] = []
        self._last_used_at = ""
        self._checkpoint: CheckpointRecord | None = None
        self._covers = 0
        self._lost: Lost | None = None
        self._place = ""

    async def run(self) -> Imported:
        first = next(self._lines, None)
        if not isinstance(first, SessionLine):
            raise InvalidImport(f"{self._request.file} is no exported session", hint="'omegactl export' writes one.")
        if first.format > FORMAT:
            raise InvalidImport(
                f"{self._request.file} has format {first.format}, written by omega-sessiond {first.version}; this is"
                f" {__version__}, which knows formats up to {FORMAT}"
            )
        name = self._request.name or first.name
        if name in self._keeper.by_name:
            raise SessionExists(
                f"Session '{name}' exists already", hint="Give it another `name` (omegactl import FILE NAME)."
            )
        # What a daemon that died meanwhile has left is removed by the next one, none of it run.
        self._live = live = self._sessions.make(name, self._options(first), is_arriving=True)
        live.is_arriving = True
        try:
            await self._take_lines()
            if self._checkpoint is not None:
                await asyncio.to_thread(self._check_state, self._checkpoint)
            self._finish()
        except BaseException as error:
            self._sessions.discard(live)
            if isinstance(error, OSError):
                raise from_system(error, self._place) from None
            raise
        live.is_arriving = False
        self._keeper.announce(live)
        return Imported(self._sessions.view(live), len(self._ids), self._checkpoint is not None, self._notes)

    def _options(self, first: SessionLine) -> CreateOptions:
        """As it was where it came from, as far as that is to be had here."""
        request, python, cwd = self._request, self._request.python, first.cwd
        if python is None and first.python is not None:
            if not _is_program(first.python):
                self._notes.append(f"Its interpreter {first.python} is not here: it has the usual one.")
            elif request.trust or re.fullmatch(INTERPRETER, os.path.basename(first.python)):
                python = first.python
            else:  # any program could be named here, and would be run with the next command
                self._notes.append(f"Its interpreter {first.python} is not named like one: it has the usual one.")
        if not (os.path.isabs(cwd) and os.path.isdir(cwd)):
            self._notes.append(f"Its directory {cwd} is not here.")
            cwd = request.cwd or ""
        return CreateOptions(
            engine=first.engine,
            python=python,
            cwd=cwd or None,
            env=request.env,
            limits=first.limits,
            labels=first.labels,
        )

    async def _take_lines(self) -> None:
        is_over = False
        while not is_over:
            with self._journal.atomic():
                is_over = self._take_step()
                self._journal.settle(self._live.record.id)
            self._keeper.committed()
            await asyncio.sleep(0)
        if next(self._lines, None) is not None:
            raise InvalidImport(f"{self._request.file} goes on after its end")

    def _take_step(self) -> bool:
        """Take the next lines; whether the end was among them."""
        until = self._stream.tell() + STEP_BYTES
        for _ in range(STEP_LINES):
            line = next(self._lines, None)
            if line is None:
                raise InvalidImport(f"{self._request.file} is torn: its end is missing")
            self._take(line)
            if isinstance(line, EndLine):
                return True
            if self._stream.tell() >= until:
                break
        return False

    def _take(self, line: Line) -> None:
        match line:
            case ExecutionLine():
                self._close()
                self._open(line)
            case OutputFrame():
                if self._expects(line.id):
                    self._journal.add_output(
                        self._live.record, self._ids[line.id], line.s, line.off, line.text, self._of.finished_at
                    )
            case PartFrame():
                if self._expects(line.id):
                    self._journal.parts.add(replace(line, id=self._ids[line.id]))
            case StateLine():
                self._close()
                self._begin_state(line)
            case PieceLine():
                self._add_to_state(line)
            case EndLine():
                self._close()
                if line.executions != len(self._ids):
                    raise InvalidImport(
                        f"{self._request.file} says that it has {line.executions} executions and has {len(self._ids)}"
                    )
            case SessionLine():
                raise InvalidImport(f"{self._request.file} holds more than one session")

    @property
    def _of(self) -> ExecutionLine:
        assert self._unfinished is not None
        return self._unfinished

    def _expects(self, execution_id: int) -> bool:
        if self._unfinished is None or self._unfinished.id != execution_id:
            raise InvalidImport(f"{self._request.file} has output of execution {execution_id} in a wrong place")
        return True

    def _open(self, line: ExecutionLine) -> None:
        if line.id in self._ids:
            raise InvalidImport(f"{self._request.file} has execution {line.id} twice")
        id = self._journal.queue(self._live.record, line.command, at=line.queued_at, started=False)
        if line.started_at is not None:
            self._journal.start(self._live.record, id, line.started_at, line.lost, line.resumed_from)
        self._ids[line.id] = id
        self._unfinished = line
        self._last_used_at = max(self._last_used_at, line.queued_at)

    def _close(self) -> None:
        line, self._unfinished = self._unfinished, None
        if line is None:
            return
        self._journal.finish(
            self._live.record,
            self._ids[line.id],
            status=line.status,
            reason=line.reason,
            error=line.error,
            execution_count=line.execution_count,
            finished_at=line.finished_at,
            duration_ms=line.duration_ms,
            displayed=line.displayed,
            should_exit=line.should_exit,
            dropped_bytes=line.dropped_bytes,
        )

    # ---- its state ----

    def _begin_state(self, line: StateLine) -> None:
        if self._request.state is False:
            return
        if not self._request.trust:
            raise ForeignState(f"{self._request.file} holds saved variables, and loading those runs what they say")
        if self._checkpoint is not None:
            raise InvalidImport(f"{self._request.file} holds more than one state")
        id = os.urandom(6).hex()
        self._place = f"{paths.checkpoints_dir(self._state_dir, self._live.record.id)}/{id}"
        os.makedirs(self._place, mode=0o700)
        after = self._ids.get(line.execution_id, max(self._ids.values(), default=0))
        self._lost = line.lost
        covers = max(self._ids, default=0) if line.covers is None else line.covers
        self._covers = max((new for old, new in self._ids.items() if old <= covers), default=0)
        self._checkpoint = CheckpointRecord(
            id, self._live.record.id, line.at, after, line.size_bytes, line.sha256, line.variables, line.left_out,
            line.obstacles,
        )  # fmt: skip

    def _add_to_state(self, line: PieceLine) -> None:
        if self._checkpoint is None:
            if self._request.state:
                raise InvalidImport(f"{self._request.file} has a piece of a state in a wrong place")
            return
        file = f"{self._place}/{line.file}"
        limit = HEADER_BYTES if line.file == "header.json" else self._checkpoint.size_bytes
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(file, flags, 0o600), "ab") as stream:
            if stream.tell() + len(line.body) > limit:
                raise InvalidImport(f"{self._request.file} holds more state than it says")
            stream.write(line.body)

    def _finish(self) -> None:
        fields: dict[str, Any] = {"execution_count": len(self._ids), "keep": Keep()}
        if self._last_used_at:
            fields["last_used_at"] = self._last_used_at
        live, checkpoint = self._live, self._checkpoint
        if checkpoint is not None:
            fields["keep"] = Keep(checkpoint_id=checkpoint.id, covers=self._covers, is_asleep=True)
        elif self._ids:
            fields["lost"] = Lost("all", "imported without its variables")
        fields["state_reason"] = "imported" if checkpoint or not self._ids else "imported without its variables"
        with self._journal.atomic():
            if checkpoint is not None:
                self._journal.shelf.add(checkpoint)
            self._keeper.recorder.update(live, **fields)
            if checkpoint is not None:
                lost = joined(self._lost, self._keeper.vault.loss(live, "imported"))
                self._keeper.recorder.update(live, lost=lost)
        live.session.is_asleep = checkpoint is not None
        self._keeper.committed()

    def _check_state(self, checkpoint: CheckpointRecord) -> None:
        """A state that did not come whole is refused now and not when somebody needs it."""
        digest, size = sha256(), 0
        try:
            with open(f"{self._place}/state", "rb") as stream:
                while piece := stream.read(1 << 20):
                    digest.update(piece)
                    size += len(piece)
            os.stat(f"{self._place}/header.json")
        except FileNotFoundError:
            size = -1
        if size != checkpoint.size_bytes or digest.hexdigest() != checkpoint.sha256:
            raise InvalidImport(f"The state in {self._request.file} is not as it was written")


def _opened(file: str) -> BinaryIO:
    try:
        # Without O_NONBLOCK a pipe without a writer would hold the daemon.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise _unreadable(file, error) from None
    except ValueError:
        raise InvalidField(f"{file!r} is not the path of a file") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidField(f"{file} is not a plain file")
    return os.fdopen(descriptor, "rb")


def _is_program(file: str) -> bool:
    return os.path.isabs(file) and os.path.isfile(file) and os.access(file, os.X_OK)


def _unreadable(file: str, error: OSError) -> InvalidField:
    return InvalidField(f"Cannot read {file}: {error.strerror}", hint="Name a readable file.")


def _line(line: Line) -> bytes:
    return _encode(line) + b"\n"


def _read(stream: BinaryIO, file: str, most: int) -> Iterator[Line]:
    """The lines of a file. Raises InvalidImport for what is none of ours, with its number."""
    number = 0
    while True:
        try:
            data = stream.readline(most + 1)
        except OSError as error:  # a plain file by its looks, like those in /proc
            raise _unreadable(file, error) from None
        if not data:
            return
        number += 1
        if len(data) > most:
            raise InvalidImport(
                f"{file}, line {number}, is longer than {most} bytes",
                hint="If it is an exported session, its daemon took longer commands: raise `max_body_bytes` here, too.",
            )
        try:
            yield _decode(data)
        except msgspec.MsgspecError as error:
            shown = str(error)[:200]
            raise InvalidImport(f"{file}, line {number}, is not of an exported session: {shown}") from None
        except RecursionError:
            raise InvalidImport(f"{file}, line {number}, is nested too deeply") from None


def _encoding(name: str) -> Literal["text", "json", "binary"]:
    return "text" if name == "text" else "json" if name == "json" else "binary"


def _execution_line(row: ExecutionRecord) -> ExecutionLine:
    assert row.finished_at is not None
    fields = {name: getattr(row, name) for name in ExecutionLine.__struct_fields__}
    return ExecutionLine(**fields)
