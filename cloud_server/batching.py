"""Micro-batches across clients: wait only while the model is busy, and never without bound."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from cloud_server.predict import Parts
from splitcore.errors import CodecError

Result = np.ndarray | CodecError
Engine = Callable[[Sequence[Parts]], Awaitable[list[Result]]]


class OverloadError(Exception):
    """No room for one more sample now; internal to the server, which turns it into a status."""

    def __init__(self, retry_ms: int) -> None:
        super().__init__(f"no room for another sample; try again in {retry_ms} ms")
        self.retry_ms = retry_ms


@dataclass(frozen=True)
class BatchLimits:
    """max_batch samples a call, `slots` calls at once, max_queue samples waiting for one."""

    max_batch: int = 64
    slots: int = 2
    max_queue: int = 1024


@dataclass
class Batcher:
    """Takes samples one by one, calls the engine with as many as wait when a slot is free."""

    engine: Engine
    limits: BatchLimits = field(default_factory=BatchLimits)
    on_batch: Callable[[int, float], None] = lambda size, seconds: None
    _waiting: deque[tuple[Parts, asyncio.Future[Result]]] = field(default_factory=deque)
    _running: set[asyncio.Task[None]] = field(default_factory=set)
    _seconds_per_sample: float = 0.001

    def submit(self, parts: Parts) -> asyncio.Future[Result]:
        """A future of the sample's scores. Raises OverloadError where the queue is full."""
        if len(self._waiting) >= self.limits.max_queue:
            raise OverloadError(self.retry_ms())
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((parts, future))
        # Not at once: all packets that one read of the sockets brought in make one batch.
        asyncio.get_running_loop().call_soon(self._start)
        return future

    def retry_ms(self) -> int:
        """How long the present queue will take, as a hint to who was refused."""
        return int(min(10_000, max(10, 1e3 * len(self._waiting) * self._seconds_per_sample)))

    @property
    def backlog(self) -> int:
        """Samples that wait."""
        return len(self._waiting)

    def _start(self) -> None:
        while self._waiting and len(self._running) < self.limits.slots:
            size = min(self.limits.max_batch, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            batch = [(parts, future) for parts, future in batch if not future.done()]
            if not batch:
                continue
            task = asyncio.get_running_loop().create_task(self._run(batch))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    async def _run(self, batch: list[tuple[Parts, asyncio.Future[Result]]]) -> None:
        started = time.perf_counter()
        try:
            results = await self.engine([parts for parts, _ in batch])
        except Exception as error:  # whatever the engine died of, each waiting caller must hear it
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        seconds = time.perf_counter() - started
        self._seconds_per_sample += 0.1 * (seconds / len(batch) - self._seconds_per_sample)
        self.on_batch(len(batch), seconds)
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)
