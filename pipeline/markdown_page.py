"""The same page as plain Markdown, for a repository: text and tables, no pictures."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from pipeline.page import cell_text


class MarkdownPage:
    """What `pipeline.page.Page` takes, as Markdown."""

    def __init__(self) -> None:
        self.parts: list[str] = []

    def heading(self, text: str, level: int = 2) -> None:
        """A heading."""
        self.parts.append(f"{'#' * level} {_plain(text)}")

    def paragraph(self, text: str, css: str = "") -> None:
        """A paragraph of plain text."""
        self.parts.append(_plain(text))

    def cards(self, cards: Sequence[tuple[str, str]]) -> None:
        """The few figures that matter most, as a list."""
        self.parts.append(
            "\n".join(f"- **{_plain(value)}**: {_plain(label)}" for value, label in cards)
        )

    def figure(self, name: str, figure: go.Figure, caption: str) -> None:
        """Left out."""

    def table(
        self, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]], numeric: int = 0
    ) -> None:
        """A table, its last `numeric` columns right-aligned."""
        first_number = len(columns) - numeric
        rule = ["---:" if index >= first_number else "---" for index in range(len(columns))]
        lines = [columns, rule, *([cell_text(cell) for cell in row] for row in rows)]
        cells = (" | ".join(cell.replace("|", "\\|") for cell in line) for line in lines)
        self.parts.append("\n".join(f"| {line} |" for line in cells))

    def render(self, title: str) -> str:
        """The whole page; its first heading is its title."""
        return "\n\n".join(self.parts) + "\n"


def _plain(text: str) -> str:
    """Names come from files: nothing in them is markup."""
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in text)
