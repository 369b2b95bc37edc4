"""A process that opens many streams and says nothing in them: ADDRESS COUNT; until stdin ends."""

from __future__ import annotations

import asyncio
import sys

import grpc

from splitcore import packet

STREAMS_A_CONNECTION = 500


async def crowd(address: str, count: int) -> None:
    """Open the streams, then wait."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    held = []
    channels = []
    for k in range(count):
        if k % STREAMS_A_CONNECTION == 0:
            channels.append(grpc.aio.insecure_channel(address, options=options))
            await channels[-1].channel_ready()
        held.append(channels[-1].stream_stream(packet.STREAM)())
        await asyncio.sleep(0)
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for channel in channels:
        await channel.close()


if __name__ == "__main__":
    asyncio.run(crowd(sys.argv[1], int(sys.argv[2])))
