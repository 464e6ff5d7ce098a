"""The daemon's life from outside: how it starts, what it serves, when and how it leaves."""

from __future__ import annotations

from daemon import Daemon
from isolation import Place


def test_foreground_daemon_answers_and_leaves_cleanly(place: Place) -> None:
    """A daemon started by hand serves its socket, exits 0 on SIGTERM and takes the socket file with it."""
    with Daemon(place) as daemon:
        assert daemon.get("/api/health").json == {"status": "ok", "detail": None}
        assert daemon.get("/api/server").json["activation"] == "foreground"
        assert daemon.stop() == 0
        assert not (place.runtime_dir / "omega-sessiond/api.sock").exists()


def test_client_started_daemon_answers(place: Place) -> None:
    """A daemon takes the listener and the lock that a client prepared for it."""
    with Daemon(place, how="client") as daemon:
        assert daemon.get("/api/server").json["activation"] == "client"


def test_execute_runs_and_remembers(place: Place) -> None:
    """Two commands of one session share its variables."""
    with Daemon(place) as daemon:
        assert daemon.execute("work", "x = 41")["status"] == "ok"
        assert daemon.execute("work", "x + 1")["result"] == "42"
