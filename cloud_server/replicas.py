"""Where batches are computed: threads of this process, or (`ray_replicas`) Ray Serve replicas."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from cloud_server.batching import Engine
from cloud_server.predict import Parts, Predictor, Scored
from cloud_server.tail import TailEngine
from splitcore import tail
from splitcore.bundle import Bundle
from splitcore.codec import context

WARM_BATCH = 8


def load_predictor(bundle: Bundle) -> Predictor:
    """The decoder and tail of a bundle, warm. Raises BundleError or OverflowBoundError.

    Of the bundle's files it wants no more than a replica elsewhere has; whoever has them all looks
    whether they are still those that the digest names.
    """
    manifest = bundle.manifest
    engine = TailEngine(tail.of_bundle(bundle), manifest.steps)
    predictor = Predictor(context.of_bundle(bundle), engine)
    predictor.warm(WARM_BATCH)
    return predictor


def _load_unchanged(bundle: Bundle) -> Predictor:
    predictor = load_predictor(bundle)
    bundle.require_unchanged()
    return predictor


class Replicas(ABC):
    """Loads bundles and computes their batches.

    slots: batches that may run at once; ahead: full ones that may wait here for their turn.
    """

    slots: int
    ahead: int

    @abstractmethod
    async def load(self, bundle: Bundle) -> Engine:
        """Make a bundle ready. Raises BundleError or OverflowBoundError."""

    @abstractmethod
    async def unload(self, digest: str) -> None:
        """Forget a bundle that nobody uses any more."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what runs and let go of everything."""


class LocalReplicas(Replicas):
    """Threads of this process: each batch on one core, as many at once as there are threads."""

    def __init__(self, threads: int) -> None:
        self.slots, self.ahead = threads, 1
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix="tail", initializer=torch.set_num_threads, initargs=(1,)
        )

    async def load(self, bundle: Bundle) -> Engine:
        """See Replicas."""
        loop = asyncio.get_running_loop()
        predictor = await loop.run_in_executor(self._pool, _load_unchanged, bundle)

        async def engine(samples: Sequence[Parts]) -> Scored:
            return await loop.run_in_executor(self._pool, predictor, samples)

        return engine

    async def unload(self, digest: str) -> None:
        """Nothing to do: a bundle goes with the last reference to its engine."""

    async def close(self) -> None:
        """See Replicas."""
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
