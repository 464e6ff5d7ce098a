"""What a session prints, as frames: from Python's streams and from the pipes behind descriptors 1 and 2.

Text of Python's own streams waits a moment in `_pieces`, so that a loop of prints does not become a frame each; what
is older goes out first: a write looks into the pipes before it adds its text, so all waiting text is older than what
stands in a pipe. The first bytes of an execution are framed as they come, of the rest the last ones are kept and
framed at the end. Knows nothing of what runs but its number.
"""

from __future__ import annotations

import codecs
import os
import select
from _thread import get_ident
from collections import deque
from typing import Any, Deque, Dict, List, Mapping, Optional, Tuple

from omega_sessiond import wire
from omega_sessiond.hosts import border, mime
from omega_sessiond.hosts.bell import Bell
from omega_sessiond.hosts.outbox import Outbox, plain, quote
from omega_sessiond.hosts.parts import PIECE_BYTES, Parts

FLUSH_CHARS = 32 * 1024
"""Waiting text that is framed without waiting any longer."""

BACKLOG_BYTES = 1024 * 1024
"""Unsent output above which whoever prints must wait for the daemon. Less stalls on every hiccup of the daemon, more
lets a flood run further ahead of what anybody has seen."""

LATE_BYTES = 16 * 1024 * 1024
"""Output of no execution that is kept for a daemon that is away or behind."""

PIPE_BYTES = 64 * 1024
PIPE_ROUNDS = 16
"""How often a pipe is read in one go at most: a child that writes without end does not hold up a result."""

MERGE_CHARS = 4096


class Output:
    """Frames output into an outbox, within the bounds of one execution at a time; `id` 0 is none."""

    def __init__(self, outbox: Outbox, helper: Bell, main: Bell) -> None:
        self.dirty = False
        """Whether text waits that the helper is to frame soon."""
        self.waiting_main = False
        """Whether the main thread itself waits for the connection to take more."""
        self.forked = False
        self._outbox = outbox
        self._head_bytes = 0
        self._tail_bytes = 0
        self._parts = Parts(outbox)
        self._helper = helper
        self._main = main
        self._main_thread = get_ident()
        self._pieces: Deque[Tuple[str, str]] = deque()
        self._size = 0
        self._line: Dict[str, str] = {}
        self._id = 0
        self._offset = 0
        self._head_left = 0
        self._head_end = 0
        self._tail: Deque[Tuple[str, int, str, int]] = deque()
        self._tail_size = 0
        self._late_size = 0
        self._late_lost = 0
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {stream: decoder("backslashreplace") for stream in ("stdout", "stderr")}
        self._pipes: Dict[int, Tuple[str, codecs.IncrementalDecoder]] = {}
        self._look = select.poll()  # used with the lock held
        self._glance = select.poll()  # used by the main thread alone

    def bound(self, head_bytes: int, tail_bytes: int, data_bytes: int) -> None:
        """How much of one execution's output is kept from its start, and of the rest from its end; of its parts."""
        self._head_bytes = head_bytes
        self._tail_bytes = tail_bytes
        self._parts.bound(data_bytes)

    def become_host(self) -> None:
        """In a forked child that goes on as a host: nothing that the other has yet to say is its own."""
        self.forked = self.dirty = False
        self._pipes.clear()
        self._pieces.clear()
        self._line.clear()
        self._look, self._glance = select.poll(), select.poll()
        self._size = self._id = self._offset = self._late_size = self._late_lost = 0

    def capture(self) -> None:
        """Put pipes behind descriptors 1 and 2."""
        for descriptor, stream in ((1, "stdout"), (2, "stderr")):
            out, into = os.pipe()
            os.dup2(into, descriptor)
            os.close(into)
            os.set_blocking(out, False)
            decoder = self._decoders[stream]
            decoder.reset()
            self._pipes[out] = (stream, decoder)
            for poll in (self._look, self._glance):
                poll.register(out, select.POLLIN)

    @property
    def pipes(self) -> List[int]:
        return list(self._pipes)

    # ---- what Python code prints ----

    def write(self, stream: str, text: str) -> None:
        """Text of one of Python's streams, from any thread. Blocks the main thread when the daemon is far behind."""
        if len(text) > wire.OUTPUT_CHUNK:
            for start in range(0, len(text), wire.OUTPUT_CHUNK):
                self.write(stream, text[start : start + wire.OUTPUT_CHUNK])
                if border.interrupt_waits():
                    return
            return
        if self.forked:
            self._write_as_child(stream, text)
            return
        if self._glance.poll(0) if get_ident() == self._main_thread else self._pipes_hold_something():
            self.flush()
        self._pieces.append((stream, text))
        self._size += len(text)
        if self._size >= FLUSH_CHARS:
            self.flush()
        elif not self.dirty:
            self.dirty = True
            try:
                self._helper.ring()
            except RecursionError:
                self.dirty = False
                raise

    def write_last(self, stream: str, text: str) -> None:
        """As `write`, and the helper is not woken for it: the end of the execution or a flush follows at once."""
        dirty, self.dirty = self.dirty, True
        self.write(stream, text)
        self.dirty = dirty and self.dirty

    def _pipes_hold_something(self) -> bool:
        if self._outbox.owned():
            return False
        with self._outbox.lock:
            return bool(self._look.poll(0))

    def show(self, stream: str, text: str) -> None:
        """Text of the host's own, at the end of an execution: framed with the result unless it is long.

        An interrupt ends it in the middle: it is raised here.
        """
        if type(text) is not str:
            text = str.__str__(text)
        for start in range(0, len(text), wire.OUTPUT_CHUNK):
            if border.pending:
                border.deliver_interrupts()
            self.write_last(stream, text[start : start + wire.OUTPUT_CHUNK])

    def present(
        self, data: Mapping[str, Any], metadata: Optional[Mapping[str, Any]] = None, role: str = "display"
    ) -> None:
        """Hand over a MIME bundle of the execution that runs, from any thread, in order with what is printed. `role`
        is "result" for the value of the command itself. Blocks the main thread when the daemon is far behind.

        A value is a str (text; base64 for what is binary), bytes, or what JSON can say. `text/plain` is passed over:
        whoever presents prints it. What cannot be sent or is beyond the execution's bounds becomes a part that says
        why it was omitted. `metadata` is by MIME type; other keys count for every part of the bundle.
        """
        parts = mime.encode(data, metadata)
        if self.forked or not parts:
            return
        if self._outbox.owned():  # a finalizer's, in the middle of a frame
            self.write("stderr", "[%s: shown at no moment for it, and dropped]\n" % ", ".join(p.mime for p in parts))
            return
        probe_stack()
        with self._outbox.lock:
            self._collect()
            execution_id, place = self._id, self._offset
            numbered: List[Tuple[int, mime.Part]] = []
            if execution_id:
                bundle, numbered = self._parts.take(parts)
                for number, part in numbered:
                    self._parts.describe(execution_id, bundle, role, place, number, part)
            else:
                shown = ", ".join(part.mime for part in parts)
                self._add("stderr", "[%s: shown when no command ran, and dropped]\n" % shown)
            self._commit()
        for number, part in numbered:
            for offset in range(0, 0 if part.omitted else len(part.body), PIECE_BYTES):
                body = mime.base64(part.body[offset : offset + PIECE_BYTES])
                with self._outbox.lock:
                    if self._id != execution_id:  # a thread's, overtaken by the end of the command
                        return
                    self._parts.add(execution_id, number, offset, body)
                    self._commit()
                self._keep_pace()

    def write_late(self, stream: str, text: str) -> None:
        """Text that belongs to no execution, although one may be running: an earlier one's, by the engine's word."""
        probe_stack()
        with self._outbox.lock:
            self._collect()
            running, self._id = self._id, 0
            self._add(stream, text)
            self._id = running
            self._commit()

    def flush(self) -> None:
        """Frame what was printed so far. Blocks the main thread while the daemon is far behind."""
        if self.forked:
            self._flush_as_child()
            return
        if self._outbox.owned():
            return
        self.frame()
        self._keep_pace()

    def frame(self) -> None:
        """Frame what was printed so far, without waiting for anybody."""
        probe_stack()
        with self._outbox.lock:
            self._collect()
            self._commit()

    def _commit(self) -> None:
        if self._outbox.commit() and not self.waiting_main:
            self._helper.ring()

    def _keep_pace(self) -> None:
        if self._outbox.backlog > BACKLOG_BYTES and get_ident() == self._main_thread:
            self._wait_for_daemon()

    def _wait_for_daemon(self) -> None:
        """Let the daemon catch up. A new daemon, a lost one and a signal end or renew the wait by ringing."""
        outbox = self._outbox
        self.waiting_main = True
        try:
            while not border.pending:
                with outbox.lock:
                    outbox.pump()
                    connection = outbox.connection
                    # Taken under the lock: when the helper closes it meanwhile, it also rings.
                    descriptor = -1 if connection is None else connection.fileno()
                if connection is None or outbox.backlog <= BACKLOG_BYTES // 2:
                    break
                poll = select.poll()
                poll.register(descriptor, select.POLLOUT)
                poll.register(self._main, select.POLLIN)
                if any(ready == self._main.fileno() for ready, _ in poll.poll()):
                    self._main.wait()
        finally:
            self.waiting_main = False
            self._helper.ring()

    # ---- framing; the lock is held ----

    def _collect(self) -> None:
        """Frame all that waits: Python's text, which is older, then what stands in the pipes."""
        self.dirty = False
        pieces = self._pieces
        if pieces:
            self._size = 0
            stream, text = pieces.popleft()
            texts = [text]
            while pieces:
                following, text = pieces.popleft()
                if following != stream:
                    self._add(stream, "".join(texts))
                    stream, texts = following, []
                texts.append(text)
            self._add(stream, "".join(texts))
        ready = self._look.poll(0)
        for descriptor, _ in ready:
            self._drain(descriptor)

    def _drain(self, descriptor: int) -> None:
        stream, decoder = self._pipes[descriptor]
        for _ in range(PIPE_ROUNDS):
            try:
                data = os.read(descriptor, PIPE_BYTES)
            except BlockingIOError:
                return
            text = decoder.decode(data)
            if text:
                self._add(stream, text)
            if len(data) < PIPE_BYTES:
                return

    def _add(self, stream: str, text: str) -> None:
        for start in range(0, len(text), wire.OUTPUT_CHUNK):
            self._add_chunk(stream, text[start : start + wire.OUTPUT_CHUNK])

    def _add_chunk(self, stream: str, text: str) -> None:
        if not text.isascii():
            text = plain(text)
            size = len(text.encode("utf-8"))
        else:
            size = len(text)
        if self._id == 0:
            self._add_late(stream, text, size)
            return
        if size <= self._head_left:
            self._frame(stream, self._offset, text)
            self._head_left -= size
            self._offset += size
            self._head_end = self._offset
            return
        if self._head_left:
            head = text.encode("utf-8")[: self._head_left].decode("utf-8", "ignore")
            self._head_left = 0
            if head:
                taken = len(head.encode("utf-8"))
                self._frame(stream, self._offset, head)
                self._offset += taken
                self._head_end = self._offset
                text, size = text[len(head) :], size - taken
        self._keep(stream, text, size)
        self._offset += size

    def _keep(self, stream: str, text: str, size: int) -> None:
        """Put text at the end of the tail, and forget what that pushes out at its front."""
        tail = self._tail
        if tail and tail[-1][0] == stream and len(tail[-1][2]) + len(text) <= MERGE_CHARS:
            _, offset, before, size_before = tail.pop()
            tail.append((stream, offset, before + text, size_before + size))
        else:
            tail.append((stream, self._offset, text, size))
        self._tail_size += size
        while tail and self._tail_size - tail[0][3] >= self._tail_bytes:
            self._tail_size -= tail.popleft()[3]

    def _add_late(self, stream: str, text: str, size: int) -> None:
        if self._late_size + size > LATE_BYTES:
            self._late_size = min(self._late_size, self._outbox.unacknowledged_bytes)
            if self._late_size + size > LATE_BYTES:
                self._late_lost += size
                return
        if self._late_lost:
            note = "[%d bytes of output dropped: nobody took them]\n" % self._late_lost
            self._late_lost = 0
            self._frame("stderr", 0, note)
        self._late_size += size
        self._frame(stream, 0, text)

    def _frame(self, stream: str, offset: int, text: str) -> None:
        self._outbox.emit("output", ',"id":%d,"s":"%s","off":%d,"text":%s' % (self._id, stream, offset, quote(text)))

    # ---- an execution ----

    def begin(self, execution_id: int) -> None:
        """What is printed from now on is this execution's."""
        self._collect()
        self._id = execution_id
        self._offset = self._head_end = self._late_size = 0
        self._head_left = self._head_bytes
        self._parts.begin()

    def end(self) -> int:
        """Frame the rest of this execution's output; how many bytes of it are lost. Later output is nobody's."""
        self._collect()
        for stream, decoder in self._pipes.values():
            rest = decoder.decode(b"", True)
            if rest:
                self._add(stream, rest)
        tail = self._tail
        if self._tail_size > self._tail_bytes and tail:
            self._trim_tail(self._tail_size - self._tail_bytes)
        for stream, offset, text, _ in tail:
            self._frame(stream, offset, text)
        dropped = (tail[0][1] if tail else self._offset) - self._head_end
        tail.clear()
        self._tail_size = 0
        self._parts.end(self._id)
        self._id = 0
        return dropped

    def _trim_tail(self, excess: int) -> None:
        stream, offset, text, size = self._tail.popleft()
        kept = text.encode("utf-8")[excess:].decode("utf-8", "ignore")  # from the next whole character on
        kept_size = len(kept.encode("utf-8"))
        if kept:
            self._tail.appendleft((stream, offset + size - kept_size, kept, kept_size))

    # ---- in a forked child: straight to descriptors 1 and 2, a line at a time ----

    def descriptors(self) -> List[int]:
        return [0, 1, 2, *self._pipes]

    def close_in_child(self) -> None:
        self.forked = True
        self._main_thread = get_ident()
        self._pieces.clear()
        for descriptor in self._pipes:
            os.close(descriptor)

    def _write_as_child(self, stream: str, text: str) -> None:
        line = self._line.get(stream, "") + text
        self._line[stream] = line
        if "\n" in text or len(line) >= FLUSH_CHARS or stream != "stdout":
            self._flush_as_child()

    def _flush_as_child(self) -> None:
        for stream in list(self._line):
            data = self._line.pop(stream).encode("utf-8", "backslashreplace")
            while data:
                data = data[os.write(1 if stream in ("stdout", "result") else 2, data) :]


STACK_ROOM = 24
"""Calls that framing needs at most, with a margin."""


def probe_stack(depth: int = STACK_ROOM) -> None:
    """RecursionError here and now, before anything is begun, if the user's recursion has left too little room."""
    if depth:
        probe_stack(depth - 1)
