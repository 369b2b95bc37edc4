import decimal

import numpy as np
import pytest
from safetensors.numpy import save_file

from splitcore.codec import context_model, registry
from splitcore.codec.context import CodeContext
from splitcore.errors import BundleError, CodecError
from tests.splitcore.codec.contexts import random_model, spikes
from tests.splitcore.foreign_numbers import renumber

SHAPE = (3, 2, 4, 4)


def test_file_of_a_model_reads_back_equal(tmp_path):
    model = random_model(SHAPE, 1)
    context_model.save(model, tmp_path / "context.safetensors")
    again = context_model.load(tmp_path / "context.safetensors", SHAPE)
    for name in ("bias_phwc", "now_pkcc", "before_pkcc", "older_pkcc"):
        np.testing.assert_array_equal(getattr(again, name), getattr(model, name))


def test_load_other_shape_raises_bundle_error(tmp_path):
    path = tmp_path / "context.safetensors"
    context_model.save(random_model(SHAPE, 1), path)
    with pytest.raises(BundleError, match="bias_phwc"):
        context_model.load(path, (3, 2, 4, 5))


def test_load_missing_file_raises_bundle_error(tmp_path):
    with pytest.raises(BundleError, match="no readable safetensors file"):
        context_model.load(tmp_path / "none", SHAPE)


def test_load_cut_file_raises_bundle_error(tmp_path):
    path = tmp_path / "context.safetensors"
    context_model.save(random_model(SHAPE, 1), path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError):
        context_model.load(path, SHAPE)


def test_load_other_format_raises_bundle_error(tmp_path):
    path = tmp_path / "context.safetensors"
    save_file({"bias": np.zeros(1, dtype=np.int16)}, str(path), metadata={"format": "other"})
    with pytest.raises(BundleError, match="expected format"):
        context_model.load(path, SHAPE)


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_load_numbers_that_numpy_has_not_raises_bundle_error(tmp_path, dtype):
    path = tmp_path / "context.safetensors"
    tensors = {"bias": np.zeros(2, np.int16)}
    save_file(tensors, str(path), metadata={"format": context_model.FORMAT})
    renumber(path, "I16", dtype)
    with pytest.raises(BundleError, match=f"bias: numpy has no numbers of {dtype}"):
        context_model.load(path, SHAPE)


def test_load_missing_tensor_raises_bundle_error(tmp_path):
    path = tmp_path / "context.safetensors"
    tensors = {"bias": random_model(SHAPE, 1).bias_phwc}
    save_file(tensors, str(path), metadata={"format": context_model.FORMAT})
    with pytest.raises(BundleError, match="tensor 'now' is missing"):
        context_model.load(path, SHAPE)


def test_model_wrong_dtype_raises_codec_error():
    model = random_model(SHAPE, 1)
    with pytest.raises(CodecError, match="int16"):
        context_model.ContextModel(
            SHAPE,
            model.bias_phwc.astype(np.int32),  # pyright: ignore
            model.now_pkcc,
            model.before_pkcc,
            model.older_pkcc,
        )


def test_probability_table_is_the_rounded_logistic():
    table = context_model.probability_table()
    limit = context_model.ODDS_LIMIT
    odds = np.arange(-limit, limit + 1) / context_model.ODDS_UNITY
    assert np.abs(table - 65536 / (1 + np.exp(-odds))).max() < 0.5 + 1e-6
    assert table.min() >= 1
    assert table.max() <= 65535
    np.testing.assert_array_equal(table + table[::-1], 65536)


def test_probability_table_ignores_the_callers_decimal_precision():
    expected = context_model.probability_table()
    context_model.probability_table.cache_clear()
    with decimal.localcontext(decimal.Context(prec=3, rounding=decimal.ROUND_UP)):
        again = context_model.probability_table()
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("alone", [False, True])
def test_trained_codec_is_the_documented_equation(alone):
    """The length of each step's payload against the module's own words in plain Python."""
    shape = (6, 3, 4, 5)
    model = random_model(shape, 9, spread=250, alone=alone)
    known = CodeContext(shape, (0.3,) * 3, model)
    sent = spikes(shape, 0.3, 4)
    for step in range(len(sent)):
        expected = bits_of_step(sent, step, model)
        payload = registry.encode(
            registry.codec_named("trained"), sent[step : step + 1], known, sent[:step]
        )
        assert expected - 8 < 8 * len(payload) < expected + 9
    whole = sum(bits_of_step(sent, step, model) for step in range(len(sent)))
    payload = registry.encode(registry.codec_named("trained"), sent, known)
    assert whole - 8 < 8 * len(payload) < whole + 9


def bits_of_step(sent: np.ndarray, t: int, model: context_model.ContextModel) -> float:
    _, channels, height, width = sent.shape
    phase, alone = min(t, 3), model.now_pkcc.shape[3] == 1

    def at(t, c, y, x):
        inside = 0 <= y < height and 0 <= x < width and t >= 0
        return int(sent[t, c, y, x]) if inside else 0

    bits = 0.0
    for y, x, c in np.ndindex(height, width, channels):
        odds = int(model.bias_phwc[phase, y, x, c])
        for source in [c] if alone else range(channels):
            to = 0 if alone else c
            for tap, (dy, dx) in enumerate(context_model.NOW_OFFSETS):
                if tap < 4 or source < c:
                    odds += at(t, source, y + dy, x + dx) * model.now_pkcc[phase, tap, source, to]
            for tap, (dy, dx) in enumerate(context_model.BEFORE_OFFSETS):
                seen = at(t - 1, source, y + dy, x + dx)
                odds += seen * model.before_pkcc[phase, tap, source, to]
            for lag in range(2, phase + 1):
                odds += at(t - lag, source, y, x) * model.older_pkcc[phase, lag - 2, source, to]
        p = 1 / (1 + np.exp(-odds / 256))
        bits -= np.log2(p if sent[t, c, y, x] else 1 - p)
    return bits
