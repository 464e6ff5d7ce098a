"""The line editor of the REPL at a terminal: prompt_toolkit with the session's own judgement, completions and history.

What it costs beyond prompt_toolkit's own start is done after the first prompt is shown: the colours' lexer, history.
Knows the code that is written; what becomes of it is the REPL's.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncGenerator, Callable, Iterable
from typing import Any

from prompt_toolkit.application import run_in_terminal
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.enums import DEFAULT_BUFFER
from prompt_toolkit.filters import has_focus
from prompt_toolkit.history import History
from prompt_toolkit.input.typeahead import store_typeahead
from prompt_toolkit.input.vt100_parser import Vt100Parser
from prompt_toolkit.key_binding import KeyBindings, KeyPress, KeyPressEvent
from prompt_toolkit.lexers import DynamicLexer, Lexer, SimpleLexer
from prompt_toolkit.output.color_depth import ColorDepth
from prompt_toolkit.shortcuts.prompt import PromptSession
from prompt_toolkit.styles import Style

from omega_sessiond.repl_session import Judgement, ReplSession
from omega_sessiond.screen import Screen

TAB = 4

LEXERS = {
    "python": "python",
    "bash": "bash",
    "node": "javascript",
    "sqlite3": "sql",
    "omega": "scheme",
    "guile": "scheme",
    "gdb": "c",
}
"""The language of each engine, as pygments names it."""

INSPECTED_LINES = 20
"""What F1 shows of a long text: the prompt stays in sight."""

STYLE = Style.from_dict({"prompt": "ansicyan bold", "prompt.more": "ansibrightblack"})


class Editor:
    """Reads one command after the other. `judge` says what Enter does, `completions` how a meta command may go on."""

    def __init__(
        self,
        screen: Screen,
        session: ReplSession,
        judge: Callable[[str], Judgement],
        completions: Callable[[str], list[str]],
    ) -> None:
        self._screen = screen
        self._session = session
        self._judge = judge
        self._lexer: Lexer = SimpleLexer()
        self._lexes = ""
        self._context: contextvars.Context | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: list[Callable[[], None]] = []
        self._prompt: PromptSession[str] = PromptSession(
            message=lambda: [("class:prompt", f"{self._session.name}> ")],
            prompt_continuation=lambda width, *_: [("class:prompt.more", "... ".rjust(width))],
            multiline=True,
            key_bindings=self._bindings(),
            lexer=DynamicLexer(lambda: self._lexer),
            completer=_SessionCompleter(lambda: self._session, completions),
            complete_while_typing=False,
            complete_in_thread=True,
            history=_SessionHistory(lambda: self._session),
            style=STYLE,
            color_depth=None if screen.has_colors else ColorDepth.DEPTH_1_BIT,
            enable_suspend=True,
            reserve_space_for_menu=6,
        )

    def read(self, session: ReplSession, text: str = "", typed: str = "") -> str:
        """A command, edited from `text` on, as if `typed` were typed. Raises EOFError and KeyboardInterrupt."""
        self._session = session
        if typed:
            keys: list[KeyPress] = []
            parser = Vt100Parser(keys.append)
            parser.feed_and_flush(typed)
            store_typeahead(self._prompt.app.input, keys)
        try:
            return self._prompt.prompt(default=text, pre_run=self._begin)
        finally:
            self._loop = self._context = None
            self._flush()

    # ---- what is told meanwhile ----

    def tell(self, show: Callable[[], None]) -> None:
        """Show something above the prompt, or at once when there is none. Any thread may."""
        self._told.append(show)
        loop, context = self._loop, self._context
        if loop is not None and context is not None:
            try:
                loop.call_soon_threadsafe(self._tell_above, context=context)
            except RuntimeError:
                pass  # the prompt has just ended, and shows it itself

    def _tell_above(self) -> None:
        run_in_terminal(self._flush)

    def _flush(self) -> None:
        while self._told:
            self._told.pop(0)()

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        if self._told:
            self._loop.call_soon(self._tell_above)
        if self._lexes != self._session.engine:
            self.once_shown(self._load_lexer)

    def _load_lexer(self) -> None:
        engine = self._session.engine
        self._lexer, self._lexes = lexer(engine), engine
        self._prompt.app.invalidate()

    def once_shown(self, begin: Callable[[], None]) -> None:
        """Do something once, in a thread, when the next prompt has been drawn."""

        def drawn(_: object) -> None:
            self._prompt.app.after_render -= drawn
            threading.Thread(target=begin, daemon=True).start()

        self._prompt.app.after_render += drawn

    def engine_is_known(self) -> None:
        """The session has turned out to have another engine than was thought. Takes a moment."""
        if self._lexes != self._session.engine:
            self._load_lexer()

    # ---- keys ----

    def _bindings(self) -> KeyBindings:
        bindings = KeyBindings()
        writing = has_focus(DEFAULT_BUFFER)

        @bindings.add("enter", filter=writing)
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            document = buffer.document
            if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
                buffer.complete_state = None
                return
            if document.line_count > 1 and document.text_after_cursor.strip():
                buffer.newline()
                return
            judgement = self._judge(document.text)
            if judgement.runs:
                buffer.validate_and_handle()
            else:
                buffer.insert_text("\n" + judgement.indent)

        @bindings.add("c-j", filter=writing)
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.validate_and_handle()

        @bindings.add("escape", "enter", filter=writing)
        def _(event: KeyPressEvent) -> None:
            event.current_buffer.newline()

        @bindings.add("tab", filter=writing)
        def _(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            written = buffer.document.current_line_before_cursor
            if buffer.complete_state is not None:
                buffer.complete_next()
            elif written.strip():
                buffer.start_completion(insert_common_part=True)
            else:
                buffer.insert_text(" " * (TAB - len(written) % TAB))

        @bindings.add("f1", filter=writing)
        async def _(event: KeyPressEvent) -> None:
            document = event.current_buffer.document
            ask = asyncio.get_running_loop().run_in_executor
            text = await ask(None, self._session.inspect, document.text, document.cursor_position)
            lines = text.split("\n")
            if len(lines) > INSPECTED_LINES:
                lines[INSPECTED_LINES - 1 :] = [f"… {len(lines) - INSPECTED_LINES + 1} more lines"]
            await run_in_terminal(lambda: self._screen.write("\n".join(lines) + "\n"))

        return bindings


class _SessionCompleter(Completer):
    """Asks the engine; run in a thread by prompt_toolkit."""

    def __init__(self, session: Callable[[], ReplSession], completions: Callable[[str], list[str]]) -> None:
        self._session = session
        self._completions = completions

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        code, cursor = document.text, document.cursor_position
        before = document.text_before_cursor
        if completions := self._completions(before):
            for text in completions:
                yield Completion(text, start_position=-len(before))
            return
        found = self._session().complete(code, cursor)
        for text in found.texts:
            yield Completion(text, start_position=min(found.start - cursor, 0))


class _SessionHistory(History):
    """The session's journal: what any client has run. For the first prompt it is read when that is there already."""

    def __init__(self, session: Callable[[], ReplSession]) -> None:
        super().__init__()
        self._session = session

    async def load(self) -> AsyncGenerator[str, None]:
        session = self._session()
        if not session.has_history:
            await asyncio.get_running_loop().run_in_executor(None, session.read_history)
        for command in reversed(session.history):
            yield command

    def load_history_strings(self) -> Iterable[str]:
        return reversed(self._session().history)

    def append_string(self, string: str) -> None:
        pass

    def store_string(self, string: str) -> None:
        pass


def lexer(engine: str) -> Lexer:
    """Colours for an engine's language; none for one that pygments does not know."""
    from prompt_toolkit.lexers import PygmentsLexer
    from pygments.lexers import get_lexer_by_name
    from pygments.util import ClassNotFound

    for name in languages(engine):
        try:
            found: Any = get_lexer_by_name(name)
        except ClassNotFound:
            continue
        return PygmentsLexer(type(found))
    return SimpleLexer()


def languages(engine: str) -> list[str]:
    """What the language of an engine may be called. A kernel's name mostly says it: python3, julia-1.11, bash."""
    if not engine.startswith("jupyter:"):
        return [LEXERS[engine]] if engine in LEXERS else []
    kernel = engine.removeprefix("jupyter:").partition("@")[0].lower()
    first = kernel.partition("-")[0]
    return [
        kernel,
        first,
        first.rstrip("0123456789."),
        {"ir": "r", "xcpp17": "cpp", "xpython": "python"}.get(kernel, ""),
    ]
