"""The scores of a trained run, for another to learn from."""

from __future__ import annotations

import numpy as np
import torch

from training import evaluate
from training.baselines.split_ann import SplitAnn
from training.baselines.stored import as_input
from training.lif import fast_dtype
from training.model import SplitModel


class Teacher:
    """A callable: uint8 images (N, C, H, W) -> scores (N, classes), without a gradient."""

    def __init__(self, model: SplitModel | SplitAnn, device: str) -> None:
        self.model = model.to(device).eval().requires_grad_(False)
        self.device = torch.device(device)

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        """Scores of these images, as they are."""
        if isinstance(self.model, SplitModel):
            return torch.from_numpy(evaluate.answers(self.model, images).scores_nk).to(self.device)
        low = fast_dtype(self.device)
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, low, enabled=low == torch.bfloat16),
        ):
            return self.model(as_input(images, self.device)).float()
