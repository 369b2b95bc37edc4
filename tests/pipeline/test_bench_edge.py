import itertools
from types import SimpleNamespace

import numpy as np
import pytest

from lava_edge import reference
from pipeline.bench import edge
from pipeline.bench.edge_heads import BenchHead, HeadBuilder, chain


def _small_residual() -> BenchHead:
    builder = HeadBuilder(0.2, images=2, size=8)
    first = builder.lif(builder.conv(builder.input.name, 4))
    inner = builder.lif(builder.conv(first, 4, depthwise=True))
    builder.lif(builder.conv(inner, 4), builder.conv(first, 4, kernel=1))
    return builder.done("small")


def test_head_builder_spikes_are_the_references_and_every_layer_fires_as_wanted() -> None:
    head = _small_residual()
    trace = reference.run(head.graph, head.frames_ntchw)
    for name, spikes in trace.spikes.items():
        np.testing.assert_array_equal(head.spikes[name], spikes)
    assert all(0.1 < rate <= 0.2 for rate in head.rates)
    assert not head.graph.is_chain


def test_chain_is_what_stock_netx_can_run() -> None:
    assert chain(layers=2, channels=2).graph.is_chain


def test_codes_rate_counts_each_mismatched_spike() -> None:
    expected = np.zeros((2, 1, 1, 1, 3), np.uint8)
    wrong = expected[0] + 1
    rate, mismatched = edge._codes_rate(iter([expected[0], wrong, wrong]), expected)
    assert mismatched == 6
    assert rate > 0


@pytest.mark.parametrize("batch", [1, 16, 32, 64])
@pytest.mark.parametrize("odd", [0, 1])
def test_leaf_rate_of_batches_that_arrive_in_bursts_is_exact(batch, odd, tmp_path, monkeypatch):
    head, now = _small_residual(), 0
    code = head.spikes[head.graph.output_name]

    def bursts(_file, frames, *, batch):
        """After a start of 100 seconds a quarter of a second a sample, whole batches at once."""
        nonlocal now
        now = 100
        for index in range(sum(1 for _ in frames)):
            if index % batch == 0:
                now += batch / 4
            yield SimpleNamespace(code_tchw=code[index % len(code)])

    monkeypatch.setattr(edge, "simulate", bursts)
    monkeypatch.setattr(edge, "time", SimpleNamespace(perf_counter=lambda: now))
    samples = 4 * batch + odd
    assert edge._Bench(tmp_path)._leaf_rate(head, samples, batch) == (4.0, 0)


def test_torch_rate_is_of_all_the_samples_that_went_through(monkeypatch) -> None:
    ticks = itertools.count()
    monkeypatch.setattr(edge, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    monkeypatch.setattr(edge, "TORCH_SAMPLES", 3)
    assert edge.torch_images_per_s(_small_residual()) == 3.0


def test_sum_row_measures_all_three_and_positive() -> None:
    row = edge._sum_row(channels=4, size=6, rate=0.2)
    assert set(row["microseconds"]) == {"ours", "blas", "onednn"}


def test_summary_of_a_quick_result_says_the_ratio_and_mismatches() -> None:
    result = {
        "stock_netx_steps_per_s": 20.0,
        "leaf_steps_per_s": 1500.0,
        "ratio": 75.0,
        "leaf_batched_images_per_s": 900.0,
        "batched_ratio": 180.0,
        "torch_images_per_s": 10.0,
        "torch_ratio": 90.0,
        "mismatched_spikes": 0,
        "spikes": 1000,
        "rates": [0.1, 0.2],
    }
    text = edge.summary(result)
    assert "75 times" in text
    assert "mismatched spikes: 0 of 1,000" in text
