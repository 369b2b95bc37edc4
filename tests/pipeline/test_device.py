"""What --device may say on a machine without a GPU, and on one with two."""

import pytest
import torch

from pipeline.device import require
from splitcore.errors import UsageError


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: request.param > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: request.param)


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:x", "CPU", "cuda:-1", ""])
def test_a_device_that_torch_does_not_know_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match=f"--device {device}: expected cpu, cuda or cuda:N"):
        require(device)


@pytest.mark.parametrize("gpus", [0], indirect=True)
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_is_refused_where_there_is_none(gpus: None, device: str) -> None:
    require("cpu")
    with pytest.raises(UsageError, match="there is no such CUDA device here; use cpu"):
        require(device)


@pytest.mark.parametrize("gpus", [2], indirect=True)
def test_each_gpu_that_is_there_may_be_named(gpus: None) -> None:
    for device in ("cpu", "cuda", "cuda:0", "cuda:1"):
        require(device)
    with pytest.raises(UsageError, match="cuda:2: there is no such CUDA device"):
        require("cuda:2")
