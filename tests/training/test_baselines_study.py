"""Baseline networks: same geometry as the spiking ones, trained and measured on digits."""

import copy
from dataclasses import replace

import pytest
import torch

from measure.dense import dense_layers
from splitcore.errors import ConfigError
from splitcore.splits import BACKBONES, backbone_named
from tests.training.small_digits import small_digits
from training import backbones, config
from training.baselines.ann import ann_blocks
from training.baselines.bottlenetpp import BottleNetPlusPlus
from training.baselines.edge_cost import edge_layers, raw_bits
from training.baselines.evaluate import evaluate
from training.baselines.fit import fit
from training.baselines.int8_edge import quantised_edge
from training.baselines.one_bit import OneBit
from training.baselines.rival import Rival
from training.baselines.split_ann import SplitAnn, without_codec
from training.baselines.stored import Stored
from training.baselines.study import study
from training.blocks import NeuronConfig
from training.losses import divergence
from training.model import SplitModel


def _net(codec=None, cut: int = 2) -> SplitAnn:
    torch.manual_seed(0)
    blocks = ann_blocks(backbone_named("resnet8"), width=8, input_shape=(1, 8, 8))
    return SplitAnn(blocks, cut, codec, 32, 10)


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_ann_has_the_convs_of_the_spiking_backbone(name: str) -> None:
    shape = (3, 32, 32)
    blocks = ann_blocks(BACKBONES[name], width=4, input_shape=shape)
    spiking = backbones.build(
        BACKBONES[name],
        width=4,
        input_shape=shape,
        input_bits=6,
        neurons=backbones.neurons(BACKBONES[name], NeuronConfig()),
    )
    kernels = [p.shape for block in blocks for p in block.parameters() if p.ndim == 4]
    want = [p.shape[:4] for p in spiking.parameters() if p.ndim == 5]
    assert kernels == want
    features = torch.nn.Sequential(*blocks).eval()(torch.rand(1, *shape))
    assert features.shape[1] == backbones.scaled(
        BACKBONES[name].blocks[-1].channels, BACKBONES[name], 4
    )


@pytest.mark.parametrize("name", sorted(BACKBONES))
def test_edge_layers_of_an_ann_are_those_of_the_spiking_networks_dense_twin(name: str) -> None:
    shape, split = (3, 16, 16), BACKBONES[name].split_points[2]
    spiking = SplitModel(
        BACKBONES[name],
        split=split,
        bottleneck=None,
        width=4,
        input_shape=shape,
        input_bits=6,
        classes=10,
        steps=2,
        neuron=NeuronConfig(),
    )
    blocks = ann_blocks(BACKBONES[name], width=4, input_shape=shape)
    features = torch.nn.Sequential(*blocks[:3]).eval()(torch.rand(1, *shape)).shape[1]
    codec = BottleNetPlusPlus(features, 2)
    found = edge_layers(SplitAnn(blocks, 3, codec, 8, 10), shape)
    twin = dense_layers(spiking.lower()[0])
    assert [replace(layer, name="") for layer in found[:-1]] == [
        replace(layer, name="") for layer in twin
    ]


def test_edge_layers_and_raw_bits_are_counted_by_hand() -> None:
    # resnet8, width 8, 8×8 images. A 3×3 kernel meets (8 + 7 + 7)² = 484 places of an 8×8 map.
    net = _net(BottleNetPlusPlus(8, 2))
    stem, first, second, encoder = edge_layers(net, (1, 8, 8))
    assert (stem.macs, stem.weights, stem.inputs) == (484 * 8, 9 * 8, 64)
    assert (first.macs, first.weights, first.inputs) == (484 * 64, 9 * 64, 512)
    # the shortcut: 512 connections of one weight from 512 more inputs
    assert (second.macs, second.weights, second.inputs) == (484 * 64 + 512, 9 * 64 + 1, 1024)
    assert (encoder.macs, encoder.weights, encoder.outputs) == (484 * 16, 9 * 16, 128)
    assert (stem.biases, encoder.biases) == (8, 2)
    # inputs + outputs + places of the kernels
    assert encoder.addresses == 512 + 128 + 2 * 9
    assert raw_bits(net, (1, 8, 8)) == 128 * 8
    assert raw_bits(_net(OneBit(8, 2, stride=2)), (1, 8, 8)) == 2 * 4 * 4


def test_edge_layers_without_a_cut_are_the_whole_network() -> None:
    net = _net()
    layers = edge_layers(net, (1, 8, 8))
    assert sum(layer.name.startswith("edge.") for layer in layers) == 3
    assert sum(layer.name.startswith("cloud.") for layer in layers) == 4
    assert (layers[-1].name, layers[-1].macs, layers[-1].biases) == ("readout", 320, 10)
    assert raw_bits(net, (1, 8, 8)) == 8


@pytest.mark.parametrize("codec", [None, BottleNetPlusPlus(8, 2)])
def test_counting_an_edge_changes_nothing_in_it(codec: BottleNetPlusPlus | None) -> None:
    net = _net(codec).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    edge_layers(net, (1, 8, 8))
    raw_bits(net, (1, 8, 8))
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_everything_on_the_edge_sends_one_byte_with_the_class() -> None:
    net = _net().eval()
    answers = net.answer(torch.rand(5, 1, 8, 8))
    labels = answers.scores_nk.argmax(1).tolist()
    assert [int.from_bytes(payload, "big") for payload in answers.payloads] == labels
    assert {len(payload) for payload in answers.payloads} == {1}


@pytest.mark.parametrize(("views", "until"), [(0, None), (2, "stem")])
def test_study_measures_every_baseline_on_real_bytes(views: int, until: str | None) -> None:
    base = config.load(config.shipped("digits"))
    recipe = base.recipe.model_copy(
        update={
            "epochs": 4,
            "folded_epochs": 1,
            "frozen_edge_views": views,
            "frozen_until": until,
        }
    )
    model = base.model.model_copy(update={"width": 8})
    settings = base.model_copy(update={"recipe": recipe, "model": model})
    data = small_digits(512)
    ann = without_codec(
        backbone_named(model.backbone), width=8, image_shape=(1, 8, 8), classes=len(data.classes)
    )
    fit(ann, data.train, recipe)
    result = study(settings, data, ann, qualities=(5, 95))
    rows = {row["name"]: row for row in result["rows"]}
    assert list(rows) == [
        "all on the edge (ANN)",
        "all in the cloud (JPEG 5)",
        "all in the cloud (JPEG 95)",
        "BottleNet",
        "BottleNet++",
        "BottleNet++, int8 edge",
        "1-bit CNN",
    ]
    test = {name: row["test"] for name, row in rows.items()}
    assert test["all on the edge (ANN)"]["accuracy"] > 0.8
    assert test["1-bit CNN"]["accuracy"] > 0.5
    assert test["all on the edge (ANN)"]["payload_bits_mean"] == 8
    low, high = test["all in the cloud (JPEG 5)"], test["all in the cloud (JPEG 95)"]
    assert 0 < low["payload_bits_mean"] < high["payload_bits_mean"]
    layers = {name: row["edge_layers"] for name, row in rows.items()}
    assert layers["all in the cloud (JPEG 95)"] == []
    assert rows["all in the cloud (JPEG 95)"]["raw_bits"] == 8 * 64
    assert layers["BottleNet++, int8 edge"] == layers["BottleNet++"] != []
    for figures in test.values():
        assert figures["samples"] == 64
        assert figures["accuracy_low"] <= figures["accuracy"] <= figures["accuracy_high"]
    assert rows["BottleNet"]["header_bits_not_charged"] > 1000
    alone = study(settings, data, ann, only=(Rival.ONE_BIT,))["rows"]
    assert alone == [rows["1-bit CNN"]]


def test_fit_learns_from_the_teacher_as_much_as_the_recipe_says() -> None:
    data = small_digits(512)
    torch.manual_seed(1)
    teacher = _net(None)
    agreed = []
    for share in (0.0, 1.0):
        net = _net(OneBit(8, 8))
        taught = config.Distillation(weight=share, temperature=1.0)
        recipe = config.Recipe(epochs=4, batch_size=64, distillation=taught)
        fit(net, data.train, recipe, teacher=teacher)
        images = torch.from_numpy(data.test.images).float() / 255
        with torch.no_grad():
            ours, theirs = net.eval()(images), teacher(images)
        agreed.append(float(divergence(ours, theirs, 1.0)))
    assert agreed[1] < 0.2 * agreed[0]


def test_fit_of_a_codec_alone_leaves_the_backbone_as_it_was() -> None:
    net = _net(BottleNetPlusPlus(8, 2))
    before = [parameter.clone() for parameter in net.edge.parameters()]
    codec_before = [parameter.clone() for parameter in net.codec.parameters()]
    recipe = config.load(config.shipped("digits")).recipe.model_copy(update={"epochs": 1})
    losses = fit(net, small_digits(512).train, recipe, frozen=(net.edge, net.cloud, net.readout))
    assert len(losses) == 1
    for old, new in zip(before, net.edge.parameters(), strict=True):
        assert torch.equal(old, new)
    assert not all(
        torch.equal(old, new) for old, new in zip(codec_before, net.codec.parameters(), strict=True)
    )


def test_fit_on_stored_features_learns_as_on_the_images_behind_a_frozen_edge() -> None:
    data, codec = small_digits(512), OneBit(8, 8)
    recipe = config.Recipe(epochs=2, frozen_edge_views=1, batch_size=64)
    losses = []
    for stored in (False, True):
        model = _net(None).cut_at(2, copy.deepcopy(codec))
        kept = Stored(model.edge, data.train, 10, recipe, torch.device("cpu")) if stored else None
        losses.append(fit(model, data.train, recipe, frozen=(model.edge,), stored=kept))
    assert losses[0][-1] < losses[0][0]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # half precision between the two


def test_fit_with_one_seed_gives_the_same_weights() -> None:
    recipe = config.load(config.shipped("digits")).recipe.model_copy(update={"epochs": 1})
    nets = []
    for _ in range(2):
        torch.manual_seed(1)
        nets.append(_net(BottleNetPlusPlus(8, 2)))
        fit(nets[-1], small_digits(512).train, recipe)
    for one, other in zip(nets[0].parameters(), nets[1].parameters(), strict=True):
        assert torch.equal(one, other)


def test_int8_edge_computes_in_bytes_and_stays_near_the_float_one() -> None:
    data = small_digits(512)
    recipe = config.load(config.shipped("digits")).recipe.model_copy(update={"epochs": 3})
    net = _net(BottleNetPlusPlus(8, 2))
    fit(net, data.train, recipe)
    calibration = torch.from_numpy(data.train.images[:128]).float() / 255
    small = quantised_edge(net, calibration)
    places = {type(module).__module__ for module in small.edge.modules()}
    assert any("quantized" in place for place in places)
    assert not any(isinstance(module, torch.nn.Conv2d) for module in small.edge.modules())
    both = [evaluate(model, data.test).accuracy for model in (net, small)]
    assert abs(both[0] - both[1]) < 0.1


def test_int8_edge_without_a_codec_is_refused() -> None:
    with pytest.raises(ConfigError, match="int8"):
        quantised_edge(_net(), torch.rand(2, 1, 8, 8))
