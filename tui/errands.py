"""Requests that the dashboard makes beside the feed, in threads, each with a client of its own. They wake no daemon."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from omega_sessiond.client import Client, find_daemon
from omega_sessiond.target import Target

T = TypeVar("T")

THREADS = 6
"""A kill may take its time, and what is asked meanwhile goes past it."""


class Errands:
    """`await run(function)` calls the function with a client in one of the threads. Raises what it raises."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._own = threading.local()
        self._clients: list[Client] = []
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="errand", initializer=self._begin)

    def _begin(self) -> None:
        self._own.client = None

    def _client(self) -> Client:
        client: Client | None = self._own.client
        if client is None:
            client = self._own.client = Client(find_daemon(self._target), may_start=False, may_wake=False)
            self._clients.append(client)
        return client

    async def run(self, function: Callable[[Client], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: function(self._client()))

    async def run_plain(self, function: Callable[[], T]) -> T:
        """The same for what needs no daemon."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)

    async def start_daemon(self) -> None:
        """The one request that may start or wake a daemon. Raises DaemonUnreachable."""

        def ask() -> None:
            with Client(find_daemon(self._target)) as client:
                client.get("/api/server")

        await asyncio.get_running_loop().run_in_executor(self._pool, ask)

    def close(self) -> None:
        """Wait for what is under way, which a daemon answers or nobody ever does, and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for client in self._clients:
            client.close()
