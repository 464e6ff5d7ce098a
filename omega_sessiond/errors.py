"""Every failure the program names, in one tree. Imports nothing, so that any layer may raise them.

    OmegaError
    ├── BadRequest              400  the request is wrong and stays wrong when repeated
    │   ├── InvalidJson             the body is not JSON
    │   ├── InvalidName             a session name outside the grammar
    │   ├── InvalidField            a field of the wrong type or value
    │   ├── UnknownField            a field the route does not know
    │   ├── InvalidImport           a file that is no exported session, or a torn one
    │   ├── ForeignState            saved variables of somebody else, whom nobody said to trust
    │   └── EngineUnavailable       no such engine or interpreter here
    ├── Unauthorized            401  TCP without the token
    ├── Forbidden               403  another user, a foreign Origin or Host
    ├── NotFound                404
    │   ├── SessionNotFound
    │   ├── ExecutionNotFound
    │   ├── SnapshotNotFound
    │   ├── DataNotFound            no such part, or one that was omitted
    │   └── RouteNotFound
    ├── MethodNotAllowed        405
    ├── RequestTimeout          408  half a request, then silence
    ├── Conflict                409  right request, wrong moment
    │   ├── SessionExists
    │   ├── SnapshotExists
    │   ├── SessionBusy             needs an engine at rest
    │   ├── IdempotencyConflict     the key belongs to another command
    │   ├── NotWaitingInput
    │   ├── CannotFork              what the session holds beside its variables, which no fork takes along
    │   └── CannotSave              the session's state cannot be saved just now, and why
    ├── BodyTooLarge            413
    ├── HeadersTooLarge         431
    ├── QueueFull               429
    ├── HostFailed              502  the session's process could not be started or reached
    ├── Stopping                503  the daemon is leaving; the next one will answer
    ├── JournalError            500
    │   ├── JournalCorrupt
    │   ├── JournalReadOnly
    │   ├── JournalFull         507
    │   └── JournalTooNew
    ├── ConfigError                  the settings cannot be used (no daemon, hence no status)
    ├── AlreadyRunning               another daemon serves the state directory
    ├── RuntimeDirError              the runtime directory is not ours alone
    ├── DaemonUnreachable            client side: nobody answers, and why
    ├── ProtocolError           500  a peer broke the contract
    └── InternalError           500  a defect of ours

Each class carries `code` (stable, for programs), `http_status`, `exit_code` (of omegactl) and a `hint`, the next step
for the reader. Lower layers raise by class and know no HTTP; the server and the command line translate once.
"""

from __future__ import annotations


class OmegaError(Exception):
    """A failure with a name. `str(error)` says what failed and on what; `hint` what to do next."""

    code = "error"
    http_status = 500
    exit_code = 125
    hint = ""

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        if hint is not None:
            self.hint = hint

    def as_json(self) -> dict[str, str]:
        """The body of the error reply: `{"error", "code", "hint"}`."""
        return {"error": self.message, "code": self.code, "hint": self.hint}


class BadRequest(OmegaError):
    code = "bad_request"
    http_status = 400
    exit_code = 2
    hint = "See docs/API.md for what the route takes."


class InvalidJson(BadRequest):
    code = "invalid_json"
    hint = 'Send one JSON object, for instance {"command": "1 + 1"}.'


NAME_RULE = "is 1 to 58 of the letters A-Z a-z, digits, '.', '_' and '-', and starts with a letter or digit"
"""messages.NAME_PATTERN in words."""


class InvalidName(BadRequest):
    code = "invalid_name"
    hint = f"A session name {NAME_RULE}."


class InvalidField(BadRequest):
    code = "invalid_field"


class UnknownField(BadRequest):
    code = "unknown_field"


class InvalidImport(BadRequest):
    code = "invalid_import"
    hint = "Export the session again, and copy the whole file."


class ForeignState(BadRequest):
    code = "foreign_state"
    hint = "`trust` (--trust) takes them, when you trust who made the file; `state` false (--no-state) leaves them out."


class EngineUnavailable(BadRequest):
    code = "engine_unavailable"
    hint = "GET /api/engines (omegactl engines) lists the engines of this machine, and why others are missing."


class Unauthorized(OmegaError):
    code = "unauthorized"
    http_status = 401
    exit_code = 3
    hint = "Send 'Authorization: Bearer TOKEN' with the text of the file 'token' in the state directory."


class Forbidden(OmegaError):
    code = "forbidden"
    http_status = 403
    exit_code = 3


class NotFound(OmegaError):
    code = "not_found"
    http_status = 404
    exit_code = 4


class SessionNotFound(NotFound):
    code = "session_not_found"
    hint = "GET /api/sessions lists the sessions; an execute creates one by name."

    def __init__(self, message: str = "Session not found", *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)


class ExecutionNotFound(NotFound):
    code = "execution_not_found"
    hint = "GET /api/sessions/NAME/executions (omegactl history NAME) lists the executions of a session."


class DataNotFound(NotFound):
    code = "data_not_found"
    hint = "`data` of the execution lists what it has."


class SnapshotNotFound(NotFound):
    code = "snapshot_not_found"
    hint = "GET /api/sessions/NAME/snapshots (omegactl snapshots NAME) lists the snapshots of a session."


class RouteNotFound(NotFound):
    code = "route_not_found"
    exit_code = 125
    hint = "docs/API.md lists the routes."


class MethodNotAllowed(OmegaError):
    code = "method_not_allowed"
    http_status = 405


class RequestTimeout(OmegaError):
    code = "request_timeout"
    http_status = 408


class Conflict(OmegaError):
    code = "conflict"
    http_status = 409
    exit_code = 5


class SessionExists(Conflict):
    code = "session_exists"
    hint = "Use it as it is, choose another name, or delete it first."


class SnapshotExists(Conflict):
    code = "snapshot_exists"
    hint = "Choose another name, or delete the snapshot first."


class SessionBusy(Conflict):
    code = "session_busy"
    hint = "Wait for the running command, or interrupt it."


class CannotFork(Conflict):
    code = "cannot_fork"
    hint = "End what it names, then fork again; or fork what is saved: `from_checkpoint` (--from-checkpoint)."


class IdempotencyConflict(Conflict):
    code = "idempotency_conflict"
    hint = "Use a new `idempotency_key` (--key) for a new command."


class NotWaitingInput(Conflict):
    code = "not_waiting_input"
    hint = "The execution has ended or has not asked; GET it to see its status."


class CannotSave(Conflict):
    code = "cannot_save"
    hint = "`checkpoint` of the session (omegactl show NAME) says what is saved and what stands in the way."

    @classmethod
    def without_process(cls, name: str) -> CannotSave:
        """Nor with a checkpoint: it was lost before it was saved."""
        return cls(f"Session '{name}' has no process and no checkpoint", hint="Run a command in it first.")


class BodyTooLarge(OmegaError):
    code = "body_too_large"
    http_status = 413
    exit_code = 2
    hint = "Write the data to a file and read it in the session, or raise max_body_bytes in the settings."


class HeadersTooLarge(OmegaError):
    code = "headers_too_large"
    http_status = 431
    exit_code = 2


class QueueFull(OmegaError):
    code = "queue_full"
    http_status = 429
    exit_code = 5
    hint = "Wait for queued commands to finish, or use another session."


class HostFailed(OmegaError):
    code = "host_failed"
    http_status = 502


class Stopping(OmegaError):
    code = "stopping"
    http_status = 503
    exit_code = 3
    hint = "Repeat the request: the next daemon answers it."


class JournalError(OmegaError):
    code = "journal_error"
    hint = "Run 'omegactl doctor'."


class JournalCorrupt(JournalError):
    code = "journal_corrupt"
    hint = "Keep the file, recover what it holds with 'sqlite3 FILE .recover', and move it away to start afresh."


class JournalReadOnly(JournalError):
    code = "journal_read_only"
    hint = "Make the journal and its directory writable for your user."


class JournalFull(JournalError):
    code = "journal_full"
    http_status = 507
    hint = "Free space on the disk of the state directory; nothing that was journalled is lost."


class JournalTooNew(JournalError):
    code = "journal_too_new"
    hint = "Install the version that wrote it, or a later one."


class ConfigError(OmegaError):
    code = "config_error"
    exit_code = 2


class AlreadyRunning(OmegaError):
    code = "already_running"
    exit_code = 5
    hint = "Stop it first: 'omegactl service stop'."


class RuntimeDirError(OmegaError):
    code = "runtime_dir_error"
    exit_code = 3


class DaemonUnreachable(OmegaError):
    code = "daemon_unreachable"
    exit_code = 3
    hint = "Run 'omegactl doctor'."


class ProtocolError(OmegaError):
    code = "protocol_error"


class InternalError(OmegaError):
    code = "internal_error"
    hint = "The daemon's log has the details: 'omegactl logs'."


def _tree(root: type[OmegaError]) -> dict[str, type[OmegaError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


def rebuild(code: str, message: str, hint: str) -> OmegaError:
    """The exception a daemon raised, from the fields of its reply; an unknown code becomes a plain OmegaError."""
    kind = _tree(OmegaError).get(code)
    if kind is not None:
        return kind(message, hint=hint)
    error = OmegaError(message, hint=hint)
    error.code = code
    return error
