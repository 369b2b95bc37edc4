"""The service without its sockets: packets in, answers out.

    hello ── Service.greet ──> Conversation ── message ── .receive ──> replies, now and later
    request ── Service.classify ──> answer

A bundle is named by its digest. Several are served at once, and of each folder the newest versions:
a new one is published while edges still speak to the old one.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cloud_server.batching import Batcher
from cloud_server.metrics import Metrics
from cloud_server.predict import Part, Parts, Scored
from splitcore import packet
from splitcore.bundle import Bundle
from splitcore.codec.codec import longest_payload
from splitcore.errors import PacketError
from splitcore.packet import Greeting, Packet
from splitcore.wire_pb2 import Answer, Rejected

Reply = Answer | Rejected
Replies = Sequence[Reply]


class RefusedError(Exception):
    """A hello that this service cannot serve; the server turns it into a status."""


class WindowError(Exception):
    """A client that sends more than its credit; the server turns it into a status."""


@dataclass(frozen=True)
class ServiceLimits:
    """window: most samples that a stream may have sent and not acknowledged as answered; a slow
    model with many streams gives less, but never below min_window. versions: how many of each
    folder new streams can ask for. remembered: answers kept for resends after a reconnect.
    rejected: damaged packets in one stream before it is closed.
    """

    window: int = 64
    min_window: int = 4
    versions: int = 2
    remembered: int = 4096
    rejected: int = 16


@dataclass(eq=False)
class Served:
    """One bundle version in service; conversations counts the open streams that use it.

    step_spikes: how many neurons its code has.
    """

    folder: Path
    name: str
    steps: int
    step_spikes: int
    digest: bytes
    batcher: Batcher
    conversations: int = 0

    @classmethod
    def of(cls, bundle: Bundle, batcher: Batcher) -> Served:
        """A version that the batcher computes."""
        manifest, digest = bundle.manifest, bytes.fromhex(bundle.digest)
        step_spikes = math.prod(manifest.code_shape)
        return cls(bundle.path, manifest.name, manifest.steps, step_spikes, digest, batcher)

    def check(self, received: Packet) -> None:
        """Raise PacketError for what is not worth holding: no step of a sample, too many bytes."""
        sample, size = received.sample, len(received.payload)
        if received.step > self.steps:
            raise PacketError(f"step {received.step} of a sample with {self.steps} steps")
        steps = 1 if received.step else self.steps * len(received.samples)
        spikes = steps * self.step_spikes
        if size > longest_payload(spikes):
            raise PacketError(
                f"packet of sample {sample}: {size} bytes are too many for {spikes} spikes"
            )


@dataclass(eq=False)
class Begun:
    """Samples that one message completed, at time.perf_counter() `arrived`."""

    arrived: float
    samples: list[int] = field(default_factory=list)  # their ids
    parts: list[Parts] = field(default_factory=list)

    def between(self, first: int, last: int) -> Begun:
        """Samples first … last - 1 of these."""
        return Begun(self.arrived, self.samples[first:last], self.parts[first:last])


class Service:
    """Which bundles are served, and the answers already given."""

    def __init__(self, limits: ServiceLimits, metrics: Metrics) -> None:
        self.limits, self.metrics = limits, metrics
        self._served: OrderedDict[bytes, Served] = OrderedDict()
        self._answers: OrderedDict[tuple[bytes, bytes, int], tuple[int, Answer]] = OrderedDict()

    def publish(self, served: Served) -> list[Served]:
        """Serve this version to new streams, as its folder's newest, even where it is served now.

        Returns those it pushed out of service; streams that are open on them go on to their end.
        """
        self._served[served.digest] = served
        self._served.move_to_end(served.digest)
        versions = [each for each in self._served.values() if each.folder == served.folder]
        pushed_out = versions[: -self.limits.versions]
        for old in pushed_out:
            del self._served[old.digest]
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

    def greet(self, raw_hello: bytes, reply: Callable[[Replies | Exception], None]) -> Conversation:
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
        if received.step or received.more:
            raise PacketError(f"packet of sample {received.sample}: steps and groups need a stream")
        served.check(received)
        sample, parts = received.sample, (_part(received),)
        known = self.recall(served, greeting.session, sample, hash(parts))
        if known is None:
            served.batcher.check_room()
            scores_k = await served.batcher.submit_one(parts)
            begun = Begun(arrived, [sample], [parts])
            (known,) = self.answer(served, greeting.session, begun, Scored(scores_k[None]))
        self.metrics.received(served.name, 1, 8 * len(received.payload), len(raw_request))
        return known.SerializeToString()

    def recall(self, served: Served, session: bytes, sample: int, mark: int) -> Answer | None:
        """The answer already given to the very same bytes of this session's sample."""
        known = self._answers.get((served.digest, session, sample))
        return known[1] if known is not None and known[0] == mark else None

    def answer(
        self, served: Served, session: bytes, begun: Begun, scored: Scored
    ) -> list[Answer | Rejected]:
        """The replies to samples, the answers remembered for a resend, the oldest making room."""
        seconds = time.perf_counter() - begun.arrived
        server_us = int(1e6 * seconds)
        labels = scored.scores_nk.argmax(axis=1).tolist()
        replies: list[Answer | Rejected] = []
        rows = zip(begun.samples, begun.parts, labels, scored.scores_nk.tolist(), strict=True)
        for place, (sample, parts, label, scores) in enumerate(rows):
            if place in scored.errors:
                replies.append(Rejected(sample=sample, reason=str(scored.errors[place])))
                self.metrics.failed("payload")
                continue
            given = Answer(sample=sample, label=label, scores=scores, server_us=server_us)
            replies.append(given)
            self._answers[served.digest, session, sample] = (hash(parts), given)
        while len(self._answers) > self.limits.remembered:
            self._answers.popitem(last=False)
        self.metrics.answered(served.name, len(replies) - len(scored.errors), seconds)
        return replies


def _part(received: Packet, place: int = 0) -> Part:
    return Part(received.step, received.codec, received.payload, len(received.samples), place)


class Conversation:
    """One stream of one client: its credit, its unfinished steps, its replies.

    `reply` gets answers and rejections, or the exception that ends the stream; who sends them says
    so to `given`. Each sample begun, and each damaged packet, costs one credit until its reply is
    acknowledged. A packet of several samples is taken where there is credit for the first.
    """

    def __init__(
        self,
        service: Service,
        served: Served,
        session: bytes,
        reply: Callable[[Replies | Exception], None],
    ) -> None:
        self.service, self.served = service, served
        self.open = 0  # samples that wait for the model
        self._session, self._reply = session, reply
        self._begun = self._given = self._acked = self._rejected = 0
        self._partial: dict[int, dict[int, Part]] = {}
        # Sent step by step, and answered or on their way: late copies of later steps change
        # nothing, the first step begins the sample again or another one under its id.
        self._settled: OrderedDict[int, None] = OrderedDict()
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

    def given(self, replies: int) -> None:
        """So many more replies are on their way: they may be acknowledged from now on."""
        self._given += replies

    def receive(self, raw: bytes) -> int:
        """Take one message and return how many packets it held, of whole samples one for each.

        Raises PacketError for bytes that are none and after too many damaged packets, WindowError
        where the client passes its credit.
        """
        begun = Begun(time.perf_counter())
        message = packet.parse(raw)
        self._acknowledge(message.acked)
        packets, payload_bits = 0, 0
        try:
            for one in message.packets:
                packets += 1
                payload_bits += 8 * len(one.payload)
                try:
                    received = packet.checked(one, self.served.digest)
                    packets += received.more
                    samples = self._assemble(received)
                except PacketError as error:
                    self._reject(one.sample, error)
                else:
                    for sample, parts in samples:
                        self._begin(begun, sample, parts)
        finally:  # what came before the error that ends this stream was taken
            self._submit(begun)
        self.service.metrics.received(self.served.name, packets, payload_bits, len(raw))
        return packets

    def _acknowledge(self, acked: int) -> None:
        if acked:
            if not self._acked <= acked <= self._given:
                raise PacketError(f"{acked} replies acknowledged of {self._given} given")
            self._acked = acked

    def _spend(self, samples: int = 1) -> None:
        # Twice the window: copies that the network made cost credit that the client never spent.
        if self._begun - self._acked >= 2 * self.window:
            raise WindowError(
                f"more than {self.window} samples in flight; wait for answers and acknowledge them"
            )
        self._begun += samples

    def _assemble(self, received: Packet) -> list[tuple[int, Parts]]:
        """The whole samples that this packet completes; nothing where it completes none."""
        self.served.check(received)
        step, sample = received.step, received.sample
        if step == 0:
            self._spend(len(received.samples))
            return [(k, (_part(received, k - sample),)) for k in received.samples]
        if step == 1:
            self._settled.pop(sample, None)
        elif sample in self._settled:
            return []
        if sample not in self._partial:
            self._spend()
        have = self._partial.setdefault(sample, {})
        have[step] = _part(received)
        if len(have) < self.served.steps:
            return []
        del self._partial[sample]
        self._settled[sample] = None
        while len(self._settled) > 4 * self.window:
            self._settled.popitem(last=False)
        return [(sample, tuple(have[step] for step in range(1, self.served.steps + 1)))]

    def _reject(self, sample: int, error: Exception) -> None:
        self._spend()
        self._rejected += 1
        self.service.metrics.failed("damaged_packet")
        if self._rejected > self.service.limits.rejected:
            raise PacketError(f"{self._rejected} damaged packets in one stream; the last: {error}")
        self._reply([Rejected(sample=sample, reason=str(error))])

    def _begin(self, begun: Begun, sample: int, parts: Parts) -> None:
        known = self.service.recall(self.served, self._session, sample, hash(parts))
        if known is not None:
            self._reply([known])
            return
        begun.samples.append(sample)
        begun.parts.append(parts)

    def _submit(self, begun: Begun) -> None:
        if not begun.samples:
            return
        self.open += len(begun.samples)

        def done(first: int, last: int, outcome: Scored | Exception) -> None:
            self.open -= last - first
            if isinstance(outcome, Exception):
                self._reply(outcome)
                return
            part = begun.between(first, last)
            for place in outcome.errors:
                self._settled.pop(part.samples[place], None)
            self._reply(self.service.answer(self.served, self._session, part, outcome))

        self.served.batcher.submit(begun.parts, done)
