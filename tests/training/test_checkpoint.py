"""A checkpoint that cannot be written leaves what was there; a damaged one is refused by field."""

import json
import resource
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from splitcore.errors import ConfigError, UsageError
from tests.training.small_digits import small_digits
from training import checkpoint, config
from training.baselines import ann_loop


def test_a_checkpoint_that_cannot_be_written_is_told_by_name(
    digits_run: Path, tmp_path: Path
) -> None:
    found = checkpoint.load(digits_run)
    with pytest.raises(UsageError, match=r"gone/checkpoint\S* cannot be written"):
        checkpoint.save_weights(tmp_path / "gone" / checkpoint.FILE, found)
    assert not list(tmp_path.iterdir())


def plain(epochs: int = 1) -> config.Config:
    model = {"backbone": "resnet8", "width": 4, "neuron": "relu"}
    recipe = {"epochs": epochs, "batch_size": 64}
    return config.parse({"name": "plain", "model": model, "recipe": recipe}, "plain")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plain")
    ann_loop.fit_ann(plain(), small_digits(64), folder)
    return folder


def rewritten(run: Path, out: Path, **fields: Any) -> Path:
    """A copy of a run's checkpoint with these fields of its header."""
    with safe_open(str(run / checkpoint.FILE), framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    header = {**json.loads(metadata["header"]), **fields}
    save_file(tensors, str(out), {**metadata, "header": json.dumps(header)})
    return out


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("image_shape", [1, 8]),
        ("image_shape", [1, 1, 1, 1, 1]),
        ("image_shape", ["a", 8, 8]),
        ("image_shape", [0, 8, 8]),
        ("image_shape", [1, -8, 8]),
        ("image_shape", [1, 10**9, 10**9]),
        ("classes", "ab"),
        ("classes", [1, 2]),
        ("classes", []),
        ("epoch", -5),
        ("epoch", "1"),
        ("history", "x"),
        ("history", []),
        ("history", [{"total": 1.0}]),
        ("data_digest", 5),
        ("optimiser_groups", "x"),
        ("optimiser_groups", [3]),
        ("config", None),
        ("colour", "red"),
    ],
)
def test_a_damaged_header_is_refused_by_field(
    run: Path, tmp_path: Path, field: str, value: Any
) -> None:
    path = rewritten(run, tmp_path / "damaged.safetensors", **{field: value})
    with pytest.raises(ConfigError, match=rf"damaged\.safetensors: damaged header: {field}"):
        checkpoint.load(path)


def test_a_header_of_nested_brackets_is_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    with safe_open(str(run / checkpoint.FILE), framework="pt") as file:
        metadata = file.metadata()
    save_file({}, str(path), {**metadata, "header": "[" * 100_000})
    with pytest.raises(ConfigError, match=r"deep\.safetensors: damaged header: file"):
        checkpoint.load(path)


def test_an_ann_of_event_recordings_is_refused(run: Path, tmp_path: Path) -> None:
    path = rewritten(run, tmp_path / "events.safetensors", image_shape=[4, 1, 8, 8])
    with pytest.raises(ConfigError, match="an ANN takes images"):
        checkpoint.load(path).network()


@pytest.mark.parametrize("neuron", ["lif", "relu"])
def test_a_config_of_a_far_larger_network_is_refused_before_it_is_built(
    run: Path, tmp_path: Path, neuron: str
) -> None:
    """Of ResNet-50 at width 1024 the weights alone would take 24 GB."""
    wide = plain().model_dump(mode="json")
    wide["model"] |= {"backbone": "resnet50", "width": 1024, "neuron": neuron}
    path = rewritten(run, tmp_path / "wide.safetensors", config=wide)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ConfigError, match=r"wide\.safetensors: weights do not fit .* expected \("):
        checkpoint.load(path).network()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 << 10  # KiB


@pytest.mark.parametrize("groups", [[{}], [{"params": [0]}], [{"params": [0]}] * 2])
def test_an_optimiser_that_is_not_the_runs_is_refused(
    run: Path, tmp_path: Path, groups: list[dict[str, Any]]
) -> None:
    header = {"config": plain(2).model_dump(mode="json"), "optimiser_groups": groups}
    rewritten(run, tmp_path / checkpoint.FILE, **header)
    with pytest.raises(ConfigError, match="damaged optimiser or random state"):
        ann_loop.fit_ann(plain(2), small_digits(64), tmp_path, resume=True)
