"""Process models that feed and read the stock network."""

# Lava declares a port by the class it becomes and assigns its description; recv() has no type.
# pyright: reportAssignmentType=false, reportArgumentType=false, reportAttributeAccessIssue=false

from __future__ import annotations

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

from lava_edge.channel import Channel, Kind
from lava_edge.network.process import FrameSource, SpikeTap, StateTap


@implements(proc=FrameSource, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyFrameSource(PyLoihiProcessModel):
    """Reads a batch whenever the last one is used up."""

    frames: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32)

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self._graph = proc_params["graph"]
        self._steps: int = proc_params["steps"]
        self._channel: Channel = proc_params["channel"]
        self._batch = np.zeros((0, 1, *self._graph.input.shape), dtype=np.uint8)
        self._next = 0
        self._ended = False

    def run_spk(self) -> None:
        """Send the frame of this time step."""
        step = (self.time_step - 1) % self._steps
        if step == 0:
            self._next += 1
            if self._next >= len(self._batch) and not self._ended:
                batch = self._channel.read()
                self._ended = batch is None
                if batch is not None:
                    self._batch = batch.frames(self._graph.input.shape)
                    self._next = 0
        if self._ended and self._next >= len(self._batch):
            self.frames.send(np.zeros(self.frames.shape, dtype=np.int32))
            return
        sample = self._batch[self._next]
        frame = sample[step if len(sample) > 1 else 0]
        self.frames.send(frame.transpose(2, 1, 0).astype(np.int32))


class _PyTap(PyLoihiProcessModel):
    """Sample n of a layer of this depth is there after time step (n + 1)·T + depth."""

    def __init__(self, proc_params: dict) -> None:
        super().__init__(proc_params)
        self._steps: int = proc_params["steps"]
        self._layer: int = proc_params["layer"]
        self._depth: int = proc_params["depth"]
        self._channel: Channel = proc_params["channel"]
        self._kept: dict[Kind, list[np.ndarray]] = {}

    def _keep(self, kind: Kind, values_whc: np.ndarray) -> None:
        since = self.time_step - 1 - self._depth
        if since < 0:
            return
        kept = self._kept.setdefault(kind, [])
        kept.append(values_whc.transpose(2, 1, 0))
        if len(kept) == self._steps:
            values = np.stack(kept)
            kept.clear()
            payload = (
                np.packbits(values.astype(np.uint8).reshape(-1))
                if kind is Kind.SPIKES
                else values.astype(np.int32)
            )
            self._channel.write(
                kind, payload.tobytes(), layer=self._layer, sample=since // self._steps
            )


@implements(proc=SpikeTap, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PySpikeTap(_PyTap):
    """Keeps what its layer sends in each step."""

    spikes: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32)

    def run_spk(self) -> None:
        """Take this step's spikes."""
        self._keep(Kind.SPIKES, self.spikes.recv())


@implements(proc=StateTap, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyStateTap(_PyTap):
    """Reads u and v in the management phase, when the layer has done its step."""

    current: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)
    voltage: PyRefPort = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def post_guard(self) -> bool:
        """Ask for a management phase in every step."""
        return True

    def run_post_mgmt(self) -> None:
        """Read this step's state."""
        self._keep(Kind.CURRENT, self.current.read())
        self._keep(Kind.VOLTAGE, self.voltage.read())
