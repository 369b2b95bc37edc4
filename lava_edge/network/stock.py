"""The edge network out of stock Lava processes: the check that the fast leaf is measured by.

    source ─┬─ Conv ────────────────┐
            │                       ├─ (currents add) ─ LIFReset ─ …
            └─ relay ─ relay ─ Conv ┘

Each Conv or Dense adds one time step, LIF none. A shortcut therefore waits in relays, depthwise
1×1 convolutions of ones, until the deepest current of its layer arrives; each layer resets at its
own depth. Residual currents meet in `LIFReset.a_in`: two spike trains into one `Conv.s_in` would be
OR-ed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import numpy as np
from lava.magma.core.decorator import implements, tag
from lava.magma.core.model.sub.model import AbstractSubProcessModel
from lava.magma.core.process.ports.ports import OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol
from lava.proc.conv.process import Conv as ConvProcess
from lava.proc.dense.process import DelayDense as DelayDenseProcess
from lava.proc.dense.process import Dense as DenseProcess
from lava.proc.lif.process import LIFReset
from lava.utils.weightutils import SignMode

from lava_edge import stock_limits
from lava_edge.network.process import EdgeNetwork, FrameSource, SpikeTap, StateTap, whc
from splitcore.errors import GraphError
from splitcore.graph import STATE_SHIFT, Conv, Current, Dense, Graph, Identity, Lif, Pair, Shape

Child = TypeVar("Child", bound=AbstractProcess)

MAX_GROUPS = 127  # int8 in lava/proc/conv/models.py; 128 groups give wrong sums in silence


@implements(proc=EdgeNetwork, protocol=LoihiProtocol)
@tag("fixed_pt")
class StockEdgeNetwork(AbstractSubProcessModel):
    """Wires one stock process a synapse, relay and layer. One sample at a time."""

    def __init__(self, proc: EdgeNetwork) -> None:
        params = proc.proc_params
        if params["batch"] != 1:
            raise GraphError("stock processes run one sample at a time: use batch 1")
        self._graph: Graph = params["graph"]
        stock_limits.require(self._graph)
        self._steps: int = params["steps"]
        self._count = 0
        self._relayed: dict[str, list[OutPort]] = {}
        self._outs: dict[str, OutPort] = {}
        channel, record = params["channel"], params["record"]
        if channel is not None:
            source = FrameSource(graph=self._graph, steps=self._steps, channel=channel)
            self._outs[self._graph.input.name] = self._adopt("source", source).frames
        for index, layer in enumerate(self._graph.layers):
            lif = self._lif(layer)
            for current in layer.currents:
                self._connect(proc, layer, current, lif)
            self._outs[layer.name] = lif.s_out
            if channel is not None:
                tap = {
                    "shape": self._graph.shapes[layer.name],
                    "steps": self._steps,
                    "layer": index,
                    "depth": self._graph.depth[layer.name],
                    "channel": channel,
                }
                lif.s_out.connect(self._adopt("tap", SpikeTap(**tap)).spikes)
                if record == "states":
                    states = self._adopt("states", StateTap(**tap))
                    states.current.connect_var(lif.u)
                    states.voltage.connect_var(lif.v)
        self._outs[self._graph.output_name].connect(proc.out_ports.out)

    def _adopt(self, name: str, process: Child) -> Child:
        # Lava finds the children of a sub-process model through its attributes.
        setattr(self, f"child{self._count:04d}_{name}", process)
        self._count += 1
        return process

    def _lif(self, layer: Lif) -> LIFReset:
        shape = self._graph.shapes[layer.name]
        bias = np.broadcast_to(layer.bias, whc(shape)).astype(np.int32)
        return self._adopt(
            "lif",
            LIFReset(
                shape=whc(shape),
                du=layer.current_decay - 1,  # the model adds ds_offset = 1
                dv=layer.voltage_decay,
                bias_mant=bias,
                bias_exp=STATE_SHIFT,
                vth=layer.threshold,
                reset_interval=self._steps,
                reset_offset=self._graph.depth[layer.name] + 1,
            ),
        )

    def _connect(self, proc: EdgeNetwork, layer: Lif, current: Current, lif: LIFReset) -> None:
        shape = self._graph.shapes[current.source]
        graded = current.source == self._graph.input.name and self._graph.input.message_bits > 0
        bits = self._graph.input.message_bits if graded else 0
        synapse = current.synapse
        if isinstance(synapse, Identity):
            synapse = synapse.as_conv(shape[0])
        relays = self._graph.relays(layer, current)
        if isinstance(synapse, Conv):
            process = self._adopt("conv", conv_process(synapse, shape, bits))
            target = process.s_in
            process.a_out.connect(lif.a_in)
        elif isinstance(synapse, Dense):
            process = self._adopt("dense", dense_process(synapse, shape, bits))
            if isinstance(process, DelayDenseProcess):
                proc.delayed.append((self._graph.depth[layer.name] - 1, process))
            target = process.s_in
            process.a_out.reshape(lif.a_in.shape).connect(lif.a_in)
        else:
            raise GraphError(f"layer {layer.name}: stock Lava has no {type(synapse).__name__}")
        if (
            relays == 0
            and current.source == self._graph.input.name
            and not self._outs.get(current.source)
        ):
            source = proc.in_ports.inp
        else:
            source = self._waiting(proc, current.source, shape, relays, bits)
        if isinstance(synapse, Dense):
            source = source.reshape((int(np.prod(shape)),))
        source.connect(target)

    def _waiting(
        self, proc: EdgeNetwork, source: str, shape: Shape, relays: int, bits: int
    ) -> OutPort:
        """The source's events after this many relays; relays are shared by all who wait."""
        chain = self._relayed.setdefault(source, [])
        while len(chain) < relays:
            ones = Conv(np.ones((shape[0], 1, 1, 1), dtype=np.int32), groups=shape[0])
            relay = self._adopt("relay", conv_process(ones, shape, bits))
            before = chain[-1] if chain else self._outs.get(source, proc.inp)
            before.connect(relay.s_in)
            chain.append(relay.a_out)
        return chain[relays - 1] if relays else self._outs[source]


def _flipped(pair: Pair) -> Pair:
    """(H, W) in Lava's order."""
    return pair[1], pair[0]


def conv_process(synapse: Conv, source: Shape, message_bits: int) -> ConvProcess:
    """A stock Conv of this synapse: O, kW, kH, I, both spatial axes flipped, as Lava wants it."""
    synapse = with_few_groups(synapse)
    weight = synapse.weight_oihw[:, :, ::-1, ::-1].transpose(0, 3, 2, 1)
    return ConvProcess(
        weight=np.ascontiguousarray(weight),
        input_shape=whc(source),
        stride=_flipped(synapse.stride),
        padding=_flipped(synapse.padding),
        dilation=_flipped(synapse.dilation),
        groups=synapse.groups,
        num_message_bits=message_bits,
    )


def with_few_groups(synapse: Conv) -> Conv:
    """The same convolution in at most 127 groups: stock Conv holds their number in an int8.

    Neighbouring groups are merged, with zero weights between them.
    """
    if synapse.groups <= MAX_GROUPS:
        return synapse
    groups = max(few for few in range(1, MAX_GROUPS + 1) if synapse.groups % few == 0)
    merged = synapse.groups // groups
    outputs, inputs, *kernel = synapse.weight_oihw.shape
    outputs //= synapse.groups
    weight = np.zeros((groups, merged, outputs, merged, inputs, *kernel), dtype=np.int32)
    diagonal = np.arange(merged)
    # The two index arrays go to the front: merged, groups, outputs, inputs, kH, kW.
    weight[:, diagonal, :, diagonal] = synapse.weight_oihw.reshape(
        groups, merged, outputs, inputs, *kernel
    ).swapaxes(0, 1)
    shape = (groups * merged * outputs, merged * inputs, *kernel)
    return replace(synapse, weight_oihw=weight.reshape(shape), groups=groups)


def dense_process(
    synapse: Dense, source: Shape, message_bits: int
) -> DenseProcess | DelayDenseProcess:
    """A stock Dense or DelayDense whose inputs come in W, H, C order."""
    weight = _columns_whc(synapse.weight_oi, source)
    signed = weight.min() < 0
    # Left to itself, Lava takes weights without a positive one for inhibitory: −256 becomes −255.
    common = {
        "weights": weight,
        "num_message_bits": message_bits,
        "sign_mode": SignMode.MIXED if signed else SignMode.EXCITATORY,
    }
    if synapse.delay_oi is None:
        return DenseProcess(**common)
    return DelayDenseProcess(**common, delays=_columns_whc(synapse.delay_oi, source).astype(int))


def _columns_whc(matrix_oi: np.ndarray, source: Shape) -> np.ndarray:
    by_place = matrix_oi.reshape(len(matrix_oi), *source).transpose(0, 3, 2, 1)
    return np.ascontiguousarray(by_place).reshape(len(matrix_oi), -1)
