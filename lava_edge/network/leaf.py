"""The edge network in one operating system process: the fast model.

With a channel it takes whole batches from its pipe and answers on its own, so no source and no sink
Process is stepped beside it. With ports it behaves like the stock model: the output leaves
depth[output] steps after the input came in.
"""

# Lava declares a port by the class it becomes and assigns its description; recv() has no type.
# pyright: reportAssignmentType=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import logging
import time
import traceback
from collections import deque

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from lava_edge import stepper
from lava_edge.channel import Batch, Channel, Kind, Spread
from lava_edge.network.process import EdgeNetwork
from measure.counts import FIELDS
from splitcore.errors import SimulationError
from splitcore.graph import Graph
from splitcore.spikes import packed_size

log = logging.getLogger(__name__)

IDLE_S = 0.002  # how long a step lasts when there is nothing left to do


@implements(proc=EdgeNetwork, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class LeafEdgeNetwork(PyLoihiProcessModel):
    """Steps the whole graph for all samples of a batch at once."""

    inp: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self._graph: Graph = proc_params["graph"]
        self._steps: int = proc_params["steps"]
        self._channel: Channel | None = proc_params["channel"]
        self._record: str = proc_params["record"]
        self._live: bool = proc_params["live"]
        self._size: int = proc_params["batch"]
        self._stepper = stepper.build(
            self._graph,
            self._size,
            states=self._record == "states",
            threads=stepper.available_threads() if self._size > 1 else 1,
        )
        self._batch: Batch | None = None
        self._frames = np.zeros(0, dtype=np.uint8)
        self._packed: dict[int, np.ndarray] = {}  # by layer, (samples, bytes)
        self._states: dict[tuple[Kind, int], list[np.ndarray]] = {}
        self._done_samples = 0
        self._ended = False
        self._late: deque[np.ndarray] = deque()

    def run_spk(self) -> None:
        """Advance one time step."""
        if self._channel is None:
            self._run_ports()
            return
        if self._ended:
            time.sleep(IDLE_S)
            return
        try:
            self._run_channel(self._channel)
        except Exception:
            self._channel.write(Kind.ERROR, traceback.format_exc().encode())
            raise

    def _run_ports(self) -> None:
        shape = (self._size, *self._graph.input.shape[::-1])
        frames = self.inp.recv().reshape(shape).transpose(0, 3, 2, 1)
        if not self._graph.input.message_bits:
            frames = frames != 0  # what stock Conv and Dense take for a spike
        elif frames.min() < 0 or frames.max() > self._graph.input.max_value:
            error = SimulationError(
                f"edge network: expected input in [0, {self._graph.input.max_value}], "
                f"got [{frames.min()}, {frames.max()}]"
            )
            # Lava's run() says only that something raised, and hangs if a receiver still waits.
            log.error("%s", error)
            self.out.send(np.zeros(self.out.shape, dtype=np.int32))
            raise error
        if (self.time_step - 1) % self._steps == 0:
            self._stepper.reset(self._size)
        self._stepper.step(frames.astype(np.uint16))
        self._late.append(self._stepper.spikes(self._graph.output_name).astype(np.int32))
        if len(self._late) > self._graph.depth[self._graph.output_name]:
            spikes = self._late.popleft().transpose(0, 3, 2, 1)
        else:
            spikes = np.zeros((self._size, *self._graph.output_shape[::-1]), dtype=np.int32)
        self.out.send(spikes.reshape(self.out.shape))

    def _run_channel(self, channel: Channel) -> None:
        step = (self.time_step - 1) % self._steps
        if step == 0 or (self._batch is not None and self._batch.spread is Spread.STEP):
            self._batch = channel.read()
            if self._batch is None:
                self._ended = True
                return
            self._frames = self._batch.frames(self._graph.input.shape)
        assert self._batch is not None
        if step == 0:
            self._stepper.reset(self._batch.samples)
        static = self._batch.spread is Spread.STATIC
        frames = self._frames[:, step if self._batch.spread is Spread.SAMPLES else 0]
        self._stepper.step(frames, repeated=static and step > 0)
        if self._live:
            self._send_step(channel, step)
            self._done_samples += step == self._steps - 1
            return
        self._keep(step, self._batch.samples)
        if step == self._steps - 1:
            self._send(channel, self._batch.samples)

    def _send_step(self, channel: Channel, step: int) -> None:
        spiked_ns = time.monotonic_ns()
        packed = np.zeros((1, packed_size(self._graph.output_shape)), dtype=np.uint8)
        self._stepper.pack(self._graph.output_name, packed, 0)
        channel.write(
            Kind.STEP,
            packed.tobytes(),
            sample=self._done_samples,
            step=step,
            time_ns=spiked_ns,
        )

    def _keep(self, step: int, samples: int) -> None:
        output = len(self._graph.layers) - 1
        for index, layer in enumerate(self._graph.layers):
            if self._record == "none" and index != output:
                continue
            if step == 0:
                size = packed_size((self._steps, *self._graph.shapes[layer.name]))
                self._packed[index] = np.zeros((samples, size), dtype=np.uint8)
            self._stepper.pack(layer.name, self._packed[index], step)
            if self._record == "states":
                for kind, values in (
                    (Kind.CURRENT, self._stepper.current(layer.name)),
                    (Kind.VOLTAGE, self._stepper.voltage(layer.name)),
                ):
                    self._states.setdefault((kind, index), []).append(values)

    def _send(self, channel: Channel, samples: int) -> None:
        counts = self._stepper.counts()
        table = np.stack([getattr(counts, name) for name in FIELDS], axis=1)
        states = {key: np.stack(values, axis=1) for key, values in self._states.items()}
        for place in range(samples):
            sample = self._done_samples + place
            for layer, packed in self._packed.items():
                channel.write(Kind.SPIKES, packed[place].tobytes(), layer=layer, sample=sample)
            for (kind, layer), values in states.items():
                channel.write(kind, values[place].tobytes(), layer=layer, sample=sample)
            channel.write(Kind.COUNTS, table[place].tobytes(), sample=sample)
        self._states.clear()
        self._done_samples += samples
