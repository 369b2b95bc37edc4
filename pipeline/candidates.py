"""What the planner chooses from: every cut in the files, all in the cloud, all on the edge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from measure.latency import Latency, split_latency
from measure.link import Link
from measure.profile import Profile
from pipeline import results
from pipeline.results import Details, Result
from pipeline.units import energy_text
from splitcore.errors import ResultError, UsageError

ANSWER_BYTES = 0  # all on the edge: the answer stays there


@dataclass(frozen=True)
class Candidate:
    """One way to do it: edge energy in pJ an image; message_bytes is what is sent."""

    name: str
    kind: Literal["split", "all_cloud", "all_edge"]
    accuracy: float | None
    loss_points: float | None
    payload_bits: float
    message_bytes: float
    edge_op_only_pj: float
    edge_full_pj: float
    steps: int
    depth: int
    encode_us: float | None
    cloud_us: float | None
    note: str = ""

    def radio_uj(self, link: Link, rate: float | None = None) -> float:
        """Radio energy of one message on an awake radio."""
        return link.send(self.message_bytes, rate).energy_uj if self.message_bytes else 0.0

    def total_uj(self, link: Link, rate: float | None = None) -> float:
        """Device energy an image: edge, full accounting, and radio."""
        return self.edge_full_pj / 1e6 + self.radio_uj(link, rate)

    def latency(self, profile: Profile, link: Link, rate: float | None = None) -> Latency:
        """Time an image takes, part by part."""
        whole = split_latency(
            self.steps,
            self.depth,
            profile,
            link,
            self.message_bytes,
            self.encode_us,
            self.cloud_us,
            rate,
        )
        if self.kind == "all_cloud":
            return replace(whole, edge_ms=0.0, encode_ms=0.0)
        if self.kind == "all_edge":
            return replace(whole, encode_ms=0.0, link_ms=0.0, cloud_ms=0.0)
        return whole


@dataclass(frozen=True)
class Limits:
    """What the user will not exceed; None where anything goes."""

    max_loss: float | None = None
    max_energy_pj: float | None = None
    max_latency_ms: float | None = None

    def broken(self, candidate: Candidate, latency_ms: float) -> str | None:
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
        if self.max_latency_ms is not None and latency_ms > self.max_latency_ms:
            return f"takes {latency_ms:.3g} ms, {self.max_latency_ms:g} allowed"
        return None


def load(paths: Sequence[Path]) -> list[tuple[str, Result]]:
    """(file, result) of each path, all of the same data and image shape, or ResultError."""
    if not paths:
        raise UsageError("plan: expected at least one result file")
    loaded: list[tuple[str, Result]] = []
    for path in paths:
        result = results.load(Path(path))
        if result.details is None:
            raise ResultError(f"{path}: details: missing; write the result again with details")
        loaded.append((str(path), result))
    first_name, first = loaded[0]
    for name, result in loaded[1:]:
        for field in ("data", "input_shape"):
            expected, got = (getattr(_details(r).bundle, field) for r in (first, result))
            if got != expected:
                raise ResultError(
                    f"{name}: details.bundle.{field}: {got!r} does not match {expected!r} "
                    f"of {first_name}"
                )
        if result.samples != first.samples:
            raise ResultError(
                f"{name}: samples: {result.samples} does not match {first.samples} of {first_name}"
            )
    return loaded


def _details(result: Result) -> Details:
    assert result.details is not None
    return result.details


def candidates(loaded: Sequence[tuple[str, Result]], profile: Profile) -> list[Candidate]:
    """Every split, and all in the cloud or on the edge where the results say what it takes."""
    known = [_details(result).accuracy_uncut for _, result in loaded]
    uncut = max((accuracy for accuracy in known if accuracy is not None), default=None)
    best = max(result.accuracy_pipeline for _, result in loaded)
    reference = best if uncut is None else uncut
    names = [_details(result).bundle.name for _, result in loaded]
    found: list[Candidate] = []
    for (file, result), name in zip(loaded, names, strict=True):
        detail = _details(result)
        if profile.name not in result.energy_pj:
            raise ResultError(
                f"{file}: energy_pj.{profile.name}: missing; it holds {', '.join(result.energy_pj)}"
            )
        energy = result.energy_pj[profile.name]
        split = Candidate(
            name=name if names.count(name) == 1 else f"{name} ({file})",
            kind="split",
            accuracy=result.accuracy_pipeline,
            loss_points=100 * (reference - result.accuracy_pipeline),
            payload_bits=result.payload_bits_mean,
            message_bytes=result.wire_bytes_mean,
            edge_op_only_pj=energy.op_only,
            edge_full_pj=energy.full,
            steps=result.steps,
            depth=detail.depth,
            encode_us=detail.encode_us,
            cloud_us=detail.cloud_us,
        )
        found.append(split)
        if profile.name in detail.cloud_energy_pj:
            cloud = detail.cloud_energy_pj[profile.name]
            found.append(
                replace(
                    split,
                    name=f"{split.name}, all on the edge",
                    kind="all_edge",
                    message_bytes=ANSWER_BYTES,
                    payload_bits=0.0,
                    edge_op_only_pj=energy.op_only + cloud.op_only,
                    edge_full_pj=energy.full + cloud.full,
                    depth=detail.depth + detail.cloud_depth,
                    note="both halves on the edge",
                )
            )
    found.append(_all_cloud(loaded, uncut, reference))
    return found


def _all_cloud(
    loaded: Sequence[tuple[str, Result]], uncut: float | None, reference: float
) -> Candidate:
    sizes = [_details(result).input_bytes_mean for _, result in loaded]
    coded = [size for size in sizes if size is not None]
    raw = math.prod(_details(loaded[0][1]).bundle.input_shape)
    size = min(coded) if coded else float(raw)
    times = [_details(result).cloud_us for _, result in loaded]
    return Candidate(
        name="all in the cloud",
        kind="all_cloud",
        accuracy=uncut,
        loss_points=None if uncut is None else 100 * (reference - uncut),
        payload_bits=8 * size,
        message_bytes=size,
        edge_op_only_pj=0.0,
        edge_full_pj=0.0,
        steps=0,
        depth=0,
        encode_us=None,
        cloud_us=max((time for time in times if time is not None), default=None),
        note="sends the coded image" if coded else "sends raw pixels, one byte a value",
    )
