"""A training run as one strict YAML file: data, model, bottleneck, recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from splitcore.errors import ConfigError
from splitcore.splits import backbone_named
from training.blocks import NeuronConfig
from training.model import BottleneckConfig, SplitModel

Unit = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=0, le=1e3)]
OF_SPIKES = frozenset(  # fields of a recipe that mean nothing to a network without spikes
    (
        "one_step_epochs",
        "backward_steps",
        "codec_epochs",
        "folded_epochs",
        "frozen_edge_views",
        "frozen_until",
        "precise",
        "step_loss",
        "rate_penalty",
        "code_penalty",
        "distillation",
    )
)
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
Name = Annotated[str, Field(pattern=NAME)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Count = Annotated[int, Field(ge=1, le=100_000)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Data(_Strict):
    """Where images come from: "digits", "cifar10", "cifar100", or a folder or zip of classes."""

    source: Annotated[str, Field(min_length=1)] = "digits"
    image_shape: tuple[Count, Count, Count] | None = None  # C, H, W of a folder's images
    seed: Seed = 0  # of the validation split


class Model(_Strict):
    """The backbone and its neurons. width: channels of the stem.

    neuron: "lif", or "relu" for the ordinary network (ANN) of the same shape, which is never cut:
    it begins and teaches spiking runs and stands beside them. voltage_decay: of all neurons, or
    {block: decay} for those from that block on, the first block among them.
    """

    backbone: str
    neuron: Literal["lif", "relu"] = "lif"
    width: Annotated[int, Field(ge=4, le=1024)]
    steps: Annotated[int, Field(ge=1, le=256)] = 4
    input_bits: Annotated[int, Field(ge=0, le=8)] = 6
    voltage_decay: Unit | dict[str, Unit] = 0.25
    tau_grad: Annotated[float, Field(gt=0)] = 0.005
    scale_grad: Annotated[float, Field(gt=0)] = 10.0


class Bottleneck(_Strict):
    """Where the network is cut and how narrow the cut is; without channels spikes go as is.

    encoder_decay, decoder_decay: the voltage decay of their neurons; without it that of the block
    beside them.
    """

    split: str
    channels: Annotated[int, Field(ge=1, le=4096)] | None = None
    stride: Annotated[int, Field(ge=1, le=16)] = 1
    kernel: Annotated[int, Field(ge=1, le=15)] = 3
    encoder_decay: Unit | None = None
    decoder_decay: Unit | None = None


class Augment(_Strict):
    """Random changes of the training images. crop: the side of those in `crop_epochs`.

    mixup: the largest share of another image of its batch that each gets, labels too (Zhang et al.
    2017, arXiv 1710.09412); shares are uniform. cutmix: the largest share of its area that a box of
    another covers (Yun et al. 2019, arXiv 1905.04899). With both, each image is mixed by one of
    them, by chance of a half. A teacher sees the mixed images, and has to say of each what no label
    says (Beyer et al. 2021, arXiv 2106.05237).
    """

    padding: Annotated[int, Field(ge=0, le=64)] = 0
    flip: bool = False
    cutout: Annotated[int, Field(ge=0, le=256)] = 0
    crop: Annotated[int, Field(ge=0, le=4096)] = 0
    mixup: Unit = 0.0
    cutmix: Unit = 0.0

    @property
    def mixes(self) -> bool:
        """Whether images become mixed ones, of shares of the classes instead of a label."""
        return bool(self.mixup or self.cutmix)


class Distillation(_Strict):
    """Learning from a teacher's scores (Hinton et al. 2015, arXiv 1503.02531).

    weight: share of the loss that compares with the teacher instead of the label; temperature: what
    both sides' scores are divided by.
    """

    weight: Unit = 0.7
    temperature: Annotated[float, Field(gt=0, le=100)] = 2.0


class Recipe(_Strict):
    """How it is trained.

    one_step_epochs: the first epochs, which run a single time step: T times cheaper.
    backward_steps: 0, or gradients flow through so many neighbouring time steps of each batch, in
    turn, instead of all (SLTT-K, arXiv 2302.14311).
    crop_epochs: the first epochs, which train on squares of `augment.crop` pixels, cheaper by area.
    codec_epochs: the first epochs, in which encoder, decoder and readout learn alone.
    folded_epochs: the last epochs, which train on the frozen, folded integers themselves.
    frozen_edge_views: 0, or the edge's blocks stay as they began, and their spikes are computed
    once, for so many augmented views of each image: many codes at one cut become cheap.
    frozen_until: the last block that stays so; without it all up to the cut.
    precise: float32 also where bfloat16 would do, for gradients that equal stock SLAYER's.
    optimiser: see training.optimise; adamw_rate: what "muon" leaves to AdamW learns at this rate.
    step_loss: weight of the loss of every step's running answer, so that early steps answer too.
    rate_penalty: times the mean firing rate of the edge layers; energy as a knob.
    code_penalty: times the entropy of the code in bits a spike position; sent bits as a knob.
    """

    epochs: Count
    one_step_epochs: Annotated[int, Field(ge=0)] = 0
    backward_steps: Annotated[int, Field(ge=0, le=256)] = 0
    crop_epochs: Annotated[int, Field(ge=0)] = 0
    codec_epochs: Annotated[int, Field(ge=0)] = 0
    folded_epochs: Annotated[int, Field(ge=1)] = 1
    frozen_edge_views: Annotated[int, Field(ge=0, le=64)] = 0
    frozen_until: str | None = None
    batch_size: Count = 64
    precise: bool = False
    optimiser: Literal["adamw", "muon"] = "adamw"
    learning_rate: Annotated[float, Field(gt=0, le=10)] = 4e-3
    adamw_rate: Annotated[float, Field(gt=0, le=10)] = 4e-3
    weight_decay: Penalty = 1e-3
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    step_loss: Unit = 0.0
    rate_penalty: Penalty = 0.0
    code_penalty: Penalty = 0.0
    distillation: Distillation = Distillation()
    augment: Augment = Augment()
    seed: Seed = 0


class Config(_Strict):
    """A whole run; `name` becomes the name of its bundle.

    start, teacher: names of other configs in the same folder; the run begins with the weights of
    the first and learns from the scores of the second, or, where they are several, from the mean of
    what they think. Without a bottleneck it is not cut.
    start_bundle: `start` names no run but a bundle with this digest, which the command is given.
    """

    name: Name
    data: Data = Data()
    model: Model
    bottleneck: Bottleneck | None = None
    recipe: Recipe
    start: Name | None = None
    start_bundle: Digest | None = None
    teacher: Name | tuple[Name, ...] | None = None

    @property
    def teachers(self) -> tuple[str, ...]:
        """The names of `teacher`."""
        if self.teacher is None or isinstance(self.teacher, tuple):
            return self.teacher or ()
        return (self.teacher,)

    @property
    def split(self) -> str:
        """Where it is cut: behind the last block where no bottleneck says otherwise."""
        if self.bottleneck is not None:
            return self.bottleneck.split
        return backbone_named(self.model.backbone).blocks[-1].name

    @property
    def decays(self) -> dict[str, float]:
        """The voltage decay from each of these blocks on."""
        decay = self.model.voltage_decay
        if isinstance(decay, dict):
            return decay
        return {backbone_named(self.model.backbone).split_points[0]: decay}

    @property
    def frozen_blocks(self) -> int:
        """How many of the first blocks stay as they began."""
        if not self.recipe.frozen_edge_views:
            return 0
        return backbone_named(self.model.backbone).index(self.recipe.frozen_until or self.split)

    def build(self, image_shape: tuple[int, ...], classes: int) -> SplitModel:
        """The untrained spiking model for samples of this shape, (C, H, W) or (T, C, H, W)."""
        model, neck = self.model, self.bottleneck
        if len(image_shape) == 4 and (image_shape[0] != model.steps or model.input_bits):
            raise ConfigError(
                f"model: event frames of {image_shape[0]} steps need steps: {image_shape[0]} and "
                f"input_bits: 0, got {model.steps} and {model.input_bits}"
            )
        if len(image_shape) == 3 and not model.input_bits:
            raise ConfigError("model.input_bits: pixels need at least 1 bit")
        channels, height, width = image_shape[-3:]
        squeeze = None
        if neck is not None and neck.channels is not None:
            squeeze = BottleneckConfig(**neck.model_dump(exclude={"split"}))
        return SplitModel(
            backbone_named(model.backbone),
            split=self.split,
            bottleneck=squeeze,
            width=model.width,
            input_shape=(channels, height, width),
            input_bits=model.input_bits,
            classes=classes,
            steps=model.steps,
            neuron=NeuronConfig(tau_grad=model.tau_grad, scale_grad=model.scale_grad),
            decays=self.decays,
        )


def parse(raw: Any, where: str) -> Config:
    """A config from plain data. Raises ConfigError naming the field."""
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "file"
        raise ConfigError(f"{where}: {field}: {first['msg']}") from None
    backbone = backbone_named(config.model.backbone)
    cut = backbone.index(config.split, f"{where}: bottleneck.split")
    until, field = config.recipe.frozen_until, f"{where}: recipe.frozen_until"
    if until is not None and (
        backbone.index(until, field) > cut or not config.recipe.frozen_edge_views
    ):
        raise ConfigError(
            f"{field}: {until} has to lie before the cut at {config.split}, with frozen_edge_views"
        )
    _check_decays(config, f"{where}: model.voltage_decay")
    _check(config, where)
    return config


def _check_decays(config: Config, field: str) -> None:
    """Blocks that there are, the first among them. Raises ConfigError naming the field."""
    backbone, decays = backbone_named(config.model.backbone), config.decays
    for name in decays:
        backbone.index(name, field)
    first = backbone.split_points[0]
    if first not in decays:
        raise ConfigError(f"{field}: what is it from {first} on?")


def _check(config: Config, where: str) -> None:
    """What one field says of another. Raises ConfigError naming the field."""
    recipe, neck = config.recipe, config.bottleneck
    for name in ("folded_epochs", "one_step_epochs", "crop_epochs", "codec_epochs"):
        if getattr(recipe, name) > recipe.epochs:
            raise ConfigError(
                f"{where}: recipe.{name}: {getattr(recipe, name)} of {recipe.epochs} epochs"
            )
    squeezed = neck is not None and neck.channels is not None
    fields = Recipe.model_fields.items()
    chosen = {name for name, field in fields if getattr(recipe, name) != field.default}
    for wrong, field, text in (
        (
            len(set(config.teachers)) < len(config.teachers) or config.teacher == (),
            "teacher",
            "names of different runs, or leave it out",
        ),
        (config.model.neuron == "relu" and neck, "bottleneck", "an ANN (neuron: relu) is not cut"),
        (
            config.model.neuron == "relu" and config.teacher,
            "teacher",
            "an ANN (neuron: relu) learns from labels alone",
        ),
        (
            config.model.neuron == "relu" and OF_SPIKES & chosen,
            f"recipe.{min(OF_SPIKES & chosen, default='')}",
            "an ANN (neuron: relu) has no spikes and no code",
        ),
        (
            "distillation" in chosen and not config.teacher,
            "recipe.distillation",
            "there is no teacher to learn from",
        ),
        (
            recipe.one_step_epochs > recipe.epochs - recipe.folded_epochs,
            "recipe.one_step_epochs",
            f"{recipe.one_step_epochs} and {recipe.folded_epochs} folded are more than "
            f"{recipe.epochs} epochs; the integers are of all steps",
        ),
        (
            recipe.one_step_epochs and not config.model.input_bits,
            "recipe.one_step_epochs",
            "events (input_bits: 0) come in time steps; one of them is not the recording",
        ),
        (
            bool(recipe.crop_epochs) != bool(recipe.augment.crop),
            "recipe.augment.crop",
            "crop and crop_epochs need each other",
        ),
        (
            recipe.augment.mixes and not config.model.input_bits,
            f"recipe.augment.{'mixup' if recipe.augment.mixup else 'cutmix'}",
            "events (input_bits: 0) cannot be mixed",
        ),
        (
            recipe.crop_epochs and (squeezed or recipe.frozen_edge_views),
            "recipe.crop_epochs",
            "a codec and a frozen edge have one shape",
        ),
        (
            recipe.backward_steps and config.model.steps % recipe.backward_steps,
            "recipe.backward_steps",
            f"{recipe.backward_steps} do not divide the {config.model.steps} of model.steps",
        ),
        (recipe.codec_epochs and not squeezed, "recipe.codec_epochs", "there is no codec to train"),
        (
            neck and not squeezed and neck != Bottleneck(split=neck.split),
            "bottleneck.channels",
            "what is said of encoder and decoder needs a number of channels",
        ),
        (
            (recipe.codec_epochs or recipe.frozen_edge_views) and not config.start,
            "start",
            "codec_epochs and frozen_edge_views need a trained run to begin with",
        ),
        (config.start_bundle and not config.start, "start_bundle", "`start` is to name the bundle"),
        (
            recipe.frozen_edge_views and (recipe.one_step_epochs or recipe.rate_penalty),
            "recipe.frozen_edge_views",
            "one_step_epochs and rate_penalty would have to change the frozen edge",
        ),
    ):
        if wrong:
            raise ConfigError(f"{where}: {field}: {text}")


class _Loader(yaml.SafeLoader):
    """Plain data; a key that is there twice is an error, where YAML's own loader takes the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See yaml.SafeLoader."""
        keys = [key.value for key, _ in node.value]
        twice = [key for index, key in enumerate(keys) if key in keys[:index]]
        if twice:
            raise yaml.YAMLError(f"{twice[0]} is there twice")
        return super().construct_mapping(node, deep)


def load(path: Path, start: tuple[str, str] | None = None) -> Config:
    """Read a YAML file. Raises ConfigError naming file and field.

    start: name and digest of a bundle to begin with in the place of what it names.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: no readable YAML ({' '.join(str(error).split())})") from None
    if start is not None and isinstance(raw, dict):
        name, digest = start
        if raw.get("start_bundle") not in (None, digest):
            raise ConfigError(f"{path}: start_bundle: is not the digest of {name}, {digest}")
        raw |= {"start": name, "start_bundle": digest}
    return parse(raw, str(path))


def shipped(name: str) -> Path:
    """The path of a config that comes with the package."""
    return Path(__file__).parent / "configs" / f"{name}.yaml"
