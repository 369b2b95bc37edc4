"""The training benchmark on a tiny net: what it reports, never how fast it is."""

import pytest
import torch

from pipeline.bench import residual_nets, train
from splitcore.errors import ConfigError
from splitcore.splits import backbone_named


def test_bench_train_reports_both_sides_and_no_mismatch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "PIXELS", 16)
    monkeypatch.setattr(train, "version", lambda _name: None)
    result = train.run(backbone="resnet8", width=8, batch=4, rounds=1)
    assert result["spike_mismatches"] == 0
    assert result["silent_layers"] == 0
    assert 0 < result["spikes_fired"] < result["positions_compared"]
    assert result["ratio"] == result["images_per_s"] / result["stock_slayer_images_per_s"]
    assert result["peers"]["snntorch"] == {"version": None, "absent": "snntorch is not installed"}
    text = train.summary(result)
    assert "snntorch is not installed" in text
    assert text.endswith(f"{result['spikes_fired']} fired")


@pytest.mark.parametrize("name", ["snntorch", "spikingjelly"])
def test_peer_net_trains_on_the_same_topology(name: str) -> None:
    pytest.importorskip(name)
    _, layer = residual_nets.PEERS[name]
    net = residual_nets.ResidualNet(
        layer, backbone_named("resnet8"), width=4, channels=3, classes=10, steps=2
    )
    ours = train.OurNet(backbone_named("resnet8"), width=4, steps=2)
    kernels = sorted(p.shape for p in net.parameters() if p.ndim == 4)
    assert kernels == sorted(p.shape[:4] for p in ours.parameters() if p.ndim == 5)
    net(torch.rand(2, 3, 16, 16)).sum().backward()
    assert all(p.grad is not None for p in net.parameters() if p.ndim == 4)


def test_bench_train_of_a_backbone_without_basic_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="mobilenet_v1"):
        train.run(backbone="mobilenet_v1")
