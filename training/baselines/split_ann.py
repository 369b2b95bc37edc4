"""An ordinary network with something in between: the model of every baseline.

    images ── edge ── codec ── cloud ── mean over space ── scores

Without a codec everything runs on the edge and only the class is sent, one byte of it. With a
`JpegUpload` and an empty edge everything runs in the cloud.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from splitcore.splits import Backbone
from training.backbones import scaled
from training.baselines.ann import ann_blocks
from training.baselines.codec import FeatureCodec
from training.baselines.jpeg import JpegUpload


@dataclass(frozen=True)
class Answers:
    """Payloads and scores (N, classes) of a batch."""

    payloads: tuple[bytes, ...]
    scores_nk: torch.Tensor


class SplitAnn(torch.nn.Module):
    """Blocks of a backbone (training.baselines.ann) cut behind the first `cut` of them."""

    def __init__(
        self,
        blocks: Sequence[torch.nn.Module],
        cut: int,
        codec: FeatureCodec | JpegUpload | None,
        features: int,
        classes: int,
    ) -> None:
        super().__init__()
        self.edge = torch.nn.Sequential(*blocks[:cut])
        self.codec = codec
        self.cloud = torch.nn.Sequential(*blocks[cut:])
        self.readout = torch.nn.Linear(features, classes)

    def finish(self, features: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes) of what arrived in the cloud."""
        return self.readout(self.cloud(features).mean((2, 3)))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes) of images 0 … 1 (N, C, H, W), differentiable."""
        features = self.edge(images)
        return self.finish(features if self.codec is None else self.codec(features))

    def answer(self, images: torch.Tensor) -> Answers:
        """The same over real payloads, without a gradient."""
        with torch.no_grad():
            features = self.edge(images)
            if self.codec is None:
                scores = self.finish(features)
                classes = scores.argmax(1).tolist()
                size = max(1, (scores.shape[1] - 1).bit_length() + 7 >> 3)
                return Answers(tuple(label.to_bytes(size, "big") for label in classes), scores)
            sent = self.codec.transmit(features)
            return Answers(sent.payloads, self.finish(sent.features))


def without_codec(
    backbone: Backbone,
    *,
    width: int,
    image_shape: tuple[int, int, int],
    classes: int,
    split: str | None = None,
) -> SplitAnn:
    """An untrained ANN; split names the last block of its edge half, all of them where None."""
    blocks = ann_blocks(backbone, width=width, input_shape=image_shape)
    cut = len(blocks) if split is None else backbone.index(split)
    last = scaled(backbone.blocks[-1].channels, backbone, width)
    return SplitAnn(blocks, cut, None, last, classes).to(memory_format=torch.channels_last)
