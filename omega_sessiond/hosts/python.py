"""The Python engine: commands run in a namespace that lasts, as at the prompt of `python3`.

The value of a last expression is shown, `_` keeps it, `await` works at the top level. Knows the language, the Output
it prints to and how to ask for input; nothing of daemons and frames.
"""

from __future__ import annotations
import __future__

import _ast as ast  # what the compiler needs; the module ast is for those who walk trees, and slow to import
import atexit
import builtins
import gc
import getpass
import io
import linecache
import os
import signal
import sys
import types
from collections import deque
from importlib.util import MAGIC_NUMBER
from typing import Any, Deque, Dict, List, Optional, Set, Tuple

from omega_sessiond import wire
from omega_sessiond.hosts import border, completion, mime, obstacles, pickling, reports, variables
from omega_sessiond.hosts.display import make_display, stand_in, text_of
from omega_sessiond.hosts.engine import Outcome, Saved
from omega_sessiond.hosts.figures import Figures
from omega_sessiond.hosts.imports import Imports
from omega_sessiond.hosts.output import Output
from omega_sessiond.hosts.streams import Ask, TextInput, TextOutput, make_getpass, make_input
from omega_sessiond.hosts.surroundings import SOURCE_PREFIX
from omega_sessiond.wire import Frame

CO_COROUTINE = 0x80
"""inspect.CO_COROUTINE, whose module takes longer to import than a session to start."""

SOURCES_KEPT = 1000
"""How many sources are kept of commands that define nothing."""

_FUTURES = 0
for _name in __future__.all_feature_names:
    _FUTURES |= getattr(__future__, _name).compiler_flag


class PythonEngine:
    """Evaluates in a fresh `__main__`. Made once in a process: it replaces the standard streams, `input` and the
    display hook."""

    watched = ()  # all that happens between commands happens in this process
    version = sys.version.split()[0].rstrip("+")

    def __init__(self, output: Output, ask: Ask) -> None:
        self._output = output
        self._flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        self._loop: Any = None
        self._parted: List[Any] = []
        self._passing: Deque[str] = deque()
        self._is_looping = False
        self._loop_was_broken = False
        self._task: Any = None
        self._task_is_cancelled = False
        self._main = fresh_main()
        self.namespace: Dict[str, Any] = vars(self._main)
        self._stdin = stdin = TextInput(ask)
        sys.stdin = sys.__stdin__ = stdin  # type: ignore[assignment,misc]
        sys.stdout = sys.__stdout__ = TextOutput(output, "stdout", 1)  # type: ignore[assignment,misc]
        sys.stderr = sys.__stderr__ = TextOutput(output, "stderr", 2)  # type: ignore[assignment,misc]
        builtins.input = make_input(stdin)
        _replace_getpass(stdin)
        self._hook = self._make_displayhook()
        sys.displayhook = self._hook
        sys.ps1, sys.ps2 = ">>> ", "... "  # what tells libraries that somebody sits at a prompt
        imports = Imports()
        self._figures = Figures(imports, output.present)
        display = make_display(output, self._describe)
        builtins.display = display  # type: ignore[attr-defined]
        imports.watch("IPython.core.display_functions", lambda module: stand_in(module, display))
        border.interrupt_task = self._interrupt_task
        streams = [(sys, name) for name in ("__stdin__", "__stdout__", "__stderr__")]
        functions = [(builtins, "input"), (builtins, "display"), (getpass, "getpass"), (sys, "displayhook")]
        for module, name in (*streams, *functions, (signal, "signal"), (signal, "getsignal")):
            pickling.know_stand_in(module, name)

    # ---- commands ----

    def execute(self, execution_id: int, code: str) -> Outcome:
        outcome = self._execute(execution_id, code)
        self._stdin.forget()
        if self._figures.are_used and not self._output.forked:
            try:
                self._figures.present_open()
            except BaseException as error:  # an interrupt
                return self._fail(error) if outcome.status == "ok" else outcome
        return outcome

    def _execute(self, execution_id: int, code: str) -> Outcome:
        displayed = False
        try:
            value = self._evaluate(SOURCE_PREFIX + "%d>" % execution_id, code)
            if value is not None:
                displayed = self._display(value)
        except SystemExit as exit:
            return self._exit(exit)
        except BaseException as error:  # whatever user code raises is the command's outcome
            return self._fail(error)
        return Outcome("ok", displayed)

    def _evaluate(self, file: str, source: str) -> Any:
        """Run the statements; the value of the last one if it is an expression, else None."""
        # With the final newline that traceback expects; None for the time keeps checkcache() from looking for a file.
        linecache.cache[file] = (len(source), None, _lines(source), file)
        namespace = self.namespace
        if "\\" not in source:  # the compiler would warn of a wrong escape twice
            try:
                code = compile(source, file, "eval", self._flags, True)
            except Exception:
                pass  # no single expression, or wrong anyhow: the second attempt tells
            else:
                self._forget_source(file, code)
                return self._run(code, namespace)
        tree = compile(source, file, "exec", self._flags | ast.PyCF_ONLY_AST, True)
        last: Optional[ast.Expression] = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        code = compile(tree, file, "exec", self._flags, True)
        self._flags |= code.co_flags & _FUTURES
        last_code = None if last is None else compile(last, file, "eval", self._flags, True)
        self._forget_source(file, code, last_code)
        if tree.body or last_code is None:
            self._run(code, namespace)
        return None if last_code is None else self._run(last_code, namespace)

    def _forget_source(self, file: str, *codes: Optional[types.CodeType]) -> None:
        """Keep the source of a command that defines no function for its own report and a few debuggers only: a
        session of a million commands would keep a million sources."""
        for code in codes:
            if code is not None and any(type(constant) is types.CodeType for constant in code.co_consts):
                return
        self._passing.append(file)
        if len(self._passing) > SOURCES_KEPT:
            linecache.cache.pop(self._passing.popleft(), None)

    def _run(self, code: types.CodeType, namespace: Dict[str, Any]) -> Any:
        value = border.run_user(eval, code, namespace)
        return self._await(value) if code.co_flags & CO_COROUTINE else value

    def _display(self, value: object) -> bool:
        """As sys.displayhook does; False when the user's own hook did it."""
        hook = sys.displayhook
        if hook is not self._hook:
            border.run_user(hook, value)
            return False
        builtins._ = None  # type: ignore[attr-defined]
        rich = self._describe(value, border.run_user)
        text = border.run_user(repr, value) if rich is None else text_of(value, rich[0], border.run_user)
        if len(text) < wire.OUTPUT_CHUNK:
            self._output.show("result", text + "\n")
        else:
            self._output.show("result", text)
            self._output.show("result", "\n")
        builtins._ = value  # type: ignore[attr-defined]
        if rich is not None:
            self._output.present(*rich, "result")
        return True

    def _describe(self, value: object, run: mime.Run) -> Optional[Tuple[mime.Bundle, mime.Bundle]]:
        if type(value) in mime.PLAIN:
            return None
        figure = self._figures.describe(value)
        return mime.describe(value, run) if figure is None else (figure, {})

    def _make_displayhook(self) -> Any:
        def displayhook(value: object) -> None:
            """Print an object to sys.stdout and also save it in builtins._"""
            if value is not None:
                builtins._ = None  # type: ignore[attr-defined]
                text = border.call_user(repr, value)
                border.call_user(sys.stdout.write, text + "\n")
                builtins._ = value  # type: ignore[attr-defined]

        return displayhook

    def _exit(self, exit: SystemExit) -> Outcome:
        """exit() ends no session: the client is told that the user meant to leave."""
        status = exit.code
        if status is None or isinstance(status, int):
            return Outcome("ok", should_exit=True, exit_status=(status or 0) & 0xFF)
        try:
            self._output.show("stderr", border.run_user(str, status) + "\n")
        except BaseException as error:  # its __str__ is user code
            return self._fail(error)
        return Outcome("ok", should_exit=True, exit_status=1)

    def _fail(self, error: BaseException) -> Outcome:
        border.discard_interrupts()  # the command is over; what came too late must not hit its report
        report = reports.describe(error)
        reports.remember(error)
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
        try:
            if not self._show_by_excepthook(error):
                self._output.show("traceback", report.traceback)
        except KeyboardInterrupt:
            status = "interrupted"
        return Outcome(status, error=reports.bounded(report), exit_status=1)

    def _show_by_excepthook(self, error: BaseException) -> bool:
        """Whether an excepthook of the user's own showed the exception."""
        hook = sys.excepthook
        if hook is sys.__excepthook__:
            return False
        try:
            border.call_user(hook, type(error), error, error.__traceback__)
        except BaseException as failure:  # user code
            self._output.show("traceback", "Error in sys.excepthook:\n" + reports.describe(failure).traceback)
            self._output.show("traceback", "\nOriginal exception was:\n")
            return False
        return True

    def attend(self) -> None:
        pass

    def tell(self, error: BaseException) -> None:
        self._output.write("stderr", reports.describe(error).traceback)

    # ---- top-level await ----

    def _await(self, coroutine: Any) -> Any:
        """Run a command's coroutine in the session's event loop, where other tasks go on while it is awaited."""
        # As slow to import as all the rest together, and most sessions never need it.
        asyncio: Any = border.import_late("asyncio")

        if self._loop is None or self._loop.is_closed():
            self._loop = asyncio.new_event_loop()
        loop = self._loop
        asyncio.set_event_loop(loop)
        if self._loop_was_broken:
            try:
                self._drain_loop()
            except BaseException:
                coroutine.close()
                raise
        self._task_is_cancelled = False
        self._task = task = loop.create_task(coroutine)
        try:
            return self._turn_loop(loop.run_until_complete, task)
        except asyncio.CancelledError as cancelled:
            if not self._task_is_cancelled:
                raise
            raise KeyboardInterrupt().with_traceback(reports.users_traceback(cancelled)) from None
        except BaseException:
            self._clean_loop(task)
            raise
        finally:
            self._task = None
            if task.done() and not task.cancelled():
                task.exception()  # so that it is not reported a second time
            if loop.is_running():
                # A signal handler of the user's raised in the midst of the loop's own code: it is beyond repair.
                asyncio._set_running_loop(None)
                self._loop = None
                self._loop_was_broken = False

    def _turn_loop(self, run: Any, *args: Any) -> Any:
        self._is_looping = True
        try:
            return border.run_user(run, *args)
        finally:
            self._is_looping = False

    def _clean_loop(self, task: Any) -> None:
        """An exception broke out of the loop: let it forget that run, and the command's task clean up."""
        self._loop_was_broken = True
        try:
            self._drain_loop()
            if not task.done():
                task.cancel()
                self._loop_was_broken = True
                self._turn_loop(self._loop.run_until_complete, task)
                self._loop_was_broken = False
        except BaseException:  # of no interest any more; a second interrupt ends it here
            pass

    def _drain_loop(self) -> None:
        """Run what a broken run left ready: among it may be the order to stop, which would end the next run."""
        stop = self._loop.call_soon(self._loop.stop)
        try:
            self._turn_loop(self._loop.run_forever)
        finally:
            stop.cancel()
        self._loop_was_broken = False

    def _interrupt_task(self, frame: types.FrameType) -> bool:
        """An interrupt while the event loop's own code is at work cancels the command's task, so that the loop stays
        whole. While user code computes, it is raised there."""
        if not self._is_looping:
            return False
        where: Optional[types.FrameType] = frame
        while where is not None and str(where.f_globals.get("__name__")).partition(".")[0] in ("asyncio", "selectors"):
            where = where.f_back
        if where is None or not border.is_own(where):
            return False
        if self._task is not None and not self._task.done():
            self._task_is_cancelled = True
            self._task.cancel()
            self._loop.call_soon_threadsafe(int)  # anything that ends the wait
        return True

    # ---- questions ----

    def complete(self, code: str, cursor: int) -> Frame:
        return completion.complete(code, cursor, self.namespace)

    def inspect(self, code: str, cursor: int) -> Frame:
        return completion.inspect(code, cursor, self.namespace)

    def is_complete(self, code: str) -> Frame:
        return completion.is_complete(code, self._flags)

    def close(self) -> None:
        border.run_user(atexit._run_exitfuncs)

    # ---- checkpoints ----

    saves_in_child = True

    def identity(self) -> Dict[str, str]:
        return {
            "implementation": sys.implementation.name,
            "version": "%d.%d" % sys.version_info[:2],
            "bytecode": MAGIC_NUMBER.hex(),
            "platform": "%s %s" % (sys.platform, os.uname().machine),
        }

    def obstacles(self) -> List[str]:
        asyncio = sys.modules.get("asyncio")
        if asyncio is None or self._loop is None or self._loop.is_closed():
            return []
        return ["asyncio task %s" % task.get_name() for task in asyncio.all_tasks(self._loop)]

    def descriptors(self) -> List[int]:
        loop = self._loop
        if loop is None or loop.is_closed():
            return []
        selector = getattr(loop, "_selector", None)
        held = [getattr(loop, "_ssock", None), getattr(loop, "_csock", None)]
        if hasattr(selector, "fileno"):
            held.append(selector)
        return [one.fileno() for one in held if one is not None]

    def flush(self, hosts_own: Set[int]) -> None:
        """Before a fork: what waits in a file's buffer would be written by both."""
        written = obstacles.written_files() - hosts_own
        if not written:
            return
        for one in gc.get_objects():
            if type(one) in (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom):
                try:
                    if one.fileno() in written:
                        one.flush()
                except (OSError, ValueError):
                    continue  # it is closed, or its disk is full: the session will hear of it

    def part(self) -> None:
        """In a forked copy: the event loop looks at descriptors that it shares with the other's. It is left as it is,
        for closing it would reach into that one, and a new one is made when one is wanted."""
        for descriptor in self.descriptors():
            os.close(descriptor)
        self._parted.append(self._loop)
        self._loop = None
        self._disinherit()

    @staticmethod
    def _disinherit() -> None:
        """What is to be done at the end of the original is not the copy's to do: it would remove the other's files."""
        atexit._clear()
        finalize: Any = getattr(sys.modules.get("weakref"), "finalize", None)
        if finalize is not None:
            finalize._registered_with_atexit = False
            for one in list(finalize._registry):
                one.atexit = False

    def end_rehearsal(self, variable: str) -> None:
        """Be as new, which had this variable at most."""
        self.namespace.pop(variable, None)
        self._passing.clear()
        for file in [file for file in linecache.cache if file.startswith(SOURCE_PREFIX)]:
            del linecache.cache[file]
        vars(builtins).pop(variables.LAST, None)

    def save(self, file: str, lent: str, budget_s: float) -> Saved:
        return variables.save(file, self.namespace, {"flags": self._flags & _FUTURES}, lent, budget_s)

    def load(self, file: str, lent: str) -> Dict[str, str]:
        extra, lost = border.run_user(variables.load, file, self.namespace, lent)
        self._flags |= extra["flags"]
        return dict(lost)


def make(host: Any, options: Dict[str, Any]) -> PythonEngine:
    """The engine of this host; it has no options."""
    return PythonEngine(host.output, host.ask)


def _lines(source: str) -> List[str]:
    if "\r" in source:
        return io.StringIO(source + "\n", None).readlines()
    return [line + "\n" for line in source.split("\n")]


def fresh_main() -> types.ModuleType:
    """A `__main__` as an interactive interpreter has it, in the place of the host's own."""
    main = types.ModuleType("__main__")
    vars(main).update(__builtins__=builtins, __annotations__={}, __loader__=builtins.__loader__)
    sys.modules["__main__"] = main
    return main


def _replace_getpass(stdin: TextInput) -> None:
    getpass.getpass = make_getpass(stdin)
