"""A gRPC middleman that meddles with the messages of a stream on their way up."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Callable, Iterator

import grpc

from splitcore import packet

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
def meddling(address: str, meddle: Meddle, seed: int = 0, hello: bool = False) -> Iterator[str]:
    """A server that passes streams on to `address`, with messages after hello meddled with."""
    rng = random.Random(seed)
    started = threading.Event()
    found: list[str] = []
    ends: list[Callable[[], object]] = []

    async def stream(_: object, context: grpc.aio.ServicerContext) -> None:
        async with grpc.aio.insecure_channel(address) as channel:
            call = channel.stream_stream(packet.STREAM)()

            async def up() -> None:
                first = not hello
                with contextlib.suppress(grpc.RpcError, asyncio.InvalidStateError):
                    while (raw := await context.read()) is not grpc.aio.EOF:
                        for one in [raw] if first else meddle(raw, rng):
                            await call.write(one)
                        first = False
                    await call.done_writing()

            sender = asyncio.ensure_future(up())
            try:
                while (raw := await call.read()) is not grpc.aio.EOF:
                    await context.write(raw)
                code, details = await call.code(), await call.details()
            except grpc.aio.AioRpcError as error:
                code, details = error.code(), error.details()
            finally:
                sender.cancel()
                await asyncio.gather(sender, return_exceptions=True)
        if code is not grpc.StatusCode.OK:
            await context.abort(code, details or "")

    async def main() -> None:
        server = grpc.aio.server()
        handler = grpc.method_handlers_generic_handler(
            "spikebottlenet.v1.Cloud", {"Stream": grpc.stream_stream_rpc_method_handler(stream)}
        )
        server.add_generic_rpc_handlers((handler,))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        ends.append(lambda: loop.call_soon_threadsafe(stop.set))
        found.append(f"127.0.0.1:{port}")
        started.set()
        await stop.wait()
        await server.stop(0)

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="meddler")
    thread.start()
    started.wait()
    try:
        yield found[0]
    finally:
        ends[0]()
        thread.join()
