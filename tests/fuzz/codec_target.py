"""Coverage-guided fuzz of every codec: `python -m tests.fuzz.codec_target -max_total_time=600`.

The compiled coders run as plain Python here (numba's own switch), so that their branches count as
coverage; the compiled ones meet hostile bytes in tests/splitcore/codec. Options are libFuzzer's.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

SHAPES = ((2, 2, 3, 3), (4, 2, 2, 4), (1, 1, 1, 1), (2, 1, 9, 2))


@cache
def _case(choice: int) -> tuple[Any, Any, Any, int]:
    """Codec, context, the steps already known and those to come, by the first byte of an input.

    One case in steps + 1 is of three samples in one payload.
    """
    from splitcore.codec import registry
    from tests.splitcore.codec.contexts import context, spikes

    codecs = registry.codecs()
    choice, codec = divmod(choice, len(codecs))
    steps, shape = divmod(choice, len(SHAPES))
    known = context(SHAPES[shape], seed=1, spread=1500, alone=steps % 2 == 1)
    total = known.shape[0]
    part = steps % (total + 1)
    past = spikes(known.shape, 0.3, 2)[: part % total]
    return codecs[codec], known, past, 3 * total if part == total else total - len(past)


def one_input(data: bytes) -> None:
    """Decode `data` as a payload; what is not refused must be spikes and must encode to `data`."""
    import numpy as np

    from splitcore.codec import registry
    from splitcore.errors import CodecError

    if not data:
        return
    codec, known, past, steps = _case(data[0])
    payload = data[1:]
    try:
        got = registry.decode(codec.id, payload, known, past, steps)
    except CodecError:
        return
    assert got.shape == (steps, *known.shape[1:])
    assert got.dtype == np.uint8
    assert got.max() <= 1
    again = registry.encode(codec, got, known, past)
    if codec.name == "bitmap+zstd":  # many frames decode alike
        np.testing.assert_array_equal(registry.decode(codec.id, again, known, past, steps), got)
    else:
        assert again == payload


def seeds() -> list[bytes]:
    """Valid inputs of every codec, shape and number of known steps, and groups."""
    from splitcore.codec import registry
    from tests.splitcore.codec.contexts import spikes

    found = []
    for choice in range(len(registry.codecs()) * len(SHAPES) * 5):
        codec, known, past, steps = _case(choice)
        sent = spikes((steps, *known.shape[1:]), 0.3, choice)
        found.append(bytes([choice]) + registry.encode(codec, sent, known, past))
    return found


def main() -> None:
    """Fuzz until an option of libFuzzer says stop; a finding ends with its traceback."""
    os.environ["NUMBA_DISABLE_JIT"] = "1"
    import atheris

    with atheris.instrument_imports(include=["splitcore"]):
        import splitcore.codec.registry  # noqa: F401
    with tempfile.TemporaryDirectory() as corpus:
        for index, seed in enumerate(seeds()):
            (Path(corpus) / f"{index:03}").write_bytes(seed)
        atheris.Setup([*sys.argv, corpus], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
