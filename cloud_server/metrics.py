"""What the server counts, as Prometheus metrics in a registry of its own."""

from __future__ import annotations

import itertools
import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from splitcore.errors import UsageError

LATENCY_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
METRICS_HOST = "127.0.0.1"
BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


class ManyHistogram(Collector):
    """A histogram by bundle that takes many equal observations at once, as prometheus_client's own
    cannot: the samples of one message are answered together.
    """

    def __init__(self, name: str, text: str, bounds: Sequence[float]) -> None:
        self._name, self._text, self._bounds = name, text, tuple(bounds)
        self._lock = threading.Lock()  # the scraper's thread reads
        self._counts: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(bounds) + 1))
        self._sums: defaultdict[str, float] = defaultdict(float)

    def observe(self, bundle: str, value: float, count: int) -> None:
        """Count `value` so many times."""
        with self._lock:
            self._counts[bundle][bisect_left(self._bounds, value)] += count
            self._sums[bundle] += count * value

    def describe(self) -> list[Metric]:
        """What `collect` gives, without its figures."""
        return [HistogramMetricFamily(self._name, self._text, labels=("bundle",))]

    def collect(self) -> Iterator[Metric]:
        """Everything observed, as prometheus_client wants it."""
        family = HistogramMetricFamily(self._name, self._text, labels=("bundle",))
        names = [*map(str, self._bounds), "+Inf"]
        with self._lock:
            for bundle, counts in self._counts.items():
                below = itertools.accumulate(counts)
                family.add_metric(
                    (bundle,), list(zip(names, below, strict=True)), self._sums[bundle]
                )
        yield family


class Metrics:
    """Counters by bundle name; never by what a client chooses, which could grow without end."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"spikebottlenet_{name}", text, labels, registry=self.registry)

        self._packets = counter("packets", "Packets received", "bundle")
        self._payload = counter("payload_bits", "Encoded spikes received, bits", "bundle")
        self._received = counter("received_bytes", "gRPC messages received, bytes", "bundle")
        self._answers = counter("answers", "Samples answered", "bundle")
        self._errors = counter("errors", "Refused calls, damaged packets, failures", "kind")
        self._latency = ManyHistogram(
            "spikebottlenet_latency_seconds",
            "From a sample's last packet to its answer",
            LATENCY_S,
        )
        self.registry.register(self._latency)
        self._batch = Histogram(
            "spikebottlenet_batch_samples",
            "Samples in one call of the model",
            buckets=BATCH,
            registry=self.registry,
        )
        self._model = Histogram(
            "spikebottlenet_batch_seconds",
            "One call of the model",
            buckets=LATENCY_S,
            registry=self.registry,
        )
        self.streams = Gauge("spikebottlenet_streams", "Open streams", registry=self.registry)
        self.backlog = Gauge(
            "spikebottlenet_backlog_samples", "Samples that wait", registry=self.registry
        )

    def received(self, bundle: str, packets: int, payload_bits: int, message_bytes: int) -> None:
        """One message came in."""
        self._packets.labels(bundle).inc(packets)
        self._payload.labels(bundle).inc(payload_bits)
        self._received.labels(bundle).inc(message_bytes)

    def answered(self, bundle: str, samples: int, seconds: float) -> None:
        """Samples of one message were answered, so long after it came in."""
        self._answers.labels(bundle).inc(samples)
        self._latency.observe(bundle, seconds, samples)

    def batch(self, samples: int, seconds: float) -> None:
        """One call of the model ended."""
        self._batch.observe(samples)
        self._model.observe(seconds)

    def failed(self, kind: str) -> None:
        """Something was refused or went wrong; kind is one of a few words of ours."""
        self._errors.labels(kind).inc()


class MetricsPort:
    """The registry over HTTP, on loopback: for a scraper on this machine or a sidecar."""

    def __init__(self, metrics: Metrics, port: int) -> None:
        try:
            self._http, self._thread = start_http_server(port, METRICS_HOST, metrics.registry)
        except (OSError, OverflowError):
            raise UsageError(f"metrics port: {port} cannot be bound on {METRICS_HOST}") from None
        self.port = self._http.server_port

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
