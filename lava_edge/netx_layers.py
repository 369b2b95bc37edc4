"""One layer of a NetX file: neurons and synapses as datasets, written and read side by side.

Axis order on disk is SLAYER's: shapes are C, H, W; kernels O, I/groups, H, W; strides, padding and
dilation H, W. Everything numeric is exact: weights and bias hold integers, in a chain as float32.
"""

from __future__ import annotations

import h5py
import numpy as np

from lava_edge.guarded_hdf5 import MAX_TEXT, Group
from splitcore.difference import difference
from splitcore.errors import GraphError
from splitcore.graph import (
    DECAY_UNITY,
    Conv,
    Current,
    Dense,
    Identity,
    Input,
    Lif,
    Pair,
    Shape,
    Synapse,
)

NAME, IDENTITY = "name", "identity"  # attributes
LAYER_MEMBERS = ("type", "shape", "weight", "bias", "neuron", "delay")
SYNAPSE_MEMBERS = {
    "conv": ("inChannels", "outChannels", "kernelSize", "stride", "padding", "dilation", "groups"),
    "dense": ("inFeatures", "outFeatures"),
}
# Datasets that must hold one value for the integer dynamics of `splitcore.graph` to be meant.
_FIXED = {"refDelay": 1, "gradedSpike": 0, "messageBits": 0, "weight_exp": 0, "wgtExp": 0}
_GRADIENT_MEMBERS = ("scaleRho", "tauRho", "theta")  # surrogate gradients of older files
_INPUT_UNITY = 64  # weight of an input block that has a neuron and no weight of its own
_INPUT_BITS = 2  # SLAYER clamps what enters such a block to below 4


def write_type(group: h5py.Group, kind: str) -> None:
    """The layer kind, as SLAYER stores it."""
    group.create_dataset("type", (1,), "S10", [kind.encode("ascii")])


def write_name(group: h5py.Group, name: str) -> None:
    """A name as a fixed-length string; variable ones live in a heap that is not safe to read."""
    raw = name.encode("utf-8")
    if len(raw) > MAX_TEXT or not name.isprintable():
        raise GraphError(f"layer {name[:40]!r}: expected a printable name of {MAX_TEXT} bytes")
    group.attrs[NAME] = np.bytes_(raw)


def write_lif(group: h5py.Group, layer: Lif) -> None:
    """Name, bias and neuron of one layer."""
    write_name(group, layer.name)
    if layer.bias.any():
        group.create_dataset("bias", data=layer.bias.astype(np.float32))
    neuron = group.create_group("neuron")
    neuron.create_dataset("type", data="CUBA")
    neuron.create_dataset("iDecay", data=layer.current_decay)
    neuron.create_dataset("vDecay", data=layer.voltage_decay)
    neuron.create_dataset("vThMant", data=layer.threshold)
    neuron.create_dataset("refDelay", data=1)
    neuron.create_dataset("gradedSpike", data=False)


def write_synapse(
    group: h5py.Group, synapse: Synapse, source: Shape, kind: type[np.number] = np.float32
) -> None:
    """Type and datasets of one synapse that sees a source of this shape.

    kind: what weights and delays are stored as; SLAYER's own export has float32.
    """
    match synapse:
        case Identity():
            group.attrs[IDENTITY] = True
            write_synapse(group, synapse.as_conv(source[0]), source, kind)
        case Conv(weight_oihw=weight):
            write_type(group, "conv")
            group.create_dataset("inChannels", data=weight.shape[1] * synapse.groups)
            group.create_dataset("outChannels", data=weight.shape[0])
            group.create_dataset("kernelSize", data=weight.shape[2:])
            group.create_dataset("stride", data=synapse.stride)
            group.create_dataset("padding", data=synapse.padding)
            group.create_dataset("dilation", data=synapse.dilation)
            group.create_dataset("groups", data=synapse.groups)
            group.create_dataset("weight", data=weight.astype(kind))
        case Dense(weight_oi=weight, delay_oi=delay):
            write_type(group, "dense")
            group.create_dataset("inFeatures", data=weight.shape[1])
            group.create_dataset("outFeatures", data=weight.shape[0])
            group.create_dataset("weight", data=weight.astype(kind))
            if delay is not None:
                axonal = bool((delay == delay[:, :1]).all())  # SLAYER's own: one a neuron
                stored = delay[:, 0] if axonal else delay
                group.create_dataset("delay", data=stored.astype(kind))
        case _:
            raise GraphError(
                f"an edge file has no {type(synapse).__name__}: it belongs to the cloud half"
            )


def read_name(group: Group, default: str) -> str:
    """The name that `save` gave this group; files of stock SLAYER have none."""
    name = group.attribute(NAME)
    if name is not None and not isinstance(name, str):
        raise group.fail("expected a string", f"attribute {NAME}")
    return default if name is None else name


def read_lif(
    group: Group,
    index: int,
    currents: tuple[Current, ...],
    shape: Shape,
    common_bias: int | None = None,
) -> Lif:
    """The layer that these currents drive; their shape must be the one in the file."""
    stored = group.integers("shape").reshape(-1).tolist()
    if stored != [*shape] and (stored != [shape[0]] or shape[1:] != (1, 1)):
        raise group.fail(f"expected {shape}, got {stored}", "shape")
    neuron = group.group("neuron")
    kind = neuron.text("type")
    if kind not in ("CUBA", "LOIHI"):
        raise neuron.fail(f"layer {index}: neurons of kind {kind!r} are not supported", "type")
    neuron.only("type", "iDecay", "vDecay", "vThMant", *_FIXED, *_GRADIENT_MEMBERS)
    for member, meant in _FIXED.items():
        if neuron.has(member) and (neuron.integers(member) != meant).any():
            raise neuron.fail(f"layer {index}: only {meant} is supported", member)
    if common_bias is None and group.has("bias"):
        bias = group.integers("bias").reshape(-1)
    else:
        bias = np.full(shape[0], common_bias or 0)
    return Lif(
        name=read_name(group, f"layer{index}"),
        currents=currents,
        bias=bias,
        threshold=_shared(neuron, "vThMant"),
        voltage_decay=_shared(neuron, "vDecay"),
        current_decay=_shared(neuron, "iDecay"),
    )


def _shared(neuron: Group, member: str) -> int:
    values = neuron.integers(member).reshape(-1)
    if not values.size or (values != values[0]).any():
        raise neuron.fail("only one value for the whole layer is supported", member)
    return int(values[0])


def read_input_neurons(group: Group, index: int, entry: Input) -> Lif:
    """An input block with neurons: weight · x + bias drives them, one of each for the whole block.

    SLAYER adds this bias before the synaptic filter and ours comes after it: the same without one.
    """
    if entry.message_bits > _INPUT_BITS:
        raise group.fail(
            f"an input block with neurons clamps its input below 4: at most {_INPUT_BITS} "
            f"message bits, got {entry.message_bits}"
        )
    weight = group.integer("weight") if group.has("weight") else _INPUT_UNITY
    bias = group.integer("bias") if group.has("bias") else 0
    lif = read_lif(group, index, (Current(entry.name, Identity(weight)),), entry.shape, bias)
    if bias and lif.current_decay != DECAY_UNITY:
        raise group.fail("a bias in front of a synaptic filter is not supported", "bias")
    return lif


def read_synapse(group: Group, kind: str, source: Shape) -> Synapse:
    """The synapse of a conv or dense layer that sees a source of this shape."""
    match kind:
        case "conv":
            return _read_conv(group, source)
        case "dense":
            return _read_dense(group)
        case _:
            raise group.fail(f"kind {kind!r} is not supported", "type")


def _read_conv(group: Group, source: Shape) -> Conv | Identity:
    if group.has("delay") and group.integers("delay").any():
        raise group.fail("delays on a conv are not supported; stock NetX drops them", "delay")
    weight = group.integers("weight")
    if weight.ndim != 4:
        raise group.fail(f"expected O, I/groups, H, W, got shape {weight.shape}", "weight")
    conv = Conv(
        weight,
        stride=_pair(group, "stride"),
        padding=_pair(group, "padding"),
        dilation=_pair(group, "dilation"),
        groups=group.integer("groups"),
    )
    _agrees(group, "kernelSize", *weight.shape[2:])
    _agrees(group, "inChannels", weight.shape[1] * conv.groups)
    _agrees(group, "outChannels", weight.shape[0])
    if not group.attribute(IDENTITY):
        return conv
    identity = Identity(int(weight.flat[0]))
    if difference(identity.as_conv(source[0]), conv):
        raise group.fail("expected one weight for every channel", f"attribute {IDENTITY}")
    return identity


def _read_dense(group: Group) -> Dense:
    weight = group.integers("weight")
    outputs = group.integer("outFeatures") if group.has("outFeatures") else len(weight)
    if weight.ndim == 1 and outputs > 0 and weight.size % outputs == 0:
        weight = weight.reshape(outputs, -1)
    if weight.ndim != 2:
        raise group.fail(f"expected O, I, got shape {weight.shape}", "weight")
    _agrees(group, "outFeatures", weight.shape[0])
    _agrees(group, "inFeatures", weight.shape[1])
    return Dense(weight, _read_delay(group, weight.shape) if group.has("delay") else None)


def _read_delay(group: Group, shape: tuple[int, ...]) -> np.ndarray:
    """Delays of every synapse from one for all, one a neuron or (else) one an input, as stock."""
    delay = group.integers("delay")
    if delay.size == 1:
        delay = delay.reshape(1, 1)
    elif delay.ndim == 1:
        delay = delay[:, None] if len(delay) == shape[0] else delay[None]
    try:
        return np.broadcast_to(delay, shape)
    except ValueError:
        raise group.fail(f"does not fit weights of shape {shape}", "delay") from None


def _pair(group: Group, name: str) -> Pair:
    values = group.integers(name).reshape(-1).tolist()
    if len(values) not in (1, 2):
        raise group.fail(f"expected one number or two, got {len(values)}", name)
    return values[0], values[-1]


def _agrees(group: Group, name: str, *expected: int) -> None:
    if group.has(name) and group.integers(name).reshape(-1).tolist() != [*expected]:
        raise group.fail(f"expected {expected}, as the weights have it", name)
