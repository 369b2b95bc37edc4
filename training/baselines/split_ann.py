"""An ordinary network with something in between: the model of every baseline.

    images ── edge ── codec ── cloud ── mean over space ── scores

Without a codec everything runs on the edge and only the class is sent, one byte of it. With a
`JpegUpload` and an empty edge everything runs in the cloud.
"""

from __future__ import annotations

import copy
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

    def cut_at(self, cut: int, codec: FeatureCodec | JpegUpload | None) -> SplitAnn:
        """A copy of this model, cut behind its first `cut` blocks, with another codec."""
        again = copy.deepcopy(self)
        blocks = [*again.edge, *again.cloud]
        again.edge, again.cloud = (
            torch.nn.Sequential(*part) for part in (blocks[:cut], blocks[cut:])
        )
        again.codec = codec
        return again

    @property
    def class_bytes(self) -> int:
        """What the number of a class takes: the payload of a network that is not cut."""
        return max(1, (self.readout.out_features - 1).bit_length() + 7 >> 3)

    def finish(self, features: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes) of what arrived in the cloud."""
        return self.readout(self.cloud(features).mean((2, 3)))

    def forward(self, inputs: torch.Tensor, blocks: int = 0) -> torch.Tensor:
        """Scores (N, classes) of images 0 … 1 (N, C, H, W), differentiable.

        blocks: the inputs are features that the first so many blocks of the edge gave before.
        """
        features = self.edge[blocks:](inputs)
        return self.finish(features if self.codec is None else self.codec(features))

    def answer(self, images: torch.Tensor) -> Answers:
        """The same over real payloads, without a gradient."""
        with torch.no_grad():
            features = self.edge(images)
            if self.codec is None:
                scores = self.finish(features)
                classes = scores.argmax(1).tolist()
                size = self.class_bytes
                return Answers(tuple(label.to_bytes(size, "big") for label in classes), scores)
            sent = self.codec.transmit(features)
            return Answers(sent.payloads, self.finish(sent.features))


def without_codec(
    backbone: Backbone,
    *,
    width: int,
    image_shape: tuple[int, int, int],
    classes: int,
) -> SplitAnn:
    """An untrained ANN, all of it on the edge."""
    blocks = ann_blocks(backbone, width=width, input_shape=image_shape)
    last = scaled(backbone.blocks[-1].channels, backbone, width)
    ann = SplitAnn(blocks, len(blocks), None, last, classes)
    # A keyword that torch's annotations do not know.
    return ann.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
