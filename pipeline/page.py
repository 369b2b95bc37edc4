"""One self-contained HTML page: text, tables with CSV, plotly pictures with SVG, nothing loaded."""

from __future__ import annotations

import base64
import csv
import html
import io
import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

TEMPLATE = Path(__file__).with_name("report_page.html")
TAGS = ("published", "derived", "estimate", "absent", "included", "counted")


class Sheet(Protocol):
    """What sections are written on: HTML or Markdown."""

    def heading(self, text: str, level: int = 2) -> None:
        """A heading."""

    def paragraph(self, text: str, css: str = "") -> None:
        """A paragraph of plain text."""

    def cards(self, cards: Sequence[tuple[str, str]]) -> None:
        """The few figures that matter most: (figure, what it is)."""

    def figure(
        self, name: str, figure: go.Figure, caption: str, still: Callable[[], str] | None = None
    ) -> None:
        """A picture; still: the same as SVG text, for where nothing runs."""

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], numeric: int = 0
    ) -> None:
        """A table, its last `numeric` columns right-aligned."""

    def render(self, title: str) -> str:
        """The whole page."""
        ...


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

    def figure(
        self, name: str, figure: go.Figure, caption: str, still: Callable[[], str] | None = None
    ) -> None:
        """A picture and its caption; the reader's browser makes the SVG."""
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

        def css(cell: object, index: int) -> str:
            if index >= first_number:
                return " class=n"
            return " class=no" if isinstance(cell, int) else ""

        def row(cells: Sequence[object], tag: str) -> str:
            return "".join(
                f"<{tag}{css(cell, index)}>{_cell(cell)}</{tag}>"
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
    text = html.escape(cell_text(cell))
    if text in TAGS:
        return f'<span class="tag {text}">{text}</span>'
    return text


def cell_text(cell: object) -> str:
    """What a table shows of a value."""
    if cell is None:
        return "–"
    return f"{cell:.6g}" if isinstance(cell, float) else str(cell)


def to_csv(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Rows as CSV text; a cell that a spreadsheet would run as a formula is quoted as text."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    for row in (columns, *rows):
        cells = ["" if cell is None else cell_text(cell) for cell in row]
        writer.writerow(
            ["'" + cell if cell.startswith(("=", "+", "@")) else cell for cell in cells]
        )
    return stream.getvalue()
