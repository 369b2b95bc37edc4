"""Trained = lowered = stock SLAYER = reference, for every backbone, with every layer firing."""

import numpy as np
import pytest
import torch

from lava_edge import reference
from splitcore import bounds
from splitcore.errors import GraphError
from splitcore.graph import ConvTranspose, Current, Dense, Graph, Input, Lif, Synapse
from splitcore.spikes import direct_code
from splitcore.splits import BACKBONES
from tests.heads import heads
from training import evaluate, slayer_twin
from training.blocks import NeuronConfig
from training.model import BottleneckConfig, SplitModel


def _settled_model(name: str, split: str, images: np.ndarray, stride: int = 1) -> SplitModel:
    """A narrow model whose batch norm statistics have seen some images, so that it fires."""
    torch.manual_seed(0)
    model = SplitModel(
        BACKBONES[name],
        split=split,
        bottleneck=BottleneckConfig(4, stride),
        width=8,
        input_shape=images.shape[1:],
        input_bits=6,
        classes=10,
        steps=4,
        neuron=NeuronConfig(),
    )
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(torch.from_numpy(evaluate.levels(images, 6)))
    return model.eval()


def _mismatches(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> int:
    assert first.keys() == second.keys()
    return sum(int((first[name] != second[name]).sum()) for name in first)


@pytest.mark.parametrize(
    "name", ["resnet8", "resnet18", "resnet50", "mobilenet_v1", "mobilenet_v2"]
)
def test_lowered_backbone_equals_model_and_stock_slayer(name: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32)).astype(np.uint8)
    split = BACKBONES[name].split_points[-1]
    model = _settled_model(name, split, images)
    graph, tail = model.lower()
    bounds.check(graph, model.steps)
    bounds.check(tail.graph, model.steps)
    frames = direct_code(images, 6, 4)
    trace = reference.run(graph, frames)
    for layer, spikes in trace.spikes.items():
        assert 0 < spikes.mean() < 0.9, f"{layer} is silent or saturated"
    assert _mismatches(trace.spikes, slayer_twin.run(graph, frames)) == 0
    answers = evaluate.answers(model, images)
    assert np.array_equal(answers.code_ntchw, trace.spikes["encoder"])
    cloud = reference.run(tail.graph, answers.code_ntchw).spikes[tail.graph.output_name]
    np.testing.assert_allclose(tail.scores(cloud), answers.scores_nk, atol=1e-5)


def test_decoder_with_stride_restores_every_feature_shape() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 18, 18)).astype(np.uint8)
    for split in BACKBONES["resnet8"].split_points:
        model = _settled_model("resnet8", split, images, stride=2)
        graph, tail = model.lower()
        assert tail.graph.shapes["decoder"] == model.feature_shape
        code = evaluate.answers(model, images).code_ntchw
        assert np.array_equal(
            code, reference.run(graph, direct_code(images, 6, 4)).spikes["encoder"]
        )


def test_random_heads_equal_stock_slayer() -> None:
    for head in heads(200):
        spikes = reference.run(head.graph, head.frames_ntchw).spikes
        assert _mismatches(spikes, slayer_twin.run(head.graph, head.frames_ntchw)) == 0


def test_random_heads_with_synaptic_filters_equal_stock_slayer() -> None:
    for head in heads(40, first_seed=10_000, filters=True):
        spikes = reference.run(head.graph, head.frames_ntchw).spikes
        assert _mismatches(spikes, slayer_twin.run(head.graph, head.frames_ntchw)) == 0


DELAYED = Dense(np.full((2, 4), 2), np.ones((2, 4), int))
PADDED = ConvTranspose(np.full((1, 2, 2, 2), 2), stride=(2, 2), output_padding=(1, 1))


@pytest.mark.parametrize(
    ("synapse", "message"), [(DELAYED, "have no delay each"), (PADDED, "has no output padding")]
)
def test_slayer_twin_of_what_slayer_lacks_is_refused_by_layer_in_one_line(
    synapse: Synapse, message: str
) -> None:
    graph = Graph(
        Input((1, 2, 2)), (Lif("a", (Current("input", synapse),), np.zeros(2, int), 9, 0),)
    )
    with pytest.raises(GraphError, match=rf"^layer a: SLAYER's .* {message}[^\n]*; [^\n]*$"):
        slayer_twin.build(graph)


@pytest.mark.deep
def test_two_thousand_random_heads_equal_stock_slayer() -> None:
    for head in heads(2000, first_seed=100_000):
        spikes = reference.run(head.graph, head.frames_ntchw).spikes
        assert _mismatches(spikes, slayer_twin.run(head.graph, head.frames_ntchw)) == 0
