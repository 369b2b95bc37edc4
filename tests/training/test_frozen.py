"""Spikes, labels and scores behind frozen blocks, computed once."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.training.small_frozen import frozen_config
from training import augmentation, evaluate, frozen, start
from training.data.dataset import Dataset
from training.model import SplitModel
from training.teacher import Teacher


class _Pixels:
    """A teacher whose scores tell which image it was shown."""

    def behind(self, _model: SplitModel, _blocks: int) -> Callable[..., torch.Tensor]:
        return lambda images, _spikes: _pixels(images)


def _pixels(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images.reshape(len(images), -1)[:, 20:30].astype(np.float32))


def test_spikes_labels_and_scores_of_mixed_images_are_those_of_one_image(
    data: Dataset, parent: SplitModel
) -> None:
    settings = frozen_config("stage1.block1", augment={"padding": 1, "mixup": 0.5})
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
    settings = frozen_config("stem", frozen_edge_views=1)
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
    model = frozen_config("stage1.block1").build(data.image_shape, 10)
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
