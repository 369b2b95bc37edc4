"""Packets in, answers out, without a socket."""

import asyncio

import numpy as np
import pytest

from cloud_server.batching import Batcher, BatchLimits
from cloud_server.metrics import Metrics
from cloud_server.service import (
    Conversation,
    RefusedError,
    Served,
    Service,
    ServiceLimits,
    WindowError,
)
from splitcore import packet
from splitcore.codec.codec import longest_payload
from splitcore.codec.registry import encode_best
from splitcore.errors import CodecError, PacketError
from splitcore.packet import Greeting, Packet
from splitcore.wire_pb2 import Answer, Rejected
from tests.link import CodeContext, Model, counted_scores
from tests.tiny_bundle import STEPS, make_bundle, random_code

SESSION = b"s" * 16


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


class Bench:
    """One service with one model and one conversation."""

    def __init__(self, bundle, **limits):
        self.digest = bytes.fromhex(bundle.digest)
        self.context = CodeContext(bundle.manifest.spike_shape, bundle.manifest.code_rates)
        self.model = Model(self.context)
        self.service = Service(ServiceLimits(**limits), Metrics())
        self.service.publish(Served.of(bundle, Batcher(self.model, BatchLimits(slots=1))))
        self.replies = []
        self.talk = self.open()

    def open(self, session=SESSION) -> Conversation:
        hello = packet.pack_hello(Greeting(self.digest, session))

        def reply(replies):
            self.replies += replies
            talk.given(len(replies))

        talk = self.service.greet(hello, reply)
        return talk

    def packet(self, sample, code):
        return Packet(sample, 0, *encode_best(code, self.context))

    def group(self, sample, codes):
        together = encode_best(np.concatenate(codes), self.context)
        return Packet(sample, 0, *together, more=len(codes) - 1)

    def steps(self, sample, code):
        return [
            Packet(sample, t + 1, *encode_best(code[t : t + 1], self.context, code[:t]))
            for t in range(STEPS)
        ]

    def send(self, *packets, acked=0):
        self.talk.receive(packet.pack(packets, self.digest, acked))

    async def settle(self):
        while self.talk.open:
            await asyncio.sleep(0)

    @property
    def answers(self):
        return [(reply.sample, reply.label) for reply in self.replies]


def labels(codes):
    return counted_scores(np.asarray(codes)).argmax(axis=1).tolist()


def served(test):
    """Run a test's coroutine with a Bench."""

    def run(bundle):
        async def main():
            await test(Bench(bundle, window=8))

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


@served
async def test_packets_are_answered(bench):
    codes = random_code(3)
    bench.send(*(bench.packet(k, code) for k, code in enumerate(codes)))
    await bench.settle()
    assert bench.answers == list(enumerate(labels(codes)))


@served
async def test_samples_in_one_packet_are_answered_each(bench):
    codes = random_code(5)
    bench.send(bench.group(3, codes))
    await bench.settle()
    assert bench.answers == list(zip(range(3, 8), labels(codes), strict=True))
    bench.send(bench.group(3, codes))  # again: none is computed
    assert bench.answers[5:] == bench.answers[:5]
    assert bench.model.batches == [5]


@served
async def test_group_passes_the_credit_once_but_never_twice(bench):
    codes = random_code(40)
    bench.send(bench.group(0, codes))  # the window is 8
    with pytest.raises(WindowError):
        bench.send(bench.packet(40, codes[0]))
    await bench.settle()
    bench.send(bench.packet(41, codes[0]), acked=40)
    await bench.settle()
    assert len(bench.replies) == 41


@served
async def test_group_that_decodes_to_nothing_is_rejected_sample_by_sample(bench):
    bench.send(Packet(3, 0, 1, b"?", 2))
    await bench.settle()
    assert [(type(reply), reply.sample) for reply in bench.replies] == [
        (Rejected, 3),
        (Rejected, 4),
        (Rejected, 5),
    ]


@served
async def test_damaged_group_costs_one_rejection(bench):
    raw = bytearray(packet.pack([bench.group(3, random_code(4))], bench.digest))
    raw[-1] ^= 1
    bench.talk.receive(bytes(raw))
    assert [reply.sample for reply in bench.replies] == [3]


@served
async def test_steps_in_any_order_make_a_sample(bench):
    (code,) = random_code(1)
    for one in reversed(bench.steps(5, code)):
        assert bench.replies == []
        bench.send(one)
    await bench.settle()
    assert bench.answers == [(5, labels([code])[0])]


@served
async def test_late_copies_of_later_steps_change_nothing(bench):
    (code,) = random_code(1)
    steps = bench.steps(5, code)
    bench.send(*steps, *steps[1:])
    await bench.settle()
    bench.send(*steps[1:])
    assert len(bench.replies) == 1
    assert bench.talk._partial == {}


@served
async def test_same_steps_again_get_the_same_answer_and_are_not_computed(bench):
    (code,) = random_code(1)
    for _ in range(2):
        bench.send(*bench.steps(5, code))
        await bench.settle()
    first, second = bench.replies
    assert first == second
    assert bench.model.batches == [1]


@served
async def test_other_steps_under_a_used_id_are_computed(bench):
    codes = random_code(2)
    codes[1][:2] = codes[0][:2]  # the later steps alone differ
    for code in codes:
        for one in bench.steps(5, code):
            bench.send(one)
        await bench.settle()
    assert bench.answers == [(5, label) for label in labels(codes)]
    assert bench.model.batches == [1, 1]


@served
async def test_same_packet_again_gets_the_same_answer_and_is_not_computed(bench):
    (code,) = random_code(1)
    bench.send(bench.packet(1, code))
    await bench.settle()
    bench.talk.close()
    bench.talk = bench.open()  # after a reconnect
    bench.send(bench.packet(1, code))
    assert bench.replies[0] == bench.replies[1]
    assert bench.model.batches == [1]


@served
async def test_other_spikes_under_a_used_id_are_computed(bench):
    codes = random_code(2)
    for code in codes:
        bench.send(bench.packet(1, code))
        await bench.settle()
    assert [label for _, label in bench.answers] == labels(codes)
    assert bench.model.batches == [1, 1]


@served
async def test_answers_of_another_session_are_not_given_away(bench):
    (code,) = random_code(1)
    bench.send(bench.packet(1, code))
    await bench.settle()
    bench.talk.close()
    bench.talk = bench.open(session=b"t" * 16)
    bench.send(bench.packet(1, code))
    await bench.settle()
    assert bench.model.batches == [1, 1]


@served
async def test_credit_is_given_back_by_acknowledging(bench):
    codes = random_code(40)
    for k, code in enumerate(codes):
        bench.send(bench.packet(k, code), acked=len(bench.replies))
        await bench.settle()
    assert len(bench.replies) == 40


@served
async def test_client_that_never_acknowledges_runs_out_of_credit(bench):
    (code,) = random_code(1)
    for k in range(16):  # twice the window
        bench.send(bench.packet(k, code))
    with pytest.raises(WindowError, match="more than 8 samples in flight"):
        bench.send(bench.packet(16, code))
    await bench.settle()


@served
async def test_unfinished_samples_cost_credit(bench):
    (code,) = random_code(1)
    for k in range(16):
        bench.send(bench.steps(k, code)[0])
    with pytest.raises(WindowError):
        bench.send(bench.steps(16, code)[0])


@served
async def test_more_acknowledged_than_answered_is_an_error(bench):
    with pytest.raises(PacketError, match="3 replies acknowledged of 0 given"):
        bench.send(acked=3)


@served
async def test_reply_that_is_not_on_its_way_cannot_be_acknowledged(bench):
    (code,) = random_code(1)
    bench.talk.given = lambda replies: None
    bench.send(bench.packet(1, code))
    await bench.settle()
    with pytest.raises(PacketError, match="1 replies acknowledged of 0 given"):
        bench.send(acked=1)


@served
async def test_damaged_packet_is_rejected_and_the_next_answered(bench):
    codes = random_code(2)
    raw = bytearray(packet.pack([bench.packet(3, codes[0])], bench.digest))
    raw[-1] ^= 1
    bench.talk.receive(bytes(raw))
    bench.send(bench.packet(4, codes[1]))
    await bench.settle()
    rejected, answer = bench.replies
    assert isinstance(rejected, Rejected)
    assert rejected.sample == 3
    assert "checksum" in rejected.reason
    assert isinstance(answer, Answer)
    assert answer.sample == 4


@served
async def test_payload_that_is_no_spikes_is_rejected(bench):
    bench.send(Packet(3, 0, 1, b"?"), Packet(4, 0, 99, b""))
    await bench.settle()
    assert [(type(reply), reply.sample) for reply in bench.replies] == [
        (Rejected, 3),
        (Rejected, 4),
    ]


@served
async def test_step_beyond_the_last_is_rejected(bench):
    bench.send(Packet(3, STEPS + 1, 1, b"?"))
    assert "step 5 of a sample with 4 steps" in bench.replies[0].reason


@pytest.mark.parametrize(
    ("step", "more", "spikes"),
    [(2, 0, 48), (0, 0, STEPS * 48), (0, 3, 4 * STEPS * 48)],
    ids=["a step", "a sample", "a group"],
)
def test_payload_longer_than_any_codec_writes_is_not_held(bundle, step, more, spikes):
    async def main():
        bench = Bench(bundle)
        longest = longest_payload(spikes)
        bench.send(Packet(3, step, 1, bytes(longest + 1), more))
        (refused,) = bench.replies
        assert refused.reason == (
            f"packet of sample 3: {longest + 1} bytes are too many for {spikes} spikes"
        )
        assert bench.talk._partial == {}
        assert bench.talk.open == 0
        bench.send(Packet(4, step, 1, bytes(longest), more))
        assert bench.talk.open == (0 if step else more + 1)
        await bench.settle()

    asyncio.run(main())


def test_too_many_damaged_packets_end_the_stream(bundle):
    bench = Bench(bundle, window=64, rejected=2)
    damaged = packet.pack([Packet(1, 0, 1, b"?")], bytes(32))
    bench.talk.receive(damaged)
    bench.talk.receive(damaged)
    with pytest.raises(PacketError, match="3 damaged packets"):
        bench.talk.receive(damaged)


@served
async def test_unary_request_is_answered(bench):
    (code,) = random_code(1)
    greeting = Greeting(bench.digest, SESSION)
    for _ in range(2):
        raw = await bench.service.classify(packet.pack_request(bench.packet(9, code), greeting))
        answer = packet.unpack_answer(raw)
        assert (answer.sample, answer.label) == (9, labels([code])[0])
    assert bench.model.batches == [1]
    with pytest.raises(CodecError):
        await bench.service.classify(packet.pack_request(Packet(1, 0, 1, b"?"), greeting))
    with pytest.raises(PacketError, match="need a stream"):
        await bench.service.classify(packet.pack_request(Packet(1, 1, 1, b"?"), greeting))
    with pytest.raises(PacketError, match="need a stream"):
        await bench.service.classify(packet.pack_request(Packet(1, 0, 1, b"?", 3), greeting))
    with pytest.raises(PacketError, match="too many for 192 spikes"):
        await bench.service.classify(packet.pack_request(Packet(1, 0, 1, bytes(999)), greeting))
    with pytest.raises(PacketError):
        await bench.service.classify(b"\xff\xff")


def test_memory_of_answers_is_bounded(bundle):
    async def main():
        bench = Bench(bundle, window=64, remembered=5)
        for k, code in enumerate(random_code(20)):
            bench.send(bench.packet(k, code))
        await bench.settle()
        assert len(bench.service._answers) == 5

    asyncio.run(main())


def test_new_version_is_served_beside_the_old_and_pushes_out_the_oldest(tmp_path):
    bench = Bench(make_bundle(tmp_path / "model"))
    versions = [make_bundle(tmp_path / "model", seed=seed) for seed in (1, 2)]
    batcher = Batcher(bench.model, BatchLimits())
    digests = [bytes.fromhex(version.digest) for version in versions]
    assert bench.service.publish(Served.of(versions[0], batcher)) == []
    bench.open()  # the old one is still served
    (out,) = bench.service.publish(Served.of(versions[1], batcher))
    assert out.digest == bench.digest
    assert out.conversations == 2  # and its streams go on
    with pytest.raises(RefusedError, match="is not served here"):
        bench.open()
    assert [one.digest for one in bench.service.served] == digests
