"""What happens in the session while the REPL's prompt stands: background output, commands one has left, its end.

Reads the feed in a thread, one connection per prompt, which ends with it. A daemon that leaves is not called back by
a prompt that nobody types at: what happened meanwhile is told when the next prompt looks.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from omega_sessiond.client import Client, with_query
from omega_sessiond.errors import OmegaError
from omega_sessiond.terminal import one_line

Json = dict[str, Any]

LINE = 300
"""What is told of a text at most: one that floods must leave the prompt in sight."""


class Watch:
    """The events of one session from `since` on (None: from now), as lines for `tell`. `left` are the executions whose
    end and questions are told, too; `done` is what the one who is told has done to the session's state himself."""

    def __init__(
        self,
        client: Client,
        session_id: str,
        since: int | None,
        left: set[int],
        done: set[tuple[str, str]],
        tell: Callable[[str], None],
    ) -> None:
        self._done = done
        self._client = client
        self._session_id = session_id
        self._left = left
        self._tell = tell
        self._lock = threading.Lock()
        self._is_over = False
        self.last_id = since
        """The last event that was read, of any session."""

    def begin(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def end(self) -> None:
        """Nothing is told any more."""
        with self._lock:
            self._is_over = True
        self._client.hang_up()

    def _read(self) -> None:
        try:
            for event in self._client.stream("GET", with_query("/api/events", {"since": self.last_id})):
                with self._lock:
                    if self._is_over:
                        return
                    self.last_id = event["id"]
                    if event.get("session_id") == self._session_id and (told := self._told(event)):
                        self._tell(told)
        except OmegaError:
            pass  # the next command says what is wrong

    def _told(self, event: Json) -> str:
        if (mark := (event["kind"], str(event.get("snapshot", "")))) in self._done:
            self._done.discard(mark)
            return ""
        match event["kind"]:
            case "state_saved":
                return f"The session's state was saved, after execution {event['execution_id']}."
            case "snapshot_taken" if event["automatic"] is None:
                return f"Snapshot {_cut(event['snapshot'])} was taken, after execution {event['execution_id']}."
            case "snapshot_removed" if event["reason"] == "user":
                return f"Snapshot {_cut(event['snapshot'])} was removed."
            case "session_restored" if event["into"] is None:
                kept = f" What it had is snapshot {_cut(event['kept_as'])}." if event["kept_as"] is not None else ""
                return f"Its variables are now those of snapshot {_cut(event['snapshot'])}.{kept}"
            case "late_output":
                return f"late output: {_cut(event['text'])}" if event["text"].strip() else ""
            case "session_deleted":
                return "The session has been deleted; the next command creates it anew."
            case "session_changed" if event["state"] == "dead":
                return f"The session's process has ended: {one_line(event['state_reason'] or 'cause unknown')}."
            case "execution_finished" if event["execution_id"] in self._left:
                self._left.discard(event["execution_id"])
                return f"Execution {event['execution_id']} has ended: {event['status']}."
            case "input_requested" if event["execution_id"] in self._left:
                return f"Execution {event['execution_id']} asks: {_cut(event['prompt'])}"
            case _:
                return ""


def _cut(text: str) -> str:
    line = one_line(text)
    return line if len(line) <= LINE else line[: LINE - 1] + "…"
