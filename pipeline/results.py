"""Result files: what one run of one bundle found, checked field by field before it is used.

The top level holds the keys that `demo` promises; `details` holds what the report draws and the
planner compares. `details` is optional: without it the report shows the numbers alone.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import tempfile
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from measure.dense import DEARER_SILENT
from measure.energy import EnergyResult
from measure.profile import FIGURES, Profile, first_problem
from splitcore import spikes
from splitcore.errors import CodecError, ResultError, UsageError
from splitcore.place import require_writable

MAX_FILE_BYTES = 64 << 20
ACCOUNTING = 2  # raised when the same counts come to other energies, times or sizes

Amount = Annotated[float, Field(ge=0, le=1e18)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=1 << 62)]
Samples = Annotated[int, Field(ge=1, le=1 << 62)]
AboveZero = Annotated[float, Field(gt=0, le=1e18)]
Positive = Annotated[int, Field(ge=1, le=1 << 20)]
Name = Annotated[str, Field(max_length=200)]
Text = Annotated[str, Field(max_length=4000)]


class Record(BaseModel):
    """What is read from a file: its fields and no others."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Energies(Record):
    """Mean modelled pJ an image by accounting."""

    op_only: Amount
    full: Amount

    @model_validator(mode="after")
    def _whole(self) -> Energies:
        if self.full < self.op_only * (1 - 1e-9):
            raise ValueError(f"full: {self.full:g} is less than op_only, which is part of it")
        return self


class Spread(Record):
    """How a quantity spreads over the samples."""

    mean: Amount
    std: Amount
    min: Amount
    p5: Amount
    p95: Amount
    max: Amount


class SpreadPair(Record):
    """The spread by accounting."""

    op_only: Spread
    full: Spread


class TermRecord(Record):
    """One line of the accounting, as `measure.energy` tells it."""

    name: Name
    status: Literal["counted", "absent", "included"]
    accounting: Name
    assumption: Text
    energy_pj: Amount | None
    layers_pj: list[Amount] | None


class FigureRecord(Record):
    """One figure of a profile with where it comes from."""

    name: Name
    meaning: Text
    value: Amount
    unit: Name
    status: Literal["published", "derived", "estimate"]
    source: Text
    low: Amount | None = None
    high: Amount | None = None
    note: Text = ""


class SwingRecord(Record):
    """How far one assumption alone moves the full energy; see `measure.sensitivity`."""

    assumption: Name
    low_pj: Amount
    high_pj: Amount
    base_pj: Amount
    low_is: Name
    high_is: Name


class BreakEvenRecord(Record):
    """Dense over spiking energy, and the T × rate of equality; see `measure.dense`.

    Files written before `why` was have one reason for a rate of None.
    """

    accounting: Literal["op_only", "full"]
    dense_network: Name
    dense_profile: Name
    ratio: Amount | None
    rate_times_steps: Amount | None
    why: Text = ""

    @property
    def why_no_rate(self) -> str:
        """Why there is no T × rate, for a record without."""
        return self.why or DEARER_SILENT


class DenseRecord(Record):
    """An ordinary network on the edge."""

    network: Name
    profile: Name
    macs: Count
    op_only_pj: Amount
    full_pj: Amount


class ProfileRecord(Record):
    """Everything the report says about one profile."""

    profile: Name
    title: Text
    kind: Literal["neuromorphic", "digital"]
    about: Text
    steps: Positive
    step_us: Amount | None = None  # mean time of a step, where the profile says
    energy_pj: Energies
    spread_pj: SpreadPair
    layers: dict[Name, Energies]
    terms: list[TermRecord]
    figures: list[FigureRecord]
    widths: dict[Name, Positive] = {}  # bits of a word in each buffer; older files do not say
    sensitivity: list[SwingRecord] = []
    break_even: list[BreakEvenRecord] = []

    @model_validator(mode="after")
    def _whole(self) -> ProfileRecord:
        for term in self.terms:
            if term.layers_pj is not None and len(term.layers_pj) != len(self.layers):
                raise ValueError(
                    f"terms.{term.name}.layers_pj: expected {len(self.layers)} values, "
                    f"got {len(term.layers_pj)}"
                )
        return self


class LayerRecord(Record):
    """One layer of the edge half: means a sample, rate in spikes a neuron and step.

    Older files do not say relay_events.
    """

    name: Name
    shape: tuple[Positive, Positive, Positive]
    rate: Fraction
    spikes: Amount
    synops: Amount
    macs: Amount
    neuron_updates: Amount
    relay_events: Amount | None = None


class BundleRecord(Record):
    """Which network was cut where."""

    name: Name
    backbone: Name
    split: Name
    data: Name
    input_shape: tuple[Positive, Positive, Positive]
    feature_shape: tuple[Positive, Positive, Positive]
    code_shape: tuple[Positive, Positive, Positive]


class Raster(Record):
    """The code spikes of one sample: packed as `splitcore.spikes.pack`, then base64."""

    sample: Count
    label: Name
    predicted: Name
    shape: tuple[Positive, Positive, Positive, Positive]
    packed: Annotated[str, Field(max_length=16 << 20)]

    def spikes_tchw(self) -> np.ndarray:
        """The spikes, uint8 0/1. Raises ResultError when the packed bytes do not fit the shape."""
        try:
            return spikes.unpack(base64.b64decode(self.packed, validate=True), self.shape)
        except (binascii.Error, CodecError, ValueError) as error:
            raise ResultError(f"details.raster.packed: {error}") from None


class WholeRecord(Record):
    """Both halves on one edge device, by one profile."""

    energy_pj: Energies
    step_us: Amount | None  # mean time of a step, where the profile says


class Details(Record):
    """What the report draws beyond the promised keys."""

    accounting: Positive
    bundle: BundleRecord
    layers: Annotated[list[LayerRecord], Field(min_length=1)]
    energy: dict[Name, ProfileRecord]
    rate_times_steps: Amount
    dense: list[DenseRecord] = []
    depth: Annotated[int, Field(ge=0, le=4096)] = 0  # synapses between input and code
    accuracy_uncut: Fraction | None = None  # of the network without cut and code
    input_bytes_mean: Amount | None = None  # what sending the image itself would take
    grouped_bits_mean: Amount | None = None  # payload bits an image where several share each
    encode_us: Amount | None = None  # measured, an image
    cloud_us: Amount | None = None  # measured, an image
    cloud_depth: Annotated[int, Field(ge=0, le=4096)] = 0
    whole: dict[Name, WholeRecord] = {}
    codec: Name = ""
    classes: list[Name] = []
    confusion: list[list[Count]] = []  # rows true, columns predicted
    raster: Raster | None = None

    @model_validator(mode="after")
    def _square(self) -> Details:
        sizes = {len(row) for row in self.confusion} | {len(self.confusion)}
        if self.confusion and sizes != {len(self.classes)}:
            raise ValueError(f"confusion: expected {len(self.classes)} rows and columns")
        return self


class Result(Record):
    """One run of one bundle through the whole pipeline."""

    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)

    samples: Samples
    steps: Positive
    accuracy_model: Fraction
    accuracy_pipeline: Fraction
    spikes: Count
    mismatched_spikes: Count
    prediction_mismatches: Count
    payload_bits_mean: Amount
    wire_bytes_mean: Amount
    raw_spike_bits: AboveZero
    feature_bits_fp32: Amount
    compression_ratio: Amount | None  # None where the code is silent and nothing is sent
    energy_pj: Annotated[dict[Name, Energies], Field(min_length=1)]
    details: Details | None = None


def check(result: dict[str, Any], where: str = "result") -> Result:
    """The result as a record, or ResultError naming the field."""
    details = result.get("details")
    if isinstance(details, dict) and details.get("accounting") != ACCOUNTING:
        raise ResultError(
            f"{where}: details.accounting: expected {ACCOUNTING}; other versions counted "
            "otherwise and do not compare: run `edge --result` again"
        )
    try:
        return Result.model_validate(result)
    except ValidationError as error:
        raise ResultError(f"{where}: {first_problem(error)}") from None


def load(path: Path) -> Result:
    """Read a result file. Raises ResultError naming the file and the field."""
    return check(read(path), str(path))


def read(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises ResultError naming the file."""
    try:
        if path.exists() and not path.is_file():  # a pipe may wait, a device give, for ever
            raise ResultError(f"{path}: expected a file")
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ResultError(f"{path}: larger than {MAX_FILE_BYTES} bytes, no result file")
        content = json.loads(text.decode("utf-8"))
    except OSError as error:
        raise ResultError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise ResultError(f"{path}: no JSON ({error})") from None
    if not isinstance(content, dict):
        raise ResultError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def figure_records(profile: Profile) -> list[dict[str, Any]]:
    """A profile's figures with their sources, its buffers included."""
    figures = [
        {"name": name, "meaning": FIGURES[name][1], **figure.model_dump()}
        for name, figure in profile.figures.items()
    ]
    if profile.memory is not None:
        figures += [
            {
                "name": f"buffer_{point.bytes}_bytes",
                "meaning": f"one access of {profile.memory.word_bits} bits to a buffer of "
                f"{point.bytes:,} bytes",
                **point.energy.model_dump(),
            }
            for point in profile.memory.points
        ]
    return figures


def width_records(profile: Profile) -> dict[str, int]:
    """The bits that a profile's buffers keep, by what they are; empty without buffers."""
    if profile.memory is None:
        return {}
    return {name: bits for name, bits in profile.memory.model_dump().items() if "_bits" in name}


def profile_record(result: EnergyResult, profile: Profile) -> dict[str, Any]:
    """`EnergyResult.as_dict` with the profile's figures and sources beside it."""
    return {
        "title": profile.title,
        "kind": profile.kind,
        "about": profile.about,
        "figures": figure_records(profile),
        "widths": width_records(profile),
        **result.as_dict(),
    }


def require_place(out: Path) -> None:
    """Raise UsageError where `save` could not write, before the work whose result it would be."""
    if out.is_dir():
        raise UsageError(f"{out}: cannot be written (it is a folder)")
    require_writable(out)


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
