"""A checkpoint on the disk: a directory with the engine's state and a header in JSON, there whole or not at all.

    ID/header.json    what it is: of which session, when, by which interpreter, what is in it and what is not
    ID/state          what the engine wrote; its size and SHA-256 stand in the header

It is made as `ID.new`, synced and renamed. Nothing here follows a symbolic link, and all of it is readable for the
user alone. Knows files, and of an engine only its contract.
"""

from __future__ import annotations

import errno
import os
import time
from json import dumps, loads
from typing import Any, Dict, List, Tuple

import omega_sessiond
from omega_sessiond.hosts import border
from omega_sessiond.hosts.engine import CannotLoad, CannotSave, Saver

FORMAT = 2
"""Of the header. A larger one is of a later version and refused."""

HEADER, STATE, DRAFT = "/header.json", "/state", ".new"

READ_BYTES = 1 << 20

LARGE_BYTES = 1 << 20
"""From here on OpenSSL's SHA-256 is worth being loaded."""

MAX_HEADER_BYTES = 16 << 20

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # no pipe in a file's place holds the reader

Header = Dict[str, Any]


def write(directory: str, id: str, engine: Saver, about: Header, lent: str, budget_s: float) -> Header:
    """Have `engine` save itself as checkpoint `id` below `directory`; its header, which also holds `about`. Raises
    CannotSave, and then nothing of it is left."""
    place = os.path.join(directory, id)
    draft = place + DRAFT
    try:
        os.makedirs(directory, mode=0o700, exist_ok=True)
        os.mkdir(draft, 0o700)
        os.close(os.open(draft + STATE, _CREATE, 0o600))
        saved = engine.save(draft + STATE, lent, budget_s)
        _sync(draft + STATE)
        header = {
            "format": FORMAT,
            "id": id,
            "made_by": omega_sessiond.__version__,
            "engine_version": engine.version,
            "identity": engine.identity(),
            "at": time.time(),
            **about,
            "variables": saved.variables,
            "left_out": saved.left_out,
            **_measure(draft + STATE),
        }
        text = dumps(header, indent=1).encode("ascii")
        file = os.open(draft + HEADER, _CREATE, 0o600)
        try:
            _write_all(file, text)
            os.fsync(file)
        finally:
            os.close(file)
        _sync(draft)
        os.rename(draft, place)
        _sync(directory)
    except OSError as error:
        remove(directory, id)
        raise CannotSave(_words(error)) from None
    except BaseException:
        remove(directory, id)
        raise
    return header


def _words(error: OSError) -> str:
    if error.errno == errno.EFBIG:
        return "it is larger than a checkpoint may be (checkpoint_max_bytes)"
    return "its file cannot be written: %s" % (error.strerror or error)


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _sync(path: str) -> None:
    """Let a file, or what stands in a directory, survive a power cut."""
    descriptor = os.open(path, _READ)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _measure(path: str) -> Header:
    """Size and checksum of a file as it can be read back."""
    size = 0
    file = os.open(path, _READ)
    try:
        digest = _sha256(os.fstat(file).st_size)
        while True:
            data = os.read(file, READ_BYTES)
            if not data:
                return {"size": size, "sha256": digest.hexdigest()}
            size += len(data)
            digest.update(data)
    finally:
        os.close(file)


def _sha256(size: int) -> Any:
    """A digest to update. Loading OpenSSL takes longer than a small state takes without it."""
    if size < LARGE_BYTES:
        for name in ("_sha2", "_sha256"):  # before 3.12 the second
            try:
                return border.import_late(name).sha256()
            except ImportError:
                continue
    return border.import_late("hashlib").sha256()


def read_header(directory: str, id: str) -> Header:
    """What a checkpoint says of itself. Raises CannotLoad."""
    try:
        file = os.open(os.path.join(directory, id) + HEADER, _READ)
        try:
            text = os.read(file, MAX_HEADER_BYTES)
        finally:
            os.close(file)
        header = loads(text.decode("utf-8"))
    except OSError as error:
        raise CannotLoad("checkpoint %s cannot be read: %s" % (id, error.strerror)) from None
    except (ValueError, RecursionError):
        raise CannotLoad("checkpoint %s is torn: its header is not JSON" % id) from None
    numbers = ("format", "execution_id", "execution_count")
    if not isinstance(header, dict) or any(type(header.get(name)) is not int for name in numbers):
        raise CannotLoad("checkpoint %s is torn: its header is not one of ours" % id)
    if header["format"] > FORMAT:
        raise CannotLoad("checkpoint %s was written by a later version (%s)" % (id, header.get("made_by")))
    return header


def load(directory: str, id: str, sha256: str, engine: Saver, lent: str) -> Tuple[Header, Dict[str, str]]:
    """Have `engine` take up checkpoint `id`, whose checksum is known to be `sha256`. Its header, and what could not be
    taken up, by name with its reason. Raises CannotLoad when that is everything."""
    header = read_header(directory, id)
    _compare(header, engine.identity())
    state = os.path.join(directory, id) + STATE
    try:
        found = _measure(state)
    except OSError as error:
        raise CannotLoad("checkpoint %s cannot be read: %s" % (id, error.strerror)) from None
    if found["size"] != header.get("size"):
        raise CannotLoad("checkpoint %s is torn: %d of %s bytes" % (id, found["size"], header.get("size")))
    if found["sha256"] != header.get("sha256") or found["sha256"] != sha256:
        raise CannotLoad("checkpoint %s is not as it was written: its checksum differs" % id)
    return header, engine.load(state, lent)


def _compare(header: Header, mine: Dict[str, str]) -> None:
    theirs = header.get("identity")
    theirs = theirs if isinstance(theirs, dict) else {}
    other = ["%s %s" % (name, theirs.get(name, "unknown")) for name in mine if theirs.get(name) != mine[name]]
    if other:
        raise CannotLoad(
            "checkpoint %s was made by another interpreter (%s); this one has %s"
            % (
                header.get("id"),
                ", ".join(other),
                ", ".join("%s %s" % (name, mine[name]) for name in mine if theirs.get(name) != mine[name]),
            )
        )


def remove(directory: str, id: str) -> None:
    """Away with a checkpoint or the draft of one, as far as it is there."""
    for place in (os.path.join(directory, id) + DRAFT, os.path.join(directory, id)):
        for path in (place + HEADER, place + STATE):
            ignoring(os.unlink, path)
        ignoring(os.rmdir, place)


def ignoring(act: Any, path: str) -> None:
    """Do so where it can be done."""
    try:
        act(path)
    except OSError:
        pass  # it is not there, or it stays: whoever sweeps the directory comes by again


def bounded(left_out: Dict[str, str], most: int = 200) -> Dict[str, str]:
    """For a frame: as many names as people read."""
    names: List[str] = sorted(left_out)
    shown = {name: left_out[name] for name in names[:most]}
    if len(names) > most:
        shown["…"] = "and %d more" % (len(names) - most)
    return shown


def is_id(text: object) -> bool:
    """Whether a daemon's word can name a checkpoint: never a path."""
    return isinstance(text, str) and text.isascii() and text.isalnum() and 0 < len(text) <= 64
