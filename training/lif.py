"""SLAYER's CUBA LIF over all time steps at once, with time as the leading axis.

The equations, the exponential surrogate and the way gradients skip the reset are those of lava-dl
(slayer/neuron/cuba.py, dynamics/leaky_integrator.py, spike/spike.py); their computation is ours.

    v[t] = (1 − d) · v[t-1] · (1 − s[t-1]) + i[t];   s[t] = v[t] > θ
    backward:  ∂s/∂v = scale / (2 τ) · exp(−|v − θ| / τ),   g_i[t] = (1 − d) · g_i[t+1] + g_v[t]
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from splitcore.graph import DECAY_UNITY

# SLAYER's own multipliers of tau_grad and scale_grad (slayer/neuron/cuba.py).
TAU_RHO_MULT, SCALE_RHO_MULT = 100, 0.1


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


class _Lif(torch.autograd.Function):
    @staticmethod
    def forward(ctx, current: torch.Tensor, p: LifParameters) -> torch.Tensor:
        keep = 1 - p.voltage_decay / DECAY_UNITY
        work = current.float() if p.state_scale == 0 else current.double() * p.state_scale
        threshold = p.threshold * (p.state_scale or 1)
        voltage = torch.empty_like(work)
        state = torch.zeros_like(work[0])
        for step in range(len(work)):
            decayed = state * keep
            if p.state_scale:  # |state| < 2^23 and keep has 12 bits: exact in float64
                decayed = torch.trunc(decayed)
            state = decayed + work[step]
            voltage[step] = state
            state = state * (state <= threshold)
        ctx.p = p
        ctx.save_for_backward((voltage / threshold).float())
        return (voltage > threshold).to(current.dtype)

    @staticmethod
    def backward(ctx, grad_spikes: torch.Tensor):
        (relative,) = ctx.saved_tensors
        p: LifParameters = ctx.p
        keep = 1 - p.voltage_decay / DECAY_UNITY
        # τ is given in thresholds, so the derivative by the voltage carries 1 / θ.
        slope = p.scale / (2 * p.tau * p.threshold) * torch.exp(-(relative - 1).abs() / p.tau)
        grad = grad_spikes.float() * slope
        for step in range(len(grad) - 2, -1, -1):
            grad[step] += keep * grad[step + 1]
        return grad.to(grad_spikes.dtype), None


def lif(current_tn: torch.Tensor, parameters: LifParameters) -> torch.Tensor:
    """Spikes (0/1, dtype of the current) of currents (T, N, …); the state starts at zero."""
    return _Lif.apply(current_tn, parameters)
