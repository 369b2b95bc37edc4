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

    def begins_with(self, model: SplitModel, blocks: int) -> bool:
        """Whether its first blocks are the edge's of this model, weights and neurons alike."""
        if not isinstance(self.model, SplitModel) or len(self.model.edge) < blocks:
            return False
        ours, theirs = (each.first_blocks(blocks).state_dict() for each in (self.model, model))
        return ours.keys() == theirs.keys() and all(
            torch.equal(value, theirs[key]) for key, value in ours.items()
        )

    def after(self, spikes: torch.Tensor, blocks: int) -> torch.Tensor:
        """Scores of images whose spikes (T·N, C, H, W) behind its first blocks are known."""
        assert isinstance(self.model, SplitModel)
        features = self.model.features_after(spikes, blocks)
        scores = evaluate.answers_behind(self.model, [features]).scores_nk
        return torch.from_numpy(scores).to(self.device)

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
