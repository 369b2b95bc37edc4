"""Spikes behind frozen blocks: what one run computed, the next one uses where it may."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.training.small_digits import small_digits
from training import augmentation, config, evaluate, frozen, start
from training.config import Config
from training.data.dataset import Dataset
from training.frozen import Frozen
from training.frozen_edges import FrozenEdges
from training.model import SplitModel
from training.teacher import Teacher


@pytest.fixture(scope="module")
def data() -> Dataset:
    return small_digits()


@pytest.fixture(scope="module")
def parent(data: Dataset) -> SplitModel:
    """An uncut network whose norms have seen images, so that its layers fire."""
    model = _config("stem").build(data.image_shape, 10)
    model.train()
    for _ in range(20):
        model(torch.from_numpy(data.train.images[:64] >> 2))
    return model


def _config(split: str, **recipe: object) -> Config:
    raw = {
        "name": "tiny",
        "model": {"backbone": "resnet8", "width": 8, "steps": 3},
        "bottleneck": {"split": split, "channels": 2},
        "start": "parent",
        "recipe": {"epochs": 2, "frozen_edge_views": 2, "augment": {"padding": 1}, **recipe},
    }
    return config.parse(raw, "test")


def _of(edges: FrozenEdges, settings: Config, data: Dataset, parent: SplitModel) -> Frozen:
    model = settings.build(data.image_shape, 10)
    start.begin(model, parent, "parent")
    return edges.of(settings, data, model, None, "cpu")


def _same(one: Frozen, other: Frozen) -> bool:
    rows, noise = np.arange(one.labels.shape[1]), np.random.default_rng(0)
    batches = [
        (one.batch(rows, epoch, noise), other.batch(rows, epoch, noise)) for epoch in range(3)
    ]
    for left, right in batches:
        assert left.features is not None
        assert right.features is not None
        assert 0.02 < float(left.features.mean()) < 0.9
        if not torch.equal(left.features, right.features):
            return False
    return all(
        torch.equal(left, right)
        for (_, left), (_, right) in zip(
            one.validation.chunks("cpu"), other.validation.chunks("cpu"), strict=True
        )
    )


def test_a_later_cuts_spikes_follow_from_an_earlier_ones(data: Dataset, parent: SplitModel) -> None:
    shared = FrozenEdges()
    early, late = _config("stem"), _config("stage2.block1")
    first = _of(shared, early, data, parent)
    behind = _of(shared, late, data, parent)
    assert behind.blocks > first.blocks
    assert _same(behind, _of(FrozenEdges(), late, data, parent))
    assert _same(_of(shared, early, data, parent), first)  # not deeper: computed anew


def test_only_runs_that_look_and_learn_alike_share(
    data: Dataset, parent: SplitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, computed = frozen.stored, []

    def counted(settings: Config, *rest: object) -> Frozen:
        computed.append(settings)
        return real(settings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(frozen, "stored", counted)
    shared, base = FrozenEdges(), _config("stage2.block1")
    for settings in (base, _config("stage2.block1", epochs=7, learning_rate=0.5)):
        _of(shared, settings, data, parent)
    assert computed == [base]
    others = [
        _config("stage2.block1", frozen_edge_views=1),
        _config("stage2.block1", seed=1),
        _config("stage2.block1", augment={"padding": 2}),
        base.model_copy(update={"start": "other"}),
    ]
    for settings in others:
        _of(shared, settings, data, parent)
    assert computed == [base, *others]


class _Pixels:
    """A teacher whose scores tell which image it was shown."""

    def behind(self, _model: SplitModel, _blocks: int) -> Callable[..., torch.Tensor]:
        return lambda images, _spikes: _pixels(images)


def _pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.reshape(len(images), -1)[:, 20:30].astype(np.float32))


def test_spikes_labels_and_scores_of_mixed_images_are_those_of_one_image(
    data: Dataset, parent: SplitModel
) -> None:
    settings = _config("stage1.block1", augment={"padding": 1, "mixup": 0.5})
    model = settings.build(data.image_shape, 10)
    start.begin(model, parent, "parent")
    kept = frozen.stored(settings, data, model, _Pixels(), "cpu")  # type: ignore[arg-type]
    rows, noise = np.arange(len(data.train)), np.random.default_rng(0)
    seen = np.zeros((2, len(rows)), int)
    for view in augmentation.views(data.train, 10, settings.recipe):
        seen[view.index, view.rows] += 1
        batch = kept.batch(view.rows, view.index, noise)
        levels = torch.from_numpy(evaluate.levels(view.images, 6))
        with torch.no_grad():
            expected = model.features(levels, settings.frozen_blocks)
        assert batch.features is not None
        assert batch.teacher_nk is not None
        assert torch.equal(batch.features, expected)
        assert torch.equal(batch.teacher_nk, _pixels(view.images))
        assert np.array_equal(batch.labels.numpy(), view.labels)
    assert (seen == 1).all()
    shares = kept.batch(rows, 0, noise).labels.numpy()
    assert np.allclose(shares.sum(1), 1)
    own = shares[rows, data.train.labels_n]
    assert 0.5 <= own.min() < 0.6  # a half of another image at most, and mixed they are
    assert not np.array_equal(shares, kept.batch(rows, 1, noise).labels.numpy())


def test_a_teacher_that_begins_with_the_frozen_blocks_is_not_run_over_images_again(
    data: Dataset, parent: SplitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _config("stem", frozen_edge_views=1)
    model = settings.build(data.image_shape, 10)
    start.begin(model, parent, "parent")
    teacher = Teacher([parent], "cpu")
    images = next(augmentation.views(data.train, 10, settings.recipe))
    expected = teacher(images.images)
    assert float(expected.std()) > 0.01
    monkeypatch.setattr(Teacher, "_of", None)
    kept = frozen.stored(settings, data, model, teacher, "cpu")
    told = kept.batch(images.rows, 0, np.random.default_rng(0)).teacher_nk
    assert told is not None
    assert torch.equal(told, expected)


@pytest.mark.parametrize("change", ["weight", "decay", "too few blocks"])
def test_a_teacher_of_other_blocks_does_not_begin_with_the_frozen_ones(
    data: Dataset, parent: SplitModel, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = _config("stage1.block1").build(data.image_shape, 10)
    start.begin(model, parent, "parent")
    asked = []
    monkeypatch.setattr(Teacher, "_of", lambda _self, _network, images: asked.append(images))
    monkeypatch.setattr(Teacher, "_after", lambda *_: asked.append(None))
    teacher, blocks = Teacher([parent], "cpu"), 1
    images, spikes = data.train.images[:2], torch.zeros(8, *model.shape_after(1))
    teacher.behind(model, blocks)(images, spikes)
    assert asked == [None]
    match change:
        case "weight":
            next(model.edge.parameters()).data.view(-1)[0] += 1
        case "decay":
            model.spiking_layers()[0].neuron.voltage_decay.data += 64
        case _:
            blocks = len(parent.edge) + 1
    teacher.behind(model, blocks)(images, spikes)
    assert asked[1] is images


class _Counted:
    """A teacher's model and how often it was asked."""

    def __init__(self, model: SplitModel) -> None:
        self.models, self.asked = [model], 0

    def behind(self, _model: SplitModel, _blocks: int) -> Callable[..., torch.Tensor]:
        return self._scores

    def _scores(self, images: np.ndarray, _spikes: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return torch.full((len(images), 10), float(self.asked))


def _by(teacher: _Counted, settings: Config, data: Dataset, parent: SplitModel) -> Frozen:
    model = settings.build(data.image_shape, 10)
    start.begin(model, parent, "parent")
    return FrozenEdges().of(settings, data, model, teacher, "cpu")  # type: ignore[arg-type]


@pytest.mark.parametrize("mixup", [0.0, 0.5])
def test_the_next_command_finds_the_last_frozen_spikes_on_disk(
    data: Dataset, parent: SplitModel, mixup: float
) -> None:
    settings, teacher = _config("stage2.block1", augment={"mixup": mixup}), _Counted(parent)
    first = _by(teacher, settings, data, parent)
    asked = teacher.asked
    again = _by(teacher, settings, data, parent)
    assert teacher.asked == asked > 0
    assert _same(first, again)
    assert np.array_equal(first.labels, again.labels)
    assert first.scores is not None
    assert again.scores is not None
    assert torch.equal(first.scores, again.scores)


def test_frozen_spikes_on_disk_are_not_taken_for_others(
    data: Dataset, parent: SplitModel, own_cache: Path
) -> None:
    base, teacher = _config("stage2.block1"), _Counted(parent)
    other_parent = _config("stem").build(data.image_shape, 10)
    smaller = replace(data, train=data.train.take(slice(0, 100)))
    for settings, images, begun in (
        (base, data, parent),
        (_config("stage1.block1"), data, parent),
        (_config("stage2.block1", frozen_edge_views=1), data, parent),
        (_config("stage2.block1", seed=1), data, parent),
        (_config("stage2.block1", augment={"padding": 2}), data, parent),
        (base, smaller, parent),
        (base, data, other_parent),
        (base, data, parent),
    ):
        before = teacher.asked
        _by(teacher, settings, images, begun)
        assert teacher.asked > before
    before = teacher.asked
    _by(_Counted(other_parent), base, data, parent)  # another teacher
    _by(teacher, base, data, parent)
    assert teacher.asked > before
    assert len(list(own_cache.iterdir())) == 1


def test_a_damaged_entry_of_frozen_spikes_is_made_again(
    data: Dataset, parent: SplitModel, own_cache: Path
) -> None:
    settings, teacher = _config("stage2.block1"), _Counted(parent)
    first = _by(teacher, settings, data, parent)
    (entry,) = own_cache.iterdir()
    whole = entry.read_bytes()
    with safe_open(entry, framework="numpy") as file:
        told = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, array in arrays.items():
        save_file(arrays | {name: array[:, :1]}, entry, told)
        before = teacher.asked
        assert _same(first, _by(teacher, settings, data, parent))
        assert teacher.asked > before
    entry.write_bytes(whole[: len(whole) // 2])
    assert _same(first, _by(teacher, settings, data, parent))
