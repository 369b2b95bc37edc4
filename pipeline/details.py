"""The `details` of a result file, from what a run has in hand."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from measure import profile
from measure.counts import FIELDS, Counts
from measure.dense import DenseEnergy, break_even, dense_energy
from measure.energy import EnergyResult, rate_times_steps
from measure.profile import Profile
from measure.sensitivity import tornado
from pipeline import results
from splitcore import spikes
from splitcore.bundle import Manifest
from splitcore.graph import Graph

DENSE = ("cmos45_fp32", "cmos45_int8")  # the ordinary networks that spikes are held against


def details(
    manifest: Manifest,
    graph: Graph,
    counts: Counts,
    energies: Sequence[tuple[Profile, EnergyResult]],
    labels: np.ndarray,
    predictions: np.ndarray,
    code_tchw: np.ndarray,
    sample: int = 0,
    codec: str = "",
    input_events: np.ndarray | None = None,
    others: Sequence[DenseEnergy] = (),
    **measured: Any,
) -> dict[str, Any]:
    """The `details` of a result: manifest and counts of the edge half, energies by profile.

    labels and predictions are class numbers (N,); code_tchw are the code spikes of `sample`;
    input_events as in `measure.energy.energy`; others are ordinary networks to be held against
    beside the edge half's own dense twin.
    measured: any of accuracy_uncut, input_bytes_mean, grouped_bits_mean, encode_us, cloud_us,
    cloud_depth and whole of `pipeline.results.Details`, where the caller has them.
    """
    classes = list(manifest.classes)
    table = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(table, (labels, predictions), 1)
    dense = [*dense_twins(graph), *others]
    records = {}
    for chosen, result in energies:
        records[chosen.name] = {
            **results.profile_record(result, chosen),
            "sensitivity": [
                asdict(swing)
                for swing in tornado(graph, counts, chosen, result.steps, input_events)
            ],
            "break_even": [
                asdict(even)
                for network in dense
                for even in break_even(graph, counts, chosen, network, result.steps, input_events)
            ],
        }
    return {
        "accounting": results.ACCOUNTING,
        "bundle": {
            "name": manifest.name,
            "backbone": manifest.backbone,
            "split": manifest.split,
            "data": manifest.data,
            "input_shape": list(manifest.input_shape),
            "feature_shape": list(manifest.feature_shape),
            "code_shape": list(manifest.code_shape),
        },
        "layers": layer_means(graph, counts),
        "energy": records,
        "dense": [asdict(network) for network in dense],
        "depth": graph.depth[graph.output_name],
        "rate_times_steps": rate_times_steps(graph, counts),
        "codec": codec,
        "classes": classes,
        "confusion": table.tolist(),
        "raster": {
            "sample": sample,
            "label": classes[int(labels[sample])],
            "predicted": classes[int(predictions[sample])],
            "shape": list(code_tchw.shape),
            "packed": base64.b64encode(spikes.pack(code_tchw)).decode("ascii"),
        },
        **measured,
    }


def dense_twins(graph: Graph) -> list[DenseEnergy]:
    """The edge half without spikes, in each precision."""
    return [dense_energy(graph, profile.load(name)) for name in DENSE]


def layer_means(graph: Graph, counts: Counts) -> list[dict[str, Any]]:
    """Name, shape, firing rate and mean counts a sample of every layer."""
    layers = []
    for index, layer in enumerate(graph.layers):
        mean = {name: float(getattr(counts, name)[:, index].mean()) for name in FIELDS}
        rate = mean["spikes"] / mean["neuron_updates"] if mean["neuron_updates"] else 0.0
        layers.append(
            {"name": layer.name, "shape": list(graph.shapes[layer.name]), "rate": rate, **mean}
        )
    return layers
