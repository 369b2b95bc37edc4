"""A graph as plain torch layers with its integers as weights: what NeuroBench can count."""

import numpy as np
import torch

from lava_edge import reference
from splitcore.graph import Conv, Dense, Graph, Identity


class Folded(torch.nn.Module):
    """Conv2d and Linear in double precision, so that sums of ones stay exact; LIF as reference."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.synapses = torch.nn.ModuleList(
            self._module(current, graph) for _, current in graph.currents()
        )

    @staticmethod
    def _module(current, graph):
        synapse = current.synapse
        if isinstance(synapse, Identity):
            synapse = synapse.as_conv(graph.shapes[current.source][0])
        if isinstance(synapse, Dense):
            outputs, inputs = synapse.weight_oi.shape
            module = torch.nn.Linear(inputs, outputs, bias=False, dtype=torch.float64)
            weight = synapse.weight_oi
        else:
            assert isinstance(synapse, Conv)
            weight = synapse.weight_oihw
            module = torch.nn.Conv2d(
                weight.shape[1] * synapse.groups,
                weight.shape[0],
                tuple(weight.shape[2:]),
                stride=synapse.stride,
                padding=synapse.padding,
                dilation=synapse.dilation,
                groups=synapse.groups,
                bias=False,
                dtype=torch.float64,
            )
        module.weight.data = torch.tensor(weight, dtype=torch.float64)
        return module

    def forward(self, frames_ntchw):
        samples, steps = frames_ntchw.shape[:2]
        outputs = {self.graph.input.name: frames_ntchw}
        modules = iter(self.synapses)
        for layer in self.graph.layers:
            drive = 0
            for current in layer.currents:
                module = next(modules)
                events = outputs[current.source].flatten(0, 1)
                if isinstance(module, torch.nn.Linear):
                    events = events.flatten(1)
                drive = drive + module(events)
            shaped = drive.reshape(samples, steps, *self.graph.shapes[layer.name])
            spikes, _, _ = reference.lif(layer, shaped.numpy().astype(np.int64))
            outputs[layer.name] = torch.from_numpy(spikes).double()
        return outputs
