"""The page's section on each cut: our codes and every baseline there, and who wins."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from measure.dense import DenseEnergy
from pipeline import published_gain
from pipeline.baseline_rows import PRICED_BY, Row
from pipeline.candidates import Inputs
from pipeline.page import Sheet
from pipeline.payloads import GROUP, SIZED
from pipeline.results import Details, Result
from pipeline.units import accuracy_text, break_even_text, energy_text, times_text

DIGITAL = PRICED_BY[32]  # spikes on the processor of the ordinary networks: like against like


@dataclass(frozen=True)
class _Cut:
    split: str
    ours: tuple[Result, ...]
    baselines: tuple[Row, ...]


def at_each_cut(page: Sheet, inputs: Inputs) -> None:
    """A table for each cut, and in words what wins where."""
    page.heading("At each cut")
    page.paragraph(
        "Raw bits are what the code has before coding, sent bits the mean payload. Times below "
        "fp32 is the feature map in 32-bit floats over the raw bits. The rate is spikes a neuron "
        "and step over the whole edge; T × rate is synaptic ops an image and spiking connection, "
        "which weighs each neuron by its fan-out. Edge energies are those of "
        f"{DIGITAL} on both sides, but for an edge in int8, which takes {PRICED_BY[8]}; modelled. "
        f"{GROUP} together are our mean payload where so many images share a packet, over "
        f"{SIZED:,} images at most; a baseline's bits are always those of one."
    )
    for number, cut in enumerate(_cuts(inputs)):
        page.table(
            f"cut-{number}",
            [
                f"at {cut.split}",
                "right, %",
                "lost",
                "raw bits",
                "sent bits",
                "times below fp32",
                "rate, %",
                "T × rate",
                "edge op-only",
                "edge full",
            ],
            [_our_row(result, inputs.reference().accuracy) for result in cut.ours]
            + [_baseline_row(row, inputs.reference().accuracy) for row in cut.baselines],
            numeric=9,
        )
        for sentence in verdicts(cut.split, cut.ours, cut.baselines):
            page.paragraph(sentence)
        if cut.baselines:
            page.table(
                f"bits-{number}",
                [
                    f"baseline at {cut.split}",
                    "our smallest code as accurate",
                    "right, %",
                    "sent bits",
                    "ours right, %",
                    "ours sent",
                    "times fewer",
                    f"{GROUP} together",
                    "times fewer",
                ],
                [bits_at_equal_accuracy(row, cut.ours) for row in cut.baselines],
                numeric=7,
            )


def _cuts(inputs: Inputs) -> list[_Cut]:
    details = [(_details(result), result) for _, result in inputs.results]
    found = []
    for split in dict.fromkeys(detail.bundle.split for detail, _ in details):
        rows: dict[str, Row] = {}
        for each in inputs.baselines:
            if each.content.split == split:
                for row in each.content.rows:
                    if row.kind == "split":
                        label = row.name if row.name not in rows else f"{row.name} ({each.file})"
                        rows[label] = row.model_copy(update={"name": label})
        ours = tuple(result for detail, result in details if detail.bundle.split == split)
        best_first = sorted(rows.values(), key=lambda row: -row.test.accuracy)
        found.append(_Cut(split, ours, tuple(best_first)))
    return found


def _details(result: Result) -> Details:
    assert result.details is not None
    return result.details


def _our_row(result: Result, reference: float) -> list[str | None]:
    detail = _details(result)
    neurons = sum(math.prod(layer.shape) for layer in detail.layers) * result.steps
    energy = result.energy_pj.get(DIGITAL)
    return [
        detail.bundle.name,
        accuracy_text(result.accuracy_pipeline, result.samples),
        f"{100 * (reference - result.accuracy_pipeline):.2f}",
        f"{result.raw_spike_bits:,.0f}",
        f"{result.payload_bits_mean:,.0f}",
        f"{result.feature_bits_fp32 / result.raw_spike_bits:,.0f}",
        f"{100 * sum(layer.spikes for layer in detail.layers) / neurons:.1f}",
        f"{detail.rate_times_steps:.3g}",
        None if energy is None else energy_text(energy.op_only),
        None if energy is None else energy_text(energy.full),
    ]


def _baseline_row(row: Row, reference: float) -> list[str | None]:
    energy = row.energy()
    return [
        row.name,
        accuracy_text(row.test.accuracy, row.test.samples),
        f"{100 * (reference - row.test.accuracy):.2f}",
        f"{row.raw_bits:,}",
        f"{row.test.payload_bits_mean:,.0f}",
        None,
        None,
        None,
        energy_text(energy.op_only_pj),
        energy_text(energy.full_pj),
    ]


def bits_at_equal_accuracy(row: Row, ours: tuple[Result, ...]) -> list[str | None]:
    """A baseline beside the smallest of our codes that is at least as accurate, if there is one."""
    theirs = row.test.payload_bits_mean
    known: list[str | None] = [f"{100 * row.test.accuracy:.2f}", f"{theirs:,.0f}"]
    matched = _as_accurate(ours, row)
    if not matched:
        return [row.name, None, *known, *[None] * 5]
    best = min(matched, key=lambda result: result.payload_bits_mean)
    return [
        row.name,
        _details(best).bundle.name,
        *known,
        f"{100 * best.accuracy_pipeline:.2f}",
        *_beside(theirs, best.payload_bits_mean),
        *_beside(theirs, _details(best).grouped_bits_mean),
    ]


def _beside(theirs: float, ours: float | None) -> list[str | None]:
    if ours is None:
        return [None, None]
    return [f"{ours:,.1f}", f"{theirs / ours:.3g}" if ours else None]


def verdicts(split: str, ours: tuple[Result, ...], baselines: tuple[Row, ...]) -> list[str]:
    """Which baselines at this cut are as accurate with as few bits, and BottleNet's energy."""
    found = [_winners(split, ours, baselines)] if baselines else []
    priced = [
        result
        for result in ours
        if DIGITAL in result.energy_pj and result.energy_pj[DIGITAL].op_only
    ]
    if priced:
        rivals = (row for row in baselines if published_gain.is_rival(row.name))
        for rival in rivals:
            found += _against(rival, split, priced)
    return found


def _winners(split: str, ours: tuple[Result, ...], baselines: tuple[Row, ...]) -> str:
    winners = [
        f"{row.name} ({100 * row.test.accuracy:.2f} %, {row.test.payload_bits_mean:,.0f} bits)"
        for row in baselines
        if any(_beats(row, each) for each in ours)
    ]
    if not winners:
        return f"At {split} no baseline is both as accurate and as small as one of our codes."
    safe = [
        _details(each).bundle.name
        for each in ours
        if not any(_beats(row, each) for row in baselines)
    ]
    return (
        f"At {split} these win, as accurate and as small as one of our codes or better: "
        f"{'; '.join(winners)}."
    ) + (f" None wins against {', '.join(safe)}." if safe else "")


def _beats(row: Row, ours: Result) -> bool:
    return (
        row.test.accuracy >= ours.accuracy_pipeline
        and row.test.payload_bits_mean <= ours.payload_bits_mean
    )


def _as_accurate(ours: Sequence[Result], row: Row) -> list[Result]:
    return [each for each in ours if each.accuracy_pipeline >= row.test.accuracy]


def _against(rival: Row, split: str, priced: list[Result]) -> list[str]:
    """Edge energy against a BottleNet, where one of our codes is as accurate; else against it."""
    theirs = rival.energy()
    matched = _as_accurate(priced, rival)
    if matched:
        ours = min(matched, key=lambda result: result.energy_pj[DIGITAL].full)
        opening = f"At the accuracy of {rival.name} or better"
    else:
        ours = max(priced, key=lambda result: result.accuracy_pipeline)
        short = 100 * (rival.test.accuracy - ours.accuracy_pipeline)
        opening = (
            f"No code of ours at {split} is as accurate as {rival.name}; {short:.2f} points below"
        )
    detail, own = _details(ours), ours.energy_pj[DIGITAL]
    sentence = (
        f"{opening}, {detail.bundle.name} takes "
        f"{times_text(theirs.op_only_pj / own.op_only)} edge energy op-only and "
        f"{times_text(theirs.full_pj / own.full)} in full, {DIGITAL} on both sides."
    )
    evens = _break_even(ours, theirs)
    if evens:
        sentence += (
            f" Its T × rate is {detail.rate_times_steps:.3g}; both cost the same at {evens}."
        )
    distance = published_gain.distance(detail, theirs)
    return [sentence] if distance is None else [sentence, distance]


def _break_even(ours: Result, rival: DenseEnergy) -> str | None:
    """The T × rate of equality in both accountings, where the result was held against this edge."""
    detail = _details(ours)
    same = [
        each.network
        for each in detail.dense
        if (each.op_only_pj, each.full_pj) == (rival.op_only_pj, rival.full_pj)
    ]
    evens = detail.energy[DIGITAL].break_even if DIGITAL in detail.energy else []
    rates = {
        even.accounting: break_even_text(even.rate_times_steps, ours.steps, even.why_no_rate)
        for even in evens
        if even.dense_network in same and even.dense_profile == rival.profile
    }
    return f"{rates['op_only']} op-only and {rates['full']} in full" if rates else None
