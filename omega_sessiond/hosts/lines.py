"""The lines engine: any program with a prompt, described by a preset, is the session.

It judges whether a command is whole, has it said (dialogue.py), and makes an outcome of what was heard. A program that
died is followed by a new one at the next command. docs/engines.md explains the presets.
"""

from __future__ import annotations

import os
import re
from typing import Any, Dict, List, Optional, Sequence, Tuple

from omega_sessiond.hosts import sql
from omega_sessiond.hosts.child import MAX_LINE_BYTES
from omega_sessiond.hosts.dialogue import Conversation, Dialogue, Gone, Unstarted
from omega_sessiond.hosts.engine import CannotLoad, CannotSave, Desk, ErrorReport, Options, Outcome, Saved
from omega_sessiond.hosts.framing import Token, fill
from omega_sessiond.hosts.memory import Memory
from omega_sessiond.hosts.syntax import Counter, Syntax
from omega_sessiond.wire import Frame

QUESTION_S = 5.0
"""For the answer to a question about code, which no command is to wait for."""

RENEW_S = 60.0
"""For a fresh program to take up the state of one that has become slow, which a command waits for."""

MAX_MATCHES = 1000


class LinesEngine:
    """One line REPL. Made with its program running, or not at all."""

    version = ""

    def __init__(self, desk: Desk, options: Options) -> None:
        """Raises Unstarted."""
        self._desk = desk
        self._options = options
        self.name: str = options["name"]
        self.watched: Sequence[int] = ()
        self._syntax = Syntax(options["syntax"])
        self._counter = Counter(self._syntax, options)
        self._quit = [re.compile(pattern) for pattern in options["quit"]]
        self._errors = [re.compile(pattern, re.MULTILINE) for pattern in options["errors"]]
        self._code_file = -1
        self._dialogue: Optional[Dialogue] = None
        self._begin_dialogue()

    def _begin_dialogue(self) -> Dialogue:
        return self._speak_with(Dialogue(self._desk, self._options))

    def _speak_with(self, dialogue: Dialogue) -> Dialogue:
        self._dialogue = dialogue
        self.watched = dialogue.watched
        return dialogue

    def _forget_dialogue(self) -> None:
        self._dialogue = None
        self.watched = ()

    def close(self) -> None:
        if self._dialogue is not None:
            self._dialogue.end()
            self._forget_dialogue()

    def attend(self) -> None:
        """The program says something between commands, or dies."""
        dialogue = self._dialogue
        if dialogue is None:
            return
        try:
            dialogue.attend()
        except Gone:
            self._forget_dialogue()
            self._desk.leave(dialogue.child.describe_end())

    def tell(self, error: BaseException) -> None:
        self._desk.printer.write("stderr", "%s: %s\n" % (type(error).__name__, error))

    # ---- commands ----

    def execute(self, execution_id: int, code: str) -> Outcome:
        for pattern in self._quit:
            if pattern.match(code.strip()):
                return Outcome("ok", should_exit=True)
        dialogue = self._dialogue
        if dialogue is None:
            try:
                dialogue = self._begin_dialogue()
            except Unstarted as error:
                return self._refuse("NotStarted", str(error))
        code, refusal = self._prepare(code)
        if refusal:
            return self._refuse("Incomplete", refusal)
        if dialogue.child.edits_lines and any(len(line) > MAX_LINE_BYTES for line in code.encode().split(b"\n")):
            message = "a terminal takes no line of more than %d bytes: break it up" % MAX_LINE_BYTES
            return self._refuse("LineTooLong", message)
        try:
            dialogue = self._renew(dialogue)
            return self._outcome(dialogue.say(self._options["submit"], self._values(code)), code)
        except Gone:
            self._forget_dialogue()
            return self._bury(dialogue)

    def _renew(self, dialogue: Dialogue) -> Dialogue:
        """The program that is to run the next command. Raises Gone."""
        return dialogue

    def _prepare(self, code: str) -> Tuple[str, str]:
        """The code as it is sent, and why it is not."""
        code = code.rstrip("\n")
        rule = self._options["complete"]
        if rule == "sql":
            ended = sql.ended(code)
            if ended is None:
                return "", "the command is not complete and was not sent: the statement does not end"
            code = ended
        if rule == "syntax":
            verdict = self._syntax.judge(code)
            if verdict.status == "incomplete":
                return "", "the command is not complete and was not sent: %s" % verdict.what
        # One line is read whole before any of it is run: only of more must it be known before.
        if rule == "program" and "\n" in code and self._check(code) == "incomplete":
            return "", "the command is not complete and was not sent"
        return self._counter.prepare(code)

    def _values(self, code: str) -> Dict[str, str]:
        values = {"code": code}
        if "{file}" in self._options["submit"]:
            values["file"] = self._write_code(code)
        return values

    def _write_code(self, code: str) -> str:
        """The name under which the program can open a file with the code, as long as this process lives."""
        if self._code_file < 0:
            self._code_file = os.memfd_create("omega-session")
        os.ftruncate(self._code_file, 0)
        text = fill(self._options.get("file", "{code}\n"), Token(), {"code": code})
        os.pwrite(self._code_file, text.encode("utf-8", "surrogateescape"), 0)
        return "/proc/%d/fd/%d" % (os.getpid(), self._code_file)

    def _refuse(self, name: str, message: str) -> Outcome:
        self._desk.printer.show("traceback", "%s: %s\n" % (self.name, message))
        return Outcome("error", error=ErrorReport(name, message, ""))

    def _outcome(self, talk: Conversation, code: str) -> Outcome:
        status = talk.status or ""
        if talk.trouble is not None:
            return self._refuse(talk.trouble.name, talk.trouble.message)
        if status and status == self._options["incomplete_status"]:
            return self._refuse("Incomplete", "the command is not complete, and nothing of it was run")
        if status == "0" and talk.interrupted_at is None:
            return Outcome("ok", talk.displayed)
        said = talk.tails[self._options["error_stream"]]
        found = next((match for pattern in self._errors for match in [pattern.search(said)] if match), None)
        failed = status != "0" if status else found is not None
        if talk.interrupted_at is not None and (failed or not status):
            return Outcome("interrupted", talk.displayed)
        if not failed:
            return Outcome("ok", talk.displayed)
        if self._options["complete"] == "program":
            complains = any(re.search(self._options["check_incomplete"], tail) for tail in talk.tails.values())
            if complains and self._check(code) == "incomplete":  # and not something that the command ran
                message = "the command is not complete, and nothing of it was run"
                return Outcome("error", talk.displayed, ErrorReport("Incomplete", message, ""))
        named = {} if found is None else found.groupdict()
        name = named.get("name") or ("ExitStatus" if found is None else "Error")
        message = named.get("message") or ("exit status %s" % status if found is None else found.group().strip())
        return Outcome("error", talk.displayed, ErrorReport(name, message, ""))

    def _bury(self, dialogue: Dialogue) -> Outcome:
        """The program died while a command ran: by the command's own will, or not."""
        talk, reason, status = dialogue.conversation, dialogue.child.describe_end(), dialogue.child.exit_status
        if talk.interrupted_at is not None:
            outcome = Outcome("interrupted")
        elif talk.trouble is not None:
            outcome = self._refuse(talk.trouble.name, "%s, and was ended" % talk.trouble.message)
        elif status == 0:
            outcome = Outcome("ok", talk.displayed, should_exit=True)
        elif status is not None and status > 0:
            outcome = Outcome("error", talk.displayed, ErrorReport("Exit", reason, ""), should_exit=True)
        else:
            outcome = self._refuse("ProgramDied", "%s; the next command starts a new one" % reason)
        outcome.lost = reason
        return outcome

    # ---- questions ----

    def complete(self, code: str, cursor: int) -> Frame:
        before = code[:cursor]
        lines = self._hear(self._options["completions"], before.rpartition("\n")[2]).splitlines()
        matches = sorted({line.rstrip() for line in lines if line.strip()})[:MAX_MATCHES]
        sizes = range(min(len(before), max(map(len, matches), default=0)), 0, -1)
        typed = next((size for size in sizes if all(match.startswith(before[-size:]) for match in matches)), 0)
        return {"matches": matches, "start": cursor - typed, "end": cursor}

    def inspect(self, code: str, cursor: int) -> Frame:
        template = self._options.get("inspect", "")
        if not template:
            reason = "%s has no way to say what a name is: its preset has no `inspect`" % self.name
            return {"found": False, "text": "", "reason": reason}
        names = re.finditer(self._options["word"], code)
        name = next((found.group() for found in names if found.start() <= cursor <= found.end()), "")
        said = self._hear(template, name) if name else ""
        order = fill(template, Token(), {"code": name})
        if said.startswith(order):  # echoed
            said = said[len(order) :]
        nothing = self._options["inspect_nothing"]
        is_known = bool(said.strip()) and not (nothing and re.search(nothing, said, re.MULTILINE))
        return {"found": is_known, "text": said if is_known else ""}

    def is_complete(self, code: str) -> Frame:
        rule = self._options["complete"]
        if rule == "lines":
            return {"status": "unknown", "indent": ""}
        if rule == "ask":
            said = self._hear(self._options["judge"], code).strip()
            return {"status": said if said in ("complete", "incomplete", "invalid") else "unknown", "indent": ""}
        if rule == "program":
            status = self._check(code)
        elif rule == "sql":
            status = "complete" if sql.is_whole(code) else "incomplete"
        else:
            status = self._syntax.judge(code).status
        return {"status": status, "indent": ""}

    def _check(self, code: str) -> str:
        """What a program of its own says of the code."""
        import subprocess

        try:
            done = subprocess.run(
                self._options["check"], input=code.encode("utf-8", "surrogateescape"),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=QUESTION_S,
                env={**os.environ, "LC_ALL": "C"},  # what it says is searched for English words
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return "unknown"
        if done.returncode == 0:
            return "complete"
        said = done.stdout.decode("utf-8", "replace")
        return "incomplete" if re.search(self._options["check_incomplete"], said) else "invalid"

    def _hear(self, template: str, code: str) -> str:
        """What a template makes the program print."""
        heard: List[str] = []
        dialogue = self._dialogue
        if dialogue is not None and template:
            try:
                dialogue.say(template, {"code": code}, heard=heard, budget_s=QUESTION_S, gives_up=True)
            except Gone:
                self._forget_dialogue()
                self._desk.leave(dialogue.child.describe_end())
        return "".join(heard)


class SavingEngine(LinesEngine):
    """One whose program can save its state and load it again. Part of the contract: engine.Saver."""

    saves_in_child = False

    def __init__(self, desk: Desk, options: Options) -> None:
        rules = options["state"]
        self._memory = Memory(rules, os.path.join(desk.directory, "engine"), self._begin_in)
        self._commands = 0
        self._due: int = options["renew_after"]
        super().__init__(desk, options)

    def execute(self, execution_id: int, code: str) -> Outcome:
        outcome = super().execute(execution_id, code)
        if self._dialogue is not None:
            self._memory.note(self._dialogue, code)
        return outcome

    def _begin_in(self, place: str) -> Dialogue:
        return Dialogue(self._desk, self._options, place)

    def _begin_dialogue(self) -> Dialogue:
        self._commands = 0
        return self._speak_with(self._begin_in(self._memory.place()))

    def close(self) -> None:
        super().close()
        self._memory.clear()

    def _renew(self, dialogue: Dialogue) -> Dialogue:
        """After so many commands a fresh program takes the place of one that has become slow, if it has, by proof, what
        that one has."""
        self._commands += 1
        if not self._due or self._commands <= self._due:
            return dialogue
        what = "%s has served %d commands" % (self.name, self._commands - 1)
        try:
            fresh, _, _ = self._memory.renew(dialogue, RENEW_S)
        except CannotSave as error:
            if dialogue.is_over:
                raise Gone from None
            self._due *= 2
            self._desk.printer.write(
                "stderr", "[%s and goes on: a fresh one would lack something. %s]\n" % (what, error)
            )
            return dialogue
        dialogue.end()
        self._commands, self._due = 1, self._options["renew_after"]
        self._desk.printer.write("stderr", "[%s: a fresh one with its state goes on]\n" % what)
        return self._speak_with(fresh)

    # ---- checkpoints ----

    def identity(self) -> Dict[str, str]:
        return {"engine": self.name}

    def obstacles(self) -> List[str]:
        return []

    def descriptors(self) -> List[int]:
        return list(self.watched)

    def save(self, file: str, lent: str, budget_s: float) -> Saved:
        if self._dialogue is None:
            raise CannotSave("%s is not running" % self.name)
        try:
            return Saved(self._memory.save(self._dialogue, file, budget_s), {})
        finally:
            if self._dialogue.is_over:
                self._desk.leave(self._dialogue.child.describe_end())
                self._forget_dialogue()

    def load(self, file: str, lent: str) -> Dict[str, str]:
        dialogue = self._dialogue
        if dialogue is None:
            raise CannotLoad("%s is not running" % self.name)
        try:
            self._memory.load(dialogue, file)
        except CannotLoad:
            dialogue.end()
            self._begin_dialogue()
            raise
        return {}


def make(host: Any, options: Dict[str, Any]) -> LinesEngine:
    """The engine of this host. A program that does not start ends the host, which says why."""
    try:
        return SavingEngine(host, options) if options["state"] else LinesEngine(host, options)
    except Unstarted as error:
        raise SystemExit(str(error)) from None
