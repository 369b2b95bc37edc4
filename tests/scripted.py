"""A gRPC server whose every word a test writes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent import futures

import grpc

from splitcore import packet
from splitcore import wire_pb2 as wire

Script = Callable[[Iterator[bytes], grpc.ServicerContext], Iterator[bytes]]


@contextlib.contextmanager
def scripted(stream: Script) -> Iterator[str]:
    """Serve each stream by this script; gives the address."""
    server = grpc.server(futures.ThreadPoolExecutor(8, thread_name_prefix="scripted"))
    handler = grpc.method_handlers_generic_handler(
        "spikebottlenet.v1.Cloud", {"Stream": grpc.stream_stream_rpc_method_handler(stream)}
    )
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(0).wait()


def samples_in(raw: bytes) -> list[int]:
    """The samples, whole or in part, that a message of a client holds."""
    return [
        one.sample + place for one in packet.parse(raw).packets for place in range(one.more + 1)
    ]


def answers_to(raw: bytes) -> bytes:
    """The reply that answers every sample of a message with class 0."""
    return packet.pack_replies([wire.Answer(sample=sample) for sample in samples_in(raw)])
