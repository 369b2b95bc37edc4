"""What one network or the mean of several says of images."""

import numpy as np
import torch

from training.teacher import Teacher


class _Sure(torch.nn.Module):
    """A network that has the same scores for every image."""

    def __init__(self, *scores: float) -> None:
        super().__init__()
        self.scores = torch.tensor(scores)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.scores.expand(len(images), -1)


def _of(*networks: _Sure) -> torch.Tensor:
    return Teacher(networks, "cpu")(np.zeros((2, 3, 4, 4), np.uint8))  # type: ignore[arg-type]


def test_one_teacher_says_its_own_scores() -> None:
    assert torch.equal(_of(_Sure(3.0, -1.0)), torch.tensor([[3.0, -1.0]] * 2))


def test_of_several_the_probabilities_are_averaged_however_sure_one_is() -> None:
    half = torch.tensor([0.5, 0.5])
    both = _of(_Sure(*half.log().tolist()), _Sure(3e3, 0.0))
    assert torch.allclose(both.softmax(-1), torch.tensor([[0.75, 0.25]] * 2))
    assert torch.isfinite(_of(_Sure(3e3, 0.0), _Sure(3e3, 0.0))).all()
