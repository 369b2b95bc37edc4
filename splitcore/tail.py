"""The cloud half as records, and the one safetensors file that holds it.

    code spikes ── decoder LIF ── … LIF ── mean over time and space ── Dense (float) ── scores

The spiking layers are the same integer records as the edge half. Weights are stored as int8 of
w / 2 where all are even (they are, when SLAYER trained them), else as int16. The structure is JSON
in the file's own header, so the file alone rebuilds the tail.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from splitcore.bundle import Bundle
from splitcore.errors import BundleError, GraphError
from splitcore.graph import (
    Conv,
    ConvTranspose,
    Current,
    Dense,
    Graph,
    Identity,
    Input,
    Lif,
    Synapse,
)
from splitcore.tensors import load_tensors, save_tensors

FORMAT = "spikebottlenet-tail-1"


@dataclass(frozen=True, eq=False)
class Tail:
    """Spiking layers from the code on, then scores = weight_kc · mean(spikes; T, H, W) + bias_k.

    graph: its input is the code (binary, C, H, W); weight_kc (classes, C) and bias_k are float32.
    """

    graph: Graph
    weight_kc: np.ndarray
    bias_k: np.ndarray

    def __post_init__(self) -> None:
        channels = self.graph.output_shape[0]
        weight, bias = np.float32(self.weight_kc), np.float32(self.bias_k)
        if weight.ndim != 2 or weight.shape[1] != channels or bias.shape != weight.shape[:1]:
            raise GraphError(
                f"readout: expected weight (classes, {channels}) and bias (classes,), "
                f"got {weight.shape} and {bias.shape}"
            )
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise GraphError("readout: expected finite weights")
        object.__setattr__(self, "weight_kc", weight)
        object.__setattr__(self, "bias_k", bias)

    def scores(self, spikes_ntchw: np.ndarray) -> np.ndarray:
        """Class scores (N, classes) of the last layer's spikes (N, T, C, H, W)."""
        return self.scores_of_rates(spikes_ntchw.mean(axis=(1, 3, 4), dtype=np.float64))

    def scores_of_rates(self, rate_nc: np.ndarray) -> np.ndarray:
        """The same of their mean over time and space (N, C), float64."""
        return (rate_nc @ self.weight_kc.T.astype(np.float64) + self.bias_k).astype(np.float32)

    def float32_error(self, rate_nc: np.ndarray, steps: int) -> np.ndarray:
        """How far these scores may lie from those that the model gave in float32 (N, classes).

        The model averages over space, multiplies, adds the bias and averages over the steps, and
        adds in an order that is the processor's. Counts of spikes are exact, so a term w·r goes
        through 2 roundings of its mean over space, 1 of the product, C of sums with the bias, T − 1
        of sums over steps, and 2 of their mean; here through 1 to float32 and float64's, which are
        less than 1 more. Whatever the order, n roundings of 2^-24 leave a sum within (N. J. Higham,
        "Accuracy and Stability of Numerical Algorithms", lemma 3.1)

            γ · (Σ_c |w|·r + |b|),   γ = n·2^-24 / (1 − n·2^-24),   n = C + T + 6
        """
        reached = self.weight_kc.shape[1] + steps + 6
        gamma = reached * 2.0**-24 / (1 - reached * 2.0**-24)
        weight, bias = (np.abs(part.astype(np.float64)) for part in (self.weight_kc, self.bias_k))
        return gamma * (rate_nc @ weight.T + bias)


# One table for writer and reader: kind, class, weight field, plain fields.
_KINDS: dict[str, tuple[type, str, tuple[str, ...]]] = {
    "conv": (Conv, "weight_oihw", ("stride", "padding", "dilation", "groups")),
    "conv_transpose": (ConvTranspose, "weight_iohw", ("stride", "padding", "output_padding")),
    "dense": (Dense, "weight_oi", ()),
    "identity": (Identity, "weight", ()),
}


def _describe(synapse: Synapse, key: str, tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    kind = next((kind for kind, row in _KINDS.items() if isinstance(synapse, row[0])), None)
    if kind is None:
        raise GraphError(f"{key}: no way to store a {type(synapse).__name__}")
    _, weight_field, fields = _KINDS[kind]
    if isinstance(synapse, Dense) and synapse.delay_oi is not None:
        raise GraphError(f"{key}: a cloud half has no synaptic delays")
    described: dict[str, Any] = {"kind": kind, **{name: getattr(synapse, name) for name in fields}}
    weight = getattr(synapse, weight_field)
    if isinstance(synapse, Identity):
        described["weight"] = weight
    elif (weight % 2).any():
        tensors[key] = weight.astype(np.int16)
    else:
        tensors[key] = (weight // 2).astype(np.int8)
    return described


def _rebuild(described: dict[str, Any], tensor: np.ndarray | None) -> Synapse:
    if described.get("kind") not in _KINDS:
        raise GraphError(f"unknown synapse kind {described.get('kind')!r}")
    cls, weight_field, fields = _KINDS[described["kind"]]
    if cls is Identity:
        return Identity(described["weight"])
    if tensor is None:
        raise GraphError("its weight is missing")
    if tensor.dtype == np.int8:
        tensor = tensor.astype(np.int32) * 2
    elif tensor.dtype != np.int16:
        raise GraphError(f"expected int8 or int16 weights, got {tensor.dtype}")
    plain = {name: described[name] for name in fields}
    return cls(**{weight_field: tensor}, **plain)


def save(tail: Tail, path: Path) -> None:
    """Write the tail as one safetensors file."""
    tensors: dict[str, np.ndarray] = {"readout.weight": tail.weight_kc, "readout.bias": tail.bias_k}
    layers = []
    for layer in tail.graph.layers:
        currents = []
        for index, current in enumerate(layer.currents):
            described = _describe(current.synapse, f"{layer.name}.{index}.weight", tensors)
            currents.append({"source": current.source, **described})
        tensors[f"{layer.name}.bias"] = layer.bias.astype(np.int16)
        layers.append(
            {
                "name": layer.name,
                "threshold": layer.threshold,
                "voltage_decay": layer.voltage_decay,
                "current_decay": layer.current_decay,
                "currents": currents,
            }
        )
    structure = {
        "input": {"name": tail.graph.input.name, "shape": tail.graph.input.shape},
        "layers": layers,
    }
    save_tensors(tensors, path, {"format": FORMAT, "structure": json.dumps(structure)})


def load(path: Path) -> Tail:
    """Read what `save` wrote. Raises BundleError naming the file and what is wrong with it."""
    metadata, tensors = load_tensors(path)
    if metadata.get("format") != FORMAT:
        raise BundleError(f"{path}: expected format {FORMAT}, got {metadata.get('format')!r}")
    try:
        return _tail(json.loads(metadata["structure"]), tensors)
    except GraphError as error:
        raise BundleError(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise BundleError(f"{path}: damaged structure ({error!r})") from None


def of_bundle(bundle: Bundle) -> Tail:
    """The cloud half of a bundle. Raises BundleError where it is not what the manifest says."""
    manifest, path = bundle.manifest, bundle.cloud_path
    tail = load(path)
    classes = len(tail.weight_kc)
    if tail.graph.input.shape != manifest.code_shape or classes != len(manifest.classes):
        raise BundleError(
            f"{path}: makes {classes} scores of a code {tail.graph.input.shape}; the manifest says "
            f"{len(manifest.classes)} of {manifest.code_shape}"
        )
    bundle.require_room(tail.graph, path)
    return tail


def _tail(structure: dict[str, Any], tensors: dict[str, np.ndarray]) -> Tail:
    layers = []
    for entry in structure["layers"]:
        name = entry["name"]
        currents = []
        for index, described in enumerate(entry["currents"]):
            key = f"{name}.{index}.weight"
            try:
                synapse = _rebuild(described, tensors.get(key))
            except GraphError as error:
                raise GraphError(f"{key}: {error}") from None
            currents.append(Current(described["source"], synapse))
        layers.append(
            Lif(
                name=name,
                currents=tuple(currents),
                bias=tensors[f"{name}.bias"],
                threshold=entry["threshold"],
                voltage_decay=entry["voltage_decay"],
                current_decay=entry["current_decay"],
            )
        )
    channels, height, width = structure["input"]["shape"]
    graph = Graph(Input((channels, height, width), name=structure["input"]["name"]), tuple(layers))
    return Tail(graph, tensors["readout.weight"], tensors["readout.bias"])
