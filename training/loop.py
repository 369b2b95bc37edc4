"""The training loop: float epochs, then epochs on the folded integers, a checkpoint after each."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch.utils.tensorboard.writer import SummaryWriter

from splitcore.errors import ConfigError, DataError
from training import checkpoint, evaluate
from training.blocks import Norm
from training.config import Config
from training.data.augment import augment
from training.data.dataset import Dataset
from training.losses import Terms, loss
from training.model import SplitModel

log = logging.getLogger(__name__)

WARM_UP = 0.15  # share of the steps in which the learning rate rises


@dataclass(frozen=True)
class Trained:
    """A finished run and its exact accuracy on the validation images."""

    model: SplitModel
    path: Path
    validation_accuracy: float
    history: list[dict[str, float]]


def fit(
    config: Config,
    dataset: Dataset,
    out: Path,
    *,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> Trained:
    """Train, writing checkpoint and TensorBoard curves into the folder `out`.

    resume goes on from the checkpoint there; without it an existing one is an error. On one thread
    the same config and data give the same weights; with more, sums may come in another order.
    """
    recipe = config.recipe
    torch.manual_seed(recipe.seed)
    model = config.build(dataset.image_shape, len(dataset.classes)).to(device)
    decayed = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    plain = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": plain, "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
    )
    order = torch.Generator().manual_seed(recipe.seed)
    generators = {"order": order}
    path = out / checkpoint.FILE
    done, history = 0, []
    if resume:
        found = checkpoint.load(path)
        if found.config != config:
            raise ConfigError(f"{path}: was trained with another config; choose another --out")
        if found.data_digest != dataset.digest:
            raise DataError(f"{path}: was trained on other images than {dataset.name}")
        found.restore(model, optimiser, generators)
        done, history = found.epoch, found.history
    elif path.exists():
        raise ConfigError(f"{path}: exists; go on with --resume or choose another --out")
    out.mkdir(parents=True, exist_ok=True)

    batches = max(1, len(dataset.train) // recipe.batch_size)
    total = recipe.epochs * batches
    task = progress.add_task("train", total=total, completed=done * batches) if progress else None
    with SummaryWriter(str(out)) as writer:
        for epoch in range(done, recipe.epochs):
            folded = epoch >= recipe.epochs - recipe.folded_epochs
            model.set_norm(Norm.FOLDED if folded else Norm.FLOAT)
            model.train()
            sums: dict[str, float] = {}
            permutation = torch.randperm(len(dataset.train), generator=order).numpy()
            noise = np.random.default_rng((recipe.seed, epoch))
            for index in range(batches):
                rate = _learning_rate(recipe.learning_rate, epoch * batches + index, total)
                for group in optimiser.param_groups:
                    group["lr"] = rate
                chosen = permutation[index * recipe.batch_size : (index + 1) * recipe.batch_size]
                terms = _step(model, optimiser, config, dataset, chosen, noise, device)
                for name in Terms.__dataclass_fields__:
                    sums[name] = sums.get(name, 0.0) + float(getattr(terms, name))
                if progress is not None and task is not None:
                    progress.update(task, advance=1)
            row = {name: value / batches for name, value in sums.items()}
            if not math.isfinite(row["total"]):
                raise ConfigError(
                    f"recipe: loss is {row['total']} in epoch {epoch + 1}; lower learning_rate"
                )
            answers = evaluate.answers(model, dataset.validation.images)
            row["validation_accuracy"] = evaluate.accuracy(
                answers.labels_n, dataset.validation.labels_n
            )
            row["code_rate"] = float(answers.code_ntchw.mean())
            history.append({"epoch": epoch + 1, **row})
            for name, value in row.items():
                writer.add_scalar(name, value, epoch + 1)
            writer.add_scalar("learning_rate", optimiser.param_groups[0]["lr"], epoch + 1)
            log.info("epoch %d: %s", epoch + 1, row)
            if progress is not None and task is not None:
                accuracy = f"{100 * row['validation_accuracy']:.1f} %"
                progress.update(task, description=f"train (validation {accuracy})")
            checkpoint.save(
                path,
                config=config,
                classes=dataset.classes,
                image_shape=dataset.image_shape,
                data_digest=dataset.digest,
                epoch=epoch + 1,
                history=history,
                model=model,
                optimiser=optimiser,
                generators=generators,
            )
    return Trained(model, path, history[-1]["validation_accuracy"], history)


def _learning_rate(peak: float, step: int, total: int) -> float:
    """Linear rise, then half a cosine to zero."""
    rise = max(1, int(WARM_UP * total))
    if step < rise:
        return peak * (step + 1) / rise
    return peak * 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))


def _step(
    model: SplitModel,
    optimiser: torch.optim.Optimizer,
    config: Config,
    dataset: Dataset,
    chosen: np.ndarray,
    noise: np.random.Generator,
    device: str,
) -> Terms:
    images = dataset.train.images[chosen]
    change = config.recipe.augment
    if change.padding or change.flip or change.cutout:
        images = augment(
            images, noise, padding=change.padding, flip=change.flip, cutout=change.cutout
        )
    frames = torch.from_numpy(evaluate.levels(images, config.model.input_bits)).to(device)
    labels = torch.from_numpy(dataset.train.labels_n[chosen]).to(device)
    code = model.encode(frames)
    rates = [layer.rate for layer in model.edge_layers() if layer.rate is not None]
    edge_rate = torch.stack(rates).mean()
    terms = loss(model.decode(code), labels, code, edge_rate, config.recipe)
    optimiser.zero_grad()
    terms.total.backward()
    optimiser.step()
    return terms
