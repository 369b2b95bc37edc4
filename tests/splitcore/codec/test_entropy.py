import numpy as np
import pytest

from splitcore.codec import context_fit, entropy, registry
from splitcore.codec.context import CodeContext
from splitcore.errors import DataError
from tests.splitcore.codec.contexts import random_model, spikes


def h(p: float) -> float:
    return 0.0 if p in (0.0, 1.0) else -p * np.log2(p) - (1 - p) * np.log2(1 - p)


def persisting(count: int, seed: int = 0) -> np.ndarray:
    """A spike stays with chance 7/8 from step to step and comes with 1/8; at first it is 1/2."""
    rng = np.random.default_rng(seed)
    code = np.empty((count, 4, 2, 4, 4), dtype=np.uint8)
    code[:, 0] = rng.random(code[:, 0].shape) < 0.5
    for t in range(1, 4):
        code[:, t] = code[:, t - 1] ^ (rng.random(code[:, t].shape) < 0.125)
    return code


def test_counted_known_shares_is_the_sum_of_their_entropies():
    code = np.zeros((4, 1, 1, 2, 2), dtype=np.uint8)
    code[0, 0, 0, 0, 0] = 1  # context 0: 1 of 8
    code[:2, 0, 0, 1, :] = 1  # context 1: 4 of 8
    labels = np.array([[0, 0], [1, 1]])
    expected = (8 * h(1 / 8) + 8 * h(1 / 2)) / 4
    assert entropy.counted(code, labels) == pytest.approx(expected)


def test_entropies_certain_spikes_take_no_bits():
    code = np.zeros((100, 2, 2, 4, 4), dtype=np.uint8)
    code[:, :, 1] = 1
    assert set(entropy.entropies(code).values()) == {0.0}


def test_entropies_persisting_spikes_are_seen_by_history_alone():
    code = persisting(400)
    found = entropy.entropies(code)
    neurons = 2 * 4 * 4
    truth = neurons * (1 + 3 * h(1 / 8))
    assert found["channel"] == pytest.approx(4 * neurons, rel=0.01)
    assert found["neuron"] == pytest.approx(4 * neurons, rel=0.01)
    assert found["channel and history"] == pytest.approx(truth, rel=0.01)


def test_entropies_few_samples_leave_large_models_out():
    code = persisting(3)  # 384 spikes
    assert set(entropy.entropies(code)) == {"channel"}


def test_trained_entropy_persisting_spikes_reach_the_truth():
    truth = 32 * (1 + 3 * h(1 / 8))
    assert entropy.refitted(persisting(600)).bits == pytest.approx(truth, rel=0.02)


def test_refitted_few_samples_of_pure_chance_are_no_bound():
    noise = np.random.default_rng(0)
    few, many = (noise.integers(0, 2, (count, 4, 4, 4, 4), np.uint8) for count in (100, 2000))
    truth = few[0].size
    for code, is_bound in ((few, False), (many, True)):
        learned = entropy.refitted(code)
        assert learned.is_bound == is_bound
        assert learned.bits < truth
        assert learned.bits + learned.flattery_bits == pytest.approx(truth, rel=2e-3)


def test_fit_model_of_other_samples_codes_near_the_entropy():
    model = context_fit.fit(persisting(600, seed=1))
    sent = persisting(200, seed=2)
    known = CodeContext(sent.shape[1:], (0.5, 0.5), model)
    bits = np.mean([8 * len(registry.encode_best(code, known)[1]) for code in sent])
    truth = 32 * (1 + 3 * h(1 / 8))
    assert bits < 1.05 * truth + 2.6


@pytest.mark.parametrize("mixed", [1, 64])
def test_fit_tells_of_each_regression(mixed, monkeypatch):
    monkeypatch.setattr(context_fit, "MAX_MIXED", mixed)
    told, code = [], persisting(20)
    context_fit.fit(code, lambda: told.append(1))
    assert len(told) == context_fit.regressions(code.shape[1:]) == 4 * 2


def test_fit_same_samples_give_the_same_model():
    code = persisting(50)
    first, second = context_fit.fit(code), context_fit.fit(code)
    np.testing.assert_array_equal(first.bias_phwc, second.bias_phwc)
    np.testing.assert_array_equal(first.before_pkcc, second.before_pkcc)


@pytest.mark.parametrize("level", [0, 1])
def test_fit_code_that_never_changes_stays_finite(level):
    code = np.full((20, 2, 1, 3, 3), level, dtype=np.uint8)
    model = context_fit.fit(code)
    assert entropy.ideal_bits(code, model) < 0.5


def test_fit_weights_of_taps_that_are_not_known_are_zero():
    model = context_fit.fit(persisting(50))
    now, before, older = model.now_pkcc, model.before_pkcc, model.older_pkcc
    same_place = now[:, 4]
    assert not same_place[:, 1, 0].any()  # a later channel speaks for no earlier one
    assert not same_place[:, 0, 0].any()
    assert not before[0].any()
    assert not older[:2].any()
    assert not older[2, 1].any()
    assert before[1:].any()


def test_fit_of_a_wide_code_lets_each_channel_see_itself_alone(monkeypatch):
    truth = 32 * (1 + 3 * h(1 / 8))
    monkeypatch.setattr(context_fit, "MAX_MIXED", 1)
    model = context_fit.fit(persisting(600, seed=1))
    assert model.before_pkcc.shape == (4, 9, 2, 1)
    assert not model.now_pkcc[:, 4].any()
    assert entropy.ideal_bits(persisting(200, seed=2), model) < 1.05 * truth


def test_fit_largest_sets_are_thinned_evenly(monkeypatch):
    monkeypatch.setattr(context_fit, "MAX_VALUES", 200_000)
    truth = 32 * (1 + 3 * h(1 / 8))
    code = persisting(1000)
    assert entropy.ideal_bits(code, context_fit.fit(code)) < 1.1 * truth


def test_polish_on_all_samples_is_as_good_as_newton(monkeypatch):
    code = persisting(600)
    whole = entropy.ideal_bits(code, context_fit.fit(code))
    monkeypatch.setattr(context_fit, "NEWTON_VALUES", 20_000)
    assert entropy.ideal_bits(code, context_fit.fit(code)) == pytest.approx(whole, rel=1e-3)


def test_polish_with_a_curvature_that_misleads_is_as_good_as_newton(monkeypatch):
    rng = np.random.default_rng(0)
    patterns = rng.random((10, 4, 24, 1, 1))  # firing rates of ten classes
    code = (rng.random((2000, *patterns.shape[1:])) < patterns[rng.integers(10, size=2000)]).astype(
        np.uint8
    )
    whole = entropy.ideal_bits(code, context_fit.fit(code))
    monkeypatch.setattr(context_fit, "NEWTON_VALUES", 20_000)  # 200 samples for 96 weights
    assert entropy.ideal_bits(code, context_fit.fit(code)) == pytest.approx(whole, rel=1e-3)


def test_fit_of_samples_in_the_order_of_their_classes_is_as_good(monkeypatch):
    monkeypatch.setattr(context_fit, "NEWTON_VALUES", 20_000)
    rng = np.random.default_rng(3)
    rates = rng.choice((0.001, 0.5), size=(10, 1, 4, 4, 4, 4))  # each class has its own places
    code = (rng.random((10, 60, 4, 4, 4, 4)) < rates).astype(np.uint8).reshape(600, 4, 4, 4, 4)
    mixed = code[rng.permutation(600)]
    ordered, shuffled = (entropy.ideal_bits(code, context_fit.fit(c)) for c in (code, mixed))
    assert ordered == pytest.approx(shuffled, rel=0.01)


def test_ideal_bits_is_what_the_coder_spends():
    shape = (4, 3, 6, 6)
    known = CodeContext(shape, (0.2,) * 3, random_model(shape, 3))
    assert known.model is not None
    for seed in range(20):
        sent = spikes(shape, 0.2, seed)
        ideal = entropy.ideal_bits(sent[None], known.model)
        spent = 8 * len(registry.encode(registry.codec_named("trained"), sent, known))
        assert ideal - 10 < spent < ideal + 10


@pytest.mark.parametrize("shape", [(0, 1, 1, 1, 1), (1, 1, 1, 1)])
def test_entropies_no_spikes_at_all_raise_data_error(shape):
    with pytest.raises(DataError):
        entropy.entropies(np.zeros(shape, dtype=np.uint8))
    with pytest.raises(DataError):
        context_fit.fit(np.zeros(shape, dtype=np.uint8))
