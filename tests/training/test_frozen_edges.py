"""Which runs share the spikes of a frozen edge: by memory, by disk, and which do not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import save_file

from tests.training.small_frozen import frozen_config, same_spikes
from training import frozen, start
from training.config import Config
from training.data.dataset import Dataset
from training.frozen import Frozen
from training.frozen_edges import FrozenEdges
from training.model import SplitModel


def _of(edges: FrozenEdges, settings: Config, data: Dataset, parent: SplitModel) -> Frozen:
    model = settings.build(data.image_shape, 10)
    start.begin(model, parent, "parent")
    return edges.of(settings, data, model, None, "cpu")


def test_a_later_cuts_spikes_follow_from_an_earlier_ones(data: Dataset, parent: SplitModel) -> None:
    shared = FrozenEdges()
    early, late = frozen_config("stem"), frozen_config("stage2.block1")
    first = _of(shared, early, data, parent)
    behind = _of(shared, late, data, parent)
    assert behind.blocks > first.blocks
    assert same_spikes(behind, _of(FrozenEdges(), late, data, parent))
    assert same_spikes(_of(shared, early, data, parent), first)  # not deeper: computed anew


def test_only_runs_that_look_and_learn_alike_share(
    data: Dataset, parent: SplitModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, computed = frozen.stored, []

    def counted(settings: Config, *rest: object) -> Frozen:
        computed.append(settings)
        return real(settings, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(frozen, "stored", counted)
    shared, base = FrozenEdges(), frozen_config("stage2.block1")
    for settings in (base, frozen_config("stage2.block1", epochs=7, learning_rate=0.5)):
        _of(shared, settings, data, parent)
    assert computed == [base]
    others = [
        frozen_config("stage2.block1", frozen_edge_views=1),
        frozen_config("stage2.block1", seed=1),
        frozen_config("stage2.block1", augment={"padding": 2}),
        base.model_copy(update={"start": "other"}),
    ]
    for settings in others:
        _of(shared, settings, data, parent)
    assert computed == [base, *others]


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
    settings, teacher = frozen_config("stage2.block1", augment={"mixup": mixup}), _Counted(parent)
    first = _by(teacher, settings, data, parent)
    asked = teacher.asked
    again = _by(teacher, settings, data, parent)
    assert teacher.asked == asked > 0
    assert same_spikes(first, again)
    assert np.array_equal(first.labels, again.labels)
    assert first.scores is not None
    assert again.scores is not None
    assert torch.equal(first.scores, again.scores)


def test_frozen_spikes_on_disk_are_not_taken_for_others(
    data: Dataset, parent: SplitModel, own_cache: Path
) -> None:
    base, teacher = frozen_config("stage2.block1"), _Counted(parent)
    other_parent = frozen_config("stem").build(data.image_shape, 10)
    smaller = replace(data, train=data.train.take(slice(0, 100)))
    for settings, images, begun in (
        (base, data, parent),
        (frozen_config("stage1.block1"), data, parent),
        (frozen_config("stage2.block1", frozen_edge_views=1), data, parent),
        (frozen_config("stage2.block1", seed=1), data, parent),
        (frozen_config("stage2.block1", augment={"padding": 2}), data, parent),
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
    settings, teacher = frozen_config("stage2.block1"), _Counted(parent)
    first = _by(teacher, settings, data, parent)
    (entry,) = own_cache.iterdir()
    whole = entry.read_bytes()
    with safe_open(entry, framework="numpy") as file:
        told = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name, array in arrays.items():
        save_file(arrays | {name: array[:, :1]}, entry, told)
        before = teacher.asked
        assert same_spikes(first, _by(teacher, settings, data, parent))
        assert teacher.asked > before
    entry.write_bytes(whole[: len(whole) // 2])
    assert same_spikes(first, _by(teacher, settings, data, parent))
