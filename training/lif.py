"""SLAYER's CUBA LIF over all time steps at once, with batch norm and residual sum before it.

The equations, the exponential surrogate and the way gradients skip the reset are those of lava-dl
(slayer/neuron/cuba.py, dynamics/leaky_integrator.py, spike/spike.py); their computation is ours.

    drive  i = Σ_k a_k·(x_k − μ_k) + bias + identity · events,   a_k = γ_k / √(σ_k² + ε)
    v[t] = (1 − d) · v[t-1] · (1 − s[t-1]) + i[t];   s[t] = v[t] > θ
    backward:  ∂s/∂v = scale / (2 τ) · exp(−|v − θ| / τ),   g_i[t] = (1 − d) · g_i[t+1] + g_v[t]

Time is folded into the batch, slowest: tensors are (T·N, C, H, W). On the CPU all of it is done by
`training.kernels` in a few passes; elsewhere, or without numba, by torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from splitcore.graph import DECAY_UNITY
from training import backward_steps, tiling

try:
    from training import floats, kernels
except ImportError:  # no numba: torch does the same, slower
    floats = kernels = None

# SLAYER's own multipliers of tau_grad and scale_grad (slayer/neuron/cuba.py).
TAU_RHO_MULT, SCALE_RHO_MULT = 100, 0.1


def fast_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device computes in it, else float32."""
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = device.type == "cpu" and floats is not None and floats.native_bfloat16()
    return torch.bfloat16 if fast else torch.float32


@dataclass(frozen=True)
class LifParameters:
    """θ, decay (of 4096) and surrogate in the units of the current that is passed in.

    state_scale: how much finer the state is held than the current; 0 for real numbers, 64 for the
    chip's integers, where the decayed state is cut to an integer towards zero.
    """

    threshold: float
    voltage_decay: int
    tau: float  # in thresholds
    scale: float
    state_scale: int = 0

    @property
    def keep(self) -> float:
        """1 − d."""
        return 1 - self.voltage_decay / DECAY_UNITY


@dataclass(frozen=True)
class BatchNorm:
    """Gain γ, what is added to the variance, and a first guess of the mean, each (C,)."""

    gain: torch.Tensor
    epsilon: torch.Tensor
    guess: torch.Tensor


@dataclass(frozen=True)
class Moments:
    """Batch mean and biased variance of one conv's sums, each (C,); no gradient flows here."""

    mean: torch.Tensor
    variance: torch.Tensor


class _Lif(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, current: torch.Tensor, p: LifParameters, chosen: range) -> torch.Tensor:
        work = current.float() if p.state_scale == 0 else current.double() * p.state_scale
        threshold = p.threshold * (p.state_scale or 1)
        voltage = torch.empty_like(work)
        state = torch.zeros_like(work[0])
        for step in range(len(work)):
            decayed = state * p.keep
            if p.state_scale:  # |state| < 2^23 and keep has 12 bits: exact in float64
                decayed = torch.trunc(decayed)
            state = decayed + work[step]
            voltage[step] = state
            state = state * (state <= threshold)
        ctx.p, ctx.chosen = p, chosen
        ctx.save_for_backward((voltage / threshold).float())
        return (voltage > threshold).to(current.dtype)

    @staticmethod
    def backward(ctx: Any, grad_spikes: torch.Tensor):  # type: ignore[override]
        (relative,) = ctx.saved_tensors
        p: LifParameters = ctx.p
        # τ is given in thresholds, so the derivative by the voltage carries 1 / θ.
        slope = p.scale / (2 * p.tau * p.threshold) * torch.exp(-(relative - 1).abs() / p.tau)
        grad = torch.zeros_like(slope)
        later = torch.zeros_like(slope[0])
        for step in reversed(ctx.chosen):
            later = grad_spikes[step].float() * slope[step] + p.keep * later
            grad[step] = later
        return grad.to(grad_spikes.dtype), None, None


def lif(current_tn: torch.Tensor, parameters: LifParameters, chosen: range) -> torch.Tensor:
    """Spikes (0/1, dtype of the current) of currents (T, N, …), in plain torch from rest.

    chosen: the steps that have a gradient, neighbours.
    """
    spikes = _Lif.apply(current_tn, parameters, chosen)
    assert spikes is not None
    return spikes


class _FusedLif(torch.autograd.Function):
    """The whole layer by `training.kernels`; norms hold (gain, epsilon, guess) or nothing."""

    @staticmethod
    def forward(
        ctx: Any,
        p: LifParameters,
        steps: int,
        chosen: range,
        identity: float,
        bias: torch.Tensor,
        extra: torch.Tensor | None,
        convs: int,
        *tensors: torch.Tensor,
    ):
        assert kernels is not None
        dtype = tensors[0].dtype
        sums = [tiling.channels_last(x.to(dtype)) for x in tensors[:convs]]
        gains, epsilons, guesses = (tensors[start::3] for start in range(convs, convs + 3))
        means, variances, roots, scales = [], [], [], [torch.ones_like(bias)] * convs
        drive_bias = bias.detach().float()
        if gains:
            scales = []
            for x, gain, epsilon, guess in zip(sums, gains, epsilons, guesses, strict=True):
                mean, variance = kernels.moments(x, guess)
                root = torch.rsqrt(variance + epsilon)
                means.append(mean)
                variances.append(variance)
                roots.append(root)
                scales.append(gain.detach() * root)
                drive_bias = drive_bias - scales[-1] * mean
        if extra is not None:
            extra = tiling.channels_last(extra.to(dtype))
        layer = kernels.Layer(
            sums,
            scales,
            drive_bias,
            extra,
            identity=identity,
            steps=steps,
            keep=p.keep,
            threshold=p.threshold,
            state_scale=p.state_scale,
        )
        spikes, rate = layer.forward()
        ctx.p, ctx.layer, ctx.convs, ctx.identity, ctx.chosen = p, layer, convs, identity, chosen
        ctx.normed = bool(gains)
        # The sums and events live on in `layer`, as views: saved here, so that a change in place
        # of one of them is noticed.
        ctx.save_for_backward(*sums, *([] if extra is None else [extra]))
        ctx.vectors = means, roots, scales
        moments = [vector for pair in zip(means, variances, strict=True) for vector in pair]
        ctx.mark_non_differentiable(*moments)
        ctx.set_materialize_grads(False)
        return spikes, rate, *moments

    @staticmethod
    def backward(ctx: Any, grad_spikes, grad_rate, *_moments):  # type: ignore[override]
        assert kernels is not None
        p: LifParameters = ctx.p
        sums = ctx.saved_tensors[: ctx.convs]
        means, roots, scales = ctx.vectors
        if grad_spikes is None:
            grad_spikes = torch.zeros_like(sums[0])
        grad, reduced = ctx.layer.backward(
            tiling.channels_last(grad_spikes.to(sums[0].dtype)),
            0.0 if grad_rate is None else float(grad_rate) / grad_spikes.numel(),
            tau=p.tau,
            scale=p.scale,
            threshold=p.threshold,
            chosen=ctx.chosen,
            centres=means if ctx.normed else None,
        )
        grad_bias = reduced[0].float()
        grad_extra = None
        if len(ctx.saved_tensors) > ctx.convs:
            grad_extra = grad if ctx.identity == 1 else grad * ctx.identity
        if not ctx.normed:
            return None, None, None, None, grad_bias, grad_extra, None, *[grad] * ctx.convs
        chosen = backward_steps.rows(ctx.chosen, ctx.layer.steps, grad)
        count = grad[chosen, 0].numel()
        grads, vectors = [], []
        for x, mean, root, scale, product in zip(
            sums, means, roots, scales, reduced[1:], strict=False
        ):
            slope = -scale * root * root * (product / count).float()
            offset = -scale * (reduced[0] / count).float() - slope * mean
            grads.append(kernels.normed_backward(grad, x, scale, slope, offset, chosen))
            vectors += [(product * root).float(), None, None]
        return None, None, None, None, grad_bias, grad_extra, None, *grads, *vectors


def normed_lif(
    sums: Sequence[torch.Tensor],
    norms: Sequence[BatchNorm],
    bias: torch.Tensor,
    extra: torch.Tensor | None,
    *,
    identity: float,
    steps: int,
    parameters: LifParameters,
    chosen: range,
) -> tuple[torch.Tensor, torch.Tensor, list[Moments]]:
    """Spikes (T·N, C, H, W) of a layer, their mean, and the moments of each conv's sums.

    sums: of each conv, (T·N, C, H, W); norms: one for each of them, or none, where the sums are
    added as they are; extra: events that enter with the weight `identity`; chosen: the steps that
    have a gradient, neighbours (`training.backward_steps`). Without norms and with whole sums below
    2^24 the spikes are exact.
    """
    sums = list(sums)
    if kernels is not None and len(sums) <= kernels.MOST_CONVS and tiling.supports(sums[0]):
        vectors = [v for norm in norms for v in (norm.gain, norm.epsilon, norm.guess)]
        outputs = _FusedLif.apply(
            parameters, steps, chosen, float(identity), bias, extra, len(sums), *sums, *vectors
        )
        assert outputs is not None
        spikes, rate, *found = outputs
        return spikes, rate, [Moments(*pair) for pair in zip(found[::2], found[1::2], strict=True)]

    moments: list[Moments] = []
    drive = bias[None, :, None, None]
    for index, values in enumerate(sums):
        if norms:
            values = values.float()
            mean, variance = _moments(values, chosen, steps)
            moments.append(Moments(mean.detach(), variance.detach()))
            scale = norms[index].gain * torch.rsqrt(variance + norms[index].epsilon)
            values = (values - mean[:, None, None]) * scale[:, None, None]
        drive = drive + values
    if extra is not None:
        drive = drive + identity * extra.to(drive.dtype)
    spikes = lif(drive.unflatten(0, (steps, -1)), parameters, chosen).flatten(0, 1)
    spikes = spikes.to(sums[0].dtype)
    return spikes, spikes.float().mean(), moments


def _moments(x: torch.Tensor, chosen: range, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each channel over all steps, with the gradient that the chosen
    steps alone would give them.
    """
    dimensions = (0, 2, 3)
    if len(chosen) == steps:
        variance, mean = torch.var_mean(x, dimensions, correction=0)
        return mean, variance
    variance, mean = torch.var_mean(x.detach(), dimensions, correction=0)
    off = x[backward_steps.rows(chosen, steps, x)] - mean[:, None, None]
    first, second = off.mean(dimensions), off.square().mean(dimensions)
    return mean + (first - first.detach()), variance + (second - second.detach())
