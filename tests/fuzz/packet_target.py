"""Coverage-guided fuzz of packets and conversations: `python -m tests.fuzz.packet_target -runs=…`.

An input is a sequence of messages of a stream, each behind two bytes of length. Options are
libFuzzer's.
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

DIGEST, SESSION = bytes(range(32)), b"s" * 16
STEPS, STEP_SPIKES, WINDOW = 3, 64, 4


class Swallow:
    """A batcher that takes every sample; it must never get one that is not whole."""

    def submit(self, samples: Any, done: Any) -> None:
        """Check that each is one whole sample; nobody is called back."""
        assert samples
        for parts in samples:
            assert [part.step for part in parts] in ([0], list(range(1, STEPS + 1)))

    def credit(self, streams: int) -> None:
        """Say nothing of speed."""


@cache
def _service() -> Any:
    from cloud_server.metrics import Metrics
    from cloud_server.service import Service, ServiceLimits

    return Service(ServiceLimits(window=WINDOW), Metrics())


def one_input(data: bytes) -> None:
    """All readers of bytes, then a conversation; anything but their own errors is a finding."""
    from cloud_server.service import Conversation, Served, WindowError
    from splitcore import packet
    from splitcore.errors import PacketError

    for read in (
        packet.unpack_hello,
        packet.unpack_request,
        packet.unpack_reply,
        packet.unpack_answer,
    ):
        try:
            read(data)
        except PacketError:
            continue
    replies: list[Any] = []
    served = Served(Path(), "fuzz", STEPS, STEP_SPIKES, DIGEST, Swallow())  # type: ignore[arg-type]

    def reply(given: Any) -> None:
        replies.extend(given)
        talk.given(len(given))

    talk = Conversation(_service(), served, SESSION, reply)
    try:
        while data:
            length = int.from_bytes(data[:2], "big")
            raw, data = data[2 : 2 + length], data[2 + length :]
            try:
                packets = [packet.checked(one, DIGEST) for one in packet.parse(raw).packets]
                again = packet.parse(packet.pack(packets, DIGEST)).packets
                assert [packet.checked(one, DIGEST) for one in again] == packets
            except PacketError:
                pass
            talk.receive(raw)
    except (PacketError, WindowError):
        pass
    kept = talk.open + len(talk._partial) + len(replies) - talk._acked  # acknowledged are gone
    assert kept <= 2 * WINDOW + packet.MAX_GROUP  # the last one may have been a group
    talk.close()


def seeds() -> list[bytes]:
    """Valid conversations: whole samples, steps in and out of order, groups, acknowledgements,
    copies."""
    from splitcore import packet
    from splitcore.packet import Greeting, Packet

    def message(*packets: Packet, acked: int = 0) -> bytes:
        raw = packet.pack(packets, DIGEST, acked)
        return len(raw).to_bytes(2, "big") + raw

    steps = [Packet(7, step, 5, b"step") for step in (1, 2, 3)]
    whole = Packet(packet.MAX_SAMPLE, 0, 1, b"payload")
    hello = packet.pack_hello(Greeting(DIGEST, SESSION))
    return [
        hello,
        packet.pack_request(whole, Greeting(DIGEST, SESSION)),
        packet.pack_welcome(64),
        message(whole),
        message(*steps),
        message(*steps[::-1]) + message(*steps),
        message(Packet(1, 9, 1, b"x")) + message(whole, acked=1),
        message(whole) * 9,
        message(Packet(6, 2, 5, bytes(999)), Packet(8, 0, 1, bytes(999))),
        message(Packet(5, 0, 1, b"payload", 2), whole) * 3,
    ]


def main() -> None:
    """Fuzz until an option of libFuzzer says stop; a finding ends with its traceback."""
    import atheris

    with atheris.instrument_imports(include=["splitcore.packet", "cloud_server.service"]):
        import cloud_server.service  # noqa: F401
    with tempfile.TemporaryDirectory() as corpus:
        for index, seed in enumerate(seeds()):
            (Path(corpus) / f"{index:03}").write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
