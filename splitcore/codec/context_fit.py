"""Fit a context model: one small logistic regression for each phase and channel.

Newton's method on the mean cross-entropy with a quadratic penalty (as if each weight were drawn
from a normal distribution of width PRIOR_WIDTH; the biases' from NEURON_WIDTH around their
channel's). The per-neuron biases make a diagonal block, so a step solves a system of the size of
the neighbourhood alone (Schur complement).
"""

from __future__ import annotations

import math

import numpy as np

from splitcore.codec.context_model import (
    BEFORE_OFFSETS,
    MAX_PHASES,
    NOW_OFFSETS,
    ODDS_UNITY,
    ContextModel,
    phases,
)
from splitcore.errors import DataError

PRIOR_WIDTH = 2.0  # log-odds; of the weights
NEURON_WIDTH = 1.0  # log-odds; of a neuron's bias around its channel's
MAX_VALUES = 12_000_000  # of one design matrix in float32; more samples than fit are left out
NEWTON_STEPS = 12
COARSE = 16
LARGE_STEP = 4.0  # log-odds; Newton overshoots on rates near 0 and 1
SMALL_GAIN = 1.0  # nats over the whole set: what is left to gain is not worth a step
_TAPS = len(NOW_OFFSETS) + len(BEFORE_OFFSETS) + MAX_PHASES - 2


def fit(code_ntchw: np.ndarray) -> ContextModel:
    """The context model of code spikes (N, T, C, H, W) of training images.

    Samples are taken evenly from the set until MAX_VALUES is reached. Deterministic on one machine;
    the result is rounded to integers and then travels in the bundle, so that it need not be the
    same on another.
    """
    code = np.asarray(code_ntchw)
    if code.ndim != 5 or code.size == 0 or code.max() > 1:
        raise DataError(f"context model: expected spikes (N, T, C, H, W), got {code.shape}")
    _, steps, channels, height, width = code.shape
    count, now = phases(steps), len(NOW_OFFSETS)
    bias = np.zeros((count, height, width, channels))
    weights = np.zeros((count, _TAPS, channels, channels))
    for phase in range(count):
        own = range(phase, steps if phase == MAX_PHASES - 1 else phase + 1)
        taps = _taps(phase)
        values = (len(taps) * channels + 1) * len(own) * height * width
        chosen = code[:: math.ceil(len(code) * values / MAX_VALUES)]
        design = np.concatenate([_design(chosen, step, taps) for step in own])
        for channel in range(channels):
            # the same place's later channels are the last columns
            known = 1 + (len(taps) - 1) * channels + channel
            target = np.concatenate([chosen[:, step, channel] for step in own])
            neuron, flat = _fitted(design[:, :, :known], target.reshape(len(target), -1))
            bias[phase, :, :, channel] = neuron.reshape(height, width)
            flat = np.pad(flat, (0, channels - channel)).reshape(-1, channels)
            weights[phase, taps, :, channel] = flat
    rounded = np.rint(weights * ODDS_UNITY).clip(-32768, 32767).astype(np.int16)
    before = now + len(BEFORE_OFFSETS)
    return ContextModel(
        (steps, channels, height, width),
        np.rint(bias * ODDS_UNITY).clip(-32768, 32767).astype(np.int16),
        rounded[:, :now],
        rounded[:, now:before],
        rounded[:, before:],
    )


def _taps(phase: int) -> list[int]:
    """The taps that have something to see, by place in (now, before, older); same place last."""
    same, now, before = NOW_OFFSETS.index((0, 0)), len(NOW_OFFSETS), len(BEFORE_OFFSETS)
    taps = [tap for tap in range(now) if tap != same]
    if phase > 0:
        taps += range(now, now + before)
    taps += [now + before + lag - 2 for lag in range(2, phase + 1)]
    return [*taps, same]


def _design(code: np.ndarray, step: int, taps: list[int]) -> np.ndarray:
    """What the taps see at a step: float32 (N, places, 1 + taps · C), a one and then tap by tap."""
    now, before = len(NOW_OFFSETS), len(BEFORE_OFFSETS)
    count, _, channels, height, width = code.shape
    design = np.ones((count, height, width, 1 + len(taps) * channels), dtype=np.float32)
    for index, tap in enumerate(taps):
        if tap < now:
            seen = _moved(code[:, step], NOW_OFFSETS[tap])
        elif tap < now + before:
            seen = _moved(code[:, step - 1], BEFORE_OFFSETS[tap - now])
        else:
            seen = code[:, step - (tap - now - before + 2)]
        first = 1 + index * channels
        design[..., first : first + channels] = seen.transpose(0, 2, 3, 1)
    return design.reshape(count, height * width, -1)


def _moved(plane_nchw: np.ndarray, offset: tuple[int, int]) -> np.ndarray:
    """The plane as seen from places whose source lies at `offset` (y, x); zeros from outside."""
    height, width = plane_nchw.shape[2:]
    padded = np.pad(plane_nchw, ((0, 0), (0, 0), (1, 1), (1, 1)))
    y, x = 1 + offset[0], 1 + offset[1]
    return padded[:, :, y : y + height, x : x + width]


def _fitted(design_npf: np.ndarray, target_np: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Neuron biases (places,) and weights (features - 1,) in log-odds that code the target best.

    Newton's steps on a sixteenth of the samples come first: from there the whole needs few.
    """
    count, places, features = design_npf.shape
    weights, neuron = np.zeros(features), np.zeros(places)
    rate = target_np.mean().clip(1e-4, 1 - 1e-4)
    weights[0] = math.log(rate / (1 - rate))
    coarse = count // COARSE
    if coarse * places >= 8 * features:
        _newton(design_npf[:coarse], target_np[:coarse], weights, neuron)
    _newton(design_npf, target_np, weights, neuron)
    return neuron + weights[0], weights[1:]


def _newton(
    design: np.ndarray, target: np.ndarray, weights: np.ndarray, neuron: np.ndarray
) -> None:
    """Improve weights and neuron in place until a step gains next to nothing."""
    count, places, features = design.shape
    rows = design.reshape(count * places, features)
    ridge = np.full(features, PRIOR_WIDTH**-2)
    ridge[0] = 1e-3  # only keeps the system solvable
    ridge_neuron = NEURON_WIDTH**-2
    for _ in range(NEWTON_STEPS):
        odds = (rows @ weights.astype(np.float32)).reshape(count, places) + neuron
        probability = 1 / (1 + np.exp(-odds))
        error = probability - target
        curve = probability * (1 - probability)
        gradient = error.reshape(-1).astype(np.float32) @ rows + ridge * weights
        gradient_neuron = error.sum(axis=0) + ridge_neuron * neuron
        scaled = rows * curve.reshape(-1, 1).astype(np.float32)
        hessian = (rows.T @ scaled).astype(np.float64) + np.diag(ridge)
        cross = scaled.reshape(count, places, -1).sum(axis=0, dtype=np.float64)
        diagonal = curve.sum(axis=0) + ridge_neuron
        reduced = hessian - cross.T @ (cross / diagonal[:, None])
        step = np.linalg.solve(reduced, gradient - cross.T @ (gradient_neuron / diagonal))
        step_neuron = (gradient_neuron - cross @ step) / diagonal
        size = max(np.abs(step).max(), np.abs(step_neuron).max())
        scale = min(1.0, LARGE_STEP / size)
        weights -= step * scale
        neuron -= step_neuron * scale
        if gradient @ step + gradient_neuron @ step_neuron < SMALL_GAIN:
            break
