"""The edge half of a trained baseline in 8-bit integers: PyTorch's own post-training quantisation.

Weights are quantised for each output channel, activations for each tensor on calibration images;
batch norm is folded first. The encoder of the codec belongs to the edge and is quantised with it.
"""

from __future__ import annotations

import copy
import warnings

import torch
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from splitcore.errors import ConfigError
from training.baselines.codec import FeatureCodec
from training.baselines.split_ann import SplitAnn

BATCH = 64


def quantised_edge(model: SplitAnn, calibration: torch.Tensor) -> SplitAnn:
    """A copy of a trained model on the CPU whose edge and encoder compute in int8.

    calibration: images 0 … 1 (N, C, H, W) of the training set. Raises ConfigError when there is no
    encoder to quantise with the edge.
    """
    if not isinstance(model.codec, FeatureCodec):
        raise ConfigError("int8 edge: expected a baseline that sends features")
    result = copy.deepcopy(model).cpu().eval()
    codec = result.codec
    assert isinstance(codec, FeatureCodec)
    edge = torch.nn.Sequential(result.edge, codec.encoder)
    with warnings.catch_warnings(), torch.no_grad():
        # torch.ao warns about its own defaults, which are the ones wanted here.
        warnings.simplefilter("ignore", UserWarning)
        prepared = prepare_fx(
            edge, get_default_qconfig_mapping("x86"), example_inputs=(calibration[:1],)
        )
        for start in range(0, len(calibration), BATCH):
            prepared(calibration[start : start + BATCH])
        quantised = convert_fx(prepared)
    result.edge = torch.nn.Sequential(quantised)
    codec.encoder = torch.nn.Identity()
    return result
