"""The service on a socket: grpc.aio with a unary call, a stream, health and reflection."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloud_server.batching import OverloadError
from cloud_server.exchange import DrainingError, Exchange, IdleError, UnreadError
from cloud_server.security import Rates, peer_host
from cloud_server.service import RefusedError, Service, WindowError
from splitcore import packet, wire_pb2
from splitcore.errors import CodecError, LinkError, PacketError

log = logging.getLogger(__name__)

SERVICE = wire_pb2.DESCRIPTOR.services_by_name["Cloud"].full_name
_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@dataclass(frozen=True)
class ServerLimits:
    """What one server gives at most.

    streams at once; seconds for a hello, and before a stream is closed that says nothing or whose
    replies nobody reads; packets a second and peer (None: no limit); seconds that open calls get
    when the server stops.
    """

    streams: int = 512
    hello_s: float = 10.0
    idle_s: float = 600.0
    packets_per_s: float | None = None
    grace_s: float = 10.0


class Endpoint:
    """A Service behind gRPC.

    Health answers for "" (alive: the process listens) and for the service's name (ready: bundles
    are loaded and it is not being stopped).
    """

    def __init__(
        self,
        service: Service,
        limits: ServerLimits,
        max_message_bytes: int,
        interceptors: tuple[grpc.aio.ServerInterceptor, ...] = (),
    ) -> None:
        self.service, self.limits = service, limits
        self._ready = False
        self._streams: set[Exchange] = set()
        self._rates = Rates(limits.packets_per_s) if limits.packets_per_s else None
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
        self._server = grpc.aio.server(
            interceptors=interceptors,
            options=(
                ("grpc.max_receive_message_length", max_message_bytes),
                ("grpc.so_reuseport", 0),  # a second server on the port is an error, not a share
                ("grpc.server_handshake_timeout_ms", 10_000),
            ),
        )
        handlers = {
            "Classify": grpc.unary_unary_rpc_method_handler(self._classify),
            "Stream": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, handlers),)
        )
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection(
            (SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server
        )

    async def listen(self, address: str, credentials: grpc.ServerCredentials | None) -> str:
        """Bind and be alive; returns the address with the port that was bound. Raises LinkError."""
        try:
            port = (
                self._server.add_insecure_port(address)
                if credentials is None
                else self._server.add_secure_port(address, credentials)
            )
        except RuntimeError:
            raise LinkError(
                f"listen: {address} cannot be bound; is the port taken, is the address ours?"
            ) from None
        await self._health.set("", _SERVING)
        await self._health.set(SERVICE, _NOT_SERVING)
        await self._server.start()
        return f"{address.rpartition(':')[0]}:{port}"

    async def open(self) -> None:
        """Be ready: take streams and calls."""
        self._ready = True
        await self._health.set(SERVICE, _SERVING)

    async def stop(self) -> None:
        """Be no longer ready, answer every sample already taken, end all calls."""
        self._ready = False
        await self._health.set(SERVICE, _NOT_SERVING)
        for exchange in self._streams:
            exchange.end(DrainingError("the server is being stopped"))
        await self._server.stop(self.limits.grace_s)

    async def sweep(self, every_s: float) -> None:
        """For ever: close streams that say nothing, or take nothing, for too long."""
        idle_s = self.limits.idle_s
        while True:
            await asyncio.sleep(every_s)
            silent = time.monotonic() - idle_s
            for exchange in self._streams:
                if exchange.writing_since < silent:
                    exchange.cut(UnreadError(f"no reply was read for {idle_s:g} s"))
                elif exchange.last_active < silent and not exchange.waits:
                    exchange.end(IdleError(f"nothing was said for {idle_s:g} s"))

    async def _classify(self, raw: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            self._check_ready()
            if self._rates is not None:
                wait_s = self._rates.wait_s(peer_host(context.peer()), 1)
                if wait_s > 0:
                    raise OverloadError(1 + int(1e3 * wait_s))
            return await self.service.classify(raw)
        except Exception as error:
            await self._abort(context, error)

    async def _stream(self, _: object, context: grpc.aio.ServicerContext) -> None:
        exchange: Exchange | None = None
        try:
            self._check_ready()
            if len(self._streams) >= self.limits.streams:
                raise OverloadError(1000)
            exchange = Exchange(self.service, context, self._rates)
            self._streams.add(exchange)
            self.service.metrics.streams.set(len(self._streams))
            ended = await exchange.run(self.limits.hello_s)
        except asyncio.CancelledError:  # what it left waiting is computed, for when it comes back
            self.service.metrics.failed("client_gone")
            raise
        except Exception as error:
            ended = error
        finally:
            if exchange is not None:
                self._streams.discard(exchange)
                self.service.metrics.streams.set(len(self._streams))
        if ended is not None and not context.cancelled():
            await self._abort(context, ended)

    def _check_ready(self) -> None:
        if not self._ready:
            raise DrainingError("the server is starting or being stopped")

    async def _abort(self, context: grpc.aio.ServicerContext, error: Exception) -> NoReturn:
        kind, code = _status(error)
        text = str(error)
        self.service.metrics.failed(kind)
        if code is grpc.StatusCode.INTERNAL:
            log.error("call failed", exc_info=error, extra={"peer": context.peer()})
            text = "the server failed; its log says why"
        else:
            log.info("call refused", extra={"peer": context.peer(), "kind": kind, "why": text})
        trailing = [(packet.KIND, kind)]
        if isinstance(error, OverloadError):
            trailing.append((packet.PUSHBACK, str(error.retry_ms)))
        await context.abort(code, text, trailing_metadata=tuple(trailing))


def _status(error: Exception) -> tuple[str, grpc.StatusCode]:
    match error:
        case PacketError() | CodecError():
            return "damaged", grpc.StatusCode.INVALID_ARGUMENT
        case RefusedError():
            return "unknown_bundle", grpc.StatusCode.FAILED_PRECONDITION
        case OverloadError():
            return "overload", grpc.StatusCode.RESOURCE_EXHAUSTED
        case WindowError():
            return "window", grpc.StatusCode.RESOURCE_EXHAUSTED
        case UnreadError():
            return "unread", grpc.StatusCode.UNAVAILABLE
        case IdleError():
            return "idle", grpc.StatusCode.UNAVAILABLE
        case DrainingError():
            return "draining", grpc.StatusCode.UNAVAILABLE
        case _:
            return "internal", grpc.StatusCode.INTERNAL


@contextlib.asynccontextmanager
async def background(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run these coroutines until the block ends; an error in one of them is logged."""
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                log.error("a background job failed", exc_info=ended)
