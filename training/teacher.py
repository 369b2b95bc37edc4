"""The scores of trained runs, for another to learn from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch

from training import evaluate
from training.baselines.split_ann import SplitAnn
from training.baselines.stored import as_input
from training.lif import fast_dtype
from training.model import SplitModel


class Teacher:
    """A callable: uint8 images (N, C, H, W) -> scores (N, classes), without a gradient.

    Of several networks it is the logarithm of the mean of their probabilities.
    """

    def __init__(self, models: Sequence[SplitModel | SplitAnn], device: str) -> None:
        self.models = [model.to(device).eval().requires_grad_(False) for model in models]
        self.device = torch.device(device)

    def behind(
        self, model: SplitModel, blocks: int
    ) -> Callable[[np.ndarray, torch.Tensor], torch.Tensor]:
        """The same of images whose spikes (T·N, C, H, W) behind the model's first blocks are known.

        A network that begins with those blocks, weights and neurons alike, goes on from the spikes.
        """
        alike = [_begin_alike(network, model, blocks) for network in self.models]

        def scores(images: np.ndarray, spikes: torch.Tensor) -> torch.Tensor:
            return _mean(
                [
                    self._after(network, spikes, blocks) if same else self._of(network, images)
                    for network, same in zip(self.models, alike, strict=True)
                ]
            )

        return scores

    def __call__(self, images: np.ndarray) -> torch.Tensor:
        """Scores of these images, as they are."""
        return _mean([self._of(network, images) for network in self.models])

    def _after(
        self, network: SplitModel | SplitAnn, spikes: torch.Tensor, blocks: int
    ) -> torch.Tensor:
        assert isinstance(network, SplitModel)
        features = network.features_after(spikes, blocks)
        scores = evaluate.answers_behind(network, [features]).scores_nk
        return torch.from_numpy(scores).to(self.device)

    def _of(self, network: SplitModel | SplitAnn, images: np.ndarray) -> torch.Tensor:
        if isinstance(network, SplitModel):
            return torch.from_numpy(evaluate.answers(network, images).scores_nk).to(self.device)
        low = fast_dtype(self.device)
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, low, enabled=low == torch.bfloat16),
        ):
            return network(as_input(images, self.device)).float()


def _mean(scores: list[torch.Tensor]) -> torch.Tensor:
    if len(scores) == 1:
        return scores[0]
    return torch.stack(scores).log_softmax(-1).logsumexp(0) - math.log(len(scores))


def _begin_alike(network: SplitModel | SplitAnn, model: SplitModel, blocks: int) -> bool:
    """Whether the network's first blocks are the edge's of the model."""
    if not isinstance(network, SplitModel) or len(network.edge) < blocks:
        return False
    ours, theirs = (each.first_blocks(blocks).state_dict() for each in (network, model))
    return ours.keys() == theirs.keys() and all(
        torch.equal(value, theirs[key]) for key, value in ours.items()
    )
