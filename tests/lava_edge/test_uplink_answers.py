"""The uplink on a healthy link: answers, costs, limits, and refusals that are final."""

import threading
import time

import numpy as np
import pytest

from lava_edge.uplink import Patience, Uplink
from splitcore import packet
from splitcore.errors import DataError, LinkError, UsageError
from tests.link import Relay, check_answers, cloud, collect, until
from tests.tiny_bundle import STEPS, make_bundle, random_code


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def test_every_sample_gets_its_own_answer(bundle):
    codes = random_code(300)
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        check_answers(collect(uplink, codes), codes)
        assert uplink.lost == uplink.waiting == ()


def test_steps_one_at_a_time_give_the_same_answers(bundle):
    codes = random_code(20)
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        for step in range(STEPS):  # samples interleaved
            for sample, code in enumerate(codes):
                uplink.send_step(sample, step + 1, code[step])
        check_answers({a.sample: a.label for a in uplink.answers()}, codes)


@pytest.mark.parametrize("group", [2, 7, 64])
def test_samples_in_groups_get_their_own_answers(bundle, group):
    codes = random_code(150)
    with cloud([bundle]) as server, Uplink(server.address, bundle, group=group) as uplink:
        check_answers(collect(uplink, codes), codes)
        assert uplink.lost == uplink.waiting == ()
        packets = -(-150 // group)
        assert server.metric("packets_total", bundle="tiny") == 150
    with cloud([bundle]) as server, Uplink(server.address, bundle, group=group) as uplink:
        answers = list(uplink.classify(enumerate(codes)))
        envelopes = sum(answer.envelope_bits for answer in answers)
        assert envelopes <= 8 * packet.MAX_ENVELOPE_BYTES * packets
        arrived = server.metric("payload_bits_total", bundle="tiny")
        assert sum(answer.payload_bits for answer in answers) == pytest.approx(arrived)


def test_group_ends_where_ids_do_not_follow_each_other(bundle):
    codes = random_code(6)
    ids = [3, 4, 9, 10, 2, 40]
    with cloud([bundle]) as server, Uplink(server.address, bundle, group=8) as uplink:
        found = {a.sample: a.label for a in uplink.classify(zip(ids, codes, strict=True))}
        check_answers({k: found[sample] for k, sample in enumerate(ids)}, codes)


def test_sample_waits_for_its_group_or_for_flush(bundle):
    codes = random_code(3)
    with cloud([bundle]) as server, Uplink(server.address, bundle, group=3) as uplink:
        for sample in range(2):
            uplink.send(sample, codes[sample])
        assert uplink.waiting == (0, 1)
        with pytest.raises(DataError, match="on its way"):
            uplink.send(1, codes[1])
        assert server.model.batches == []
        uplink.flush()
        until(lambda: sum(server.model.batches) == 2)
        uplink.send(2, codes[2])
        check_answers({a.sample: a.label for a in uplink.answers()}, codes)


def test_arrays_that_the_caller_reuses_travel_as_they_were_given(bundle):
    codes = random_code(6)
    with cloud([bundle]) as server, Uplink(server.address, bundle, group=3) as uplink:
        one = np.empty_like(codes[0])
        for sample, code in enumerate(codes):
            one[:] = code
            uplink.send(sample, one)
        check_answers({a.sample: a.label for a in uplink.answers()}, codes)
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        step = np.empty_like(codes[0][0])
        for sample, code in enumerate(codes):
            for number in range(STEPS):
                step[:] = code[number]
                uplink.send_step(sample, number + 1, step)
        check_answers({a.sample: a.label for a in uplink.answers()}, codes)


@pytest.mark.parametrize("number", [-1, packet.MAX_SAMPLE + 1, 1.0, "1", None])
def test_impossible_sample_number_is_refused_and_harms_no_other(bundle, number):
    codes = random_code(3)
    with cloud([bundle]) as server, Uplink(server.address, bundle, group=2) as uplink:
        with pytest.raises(DataError, match="sample"):
            uplink.send(number, codes[0])
        with pytest.raises(DataError, match="sample"):
            uplink.send_step(number, 1, codes[0][0])
        check_answers(collect(uplink, codes), codes)
    assert uplink.lost == uplink.waiting == ()


def test_link_closed_before_a_group_is_complete_reports_it_lost(bundle):
    codes = random_code(2)
    with cloud([bundle]) as server, Uplink(server.address, bundle, group=3) as uplink:
        for sample, code in enumerate(codes):
            uplink.send(sample, code)
    assert server.model.batches == []
    assert uplink.lost == (0, 1)


@pytest.mark.parametrize("group", [0, 65])
def test_group_of_an_impossible_size_raises_usage_error(bundle, group):
    with pytest.raises(UsageError, match="expected 1 … 64 samples of this bundle"):
        Uplink("127.0.0.1:1", bundle, group=group)


def test_step_out_of_turn_raises_data_error(bundle):
    code = random_code(1)[0]
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        with pytest.raises(DataError, match="expected step 1, got 2"):
            uplink.send_step(0, 2, code[1])


def test_spikes_of_another_shape_raise_data_error(bundle):
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        with pytest.raises(DataError, match="expected shape"):
            uplink.send(0, np.zeros((STEPS, 3, 4, 5), np.uint8))


def test_sample_that_is_on_its_way_cannot_be_sent_again(bundle):
    codes = random_code(2)
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        server.model.stalled = True
        uplink.send(7, codes[0])
        with pytest.raises(DataError, match="on its way"):
            uplink.send(7, codes[1])
        server.model.stalled = False
        assert [answer.sample for answer in uplink.answers()] == [7]
        uplink.send(7, codes[1])
        assert [answer.sample for answer in uplink.answers()] == [7]


def test_envelope_costs_at_most_24_bytes_a_sample(bundle):
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        for answer in uplink.classify(enumerate(random_code(100))):
            assert 0 < answer.envelope_bits <= 8 * packet.MAX_ENVELOPE_BYTES
            assert answer.payload_bits % 8 == 0 < answer.payload_bits


def test_modelled_wire_bytes_are_those_that_a_socket_carries(bundle):
    codes = random_code(400)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        with Uplink(relay.address, bundle) as uplink:
            first = sum(answer.wire_bytes for answer in uplink.classify(enumerate(codes[:100])))
            before = relay.up_bytes
            more = enumerate(codes[100:], start=100)
            modelled = sum(answer.wire_bytes for answer in uplink.classify(more))
            measured = relay.up_bytes - before
    assert first > 0
    assert modelled <= measured
    # Beyond the model: what each answer can draw from HTTP/2, a window update and a ping's echo.
    # How many share one is a matter of timing, so the bound is one of each a sample.
    window_update_bytes, ping_bytes = 9 + 4, 9 + 8
    assert measured - modelled <= 300 * (window_update_bytes + ping_bytes)


def test_pending_samples_are_bounded(bundle):
    codes = random_code(40)
    with cloud([bundle]) as server, Uplink(server.address, bundle, max_pending=8) as uplink:
        server.model.stalled = True
        sent = []

        def send_all():
            for sample, code in enumerate(codes):
                uplink.send(sample, code)
                sent.append(sample)

        sender = threading.Thread(target=send_all)
        sender.start()
        until(lambda: len(uplink.waiting) == 9)  # the ninth waits for room
        time.sleep(0.05)
        assert len(uplink.waiting) == 9
        assert len(sent) == 8
        server.model.stalled = False
        answers = {}
        while len(answers) < len(codes):
            answers.update({answer.sample: answer.label for answer in uplink.answers()})
        sender.join()
        check_answers(answers, codes)


@pytest.mark.parametrize("by_step", [False, True])
def test_stream_with_its_fill_of_replies_is_made_anew_at_once(bundle, monkeypatch, by_step):
    monkeypatch.setattr("lava_edge.link_stream.MAX_READ", 20)
    monkeypatch.setattr("lava_edge.connection.BACKOFF_FIRST_S", 3600.0)  # what a failure costs
    monkeypatch.setattr("lava_edge.connection.BACKOFF_LAST_S", 3600.0)
    codes = random_code(200)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        with Uplink(relay.address, bundle) as uplink:
            for sample, code in enumerate(codes):
                if by_step:
                    for step in range(STEPS):
                        uplink.send_step(sample, step + 1, code[step])
                else:
                    uplink.send(sample, code)
            answers = list(uplink.answers())
            check_answers({a.sample: a.label for a in answers}, codes)
            assert len(answers) == len(codes)
            assert uplink.lost == ()
        assert relay.connections > 2
    assert sum(server.model.batches) == len(codes)  # none was computed twice


def test_server_that_is_not_there_raises_link_error_in_seconds(bundle):
    with pytest.raises(LinkError, match="cannot be reached"):
        with Uplink("127.0.0.1:1", bundle, patience=Patience(connect_s=0.5)):
            pass


def test_address_that_swallows_connections_raises_link_error(bundle):
    with cloud([bundle]) as server, Relay(server.address) as relay:
        relay.up_gate.clear()
        with pytest.raises(LinkError, match="does not answer"):
            with Uplink(relay.address, bundle, patience=Patience(connect_s=0.5)):
                pass


def test_other_bundle_is_refused_by_name(bundle, tmp_path):
    other = make_bundle(tmp_path / "other", seed=3, name="other")
    with cloud([bundle]) as server:
        with pytest.raises(LinkError, match=r"is not served here \(served: tiny"):
            with Uplink(server.address, other):
                pass


def test_other_version_is_refused_with_both_versions(bundle, monkeypatch):
    with cloud([bundle]) as server:
        uplink = Uplink(server.address, bundle)
        object.__setattr__(uplink._connection._greeting, "version", 1)
        with pytest.raises(LinkError, match="speaks version 2, the other version 1"):
            uplink.__enter__()


@pytest.mark.parametrize("server", ["nowhere", "127.0.0.1:", ":80", "127.0.0.1:x", "h:70000"])
def test_address_that_is_none_raises_usage_error(bundle, server):
    with pytest.raises(UsageError, match="HOST:PORT"):
        Uplink(server, bundle)


def test_plaintext_to_another_machine_needs_saying(bundle):
    with pytest.raises(UsageError, match="not encrypted"):
        Uplink("10.1.2.3:50051", bundle)
    Uplink("10.1.2.3:50051", bundle, insecure=True)


@pytest.mark.usefixtures("proxy_that_is_none")
def test_loopback_needs_no_proxy(bundle):
    codes = random_code(3)
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        check_answers(collect(uplink, codes), codes)
