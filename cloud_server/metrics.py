"""What the server counts, as Prometheus metrics in a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server

from splitcore.errors import UsageError

LATENCY_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCH = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters by bundle name; never by what a client chooses, which could grow without end."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._children: dict[str, tuple[Counter, Histogram]] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"spikebottlenet_{name}", text, labels, registry=self.registry)

        self._packets = counter("packets", "Packets received", "bundle")
        self._payload = counter("payload_bits", "Encoded spikes received, bits", "bundle")
        self._received = counter("received_bytes", "gRPC messages received, bytes", "bundle")
        self._answers = counter("answers", "Samples answered", "bundle")
        self._errors = counter("errors", "Refused calls, damaged packets, failures", "kind")
        self._latency = Histogram(
            "spikebottlenet_latency_seconds",
            "From a sample's last packet to its answer",
            ("bundle",),
            buckets=LATENCY_S,
            registry=self.registry,
        )
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

    def answered(self, bundle: str, seconds: float) -> None:
        """One sample was answered, so long after it came in."""
        # Looking a child up by its label costs more than counting; this runs for every sample.
        if bundle not in self._children:
            self._children[bundle] = self._answers.labels(bundle), self._latency.labels(bundle)
        answers, latency = self._children[bundle]
        answers.inc()
        latency.observe(seconds)

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
            self._http, self._thread = start_http_server(port, "127.0.0.1", metrics.registry)
        except (OSError, OverflowError):
            raise UsageError(f"metrics port: {port} cannot be bound on 127.0.0.1") from None
        self.port = self._http.server_port

    def close(self) -> None:
        """Stop serving."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
