"""Micro-batches across clients: wait only while the model is busy, and never without bound."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from cloud_server.predict import Parts, Result

Engine = Callable[[Sequence[Parts]], Awaitable[list[Result]]]


class OverloadError(Exception):
    """No room for one more sample now; the server turns it into a status with a hint."""

    def __init__(self, retry_ms: int) -> None:
        super().__init__(f"no room for another sample; try again in {retry_ms} ms")
        self.retry_ms = retry_ms


@dataclass(frozen=True)
class BatchLimits:
    """max_batch samples a call, slots calls at once, max_queue samples waiting, each max_wait_s.

    Below split_at waiting samples one slot takes all; above, free slots share them. Streams get
    credit for about queue_s of the model's time between them.
    """

    max_batch: int = 64
    slots: int = 2
    max_queue: int = 2048
    max_wait_s: float = 30.0
    split_at: int = 16
    queue_s: float = 0.25


@dataclass(frozen=True)
class _Waiting:
    parts: Parts
    future: asyncio.Future[Result]
    since: float


class Batcher:
    """Takes samples one by one; calls the engine with as many as wait when a slot is free."""

    def __init__(
        self,
        engine: Engine,
        limits: BatchLimits,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.limits = limits
        self.on_batch = on_batch
        self._engine = engine
        self._waiting: deque[_Waiting] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._scheduled = False
        self._seconds_per_sample: float | None = None  # until the first batch

    def check_room(self) -> None:
        """Raise OverloadError where the queue is full."""
        if len(self._waiting) >= self.limits.max_queue:
            raise OverloadError(self.retry_ms())

    def submit(self, parts: Parts) -> asyncio.Future[Result]:
        """A future of the sample's scores.

        The caller sees to it that the queue stays bounded: a call without a stream asks
        `check_room` first, a stream has its credit and waits for `room` before it reads on.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append(_Waiting(parts, future, time.monotonic()))
        if len(self._waiting) >= self.limits.max_queue:
            self._room.clear()
        if not self._scheduled:
            # Not at once: all that one turn of the loop reads from the sockets makes one batch.
            self._scheduled = True
            loop.call_soon(self._start)
        return future

    async def room(self) -> None:
        """Wait until the queue has room: how a stream is slowed down instead of refused."""
        await self._room.wait()

    def retry_ms(self) -> int:
        """How long the present queue will take, as a hint to who was refused."""
        seconds = len(self._waiting) * (self._seconds_per_sample or 0.001) / self.limits.slots
        return int(min(10_000, max(10, 1e3 * seconds)))

    def credit(self, streams: int) -> int | None:
        """A stream's share of queue_s of the model's time, in samples; None before any batch."""
        if self._seconds_per_sample is None:
            return None
        samples = self.limits.queue_s * self.limits.slots / self._seconds_per_sample
        return int(samples / streams)

    @property
    def backlog(self) -> int:
        """Samples that wait."""
        return len(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._running

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and len(self._running) < self.limits.slots:
            batch = self._take()
            if batch:
                task = asyncio.get_running_loop().create_task(self._run(batch))
                self._running.add(task)
                task.add_done_callback(self._finished)
        if len(self._waiting) < self.limits.max_queue:
            self._room.set()

    def _take(self) -> list[_Waiting]:
        size = min(self.limits.max_batch, len(self._waiting))
        if size >= self.limits.split_at:
            free = self.limits.slots - len(self._running)
            size = min(size, -(-len(self._waiting) // free))
        expired = time.monotonic() - self.limits.max_wait_s
        batch = []
        for waiting in (self._waiting.popleft() for _ in range(size)):
            if waiting.future.done():  # its caller has gone
                continue
            if waiting.since < expired:
                waiting.future.set_exception(OverloadError(self.retry_ms()))
            else:
                batch.append(waiting)
        return batch

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    async def _run(self, batch: list[_Waiting]) -> None:
        started = time.monotonic()
        try:
            results = await self._engine([waiting.parts for waiting in batch])
            assert len(results) == len(batch)
        except Exception as error:  # whatever the engine died of, each waiting caller must hear it
            for waiting in batch:
                if not waiting.future.done():
                    waiting.future.set_exception(error)
            return
        seconds = time.monotonic() - started
        latest = seconds / len(batch)
        known = latest if self._seconds_per_sample is None else self._seconds_per_sample
        self._seconds_per_sample = known + 0.1 * (latest - known)
        self.on_batch(len(batch), seconds)
        for waiting, result in zip(batch, results, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(result)
