"""The rich parts of one execution at a time, as numbered frames within its bounds. Every method is called with the
outbox's lock held. Knows no types of data and no user code."""

from __future__ import annotations

from typing import List, Tuple

from omega_sessiond.hosts.mime import Part
from omega_sessiond.hosts.outbox import Outbox, plain, quote

PIECE_BYTES = 192 * 1024
"""Of a part in one frame, which is a third longer as base64. Larger holds up output and acknowledgements longer."""

MAX_PARTS = 200
"""Of one execution. Each stands in every reply that shows it; a loop that shows a thousand pictures means none."""


class Parts:
    """Numbers parts and frames them piece by piece."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._limit = 0
        self._left = 0
        self._count = 0
        self._bundles = 0
        self._refused = 0

    def bound(self, limit_bytes: int) -> None:
        """How large the parts of one execution are together."""
        self._limit = limit_bytes

    def begin(self) -> None:
        """For a new execution."""
        self._left = self._limit
        self._count = self._bundles = self._refused = 0

    def take(self, parts: List[Part]) -> Tuple[int, List[Tuple[int, Part]]]:
        """The bundle's number, and the parts that fit, each with its own. One that is too large is omitted."""
        numbered = []
        for part in parts:
            if self._count == MAX_PARTS:
                self._refused += 1
                continue
            if not part.omitted and len(part.body) > self._left:
                part.omitted = "larger than the %d bytes that were left of %d (setting data_max_bytes)" % (
                    self._left,
                    self._limit,
                )
            elif not part.omitted:
                self._left -= len(part.body)
            numbered.append((self._count, part))
            self._count += 1
        self._bundles += 1
        return self._bundles - 1, numbered

    def describe(self, execution_id: int, bundle: int, role: str, place: int, number: int, part: Part) -> None:
        """Frame what a part is, before its pieces."""
        fields = ',"id":%d,"n":%d,"size":%d,"bundle":%d,"role":"%s","place":%d,"mime":%s,"enc":"%s"' % (
            execution_id,
            number,
            len(part.body),
            bundle,
            role,
            place,
            quote(part.mime),
            part.encoding,
        )
        if part.metadata is not None:
            fields += ',"meta":%s' % quote(plain(part.metadata))
        if part.omitted:
            fields += ',"omitted":%s' % quote(plain(part.omitted))
        self._outbox.emit("data", fields)

    def add(self, execution_id: int, number: int, offset: int, body: str) -> None:
        """Frame a piece, in base64."""
        self._outbox.emit("data", ',"id":%d,"n":%d,"off":%d,"body":"%s"' % (execution_id, number, offset, body))

    def end(self, execution_id: int) -> None:
        """Say what did not fit, once the execution is over."""
        if self._refused:
            more = Part("application/octet-stream", "binary", b"", None)
            more.omitted = "%d more parts: an execution keeps %d" % (self._refused, MAX_PARTS)
            self.describe(execution_id, self._bundles, "display", 0, MAX_PARTS, more)
