"""The service without its sockets: packets in, answers out.

    hello ── Service.greet ──> Conversation ── message ── .receive ──> replies, now and later
    request ── Service.classify ──> answer

A bundle is named by its digest. Several are served at once, and of each name the newest versions:
a new one is published while edges still speak to the old one.
"""

from __future__ import annotations

import asyncio
import time
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cloud_server.batching import Batcher
from cloud_server.metrics import Metrics
from cloud_server.predict import Part, Result
from splitcore import packet
from splitcore.bundle import Manifest
from splitcore.errors import CodecError, PacketError
from splitcore.packet import Greeting, Packet
from splitcore.wire_pb2 import Answer, Rejected

Reply = Answer | Rejected


class RefusedError(Exception):
    """A hello that this service cannot serve; the server turns it into a status."""


class WindowError(Exception):
    """A client that sends more than its credit; the server turns it into a status."""


@dataclass(frozen=True)
class ServiceLimits:
    """window: most samples that a stream may have sent and not acknowledged as answered; a slow
    model with many streams gives less, but never below min_window. versions: how many of each
    bundle name new streams can ask for. remembered: answers kept for resends after a reconnect.
    rejected: damaged packets in one stream before it is closed.
    """

    window: int = 64
    min_window: int = 4
    versions: int = 2
    remembered: int = 4096
    rejected: int = 16


@dataclass(eq=False)
class Served:
    """One bundle version in service; conversations counts the open streams that use it."""

    name: str
    steps: int
    digest: bytes
    batcher: Batcher
    conversations: int = 0


class Service:
    """Which bundles are served, and the answers already given."""

    def __init__(self, limits: ServiceLimits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self._served: OrderedDict[bytes, Served] = OrderedDict()
        self._answers: OrderedDict[tuple[bytes, bytes, int], tuple[int, Answer]] = OrderedDict()

    def publish(self, manifest: Manifest, digest: bytes, batcher: Batcher) -> list[Served]:
        """Serve this bundle version to new streams. Returns those it pushed out of service.

        Streams that are open on a version pushed out go on to their end.
        """
        self._served[digest] = Served(manifest.name, manifest.steps, digest, batcher)
        versions = [served for served in self._served.values() if served.name == manifest.name]
        pushed_out = versions[: -self.limits.versions]
        for served in pushed_out:
            del self._served[served.digest]
        return pushed_out

    @property
    def served(self) -> tuple[Served, ...]:
        """What new streams can ask for, oldest first."""
        return tuple(self._served.values())

    def find(self, greeting: Greeting) -> Served:
        """The bundle version that a hello names. Raises RefusedError."""
        served = self._served.get(greeting.digest)
        if served is None:
            offered = ", ".join(f"{s.name} {s.digest.hex()[:12]}" for s in self.served)
            raise RefusedError(
                f"bundle {greeting.digest.hex()[:12]} is not served here (served: {offered}); "
                "give both sides the same bundle"
            )
        return served

    def greet(self, raw_hello: bytes, reply: Callable[[Reply | Exception], None]) -> Conversation:
        """Begin a stream whose replies go to `reply`.

        Raises PacketError, RefusedError, or OverloadError where samples queue up already.
        """
        greeting = packet.unpack_hello(raw_hello)
        served = self.find(greeting)
        served.batcher.check_room()
        return Conversation(self, served, greeting.session, reply)

    async def classify(self, raw_request: bytes) -> bytes:
        """One request, one answer. Raises PacketError, CodecError, RefusedError, OverloadError."""
        arrived = time.perf_counter()
        greeting, received = packet.unpack_request(raw_request)
        served = self.find(greeting)
        if received.step != 0:
            raise PacketError(f"packet of sample {received.sample}: a step needs a stream")
        mark = _mark((received,))
        known = self.recall(served, greeting.session, received.sample, mark)
        if known is None:
            served.batcher.check_room()
            result = await served.batcher.submit(_parts((received,)))
            if isinstance(result, CodecError):
                raise result
            known = self.answer(served, greeting.session, received.sample, mark, result, arrived)
        self.metrics.received(served.name, 1, 8 * len(received.payload), len(raw_request))
        return known.SerializeToString()

    def recall(self, served: Served, session: bytes, sample: int, mark: int) -> Answer | None:
        """The answer already given to the very same bytes of this session's sample."""
        known = self._answers.get((served.digest, session, sample))
        return known[1] if known is not None and known[0] == mark else None

    def answer(
        self,
        served: Served,
        session: bytes,
        sample: int,
        mark: int,
        scores_k: Result,
        arrived: float,
    ) -> Answer:
        """The answer to a sample, remembered for a resend, the oldest making room."""
        assert not isinstance(scores_k, CodecError)
        seconds = time.perf_counter() - arrived
        given = Answer(
            sample=sample,
            label=int(scores_k.argmax()),
            scores=scores_k.tolist(),
            server_us=int(1e6 * seconds),
        )
        self.metrics.answered(served.name, seconds)
        self._answers[served.digest, session, sample] = (mark, given)
        while len(self._answers) > self.limits.remembered:
            self._answers.popitem(last=False)
        return given


def _parts(packets: Sequence[Packet]) -> tuple[Part, ...]:
    return tuple(Part(one.step, one.codec, one.payload) for one in packets)


def _mark(packets: Sequence[Packet]) -> int:
    mark = 0
    for one in packets:
        mark = zlib.crc32(one.payload, zlib.crc32(bytes((one.codec,)), mark))
    return mark


class Conversation:
    """One stream of one client: its credit, its unfinished steps, its replies.

    `reply` gets each answer and rejection, or the exception that ends the stream. Each sample
    begun, and each damaged packet, costs one credit until its reply is acknowledged.
    """

    def __init__(
        self,
        service: Service,
        served: Served,
        session: bytes,
        reply: Callable[[Reply | Exception], None],
    ) -> None:
        self.service, self.served = service, served
        self.open = 0  # samples that wait for the model
        self._session, self._reply = session, reply
        self._begun = self._replied = self._acked = self._rejected = 0
        self._partial: dict[int, dict[int, Packet]] = {}
        self._settled: OrderedDict[int, None] = OrderedDict()  # answered or on their way
        served.conversations += 1
        limits = service.limits
        credit = served.batcher.credit(served.conversations)
        self.window = (
            limits.window
            if credit is None
            else max(min(limits.min_window, limits.window), min(limits.window, credit))
        )

    def close(self) -> None:
        """The stream has ended."""
        self.served.conversations -= 1
        self._partial.clear()

    def welcome(self) -> bytes:
        """The reply to hello."""
        return packet.pack_welcome(self.window)

    def receive(self, raw: bytes) -> int:
        """Take one message and return how many packets it held.

        Raises PacketError for bytes that are none and after too many damaged packets, WindowError
        where the client passes its credit.
        """
        arrived = time.perf_counter()
        message = packet.parse(raw)
        self._acknowledge(message.acked)
        payload_bits = 0
        for one in message.packets:
            payload_bits += 8 * len(one.payload)
            try:
                received = packet.checked(one, self.served.digest)
                whole = self._assemble(received)
            except PacketError as error:
                self._reject(one.sample, error)
            else:
                if whole:
                    self._begin(received.sample, whole, arrived)
        count = len(message.packets)
        self.service.metrics.received(self.served.name, count, payload_bits, len(raw))
        return count

    def _acknowledge(self, acked: int) -> None:
        if acked:
            if not self._acked <= acked <= self._replied:
                raise PacketError(f"{acked} replies acknowledged of {self._replied} given")
            self._acked = acked

    def _spend(self) -> None:
        # Twice the window: copies that the network made cost credit that the client never spent.
        self._begun += 1
        if self._begun - self._acked > 2 * self.window:
            raise WindowError(
                f"more than {self.window} samples in flight; wait for answers and acknowledge them"
            )

    def _assemble(self, received: Packet) -> tuple[Packet, ...]:
        if received.step > self.served.steps:
            raise PacketError(f"step {received.step} of a sample with {self.served.steps} steps")
        if received.step == 0:
            self._spend()
            return (received,)
        if received.sample in self._settled:
            return ()  # a late copy of a step whose sample is answered or on its way
        if received.sample not in self._partial:
            self._spend()
        have = self._partial.setdefault(received.sample, {})
        have[received.step] = received
        if len(have) < self.served.steps:
            return ()
        del self._partial[received.sample]
        return tuple(have[step] for step in range(1, self.served.steps + 1))

    def _reject(self, sample: int, error: Exception) -> None:
        self._spend()
        self._rejected += 1
        self.service.metrics.failed("damaged_packet")
        if self._rejected > self.service.limits.rejected:
            raise PacketError(f"{self._rejected} damaged packets in one stream; the last: {error}")
        self._say(Rejected(sample=sample, reason=str(error)))

    def _say(self, reply: Reply) -> None:
        self._replied += 1
        self._reply(reply)

    def _begin(self, sample: int, whole: tuple[Packet, ...], arrived: float) -> None:
        mark = _mark(whole)
        known = self.service.recall(self.served, self._session, sample, mark)
        if known is None:
            future = self.served.batcher.submit(_parts(whole))
            self.open += 1
        self._settled[sample] = None
        while len(self._settled) > 4 * self.window:
            self._settled.popitem(last=False)
        if known is not None:
            self._say(known)
            return

        def done(result: asyncio.Future[Result]) -> None:
            self.open -= 1
            if result.cancelled():
                return
            error = result.exception()
            if isinstance(error, Exception):
                self._reply(error)
            elif isinstance(scores := result.result(), CodecError):
                self._settled.pop(sample, None)
                self.service.metrics.failed("payload")
                self._say(Rejected(sample=sample, reason=str(scores)))
            else:
                self._say(
                    self.service.answer(self.served, self._session, sample, mark, scores, arrived)
                )

        future.add_done_callback(done)
