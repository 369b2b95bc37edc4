"""Every baseline on one data set at one split point, from one trained ANN, as rows of results."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import Progress

from splitcore.codec import context_fit
from splitcore.errors import ConfigError
from splitcore.splits import backbone_named
from training.baselines.bottlenet import BottleNet
from training.baselines.bottlenetpp import BottleNetPlusPlus
from training.baselines.codec import FeatureCodec
from training.baselines.edge_cost import edge_layers, raw_bits
from training.baselines.evaluate import codes, evaluate
from training.baselines.fit import fit
from training.baselines.int8_edge import quantised_edge
from training.baselines.jpeg import JpegUpload, header_bytes
from training.baselines.one_bit import OneBit
from training.baselines.rival import Rival
from training.baselines.split_ann import SplitAnn
from training.baselines.stored import Stored, as_input
from training.config import Bottleneck, Config, Recipe
from training.data.dataset import Dataset

QUALITIES = (5, 10, 25, 50, 75, 95)
CALIBRATION = 512  # training images that set the ranges of an int8 edge


def require_pictures(dataset: Dataset) -> None:
    """Raise ConfigError for images that JPEG has no form for."""
    shape = dataset.image_shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ConfigError(f"{dataset.name}: baselines take images of 1 or 3 channels, not {shape}")


def code_of(config: Config, where: str | Path) -> tuple[Bottleneck, int]:
    """The bottleneck that baselines are sized after, and its channels; ConfigError without one."""
    neck = config.bottleneck
    if neck is None or neck.channels is None:
        raise ConfigError(
            f"{where}: bottleneck.channels: baselines are sized after a code; there is none"
        )
    return neck, neck.channels


def study(
    config: Config,
    dataset: Dataset,
    whole: SplitAnn,
    *,
    only: Collection[Rival] = tuple(Rival),
    qualities: tuple[int, ...] = QUALITIES,
    progress: Progress | None = None,
    after: Callable[[dict[str, Any]], object] = lambda _result: None,
) -> dict[str, Any]:
    """Train and measure the baselines that belong beside the cut spiking run of this config.

    whole: the trained ANN they begin with. They train by the run's own recipe: as many epochs, of
    which as many for the codec alone, frozen blocks where the spiking one has them, and a teacher,
    which is the ANN itself. Codes are sized after the spiking one: the 1-bit CNN has as many bits
    in all as its T steps, BottleNet++ about as many, BottleNet as many channels. Each row holds the
    layers that the edge computes, the figures on the validation images, for choosing, and those on
    the test images. Each begins with the same seed, so that one alone (`only`) is what it is among
    all. after: is given the result so far whenever a row is added.
    Raises ConfigError for data that are no images of 1 or 3 channels, and without a bottleneck.
    """
    require_pictures(dataset)
    neck, channels = code_of(config, config.name)
    rows: list[dict[str, Any]] = []
    result = {
        "data": dataset.name,
        "backbone": config.model.backbone,
        "width": config.model.width,
        "split": config.split,
        "beside": config.name,
        "seed": config.recipe.seed,
        "rows": rows,
    }
    for row in itertools.chain(
        _whole_rows(dataset, whole, only, qualities),
        _split_rows(config, neck, channels, dataset, whole, only, progress),
    ):
        rows.append(row)
        after(result)
    return result


def _whole_rows(
    dataset: Dataset, whole: SplitAnn, only: Collection[Rival], qualities: tuple[int, ...]
) -> Iterator[dict[str, Any]]:
    """A row for each of those baselines that are not cut."""
    shape = dataset.image_shape
    if Rival.ANN in only:
        blocks = len(whole.edge) + len(whole.cloud)
        yield _row("all on the edge (ANN)", "all_edge", whole.cut_at(blocks, None), dataset)
    for quality in qualities if Rival.JPEG in only else ():
        upload = whole.cut_at(0, JpegUpload(quality))
        pixels = (*shape[1:], 3) if shape[0] == 3 else shape[1:]
        header = 8 * header_bytes(pixels, quality)
        name = f"all in the cloud (JPEG {quality})"
        yield _row(name, "all_cloud", upload, dataset, header_bits_not_charged=header)


def _split_rows(
    config: Config,
    neck: Bottleneck,
    channels: int,
    dataset: Dataset,
    whole: SplitAnn,
    only: Collection[Rival],
    progress: Progress | None,
) -> Iterator[dict[str, Any]]:
    """A row for each of those baselines that send features."""
    if {Rival.ANN, Rival.JPEG}.issuperset(only):
        return
    cut = backbone_named(config.model.backbone).index(config.split)
    features = _shape_behind(whole.cut_at(cut, None).edge, dataset.image_shape)
    calibration = as_input(dataset.train.some(CALIBRATION).images, torch.device("cpu"))
    device = whole.readout.weight.device
    stored = None
    if config.recipe.frozen_edge_views:
        kept = whole.cut_at(config.frozen_blocks, None).edge
        stored = Stored(kept, dataset.train, len(dataset.classes), config.recipe, device, progress)
    for rival, (name, make) in _codecs(neck, channels, config.model.steps, features).items():
        if rival not in only:
            continue
        torch.manual_seed(config.recipe.seed)
        codec = make()
        model = whole.cut_at(cut, codec.to(device))
        _train(model, name, config.recipe, dataset, stored, whole, progress)
        code = codes(model, dataset.train.some(context_fit.SAMPLES))
        codec.observe(code)
        header = codec.header_bits(tuple(code.shape[1:]))
        yield _row(name, "split", model, dataset, header_bits_not_charged=header)
        if isinstance(codec, BottleNetPlusPlus):
            on_cpu = copy.deepcopy(model).cpu()
            small = quantised_edge(on_cpu, calibration)
            yield _row(f"{name}, int8 edge", "split", small, dataset, counted=on_cpu)


def _train(
    model: SplitAnn,
    name: str,
    recipe: Recipe,
    dataset: Dataset,
    stored: Stored | None,
    teacher: SplitAnn,
    progress: Progress | None,
) -> None:
    """The codec alone, then all that may change, at half the rates: it starts from a working model.

    What the recipe gives no codec epochs of its own still gets one in four.
    """
    halved = {name: getattr(recipe, name) / 2 for name in ("learning_rate", "adamw_rate")}
    alone = recipe.codec_epochs or max(1, recipe.epochs // 4)
    rest = max(1, recipe.epochs - alone)
    for label, frozen, changed in (
        (f"{name}, codec", (model.edge, model.cloud, model.readout), {"epochs": alone}),
        (
            name,
            () if stored is None else (model.edge[: stored.blocks],),
            {"epochs": rest, **halved},
        ),
    ):
        fit(
            model,
            dataset.train,
            recipe.model_copy(update=changed),
            frozen=frozen,
            stored=stored,
            teacher=teacher,
            progress=progress,
            name=label,
        )


def _codecs(
    neck: Bottleneck, channels: int, steps: int, features: tuple[int, int, int]
) -> dict[Rival, tuple[str, Callable[[], FeatureCodec]]]:
    """features: (C, H, W) at the cut. BottleNet's stride is twice ours. None exceeds the map."""
    inputs, *sides = features
    stride, wider = min(neck.stride, *sides), min(2 * neck.stride, *sides)
    wide = max(1, round(channels * steps / 8))  # codes of a byte
    bits = channels * steps
    plusplus = Rival.BOTTLENET_PLUS_PLUS
    return {
        Rival.BOTTLENET: ("BottleNet", lambda: BottleNet(inputs, channels, wider)),
        plusplus: ("BottleNet++", lambda: BottleNetPlusPlus(inputs, wide, stride)),
        Rival.ONE_BIT: ("1-bit CNN", lambda: OneBit(inputs, bits, stride, neck.kernel)),
    }


def _shape_behind(edge: torch.nn.Module, shape: tuple[int, ...]) -> tuple[int, int, int]:
    was_training = edge.training
    device = next(edge.parameters()).device
    with torch.no_grad():
        features = edge.eval()(torch.zeros(1, *shape, device=device))
    edge.train(was_training)
    channels, height, width = features.shape[1:]
    return channels, height, width


def _row(
    name: str,
    kind: Literal["split", "all_edge", "all_cloud"],
    model: SplitAnn,
    dataset: Dataset,
    *,
    counted: SplitAnn | None = None,
    header_bits_not_charged: int = 0,
) -> dict[str, Any]:
    """One row; counted: the model whose edge is counted where `model` is its int8 copy."""
    floats = counted or model
    return {
        "name": name,
        "kind": kind,
        "edge_bits": 32 if counted is None else 8,
        "header_bits_not_charged": header_bits_not_charged,
        "raw_bits": raw_bits(floats, dataset.image_shape),
        "edge_layers": [asdict(layer) for layer in edge_layers(floats, dataset.image_shape)],
        "validation": evaluate(model, dataset.validation).row(),
        "test": evaluate(model, dataset.test).row(),
    }
