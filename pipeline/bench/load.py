"""Clients for `bench serve`: a process of its own that loads a server and times each answer.

Reads one JSON object on stdin (the fields of Load), writes one on stdout. The packets are encoded
beforehand, so that a message is a slice of bytes: the clients share the machine with the server and
have to be cheap. Every answer is checked against the label that the same tail gave offline.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from bisect import bisect_right
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from splitcore import packet
from splitcore.packet import Greeting, Packet

MESSAGE_PACKETS = 64
OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a connection each, as devices have; not one for all
    ("grpc.enable_http_proxy", 0),  # the server is on loopback, whatever http_proxy says
)


@dataclass(frozen=True)
class Load:
    """What to do to the server at `address`.

    rate_per_s: samples offered a second over all clients, as a Poisson process; None: as many as
    credit allows. pool: a file of `Pool`.
    """

    address: str
    pool: str
    clients: int
    seconds: float
    rate_per_s: float | None = None


@dataclass
class Outcome:
    """offered: samples that fell due; sent; answered; refused; wrong: other label than offline.

    errors: streams that ended badly, samples refused, lost or answered twice; answered_per_s from
    the start to the last answer; times in ms from when a sample was due to its answer; cpu_s: what
    the clients themselves used.
    """

    offered: int = 0
    sent: int = 0
    answered: int = 0
    refused: int = 0
    wrong: int = 0
    errors: int = 0
    answered_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    cpu_s: float = 0.0

    @property
    def lost(self) -> int:
        """Samples that the server took and never answered."""
        return self.sent - self.answered - self.refused


@dataclass(frozen=True)
class Pool:
    """Encoded packets of samples 0 … N - 1 behind each other, N + 1 offsets, the labels expected.

    Each stream goes round them: N must be more than the answers that a server remembers.
    """

    digest: bytes
    raw: bytes
    offsets: list[int]
    labels: list[int]

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, payloads: list[tuple[int, bytes]], labels: list[int], digest: bytes) -> Pool:
        """Payloads with their codec ids, as packets."""
        packets = [
            packet.pack([Packet(sample, 0, codec, payload)], digest)
            for sample, (codec, payload) in enumerate(payloads)
        ]
        offsets = [0, *itertools.accumulate(map(len, packets))]
        return cls(digest, b"".join(packets), offsets, labels)

    def save(self, path: Path) -> None:
        """Write it for `load`."""
        digest, raw = (np.frombuffer(part, np.uint8) for part in (self.digest, self.raw))
        np.savez(path, digest=digest, raw=raw, offsets=self.offsets, labels=self.labels)

    @classmethod
    def load(cls, path: str) -> Pool:
        """Read what `save` wrote."""
        with np.load(path) as file:
            digest, raw = file["digest"].tobytes(), file["raw"].tobytes()
            return cls(digest, raw, file["offsets"].tolist(), file["labels"].tolist())


class _Client:
    """One stream. due: when each of its samples falls due; None: as soon as there is credit."""

    def __init__(self, pool: Pool, start: float, end: float, due: list[float] | None) -> None:
        self._pool, self._start, self._end, self._due = pool, start, end, due
        self.outcome = Outcome(offered=0 if due is None else len(due))
        self.times_ms: list[float] = []
        self.last_answer = start
        self._sent_at: dict[int, float] = {}
        self._next = random.randrange(len(pool))
        self._window = self._read = self._acked = 0
        self._wake = asyncio.Event()

    async def run(self, address: str) -> None:
        async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
            call = channel.stream_stream(packet.STREAM)()
            reader: asyncio.Future[None] | None = None
            try:
                await call.write(packet.pack_hello(Greeting(self._pool.digest, os.urandom(16))))
                self._window = packet.unpack_reply(await call.read()).welcome.window  # pyright: ignore
                reader = asyncio.ensure_future(self._answers(call))
                await self._send(call)
                await call.done_writing()
                await reader
            except (
                grpc.RpcError,
                asyncio.InvalidStateError,
            ):  # the latter: writing to a dead stream
                self.outcome.errors += 1
            finally:
                if reader is not None:
                    await asyncio.gather(reader, return_exceptions=True)

    async def _send(self, call: Any) -> None:
        await asyncio.sleep(self._start - time.perf_counter())
        asyncio.get_running_loop().call_later(self._end - time.perf_counter(), self._wake.set)
        while (now := time.perf_counter()) < self._end:
            room = min(self._window - len(self._sent_at), MESSAGE_PACKETS)
            ready = self._ready(now)
            if room > 0 and ready > 0:
                await call.write(self._message(min(room, ready), now))
            elif room > 0:
                assert self._due is not None
                upcoming = self._due[self.outcome.sent : self.outcome.sent + 1] or [self._end]
                await asyncio.sleep(upcoming[0] - now)
            else:
                self._wake.clear()
                await self._wake.wait()

    def _ready(self, now: float) -> int:
        if self._due is None:
            return MESSAGE_PACKETS
        return bisect_right(self._due, now) - self.outcome.sent

    def _message(self, count: int, now: float) -> bytes:
        pool, first = self._pool, self._next
        last = min(first + count, len(pool))
        sent = self.outcome.sent
        self.outcome.sent += last - first
        due = itertools.repeat(now) if self._due is None else self._due[sent : self.outcome.sent]
        self._sent_at.update(zip(range(first, last), due, strict=False))
        self._next = last % len(pool)
        raw = pool.raw[pool.offsets[first] : pool.offsets[last]]
        if self._read - self._acked >= self._window // 4:
            self._acked = self._read
            raw += packet.pack([], pool.digest, self._acked)
        return raw

    async def _answers(self, call: Any) -> None:
        labels, outcome = self._pool.labels, self.outcome
        while (raw := await call.read()) is not grpc.aio.EOF:  # pyright: ignore
            reply = packet.unpack_reply(raw)
            now = time.perf_counter()
            self._read += len(reply.answers) + len(reply.rejected)
            for refused in reply.rejected:
                outcome.errors += 1
                outcome.refused += self._sent_at.pop(refused.sample, None) is not None
            for answer in reply.answers:
                sample = answer.sample
                due = self._sent_at.pop(sample, None)
                if due is None:
                    outcome.errors += 1
                    continue
                self.times_ms.append(1e3 * (now - due))
                outcome.wrong += answer.label != labels[sample]
            self.last_answer = now
            self._wake.set()


async def run(load: Load) -> Outcome:
    """Load the server as told."""
    pool = Pool.load(load.pool)
    start = time.perf_counter() + 0.3 + 0.01 * load.clients  # by then all have been welcomed
    end = start + load.seconds
    clients = [_Client(pool, start, end, _arrivals(load, start, end)) for _ in range(load.clients)]
    before = time.process_time()
    await asyncio.gather(*(client.run(load.address) for client in clients))
    total = Outcome(cpu_s=time.process_time() - before)
    for client in clients:
        client.outcome.answered = len(client.times_ms)
        for name in ("offered", "sent", "answered", "refused", "wrong", "errors"):
            setattr(total, name, getattr(total, name) + getattr(client.outcome, name))
    total.offered = total.offered or total.sent
    total.errors += total.lost
    if total.answered:
        last = max(client.last_answer for client in clients)
        total.answered_per_s = total.answered / (last - start)
        times_ms = np.concatenate([client.times_ms for client in clients])
        total.p50_ms, total.p99_ms = np.percentile(times_ms, (50, 99)).tolist()
    return total


def _arrivals(load: Load, start: float, end: float) -> list[float] | None:
    """One client's share: many Poisson processes together are one."""
    if load.rate_per_s is None:
        return None
    mean_s = load.clients / load.rate_per_s
    gaps = iter(lambda: random.expovariate(1 / mean_s), None)
    times = itertools.accumulate(gaps, initial=start + random.expovariate(1 / mean_s))
    return list(itertools.takewhile(lambda at: at < end, times))


def main() -> None:
    """The process: JSON in, JSON out."""
    load = Load(**json.load(sys.stdin))
    print(json.dumps(asdict(asyncio.run(run(load)))))


if __name__ == "__main__":
    main()
