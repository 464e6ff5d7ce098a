"""Rich parts in the journal: put together from pieces, whatever a host sends, and gone with their session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from journals import add, at, found, session
from omega_sessiond import views
from omega_sessiond.frames import PartFrame
from omega_sessiond.journal import Journal
from omega_sessiond.messages import SessionDeleted
from omega_sessiond.parts import PartRecord
from omega_sessiond.records import SessionRecord


@pytest.fixture
def book(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(str(tmp_path / "journal.db"))
    yield opened
    opened.close()


@pytest.fixture
def owner(book: Journal) -> SessionRecord:
    return add(book, session())


@pytest.fixture
def id(book: Journal, owner: SessionRecord) -> int:
    """A running execution."""
    return book.queue(owner, "x", at=at(1), started=True)


def described(id: int, n: int = 0, *, size: int, **fields: object) -> PartFrame:
    given = {"mime": "image/png", **fields}
    return PartFrame(1, id, n, size=size, **given)  # type: ignore[arg-type]


def piece(id: int, off: int, body: bytes, n: int = 0) -> PartFrame:
    return PartFrame(1, id, n, off, body)


def body(book: Journal, id: int, n: int = 0) -> bytes:
    part = book.parts.one(id, n)
    assert part is not None
    return b"".join(book.parts.body(part))


def test_a_part_is_told_when_its_last_piece_has_come(book: Journal, id: int) -> None:
    """add() answers the part once, with its whole size, and not before."""
    assert book.parts.add(described(id, size=5)) is None
    assert book.parts.add(piece(id, 0, b"abc")) is None
    part = book.parts.add(piece(id, 3, b"de"))
    assert isinstance(part, PartRecord)
    assert (part.size_bytes, part.stored_bytes, part.is_settled, body(book, id)) == (5, 5, True, b"abcde")
    assert book.parts.add(piece(id, 3, b"de")) is None
    assert book.parts.of(id) == [part]


def test_an_empty_part_and_an_omitted_one_need_no_pieces(book: Journal, id: int) -> None:
    """Both are settled by their description; pieces of an omitted one are not kept."""
    empty = book.parts.add(described(id, 0, size=0))
    omitted = book.parts.add(described(id, 1, size=9, omitted="too large"))
    assert empty is not None and omitted is not None
    assert (empty.is_settled, body(book, id), omitted.omitted) == (True, b"", "too large")
    book.parts.add(piece(id, 0, b"abc", 1))
    assert body(book, id, 1) == b""


@pytest.mark.parametrize(
    "frame",
    [
        piece(0, 2, b"cd"),  # a gap
        piece(0, 0, b"ab"),  # again
        piece(0, 1, b"bcdef"),  # beyond the end
        piece(0, 1, b"bc", n=7),  # of no part
        described(0, size=100, mime="text/html"),  # another description
    ],
)
def test_what_does_not_go_on_is_not_taken(book: Journal, id: int, frame: PartFrame) -> None:
    """A piece that leaves a gap, repeats, or reaches beyond the announced size changes nothing."""
    book.parts.add(described(id, size=4))
    book.parts.add(piece(id, 0, b"a"))
    before = book.parts.of(id)
    wrong = PartFrame(1, id, frame.n, frame.off, frame.body, frame.size, mime=frame.mime)
    assert book.parts.add(wrong) is None
    assert book.parts.of(id) == before
    assert book.parts.add(piece(id, 1, b"bcd")) is not None
    assert body(book, id) == b"abcd"


def test_metadata_that_is_no_object_is_left_out(book: Journal, id: int) -> None:
    """A host may send anything: only a JSON object is kept."""
    sent = ['{"width": 7}', "[1]", "{", '{"a": NaN}', '{"x":' * 3000 + "1" + "}" * 3000]
    for n, meta in enumerate(sent):
        book.parts.add(described(id, n, size=0, meta=meta))
    assert [part.metadata for part in book.parts.of(id)] == ['{"width":7}', None, None, None, None]


def test_a_part_that_never_came_whole_says_so(book: Journal, owner: SessionRecord, id: int) -> None:
    """While the command runs such a part is not shown; when its process has died it is, without an address."""
    book.parts.add(described(id, size=4))
    book.parts.add(piece(id, 0, b"ab"))
    nothing = views.Pieces([])
    assert views.execution(found(book, owner, id), "work", nothing, book.parts.of(id)).data is None
    book.finish(owner, id, status="died", finished_at=at(2))
    data = views.execution(found(book, owner, id), "work", nothing, book.parts.of(id)).data
    assert data is not None
    assert (data[0].omitted, "href" in str(data[0].href)) == (views.NOT_ALL_CAME, False)


def test_inline_text_is_bounded(book: Journal, owner: SessionRecord, id: int) -> None:
    """So many short texts stand in the reply; the others are at their address."""
    for n in range(10):
        book.parts.add(described(id, n, size=4000, mime="text/markdown", enc="text"))
        book.parts.add(piece(id, 0, b"x" * 4000, n))
    data = views.execution(found(book, owner, id), "work", views.Pieces([]), book.parts.of(id)).data
    assert data is not None
    assert [isinstance(part.text, str) for part in data] == [True] * 4 + [False] * 6


def test_json_that_is_none_is_shown_as_text(book: Journal, owner: SessionRecord, id: int) -> None:
    """A host that calls something JSON which is not breaks no reply."""
    book.parts.add(described(id, size=3, mime="application/json", enc="json"))
    book.parts.add(piece(id, 0, b"{x\xff"[:3]))
    data = views.execution(found(book, owner, id), "work", views.Pieces([]), book.parts.of(id)).data
    assert data is not None
    assert data[0].text == "{x\ufffd"


def test_parts_go_with_their_session(book: Journal, owner: SessionRecord, id: int) -> None:
    """Deleting the session leaves no part and no piece."""
    book.parts.add(described(id, size=2))
    book.parts.add(piece(id, 0, b"ab"))
    part = book.parts.one(id, 0)
    assert part is not None
    book.finish(owner, id, status="ok", finished_at=at(2))
    book.delete_session(owner.id, SessionDeleted(at(3), owner.id, owner.name))
    assert (book.parts.of(id), list(book.parts.body(part))) == ([], [])
