"""`edge --spill`: what an outage kept on disk is delivered by the next run, and counted apart."""

from pathlib import Path

import numpy as np
import pytest

from cloud_server.server import running
from lava_edge.spill import SYNC, Spill
from lava_edge.uplink import Patience, Uplink
from pipeline import edge
from splitcore.bundle import open_bundle
from splitcore.errors import LinkError

SAMPLES = 4
BUNDLE = Path(__file__).resolve().parents[2] / "netx_exports" / "digits-resnet8"


@pytest.fixture
def left(tmp_path):
    """A spill with six samples without any spike, which a run left that met no server."""
    bundle = open_bundle(BUNDLE)
    with Uplink("127.0.0.1:1", bundle, spill=tmp_path) as uplink:
        for sample in range(6):
            uplink.send(sample, np.zeros(bundle.manifest.spike_shape, np.uint8))
    assert uplink.waiting == tuple(range(6))
    return tmp_path


@pytest.mark.parametrize("live", [False, True])
def test_run_after_an_outage_counts_its_own_samples_alone(left, live):
    with running([BUNDLE], threads=1) as server:
        options = {"server": server.address, "samples": SAMPLES, "live": live}
        after = edge.run(BUNDLE, spill=left, **options)
        assert list(left.iterdir()) == []
        alone = edge.run(BUNDLE, spill=left, **options)
    assert after["answered"] == alone["answered"] == SAMPLES
    assert after["accuracy"] == alone["accuracy"]
    assert after["answered_of_earlier_runs"] == 6
    assert alone["answered_of_earlier_runs"] == 0
    assert "6 samples that earlier runs had left" in edge.summary(after)
    assert "earlier" not in edge.summary(alone)


def test_server_that_is_still_away_leaves_what_earlier_runs_left(left):
    bundle = open_bundle(BUNDLE)
    with pytest.raises(LinkError, match=r"kept in .*6 samples: 0, 1, 2, 3, 4, 5"):
        edge.deliver(bundle, "127.0.0.1:1", left, patience=Patience(outage_s=0.2))
    spill = Spill(left, bytes.fromhex(bundle.digest))
    assert list(spill.unanswered) == list(range(6))


def test_damaged_file_is_told_before_anything_is_sent_and_once(tmp_path):
    bundle = open_bundle(BUNDLE)
    with Uplink("127.0.0.1:1", bundle, spill=tmp_path) as uplink:
        uplink.send(0, np.zeros(bundle.manifest.spike_shape, np.uint8))
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    path.write_bytes(raw.replace(SYNC, b"else"))
    with pytest.raises(LinkError, match="part of it cannot be read"):
        edge.deliver(bundle, "127.0.0.1:1", tmp_path)
    assert edge.deliver(bundle, "127.0.0.1:1", tmp_path) == 0
    assert [kept.suffix for kept in tmp_path.iterdir()] == [".damaged"]
