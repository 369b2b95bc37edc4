"""A trained model's answers on its exact integers; accuracy with its confidence interval."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from splitcore import spikes
from training.model import SplitModel


@dataclass(frozen=True, eq=False)
class Answers:
    """code_ntchw: uint8 spikes at the cut; scores_nk: float32, the mean over steps."""

    code_ntchw: np.ndarray
    scores_nk: np.ndarray

    @property
    def labels_n(self) -> np.ndarray:
        """The class of the highest score of each sample."""
        return self.scores_nk.argmax(axis=1)


def levels(images: np.ndarray, input_bits: int) -> np.ndarray:
    """uint8 images as graded levels of input_bits; event frames as 0 and 1."""
    return spikes.levels(images, input_bits) if input_bits else (images > 0).astype(np.uint8)


def answers(
    model: SplitModel,
    images: np.ndarray,
    batch: int = 256,
    done: Callable[[int], None] | None = None,
) -> Answers:
    """Run uint8 images (N, C, H, W) or event frames (N, T, C, H, W) in evaluation mode.

    done: told after each batch how many images it had.
    """
    device = next(model.parameters()).device

    def features() -> Iterator[torch.Tensor]:
        for start in range(0, len(images), batch):
            chunk = levels(images[start : start + batch], model.input.message_bits)
            yield model.features(torch.from_numpy(chunk).to(device))
            if done is not None:
                done(len(chunk))

    return answers_behind(model, features())


def answers_behind(model: SplitModel, features: Iterable[torch.Tensor]) -> Answers:
    """The same of spikes (T·N, C, H, W) behind the edge's blocks, a batch after the other."""
    was_training = model.training
    model.eval()
    codes, scores = [], []
    with torch.no_grad():
        for part in features:
            code = model.squeeze(part)
            scores.append(model.decode(code).mean(0).float().cpu().numpy())
            code = code.unflatten(0, (model.steps, -1)).transpose(0, 1)
            codes.append(code.to(torch.uint8).cpu().numpy())
    model.train(was_training)
    return Answers(np.concatenate(codes), np.concatenate(scores))


def firing_rates(model: SplitModel, images: np.ndarray) -> list[float]:
    """Spikes a neuron and step of every edge layer in order, over these images."""
    seen: list[list[float]] = [[] for _ in model.edge_layers()]

    def note(index: int) -> Callable[..., None]:
        return lambda _layer, _events, spikes: seen[index].append(float(spikes.float().mean()))

    hooks = [
        layer.register_forward_hook(note(index)) for index, layer in enumerate(model.edge_layers())
    ]
    try:
        answers(model, images, batch=len(images))
    finally:
        for hook in hooks:
            hook.remove()
    return [rates[0] for rates in seen]


def accuracy(predicted_n: np.ndarray, labels_n: np.ndarray) -> float:
    """The share of samples that were classified right."""
    return float((predicted_n == labels_n).mean())
