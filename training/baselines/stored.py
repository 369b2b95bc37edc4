"""What frozen blocks give for some views of every training image, computed once for all codecs."""

from __future__ import annotations

import numpy as np
import torch
from rich.progress import Progress

from training.augmentation import views
from training.config import Recipe
from training.data.dataset import Split


def as_input(images: np.ndarray, device: torch.device) -> torch.Tensor:
    """uint8 images (N, C, H, W) as 0 … 1, channels last."""
    values = torch.from_numpy(images).to(device).float() / 255
    return values.contiguous(memory_format=torch.channels_last)


class Stored:
    """Features (views, N, C, H, W) behind blocks that do not change, in half precision."""

    def __init__(
        self,
        blocks: torch.nn.Sequential,
        train: Split,
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
        found: list[list[torch.Tensor]] = [[] for _ in range(count)]
        for view, _, images in views(train.images, recipe):
            with torch.no_grad():
                found[view].append(blocks(as_input(images, device)).half().cpu())
            if progress is not None and task is not None:
                progress.update(task, advance=len(images))
        blocks.train(was_training)
        # A view's parts are let go as soon as they are joined: together they may fill the memory.
        self._views, self._device = [torch.cat(found.pop(0)) for _ in range(count)], device

    def batch(self, rows: np.ndarray, epoch: int) -> torch.Tensor:
        """Features of these images; each epoch looks at the next view."""
        features = self._views[epoch % len(self._views)][torch.from_numpy(rows)]
        return features.to(self._device).float().contiguous(memory_format=torch.channels_last)
