"""A small bundle with random integers, for everything between two sockets."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from lava_edge import reference
from splitcore import tail as tails
from splitcore.bundle import Bundle, FileRecord, Manifest, Probe, write_bundle
from splitcore.graph import Conv, ConvTranspose, Current, Dense, Graph, Identity, Input, Lif
from splitcore.tail import Tail

CODE_SHAPE = (3, 4, 4)
STEPS = 4
CLASSES = 5


def even(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random even weights of 8 bits."""
    return (rng.integers(-60, 80, shape) * 2).astype(np.int32)


def centred(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random even weights that cancel out, for layers with many inputs."""
    return (rng.integers(-15, 16, shape) * 2).astype(np.int32)


def lif(rng: np.random.Generator, name: str, channels: int, *currents: Current) -> Lif:
    """A layer with random bias and decays that are no powers of two."""
    return Lif(
        name,
        currents,
        bias=rng.integers(-20, 60, channels).astype(np.int32),
        threshold=int(rng.integers(80, 200)),
        voltage_decay=int(rng.integers(300, 2000)),
    )


def random_tail(seed: int = 0) -> Tail:
    """A tail with each kind of synapse: upsampling decoder, residual block, dense end."""
    rng = np.random.default_rng(seed)
    layers = (
        lif(
            rng,
            "decoder",
            6,
            Current("code", ConvTranspose(even(rng, 3, 6, 2, 2), stride=(2, 2))),
        ),
        lif(rng, "a", 6, Current("decoder", Conv(even(rng, 6, 6, 3, 3) // 4 * 2, padding=(1, 1)))),
        lif(
            rng,
            "b",
            6,
            Current("a", Conv(even(rng, 6, 3, 3, 3) // 4 * 2, padding=(1, 1), groups=2)),
            Current("decoder", Identity(64)),
        ),
        lif(rng, "c", 7, Current("b", Dense(centred(rng, 7, 6 * 8 * 8)))),
    )
    graph = Graph(Input(CODE_SHAPE, name="code"), layers)
    weight = rng.normal(size=(CLASSES, 7)).astype(np.float32)
    return Tail(graph, weight, rng.normal(size=CLASSES).astype(np.float32))


def random_code(count: int, seed: int = 1, rate: float = 0.3) -> np.ndarray:
    """Code spikes (N, T, C, H, W)."""
    rng = np.random.default_rng(seed)
    return (rng.random((count, STEPS, *CODE_SHAPE)) < rate).astype(np.uint8)


def expected_scores(tail: Tail, code_ntchw: np.ndarray) -> np.ndarray:
    """What the numpy reference makes of the code."""
    return tail.scores(reference.run(tail.graph, code_ntchw).spikes[tail.graph.output_name])


def make_bundle(out: Path, seed: int = 0, name: str = "tiny") -> Bundle:
    """Write a whole bundle whose edge half is a placeholder."""
    tail = random_tail(seed)
    code = random_code(8)
    scores = expected_scores(tail, code)

    def describe(files: dict[str, FileRecord]) -> Manifest:
        return Manifest(
            name=name,
            backbone="none",
            split="none",
            steps=STEPS,
            input_shape=(1, 8, 8),
            input_bits=6,
            feature_shape=(6, 8, 8),
            code_shape=CODE_SHAPE,
            code_rates=(0.3,) * CODE_SHAPE[0],
            classes=tuple(str(k) for k in range(CLASSES)),
            data="random",
            accuracy=0.5,
            test_samples=8,
            training={},
            files=files,
        )

    probe = Probe(np.zeros((8, 1, 8, 8), np.uint8), code, scores, scores.argmax(axis=1))

    def no_edge(path: Path) -> None:
        path.write_bytes(b"no edge here")

    return write_bundle(
        out,
        describe,
        no_edge,
        lambda path: tails.save(tail, path),
        probe,
    )
