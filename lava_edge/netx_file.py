"""A network of integer records as a NetX HDF5 file, and back.

A chain is written as lava-dl's own SLAYER blocks write it, dataset for dataset, and runs in stock
`lava.lib.dl.netx.hdf5.Network`:

    /layer/0   type input     shape
    /layer/1   type conv      shape inChannels outChannels kernelSize stride padding dilation groups
                              weight bias? neuron/{type iDecay vDecay vThMant refDelay gradedSpike}
    /layer/2   type flatten   shape
    /layer/3   type dense     shape inFeatures outFeatures weight bias? delay? neuron/…

What NetX cannot say, or stock would compute wrongly, is an extension under another root group, so
that a stock reader, which looks for /layer first, stops with a KeyError and runs no part of it:

    /network/input            shape messageBits
    /network/layer/k          shape bias? neuron/…
    /network/layer/k/current/j    source (−1 the input, i < k a layer), then as conv or dense above

Attributes carry what stock has no place for and ignores: on the root `spikebottlenet_version` and
`input_message_bits`, on layers their `name`, and `identity` on a conv that is one weight a channel.
Bias is left out where all of it is zero, as SLAYER does for a block without norm. Stock does not
store how graded its input is: give `input_message_bits` to its Network, or to `load` for its files.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import h5py
import numpy as np

from lava_edge import stock_limits
from lava_edge.guarded_hdf5 import Group, GuardedFile
from lava_edge.netx_layers import (
    LAYER_MEMBERS,
    SYNAPSE_MEMBERS,
    read_input_neurons,
    read_lif,
    read_name,
    read_synapse,
    write_lif,
    write_name,
    write_synapse,
    write_type,
)
from splitcore.bundle import Bundle
from splitcore.errors import BundleError, GraphError, NetxError
from splitcore.graph import Current, Dense, Graph, Input, Lif, Shape

VERSION = 1

_VERSION, _BITS = "spikebottlenet_version", "input_message_bits"  # attributes


def save(graph: Graph, path: Path) -> None:
    """Write the network to one file, whole or not at all.

    Raises GraphError for what has no form in it, NetxError where no file can be.
    """
    if not graph.layers:
        raise GraphError("graph: an edge network has at least one layer")
    try:
        descriptor, scratch = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise NetxError(f"{path}: cannot be written ({error.strerror})") from None
    os.close(descriptor)
    try:
        with h5py.File(scratch, "w") as file:
            file.attrs[_VERSION] = VERSION
            if stock_limits.beyond_netx(graph) is None:
                _write_chain(file, graph)
            else:
                _write_network(file.create_group("network"), graph)
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
    finally:
        Path(scratch).unlink(missing_ok=True)


def load(path: Path, input_message_bits: int | None = None) -> Graph:
    """Read what `save` or stock SLAYER wrote. Raises NetxError naming the path inside the file.

    input_message_bits: how graded the input of a stock file is (they do not say; None means
    binary spikes).
    """
    with GuardedFile(Path(path)) as root:
        version = root.attribute(_VERSION)
        if version not in (None, VERSION):
            raise root.fail(f"version {version}, expected {VERSION}", f"attribute {_VERSION}")
        if version is None:
            graph = _read_chain(root, input_message_bits or 0)
        elif root.has("network"):
            root.only("network")  # a stock reader would run what else there is
            graph = _read_network(root.group("network"))
        else:
            bits = root.attribute(_BITS)
            if not isinstance(bits, int):
                raise root.fail("expected a number", f"attribute {_BITS}")
            graph = _read_chain(root, bits)
        if not graph.layers:
            raise root.fail("an edge network has at least one layer")
        if version and input_message_bits not in (None, graph.input.message_bits):
            raise root.fail(
                f"its input has {graph.input.message_bits} message bits, not {input_message_bits}"
            )
        return graph
    raise AssertionError("the guarded file swallowed an error")


def of_bundle(bundle: Bundle) -> Graph:
    """The edge half of a bundle. Raises NetxError for a damaged file, BundleError for another."""
    manifest, path = bundle.manifest, bundle.edge_path
    graph = load(path, manifest.input_bits or None)
    found = graph.input.shape, graph.input.message_bits, graph.output_shape
    expected = manifest.input_shape, manifest.input_bits, manifest.code_shape
    if found != expected:
        raise BundleError(
            f"{path}: input, its bits and code are {found}; the manifest says {expected}"
        )
    bundle.require_room(graph, path)
    return graph


# --- writing -------------------------------------------------------------------------------------


def _write_chain(file: h5py.File, graph: Graph) -> None:
    file.attrs[_BITS] = graph.input.message_bits
    layers = file.create_group("layer")
    flat = isinstance(graph.layers[0].currents[0].synapse, Dense) and graph.input.shape[1:] == (
        1,
        1,
    )
    group = layers.create_group("0")
    write_type(group, "input")
    group.create_dataset(
        "shape", data=np.array(graph.input.shape[:1] if flat else graph.input.shape)
    )
    write_name(group, graph.input.name)
    for layer in graph.layers:
        (current,) = layer.currents
        source = graph.shapes[current.source]
        if isinstance(current.synapse, Dense) and not flat:
            group = layers.create_group(str(len(layers)))
            write_type(group, "flatten")
            group.create_dataset("shape", data=np.array([np.prod(source), 1, 1]))
            flat = True
        group = layers.create_group(str(len(layers)))
        group.create_dataset("shape", data=np.array(graph.shapes[layer.name][: 1 if flat else 3]))
        write_synapse(group, current.synapse, source)
        write_lif(group, layer)


def _write_network(file: h5py.Group, graph: Graph) -> None:
    group = file.create_group("input")
    write_name(group, graph.input.name)
    group.create_dataset("shape", data=np.array(graph.input.shape))
    group.create_dataset("messageBits", data=graph.input.message_bits)
    layers = file.create_group("layer")
    sources = {graph.input.name: -1}
    for index, layer in enumerate(graph.layers):
        group = layers.create_group(str(index))
        group.create_dataset("shape", data=np.array(graph.shapes[layer.name]))
        write_lif(group, layer)
        for place, current in enumerate(layer.currents):
            part = group.create_group(f"current/{place}")
            part.create_dataset("source", data=sources[current.source])
            write_synapse(part, current.synapse, graph.shapes[current.source], np.int16)
        sources[layer.name] = index


# --- reading -------------------------------------------------------------------------------------


def _read_chain(root: Group, message_bits: int) -> Graph:
    groups = root.indexed("layer")
    entry: Input | None = None
    layers: list[Lif] = []
    shape: Shape = (0, 0, 0)
    flat = False
    for index, group in enumerate(groups):
        kind = group.text("type")
        if kind == "input" and not index:
            entry, flat = _read_input(group, message_bits)
            shape = entry.shape
            if group.has("neuron"):
                layers.append(read_input_neurons(group, index, entry))
        elif kind == "flatten" and index:
            flat = True
        elif kind in SYNAPSE_MEMBERS:
            if entry is None:
                entry, flat = _implied_input(group, kind, message_bits), True
                shape = entry.shape
            if flat if kind == "conv" else not flat and shape[1:] != (1, 1):
                raise group.fail("flatten belongs before the first dense layer, not elsewhere")
            group.only(*LAYER_MEMBERS, *SYNAPSE_MEMBERS[kind])
            flat = flat or kind == "dense"
            current = Current(
                layers[-1].name if layers else entry.name, read_synapse(group, kind, shape)
            )
            shape = current.synapse.output_shape(shape)
            layers.append(read_lif(group, index, (current,), shape))
        else:
            raise group.fail(f"layer {index} is of kind {kind!r}, which is not supported", "type")
    if entry is None or not layers:
        raise root.fail("expected at least one layer with neurons", "layer")
    return Graph(entry, tuple(layers))


def _read_input(group: Group, message_bits: int) -> tuple[Input, bool]:
    """The input and whether it is flat, as SLAYER stores what enters as (N, C, T)."""
    group.only("type", "shape", "weight", "bias", "neuron")
    stored = group.integers("shape").reshape(-1).tolist()
    if len(stored) not in (1, 3):
        raise group.fail(f"expected one size or C, H, W, got {stored}", "shape")
    return _input(group, [*stored, 1, 1][:3], message_bits), len(stored) == 1


def _implied_input(group: Group, kind: str, message_bits: int) -> Input:
    if kind == "conv":
        raise group.fail("no input block before it: height and width are unknown", "type")
    return Input((group.integer("inFeatures"), 1, 1), message_bits)


def _input(group: Group, shape: list[int], message_bits: int) -> Input:
    channels, height, width = shape
    return Input((channels, height, width), message_bits, read_name(group, "input"))


def _read_network(file: Group) -> Graph:
    file.only("input", "layer")
    group = file.group("input")
    group.only("shape", "messageBits")
    stored = group.integers("shape").reshape(-1).tolist()
    if len(stored) != 3:
        raise group.fail(f"expected C, H, W, got {stored}", "shape")
    entry = _input(group, stored, group.integer("messageBits"))
    known = [(entry.name, entry.shape)]
    layers: list[Lif] = []
    for index, group in enumerate(file.indexed("layer")):
        group.only("shape", "bias", "neuron", "current")
        currents: list[Current] = []
        shape: Shape = entry.shape
        for part in group.indexed("current"):
            source = part.integer("source")
            if not -1 <= source < index:
                raise part.fail(f"layer {index} cannot be driven by layer {source}", "source")
            kind = part.text("type")
            part.only("type", "weight", "delay", "source", *SYNAPSE_MEMBERS.get(kind, ()))
            name, shape = known[source + 1]
            currents.append(Current(name, read_synapse(part, kind, shape)))
            shape = currents[-1].synapse.output_shape(shape)
        layers.append(read_lif(group, index, tuple(currents), shape))
        known.append((layers[-1].name, shape))
    return Graph(entry, tuple(layers))
