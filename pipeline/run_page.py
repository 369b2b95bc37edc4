"""The page of one run: in short, what crosses the link, what fires, what it costs, assumptions."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline import figures, published_gain, results
from pipeline.page import Sheet
from pipeline.results import Details, ProfileRecord, Result
from pipeline.units import break_even_text, energy_text, times_text


def title(record: Result) -> str:
    """The heading of a run."""
    if record.details is None:
        return "Split spiking network: what it found"
    bundle = record.details.bundle
    return f"{bundle.name}: {bundle.backbone} cut at {bundle.split}"


def single(page: Sheet, record: Result) -> None:
    """The whole page of one run."""
    page.heading(title(record), 1)
    page.paragraph(
        f"{record.samples:,} test images of "
        f"{record.details.bundle.data if record.details else 'the data set'}, "
        f"{record.steps} time steps. Spikes, bits and accuracy are measured in the run; "
        "every energy is modelled from what fired.",
        "lead",
    )
    first = leading_profile(record)
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
    for sentence in sentences(record):
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
    pictures(page, record, record.details)
    assumptions(page, record.details.energy)


def leading_profile(record: Result) -> str:
    """The profile of the first card: a neuromorphic chip where there is one."""
    kinds = {} if record.details is None else record.details.energy
    for name in record.energy_pj:
        if name in kinds and kinds[name].kind == "neuromorphic":
            return name
    return next(iter(record.energy_pj))


def sentences(record: Result) -> list[str]:
    """The run in a few plain sentences."""
    agree = (
        "What was trained is what ran: every spike and every prediction is the same."
        if record.mismatched_spikes == record.prediction_mismatches == 0
        else f"{record.mismatched_spikes:,} spikes and {record.prediction_mismatches:,} "
        "predictions differ from the trained network, which must not be."
    )
    bits = (
        f"An image needs {record.payload_bits_mean:,.0f} bits of payload, "
        f"{record.wire_bytes_mean:,.0f} bytes with everything around it. "
        + (
            "The code is silent: no spike was ever sent. "
            if record.compression_ratio is None
            else f"That is {record.compression_ratio:,.0f} times fewer bits than the feature map "
            "in 32-bit floats. "
        )
        + f"The feature map has {record.feature_bits_fp32:,.0f} bits, the raw code "
        f"{record.raw_spike_bits:,.0f}."
    )
    sentences = [
        f"The trained network classifies {100 * record.accuracy_model:.2f} % of these images, the "
        f"pipeline {100 * record.accuracy_pipeline:.2f} %. {agree}",
        bits,
    ]
    name = leading_profile(record)
    energy = record.energy_pj[name]
    sentences.append(
        f"Under the figures of {name} the edge half would take {energy_text(energy.op_only)} an "
        f"image for its arithmetic alone and {energy_text(energy.full)} when everything that has "
        "a figure is counted."
    )
    return sentences


def _energy_summary(page: Sheet, record: Result, prefix: str = "") -> None:
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


def pictures(
    page: Sheet, record: Result, detail: Details, prefix: str = "", only: str | None = None
) -> None:
    """The pictures of one result; with `only`, energy under that profile alone."""
    if detail.raster is not None:
        raster = detail.raster
        told = (
            f"The code of test image {raster.sample} (true: {raster.label}, predicted: "
            f"{raster.predicted}): black is a spike, one map a channel and time step"
        )
        page.figure(
            prefix + "raster",
            figures.raster(raster.spikes_tchw()),
            "; ".join([told, *figures.raster_part(raster.shape)]) + ".",
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


def _span(spread: results.Spread) -> str:
    return f"{energy_text(spread.p5)} and {energy_text(spread.p95)}"


def _break_even(page: Sheet, detail: Details, prefix: str) -> None:
    rows = [
        [
            name,
            f"{even.dense_network} ({even.dense_profile})",
            even.accounting.replace("_", "-"),
            "–" if even.ratio is None else times_text(even.ratio),
            break_even_text(even.rate_times_steps, profile.steps, even.why_no_rate),
        ]
        for name, profile in detail.energy.items()
        for even in profile.break_even
    ]
    if not rows:
        return
    page.heading("Against networks without spikes", 3)
    page.paragraph(
        "An ordinary network does one MAC for each connection. Spikes win below "
        f"a T × rate; this network is at {detail.rate_times_steps:.4g}. Both sides use the same "
        "memory model; no figure here is measured."
    )
    rival = published_gain.rival_of(detail)
    distance = None if rival is None else published_gain.distance(detail, rival)
    if distance is not None:
        page.paragraph(distance)
    page.table(
        f"{prefix}dense",
        ["ordinary network", "MACs an image", "op-only", "full"],
        [
            [
                f"{dense.network} ({dense.profile})",
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
        ["spikes priced as", "against", "accounting", "energy", "break-even T × rate"],
        rows,
        numeric=2,
    )


def _missing(profile: ProfileRecord) -> list[str]:
    return [term.name.replace("_", " ") for term in profile.terms if term.status == "absent"]


def _absent(profile: ProfileRecord) -> str:
    missing = _missing(profile)
    return f" Not in the sum, for want of a figure: {', '.join(missing)}." if missing else ""


def _slug(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


def assumptions(page: Sheet, profiles: Mapping[str, ProfileRecord], runs: int = 1) -> None:
    """Every term with its assumption, every figure with its source, a profile after the other.

    runs: how many the page is about; what the terms come to is told for one alone.
    """
    page.heading("Assumptions")
    page.paragraph(
        "Absent terms exist on that hardware but nobody has published a figure: they are missing "
        "from the sum, not zero. Included terms are part of another figure, or do not exist there."
    )
    for name, profile in profiles.items():
        page.heading(f"{name}: {profile.title}", 3)
        page.paragraph(profile.about)
        _terms(page, _slug(name), profile, with_energy=runs == 1)
        _figures(page, _slug(name), profile)


def _terms(page: Sheet, slug: str, profile: ProfileRecord, with_energy: bool) -> None:
    rows = [
        [
            term.name.replace("_", " "),
            term.status,
            term.accounting,
            term.assumption,
            None if term.energy_pj is None else f"{term.energy_pj:,.1f}",
        ]
        for term in profile.terms
    ]
    columns = ["term", "status", "accounting", "assumption", "pJ an image"]
    shown = len(columns) if with_energy else len(columns) - 1
    page.table(
        f"terms-{slug}", columns[:shown], [row[:shown] for row in rows], numeric=int(with_energy)
    )


def _figures(page: Sheet, slug: str, profile: ProfileRecord) -> None:
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
