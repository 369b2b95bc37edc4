"""Where batches are computed: threads of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from cloud_server.batching import Result
from cloud_server.predict import Parts, Predictor
from cloud_server.tail import TailEngine
from splitcore import tail
from splitcore.bundle import Bundle


def predictor(bundle: Bundle) -> Predictor:
    """The decoder and tail of a bundle. Raises BundleError or OverflowBoundError."""
    manifest = bundle.manifest
    engine = TailEngine(tail.load(bundle.cloud_path), manifest.steps)
    if engine.tail.graph.input.shape != manifest.code_shape:
        from splitcore.errors import BundleError

        raise BundleError(f"{bundle.cloud_path}: its input is not the manifest's code_shape")
    return Predictor(manifest, engine)


class LocalEngine:
    """Runs batches in threads: each batch on one core, as many at once as there are threads."""

    def __init__(self, predict: Callable[[Sequence[Parts]], list[Result]], threads: int) -> None:
        self._predict = predict
        self._pool = ThreadPoolExecutor(
            threads, thread_name_prefix="tail", initializer=torch.set_num_threads, initargs=(1,)
        )

    async def __call__(self, samples: Sequence[Parts]) -> list[Result]:
        """Scores of each sample, or the error that its payload deserves."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, self._predict, samples)

    def close(self) -> None:
        """Finish what runs and end the threads."""
        self._pool.shutdown(wait=True)
