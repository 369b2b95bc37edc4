"""Pictures that compare several cuts: accuracy against cost, device energy, the link swept."""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from pipeline.figures import COLOURS, INK, bar_style, plain, styled
from pipeline.points import KINDS, Points, colour
from pipeline.units import energy_unit

DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
SYMBOLS = ("circle", "square", "diamond", "x")  # of the kinds


def scatter(points: Points) -> go.Figure:
    """Accuracy in per cent against a cost on a logarithmic axis, a numbered point each."""
    figure, labels = go.Figure(), points.labels()
    for kind, places in points.kinds().items():
        own = [points.points[place] for place in places]
        figure.add_trace(
            go.Scatter(
                x=[point.cost for point in own],
                y=[100 * point.accuracy for point in own],
                text=[labels[place] for place in places],
                hovertext=[f"{point.number}: {plain(point.name)}" for point in own],
                mode="markers+text",
                textposition="top right",
                name=kind,
                cliponaxis=False,
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "array": [100 * (point.interval[1] - point.accuracy) for point in own],
                    "arrayminus": [100 * (point.accuracy - point.interval[0]) for point in own],
                    "color": INK,
                    "thickness": 1,
                    "width": 3,
                },
                marker={
                    "symbol": SYMBOLS[KINDS.index(kind)],
                    "color": colour(kind),
                    "size": 12,
                    "line": {"color": INK, "width": 1},
                },
            )
        )
    styled(figure, 460)
    figure.update_yaxes(title_text="accuracy, %", range=list(points.heights()))
    figure.update_xaxes(title_text=points.axis, type="log", dtick="D2", range=list(points.widths()))
    return figure


def device_energy(
    names: Sequence[str], edge_uj: Sequence[float], radio_uj: Sequence[float]
) -> go.Figure:
    """Edge and radio energy of each candidate as stacked bars."""
    scale, unit = energy_unit(1e6 * max(a + b for a, b in zip(edge_uj, radio_uj, strict=True)))
    figure = go.Figure()
    for index, (label, values) in enumerate((("edge, full", edge_uj), ("radio", radio_uj))):
        figure.add_trace(
            go.Bar(
                y=[plain(name) for name in names],
                x=[1e6 * value / scale for value in values],
                name=label,
                orientation="h",
                marker=bar_style(index),
                hovertemplate=f"%{{y}}, {label}: %{{x:.4g}} {unit}<extra></extra>",
            )
        )
    styled(figure, 120 + 34 * len(names), barmode="stack")
    figure.update_layout(margin={"t": 34, "r": 24})
    figure.update_yaxes(autorange="reversed", showgrid=False)
    figure.update_xaxes(title_text=f"{unit} an image on the device, modelled", rangemode="tozero")
    return figure


def sweep(
    rates: Sequence[float],
    totals_uj: dict[str, list[float]],
    crossings: Sequence[float],
    own_rate: float,
) -> go.Figure:
    """Device energy over the link's rate; dotted lines where the best candidate changes."""
    figure = go.Figure()
    for index, (name, values) in enumerate(totals_uj.items()):
        figure.add_trace(
            go.Scatter(
                x=list(rates),
                y=values,
                name=plain(name),
                mode="lines",
                line={
                    "color": COLOURS[index % len(COLOURS)],
                    "dash": DASHES[index % len(DASHES)],
                    "width": 2.5,
                },
            )
        )
    styled(figure, 460)
    for rate in crossings:
        figure.add_vline(x=rate, line={"color": INK, "width": 1, "dash": "dot"})
    figure.add_vline(x=own_rate, line={"color": INK, "width": 1.5})
    figure.add_annotation(
        x=math.log10(own_rate),  # annotations on a logarithmic axis take the exponent
        y=1,
        yref="paper",
        text="the link's own rate",
        showarrow=False,
        xanchor="left",
        xshift=6,
        font={"size": 13},
    )
    figure.update_xaxes(
        title_text="uplink rate, Mbit/s (logarithmic)",
        type="log",
        dtick=1,
        range=[math.log10(rates[0]), math.log10(rates[-1])],
    )
    figure.update_yaxes(title_text="µJ an image on the device (logarithmic)", type="log", dtick=1)
    return figure
