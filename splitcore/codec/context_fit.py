"""Fit a context model: one small logistic regression for each phase and channel.

Newton's method on the cross-entropy with a quadratic penalty, as if each weight were drawn from a
normal distribution, and each neuron's bias from one of NEURON_WIDTH around its channel's. The more
channels a neuron sees, the narrower that of the weights, so that what all of them say together has
one width: PRIOR_WIDTH a tap. A few samples give the start and the shape of the curvature, all of
them the answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
from splitcore.spikes import SpikeShape

PRIOR_WIDTH = 1.0  # log-odds; of a weight where there is one channel
NEURON_WIDTH = 1.0  # log-odds; of a neuron's bias around its channel's
MAX_VALUES = 24_000_000  # of one design matrix in float32; more samples than fit are left out
OWN_VALUES = 2_000_000  # of that of a channel that sees itself alone
NEWTON_VALUES = 4_000_000  # of its part on which whole Hessians are taken
MAX_MIXED = 64  # channels that see each other: that cost grows with their cube
MAX_STEPS = 30  # of either kind; half of them are rarely needed
MAX_HALVINGS = 8  # of a step that gains nothing
LARGE_STEP = 4.0  # log-odds; Newton overshoots on rates near 0 and 1
SMALL_GAIN = 1e-3  # nats a sample: what is left to gain is not worth a step
FAIR_GAIN = 0.25  # of what a step should gain; below, its curvature is too wrong to go on with
_TAPS = len(NOW_OFFSETS) + len(BEFORE_OFFSETS) + MAX_PHASES - 2

SAMPLES = 8192  # training images whose codes are worth fitting to


def fit(code_ntchw: np.ndarray, done: Callable[[], None] | None = None) -> ContextModel:
    """The context model of code spikes (N, T, C, H, W) of training images.

    Channels see each other up to MAX_MIXED of them, in wider codes each sees itself alone. Samples
    are taken at random, always the same ones, until a limit is reached: images may come in the
    order of their classes, and the few that begin the fit must be like all. Deterministic on one
    machine; the result is rounded to integers and then travels in the bundle, so that it need not
    be the same on another. done: called after each of the `regressions` that this takes. Raises
    DataError for what are no spikes.
    """
    code = np.asarray(code_ntchw)
    if code.ndim != 5 or code.size == 0 or code.max() > 1:
        raise DataError(f"context model: expected spikes (N, T, C, H, W), got {code.shape}")
    code = code[np.random.default_rng(0).permutation(len(code))]
    _, steps, channels, height, width = code.shape
    if channels <= MAX_MIXED:
        return _fit(code, MAX_VALUES, done)

    def alone(channel: int) -> ContextModel:
        return _fit(code[:, :, channel : channel + 1], OWN_VALUES, done)

    with ThreadPoolExecutor() as pool:
        models = list(pool.map(alone, range(channels)))
    bias, *weights = zip(*(model.arrays for model in models), strict=True)
    return ContextModel(
        (steps, channels, height, width),
        np.concatenate(bias, axis=3),
        *(np.concatenate(each, axis=2) for each in weights),
    )


def regressions(shape: SpikeShape) -> int:
    """How many regressions a code of this shape (T, C, H, W) takes."""
    return phases(shape[0]) * shape[1]


def _fit(code: np.ndarray, most_values: int, done: Callable[[], None] | None) -> ContextModel:
    _, steps, channels, height, width = code.shape
    count, now = phases(steps), len(NOW_OFFSETS)
    bias = np.zeros((count, height, width, channels))
    weights = np.zeros((count, _TAPS, channels, channels))
    for phase in range(count):
        own = range(phase, steps if phase == MAX_PHASES - 1 else phase + 1)
        taps = _taps(phase)
        values = (len(taps) * channels + 1) * len(own) * height * width
        chosen = code[: max(1, most_values // values)]
        design = np.concatenate([_design(chosen, step, taps) for step in own])
        for channel in range(channels):
            # the same place's later channels are the last columns
            known = 1 + (len(taps) - 1) * channels + channel
            target = np.concatenate([chosen[:, step, channel] for step in own])
            seen, seeing = design[:, :, :known], target.reshape(len(target), -1)
            neuron, flat = _fitted(seen, seeing, PRIOR_WIDTH / math.sqrt(channels))
            bias[phase, :, :, channel] = neuron.reshape(height, width)
            flat = np.pad(flat, (0, channels - channel)).reshape(-1, channels)
            weights[phase, taps, :, channel] = flat
            if done is not None:
                done()
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


@dataclass
class _Curvature:
    """The Hessian [[weights, crossᵀ], [cross, neuron]], its last block a diagonal."""

    weights_ff: np.ndarray
    cross_pf: np.ndarray
    neuron_p: np.ndarray

    def solve(
        self, gradient_f: np.ndarray, gradient_p: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Newton's step; a system of the weights' size alone (Schur complement)."""
        shared = self.cross_pf / self.neuron_p[:, None]
        reduced = self.weights_ff - self.cross_pf.T @ shared
        step_f = np.linalg.solve(reduced, gradient_f - shared.T @ gradient_p)
        return step_f, (gradient_p - self.cross_pf @ step_f) / self.neuron_p

    def rescaled(self, diagonal_f: np.ndarray, diagonal_p: np.ndarray) -> _Curvature:
        """The same correlations with another diagonal."""
        scale_f = np.sqrt(diagonal_f / np.diagonal(self.weights_ff))
        scale_p = np.sqrt(diagonal_p / self.neuron_p)
        return _Curvature(
            self.weights_ff * scale_f * scale_f[:, None],
            self.cross_pf * scale_f * scale_p[:, None],
            diagonal_p,
        )


@dataclass
class _Slope:
    """Where a regression stands: its cost in nats, the gradient, p (1 - p) of each target."""

    cost: float
    gradient_f: np.ndarray
    gradient_p: np.ndarray
    curve_np: np.ndarray


class _Regression:
    """Logistic regression of a target (N, places) on a design (N, places, features)."""

    def __init__(self, target_np: np.ndarray, features: int, width: float) -> None:
        self.weights, self.neuron = np.zeros(features), np.zeros(target_np.shape[1])
        rate = target_np.mean().clip(1e-4, 1 - 1e-4)
        self.weights[0] = math.log(rate / (1 - rate))
        self.ridge = np.full(features, width**-2)
        self.ridge[0] = 1e-3  # only keeps the system solvable
        self.ridge_neuron = NEURON_WIDTH**-2

    def newton(self, rows: np.ndarray, target_np: np.ndarray) -> _Curvature:
        """Newton's steps until one gains next to nothing; returns the last curvature."""
        slope = self._slope(rows, target_np)
        for _ in range(MAX_STEPS):
            curve = slope.curve_np
            scaled = rows * curve.reshape(-1, 1).astype(np.float32)
            hessian = (rows.T @ scaled).astype(np.float64) + np.diag(self.ridge)
            cross = scaled.reshape(*target_np.shape, -1).sum(axis=0, dtype=np.float64)
            curvature = _Curvature(hessian, cross, curve.sum(axis=0) + self.ridge_neuron)
            slope, due, _ = self._step(rows, target_np, slope, curvature)
            if due < SMALL_GAIN * len(target_np):
                break
        return curvature

    def polish(self, rows: np.ndarray, target_np: np.ndarray, curvature: _Curvature) -> None:
        """Steps on more samples with a curvature whose correlations come from a few of them.

        Where those few mislead, all samples give the curvature after all.
        """
        slope = self._slope(rows, target_np)
        for _ in range(MAX_STEPS):
            # rows hold 0 and 1, so their squares are themselves
            diagonal = slope.curve_np.reshape(-1).astype(np.float32) @ rows + self.ridge
            diagonal_neuron = slope.curve_np.sum(axis=0) + self.ridge_neuron
            borrowed = curvature.rescaled(diagonal, diagonal_neuron)
            slope, due, gain = self._step(rows, target_np, slope, borrowed)
            if due < SMALL_GAIN * len(target_np):
                return
            if gain < FAIR_GAIN * due:
                break
        self.newton(rows, target_np)

    def _slope(self, rows: np.ndarray, target_np: np.ndarray) -> _Slope:
        odds = (rows @ self.weights.astype(np.float32)).reshape(target_np.shape) + self.neuron
        probability = 1 / (1 + np.exp(-odds))
        error = probability - target_np
        penalty = self.ridge @ self.weights**2 + self.ridge_neuron * self.neuron @ self.neuron
        return _Slope(
            float((np.logaddexp(0, odds) - target_np * odds).sum() + penalty / 2),
            error.reshape(-1).astype(np.float32) @ rows + self.ridge * self.weights,
            error.sum(axis=0) + self.ridge_neuron * self.neuron,
            probability * (1 - probability),
        )

    def _step(
        self, rows: np.ndarray, target_np: np.ndarray, slope: _Slope, curvature: _Curvature
    ) -> tuple[_Slope, float, float]:
        """Step until the cost is lower; returns the slope there, the gain due and the gain.

        due: nats, were the cost a parabola of this curvature. A step is halved until it gains; at
        the smallest the place stays and the gain is 0.
        """
        step_f, step_p = curvature.solve(slope.gradient_f, slope.gradient_p)
        due = float(slope.gradient_f @ step_f + slope.gradient_p @ step_p) / 2
        scale = min(1.0, LARGE_STEP / max(np.abs(step_f).max(), np.abs(step_p).max(), 1e-9))
        weights, neuron = self.weights, self.neuron
        for _ in range(MAX_HALVINGS):
            self.weights, self.neuron = weights - scale * step_f, neuron - scale * step_p
            there = self._slope(rows, target_np)
            if there.cost < slope.cost:
                return there, due, slope.cost - there.cost
            scale /= 2
        self.weights, self.neuron = weights, neuron
        return slope, due, 0.0


def _fitted(
    design_npf: np.ndarray, target_np: np.ndarray, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Neuron biases (places,) and weights (features - 1,) in log-odds that code the target best.

    width: of the normal distribution that the weights are taken to come from.
    """
    count, places, features = design_npf.shape
    rows = design_npf.reshape(count * places, -1)
    fit = _Regression(target_np, features, width)
    few = math.ceil(NEWTON_VALUES / (places * features))
    curvature = fit.newton(rows[: few * places], target_np[:few])
    if few < count:
        fit.polish(rows, target_np, curvature)
    return fit.neuron + fit.weights[0], fit.weights[1:]
