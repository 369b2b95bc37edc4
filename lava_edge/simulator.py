"""The simulator's own process: `python -m lava_edge.simulator SETTINGS`, started by `watchdog`.

Lava cannot be trusted to end: an exception in a model leaves its neighbours waiting for ever, and
its actors and shared memory behind. So it runs here, in a session of its own, under rules:

- the caller holds the other end of the control pipe; when that closes, all of this ends;
- an actor that dies is reported and ends all of this;
- actors die with this process (PR_SET_PDEATHSIG);
- shared memory carries a prefix, temporary files a folder, that the caller removes afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import shutil
import signal
import sys
import threading
import time
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

from lava_edge.channel import Channel, Kind

GRACE_S = 3.0  # from the caller's end of the control pipe to a hard end
POLL_S = 0.2
_PR_SET_PDEATHSIG = 1


def remove_shared_memory(prefix: str) -> None:
    """Unlink every shared memory block of a run."""
    with contextlib.suppress(OSError):
        for block in Path("/dev/shm").glob(f"{prefix}*"):
            block.unlink(missing_ok=True)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _name_shared_memory(prefix: str) -> None:
    shared_memory._SHM_NAME_PREFIX = f"/{prefix}"  # type: ignore[attr-defined]
    shared_memory._SHM_SAFE_NAME_LENGTH = len(prefix) + 17  # type: ignore[attr-defined]


def _end_hard(prefix: str, scratch: str) -> None:
    remove_shared_memory(prefix)
    shutil.rmtree(scratch, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


class _Guard:
    """Watches the control pipe and the actors from a thread of its own."""

    def __init__(self, settings: dict[str, Any], channel: Channel) -> None:
        self._settings, self._channel = settings, channel
        self.stop = threading.Event()
        self.actors: list[Any] = []
        threading.Thread(target=self._watch_control, daemon=True).start()
        threading.Thread(target=self._watch_actors, daemon=True).start()

    def _watch_control(self) -> None:
        with contextlib.suppress(OSError):
            os.read(self._settings["control_fd"], 1)
        self.stop.set()
        time.sleep(GRACE_S)
        _end_hard(self._settings["prefix"], self._settings["scratch"])

    def _watch_actors(self) -> None:
        while not self.stop.wait(POLL_S):
            for actor in self.actors:
                if actor.is_alive() or self.stop.is_set():
                    continue
                failure = actor.exception
                text = failure[1] if failure else f"it ended with exit code {actor.exitcode}"
                self._channel.write(Kind.ERROR, f"a Lava process died: {text}".encode())
                return


def _run(settings: dict[str, Any], guard: _Guard, channel: Channel) -> None:
    # Lava is heavy and sets the start method of multiprocessing: it is imported in this process only.
    from lava.magma.core.run_conditions import RunContinuous
    from lava.magma.core.run_configs import Loihi2SimCfg

    from lava_edge import netx_file
    from lava_edge.network.process import EdgeNetwork

    graph = netx_file.load(Path(settings["path"]), settings["input_message_bits"])
    stock = settings["model"] == "stock"
    if settings["conv"] == "blas":
        from lava_edge import blas_conv

        blas_conv.install()
    network = EdgeNetwork(
        graph=graph,
        steps=settings["steps"],
        batch=settings["batch"],
        channel=channel,
        record=settings["record"],
        live=settings["live"],
    )
    config = Loihi2SimCfg(select_tag="fixed_pt", select_sub_proc_model=stock)
    network.create_runtime(run_cfg=config)
    guard.actors = list(network.runtime._messaging_infrastructure.actors)
    channel.write(Kind.READY)
    delays = network.delayed
    if delays:
        _run_clearing(network, delays, settings["steps"], guard)
    else:
        network.run(condition=RunContinuous(), run_cfg=config)
        guard.stop.wait()
    network.stop()


def _run_clearing(network: Any, delays: list[Any], steps: int, guard: _Guard) -> None:
    """Run on, clearing what waits in delayed synapses whenever a new sample reaches them.

    Stock DelayDense never resets: its spikes would reach into the next sample. Column 0 of its
    buffer belongs to the old sample's last step and stays. A source of depth d starts its sample n
    in time step n·T + d + 1.
    """
    from lava.magma.core.run_conditions import RunSteps

    for now in itertools.count(1):
        network.run(condition=RunSteps(num_steps=1))
        for depth, process in delays:
            if now % steps == depth % steps:
                waiting = process.a_buff.get()
                waiting[:, 1:] = 0
                process.a_buff.set(waiting)
        if guard.stop.is_set():
            return


def main(arguments: list[str]) -> None:
    """Run until the caller closes the control pipe."""
    settings = json.loads(arguments[0])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.register_at_fork(after_in_child=_die_with_parent)
    _name_shared_memory(settings["prefix"])
    import multiprocessing

    lock = multiprocessing.get_context("fork").Lock()
    channel = Channel(settings["feed_fd"], settings["result_fd"], lock)
    guard = _Guard(settings, channel)
    try:
        _run(settings, guard, channel)
    except BaseException as error:
        if not guard.stop.is_set():
            import traceback

            channel.write(Kind.ERROR, traceback.format_exc().encode())
            raise SystemExit(1) from error


if __name__ == "__main__":
    main(sys.argv[1:])
