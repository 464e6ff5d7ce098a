"""The Jupyter engine: commands run in a kernel, by Jupyter's messaging protocol (5.x).

What a kernel says is told apart by the request it names: its answer to the command that runs is that command's output,
everything else is late. A command is over when the kernel has replied and is idle; an interrupt may cost it either of
these words, and then the kernel is asked something else, which it answers behind the command. A kernel that dies in a
command takes its state with it, and the next command starts a fresh one. Knows the protocol; nothing of how kernels
are started and reached.
"""

from __future__ import annotations

import re
import sys
import time
from typing import Any, Callable, Dict, List, Optional, Sequence

from omega_sessiond import wire
from omega_sessiond.hosts import border
from omega_sessiond.hosts.engine import Desk, ErrorReport, Options, Outcome, Question
from omega_sessiond.hosts.gateway import GatewayKernel
from omega_sessiond.hosts.kernel import Kernel, KernelGone, LocalKernel, Message
from omega_sessiond.hosts.reports import bounded
from omega_sessiond.wire import Frame

START_S = 25.0
"""How long a kernel may take to answer, where the launch does not say."""

HELLO_S = 0.2
"""After which a kernel that has answered is asked again: its first words on iopub may have come before we listened."""

BEGIN_S = 1.0
"""An interrupt waits so long for the kernel to begin with the command: ipykernel ignores a SIGINT that comes before.
More makes ^C slow with kernels that do not say when they begin, less loses it on a busy machine."""

SETTLE_S = 0.1
"""A command that has just begun is interrupted so much later: ipykernel says that it begins, and an interrupt that
strikes on the way from there to the user's code may be swallowed."""

OVERDUE_S = 0.1
"""The two words that end a command come within a few milliseconds. After an interrupt, a kernel that lets the second
wait for so long is asked for it. More is felt after ^C, less asks in vain on a busy machine."""

SILENCE_S = 5.0
"""A kernel that has said one of the two words that end a command, and then nothing for so long, will not say the
other."""

LEAVE_S = 2.0
"""How long a command may take to end after its interrupt when the session ends."""

ANSWER_S = 30.0
"""After which a question about code is answered with "I do not know". The first completion of ipykernel takes long."""

FENCE_S = 3.0
"""How long a prompt waits for the output before it, once with a kernel that answers on control only at rest. More is
felt there, less puts a prompt before its output on a busy machine."""

END_OF_INPUT = "\x04"
"""What ipykernel takes for the end of input; the protocol has no word for it."""

IPYTHON_STAYS = """
def _stay(shell=get_ipython()):
    shell.ask_exit = lambda: shell.payload_manager.write_payload({"source": "ask_exit", "keepkernel": True})
_stay()
del _stay
"""
"""exit() ends no session: without this ipykernel stops its own process a moment after it has replied."""

IPYTHON_ENDED = """
if not get_ipython().last_execution_result.success:
    raise LookupError
if get_ipython().last_execution_result.execution_count not in (%(number)r, %(number)r + 1):
    raise LookupError
"""
"""Succeeds behind the command of that number if its code ran to its end, and well: an interrupt that strikes ipykernel
on its own way from there to the reply loses the reply. The number behind it is this code's, when it is sent again."""

SYSTEM_EXIT = "SystemExit"
"""Python's wish to leave, which is no error of the command."""

CLEAR = "\x1b[2K\r"
"""What IPython prints at a terminal for clear_output()."""

_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")


class _Command:
    """One command on its way through the kernel."""

    def __init__(self, request: str) -> None:
        self.request = request
        self.number: Any = None
        """What the kernel counts it as."""
        self.probe: Optional[str] = None
        """The request by which the kernel was asked for what it still owes."""
        self.reply: Optional[Dict[str, Any]] = None
        self.error: Optional[ErrorReport] = None
        self.wish: Optional[Dict[str, Any]] = None
        """A request for input that nobody has been asked yet: output that came with it goes first."""
        self.question: Optional[Question] = None
        self.is_idle = False
        self.begun_at: Optional[float] = None
        self.is_interrupted = False
        self.is_displayed = False
        self.clears_next = False
        self.interrupt_at: Optional[float] = None
        self.ask_at: Optional[float] = None
        self.give_up_at: Optional[float] = None
        self.leave_at: Optional[float] = None

    @property
    def is_over(self) -> bool:
        return self.is_idle and self.reply is not None

    def patience_s(self) -> Optional[float]:
        """Until the next thing that time alone brings; None: for ever, the command computes."""
        moments = (self.interrupt_at, self.ask_at, self.give_up_at, self.leave_at)
        known = [moment for moment in moments if moment is not None]
        return max(0.0, min(known) - time.monotonic()) if known else None


class JupyterEngine:
    """`make_kernel` is called at the beginning and after each death. Raises KernelGone when it brings none."""

    def __init__(self, desk: Desk, make_kernel: Callable[[], Kernel], start_s: float) -> None:
        self._desk = desk
        self._printer = desk.printer
        self._make_kernel = make_kernel
        self._start_s = start_s
        self._kernel: Optional[Kernel] = None
        self._command: Optional[_Command] = None
        self._fence = ""
        self._is_ipython = False
        self.version = ""
        self.watched: Sequence[int] = ()
        self._start()

    # ---- a kernel's life ----

    def _start(self) -> Kernel:
        kernel = self._make_kernel()
        try:
            info = self._greet(kernel)
            kernel.settle()
            self._is_ipython = info.get("implementation") == "ipython"
            if self._is_ipython:
                self._run_silently(kernel, IPYTHON_STAYS)
        except BaseException:
            kernel.close()
            raise
        language = info.get("language_info") or {}
        self.version = " ".join(str(language[key]) for key in ("name", "version") if language.get(key))
        self._kernel, self.watched, self._fence = kernel, kernel.watched, ""
        return kernel

    def _greet(self, kernel: Kernel) -> Dict[str, Any]:
        """Ask until it answers and is heard on iopub; what it says of itself."""
        deadline = time.monotonic() + self._start_s
        info: Dict[str, Any] = {}
        asked = [kernel.send("shell", "kernel_info_request", {})]
        is_heard = False
        while not (info and is_heard):
            if time.monotonic() > deadline:
                raise KernelGone(
                    "the kernel has not answered within %g s; %s" % (self._start_s, kernel.explain_silence())
                )
            messages = self._wait(kernel, HELLO_S)
            if info and not messages:
                asked.append(kernel.send("shell", "kernel_info_request", {}))
            for message in messages:
                if message.kind == "kernel_info_reply":
                    info = message.content
                elif message.channel == "iopub" and message.parent in asked:
                    is_heard = True
        return info

    def _run_silently(self, kernel: Kernel, code: str) -> None:
        request = kernel.send("shell", "execute_request", _execute(code, silent=True))
        deadline = time.monotonic() + self._start_s
        command = _Command(request)
        while not command.is_over and time.monotonic() < deadline:
            for message in self._wait(kernel, HELLO_S):
                if message.parent == request:
                    self._note_end(command, message)

    def _wait(self, kernel: Kernel, timeout_s: float) -> List[Message]:
        """As the kernel's own; KeyboardInterrupt when the user, or the end of the session, does not want to wait."""
        if border.pending or self._desk.is_leaving:
            border.discard_interrupts()
            raise KeyboardInterrupt
        return kernel.wait(timeout_s)

    # ---- commands ----

    def execute(self, execution_id: int, code: str) -> Outcome:
        try:
            kernel = self._kernel or self._start()
            if border.pending:  # it came before the command
                border.discard_interrupts()
                raise KeyboardInterrupt
            self._command = command = _Command(kernel.send("shell", "execute_request", _execute(code)))
            try:
                self._follow(kernel, command)
            finally:
                self._command = None
                if command.question is not None:
                    self._desk.withdraw(command.question)
            return self._outcome(command)
        except KernelGone as gone:
            return self._bury(gone)
        except KeyboardInterrupt:
            return self._fail("interrupted", ErrorReport("KeyboardInterrupt", "", ""))

    def _follow(self, kernel: Kernel, command: _Command) -> None:
        while not command.is_over:
            self._heed(kernel, command)
            messages = kernel.wait(command.patience_s())
            for message in messages:
                self._take(message)
            now = time.monotonic()
            if command.interrupt_at is not None and now >= command.interrupt_at:
                command.interrupt_at = None
                if command.give_up_at is None:
                    command.is_interrupted = True
                    kernel.interrupt()
                else:  # it has ended: an interrupt could only hit what is left for the kernel to say
                    command.ask_at = now + OVERDUE_S
            if command.ask_at is not None and now >= command.ask_at and not command.is_over:
                self._probe(kernel, command)
            if messages and command.give_up_at is not None:
                command.give_up_at = now + SILENCE_S
            if any(moment is not None and now >= moment for moment in (command.give_up_at, command.leave_at)):
                return

    def _probe(self, kernel: Kernel, command: _Command) -> None:
        """Ask a kernel that has said one of the two words and owes the other: what it says to a later request comes
        behind all that it has said to the command. Never before the first word, for there are kernels that answer other
        requests while they compute."""
        command.ask_at = None
        command.is_idle = False
        if command.reply is None and self._is_ipython:
            code = IPYTHON_ENDED % {"number": command.number}
            command.probe = kernel.send("shell", "execute_request", _execute(code, silent=True))
        else:
            command.probe = kernel.send("shell", "kernel_info_request", {})

    def _heed(self, kernel: Kernel, command: _Command) -> None:
        """What the bell may have rung for, and what the kernel wants to be asked. Signals come last: whatever waits
        before may have silenced the bell for one."""
        if command.wish is not None:
            wish, command.wish = command.wish, None
            self._ask(kernel, command, wish)
        question = command.question
        if question is not None and question.answered:
            self._desk.withdraw(question)
            command.question = None
            kernel.send("stdin", "input_reply", {"value": END_OF_INPUT if question.text is None else question.text})
        is_leaving = self._desk.is_leaving and command.leave_at is None
        if is_leaving:
            command.leave_at = time.monotonic() + LEAVE_S
        if border.pending or is_leaving:
            border.discard_interrupts()
            self._interrupt(command)

    def _interrupt(self, command: _Command) -> None:
        if command.question is not None:
            self._desk.withdraw(command.question)
            command.question = None
        now = time.monotonic()
        command.interrupt_at = now + BEGIN_S if command.begun_at is None else max(now, command.begun_at + SETTLE_S)

    def _outcome(self, command: _Command) -> Outcome:
        reply = command.reply or {}
        should_exit = self._obey_payloads(reply)
        status = reply.get("status")
        if status == "ok":
            return Outcome("ok", command.is_displayed, should_exit=should_exit)
        error = command.error
        if error is None:
            if status == "error":
                error = _report(reply)
            elif command.is_interrupted:
                error = ErrorReport("KeyboardInterrupt", "", "")
            elif status is None:
                error = ErrorReport("NoReply", "the kernel did not say what came of the command", "")
            else:
                error = ErrorReport(str(status), "the kernel did not run the command", "")
            self._write("traceback", error.traceback or _line(error))
        if error.name == SYSTEM_EXIT:
            return Outcome("ok", should_exit=True)
        is_interrupted = command.is_interrupted or error.name == "KeyboardInterrupt"
        return Outcome("interrupted" if is_interrupted else "error", error=bounded(error))

    def _obey_payloads(self, reply: Dict[str, Any]) -> bool:
        """Do what the kernel wants of its front end besides. True when it wants it to leave."""
        should_exit = False
        for payload in reply.get("payload") or ():
            source = payload.get("source")
            if source == "ask_exit":
                should_exit = True
            elif source == "page":
                self._write("stdout", _closed(_text_of(payload.get("data") or {})))
            elif source == "set_next_input":
                self._write("stdout", _closed(str(payload.get("text", ""))))
        return should_exit

    def _bury(self, gone: KernelGone) -> Outcome:
        """The kernel died in the command, or none could be started for it."""
        kernel, self._kernel, self.watched = self._kernel, None, ()
        if kernel is not None:
            kernel.close()
        return self._fail("error", ErrorReport("KernelDied", str(gone), ""), lost=str(gone))

    def _fail(self, status: str, error: ErrorReport, lost: Optional[str] = None) -> Outcome:
        self._write("traceback", _line(error))
        return Outcome(status, error=bounded(error), lost=lost)

    # ---- what a kernel says ----

    def attend(self) -> None:
        kernel = self._kernel
        if kernel is None:
            return
        try:
            while True:
                messages = kernel.wait(0)
                if not messages:
                    return
                for message in messages:
                    self._take(message)
        except KernelGone as gone:
            self._desk.leave(str(gone))

    def _take(self, message: Message) -> None:
        if message.parent == self._fence and message.content.get("execution_state") == "idle":
            self._fence = ""
            return
        command = self._command
        is_current = command is not None and message.parent in (command.request, command.probe, "")
        if command is None or not is_current:
            if message.channel == "iopub":
                self._show_late(message)
        elif message.kind == "input_request":
            command.wish = message.content
        elif not self._note_end(command, message):
            if command.begun_at is None and message.parent and message.kind != "status":
                command.begun_at = time.monotonic()
                if command.interrupt_at is not None:
                    command.interrupt_at = command.begun_at + SETTLE_S
            self._show(command, message)

    def _note_end(self, command: _Command, message: Message) -> bool:
        """Whether the message is one of the two that end a command, or one of those that stand for them."""
        if message.channel == "shell":
            if message.parent != command.probe:
                command.reply = message.content
            elif command.reply is None:
                command.reply = _stand_in(message)
        elif message.kind == "error" and message.parent == command.probe:
            pass  # the probe's own: its reply says it, too
        elif message.kind == "status" and message.parent and message.content.get("execution_state") == "idle":
            command.is_idle = True
        else:
            return False
        now = time.monotonic()
        if command.give_up_at is None:
            command.give_up_at = now + SILENCE_S
        if command.is_interrupted:
            command.ask_at = now + OVERDUE_S  # also behind a probe: a late interrupt may have struck that
        return True

    def _show(self, command: _Command, message: Message) -> None:
        kind, content = message.kind, message.content
        if kind == "clear_output":
            command.clears_next = bool(content.get("wait"))
            if not command.clears_next:
                self._write("stdout", CLEAR)
            return
        if command.clears_next and kind in ("stream", "display_data", "update_display_data", "execute_result"):
            command.clears_next = False
            self._write("stdout", CLEAR)
        if kind == "execute_input":
            command.number = content.get("execution_count")
        elif kind == "stream":
            self._write(_stream_of(content), str(content.get("text", "")))
        elif kind in ("display_data", "update_display_data", "execute_result"):
            self._present(command, kind, content)
        elif kind == "error":
            command.error = error = _report(content)
            self._write("stderr" if error.name == SYSTEM_EXIT else "traceback", error.traceback or _line(error))

    def _present(self, command: _Command, kind: str, content: Dict[str, Any]) -> None:
        data = content.get("data") or {}
        is_result = kind == "execute_result"
        self._write("result" if is_result else "stdout", _closed(_text_of(data)))
        command.is_displayed = command.is_displayed or is_result
        bundle = (data, content.get("metadata") or {}, "result" if is_result else "display")
        try:
            self._printer.present(*bundle)
        except KeyboardInterrupt:  # while it is encoded, before any of it is sent
            self._interrupt(command)
            self._printer.present(*bundle)

    def _show_late(self, message: Message) -> None:
        """What comes of an earlier command, or of none."""
        kind, content = message.kind, message.content
        if kind == "stream":
            self._printer.write_late(_stream_of(content), str(content.get("text", "")))
        elif kind in ("display_data", "update_display_data", "execute_result"):
            self._printer.write_late("stdout", _closed(_text_of(content.get("data") or {})))
        elif kind == "error":
            error = _report(content)
            self._printer.write_late("stderr", error.traceback or _line(error))

    def _write(self, stream: str, text: str) -> None:
        # In pieces that are written whole: a longer text ends where an interrupt comes.
        for start in range(0, len(text), wire.OUTPUT_CHUNK):
            self._printer.write(stream, text[start : start + wire.OUTPUT_CHUNK])

    # ---- input ----

    def _ask(self, kernel: Kernel, command: _Command, content: Dict[str, Any]) -> None:
        prompt, secret = str(content.get("prompt", "")), bool(content.get("password"))
        self._catch_up(kernel)
        self._write("stderr" if secret else "stdout", prompt)
        command.question = self._desk.question(prompt, secret)
        if command.question is None:
            kernel.send("stdin", "input_reply", {"value": END_OF_INPUT})

    def _catch_up(self, kernel: Kernel) -> None:
        """Take the output that was printed before a prompt: it comes by another way. Once the kernel is heard on iopub
        to have answered a later question, asked on control, all it said before has come."""
        if self._fence:
            return  # the last one was never answered
        self._fence = kernel.send("control", "kernel_info_request", {})
        deadline = time.monotonic() + FENCE_S
        while self._fence and (left_s := deadline - time.monotonic()) > 0 and not border.pending:
            for message in kernel.wait(left_s):
                self._take(message)

    # ---- questions ----

    def _question(self, kind: str, content: Dict[str, Any]) -> Dict[str, Any]:
        """The reply to a question about code, {} when there is none."""
        kernel = self._kernel
        if kernel is None:
            return {}
        request = kernel.send("shell", kind, content)
        deadline = time.monotonic() + ANSWER_S
        reply: Optional[Dict[str, Any]] = None
        try:
            while reply is None and (left_s := deadline - time.monotonic()) > 0:
                for message in self._wait(kernel, left_s):
                    if message.channel == "shell" and message.parent == request:
                        reply = message.content
                    else:
                        self._take(message)
        except KernelGone as gone:
            self._desk.leave(str(gone))
        return {} if reply is None or reply.get("status") == "error" else reply

    def complete(self, code: str, cursor: int) -> Frame:
        reply = self._question("complete_request", {"code": code, "cursor_pos": cursor})
        start, end = reply.get("cursor_start", cursor), reply.get("cursor_end", cursor)
        return {"matches": [str(match) for match in reply.get("matches", ())], "start": start, "end": end}

    def inspect(self, code: str, cursor: int) -> Frame:
        reply = self._question("inspect_request", {"code": code, "cursor_pos": cursor, "detail_level": 0})
        text = plain_text(str((reply.get("data") or {}).get("text/plain", "")))
        return {"found": bool(reply.get("found")), "text": text}

    def is_complete(self, code: str) -> Frame:
        reply = self._question("is_complete_request", {"code": code})
        return {"status": reply.get("status", "unknown"), "indent": str(reply.get("indent", ""))}

    def tell(self, error: BaseException) -> None:
        self._printer.write("stderr", "%s: %s\n" % (type(error).__name__, error))

    def close(self) -> None:
        kernel, self._kernel, self.watched = self._kernel, None, ()
        if kernel is not None:
            kernel.close()


def make(desk: Desk, options: Options) -> JupyterEngine:
    """The engine of a session. `kernel` is the kernel's name, here or at `gateway`; `directory` holds its specification
    and `program` is what that starts."""

    def make_kernel() -> Kernel:
        if "gateway" in options:
            return GatewayKernel(options["kernel"], options["gateway"], start_s, desk.bell)
        program = options.get("program", "")
        return LocalKernel(options["kernel"], options["directory"], program, desk.sockets, desk.bell)

    start_s = options.get("start_s", START_S)
    try:
        return JupyterEngine(desk, make_kernel, start_s)
    except KernelGone as gone:
        sys.exit(str(gone))  # into the birth log, which the daemon tells of


def _execute(code: str, silent: bool = False) -> Dict[str, Any]:
    return {
        "code": code,
        "silent": silent,
        "store_history": not silent,
        "user_expressions": {},
        "allow_stdin": not silent,
        "stop_on_error": False,  # else a kernel refuses what comes right behind an error
    }


def _stand_in(answer: Message) -> Dict[str, Any]:
    """For the reply of a command that is lost, what the answer to the probe tells: that it ended well, or nothing. What
    it wants of its front end comes with that answer."""
    has_ended = answer.kind == "execute_reply" and answer.content.get("status") == "ok"
    return {"status": "ok" if has_ended else None, "payload": answer.content.get("payload")}


def _stream_of(content: Dict[str, Any]) -> str:
    return "stderr" if content.get("name") == "stderr" else "stdout"


def _closed(text: str) -> str:
    return text if text.endswith("\n") else text + "\n"


def _text_of(data: Dict[str, Any]) -> str:
    """What a terminal shows of a MIME bundle."""
    text = data.get("text/plain")
    return str(text) if text is not None else "[%s]" % ", ".join(map(str, data))


def plain_text(text: str) -> str:
    """Without the colours and other escapes of a terminal."""
    return _ESCAPES.sub("", text)


def _report(content: Dict[str, Any]) -> ErrorReport:
    traceback = plain_text("\n".join(map(str, content.get("traceback") or ())))
    return ErrorReport(
        str(content.get("ename") or "Error"),
        plain_text(str(content.get("evalue", ""))),
        _closed(traceback) if traceback else "",
    )


def _line(error: ErrorReport) -> str:
    return "%s: %s\n" % (error.name, error.message) if error.message else error.name + "\n"
