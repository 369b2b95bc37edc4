"""The Ray Serve engine: the same answers, also while replicas die. Deep is what starts a Ray."""

import asyncio
import os
import signal
import threading
import time

import numpy as np
import pytest

from cloud_server.predict import Part
from cloud_server.replicas import LocalReplicas
from cloud_server.server import running
from lava_edge.uplink import Uplink
from splitcore.bundle import open_bundle
from splitcore.codec import context
from splitcore.codec.registry import encode_best
from splitcore.errors import BundleError, LinkError, UsageError
from tests.conftest import ROOT
from tests.tiny_bundle import expected_scores, make_bundle, random_code, random_tail

pytest.importorskip("ray", reason="Ray is not installed: the extra [ray]")

# What Ray and Serve leave behind in their own threads is theirs.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.timeout(240),
]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    bundle = make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    with running([bundle.path], engine="ray", ray_replicas=(2, 2)) as server:
        yield bundle, server.address


def test_replica_has_all_it_needs_in_the_files_it_is_sent(monkeypatch):
    from cloud_server.ray_replicas import TailReplica, replica_files

    bundle = open_bundle(ROOT / "netx_exports" / "digits-resnet8")  # it has a context model
    known = context.of_bundle(bundle)
    codes = (encode_best(code, known) for code in bundle.probe().code_ntchw)
    samples = [(Part(0, codec, payload),) for codec, payload in codes]

    async def by_local_engine():
        replicas = LocalReplicas(1)
        engine = await replicas.load(bundle)
        scored = await engine(samples)
        await replicas.close()
        return scored.scores_nk

    monkeypatch.setattr("torch.set_num_threads", lambda _: None)  # of this process
    found = TailReplica(replica_files(bundle), bundle.digest)(samples)
    assert not found.errors
    assert np.array_equal(found.scores_nk, asyncio.run(by_local_engine()))


def test_bundle_that_cannot_be_loaded_starts_no_replica(tmp_path, monkeypatch):
    from cloud_server import ray_replicas

    def never(*_, **__):
        raise AssertionError("Ray was started for it")

    for module, name in ((ray_replicas.ray, "init"), (ray_replicas.serve, "run")):
        monkeypatch.setattr(module, name, never)
    bundle = make_bundle(tmp_path / "tiny")
    bundle.cloud_path.write_bytes(b"no tensors")
    with pytest.raises(BundleError, match="cloud"):
        asyncio.run(ray_replicas.RayReplicas(None, (1, 1)).load(bundle))


def replica_processes():
    """Process ids of this Ray's tail replicas, from their titles in /proc."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    title = file.read()
            except OSError:
                continue
            if b"ServeReplica" in title and b"tail" in title:
                found.append(int(entry))
    return found


@pytest.mark.deep
def test_answers_are_those_of_the_reference(served):
    bundle, address = served
    codes = random_code(200)
    with Uplink(address, bundle) as uplink:
        answers = {answer.sample: answer.scores for answer in uplink.classify(enumerate(codes))}
    found = np.float32([answers[k] for k in range(len(codes))])
    assert (found == expected_scores(random_tail(), codes)).all()


@pytest.mark.deep
def test_replica_killed_under_load_costs_no_sample(served):
    bundle, address = served
    codes = random_code(64)
    expected = expected_scores(random_tail(), codes).argmax(axis=1)
    replicas = replica_processes()
    assert len(replicas) == 2
    killed = threading.Event()
    with Uplink(address, bundle) as uplink:

        def samples():
            sample, end = 0, None
            while end is None or time.monotonic() < end:
                if killed.is_set() and end is None:
                    end = time.monotonic() + 2.0
                yield sample, codes[sample % 64]
                sample += 1

        seen = set()
        for answer in uplink.classify(samples()):
            assert answer.sample not in seen
            assert answer.label == expected[answer.sample % 64]
            seen.add(answer.sample)
            if len(seen) == 300:
                os.kill(replicas[0], signal.SIGKILL)
                killed.set()
        assert uplink.lost == ()
        assert seen == set(range(len(seen)))


def test_impossible_numbers_of_replicas_are_refused(tmp_path):
    bundle = make_bundle(tmp_path / "tiny")
    with pytest.raises(UsageError, match="least"):
        with running([bundle.path], engine="ray", ray_replicas=(3, 2)):
            pass


def test_ray_that_does_not_come_up_is_a_link_error_and_leaves_no_folder(tmp_path, monkeypatch):
    def init(**_):
        raise Exception("The current node timed out during startup.")  # as Ray does

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "set anew, and restored")
    bundle = make_bundle(tmp_path / "tiny")
    with pytest.raises(LinkError, match="timed out during startup"):
        with running([bundle.path], engine="ray"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]
