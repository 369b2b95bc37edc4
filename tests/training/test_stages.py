"""Training in stages: begun with another run, one step first, codec alone, by a teacher."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from splitcore.errors import ConfigError
from splitcore.graph import Conv, ConvTranspose, Identity, Lif
from splitcore.splits import backbone_named
from training import checkpoint, config, evaluate, loop, start
from training.baselines import ann_loop
from training.baselines.split_ann import SplitAnn, without_codec
from training.blocks import NormedConv
from training.config import Recipe
from training.data.dataset import Dataset
from training.losses import divergence
from training.model import SplitModel
from training.optimise import optimiser_of
from training.unfold import begin_with_integers, require_shape


def _config(name: str = "tiny", **changed: object) -> config.Config:
    raw: dict[str, object] = {
        "name": name,
        "model": {"backbone": "resnet8", "width": 8, "steps": 3},
        "bottleneck": {"split": "stage2.block1", "channels": 2},
        "recipe": {"epochs": 2, "folded_epochs": 1, "batch_size": 32},
    }
    return config.parse({**raw, **changed}, "test")


@pytest.fixture(scope="module")
def ann(data: Dataset, tmp_path_factory: pytest.TempPathFactory) -> SplitAnn:
    settings = _config(
        "ann",
        model={"backbone": "resnet8", "width": 8, "neuron": "relu"},
        bottleneck=None,
        recipe={"epochs": 6, "batch_size": 32, "optimiser": "muon", "learning_rate": 0.02},
    )
    out = tmp_path_factory.mktemp("ann")
    ann_loop.fit_ann(settings, data, out)
    found = checkpoint.load(out)
    assert found.epoch == 6
    assert found.history[-1]["validation_accuracy"] > 0.8
    with pytest.raises(ConfigError, match="an ANN"):
        found.model()
    network = found.network()
    assert isinstance(network, SplitAnn)
    return network


def _state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_an_ann_resumed_ends_where_it_would_have(data: Dataset, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = _config(
        model={"backbone": "resnet8", "width": 8, "neuron": "relu"},
        bottleneck=None,
        recipe={"epochs": 3, "batch_size": 32, "optimiser": "muon", "learning_rate": 0.02},
    )
    ann_loop.fit_ann(settings, data, tmp_path / "whole")
    real = checkpoint.save

    def save_then_die(path: Path, **state: object) -> None:
        real(path, **state)  # type: ignore[arg-type]
        if state["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", save_then_die)
        with pytest.raises(KeyboardInterrupt):
            ann_loop.fit_ann(settings, data, tmp_path / "cut")
    ann_loop.fit_ann(settings, data, tmp_path / "cut", resume=True)
    torch.set_num_threads(threads)
    one, two = (checkpoint.load(tmp_path / name).network() for name in ("whole", "cut"))
    assert _same(_state(one), _state(two))


def test_begin_with_an_ann_takes_its_kernels_and_fires(ann: SplitAnn, data: Dataset) -> None:
    model = _config().build(data.image_shape, 10)
    start.begin(model, ann, "ann")
    kernels = [p.flatten() for p in ann.parameters() if p.ndim == 4]
    blocks = [*model.edge.parameters(), *model.cloud.parameters()]
    ours = [p.flatten() for p in blocks if p.ndim == 5]
    assert all(torch.equal(one, other) for one, other in zip(kernels, ours, strict=True))
    model.train()
    model(torch.from_numpy(data.train.images[:64] >> 2))
    for layer in model.spiking_layers():
        assert layer.rate is not None
        if layer not in (model.encoder, model.decoder):
            assert 0.02 < float(layer.rate) < 0.9


def test_begin_with_a_spiking_run_takes_its_blocks_wherever_it_is_cut(data: Dataset) -> None:
    parent = _config(bottleneck=None).build(data.image_shape, 10)
    child = _config().build(data.image_shape, 10)
    start.begin(child, parent, "parent")
    theirs = _state(torch.nn.ModuleDict({**parent.edge, **parent.cloud}))
    assert _same(theirs, _state(torch.nn.ModuleDict({**child.edge, **child.cloud})))
    again = _config().build(data.image_shape, 10)
    start.begin(again, child, "child")
    assert child.encoder is not None
    assert again.encoder is not None
    assert _same(_state(child.encoder), _state(again.encoder))


def test_neurons_decay_as_the_config_says_whatever_the_run_began_with(data: Dataset) -> None:
    parent = _config(bottleneck=None).build(data.image_shape, 10)
    fast = {"backbone": "resnet8", "width": 8, "steps": 3, "voltage_decay": 0.75}
    child = _config(model=fast).build(data.image_shape, 10)
    start.begin(child, parent, "parent")
    assert {layer.voltage_decay for layer in parent.spiking_layers()} == {1024}
    assert {layer.voltage_decay for layer in child.spiking_layers()} == {3072}
    blocks = _state(torch.nn.ModuleDict({**parent.edge, **parent.cloud}))
    ours = _state(torch.nn.ModuleDict({**child.edge, **child.cloud}))
    assert {name for name in blocks if not torch.equal(blocks[name], ours[name])} == {
        name for name in blocks if name.endswith("neuron.voltage_decay")
    }


def test_begin_with_another_shape_names_the_run(data: Dataset) -> None:
    wide = without_codec(backbone_named("resnet8"), width=16, image_shape=(1, 8, 8), classes=10)
    with pytest.raises(ConfigError, match="start: wide is not of this model's shape"):
        start.begin(_config().build(data.image_shape, 10), wide, "wide")


@pytest.mark.parametrize("until", [None, "stem"])
def test_frozen_blocks_stay_and_everything_else_learns(
    ann: SplitAnn, data: Dataset, tmp_path: Path, until: str | None
) -> None:
    settings = _config(
        start="parent",
        teacher="ann",
        recipe={
            "epochs": 3,
            "folded_epochs": 1,
            "codec_epochs": 1,
            "frozen_edge_views": 2,
            "frozen_until": until,
            "batch_size": 32,
            "augment": {"padding": 1},
        },
    )
    states: list[dict[str, dict[str, torch.Tensor]]] = []
    real = checkpoint.save

    def note(path: Path, *, model: SplitModel, **state: object) -> None:
        parts = ("edge", "cloud", "encoder", "decoder", "readout")
        states.append({part: _state(getattr(model, part)) for part in parts})
        real(path, model=model, **state)  # type: ignore[arg-type]

    parent = _config(bottleneck=None).build(data.image_shape, 10)
    start.begin(parent, ann, "ann")
    before = _config().build(data.image_shape, 10)
    start.begin(before, parent, "parent")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "save", note)
        trained = loop.fit(
            settings,
            data,
            tmp_path,
            begin=lambda model: start.begin(model, parent, "parent"),
            teachers=[ann],
        )
    again = evaluate.answers(trained.model, data.validation.images)  # the stored ones are the same
    assert trained.history[-1]["code_rate"] == pytest.approx(again.code_ntchw.mean())
    assert trained.validation_accuracy == evaluate.accuracy(
        again.labels_n, data.validation.labels_n
    )
    first, _, last = states
    kept = tuple(list(before.edge)[: settings.frozen_blocks])
    assert len(kept) == (1 if until else len(before.edge))
    for name, value in _state(before.edge).items():
        assert torch.equal(value, first["edge"][name])
        if name.startswith(kept):
            assert torch.equal(value, last["edge"][name])
    assert _same(first["edge"], last["edge"]) == (until is None)
    assert _same(_state(before.cloud), first["cloud"])
    for part in ("cloud", "encoder", "decoder", "readout"):
        assert not _same(first[part], last[part])


def test_one_step_epochs_run_one_step_and_the_rest_all(data: Dataset, tmp_path: Path) -> None:
    seen: list[int] = []
    real = SplitModel.set_steps

    def note(self: SplitModel, steps: int) -> None:
        seen.append(steps)
        real(self, steps)

    settings = _config(
        bottleneck=None, recipe={"epochs": 3, "one_step_epochs": 2, "batch_size": 32}
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SplitModel, "set_steps", note)
        trained = loop.fit(settings, data, tmp_path)
    assert seen == [3, 1, 1, 3]
    assert trained.model.steps == 3
    assert checkpoint.load(tmp_path).model().code_shape == trained.model.feature_shape


@pytest.mark.parametrize("neuron", ["lif", "relu"])
def test_crop_epochs_train_on_smaller_images(
    data: Dataset, tmp_path: Path, neuron: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides: list[int] = []
    kind, name = (SplitModel, "features") if neuron == "lif" else (SplitAnn, "forward")
    real = getattr(kind, name)

    def noted(
        self: torch.nn.Module, images: torch.Tensor, *more: object, **named: object
    ) -> object:
        sides.append(images.shape[-1])
        return real(self, images, *more, **named)

    monkeypatch.setattr(kind, name, noted)
    settings = _config(
        model={"backbone": "resnet8", "width": 8, "neuron": neuron},
        bottleneck=None,
        recipe={"epochs": 2, "crop_epochs": 1, "batch_size": 128, "augment": {"crop": 6}},
    )
    (loop.fit if neuron == "lif" else ann_loop.fit_ann)(settings, data, tmp_path)
    assert {6, 8} == set(sides)
    assert sides.index(8) >= len(data.train) // 128


def test_ann_that_diverges_is_refused_with_a_remedy(data: Dataset, tmp_path: Path) -> None:
    settings = _config(
        model={"backbone": "resnet8", "width": 8, "neuron": "relu"},
        bottleneck=None,
        recipe={"epochs": 2, "batch_size": 32, "learning_rate": 10, "weight_decay": 1000},
    )
    with pytest.raises(ConfigError, match="lower learning_rate"):
        ann_loop.fit_ann(settings, data, tmp_path)
    assert not (tmp_path / checkpoint.FILE).exists()


@pytest.mark.parametrize("how", ["mixup", "cutmix"])
@pytest.mark.parametrize("neuron", ["lif", "relu"])
def test_mixed_images_are_learned_from(
    data: Dataset, tmp_path: Path, neuron: str, how: str
) -> None:
    settings = _config(
        model={"backbone": "resnet8", "width": 8, "neuron": neuron},
        bottleneck=None,
        recipe={"epochs": 9, "batch_size": 32, "step_loss": 0.5 if neuron == "lif" else 0.0}
        | {"augment": {how: 0.5}, "optimiser": "muon", "learning_rate": 0.02},
    )
    (loop.fit if neuron == "lif" else ann_loop.fit_ann)(settings, data, tmp_path)
    history = checkpoint.load(tmp_path).history
    assert history[-1]["validation_accuracy"] > 0.5
    assert history[-1]["total"] > 0.5  # two labels an image leave no loss of nothing


@pytest.mark.parametrize("neuron", ["lif", "relu"])
def test_crop_beyond_the_images_is_refused_before_anything_is_written(
    data: Dataset, tmp_path: Path, neuron: str
) -> None:
    model = {"backbone": "resnet8", "width": 8, "neuron": neuron}
    settings = _config(
        model=model,
        bottleneck=None,
        recipe={"epochs": 2, "crop_epochs": 1, "augment": {"crop": 9}},
    )
    with pytest.raises(ConfigError, match=r"recipe.augment.crop: 9 pixels of images \(8, 8\)"):
        (loop.fit if neuron == "lif" else ann_loop.fit_ann)(settings, data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_divergence_is_zero_for_the_same_answer_and_by_hand_for_another() -> None:
    ours, theirs = torch.tensor([[0.0, 0.0]]), torch.tensor([[2.0 * np.log(3.0), 0.0]])
    assert float(divergence(theirs, theirs, 2.0)) == pytest.approx(0, abs=1e-6)
    # softened by 2: (¾, ¼) against (½, ½); Σ p ln(p / q) = ¾ ln 1.5 + ¼ ln 0.5, times 2²
    by_hand = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5))
    assert float(divergence(ours, theirs, 2.0)) == pytest.approx(by_hand, rel=1e-6)


def test_muon_makes_the_step_of_a_kernel_orthogonal() -> None:
    torch.manual_seed(0)
    kernel = torch.nn.Parameter(torch.zeros(8, 4, 3, 3, 1))
    depthwise = torch.nn.Parameter(torch.zeros(8, 1, 3, 3, 1))
    bias = torch.nn.Parameter(torch.zeros(8))
    recipe = Recipe(epochs=1, optimiser="muon", learning_rate=0.5, adamw_rate=0.01)
    optimiser = optimiser_of([kernel, depthwise, bias], recipe)
    for parameter in (kernel, depthwise, bias):
        parameter.grad = torch.randn_like(parameter)
    optimiser.step()
    strengths = torch.linalg.svdvals(kernel.detach().flatten(1)) / 0.5
    assert 0.5 < float(strengths.min()) <= float(strengths.max()) < 1.5
    for parameter in (depthwise, bias):  # AdamW's first step has one size everywhere
        assert torch.allclose(parameter.detach().abs(), torch.full_like(parameter, 0.01), rtol=1e-3)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model": {"backbone": "resnet8", "width": 8, "neuron": "relu"}}, "bottleneck: an ANN"),
        ({"recipe": {"epochs": 2, "one_step_epochs": 3}}, "recipe.one_step_epochs: 3 of 2"),
        ({"recipe": {"epochs": 2, "codec_epochs": 1}}, "start: codec_epochs"),
        ({"recipe": {"epochs": 2, "frozen_edge_views": 1}}, "start: codec_epochs and frozen"),
        (
            {"start": "a", "recipe": {"epochs": 2, "frozen_edge_views": 1, "rate_penalty": 1.0}},
            "recipe.frozen_edge_views: one_step_epochs and rate_penalty",
        ),
        ({"recipe": {"epochs": 2, "crop_epochs": 1}}, "recipe.augment.crop: crop and crop_epochs"),
        (
            {"recipe": {"epochs": 2, "crop_epochs": 1, "augment": {"crop": 6}}},
            "recipe.crop_epochs: a codec",
        ),
        (
            {"start": "a", "recipe": {"epochs": 2, "frozen_until": "stem"}},
            "recipe.frozen_until: stem has to lie before the cut",
        ),
        (
            {"start": "a", "recipe": {"epochs": 2, "frozen_until": "stage9"}},
            "recipe.frozen_until: resnet8 has no block 'stage9'; choose of stem, ",
        ),
        ({"bottleneck": {"split": "st"}}, "bottleneck.split: resnet8 has no block 'st'"),
        ({"bottleneck": {"split": "stem", "stride": 2}}, "bottleneck.channels: what is said"),
        (
            {"bottleneck": None, "start": "a", "recipe": {"epochs": 2, "codec_epochs": 1}},
            "recipe.codec_epochs: there is no codec",
        ),
        ({"start": "../up"}, "start: "),
        (
            {
                "model": {"backbone": "resnet8", "width": 8, "neuron": "relu"},
                "bottleneck": None,
                "teacher": "other",
            },
            "teacher: an ANN (neuron: relu) learns from labels",
        ),
        (
            {
                "model": {"backbone": "resnet8", "width": 8, "neuron": "relu"},
                "bottleneck": None,
                "recipe": {"epochs": 2, "step_loss": 0.5},
            },
            "recipe.step_loss: an ANN (neuron: relu) has no spikes",
        ),
        (
            {"recipe": {"epochs": 2, "distillation": {"weight": 0.5}}},
            "recipe.distillation: there is no teacher",
        ),
        (
            {"recipe": {"epochs": 2, "one_step_epochs": 2}},
            "recipe.one_step_epochs: 2 and 1 folded are more than 2 epochs",
        ),
        (
            {
                "model": {"backbone": "resnet8", "width": 8, "input_bits": 0},
                "recipe": {"epochs": 2, "one_step_epochs": 1},
            },
            "recipe.one_step_epochs: events",
        ),
        (
            {
                "model": {"backbone": "resnet8", "width": 8, "input_bits": 0},
                "recipe": {"epochs": 2, "augment": {"mixup": 1}},
            },
            "recipe.augment.mixup: events",
        ),
        (
            {
                "model": {"backbone": "resnet8", "width": 8, "input_bits": 0},
                "recipe": {"epochs": 2, "augment": {"cutmix": 1}},
            },
            "recipe.augment.cutmix: events",
        ),
        ({"teacher": ["one", "one"]}, "teacher: names of different runs"),
        ({"teacher": []}, "teacher: names of different runs"),
        ({"data": {"source": ""}}, "data.source: "),
        ({"recipe": {"epochs": 2, "optimiser": "sgd"}}, "recipe.optimiser: "),
    ],
)
def test_stages_that_contradict_each_other_name_the_field(
    changed: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        _config(**changed)


STEP = """
import sys, torch
from pathlib import Path
from safetensors.torch import save_file
from tests.training import test_stages as t
from training import loop, parallel
from tests.training.small_digits import small_digits
from training.batches import Fresh

torch.set_num_threads(1)
data = small_digits()
with parallel.joined("cpu"):
    recipe = {"epochs": 2, "folded_epochs": 2, "batch_size": 32, "precise": True}
    settings = t._config(recipe=recipe)
    loop.fit(settings, data, Path(sys.argv[1]))
    torch.manual_seed(0)
    model = settings.build(data.image_shape, 10)
    loop._enter(model, settings, 0)
    learning = [p for p in model.parameters() if p.requires_grad]
    rows = parallel.share(t.np.arange(32))
    batch = Fresh(settings, data, None, "cpu").batch(rows, 0, parallel.noise(0, 0))
    forward = parallel.averaging(loop._Forward(model, 0))
    loop._step(forward, torch.optim.SGD(learning, lr=1.0), batch, settings.recipe)
    if parallel.leads():
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, sys.argv[1] + "/step")
"""


def test_two_processes_take_the_step_of_the_whole_batch(data: Dataset, tmp_path: Path) -> None:
    """In folded epochs there are no batch statistics, so DDP's step is that of one process."""
    script = tmp_path / "step.py"
    script.write_text(STEP, encoding="utf-8")
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    for count in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        done = subprocess.run(
            [sys.executable, *launch, str(script), str(tmp_path / str(count))],
            cwd=root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert checkpoint.load(tmp_path / str(count)).epoch == 2
    torch.manual_seed(0)
    before = _config().build(data.image_shape, 10).state_dict()
    one, two = (load_file(tmp_path / str(count) / "step") for count in (1, 2))
    moved = 0.0
    for name, value in one.items():
        assert torch.allclose(value, two[name], rtol=1e-4, atol=1e-6), name
        moved = max(moved, float((value - before[name]).abs().max()))
    assert moved > 1e-3


def _integers(layer: Lif) -> tuple[object, ...]:
    synapses = []
    for current in layer.currents:
        match current.synapse:
            case Conv(weight_oihw=weight) | ConvTranspose(weight_iohw=weight):
                synapses.append(weight.tolist())
            case Identity(weight=weight):
                synapses.append(weight)
            case _:
                raise AssertionError(current.synapse)
    return layer.threshold, layer.bias.tolist(), synapses


def test_begin_with_integers_gives_the_same_network_back(data: Dataset, tmp_path: Path) -> None:
    settings = _config(recipe={"epochs": 3, "folded_epochs": 1, "batch_size": 32})
    trained = loop.fit(settings, data, tmp_path).model
    edge, cloud = trained.lower()
    records = {layer.name: layer for layer in (*edge.layers, *cloud.graph.layers)}
    readout = (cloud.weight_kc, cloud.bias_k)
    again = _config().build(data.image_shape, 10)
    begin_with_integers(again, records, readout, data.train.images, "trained")
    same_edge, same_cloud = again.lower()
    same = {layer.name: layer for layer in (*same_edge.layers, *same_cloud.graph.layers)}
    assert {name: _integers(layer) for name, layer in same.items()} == {
        name: _integers(layer) for name, layer in records.items()
    }
    again.train()
    again(torch.from_numpy(data.train.images >> 2))
    rates = [float(layer.rate) for layer in again.edge_layers() if layer.rate is not None]
    assert rates == pytest.approx(evaluate.firing_rates(trained, data.train.images), abs=0.02)
    assert max(rates) > 0.05
    whole = _config(bottleneck=None).build(data.image_shape, 10)
    begin_with_integers(whole, records, readout, data.train.images, "trained")
    wider = _config(bottleneck={"split": "stage2.block1", "channels": 2, "stride": 2})
    strided = wider.build(data.image_shape, 10)
    kept = require_shape(strided, records, readout, "trained")
    assert not {"encoder", "decoder"}.intersection(kept)
    wide = _config(model={"backbone": "resnet8", "width": 16, "steps": 3})
    with pytest.raises(ConfigError, match=r"start: trained is not of .* shape \(stem.conv\)"):
        begin_with_integers(
            wide.build(data.image_shape, 10), records, readout, data.train.images, "trained"
        )


@pytest.mark.parametrize(
    ("decay", "steps", "smaller"),
    [(0.5, 3, set()), (1.0, 16, set()), (0.0, 3, set()), (0.0, 16, {"stem.conv"})],
)
def test_integers_under_another_decay_come_back_where_24_bits_have_room(
    data: Dataset, decay: float, steps: int, smaller: set[str]
) -> None:
    parent = _config().build(data.image_shape, 10)
    with torch.no_grad():  # a stem that inhibits: what adds up where nothing decays
        for conv in parent.edge["stem"].modules():
            if isinstance(conv, NormedConv):
                conv.synapse.weight.copy_(-conv.synapse.weight.abs())
                conv.shift.fill_(0.1)
    edge, cloud = parent.lower()
    records = {layer.name: layer for layer in (*edge.layers, *cloud.graph.layers)}
    readout = (cloud.weight_kc, cloud.bias_k)
    model = {"backbone": "resnet8", "width": 8, "steps": steps, "voltage_decay": decay}
    again = _config(model=model).build(data.image_shape, 10)
    begin_with_integers(again, records, readout, data.train.images, "parent")
    same_edge, same_cloud = again.lower()
    same = {layer.name: layer for layer in (*same_edge.layers, *same_cloud.graph.layers)}
    assert {layer.voltage_decay for layer in same.values()} == {int(4096 * decay)}
    assert smaller == {
        name for name, layer in same.items() if _integers(layer) != _integers(records[name])
    }
    for name in smaller:  # another unit for the same reals
        ours, theirs = same[name], records[name]
        ratio = ours.threshold / theirs.threshold
        assert 0.1 < ratio < 1
        for one, other in zip(ours.currents, theirs.currents, strict=True):
            assert isinstance(one.synapse, Conv)
            assert isinstance(other.synapse, Conv)
            expected = other.synapse.weight_oihw * ratio
            assert np.abs(one.synapse.weight_oihw - expected).max() <= 2
