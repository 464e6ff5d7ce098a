"""GET /metrics: what Prometheus reads of the daemon and its sessions."""

from __future__ import annotations

import http.client
import subprocess
import sys
from typing import Any

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from caller import Answer
from conftest import CHECKOUT
from daemon import Daemon, wait_until
from isolation import Place
from life import FOREVER, Life
from omega_sessiond import metrics
from omega_sessiond.messages import Server, Session, SnapshotsKept

Figures = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Figures:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(life: Life) -> Figures:
    connection = life.daemon.request("GET", "/metrics")
    assert connection.status == 200, connection
    assert connection.headers["Content-Type"].startswith("text/plain; version=")
    return parsed(connection.text)


def of(session: str) -> tuple[tuple[str, str], ...]:
    return (("session", session),)


def test_figures_of_sessions_and_commands(life: Life) -> None:
    """States, commands by status, and what each session has done and holds, as Prometheus' own parser reads them."""
    life.run("a", "print('x' * 1000)")
    life.run("a", "1 / 0")
    id = life.begin_running("b", FOREVER)
    figures = scrape(life)
    assert figures["omega_sessions", (("state", "idle"),)] == 1
    assert figures["omega_sessions", (("state", "busy"),)] == 1
    assert figures["omega_sessions", (("state", "dead"),)] == 0
    for status, count in (("ok", 1), ("error", 1), ("running", 1), ("died", 0)):
        assert figures["omega_commands", (("status", status),)] == count
    assert figures["omega_session_commands_total", of("a")] == 2
    assert figures["omega_session_commands_total", of("b")] == 0
    took = [row["duration_ms"] / 1000 for row in life.history("a")]
    assert abs(figures["omega_session_commands_mean_seconds", of("a")] - sum(took) / 2) < 1e-6
    assert abs(figures["omega_session_commands_seconds", of("a")] - sum(took)) < 1e-6
    assert ("omega_session_commands_mean_seconds", of("b")) not in figures
    assert figures["omega_session_memory_peak_bytes", of("a")] > 1 << 20
    assert figures["omega_session_history_bytes", of("a")] > 1000
    assert figures["omega_session_last_used_timestamp_seconds", of("a")] > 1.7e9
    assert figures["omega_sessiond_uptime_seconds", ()] > 0
    assert figures["omega_sessions_without_series", ()] == 0
    life.post("/api/sessions/b/interrupt", {})
    life.finished("b", id)


def test_queued_commands_are_counted(life: Life) -> None:
    """What waits for its turn is told, in all and by session."""
    id = life.begin_running("a", FOREVER)
    for _ in range(2):
        life.begin("a", "1")
    figures = scrape(life)
    assert figures["omega_commands_queued", ()] == figures["omega_session_commands_queued", of("a")] == 2
    life.post("/api/sessions/a/interrupt", {})
    life.finished("a", id)
    wait_until(lambda: life.session("a")["state"] == "idle", "the queue is empty")


def test_sessions_with_series_are_bounded(life: Life, monkeypatch: Any) -> None:
    """Only the sessions used last have series of their own; how many have not is told."""
    for name in ("old", "newer", "newest"):
        life.run(name, "1")
    monkeypatch.setattr(metrics, "SESSIONS_SHOWN", 2)
    server = msgspec.convert(life.get("/api/server"), Server)
    sessions = msgspec.convert(life.get("/api/sessions"), list[Session])
    figures = parsed(metrics.written(server, sessions, {}, SnapshotsKept(0, 0, 0, 0)).decode())
    assert {dict(labels).get("session") for _, labels in figures} - {None} == {"newer", "newest"}
    assert figures["omega_sessions_without_series", ()] == 1


def test_metrics_on_tcp_need_the_token(place: Place) -> None:
    """On TCP the figures are for who has the token, as everything is."""
    from test_security import free_port

    port = free_port()
    with Daemon(place, settings={"port": port}, arguments=("--tcp",)) as daemon:
        token = (place.state_dir / "token").read_text().strip()

        def ask(headers: dict[str, str]) -> Answer:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            try:
                connection.request("GET", "/metrics", headers=headers)
                reply = connection.getresponse()
                return Answer(reply.status, dict(reply.headers), reply.read())
            finally:
                connection.close()

        assert ask({}).status == 401
        assert ask({"Authorization": f"Bearer {token}"}).status == 200
        assert daemon.get("/api/health").status == 200


def test_the_library_is_loaded_at_the_first_scrape() -> None:
    """A daemon that nobody scrapes does not load what writes the format."""
    code = f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); import omega_sessiond.server; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True).stdout
    assert "prometheus_client" not in loaded
