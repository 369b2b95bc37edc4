"""Pictures as SVG text, for pages where nothing runs; the same input gives the same bytes."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from pipeline.figures import INK, LINE
from pipeline.points import KINDS, Points, colour

MARKERS = ("o", "s", "D", "X")  # of the kinds, as in the interactive picture
STYLE = {
    "svg.hashsalt": "spikebottlenet",
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
}


def scatter(points: Points) -> str:
    """Accuracy in per cent against a cost on a logarithmic axis, a numbered point each."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(10, 5.2), layout="constrained")
        axes = figure.subplots()
        labels = points.labels()
        for kind, places in points.kinds().items():
            own = [points.points[place] for place in places]
            accuracies = [100 * point.accuracy for point in own]
            axes.errorbar(
                [point.cost for point in own],
                accuracies,
                yerr=[
                    [100 * (point.accuracy - point.interval[0]) for point in own],
                    [100 * (point.interval[1] - point.accuracy) for point in own],
                ],
                fmt=MARKERS[KINDS.index(kind)],
                markersize=9,
                markerfacecolor=colour(kind),
                markeredgecolor=INK,
                ecolor=INK,
                elinewidth=0.8,
                capsize=2.5,
                label=kind,
            )
            for place, point, accuracy in zip(places, own, accuracies, strict=True):
                axes.annotate(
                    labels[place],
                    (point.cost, accuracy),
                    xytext=(7, 6),
                    textcoords="offset points",
                )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.12g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlim(*(10**power for power in points.widths()))
        axes.set_ylim(*points.heights())
        axes.set_xlabel(points.axis)
        axes.set_ylabel("accuracy, %")
        axes.grid(color=LINE)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        figure.legend(loc="outside upper left", ncols=len(KINDS), frameon=False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return stream.getvalue()
