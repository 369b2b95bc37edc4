"""Training: the same seed the same weights, resume goes on exactly, bad configs are refused."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from splitcore.errors import ConfigError, DataError
from training import checkpoint, config, loop
from training.data.dataset import Dataset, Split


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """More threads may add in another order, and other weights would follow."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _dataset(seed: int = 0) -> Dataset:
    rng = np.random.default_rng(seed)

    def split(count: int) -> Split:
        labels = rng.integers(0, 3, count)
        images = rng.integers(0, 60, (count, 1, 8, 8)).astype(np.uint8)
        images[np.arange(count), 0, 2 * labels] += 150
        return Split(images, labels)

    return Dataset("stripes", ("a", "b", "c"), split(64), split(16), split(16))


def _config(**recipe: object) -> config.Config:
    return config.parse(
        {
            "name": "tiny",
            "model": {"backbone": "resnet8", "width": 4, "steps": 2},
            "bottleneck": {"split": "stage2.block1", "channels": 2},
            "recipe": {"epochs": 3, "folded_epochs": 1, "batch_size": 16, **recipe},
        },
        "test",
    )


def _weights(path: Path) -> dict[str, torch.Tensor]:
    return {k: v for k, v in checkpoint.load(path).tensors.items() if k.startswith("model.")}


def test_fit_twice_gives_the_same_weights(tmp_path: Path) -> None:
    for name in ("one", "two"):
        loop.fit(_config(), _dataset(), tmp_path / name)
    one, two = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_fit_resumed_after_an_interrupt_ends_where_it_would_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop.fit(_config(), _dataset(), tmp_path / "whole")
    real = checkpoint.save

    def save_then_die(path: Path, **state: object) -> None:
        real(path, **state)  # type: ignore[arg-type]
        if state["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save", save_then_die)
    with pytest.raises(KeyboardInterrupt):
        loop.fit(_config(), _dataset(), tmp_path / "cut")
    monkeypatch.undo()
    loop.fit(_config(), _dataset(), tmp_path / "cut", resume=True)
    whole, cut = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_fit_that_diverges_is_refused_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="lower"):
        loop.fit(_config(learning_rate=10, weight_decay=1000), _dataset(), tmp_path)


def test_fit_over_an_existing_run_is_refused(tmp_path: Path) -> None:
    loop.fit(_config(epochs=1), _dataset(), tmp_path)
    with pytest.raises(ConfigError, match="--resume"):
        loop.fit(_config(epochs=1), _dataset(), tmp_path)


def test_resume_by_another_config_names_what_differs(tmp_path: Path) -> None:
    loop.fit(_config(epochs=1), _dataset(), tmp_path)
    with pytest.raises(ConfigError, match=r"trained with recipe\.epochs: 1, not 2; put that back"):
        loop.fit(_config(epochs=2), _dataset(), tmp_path, resume=True)


def test_resume_on_other_images_is_refused(tmp_path: Path) -> None:
    loop.fit(_config(epochs=1), _dataset(), tmp_path)
    with pytest.raises(DataError, match="other images"):
        loop.fit(_config(epochs=1), _dataset(seed=1), tmp_path, resume=True)


def test_checkpoint_truncated_is_refused(tmp_path: Path) -> None:
    loop.fit(_config(epochs=1), _dataset(), tmp_path)
    path = tmp_path / checkpoint.FILE
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigError, match="no readable checkpoint"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": {"backbone": "resnet9", "width": 4}}, "resnet9"),
        ({"model": {"backbone": "resnet8"}}, "model.width"),
        ({"bottleneck": {"split": "stage9", "channels": 2}}, "stage9"),
        ({"extra": 1}, "extra"),
        ({"recipe": {"epochs": 1, "folded_epochs": 2}}, "folded_epochs"),
        ({"name": "../up"}, "name"),
    ],
)
def test_config_with_a_bad_field_is_refused_by_name(
    tmp_path: Path, change: dict, named: str
) -> None:
    raw = _config().model_dump(mode="json")
    raw.update(change)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(ConfigError, match=named):
        config.load(path)


def test_config_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("a: [1,")
    with pytest.raises(ConfigError, match="no readable YAML"):
        config.load(path)
