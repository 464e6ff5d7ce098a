"""A session's transcript as lines: commands, what they print, how they end. A bounded ring that grows at both ends.

Events of the feed go in, in order; older executions, as the journal has them, go in before. Text is made safe when it
comes in: of what a terminal obeys a line has colours and tabs. Pictures get their room here and are drawn by others.
Knows no Textual and does no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

from omega_sessiond import filetypes
from omega_sessiond.screen import size
from omega_sessiond.statewords import UNNAMED
from omega_sessiond.terminal import plain, sanitize
from tui.text import OutputLines

MAX_LINES = 10_000
"""Lines kept while one follows. More costs memory in each session that is looked at; the journal has all of them."""

TRIMMED_LINES = 1_000
"""Cut off at a time, so that the cost of moving the rest is shared by so many lines."""

LINE_CHARS = 4_000
"""Shown of a line. One that is longer is data that nobody reads as a line."""

PNG = "image/png"

Json = dict[str, Any]
Kind = Literal["command", "more", "output", "answer", "picture", "ok", "warning", "error", "rule"]

PICTURE_ROWS = 16
"""Lines kept free for a picture, whatever its shape: lines that came later must not move when it is there."""


class Line(NamedTuple):
    """One line; `execution_id` is 0 where it belongs to none."""

    kind: Kind
    text: str
    execution_id: int = 0


class Picture(NamedTuple):
    """A picture that somebody has to fetch: `number` is the first of its lines."""

    number: int
    href: str
    size_bytes: int


class Past(NamedTuple):
    """An execution as the journal has it: the tail of its output, which ends at byte `end`, and what lies before it."""

    execution: Json
    output: str
    end: int
    omitted_bytes: int


class Tape:
    """Lines `first` to `end` by absolute number: a number stays with its line whatever comes before or goes."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self.first = 0
        self.version = 0
        """Rises with every change."""
        self.is_loaded = False
        self.oldest_id: int | None = None
        """The first execution here; None where the session has run none, or nothing is loaded."""
        self.has_older = False
        self._waiting: list[Json] = []
        self._commands: dict[int, str] = {}
        self._running: int | None = None
        self._offset = 0
        self._output = OutputLines()
        self._is_open = False
        self._ended: set[int] = set()
        self._bound = MAX_LINES
        self._pictures: list[Picture] = []
        self._parts: list[Json] = []

    @property
    def end(self) -> int:
        """The number after the last line's."""
        return self.first + len(self._lines)

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, number: int) -> Line:
        return self._lines[number - self.first]

    def lines(self, start: int, end: int) -> Sequence[Line]:
        return self._lines[max(start - self.first, 0) : max(end - self.first, 0)]

    def text(self) -> str:
        """All lines, safe and without colours."""
        return "\n".join(plain(line.text) for line in self._lines)

    def commands(self) -> list[str]:
        """The commands among the lines, oldest first, each once in a row."""
        found: list[str] = []
        for line in self._lines:
            if line.kind == "command":
                found.append(line.text.partition("> ")[2])
            elif line.kind == "more" and found:
                found[-1] += "\n" + line.text.partition(". ")[2]
        return [text for at, text in enumerate(found) if at == 0 or found[at - 1] != text]

    # ---- pictures ----

    def take_pictures(self) -> list[Picture]:
        """Those whose lines are still empty, each once."""
        taken, self._pictures = self._pictures, []
        return taken

    def draw(self, picture: Picture, rows: Sequence[str]) -> None:
        """Fill the lines of a picture, unless they are gone."""
        for number, row in enumerate(rows[:PICTURE_ROWS], picture.number):
            if self.first <= number < self.end and (line := self[number]).kind == "picture":
                self._lines[number - self.first] = line._replace(text=row)
        self.version += 1

    def _show_part(self, id: int, part: Json) -> None:
        """Rich data that an execution showed: room for a picture, and how to get whatever it is."""
        if part["n"] == 0 or (self._parts and self._parts[0]["id"] != id):
            self._parts.clear()
        self._parts.append({**part, "id": id})
        if part["mime"] != PNG and any(
            other["mime"] == PNG and other["bundle"] == part["bundle"] for other in self._parts
        ):
            return  # it is the picture in another form
        self._close()
        if part["mime"] == PNG and "href" in part:
            self._extend([Line("picture", "", id)] * PICTURE_ROWS)
            self._pictures.append(Picture(self.end - PICTURE_ROWS, part["href"], part["size_bytes"]))
        self._add(Line("rule", f"── {self._how_to_get(id, part)} ──", id))

    def _how_to_get(self, id: int, part: Json) -> str:
        if "href" not in part:
            return f"{part['mime']}: omitted, {part['omitted']}"
        is_only = [other["mime"] for other in self._parts].count(part["mime"]) == 1
        which = "" if is_only else f" --data {part['n']}"
        stem, number = ("plot" if part["mime"] == PNG else "data"), "" if is_only else f"-{part['n']}"
        file = f"{stem}{number}{filetypes.extension(part['mime'])}"
        return f"{part['mime']} {size(part['size_bytes'])}: omegactl output {id}{which} --save {file}"

    # ---- from the journal ----

    def load(self, past: Sequence[Past], *, has_older: bool) -> None:
        """Begin with what the journal has; the events that came meanwhile follow, each once."""
        waiting, self._waiting = self._waiting, []
        self._lines.clear()
        self.first = 0
        self._running = None
        self._close()
        self._commands.clear()
        self._pictures.clear()
        self._ended = {item.execution["id"] for item in past if item.execution["status"] not in UNFINISHED}
        for before, item in zip((None, *past), past, strict=False):
            count = item.execution["execution_count"]
            if count is None:  # it runs, and gets its number at its end
                last = before.execution["execution_count"] if before is not None else None if has_older else 0
                count = None if last is None else last + 1
            self._replay(item, count)
        self.oldest_id = past[0].execution["id"] if past else None
        self.has_older = has_older
        self.is_loaded = True
        self.version += 1
        for event in waiting:
            self.apply(event, None)

    def prepend(self, past: Sequence[Past], *, has_older: bool) -> int:
        """Older executions, before all others; the number of lines they take."""
        if not past:
            self.has_older = has_older
            return 0
        before = Tape()
        before.load(past, has_older=has_older)
        self._bound = min(self._bound + len(before), 10 * MAX_LINES)  # what was asked for is not trimmed at once
        self._lines[:0] = before._lines
        self.first -= len(before)
        self._pictures += [picture._replace(number=picture.number + self.first) for picture in before._pictures]
        self.oldest_id, self.has_older = before.oldest_id, has_older
        self.version += 1
        return len(before)

    def _replay(self, item: Past, count: int | None) -> None:
        execution = item.execution
        id = execution["id"]
        if execution["status"] == "queued":
            self._commands[id] = execution["command"]
            return
        if execution["status"] != "cancelled" or execution["started_at"] is not None:
            self._begin(id, execution["command"], count)
        else:
            self._add_command("", execution["command"], id)
        self._tell_state(execution, id)
        if item.omitted_bytes:
            self._add(Line("rule", f"── {item.omitted_bytes} bytes before this: omegactl output {id} ──", id))
        self._offset = item.end
        output, at = item.output.encode(), 0
        for part in execution["data"] or ():
            # Where it was shown, among the output that is here.
            cut = min(max(part["offset"] - (item.end - len(output)), at), len(output))
            self._write(output[at:cut].decode(errors="replace"), id)
            self._show_part(id, part)
            at = cut
        self._write(output[at:].decode(errors="replace"), id)
        if execution["status"] in UNFINISHED:
            self._running = id
        else:
            self._finish(id, execution["status"], execution["reason"], execution["duration_ms"])

    # ---- from the feed ----

    def apply(self, event: Json, count: int | None) -> None:
        """An event of this session; `count` is how many executions it has finished, None where that is not known."""
        if not self.is_loaded:
            self._waiting.append(event)
            return
        id = event.get("execution_id", 0)
        if id in self._ended:
            return
        match event["kind"]:
            case "execution_queued":
                self._commands[id] = event["command"]
            case "execution_started" if id != self._running:
                self._begin(id, self._commands.pop(id, "…"), None if count is None else count + 1)
                self._tell_state(event, id)
            case "output":
                self._place(id, event["offset"], event["text"])
            case "data":
                self._show_part(id, event["part"])
            case "input_answered":
                self._answer("(a secret, or end of file)" if event["text"] is None else event["text"], id)
            case "execution_finished":
                if (command := self._commands.pop(id, None)) is not None:
                    self._add_command("", command, id)
                self._finish(id, event["status"], event["reason"], event["duration_ms"])
            case "late_output":
                self._write(event["text"], 0)
            case "session_changed" if event["state"] == "dead":
                self._close()
                self._add(Line("error", f"── dead: {event['state_reason'] or 'no reason is known'} ──"))
            case _:
                return
        self.version += 1

    def _place(self, id: int, offset: int, text: str) -> None:
        if id != self._running:
            self._begin(id, self._commands.pop(id, "…"), None)
        if offset < self._offset:  # loaded already, in part or whole
            text = text.encode()[self._offset - offset :].decode(errors="ignore")
        elif offset > self._offset:
            self._close()
            self._add(Line("rule", f"── {offset - self._offset} bytes are not kept ──", id))
        self._offset = max(self._offset, offset) + len(text.encode())
        self._write(text, id)

    def _answer(self, text: str, id: int) -> None:
        """What was answered stands behind the question, as on a terminal."""
        question = ""
        if self._is_open:
            question = self._lines.pop().text
        self._close()
        self._add(Line("answer", question + text, id))

    def gap(self) -> None:
        """Events are missing that nobody keeps any more."""
        if self.is_loaded:
            self._close()
            self._add(Line("rule", "── a gap: what happened here is no longer kept ──"))
            self.version += 1

    # ---- lines ----

    def _begin(self, id: int, command: str, count: int | None) -> None:
        self._close()
        self._running, self._offset = id, 0
        if self.oldest_id is None:
            self.oldest_id = id
        self._add_command(str(count or ""), command, id)

    def _tell_state(self, told: Json, id: int) -> None:
        """What the command went on from, where that was not the state that the one before it had left."""
        if saved := told.get("resumed_from"):
            self._add(Line("rule", f"── resumed from checkpoint {saved} ──", id))
        if lost := told.get("lost"):
            names = lost["variables"]
            what = "the variables before this are lost" if names == "all" else f"lost: {', '.join(names) or UNNAMED}"
            self._add(Line("warning", f"── {what}: {lost['reason']} ──", id))

    def _add_command(self, number: str, command: str, id: int) -> None:
        self._close()
        first, *more = command.rstrip("\n").split("\n")
        self._add(Line("command", f"{number}> {first}", id))
        padding = " " * len(number)
        for line in more:
            self._add(Line("more", f"{padding}. {line}", id))

    def _finish(self, id: int, status: str, reason: str | None, duration_ms: float | None) -> None:
        self._close()
        self._running = None
        self._ended.add(id)
        took = f" · {shown_duration(duration_ms / 1000)}" if duration_ms is not None else ""
        why = f" ({reason})" if reason else ""
        match status:
            case "ok":
                if duration_ms is not None and duration_ms >= 1000:
                    self._add(Line("ok", f"ok{took}", id))
            case "error":
                self._add(Line("error", f"error{why}{took}", id))
            case "died":
                self._add(Line("error", f"died{why}{took}: how far it came is unknown", id))
            case "cancelled":
                self._add(Line("warning", f"cancelled{why}: it never ran", id))
            case _:
                self._add(Line("warning", f"{status}{why}{took}", id))

    def _write(self, text: str, id: int) -> None:
        lines = [Line("output", _cut(line), id) for line in self._output.feed(text)]
        if self._is_open:
            self._lines.pop()
        if rest := self._output.rest:
            lines.append(Line("output", _cut(rest), id))
        self._is_open = bool(rest)
        self._extend(lines)

    def _close(self) -> None:
        """What comes next begins a line."""
        self._output = OutputLines()
        self._is_open = False

    def _add(self, line: Line) -> None:
        """A line that is not output: commands, answers and names of types are as untrusted as that."""
        self._extend((line._replace(text=sanitize(line.text, colors=True)),))

    def _extend(self, lines: Iterable[Line]) -> None:
        self._lines.extend(lines)
        excess = len(self._lines) - self._bound
        if excess > TRIMMED_LINES:
            del self._lines[:excess]
            self.first += excess
            self.has_older = True
            self.oldest_id = next((line.execution_id for line in self._lines if line.execution_id), self.oldest_id)


UNFINISHED = frozenset(("queued", "running", "waiting_input"))


def _cut(line: str) -> str:
    """A line at a length that a person may look at; never in the middle of a colour."""
    if len(line) <= LINE_CHARS:
        return line
    kept = line[:LINE_CHARS]
    last = kept.rfind("\x1b")
    return (kept if last < 0 or "m" in kept[last:] else kept[:last]) + " …"


def shown_duration(seconds: float) -> str:
    """A duration as the transcript shows it: 12ms, 3.4s, 2m05s, 1h02m."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:
        return f"{seconds:.1f}s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes}m{rest:02}s"
    return f"{minutes // 60}h{minutes % 60:02}m"
