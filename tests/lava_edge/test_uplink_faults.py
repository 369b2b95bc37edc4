"""Faults of the link: every sample is answered once, or reported lost by its id."""

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cloud_server.batching import BatchLimits
from cloud_server.endpoint import ServerLimits
from lava_edge.uplink import Patience, Uplink
from splitcore.errors import LinkError
from tests import meddler
from tests.link import QUICK, Relay, check_answers, cloud, collect, counted_scores, until
from tests.tiny_bundle import make_bundle, random_code

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.mark.parametrize(("group", "seed"), [(1, 0), (1, 1), (1, 2), (3, 3), (64, 4)])
@pytest.mark.parametrize(
    "fault",
    [meddler.drop, meddler.duplicate, meddler.truncate, meddler.flip, meddler.Reorder()],
    ids=["dropped", "duplicated", "truncated", "bit_flipped", "reordered"],
)
def test_messages_meddled_with_still_give_each_answer_once(bundle, fault, group, seed):
    codes = random_code(60, seed)
    patience = Patience(connect_s=5, stall_s=0.5, outage_s=30)
    with cloud([bundle]) as server, meddler.meddling(server.address, fault, seed) as address:
        with Uplink(address, bundle, group=group, patience=patience) as uplink:
            answers = {}
            for sample, code in enumerate(codes):
                uplink.send(sample, code)
                if sample % 5 == 0:  # many small messages give a fault many places to strike
                    answers.update({a.sample: a.label for a in uplink.answers()})
            answers.update({a.sample: a.label for a in uplink.answers()})
            check_answers(answers, codes)
            assert uplink.lost == ()


def test_damaged_steps_are_sent_again(bundle):
    codes = random_code(30)
    patience = Patience(connect_s=5, stall_s=0.5, outage_s=30)
    with cloud([bundle]) as server, meddler.meddling(server.address, meddler.flip, 5) as address:
        with Uplink(address, bundle, patience=patience) as uplink:
            for step in range(4):
                for sample, code in enumerate(codes):
                    uplink.send_step(sample, step + 1, code[step])
            check_answers({a.sample: a.label for a in uplink.answers()}, codes)


@pytest.mark.parametrize(("group", "seed"), [(1, 0), (1, 1), (1, 2), (5, 3)])
def test_connection_cut_in_a_packet_is_made_again(bundle, group, seed):
    rng = random.Random(seed)
    codes = random_code(400, seed)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        with Uplink(relay.address, bundle, group=group, patience=QUICK) as uplink:
            answers = {}
            for sample, code in enumerate(codes):
                if sample % 100 == 50:
                    relay.cut_after = rng.randrange(1, 400)
                uplink.send(sample, code)
                if sample % 20 == 0:
                    answers.update({a.sample: a.label for a in uplink.answers()})
            answers.update({a.sample: a.label for a in uplink.answers()})
            check_answers(answers, codes)
        assert relay.connections > 1


def test_answers_cut_off_on_their_way_come_from_memory(bundle):
    codes = random_code(10)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        with Uplink(relay.address, bundle, patience=QUICK) as uplink:
            relay.down_gate.clear()
            for sample, code in enumerate(codes):
                uplink.send(sample, code)
            until(lambda: sum(server.model.batches) == len(codes))
            relay.cut()
            relay.down_gate.set()
            check_answers({a.sample: a.label for a in uplink.answers()}, codes)
        assert sum(server.model.batches) == len(codes)  # none was computed twice


def test_stalled_server_is_left_and_found_again(bundle):
    codes = random_code(20)
    with cloud([bundle]) as server, Uplink(server.address, bundle, patience=QUICK) as uplink:
        server.model.stalled = True
        for sample, code in enumerate(codes):
            uplink.send(sample, code)
        until(lambda: server.metric("errors_total", kind="client_gone") > 0)
        server.model.stalled = False
        check_answers({a.sample: a.label for a in uplink.answers()}, codes)


@pytest.mark.parametrize("group", [1, 2, 9])
def test_outage_without_end_reports_every_sample_lost_by_id(bundle, group):
    codes = random_code(5)
    patience = Patience(connect_s=5, stall_s=0.5, outage_s=1.0)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        with Uplink(relay.address, bundle, group=group, patience=patience) as uplink:
            check_answers(collect(uplink, codes[:3]), codes[:3])
            relay.down = True
            relay.cut()
            uplink.send(3, codes[3])
            uplink.send(4, codes[4])
            with pytest.raises(LinkError, match=r"lost 2 samples: 3, 4"):
                list(uplink.answers())
            assert uplink.lost == (3, 4)
            with pytest.raises(LinkError, match="lost"):
                uplink.send(5, codes[0])


def test_short_outage_loses_nothing(bundle):
    codes = random_code(40)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        with Uplink(relay.address, bundle, patience=QUICK) as uplink:
            relay.down = True
            relay.cut()
            for sample, code in enumerate(codes):
                uplink.send(sample, code)
            relay.down = False
            check_answers({a.sample: a.label for a in uplink.answers()}, codes)


def test_payload_that_decodes_to_nothing_is_reported_lost(bundle, monkeypatch):
    codes = random_code(3)
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        for sample, code in enumerate(codes):
            if sample == 1:
                monkeypatch.setattr("lava_edge.uplink.encode_best", lambda *_: (1, b"nonsense"))
            uplink.send(sample, code)
            monkeypatch.undo()
        answers = []
        with pytest.raises(LinkError, match="lost sample 1"):
            answers.extend(answer.sample for answer in uplink.answers())
        assert uplink.lost == (1,)
        assert sorted(answers) == [0, 2]


def test_group_that_decodes_to_nothing_is_reported_lost_whole(bundle, monkeypatch):
    codes = random_code(9)
    with cloud([bundle]) as server, Uplink(server.address, bundle, group=3) as uplink:
        for sample, code in enumerate(codes):
            if sample == 3:
                monkeypatch.setattr("lava_edge.uplink.encode_best", lambda *_: (1, b"nonsense"))
            uplink.send(sample, code)
            if sample == 5:
                monkeypatch.undo()
        answers = []
        with pytest.raises(LinkError, match="lost 3 samples: 3, 4, 5"):
            answers.extend(answer.sample for answer in uplink.answers())
        assert uplink.lost == (3, 4, 5)
        assert sorted(answers) == [0, 1, 2, 6, 7, 8]


def test_group_with_some_of_its_answers_cut_off_is_answered_once(bundle):
    codes = random_code(12)
    with cloud([bundle], batch=BatchLimits(max_batch=2)) as server, Relay(server.address) as relay:
        with Uplink(relay.address, bundle, group=6, patience=QUICK) as uplink:
            server.model.pause_s = 0.05
            for sample, code in enumerate(codes):
                uplink.send(sample, code)
            until(lambda: sum(server.model.batches) == 4)
            relay.cut()
            found = [(answer.sample, answer.label) for answer in uplink.answers()]
            assert len(found) == len(codes)
            check_answers(dict(found), codes)


def test_wall_clock_that_jumps_changes_nothing(bundle, monkeypatch):
    codes = random_code(30)
    jumps = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: jumps.uniform(-1e9, 1e9))
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        check_answers(collect(uplink, codes), codes)


def test_model_that_breaks_is_an_error_that_passes(bundle):
    codes = random_code(10)
    with cloud([bundle]) as server, Uplink(server.address, bundle, patience=QUICK) as uplink:
        server.model.broken = True
        for sample, code in enumerate(codes):
            uplink.send(sample, code)
        until(lambda: server.metric("errors_total", kind="internal") > 0)
        server.model.broken = False
        check_answers({a.sample: a.label for a in uplink.answers()}, codes)


def test_server_that_drains_under_load_is_found_again(bundle):
    codes = random_code(300)
    answers = {}
    with Relay("127.0.0.1:1") as relay:
        with cloud([bundle], limits=ServerLimits(grace_s=5)) as server:
            relay._target = ("127.0.0.1", int(server.address.rpartition(":")[2]))
            uplink = Uplink(relay.address, bundle, patience=QUICK)
            uplink.__enter__()
            server.model.pause_s = 0.02
            for sample in range(200):
                uplink.send(sample, codes[sample])
            until(lambda: len(server.model.batches) > 0)
        # The server has answered what it took and is gone; another one comes up.
        with cloud([bundle]) as server:
            relay._target = ("127.0.0.1", int(server.address.rpartition(":")[2]))
            for sample in range(200, 300):
                uplink.send(sample, codes[sample])
            answers.update({a.sample: a.label for a in uplink.answers()})
            uplink.close()
    check_answers(answers, codes)


def _server_process(bundle, port):
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.link", str(bundle.path), str(port)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def _end(process):
    process.kill()
    process.communicate()


def _kill_and_restart(bundle, kills, seed):
    rng = random.Random(seed)
    codes = random_code(64, seed)
    process, address = _server_process(bundle, 0)
    port = int(address.rpartition(":")[2])
    expected = counted_scores(codes).argmax(axis=1)
    seen = set()
    done = threading.Event()
    try:
        patience = Patience(connect_s=30, stall_s=5, outage_s=60)
        with Uplink(address, bundle, patience=patience) as uplink:
            failed = []

            def send():
                sample = 0
                while not done.is_set():
                    uplink.send(sample, codes[sample % 64])
                    sample += 1
                    time.sleep(0.0005)

            def receive(until_quiet):
                for answer in uplink.answers():
                    if answer.sample in seen or answer.label != expected[answer.sample % 64]:
                        failed.append(answer)
                    seen.add(answer.sample)
                    if not until_quiet and len(seen) >= target:
                        return

            sender = threading.Thread(target=send)
            sender.start()
            for _ in range(kills):
                target = len(seen) + rng.randrange(1, 400)
                receive(until_quiet=False)
                _end(process)
                process, _ = _server_process(bundle, port)
            target = len(seen) + 100
            receive(until_quiet=False)
            done.set()
            sender.join()
            receive(until_quiet=True)
            assert failed == []
            assert uplink.lost == ()
            assert seen == set(range(len(seen)))
    finally:
        done.set()
        _end(process)


def test_server_killed_at_a_random_moment_loses_no_sample(bundle):
    _kill_and_restart(bundle, kills=2, seed=1)


@pytest.mark.deep
def test_server_killed_at_twenty_random_moments_loses_no_sample(bundle):
    _kill_and_restart(bundle, kills=20, seed=2)
