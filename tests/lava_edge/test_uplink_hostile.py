"""Servers that misbehave: nothing hangs, and every sample is answered once or named."""

import threading
import time

import pytest

from cloud_server.service import ServiceLimits
from lava_edge.outbox import MAX_REFUSED, Outbox
from lava_edge.uplink import Patience, Uplink
from splitcore import packet
from splitcore import wire_pb2 as wire
from splitcore.errors import CodecError, LinkError
from splitcore.packet import Packet
from tests.link import QUICK, Relay, check_answers, cloud, until
from tests.scripted import answers_to, scripted
from tests.tiny_bundle import STEPS, make_bundle, random_code

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


@pytest.mark.parametrize(
    "said",
    [
        packet.pack_replies([]),
        packet.pack_welcome(4),
        packet.pack_replies([wire.Answer(sample=99)]),
        packet.pack_replies([wire.Answer(sample=0)]),
    ],
    ids=["nothing", "welcome", "answer_to_another", "answer_to_half_a_group"],
)
@pytest.mark.parametrize("stall_s", [0.2, 60])
def test_server_that_says_much_and_answers_nothing_is_given_up(bundle, said, stall_s):
    def chatters(received, context):
        next(received)
        yield packet.pack_welcome(4)
        while context.is_active():
            yield said
            time.sleep(0.02)

    told = []

    def receive(uplink):
        with pytest.raises(LinkError, match="lost 2 samples: 0, 1") as error:
            list(uplink.answers())
        told.append(error)

    with scripted(chatters) as address:
        patience = Patience(stall_s=stall_s, outage_s=1.0)
        with Uplink(address, bundle, group=2, patience=patience) as uplink:
            for sample, code in enumerate(random_code(2)):
                uplink.send(sample, code)
            assert ends(lambda: receive(uplink))
    assert len(told) == 1


def test_sample_whose_steps_come_slowly_is_not_the_servers_fault(bundle):
    codes = random_code(2)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        with Uplink(relay.address, bundle) as uplink:
            for step in range(STEPS):
                uplink.send_step(0, step + 1, codes[0][step])
            answers = {a.sample: a.label for a in uplink.answers()}
            for step in range(STEPS):
                with uplink._changed:  # as if the step before were an hour ago
                    uplink._outbox.progress -= 3600
                    assert uplink._connection._stream is not None
                    uplink._connection._stream.quiet_since -= 3600
                time.sleep(0.3)  # the watch looks some times
                uplink.send_step(1, step + 1, codes[1][step])
                if step + 1 < STEPS:
                    assert list(uplink.answers()) == []  # nothing is owed yet
            answers.update({a.sample: a.label for a in uplink.answers()})
            check_answers(answers, codes)
            assert uplink.lost == ()
        assert relay.connections == 1


def test_more_samples_begun_than_memory_holds_are_an_error(bundle):
    codes = random_code(3)
    patience = Patience(outage_s=0.2)
    with cloud([bundle]) as server:
        with Uplink(server.address, bundle, max_pending=2, patience=patience) as uplink:
            for sample in range(2):
                uplink.send_step(sample, 1, codes[sample][0])
            refused = []

            def send_third():
                with pytest.raises(LinkError, match=r"no room: .* last step"):
                    uplink.send_step(2, 1, codes[2][0])
                refused.append(2)

            assert ends(send_third)
            assert refused == [2]


@pytest.mark.parametrize("group", [1, 2])
def test_sample_refused_for_want_of_room_can_be_sent_once_there_is_some(bundle, group):
    codes = random_code(6)
    patience = Patience(outage_s=0.2)
    with cloud([bundle]) as server:
        options = {"group": group, "max_pending": 1, "patience": patience}
        with Uplink(server.address, bundle, **options) as uplink:
            uplink.send_step(5, 1, codes[5][0])
            for sample in range(group - 1):
                uplink.send(sample, codes[sample])
            for _ in range(2):
                with pytest.raises(LinkError, match="no room"):
                    uplink.send(group - 1, codes[group - 1])
                assert uplink.waiting == (5, *range(group - 1))
            for step in range(1, STEPS):
                uplink.send_step(5, step + 1, codes[5][step])
            for sample in range(group - 1, 5):
                uplink.send(sample, codes[sample])
            check_answers({a.sample: a.label for a in uplink.answers()}, codes)
        assert uplink.lost == uplink.waiting == ()


def test_close_ends_and_names_a_sample_that_cannot_be_packed(bundle, tmp_path, monkeypatch):
    def breaks(*_):
        raise CodecError("no such code")

    with Uplink("127.0.0.1:1", bundle, group=2, spill=tmp_path) as uplink:
        uplink.send(0, random_code(1)[0])
        monkeypatch.setattr("lava_edge.uplink.encode_best", breaks)
    assert uplink.lost == (0,)
    assert uplink.waiting == ()
    Uplink("127.0.0.1:1", bundle, spill=tmp_path).close()  # no lock is left


def test_steps_of_a_sample_go_past_new_ones_that_wait_for_credit(bundle):
    codes = random_code(5)
    limits = ServiceLimits(window=1, min_window=1)
    with cloud([bundle], service_limits=limits) as server, Relay(server.address) as relay:
        with Uplink(relay.address, bundle) as uplink:
            for step in range(STEPS):
                for sample, code in enumerate(codes):
                    uplink.send_step(sample, step + 1, code[step])
            check_answers({a.sample: a.label for a in uplink.answers()}, codes)
        assert relay.connections == 1


def _begun(samples, packets):
    """An outbox with these packets of one sample or group, and their entry."""
    outbox = Outbox(bytes(32), STEPS, 64, None)
    with outbox.changed:
        outbox.begin(samples, [0.0] * len(samples))
        for one in packets:
            outbox.add(samples[0], one)
    return outbox, outbox.pending[samples[0]]


def _send(entry):
    while entry.sent < len(entry.packets):
        entry.take()


BY_STEP = (range(5, 6), [Packet(5, step + 1, 1, b"step") for step in range(STEPS)])
SAMPLE = (range(5, 6), [Packet(5, 0, 1, b"whole")])
GROUP = (range(5, 69), [Packet(5, 0, 1, b"group", 63)])


@pytest.mark.parametrize("what", [SAMPLE, BY_STEP, GROUP], ids=["sample", "steps", "group"])
def test_third_sending_that_is_rejected_loses_the_sample(what):
    outbox, entry = _begun(*what)
    with outbox.changed:
        for _ in range(MAX_REFUSED):
            assert outbox.lost == {}
            _send(entry)
            outbox.reconsider(wire.Rejected(sample=5, reason="damaged"))
        assert list(outbox.lost) == list(what[0])


@pytest.mark.parametrize("what", [BY_STEP, GROUP], ids=["steps", "group"])
def test_parts_rejected_in_one_sending_count_once(what):
    outbox, entry = _begun(*what)
    rejected = [5] * STEPS if what is BY_STEP else list(what[0])
    with outbox.changed:
        for _ in range(MAX_REFUSED - 1):
            _send(entry)
            for sample in rejected:
                outbox.reconsider(wire.Rejected(sample=sample, reason="damaged"))
        assert outbox.lost == {}
        assert entry.sent == 0
        assert 5 in outbox.unsent


def test_sample_lost_twice_is_told_twice_and_an_answer_ends_that(bundle, monkeypatch):
    code = random_code(1)[0]
    with cloud([bundle]) as server, Uplink(server.address, bundle) as uplink:
        for _ in range(2):
            with monkeypatch.context() as patched:
                patched.setattr("lava_edge.uplink.encode_best", lambda *_: (1, b"nonsense"))
                uplink.send(3, code)
            with pytest.raises(LinkError, match="lost sample 3"):
                list(uplink.answers())
            assert uplink.lost == (3,)
        uplink.send(3, code)
        assert uplink.lost == ()
        assert [answer.sample for answer in uplink.answers()] == [3]
        assert uplink.lost == ()


def test_sample_that_was_refused_is_told_with_a_failure_that_follows(bundle, monkeypatch):
    codes = random_code(2)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        patience = Patience(stall_s=0.5, outage_s=1.0)
        with Uplink(relay.address, bundle, patience=patience) as uplink:
            with monkeypatch.context() as patched:
                patched.setattr("lava_edge.uplink.encode_best", lambda *_: (1, b"nonsense"))
                uplink.send(0, codes[0])
            until(lambda: uplink.lost == (0,))
            relay.down = True
            relay.cut()
            uplink.send(1, codes[1])
            with pytest.raises(LinkError, match=r"lost sample 1; it refused them .* lost sample 0"):
                list(uplink.answers())


def test_error_of_our_own_ends_the_link_and_names_the_samples(bundle, monkeypatch):
    def breaks(self, answer):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(Outbox, "settle", breaks)
    _check_ended(bundle, None)


def test_callback_that_raises_ends_the_link_and_names_the_samples(bundle):
    def breaks(sample, step, written_ns):
        raise RuntimeError("no such thing")

    _check_ended(bundle, breaks)


def _check_ended(bundle, on_written):
    told = []

    def receive(uplink):
        with pytest.raises(LinkError, match=r"at our end .*no such thing.*lost sample 0"):
            list(uplink.answers())
        told.append(True)

    with cloud([bundle]) as server:
        server.model.stalled = on_written is not None
        with Uplink(server.address, bundle, patience=QUICK, on_written=on_written) as uplink:
            uplink.send(0, random_code(1)[0])
            assert ends(lambda: receive(uplink))
        server.model.stalled = False
    assert told == [True]
