"""Frames: every way of cutting their bytes, torn ones, and a host's log with a torn end."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omega_sessiond import wire

FRAMES: list[wire.Frame] = [
    {"t": "took", "seq": 1, "id": 7, "at": 1.5},
    {"t": "output", "seq": 2, "id": 7, "s": "stdout", "off": 0, "text": "grün \x00 \U0001f600\n"},
    {},
    {"t": "result", "seq": 3, "id": 7, "status": "ok"},
]
STREAM = b"".join(map(wire.pack, FRAMES))

texts = st.text(st.characters())  # lone surrogates included
values = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
frames = st.dictionaries(texts, values, max_size=4)


def split(pieces: list[bytes]) -> list[wire.Frame]:
    splitter = wire.Splitter()
    found = [wire.unpack(body) for piece in pieces for body in splitter.feed(piece)]
    assert splitter.pending == 0
    return found


def test_a_frame_is_a_length_and_that_many_bytes_of_ascii_json() -> None:
    """The bytes of a frame are fixed: a host of last year must read them."""
    assert wire.pack({"t": "x", "text": "é"}) == b'\x00\x00\x00\x19{"t":"x","text":"\\u00e9"}'


def test_frames_cut_at_any_byte_are_the_same_frames() -> None:
    """Wherever the stream is cut in two, the same frames come out."""
    for cut in range(len(STREAM) + 1):
        assert split([STREAM[:cut], STREAM[cut:]]) == FRAMES


def test_frames_come_out_as_soon_as_they_are_whole() -> None:
    """Fed byte by byte, each frame appears with its last byte."""
    splitter = wire.Splitter()
    counts = [len(splitter.feed(STREAM[at : at + 1])) for at in range(len(STREAM))]
    ends = [sum(len(wire.pack(frame)) for frame in FRAMES[: n + 1]) for n in range(len(FRAMES))]
    assert [at + 1 for at, count in enumerate(counts) if count] == ends


@given(st.lists(frames, max_size=6), st.data())
def test_whatever_is_packed_and_cut_comes_back(sent: list[wire.Frame], data: st.DataObject) -> None:
    """Any JSON object survives any cutting, lone surrogates included."""
    stream = b"".join(map(wire.pack, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    bounds = [0, *cuts, len(stream)]
    assert split([stream[a:b] for a, b in pairwise(bounds)]) == sent


@given(st.binary(max_size=200))
def test_any_bytes_are_frames_or_torn(noise: bytes) -> None:
    """Noise never raises anything but TornFrame."""
    splitter = wire.Splitter()
    try:
        for body in splitter.feed(noise):
            wire.unpack(body)
    except wire.TornFrame:
        pass
    assert splitter.pending <= len(noise)


def test_an_impossible_length_is_torn_before_its_body_comes() -> None:
    """A length above the bound is refused by its header, after the whole frames before it were given out."""
    splitter = wire.Splitter()
    assert len(splitter.feed(STREAM + (wire.MAX_FRAME_BYTES + 1).to_bytes(4, "big"))) == len(FRAMES)
    with pytest.raises(wire.TornFrame, match="announces"):
        splitter.feed(b"")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b'{"t":1}x'])
def test_a_body_that_is_no_object_is_torn(body: bytes) -> None:
    """What is not one JSON object is a torn frame."""
    with pytest.raises(wire.TornFrame):
        wire.unpack(body)


def test_a_log_with_a_torn_end_gives_its_whole_frames(tmp_path: Path) -> None:
    """A host that died in the middle of a frame leaves a log that can be read up to it."""
    log = tmp_path / "log"
    for cut in range(1, len(STREAM)):
        log.write_bytes(STREAM[:cut])
        found = list(wire.read_log(str(log)))
        assert found == FRAMES[: len(found)]
        whole = sum(len(wire.pack(frame)) for frame in found)
        assert whole <= cut < whole + len(wire.pack(FRAMES[len(found)]))


def test_a_log_that_turns_into_noise_ends_there(tmp_path: Path) -> None:
    """Damage in a log ends the reading without an exception."""
    log = tmp_path / "log"
    log.write_bytes(STREAM + b"\xff\xff\xff\xff" + STREAM)
    assert list(wire.read_log(str(log))) == FRAMES
    log.write_bytes(STREAM + b"\x00\x00\x00\x01x")
    assert list(wire.read_log(str(log))) == FRAMES


def test_a_missing_log_is_empty(tmp_path: Path) -> None:
    """No log is a log without frames."""
    assert list(wire.read_log(str(tmp_path / "none"))) == []


def test_large_frames_are_whole(tmp_path: Path) -> None:
    """A log with frames larger than one read is read."""
    frame = {"t": "output", "text": "x" * (3 << 20)}
    log = tmp_path / "log"
    log.write_bytes(wire.pack(frame) * 2)
    assert [json.dumps(found) for found in wire.read_log(str(log))] == [json.dumps(frame)] * 2
