"""Gradients through some of the time steps only.

The steps of a still image are much alike, and so are their gradients. SLTT-K (Meng et al. 2023,
arXiv 2302.14311) runs forward through all T steps and back through K of them, drawn at random; here
it is K neighbours, and the next K for the next batch, so that time has a gradient within them. Sums
over a batch then run over those steps alone; their being smaller by K/T is nothing to an optimiser
that is blind to a gradient's length, as both of `training.optimise` are.

Tensors are (T·N, …), time slowest, so K neighbouring steps are one piece of memory.
"""

from __future__ import annotations

import torch

ALL = slice(0, None)


def turn(batch: int, steps: int, count: int) -> range:
    """The `count` steps of `steps` that batch number `batch` learns from."""
    if count >= steps:
        return range(steps)
    first = batch * count % steps
    return range(first, first + count)


def rows(chosen: range, steps: int, folded: torch.Tensor) -> slice:
    """Where those steps lie in a tensor (T·N, …)."""
    samples = len(folded) // steps
    return slice(chosen.start * samples, chosen.stop * samples)


def empty_but_zero_outside(like: torch.Tensor, chosen: slice) -> torch.Tensor:
    """Memory like a tensor's, to be filled in those rows, zero in the others."""
    found = torch.empty_like(like)
    first, last, _ = chosen.indices(len(like))
    found[:first] = 0
    found[last:] = 0
    return found
