"""A training run on disk as one safetensors file: weights, optimiser, random state, history.

No pickle: everything that is no tensor is JSON in the file's header. The file is replaced whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from splitcore.errors import ConfigError, DataError, UsageError
from splitcore.splits import backbone_named
from training import checkpoint_header
from training import config as configuration
from training.baselines.split_ann import SplitAnn, without_codec
from training.config import Bottleneck, Config
from training.data.dataset import Dataset
from training.data.kind import Kind
from training.model import SplitModel

FORMAT = "spikebottlenet-checkpoint-1"
FILE = "checkpoint.safetensors"

Network = TypeVar("Network", SplitModel, SplitAnn)


@dataclass(frozen=True)
class Checkpoint:
    """What `load` found: tensors by name, and the header's facts."""

    path: Path
    config: Config
    classes: tuple[str, ...]
    image_shape: tuple[int, ...]
    data_digest: str
    epoch: int  # epochs done
    history: list[dict[str, float]]
    tensors: dict[str, torch.Tensor]
    optimiser_groups: list[dict[str, Any]]

    def model(self) -> SplitModel:
        """The spiking model with the checkpoint's weights. Raises ConfigError for an ANN."""
        if self.config.model.neuron != "lif":
            raise ConfigError(f"{self.path}: an ANN (neuron: relu), expected a spiking model")
        return self._built(lambda: self.config.build(self.image_shape, len(self.classes)))

    def network(self) -> SplitModel | SplitAnn:
        """The model of either kind with the checkpoint's weights."""
        if self.config.model.neuron == "lif":
            return self.model()
        if len(self.image_shape) != 3:
            raise ConfigError(f"{self.path}: an ANN takes images, got events {self.image_shape}")
        channels, height, width = self.image_shape
        return self._built(
            lambda: without_codec(
                backbone_named(self.config.model.backbone),
                width=self.config.model.width,
                image_shape=(channels, height, width),
                classes=len(self.classes),
            )
        )

    def _built(self, build: Callable[[], Network]) -> Network:
        """What `build` makes, with the checkpoint's weights.

        Their shapes are compared with those of a network without memory first: the config of a
        small file may ask for one of gigabytes.
        """
        found = self._weights
        with torch.device("meta"):
            expected = build().state_dict()
        for name, wanted in expected.items():
            got = tuple(found[name].shape) if name in found else "none"
            if got != tuple(wanted.shape):
                raise ConfigError(
                    f"{self.path}: weights do not fit its config ({name}: expected "
                    f"{tuple(wanted.shape)}, got {got})"
                )
        network = build()
        self._into(network)
        return network

    @property
    def _weights(self) -> dict[str, torch.Tensor]:
        prefix = "model."
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}

    def _into(self, model: torch.nn.Module) -> None:
        try:
            model.load_state_dict(self._weights)
        except RuntimeError as error:
            first = " ".join(str(error).split())[:200]
            raise ConfigError(f"{self.path}: weights do not fit its config ({first})") from None

    @property
    def finished(self) -> bool:
        """Whether its training has ended."""
        return self.epoch >= self.config.recipe.epochs

    def require_finished(self) -> None:
        """Raise ConfigError where training has not ended."""
        if not self.finished:
            raise ConfigError(
                f"{self.path}: {self.epoch} of {self.config.recipe.epochs} epochs; train it to its "
                "end with --resume"
            )

    def require_images(self, dataset: Dataset) -> None:
        """Raise DataError unless this is the dataset of the run, parted by the same seed."""
        Kind(self.classes, self.image_shape).require(
            Kind(dataset.classes, dataset.image_shape),
            dataset.name,
            f"the checkpoint of {self.config.name}",
        )
        if self.data_digest != dataset.digest:
            raise DataError(f"{self.path}: was trained on other images than {dataset.name}")

    def require(self, config: Config, dataset: Dataset) -> None:
        """Raise ConfigError or DataError unless a run of this config can go on from here."""
        wanted = _fields(config.model_dump(mode="json"))
        for field, got in _fields(self.config.model_dump(mode="json")).items():
            if wanted.get(field) != got:
                raise ConfigError(
                    f"{self.path}: was trained with {field}: {got}, not {wanted.get(field)}; put "
                    "that back, or choose another --out"
                )
        self.require_images(dataset)

    def require_same_network(self, config: Config, dataset: Dataset) -> None:
        """Raise ConfigError or DataError unless another run may stand on this one, of this config.

        Its images have to be this dataset's, wherever they were read from, else test images of one
        run would be training images of the other.
        """
        expected, got = _network_of(config), _network_of(self.config)
        for field, wanted in expected.items():
            if got.get(field) != wanted:
                raise ConfigError(
                    f"{self.path}: was trained with {field}: {got.get(field)}, its config says "
                    f"{wanted}; put that back, or move the run away and it is trained again"
                )
        self.require_images(dataset)

    def restore(
        self,
        model: torch.nn.Module,
        optimiser: torch.optim.Optimizer,
        generators: dict[str, torch.Generator],
    ) -> None:
        """Put weights, optimiser and random state back where they were.

        Raises ConfigError where they are not those of such a run.
        """
        self._into(model)
        try:
            self._restore(optimiser, generators)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            first = " ".join(str(error).split())[:200]
            raise ConfigError(f"{self.path}: damaged optimiser or random state ({first})") from None

    def _restore(
        self, optimiser: torch.optim.Optimizer, generators: dict[str, torch.Generator]
    ) -> None:
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, tensor in self.tensors.items():
            if key.startswith("optimiser."):
                _, index, name = key.split(".", 2)
                state.setdefault(int(index), {})[name] = tensor
        groups = [  # JSON turns tuples into lists; such options are the config's and known
            {**own, **{name: value for name, value in saved.items() if not _is_list(own, name)}}
            for own, saved in zip(
                optimiser.state_dict()["param_groups"], self.optimiser_groups, strict=True
            )
        ]
        optimiser.load_state_dict({"state": state, "param_groups": groups})
        torch.set_rng_state(self.tensors["random.torch"])
        for name, generator in generators.items():
            generator.set_state(self.tensors[f"random.{name}"])


def resumed(path: Path, config: Config, dataset: Dataset, resume: bool) -> Checkpoint | None:
    """The checkpoint that a run goes on from, if it does; makes the folder for a new one.

    Raises ConfigError where one lies there and is not to be gone on from, or is of another run.
    """
    if resume:
        found = load(path)
        found.require(config, dataset)
        if not found.optimiser_groups:
            raise ConfigError(f"{path}: weights alone, from which no training can go on")
        return found
    require_none(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    return None


def require_none(path: Path) -> None:
    """Raise ConfigError where a checkpoint lies already, which a new run would replace."""
    if path.exists():
        raise ConfigError(f"{path}: exists; go on with --resume or choose another --out")


def _network_of(config: Config) -> dict[str, Any]:
    """What makes the network and its images, by field; not the recipe, nor where images lie."""
    found = config.model_dump(mode="json", include={"data", "model", "bottleneck"})
    found["data"].pop("source")
    return _fields(found)


def _fields(sections: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted name; without a bottleneck its fields are None."""
    found: dict[str, Any] = {}
    for section, fields in sections.items():
        if section == "bottleneck" and fields is None:
            fields = dict.fromkeys(Bottleneck.model_fields)
        if isinstance(fields, dict):
            found |= {f"{section}.{name}": value for name, value in fields.items()}
        else:
            found[section] = fields
    return found


def _is_list(group: dict[str, Any], name: str) -> bool:
    return name != "params" and isinstance(group.get(name), (list, tuple))


def save(
    path: Path,
    *,
    config: Config,
    classes: tuple[str, ...],
    image_shape: tuple[int, ...],
    data_digest: str,
    epoch: int,
    history: list[dict[str, float]],
    model: torch.nn.Module,
    optimiser: torch.optim.Optimizer | None = None,
    generators: dict[str, torch.Generator] | None = None,
) -> None:
    """Replace the file at `path` by this state; without an optimiser nothing can go on from it."""
    tensors = {f"model.{k}": v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    state = {"state": {}, "param_groups": []} if optimiser is None else optimiser.state_dict()
    for index, entry in state["state"].items():
        for name, value in entry.items():
            tensors[f"optimiser.{index}.{name}"] = torch.as_tensor(value).cpu().contiguous()
    tensors["random.torch"] = torch.get_rng_state()
    for name, generator in (generators or {}).items():
        tensors[f"random.{name}"] = generator.get_state()
    header = {
        "config": config.model_dump(mode="json"),
        "classes": classes,
        "image_shape": image_shape,
        "data_digest": data_digest,
        "epoch": epoch,
        "history": history,
        "optimiser_groups": state["param_groups"],
    }
    scratch = path.with_suffix(".partial")
    try:
        save_file(tensors, str(scratch), metadata={"format": FORMAT, "header": json.dumps(header)})
        os.replace(scratch, path)
    except (OSError, SafetensorError) as error:
        raise UsageError(f"{path}: cannot be written ({error})") from None
    finally:
        scratch.unlink(missing_ok=True)


def save_weights(path: Path, found: Checkpoint) -> None:
    """Write a checkpoint without what only its training needs, its kernels in half precision."""
    model = found.network()
    for weights in model.parameters():
        if weights.ndim > 1:
            weights.data = weights.data.half()
    save(
        path,
        config=found.config,
        classes=found.classes,
        image_shape=found.image_shape,
        data_digest=found.data_digest,
        epoch=found.epoch,
        history=found.history,
        model=model,
    )


def load(path: Path) -> Checkpoint:
    """Read a checkpoint file, or the one in a run's folder. Raises ConfigError naming the file."""
    if path.is_dir():
        path = path / FILE
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path}: no readable checkpoint ({error})") from None
    if metadata.get("format") != FORMAT:
        raise ConfigError(f"{path}: expected format {FORMAT}, got {metadata.get('format')!r}")
    header = checkpoint_header.parse(metadata.get("header", ""), str(path))
    return Checkpoint(
        path=path,
        config=configuration.parse(header.config, str(path)),
        classes=header.classes,
        image_shape=header.image_shape,
        data_digest=header.data_digest,
        epoch=header.epoch,
        history=header.history,
        tensors=tensors,
        optimiser_groups=header.optimiser_groups,
    )
