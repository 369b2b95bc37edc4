"""A training run as one strict YAML file: data, model, bottleneck, recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from splitcore.errors import ConfigError
from splitcore.splits import backbone_named
from training.blocks import NeuronConfig
from training.model import BottleneckConfig, SplitModel

Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=0, le=1e3)]
Count = Annotated[int, Field(ge=1, le=100_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(_Strict):
    """Where images come from: "digits", "cifar10", "cifar100", or a folder or zip of classes."""

    source: str = "digits"
    image_shape: tuple[Count, Count, Count] | None = None  # C, H, W of a folder's images
    seed: int = 0  # of the validation split


class Model(_Strict):
    """The backbone and its neurons. width: channels of the stem."""

    backbone: str
    width: Annotated[int, Field(ge=4, le=1024)]
    steps: Annotated[int, Field(ge=1, le=256)] = 4
    input_bits: Annotated[int, Field(ge=0, le=8)] = 6
    voltage_decay: Unit = 0.25
    tau_grad: Annotated[float, Field(gt=0)] = 0.005
    scale_grad: Annotated[float, Field(gt=0)] = 10.0


class Bottleneck(_Strict):
    """Where the network is cut and how narrow the cut is."""

    split: str
    channels: Annotated[int, Field(ge=1, le=4096)]
    stride: Annotated[int, Field(ge=1, le=16)] = 1
    kernel: Annotated[int, Field(ge=1, le=15)] = 3


class Augment(_Strict):
    """Random changes of the training images."""

    padding: Annotated[int, Field(ge=0, le=64)] = 0
    flip: bool = False
    cutout: Annotated[int, Field(ge=0, le=256)] = 0


class Recipe(_Strict):
    """How it is trained.

    folded_epochs: the last epochs, which train on the frozen, folded integers themselves.
    step_loss: weight of the loss of every step's running answer, so that early steps answer too.
    rate_penalty: times the mean firing rate of the edge layers; energy as a knob.
    code_penalty: times the entropy of the code in bits a spike position; sent bits as a knob.
    """

    epochs: Count
    folded_epochs: Annotated[int, Field(ge=1)] = 1
    batch_size: Count = 64
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 4e-3
    weight_decay: Penalty = 1e-3
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    step_loss: Unit = 0.0
    rate_penalty: Penalty = 0.0
    code_penalty: Penalty = 0.0
    augment: Augment = Augment()
    seed: int = 0


class Config(_Strict):
    """A whole run; `name` becomes the name of its bundle."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    data: Data = Data()
    model: Model
    bottleneck: Bottleneck
    recipe: Recipe

    def build(self, image_shape: tuple[int, ...], classes: int) -> SplitModel:
        """The untrained model for samples of this shape, (C, H, W) or (T, C, H, W)."""
        model, neck = self.model, self.bottleneck
        if len(image_shape) == 4 and (image_shape[0] != model.steps or model.input_bits):
            raise ConfigError(
                f"model: event frames of {image_shape[0]} steps need steps: {image_shape[0]} and "
                f"input_bits: 0, got {model.steps} and {model.input_bits}"
            )
        if len(image_shape) == 3 and not model.input_bits:
            raise ConfigError("model.input_bits: pixels need at least 1 bit")
        channels, height, width = image_shape[-3:]
        return SplitModel(
            backbone_named(model.backbone),
            split=neck.split,
            bottleneck=BottleneckConfig(neck.channels, neck.stride, neck.kernel),
            width=model.width,
            input_shape=(channels, height, width),
            input_bits=model.input_bits,
            classes=classes,
            steps=model.steps,
            neuron=NeuronConfig(model.voltage_decay, model.tau_grad, model.scale_grad),
        )


def parse(raw: Any, where: str) -> Config:
    """A config from plain data. Raises ConfigError naming the field."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise ConfigError(f"{where}: {field}: {first['msg']}") from None
    backbone_named(config.model.backbone).index(config.bottleneck.split)
    if config.recipe.folded_epochs > config.recipe.epochs:
        raise ConfigError(
            f"{where}: recipe.folded_epochs: {config.recipe.folded_epochs} of "
            f"{config.recipe.epochs} epochs"
        )
    return config


def load(path: Path) -> Config:
    """Read a YAML file. Raises ConfigError naming file and field."""
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no readable YAML ({' '.join(str(error).split())})") from None
    return parse(raw, str(path))


def shipped(name: str) -> Path:
    """The path of a config that comes with the package."""
    return Path(__file__).parent / "configs" / f"{name}.yaml"
