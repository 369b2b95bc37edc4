"""What training minimises: cross-entropy of the answer, early answers, spikes and bits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from splitcore.errors import ConfigError
from training.config import Recipe


@dataclass(frozen=True)
class Terms:
    """The weighted sum and its parts, each a scalar tensor; teacher is 0 without one."""

    total: torch.Tensor
    answer: torch.Tensor
    teacher: torch.Tensor
    steps: torch.Tensor
    rate: torch.Tensor
    code_bits: torch.Tensor


def code_entropy(code_mchw: torch.Tensor) -> torch.Tensor:
    """Entropy in bits of one spike position when each channel fires at its mean rate."""
    rate = code_mchw.float().mean((0, 2, 3)).clamp(1e-6, 1 - 1e-6)
    return -(rate * rate.log2() + (1 - rate) * (1 - rate).log2()).mean()


def divergence(
    scores_nk: torch.Tensor, teacher_nk: torch.Tensor, temperature: float
) -> torch.Tensor:
    """KL divergence from the teacher's softened answer, times temperature² (arXiv 1503.02531)."""
    ours = F.log_softmax(scores_nk / temperature, dim=-1)
    theirs = F.log_softmax(teacher_nk / temperature, dim=-1)
    return F.kl_div(ours, theirs, log_target=True, reduction="batchmean") * temperature**2


def loss(
    scores_tnk: torch.Tensor,
    labels: torch.Tensor,
    code_mchw: torch.Tensor,
    edge_rate: torch.Tensor,
    recipe: Recipe,
    teacher_nk: torch.Tensor | None = None,
) -> Terms:
    """All terms. labels: ids (N,) or shares of the classes (N, K); edge_rate: the mean firing rate
    of the edge layers.
    """
    answer = F.cross_entropy(scores_tnk.mean(0), labels, label_smoothing=recipe.label_smoothing)
    steps = len(scores_tnk)
    running = scores_tnk.cumsum(0) / torch.arange(
        1, steps + 1, device=scores_tnk.device, dtype=scores_tnk.dtype
    ).reshape(-1, 1, 1)
    early = F.cross_entropy(
        running.flatten(0, 1), torch.cat([labels] * steps), label_smoothing=recipe.label_smoothing
    )
    code_bits = code_entropy(code_mchw)
    labels = (1 - recipe.step_loss) * answer + recipe.step_loss * early
    teacher, share = torch.zeros_like(answer), 0.0
    if teacher_nk is not None:
        share = recipe.distillation.weight
        teacher = divergence(scores_tnk.mean(0), teacher_nk, recipe.distillation.temperature)
    total = (
        (1 - share) * labels
        + share * teacher
        + recipe.rate_penalty * edge_rate
        + recipe.code_penalty * code_bits
    )
    return Terms(total, answer, teacher, early, edge_rate, code_bits)


def require_finite(mean: float, epoch: int) -> None:
    """Raise ConfigError where the mean loss of an epoch (0 …) is no number any more."""
    if not math.isfinite(mean):
        raise ConfigError(f"recipe: loss is {mean} in epoch {epoch + 1}; lower learning_rate")
