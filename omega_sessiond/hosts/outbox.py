"""What a host says to its daemons: numbered frames, first into the log, then onto the command connection.

The log is the queue: what the connection does not take at once is read from the log again when it does, and a new
daemon gets what it has not by moving that place back. Nothing here blocks; whoever wants to wait polls the connection
and calls `pump`. Knows bytes and numbers, not what runs.
"""

from __future__ import annotations

import _socket
import os
import re
from _thread import RLock
from bisect import bisect_right
from collections import deque
from json.encoder import encode_basestring_ascii
from typing import Any, Callable, Deque, List, Optional, Tuple

from omega_sessiond import wire

MSG_DONTWAIT = _socket.MSG_DONTWAIT
MSG_NOWAIT = MSG_DONTWAIT | getattr(_socket, "MSG_NOSIGNAL", 0)
"""Never wait, and never die of a peer that left: user code may have set SIGPIPE to its default."""

PUMP_BYTES = 256 * 1024
MARK_BYTES = 1024 * 1024
"""How much of the log lies between two marks. Rarer marks mean more to read for an adoption, more mean more memory."""

CUT_BYTES = 4 * MARK_BYTES
"""A log whose acknowledged front is larger than this loses it even while commands run. Smaller means more copying."""

_SEQ = re.compile(rb'"seq":(\d+)')

LOG_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC

quote: Callable[[str], str] = encode_basestring_ascii


class Connection:
    """One accepted socket and what was read from it."""

    def __init__(self, sock: _socket.socket) -> None:
        sock.setblocking(True)  # the user's socket.setdefaulttimeout() reaches even this one
        self.sock = sock
        self.splitter = wire.Splitter()
        self.bodies: Deque[bytes] = deque()

    def receive(self, flags: int = 0) -> bool:
        """Read what is there into `bodies`; False at the end of the stream. Raises BlockingIOError, TornFrame."""
        try:
            data = self.sock.recv(65536, flags)
        except BlockingIOError:
            raise
        except OSError:
            return False
        if not data:
            return False
        self.bodies.extend(self.splitter.feed(data))
        if self.splitter.pending:
            self.splitter.feed(b"")  # an impossible length behind whole frames is told now, not with the next bytes
        return True

    def send(self, data: bytes) -> int:
        """How many bytes were taken; OSError when the peer is gone."""
        try:
            return self.sock.send(data, MSG_NOWAIT)
        except BlockingIOError:
            return 0

    def fileno(self) -> int:
        return self.sock.fileno()

    def shut(self) -> None:
        """End the conversation without freeing the descriptor: another thread may be waiting on it."""
        try:
            self.sock.shutdown(_socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was faster

    def close(self) -> None:
        self.sock.close()

    def descriptors(self) -> List[int]:
        return [self.sock.fileno()]

    close_in_child = close


class Outbox:
    """Frames by number. Every method but `backlog` is called with `lock` held."""

    def __init__(self, report: Callable[[str], None], retire: Callable[[Connection], None]) -> None:
        self.lock = RLock()
        self.busy = False
        """Whether a command runs: until it ends the log is not cut."""
        self._report = report
        self._retire = retire
        self._path = ""
        self._file = -1
        self._begin()

    def _begin(self) -> None:
        self.connection: Optional[Connection] = None
        self.seq = 0
        self._batch: List[bytes] = []
        self._batch_seq = 0
        self._log_from = 1
        self._acked = 0
        self._end = 0  # bytes in the log, `_overflow` included
        self._sent = 0  # of these, bytes given to the connection
        self._held = b""  # a took at the log's end that travels with the next frame
        self._overflow = bytearray()  # the log's end in memory, since the disk refused it
        self._overflows = False
        self._marks: List[Tuple[int, int]] = []  # (number, place in the log) of some frames
        self._replies: Deque[bytes] = deque()
        self._reply = b""  # a reply that is on its way

    def open(self, path: str) -> None:
        """Begin a log, and to count from one. Without a path it is in memory alone: nobody will ever read it."""
        self._begin()
        self._path = path
        self._file = os.open(path, LOG_FLAGS, 0o600) if path else os.memfd_create("log")
        os.ftruncate(self._file, 0)

    def owned(self) -> bool:
        """Whether the calling thread holds the lock already: a finalizer struck in the middle of a frame."""
        return bool(self.lock._is_owned())  # type: ignore[attr-defined]

    # ---- frames ----

    def emit(self, kind: str, fields: str) -> None:
        """Number a frame; it leaves with the next commit. `fields` is JSON that begins with a comma."""
        self.seq += 1
        body = ('{"t":"%s","seq":%d%s}' % (kind, self.seq, fields)).encode("ascii")
        self._batch.append(len(body).to_bytes(wire.HEADER_BYTES, "big") + body)

    def commit(self, hold: bool = False) -> bool:
        """Log the emitted frames and send them. `hold`: let them travel with the next. True if something is unsent."""
        batch = self._batch
        if not batch:
            return False
        data = batch[0] if len(batch) == 1 else b"".join(batch)
        first = self.seq - len(batch) + 1
        batch.clear()
        start = self._end
        if not self._marks or start - self._marks[-1][1] >= MARK_BYTES:
            self._marks.append((first, start))
        self._append(data)
        if self.connection is None:
            return False
        if self._sent + len(self._held) != start or self._reply or self._replies:
            return True
        if hold and not self._overflows:  # what no log holds must not wait: it would go with this process
            self._held += data
            return False
        if self._held:
            data = self._held + data
            self._held = b""
        taken = self._give(data)
        self._sent += taken
        return taken < len(data)

    def _append(self, data: bytes) -> None:
        if not self._overflows:
            try:
                written = os.write(self._file, data)
                if written < len(data):
                    written += os.write(self._file, data[written:])
                if written == len(data):
                    self._end += written
                    return
                reason = "the disk took a part of a frame"
            except OSError as error:
                reason = str(error)
            self._report("cannot write the log of frames, keeping them in memory: %s" % reason)
            self._overflows = True
            try:
                os.ftruncate(self._file, self._end)
            except OSError:
                pass  # a torn end is passed over by those who read the log
        self._overflow += data
        self._end += len(data)

    def _read(self, place: int, size: int) -> bytes:
        stored = self._end - len(self._overflow)
        if place < stored:
            return os.pread(self._file, min(size, stored - place), place)
        return bytes(self._overflow[place - stored : place - stored + size])

    # ---- the connection ----

    @property
    def backlog(self) -> int:
        """Bytes the connection has yet to take."""
        if self.connection is None:
            return 0
        return self._end - len(self._held) - self._sent + len(self._reply)

    def _give(self, data: bytes) -> int:
        assert self.connection is not None
        try:
            return self.connection.send(data)
        except OSError:
            self.detach()
            return len(data)

    def pump(self) -> None:
        """Send what is unsent, as far as the connection takes it. Replies go between frames."""
        while self.connection is not None:
            unsent = self._end - len(self._held) - self._sent
            if self._reply:
                taken = self._give(self._reply)
                self._reply = self._reply[taken:]
            elif unsent > 0:
                taken = self._give(self._read(self._sent, min(unsent, PUMP_BYTES)))
                self._sent += taken
            elif self._replies:
                self._reply = self._replies.popleft()
                continue
            else:
                return
            if taken == 0:
                return

    def reply(self, frame: wire.Frame) -> None:
        """Answer a question: neither numbered nor logged."""
        if self.connection is not None:
            self._replies.append(wire.pack(frame))
            self.pump()

    def attach(self, connection: Connection, have: int) -> None:
        """Speak to this daemon from now on, first what lies above `have`."""
        self.connection = connection
        self._sent = self._place_after(have)
        self.pump()

    def detach(self) -> None:
        """Speak to nobody. The connection is shut down, then handed to `retire`, which may close it."""
        connection, self.connection = self.connection, None
        self._held = self._reply = b""
        self._replies.clear()
        if connection is not None:
            connection.shut()
            self._retire(connection)

    def _place_after(self, have: int) -> int:
        """Where in the log the first frame with a number above `have` begins."""
        index = bisect_right(self._marks, (have + 1, self._end)) - 1
        place = read = self._marks[index][1] if index >= 0 else 0
        splitter = wire.Splitter()
        while read < self._end:
            data = self._read(read, MARK_BYTES)
            if not data:
                break
            read += len(data)
            for body in splitter.feed(data):
                found = _SEQ.search(body, 0, 64)
                if found is None or int(found.group(1)) > have:
                    return place
                place += wire.HEADER_BYTES + len(body)
        return self._end

    # ---- the log ----

    @property
    def log_range(self) -> Tuple[int, int]:
        """The first and the last number in the log."""
        return self._log_from, self.seq

    @property
    def unacknowledged_bytes(self) -> int:
        """How much of the log no daemon is known to have, give or take a mark."""
        index = bisect_right(self._marks, (self._acked + 1, self._end)) - 1
        return 0 if self._acked >= self.seq else self._end - (self._marks[index][1] if index >= 0 else 0)

    def acknowledge(self, seq: int) -> None:
        """The daemon has journalled everything up to `seq`. An empty log is enough when that is all, at rest; under
        steady work the acknowledged front goes when it is large."""
        self._acked = max(self._acked, min(seq, self.seq))
        if self._end == 0 or self._batch:
            return
        if self._acked < self.seq or self.busy:
            if self._end >= 2 * CUT_BYTES and not self._overflows:
                self._cut_front()
        elif self.connection is None or self._sent == self._end:
            os.ftruncate(self._file, 0)
            self._overflow.clear()
            self._overflows = False
            self._end = self._sent = 0
            self._log_from = self.seq + 1
            self._marks.clear()

    def _cut_front(self) -> None:
        """Put the unacknowledged end of the log in its place, at one stroke: a dead host's log is always whole."""
        index = bisect_right(self._marks, (self._acked + 1, self._end)) - 1
        if index < 0:
            return
        first, place = self._marks[index]
        rest = self._end - place
        if place < CUT_BYTES or rest > place or (self.connection is not None and self._sent < place):
            return
        draft = self._path + ".new"
        try:
            file = os.open(draft, LOG_FLAGS | os.O_TRUNC, 0o600)
        except OSError as error:
            self._report("cannot shorten the log of frames: %s" % error)
            return
        try:
            for start in range(place, self._end, MARK_BYTES):
                data = self._read(start, MARK_BYTES)
                if os.write(file, data) < len(data):
                    raise OSError("the disk is full")
            os.rename(draft, self._path)
        except OSError as error:
            self._report("cannot shorten the log of frames: %s" % error)
            os.close(file)
            return
        os.close(self._file)
        self._file = file
        self._log_from = first
        self._end = rest
        self._sent = max(0, self._sent - place)
        self._marks = [(number, start - place) for number, start in self._marks[index:]]

    def descriptors(self) -> List[int]:
        return [self._file]

    def close_in_child(self) -> None:
        """A forked child has no part in this."""
        self.lock = RLock()
        self._batch.clear()
        self.connection = None
        os.close(self._file)


def plain(value: Any) -> Any:
    """Text that is valid UTF-8, lone surrogates as escapes; lists and dicts of such."""
    if isinstance(value, str):
        if not value.isascii():
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        return value if type(value) is str else str.__str__(value)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {plain(key): plain(item) for key, item in value.items()}
    return value
