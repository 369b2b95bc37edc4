"""The simulator's own process: `python -m lava_edge.simulator SETTINGS`, started by `watchdog`.

Lava cannot be trusted to end: an exception in a model leaves its neighbours waiting for ever, and
its actors and shared memory behind. So it runs here, in a session of its own, under rules:

- the caller holds the other end of the control pipe; when that closes, all of this ends at once;
- an actor that dies is reported to the caller, who then ends all of this;
- actors die with this process, whatever kills it (PR_SET_PDEATHSIG);
- shared memory carries a prefix, temporary files a folder, that are removed afterwards.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import Any

from lava_edge.channel import Channel, Kind
from splitcore.errors import SpikeBottleNetError

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


def _end(prefix: str, scratch: str) -> None:
    """Kill and reap all children, remove what they shared, and go. Lava's own stop can hang."""
    children = [child.pid for child in multiprocessing.active_children()]
    children.append(resource_tracker._resource_tracker._pid)  # type: ignore[attr-defined]
    running = [pid for pid in children if pid is not None]
    for pid in running:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in running:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)
    remove_shared_memory(prefix)
    shutil.rmtree(scratch, ignore_errors=True)
    os._exit(0)


def _watch_control(settings: dict[str, Any]) -> None:
    with contextlib.suppress(OSError):
        os.read(settings["control_fd"], 1)
    _end(settings["prefix"], settings["scratch"])


def _watch_actors(actors: list[Any], channel: Channel) -> None:
    while True:
        time.sleep(POLL_S)
        for actor in actors:
            if not actor.is_alive():
                failure = actor.exception
                text = failure[1] if failure else f"it ended with exit code {actor.exitcode}"
                channel.write(Kind.ERROR, f"a Lava process died: {text}".encode())
                return


def _run(settings: dict[str, Any], channel: Channel) -> None:
    # Lava is heavy and sets the start method of multiprocessing: imported nowhere but here.
    from lava.magma.core.run_conditions import RunContinuous
    from lava.magma.core.run_configs import Loihi2SimCfg

    from lava_edge import blas_conv, netx_file, stepper
    from lava_edge.network.process import EdgeNetwork

    path = Path(settings["path"])
    graph = netx_file.load(path, settings["input_message_bits"])
    if settings["conv"] == "blas":
        blas_conv.install()
    network: Any
    if settings["model"] == "netx":
        from lava_edge import stock_netx

        network = stock_netx.network(path, graph, settings["steps"], channel)
    else:
        network = EdgeNetwork(
            graph=graph,
            steps=settings["steps"],
            batch=settings["batch"],
            channel=channel,
            record=settings["record"],
            live=settings["live"],
        )
    if settings["model"] == "leaf":
        stepper.warm_up()  # before the fork: the actor inherits compiled kernels
    config = Loihi2SimCfg(select_tag="fixed_pt", select_sub_proc_model=settings["model"] == "stock")
    network.create_runtime(run_cfg=config)
    actors = list(network.runtime._messaging_infrastructure.actors)
    threading.Thread(target=_watch_actors, args=(actors, channel), daemon=True).start()
    channel.write(Kind.READY)
    if settings["model"] == "stock" and network.delayed:
        _run_clearing(network, settings["steps"])
    network.run(condition=RunContinuous(), run_cfg=config)
    threading.Event().wait()  # until the caller closes the control pipe


def _run_clearing(network: Any, steps: int) -> None:
    """Run on, clearing what waits in delayed synapses whenever a new sample reaches them.

    Stock DelayDense never resets: its spikes would reach into the next sample. Column 0 of its
    buffer belongs to the old sample's last step and stays. A source of depth d starts its sample n
    in time step n·T + d + 1.
    """
    from lava.magma.core.run_conditions import RunSteps

    for now in itertools.count(1):
        network.run(condition=RunSteps(num_steps=1))
        for depth, process in network.delayed:
            if now % steps == depth % steps:
                waiting = process.a_buff.get()
                waiting[:, 1:] = 0
                process.a_buff.set(waiting)


def main(arguments: list[str]) -> None:
    """Run until the caller closes the control pipe."""
    settings = json.loads(arguments[0])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.register_at_fork(after_in_child=_die_with_parent)
    _name_shared_memory(settings["prefix"])
    lock = multiprocessing.get_context("fork").Lock()
    channel = Channel(settings["feed_fd"], settings["result_fd"], lock)
    threading.Thread(target=_watch_control, args=(settings,), daemon=True).start()
    try:
        _run(settings, channel)
    except BaseException as error:
        ours = isinstance(error, SpikeBottleNetError)
        said = str(error) if ours else traceback.format_exc()
        with contextlib.suppress(OSError):
            channel.write(Kind.ERROR, said.encode())
        raise SystemExit(1) from error


if __name__ == "__main__":
    main(sys.argv[1:])
