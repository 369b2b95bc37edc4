"""One stream on a socket that is scripted: what it reads, and when its writes get through."""

import asyncio

import pytest

from cloud_server.batching import Batcher, BatchLimits
from cloud_server.exchange import END, Exchange
from cloud_server.metrics import Metrics
from cloud_server.service import Served, Service, ServiceLimits
from splitcore import packet
from splitcore.codec.registry import encode_best
from splitcore.errors import PacketError
from splitcore.packet import Greeting, Packet
from tests.link import CodeContext, Model
from tests.tiny_bundle import make_bundle, random_code


class Context:
    """A gRPC context. reads: what the client says; taken: unset while it takes nothing."""

    def __init__(self) -> None:
        self.reads: asyncio.Queue = asyncio.Queue()
        self.written: list[bytes] = []
        self.taken = asyncio.Event()
        self.taken.set()

    def peer(self):
        return "ipv4:127.0.0.1:1"

    async def read(self):
        return await self.reads.get()

    async def send_initial_metadata(self, _):
        pass

    async def write(self, raw):
        self.written.append(raw)
        await self.taken.wait()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


async def turns():
    """Until all that can go on has gone on."""
    for _ in range(100):
        await asyncio.sleep(0)


def test_client_that_reads_nothing_cannot_acknowledge_what_waits_behind_it(bundle):
    known = CodeContext(bundle.manifest.spike_shape, bundle.manifest.code_rates)
    codec, payload = encode_best(random_code(1)[0], known)
    digest = bytes.fromhex(bundle.digest)

    async def main(acked):
        service = Service(ServiceLimits(), Metrics())
        service.publish(Served.of(bundle, Batcher(Model(known), BatchLimits())))
        context = Context()
        exchange = Exchange(service, context, None)  # type: ignore[arg-type]
        running = asyncio.ensure_future(exchange.run(60))
        context.reads.put_nowait(packet.pack_hello(Greeting(digest, bytes(16))))
        await turns()
        assert len(context.written) == 1  # the welcome
        context.taken.clear()
        for sample in range(3):
            context.reads.put_nowait(packet.pack([Packet(sample, 0, codec, payload)], digest))
            await turns()
        assert len(context.written) == 2  # one answer, in the write that does not get through
        context.reads.put_nowait(packet.pack([], digest, acked))
        context.reads.put_nowait(END)
        await turns()
        context.taken.set()
        return await running

    assert asyncio.run(main(acked=1)) is None
    ended = asyncio.run(main(acked=2))
    assert isinstance(ended, PacketError)
    assert str(ended) == "2 replies acknowledged of 1 given"
