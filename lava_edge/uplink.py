"""The edge's end of the link: send spikes, get each sample's answer once or learn that it is lost.

    send ──> pending (bounded) ──> stream ──> cloud
       │         ^ again after a reconnect       │
       └> spill ─┘                               │
    answers <── one a sample, copies dropped <───┘

One thread holds the connection; it reconnects with jittered backoff and sends again what was not
answered. A sample is answered once, or named: in `lost` and in the LinkError that ends the wait.
Time is the monotonic clock throughout, so that setting the wall clock changes nothing.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import grpc
import numpy as np

from lava_edge.access import Access, check_server, open_channel
from lava_edge.spill import Spill
from splitcore import packet
from splitcore import wire_pb2 as wire
from splitcore.bundle import Bundle
from splitcore.codec import context
from splitcore.codec.registry import encode_best
from splitcore.errors import DataError, LinkError, PacketError, UsageError
from splitcore.packet import Greeting, Packet
from splitcore.spikes import check_spikes

log = logging.getLogger(__name__)

GRPC_PREFIX_BYTES = 5  # compression flag and length, before each message
HTTP2_FRAME_BYTES, HTTP2_FRAME_MAX = 9, 16 << 10  # header of each DATA frame, its largest content
MESSAGE_BYTES = 32 << 10  # a message takes packets until it has reached this
BACKOFF_FIRST_S, BACKOFF_LAST_S = 0.05, 2.0
MAX_REJECTIONS = 3  # of one sample before it counts as lost
_FATAL = (
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
)


@dataclass(frozen=True)
class Answer:
    """What the cloud said of one sample, and what asking it cost.

    payload_bits: the encoded spikes; envelope_bits: the packets around them; wire_bytes: both plus
    gRPC's and HTTP/2's framing of the messages they went in, modelled (5 bytes a message and 9 a
    DATA frame; no TCP, TLS, connection set-up or answers). Packets sent again count again.
    server_us: from arrival to answer, by the server's clock; round_trip_us: from `send` to answer.
    """

    sample: int
    label: int
    scores: tuple[float, ...]
    server_us: int
    round_trip_us: int
    payload_bits: int
    envelope_bits: int
    wire_bytes: int


@dataclass(frozen=True)
class Patience:
    """In seconds: connect_s for the first welcome, stall_s for any reply before the connection is
    made anew, outage_s without a single answer while samples wait before they count as lost."""

    connect_s: float = 5.0
    stall_s: float = 10.0
    outage_s: float = 30.0


class _Pending:
    """A sample on its way: its packets, and what sending them has cost so far."""

    def __init__(self, spilled: bool = False) -> None:
        self.packets: list[Packet] = []
        self.messages: list[bytes] = []  # each packet as a ToCloud; joined they are one ToCloud
        self.began = time.monotonic()
        self.spilled = spilled
        self.sent = 0  # packets that the present stream has had
        self.payload_bits = self.envelope_bits = self.wire_bytes = self.rejections = 0

    def add(self, one: Packet, digest: bytes) -> None:
        self.packets.append(one)
        self.messages.append(packet.pack([one], digest))

    def take(self) -> bytes:
        raw, payload = self.messages[self.sent], len(self.packets[self.sent].payload)
        self.sent += 1
        self.payload_bits += 8 * payload
        self.envelope_bits += 8 * (len(raw) - payload)
        self.wire_bytes += len(raw)
        return raw


class Uplink:
    """One link to one server, as a context manager.

    Raises LinkError on entry when the server cannot be had (not with a spill: then samples wait on
    disk) or refuses us, UsageError for an impossible address or file. `access` are the fields of
    Access: token_file, tls_ca and so on.
    """

    def __init__(
        self,
        server: str,
        bundle: Bundle,
        *,
        spill: Path | None = None,
        spill_bytes: int = 256 << 20,
        max_pending: int = 256,
        patience: Patience | None = None,
        **access: Any,
    ) -> None:
        self.server = server
        self._access = Access(**access)
        self._metadata = self._access.metadata
        check_server(server, self._access)
        self._digest = bytes.fromhex(bundle.digest)
        self._greeting = Greeting(self._digest, os.urandom(packet.SESSION_BYTES))
        self._context = context.of_bundle(bundle)
        self._patience = patience or Patience()
        self._max_pending = max_pending
        self._spill = None if spill is None else Spill(spill, self._digest, spill_bytes)
        self._changed = threading.Condition()
        self._pending: OrderedDict[int, _Pending] = OrderedDict()
        self._unsent: deque[int] = deque()
        self._past: dict[int, list[np.ndarray]] = {}  # steps sent of samples not yet complete
        self._staged: dict[int, list[Packet]] = {}  # those of them that will go to the spill
        self._answers: deque[Answer] = deque()
        self._lost: list[int] = []
        self._told = 0  # how many of the lost were named in an error already
        self._failure: LinkError | None = None
        self._closed = False
        self._stream: _Stream | None = None
        self._welcomed = False
        self._trouble = "no answer yet"
        self._progress = time.monotonic()
        self._threads = [
            threading.Thread(target=self._keep_connected, name="uplink", daemon=True),
            threading.Thread(target=self._watch, name="uplink-watch", daemon=True),
        ]

    def __enter__(self) -> Uplink:
        open_channel(self.server, self._access).close()  # bad files are the caller's error, now
        self._progress = time.monotonic()
        for thread in self._threads:
            thread.start()
        with self._changed:
            while not self._welcomed and self._failure is None and self._spill is None:
                self._changed.wait()
            failure = self._failure
        if failure is not None:
            self.close()
            raise failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the link. What is unanswered stays in the spill, or else counts as lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            call = None if self._stream is None else self._stream.call
            unanswered = bool(self._pending)
        if call is not None and unanswered:
            call.cancel()
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()
        with self._changed:
            self._give_up()
            if self._spill is not None:
                self._spill.close()

    @property
    def lost(self) -> tuple[int, ...]:
        """Ids of samples that will not be answered."""
        with self._changed:
            return tuple(self._lost)

    @property
    def waiting(self) -> tuple[int, ...]:
        """Ids of samples not yet answered, those that an earlier run left in the spill included."""
        with self._changed:
            return tuple(self._waiting())

    def send(self, sample: int, code_tchw: np.ndarray) -> None:
        """Send one sample's spikes uint8 (T, C, H, W).

        Waits while too many are unanswered; with a spill it never waits, and a sample for which
        there is no room is lost. Raises DataError for spikes that do not fit the bundle, LinkError
        when the link is closed or has failed.
        """
        codec, payload = encode_best(check_spikes(code_tchw, self._context.shape), self._context)
        self._check_new(sample)
        self._enqueue(sample, [Packet(sample, 0, codec, payload)])

    def send_step(self, sample: int, step: int, code_chw: np.ndarray) -> None:
        """Send time step `step` (1 … T, in order) of a sample, uint8 (C, H, W)."""
        steps, *shape = self._context.shape
        past = self._past.get(sample, [])
        if step != len(past) + 1:
            raise DataError(f"sample {sample}: expected step {len(past) + 1}, got {step}")
        if step == 1:
            self._check_new(sample)
        code = check_spikes(code_chw, tuple(shape))
        past_tchw = np.array(past, dtype=np.uint8).reshape(len(past), *shape)
        codec, payload = encode_best(code[None], self._context, past_tchw)
        one = Packet(sample, step, codec, payload)
        if step < steps:
            self._past[sample] = [*past, code]
        else:
            self._past.pop(sample, None)
        if sample in self._staged:
            self._staged[sample].append(one)
            if step == steps:
                self._enqueue(sample, self._staged.pop(sample))
        elif step == 1 and steps > 1 and self._to_disk():
            self._staged[sample] = [one]
        else:
            self._enqueue(sample, [one], more=step > 1)

    def classify(self, samples: Iterable[tuple[int, np.ndarray]]) -> Iterator[Answer]:
        """Send (id, code_tchw) pairs and yield their answers as they come, in any order.

        Raises LinkError at the end naming what was lost.
        """
        for sample, code_tchw in samples:
            self.send(sample, code_tchw)
            while (ready := self._ready()) is not None:
                yield ready
        yield from self.answers()

    def answers(self) -> Iterator[Answer]:
        """Answers until nothing waits any more. Raises LinkError naming those that got none."""
        while True:
            with self._changed:
                while not self._answers and self._waiting() and self._failure is None:
                    self._changed.wait(0.5)
                    self._check_outage()
                if not self._answers:
                    self._tell_lost()
                    return
                ready = self._answers.popleft()
            yield ready

    # ── the caller's side; all below runs with the condition held unless it says otherwise ─────

    def _ready(self) -> Answer | None:
        with self._changed:
            return self._answers.popleft() if self._answers else None

    def _waiting(self) -> list[int]:
        on_disk = self._spill.waiting if self._spill is not None else ()
        return [*self._pending, *on_disk]

    def _check_outage(self) -> None:
        """With a spill an outage loses nothing, but who waits for answers has to be told."""
        quiet_s = time.monotonic() - self._progress
        if self._spill is not None and self._waiting() and quiet_s > self._patience.outage_s:
            raise LinkError(
                f"server {self.server}: {self._trouble}; unanswered and kept in "
                f"{self._spill.folder}: {_named(self._waiting())}"
            )

    def _tell_lost(self) -> None:
        if self._failure is not None:
            raise self._failure
        untold, self._told = self._lost[self._told :], len(self._lost)
        if untold:
            raise LinkError(f"server {self.server}: {self._trouble}; lost {_named(untold)}")

    def _check_new(self, sample: int) -> None:
        with self._changed:
            if sample in self._pending or sample in self._staged or sample in self._past:
                raise DataError(f"sample {sample}: is on its way already")
            if self._spill is not None and sample in self._spill.waiting:
                raise DataError(f"sample {sample}: waits in the spill already")

    def _to_disk(self) -> bool:
        with self._changed:
            spill = self._spill
            full = len(self._pending) >= self._max_pending
            return spill is not None and (bool(spill.waiting) or full)

    def _enqueue(self, sample: int, packets: list[Packet], more: bool = False) -> None:
        with self._changed:
            if self._closed:
                raise LinkError("uplink: it is closed")
            if not more and self._failure is None:
                if not self._waiting():
                    self._progress = time.monotonic()
                if self._to_disk():
                    self._put(packets)
                    return
                while len(self._pending) >= self._max_pending and self._failure is None:
                    self._changed.wait()
                if self._failure is None:
                    self._pending[sample] = _Pending()
            if self._failure is not None:
                raise self._failure
            entry = self._pending.get(sample)
            if entry is None:  # rejected or answered before its last step: nothing more to send
                return
            for one in packets:
                entry.add(one, self._digest)
            self._unsent.append(sample)
            self._changed.notify_all()

    def _put(self, packets: list[Packet]) -> None:
        assert self._spill is not None
        if not self._spill.put(packets):
            log.warning("sample %d is lost: no room in the spill", packets[0].sample)
            self._trouble = "no room in the spill"
            self._lost.append(packets[0].sample)
        self._changed.notify_all()

    def _give_up(self) -> None:
        """Keep what is unanswered in the spill where there is one; the rest is lost."""
        steps = self._context.shape[0]
        for sample, entry in self._pending.items():
            whole = len(entry.packets) == (steps if entry.packets[0].step else 1)
            if self._spill is None or not whole:
                self._lost.append(sample)
            elif not entry.spilled:
                self._put(entry.packets)
        self._lost.extend(self._staged)
        self._staged.clear()
        self._pending.clear()
        self._unsent.clear()

    # ── the connection's thread ────────────────────────────────────────────────────────────────

    def _keep_connected(self) -> None:
        failures = 0
        while not self._closed and self._failure is None:
            before = self._progress
            broken = self._converse()
            with self._changed:
                if self._closed:
                    return
                failures = failures + 1 if self._progress == before else 0
                self._trouble = broken.text
                limit_s = self._patience.outage_s if self._welcomed else self._patience.connect_s
                out = self._spill is None and (not self._welcomed or bool(self._pending))
                if broken.fatal or (out and time.monotonic() - self._progress > limit_s):
                    self._fail(broken.text)
                    return
                backoff_s = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2 ** min(failures, 10))
                pause_s = max(broken.pause_s, backoff_s * random.uniform(0.5, 1.0))
                log.info("link to %s: %s; again in %.2f s", self.server, broken.text, pause_s)
                self._changed.wait_for(lambda: self._closed, pause_s)

    def _fail(self, why: str) -> None:
        already = len(self._lost)
        self._give_up()
        lost = self._lost[already:]
        self._told = len(self._lost)
        kept = self._spill.waiting if self._spill is not None else ()
        what = f"server {self.server}: {why}"
        what += f"; lost {_named(lost)}" if lost else ""
        what += f"; kept on disk {_named(kept)}" if kept else ""
        self._failure = LinkError(what)
        self._changed.notify_all()

    def _converse(self) -> _Broken:
        """One connection from hello to its end; takes the condition itself."""
        with self._changed:
            for entry in self._pending.values():
                entry.sent = 0
            self._unsent = deque(self._pending)
            stream = self._stream = _Stream(self)
        try:
            channel = open_channel(self.server, self._access)
        except UsageError as error:  # a certificate file that was there on entry
            return _Broken(str(error))
        try:
            call = channel.stream_stream(packet.STREAM)(stream.requests(), metadata=self._metadata)
            stream.call = call
            for raw in call:
                reply = packet.unpack_reply(raw)
                with self._changed:
                    self._take_reply(stream, reply)
                    self._changed.notify_all()
        except grpc.RpcError as error:
            return _Broken.of(error)
        except PacketError as error:
            return _Broken(f"it sent what we cannot use ({error})")
        finally:
            with self._changed:
                stream.ended = True
                self._stream = None
                self._changed.notify_all()
            channel.close()
        return _Broken("it ended the stream")

    def _take_reply(self, stream: _Stream, reply: wire.ToEdge) -> None:
        stream.quiet_since = time.monotonic()
        if reply.HasField("welcome"):
            stream.window = reply.welcome.window
            if not self._welcomed:
                self._welcomed, self._progress = True, time.monotonic()
        stream.read += len(reply.answers) + len(reply.rejected)
        for answer in reply.answers:
            self._settle(answer)
        for rejected in reply.rejected:
            self._reconsider(rejected)

    def _settle(self, answer: wire.Answer) -> None:
        entry = self._pending.pop(answer.sample, None)
        if entry is None:
            return  # a copy: that sample has its answer
        self._progress = time.monotonic()
        if entry.spilled and self._spill is not None:
            self._spill.answered(answer.sample)
        self._answers.append(
            Answer(
                sample=answer.sample,
                label=answer.label,
                scores=tuple(answer.scores),
                server_us=answer.server_us,
                round_trip_us=int(1e6 * (self._progress - entry.began)),
                payload_bits=entry.payload_bits,
                envelope_bits=entry.envelope_bits,
                wire_bytes=entry.wire_bytes,
            )
        )

    def _reconsider(self, rejected: wire.Rejected) -> None:
        entry = self._pending.get(rejected.sample)
        if entry is None:
            # The damage may have hit the id: which sample still waits is not known. Start afresh.
            raise PacketError("a packet was damaged on its way")
        entry.rejections += 1
        if entry.rejections < MAX_REJECTIONS:
            entry.sent = 0
            self._unsent.append(rejected.sample)
            return
        log.warning("sample %d is lost: %s", rejected.sample, rejected.reason)
        del self._pending[rejected.sample]
        if entry.spilled and self._spill is not None:
            self._spill.answered(rejected.sample)
        self._trouble = f"it refused them ({rejected.reason})"
        self._lost.append(rejected.sample)

    def _watch(self) -> None:
        """A connection that makes no progress is cut: blocked calls of gRPC cannot see that."""
        with self._changed:
            while not self._closed and self._failure is None:
                self._changed.wait_for(lambda: self._closed or self._failure is not None, 0.2)
                stream = self._stream
                if stream is None or stream.call is None:
                    continue
                if not stream.window:
                    limit_s = self._patience.connect_s
                elif self._pending:
                    limit_s = self._patience.stall_s
                else:
                    continue
                if time.monotonic() - max(stream.quiet_since, self._progress) > limit_s:
                    stream.stalled = True
                    stream.call.cancel()

    def _refill(self) -> None:
        while self._spill is not None and len(self._pending) < self._max_pending:
            packets = self._spill.take()
            if packets is None:
                return
            entry = self._pending[packets[0].sample] = _Pending(spilled=True)
            for one in packets:
                entry.add(one, self._digest)
            self._unsent.append(packets[0].sample)


class _Stream:
    """The sending half of one connection."""

    def __init__(self, uplink: Uplink) -> None:
        self._uplink = uplink
        self.call: grpc.Call | None = None
        self.window = 0  # until welcome
        self.read = 0  # replies to packets
        self.ended = self.stalled = False
        self.quiet_since = time.monotonic()
        self._begun = 0  # samples
        self._acked = 0

    def requests(self) -> Iterator[bytes]:
        """Hello, then packets as credit allows. gRPC runs this in a thread of its own."""
        yield packet.pack_hello(self._uplink._greeting)
        while (raw := self._next()) is not None:
            yield raw

    def _next(self) -> bytes | None:
        uplink = self._uplink
        with uplink._changed:
            while not self.ended:
                if self.window:
                    uplink._refill()
                    if raw := self._message():
                        return raw
                if uplink._closed and not uplink._pending:
                    return None
                uplink._changed.wait()
        return None

    def _message(self) -> bytes:
        uplink = self._uplink
        messages: list[bytes] = []
        size, first = 0, None
        while uplink._unsent and size < MESSAGE_BYTES:
            sample = uplink._unsent[0]
            entry = uplink._pending.get(sample)
            if entry is None or entry.sent == len(entry.packets):
                uplink._unsent.popleft()
                continue
            if entry.sent == 0:
                if self._begun - self.read >= self.window:
                    break
                self._begun += 1
            first = first or entry
            messages.append(entry.take())
            size += len(messages[-1])
        if first is None:
            return b""
        if self.read - self._acked >= max(1, self.window // 4):
            self._acked = self.read
            messages.append(packet.pack([], uplink._digest, acked=self.read))
        raw = b"".join(messages)
        frames = -(-(len(raw) + GRPC_PREFIX_BYTES) // HTTP2_FRAME_MAX)
        first.wire_bytes += GRPC_PREFIX_BYTES + frames * HTTP2_FRAME_BYTES + len(raw) - size
        return raw


@dataclass(frozen=True)
class _Broken:
    text: str
    fatal: bool = False
    pause_s: float = 0.0

    @classmethod
    def of(cls, error: grpc.RpcError) -> _Broken:
        """What a gRPC failure means to us."""
        assert isinstance(error, grpc.Call)
        code, details = error.code(), error.details()
        if code is grpc.StatusCode.CANCELLED:
            return cls("it does not answer")
        if code is grpc.StatusCode.UNAVAILABLE:
            return cls(f"it cannot be reached ({details}); does it run, is the address right?")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return cls("it is no spikebottlenet server", fatal=True)
        hint = str(dict(error.trailing_metadata() or ()).get(packet.PUSHBACK, ""))  # type: ignore
        pause_s = min(10.0, int(hint) / 1e3) if hint.isascii() and hint.isdecimal() else 0.0
        return cls(str(details), fatal=code in _FATAL, pause_s=pause_s)


def _named(samples: Iterable[int]) -> str:
    ids = list(samples)
    shown = ", ".join(map(str, ids[:20])) + (f" and {len(ids) - 20} more" if len(ids) > 20 else "")
    return f"{len(ids)} samples: {shown}" if len(ids) > 1 else f"sample {shown}"
