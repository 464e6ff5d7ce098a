"""Copies a live session: its record and how it is started, under another name. That its process is copied too, the
keeper sees to as it does to every start.

Knows records and files; the frames and the fork itself are the host's.
"""

from __future__ import annotations

from msgspec.structs import replace

from omega_sessiond import paths, remains
from omega_sessiond.errors import CannotFork, JournalError
from omega_sessiond.host import Launch
from omega_sessiond.journal import Journal
from omega_sessiond.live import Live
from omega_sessiond.messages import Lost, Parent, SessionCreated, now
from omega_sessiond.places import Places
from omega_sessiond.records import Keep, SessionRecord

FEATURE = "fork"


async def check(source: Live, timeout_s: float) -> None:
    """Ask before anything is made. Raises CannotFork for what stands in the way, HostFailed."""
    name, host = source.record.name, source.host
    if source.record.engine != "python":
        engine = source.record.engine
        can_save = source.record.keep.checkpoint_id is not None or (
            host is not None and host.hello is not None and "save" in host.hello.features
        )
        raise CannotFork(
            f"Session '{name}' cannot be forked: its engine '{engine}' keeps its state in another process",
            hint="Fork what is saved: `from_checkpoint` (--from-checkpoint)."
            if can_save
            else "Nor can it be saved: make a new session, and run there what this one has run.",
        )
    if host is None or host.hello is None or FEATURE not in host.hello.features:
        raise CannotFork(
            f"Session '{name}' cannot be forked: its process is of an earlier version",
            hint="A restart gives it a new one, without its variables.",
        )
    await host.ask_about_fork(timeout_s)


def copy(source: Live, name: str, state_dir: str, places: Places, journal: Journal) -> SessionRecord:
    """A record like the source's, with a directory and an id of its own. Until its process is there it is one that has
    lost everything: should we end before, that is what the next daemon must say of it."""
    record, at = source.record, now()
    launched = Launch.load(paths.launch_file(state_dir, record.id))
    id = places.take()
    parent = Parent(record.id, record.name, source.taken or None, at)
    made = replace(
        record,
        id=id,
        name=name,
        created_at=at,
        last_used_at=at,
        execution_count=0,
        state_reason=None,
        lost=Lost("all", f"its process was lost while it was being forked from '{record.name}'"),
        host=None,
        host_seq=0,
        keep=Keep(),
        parent=parent,
    )
    launch = replace(launched, session=id, name=name, log=paths.host_log(state_dir, id))
    directory = paths.session_dir(state_dir, id)
    try:
        launch.save(paths.launch_file(state_dir, id))
        journal.add_session(made, SessionCreated(at, id, name, made.engine, made.labels, parent))
    except (OSError, JournalError):
        remains.remove(directory)
        raise
    return made
