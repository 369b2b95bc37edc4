"""The edge's end of the link: send spikes, get each sample's answer once, whatever the network does.

    send ──> pending (bounded) ──> stream ──> cloud
                 ^ resend after a reconnect      │
    answers <── one per sample, copies dropped <─┘

One thread holds the connection; it reconnects with jittered backoff and sends again what was not
answered. A sample is answered once, or named in the LinkError that ends the link.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

import grpc
import numpy as np

from splitcore import packet, spikes
from splitcore.bundle import Bundle
from splitcore.errors import DataError, LinkError, PacketError
from splitcore.packet import Greeting, Packet
from splitcore.wire_pb2 import Answer as AnswerMessage
from splitcore.wire_pb2 import Rejected, Welcome

log = logging.getLogger(__name__)

FRAMING_BYTES = 5 + 9  # a gRPC message prefix and the header of the HTTP/2 DATA frame it rides in
BACKOFF_FIRST_S, BACKOFF_LAST_S = 0.05, 2.0
MAX_REJECTIONS = 3  # of one sample before it counts as lost
_FATAL = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
}


@dataclass(frozen=True)
class Answer:
    """What the cloud said of one sample, and what saying it cost on the way up.

    payload_bits: the encoded spikes; envelope_bits: the packet around them; wire_bytes: both plus
    gRPC and HTTP/2 framing, modelled as 14 bytes a message (no TCP, no TLS, no connection set-up).
    Resends are counted in each. server_us: from arrival to answer, by the server's clock.
    """

    sample: int
    label: int
    scores: tuple[float, ...]
    server_us: int
    round_trip_us: int
    payload_bits: int
    envelope_bits: int
    wire_bytes: int


@dataclass
class _Pending:
    packets: list[Packet]
    began: float
    sent: int = 0  # packets that this stream has seen
    payload_bits: int = 0
    envelope_bits: int = 0
    wire_bytes: int = 0
    rejections: int = 0


@dataclass(frozen=True)
class Patience:
    """Seconds: connect, until the first welcome; outage, without any progress while samples wait;
    stall, for an answer before the connection is dropped and made again."""

    connect_s: float = 5.0
    outage_s: float = 30.0
    stall_s: float = 10.0


class Uplink:
    """A context manager around one link. Raises LinkError when the server cannot be had."""

    def __init__(
        self,
        server: str,
        bundle: Bundle,
        *,
        max_pending: int = 256,
        patience: Patience | None = None,
    ) -> None:
        self.server, self.bundle = server, bundle
        self._digest = bytes.fromhex(bundle.digest)
        self._greeting = Greeting(self._digest, os.urandom(packet.SESSION_BYTES))
        self._shape = bundle.manifest.spike_shape
        self._patience = patience or Patience()
        self._max_pending = max_pending
        self._changed = threading.Condition()
        self._pending: OrderedDict[int, _Pending] = OrderedDict()
        self._answers: deque[Answer] = deque()
        self._lost: list[int] = []
        self._failure: LinkError | None = None
        self._welcomed = False
        self._closed = False
        self._progress = time.monotonic()
        self._thread = threading.Thread(target=self._keep_connected, name="uplink", daemon=True)
        self._stream: _Stream | None = None

    def __enter__(self) -> Uplink:
        self._thread.start()
        with self._changed:
            while not self._welcomed and self._failure is None:
                self._changed.wait()
            if self._failure is not None:
                self._closed = True
        if self._failure is not None:
            self._thread.join()
            raise self._failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            stream = self._stream
        if stream is not None:
            stream.end()
        self._thread.join()

    @property
    def lost(self) -> tuple[int, ...]:
        """Ids of samples that will never be answered."""
        with self._changed:
            return tuple(self._lost)

    def send(self, sample: int, code_tchw: np.ndarray) -> None:
        """Send one sample's spikes (T, C, H, W); waits while too many are unanswered."""
        code = spikes.check_spikes(code_tchw, self._shape)
        self._enqueue(sample, Packet(sample, 0, 1, spikes.pack(code)), first=True)

    def send_step(self, sample: int, step: int, code_chw: np.ndarray) -> None:
        """Send time step `step` (1 … T) of a sample; step 1 comes first, each step once."""
        if not 1 <= step <= self._shape[0]:
            raise DataError(f"step: expected 1 … {self._shape[0]}, got {step}")
        code = spikes.check_spikes(code_chw, self._shape[1:])
        self._enqueue(sample, Packet(sample, step, 1, spikes.pack(code)), first=step == 1)

    def classify(self, samples: Iterable[tuple[int, np.ndarray]]) -> Iterator[Answer]:
        """Send (id, code_tchw) pairs and yield answers as they come, in any order."""
        for sample, code_tchw in samples:
            self.send(sample, code_tchw)
            while (ready := self._ready()) is not None:
                yield ready
        yield from self.answers()

    def answers(self) -> Iterator[Answer]:
        """Answers until each sample sent has its own. Raises LinkError naming those lost."""
        while True:
            with self._changed:
                while not self._answers and self._pending and self._failure is None:
                    self._changed.wait()
                if not self._answers:
                    self._raise_lost()
                    return
                ready = self._answers.popleft()
            yield ready

    def _ready(self) -> Answer | None:
        with self._changed:
            return self._answers.popleft() if self._answers else None

    def _raise_lost(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._lost:
            raise LinkError(f"{self.server}: refused {_named(self._lost)} as damaged")

    def _enqueue(self, sample: int, one: Packet, first: bool) -> None:
        with self._changed:
            if self._closed:
                raise LinkError("uplink: it is closed")
            if first:
                if sample in self._pending:
                    raise DataError(f"sample {sample}: is already on its way")
                while len(self._pending) >= self._max_pending and self._failure is None:
                    self._changed.wait()
                if not self._pending:
                    self._progress = time.monotonic()
                if self._failure is None:
                    self._pending[sample] = _Pending([], time.monotonic())
            if self._failure is not None:
                raise self._failure
            entry = self._pending.get(sample)
            if entry is None or len(entry.packets) != max(one.step - 1, 0):
                raise DataError(f"sample {sample}: step {one.step} is out of turn")
            entry.packets.append(one)
            self._changed.notify_all()

    # ── the connection's thread ────────────────────────────────────────────────────────────────

    def _keep_connected(self) -> None:
        failures = 0
        while True:
            with self._changed:
                if self._closed or self._failure is not None:
                    return
            before = self._progress
            wait_s, error = self._converse()
            if error is None:
                return
            failures = 0 if self._progress != before else failures + 1
            limit = self._patience.outage_s if self._welcomed else self._patience.connect_s
            if error.fatal or time.monotonic() - self._progress > limit:
                self._fail(error)
                return
            backoff = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2**failures)
            pause = max(wait_s, backoff * random.uniform(0.5, 1.0))
            log.info("link to %s lost (%s); again in %.2f s", self.server, error.text, pause)
            with self._changed:
                self._changed.wait_for(lambda: self._closed, pause)

    def _converse(self) -> tuple[float, _Broken | None]:
        channel = grpc.insecure_channel(
            self.server,
            options=(("grpc.enable_retries", 0), ("grpc.use_local_subchannel_pool", 1)),
        )
        with self._changed:
            for entry in self._pending.values():
                entry.sent = 0
            stream = self._stream = _Stream(self)
        try:
            call = channel.stream_stream(packet.STREAM)(stream.requests())
            stream.call = call
            for raw in call:
                self._received(stream, packet.unpack_reply(raw))
        except grpc.RpcError as error:
            if self._closed:
                return 0.0, None
            return _pushback_s(error), _Broken.of(error)
        except PacketError as error:
            return 0.0, _Broken(f"it sent nonsense ({error})", fatal=False)
        finally:
            stream.end()
            channel.close()
            with self._changed:
                self._stream = None
        return 0.0, None if self._closed else _Broken("it ended the stream", fatal=False)

    def _received(self, stream: _Stream, reply: Welcome | AnswerMessage | Rejected) -> None:
        with self._changed:
            self._progress = time.monotonic()
            if isinstance(reply, Welcome):
                if reply.version != packet.VERSION:
                    raise PacketError(f"it speaks version {reply.version}")
                stream.window = reply.window
                self._welcomed = True
            else:
                stream.read += 1
                self._settle(reply)
            self._changed.notify_all()

    def _settle(self, reply: AnswerMessage | Rejected) -> None:
        entry = self._pending.get(reply.sample)
        if entry is None:
            if isinstance(reply, Rejected):
                # The damaged packet's id was damaged too: which sample waits is not known.
                raise PacketError("a packet was damaged on the way")
            return  # a copy: that sample is answered
        if isinstance(reply, Rejected):
            entry.rejections += 1
            entry.sent = 0
            if entry.rejections >= MAX_REJECTIONS:
                log.warning("sample %d is lost: %s", reply.sample, reply.reason)
                self._lost.append(reply.sample)
                del self._pending[reply.sample]
            return
        del self._pending[reply.sample]
        self._answers.append(
            Answer(
                sample=reply.sample,
                label=reply.label,
                scores=tuple(reply.scores),
                server_us=reply.server_us,
                round_trip_us=int(1e6 * (time.monotonic() - entry.began)),
                payload_bits=entry.payload_bits,
                envelope_bits=entry.envelope_bits,
                wire_bytes=entry.wire_bytes,
            )
        )

    def _fail(self, broken: _Broken) -> None:
        with self._changed:
            self._lost.extend(self._pending)
            what = f"server {self.server}: {broken.text}"
            if self._pending:
                what += f"; lost {_named(list(self._pending))}"
            self._pending.clear()
            self._failure = LinkError(what)
            self._changed.notify_all()


class _Stream:
    """The sending half of one connection. Its state is guarded by the uplink's condition."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self.call: grpc.Call | None = None
        self.window = 0  # until welcome
        self.read = 0  # replies to packets
        self._begun = 0  # samples
        self._acked = 0
        self._ended = False

    def end(self) -> None:
        """Stop sending; the server then finishes what it has and ends the stream."""
        with self._uplink._changed:
            self._ended = True
            self._uplink._changed.notify_all()

    def requests(self) -> Iterator[bytes]:
        """Hello, then packets as credit allows."""
        yield packet.pack_hello(self._uplink._greeting)
        while (raw := self._next()) is not None:
            yield raw

    def _next(self) -> bytes | None:
        uplink = self._uplink
        stalled_s = uplink._patience.stall_s
        with uplink._changed:
            while not self._ended:
                for sample, entry in uplink._pending.items():
                    if entry.sent < len(entry.packets) and (entry.sent or self._credit()):
                        return self._take(sample, entry)
                uplink._changed.wait(0.5)
                quiet_s = time.monotonic() - uplink._progress
                if uplink._pending and quiet_s > stalled_s and self.call is not None:
                    self._ended = True
                    self.call.cancel()
        return None

    def _credit(self) -> bool:
        return self._begun - self.read < self.window

    def _take(self, sample: int, entry: _Pending) -> bytes:
        one = entry.packets[entry.sent]
        if entry.sent == 0:
            self._begun += 1
        entry.sent += 1
        acked = 0
        if self.read - self._acked >= max(1, self.window // 4):
            acked = self._acked = self.read
        raw = packet.pack(
            Packet(sample, one.step, one.codec, one.payload, acked), self._uplink._digest
        )
        payload = len(one.payload)
        entry.payload_bits += 8 * payload
        entry.envelope_bits += 8 * (len(raw) - payload)
        entry.wire_bytes += len(raw) + FRAMING_BYTES
        return raw


@dataclass(frozen=True)
class _Broken:
    text: str
    fatal: bool = field(default=False)

    @classmethod
    def of(cls, error: grpc.RpcError) -> _Broken:
        """What a gRPC failure means to us."""
        code, details = error.code(), error.details()  # type: ignore[attr-defined]
        if code is grpc.StatusCode.UNAVAILABLE:
            return cls(f"cannot be reached ({details}); is it running, and is the address right?")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return cls("is no spikebottlenet server", fatal=True)
        return cls(f"{details} ({code.name.lower()})", fatal=code in _FATAL)


def _pushback_s(error: grpc.RpcError) -> float:
    for key, value in error.trailing_metadata() or ():  # type: ignore[attr-defined]
        if key == "grpc-retry-pushback-ms" and str(value).isdecimal():
            return min(10.0, int(value) / 1e3)
    return 0.0


def _named(samples: list[int]) -> str:
    shown = ", ".join(map(str, samples[:20]))
    more = f" and {len(samples) - 20} more" if len(samples) > 20 else ""
    return f"{len(samples)} samples: {shown}{more}" if len(samples) > 1 else f"sample {shown}"
