"""Verify on bundles of every backbone at an early, a middle and the last split point.

Weights are random, batch norm statistics are those of real scans (scikit-learn's digits at 32×32),
so that every layer fires. Narrow nets run Lava's own conv routine, full width ones the exact BLAS
one.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lava_edge.export import export_bundle
from pipeline import verify
from splitcore.bundle import FileRecord, Manifest, Probe
from splitcore.splits import BACKBONES
from training import evaluate
from training.blocks import NeuronConfig
from training.data import sources
from training.model import BottleneckConfig, SplitModel

NAMES = ("resnet18", "resnet34", "resnet50", "mobilenet_v1", "mobilenet_v2")
SAMPLES, STEPS = 8, 4


def _images() -> np.ndarray:
    scans = sources.load("digits").test.images[:SAMPLES, 0]
    large = [np.asarray(Image.fromarray(scan).resize((32, 32))) for scan in scans]
    return np.repeat(np.stack(large)[:, None], 3, axis=1)


def _bundle(name: str, split: str, width: int, out: Path) -> Path:
    torch.manual_seed(0)
    images = _images()
    model = SplitModel(
        BACKBONES[name],
        split=split,
        bottleneck=BottleneckConfig(4),
        width=width,
        input_shape=(3, 32, 32),
        input_bits=6,
        classes=10,
        steps=STEPS,
        neuron=NeuronConfig(),
    )
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model.encode(torch.from_numpy(evaluate.levels(images, 6)))
    graph, tail = model.lower()
    answers = evaluate.answers(model, images)
    labels = np.zeros(SAMPLES, dtype=np.int64)

    def describe(files: dict[str, FileRecord]) -> Manifest:
        return Manifest(
            name=f"{name}-{split}",
            backbone=name,
            split=split,
            steps=STEPS,
            input_shape=(3, 32, 32),
            input_bits=6,
            feature_shape=model.feature_shape,
            code_shape=graph.output_shape,
            code_rates=tuple(answers.code_ntchw.mean((0, 1, 3, 4), dtype=np.float64).tolist()),
            classes=tuple("0123456789"),
            data="digits at 32×32",
            accuracy=0.0,
            test_samples=SAMPLES,
            training={},
            files=files,
        )

    probe = Probe(evaluate.levels(images, 6), answers.code_ntchw, answers.scores_nk, labels)
    export_bundle(out, graph=graph, tail=tail, probe=probe, describe=describe)
    return out


def _assert_exact(bundle: Path, routine: str) -> None:
    result = verify.run(bundle, conv=routine)
    assert result["samples"] == SAMPLES
    assert result["stock_conv_routine"] == routine
    assert result["silent_layers"] == []
    assert result["mismatched_spikes"] == 0
    assert result["prediction_mismatches"] == 0
    assert set(result["mismatched_states_by_engine"].values()) == {0}
    assert result["probe"]["mismatched_spikes"] == 0


def _splits(name: str) -> tuple[str, str, str]:
    points = BACKBONES[name].split_points
    return points[0], points[len(points) // 2], points[-1]


@pytest.mark.timeout(1200)
@pytest.mark.deep
@pytest.mark.parametrize("position", ["early", "middle", "last"])
@pytest.mark.parametrize("name", NAMES)
def test_verify_narrow_backbone_with_lavas_own_conv_finds_nothing(
    name: str, position: str, tmp_path: Path
) -> None:
    split = _splits(name)[("early", "middle", "last").index(position)]
    _assert_exact(_bundle(name, split, 4, tmp_path / "bundle"), "lava")


@pytest.mark.timeout(3000)
@pytest.mark.deep
@pytest.mark.parametrize("position", ["early", "middle", "last"])
@pytest.mark.parametrize("name", NAMES)
def test_verify_backbone_at_full_width_with_blas_conv_finds_nothing(
    name: str, position: str, tmp_path: Path
) -> None:
    split = _splits(name)[("early", "middle", "last").index(position)]
    width = BACKBONES[name].stem_width
    _assert_exact(_bundle(name, split, width, tmp_path / "bundle"), "blas")
