"""A bundle on disk: one folder that edge and cloud both read, with digests over every byte.

    manifest.json       shapes, T, split, accuracy, how it was trained, sha256 of the files below
    edge.net            the edge half up to the encoder's neurons, NetX HDF5
    cloud.safetensors   the cloud half (splitcore.tail)
    probe.safetensors   a few frames with the spikes and scores the trained model gave at export
    context.safetensors optional: the context model of the code's spikes (splitcore.codec)
    card.md             optional: what the manifest says, for people; no program reads it

The bundle's digest is the sha256 of manifest.json; the manifest names the digest of all the rest.
A folder appears whole or not at all: it is written beside its place and renamed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from splitcore import spikes
from splitcore.errors import BundleError, CodecError, GraphError
from splitcore.graph import MAX_NEURONS, Graph
from splitcore.place import require_writable
from splitcore.tensors import load_tensors, save_tensors
from splitcore.whole_folder import whole_folder

MANIFEST, EDGE, CLOUD, PROBE = "manifest.json", "edge.net", "cloud.safetensors", "probe.safetensors"
CONTEXT, CARD = "context.safetensors", "card.md"
FILES = (EDGE, CLOUD, PROBE)
MAX_FILE_BYTES = 1 << 30
MAX_MANIFEST_BYTES = 1 << 20


def possible(shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape, or ValueError where no layer may be as large: a check for pydantic's fields."""
    if math.prod(shape) > MAX_NEURONS:
        raise ValueError(f"{shape} is more than {MAX_NEURONS:,} values")
    return shape


Positive = Annotated[int, Field(ge=1, le=1 << 20)]
Shape = Annotated[tuple[Positive, Positive, Positive], AfterValidator(possible)]
Rate = Annotated[float, Field(ge=0, le=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, allow_inf_nan=False)


class FileRecord(_Strict):
    """One file of a bundle: its digest and its size in bytes."""

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    bytes: Annotated[int, Field(ge=1, le=MAX_FILE_BYTES)]


class Manifest(_Strict):
    """What a bundle says of itself. Shapes are (C, H, W); rates are spikes a neuron and step."""

    format: Literal["spikebottlenet-bundle"] = "spikebottlenet-bundle"
    version: Literal[1] = 1
    name: Annotated[str, Field(min_length=1, max_length=200)]
    backbone: str
    split: str
    steps: Annotated[int, Field(ge=1, le=1024)]
    input_shape: Shape
    input_bits: Annotated[int, Field(ge=0, le=16)]
    feature_shape: Shape  # the layer that the encoder squeezes
    code_shape: Shape
    code_rates: tuple[Rate, ...]  # mean firing rate of each code channel on training images
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    data: str
    accuracy: Rate
    test_samples: Annotated[int, Field(ge=1)]
    training: dict[str, Any]
    files: dict[str, FileRecord]

    @property
    def spike_shape(self) -> tuple[int, int, int, int]:
        """(T, C, H, W) of one sample's code."""
        return (self.steps, *self.code_shape)


@dataclass(frozen=True, eq=False)
class Probe:
    """frames: uint8, pixel levels (N, C, H, W) or events (N, T, C, H, W); code_ntchw: 0/1 uint8;
    scores_nk float32; labels_n int64.
    """

    frames: np.ndarray
    code_ntchw: np.ndarray
    scores_nk: np.ndarray
    labels_n: np.ndarray

    @property
    def frames_ntchw(self) -> np.ndarray:
        """The frames as they enter in each time step of the code: a read-only view."""
        if self.frames.ndim == 5:
            return self.frames
        count, steps = self.code_ntchw.shape[:2]
        return np.broadcast_to(self.frames[:, None], (count, steps, *self.frames.shape[1:]))


@dataclass(frozen=True)
class Bundle:
    """An opened bundle whose every digest was checked."""

    path: Path
    manifest: Manifest
    digest: str  # hex sha256 of manifest.json

    @property
    def edge_path(self) -> Path:
        """The NetX HDF5 file of the edge half."""
        return self.path / EDGE

    @property
    def cloud_path(self) -> Path:
        """The safetensors file of the cloud half."""
        return self.path / CLOUD

    @property
    def context_path(self) -> Path | None:
        """The safetensors file of the code's context model, where the bundle has one."""
        return self.path / CONTEXT if CONTEXT in self.manifest.files else None

    def require_unchanged(self) -> None:
        """Raises BundleError where the folder was replaced since it was opened.

        To be called once its files are loaded: what was loaded is then what the digest names.
        """
        if open_bundle(self.path).digest != self.digest:
            raise BundleError(f"{self.path}: was replaced while it was read; start again")

    def require_room(self, half: Graph, path: Path) -> None:
        """Raise BundleError where samples of a half, read from this file, take too much memory."""
        try:
            half.require_room(self.manifest.steps)
        except GraphError as error:
            raise BundleError(f"{path}: {error}") from None

    def probe(self) -> Probe:
        """The frames, spikes and scores recorded at export, one frame at least."""
        path = self.path / PROBE
        _, tensors = load_tensors(path)
        try:
            frames, scores, labels = (tensors[name] for name in ("frames", "scores", "labels"))
            count = len(labels.reshape(-1))
            code = spikes.unpack(tensors["code"].tobytes(), (count, *self.manifest.spike_shape))
        except (KeyError, CodecError) as error:
            raise BundleError(f"{path}: damaged probe ({error})") from None
        if count == 0:
            raise BundleError(f"{path}: holds no frame, which proves nothing; export it again")
        held = () if self.manifest.input_bits else (self.manifest.steps,)
        for name, tensor, dtype, shape in (
            ("frames", frames, np.uint8, (count, *held, *self.manifest.input_shape)),
            ("scores", scores, np.float32, (count, len(self.manifest.classes))),
            ("labels", labels, np.int64, (count,)),
        ):
            if tensor.dtype != dtype or tensor.shape != shape:
                raise BundleError(
                    f"{path}: {name}: expected {np.dtype(dtype)} {shape}, "
                    f"got {tensor.dtype} {tensor.shape}"
                )
        if not np.isfinite(scores).all():
            raise BundleError(f"{path}: scores: expected finite numbers")
        return Probe(frames, code, scores, labels)


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def open_bundle(path: Path) -> Bundle:
    """Check manifest and digests. Raises BundleError naming the file and what is wrong."""
    try:
        return _checked(path)
    except OSError as error:  # a file may go at any moment: bundles are replaced while we look
        raise BundleError(f"{error.filename or path}: cannot be read ({error.strerror})") from None


def _checked(path: Path) -> Bundle:
    manifest_path = path / MANIFEST
    if not path.is_dir():
        raise BundleError(f"{path}: no such bundle folder")
    if manifest_path.exists() and not manifest_path.is_file():  # a pipe may wait for ever
        raise BundleError(f"{manifest_path}: is no file")
    if manifest_path.stat().st_size > MAX_MANIFEST_BYTES:
        raise BundleError(f"{manifest_path}: more than {MAX_MANIFEST_BYTES:,} bytes")
    raw = manifest_path.read_bytes()
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "file"
        raise BundleError(f"{manifest_path}: {where}: {first['msg']}") from None
    if set(manifest.files) - {CONTEXT} != set(FILES):
        raise BundleError(f"{manifest_path}: files: expected {', '.join(FILES)}")
    if len(manifest.code_rates) != manifest.code_shape[0]:
        raise BundleError(f"{manifest_path}: code_rates: expected {manifest.code_shape[0]} rates")
    for name, record in manifest.files.items():
        file = path / name
        if not file.is_file():
            raise BundleError(f"{file}: missing; export the bundle again")
        if file.stat().st_size != record.bytes or sha256(file) != record.sha256:
            raise BundleError(
                f"{file}: its bytes are not those the manifest names; "
                "copy or export the bundle again"
            )
    return Bundle(path, manifest, hashlib.sha256(raw).hexdigest())


def require_place(out: Path) -> None:
    """Raise BundleError or UsageError where `write_bundle` would not or could not write."""
    if out.exists() and not (out / MANIFEST).is_file():
        raise BundleError(f"{out}: exists and is no bundle; choose another place")
    require_writable(out.resolve())


def write_bundle(
    out: Path,
    describe: Callable[[dict[str, FileRecord]], Manifest],
    write_edge: Callable[[Path], None],
    write_cloud: Callable[[Path], None],
    probe: Probe,
    write_context: Callable[[Path], None] | None = None,
    card: Callable[[Manifest], str] | None = None,
) -> Bundle:
    """Write a whole bundle to `out`, or nothing. An older bundle there is replaced.

    describe gets the file records and returns the manifest; write_edge, write_cloud and, where
    given, write_context write the file at the path they are given; card tells people the rest.
    """
    require_place(out)
    with whole_folder(out) as scratch:
        write_edge(scratch / EDGE)
        write_cloud(scratch / CLOUD)
        code = np.frombuffer(spikes.pack(probe.code_ntchw), dtype=np.uint8)
        tensors = {
            "frames": np.ascontiguousarray(probe.frames),
            "code": code,
            "scores": np.ascontiguousarray(probe.scores_nk, dtype=np.float32),
            "labels": np.ascontiguousarray(probe.labels_n, dtype=np.int64),
        }
        save_tensors(tensors, scratch / PROBE)
        names = FILES
        if write_context is not None:
            write_context(scratch / CONTEXT)
            names = (*FILES, CONTEXT)
        records = {
            name: FileRecord(sha256=sha256(scratch / name), bytes=(scratch / name).stat().st_size)
            for name in names
        }
        manifest = describe(records)
        (scratch / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
        if card is not None:
            (scratch / CARD).write_text(card(manifest), encoding="utf-8")
    return open_bundle(out)
