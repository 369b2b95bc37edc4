"""All codecs by id and name, and the choice among them.

encode_best(spikes, context)            a sample at once
encode_best(step, context, past)        a step (or several) of a stream, given those before
encode_best(k samples joined, context)  a group: k·T steps, which share one payload's last bits
decode(id, payload, context[, past, steps])
decode_many(whole samples, each alone or in a group, context)
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from splitcore.codec.adaptive import Adaptive
from splitcore.codec.bitmap import Bitmap
from splitcore.codec.bitmap_zstd import BitmapZstd
from splitcore.codec.codec import Codec, longest_payload
from splitcore.codec.context import CodeContext
from splitcore.codec.events import Events
from splitcore.codec.rates import Rates
from splitcore.codec.trained import Trained
from splitcore.errors import CodecError
from splitcore.spikes import check_spikes

_CODECS: tuple[Codec, ...] = (
    Bitmap(),
    Events(),
    BitmapZstd(),
    Rates(),
    Adaptive(),
    Trained(),
)
_BY_ID = {codec.id: codec for codec in _CODECS}
_BY_NAME = {codec.name: codec for codec in _CODECS}


class Coded(NamedTuple):
    """A whole sample as it travelled: number `place` of the `samples` that share this payload."""

    codec: int
    payload: bytes
    samples: int = 1
    place: int = 0


def codecs() -> tuple[Codec, ...]:
    """Every codec, by rising id."""
    return _CODECS


def codec_named(name: str) -> Codec:
    """The codec of this name. Raises CodecError."""
    if name not in _BY_NAME:
        raise CodecError(f"codec: no codec {name!r}; there are {', '.join(_BY_NAME)}")
    return _BY_NAME[name]


def codec_with_id(codec_id: int) -> Codec:
    """The codec of this id. Raises CodecError."""
    if codec_id not in _BY_ID:
        raise CodecError(f"codec: no codec has the id {codec_id}")
    return _BY_ID[codec_id]


def encode(
    codec: Codec,
    spikes_tchw: np.ndarray,
    context: CodeContext,
    past_tchw: np.ndarray | None = None,
) -> bytes:
    """Spikes of whole steps by one codec.

    Raises DataError for spikes that are none, CodecError for steps that fit neither a sample nor a
    group.
    """
    past = context.past(past_tchw)
    return codec.encode(_checked(spikes_tchw, context, past), context, past)


def encode_best(
    spikes_tchw: np.ndarray, context: CodeContext, past_tchw: np.ndarray | None = None
) -> tuple[int, bytes]:
    """The shortest payload that any usable codec makes, and that codec's id; ties to the lower."""
    past = context.past(past_tchw)
    checked = _checked(spikes_tchw, context, past)
    payloads = (
        (codec.id, codec.encode(checked, context, past))
        for codec in _CODECS
        if codec.usable(context)
    )
    return min(payloads, key=lambda pair: (len(pair[1]), pair[0]))


def decode(
    codec_id: int,
    payload: bytes,
    context: CodeContext,
    past_tchw: np.ndarray | None = None,
    steps: int | None = None,
) -> np.ndarray:
    """The spikes in a payload, uint8 (steps, C, H, W); steps defaults to all that remain.

    Raises CodecError for bytes that no encoder of ours writes: each tensor has one payload a codec
    (bitmap+zstd aside, whose bytes depend on the library's version).
    """
    past = context.past(past_tchw)
    steps = context.shape[0] - len(past) if steps is None else steps
    context.check_steps(steps, len(past))
    codec = codec_with_id(codec_id)
    if not codec.usable(context):
        raise CodecError(f"codec: {codec.name} needs a context model that this bundle has not")
    places = steps * math.prod(context.shape[1:])
    if len(payload) > longest_payload(places):
        raise CodecError(f"{codec.name}: {len(payload)} bytes are too many for {places} spikes")
    spikes = codec.decode(bytes(payload), context, past, steps)
    if codec.recoded and codec.encode(spikes, context, past) != payload:
        raise CodecError(f"{codec.name}: not the bytes that encode these spikes")
    return spikes


def decode_many(
    samples: Sequence[Coded], context: CodeContext, out_ntchw: np.ndarray
) -> dict[int, CodecError]:
    """Whole samples into out_ntchw uint8 (N, T, C, H, W).

    Returns what `decode` raises for a sample, by its place; out_ntchw is left alone there.
    """
    places_of: defaultdict[int, list[int]] = defaultdict(list)
    groups: defaultdict[tuple[int, bytes, int], list[int]] = defaultdict(list)
    for place, one in enumerate(samples):
        if one.samples == 1:
            places_of[one.codec].append(place)
        else:
            groups[one[:3]].append(place)
    errors: dict[int, CodecError] = {}
    for (codec_id, payload, count), places in groups.items():
        try:
            spikes = decode(codec_id, payload, context, steps=count * context.shape[0])
        except CodecError as error:
            errors.update(dict.fromkeys(places, error))
        else:
            found_ntchw = spikes.reshape(count, *context.shape)
            out_ntchw[places] = found_ntchw[[samples[place].place for place in places]]
    for codec_id, places in places_of.items():
        codec = _BY_ID.get(codec_id)
        many = None
        if codec is not None and codec.usable(context):
            many = codec.decode_many([samples[place].payload for place in places], context)
        if many is not None:
            spikes_ntchw, good = many
            here = np.array(places)
            out_ntchw[here[good]] = spikes_ntchw[good]
            places = here[~good].tolist()
        for place in places:
            try:
                out_ntchw[place] = decode(codec_id, samples[place].payload, context)
            except CodecError as error:
                errors[place] = error
    return errors


def warm(context: CodeContext) -> None:
    """Compile every coder, so that the first sample does not wait for it."""
    silence = np.zeros(context.shape, dtype=np.uint8)
    for codec in _CODECS:
        if codec.usable(context):
            payload = encode(codec, silence, context)
            decode(codec.id, payload, context)
            codec.decode_many([payload], context)


def _checked(spikes_tchw: np.ndarray, context: CodeContext, past: np.ndarray) -> np.ndarray:
    context.check_steps(len(spikes_tchw), len(past))
    return check_spikes(spikes_tchw, (len(spikes_tchw), *context.shape[1:]))
