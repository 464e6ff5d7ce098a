"""The frames a host sends, as the daemon reads them. What they mean and how they are cut is said in `wire`.

Data only. A host runs whatever its user runs: a number that no journal can hold makes a frame wrong, not the journal
fail.
"""
# Annotations are evaluated where they stand: as strings each would be compiled for the decoder, at every start.

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from omega_sessiond.messages import PartRole, Stream

CHECKPOINT_PATTERN = r"^[A-Za-z0-9]{1,64}\Z"
"""A checkpoint's id, which is also the name of its directory."""

Number = Annotated[int, Meta(ge=0, le=2**53)]
Timestamp = Annotated[float, Meta(ge=0, le=253_402_300_799)]
"""Up to the end of the year 9999, as far as ISO 8601 goes."""
MIME_PATTERN = r"^[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*\Z"
"""A type without parameters: safe in a header as it stands."""


class HostError(Struct, frozen=True):
    name: str
    message: str
    traceback: str


class Took(Struct, frozen=True, tag_field="t", tag="took"):
    """The host is about to run execution `id`. Sent with the frame that follows it, logged before it runs."""

    seq: Number
    id: Number
    at: Timestamp


class OutputFrame(Struct, frozen=True, tag_field="t", tag="output"):
    """`off` is the byte offset of `text` in the execution's combined output; `id` 0 is output of no execution."""

    seq: Number
    id: Number
    s: Stream
    off: Number
    text: str


class PartFrame(Struct, frozen=True, tag_field="t", tag="data"):
    """Bytes of part `n` of execution `id`, from `off` on, base64 in the frame. The first one describes the part: `mime`
    is None in those that follow. `meta` is JSON as text, `place` where in the output the part was shown."""

    seq: Number
    id: Number
    n: Number
    off: Number = 0
    body: bytes = b""
    size: Number = 0
    bundle: Number = 0
    role: PartRole = "display"
    place: Number = 0
    mime: Annotated[str, Meta(pattern=MIME_PATTERN, max_length=255)] | None = None
    enc: Literal["text", "json", "binary"] = "binary"
    meta: str | None = None
    omitted: str | None = None


class InputFrame(Struct, frozen=True, tag_field="t", tag="input_request"):
    seq: Number
    id: Number
    prompt: str
    secret: bool = False


class ResultFrame(Struct, frozen=True, tag_field="t", tag="result"):
    """Execution `id` ended. `displayed`: a value was shown (its text is the `result` stream). `lost`: why the engine's
    state went with it; the next execution is told."""

    seq: Number
    id: Number
    status: Literal["ok", "error", "interrupted"]
    at: Timestamp
    duration_ms: Annotated[float, Meta(ge=0)]
    count: Number
    displayed: bool = False
    error: HostError | None = None
    should_exit: bool = False
    dropped: Number = 0
    lost: str | None = None


class SavedFrame(Struct, frozen=True, tag_field="t", tag="saved"):
    """A save has ended: with the `reason` when it came to nothing."""

    seq: Number
    id: Annotated[str, Meta(pattern=CHECKPOINT_PATTERN)]
    reason: str | None = None
    at: Timestamp = 0
    execution_id: Number = 0
    size: Number = 0
    sha256: str = ""
    variables: Number = 0
    left_out: dict[str, str] = {}
    obstacles: list[str] = []
    duration_ms: Annotated[float, Meta(ge=0)] = 0.0


class LoadedFrame(Struct, frozen=True, tag_field="t", tag="loaded"):
    """A checkpoint was taken up, but for what is `lost`; with a `reason` it was not."""

    seq: Number
    id: str
    reason: str | None = None
    lost: dict[str, str] = {}


class Bye(Struct, frozen=True, tag_field="t", tag="bye"):
    """The host leaves of its own will; nothing follows."""

    seq: Number
    reason: str


class Reply(Struct, frozen=True, tag_field="t", tag="reply"):
    """The answer to complete, inspect or is_complete; not numbered, not logged."""

    req: Number
    body: dict[str, Any]


class Note(Struct, frozen=True, tag_field="t", tag="note"):
    """What there is to say of the session while a command runs; None takes it back. Not numbered, not logged."""

    text: str | None = None


class HostHello(Struct, frozen=True, tag_field="t", tag="hello"):
    """The host's introduction. `last_taken` 0: none; `running` 0: at rest; frames log_from..log_to are in its log.
    `asks`: the execution that waits for input, 0 for none, and whether the answer is a secret."""

    wire: int
    session: str
    pid: Number
    last_taken: Number = 0
    running: Number = 0
    log_from: Number = 1
    log_to: Number = 0
    version: str = ""
    engine_version: str = ""
    features: list[str] = []
    asks: Number | None = None
    secret: bool = True


HostFrame = (
    Took
    | OutputFrame
    | PartFrame
    | InputFrame
    | ResultFrame
    | SavedFrame
    | LoadedFrame
    | Bye
    | Reply
    | Note
    | HostHello
)
