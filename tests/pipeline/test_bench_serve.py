"""The bench of the server on a small bundle: keys, no errors; its clients and what they count."""

import asyncio
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.bench import load, serve
from splitcore.codec.bitmap import Bitmap
from splitcore.spikes import pack
from tests.link import cloud, counted_scores
from tests.tiny_bundle import make_bundle, random_code


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_bench_serve_measures_both_sides_without_errors(bundle, monkeypatch):
    monkeypatch.setattr(serve, "CLIENTS", (1, 8))
    monkeypatch.setattr(serve, "LOADS", (0.5,))
    monkeypatch.setattr(serve, "REPEATS", 3)
    result = serve.run(bundle.path, seconds=0.3, threads=1)
    assert result["errors"] == 0
    assert result["engine"] == "local"
    assert result["served_images_per_s"] > 0
    assert result["ratio"] == pytest.approx(
        result["served_images_per_s"] / result["offline_images_per_s"]
    )
    assert result["ratio"] == sorted(result["ratios"])[1]
    assert [(row["clients"], row["load"]) for row in result["latency"]] == [(1, 0.5), (8, 0.5)]
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["overload"]["lost"] == 0
    assert result["overload"]["offered_per_s"] > result["overload"]["goodput_per_s"]
    assert "images/s served" in serve.summary(result)


@pytest.fixture(scope="module")
def pool(bundle, tmp_path_factory) -> Path:
    codes = random_code(100)
    distinct = [(Bitmap.id, pack(code)) for code in codes]
    labels_n = counted_scores(codes).argmax(axis=1)
    # As many as the bench has: of fewer, some come from the server's memory and overtake the rest.
    payloads = [distinct[place % len(codes)] for place in range(serve.POOL)]
    labels = np.resize(labels_n, serve.POOL).tolist()
    path = tmp_path_factory.mktemp("pool") / "pool.npz"
    load.Pool.of(payloads, labels, bytes.fromhex(bundle.digest)).save(path)
    return path


def outcome(server, pool: Path, rate_per_s: float | None = None) -> load.Outcome:
    return asyncio.run(load.run(load.Load(server.address, str(pool), 3, 0.3, rate_per_s)))


@pytest.mark.parametrize("rate_per_s", [None, 300.0, 1e5])
def test_clients_get_every_answer_however_much_they_offer(bundle, pool, rate_per_s):
    with cloud([bundle]) as server:
        found = outcome(server, pool, rate_per_s)
    assert found.offered >= found.sent == found.answered > 0
    assert (found.wrong, found.errors) == (0, 0)


@pytest.mark.usefixtures("proxy_that_is_none")
def test_clients_need_no_proxy(bundle, pool):
    with cloud([bundle]) as server:
        found = outcome(server, pool, 300.0)
    assert found.answered > 0
    assert found.errors == 0


def test_clients_count_answers_that_are_not_as_offline(bundle, pool, tmp_path):
    good = load.Pool.load(str(pool))
    other = replace(good, labels=[label + 1 for label in good.labels])
    other.save(tmp_path / "other.npz")
    with cloud([bundle]) as server:
        found = outcome(server, tmp_path / "other.npz")
    assert 0 < found.wrong == found.answered


def test_clients_count_streams_that_break_and_samples_lost(bundle, pool):
    with cloud([bundle]) as server:
        server.model.broken = True
        found = outcome(server, pool)
    assert found.answered == 0
    assert found.errors == 3 + found.sent == 3 + found.lost


def test_clients_count_a_refused_sample_once_and_go_on(bundle, pool, tmp_path):
    good = load.Pool.load(str(pool))
    wrong = [(Bitmap.id, b"\xff")] * serve.POOL
    bad = load.Pool.of(wrong, good.labels, good.digest)
    bad.save(tmp_path / "bad.npz")
    with cloud([bundle]) as server:
        found = outcome(server, tmp_path / "bad.npz")
    assert found.errors == found.refused == found.sent > 3 * 64
    assert (found.answered, found.lost) == (0, 0)
