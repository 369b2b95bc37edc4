"""The network that a run simulates: a graph for this process, the very bytes for the simulator.

A file may be replaced at any moment. What is checked here and what the simulator loads later must
be the same, so the simulator gets a copy in its own scratch folder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lava_edge import netx_file
from splitcore.errors import NetxError
from splitcore.graph import Graph


@dataclass(frozen=True, eq=False)
class EdgeSource:
    """A graph, and how to write the NetX file that holds it."""

    graph: Graph
    write: Callable[[Path], object]


def edge_source(edge: Path | Graph, input_message_bits: int | None) -> EdgeSource:
    """Of a NetX file or a graph. Raises NetxError for a damaged file, or one replaced meanwhile."""
    if isinstance(edge, Graph):
        return EdgeSource(edge, lambda path: netx_file.save(edge, path))
    before = _identity(edge)
    graph = netx_file.load(edge, input_message_bits)
    try:
        content = Path(edge).read_bytes()
    except OSError as error:
        raise NetxError(f"{edge}: cannot be read ({error.strerror})") from None
    if _identity(edge) != before:
        raise NetxError(f"{edge}: was replaced while it was read; start again")
    return EdgeSource(graph, lambda path: path.write_bytes(content))


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
