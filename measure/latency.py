"""How long one image takes: edge steps, encoding, the link, the cloud; against one place for all.

    edge    (T + depth) steps of the chip; modelled (measure.step_time), not a measurement
    encode  spikes to bytes, measured on the host where a result holds it
    link    bits at the link's rate and half a round trip
    cloud   decode and classify, measured on the host where a result holds it

A part without a figure is absent (None) and the sum says so: it is then a lower bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from measure.link import Link


@dataclass(frozen=True)
class Latency:
    """Milliseconds by part; None where there is no figure."""

    edge_ms: float | None
    encode_ms: float | None
    link_ms: float | None
    cloud_ms: float | None

    @property
    def total_ms(self) -> float:
        """Sum of the parts that are known."""
        parts = (self.edge_ms, self.encode_ms, self.link_ms, self.cloud_ms)
        return sum(part for part in parts if part is not None)

    @property
    def absent(self) -> tuple[str, ...]:
        """Parts that are missing from the sum."""
        names = ("edge", "encode", "link", "cloud")
        return tuple(name for name in names if getattr(self, f"{name}_ms") is None)


def split_latency(
    steps: int,
    depth: int,
    step_us: float | None,
    link: Link,
    message_bytes: float,
    encode_us: float | None = None,
    cloud_us: float | None = None,
    rate_mbit_s: float | None = None,
) -> Latency:
    """One image through edge, link and cloud, one after the other."""
    return Latency(
        edge_ms=None if step_us is None else (steps + depth) * step_us / 1e3,
        encode_ms=None if encode_us is None else encode_us / 1e3,
        link_ms=link.send(message_bytes, rate_mbit_s).time_ms,
        cloud_ms=None if cloud_us is None else cloud_us / 1e3,
    )
