"""Every baseline on one data set at one split point, from one trained ANN, as rows of results."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import Progress

from splitcore.errors import ConfigError
from splitcore.splits import backbone_named
from training.baselines.bottlenet import BottleNet
from training.baselines.bottlenetpp import BottleNetPlusPlus
from training.baselines.codec import FeatureCodec
from training.baselines.evaluate import evaluate
from training.baselines.fit import as_input, fit
from training.baselines.int8_edge import quantised_edge
from training.baselines.jpeg import JpegUpload, header_bytes
from training.baselines.one_bit import OneBit
from training.baselines.split_ann import SplitAnn, without_codec
from training.config import Config, Recipe
from training.data.dataset import Dataset

QUALITIES = (5, 10, 25, 50, 75, 95)
CALIBRATION = 512  # training images that set the ranges of an int8 edge


@dataclass(frozen=True)
class Effort:
    """Shares of the recipe's epochs: the codec alone on a trained ANN, then everything."""

    codec_alone: float = 0.25
    everything: float = 0.75

    def stages(self, recipe: Recipe) -> tuple[Recipe, Recipe]:
        """The two recipes; the second starts from a working model, at half the learning rate."""
        alone, all_of_it = (
            recipe.model_copy(update={"epochs": max(1, round(recipe.epochs * share))})
            for share in (self.codec_alone, self.everything)
        )
        rate = recipe.learning_rate / 2
        return alone, all_of_it.model_copy(update={"learning_rate": rate})


def study(
    config: Config,
    dataset: Dataset,
    *,
    effort: Effort | None = None,
    qualities: tuple[int, ...] = QUALITIES,
    device: str = "cpu",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train and measure all baselines that belong beside the spiking run of this config.

    Codes are sized after the spiking one: the 1-bit CNN has as many bits in all as its T steps,
    BottleNet++ about as many, BottleNet as many channels. Each row holds the figures on the
    validation images, for choosing, and on the test images.
    Raises ConfigError for data that are no images of 1 or 3 channels.
    """
    shape = dataset.image_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ConfigError(f"baselines: expected images of 1 or 3 channels, got {shape}")
    backbone = backbone_named(config.model.backbone)
    alone, everything = (effort or Effort()).stages(config.recipe)
    torch.manual_seed(config.recipe.seed)
    whole = without_codec(
        backbone,
        width=config.model.width,
        image_shape=shape,
        classes=len(dataset.classes),
        split=config.split,
    ).to(device)
    fit(whole, dataset.train, config.recipe, progress=progress, name="ANN")
    rows = [_row("all on the edge (ANN)", whole, dataset)]
    for quality in qualities:
        upload = copy.deepcopy(whole)
        upload.cloud = torch.nn.Sequential(*upload.edge, *upload.cloud)
        upload.edge, upload.codec = torch.nn.Sequential(), JpegUpload(quality)
        pixels = (*shape[1:], 3) if shape[0] == 3 else shape[1:]
        header = 8 * header_bytes(pixels, quality)
        name = f"all in the cloud (JPEG {quality})"
        rows.append(_row(name, upload, dataset, quality=quality, header_bits_not_charged=header))

    features = _channels_behind(whole.edge, shape)
    calibration = as_input(dataset.train.images[:CALIBRATION], torch.device("cpu"))
    for name, codec in _codecs(config, features):
        model = copy.deepcopy(whole)
        model.codec = codec.to(device)
        fit(
            model,
            dataset.train,
            alone,
            only=codec.parameters(),
            progress=progress,
            name=f"{name}, codec",
        )
        fit(model, dataset.train, everything, progress=progress, name=name)
        rows.append(_row(name, model, dataset))
        if isinstance(codec, BottleNetPlusPlus):
            on_cpu = copy.deepcopy(model).cpu()
            small = quantised_edge(on_cpu, calibration)
            rows.append(_row(f"{name}, int8 edge", small, dataset, counted=on_cpu))
    return {
        "data": dataset.name,
        "backbone": backbone.name,
        "width": config.model.width,
        "split": config.split,
        "seed": config.recipe.seed,
        "rows": rows,
    }


def _codecs(config: Config, features: int) -> Iterator[tuple[str, FeatureCodec]]:
    neck, steps = config.bottleneck, config.model.steps
    yield "BottleNet", BottleNet(features, neck.channels, 2 * neck.stride)
    bytes_wide = max(1, round(neck.channels * steps / 8))
    yield "BottleNet++", BottleNetPlusPlus(features, bytes_wide, neck.stride)
    yield "1-bit CNN", OneBit(features, neck.channels * steps, neck.stride, neck.kernel)


def _channels_behind(edge: torch.nn.Module, shape: tuple[int, ...]) -> int:
    was_training = edge.training
    device = next(edge.parameters()).device
    with torch.no_grad():
        features = edge.eval()(torch.zeros(1, *shape, device=device))
    edge.train(was_training)
    return features.shape[1]


def _row(
    name: str,
    model: SplitAnn,
    dataset: Dataset,
    *,
    counted: SplitAnn | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {
        "name": name,
        **more,
        "validation": evaluate(model, dataset.validation, counted=counted).row(),
        "test": evaluate(model, dataset.test, counted=counted).row(),
    }
