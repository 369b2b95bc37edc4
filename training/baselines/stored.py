"""What frozen blocks give for some views of every training image, computed once for all codecs."""

from __future__ import annotations

import numpy as np
import torch
from rich.progress import Progress

from training.augmentation import empty_labels, views
from training.config import Recipe
from training.data.dataset import Split


def as_input(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 images (N, C, H, W) as 0 … 1, channels last."""
    values = torch.from_numpy(images).to(device).float() / 255
    return values.contiguous(memory_format=torch.channels_last)


class Stored:
    """Features (views, N, C, H, W) behind blocks that do not change, in half precision, and the
    labels of each view.
    """

    def __init__(
        self,
        blocks: torch.nn.Sequential,
        train: Split,
        classes: int,
        recipe: Recipe,
        device: torch.device,
        progress: Progress | None = None,
    ) -> None:
        """Run the blocks over `recipe.frozen_edge_views` views."""
        self.blocks = len(blocks)
        count = recipe.frozen_edge_views
        task = progress.add_task("frozen edge", total=count * len(train)) if progress else None
        was_training = blocks.training
        blocks.eval()
        self._views: list[torch.Tensor] = []
        self._labels, self._device = empty_labels(train, classes, recipe), device
        for view in views(train, classes, recipe):
            with torch.no_grad():
                features = blocks(as_input(view.images, device)).half().cpu()
            if view.index == len(self._views):
                self._views.append(features.new_empty(len(train), *features.shape[1:]))
            self._views[view.index][torch.from_numpy(view.rows)] = features
            self._labels[view.index, view.rows] = view.labels
            if progress is not None and task is not None:
                progress.update(task, advance=len(view.rows))
        blocks.train(was_training)

    def batch(self, rows: np.ndarray, epoch: int) -> tuple[torch.Tensor, np.ndarray]:
        """Features and labels of these images; each epoch looks at the next view."""
        view = epoch % len(self._views)
        features = self._views[view][torch.from_numpy(rows)].to(self._device).float()
        return features.contiguous(memory_format=torch.channels_last), self._labels[view, rows]
