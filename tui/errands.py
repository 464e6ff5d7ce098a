"""Requests that the dashboard makes beside the feed, in threads, each with a client of its own. They wake no daemon."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from omega_sessiond.client import Client, find_daemon
from omega_sessiond.target import Target

T = TypeVar("T")

THREADS = 6
"""A kill may take its time, and what is asked meanwhile goes past it."""

LEAVE_S = 1.0
"""How long the end waits for requests under way. A daemon that never answers holds nobody back."""

Errand = Callable[[Callable[[], Client]], None]


class Errands:
    """`await run(function)` calls the function with a client in one of the threads. Raises what it raises."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._errands: SimpleQueue[Errand | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._waiting = 0

    async def run(self, function: Callable[[Client], T]) -> T:
        return await self._hand_over(lambda client: function(client()))

    async def run_plain(self, function: Callable[[], T]) -> T:
        """The same for what needs no daemon."""
        return await self._hand_over(lambda client: function())

    async def start_daemon(self) -> None:
        """The one request that may start or wake a daemon. Raises DaemonUnreachable."""

        def ask() -> None:
            with Client(find_daemon(self._target)) as client:
                client.get("/api/server")

        await self.run_plain(ask)

    def close(self) -> None:
        """End the threads, those at least whose requests are answered."""
        for _ in self._threads:
            self._errands.put(None)
        end_at = time.monotonic() + LEAVE_S
        for thread in self._threads:
            thread.join(max(end_at - time.monotonic(), 0))

    async def _hand_over(self, function: Callable[[Callable[[], Client]], T]) -> T:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: BaseException | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # a T where there is no error

        def errand(client: Callable[[], Client]) -> None:
            result, failure = None, None
            try:
                result = function(client)
            except Exception as error:  # whoever waits for it gets it
                failure = error
            try:
                loop.call_soon_threadsafe(settle, result, failure)
            except RuntimeError:
                pass  # the dashboard has been left

        self._waiting += 1
        if self._waiting > len(self._threads) and len(self._threads) < THREADS:
            # A daemon thread: one that waits for ever does not keep the program from ending.
            thread = threading.Thread(target=self._work, name="errand", daemon=True)
            self._threads.append(thread)
            thread.start()
        self._errands.put(errand)
        try:
            return await done
        finally:
            self._waiting -= 1

    def _work(self) -> None:
        kept: list[Client] = []

        def client() -> Client:
            if not kept:
                kept.append(Client(find_daemon(self._target), may_start=False, may_wake=False))
            return kept[0]

        while (errand := self._errands.get()) is not None:
            errand(client)
        for found in kept:
            found.close()
