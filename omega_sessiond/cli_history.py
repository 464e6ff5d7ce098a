"""The command about history as a whole: prune."""

from __future__ import annotations

from typing import Any

from omega_sessiond.invocation import Invocation
from omega_sessiond.screen import Column, Screen, size
from omega_sessiond.statewords import snapshots_words

Json = dict[str, Any]


def prune(call: Invocation) -> int:
    """omegactl prune: shows what would go, asks, and removes it."""
    args = call.args
    body: Json = {"session": args.name, "older_than_s": args.older_than, "keep": args.keep, "max_bytes": args.max_size}
    body = {field: value for field, value in body.items() if value is not None}
    if args.yes and not args.dry_run:  # nobody is asked, so nobody needs to know beforehand
        _show(call, call.client.post("/api/prune", body))
        return 0
    planned = call.client.post("/api/prune", {**body, "dry_run": True})
    if args.dry_run or not planned["sessions"]:
        _show(call, planned)
        return 0
    # Who is asked sees first what it is about; a program gets what was removed alone.
    is_seen = call.form in ("table", "wide") and call.screen.can_ask
    if is_seen:
        call.screen.rows(planned["sessions"], _columns(call.screen), call.form)
    if not call.must_confirm(question(planned)):
        call.screen.say("Nothing was removed.")
        return 130
    _show(call, call.client.post("/api/prune", body), with_rows=not is_seen)
    return 0


def question(planned: Json) -> str:
    """Whether all this may go."""
    sessions = len(planned["sessions"])
    return f"Remove {counted(planned)} of {sessions} session{'' if sessions == 1 else 's'} for good?"


def _show(call: Invocation, report: Json, *, with_rows: bool = True) -> None:
    screen = call.screen
    if call.form in ("json", "jsonl"):
        screen.json(report) if call.form == "json" else screen.rows(report["sessions"], [], "jsonl")
        return
    if report["sessions"] and with_rows:
        screen.rows(report["sessions"], _columns(screen), call.form)
    verb = "would go" if report["dry_run"] else "removed"
    gone = f"{counted(report)} {verb}; the history took" if report["sessions"] else "Nothing goes; the history takes"
    screen.say(f"{gone} {size(report['journal_bytes'])}.")
    if stay := staying(report):
        screen.say(stay)


def staying(report: Json) -> str:
    """What no pruning removes, if there is any: a daemon of an earlier version does not say."""
    kept = report.get("snapshots")
    if kept is None or not kept["named"]:
        return ""
    return f"Snapshots stay: {snapshots_words(kept)}. 'omegactl snapshot NAME SNAPSHOT --delete' removes one."


def counted(report: Json) -> str:
    """How much goes, in words."""
    counts = f"{report['executions']} execution{'' if report['executions'] == 1 else 's'}"
    if report["outputs"]:
        counts += f" and the output of {report['outputs']} more"
    return f"{counts} ({size(report['bytes'])})"


def _columns(screen: Screen) -> list[Column]:
    return [
        Column("NAME", lambda row: row["session"], is_flexible=True),
        Column("EXECUTIONS", lambda row: str(row["executions"]), is_right=True),
        Column("OUTPUTS", lambda row: str(row["outputs"]), is_right=True),
        Column("SIZE", lambda row: size(row["bytes"]) if screen.is_terminal else str(row["bytes"]), is_right=True),
        Column("UP TO", lambda row: str(row["up_to_id"]), is_right=True),
        Column("WHY", lambda row: ",".join(row["reasons"])),
    ]
