"""The followed log: what journalctl and the file say, as entries; nothing hostile stops it, and it ends when told."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isolation import Place
from tui.logbook import INFO, LINE_CHARS, TAIL_BYTES, Entry, Logbook, of_file, of_journal

WAIT_S = 30


class Reader:
    """Takes what a logbook has whenever it wakes us."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._woken = threading.Event()
        self.logbook: Logbook | None = None

    def wake(self) -> None:
        self._woken.set()

    def until(self, condition: Callable[[list[Entry]], bool]) -> list[Entry]:
        """Read on until what was read fulfils the condition."""
        assert self.logbook is not None
        while True:
            self._woken.clear()
            self.entries += self.logbook.take()
            if condition(self.entries):
                return self.entries
            assert self._woken.wait(WAIT_S), self.entries


def followed(**source: object) -> Reader:
    reader = Reader()
    reader.logbook = Logbook(reader.wake, **source)  # type: ignore[arg-type]
    reader.logbook.start()
    return reader


def fake_journalctl(place: Place, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    directory = place.home / "bin"
    directory.mkdir()
    command = directory / "journalctl"
    command.write_text("#!/bin/sh\n" + script)
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_file_is_followed_from_before_it_exists(place: Place) -> None:
    """Lines come as they are written, whole ones only, also from the file that replaces it."""
    path = place.home / "daemon.log"
    reader = followed(file=str(path))
    assert reader.logbook is not None
    with open(path, "w") as log:
        log.write("2026-01-02T03:04:05.678 warning disk is full\n2026-01-02T03:04:06.000 info    ha")
        log.flush()
        first = reader.until(lambda entries: len(entries) == 1)[0]
        assert (first.priority, first.source, first.text) == (4, "omega-sessiond", "disk is full")
        assert first.at is not None
        log.write("lf\nno time at all\n")
        log.flush()
        found = reader.until(lambda entries: len(entries) == 3)
        assert [(entry.priority, entry.text) for entry in found[1:]] == [(INFO, "half"), (INFO, "no time at all")]
    other = place.home / "other"
    other.write_text("from the next file\n")
    other.replace(path)
    assert reader.until(lambda entries: len(entries) == 4)[3].text == "from the next file"
    reader.logbook.stop()


def test_only_the_end_of_a_long_file_is_read(place: Place) -> None:
    """Of a file of any size the last lines are shown, beginning with a whole one."""
    path = place.home / "daemon.log"
    path.write_text("".join(f"line {number}\n" for number in range(20_000)))
    reader = followed(file=str(path))
    assert reader.logbook is not None
    found = reader.until(lambda entries: bool(entries) and entries[-1].text == "line 19999")
    assert len(found) * len("line 19999\n") <= TAIL_BYTES
    numbers = [int(entry.text.removeprefix("line ")) for entry in found]
    assert numbers == list(range(numbers[0], 20_000))
    reader.logbook.stop()


def test_journal_is_followed_until_told_otherwise(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entries of journalctl come as it prints them, its arguments name the units, and it ends with the logbook."""
    line = json.dumps({"MESSAGE": "$*", "PRIORITY": "3", "__REALTIME_TIMESTAMP": "1700000000000000"})
    fake_journalctl(place, monkeypatch, f"cat <<END\n{line}\nEND\nexec sleep 1000\n")
    reader = followed(units=("a.service", "a.socket"))
    assert reader.logbook is not None
    entry = reader.until(lambda entries: len(entries) == 1)[0]
    assert (entry.at, entry.priority) == (1_700_000_000.0, 3)
    assert "--follow" in entry.text and "--unit=a.service --unit=a.socket" in entry.text
    assert place.processes()
    reader.logbook.stop()
    assert not [command for command in place.processes().values() if "sleep" in command]


@pytest.mark.parametrize(
    ("script", "says"),
    [
        (
            "echo 'No journal files were opened due to insufficient permissions.' >&2; exit 1\n",
            "insufficient permissions",
        ),
        ("echo nonsense; exit 0\n", "exit code 0"),
    ],
)
def test_journalctl_that_gives_up_is_told(
    place: Place, monkeypatch: pytest.MonkeyPatch, script: str, says: str
) -> None:
    """Where journalctl ends by itself, that stands in the log, with its words."""
    fake_journalctl(place, monkeypatch, script)
    reader = followed(units=("a.service",))
    assert reader.logbook is not None
    assert says in reader.until(lambda entries: len(entries) == 1)[0].text
    reader.logbook.stop()


def test_missing_journalctl_is_told(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the command there is a sentence, not a traceback."""
    monkeypatch.setenv("PATH", str(place.home))
    reader = followed(units=("a.service",))
    assert reader.logbook is not None
    assert "cannot be read" in reader.until(lambda entries: len(entries) == 1)[0].text
    reader.logbook.stop()


@pytest.mark.parametrize(
    ("fields", "entry"),
    [
        ({"MESSAGE": "a"}, None),
        ({"MESSAGE": "a", "__REALTIME_TIMESTAMP": "5000000"}, Entry(5.0, INFO, "", "a")),
        ({"MESSAGE": [104, 105, 27], "__REALTIME_TIMESTAMP": "1", "PRIORITY": "99"}, Entry(1e-6, 7, "", "hi\x1b")),
        ({"MESSAGE": None, "__REALTIME_TIMESTAMP": "1", "_COMM": "sh"}, Entry(1e-6, INFO, "sh", "")),
        ({"MESSAGE": ["two", "texts"], "__REALTIME_TIMESTAMP": "1"}, Entry(1e-6, INFO, "", "two")),
        ({"MESSAGE": "x" * 9000, "__REALTIME_TIMESTAMP": "1"}, Entry(1e-6, INFO, "", "x" * LINE_CHARS)),
        ({"MESSAGE": [1, 1000], "__REALTIME_TIMESTAMP": "1"}, None),
    ],
)
def test_journal_entries(fields: dict[str, object], entry: Entry | None) -> None:
    """Fields are texts, bytes as numbers, lists or nothing; what cannot be an entry is none."""
    assert of_journal(json.dumps(fields).encode()) == entry


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner, max_size=4)
)


@given(st.dictionaries(st.sampled_from(["MESSAGE", "PRIORITY", "__REALTIME_TIMESTAMP", "_COMM"]), json_values))
def test_no_json_breaks_it(fields: dict[str, object]) -> None:
    """Whatever a journal holds is an entry or none."""
    entry = of_journal(json.dumps(fields).encode())
    assert entry is None or 0 <= entry.priority <= 7


@given(st.binary() | st.text().map(str.encode))
def test_no_bytes_break_it(line: bytes) -> None:
    """Whatever stands in a line is an entry or none."""
    of_journal(line)
    assert len(of_file(line.decode(errors="replace")).text) <= LINE_CHARS


def test_a_stopped_logbook_starts_nothing(place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Stopped in the moment it was started, it leaves no journalctl behind."""
    fake_journalctl(place, monkeypatch, "exec sleep 1000\n")
    for _ in range(5):
        logbook = Logbook(lambda: None, units=("a.service",))
        logbook.start()
        logbook.stop()
    assert not [command for command in place.processes().values() if "sleep" in command]
