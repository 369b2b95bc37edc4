"""Packets: round trips, their size, and everything hostile."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from splitcore import packet, wire_pb2
from splitcore.errors import PacketError
from splitcore.packet import Greeting, Packet

ROOT = Path(__file__).resolve().parents[2]
DIGEST = bytes(range(32))
GREETING = Greeting(DIGEST, b"s" * 16)

_alone = st.builds(
    Packet,
    sample=st.integers(0, packet.MAX_SAMPLE),
    step=st.integers(0, packet.MAX_STEP),
    codec=st.integers(0, packet.MAX_CODEC),
    payload=st.binary(max_size=300),
)
_groups = st.builds(
    Packet,
    sample=st.integers(0, packet.MAX_SAMPLE - packet.MAX_GROUP),
    step=st.just(0),
    codec=st.integers(0, packet.MAX_CODEC),
    payload=st.binary(max_size=300),
    more=st.integers(1, packet.MAX_GROUP - 1),
)
packets = _alone | _groups


def unpack(raw, digest):
    """The inverse of `packet.pack`: packets and acked, as a stream's reader takes them."""
    received = packet.parse(raw)
    return [packet.checked(one, digest) for one in received.packets], received.acked


@given(st.lists(packets, max_size=5), st.integers(0, 1 << 31))
def test_pack_then_unpack_gives_the_same_packets(sent, acked):
    assert unpack(packet.pack(sent, DIGEST, acked), DIGEST) == (sent, acked)


def test_message_of_several_packets_is_its_parts_joined():
    one, two = Packet(1, 0, 1, b"one"), Packet(2, 3, 1, b"two")
    joined = packet.pack([one], DIGEST) + packet.pack([two], DIGEST) + packet.pack([], DIGEST, 7)
    assert unpack(joined, DIGEST) == ([one, two], 7)


@pytest.mark.parametrize("payload_bytes", [0, 1, 200, 1 << 14, 1 << 20])
def test_envelope_at_the_largest_values_is_within_24_bytes(payload_bytes):
    largest = Packet(packet.MAX_SAMPLE, packet.MAX_STEP, packet.MAX_CODEC, bytes(payload_bytes))
    envelope = len(packet.pack([largest], DIGEST)) - payload_bytes
    assert envelope <= packet.MAX_ENVELOPE_BYTES
    more = packet.MAX_GROUP - 1
    group = Packet(packet.MAX_SAMPLE - more, 0, packet.MAX_CODEC, bytes(payload_bytes), more)
    assert len(packet.pack([group], DIGEST)) - payload_bytes <= packet.MAX_ENVELOPE_BYTES


@given(packets, st.data())
def test_unpack_with_one_bit_flipped_raises_or_gives_the_packet(sent, data):
    raw = bytearray(packet.pack([sent], DIGEST))
    bit = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[bit // 8] ^= 1 << bit % 8
    try:
        found, _ = unpack(bytes(raw), DIGEST)
    except PacketError:
        return
    # A flip in protobuf's own bytes may hide the packet; it never changes one.
    assert found in ([], [sent])


@given(packets, st.data())
def test_unpack_of_a_truncated_message_never_gives_another_packet(sent, data):
    raw = packet.pack([sent], DIGEST)
    cut = raw[: data.draw(st.integers(0, len(raw) - 1))]
    try:
        found, _ = unpack(cut, DIGEST)
    except PacketError:
        return
    assert found == []


@given(st.binary(max_size=400))
def test_unpack_of_any_bytes_raises_only_packet_error(raw):
    for read in (
        lambda: unpack(raw, DIGEST),
        lambda: packet.unpack_hello(raw),
        lambda: packet.unpack_request(raw),
        lambda: packet.unpack_reply(raw),
        lambda: packet.unpack_answer(raw),
    ):
        with contextlib.suppress(PacketError):
            read()


def test_packet_for_another_bundle_is_refused():
    raw = packet.pack([Packet(1, 0, 1, b"x")], DIGEST)
    with pytest.raises(PacketError, match="another bundle"):
        unpack(raw, bytes(32))


@pytest.mark.parametrize(
    "fields",
    [
        {"sample": packet.MAX_SAMPLE + 1},
        {"sample": -1},
        {"step": packet.MAX_STEP + 1},
        {"codec": packet.MAX_CODEC + 1},
        {"payload": bytes(packet.MAX_PAYLOAD_BYTES + 1)},
    ],
)
def test_packet_beyond_its_limits_is_refused(fields):
    with pytest.raises(PacketError, match="expected"):
        Packet(**{"sample": 0, "step": 0, "codec": 0, "payload": b"", **fields})


def test_hello_round_trip():
    assert packet.unpack_hello(packet.pack_hello(GREETING)) == GREETING


def test_hello_of_another_version_names_both_versions():
    raw = packet.pack_hello(Greeting(DIGEST, b"s" * 16, version=9))
    with pytest.raises(PacketError, match=r"version 2, the other version 9"):
        packet.unpack_hello(raw)


def test_packet_in_place_of_hello_is_refused():
    with pytest.raises(PacketError, match="expected hello"):
        packet.unpack_hello(packet.pack([Packet(1, 0, 1, b"x")], DIGEST))


def test_second_hello_is_refused():
    with pytest.raises(PacketError, match="second hello"):
        unpack(packet.pack_hello(GREETING), DIGEST)


def test_request_round_trip():
    sent = Packet(4, 0, 2, b"payload")
    assert packet.unpack_request(packet.pack_request(sent, GREETING)) == (GREETING, sent)


def test_replies_round_trip():
    answer = wire_pb2.Answer(sample=3, label=1, scores=[0.5, 1.5], server_us=9)
    rejected = wire_pb2.Rejected(sample=4, reason="why")
    found = packet.unpack_reply(packet.pack_replies([rejected, answer]))
    assert list(found.answers) == [answer]
    assert list(found.rejected) == [rejected]


def test_generated_messages_are_those_of_the_proto_file(tmp_path):
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.", f"--python_out={tmp_path}"]
    command += [f"--pyi_out={tmp_path}", "splitcore/wire.proto"]
    subprocess.run(command, cwd=ROOT, check=True)
    for name in ("wire_pb2.py", "wire_pb2.pyi"):
        assert (tmp_path / "splitcore" / name).read_text() == (
            ROOT / "splitcore" / name
        ).read_text(), "regenerate: python -m grpc_tools.protoc (see the test)"
