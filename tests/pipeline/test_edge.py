"""What the edge refuses to send."""

import shutil
from pathlib import Path

import pytest

from cloud_server.server import running
from pipeline import edge, live
from splitcore.bundle import open_bundle
from splitcore.errors import BundleError, UsageError

BUNDLE = Path(__file__).resolve().parents[2] / "netx_exports" / "digits-resnet8"


@pytest.mark.parametrize("send", [edge.stream, live.run])
def test_spikes_of_a_bundle_replaced_meanwhile_are_not_sent_under_its_digest(tmp_path, send):
    path = Path(shutil.copytree(BUNDLE, tmp_path / "model"))
    bundle = open_bundle(path)
    with (path / "manifest.json").open("a") as manifest:
        manifest.write("\n")  # another version, of another digest
    sent = []
    with running([BUNDLE], threads=1) as server:
        frames_ntchw = bundle.probe().frames_ntchw
        with pytest.raises(BundleError, match="was replaced while it was read"):
            send(bundle, frames_ntchw, server.address, advance=lambda: sent.append(1))
    assert sent == []


def test_a_result_that_cannot_be_written_is_refused_before_anything_is_simulated(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(edge, "stream", lambda *_, **__: pytest.fail("simulated"))
    for result in (tmp_path, Path("/proc/result.json")):
        with pytest.raises(UsageError, match="cannot be written"):
            edge.run(BUNDLE, server="127.0.0.1:1", result=result, samples=1)
