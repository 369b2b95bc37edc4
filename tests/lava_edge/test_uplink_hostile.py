"""Servers that misbehave: nothing hangs, and every sample is answered once or named."""

import threading

import pytest

from lava_edge.uplink import Patience, Uplink
from splitcore import packet
from tests.scripted import answers_to, scripted
from tests.tiny_bundle import make_bundle, random_code

LIMIT_S = 30.0  # of what takes a second at most: a test that fails must not hang


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def ends(job):
    """Whether a job ends in good time; it goes on in a thread of its own where it does not."""
    thread = threading.Thread(target=job, daemon=True)
    thread.start()
    thread.join(LIMIT_S)
    return not thread.is_alive()


def test_close_leaves_a_server_that_froze_after_its_last_answer(bundle):
    thawed = threading.Event()

    def freezes(received, context):
        next(received)
        yield packet.pack_welcome(4)
        yield answers_to(next(received))
        thawed.wait()

    with scripted(freezes) as address:
        uplink = Uplink(address, bundle, patience=Patience(stall_s=0.2))
        uplink.__enter__()
        assert len(list(uplink.classify(enumerate(random_code(1))))) == 1
        closed = ends(uplink.close)
        thawed.set()
        assert closed
