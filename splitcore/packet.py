"""What travels: hello once a stream, then one small envelope around each payload.

    ToCloud   hello(version, bundle digest, session)  |  sample, step, codec, checksum, payload
    ToEdge    welcome(version, window)                |  answer  |  rejected

Version, bundle digest and shape never change within a stream: the digest is said at hello and the
shape follows from the bundle. The checksum covers all of it, so a packet that reaches the wrong
bundle does not pass. Everything received is hostile: one PacketError, whatever is wrong.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from splitcore.errors import PacketError
from splitcore.wire_pb2 import Answer, ClassifyRequest, Hello, Rejected, ToCloud, ToEdge, Welcome

VERSION = 1
DIGEST_BYTES = 32
SESSION_BYTES = 16
MAX_SAMPLE = (1 << 48) - 1  # seven bytes of varint: keeps an envelope within MAX_ENVELOPE_BYTES
MAX_STEP = 1024  # as in a manifest
MAX_CODEC = 127
MAX_PAYLOAD_BYTES = 1 << 20
MAX_ENVELOPE_BYTES = 24  # of one packet without an acknowledgement; tested at the largest values

CLASSIFY = "/spikebottlenet.v1.Cloud/Classify"
STREAM = "/spikebottlenet.v1.Cloud/Stream"

_CHECKED = struct.Struct("<I32sQIB")


@dataclass(frozen=True)
class Packet:
    """One payload with its envelope: step 0 is the whole sample, k = 1 … T one time step of it.

    acked counts the answers read so far in this stream, 0 where the packet does not say.
    """

    sample: int
    step: int
    codec: int
    payload: bytes
    acked: int = 0

    def __post_init__(self) -> None:
        for name, value, limit in (
            ("sample", self.sample, MAX_SAMPLE),
            ("step", self.step, MAX_STEP),
            ("codec", self.codec, MAX_CODEC),
            ("payload bytes", len(self.payload), MAX_PAYLOAD_BYTES),
        ):
            if not 0 <= value <= limit:
                raise PacketError(f"packet: expected {name} in [0, {limit}], got {value}")


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
    """crc32 over version, bundle digest, sample, step, codec and payload."""
    head = _CHECKED.pack(VERSION, digest, packet.sample, packet.step, packet.codec)
    return zlib.crc32(packet.payload, zlib.crc32(head))


def message(packet: Packet, digest: bytes) -> ToCloud:
    """The packet as its protobuf message, with its checksum."""
    return ToCloud(
        sample=packet.sample,
        step=packet.step,
        codec=packet.codec,
        checksum=checksum(packet, digest),
        payload=packet.payload,
        acked=packet.acked,
    )


def pack(packet: Packet, digest: bytes) -> bytes:
    """The packet's bytes for a stream whose hello named this bundle digest."""
    return message(packet, digest).SerializeToString()


def unpack(raw: bytes, digest: bytes) -> Packet:
    """The inverse of `pack`. Raises PacketError where one bit is not as it was sent."""
    return checked(parse(raw), digest)


def parse(raw: bytes) -> ToCloud:
    """Bytes of a stream as hello or packet, nothing checked but that they are protobuf."""
    received = ToCloud()
    try:
        received.ParseFromString(raw)
    except DecodeError:
        raise PacketError("packet: no protobuf message of ours") from None
    return received


def checked(received: ToCloud, digest: bytes) -> Packet:
    """The packet in a parsed message. Raises PacketError where its checksum does not fit."""
    if received.HasField("hello"):
        raise PacketError("packet: expected a packet, got a second hello")
    packet = Packet(
        received.sample, received.step, received.codec, received.payload, received.acked
    )
    if checksum(packet, digest) != received.checksum:
        raise PacketError(
            f"packet of sample {packet.sample}: wrong checksum; damaged, or of another bundle"
        )
    return packet


def pack_hello(greeting: Greeting) -> bytes:
    """The first message of a stream."""
    return ToCloud(hello=_hello(greeting)).SerializeToString()


def _hello(greeting: Greeting) -> Hello:
    return Hello(version=greeting.version, bundle=greeting.digest, session=greeting.session)


def unpack_hello(raw: bytes) -> Greeting:
    """The inverse of `pack_hello`. Raises PacketError on anything but a hello of this version."""
    received = parse(raw)
    if not received.HasField("hello"):
        raise PacketError("hello: expected hello before the first packet")
    return greeting(received.hello)


def greeting(hello: Hello) -> Greeting:
    """A received hello, checked. Raises PacketError on another version first."""
    if hello.version != VERSION:
        raise PacketError(
            f"hello: this side speaks version {VERSION}, the other version {hello.version}; "
            "install the same release on both"
        )
    return Greeting(hello.bundle, hello.session)


def pack_request(packet: Packet, greeting: Greeting) -> bytes:
    """A whole unary request: hello and one packet."""
    request = ClassifyRequest(hello=_hello(greeting), packet=message(packet, greeting.digest))
    return request.SerializeToString()


def unpack_request(raw: bytes) -> tuple[Greeting, Packet]:
    """The inverse of `pack_request`."""
    request = ClassifyRequest()
    try:
        request.ParseFromString(raw)
    except DecodeError:
        raise PacketError("request: no protobuf message of ours") from None
    hello = greeting(request.hello)
    return hello, checked(request.packet, hello.digest)


def pack_reply(reply: Welcome | Answer | Rejected) -> bytes:
    """What the cloud says in a stream."""
    match reply:
        case Welcome():
            return ToEdge(welcome=reply).SerializeToString()
        case Answer():
            return ToEdge(answer=reply).SerializeToString()
        case Rejected():
            return ToEdge(rejected=reply).SerializeToString()
        case _:
            raise PacketError(f"reply: no such kind {type(reply).__name__}")


def unpack_reply(raw: bytes) -> Welcome | Answer | Rejected:
    """The inverse of `pack_reply`. Raises PacketError on anything else."""
    received = ToEdge()
    try:
        received.ParseFromString(raw)
    except DecodeError:
        raise PacketError("reply: no protobuf message of ours") from None
    kind = received.WhichOneof("kind")
    if kind is None:
        raise PacketError("reply: empty, or of a newer version")
    return getattr(received, kind)
