"""`bench train`: a training step of one residual network, ours beside stock SLAYER and peers.

All sides train the same topology with the same batch in one run, a step of each in turn, so that
whatever else the machine does falls on all of them. A step is forward, loss, backward, optimiser.
Spikes are compared between our integer forward and stock SLAYER's quantised one, layer by layer.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.bench.residual_nets import PEERS, ResidualNet, StockSlayer, version
from pipeline.console import progress_bar
from splitcore.errors import ConfigError
from splitcore.graph import Graph, Input, Lif
from splitcore.spikes import direct_code
from splitcore.splits import Backbone, backbone_named
from training import backbones, slayer_twin
from training.blocks import NeuronConfig, Norm, SpikingLayer

CHANNELS, PIXELS, CLASSES, INPUT_BITS = 3, 32, 10, 6
SETTLE = 30  # forwards before spikes are compared
COMPARED = 4  # images whose spikes are compared in every layer; stock SLAYER is slow


class OurNet(torch.nn.Module):
    """Our blocks of a backbone with a readout, without a cut."""

    def __init__(self, backbone: Backbone, *, width: int, steps: int) -> None:
        super().__init__()
        self.steps = steps
        self.input = Input((CHANNELS, PIXELS, PIXELS), INPUT_BITS)
        self.blocks = backbones.build(
            backbone,
            width=width,
            input_shape=self.input.shape,
            input_bits=INPUT_BITS,
            neurons=backbones.neurons(backbone, NeuronConfig()),
        )
        for layer in self.spiking_layers():
            layer.set_steps(steps)
        last = backbones.scaled(backbone.blocks[-1].channels, backbone, width)
        self.readout = torch.nn.Linear(last, CLASSES)

    def spiking_layers(self) -> list[SpikingLayer]:
        """All layers in order."""
        return [module for module in self.modules() if isinstance(module, SpikingLayer)]

    def forward(self, levels_nchw: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes) of levels 0 … 63."""
        events = levels_nchw.float().repeat(self.steps, 1, 1, 1)
        hidden = events.contiguous(memory_format=torch.channels_last)
        for block in self.blocks.values():
            hidden = block(hidden)
        rate = hidden.float().mean((2, 3))
        return self.readout(rate.unflatten(0, (self.steps, -1)).mean(0))

    def lower(self) -> Graph:
        """The network as integer records."""
        records: list[Lif] = []
        hidden = self.input.name
        for block_name, block in self.blocks.items():

            def emit(name: str, layer: SpikingLayer, sources: Any, at: str = block_name) -> str:
                records.append(layer.record(f"{at}.{name}", tuple(sources)))
                return records[-1].name

            assert isinstance(block, backbones.Block)
            hidden = block.lower(hidden, emit)
        return Graph(self.input, tuple(records))


def _step_of(net: torch.nn.Module, pixels: torch.Tensor, labels: torch.Tensor):
    """A whole training step of a network as a function."""
    optimiser = torch.optim.AdamW(net.parameters(), 1e-3)

    def step() -> None:
        loss = F.cross_entropy(net(pixels), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def _compare(net: OurNet, levels: np.ndarray) -> dict[str, int]:
    """Our integer forward against stock SLAYER, every layer, after some training steps."""
    settle = torch.from_numpy(levels)
    with torch.no_grad():  # running statistics of a few steps leave layers silent
        for _ in range(SETTLE):
            net(settle)
    found: list[torch.Tensor] = []

    def keep(_layer: torch.nn.Module, _events: Any, spikes: Any) -> None:
        found.append(spikes)

    hooks = [layer.register_forward_hook(keep) for layer in net.spiking_layers()]
    net.eval()
    with torch.no_grad():
        net(torch.from_numpy(levels))
    net.train()
    for hook in hooks:
        hook.remove()
    frames = direct_code(levels << (8 - INPUT_BITS), INPUT_BITS, net.steps)
    stock = slayer_twin.run(net.lower(), frames)
    mismatches = compared = fired = silent = 0
    for ours, want in zip(found, stock.values(), strict=True):
        ours_ntchw = ours.unflatten(0, (net.steps, -1)).transpose(0, 1).numpy().astype(np.uint8)
        mismatches += int((ours_ntchw != want).sum())
        compared += want.size
        fired += int(want.sum())
        silent += int(not want.any())
    return {
        "spike_mismatches": mismatches,
        "positions_compared": compared,
        "spikes_fired": fired,
        "silent_layers": silent,
    }


def run(
    *,
    backbone: str = "resnet18",
    width: int = 32,
    steps: int = 4,
    batch: int = 64,
    rounds: int = 3,
    peers: bool = True,
    seed: int = 0,
) -> dict[str, Any]:
    """Images a second of each side, best of `rounds` steps taken in turn, and their ratios.

    ratio: ours by stock SLAYER, wall time; ratio_cpu_time: the same in processor time, which other
    work on the machine disturbs less. A peer that is not installed is reported as absent.
    Raises ConfigError for a backbone without basic blocks or a count below one.
    """
    if min(width, steps, batch, rounds) < 1:
        raise ConfigError("bench train: width, steps, batch and rounds have to be at least 1")
    spec = backbone_named(backbone)
    if any(block.kind not in ("stem", "basic") for block in spec.blocks):
        raise ConfigError(f"bench train: {backbone} has no basic blocks; take resnet8 or resnet18")
    torch.manual_seed(seed)
    draw = np.random.default_rng(seed)
    levels = draw.integers(0, 1 << INPUT_BITS, (batch, CHANNELS, PIXELS, PIXELS), dtype=np.uint8)
    pixels = torch.from_numpy(levels).float() / ((1 << INPUT_BITS) - 1)
    labels = torch.from_numpy(draw.integers(0, CLASSES, batch))

    ours = OurNet(spec, width=width, steps=steps)
    folded = OurNet(spec, width=width, steps=steps)
    for layer in folded.spiking_layers():
        layer.norm = Norm.FOLDED
    shape = {"width": width, "channels": CHANNELS, "classes": CLASSES, "steps": steps}
    sides: dict[str, Callable[[], None]] = {
        "ours": _step_of(ours, torch.from_numpy(levels), labels),
        "ours_folded": _step_of(folded, torch.from_numpy(levels), labels),
        "stock_slayer": _step_of(ResidualNet(StockSlayer, spec, **shape), pixels, labels),
    }
    versions = {"lava-dl": version("lava-dl"), "torch": version("torch")}
    for name, (distribution, layer) in PEERS.items() if peers else ():
        versions[name] = version(distribution)
        if versions[name] is not None:
            sides[name] = _step_of(ResidualNet(layer, spec, **shape), pixels, labels)

    wall = {name: [] for name in sides}
    cpu = {name: [] for name in sides}
    with progress_bar() as progress:
        task = progress.add_task("bench train", total=(rounds + 1) * len(sides))
        for index in range(rounds + 1):  # the first one warms up and compiles
            for name, step in sides.items():
                progress.update(task, description=f"bench train: {name}")
                gc.collect()
                wall_start, cpu_start = time.perf_counter(), time.process_time()
                step()
                if index:
                    wall[name].append(time.perf_counter() - wall_start)
                    cpu[name].append(time.process_time() - cpu_start)
                progress.advance(task)
    speed = {name: batch / min(times) for name, times in wall.items()}
    cost = {name: min(times) for name, times in cpu.items()}
    return {
        "backbone": backbone,
        "width": width,
        "steps": steps,
        "batch": batch,
        "rounds": rounds,
        "threads": torch.get_num_threads(),
        "stock_slayer_images_per_s": speed["stock_slayer"],
        "images_per_s": speed["ours"],
        "ratio": speed["ours"] / speed["stock_slayer"],
        "ratio_cpu_time": cost["stock_slayer"] / cost["ours"],
        "folded_images_per_s": speed["ours_folded"],
        "folded_ratio": speed["ours_folded"] / speed["stock_slayer"],
        "peers": {
            name: {
                "version": versions[name],
                "images_per_s": speed[name],
                "ratio": speed["ours"] / speed[name],
                "ratio_cpu_time": cost[name] / cost["ours"],
            }
            if name in speed
            else {"version": None, "absent": f"{distribution} is not installed"}
            for name, (distribution, _) in PEERS.items()
            if peers
        },
        "versions": versions,
        "step_s": wall,
        **_compare(ours, levels[:COMPARED]),
    }


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    lines = [
        f"{result['backbone']} of width {result['width']}, {result['steps']} steps, batch "
        f"{result['batch']}, {result['threads']} threads, best of {result['rounds']} rounds",
        f"ours {result['images_per_s']:.1f} images/s, on folded integers "
        f"{result['folded_images_per_s']:.1f}",
        f"stock SLAYER {result['stock_slayer_images_per_s']:.1f} images/s: ratio "
        f"{result['ratio']:.2f} ({result['ratio_cpu_time']:.2f} in processor time)",
    ]
    for name, peer in result["peers"].items():
        if peer["version"] is None:
            lines.append(f"{name}: {peer['absent']}")
        else:
            lines.append(
                f"{name} {peer['version']} {peer['images_per_s']:.1f} images/s: ratio "
                f"{peer['ratio']:.2f} ({peer['ratio_cpu_time']:.2f} in processor time)"
            )
    lines.append(
        f"{result['spike_mismatches']} of {result['positions_compared']} places for a spike differ "
        f"from stock SLAYER, {result['spikes_fired']} fired"
    )
    return "\n".join(lines)
