"""Files of the `baselines` command, checked field by field, and what their edges would take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from measure import profile
from measure.dense import DenseEnergy, DenseLayer, layers_energy
from measure.profile import first_problem
from pipeline.results import Amount, Count, Fraction, Name, Positive, Record, Samples, read
from splitcore.bundle import Manifest
from splitcore.errors import ResultError

PRICED_BY = {32: "cmos45_fp32", 8: "cmos45_int8"}  # edge_bits of a row -> profile of its MACs

SAME = ("data", "backbone", "split")  # what a bundle and its baselines have in common


class MeasuredRecord(Record):
    """Accuracy with its 95 % interval, and the bits of the payload."""

    samples: Samples
    accuracy: Fraction
    accuracy_low: Fraction
    accuracy_high: Fraction
    payload_bits_mean: Amount
    payload_bits_max: Count


class LayerRecord(Record):
    """Operations and buffers of one layer; see `measure.dense.DenseLayer`."""

    name: Name
    macs: Count
    weights: Count
    inputs: Count
    outputs: Count
    biases: Count
    addresses: Count


class Row(Record):
    """One baseline. edge_bits: of its weights and activations on the edge."""

    name: Name
    kind: Literal["split", "all_edge", "all_cloud"]
    edge_bits: Literal[8, 32]
    header_bits_not_charged: Count = 0
    raw_bits: Count
    edge_layers: list[LayerRecord]
    validation: MeasuredRecord
    test: MeasuredRecord

    def energy(self) -> DenseEnergy:
        """What its edge would take on the digital profile of its precision."""
        layers = [DenseLayer(**layer.model_dump()) for layer in self.edge_layers]
        return layers_energy(self.name, layers, profile.load(PRICED_BY[self.edge_bits]))


class Baselines(Record):
    """A file of the `baselines` command: every baseline beside one cut."""

    data: Name
    backbone: Name
    width: Positive
    split: Name
    beside: Name
    seed: int
    rows: Annotated[list[Row], Field(min_length=1)]

    def stands_beside(self, manifest: Manifest) -> bool:
        """Whether it is about a bundle's network, cut and data."""
        return all(getattr(manifest, field) == getattr(self, field) for field in SAME)


@dataclass(frozen=True)
class Loaded:
    """A checked file and where it lies."""

    file: str
    content: Baselines


def is_baselines(content: dict[str, Any]) -> bool:
    """Whether a JSON object says that it is such a file, rather than a result."""
    return "rows" in content and "beside" in content


def check(content: dict[str, Any], where: str) -> Baselines:
    """The file as a record, or ResultError naming the field."""
    try:
        return Baselines.model_validate(content)
    except ValidationError as error:
        raise ResultError(f"{where}: {first_problem(error)}") from None


def load(path: Path) -> Loaded:
    """Read a file of baselines. Raises ResultError naming the file and the field."""
    return Loaded(str(path), check(read(path), str(path)))


def told_apart(files: Sequence[Loaded], beside: Manifest | None = None) -> tuple[Loaded, ...]:
    """The same files; a row's name says its width or its raw bits where others differ in them.

    beside: of a bundle that they are held against; where its width is another one, or it says none,
    a row's name says its own.
    """
    sizes: dict[tuple[str, str, int], set[int]] = {}
    for each in files:
        for row in each.content.rows:
            sizes.setdefault(_place(each.content, row), set()).add(row.raw_bits)
    widths = {each.content.width for each in files}

    def named(content: Baselines, row: Row) -> Row:
        name = row.name
        if len(widths) > 1 or (beside is not None and _width(beside) != content.width):
            name += f", width {content.width}"
        if row.kind == "split" and len(sizes[_place(content, row)]) > 1:
            name += f", {row.raw_bits:,} bits"
        return row.model_copy(update={"name": name})

    return tuple(
        Loaded(
            each.file,
            each.content.model_copy(
                update={"rows": [named(each.content, row) for row in each.content.rows]}
            ),
        )
        for each in files
    )


def _width(manifest: Manifest) -> Any:
    """Of the network that a bundle was trained as; None where its training config says none."""
    found: Any = manifest.training
    for key in ("config", "model", "width"):
        found = found.get(key) if isinstance(found, dict) else None
    return found


def _place(content: Baselines, row: Row) -> tuple[str, str, int]:
    return content.split, row.name, content.width


def edges_at(paths: Sequence[Path], manifest: Manifest) -> list[DenseEnergy]:
    """The edges of baselines that are cut where this bundle is, priced.

    Raises ResultError for a file about another network, cut or data set.
    """
    found = []
    for loaded in told_apart([load(path) for path in paths], manifest):
        for field in SAME:
            expected, got = getattr(manifest, field), getattr(loaded.content, field)
            if got != expected:
                raise ResultError(
                    f"{loaded.file}: {field}: {got!r}, but the bundle has {expected!r}"
                )
        found += [row.energy() for row in loaded.content.rows if row.kind == "split"]
    return found
