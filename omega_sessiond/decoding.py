"""Bodies and queries as structs, and what is wrong with them in a sentence that names the field.

Knows msgspec and its messages; knows no connection and no route.
"""

from __future__ import annotations

import typing
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from omega_sessiond import complaints
from omega_sessiond.errors import NAME_RULE, BadRequest, InvalidField, InvalidJson, UnknownField
from omega_sessiond.messages import LABEL_FILTER_PATTERN, LABEL_KEY_PATTERN

T = TypeVar("T")

SHOWN_CHARACTERS = 60
"""How much of a name that the client made up is repeated to it."""

_PATTERNS = {
    "^/": "expected an absolute path",
    LABEL_KEY_PATTERN: "expected a string that is not empty and holds no '='",
    LABEL_FILTER_PATTERN: "expected a label's name, or name=value",
}
"""What the patterns of `messages` mean, but for those of names."""


def body(data: bytes, kind: type[T]) -> T:
    """The request in a body. Raises InvalidJson, InvalidField or UnknownField."""
    if not data.strip():
        raise InvalidJson("The body is empty")
    try:
        decoded: T = _decoder(kind).decode(data)  # type: ignore[arg-type]
    except msgspec.ValidationError as error:
        raise _explain(str(error), kind, "Field") from None
    except msgspec.DecodeError as error:
        raise InvalidJson(f"The body is not JSON: {_syntax(str(error))}") from None
    except UnicodeDecodeError:
        raise InvalidJson("The body is not JSON: it is not UTF-8") from None
    except RecursionError:
        raise InvalidJson("The body is nested too deeply") from None
    return decoded


def query(text: str, kind: type[T]) -> T:
    """The parameters of a URL's query; all of them may be left out. Raises InvalidField or UnknownField."""
    if not text:
        return kind()
    values: dict[str, str] = {}
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=20)
    except ValueError:
        raise BadRequest("The query is not a list of name=value in UTF-8") from None
    for name, value in pairs:
        if name in values:
            raise InvalidField(f"Query parameter '{_shown(name)}' is given twice")
        values[name] = value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _explain(str(error), kind, "Query parameter") from None


@cache
def _decoder(kind: type[Any]) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(kind)


def _syntax(message: str) -> str:
    """The parser's complaint, without its own 'JSON is malformed'."""
    if message == "Input data was truncated":
        # Also what it says of a \ud800 without its other half.
        return "it ends too early, or holds half a surrogate pair"
    return message.removeprefix("JSON is malformed: ")


def _shown(name: str) -> str:
    return name if len(name) <= SHOWN_CHARACTERS else name[:SHOWN_CHARACTERS] + "…"


def _explain(message: str, kind: type[Any], noun: str) -> BadRequest:
    """msgspec's message as one of our errors."""
    what, _, place = message.rpartition(" - at ")
    if not what:
        what, place = message, ""
    is_key = place.startswith("`key` in ")
    path = place.removeprefix("`key` in ").strip("`").removeprefix("$").removeprefix(".").replace("[...]", ".*")
    if missing := complaints.MISSING.fullmatch(what):
        return InvalidField(f"{noun} '{_join(path, missing[1])}' is missing")
    if unknown := complaints.UNKNOWN.fullmatch(what):
        return _unknown(unknown[1], path, kind, noun)
    sentence = complaints.sentence(what, _PATTERNS, f"a name {NAME_RULE}")
    if not path:
        return InvalidJson(f"The body: {sentence}")
    choices = _choices_at(kind, path) if what.startswith("Invalid enum value") else []
    return InvalidField(
        f"A name in '{_shown(path)}': {sentence}" if is_key else f"{noun} '{_shown(path)}': {sentence}",
        hint=f"One of: {', '.join(choices)}." if choices else None,
    )


def _choices_at(kind: type[Any], path: str) -> list[str]:
    """The words of which one may stand at `path`."""
    before, _, name = path.rpartition(".")
    owner = _struct_at(kind, before)
    return complaints.choices(typing.get_type_hints(owner).get(name)) if owner is not None else []


def _join(path: str, name: str) -> str:
    return _shown(f"{path}.{name}" if path else name)


def _unknown(name: str, path: str, kind: type[Any], noun: str) -> UnknownField:
    import difflib

    owner = _struct_at(kind, path)
    known = list(owner.__struct_fields__) if owner is not None else []
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"Did you mean '{near[0]}'? " if near else ""
    hint += f"Known: {', '.join(known)}." if known else "It takes none."
    return UnknownField(f"{noun} '{_join(path, name)}' is unknown", hint=hint)


def _struct_at(kind: type[Any], path: str) -> type[Struct] | None:
    """The struct whose fields stand at `path` ("create.limits") of a request."""
    found = _struct_in(kind)
    for part in path.split(".") if path else []:
        if found is None:
            return None
        found = _struct_in(typing.get_type_hints(found).get(part))
    return found


def _struct_in(annotation: object) -> type[Struct] | None:
    if isinstance(annotation, type) and issubclass(annotation, Struct):
        return annotation
    return next((found for part in typing.get_args(annotation) if (found := _struct_in(part)) is not None), None)
