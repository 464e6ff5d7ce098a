"""The synchronous client: what it repeats, what it does not, and that streams lose and double nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from isolation import Place
from omega_sessiond import errors
from omega_sessiond.client import Client, StreamLost, execution_path, find_daemon, session_path, with_query
from omega_sessiond.errors import (
    BodyTooLarge,
    DaemonUnreachable,
    InvalidName,
    OmegaError,
    ProtocolError,
    SessionNotFound,
)
from omega_sessiond.target import Target, find
from stub import Asked, Stub, chunked, json_reply, lines, refusal, reply


@pytest.fixture
def target(place: Place) -> Target:
    return find()


@pytest.fixture
def socket_path(target: Target) -> Path:
    return Path(target.socket_path)


@pytest.fixture
def client(target: Target) -> Iterator[Client]:
    client = Client(target, may_start=False)
    yield client
    client.close()


# ---- requests ----


def test_answer_is_decoded(client: Client, socket_path: Path) -> None:
    """A reply's JSON is the answer, and the request carries the body as JSON."""
    with Stub(socket_path, json_reply({"name": "work"})) as stub:
        assert client.post("/api/sessions", {"name": "work"}) == {"name": "work"}
    assert stub.asked[0].json == {"name": "work"}
    assert stub.asked[0].headers["content-type"] == "application/json"


def test_empty_answer_is_none(client: Client, socket_path: Path) -> None:
    """204 has nothing to decode."""
    with Stub(socket_path, b"HTTP/1.1 204 No Content\r\n\r\n"):
        assert client.request("DELETE", session_path("work")) is None


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("session_not_found", "404 Not Found", SessionNotFound),
        ("invalid_name", "400 Bad Request", InvalidName),
        ("body_too_large", "413 Too Large", BodyTooLarge),
    ],
)
def test_errors_are_the_daemons_own(
    client: Client, socket_path: Path, code: str, status: str, kind: type[OmegaError]
) -> None:
    """The exception is of the daemon's class, with its words and its hint."""
    with Stub(socket_path, refusal(code, status, "these words", "that hint")), pytest.raises(kind) as caught:
        client.get("/api/sessions/x")
    assert (caught.value.message, caught.value.hint) == ("these words", "that hint")


def test_error_of_a_later_version_keeps_its_code(client: Client, socket_path: Path) -> None:
    """A code this client does not know is an OmegaError with that code."""
    with Stub(socket_path, refusal("of_tomorrow", "418 Teapot")), pytest.raises(OmegaError) as caught:
        client.get("/api/health")
    assert caught.value.code == "of_tomorrow"


@pytest.mark.parametrize("answer", [reply(b"<html>", "500 Oops"), reply(b"[]", "400 Bad"), reply(b"{", "200 OK")])
def test_nonsense_is_a_protocol_error(client: Client, socket_path: Path, answer: bytes) -> None:
    """What is not our JSON is told as such, with a piece of it."""
    with Stub(socket_path, answer), pytest.raises(ProtocolError):
        client.get("/api/health")


@pytest.mark.parametrize("cut", [0, 1, 12, 30, 60])
def test_reply_that_broke_off_is_asked_for_again(client: Client, socket_path: Path, cut: int) -> None:
    """However little or much of an answer came before the daemon died, the next one answers the same request."""
    whole = json_reply({"id": 1})
    with Stub(socket_path, whole[:cut], whole) as stub:
        assert client.post("/x", {"idempotency_key": "k"}) == {"id": 1}
    assert stub.asked[0] == stub.asked[1]


def test_a_daemon_that_is_leaving_is_asked_again(client: Client, socket_path: Path) -> None:
    """503 stopping is no answer: the next daemon gives it."""
    with Stub(socket_path, refusal("stopping", "503 Stopping"), json_reply([])) as stub:
        assert client.get("/api/sessions") == []
    assert len(stub.asked) == 2


def test_a_delete_whose_answer_was_lost_is_done(client: Client, socket_path: Path) -> None:
    """When the repeated DELETE finds nothing, the first one did it; one that finds nothing at once says so."""
    absent = refusal("session_not_found", "404 Not Found")
    with Stub(socket_path, b"", absent):
        assert client.request("DELETE", session_path("work")) is None
        with pytest.raises(SessionNotFound):
            client.request("DELETE", session_path("work"))


def test_a_delete_never_takes_a_connection_that_may_be_ending(client: Client, socket_path: Path) -> None:
    """A kept connection that ends under a DELETE would pass for one whose answer was lost: it is not used for it."""
    absent = refusal("session_not_found", "404 Not Found")
    may_close = threading.Event()

    def held_open(asked: Asked) -> Iterator[bytes]:
        yield json_reply([])
        assert may_close.wait(60)

    with Stub(socket_path, held_open, absent):
        assert client.get("/api/sessions") == []
        threading.Timer(0.05, may_close.set).start()
        with pytest.raises(SessionNotFound):
            client.request("DELETE", session_path("work"))


def test_connection_is_kept_and_replaced(client: Client, socket_path: Path) -> None:
    """A kept connection that the daemon closed meanwhile costs nothing but another connection."""
    keep = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\n[]"
    with Stub(socket_path, keep) as stub:
        assert [client.get("/api/sessions") for _ in range(3)] == [[], [], []]
    assert len(stub.asked) == 3


def test_nobody_there_is_said_at_once(target: Target, client: Client) -> None:
    """A client that may start no daemon names the socket and how to start one."""
    with pytest.raises(DaemonUnreachable) as caught:
        client.get("/api/health")
    assert target.socket_path in caught.value.message
    assert "service start" in caught.value.hint


def test_paths_quote_what_they_carry() -> None:
    """A name is one segment of the path, whatever is in it, and absent parameters are left out."""
    assert session_path("../x y") == "/api/sessions/..%2Fx%20y"
    assert execution_path("a", 7) == "/api/sessions/a/executions/7"
    assert with_query("/p", {"a": None, "b": 0, "c": "x&y"}) == "/p?b=0&c=x%26y"
    assert with_query("/p", {"a": None}) == "/p"


# ---- executions ----

FINAL = {"kind": "execution_finished", "execution_id": 1, "execution": {"id": 1, "status": "ok"}}


def events_of(texts: list[str]) -> list[dict[str, Any]]:
    """One execution's events, with ids that leave gaps as a journal's do."""
    found: list[dict[str, Any]] = [{"id": 1, "kind": "execution_queued", "execution_id": 1}]
    found += [
        {"id": 3 * at + 5, "kind": "output", "execution_id": 1, "offset": 0, "text": text}
        for at, text in enumerate(texts)
    ]
    return [*found, {"id": 1000, **FINAL}]


def test_execute_creates_only_what_is_missing(client: Client, socket_path: Path) -> None:
    """The first request creates nothing; after a 404 the same command goes out with the options of creation."""
    answers = (refusal("session_not_found", "404 Not Found"), chunked(lines({"id": 1, **FINAL})))
    with Stub(socket_path, *answers) as stub:
        events = list(client.execute("work", {"command": "1"}, lambda: {"cwd": "/"}))
    assert events[-1]["execution"]["status"] == "ok"
    first, second = (asked.json for asked in stub.asked)
    assert (first["create"], second["create"]) == (False, {"cwd": "/"})
    assert first["idempotency_key"] == second["idempotency_key"] != ""


def test_execute_without_creation_is_an_error(client: Client, socket_path: Path) -> None:
    """Who forbids creation learns that the session does not exist."""
    with Stub(socket_path, refusal("session_not_found", "404 Not Found")), pytest.raises(SessionNotFound):
        list(client.execute("work", {"command": "1"}, None))


def test_execute_repeats_with_its_key_until_it_knows_the_id(client: Client, socket_path: Path) -> None:
    """A daemon that dies before the first event is asked again by POST with the same key; after it, by GET."""
    events = events_of(["a", "b"])
    answers = (b"", chunked(lines(*events[:2]), ends=False), chunked(lines(*events)))
    with Stub(socket_path, *answers) as stub:
        seen = list(client.execute("work", {"command": "1", "idempotency_key": "k"}, None))
    assert seen == events
    assert [asked.method for asked in stub.asked] == ["POST", "POST", "GET"]
    assert stub.asked[2].path == "/api/sessions/work/executions/1"
    assert all(asked.json["idempotency_key"] == "k" for asked in stub.asked[:2])


def test_a_stream_that_ends_in_order_but_early_is_resumed(client: Client, socket_path: Path) -> None:
    """A daemon that leaves ends the stream without the execution's end: the next one goes on."""
    events = events_of(["a"])
    with Stub(socket_path, chunked(lines(*events[:2])), chunked(lines(*events))):
        assert list(client.follow_execution("work", 1)) == events


def test_an_end_without_events_ends(client: Client, socket_path: Path) -> None:
    """Where the events are no longer kept, the end that repeats the last id still is the end."""
    queued, final = {"id": 4, "kind": "execution_queued", "execution_id": 1}, {"id": 4, **FINAL}
    with Stub(socket_path, chunked(lines(queued, final))):
        assert list(client.follow_execution("work", 1))[-1] == final


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=4),
    cuts=st.lists(st.integers(min_value=1), max_size=4),
    size=st.integers(min_value=1, max_value=70),
)
def test_output_is_neither_lost_nor_doubled(
    client: Client, socket_path: Path, texts: list[str], cuts: list[int], size: int
) -> None:
    """Whatever bytes arrive before each death of a daemon, in whatever chunks, every event is seen once, in order."""
    events = events_of(texts)
    whole = lines(*events)
    chunks = [whole[at : at + size] for at in range(0, len(whole), size)]
    answer = chunked(*chunks)
    socket_path.unlink(missing_ok=True)
    with Stub(socket_path, *(answer[: cut % len(answer)] for cut in cuts), answer):
        assert list(client.execute("work", {"command": "1"}, None)) == events


def test_feed_resumes_after_the_last_event(client: Client, socket_path: Path) -> None:
    """A followed feed that breaks is asked for again with the id of the last event seen."""

    def later(asked: Asked) -> Iterator[bytes]:
        assert asked.path == "/api/events?since=7"
        yield chunked(lines({"id": 8, "kind": "x"}))

    with Stub(socket_path, chunked(lines({"id": 7, "kind": "x"}), ends=False), later):
        feed = client.events(3, follow=True)
        assert [next(feed)["id"], next(feed)["id"]] == [7, 8]


def test_feed_that_is_read_once_ends(client: Client, socket_path: Path) -> None:
    """Without following, the feed ends when it is caught up."""
    with Stub(socket_path, chunked(lines({"id": 7, "kind": "x"}))) as stub:
        assert [event["id"] for event in client.events(0, follow=False)] == [7]
    assert stub.asked[0].path == "/api/events?since=0&follow=0"


def test_half_a_line_is_a_lost_stream(client: Client, socket_path: Path) -> None:
    """A stream that ends in order in the middle of a line is not taken for whole."""
    with Stub(socket_path, chunked(b'{"id": 1}\n{"id"')), pytest.raises(StreamLost):
        list(client.stream("GET", "/api/events"))


# ---- which daemon ----


def test_state_directory_comes_from_environment_then_file(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """SESSION_DIR is stronger than session_dir in the file, and each has a runtime directory of its own."""
    default = find()
    assert default.state_dir == str(place.state_dir)
    file = place.config_home / "omega-sessiond" / "config.toml"
    file.parent.mkdir()
    file.write_text('session_dir = "~/there"\n')
    configured = find()
    assert configured.state_dir == f"{place.home}/there"
    monkeypatch.setenv("SESSION_DIR", "/elsewhere/")
    chosen = find()
    assert (chosen.state_dir, chosen.origin) == ("/elsewhere", "SESSION_DIR")
    assert len({default.socket_path, configured.socket_path, chosen.socket_path}) == 3


@pytest.mark.parametrize("content", ["session_dir = 3", "session_dir = [", "session_dir = \xff"])
def test_wrong_settings_file_is_named(place: Place, content: str) -> None:
    """A file from which the state directory cannot be read is an error that names it."""
    file = place.config_home / "omega-sessiond" / "config.toml"
    file.parent.mkdir()
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(OmegaError) as caught:
        find()
    assert str(file) in caught.value.message
    assert caught.value.exit_code == 2


def test_named_socket_is_asked_and_never_started(place: Place) -> None:
    """--socket names a daemon that is nobody's to start."""
    target = find("relative.sock")
    assert target.socket_path.startswith("/")
    with pytest.raises(DaemonUnreachable):
        Client(find_daemon(target)).get("/api/health")


def test_long_socket_path_has_a_remedy(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path the kernel cannot take is told with its length and what to set."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/tmp/" + "x" * 120)
    with pytest.raises(DaemonUnreachable) as caught:
        Client(find()).get("/api/health")
    assert "107" in caught.value.message
    assert "XDG_RUNTIME_DIR" in caught.value.hint


def test_every_refusal_comes_back_as_what_it_was() -> None:
    """Each code that the daemon answers with is the same class of error again, with its text and hint."""
    for code, kind in errors._tree(errors.OmegaError).items():
        error = errors.rebuild(code, "what is wrong", "what to do")
        assert (type(error), error.message, error.hint) == (kind, "what is wrong", "what to do")
        assert "code" in vars(kind), f"{kind.__name__} shares the code of another"
