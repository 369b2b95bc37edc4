"""The same page as plain Markdown, for a repository: text, tables, and pictures beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from urllib.parse import quote

import plotly.graph_objects as go

from pipeline.page import cell_text


class MarkdownPage:
    """What `pipeline.page.Page` takes, as Markdown.

    stem: how the files of its pictures begin; `pictures` holds their text by name.
    """

    def __init__(self, stem: str) -> None:
        self.stem = stem
        self.parts: list[str] = []
        self.pictures: dict[str, str] = {}

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

    def figure(
        self, name: str, figure: go.Figure, caption: str, still: Callable[[], str] | None = None
    ) -> None:
        """A picture as a file of its own, where there is one that needs no script."""
        if still is not None:
            file = f"{self.stem}-{name}.svg"
            self.pictures[file] = still()
            self.parts.append(f"![{_plain(caption)}]({quote(file)})")

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
