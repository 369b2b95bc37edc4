"""One self-contained HTML file that tells what a run found, or decides between several.

A result needs no more than its promised keys. What the pictures draw is in its `details`:

    details.bundle      name, backbone, split, data, input_shape, feature_shape, code_shape
    details.layers      [{name, shape, rate, spikes, synops, macs, neuron_updates}]  means a sample
    details.energy      {profile: both accountings, terms, figures, sensitivity, break-even}
    details.dense, details.rate_times_steps, details.depth, details.codec
    details.classes, details.confusion      [[count]], rows true, columns predicted
    details.raster      {sample, label, predicted, shape (T, C, H, W), packed base64}
    details.accuracy_uncut, input_bytes_mean, encode_us, cloud_us, cloud_energy_pj, cloud_depth

`pipeline.results` holds the exact schema, `details()` builds it. Everything is checked before a
byte is written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from measure import link as links
from measure import profile as profiles
from pipeline import figures, plan, results
from pipeline.details import details
from pipeline.figures import energy_text
from pipeline.page import Page
from pipeline.results import Details, ProfileRecord, Result, save

__all__ = ["details", "run", "summary", "write"]


CLAIM, CLAIM_PROFILE = 144.0, "cmos45_fp32"  # SpikeBottleNet, arXiv 2410.08673 v2
MAX_LOSS = 2.0  # points; the usual bound in the literature on split networks
LINK = "wifi"


def write(result: dict[str, Any], out: Path) -> Path:
    """Write the report of one result to `out`, whole or not at all.

    Raises ResultError naming a field that is missing or impossible, UsageError when `out` cannot
    be written.
    """
    record = results.check(result)
    page = Page()
    _single(page, record)
    return save(page.render(_title(record)), out)


def run(
    result: Sequence[Path],
    out: Path,
    link: str | Path = LINK,
    profile: str | Path | None = None,
    max_loss: float | None = MAX_LOSS,
) -> dict[str, Any]:
    """Write the page of one result file, or the decision between several.

    profile is one that all results hold; without it the first neuromorphic one. Raises ResultError
    naming file and field, ProfileError, UsageError.
    """
    if len(result) == 1:
        record = results.load(Path(result[0]))
        page = Page()
        _single(page, record)
        save(page.render(_title(record)), out)
        return {"report": str(out), "results": 1, "chosen": None}
    loaded = plan.load(result)
    chosen_profile = profiles.load(profile or _leading_profile(loaded[0][1]))
    limits = plan.Limits(max_loss=max_loss)
    decided = plan.decide(loaded, links.load(link), chosen_profile, limits)
    page = Page()
    _several(page, loaded, decided, chosen_profile, limits)
    save(page.render("Where to cut"), out)
    return {"report": str(out), "results": len(loaded), "chosen": decided["chosen"]}


def summary(result: dict[str, Any]) -> str:
    """What was written, in plain lines."""
    lines = [f"{result['report']}: {result['results']} result(s)"]
    if result["results"] > 1:
        lines.append(f"chosen: {result['chosen'] or 'none within the limits'}")
    return "\n".join(lines)


def _several(
    page: Page,
    loaded: Sequence[tuple[str, Result]],
    decided: dict[str, Any],
    profile: profiles.Profile,
    limits: plan.Limits,
) -> None:
    rows = decided["candidates"]
    chosen = next((row for row in rows if row["name"] == decided["chosen"]), None)
    link = links.load(decided["link"]) if decided["link"] in links.names() else None
    limit = "any loss" if limits.max_loss is None else f"at most {limits.max_loss:g} points lost"
    page.heading(f"Where to cut: {len(loaded)} cuts compared", 1)
    page.paragraph(
        f"{loaded[0][1].samples:,} test images, link {decided['link']}, profile {profile.name}, "
        f"{limit}. Accuracy, bits and bytes are measured; every energy is modelled.",
        "lead",
    )
    if chosen is None:
        page.paragraph("No cut keeps within the limits; the table says which limit each breaks.")
    else:
        page.cards(
            [
                (chosen["name"], "chosen: the least device energy within the limits"),
                (_loss(chosen), "accuracy lost against the reference"),
                (
                    f"{chosen['message_bytes']:,.0f} bytes",
                    "an image on the link, envelope included",
                ),
                (energy_text(1e6 * chosen["total_uj"]), "an image on the device, edge and radio"),
            ]
        )
    page.table(
        "decision",
        [
            "candidate",
            "why",
            "lost",
            "payload bits",
            "bytes sent",
            "edge op-only",
            "edge full",
            "radio",
            "ms",
        ],
        [
            [
                row["name"] + (" ◆" if row["pareto"] else ""),
                "; ".join(part for part in (row["why"], row["note"]) if part),
                _loss(row),
                f"{row['payload_bits']:,.0f}",
                f"{row['message_bytes']:,.0f}",
                energy_text(row["edge_pj"]["op_only"]),
                energy_text(row["edge_pj"]["full"]),
                energy_text(1e6 * row["radio_uj"]),
                f"{row['latency_ms']:.3g}" + ("*" if row["latency_absent"] else ""),
            ]
            for row in rows
        ],
        numeric=7,
    )
    page.paragraph(
        "◆ on the Pareto front: nothing else is as good in loss, device energy and time at once. "
        "* some part of the time has no figure (edge steps of this profile, or an unmeasured "
        "encode or cloud time), so it is a lower bound."
    )
    known = [row for row in rows if row["accuracy"] is not None]
    for name, field, title in (
        (
            "accuracy-bits",
            lambda row: 8 * row["message_bytes"],
            "bits an image on the link (logarithmic)",
        ),
        (
            "accuracy-energy",
            lambda row: row["total_uj"],
            "µJ an image on the device, modelled (logarithmic)",
        ),
    ):
        shown = [row for row in known if field(row) > 0]
        if shown:
            page.figure(
                name,
                figures.scatter(
                    [row["name"] for row in shown],
                    [row["kind"].replace("_", " ") for row in shown],
                    [field(row) for row in shown],
                    [row["accuracy"] for row in shown],
                    title,
                ),
                "Up and to the left is better.",
            )
    page.figure(
        "device-energy",
        figures.device_energy(
            [row["name"] for row in rows],
            [row["edge_pj"]["full"] / 1e6 for row in rows],
            [row["radio_uj"] for row in rows],
        ),
        "Device energy an image: edge by the full accounting, radio while awake.",
    )
    _links(page, loaded, decided, profile, limits, link)
    for index, (_, record) in enumerate(loaded):
        assert record.details is not None
        page.heading(_title(record))
        for sentence in _sentences(record):
            page.paragraph(sentence)
        _pictures(page, record, record.details, f"r{index}-", profile.name)
    first = loaded[0][1].details
    assert first is not None
    _assumptions(page, first)


def _loss(row: dict[str, Any]) -> str:
    return "unknown" if row["loss_points"] is None else f"{row['loss_points']:.2f} points"


def _links(
    page: Page,
    loaded: Sequence[tuple[str, Result]],
    decided: dict[str, Any],
    profile: profiles.Profile,
    limits: plan.Limits,
    link: links.Link | None,
) -> None:
    page.heading("How the link decides")
    swept = decided["sweep"]
    own_rate = None if link is None else link.value("uplink_rate")
    page.figure(
        "link-sweep",
        figures.sweep(
            swept["rate_mbit_s"],
            swept["total_uj"],
            [crossing["rate_mbit_s"] for crossing in swept["crossovers"]],
            own_rate or swept["rate_mbit_s"][0],
        ),
        "Device energy with the link's rate swept and its power model kept. "
        + (
            "The best changes at "
            + ", ".join(
                f"{c['rate_mbit_s']:.3g} Mbit/s (from {c['from'] or 'none'} to {c['to'] or 'none'})"
                for c in swept["crossovers"]
            )
            + "."
            if swept["crossovers"]
            else "The best candidate is the same at every rate."
        ),
    )
    rows = []
    for name in links.names():
        other = links.load(name)
        answer = plan.decide(loaded, other, profile, limits)
        row = next((r for r in answer["candidates"] if r["name"] == answer["chosen"]), None)
        rows.append(
            [
                other.title,
                answer["chosen"] or "none within the limits",
                "–" if row is None else energy_text(1e6 * row["radio_uj"]),
                "–"
                if row is None or row["radio_lone_uj"] is None
                else energy_text(1e6 * row["radio_lone_uj"]),
                "–" if row is None else energy_text(1e6 * row["total_uj"]),
            ]
        )
    page.table(
        "links",
        ["link", "chosen", "radio, awake", "radio, if it slept", "device, awake"],
        rows,
        numeric=3,
    )
    page.paragraph(
        "A message that finds the radio asleep pays for waking it and for its tail; where a link "
        "has a figure for that, it is far more than any cut saves. It is shown apart because it is "
        "the traffic, not the cut, that decides whether it is paid."
    )


def _title(record: Result) -> str:
    if record.details is None:
        return "Split spiking network: what it found"
    bundle = record.details.bundle
    return f"{bundle.name}: {bundle.backbone} cut at {bundle.split}"


def _single(page: Page, record: Result) -> None:
    page.heading(_title(record), 1)
    page.paragraph(
        f"{record.samples:,} test images of "
        f"{record.details.bundle.data if record.details else 'the data set'}, "
        f"{record.steps} time steps. Spikes, bits and accuracy are measured in the run; "
        "every energy is modelled from what fired.",
        "lead",
    )
    first = _leading_profile(record)
    energies = record.energy_pj[first]
    page.cards(
        [
            (f"{100 * record.accuracy_pipeline:.2f} %", "classified right by edge, link and cloud"),
            (f"{record.payload_bits_mean:,.0f} bits", "an image on the link, payload"),
            (
                f"{energy_text(energies.op_only)} – {energy_text(energies.full)}",
                f"an image on the edge, modelled: op-only – full ({first})",
            ),
            (
                f"{record.mismatched_spikes:,} of {record.spikes:,}",
                "spikes that differ from the trained network",
            ),
        ]
    )
    for sentence in _sentences(record):
        page.paragraph(sentence)
    page.heading("What crosses the link")
    page.figure(
        "bits",
        figures.bits(
            [
                "feature map, 32-bit floats",
                "code, one bit a neuron and step",
                "payload sent",
                "bytes on the wire",
            ],
            [
                record.feature_bits_fp32,
                record.raw_spike_bits,
                record.payload_bits_mean,
                8 * record.wire_bytes_mean,
            ],
        ),
        "Bits an image. The feature map is what the encoder squeezes; the payload is the coded "
        "spikes alone, the wire adds the envelope and the protocol.",
    )
    if record.details is None:
        page.heading("Edge energy, modelled")
        _energy_summary(page, record)
        return
    _pictures(page, record, record.details)
    _assumptions(page, record.details)


def _leading_profile(record: Result) -> str:
    """The profile of the first card: a neuromorphic chip where there is one."""
    kinds = {} if record.details is None else record.details.energy
    for name in record.energy_pj:
        if name in kinds and kinds[name].kind == "neuromorphic":
            return name
    return next(iter(record.energy_pj))


def _sentences(record: Result) -> list[str]:
    agree = (
        "What was trained is what ran: every spike and every prediction is the same."
        if record.mismatched_spikes == record.prediction_mismatches == 0
        else f"{record.mismatched_spikes:,} spikes and {record.prediction_mismatches:,} "
        "predictions differ from the trained network, which must not be."
    )
    bits = (
        f"An image needs {record.payload_bits_mean:,.0f} bits of payload, "
        f"{record.wire_bytes_mean:,.0f} bytes with everything around it. That is "
        f"{record.compression_ratio:,.0f} times fewer bits than the feature map in 32-bit floats "
        f"({record.feature_bits_fp32:,.0f} bits); the raw code has "
        f"{record.raw_spike_bits:,.0f} bits."
    )
    sentences = [
        f"The trained network classifies {100 * record.accuracy_model:.2f} % of these images, the "
        f"pipeline {100 * record.accuracy_pipeline:.2f} %. {agree}",
        bits,
    ]
    name = _leading_profile(record)
    energy = record.energy_pj[name]
    sentences.append(
        f"Under the figures of {name} the edge half would take {energy_text(energy.op_only)} an "
        f"image for its arithmetic alone and {energy_text(energy.full)} when everything that has "
        "a figure is counted."
    )
    return sentences


def _energy_summary(page: Page, record: Result, prefix: str = "") -> None:
    kinds = {} if record.details is None else record.details.energy
    page.table(
        f"{prefix}energy",
        ["profile", "not in the sum, for want of a figure", "op-only", "full", "full / op-only"],
        [
            [
                name,
                ", ".join(_missing(kinds[name])) or "–" if name in kinds else "unknown",
                energy_text(energy.op_only),
                energy_text(energy.full),
                f"{energy.full / energy.op_only:.3g}" if energy.op_only else "–",
            ]
            for name, energy in record.energy_pj.items()
        ],
        numeric=3,
    )


def _pictures(
    page: Page, record: Result, detail: Details, prefix: str = "", only: str | None = None
) -> None:
    """The pictures of one result; with `only`, energy under that profile alone."""
    if detail.raster is not None:
        raster = detail.raster
        shown = min(raster.shape[1], figures.MAX_CHANNELS)
        page.figure(
            prefix + "raster",
            figures.raster(raster.spikes_tchw()),
            f"The code of test image {raster.sample} (true: {raster.label}, predicted: "
            f"{raster.predicted}): black is a spike, one map a channel and time step"
            + (
                f"; the {shown} busiest of {raster.shape[1]} channels."
                if shown < raster.shape[1]
                else "."
            ),
        )
    page.heading("What fires", 3 if prefix else 2)
    page.paragraph(
        f"T × rate, the synaptic operations of an image for each spiking connection, is "
        f"{detail.rate_times_steps:.4g}."
    )
    page.figure(
        prefix + "rates",
        figures.rates(detail.layers, record.steps),
        "Firing rate a layer, mean over the test images.",
    )
    page.table(
        prefix + "layers",
        ["layer", "shape", "spikes", "synaptic ops", "MACs", "neuron updates"],
        [
            [
                layer.name,
                " × ".join(map(str, layer.shape)),
                f"{layer.spikes:,.1f}",
                f"{layer.synops:,.1f}",
                f"{layer.macs:,.1f}",
                f"{layer.neuron_updates:,.0f}",
            ]
            for layer in detail.layers
        ],
        numeric=4,
    )
    page.heading("Edge energy, modelled, by two accountings", 3 if prefix else 2)
    page.paragraph(
        "Op-only is what most papers print: arithmetic and nothing else. Full adds everything the "
        "profile has a figure for. The two axes of each picture differ."
    )
    _energy_summary(page, record, prefix)
    for name, profile in detail.energy.items():
        if only is not None and name != only:
            continue
        page.figure(
            f"{prefix}energy-{_slug(name)}",
            figures.energy_by_layer(profile),
            f"{profile.title}. 90 % of the images lie between {_span(profile.spread_pj.full)} "
            f"(full), {_span(profile.spread_pj.op_only)} (op-only).{_absent(profile)}",
        )
        if profile.sensitivity:
            page.figure(
                f"{prefix}sensitivity-{_slug(name)}",
                figures.tornado(profile),
                f"{name}: how far each assumption alone moves the full energy; the line is what is "
                "assumed.",
            )
    _break_even(page, detail, prefix)
    if detail.confusion:
        page.heading("What is taken for what", 3 if prefix else 2)
        page.figure(
            prefix + "confusion",
            figures.confusion(detail.classes, detail.confusion),
            "Predictions of the whole pipeline. Figures are images, the shade is the share of the "
            "true class.",
        )
    _assumptions(page, detail)


def _span(spread: results.Spread) -> str:
    return f"{energy_text(spread.p5)} and {energy_text(spread.p95)}"


def _break_even(page: Page, detail: Details, prefix: str) -> None:
    rows = [
        [
            name,
            even.dense_profile,
            even.accounting.replace("_", "-"),
            f"{even.ratio:.3g}",
            _rate(even),
        ]
        for name, profile in detail.energy.items()
        for even in profile.break_even
    ]
    if not rows:
        return
    page.heading("Against the same network without spikes", 3)
    page.paragraph(
        "The edge half as an ordinary network does one MAC for each connection. Spikes win below "
        f"a T × rate; this network is at {detail.rate_times_steps:.4g}. Both sides use the same "
        "memory model; no figure here is measured."
    )
    distance = _distance(detail)
    if distance is not None:
        page.paragraph(distance)
    page.table(
        f"{prefix}dense",
        ["ordinary network", "MACs an image", "op-only", "full"],
        [
            [
                dense.profile,
                f"{dense.macs:,}",
                energy_text(dense.op_only_pj),
                energy_text(dense.full_pj),
            ]
            for dense in detail.dense
        ],
        numeric=3,
    )
    page.table(
        f"{prefix}break-even",
        ["spikes priced as", "against", "accounting", "times less energy", "break-even T × rate"],
        rows,
        numeric=2,
    )


def _distance(detail: Details) -> str | None:
    """How far this edge half is from the published gain, and what keeps it there."""
    priced = detail.energy.get(CLAIM_PROFILE)
    twin = next((dense for dense in detail.dense if dense.profile == CLAIM_PROFILE), None)
    if priced is None or twin is None or not priced.energy_pj.op_only:
        return None
    spent = {term.name: term.energy_pj for term in priced.terms if term.energy_pj}
    graded, largest = spent.get("macs", 0.0), max(spent, key=lambda name: spent[name])
    text = (
        f"The published gain of this method is {CLAIM:g} times, op-only with 4.6 pJ a MAC and "
        "0.9 pJ an accumulate. By the same rule it is "
        f"{twin.op_only_pj / priced.energy_pj.op_only:.3g} times here, and "
        f"{twin.full_pj / priced.energy_pj.full:.3g} times in full. Of the "
        f"arithmetic, {100 * graded / priced.energy_pj.op_only:.0f} % is pixels entering as graded "
        f"events in each step"
    )
    if graded:
        text += f", which alone caps the gain at {twin.op_only_pj / graded:.3g} times"
    share = 100 * spent[largest] / priced.energy_pj.full
    return (
        f"{text}; the rest is spikes. In full, the largest term is {largest.replace('_', ' ')} "
        f"with {share:.0f} %. The network compared with is this edge half without spikes, encoder "
        "included; it is not BottleNet's own."
    )


def _rate(even: results.BreakEvenRecord) -> str:
    if even.rate_times_steps is None:
        return "never: even silent it costs more"
    return f"{even.rate_times_steps:.4g}"


def _missing(profile: ProfileRecord) -> list[str]:
    return [term.name.replace("_", " ") for term in profile.terms if term.status == "absent"]


def _absent(profile: ProfileRecord) -> str:
    missing = _missing(profile)
    return f" Not in the sum, for want of a figure: {', '.join(missing)}." if missing else ""


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def _assumptions(page: Page, detail: Details) -> None:
    page.heading("Assumptions")
    page.paragraph(
        "Absent terms exist on that hardware but nobody has published a figure: they are missing "
        "from the sum, not zero. Included terms are part of another figure, or do not exist there."
    )
    for name, profile in detail.energy.items():
        slug = _slug(name)
        page.heading(f"{name}: {profile.title}", 3)
        page.paragraph(profile.about)
        page.table(
            f"terms-{slug}",
            ["term", "status", "accounting", "assumption", "pJ an image"],
            [
                [
                    term.name.replace("_", " "),
                    term.status,
                    term.accounting,
                    term.assumption,
                    None if term.energy_pj is None else f"{term.energy_pj:,.1f}",
                ]
                for term in profile.terms
            ],
            numeric=1,
        )
        page.table(
            f"figures-{slug}",
            ["figure", "status", "source", "value", "range", "unit"],
            [
                [
                    figure.meaning,
                    figure.status,
                    f"{figure.source}. {figure.note}".strip(),
                    f"{figure.value:g}",
                    _range(figure.low, figure.high, figure.value),
                    figure.unit,
                ]
                for figure in profile.figures
            ],
            numeric=3,
        )


def _range(low: float | None, high: float | None, value: float) -> str:
    if low is None and high is None:
        return "–"
    return f"{value if low is None else low:g} – {value if high is None else high:g}"
