"""Random edge networks whose every layer really fires: none silent, none saturated.

Weights, topology and decays are drawn; each layer's threshold is then set on the very frames of the
test so that its firing rate falls between the bounds below. What cannot be brought there is not a
case.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lava_edge import reference
from splitcore.errors import GraphError
from splitcore.graph import (
    THRESHOLD_MAX,
    Conv,
    Current,
    Dense,
    Graph,
    Identity,
    Input,
    Lif,
    Shape,
    Synapse,
)

LEAST_RATE, MOST_RATE = 0.02, 0.7
WANTED_RATE = 0.2


@dataclass(frozen=True, eq=False)
class Head:
    """A graph and frames (N, T, C, H, W) under which all of it fires."""

    graph: Graph
    frames_ntchw: np.ndarray


def _even(rng: np.random.Generator, shape: tuple[int, ...], largest: int) -> np.ndarray:
    return 2 * rng.integers(-largest // 2, largest // 2 + 1, shape)


def _conv(rng: np.random.Generator, source: Shape, largest: int) -> Conv | None:
    channels = source[0]
    kernel = [int(rng.choice([1, 3, 5])), int(rng.choice([1, 3, 5]))]
    groups = int(rng.choice([g for g in (1, 2, channels) if channels % g == 0]))
    out = groups * int(rng.integers(1, 4)) if groups < channels else channels
    conv = Conv(
        _even(rng, (out, channels // groups, *kernel), largest),
        stride=(int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        padding=(
            int(rng.integers(0, kernel[0] // 2 + 2)),
            int(rng.integers(0, kernel[1] // 2 + 2)),
        ),
        dilation=(int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        groups=groups,
    )
    try:
        height, width = conv.output_shape(source)[1:]
    except GraphError:
        return None
    return conv if height * width <= 144 else None


def _shortcut(
    rng: np.random.Generator, source: Shape, target: Shape, largest: int
) -> Synapse | None:
    """A synapse that leads from source to exactly the target's shape, if there is a simple one."""
    if source == target and rng.random() < 0.6:
        return Identity(int(2 * rng.integers(1, largest // 2 + 1)))
    for stride in (1, 2, 3, 4):
        conv = Conv(_even(rng, (target[0], source[0], 1, 1), largest), stride=(stride, stride))
        if conv.output_shape(source) == target:
            return conv
    return None


def _calibrated(layer: Lif, drive: np.ndarray) -> Lif | None:
    """The layer with a threshold under which it fires at about the wanted rate, or None."""
    low, high = 1, THRESHOLD_MAX

    def at(threshold: int) -> tuple[Lif, float]:
        candidate = Lif(
            layer.name,
            layer.currents,
            layer.bias,
            threshold,
            layer.voltage_decay,
            layer.current_decay,
        )
        return candidate, float(reference.lif(candidate, drive)[0].mean())

    while low < high:
        middle = (low + high) // 2
        if at(middle)[1] > WANTED_RATE:
            low = middle + 1
        else:
            high = middle
    candidate, rate = at(low)
    return candidate if LEAST_RATE <= rate <= MOST_RATE else None


def random_head(
    seed: int,
    *,
    depth: int | None = None,
    samples: int = 2,
    filters: bool = False,
    residual: bool = True,
    dense: bool = True,
) -> Head | None:
    """A head drawn by this seed, or None where a layer would not fire as it should.

    filters: also draw synaptic filters (current decay below 4096).
    """
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(2, 7))
    bits = int(rng.choice([0, 4, 6]))
    source = Input(
        (int(rng.integers(1, 4)), int(rng.integers(6, 11)), int(rng.integers(6, 11))), bits
    )
    size = (samples, steps, *source.shape)
    frames = rng.integers(0, source.max_value + 1, size).astype(np.uint8)
    if not bits:
        frames &= (rng.random(size) < 0.6).astype(np.uint8)
    shapes: dict[str, Shape] = {source.name: source.shape}
    spikes: dict[str, np.ndarray] = {source.name: frames}
    layers: list[Lif] = []
    depth = depth or int(rng.integers(1, 7))
    for index in range(depth):
        name = f"layer{index}"
        previous = layers[-1].name if layers else source.name
        largest = 40 if previous == source.name and bits else 254
        last = index == depth - 1
        synapse: Synapse | None
        if dense and last and rng.random() < 0.3:
            inputs = int(np.prod(shapes[previous]))
            synapse = Dense(_even(rng, (int(rng.integers(2, 9)), inputs), largest))
        else:
            synapse = next(
                (c for _ in range(20) if (c := _conv(rng, shapes[previous], largest))), None
            )
        if synapse is None:
            return None
        shape = synapse.output_shape(shapes[previous])
        currents = [Current(previous, synapse)]
        if residual:
            for other in list(shapes)[:-1]:
                limit = 40 if other == source.name and bits else 254
                joined = _shortcut(rng, shapes[other], shape, limit)
                if joined is not None and rng.random() < 0.4:
                    currents.append(Current(other, joined))
        bias = rng.integers(-60, 61, shape[0]) if rng.random() < 0.6 else np.zeros(shape[0], int)
        filter_decay = int(rng.choice([1024, 2048, 4096])) if filters else 4096
        draft = Lif(
            name,
            tuple(currents),
            bias,
            1,
            int(rng.choice([0, 128, 1024, 1500, 4096])),
            filter_decay,
        )
        drive = sum(
            reference.synaptic_sum(
                c.synapse,
                spikes[c.source],
                shapes[c.source],
                source.max_value if c.source == source.name else 1,
            )
            for c in currents
        )
        layer = _calibrated(draft, np.asarray(drive))
        if layer is None:
            return None
        layers.append(layer)
        shapes[name] = shape
        spikes[name] = reference.lif(layer, np.asarray(drive))[0]
    return Head(Graph(source, tuple(layers)), frames)


def heads(count: int, first_seed: int = 0, **options: object) -> list[Head]:
    """The first `count` heads from this seed on whose every layer fires."""
    found: list[Head] = []
    seed = first_seed
    while len(found) < count:
        head = random_head(seed, **options)  # type: ignore[arg-type]
        seed += 1
        if head is not None:
            found.append(head)
    return found
