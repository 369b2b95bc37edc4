"""The report's pictures, as plotly figures that read in print and without colour vision.

Colours are Okabe and Ito's; every series also has a pattern, a dash or a symbol of its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pipeline.results import LayerRecord, ProfileRecord
from pipeline.units import energy_text, energy_unit

# Okabe and Ito 2008: told apart with every common form of colour blindness
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")
PATTERNS = ("", "/", "x", ".", "-", "\\", "+", "|")
INK, LINE = "#1a1a1a", "#d9d9d9"
FONT = '"Source Sans 3", "Segoe UI", "Helvetica Neue", Arial, sans-serif'
MAX_STEPS, MAX_CHANNELS, MAX_SIDE = 16, 16, 64  # of a code, what a raster draws

# terms of the accounting, gathered into what a stacked bar can show
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("arithmetic", ("synops", "macs")),
    ("neuron updates", ("neuron_updates_active", "neuron_updates_idle")),
    ("memory", ("memory_weights", "memory_states", "memory_events")),
    ("addressing", ("addressing",)),
    ("routing and relays", ("routing", "relays")),
    ("static power", ("static",)),
)


def plain(text: str) -> str:
    """Text that plotly shows as it is: its labels would read <b> or <a> as markup."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def styled(figure: go.Figure, height: int, barmode: str = "group") -> go.Figure:
    """The house style: no fill, thin grid, room for labels."""
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 14, "color": INK},
        margin={"l": 70, "r": 24, "t": 40, "b": 46},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0, "traceorder": "normal"},
        paper_bgcolor="white",
        plot_bgcolor="white",
        hoverlabel={"font": {"family": FONT}},
        barmode=barmode,
    )
    figure.update_xaxes(
        automargin=True,
        title_standoff=8,
        title_font={"size": 14},
        ticks="outside",
        ticklen=4,
        gridcolor=LINE,
        zeroline=False,
        linecolor=INK,
    )
    figure.update_yaxes(
        automargin=True, title_font={"size": 14}, gridcolor=LINE, zeroline=False, linecolor=INK
    )
    return figure


def bar_style(index: int) -> dict[str, object]:
    """Colour and pattern of one series of bars."""
    return {
        "color": COLOURS[index % len(COLOURS)],
        "line": {"color": INK, "width": 0.7},
        "pattern": {
            "shape": PATTERNS[index % len(PATTERNS)],
            "fillmode": "overlay",
            "fgcolor": "white",
            "size": 8,
            "solidity": 0.3,
        },
    }


def raster(spikes_tchw: np.ndarray) -> go.Figure:
    """The code of one sample: a column of maps a step, a row a channel; black is a spike.

    Of a large code a part; see `raster_part`.
    """
    busiest = np.argsort(-spikes_tchw.sum(axis=(0, 2, 3), dtype=np.int64), kind="stable")
    shown = np.sort(busiest[:MAX_CHANNELS])
    maps = spikes_tchw[:MAX_STEPS, shown, :MAX_SIDE, :MAX_SIDE]
    steps, _, height, width = maps.shape
    gap = 1
    picture = np.full((len(shown) * (height + gap) - gap, steps * (width + gap) - gap), np.nan)
    for row in range(len(shown)):
        for step in range(steps):
            top, left = row * (height + gap), step * (width + gap)
            picture[top : top + height, left : left + width] = maps[step, row]
    cell = min(22.0, 900 / picture.shape[1], 620 / picture.shape[0])
    figure = go.Figure(
        go.Heatmap(
            z=[[None if math.isnan(v) else int(v) for v in line] for line in picture],
            zmin=0,
            zmax=1,
            colorscale=[[0, "#ececec"], [1, "#111111"]],
            showscale=False,
            hoverongaps=False,
            xgap=0.5,
            ygap=0.5,
            hovertemplate="%{z}<extra></extra>",
        )
    )
    styled(figure, int(picture.shape[0] * cell) + 80)
    figure.update_layout(margin={"l": 90, "r": 24, "t": 10, "b": 50})
    figure.update_xaxes(
        tickvals=[step * (width + gap) + (width - 1) / 2 for step in range(steps)],
        ticktext=[f"step {step + 1}" for step in range(steps)],
        showgrid=False,
        showline=False,
        range=[-0.5, max(picture.shape[1], 900 / cell) - 0.5],
    )
    figure.update_yaxes(
        tickvals=[row * (height + gap) + (height - 1) / 2 for row in range(len(shown))],
        ticktext=[f"channel {channel}" for channel in shown],
        autorange="reversed",
        showgrid=False,
        showline=False,
    )
    return figure


def raster_part(shape: tuple[int, int, int, int]) -> list[str]:
    """Which part of a code (T, C, H, W) `raster` draws, in words; empty where it draws all."""
    steps, channels, height, width = shape
    part = []
    if channels > MAX_CHANNELS:
        part.append(f"the {MAX_CHANNELS} busiest of {channels:,} channels")
    if steps > MAX_STEPS:
        part.append(f"the first {MAX_STEPS} of {steps:,} steps")
    if max(height, width) > MAX_SIDE:
        part.append(
            f"the upper left {min(height, MAX_SIDE)} × {min(width, MAX_SIDE)} of each map of "
            f"{height:,} × {width:,}"
        )
    return part


def rates(layers: Sequence[LayerRecord], steps: int) -> go.Figure:
    """Firing rate a layer, in per cent of neurons a step."""
    values = [100 * layer.rate for layer in layers]
    texts = [f"{value:.2f} %" for value in values]
    figure = _bars([plain(layer.name) for layer in layers], values, texts, "%{x:.3f} %", colour=0)
    styled(figure, 90 + 30 * len(layers))
    figure.update_layout(margin={"t": 10, "r": 80})
    figure.update_xaxes(
        title_text=f"neurons that fire in a step, % (mean over {steps} steps)", rangemode="tozero"
    )
    return figure


def bits(labels: Sequence[str], values: Sequence[float]) -> go.Figure:
    """What an image costs on the link, from raw features down to what is sent; log axis."""
    texts = [f"{value:,.0f} bits" for value in values]
    figure = _bars(labels, values, texts, "%{x:,.1f} bits", colour=4)
    styled(figure, 90 + 40 * len(labels))
    figure.update_layout(margin={"t": 10, "r": 130})
    figure.update_xaxes(
        title_text="bits an image (logarithmic)", type="log", dtick=1, range=log_range(values)
    )
    return figure


def _bars(
    labels: Sequence[str], values: Sequence[float], texts: list[str], hover: str, colour: int
) -> go.Figure:
    """Horizontal bars, the first on top."""
    figure = go.Figure(
        go.Bar(
            y=list(labels),
            x=list(values),
            orientation="h",
            marker=bar_style(colour),
            text=texts,
            textposition="outside",
            cliponaxis=False,
            hovertemplate=f"%{{y}}: {hover}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    return figure


def log_range(values: Sequence[float]) -> list[float]:
    """Whole decades around the positive values, as powers of ten."""
    positive = [value for value in values if value > 0] or [1.0]
    return [math.floor(math.log10(min(positive))) - 0.02, math.log10(max(positive)) + 0.05]


def energy_by_layer(record: ProfileRecord) -> go.Figure:
    """Stacked bars a layer: arithmetic alone on the left, every counted term on the right."""
    layers = [plain(name) for name in record.layers]
    scale, unit = energy_unit(max((e.full for e in record.layers.values()), default=0))
    figure = make_subplots(
        rows=1,
        cols=2,
        shared_yaxes=True,
        horizontal_spacing=0.04,
        subplot_titles=(
            f"op-only: {energy_text(record.energy_pj.op_only)} an image",
            f"full: {energy_text(record.energy_pj.full)} an image",
        ),
    )
    for index, (group, names) in enumerate(GROUPS):
        counted = [t.layers_pj for t in record.terms if t.name in names and t.layers_pj]
        if not counted:
            continue
        total = np.sum(counted, axis=0)
        for column in (1, 2):
            if column == 1 and group != "arithmetic":
                continue
            figure.add_trace(
                go.Bar(
                    y=layers,
                    x=[float(value) / scale for value in total],
                    name=group,
                    legendgroup=group,
                    showlegend=column == 2,
                    orientation="h",
                    marker=bar_style(index),
                    hovertemplate=f"%{{y}}, {group}: %{{x:.4g}} {unit}<extra></extra>",
                ),
                row=1,
                col=column,
            )
    styled(figure, 130 + 30 * len(layers), barmode="stack")
    figure.update_layout(
        margin={"t": 34, "r": 24}, legend={"y": -0.0, "yref": "container", "yanchor": "bottom"}
    )
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title_text=f"{unit} an image", rangemode="tozero")
    return figure


def confusion(classes: Sequence[str], counts: Sequence[Sequence[int]]) -> go.Figure:
    """True class against predicted class; the shade is the share of the true class."""
    table = np.asarray(counts, dtype=np.float64)
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    size = len(classes)
    figure = go.Figure(
        go.Heatmap(
            z=share.tolist(),
            x=[plain(name) for name in classes],
            y=[plain(name) for name in classes],
            text=[[str(int(v)) if v else "" for v in row] for row in table],
            texttemplate="%{text}" if size <= 25 else None,
            zmin=0,
            zmax=1,
            colorscale=[[0, "#ffffff"], [0.02, "#d6e6f0"], [0.5, "#4c95c4"], [1, "#08306b"]],
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="true %{y}, predicted %{x}: %{text}<extra></extra>",
        )
    )
    cell = max(14, min(44, 620 // size))
    styled(figure, 110 + cell * size)
    figure.update_layout(margin={"t": 10, "r": 24})
    figure.update_xaxes(title_text="predicted", type="category", showgrid=False)
    figure.update_yaxes(title_text="true", type="category", autorange="reversed", showgrid=False)
    return figure


def tornado(record: ProfileRecord) -> go.Figure:
    """How far each assumption alone moves the full energy, widest first."""
    swings = record.sensitivity[:8]
    scale, unit = energy_unit(max(swing.high_pj for swing in swings))
    figure = go.Figure()
    for index, (side, field) in enumerate((("low end", "low_pj"), ("high end", "high_pj"))):
        figure.add_trace(
            go.Bar(
                y=[
                    plain(f"{swing.assumption} ({swing.low_is} … {swing.high_is})")
                    for swing in swings
                ],
                x=[(getattr(swing, field) - swing.base_pj) / scale for swing in swings],
                base=[swing.base_pj / scale for swing in swings],
                name=side,
                orientation="h",
                marker=bar_style(index),
                hovertemplate=f"%{{y}}<extra>{side}</extra>",
            )
        )
    styled(figure, 120 + 30 * len(swings), barmode="overlay")
    figure.update_layout(margin={"t": 34, "r": 24})
    figure.add_vline(x=swings[0].base_pj / scale, line={"color": INK, "width": 1.5})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title_text=f"{unit} an image, full accounting", rangemode="tozero")
    return figure
