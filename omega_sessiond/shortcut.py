"""The fast path of `omegactl exec NAME -c CODE`: one request, its answer printed, and gone.

Imports nothing but built-in modules, for each import costs as much as the request itself. It deals with the plain case
alone, a command in a session that exists and ends within a moment; everything else goes to `cli`, with what has been
begun so far, so that nothing is asked twice under another name.
"""

import posix
import sys

from omega_sessiond import paths

WAIT_S = 0.25
"""How long the daemon may take to answer before the long way shows the output as it comes. Larger delays the first
output of long commands, smaller sends more commands the long way, which costs 50 ms of imports."""

MAX_HEAD_BYTES = 65536

NAME_LETTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")

INTERRUPTED = 130
CANNOT_WRITE = 125
EXIT_CODES = {b"ok": 0, b"error": 1}

SPEAKING = (b"omega-lost", b"omega-truncated", b"omega-resumed-from")
"""Headers of what has to be told: the long way does that."""
TO_A_PERSON = (b"omega-data", b"omega-should-exit")
"""And of what somebody at a terminal is told: how to get a picture, that exit() ends no session."""


class Begun:
    """What the fast path leaves to the long way: the key of its request and what came of it."""

    def __init__(self) -> None:
        self.idempotency_key = posix.urandom(16).hex()
        self.sent = False
        self.execution_id: int | None = None
        self.interrupted = False


def main() -> int:
    """The command `omegactl`; answers its exit code."""
    begun = None
    try:
        arguments = sys.argv[1:]
        if len(arguments) == 4 and arguments[0] == "exec" and arguments[2] == "-c":
            path = _socket_path()
            if path is not None and _is_plain(arguments[1], arguments[3]):
                begun = Begun()
                _attempt(begun, path, arguments[1], arguments[3])
    except KeyboardInterrupt:
        if begun is None or not begun.sent:
            return INTERRUPTED
        begun.interrupted = True
    from omega_sessiond import cli

    return cli.main(begun=begun)


def _is_plain(name: str, code: str) -> bool:
    """Whether the name needs no quoting and the code is text that JSON can carry."""
    try:
        code.encode()
    except UnicodeEncodeError:
        return False
    return bool(code) and 0 < len(name) <= 58 and NAME_LETTERS.issuperset(name) and name[0] not in "._-"


def _quoted(code: str) -> str:
    """The code as a JSON string. Loading what escapes everything costs half of what asking does: seldom needed."""
    escaped = code.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    if escaped.isascii() and escaped.isprintable():
        return f'"{escaped}"'
    from _json import encode_basestring_ascii

    return encode_basestring_ascii(code)


def _socket_path() -> str | None:
    """The daemon's socket, where that takes no more than a look: None when a path must be worked out."""
    state_dir = paths.env("SESSION_DIR")
    if state_dir:
        if not state_dir.startswith("/") or state_dir.endswith("/") or "//" in state_dir or "/." in state_dir:
            return None
        return paths.api_socket(state_dir)
    try:
        file = posix.open(paths.config_file(), posix.O_RDONLY | posix.O_CLOEXEC)
    except OSError:
        pass
    else:
        settings = posix.read(file, MAX_HEAD_BYTES)
        posix.close(file)
        if b"session_dir" in settings or len(settings) == MAX_HEAD_BYTES:
            return None
    return paths.api_socket(paths.default_state_dir())


def _attempt(begun: Begun, path: str, name: str, code: str) -> None:
    """Ask; where a whole plain answer comes, print it and end the process. Returns when there is more to do."""
    import _socket

    body = f'{{"command":{_quoted(code)},"wait_s":{WAIT_S},"create":false,"idempotency_key":"{begun.idempotency_key}"}}'
    request = (
        f"POST /api/sessions/{name}/execute HTTP/1.1\r\nHost: localhost\r\nAccept: text/plain\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    received = bytearray()
    try:
        connection.connect(path)
        if hasattr(_socket, "SO_PEERCRED"):
            owner = connection.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8]
            if int.from_bytes(owner, sys.byteorder) not in (posix.getuid(), 0):
                return  # nobody else gets to read the code: the long way says whose daemon it is
        begun.sent = True
        connection.sendall(request.encode("ascii"))
        end = -1
        while end < 0:
            data = connection.recv(65536)
            if not data or len(received) > MAX_HEAD_BYTES:
                return
            received += data
            end = received.find(b"\r\n\r\n")
        head = _Head(bytes(received[:end]))
        del received[: end + 4]
        begun.execution_id = head.execution_id
        if not head.is_final:
            return
        while len(received) < head.length:
            data = connection.recv(1 << 20)
            if not data:
                return
            received += data
    except OSError:
        return
    finally:
        connection.close()
    _print(received)
    # Straight out: tearing down the interpreter costs as much as the request.
    posix._exit(head.exit_code)


class _Head:
    """Status line and headers of a reply; a head of another kind than expected is not final."""

    def __init__(self, head: bytes) -> None:
        lines = head.split(b"\r\n")
        headers = {}
        for line in lines[1:]:
            field, _, value = line.partition(b":")
            headers[field.strip().lower()] = value.strip()
        number = headers.get(b"omega-execution-id", b"")
        length = headers.get(b"content-length", b"")
        status = headers.get(b"omega-status", b"")
        self.execution_id = int(number) if number.isdigit() else None
        self.length = int(length) if length.isdigit() else 0
        self.exit_code = EXIT_CODES.get(status, 1)
        self.is_final = (
            lines[0].startswith(b"HTTP/1.1 200")
            and length.isdigit()
            and b"transfer-encoding" not in headers
            and status in EXIT_CODES
            and not any(field in headers for field in SPEAKING)
            and not (any(name in headers for name in TO_A_PERSON) and posix.isatty(2))
        )


def _print(output: bytearray) -> None:
    """All of it to standard output. A reader that has gone ends us as it ends every filter: by SIGPIPE."""
    rest = memoryview(output)
    while rest:
        try:
            rest = rest[posix.write(1, rest) :]
        except BlockingIOError:
            import select

            select.select([], [1], [])
        except BrokenPipeError:
            import signal

            signal.signal(signal.SIGPIPE, signal.SIG_DFL)
            posix.kill(posix.getpid(), signal.SIGPIPE)
        except OSError as error:
            posix.write(2, f"omegactl: cannot write the output: {error.strerror}\n".encode())
            posix._exit(CANNOT_WRITE)
        except KeyboardInterrupt:
            posix._exit(INTERRUPTED)
