"""A gRPC middleman that meddles with the messages of a stream on their way up."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator

import grpc

from splitcore import packet
from tests.scripted import scripted

Meddle = Callable[[bytes, random.Random], list[bytes]]


def drop(raw: bytes, rng: random.Random) -> list[bytes]:
    """Lose some messages."""
    return [] if rng.random() < 0.1 else [raw]


def duplicate(raw: bytes, rng: random.Random) -> list[bytes]:
    """Say some messages twice."""
    return [raw, raw] if rng.random() < 0.3 else [raw]


def truncate(raw: bytes, rng: random.Random) -> list[bytes]:
    """Cut some messages short."""
    return [raw[: rng.randrange(len(raw))]] if rng.random() < 0.1 else [raw]


def flip(raw: bytes, rng: random.Random) -> list[bytes]:
    """Turn one bit of some messages."""
    if rng.random() > 0.1:
        return [raw]
    damaged = bytearray(raw)
    damaged[rng.randrange(len(raw))] ^= 1 << rng.randrange(8)
    return [bytes(damaged)]


class Reorder:
    """Hold some messages back until the next one has gone."""

    def __init__(self) -> None:
        self._held: list[bytes] = []

    def __call__(self, raw: bytes, rng: random.Random) -> list[bytes]:
        """Every other message waits for the one behind it."""
        held, self._held = self._held, []
        if not held and rng.random() < 0.5:
            self._held = [raw]
            return []
        return [raw, *held]


@contextlib.contextmanager
def meddling(address: str, meddle: Meddle, seed: int = 0) -> Iterator[str]:
    """A server that passes streams on to `address`, with all messages but hello meddled with."""
    rng = random.Random(seed)

    def meddled(received: Iterator[bytes]) -> Iterator[bytes]:
        with contextlib.suppress(grpc.RpcError, StopIteration):
            yield next(received)
            for raw in received:
                yield from meddle(raw, rng)

    def stream(received: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        with grpc.insecure_channel(address) as channel:
            call = channel.stream_stream(packet.STREAM)(meddled(received))
            context.add_callback(call.cancel)
            try:
                yield from call
            except grpc.RpcError as error:
                if context.is_active():
                    context.abort(error.code(), error.details())  # type: ignore[attr-defined]

    with scripted(stream) as reached:
        yield reached
