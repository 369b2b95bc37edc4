"""The service on a socket: grpc.aio with a unary call, a stream, health and reflection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloud_server.batching import Batcher, BatchLimits, OverloadError
from cloud_server.engines import LocalEngine, predictor
from cloud_server.service import RefusedError, Service, WindowError
from splitcore import spikes, wire_pb2
from splitcore.bundle import open_bundle
from splitcore.errors import CodecError, LinkError, PacketError, UsageError

log = logging.getLogger(__name__)

SERVICE = "spikebottlenet.v1.Cloud"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]", "::1")
PUSHBACK = "grpc-retry-pushback-ms"


@dataclass(frozen=True)
class ServerLimits:
    """What one server gives at most."""

    streams: int = 1024
    hello_s: float = 10.0
    grace_s: float = 10.0


def check_listen(listen: str, encrypted: bool, insecure: bool) -> None:
    """Raise UsageError for an address that is none, or open to others without encryption."""
    host, _, port = listen.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"listen: expected HOST:PORT, got {listen!r}")
    if host not in LOOPBACK and not encrypted and not insecure:
        raise UsageError(
            f"listen: {host} is open to other machines and the link is not encrypted; give a TLS "
            "certificate and key, or say insecure"
        )


class Server:
    """Serves a Service over gRPC. Use `serve` or `running`."""

    def __init__(self, service: Service, limits: ServerLimits, max_message: int) -> None:
        self.service, self.limits = service, limits
        self._streams = 0
        self._health = health.aio.HealthServicer()
        self._server = grpc.aio.server(
            options=(
                ("grpc.max_receive_message_length", max_message),
                ("grpc.so_reuseport", 0),
                ("grpc.server_handshake_timeout_ms", 10_000),
            )
        )
        handlers = {
            "Classify": grpc.unary_unary_rpc_method_handler(self._classify),
            "Stream": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        described = wire_pb2.DESCRIPTOR.services_by_name["Cloud"].full_name
        reflection.enable_server_reflection(
            (described, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def start(self, listen: str) -> str:
        """Bind and begin; returns the address with the port that was bound."""
        try:
            port = self._server.add_insecure_port(listen)
        except RuntimeError:
            raise LinkError(f"listen: {listen} cannot be bound; is the port taken?") from None
        await self._server.start()
        await self._health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        return f"{listen.rpartition(':')[0]}:{port}"

    async def stop(self) -> None:
        """Refuse new calls, let open ones finish within the grace."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(self.limits.grace_s)

    async def _classify(self, raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            return await self.service.classify(raw)
        except Exception as error:
            await _abort(context, error)
            raise AssertionError("abort returned") from None

    async def _stream(self, _: object, context: grpc.aio.ServicerContext) -> None:
        if self._streams >= self.limits.streams:
            await _abort(context, OverloadError(1000))
        self._streams += 1
        try:
            await self._converse(context)
        finally:
            self._streams -= 1

    async def _converse(self, context: grpc.aio.ServicerContext) -> None:
        try:
            hello = await asyncio.wait_for(context.read(), self.limits.hello_s)
        except asyncio.TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, "no hello came")
        if hello is grpc.aio.EOF:
            return
        try:
            conversation = self.service.greet(hello)
        except (PacketError, RefusedError) as error:
            await _abort(context, error)
            return
        try:
            await context.write(conversation.welcome())
            await _Exchange(conversation, context).run()
        finally:
            conversation.close()


class _Exchange:
    """Reads packets and writes replies of one stream until the client has all its answers."""

    def __init__(self, conversation, context: grpc.aio.ServicerContext) -> None:
        self._conversation, self._context = conversation, context
        self._replies: asyncio.Queue[bytes | Exception | None] = asyncio.Queue()
        self._open = 0
        self._ended = False

    async def run(self) -> None:
        writer = asyncio.ensure_future(self._write())
        reader = asyncio.ensure_future(self._read())
        try:
            error = await writer
        finally:
            for task in (reader, writer):
                task.cancel()
            await asyncio.gather(reader, writer, return_exceptions=True)
        if error is not None:
            await _abort(self._context, error)

    async def _read(self) -> None:
        try:
            while (raw := await self._context.read()) is not grpc.aio.EOF:
                reply = self._conversation.receive(raw)
                if isinstance(reply, bytes):
                    self._replies.put_nowait(reply)
                elif reply is not None:
                    self._open += 1
                    reply.add_done_callback(self._replied)
        except Exception as error:  # told to the client by the writer, which ends the stream
            self._replies.put_nowait(error)
            return
        self._ended = True
        if self._open == 0:
            self._replies.put_nowait(None)

    def _replied(self, reply: asyncio.Future[bytes]) -> None:
        self._open -= 1
        if not reply.cancelled():
            self._replies.put_nowait(reply.exception() or reply.result())
        if self._ended and self._open == 0:
            self._replies.put_nowait(None)

    async def _write(self) -> Exception | None:
        while (reply := await self._replies.get()) is not None:
            if isinstance(reply, BaseException):
                return reply
            await self._context.write(reply)
        return None


async def _abort(context: grpc.aio.ServicerContext, error: Exception) -> None:
    match error:
        case PacketError() | CodecError():
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        case RefusedError():
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, str(error))
        case OverloadError():
            await context.abort(
                grpc.StatusCode.RESOURCE_EXHAUSTED,
                str(error),
                trailing_metadata=((PUSHBACK, str(error.retry_ms)),),
            )
        case WindowError():
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
        case _:
            log.error("a batch failed", exc_info=error)
            await context.abort(grpc.StatusCode.INTERNAL, "the model failed; see the server's log")


async def _serve(
    bundles: list[Path],
    listen: str,
    ready: Callable[[str], None],
    stop: asyncio.Event,
    insecure: bool,
    threads: int,
) -> None:
    check_listen(listen, encrypted=False, insecure=insecure)
    service = Service()
    engines = []
    largest = 0
    for path in bundles:
        bundle = open_bundle(path)
        engine = LocalEngine(predictor(bundle), threads)
        engines.append(engine)
        batcher = Batcher(engine, BatchLimits(slots=threads))
        service.publish(bundle.manifest, bytes.fromhex(bundle.digest), batcher)
        largest = max(largest, spikes.packed_size(bundle.manifest.spike_shape))
    server = Server(service, ServerLimits(), 2 * largest + 4096)
    try:
        address = await server.start(listen)
        ready(address)
        await stop.wait()
        await server.stop()
    finally:
        for engine in engines:
            engine.close()


def serve(
    bundles: list[Path],
    listen: str = "127.0.0.1:0",
    *,
    ready: Callable[[str], None] = lambda address: None,
    insecure: bool = False,
    threads: int | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT, then drain. `ready` is called with the bound address."""

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await _serve(bundles, listen, ready, stop, insecure, threads or os.cpu_count() or 1)

    asyncio.run(main())


@contextlib.contextmanager
def running(bundles: list[Path], listen: str = "127.0.0.1:0", **options) -> Iterator[str]:
    """A server in a thread of this process; yields its address and drains it at the end."""
    started = threading.Event()
    state: dict = {}

    async def main() -> None:
        state["loop"], state["stop"] = asyncio.get_running_loop(), asyncio.Event()

        def ready(address: str) -> None:
            state["address"] = address
            started.set()

        threads = options.get("threads") or os.cpu_count() or 1
        await _serve(bundles, listen, ready, state["stop"], options.get("insecure", False), threads)

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            state["error"] = error
        finally:
            started.set()

    thread = threading.Thread(target=run, name="cloud-server")
    thread.start()
    started.wait()
    if "address" not in state:
        thread.join()
        raise state["error"]
    try:
        yield state["address"]
    finally:
        state["loop"].call_soon_threadsafe(state["stop"].set)
        thread.join()
