"""Carries frames from the caller's iterable to the simulator, in a thread of its own.

At most `ahead` samples (or steps, when streaming) are under way: taken from the iterable and not
yet answered to the caller. A slow reader of results therefore stops the source.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator

import numpy as np

from lava_edge.channel import Spread, pack_batch
from lava_edge.watchdog import Simulator
from splitcore.errors import DataError
from splitcore.graph import Graph

POLL_S = 0.25


def checked_sample(graph: Graph, frames_tchw: np.ndarray, steps: int | None = None) -> np.ndarray:
    """One sample's frames if they fit the input, or DataError."""
    frames = np.asarray(frames_tchw)
    expected = f"({steps or 'T'}, {', '.join(map(str, graph.input.shape))})"
    if frames.ndim != 4 or frames.shape[1:] != graph.input.shape or not len(frames):
        raise DataError(f"frames: expected a sample of shape {expected}, got {frames.shape}")
    if steps is not None and len(frames) != steps:
        raise DataError(f"frames: expected a sample of shape {expected}, got {frames.shape}")
    if frames.dtype.kind not in "iub":
        raise DataError(f"frames: expected integers, got {frames.dtype}")
    seen = frames[:1] if frames.strides[0] == 0 else frames
    if seen.min() < 0 or seen.max() > graph.input.max_value:
        raise DataError(
            f"frames: expected values in [0, {graph.input.max_value}], "
            f"got [{seen.min()}, {seen.max()}]"
        )
    return frames


class Feeder:
    """Takes samples (T, C, H, W), or single frames (C, H, W) when `live`, and sends them.

    held: samples that stay inside the simulator until others, or the end of the frames, push them
    out: no answer to them is due while the source pauses.
    """

    def __init__(
        self,
        graph: Graph,
        frames: Iterator[np.ndarray],
        *,
        steps: int,
        batch: int,
        ahead: int,
        held: int = 0,
        live: bool = False,
        keep: bool = False,
    ) -> None:
        self._graph, self._frames = graph, frames
        self._steps, self._batch, self._live, self._keep = steps, batch, live, keep
        self._slots, self._held = threading.Semaphore(ahead), held
        self._dtype = np.uint8 if graph.input.message_bits <= 8 else np.uint16
        self.kept: dict[int, np.ndarray] = {}  # frames of unfinished samples, where `keep` asks
        self.sent = 0  # samples, or steps when live
        self.ended = False
        self.failure: BaseException | None = None

    def start(self, simulator: Simulator) -> None:
        """Run until the frames end or the simulator does."""
        threading.Thread(target=self._run, args=(simulator,), daemon=True).start()

    @property
    def due(self) -> int:
        """Answers that the simulator can give by what was sent so far."""
        return self.sent if self.ended else self.sent - self._held

    def answered(self) -> None:
        """The caller has taken one result: one more sample may be on its way."""
        self._slots.release()

    def _run(self, simulator: Simulator) -> None:
        try:
            while batch := self._take(simulator):
                if not self._send(simulator, batch):
                    break
        except BaseException as error:
            self.failure = error  # raised again in the caller's thread
        finally:
            self.ended = True
            simulator.end_of_frames()

    def _take(self, simulator: Simulator) -> list[np.ndarray]:
        taken: list[np.ndarray] = []
        while len(taken) < self._batch:
            while not self._slots.acquire(timeout=POLL_S):
                if simulator.ending:
                    return []
            one = next(self._frames, None)
            if one is None:
                break
            frames = np.asarray(one)
            if self._live:
                frames = checked_sample(self._graph, frames[None], 1)
            taken.append(checked_sample(self._graph, frames, None if self._live else self._steps))
        return taken

    def _send(self, simulator: Simulator, batch: list[np.ndarray]) -> bool:
        if self._live:
            spread = Spread.STEP
        elif all(frames.strides[0] == 0 or len(frames) == 1 for frames in batch):
            spread = Spread.STATIC
        else:
            spread = Spread.SAMPLES
        values = np.stack([frames if spread is Spread.SAMPLES else frames[0] for frames in batch])
        if self._keep:
            self.kept.update(zip(itertools.count(self.sent), batch))
        self.sent += len(batch)
        return simulator.send(pack_batch(values.astype(self._dtype), len(batch), spread))
