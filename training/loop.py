"""The training loop, a checkpoint after each epoch.

one-step epochs   a single time step (optional), then all T
codec epochs      encoder, decoder and readout alone (optional), then everything that may change
float epochs      batch statistics; the last epochs run the folded integers themselves
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress
from torch.utils.tensorboard.writer import SummaryWriter

from training import backward_steps, checkpoint, evaluate, optimise, parallel
from training.augmentation import require_crop
from training.baselines.split_ann import SplitAnn
from training.batches import Batch, Batches, Fresh
from training.blocks import Norm, NormedConv
from training.config import Config, Recipe
from training.data.dataset import Dataset
from training.frozen_edges import FrozenEdges
from training.losses import Terms, loss, require_finite
from training.model import SplitModel
from training.teacher import Teacher

log = logging.getLogger(__name__)


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
    begin: Callable[[SplitModel], None] | None = None,
    teachers: Sequence[SplitModel | SplitAnn] = (),
    resume: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
    frozen: FrozenEdges | None = None,
) -> Trained:
    """Train, writing checkpoint and TensorBoard curves into the folder `out`.

    begin: gives the new model the weights of `config.start`; teachers: those of `config.teacher`.
    frozen: what runs with frozen edges share.
    resume goes on from the checkpoint there; without it an existing one is an error. On one thread
    the same config and data give the same weights; with more, sums may come in another order.
    """
    recipe = config.recipe
    require_crop(dataset.train.images, recipe)
    parallel.share(np.arange(recipe.batch_size))  # refused before anything is written
    torch.manual_seed(recipe.seed)
    model = config.build(dataset.image_shape, len(dataset.classes)).to(device)
    if begin is not None:
        begin(model)
    optimiser = optimise.optimiser_of(model.parameters(), recipe)
    peaks = optimise.peaks(optimiser)
    order = torch.Generator().manual_seed(recipe.seed)
    generators = {"order": order}
    path = out / checkpoint.FILE
    done, history = 0, []
    found = checkpoint.resumed(path, config, dataset, resume)
    if found is not None:
        found.restore(model, optimiser, generators)
        done, history = found.epoch, found.history

    guide = Teacher(teachers, device) if teachers else None
    source: Batches = Fresh(config, dataset, guide, device)
    if recipe.frozen_edge_views:
        edges = FrozenEdges() if frozen is None else frozen
        source = edges.of(config, dataset, model, guide, device, progress)
    batches = max(1, len(dataset.train) // recipe.batch_size)
    total = recipe.epochs * batches
    task = progress.add_task("train", total=total, completed=done * batches) if progress else None
    with SummaryWriter(str(out)) if parallel.leads() else nullcontext() as writer:
        for epoch in range(done, recipe.epochs):
            _enter(model, config, epoch)
            forward = parallel.averaging(_Forward(model, config.frozen_blocks))
            sums: dict[str, float] = {}
            permutation = torch.randperm(len(dataset.train), generator=order).numpy()
            noise = parallel.noise(recipe.seed, epoch)
            for index in range(batches):
                number = epoch * batches + index
                optimise.schedule(optimiser, peaks, number, total)
                if recipe.backward_steps:
                    learning = backward_steps.turn(number, model.steps, recipe.backward_steps)
                    model.set_backward_steps(learning)
                chosen = permutation[index * recipe.batch_size : (index + 1) * recipe.batch_size]
                batch = source.batch(parallel.share(chosen), epoch, noise)
                terms = _step(forward, optimiser, batch, recipe)
                for name in Terms.__dataclass_fields__:
                    sums[name] = sums.get(name, 0.0) + float(getattr(terms, name))
                if progress is not None and task is not None:
                    progress.update(task, advance=1)
            row = {name: value / batches for name, value in sums.items()}
            require_finite(row["total"], epoch)
            answers = source.validate(model)
            row["validation_accuracy"] = evaluate.accuracy(
                answers.labels_n, dataset.validation.labels_n
            )
            row["code_rate"] = float(answers.code_ntchw.mean())
            history.append({"epoch": epoch + 1, **row})
            if writer is not None:
                for name, value in row.items():
                    writer.add_scalar(name, value, epoch + 1)
                writer.add_scalar("learning_rate", optimiser.param_groups[0]["lr"], epoch + 1)
            log.info("epoch %d: %s", epoch + 1, row)
            if progress is not None and task is not None:
                accuracy = f"{100 * row['validation_accuracy']:.1f} %"
                progress.update(task, description=f"train (validation {accuracy})")
            if parallel.leads():
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
            parallel.wait()
    return Trained(model, path, history[-1]["validation_accuracy"], history)


def _enter(model: SplitModel, config: Config, epoch: int) -> None:
    """Put the model into the state of this epoch: steps, norms, and what may change."""
    recipe = config.recipe
    model.set_steps(1 if epoch < recipe.one_step_epochs else config.model.steps)
    folded = epoch >= recipe.epochs - recipe.folded_epochs
    model.set_norm(Norm.FOLDED if folded else Norm.FLOAT)
    for layer in model.spiking_layers():
        layer.precise = recipe.precise
    model.train()
    codec_alone = epoch < recipe.codec_epochs
    for number, block in enumerate([*model.edge.values(), *model.cloud.values()]):
        frozen = codec_alone or number < config.frozen_blocks
        block.train(not frozen)
        for conv in block.modules():
            if isinstance(conv, NormedConv):
                conv.requires_grad_(not frozen)


class _Forward(torch.nn.Module):
    """A model as one call that DDP can wrap: scores, code and the edge's mean rate of a batch."""

    def __init__(self, model: SplitModel, frozen_blocks: int) -> None:
        super().__init__()
        self.model, self.frozen_blocks = model, frozen_blocks

    def forward(
        self, frames: torch.Tensor | None, features: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of frames, or of the spikes behind the frozen blocks."""
        if features is None:
            assert frames is not None
            features = self.model.features(frames)
        else:
            features = self.model.features_after(features, self.frozen_blocks)
        code = self.model.squeeze(features)
        rates = [layer.rate for layer in self.model.edge_layers() if layer.rate is not None]
        rate = torch.stack(rates).mean() if rates else torch.zeros((), device=code.device)
        return self.model.decode(code), code, rate


def _step(
    forward: torch.nn.Module, optimiser: torch.optim.Optimizer, batch: Batch, recipe: Recipe
) -> Terms:
    scores, code, rate = forward(batch.frames, batch.features)
    terms = loss(scores, batch.labels, code, rate, recipe, batch.teacher_nk)
    optimiser.zero_grad()
    terms.total.backward()
    optimiser.step()
    return terms
