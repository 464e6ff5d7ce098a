"""Where sessions lie: the directory of the next one is made ahead, with the files that every start writes. To make a
file takes a disk a good part of a millisecond, for which whoever asks for a session need not wait.

Knows files; what they hold is written by others. What is ahead lies apart, under `next`, and holds nothing of anybody.
"""

from __future__ import annotations

import os
from _thread import start_new_thread

from omega_sessiond import paths, remains
from omega_sessiond.host import CREATED


class Places:
    """The directories of one state directory's sessions that are to be."""

    def __init__(self, state_dir: str) -> None:
        self._state_dir = state_dir
        self._ahead = paths.ahead_dir(state_dir)
        self._ready: str | None = None
        self._is_preparing = self._is_closed = False

    @property
    def has_one(self) -> bool:
        """Whether one is made ahead."""
        return self._ready is not None

    def take(self) -> str:
        """The id of a new session, whose directory is there. Raises OSError."""
        id, self._ready = self._ready, None
        if id is not None:
            try:
                os.rename(f"{self._ahead}/{id}", paths.session_dir(self._state_dir, id))
                return id
            except OSError:
                pass  # somebody has cleaned up
        id = os.urandom(6).hex()
        os.makedirs(paths.session_dir(self._state_dir, id), mode=0o700)
        return id

    def prepare(self) -> None:
        """Make the next one, beside what else is done. Without room for it `take` will say so."""
        if self._ready is None and not self._is_preparing and not self._is_closed:
            self._is_preparing = True
            try:
                start_new_thread(self._prepare, ())
            except RuntimeError:  # no room for a thread
                self._is_preparing = False

    def _prepare(self) -> None:
        id = os.urandom(6).hex()
        directory = f"{self._ahead}/{id}"
        try:
            os.makedirs(directory, mode=0o700)
            for file in (paths.host_log(self._state_dir, id), paths.launch_file(self._state_dir, id)):
                os.close(os.open(f"{directory}/{os.path.basename(file)}", CREATED, 0o600))
            self._ready = id
        except OSError:
            pass
        self._is_preparing = False

    def close(self) -> None:
        """Make no more."""
        self._is_closed = True
        self.clear()

    def clear(self) -> None:
        """Remove what was made and not taken, by this daemon or one before it."""
        self._ready = None
        if os.path.exists(self._ahead):
            remains.remove(self._ahead)
