"""Micro-batches: at once when the model is free, many at a time when it is busy."""

import asyncio

import numpy as np
import pytest

from cloud_server.batching import Batcher, BatchLimits, OverloadError
from cloud_server.predict import Part


class SlowModel:
    def __init__(self):
        self.batches, self.gate = [], asyncio.Event()

    async def __call__(self, samples):
        self.batches.append(len(samples))
        await self.gate.wait()
        return [np.array([float(parts[0].payload)]) for parts in samples]


def sample(number):
    return (Part(0, 1, str(number).encode()),)


def scores(batcher, numbers):
    return [batcher.submit(sample(number)) for number in numbers]


def test_lone_sample_does_not_wait_for_others():
    async def main():
        model = SlowModel()
        batcher = Batcher(model, BatchLimits())
        batcher.submit(sample(1))
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
        first = batcher.submit(sample(0))
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
        first = batcher.submit(sample(0))
        await asyncio.sleep(0.01)
        late = batcher.submit(sample(1))
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
            return [np.zeros(1)] * len(samples)

        batcher = Batcher(model, BatchLimits(slots=1))
        one, two = scores(batcher, [1, 2])
        for future in (one, two):
            with pytest.raises(RuntimeError, match="broken"):
                await future
        assert (await batcher.submit(sample(3))).shape == (1,)
        while not batcher.idle:
            await asyncio.sleep(0)

    asyncio.run(main())
