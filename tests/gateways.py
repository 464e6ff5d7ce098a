"""A real Jupyter Kernel Gateway on loopback, and a cable to it that a test can cut."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import msgspec

from daemon import wait_until
from isolation import Place

TOKEN = "secret-of-this-test"


class RealGateway:
    """A gateway process with its kernels; `url` asks for TOKEN."""

    def __init__(self, place: Place, *options: str) -> None:
        self._log = place.base / "gateway.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        arguments = (
            "--KernelGatewayApp.ip=127.0.0.1",
            f"--KernelGatewayApp.port={self.port}",
            "--KernelGatewayApp.port_retries=0",
            "--JupyterWebsocketPersonality.list_kernels=True",
            *options,
        )
        with open(self._log, "wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "kernel_gateway", *arguments],
                env={**place.env, "KG_AUTH_TOKEN": TOKEN, "JUPYTER_PATH": str(Path(sys.prefix, "share", "jupyter"))},
                cwd=place.base,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until(self._answers, "the gateway answers")

    def _answers(self) -> bool:
        assert self.process.poll() is None, self._log.read_text()
        try:
            self.get("/api")
        except (urllib.error.URLError, ConnectionError):
            return False
        return True

    def get(self, route: str) -> Any:
        request = urllib.request.Request(self.url + route, headers={"Authorization": f"token {TOKEN}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return msgspec.json.decode(response.read())

    def kernels(self) -> list[str]:
        return [kernel["id"] for kernel in self.get("/api/kernels")]

    @property
    def log(self) -> str:
        return self._log.read_text()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it in order, its kernels with it."""
        self.process.terminate()
        self.process.wait(60)


class Cable:
    """Passes TCP connections on to a port until it is cut."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._ends: list[socket.socket] = []
        self._is_whole = True
        self.refused = 0
        """How many connections were tried while it was cut."""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if not self._is_whole:
                near.close()
                self.refused += 1
                continue
            far = socket.create_connection(("127.0.0.1", self._port))
            self._ends += [near, far]
            for source, target in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=_pass_on, args=(source, target)))
                self._threads[-1].start()

    def cut(self) -> None:
        """Break every connection, and refuse new ones until it is mended."""
        self._is_whole = False
        for end in self._ends:
            _shut(end)

    def mend(self) -> None:
        self._is_whole = True

    def close(self) -> None:
        self.cut()
        _shut(self._listener)
        self._listener.close()
        for thread in self._threads:
            thread.join()
        for end in self._ends:
            end.close()


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
    except OSError:
        pass  # cut
    _shut(source)
    _shut(target)


def _shut(end: socket.socket) -> None:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # the other side was faster


def keep_token(place: Place, mode: int = 0o600, text: str = TOKEN) -> str:
    """A token file and its path."""
    file = place.base / "token"
    file.write_text(text + "\n")
    os.chmod(file, mode)
    return str(file)
