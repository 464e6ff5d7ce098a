"""A small file system of its own over a directory: what a full disk is tried with. Needs root."""

from __future__ import annotations

import subprocess
from pathlib import Path


class SmallDisk:
    """A file system of 16 MB over a directory, seen only by commands led `inside` and under `path`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        script = 'mount -t tmpfs -o size=16m,mode=700 disk "$1" && echo ready && exec cat >/dev/null'
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        self.inside = ["nsenter", "-t", str(self._process.pid), "-m"]
        self.path = Path(f"/proc/{self._process.pid}/root{directory}")
        self._filler = self.path / "filler"

    def fill(self, leaving: int = 0) -> None:
        """Take all the room there is, but so many bytes."""
        with self._filler.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue
            file.truncate(file.tell() - leaving)

    def free(self) -> None:
        self._filler.unlink()

    def close(self) -> None:
        self._process.communicate()
