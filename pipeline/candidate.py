"""One way to divide the work, what it costs, and the limits it has to keep."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from measure.latency import Latency, split_latency
from measure.link import Link
from pipeline.units import energy_text


@dataclass(frozen=True)
class Candidate:
    """One way to do it: edge energy in pJ an image; message_bytes is what is sent.

    A baseline stands beside the others and is never chosen: it is an ordinary network, with a
    digital processor under it. samples: the test images of its accuracy; step_us: how long a step
    of the chip takes, None where nobody says; energy_absent: what the edge does without a figure.
    """

    name: str
    kind: Literal["split", "all_cloud", "all_edge", "baseline"]
    samples: int
    accuracy: float | None
    loss_points: float | None
    payload_bits: float
    message_bytes: float
    edge_op_only_pj: float
    edge_full_pj: float
    steps: int
    depth: int
    step_us: float | None
    encode_us: float | None
    cloud_us: float | None
    energy_absent: tuple[str, ...] = ()
    note: str = ""

    def radio_uj(self, link: Link, rate: float | None = None) -> float:
        """Radio energy of one message on an awake radio."""
        return link.send(self.message_bytes, rate).energy_uj if self.message_bytes else 0.0

    def total_uj(self, link: Link, rate: float | None = None) -> float:
        """Device energy an image: edge, full accounting, and radio."""
        return self.edge_full_pj / 1e6 + self.radio_uj(link, rate)

    def latency(self, link: Link, rate: float | None = None) -> Latency:
        """Time an image takes, part by part."""
        whole = split_latency(
            self.steps,
            self.depth,
            self.step_us,
            link,
            self.message_bytes,
            self.encode_us,
            self.cloud_us,
            rate,
        )
        if self.kind == "all_cloud":
            return replace(whole, edge_ms=0.0)
        if self.kind == "all_edge":
            return replace(whole, encode_ms=0.0, link_ms=0.0, cloud_ms=0.0)
        if self.kind == "baseline":
            return replace(whole, edge_ms=None)  # steps of a chip are not its time
        return whole


@dataclass(frozen=True)
class Limits:
    """What the user will not exceed; None where anything goes."""

    max_loss: float | None = None
    max_energy_pj: float | None = None
    max_latency_ms: float | None = None

    def broken(self, candidate: Candidate, latency: Latency) -> str | None:
        """The first limit that the candidate breaks, in words."""
        if candidate.loss_points is None:
            return "its accuracy is not known, so it cannot be chosen"
        if self.max_loss is not None and candidate.loss_points > self.max_loss + 1e-9:
            return f"loses {candidate.loss_points:.2f} points, {self.max_loss:g} allowed"
        if self.max_energy_pj is not None and candidate.edge_full_pj > self.max_energy_pj:
            return (
                f"takes {energy_text(candidate.edge_full_pj)} on the edge, "
                f"{energy_text(self.max_energy_pj)} allowed"
            )
        if self.max_latency_ms is not None and latency.total_ms > self.max_latency_ms:
            return f"takes {latency.total_ms:.3g} ms, {self.max_latency_ms:g} allowed"
        if self.max_latency_ms is not None and latency.absent:
            return f"its time is not known ({', '.join(latency.absent)}), so no limit holds it"
        return None
