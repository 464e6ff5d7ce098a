"""Kernels behind a real Kernel Gateway on loopback: commands, broken connections, and gateways that refuse."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import kernels
from daemon import wait_until
from gateways import TOKEN, Cable, RealGateway, keep_token
from hostdriver import HostProcess, Hosts
from isolation import Place
from life import Life
from omega_sessiond.config import Gateway, Settings, load
from omega_sessiond.engines import Catalogue
from omega_sessiond.errors import ConfigError, EngineUnavailable

Start = Callable[..., HostProcess]


@pytest.fixture
def gateways(place: Place) -> Iterator[Callable[..., RealGateway]]:
    """Starts gateways, and ends them with the test."""
    started: list[RealGateway] = []

    def start(*options: str) -> RealGateway:
        started.append(RealGateway(place, *options))
        return started[-1]

    yield start
    for gateway in started:
        if gateway.process.poll() is None:
            gateway.stop()


@pytest.fixture(scope="module")
def gateway(isolated_run: Place) -> Iterator[RealGateway]:
    """One for all tests that do not end it: it takes long to start."""
    started = RealGateway(isolated_run)
    yield started
    started.stop()


@pytest.fixture
def start(place: Place) -> Iterator[Start]:
    """Starts a host whose kernel is at a gateway: the settings' table by keywords."""
    hosts = Hosts(place.base)

    def begin(url: str, kernel: str = "python3", env: dict[str, str] | None = None, **table: object) -> HostProcess:
        if "token_file" not in table:
            table["token_file"] = keep_token(place)
        told = {"name": "lab", "url": url, "reconnect_s": 30.0, **table}
        options = {"kernel": kernel, "gateway": told}
        return hosts(python=sys.executable, engine=f"jupyter:{kernel}@lab", kind="jupyter", options=options, env=env)

    yield begin
    for host in hosts.started:
        if host.daemons and host.process.poll() is None:  # let it end its kernel
            host.daemon.tell("exit", reason="the test is over")
            host.wait()
    hosts.close()


@pytest.fixture
def cables() -> Iterator[Callable[[RealGateway], Cable]]:
    laid: list[Cable] = []

    def lay(gateway: RealGateway) -> Cable:
        laid.append(Cable(gateway.port))
        return laid[-1]

    yield lay
    for cable in laid:
        cable.close()


def why_not(host: HostProcess) -> str:
    """What the birth log says of a host that did not become one."""
    assert host.wait() == 1
    return host.birth_path.read_text().strip()


# ---- commands ----


def test_commands_run_at_the_gateway(gateway: RealGateway, start: Start) -> None:
    """State, streams, results, errors, input and questions are as with a kernel here."""
    host = start(gateway.url)
    assert host.run("x = 41").output == ""
    run = host.run("import sys\nprint('out'); print('err', file=sys.stderr)\nx + 1")
    assert (run.stdout, run.stderr, run.value) == ("out\n", "err\n", "42")
    assert host.run("1 / 0").result["error"]["name"] == "ZeroDivisionError"
    rich = host.run("from IPython.display import HTML\nHTML('<b>x</b>')")
    assert [frame["mime"] for frame in rich.frames if "mime" in frame] == ["text/html"]
    id = host.start("print('first')\ninput('name? ')")
    host.daemon.wait_for("input_request", id=id, prompt="name? ")
    host.daemon.tell("input", id=id, text="Bob")
    asked = host.daemon.result(id)
    assert (asked.stdout, asked.value) == ("first\nname? ", "'Bob'")
    assert "x" in host.daemon.ask("complete", code="x", cursor=1)["matches"]
    assert host.daemon.ask("is_complete", code="for y in x:")["status"] == "incomplete"
    assert host.run("exit()").result["should_exit"]
    assert host.run("x").value == "41"


def test_interrupt_reaches_the_gateway(gateway: RealGateway, start: Start) -> None:
    """^C ends the command that runs there, and the variables stay."""
    host = start(gateway.url)
    host.run("x = 5")
    id = host.start("import time\nprint('begun', flush=True)\ntime.sleep(600)")
    host.daemon.wait_for_output("begun", id)
    host.interrupt()
    assert host.daemon.result(id).status == "interrupted"
    assert host.run("x").value == "5"


def test_interrupt_that_comes_as_a_command_ends_there(gateway: RealGateway, start: Start, place: Place) -> None:
    """A reply that an interrupt has cost is asked for through the gateway, too."""
    host = start(gateway.url)
    mark = place.base / "mark"
    id = host.start(kernels.LINGER.format(mark=str(mark)) + "print('all of it')\nx = 7")
    wait_until(mark.exists, "the code has ended")
    host.interrupt()
    run = host.daemon.result(id)
    assert (run.status, run.output) == ("ok", "all of it\n")
    assert host.run("x").value == "7"


def test_kernel_at_the_gateway_goes_with_its_session(gateway: RealGateway, start: Start) -> None:
    """The end of the session ends its kernel there."""
    others = set(gateway.kernels())
    host = start(gateway.url)
    host.run("1")
    assert len(set(gateway.kernels()) - others) == 1
    host.daemon.tell("exit", reason="test")
    assert host.wait() == 0
    wait_until(lambda: not set(gateway.kernels()) - others, "the gateway has ended it")


def test_values_for_the_place_where_a_kernel_runs(gateway: RealGateway, start: Start, place: Place) -> None:
    """Variables named KERNEL_… go to the gateway, no others do."""
    host = start(gateway.url, env={**place.env, "KERNEL_WHERE": "there", "MINE": "here"})
    assert host.run("import os\nos.environ.get('KERNEL_WHERE'), os.environ.get('MINE')").value == "('there', None)"


def test_session_at_a_gateway(gateway: RealGateway, lives: Callable[..., Life], place: Place) -> None:
    """Through the daemon: a table in the settings, an engine jupyter:NAME@GATEWAY, and a daemon that is killed. The
    token is nowhere but in its file."""
    table = {"url": gateway.url, "token_file": keep_token(place)}
    life = lives(gateways={"lab": table})
    assert gateway.url in life.omegactl("engines").stdout
    made = life.omegactl("new", "far", "--engine", "jupyter:python3@lab")
    assert made.returncode == 0, made.stderr
    mark, go = place.base / "mark", place.base / "go"
    code = f"import pathlib, time\npathlib.Path({str(mark)!r}).touch()\nwhile not pathlib.Path({str(go)!r}).exists(): "
    id = life.begin("far", code + "time.sleep(0.01)\nprint('done')\n6 * 7")
    wait_until(mark.exists, "the command runs")
    life.kill()
    life.start()
    go.touch()
    execution = life.finished("far", id)
    assert (execution["status"], execution["output"]) == ("ok", "done\n42\n")
    for file in [*place.state_dir.rglob("*"), *place.config_home.rglob("*")]:
        assert not file.is_file() or TOKEN.encode() not in file.read_bytes(), file
    assert TOKEN not in life.log
    assert not [command for command in place.processes().values() if TOKEN in command]


# ---- connections that break ----


def test_connection_that_breaks_in_a_command_is_opened_again(
    gateway: RealGateway, start: Start, cables: Callable[[RealGateway], Cable], place: Place
) -> None:
    """What the command says while the connection is down comes when it is up again."""
    cable = cables(gateway)
    host = start(cable.url)
    go, done = place.base / "go", place.base / "done"
    id = host.start(
        f"import pathlib, time\nprint('before', flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        f"print('after', flush=True); pathlib.Path({str(done)!r}).touch()\n6 * 7"
    )
    host.daemon.wait_for_output("before", id)
    cable.cut()
    go.touch()
    wait_until(done.exists, "the command has gone on")
    cable.mend()
    run = host.daemon.result(id)
    assert (run.status, run.stdout, run.value) == ("ok", "before\nafter\n", "42")
    assert host.run("1 + 1").value == "2"


def test_connection_that_breaks_at_rest(
    gateway: RealGateway, start: Start, cables: Callable[[RealGateway], Cable]
) -> None:
    """A command that comes while the connection is down waits for it; variables stay."""
    cable = cables(gateway)
    host = start(cable.url)
    host.run("x = 5")
    cable.cut()
    wait_until(lambda: cable.refused, "the host has noticed")
    id = host.start("x + 1")
    cable.mend()
    assert host.daemon.result(id).value == "6"


def test_reply_that_was_lost(
    gateways: Callable[..., RealGateway], start: Start, cables: Callable[[RealGateway], Cable], place: Place
) -> None:
    """With a gateway that keeps nothing for us a command whose reply was lost says so, and the state is there."""
    gateway = gateways("--MappingKernelManager.buffer_offline_messages=False")
    cable = cables(gateway)
    host = start(cable.url)
    go, done = place.base / "go", place.base / "done"
    id = host.start(
        f"import pathlib, time\nprint('before', flush=True)\n"
        f"while not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n"
        f"x = 7; pathlib.Path({str(done)!r}).touch()"
    )
    host.daemon.wait_for_output("before", id)
    cable.cut()
    go.touch()
    wait_until(done.exists, "the command is over")
    wait_until(lambda: gateway.get("/api/kernels")[0]["execution_state"] == "idle", "the kernel is idle")
    cable.mend()
    run = host.daemon.result(id)
    assert (run.status, run.result["error"]["name"]) == ("error", "ConnectionLost")
    assert host.run("x").value == "7"


def test_gateway_that_dies_in_a_command(gateways: Callable[..., RealGateway], start: Start) -> None:
    """The command ends with the reason, and says that the variables are lost; so does the next one."""
    gateway = gateways()
    host = start(gateway.url, reconnect_s=0.5)
    id = host.start("import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(600)")
    kernel = int(host.daemon.wait_for_output("\n", id))
    gateway.kill()
    os.kill(kernel, signal.SIGKILL)
    run = host.daemon.result(id)
    assert (run.status, run.result["error"]["name"]) == ("error", "KernelDied")
    assert run.result["error"]["message"].startswith(f"the connection broke, and the gateway 'lab' ({gateway.url}) ")
    assert "cannot be reached" in run.result["lost"]
    again = host.run("1")
    assert "cannot be reached" in again.result["error"]["message"]


def test_kernel_that_dies_at_the_gateway(gateway: RealGateway, start: Start) -> None:
    """A kernel that the gateway had to start again has lost its variables, and that is said."""
    host = start(gateway.url)
    host.run("x = 1")
    run = host.run("import os\nos._exit(1)")
    assert run.result["lost"] == f"the gateway 'lab' ({gateway.url}) says that the kernel died"
    fresh = host.run("'x' in globals()")
    assert fresh.value == "False"


# ---- gateways that refuse ----


def test_gateway_that_is_down(start: Start) -> None:
    """Nobody listens there: the message says where."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
    assert f"the gateway 'lab' ({url}) cannot be reached" in why_not(start(url))


def test_gateway_that_refuses_the_token(gateway: RealGateway, start: Start, place: Place) -> None:
    """A wrong token and a missing one are told apart, and the token itself is not shown."""
    said = why_not(start(gateway.url, token_file=keep_token(place, text="wrong-token")))
    assert f"the gateway 'lab' ({gateway.url}) refuses the token (HTTP 401)" in said and "wrong-token" not in said
    assert "refuses a request without a token (HTTP 401)" in why_not(start(gateway.url, token_file=""))


def test_kernel_that_the_gateway_does_not_have(gateway: RealGateway, start: Start) -> None:
    """The message names the kernels it has."""
    said = why_not(start(gateway.url, kernel="pyton3"))
    assert said == f"the gateway 'lab' ({gateway.url}) has no kernel 'pyton3'; it has: python3"


@pytest.mark.parametrize(
    ("status", "words"), [(200, "does not answer as a Jupyter gateway does"), (302, "answered HTTP 302")]
)
def test_server_that_is_no_gateway(start: Start, status: int, words: str) -> None:
    """Something else that speaks HTTP is told from a gateway, and one that sends us elsewhere does not have us take the
    token there."""
    asked: list[str] = []

    class Page(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(b"<html>")

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        serving = threading.Thread(target=server.serve_forever)
        serving.start()
        said = why_not(start(f"http://127.0.0.1:{server.server_port}"))
        server.shutdown()
        serving.join()
    assert words in said
    assert "/elsewhere" not in asked


def test_token_that_cannot_be_had(start: Start, place: Place) -> None:
    """A token file that others can read, none at all, and a variable that is not set are refused before any request."""
    url = "http://127.0.0.1:9"
    assert "others can read the token file" in why_not(start(url, token_file=keep_token(place, 0o640)))
    assert "cannot read the token file /nowhere: No such file" in why_not(start(url, token_file="/nowhere"))
    assert "has no LAB_TOKEN" in why_not(start(url, token_file="", token_env="LAB_TOKEN"))


def test_token_from_the_environment(gateway: RealGateway, start: Start, place: Place) -> None:
    """The session's environment may hold the token."""
    host = start(gateway.url, env={**place.env, "LAB_TOKEN": TOKEN}, token_file="", token_env="LAB_TOKEN")
    assert host.run("6 * 7").value == "42"


# ---- settings ----


def test_unknown_gateway(place: Place) -> None:
    """An engine at a gateway that the settings do not have is refused with the nearest that they have."""
    catalogue = Catalogue(Settings(gateways={"lab": Gateway("http://lab")}))
    with pytest.raises(EngineUnavailable, match="no gateway 'lap'") as refusal:
        catalogue.resolve("jupyter:python3@lap", None, {})
    assert "jupyter:python3@lab" in refusal.value.hint
    assert catalogue.resolve("jupyter:python3@lab", None, {}).options["gateway"]["url"] == "http://lab"


@pytest.mark.parametrize("url", ["lab:8888", "ftp://lab", "http://user:word@lab", "http://lab/?token=x"])
def test_address_of_a_gateway(tmp_path: Path, url: str) -> None:
    """An address that is none, or that holds a secret, is refused with the place it stands in."""
    file = tmp_path / "config.toml"
    file.write_text(f'[gateways.lab]\nurl = "{url}"\n')
    with pytest.raises(ConfigError) as refusal:
        load({}, str(file))
    assert "'gateways.lab.url'" in refusal.value.message
