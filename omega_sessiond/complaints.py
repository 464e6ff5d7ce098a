"""What msgspec says of a wrong value, in plain words: for requests and for settings. Knows not whose value it is.

Its messages are not promised; tests hold the forms that are read here.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping

_KINDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "object": "an object",
    "array": "an array",
    "null": "null",
}

MISSING = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def sentence(what: str, patterns: Mapping[str, str], name_rule: str) -> str:
    """`Expected `str` of length >= 1` → expected a string that is not empty. `patterns` says what is expected where a
    text must match one of these, `name_rule` where it must match another."""

    def spoken(match: re.Match[str]) -> str:
        return " or ".join(_KINDS.get(word, word) for word in match[1].split(" | "))

    if match := re.fullmatch(r"Expected `str` matching regex '(.*)'", what, re.DOTALL):
        return patterns.get(match[1].replace("\\\\", "\\"), name_rule)
    text = re.sub(r"`([a-z| ]+)`", spoken, what)
    text = text.replace("Invalid enum value", "there is no choice")
    text = text.replace("of length >= 1", "that is not empty")
    return text[:1].lower() + text[1:]


def about_setting(what: str, name: str, place: str, patterns: Mapping[str, str]) -> str:
    """What is wrong with setting `name`, or with what it has of its own; `place` (" in FILE") says where it stands."""
    for form, wrong in ((MISSING, "missing"), (UNKNOWN, "unknown")):
        if found := form.fullmatch(what):
            return f"Setting '{name}.{found[1]}'{place} is {wrong}"
    return f"Setting '{name}'{place}: {sentence(what, patterns, 'expected another text')}"


def choices(annotation: object) -> list[str]:
    """The words of which one may stand where this is the type."""
    if typing.get_origin(annotation) is typing.Literal:
        return list(typing.get_args(annotation))
    return [word for part in typing.get_args(annotation) for word in choices(part)]
