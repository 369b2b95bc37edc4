"""What travels: hello once a stream, then one small envelope around each payload.

    ToCloud   hello(version, bundle digest, session)  |  packets(sample, step, codec, checksum,
                                                         payload, more), replies read so far
    ToEdge    welcome(version, window)                |  answers, rejections

Version, bundle digest and shape never change within a stream: the digest is said at hello and the
shape follows from the bundle. The checksum covers all of it, so a packet that reaches the wrong
bundle does not pass. Everything received is hostile: one PacketError, whatever is wrong.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from splitcore import wire_pb2 as wire
from splitcore.errors import PacketError

VERSION = 2
DIGEST_BYTES = 32
SESSION_BYTES = 16
MAX_SAMPLE = (1 << 35) - 1  # five bytes of varint: keeps an envelope within MAX_ENVELOPE_BYTES
MAX_STEP = 1024  # as in a manifest
MAX_CODEC = 127
MAX_GROUP = 64  # samples in one packet
MAX_PAYLOAD_BYTES = 1 << 22
MAX_ENVELOPE_BYTES = 24  # a packet's size in a ToCloud, less its payload

CLASSIFY = "/spikebottlenet.v1.Cloud/Classify"
STREAM = "/spikebottlenet.v1.Cloud/Stream"
KIND = "spikebottlenet-kind"  # trailing metadata of a refusal: our server's word for why
PUSHBACK = "grpc-retry-pushback-ms"  # trailing metadata of a refusal: when to come again

_CHECKED = struct.Struct("<I32sQIBB")
_Message = TypeVar("_Message", bound=Message)


@dataclass(frozen=True)
class Packet:
    """One payload with its envelope: step 0 is the whole sample, k = 1 … T one time step of it.

    more: how many whole samples follow it in the same payload, with the numbers behind its own.
    """

    sample: int
    step: int
    codec: int
    payload: bytes
    more: int = 0

    def __post_init__(self) -> None:
        if not (
            0 <= self.sample <= MAX_SAMPLE - self.more
            and 0 <= self.more < MAX_GROUP
            and not (self.more and self.step)
            and 0 <= self.step <= MAX_STEP
            and 0 <= self.codec <= MAX_CODEC
            and len(self.payload) <= MAX_PAYLOAD_BYTES
        ):
            raise PacketError(self._out_of_range())

    @property
    def samples(self) -> range:
        """The samples that are in it, all or one time step of them."""
        return range(self.sample, self.sample + self.more + 1)

    def _out_of_range(self) -> str:
        limits = {
            "further samples": (self.more, 0 if self.step > 0 else MAX_GROUP - 1),
            "sample": (self.sample, MAX_SAMPLE - self.more),
            "step": (self.step, MAX_STEP),
            "codec": (self.codec, MAX_CODEC),
            "payload bytes": (len(self.payload), MAX_PAYLOAD_BYTES),
        }
        return next(
            f"packet: expected {name} in [0, {limit}], got {value}"
            for name, (value, limit) in limits.items()
            if not 0 <= value <= limit
        )


@dataclass(frozen=True)
class Greeting:
    """The first message of a stream: which bundle its packets belong to, and whose they are."""

    digest: bytes
    session: bytes
    version: int = VERSION

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES:
            raise PacketError(f"hello: expected a digest of 32 bytes, got {len(self.digest)}")
        if len(self.session) != SESSION_BYTES:
            raise PacketError(f"hello: expected a session of 16 bytes, got {len(self.session)}")


def checksum(packet: Packet, digest: bytes) -> int:
    """crc32 over version, bundle digest, sample, step, codec, more and payload."""
    head = _CHECKED.pack(VERSION, digest, packet.sample, packet.step, packet.codec, packet.more)
    return zlib.crc32(packet.payload, zlib.crc32(head))


def _envelope(packet: Packet, digest: bytes) -> wire.Packet:
    return wire.Packet(
        sample=packet.sample,
        step=packet.step,
        codec=packet.codec,
        checksum=checksum(packet, digest),
        payload=packet.payload,
        more=packet.more,
    )


def _hello(greeting: Greeting) -> wire.Hello:
    return wire.Hello(version=greeting.version, bundle=greeting.digest, session=greeting.session)


def _parse(kind: type[_Message], raw: bytes) -> _Message:
    message = kind()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise PacketError(f"{kind.DESCRIPTOR.name}: {len(raw)} bytes that are none") from None
    return message


def pack(packets: Sequence[Packet], digest: bytes, acked: int = 0) -> bytes:
    """Packets as one message for a stream whose hello named this bundle digest.

    acked: replies read so far in this stream, 0 where nothing is said of it.
    """
    envelopes = [_envelope(packet, digest) for packet in packets]
    return wire.ToCloud(packets=envelopes, acked=acked).SerializeToString()


def parse(raw: bytes) -> wire.ToCloud:
    """What `pack` made, its packets to be `checked`. Raises PacketError for bytes that are none."""
    received = _parse(wire.ToCloud, raw)
    if received.HasField("hello"):
        raise PacketError("packet: expected packets, got a second hello")
    return received


def checked(received: wire.Packet, digest: bytes) -> Packet:
    """A received packet. Raises PacketError where one bit is not as it was sent."""
    packet = Packet(received.sample, received.step, received.codec, received.payload, received.more)
    if checksum(packet, digest) != received.checksum:
        raise PacketError(
            f"packet of sample {packet.sample}: wrong checksum; damaged, or of another bundle"
        )
    return packet


def pack_hello(greeting: Greeting) -> bytes:
    """The first message of a stream."""
    return wire.ToCloud(hello=_hello(greeting)).SerializeToString()


def unpack_hello(raw: bytes) -> Greeting:
    """The inverse of `pack_hello`. Raises PacketError on anything but a hello of this version."""
    received = _parse(wire.ToCloud, raw)
    if not received.HasField("hello") or received.packets:
        raise PacketError("hello: expected hello alone, before the first packet")
    return _greeting(received.hello)


def _greeting(hello: wire.Hello) -> Greeting:
    if hello.version != VERSION:
        raise PacketError(
            f"hello: this side speaks version {VERSION}, the other version {hello.version}; "
            "install the same release on both"
        )
    return Greeting(hello.bundle, hello.session)


def pack_request(packet: Packet, greeting: Greeting) -> bytes:
    """A whole unary request: hello and one packet."""
    envelope = _envelope(packet, greeting.digest)
    return wire.ClassifyRequest(hello=_hello(greeting), packet=envelope).SerializeToString()


def unpack_request(raw: bytes) -> tuple[Greeting, Packet]:
    """The inverse of `pack_request`. Raises PacketError."""
    request = _parse(wire.ClassifyRequest, raw)
    greeting = _greeting(request.hello)
    return greeting, checked(request.packet, greeting.digest)


def pack_welcome(window: int) -> bytes:
    """The reply to hello."""
    return wire.ToEdge(welcome=wire.Welcome(version=VERSION, window=window)).SerializeToString()


def pack_replies(replies: Sequence[wire.Answer | wire.Rejected]) -> bytes:
    """Answers and rejections as one message."""
    answers = [reply for reply in replies if isinstance(reply, wire.Answer)]
    rejected = [reply for reply in replies if isinstance(reply, wire.Rejected)]
    return wire.ToEdge(answers=answers, rejected=rejected).SerializeToString()


def unpack_reply(raw: bytes) -> wire.ToEdge:
    """The inverse of `pack_welcome` and `pack_replies`. Raises PacketError."""
    received = _parse(wire.ToEdge, raw)
    if received.HasField("welcome") and received.welcome.version != VERSION:
        raise PacketError(
            f"welcome: this side speaks version {VERSION}, the server version "
            f"{received.welcome.version}; install the same release on both"
        )
    return received


def unpack_answer(raw: bytes) -> wire.Answer:
    """The answer to a unary request. Raises PacketError."""
    return _parse(wire.Answer, raw)
