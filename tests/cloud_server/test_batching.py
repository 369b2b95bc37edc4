"""Micro-batches: at once when the model is free, many at a time when it is busy."""

import asyncio

import numpy as np
import pytest

from cloud_server.batching import Batcher, BatchLimits, OverloadError
from cloud_server.predict import Part, Scored
from splitcore.errors import CodecError


class SlowModel:
    def __init__(self):
        self.batches, self.gate = [], asyncio.Event()

    async def __call__(self, samples):
        self.batches.append(len(samples))
        await self.gate.wait()
        return Scored(np.array([[float(parts[0].payload)] for parts in samples]))


def sample(number):
    return (Part(0, 1, str(number).encode()),)


def scores(batcher, numbers):
    return [batcher.submit_one(sample(number)) for number in numbers]


def test_lone_sample_does_not_wait_for_others():
    async def main():
        model = SlowModel()
        batcher = Batcher(model, BatchLimits())
        batcher.submit_one(sample(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert model.batches == [1]
        model.gate.set()

    asyncio.run(main())


def test_samples_that_wait_for_a_busy_model_go_together():
    async def main():
        model = SlowModel()
        batcher = Batcher(model, BatchLimits(slots=1, max_batch=8))
        futures = scores(batcher, [0])
        await asyncio.sleep(0.01)
        futures += scores(batcher, range(1, 12))
        await asyncio.sleep(0.01)
        assert model.batches == [1]
        model.gate.set()
        results = await asyncio.gather(*futures)
        assert model.batches == [1, 8, 3]
        assert [float(result[0]) for result in results] == list(range(12))

    asyncio.run(main())


def test_many_samples_are_shared_among_free_slots():
    async def main():
        model = SlowModel()
        batcher = Batcher(model, BatchLimits(slots=2, max_batch=64, split_at=16))
        scores(batcher, range(40))
        await asyncio.sleep(0.01)
        assert model.batches == [20, 20]
        model.gate.set()

    asyncio.run(main())


def test_full_queue_refuses_with_a_hint_and_opens_again():
    async def main():
        model = SlowModel()
        batcher = Batcher(model, BatchLimits(slots=1, max_batch=4, max_queue=5))
        futures = scores(batcher, [0])
        await asyncio.sleep(0.01)
        futures += scores(batcher, range(5))
        with pytest.raises(OverloadError) as refused:
            batcher.check_room()
        assert 10 <= refused.value.retry_ms <= 10_000
        waiter = asyncio.ensure_future(batcher.room())
        await asyncio.sleep(0.01)
        assert not waiter.done()
        model.gate.set()
        await waiter
        batcher.check_room()
        await asyncio.gather(*futures)

    asyncio.run(main())


def test_sample_whose_caller_has_gone_is_not_computed():
    async def main():
        model = SlowModel()
        batcher = Batcher(model, BatchLimits(slots=1))
        first = batcher.submit_one(sample(0))
        await asyncio.sleep(0.01)
        gone, kept = scores(batcher, [1, 2])
        gone.cancel()
        model.gate.set()
        assert float((await kept)[0]) == 2
        await first
        assert model.batches == [1, 1]

    asyncio.run(main())


def test_sample_that_waited_too_long_is_refused():
    async def main():
        model = SlowModel()
        batcher = Batcher(model, BatchLimits(slots=1, max_wait_s=0.02))
        first = batcher.submit_one(sample(0))
        await asyncio.sleep(0.01)
        late = batcher.submit_one(sample(1))
        await asyncio.sleep(0.05)
        model.gate.set()
        with pytest.raises(OverloadError):
            await late
        await first

    asyncio.run(main())


def test_model_that_fails_fails_each_caller_and_goes_on():
    async def main():
        fails = [True, False]

        async def model(samples):
            if fails.pop(0):
                raise RuntimeError("broken")
            return Scored(np.zeros((len(samples), 1)))

        batcher = Batcher(model, BatchLimits(slots=1))
        one, two = scores(batcher, [1, 2])
        for future in (one, two):
            with pytest.raises(RuntimeError, match="broken"):
                await future
        assert (await batcher.submit_one(sample(3))).shape == (1,)
        while not batcher.idle:
            await asyncio.sleep(0)

    asyncio.run(main())


def test_group_larger_than_a_batch_is_answered_in_parts_in_order():
    async def main():
        model = SlowModel()
        model.gate.set()
        batcher = Batcher(model, BatchLimits(slots=1, max_batch=4))
        heard = []
        batcher.submit([sample(k) for k in range(10)], lambda *told: heard.append(told))
        while len(heard) < 3:
            await asyncio.sleep(0)
        assert model.batches == [4, 4, 2]
        assert [(first, last) for first, last, _ in heard] == [(0, 4), (4, 8), (8, 10)]
        found = np.concatenate([scored.scores_nk for *_, scored in heard])
        assert found.ravel().tolist() == list(range(10))

    asyncio.run(main())


def test_error_of_a_sample_reaches_its_own_caller():
    async def model(samples):
        return Scored(np.zeros((len(samples), 1)), {2: CodecError("bad")})

    async def main():
        batcher = Batcher(model, BatchLimits(slots=1))
        heard = []
        batcher.submit([sample(0)], lambda *told: heard.append(told))
        batcher.submit([sample(1), sample(2)], lambda *told: heard.append(told))
        while len(heard) < 2:
            await asyncio.sleep(0)
        assert [list(scored.errors) for *_, scored in heard] == [[], [1]]

    asyncio.run(main())


def test_error_in_one_caller_leaves_the_others_answered():
    def broken(*told):
        raise RuntimeError("broken caller")

    async def main():
        reported = []
        asyncio.get_running_loop().set_exception_handler(lambda _, what: reported.append(what))
        model = SlowModel()
        model.gate.set()
        batcher = Batcher(model, BatchLimits(slots=1))
        batcher.submit([sample(0)], broken)
        assert (await batcher.submit_one(sample(1)))[0] == 1
        assert "broken caller" in str(reported[0]["exception"])

    asyncio.run(main())


def test_only_full_batches_run_ahead_of_a_free_slot():
    async def main():
        model = SlowModel()
        batcher = Batcher(model, BatchLimits(slots=1, ahead=1, max_batch=4))
        scores(batcher, [0])
        await asyncio.sleep(0.01)
        scores(batcher, [1, 2, 3])
        await asyncio.sleep(0.01)
        assert model.batches == [1]
        scores(batcher, range(4, 9))
        await asyncio.sleep(0.01)
        assert model.batches == [1, 4]
        model.gate.set()

    asyncio.run(main())
