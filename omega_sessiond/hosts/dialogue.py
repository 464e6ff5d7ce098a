"""Speaking with one program: what is sent, where the answer ends, and what is the matter when it is silent.

It starts the program, hears its first marks, and lends ears to one conversation at a time: output goes to the session
as it comes, an interrupt to the program, its questions to the user. Knows presets and marks; nothing of commands.
"""

from __future__ import annotations

import codecs
import os
import re
import select
import signal
import time
from typing import Any, Dict, List, Mapping, Optional, Tuple

from omega_sessiond.hosts import border
from omega_sessiond.hosts.child import Child, Posture
from omega_sessiond.hosts.engine import Desk, ErrorReport, Options, Question
from omega_sessiond.hosts.framing import Mark, Piece, Scanner, Token, fill, has_token

TAIL_CHARS = 64 * 1024
"""How much of the end of an output is kept to look for errors in."""

LOOK_S = (0.05, 1.0)
"""After how long a silence the program is looked at first, and how often later. Sooner costs a quiet command CPU, later
lets a question wait."""

SILENCE_S = 5.0
"""After how long a silence the session says what its program does."""

OBEY_S = 1.0
"""How long an interrupted program may take before the session says that it has not obeyed; when the session ends, how
long before it is killed."""

DRAIN_ROUNDS = 64
"""Reads of what was printed before a mark on the other pipe; a flood from the background does not hold up a result."""

STALE_MARKS = 4
"""Marks that may still come of orders that were repeated."""

ALTERNATE_SCREEN = re.compile(rb"\x1b\[\?(?:1049|1047|47)h")
SEAM_BYTES = 7
"""Of a read that are looked at again with the next one: one less than the longest sequence above."""

PASSWORD = re.compile(r"(?i)(?:password|passphrase|passcode|\bpin)\b[^\n]{0,80}:\s*\Z")
QUIET_ENV = {"TERM": "dumb", "PAGER": "cat", "GIT_PAGER": "cat", "MANPAGER": "cat", "SYSTEMD_PAGER": "cat"}
"""What keeps programs at a terminal from drawing screens that nobody sees."""

DOING = {
    "reads": "waits for input",
    "computes": "computes",
    "stopped": "is stopped",
    "waits": "waits for something and uses no CPU",
    "unknown": "does something that cannot be seen from outside",
}
"""What the system tells of a program, for people."""


class Unstarted(Exception):
    """The program did not become a REPL that can be spoken to; the text says why."""


class Gone(Exception):
    """The program has died, or had to be killed."""


class Conversation:
    """What has come of one thing that was sent. `status` is None until its mark has come; `heard` collects the output
    of what no user asked for."""

    status: Optional[str] = None
    displayed = False
    trouble: Optional[ErrorReport] = None
    interrupted_at: Optional[float] = None
    is_skipping = took_time = wants_answer = False
    in_value = False
    sent_sentinel = repeated_sentinel = False
    repeats = 0
    note: Optional[str] = None

    def __init__(self, heard: Optional[List[str]]) -> None:
        self.heard = heard
        self.tails = {"stdout": "", "stderr": ""}
        self.answered = {"stdout": "", "stderr": ""}
        """What had been said when the last question was answered."""


class Dialogue:
    """One running program. `watched` are the descriptors on which it may say something between conversations."""

    def __init__(self, desk: Desk, options: Options, place: str = "") -> None:
        """`place` is a directory of the program's own, {state} in its environment. Raises Unstarted."""
        self.place = place
        self._desk = desk
        self._options = options
        self._scanner = Scanner()
        self._stale: List[Mark] = []
        self._talk: Optional[Conversation] = None
        self._ended_by: Optional[Mark] = None
        self._is_in_step = False
        self._question: Optional[Question] = None
        self._posture: Optional[Posture] = None
        self._seam = b""
        self._heard_at = self._look_at = 0.0
        self._look_s = LOOK_S[0]
        self._is_writing = self._is_torn = False
        self._is_ending = False
        """Whether the end of the conversation stands in what was read."""
        own = {name: value.replace("{state}", place) for name, value in options["env"].items()}
        env = {**os.environ, **(QUIET_ENV if options["terminal"] else {}), **own}
        try:
            self.child = Child(options["name"], options["command"], env, options["terminal"])
        except OSError as error:
            raise Unstarted("%s cannot be started: %s" % (options["command"][0], error.strerror)) from None
        self._decoders: Dict[int, Any] = {
            descriptor: codecs.getincrementaldecoder("utf-8")("backslashreplace")
            for descriptor in (self.child.out, self.child.err)
            if descriptor >= 0
        }
        self._poll = select.poll()
        self._glance = select.poll()  # at its other output alone
        if self.child.err >= 0:
            self._glance.register(self.child.err, select.POLLIN)
        for descriptor in (desk.bell.fileno(), self.child.end, *self._decoders):
            if descriptor >= 0:
                self._poll.register(descriptor, select.POLLIN)
        try:
            self._greet()
        except Unstarted:
            self.end()
            raise
        ends = (self.child.end,) if self.child.end >= 0 else ()
        self.watched: Tuple[int, ...] = (*self._decoders, *ends)

    @property
    def is_over(self) -> bool:
        """Whether the program is dead, and all of it cleared away."""
        return self.child.is_finished

    def end(self) -> None:
        """End the program; it may say goodbye."""
        self.child.finish(self._options["farewell"].encode("utf-8"))

    def _greet(self) -> None:
        """Set the program up and have it answer twice: the second answer shows whether it is in step."""
        self._hello(self._options["setup"])
        self._hello("")
        self._is_in_step = True

    def _hello(self, setup: str) -> None:
        child = self.child
        heard: List[str] = []
        try:
            talk = self.say(self._options["sentinel"], {}, heard=heard, before=setup, budget_s=self._options["start_s"])
        except Gone:
            raise Unstarted(_because("%s at once" % child.describe_end(), heard)) from None
        if talk.trouble is not None:
            takes_screen = talk.trouble.name == "FullScreen"  # what it printed is drawing
            raise Unstarted(_because(talk.trouble.message, [] if takes_screen else heard))
        if talk.status is None:
            doing = DOING[child.posture().kind]
            message = "%s has not shown its prompt within %g s; it %s" % (child.name, self._options["start_s"], doing)
            raise Unstarted(_because(message, heard))

    # ---- a conversation ----

    def say(
        self,
        template: str,
        values: Mapping[str, str],
        *,
        heard: Optional[List[str]] = None,
        before: str = "",
        budget_s: Optional[float] = None,
        gives_up: bool = False,
    ) -> Conversation:
        """Send what the template makes of the values and listen to the end, or until the budget is spent; who then
        `gives_up` has it interrupted, lest the next command wait for it. Raises Gone; `conversation` has then what was
        heard."""
        token = Token()
        text = before + fill(template, token, values)
        marks_itself = has_token(template)
        if not marks_itself:
            text += fill(self._options["sentinel"], token, values)
        self.child.quiet_terminal()
        self._send(text)  # first of all: the rest is made while the program is at it
        self._talk = talk = Conversation(heard)
        talk.sent_sentinel = not marks_itself
        talk.is_skipping = bool(self._options["begin"]) and heard is None
        self._expect(token, values)
        try:
            self._listen(talk, None if budget_s is None else time.monotonic() + budget_s)
            if talk.status is None and gives_up:
                self._press_interrupt()
                self._listen(talk, time.monotonic() + OBEY_S)
                if heard:
                    heard.clear()
        finally:
            self.conversation = talk
            self._withdraw()
            self._tell(talk, None)
            self._talk = None
            if talk.took_time:  # enough for something that it ran to have died of memory
                self.child.oom.look()
            if talk.status is None:  # given up: its mark may still come
                self._stale = [mark for mark in self._scanner.marks if mark.kind == "end"][-STALE_MARKS:]
        return talk

    conversation: Conversation
    """The last one, also when it ended with Gone."""

    def _expect(self, token: Token, values: Mapping[str, str]) -> None:
        options = self._options
        marks = [*self._stale, Mark("end", options["mark"], token)]
        if options.get("question"):
            marks.append(Mark("question", options["question"], token))
        if options["value"]:
            marks.append(Mark("value", options["value"], token))
        if options["begin"]:
            marks.append(Mark("begin", options["begin"], token, values))
        marks += [Mark("echo", echo, token, values) for echo in options["echo"]]
        self._scanner.marks = marks

    def _send(self, text: str) -> None:
        self.child.send(text.encode("utf-8", "surrogateescape"))
        self._stir()

    def _stir(self) -> None:
        """Something was said: look again only after a silence."""
        self._heard_at = time.monotonic()
        self._look_s = LOOK_S[0]
        self._look_at = self._heard_at + self._look_s
        self._posture = None

    def _listen(self, talk: Conversation, deadline: Optional[float]) -> None:
        child, bell = self.child, self._desk.bell
        while talk.status is None:
            if border.pending:
                self._interrupt(talk)
            now = time.monotonic()
            if deadline is not None and now >= deadline:
                return
            if now >= self._look_at:
                self._look(talk)
                continue
            self._watch_input()
            until = self._look_at if deadline is None else min(self._look_at, deadline)
            for descriptor, _ in self._poll.poll((until - now) * 1000 + 1):
                if descriptor == bell.fileno():
                    bell.wait()
                elif descriptor in self._decoders:
                    self._receive(descriptor)
                    if talk.status is not None:
                        break
                elif descriptor == child.end:
                    self._die()
            child.pump()
            if self._question is not None and self._question.answered:
                self._answer(self._question)
            if child.end < 0 and child.poll():
                self._die()
        self._watch_input()
        if self._glance.poll(0):
            self._drain(child.err)
        self._finish_characters()

    def _watch_input(self) -> None:
        """Poll for room in its input as long as something is unsent."""
        child = self.child
        if child.has_unsent == self._is_writing:
            return
        self._is_writing = child.has_unsent
        if child.into in self._decoders:  # a terminal is read and written by one descriptor
            self._poll.modify(child.into, select.POLLIN | (select.POLLOUT if self._is_writing else 0))
        elif self._is_writing:
            self._poll.register(child.into, select.POLLOUT)
        else:
            self._poll.unregister(child.into)

    # ---- hearing ----

    def attend(self) -> None:
        """Between conversations: what the program says in the background. Raises Gone."""
        for descriptor in list(self._decoders):
            self._receive(descriptor)
        if self.child.poll():
            self._die()

    def _receive(self, descriptor: int) -> bool:
        """Read once; False when there was nothing."""
        child = self.child
        data = child.read(descriptor)
        if data is None:
            self._close(descriptor)
            return False
        if not data:
            return False
        self._stir()
        if descriptor != child.out:
            self._show(descriptor, data)
            return True
        if child.is_terminal:
            if ALTERNATE_SCREEN.search(self._seam + data):
                self._leave_screen()
            self._seam = data[-SEAM_BYTES:]
        pieces = list(self._scanner.feed(data))
        self._is_ending = bool(pieces) and pieces[-1].kind == "end"
        for piece in pieces:
            self._take(descriptor, piece)
        if self._is_ending and self._talk is not None and self._talk.status is None:
            self._desk.printer.flush()  # it was another end
        self._is_ending = False
        return True

    def _close(self, descriptor: int) -> None:
        """One of its outputs has ended; with the last one it is as good as dead."""
        self._poll.unregister(descriptor)
        self._show(descriptor, self._scanner.flush() if descriptor == self.child.out else b"", final=True)
        del self._decoders[descriptor]
        if not self._decoders:
            self._die()

    def _die(self) -> None:
        self._drain(*self._decoders)
        if self.child.out in self._decoders:
            self._show(self.child.out, self._scanner.flush())
        self._finish_characters()
        self._decoders.clear()
        self.child.finish()
        raise Gone

    def _drain(self, *descriptors: int) -> None:
        """Read what is there."""
        for descriptor in descriptors:
            for _ in range(DRAIN_ROUNDS if descriptor in self._decoders else 0):
                data = self.child.read(descriptor)
                if not data:
                    break
                if descriptor == self.child.out:
                    for piece in self._scanner.feed(data):
                        self._take(descriptor, piece)
                else:
                    self._show(descriptor, data)

    def _finish_characters(self) -> None:
        """What was begun of a character on either pipe is not finished any more."""
        if not self._is_torn:
            return
        for descriptor in self._decoders:
            self._show(descriptor, b"", final=True)
        self._is_torn = False

    def _take(self, descriptor: int, piece: Piece) -> None:
        talk = self._talk
        if piece.kind == "text":
            self._show(descriptor, piece.text)
        elif talk is None:
            return
        elif piece.kind == "end":
            self._end(talk, piece)
        elif piece.kind == "value":
            self._show(descriptor, b"", final=True)
            talk.in_value = talk.displayed = True
        elif piece.kind == "begin":
            talk.is_skipping = False
        elif piece.kind == "question":
            talk.wants_answer = True
            self._finish_characters()
            self._ask(talk)

    def _end(self, talk: Conversation, piece: Piece) -> None:
        """A mark: of this conversation, or one more of an order that was given twice."""
        mark = piece.mark
        if mark is self._ended_by and not self._is_in_step:
            message = "%s prints its sentinel by itself, so the end of an output cannot be told" % self.child.name
            remedy = "let the sentinel write {left} and {right} apart"
            talk.trouble = ErrorReport("Sentinel", "%s: %s" % (message, remedy), "")
        elif talk.status is None and mark is not self._ended_by and mark not in self._stale:
            talk.status = piece.status
            self._ended_by = mark
            if self._is_in_step and talk.interrupted_at is None and not talk.repeated_sentinel:
                self._stale = []
            else:  # orders were given twice, or an interrupt struck between printing the mark and knowing it
                self._stale = [other for other in self._scanner.marks if other.kind == "end"][-STALE_MARKS:]

    def _show(self, descriptor: int, data: bytes, final: bool = False) -> None:
        if data.isascii() and not self._is_torn:
            text = data.decode("ascii")
        else:
            self._is_torn = self._is_torn or data[-1:] >= b"\x80"
            text = self._decoders[descriptor].decode(data, final)
        talk = self._talk
        if not text or (talk is not None and talk.is_skipping):
            return
        stream = "stderr" if descriptor == self.child.err else "stdout"
        if talk is None or (talk.status is not None and talk.heard is None and stream == "stdout"):
            self._desk.printer.write(stream, text)
        elif talk.heard is not None:
            talk.heard.append(text)
        elif talk.in_value and stream == "stdout":
            self._desk.printer.show("result", text)
        else:
            talk.tails[stream] = (talk.tails[stream] + text)[-TAIL_CHARS:]
            (self._desk.printer.write_last if self._is_ending else self._desk.printer.write)(stream, text)

    # ---- a silent program ----

    def _look(self, talk: Conversation) -> None:
        """Does it wait for input? Does it not obey? What does it do at all?"""
        child, before = self.child, self._posture
        self._posture = posture = child.posture()
        now = time.monotonic()
        talk.took_time = True
        self._look_s = min(LOOK_S[1], self._look_s * 2)
        self._look_at = now + self._look_s
        reads = posture.kind == "reads" and not child.has_unsent
        if talk.heard is not None:
            if reads and PASSWORD.search("".join(talk.heard[-4:])):
                talk.trouble = ErrorReport("Password", "%s asks for a password, which it cannot get" % child.name, "")
                talk.status = ""
            return
        if reads and before is not None and before.kind == "reads":
            self._ask(talk)
        elif posture.kind not in ("reads", "unknown") and not talk.wants_answer:
            self._withdraw()
        is_busy = before is not None and posture.cpu_ticks > before.cpu_ticks
        doing = DOING["computes" if is_busy else posture.kind]
        disobeys = talk.interrupted_at is not None and now - talk.interrupted_at >= OBEY_S
        if disobeys and self._desk.is_leaving:
            self._kill(talk, "Ended", "the session ends, and %s did not obey the interrupt" % child.name)
        elif disobeys:
            if talk.repeats < self._options["interrupt_repeats"]:
                talk.repeats += 1
                talk.interrupted_at = now
                self._press_interrupt()
            self._tell(talk, "%s has not obeyed the interrupt: it %s" % (child.name, doing))
        elif now - self._heard_at >= SILENCE_S and self._question is None:
            if talk.sent_sentinel and not talk.repeated_sentinel and posture.is_alone and posture.kind == "waits":
                self._repeat_sentinel(talk)  # what it ran may have read the first one
            self._tell(talk, "%s is silent: it %s" % (child.name, doing))

    def _tell(self, talk: Conversation, note: Optional[str]) -> None:
        if note != talk.note:
            talk.note = note
            self._desk.note(note)

    def _ask(self, talk: Conversation) -> None:
        """The program, or one that it runs, reads what we send, and there is nothing more."""
        if self._question is not None:
            return
        name = self.child.name
        if not talk.sent_sentinel:
            said = [_behind(talk.answered[stream], talk.tails[stream]) for stream in ("stderr", "stdout")]
            prompt = said[0].rpartition("\n")[2] or said[1].rpartition("\n")[2]
            self._question = self._desk.question(prompt, bool(PASSWORD.search(prompt)))
        elif talk.trouble is None and talk.interrupted_at is None:
            # What was sent behind the command to mark its end has been taken for input.
            talk.trouble = ErrorReport("Incomplete", "%s waits for more of this command; it was interrupted" % name, "")
            self._press_interrupt()
            self._stir()
        elif not talk.repeated_sentinel:  # and not sooner: what comes with an interrupt may be thrown away
            self._repeat_sentinel(talk)
        else:
            self._kill(talk, "OutOfStep", "%s took the end of the command for input" % name)

    def _repeat_sentinel(self, talk: Conversation) -> None:
        talk.repeated_sentinel = True
        token = Token()
        self._scanner.marks.append(Mark("end", self._options["mark"], token))
        heard_at = self._heard_at
        self._send(fill(self._options["sentinel"], token))
        self._heard_at = heard_at

    def _answer(self, question: Question) -> None:
        text, talk = question.text, self._talk
        self._withdraw()
        if talk is not None:
            talk.answered = dict(talk.tails)
        if text is not None and talk is not None and talk.wants_answer:
            talk.wants_answer = False
            self._send(fill(self._options["answer"], Token(), {"code": text}))
        elif text is not None:
            self._send(text + "\n")
        elif self.child.is_terminal:
            self._send("\x04")
        else:  # a pipe has no end that is not for ever
            self.child.signal(signal.SIGINT)
            self._stir()

    def _withdraw(self) -> None:
        question, self._question = self._question, None
        if question is not None:
            self._desk.withdraw(question)

    def _leave_screen(self) -> None:
        talk, child = self._talk, self.child
        if talk is None or talk.trouble is not None:
            return
        who = child.name if talk.heard is not None else "the program"
        message = "%s takes the whole screen, which a session does not have, and was ended" % who
        talk.trouble = ErrorReport("FullScreen", message, "")
        if talk.heard is not None:
            talk.status = ""
        elif child.runs_something_else():
            child.signal(signal.SIGTERM)
            child.signal(signal.SIGHUP)
        else:
            self._press_interrupt()

    # ---- interrupts ----

    def _interrupt(self, talk: Conversation) -> None:
        border.discard_interrupts()
        self._withdraw()
        if self._options["interrupt"] == "none" and not self._desk.is_leaving:
            self._tell(talk, "%s cannot be interrupted without its end: it goes on" % self.child.name)
            return
        talk.interrupted_at = time.monotonic()
        self._press_interrupt()
        self._stir()

    def _press_interrupt(self) -> None:
        way = self._options["interrupt"]
        if way == "key" and self.child.is_terminal:
            self.child.forget_unsent()
            self.child.send(b"\x03")
        elif way == "text":
            self.child.send(self._options["interrupt_text"].encode("utf-8"))
        elif way != "none":
            self.child.signal(signal.SIGINT)

    def _kill(self, talk: Conversation, name: str, message: str) -> None:
        talk.trouble = ErrorReport(name, message, "")
        self.child.signal(signal.SIGKILL)
        self.child.kill()
        self._die()


def _behind(before: str, text: str) -> str:
    return text[len(before) :] if text.startswith(before) else text


def _because(message: str, heard: List[str]) -> str:
    said = "".join(heard).strip()
    return "%s. It printed: %s" % (message, said[-300:]) if said else message
