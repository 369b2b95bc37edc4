"""What a codec is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from splitcore.codec.context import CodeContext


def longest_payload(spikes: int) -> int:
    """Bytes that no codec's payload of so many spikes and silences exceeds.

    Arithmetic coding sets it: 16 bits for a spike that was all but ruled out, and a little.
    """
    return spikes * 17 // 8 + 10


class Codec(ABC):
    """Spikes of one or more whole time steps to bytes and back.

    That is a sample or a part of one, or a group: k whole samples one after the other, k·T steps.
    `past_tchw` holds the steps before those in the payload (zero or more), which both sides have:
    a sample at once has none, a stream has all that came earlier. `decode` returns uint8
    (steps, C, H, W) or raises CodecError; its time and memory depend on the shape and on
    len(payload) alone, and the registry passes on none above `longest_payload`.
    """

    id: ClassVar[int]  # travels in every packet; never reused
    name: ClassVar[str]
    recoded: ClassVar[bool] = False  # many payloads decode alike; the one that encode writes counts

    def usable(self, context: CodeContext) -> bool:
        """Whether the context holds what this codec needs."""
        return True

    @abstractmethod
    def encode(self, spikes_tchw: np.ndarray, context: CodeContext, past_tchw: np.ndarray) -> bytes:
        """Spikes, checked uint8 of 0 and 1, as bytes."""

    @abstractmethod
    def decode(
        self, payload: bytes, context: CodeContext, past_tchw: np.ndarray, steps: int
    ) -> np.ndarray:
        """The inverse of `encode`."""

    def decode_many(
        self, payloads: Sequence[bytes], context: CodeContext
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Whole samples at once, where a codec has a quicker way than one by one; else None.

        Returns spikes uint8 (N, T, C, H, W), and bool (N,): whether `encode` writes that payload.
        Where not, the spikes mean nothing and `decode` knows what is wrong.
        """
        return None
