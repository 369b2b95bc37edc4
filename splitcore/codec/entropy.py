"""How few bits a set of code tensors could take: empirical entropies under stated models.

A model splits the spikes into contexts. Its empirical entropy is what a coder needs that has been
told, for nothing, how often each context fires on this very set:

    H = Σ over contexts k of  n_k · h(spikes_k / n_k) / samples      [bits a sample]
    h(p) = -p log2 p - (1 - p) log2 (1 - p)

"trained" is the model of `context_model` refitted to this very set (not the one that the bundle
carries): the mean of -log2 P(sample), probabilities and weights rounded as the codec rounds them.
Telling the model is not counted in any of them. So the more contexts, the lower the figure and the
harder for a codec that had to learn from other samples: counted models with fewer than MIN_VISITS
spikes coded to a context are left out. "trained" flatters the bound by 1 / (2 ln 2) bits for each
weight (Wilks 1938: fitting k weights gains k/2 nats of likelihood by chance), shared among the
samples; where that is more than MAX_FLATTERY of it, it says more of the weights than of the spikes
and is left out too.

A payload is whole bytes and stands alone; that costs 2.6 bits on average (8 - f - 8 · 2^(-f) with f
bits needed in the last byte, averaged over f), which no bound here includes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from splitcore.codec import context_fit, context_model
from splitcore.codec.context_model import ContextModel
from splitcore.codec.trained import code_length
from splitcore.errors import DataError

MIN_VISITS = 100  # a context seen less often costs more to describe than it saves
MAX_FLATTERY = 0.025  # of the bound: half of what a codec may be above it

Contexts = Callable[[np.ndarray], np.ndarray]


def _channel(code: np.ndarray) -> np.ndarray:
    return np.arange(code.shape[2])[:, None, None]


def _neuron(code: np.ndarray) -> np.ndarray:
    return np.arange(code[0, 0].size).reshape(code.shape[2:])


def _neuron_step(code: np.ndarray) -> np.ndarray:
    return np.arange(code[0].size).reshape(code.shape[1:])


def _shifted(code: np.ndarray, axis: int, by: int) -> np.ndarray:
    """The value `by` places earlier along an axis; 0 from outside."""
    moved = np.zeros_like(code)
    there, here = [slice(None)] * code.ndim, [slice(None)] * code.ndim
    size = code.shape[axis]
    there[axis] = slice(max(-by, 0), max(size - by, 0) if by > 0 else size)
    here[axis] = slice(max(by, 0), size if by > 0 else max(size + by, 0))
    moved[tuple(here)] = code[tuple(there)]
    return moved


def _history(code: np.ndarray) -> np.ndarray:
    """Up to three earlier steps of the same neuron, and how many there are: 15 states."""
    states = np.zeros(code.shape, dtype=np.int64)
    for lag in range(1, min(code.shape[1], context_model.MAX_PHASES)):
        states += _shifted(code, 1, lag).astype(np.int64) << (lag - 1)
    past = np.minimum(np.arange(code.shape[1]), context_model.MAX_PHASES - 1)
    return states + ((1 << past) - 1)[:, None, None, None]


def _states(planes: Sequence[np.ndarray]) -> np.ndarray:
    """Binary planes read as the digits of one number."""
    return np.tensordot(1 << np.arange(len(planes)), np.stack(planes), axes=1)


def _neighbours(code: np.ndarray) -> np.ndarray:
    """Left, above, above left and above right in the same step and channel: 16 states."""
    above = _shifted(code, 3, 1)
    return _states((_shifted(code, 4, 1), above, _shifted(above, 4, 1), _shifted(above, 4, -1)))


def _by(outer: Contexts, inner: Callable[[np.ndarray], np.ndarray], states: int) -> Contexts:
    return lambda code: outer(code) * states + inner(code)


def _mixed(code: np.ndarray) -> np.ndarray:
    """What the adaptive codec sees: left, above, one and two steps ago, the channel before."""
    places = ((4, 1), (3, 1), (1, 1), (1, 2), (2, 1))
    return _states([_shifted(code, axis, by) for axis, by in places])


MODELS: dict[str, Contexts] = {
    "channel": _channel,
    "neuron": _neuron,
    "neuron and step": _neuron_step,
    "channel and history": _by(_channel, _history, 15),
    "neuron and history": _by(_neuron, _history, 15),
    "channel and neighbours": _by(_channel, _neighbours, 16),
    "channel and adaptive's context": _by(_channel, _mixed, 32),
}


def entropies(code_ntchw: np.ndarray) -> dict[str, float]:
    """Bits a sample under each stated model that these spikes (N, T, C, H, W) can carry."""
    code = np.asarray(code_ntchw)
    if code.ndim != 5 or code.size == 0 or code.max() > 1:
        raise DataError(f"entropy: expected spikes (N, T, C, H, W), got {code.shape}")
    found = {}
    for name, contexts in MODELS.items():
        labels = contexts(code)
        if (int(labels.max()) + 1) * MIN_VISITS <= code.size or name == "channel":
            found[name] = counted(code, labels)
    return found


@dataclass(frozen=True)
class Refitted:
    """Bits a sample under the context model fitted to the very samples, and how many by chance."""

    bits: float
    flattery_bits: float

    @property
    def is_bound(self) -> bool:
        """Whether it speaks of the spikes rather than of its weights."""
        return self.flattery_bits <= MAX_FLATTERY * self.bits


def refitted(code_ntchw: np.ndarray) -> Refitted:
    """The context model's entropy, fitted to these very spikes (N, T, C, H, W)."""
    model = context_fit.fit(code_ntchw)
    weights = sum(int(np.count_nonzero(array)) for array in model.arrays)
    by_chance = weights / (2 * math.log(2) * len(code_ntchw))
    return Refitted(ideal_bits(code_ntchw, model), by_chance)


def ideal_bits(code_ntchw: np.ndarray, model: ContextModel) -> float:
    """Mean -log2 P(sample) under a model: what coding with it costs before whole bytes."""
    return float(np.mean([code_length(spikes, model) for spikes in code_ntchw]))


def counted(code_ntchw: np.ndarray, labels_ntchw: np.ndarray) -> float:
    """Empirical entropy in bits a sample, given each spike's context label (integers from 0)."""
    labels = np.broadcast_to(labels_ntchw, code_ntchw.shape).reshape(-1)
    visits = np.bincount(labels).astype(np.float64)
    spikes = np.bincount(labels, weights=code_ntchw.reshape(-1), minlength=len(visits))
    silences = visits - spikes
    bits = 0.0
    for part in (spikes, silences):
        some = part > 0
        bits -= float((part[some] * np.log2(part[some] / visits[some])).sum())
    return bits / len(code_ntchw)
