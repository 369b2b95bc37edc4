"""Training a baseline by a spiking run's recipe: batches, augmentation, optimiser, schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rich.progress import Progress

from splitcore.errors import ConfigError
from training import optimise, parallel, taps
from training.augmentation import changed, mixed, require_crop
from training.baselines.split_ann import SplitAnn
from training.baselines.stored import Stored, as_input
from training.checkpoint import Checkpoint
from training.config import Recipe
from training.data.dataset import Split
from training.lif import fast_dtype
from training.losses import divergence, require_finite


@dataclass(frozen=True)
class Epoch:
    """What has been reached at the end of an epoch; order draws the next one's batches."""

    index: int
    loss: float
    optimiser: torch.optim.Optimizer
    order: torch.Generator


def fit(
    model: SplitAnn,
    train: Split,
    recipe: Recipe,
    *,
    frozen: Iterable[torch.nn.Module] = (),
    begin: Checkpoint | None = None,
    after: Callable[[Epoch], None] | None = None,
    stored: Stored | None = None,
    teacher: SplitAnn | None = None,
    progress: Progress | None = None,
    name: str = "baseline",
) -> list[float]:
    """Train in place, on the device the model is on; returns the mean loss of each epoch.

    frozen: parts that stay as they are, running statistics included, such as everything but a codec
    that is put into a trained model; what belongs to spikes in the recipe (folded_epochs,
    penalties, step_loss) has no meaning here.
    begin: where an earlier run of this recipe stopped; after: called at the end of each epoch.
    stored: features behind the edge's frozen blocks, which then do not run.
    teacher: an uncut network whose scores of the same inputs are learned from too, by
    `recipe.distillation`. Its first blocks are those that gave what is stored.
    Raises ConfigError for events, and where the loss is no number any more.
    """
    if train.images.ndim != 4:
        raise ConfigError(f"{name}: baselines take images, got events {train.images.shape[1:]}")
    if stored is None:
        require_crop(train.images, recipe)
    torch.manual_seed(recipe.seed)
    device = next(model.parameters()).device
    skipped = 0 if stored is None else stored.blocks
    if teacher is not None:
        teacher.eval()
    model.train().requires_grad_(True)
    for part in frozen:
        part.eval().requires_grad_(False)
    optimiser = optimise.optimiser_of(model.parameters(), recipe)
    peaks = optimise.peaks(optimiser)
    batches = max(1, len(train) // recipe.batch_size)
    order = torch.Generator().manual_seed(recipe.seed)
    low, classes = fast_dtype(device), model.readout.out_features
    task = progress.add_task(name, total=recipe.epochs * batches) if progress else None
    losses, done = [], 0
    if begin is not None:
        begin.restore(model, optimiser, {"order": order})
        done = begin.epoch
    forward = parallel.averaging(model)
    with taps.unreached_are_zero(model):
        for epoch in range(done, recipe.epochs):
            noise = parallel.noise(recipe.seed, epoch)
            permutation = torch.randperm(len(train), generator=order).numpy()
            total = 0.0
            for index in range(batches):
                chosen = permutation[index * recipe.batch_size : (index + 1) * recipe.batch_size]
                rows = parallel.share(chosen)
                if stored is None:
                    images = changed(train.images[rows], recipe, noise, epoch)
                    images, labels = mixed(images, train.labels_n[rows], classes, recipe, noise)
                    inputs = as_input(images, device)
                else:
                    inputs, labels = stored.batch(rows, epoch)
                with torch.autocast(device.type, low, enabled=low == torch.bfloat16):
                    scores = forward(inputs, blocks=skipped).float()
                    taught = _scores(teacher, inputs, skipped)
                loss = _loss(scores, torch.from_numpy(labels).to(device), taught, recipe)
                number = epoch * batches + index
                optimise.schedule(optimiser, peaks, number, recipe.epochs * batches)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                total += float(loss.detach())
                if progress is not None and task is not None:
                    progress.update(task, advance=1)
            losses.append(total / batches)
            require_finite(losses[-1], epoch)
            if after is not None:
                after(Epoch(epoch, losses[-1], optimiser, order))
    return losses


@torch.no_grad()
def _scores(teacher: SplitAnn | None, inputs: torch.Tensor, skipped: int) -> torch.Tensor | None:
    return None if teacher is None else teacher(inputs, blocks=skipped).float()


def _loss(
    scores: torch.Tensor, labels: torch.Tensor, taught: torch.Tensor | None, recipe: Recipe
) -> torch.Tensor:
    """Cross entropy, and of a teacher's scores the divergence from them."""
    loss = F.cross_entropy(scores, labels, label_smoothing=recipe.label_smoothing)
    if taught is None:
        return loss
    share, temperature = recipe.distillation.weight, recipe.distillation.temperature
    return (1 - share) * loss + share * divergence(scores, taught, temperature)
