"""The service without its sockets: packets in, answers out.

    raw hello ── Service.greet ── Conversation ── raw packet ── .receive ──> future ── raw reply

A bundle is named by its digest. Several are served at once, and of each name the newest versions:
a new one is published while edges still speak to the old one.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np

from cloud_server.batching import Batcher, OverloadError, Result
from cloud_server.predict import Part, Parts
from splitcore import packet
from splitcore.bundle import Manifest
from splitcore.errors import CodecError, PacketError
from splitcore.packet import Greeting, Packet
from splitcore.wire_pb2 import Answer, Rejected, Welcome

REMEMBERED_ANSWERS = 4096  # for resends after a reconnect
MAX_REJECTED = 16  # damaged packets in one stream before it is closed


class RefusedError(Exception):
    """A hello that this service cannot serve; internal, turned into a status by the server."""


class WindowError(Exception):
    """A client that sends more than its credit; internal, turned into a status by the server."""


@dataclass(eq=False)
class Served:
    """One bundle version in service. conversations counts the open streams that use it."""

    name: str
    manifest: Manifest
    digest: bytes
    batcher: Batcher
    conversations: int = 0


@dataclass
class Service:
    """window: samples a stream may have sent and not acknowledged; versions: kept of each name."""

    window: int = 64
    versions: int = 2
    _served: OrderedDict[bytes, Served] = field(default_factory=OrderedDict)
    _answers: OrderedDict[tuple[bytes, bytes, int], tuple[int, Answer]] = field(
        default_factory=OrderedDict
    )

    def publish(self, manifest: Manifest, digest: bytes, batcher: Batcher) -> list[Served]:
        """Serve this bundle version to new streams. Returns versions that it pushed out.

        Streams that are open on a version pushed out go on to their end.
        """
        self._served[digest] = Served(manifest.name, manifest, digest, batcher)
        same_name = [served for served in self._served.values() if served.name == manifest.name]
        pushed_out = same_name[: -self.versions]
        for served in pushed_out:
            del self._served[served.digest]
        return pushed_out

    @property
    def served(self) -> tuple[Served, ...]:
        """What new streams can ask for."""
        return tuple(self._served.values())

    def find(self, greeting: Greeting) -> Served:
        """The bundle version that a hello names. Raises RefusedError."""
        served = self._served.get(greeting.digest)
        if served is None:
            offered = ", ".join(f"{s.name} {s.digest.hex()[:12]}" for s in self._served.values())
            raise RefusedError(
                f"bundle {greeting.digest.hex()[:12]} is not served here (served: {offered}); "
                "give both sides the same bundle"
            )
        return served

    def greet(self, raw_hello: bytes) -> Conversation:
        """Begin a stream. Raises PacketError or RefusedError."""
        greeting = packet.unpack_hello(raw_hello)
        return Conversation(self, self.find(greeting), greeting.session, self.window)

    async def classify(self, raw_request: bytes) -> bytes:
        """One request, one answer, as bytes. Raises what `greet` and `receive` raise."""
        arrived = time.perf_counter()
        greeting, received = packet.unpack_request(raw_request)
        served = self.find(greeting)
        if received.step != 0:
            raise PacketError(f"packet of sample {received.sample}: a step needs a stream")
        known = self.recall(served, greeting.session, received.sample, _mark((received,)))
        if known is None:
            parts = (Part(0, received.codec, received.payload),)
            result = await served.batcher.submit(parts)
            if isinstance(result, CodecError):
                raise result
            known = answer(received.sample, result, arrived)
            self.remember(served, greeting.session, _mark((received,)), known)
        return known.SerializeToString()

    def recall(self, served: Served, session: bytes, sample: int, mark: int) -> Answer | None:
        """The answer already given to the very same packet of this session."""
        known = self._answers.get((served.digest, session, sample))
        return known[1] if known is not None and known[0] == mark else None

    def remember(self, served: Served, session: bytes, mark: int, given: Answer) -> None:
        """Keep an answer for a resend, the oldest making room."""
        self._answers[served.digest, session, given.sample] = (mark, given)
        while len(self._answers) > REMEMBERED_ANSWERS:
            self._answers.popitem(last=False)


def answer(sample: int, scores_k: np.ndarray, arrived: float) -> Answer:
    """Class, scores and server time of one sample."""
    elapsed_us = int(1e6 * (time.perf_counter() - arrived))
    return Answer(
        sample=sample, label=int(scores_k.argmax()), scores=scores_k.tolist(), server_us=elapsed_us
    )


def _mark(packets: tuple[Packet, ...]) -> int:
    mark = 0
    for received in packets:
        mark = zlib.crc32(received.payload, zlib.crc32(bytes((received.codec,)), mark))
    return mark


@dataclass(eq=False)
class Conversation:
    """One stream of one client: its credit, the steps it has not finished, its replies."""

    service: Service
    served: Served
    session: bytes
    window: int
    _received: int = 0  # samples begun
    _replied: int = 0
    _acked: int = 0
    _rejected: int = 0
    _partial: dict[int, dict[int, Packet]] = field(default_factory=dict)
    _settled: OrderedDict[int, None] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        self.served.conversations += 1

    def close(self) -> None:
        """Say that the stream has ended."""
        self.served.conversations -= 1
        self._partial.clear()

    def welcome(self) -> bytes:
        """The reply to hello."""
        return packet.pack_reply(Welcome(version=packet.VERSION, window=self.window))

    def receive(self, raw: bytes) -> asyncio.Future[bytes] | bytes | None:
        """A reply, now or later; None where more steps have to come first.

        A damaged packet gets a rejection, so that the client sends that sample again. Raises
        PacketError after too many of them, WindowError where the client passes its credit, and
        OverloadError where the server has no room.
        """
        arrived = time.perf_counter()
        message = packet.parse(raw)
        try:
            received = packet.checked(message, self.served.digest)
            whole = self._assemble(received)
        except PacketError as error:
            return self._reject(message.sample, error)
        if whole is None:
            return None
        mark = _mark(whole)
        sample = received.sample
        self._settle(sample)
        known = self.service.recall(self.served, self.session, sample, mark)
        if known is not None:
            self._replied += 1
            return packet.pack_reply(known)
        parts = tuple(Part(part.step, part.codec, part.payload) for part in whole)
        return self._answer_later(sample, parts, mark, arrived)

    def _assemble(self, received: Packet) -> tuple[Packet, ...] | None:
        steps = self.served.manifest.steps
        if received.step > steps:
            raise PacketError(f"packet: step {received.step} of a sample with {steps} steps")
        self._acknowledge(received.acked)
        if received.step != 0 and received.sample in self._settled:
            return None  # a late copy of a step whose sample is answered or on its way
        if received.step == 0 or received.sample not in self._partial:
            self._spend()
        if received.step == 0:
            return (received,)
        have = self._partial.setdefault(received.sample, {})
        have[received.step] = received
        if len(have) < steps:
            return None
        del self._partial[received.sample]
        return tuple(have[step] for step in range(1, steps + 1))

    def _acknowledge(self, acked: int) -> None:
        if acked:
            if not self._acked <= acked <= self._replied:
                raise PacketError(f"packet: {acked} answers acknowledged of {self._replied} given")
            self._acked = acked

    def _spend(self) -> None:
        # Twice the window: copies that the network made cost credit that the client never spent.
        self._received += 1
        if self._received - self._acked > 2 * self.window:
            raise WindowError(
                f"more than {self.window} samples in flight; wait for answers and acknowledge them"
            )

    def _settle(self, sample: int) -> None:
        self._settled[sample] = None
        while len(self._settled) > 4 * self.window:
            self._settled.popitem(last=False)

    def _reject(self, sample: int, error: Exception) -> bytes:
        self._spend()
        self._replied += 1
        self._rejected += 1
        if self._rejected > MAX_REJECTED:
            raise PacketError(f"{self._rejected} damaged packets in one stream; the last: {error}")
        return packet.pack_reply(Rejected(sample=sample, reason=str(error)))

    def _answer_later(
        self, sample: int, parts: Parts, mark: int, arrived: float
    ) -> asyncio.Future[bytes]:
        reply: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        def done(result: asyncio.Future[Result]) -> None:
            if reply.done():
                return
            if result.cancelled():
                reply.cancel()
            elif (error := result.exception()) is not None:
                reply.set_exception(error)
            elif isinstance(scores := result.result(), CodecError):
                self._replied += 1
                self._settled.pop(sample, None)
                reply.set_result(packet.pack_reply(Rejected(sample=sample, reason=str(scores))))
            else:
                self._replied += 1
                given = answer(sample, scores, arrived)
                self.service.remember(self.served, self.session, mark, given)
                reply.set_result(packet.pack_reply(given))

        self.served.batcher.submit(parts).add_done_callback(done)
        return reply


__all__ = ["Conversation", "OverloadError", "RefusedError", "Served", "Service", "WindowError"]
