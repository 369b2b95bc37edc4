"""Where to cut: results of several cuts and codes, one link, one profile, limits; one answer.

What is compared is the device's energy an image, edge computing (full accounting) plus radio for
the bytes really sent, envelope included. Beside the cuts stand all in the cloud (the image itself
is sent) and all on the edge (nothing is), where the results hold what that takes. Energies and edge
time are modelled; accuracy, bits and bytes are what the runs measured.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from measure import link as links
from measure import profile as profiles
from measure.latency import Latency, split_latency
from measure.link import Link
from measure.profile import Profile
from pipeline import results as files
from pipeline.figures import energy_text
from pipeline.results import Details, Result
from splitcore.errors import ResultError, UsageError

ANSWER_BYTES = 0  # all on the edge: the answer stays there
SWEEP_MBIT_S = tuple(float(rate) for rate in np.logspace(-3, 3, 61))
BISECTIONS = 50


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


def plan(
    results: Sequence[Path],
    link: str | Path,
    profile: str | Path,
    max_loss: float | None = None,
    max_energy_pj: float | None = None,
    max_latency_ms: float | None = None,
) -> dict[str, Any]:
    """The chosen cut, the Pareto front, why the others lost, and where the link's rate matters.

    Raises ResultError naming the file and field, ProfileError for link or profile.
    """
    loaded = load(results)
    return decide(
        loaded,
        links.load(link),
        profiles.load(profile),
        Limits(max_loss, max_energy_pj, max_latency_ms),
    )


def load(paths: Sequence[Path]) -> list[tuple[str, Result]]:
    """(file, result) of each path, all of the same data and image shape, or ResultError."""
    if not paths:
        raise UsageError("plan: expected at least one result file")
    loaded: list[tuple[str, Result]] = []
    for path in paths:
        result = files.load(Path(path))
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


def decide(
    loaded: Sequence[tuple[str, Result]], link: Link, profile: Profile, limits: Limits
) -> dict[str, Any]:
    """What `plan` returns, from results already loaded."""
    found = candidates(loaded, profile)
    times = {c.name: c.latency(profile, link) for c in found}
    broken = {c.name: limits.broken(c, times[c.name].total_ms) for c in found}
    allowed = [c for c in found if broken[c.name] is None]
    chosen = min(allowed, key=lambda c: c.total_uj(link), default=None)
    front = _pareto(found, link, times)
    rows = []
    for candidate in found:
        time, transfer = times[candidate.name], link.send(candidate.message_bytes)
        asleep = transfer.lone_energy_uj if candidate.message_bytes else 0.0
        rows.append(
            {
                "name": candidate.name,
                "kind": candidate.kind,
                "accuracy": candidate.accuracy,
                "loss_points": candidate.loss_points,
                "payload_bits": candidate.payload_bits,
                "message_bytes": candidate.message_bytes,
                "edge_pj": {
                    "op_only": candidate.edge_op_only_pj,
                    "full": candidate.edge_full_pj,
                },
                "radio_uj": candidate.radio_uj(link),
                "radio_lone_uj": asleep,
                "total_uj": candidate.total_uj(link),
                "latency_ms": time.total_ms,
                "latency_parts_ms": {
                    part: getattr(time, f"{part}_ms")
                    for part in ("edge", "encode", "link", "cloud")
                },
                "latency_absent": list(time.absent),
                "pareto": candidate.name in front,
                "why": _why(candidate, chosen, broken[candidate.name], link),
                "note": candidate.note,
            }
        )
    return {
        "link": link.name,
        "profile": profile.name,
        "accounting": "full",
        "limits": {
            "max_loss": limits.max_loss,
            "max_energy_pj": limits.max_energy_pj,
            "max_latency_ms": limits.max_latency_ms,
        },
        "chosen": None if chosen is None else chosen.name,
        "pareto": front,
        "candidates": rows,
        "sweep": _sweep(found, link, profile, limits),
    }


def _pareto(found: Sequence[Candidate], link: Link, times: dict[str, Latency]) -> list[str]:
    """Names that no other candidate beats or equals in loss, energy and time at once."""

    def cost(candidate: Candidate) -> tuple[float, float, float]:
        loss = math.inf if candidate.loss_points is None else candidate.loss_points
        return loss, candidate.total_uj(link), times[candidate.name].total_ms

    costs = {candidate.name: cost(candidate) for candidate in found}
    return [
        name
        for name, own in costs.items()
        if math.isfinite(own[0])
        and not any(
            other != own and all(a <= b for a, b in zip(other, own, strict=True))
            for other in costs.values()
        )
    ]


def _why(candidate: Candidate, chosen: Candidate | None, broken: str | None, link: Link) -> str:
    if broken is not None:
        return broken
    assert chosen is not None
    if candidate is chosen:
        return "chosen: the least device energy within the limits"
    ratio = candidate.total_uj(link) / max(chosen.total_uj(link), 1e-30)
    return f"takes {ratio:.3g} times the device energy of {chosen.name}"


def _best(
    found: Sequence[Candidate], link: Link, profile: Profile, limits: Limits, rate: float
) -> Candidate | None:
    allowed = [
        c for c in found if limits.broken(c, c.latency(profile, link, rate).total_ms) is None
    ]
    return min(allowed, key=lambda c: c.total_uj(link, rate), default=None)


def _sweep(
    found: Sequence[Candidate], link: Link, profile: Profile, limits: Limits
) -> dict[str, Any]:
    """Device energy over the link's rate, who is best, and the rates at which that changes."""
    best = [_best(found, link, profile, limits, rate) for rate in SWEEP_MBIT_S]
    names = [None if candidate is None else candidate.name for candidate in best]
    crossovers = []
    for index in range(1, len(names)):
        if names[index] == names[index - 1]:
            continue
        low, high = SWEEP_MBIT_S[index - 1], SWEEP_MBIT_S[index]
        for _ in range(BISECTIONS):
            middle = math.sqrt(low * high)
            candidate = _best(found, link, profile, limits, middle)
            same = (None if candidate is None else candidate.name) == names[index - 1]
            low, high = (middle, high) if same else (low, middle)
        crossovers.append({"rate_mbit_s": high, "from": names[index - 1], "to": names[index]})
    return {
        "rate_mbit_s": list(SWEEP_MBIT_S),
        "total_uj": {c.name: [c.total_uj(link, rate) for rate in SWEEP_MBIT_S] for c in found},
        "best": names,
        "crossovers": crossovers,
    }


def summary(result: dict[str, Any]) -> str:
    """The decision in plain lines."""
    lines = [
        f"link {result['link']}, profile {result['profile']}; "
        "device energy = edge (full accounting, modelled) + radio",
        f"chosen: {result['chosen'] or 'none within the limits'}",
        f"Pareto front: {', '.join(result['pareto']) or 'empty'}",
    ]
    for row in result["candidates"]:
        loss = "unknown" if row["loss_points"] is None else f"{row['loss_points']:.2f} points"
        lines.append(
            f"  {row['name']}: loses {loss}, sends {row['message_bytes']:,.0f} bytes, "
            f"{energy_text(1e6 * row['total_uj'])}, {row['latency_ms']:.3g} ms "
            f"({'nothing' if not row['latency_absent'] else ', '.join(row['latency_absent'])} "
            f"not counted); {row['why']}"
        )
    lines += [
        f"at {crossing['rate_mbit_s']:.3g} Mbit/s the best changes from "
        f"{crossing['from'] or 'none'} to {crossing['to'] or 'none'}"
        for crossing in result["sweep"]["crossovers"]
    ]
    return "\n".join(lines)
