"""Put it all together and serve: what the command line and the tests call."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from cloud_server.batching import BatchLimits
from cloud_server.catalogue import Catalogue
from cloud_server.endpoint import Endpoint, ServerLimits, background
from cloud_server.metrics import Metrics, MetricsPort
from cloud_server.replicas import LocalReplicas, Replicas
from cloud_server.security import TokenInterceptor, Tokens, check_listen, server_credentials
from cloud_server.service import Service, ServiceLimits
from splitcore.errors import UsageError

SWEEP_S = 1.0


@dataclass(frozen=True)
class Ready:
    """What is known once a server is ready; metrics_port is None where none was asked for."""

    address: str
    metrics_port: int | None


@dataclass(frozen=True, kw_only=True)
class Options:
    """All that can be said of a server; the defaults are safe: loopback, no plaintext beyond it."""

    listen: str = "127.0.0.1:0"
    engine: Literal["local", "ray"] = "local"
    threads: int | None = None  # of the local engine; None: one a core
    ray_address: str | None = None  # join this cluster instead of starting Ray here
    ray_replicas: tuple[int, int] = (1, 2)  # least and most of a bundle
    token_file: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    insecure: bool = False
    metrics_port: int | None = None
    watch_s: float = 1.0  # how often bundle folders are looked at for a new version
    limits: ServerLimits = field(default_factory=ServerLimits)
    service: ServiceLimits = field(default_factory=ServiceLimits)
    max_batch: int = 64
    max_queue: int = 2048


def serve(
    bundles: list[Path],
    listen: str = "127.0.0.1:0",
    *,
    ready: Callable[[Ready], None] = lambda where: None,
    **options: Any,
) -> None:
    """Serve until SIGTERM or SIGINT, then answer what was taken and return.

    `options` are the further fields of Options; `ready` is called once.
    Raises UsageError, BundleError, OverflowBoundError or LinkError before anything is served.
    """

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        chosen = Options(listen=listen, **options)
        await _serve(bundles, chosen, ready, stop.wait)

    asyncio.run(main())


@contextlib.contextmanager
def running(bundles: list[Path], **options: Any) -> Iterator[Ready]:
    """A server in a thread of this process, drained when the block ends. Raises what serve does."""
    started, ended = threading.Event(), threading.Event()
    found: list[Ready] = []
    failed: list[BaseException] = []

    async def main() -> None:
        def ready(where: Ready) -> None:
            found.append(where)
            started.set()

        await _serve(bundles, Options(**options), ready, lambda: asyncio.to_thread(ended.wait))

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:  # handed to the thread that waits for us
            failed.append(error)
        finally:
            started.set()

    thread = threading.Thread(target=run, name="cloud-server")
    try:
        thread.start()
        started.wait()
        if found:
            yield found[0]
    finally:  # also where Ctrl-C ends the wait: the server then stops as soon as it has started
        ended.set()
        thread.join()
    if failed:
        raise failed[0]


def _replicas(options: Options) -> Replicas:
    match options.engine:
        case "local":
            return LocalReplicas(options.threads or os.cpu_count() or 1)
        case "ray":
            try:
                from cloud_server.ray_replicas import RayReplicas
            except ImportError:
                raise UsageError(
                    "engine ray: Ray is not installed; install spikebottlenet with its extra [ray]"
                ) from None
            return RayReplicas(options.ray_address, options.ray_replicas)
        case other:
            raise UsageError(f"engine: expected local or ray, got {other!r}")


async def _serve(
    paths: list[Path],
    options: Options,
    ready: Callable[[Ready], None],
    stopped: Callable[[], Awaitable[object]],
) -> None:
    credentials = server_credentials(options.tls_cert, options.tls_key, options.tls_client_ca)
    check_listen(options.listen, credentials is not None, options.insecure)
    metrics = Metrics()
    tokens = None if options.token_file is None else Tokens(options.token_file)
    interceptors = () if tokens is None else (TokenInterceptor(tokens, metrics),)
    service = Service(options.service, metrics)
    replicas = _replicas(options)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(replicas.close)
        limits = BatchLimits(
            max_batch=options.max_batch,
            slots=replicas.slots,
            ahead=replicas.ahead,
            max_queue=options.max_queue,
        )
        catalogue = Catalogue(paths, service, replicas, limits)
        opened = await asyncio.to_thread(catalogue.open)
        metrics.backlog.set_function(lambda: catalogue.backlog)
        server = Endpoint(service, options.limits, catalogue.max_message_bytes, interceptors)
        port = None
        if options.metrics_port is not None:
            http = MetricsPort(metrics, options.metrics_port)
            stack.callback(http.close)
            port = http.port
        address = await server.listen(options.listen, credentials)
        stack.push_async_callback(server.stop)
        for bundle in opened:
            await catalogue.publish(bundle)
        await server.open()
        ready(Ready(address, port))
        async with background(server.sweep(SWEEP_S), catalogue.watch(options.watch_s)):
            await stopped()
