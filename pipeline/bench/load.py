"""Clients for `bench serve`: a process of its own that loads a server and times each answer.

Reads one JSON object on stdin (the fields of Load, and the file of samples), writes one on stdout.
Every answer is checked against the label that the same tail gave offline.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

import grpc
import numpy as np

from splitcore import packet
from splitcore.packet import Greeting, Packet

MESSAGE_PACKETS = 64


@dataclass(frozen=True)
class Load:
    """What to do to the server at `address`.

    rate_per_s: samples offered a second over all clients, as a Poisson process; None: as many as
    credit allows. samples: an .npz with digest, codecs, offsets, payloads and labels.
    """

    address: str
    samples: str
    clients: int
    seconds: float
    rate_per_s: float | None = None


@dataclass
class Outcome:
    """offered: samples that fell due; sent; answered; wrong: with another label than offline.

    errors: streams that ended badly, samples lost; answered_per_s from the start to the last
    answer; times in ms from when a sample was due to its answer.
    """

    offered: int = 0
    sent: int = 0
    answered: int = 0
    wrong: int = 0
    errors: int = 0
    answered_per_s: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0


class _Client:
    def __init__(self, channel: grpc.aio.Channel, samples: Any, start: float, end: float) -> None:
        self._digest = samples["digest"].tobytes()
        payloads, offsets = samples["payloads"].tobytes(), samples["offsets"]
        self._codecs = samples["codecs"].tolist()
        self._payloads = [payloads[a:b] for a, b in itertools.pairwise(offsets)]
        self._labels = samples["labels"].tolist()
        self._channel, self._start, self._end = channel, start, end
        self.due: deque[float] = deque()
        self.outcome = Outcome()
        self.times_ms: list[float] = []
        self.answered_at: list[float] = []
        self._sent_at: dict[int, float] = {}
        self._next = random.randrange(1 << 20)
        self._read = self._acked = 0
        self.wake = asyncio.Event()

    async def run(self, closed_loop: bool) -> None:
        call = self._channel.stream_stream(packet.STREAM)()
        reader: asyncio.Future[None] | None = None
        try:
            await call.write(packet.pack_hello(Greeting(self._digest, os.urandom(16))))
            welcome = packet.unpack_reply(await call.read())  # pyright: ignore
            window = welcome.welcome.window
            reader = asyncio.ensure_future(self._answers(call))
            await asyncio.sleep(self._start - time.perf_counter())
            while time.perf_counter() < self._end:
                room = min(window - len(self._sent_at), MESSAGE_PACKETS)
                count = room if closed_loop else min(room, len(self.due))
                if count > 0:
                    await call.write(self._message(count, closed_loop, window))
                self.wake.clear()
                if len(self._sent_at) >= window or not (closed_loop or self.due):
                    timeout = max(0.001, self._end - time.perf_counter())
                    try:
                        await asyncio.wait_for(self.wake.wait(), timeout)
                    except asyncio.TimeoutError:
                        break
            await call.done_writing()
            await reader
        except (grpc.RpcError, asyncio.InvalidStateError):  # the latter: writing to a dead stream
            self.outcome.errors += 1
        finally:
            if reader is not None:
                await asyncio.gather(reader, return_exceptions=True)

    def _message(self, count: int, closed_loop: bool, window: int) -> bytes:
        packets = []
        for _ in range(count):
            due = time.perf_counter() if closed_loop else self.due.popleft()
            self._next += 1
            which = self._next % len(self._labels)
            self._sent_at[self._next] = due
            packets.append(Packet(self._next, 0, self._codecs[which], self._payloads[which]))
        self.outcome.sent += count
        acked = 0
        if self._read - self._acked >= window // 4:
            acked = self._acked = self._read
        return packet.pack(packets, self._digest, acked)

    async def _answers(self, call: Any) -> None:
        while (raw := await call.read()) is not grpc.aio.EOF:  # pyright: ignore
            reply = packet.unpack_reply(raw)
            now = time.perf_counter()
            self._read += len(reply.answers) + len(reply.rejected)
            self.outcome.errors += len(reply.rejected)
            for answer in reply.answers:
                due = self._sent_at.pop(answer.sample)
                self.times_ms.append(1e3 * (now - due))
                self.answered_at.append(now)
                self.outcome.wrong += (
                    answer.label != self._labels[answer.sample % len(self._labels)]
                )
            self.wake.set()


async def run(load: Load) -> Outcome:
    """Load the server as told."""
    with np.load(load.samples) as file:
        samples = dict(file)
    start = time.perf_counter() + 0.3  # by then all have been welcomed
    end = start + load.seconds
    channels = [grpc.aio.insecure_channel(load.address) for _ in range(min(8, load.clients))]
    clients = [
        _Client(channels[k % len(channels)], samples, start, end) for k in range(load.clients)
    ]
    jobs = [client.run(load.rate_per_s is None) for client in clients]
    if load.rate_per_s is not None:
        jobs.append(_arrivals(clients, load.rate_per_s, start, end))
    await asyncio.gather(*jobs)
    for channel in channels:
        await channel.close()
    total = Outcome()
    for client in clients:
        client.outcome.offered = client.outcome.sent + len(client.due)
        for name in ("offered", "sent", "wrong", "errors"):
            setattr(total, name, getattr(total, name) + getattr(client.outcome, name))
    answered_at = [at for client in clients for at in client.answered_at]
    total.answered = len(answered_at)
    if answered_at:
        total.answered_per_s = len(answered_at) / (max(answered_at) - start)
    times_ms = [ms for client in clients for ms in client.times_ms]
    # Sent and never answered: the server took them and lost them.
    total.errors += total.sent - len(times_ms)
    if times_ms:
        total.p50_ms, total.p99_ms = (float(np.percentile(times_ms, q)) for q in (50, 99))
    return total


async def _arrivals(clients: list[_Client], rate_per_s: float, start: float, end: float) -> None:
    at, turn = start, 0
    while at < end:
        pause = at - time.perf_counter()
        if pause > 0:
            await asyncio.sleep(pause)
        now = time.perf_counter()
        while at <= now and at < end:
            client = clients[turn % len(clients)]
            client.due.append(at)
            client.wake.set()
            turn += 1
            at += random.expovariate(rate_per_s)


def main() -> None:
    """The process: JSON in, JSON out."""
    load = Load(**json.load(sys.stdin))
    print(json.dumps(asdict(asyncio.run(run(load)))))


if __name__ == "__main__":
    main()
