"""The border between the host's code and the user's: who is running, and may a signal be handled here?

User code runs inside `run_user` and `call_user` and nowhere else. A signal that comes while a function of the host's
own is at work (writing a frame, waiting for an answer) waits until that function is done, so no exception ever tears
the host's state; this holds for SIGINT and for every handler the user installs, which is why `signal.signal` is
replaced. Knows frames and signals; nothing of sockets, output or engines.
"""

from __future__ import annotations

import _signal as _c_signal  # type: ignore[import-not-found]
import signal
import sys
from _thread import get_ident
from importlib import import_module
from types import FrameType, ModuleType
from typing import Any, Callable, Dict, Iterable, List, Optional, Set

Handler = Any  # what signal.signal takes: a callable, SIG_IGN, SIG_DFL

pending: List[int] = []
"""Signals that came at a wrong moment, oldest first. Truth value read on hot paths."""

interrupts = 0
"""How many times SIGINT has struck, wherever it did."""

_own: Set[int] = set()
"""Identities of the global namespaces of the host's own modules. Files would not do: the user may be running another
copy of this very program from the same place."""

_handlers: Dict[int, Handler] = {}
"""What the user wants done at a signal, as signal.getsignal() tells it, where `_caught` stands in for it."""

_plain: Dict[int, Handler] = {}
"""Where the user has set a signal to be ignored, or to do what it does by default."""

_real_signal = signal.signal
_real_getsignal = signal.getsignal
_gettrace, _settrace = sys.gettrace, sys.settrace
_main_thread = get_ident()
_forked = False


def _nothing() -> None:
    pass


on_deferred: Callable[[], None] = _nothing
"""Called from the handler when a signal has been put off: wakes whoever waits."""

on_terminate: Callable[[], None] = _nothing
"""Called from the handler of SIGTERM, wherever it struck."""

interrupt_task: Optional[Callable[[FrameType], bool]] = None
"""Asked before KeyboardInterrupt is raised; True when the interrupt was dealt with otherwise (asyncio)."""


def own(modules: Iterable[ModuleType]) -> None:
    """Take these modules for the host's own code."""
    _own.update(id(vars(module)) for module in modules)


def is_own(frame: FrameType) -> bool:
    return id(frame.f_globals) in _own


def run_user(function: Callable[..., Any], *args: Any) -> Any:
    """Run a piece of the user's command. A signal put off until now strikes first; a trace function ends with it.

    It is taken off within the very line of the call: on a line of its own a debugger would stop there.
    """
    if pending:
        deliver()
    return (function(*args), _gettrace() is None or _settrace(None))[0]


def call_user(function: Callable[..., Any], *args: Any) -> Any:
    """Call back into user code (a __str__, a stream the user put in place) on the way of something else."""
    return function(*args)


_BORDERS = (run_user.__code__, call_user.__code__)


def import_late(name: str) -> ModuleType:
    """A module that the host itself needs, and not at once. A file of that name in the session's directory is passed
    over: it is for the session's code to ask for what lies there."""
    if name in sys.modules:
        return sys.modules[name]
    path = sys.path
    sys.path = [entry for entry in path if entry]
    try:
        return import_module(name)
    finally:
        sys.path = path


def _in_user_code(frame: Optional[FrameType]) -> bool:
    """Whether user code is at work in `frame`, with none of the host's functions between it and the border.

    Where neither is met (a greenlet's stack ends early) it is user code: the host's own stack always shows the host.
    """
    while frame is not None:
        if frame.f_code in _BORDERS:
            return True
        if id(frame.f_globals) in _own:
            return False
        frame = frame.f_back
    return True


def _caught(signum: int, frame: Optional[FrameType]) -> None:
    global interrupts
    if signum == signal.SIGINT:
        interrupts += 1
    elif signum == signal.SIGTERM:
        on_terminate()
    if _in_user_code(frame):
        if signum in pending:
            pending.remove(signum)
        if _is_interrupt(signum) and frame is not None and interrupt_task is not None and interrupt_task(frame):
            return
        _handle(signum, frame)
        return
    if signum not in pending:
        pending.append(signum)
    on_deferred()


def _handle(signum: int, frame: Optional[FrameType]) -> None:
    if _is_interrupt(signum):
        raise KeyboardInterrupt
    handler = _handlers.get(signum)
    if callable(handler):
        handler(signum, frame)


def _is_interrupt(signum: int) -> bool:
    """Whether the signal means KeyboardInterrupt: SIGINT and SIGTERM do, unless the user wants something else."""
    handler = _handlers.get(signum, signal.SIG_DFL)
    if signum == signal.SIGINT:
        return handler in (signal.default_int_handler, signal.SIG_DFL)
    return signum == signal.SIGTERM and handler == signal.SIG_DFL


def deliver() -> None:
    """Let what was put off strike here, whatever is on the stack: for places of the host's that are safe."""
    while pending:
        _handle(pending.pop(0), sys._getframe())


def interrupt_waits() -> bool:
    """Whether one was put off; unlike the user's own signals it is to end what the main thread does."""
    if not pending or get_ident() != _main_thread:
        return False
    return any(signum in pending and _is_interrupt(signum) for signum in (signal.SIGINT, signal.SIGTERM))


def deliver_interrupts() -> None:
    """As `deliver`, for interrupts alone: the user's own handlers wait until the host is through."""
    if interrupt_waits():
        discard_interrupts()
        raise KeyboardInterrupt


def release() -> None:
    """The last act of a host function that user code called: what came meanwhile strikes now.

    Not when the host itself is further out on the stack (a finalizer that prints while a frame is written), and only
    in the main thread.
    """
    if pending and get_ident() == _main_thread:
        frame = sys._getframe(2)
        if _in_user_code(frame):
            while pending:
                _handle(pending.pop(0), frame)


def discard_interrupts() -> None:
    """Forget interrupts that came too late or too early for any command. Other signals keep waiting."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        while signum in pending:
            pending.remove(signum)


def take_deferred() -> List[Callable[[], None]]:
    """The user's own handlers whose signals came at rest: to be called as user code."""
    discard_interrupts()
    calls = []
    while pending:
        signum = pending.pop(0)
        handler = _handlers.get(signum)
        if callable(handler):
            calls.append(_bound(handler, signum))
    return calls


def _bound(handler: Handler, signum: int) -> Callable[[], None]:
    return lambda: handler(signum, None)


def cover() -> None:
    """Hear of whatever the user will handle from now on."""
    _handlers[signal.SIGINT] = signal.default_int_handler
    signal.signal = _signal
    signal.getsignal = _getsignal


def guard() -> None:
    """Take over SIGINT and SIGTERM."""
    _c_signal.signal(_c_signal.SIGINT, _caught)
    _c_signal.signal(_c_signal.SIGTERM, _caught)


def _signal(signalnum: int, handler: Handler) -> Handler:
    """Set the action for the given signal, as signal.signal does; a Python handler runs in user code only."""
    if _forked:
        return _real_signal(signalnum, handler)
    signum = int(signalnum)
    previous = _getsignal(signum)
    plain = handler in (signal.SIG_IGN, signal.SIG_DFL)
    if signum == signal.SIGTERM:
        # The host leaves at SIGTERM whatever the user makes of it.
        _real_signal(signalnum, _caught if plain or callable(handler) else handler)
    elif plain and not (signum == signal.SIGINT and handler == signal.SIG_DFL):
        _real_signal(signalnum, handler)
        _handlers.pop(signum, None)
        _plain[signum] = handler
        return previous
    else:
        # SIGINT by default would end the process and every variable with it: here it interrupts.
        _real_signal(signalnum, _caught if plain or callable(handler) else handler)
    _handlers[signum] = handler
    _plain.pop(signum, None)
    return previous


def handlers() -> Dict[int, Handler]:
    """What the user has set to be done at signals, by number."""
    usual = (signal.SIGINT, signal.default_int_handler)
    return {signum: what for signum, what in {**_plain, **_handlers}.items() if (signum, what) != usual}


def _getsignal(signalnum: int) -> Handler:
    """The current action for the signal, as signal.getsignal tells it."""
    if not _forked:
        signum = int(signalnum)
        if signum in _handlers:
            return _handlers[signum]
        if signum == signal.SIGTERM:
            return signal.SIG_DFL
    return _real_getsignal(signalnum)


def become_child() -> None:
    """In a forked child: signals do there what the user set, at once, and SIGTERM ends it."""
    global _forked, _main_thread, on_deferred, on_terminate
    _forked = True
    _main_thread = get_ident()
    pending.clear()
    on_deferred = on_terminate = _nothing
    _real_signal(signal.SIGTERM, signal.SIG_DFL)
    for signum, handler in _handlers.items():
        _real_signal(signum, handler)
