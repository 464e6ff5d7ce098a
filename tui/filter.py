"""The filter line of the session table: `text`, `st:busy`, `eng:python`, `label:team=red`, each with `!` for not.

All words must hold. Text is looked for in names and last commands, without regard to case; the others match from the
start, so that `st:b` is busy. Pure.
"""

from __future__ import annotations

from collections.abc import Callable

from tui.model import Session
from tui.roles import look_of

Test = Callable[[Session], bool]

HELP = "text  st:busy  eng:python  label:key=value  !not"


def parse(text: str) -> Test:
    """The test that a filter line stands for."""
    tests = [_word(word) for word in text.split()]
    return lambda session: all(test(session) for test in tests)


def _word(word: str) -> Test:
    if word.startswith("!") and len(word) > 1:
        positive = _word(word[1:])
        return lambda session: not positive(session)
    field, colon, value = word.partition(":")
    if colon:
        match field.lower():
            case "st" | "state":
                return lambda session: session.state.startswith(value) or look_of(session.state).word.startswith(value)
            case "eng" | "engine":
                return lambda session: session.engine.startswith(value)
            case "label":
                return _label(value)
    needle = word.casefold()
    return lambda session: needle in session.name.casefold() or needle in (session.last_command or "").casefold()


def _label(text: str) -> Test:
    key, equals, value = text.partition("=")
    if not equals:
        return lambda session: any(name.startswith(key) for name in session.labels)
    return lambda session: session.labels.get(key, "").startswith(value) and key in session.labels
