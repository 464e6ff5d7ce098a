"""What is left of hosts and sessions that are gone: the log a dead host has written, its sockets, directories that
nobody knows, and what all this says of the end. Decides nothing about sessions.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

from omega_sessiond import host as hosts
from omega_sessiond import paths, wire
from omega_sessiond.frames import HostFrame
from omega_sessiond.host import Death
from omega_sessiond.messages import timestamp
from omega_sessiond.process import boot_id
from omega_sessiond.records import HostRecord

BATCH = 256
"""Frames that are journalled in one turn: a long log does not keep the other sessions waiting."""


def frames(state_dir: str, session_id: str) -> Iterator[list[HostFrame]]:
    """All a host has logged, in batches, at least one; what makes no sense is passed over."""
    batch: list[HostFrame] = []
    for raw in wire.read_log(paths.host_log(state_dir, session_id)):
        try:
            batch.append(msgspec.convert(raw, HostFrame))
        except msgspec.ValidationError:
            continue
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def unseen_death(kept: HostRecord | None, bye: str | None) -> Death:
    """How a host ended that this daemon has never met."""
    if bye is not None:
        return Death(hosts.left(bye), "left")
    if kept is not None and kept.boot_id != boot_id():
        return Death("the machine was restarted", "unknown")
    return Death("its process ended while no daemon watched, cause unknown", "unknown")


def clear(state_dir: str, session_id: str) -> None:
    """Remove what a host and its engine could not, once all of it is journalled."""
    _unlink(paths.host_socket(state_dir, session_id))
    remove(paths.engine_sockets(state_dir, session_id))
    _unlink(paths.host_log(state_dir, session_id))


def clear_session(state_dir: str, session_id: str) -> None:
    """Remove all there is of a session that the journal does not know any more."""
    remove(paths.session_dir(state_dir, session_id))
    clear(state_dir, session_id)


def unknown(state_dir: str, known: set[str], since: str) -> list[str]:
    """The ids of sessions that were being made or deleted when a daemon died: their directories hold users'
    environments. What is older than the journal is another journal's, which may be put back."""
    created_at = timestamp(since)
    try:
        with os.scandir(state_dir + "/sessions") as entries:
            others = [entry for entry in entries if entry.name not in known]
    except FileNotFoundError:
        return []
    return [entry.name for entry in others if entry.stat(follow_symlinks=False).st_mtime > created_at]


def remove(directory: str) -> None:
    """Remove a directory with all that is in it, if it is there."""
    if os.path.isdir(directory):
        import shutil  # takes as long to import as all of the journal, and there is seldom something to remove

        shutil.rmtree(directory, ignore_errors=True)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
