"""What a value has to show beside its text, by the protocol of notebooks: `_repr_mimebundle_`, `_repr_html_`,
`_repr_png_` and their like; and any bundle of MIME types as bytes.

A method that fails, or answers what cannot be shown, costs its own part, which then says so. Knows no frames, no
bounds and no executions.
"""

from __future__ import annotations

import types
from functools import partial
from json import JSONEncoder
from typing import Any, Callable, Dict, FrozenSet, List, Mapping, Optional, Tuple

from omega_sessiond.hosts import border

TEXT = "text/plain"
UNKNOWN = "application/octet-stream"

METHODS = (
    ("text/html", "_repr_html_"),
    ("text/markdown", "_repr_markdown_"),
    ("image/svg+xml", "_repr_svg_"),
    ("image/png", "_repr_png_"),
    ("application/pdf", "_repr_pdf_"),
    ("image/jpeg", "_repr_jpeg_"),
    ("text/latex", "_repr_latex_"),
    ("application/json", "_repr_json_"),
)

CANARY = "_ipython_canary_method_should_not_exist_"
"""Who has this has everything: its __getattr__ answers whatever it is asked, and means nothing by it. The name is
IPython's, which some such objects know and deny."""

PLAIN: FrozenSet[type] = frozenset((
    bool, bytearray, bytes, complex, dict, float, frozenset, int, list, memoryview, range, set, slice, str, tuple, type,
    type(None), type(...), type(NotImplemented),
    types.BuiltinFunctionType, types.FunctionType, types.GeneratorType, types.MethodType, types.ModuleType,
))  # fmt: skip
"""Types whose values have nothing but their text: most of what is displayed, known at a glance."""

METADATA_BYTES = 16 * 1024
"""Of one part's metadata as JSON. It says how to show the part (width, height), and every listing carries it."""

REASON_CHARS = 300

_ALPHANUMERIC = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_TOKEN = _ALPHANUMERIC.union("!#$&^_.+-")
NAME_CHARS = 127
"""Of a type or subtype. Source: RFC 6838, 4.2."""

_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="
_dumps: Callable[[Any], str] = JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode

Bundle = Dict[str, Any]
Run = Callable[..., Any]


class Broken:
    """Stands in a bundle for what could not be had."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class Part:
    """One representation as bytes. `omitted` says why it has none. `encoding`: text (UTF-8), json or binary."""

    __slots__ = ("body", "encoding", "metadata", "mime", "omitted")

    def __init__(self, mime: str, encoding: str, body: bytes, metadata: Optional[str], omitted: str = "") -> None:
        self.mime = mime
        self.encoding = encoding
        self.body = body
        self.metadata = metadata
        self.omitted = omitted


# ---- what a value has to show; all of it is user code ----


def describe(value: object, run: Run = border.run_user) -> Optional[Tuple[Bundle, Bundle]]:
    """The value's bundle and its metadata, each by MIME type; None for most values, which have their text only.
    Interrupts are raised, whatever else the value does is a Broken in the bundle. `run` is border.call_user where user
    code asks."""
    kind = type(value)
    if kind in PLAIN or issubclass(kind, type):
        return None
    data: Bundle = {}
    metadata: Bundle = {}
    try:
        if run(getattr, value, CANARY, None) is not None:
            return None
        method = run(getattr, value, "_repr_mimebundle_", None)
    except KeyboardInterrupt:
        raise
    except BaseException:  # it raises whatever it is asked for
        return None
    if callable(method):
        found = _call(run, partial(method, include=None, exclude=None), "_repr_mimebundle_")
        _take_bundle(run, found, data, metadata)
    for mime, name in METHODS:
        if mime not in data:
            _take(run, value, mime, name, data, metadata)
    return (data, metadata) if data else None


def _take_bundle(run: Run, found: Any, data: Bundle, metadata: Bundle) -> None:
    described: Any = None
    if type(found) is tuple and len(found) == 2:
        found, described = found
    if _is(found, dict):
        found = _call(run, partial(dict, found), "_repr_mimebundle_")
    if _is(described, dict):
        described = _call(run, partial(dict, described), "_repr_mimebundle_")
    if type(found) is dict:
        data.update(found)
        metadata.update(described if type(described) is dict else {})
    elif found is not None:
        is_told = type(found) is Broken
        data[UNKNOWN] = found if is_told else Broken("_repr_mimebundle_ returned %s" % _name(found))


def _take(run: Run, value: object, mime: str, name: str, data: Bundle, metadata: Bundle) -> None:
    try:
        method = run(getattr, value, name, None)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a property, a __getattr__
        data[mime] = Broken(told(name, error))
        return
    found = _call(run, method, name) if callable(method) else None
    if type(found) is tuple and len(found) == 2 and _is(found[1], dict):
        found, metadata[mime] = found
    if found is None:
        return
    if mime == "application/json" and _is(found, str):  # as in IPython: a document, not a string
        found = _utf8(str.__str__(found))
    if not _is(found, str, bytes, bytearray, memoryview, list, dict, Broken):
        found = Broken("%s returned %s" % (name, _name(found)))
    data[mime] = found


def _call(run: Run, method: Callable[[], Any], name: str) -> Any:
    try:
        return run(method)
    except KeyboardInterrupt:
        raise
    except NotImplementedError:
        return None
    except BaseException as error:  # user code
        return Broken(told(name, error))


def _is(value: object, *kinds: type) -> bool:
    """isinstance, which would ask the value itself for its class."""
    return issubclass(type(value), kinds)


def told(name: str, error: BaseException) -> str:
    """What became of something: the reason for which a part is omitted."""
    try:
        message = border.call_user(str, error)
    except Exception:
        message = ""
    said = " ".join(str.__str__(message).split())
    return ("%s raised %s%s" % (name, _name(error), said and ": " + said))[:REASON_CHARS]


def _name(value: object) -> str:
    return str.__str__(type.__getattribute__(type(value), "__name__"))


# ---- bundles as bytes ----


def encode(data: Mapping[str, Any], metadata: Optional[Mapping[str, Any]] = None) -> List[Part]:
    """The parts of a bundle but for its plain text, which belongs to the output. Text is UTF-8; a str for what is
    binary is base64, as kernels send it; anything may be bytes; what is left is JSON."""
    described = metadata or {}
    common = {name: value for name, value in described.items() if type(name) is str and "/" not in name}
    parts = []
    for key, value in data.items():
        name = str.__str__(key) if _is(key, str) else ""
        mime = name.partition(";")[0].strip().lower()
        if mime == TEXT or (value is None and not is_json(mime)):
            continue
        if not _is_type(mime):
            mime, value = UNKNOWN, Broken("%r is no MIME type" % (mime[:80] or _name(key)))
        parts.append(_part(mime, value, {**common, **_dict(described.get(name))}))
    return parts


def _is_type(mime: str) -> bool:
    top, slash, sub = mime.partition("/")
    return bool(slash) and all(
        0 < len(name) <= NAME_CHARS and name[0] in _ALPHANUMERIC and _TOKEN.issuperset(name) for name in (top, sub)
    )


def _dict(value: Any) -> Dict[str, Any]:
    return value if _is(value, dict) else {}


def _part(mime: str, value: Any, metadata: Dict[str, Any]) -> Part:
    encoding = "json" if is_json(mime) else "binary" if is_binary(mime) else "text"
    takes_json = encoding == "json" or (encoding == "text" and not mime.startswith("text/"))
    if type(value) is Broken:
        return Part(mime, encoding, b"", None, value.reason)
    try:
        body, encoding = border.call_user(_body, value, encoding, takes_json)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # what a user's own dict or str makes of it
        return Part(mime, encoding, b"", None, told("sending it", error))
    return Part(mime, encoding, body, _metadata(metadata) if metadata else None)


def _body(value: Any, encoding: str, takes_json: bool) -> Tuple[bytes, str]:
    if _is(value, bytes, bytearray, memoryview):
        return bytes(value), encoding
    if encoding == "json" or not _is(value, str):
        if not takes_json:
            raise TypeError("neither text nor bytes, but %s" % _name(value))
        return _utf8(border.call_user(_dumps, value)), "json"
    text = str.__str__(value)
    if encoding == "text":
        return _utf8(text), encoding
    packed = _utf8(text).translate(None, b" \t\r\n")
    if packed.translate(None, _BASE64):
        raise ValueError("a str stands for base64 here, and this is none")
    decoded: bytes = border.import_late("binascii").a2b_base64(packed)
    return decoded, encoding


def base64(data: bytes) -> str:
    # A shared object that takes longer to load than this module, and few sessions need it.
    text: bytes = border.import_late("binascii").b2a_base64(data, newline=False)
    return text.decode("ascii")


def _metadata(metadata: Dict[str, Any]) -> str:
    try:
        text: str = border.call_user(_dumps, metadata)
        if len(text) > METADATA_BYTES:
            raise ValueError("larger than %d bytes" % METADATA_BYTES)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _dumps({"omitted": str(error)[:REASON_CHARS]})
    return text


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")


def is_json(mime: str) -> bool:
    return mime == "application/json" or mime.endswith("+json")


def is_binary(mime: str) -> bool:
    """Whether a str of this type is base64, as in Jupyter's messages."""
    if mime.endswith("+xml"):
        return False
    return mime.partition("/")[0] in ("image", "audio", "video", "font") or mime in ("application/pdf", UNKNOWN)
