"""The forms of actions: a new session, limits, labels, saved state. Texts in, the API's values out; no requests."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from omega_sessiond import amounts
from omega_sessiond.amounts import UNITS, age_of, bytes_of
from omega_sessiond.screen import size
from tui.modals import Field, Form
from tui.model import Session
from tui.text import cell

Json = dict[str, Any]


def size_of(text: str) -> int | None:
    """A size; nothing is no limit. Raises ValueError."""
    return bytes_of(text) if text not in ("", "-") else None


def count_of(text: str) -> int | None:
    """A number; nothing is no limit. Raises ValueError."""
    return amounts.count_of(text) if text not in ("", "-") else None


def labels_of(text: str) -> dict[str, str]:
    """Words of the form key=value; quotes as in a shell. Raises ValueError."""
    labels = {}
    for word in shlex.split(text):
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise ValueError(f"'{word}' is not KEY=VALUE")
        labels[key] = value
    return labels


def shown_labels(labels: Mapping[str, str]) -> str:
    return " ".join(shlex.quote(f"{key}={value}") for key, value in sorted(labels.items()))


def _limit_fields(limits: Mapping[str, int | None]) -> list[Field]:
    memory = limits.get("memory_bytes")
    return [
        Field("memory", "memory", "" if memory is None else exact_size(memory), "no limit of its own: 512M, 4G"),
        Field("tasks", "tasks", str(limits.get("tasks") or ""), "processes and threads"),
        Field("weight", "cpu weight", str(limits.get("cpu_weight") or ""), "1 to 10000"),
    ]


def exact_size(count: int) -> str:
    """A size that reads back as the same number."""
    for unit, factor in reversed(UNITS.items()):
        if count % factor == 0:
            return f"{count // factor}{unit}"
    return str(count)


def limits_of(values: Mapping[str, str]) -> dict[str, int | None]:
    """The limits in a form. Raises ValueError."""
    return {
        "memory_bytes": size_of(values["memory"]),
        "tasks": count_of(values["tasks"]),
        "cpu_weight": count_of(values["weight"]),
    }


def _limit_words(values: Mapping[str, str], before: Mapping[str, int | None] | None = None) -> list[str]:
    words: list[str] = []
    known = before or {}
    for option, name, field in (("--mem", "memory", "memory_bytes"), ("--tasks", "tasks", "tasks"),
                                ("--cpu-weight", "weight", "cpu_weight")):  # fmt: skip
        try:
            value = size_of(values[name]) if name == "memory" else count_of(values[name])
        except ValueError:
            value = None
        if value != known.get(field):
            words += [option, values[name] or "none"]
    return words


class NewSession(Form):
    """A session to be made."""

    def __init__(self, engines: Sequence[str]) -> None:
        fields = [
            Field("name", "name", "", "letters, digits, . _ -"),
            Field("engine", "engine", engines[0], "", engines),
            Field("python", "interpreter", "", "that of $VIRTUAL_ENV, or python3"),
            Field("cwd", "directory", "", "this one"),
            *_limit_fields({}),
            Field("labels", "labels", "", "team=red stage=dev"),
        ]
        super().__init__(Text("New session", "bold"), fields, "Create")

    def check(self, values: Mapping[str, str]) -> str | None:
        if not values["name"]:
            return "A session needs a name."
        try:
            limits_of(values)
            labels_of(values["labels"])
        except ValueError as error:
            return str(error)
        return None

    def words(self, values: Mapping[str, str]) -> Sequence[str]:
        words = ["new", values["name"] or "NAME"]
        if values["engine"] != "python":
            words += ["--engine", values["engine"]]
        if values["python"]:
            words += ["--python", values["python"]]
        if values["cwd"]:
            words += ["--cwd", values["cwd"]]
        words += _limit_words(values)
        return words + _label_words(values["labels"])


class ChangeLimits(Form):
    """Other limits for a session, in effect at once."""

    def __init__(self, session: Session) -> None:
        self._session_name = session.name
        self._before = dict(session.limits)
        title = Text("Limits of ", "bold").append_text(cell(session.name, "bold"))
        if session.memory_bytes is not None:
            title.append(f"   it uses {size(session.memory_bytes)} now", "dim")
        super().__init__(title, _limit_fields(session.limits), "Change")

    def check(self, values: Mapping[str, str]) -> str | None:
        try:
            limits_of(values)
        except ValueError as error:
            return str(error)
        return None

    def words(self, values: Mapping[str, str]) -> Sequence[str]:
        return ["set", self._session_name, *_limit_words(values, self._before)]


class ChangeLabels(Form):
    """Other labels for a session: all of them, as they shall be."""

    def __init__(self, session: Session) -> None:
        self._session_name = session.name
        self._before = dict(session.labels)
        title = Text("Labels of ", "bold").append_text(cell(session.name, "bold"))
        super().__init__(title, [Field("labels", "labels", shown_labels(session.labels), "key=value …")], "Change")

    def check(self, values: Mapping[str, str]) -> str | None:
        try:
            labels_of(values["labels"])
        except ValueError as error:
            return str(error)
        return None

    def words(self, values: Mapping[str, str]) -> Sequence[str]:
        try:
            wanted = labels_of(values["labels"])
        except ValueError:
            wanted = {}
        words = ["set", self._session_name]
        for key, value in wanted.items():
            if self._before.get(key) != value:
                words += ["--label", f"{key}={value}"]
        for key in self._before:
            if key not in wanted:
                words += ["--unlabel", key]
        return words


def _label_words(text: str) -> list[str]:
    try:
        return [word for key, value in labels_of(text).items() for word in ("--label", f"{key}={value}")]
    except ValueError:
        return []


# ---- saved state ----


def tags_of(text: str) -> list[str]:
    """Words; quotes as in a shell. Raises ValueError."""
    return shlex.split(text)


class Fork(Form):
    """A copy of a session, by its name."""

    def __init__(self, session: Session) -> None:
        self._session_name = session.name
        title = Text("Fork ", "bold").append_text(cell(session.name, "bold"))
        title.append("   a copy with everything in memory", "dim")
        super().__init__(title, [Field("name", "name", "", "of the copy: letters, digits, . _ -")], "Fork")

    def check(self, values: Mapping[str, str]) -> str | None:
        return None if values["name"] else "The copy needs a name."

    def words(self, values: Mapping[str, str]) -> Sequence[str]:
        return ["fork", self._session_name, values["name"] or "COPY"]


class NewSnapshot(Form):
    """A name for a session's present state."""

    def __init__(self, session: Session) -> None:
        self._session_name = session.name
        fields = [
            Field("name", "name", "", "letters, digits, . _ -"),
            Field("note", "note", "", "what it is, for people"),
            Field("tags", "tags", "", "words: clean before-migration"),
        ]
        super().__init__(Text("Snapshot of ", "bold").append_text(cell(session.name, "bold")), fields, "Save")

    def check(self, values: Mapping[str, str]) -> str | None:
        if not values["name"]:
            return "A snapshot needs a name."
        try:
            tags_of(values["tags"])
        except ValueError as error:
            return str(error)
        return None

    def words(self, values: Mapping[str, str]) -> Sequence[str]:
        words = ["snapshot", self._session_name, values["name"] or "SNAPSHOT"]
        if values["note"]:
            words += ["-m", values["note"]]
        try:
            return words + [word for tag in tags_of(values["tags"]) for word in ("--tag", tag)]
        except ValueError:
            return words


class Restore(Form):
    """Which snapshot, and the session that shall have it."""

    def __init__(self, session: Session, snapshots: Sequence[str], chosen: str | None) -> None:
        self._session_name = session.name
        first = chosen if chosen is not None and chosen in snapshots else snapshots[0]
        fields = [
            Field("snapshot", "snapshot", first, "", snapshots),
            Field("into", "into", "", "itself; or the name of a new session"),
        ]
        super().__init__(Text("Restore ", "bold").append_text(cell(session.name, "bold")), fields, "Restore")

    def words(self, values: Mapping[str, str]) -> Sequence[str]:
        into = ["--into", values["into"]] if values["into"] else []
        return ["restore", self._session_name, values["snapshot"], *into]


class Export(Form):
    """A session as a file on this side: what kind, where, and whether its saved variables come along."""

    KINDS = ("JSON lines", "JSON lines, with its variables", "Jupyter notebook")

    def __init__(self, session: Session) -> None:
        self._session_name = session.name
        fields = [
            Field("kind", "as", self.KINDS[0], "", self.KINDS),
            Field("file", "file", "", f"{session.name}.jsonl, or .ipynb, in this directory"),
        ]
        super().__init__(Text("Export ", "bold").append_text(cell(session.name, "bold")), fields, "Export")

    def file(self, values: Mapping[str, str]) -> str:
        """Where it goes: what was written, or a name made of the session's."""
        ending = "ipynb" if values["kind"] == self.KINDS[2] else "jsonl"
        return os.path.expanduser(values["file"]) or f"{self._session_name}.{ending}"

    def words(self, values: Mapping[str, str]) -> Sequence[str]:
        option = {self.KINDS[1]: ["--state"], self.KINDS[2]: ["--notebook"]}.get(values["kind"], [])
        return ["export", self._session_name, "-o", self.file(values), *option]


class Import(Form):
    """A session from a file, and whether whoever made the file is trusted."""

    VARIABLES = ("leave them out", "take them: I trust the file")

    def __init__(self) -> None:
        fields = [
            Field("file", "file", "", "what an export wrote"),
            Field("name", "name", "", "as it was called"),
            Field("variables", "variables", self.VARIABLES[0], "", self.VARIABLES),
        ]
        title = Text("Import a session", "bold").append("\nto load its variables is to run what the file says", "dim")
        super().__init__(title, fields, "Import")

    def file(self, values: Mapping[str, str]) -> str:
        return os.path.expanduser(values["file"])

    def trusts(self, values: Mapping[str, str]) -> bool:
        return values["variables"] == self.VARIABLES[1]

    def check(self, values: Mapping[str, str]) -> str | None:
        return None if values["file"] else "Which file?"

    def words(self, values: Mapping[str, str]) -> Sequence[str]:
        name = [values["name"]] if values["name"] else []
        option = "--trust" if self.trusts(values) else "--no-state"
        return ["import", self.file(values) or "FILE", *name, option]


class Prune(Form):
    """Which old history may go. What would go is shown next, before anything does."""

    def __init__(self) -> None:
        fields = [
            Field("session", "session", "", "all of them"),
            Field("older", "older than", "", "what ended so long ago: 36h, 30d"),
            Field("keep", "keep", "", "the last N of each session"),
            Field("size", "max size", "", "of the journal, once the oldest is gone: 2G"),
        ]
        title = Text("Remove old history", "bold").append(
            "\nwhat the settings let go, or what is said here instead", "dim"
        )
        super().__init__(title, fields, "Look")

    def body(self, values: Mapping[str, str]) -> Json:
        """What POST /api/prune is asked. Raises ValueError."""
        body = {
            "session": values["session"] or None,
            "older_than_s": age_of(values["older"]) if values["older"] else None,
            "keep": count_of(values["keep"]),
            "max_bytes": size_of(values["size"]),
        }
        return {name: value for name, value in body.items() if value is not None}

    def check(self, values: Mapping[str, str]) -> str | None:
        try:
            self.body(values)
        except ValueError as error:
            return str(error)
        return None

    def words(self, values: Mapping[str, str]) -> Sequence[str]:
        return [*self.policy(values), "--dry-run"]

    def policy(self, values: Mapping[str, str]) -> list[str]:
        """What may go, as arguments."""
        words = ["prune", *([values["session"]] if values["session"] else [])]
        for option, name in (("--older-than", "older"), ("--keep", "keep"), ("--max-size", "size")):
            if values[name]:
                words += [option, values[name]]
        return words
