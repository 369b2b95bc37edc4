"""The optimiser and its schedule, one for spiking runs and for what they are compared with.

    adamw   Loshchilov and Hutter (arXiv 1711.05101) for everything
    muon    kernels by momentum made orthogonal (Jordan 2024, kellerjordan.github.io/posts/muon);
            what is no kernel, and kernels of one input channel (depthwise), by AdamW

The learning rate rises in a line, then falls to zero along half a cosine.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from pytorch_optimizer import Muon

from training.config import Recipe

WARM_UP = 0.15  # share of the steps in which the learning rate rises


def optimiser_of(parameters: Iterable[torch.nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimiser over those parameters that require a gradient."""
    chosen = [p for p in parameters if p.requires_grad]
    plain = [p for p in chosen if p.ndim <= 1]
    if recipe.optimiser == "adamw":
        decayed = [p for p in chosen if p.ndim > 1]
        return torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": recipe.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=recipe.learning_rate,
        )
    kernels = [p for p in chosen if _dense_kernel(p)]
    others = [p for p in chosen if p.ndim > 1 and not _dense_kernel(p)]
    decay, rate = recipe.weight_decay, recipe.adamw_rate
    return Muon(
        [
            {
                "params": kernels,
                "lr": recipe.learning_rate,
                "weight_decay": decay,
                "use_muon": True,
            },
            {"params": others, "lr": rate, "weight_decay": decay, "use_muon": False},
            {"params": plain, "lr": rate, "weight_decay": 0.0, "use_muon": False},
        ],
        momentum=0.9,
    )


def _dense_kernel(parameter: torch.nn.Parameter) -> bool:
    return parameter.ndim >= 4 and parameter.shape[1] > 1


def peaks(optimiser: torch.optim.Optimizer) -> list[float]:
    """The highest learning rate of each group, before anything was scheduled."""
    return [group["lr"] for group in optimiser.param_groups]


def schedule(
    optimiser: torch.optim.Optimizer, peak_rates: list[float], step: int, total: int
) -> None:
    """Set the learning rates of a step."""
    rise = max(1, int(WARM_UP * total))
    if step < rise:
        share = (step + 1) / rise
    else:
        share = 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, total - rise)))
    for group, peak in zip(optimiser.param_groups, peak_rates, strict=True):
        group["lr"] = peak * share
