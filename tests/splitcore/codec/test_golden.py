"""Payloads that are in the wild: a codec whose bytes change needs a new id.

Set REGENERATE_GOLDENS=1 to write them anew, on purpose alone.
"""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from splitcore.codec import registry
from splitcore.codec.context import CodeContext
from splitcore.codec.context_model import ContextModel

GOLDENS = Path(__file__).with_name("golden.json")
SHAPE = (5, 3, 4, 6)


def counted(*size: int) -> np.ndarray:
    """Weights by a formula rather than by a library's random numbers."""
    return (np.arange(np.prod(size)) * 37 % 401 - 200).astype(np.int16).reshape(size)


KNOWN = CodeContext(
    SHAPE,
    (0.05, 0.2, 0.5),
    ContextModel(
        SHAPE,
        counted(4, 4, 6, 3) - np.int16(400),
        counted(4, 5, 3, 3),
        counted(4, 9, 3, 3),
        counted(4, 2, 3, 3),
    ),
)


def spikes() -> np.ndarray:
    places = np.arange(np.prod(SHAPE))
    return ((places**3 + 5 * places) % 13 < 4).astype(np.uint8).reshape(SHAPE)


def payloads(codec: registry.Codec) -> dict[str, str]:
    sent = spikes()
    whole = {"sample": registry.encode(codec, sent, KNOWN).hex()}
    steps = {
        f"step {t}": registry.encode(codec, sent[t : t + 1], KNOWN, sent[:t]).hex()
        for t in range(len(sent))
    }
    return whole | steps


@pytest.fixture(scope="module")
def goldens() -> dict[str, dict[str, str]]:
    if os.environ.get("REGENERATE_GOLDENS"):
        found = {codec.name: payloads(codec) for codec in registry.codecs()}
        GOLDENS.write_text(json.dumps(found, indent=1) + "\n")
    return json.loads(GOLDENS.read_text())


@pytest.mark.parametrize("codec", registry.codecs(), ids=lambda codec: codec.name)
def test_codec_golden_payload_decodes(goldens, codec):
    sent = spikes()
    stored = goldens[codec.name]
    whole = registry.decode(codec.id, bytes.fromhex(stored["sample"]), KNOWN)
    np.testing.assert_array_equal(whole, sent)
    for t in range(len(sent)):
        payload = bytes.fromhex(stored[f"step {t}"])
        step = registry.decode(codec.id, payload, KNOWN, sent[:t], 1)
        np.testing.assert_array_equal(step, sent[t : t + 1])


# zstandard promises that frames stay readable, not that they stay the same
@pytest.mark.parametrize(
    "codec",
    [codec for codec in registry.codecs() if codec.name != "bitmap+zstd"],
    ids=lambda codec: codec.name,
)
def test_codec_writes_its_golden_payload(goldens, codec):
    assert payloads(codec) == goldens[codec.name]


def test_goldens_hold_every_codec(goldens):
    assert set(goldens) == {codec.name for codec in registry.codecs()}
