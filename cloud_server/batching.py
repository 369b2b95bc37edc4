"""Micro-batches across clients: wait only while the model is busy, and never without bound."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cloud_server.predict import Parts, Scored

Engine = Callable[[Sequence[Parts]], Awaitable[Scored]]
Done = Callable[[int, int, "Scored | Exception"], None]
"""Told first, last and the outcome of samples first … last - 1 of those submitted together."""


class OverloadError(Exception):
    """No room for one more sample now; the server turns it into a status with a hint."""

    def __init__(self, retry_ms: int) -> None:
        super().__init__(f"no room for another sample; try again in {retry_ms} ms")
        self.retry_ms = retry_ms


@dataclass(frozen=True)
class BatchLimits:
    """max_batch samples a call, slots calls at once, max_queue samples waiting, each max_wait_s.

    Below split_at waiting samples one slot takes all; above, free slots share them. `ahead` more
    calls, of full batches alone, are handed over before a slot is free, so that the engine need not
    wait for us. Streams get credit for about queue_s of the model's time between them.
    """

    max_batch: int = 64
    slots: int = 2
    ahead: int = 0
    max_queue: int = 2048
    max_wait_s: float = 30.0
    split_at: int = 16
    queue_s: float = 0.25


def _always() -> bool:
    return True


@dataclass(eq=False)
class _Group:
    """Samples that came together and go as batches have room; `taken` of them have gone."""

    samples: Sequence[Parts]
    done: Done
    wanted: Callable[[], bool]
    since: float
    taken: int = 0


_Share = tuple[_Group, int, int]  # samples first … last - 1 of a group


class Batcher:
    """Takes samples; calls the engine with as many as wait when a slot is free.

    All that one message brought is queued, computed and answered together: what Python costs is
    paid by message and batch, hardly by sample.
    """

    def __init__(
        self,
        engine: Engine,
        limits: BatchLimits,
        on_batch: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.limits = limits
        self.on_batch = on_batch
        self._engine = engine
        self._groups: deque[_Group] = deque()
        self._waiting = 0  # samples
        self._running: set[asyncio.Task[None]] = set()
        self._room = asyncio.Event()
        self._room.set()
        self._scheduled = False
        self._seconds_per_sample: float | None = None  # until the first batch

    def check_room(self) -> None:
        """Raise OverloadError where the queue is full."""
        if self._waiting >= self.limits.max_queue:
            raise OverloadError(self.retry_ms())

    def submit(
        self, samples: Sequence[Parts], done: Done, wanted: Callable[[], bool] = _always
    ) -> None:
        """Queue samples; `done` hears of each once, of as many at a time as a batch held.

        The caller sees to it that the queue stays bounded: a call without a stream asks
        `check_room` first, a stream has its credit and waits for `room` before it reads on.
        Samples no longer `wanted` when their turn comes are dropped, and `done` hears nothing.
        """
        assert samples, "a group is never empty"
        self._groups.append(_Group(samples, done, wanted, time.monotonic()))
        self._waiting += len(samples)
        if self._waiting >= self.limits.max_queue:
            self._room.clear()
        if not self._scheduled:
            # Not at once: all that one turn of the loop reads from the sockets makes one batch.
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._start)

    def submit_one(self, parts: Parts) -> asyncio.Future[np.ndarray]:
        """A future of one sample's scores (classes,), or of the CodecError that it deserves."""
        future: asyncio.Future[np.ndarray] = asyncio.get_running_loop().create_future()

        def done(first: int, last: int, outcome: Scored | Exception) -> None:
            if future.done():
                return
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            elif outcome.errors:
                future.set_exception(outcome.errors[0])
            else:
                future.set_result(outcome.scores_nk[0])

        self.submit((parts,), done, wanted=lambda: not future.done())
        return future

    async def room(self) -> None:
        """Wait until the queue has room: how a stream is slowed down instead of refused."""
        await self._room.wait()

    def retry_ms(self) -> int:
        """How long the present queue will take, as a hint to who was refused."""
        seconds = self._waiting * (self._seconds_per_sample or 0.001) / self.limits.slots
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
        return self._waiting

    @property
    def idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._waiting and not self._running

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and self._may_run():
            batch = self._take()
            if batch:
                task = asyncio.get_running_loop().create_task(self._run(batch))
                self._running.add(task)
                task.add_done_callback(self._finished)
        if self._waiting < self.limits.max_queue:
            self._room.set()

    def _may_run(self) -> bool:
        if len(self._running) < self.limits.slots:
            return True
        ahead = len(self._running) - self.limits.slots
        return ahead < self.limits.ahead and self._waiting >= self.limits.max_batch

    def _take(self) -> list[_Share]:
        size = min(self.limits.max_batch, self._waiting)
        free = self.limits.slots - len(self._running)
        if free > 0 and size >= self.limits.split_at:
            size = min(size, -(-self._waiting // free))
        expired = time.monotonic() - self.limits.max_wait_s
        batch: list[_Share] = []
        while size:
            group = self._groups[0]
            first, last = group.taken, min(group.taken + size, len(group.samples))
            group.taken = last
            size -= last - first
            self._waiting -= last - first
            if last == len(group.samples):
                self._groups.popleft()
            if not group.wanted():
                continue
            if group.since < expired:
                _tell((group, first, last), OverloadError(self.retry_ms()))
            else:
                batch.append((group, first, last))
        return batch

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._start()

    async def _run(self, batch: list[_Share]) -> None:
        samples = [parts for group, first, last in batch for parts in group.samples[first:last]]
        busy = max(len(self._running), self.limits.slots)
        started = time.monotonic()
        try:
            scored = await self._engine(samples)
            assert len(scored) == len(samples)
        except Exception as error:  # whatever the engine died of, each waiting caller must hear it
            for share in batch:
                _tell(share, error)
            return
        seconds = time.monotonic() - started
        self._learn(seconds * self.limits.slots / busy / len(samples))
        self.on_batch(len(samples), seconds)
        at = 0
        for share in batch:
            _, first, last = share
            _tell(share, scored.between(at, at + last - first))
            at += last - first

    def _learn(self, latest: float) -> None:
        known = latest if self._seconds_per_sample is None else self._seconds_per_sample
        self._seconds_per_sample = known + 0.1 * (latest - known)


def _tell(share: _Share, outcome: Scored | Exception) -> None:
    """Not at once: an error in one caller's `done` must not keep the others from hearing."""
    group, first, last = share
    asyncio.get_running_loop().call_soon(group.done, first, last, outcome)
