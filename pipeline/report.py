"""One self-contained HTML file that tells what a run found: decision first, then every picture.

A demo result needs no more than its promised keys. What the pictures draw is in `details`, which
`details()` below builds from what the pipeline has in hand:

    details.bundle      name, backbone, split, data, input_shape, feature_shape, code_shape
    details.layers      [{name, shape, rate, spikes, synops, macs, neuron_updates}]  means a sample
    details.energy      {profile: EnergyResult.as_dict() and the profile's figures with sources}
    details.rate_times_steps, details.codec
    details.classes, details.confusion      [[count]], rows true, columns predicted
    details.raster      {sample, label, predicted, shape (T, C, H, W), packed base64}

`pipeline.results` holds the exact schema. Everything is checked before a byte is written.
"""

from __future__ import annotations

import base64
import csv
import html
import io
import os
import string
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from measure.energy import EnergyResult, rate_times_steps
from measure.profile import Profile
from pipeline import figures, results
from pipeline.figures import energy_text
from pipeline.results import Details, ProfileRecord, Result
from splitcore import spikes
from splitcore.bundle import Manifest
from splitcore.errors import UsageError
from splitcore.graph import Graph

if TYPE_CHECKING:
    from measure.counts import Counts

TEMPLATE = Path(__file__).with_name("report_page.html")


def details(
    manifest: Manifest,
    graph: Graph,
    counts: Counts,
    energies: Sequence[tuple[Profile, EnergyResult]],
    labels: np.ndarray,
    predictions: np.ndarray,
    code_tchw: np.ndarray,
    sample: int = 0,
    codec: str = "",
) -> dict[str, Any]:
    """The `details` of a result: manifest and counts of the edge half, energies by profile.

    labels and predictions are class numbers (N,); code_tchw are the code spikes of `sample`.
    """
    classes = list(manifest.classes)
    table = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(table, (labels, predictions), 1)
    layers = []
    for index, layer in enumerate(graph.layers):
        mean = {
            name: float(getattr(counts, name)[:, index].mean())
            for name in ("spikes", "synops", "macs", "neuron_updates")
        }
        rate = mean["spikes"] / mean["neuron_updates"] if mean["neuron_updates"] else 0.0
        layers.append(
            {"name": layer.name, "shape": list(graph.shapes[layer.name]), "rate": rate, **mean}
        )
    return {
        "bundle": {
            "name": manifest.name,
            "backbone": manifest.backbone,
            "split": manifest.split,
            "data": manifest.data,
            "input_shape": list(manifest.input_shape),
            "feature_shape": list(manifest.feature_shape),
            "code_shape": list(manifest.code_shape),
        },
        "layers": layers,
        "energy": {
            profile.name: results.profile_record(energy, profile) for profile, energy in energies
        },
        "rate_times_steps": rate_times_steps(graph, counts),
        "codec": codec,
        "classes": classes,
        "confusion": table.tolist(),
        "raster": {
            "sample": sample,
            "label": classes[int(labels[sample])],
            "predicted": classes[int(predictions[sample])],
            "shape": list(code_tchw.shape),
            "packed": base64.b64encode(spikes.pack(code_tchw)).decode("ascii"),
        },
    }


class Page:
    """HTML parts in order, and the plotly figures that they refer to."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.figures: dict[str, go.Figure] = {}

    def heading(self, text: str, level: int = 2) -> None:
        """A heading."""
        self.parts.append(f"<h{level}>{html.escape(text)}</h{level}>")

    def paragraph(self, text: str, css: str = "") -> None:
        """A paragraph of plain text."""
        attribute = f' class="{css}"' if css else ""
        self.parts.append(f"<p{attribute}>{html.escape(text)}</p>")

    def cards(self, cards: Sequence[tuple[str, str]]) -> None:
        """The few figures that matter most: (figure, what it is)."""
        inner = "".join(
            f'<div class="card"><b>{html.escape(value)}</b><span>{html.escape(label)}</span></div>'
            for value, label in cards
        )
        self.parts.append(f'<div class="cards">{inner}</div>')

    def figure(self, name: str, figure: go.Figure, caption: str) -> None:
        """A picture, its caption and its SVG."""
        self.figures[name] = figure
        height = int(figure.to_dict()["layout"]["height"])
        self.parts.append(
            f'<figure><div class="plot" id="{name}" style="height:{height}px"></div>'
            f"<figcaption>{html.escape(caption)}</figcaption>"
            f'<div class="get"><a href="#{name}" id="{name}-svg">save as SVG</a></div></figure>'
        )

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], numeric: int = 0
    ) -> None:
        """A table, its last `numeric` columns right-aligned, and the same as CSV."""
        first_number = len(columns) - numeric

        def row(cells: Sequence[object], tag: str) -> str:
            return "".join(
                f"<{tag}{' class=n' if index >= first_number else ''}>{_cell(cell)}</{tag}>"
                for index, cell in enumerate(cells)
            )

        body = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in rows)
        link = "data:text/csv;base64," + base64.b64encode(to_csv(columns, rows).encode()).decode()
        self.parts.append(
            f'<div class="scroll"><table id="{name}"><thead><tr>{row(columns, "th")}</tr></thead>'
            f"<tbody>{body}</tbody></table></div>"
            f'<div class="get"><a href="{link}" download="{name}.csv">save as CSV</a></div>'
        )

    def render(self, title: str) -> str:
        """The whole page."""
        encoded = ",".join(f'"{name}":{figure.to_json()}' for name, figure in self.figures.items())
        template = string.Template(TEMPLATE.read_text(encoding="utf-8"))
        return template.substitute(
            title=html.escape(title),
            body="\n".join(self.parts),
            plotly=get_plotlyjs(),
            # "</" would end the script element wherever a label holds it
            figures="{" + encoded.replace("</", "<\\/") + "}",
        )


def _cell(cell: object) -> str:
    text = html.escape(_text(cell))
    if text in ("published", "derived", "estimate", "absent", "included", "counted"):
        return f'<span class="tag {text}">{text}</span>'
    return text


def _text(cell: object) -> str:
    if cell is None:
        return "–"
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV text; a cell that a spreadsheet would run as a formula is quoted as text."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in (columns, *rows):
        cells = ["" if cell is None else _text(cell) for cell in row]
        writer.writerow(
            ["'" + cell if cell.startswith(("=", "+", "@")) else cell for cell in cells]
        )
    return stream.getvalue()


def write(result: dict[str, Any], out: Path) -> Path:
    """Write the report of one result to `out`, whole or not at all.

    Raises ResultError naming a field that is missing or impossible, UsageError when `out` cannot
    be written.
    """
    record = results.check(result)
    page = Page()
    _single(page, record)
    return save(page.render(_title(record)), out)


def save(text: str, out: Path) -> Path:
    """Write a text file by way of a temporary neighbour. Raises UsageError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(prefix=f".{out.name}.", dir=out.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            Path(scratch).chmod(0o644)
            Path(scratch).replace(out)
        finally:
            Path(scratch).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror})") from None
    return out


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
        _energy_summary(page, record)
        return
    _pictures(page, record, record.details)


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
        f"({record.feature_bits_fp32:,.0f} bits) and "
        f"{record.raw_spike_bits / max(record.payload_bits_mean, 1e-9):,.1f} times fewer than the "
        f"raw code ({record.raw_spike_bits:,.0f} bits)."
    )
    sentences = [
        f"The trained network classifies {100 * record.accuracy_model:.2f} % of these images, the "
        f"pipeline {100 * record.accuracy_pipeline:.2f} %. {agree}",
        bits,
    ]
    for name, energy in record.energy_pj.items():
        ratio = energy.full / max(energy.op_only, 1e-12)
        sentences.append(
            f"Under the figures of {name} the edge half would take {energy_text(energy.op_only)} "
            f"an image for its arithmetic alone and {energy_text(energy.full)} when everything "
            f"that has a figure is counted, {ratio:.3g} times as much."
        )
    return sentences


def _energy_summary(page: Page, record: Result) -> None:
    page.heading("Edge energy, modelled")
    page.table(
        "energy",
        ["profile", "op-only, pJ an image", "full, pJ an image"],
        [[name, energy.op_only, energy.full] for name, energy in record.energy_pj.items()],
        numeric=2,
    )


def _pictures(page: Page, record: Result, detail: Details) -> None:
    if detail.raster is not None:
        raster = detail.raster
        shown = min(raster.shape[1], figures.MAX_CHANNELS)
        page.figure(
            "raster",
            figures.raster(raster.spikes_tchw()),
            f"The code of test image {raster.sample} (true: {raster.label}, predicted: "
            f"{raster.predicted}): black is a spike, one map a channel and time step"
            + (
                f"; the {shown} busiest of {raster.shape[1]} channels."
                if shown < raster.shape[1]
                else "."
            ),
        )
    page.heading("What fires")
    page.paragraph(
        f"T × rate, the synaptic operations of an image for each spiking connection, is "
        f"{detail.rate_times_steps:.4g}."
    )
    page.figure(
        "rates",
        figures.rates(detail.layers, record.steps),
        "Firing rate a layer, mean over the test images.",
    )
    page.table(
        "layers",
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
    page.heading("Edge energy, modelled, by two accountings")
    page.paragraph(
        "Op-only is what most papers print: arithmetic and nothing else. Full adds everything the "
        "profile has a figure for. The two axes of each picture differ."
    )
    for name, profile in detail.energy.items():
        page.figure(
            f"energy-{_slug(name)}",
            figures.energy_by_layer(profile),
            f"{profile.title}. 90 % of the images lie between {_span(profile.spread_pj.full)} "
            f"(full), {_span(profile.spread_pj.op_only)} (op-only).{_absent(profile)}",
        )
    if detail.confusion:
        page.heading("What is taken for what")
        page.figure(
            "confusion",
            figures.confusion(detail.classes, detail.confusion),
            "Predictions of the whole pipeline. Figures are images, the shade is the share of the "
            "true class.",
        )
    _assumptions(page, detail)


def _span(spread: results.Spread) -> str:
    return f"{energy_text(spread.p5)} and {energy_text(spread.p95)}"


def _absent(profile: ProfileRecord) -> str:
    missing = [term.name.replace("_", " ") for term in profile.terms if term.status == "absent"]
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
