"""The bench of the server on a small bundle: its keys, and no errors."""

from pathlib import Path

import pytest

from pipeline.bench import serve
from tests.tiny_bundle import make_bundle


def test_bench_serve_measures_both_sides_without_errors(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(serve, "CLIENTS", (8,))
    monkeypatch.setattr(serve, "LOADS", (0.5,))
    bundle = make_bundle(tmp_path / "tiny")
    result = serve.run(bundle.path, seconds=0.5, threads=1)
    assert result["errors"] == 0
    assert result["engine"] == "local"
    assert result["served_images_per_s"] > 0
    assert result["ratio"] == pytest.approx(
        result["served_images_per_s"] / result["offline_images_per_s"]
    )
    assert 0 < result["p50_ms"] <= result["p99_ms"]
    assert result["overload"]["lost"] == 0
    assert "images/s served" in serve.summary(result)
