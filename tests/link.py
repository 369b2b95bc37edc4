"""Both ends of a link for tests, and everything that can go wrong between them.

The servers here have the real endpoint, service, batching and decoding, and in place of the tail a
model whose answer is plain to see: the class is the number of spikes, modulo the classes.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import numpy as np

from cloud_server.batching import Batcher, BatchLimits
from cloud_server.endpoint import Endpoint, ServerLimits
from cloud_server.metrics import Metrics
from cloud_server.predict import Parts, Predictor, Scored
from cloud_server.service import Served, Service, ServiceLimits
from lava_edge.uplink import Patience, Uplink
from splitcore.bundle import Bundle, open_bundle
from splitcore.codec.context import CodeContext
from tests.tiny_bundle import CLASSES

QUICK = Patience(connect_s=5.0, stall_s=1.0, outage_s=10.0)


def counted_scores(code_ntchw: np.ndarray) -> np.ndarray:
    """One-hot scores (N, classes) of the number of spikes modulo the classes."""
    labels = code_ntchw.reshape(len(code_ntchw), -1).sum(axis=1) % CLASSES
    return np.eye(CLASSES, dtype=np.float32)[labels]


def until(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    """Wait for a condition; fail where it does not come true in good time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


@dataclass
class Model:
    """The stand-in engine. stalled: answers nothing until it is unset. pause_s: time a batch takes.

    running: the batches that it has been given and has not answered.
    """

    context: CodeContext
    pause_s: float = 0.0
    batches: list[int] = field(default_factory=list)
    stalled: bool = False
    broken: bool = False
    running: int = 0

    async def __call__(self, samples: Sequence[Parts]) -> Scored:
        self.running += 1
        try:
            return await self._answers(samples)
        finally:
            self.running -= 1

    async def _answers(self, samples: Sequence[Parts]) -> Scored:
        while self.stalled:
            await asyncio.sleep(0.005)
        if self.pause_s:
            await asyncio.sleep(self.pause_s)
        if self.broken:
            raise RuntimeError("the model is broken")
        self.batches.append(len(samples))
        return Predictor(self.context, counted_scores)(samples)


@dataclass
class Cloud:
    """A server in a thread of this process."""

    address: str
    service: Service
    endpoint: Endpoint
    model: Model
    loop: asyncio.AbstractEventLoop
    stop: asyncio.Event

    def call(self, job: Callable[[], object]) -> None:
        """Run something in the server's thread."""
        self.loop.call_soon_threadsafe(job)

    def metric(self, name: str, **labels: str) -> float:
        """The value of one of its metrics."""
        found = self.service.metrics.registry.get_sample_value(f"spikebottlenet_{name}", labels)
        return 0.0 if found is None else found


@contextlib.contextmanager
def cloud(
    bundles: Sequence[Bundle],
    port: int = 0,
    *,
    limits: ServerLimits | None = None,
    service_limits: ServiceLimits | None = None,
    batch: BatchLimits | None = None,
    max_message: int = 1 << 20,
    interceptors: tuple = (),
    credentials: grpc.ServerCredentials | None = None,
) -> Iterator[Cloud]:
    """Serve these bundles until the block ends."""
    started = threading.Event()
    made: list[Cloud] = []

    async def main() -> None:
        service = Service(service_limits or ServiceLimits(), Metrics())
        contexts = [
            CodeContext(bundle.manifest.spike_shape, bundle.manifest.code_rates)
            for bundle in bundles
        ]
        models = [Model(context) for context in contexts]
        for bundle, model in zip(bundles, models, strict=True):
            batcher = Batcher(model, batch or BatchLimits(), service.metrics.batch)
            service.publish(Served.of(bundle, batcher))
        endpoint = Endpoint(service, limits or ServerLimits(grace_s=5), max_message, interceptors)
        address = await endpoint.listen(f"127.0.0.1:{port}", credentials)
        await endpoint.open()
        stop = asyncio.Event()
        here = asyncio.get_running_loop()
        made.append(Cloud(address, service, endpoint, models[0], here, stop))
        started.set()
        await stop.wait()
        await endpoint.stop()

    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            failed.append(error)
            started.set()

    thread = threading.Thread(target=run, name="test-cloud")
    thread.start()
    started.wait()
    try:
        if made:
            yield made[0]
    finally:
        if made:
            with contextlib.suppress(RuntimeError):
                made[0].call(made[0].stop.set)
        thread.join()
    if failed:
        raise failed[0]


def check_answers(answers: dict[int, int], codes: Sequence[np.ndarray] | np.ndarray) -> None:
    """Each of these samples, numbered from 0, has its own answer and it is right."""
    expected = counted_scores(np.asarray(codes)).argmax(axis=1)
    assert sorted(answers) == list(range(len(codes)))
    assert [answers[k] for k in range(len(codes))] == expected.tolist()


def collect(uplink: Uplink, codes: np.ndarray) -> dict[int, int]:
    """Classify them; fails where a sample is answered twice."""
    answers: dict[int, int] = {}
    for answer in uplink.classify(enumerate(codes)):
        assert answer.sample not in answers
        answers[answer.sample] = answer.label
    return answers


class Relay:
    """A TCP relay that counts bytes, and cuts, holds or refuses connections when told to."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.up_bytes = self.down_bytes = self.connections = 0
        self.cut_after: int | None = None  # bytes going up, then the connection is reset
        self.down = False  # refuse and cut everything
        self.up_gate, self.down_gate = threading.Event(), threading.Event()
        self.up_gate.set()
        self.down_gate.set()
        self._closed = False
        self._open: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self.up_gate.set()
        self.down_gate.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Reset every open connection, in the middle of whatever it carries."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                one.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while not self._closed:
            try:
                edge, _ = self._listener.accept()
            except OSError:
                return
            if self.down:
                edge.close()
                continue
            self.connections += 1
            try:
                cloud_side = socket.create_connection(self._target)
            except OSError:
                edge.close()
                continue
            self._open |= {edge, cloud_side}
            for source, sink, up in ((edge, cloud_side, True), (cloud_side, edge, False)):
                thread = threading.Thread(target=self._pump, args=(source, sink, up))
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, up: bool) -> None:
        gate = self.up_gate if up else self.down_gate
        try:
            while content := source.recv(1 << 16):
                gate.wait()
                if up and self.cut_after is not None:
                    content = content[: self.cut_after]
                    self.cut_after -= len(content)
                if up:
                    self.up_bytes += len(content)
                else:
                    self.down_bytes += len(content)
                sink.sendall(content)
                if up and self.cut_after == 0:
                    self.cut_after = None
                    break
        except OSError:
            pass
        finally:
            for one in (source, sink):
                self._open.discard(one)
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()


def main() -> None:
    """A server as a process of its own, to be killed: BUNDLE PORT; prints its address."""
    with cloud([open_bundle(Path(sys.argv[1]))], int(sys.argv[2])) as server:
        print(server.address, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
