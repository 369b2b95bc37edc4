"""Kill, interrupt, poison and starve the runtime: a clear error soon, and nothing left behind."""

import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lava_edge import netx_file
from lava_edge.runtime import simulate, stream
from splitcore.errors import DataError, NetxError, SimulationError
from splitcore.graph import Conv, Current, Graph, Input, Lif
from tests.lava_edge.leftovers import Run, only_simulator, session, simulators

STEPS = 3
SOON_S = 30.0  # of a machine that others use too; alone it is about a second


def _graph() -> Graph:
    conv = Conv(np.full((2, 1, 3, 3), 20), padding=(1, 1))
    back = Conv(np.full((1, 2, 1, 1), 40))
    return Graph(
        Input((1, 4, 4)),
        (
            Lif("a", (Current("input", conv),), np.zeros(2, int), 30, 1024),
            Lif("b", (Current("a", back),), np.zeros(1, int), 50, 1024),
        ),
    )


def _frames(count: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((count, STEPS, 1, 4, 4)) < 0.5).astype(np.uint8)


class Tap:
    """A source of samples that runs dry until it is opened, so that a run can be caught inside."""

    def __init__(self, given: int, whole: int) -> None:
        self.opened = threading.Event()
        self._given, self._frames = given, _frames(whole)

    def __iter__(self) -> Iterator[np.ndarray]:
        yield from self._frames[: self._given]
        self.opened.wait(60)
        yield from self._frames[self._given :]


@pytest.fixture(autouse=True)
def _nothing_of_ours_before_or_after() -> Iterator[None]:
    assert simulators() == []
    yield
    assert simulators() == []


def _kept_and_error(results: Iterator[object]) -> tuple[int, str]:
    """How many results came before the error, and what it said."""
    started, kept = time.monotonic(), 0
    with pytest.raises(SimulationError) as caught:  # noqa: PT012 - the loop is what raises
        for _ in results:
            kept += 1
    assert time.monotonic() - started < SOON_S
    return kept, str(caught.value)


def _caught_inside(model: str = "leaf") -> tuple[Tap, Iterator[object], Run]:
    """A run that has given one of two samples and waits for input."""
    tap = Tap(given=2 if model == "leaf" else 5, whole=8)
    results = simulate(_graph(), iter(tap), model=model, batch=1)
    next(results)
    return tap, results, only_simulator()


def test_simulate_normal_end_leaves_nothing() -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    results = simulate(_graph(), _frames(3), batch=2)
    assert next(results).index == 0
    run = only_simulator()
    assert [result.index for result in results] == [1, 2]
    run.wait_gone()
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_simulate_killed_simulator_raises_and_keeps_results() -> None:
    tap, results, run = _caught_inside()
    os.kill(run.pid, signal.SIGKILL)
    kept, message = _kept_and_error(results)
    assert kept <= 1
    assert "SIGKILL" in message
    run.wait_gone()
    tap.opened.set()


@pytest.mark.parametrize("model", ["leaf", "stock"])
def test_simulate_killed_actor_raises(model: str) -> None:
    tap, results, run = _caught_inside(model)
    youngest = max(session(run.pid))  # Lava starts its actors last
    os.kill(youngest, signal.SIGKILL)
    tap.opened.set()
    _, message = _kept_and_error(results)
    assert "the simulator" in message
    run.wait_gone()


def test_simulate_exception_in_the_model_raises_with_its_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A spread that does not exist makes the leaf raise inside run_spk, where Lava would hang."""
    monkeypatch.setattr("lava_edge.feeder.pack_batch", lambda *_: [memoryview(b"\x09" * 14)])
    _, message = _kept_and_error(simulate(_graph(), _frames(2)))
    assert "run_spk" in message or "leaf.py" in message


def test_simulate_damaged_network_in_the_child_raises(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "edge.net"
    path.write_bytes(b"no network")
    monkeypatch.setattr("lava_edge.netx_file.load", lambda *_: _graph())
    _, message = _kept_and_error(simulate(path, _frames(2)))
    assert "edge.net" in message


def test_simulate_stopped_simulator_raises_after_the_stall() -> None:
    tap = Tap(given=1, whole=4)
    results = simulate(_graph(), iter(tap), batch=1, stall_s=5.0)
    next(results)
    run = only_simulator()
    for pid in session(run.pid):
        os.kill(pid, signal.SIGSTOP)
    tap.opened.set()
    _, message = _kept_and_error(results)
    assert "not answered" in message
    run.wait_gone()


def test_simulate_pause_of_the_source_is_no_stall_of_stock_processes() -> None:
    """They hold the last samples until others push them out: none is owed meanwhile."""
    tap, stall_s = Tap(given=5, whole=8), 3.0
    results = simulate(_graph(), iter(tap), model="stock", stall_s=stall_s)
    next(results)
    threading.Timer(2.5 * stall_s, tap.opened.set).start()
    assert len(list(results)) == 7


def test_simulate_closed_while_waiting_for_input_leaves_nothing() -> None:
    tap, results, run = _caught_inside()
    started = time.monotonic()
    results.close()  # type: ignore[attr-defined]
    assert time.monotonic() - started < SOON_S
    run.wait_gone()
    tap.opened.set()


def test_simulate_failing_source_raises_its_own_error() -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from _frames(2)
        raise DataError("the camera fell")

    with pytest.raises(DataError, match="the camera fell"):
        list(simulate(_graph(), broken(), batch=1))


def test_simulate_wrong_sample_in_the_stream_raises_naming_the_shape() -> None:
    samples = [_frames(1)[0], np.zeros((STEPS, 1, 5, 5), np.uint8)]
    with pytest.raises(DataError, match=r"\(3, 1, 4, 4\), got \(3, 1, 5, 5\)"):
        list(simulate(_graph(), samples, batch=1))


def test_stream_closed_early_leaves_nothing() -> None:
    tap = Tap(given=1, whole=2)
    steps = stream(_graph(), (frame for sample in tap for frame in sample), STEPS)
    next(steps)
    run = only_simulator()
    steps.close()  # type: ignore[attr-defined]
    run.wait_gone()
    tap.opened.set()


# A shell that starts its jobs in the background has them ignore Ctrl-C: undone here.
SCRIPT = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
import numpy as np
from lava_edge.runtime import simulate

def frames():
    yield np.ones((3, 1, 4, 4), np.uint8)
    print("waiting", flush=True)
    time.sleep(100)

from pathlib import Path
for result in simulate(Path(sys.argv[1]), frames(), batch=1):
    print("result", flush=True)
"""


OF_A_GRAPH = """
import time
import numpy as np
from lava_edge.runtime import simulate
from splitcore.graph import Current, Graph, Identity, Input, Lif

layer = Lif("a", (Current("input", Identity(64)),), np.zeros(1, int), 10, 1024)

def frames():
    yield np.ones((2, 1, 1, 1), np.uint8)
    time.sleep(60)

for _ in simulate(Graph(Input((1, 1, 1)), (layer,)), frames(), batch=1):
    print("result", flush=True)
"""


def _script(path: Path, **others: object) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(SCRIPT), str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **others,  # type: ignore[call-overload]
    )


@pytest.fixture
def edge_path(tmp_path: Path) -> Path:
    path = tmp_path / "edge.net"
    netx_file.save(_graph(), path)
    return path


@pytest.mark.parametrize("delay_s", [0.0, 0.8, None])
def test_simulate_interrupt_at_any_moment_ends_all(edge_path: Path, delay_s: float | None) -> None:
    """Ctrl-C while the simulator starts, imports, compiles; None: while it waits for input."""
    process = _script(edge_path)
    run = only_simulator(process.pid)
    if delay_s is None:
        assert process.stdout is not None
        while "result" not in process.stdout.readline():
            pass
    else:
        time.sleep(delay_s)
    process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    process.send_signal(signal.SIGINT)  # an impatient user: the clean-up must not suffer
    _, stderr = process.communicate(timeout=SOON_S)
    assert "KeyboardInterrupt" in stderr
    run.wait_gone()


def test_simulate_killed_caller_takes_the_simulator_along(edge_path: Path) -> None:
    process = _script(edge_path)
    run = only_simulator(process.pid)
    assert process.stdout is not None
    while "result" not in process.stdout.readline():
        pass
    process.kill()
    process.communicate()
    run.wait_gone()


@pytest.fixture
def temporary(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for temporary files with a short name: sockets go there."""
    with tempfile.TemporaryDirectory(prefix="sbn") as folder:
        monkeypatch.setenv("TMPDIR", folder)
        monkeypatch.setattr(tempfile, "tempdir", None)
        yield Path(folder)


def test_simulate_killed_caller_leaves_no_file_of_a_graph(temporary: Path) -> None:
    """A graph is written for the simulator, which cleans up when nobody else can."""
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(OF_A_GRAPH)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert "result" in process.stdout.readline()
    run = only_simulator(process.pid)
    process.kill()
    process.communicate()
    run.wait_gone()
    assert list(temporary.iterdir()) == []


def test_simulate_where_no_socket_fits_says_so(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = temporary / ("x" * 100)
    deep.mkdir()
    monkeypatch.setenv("TMPDIR", str(deep))
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(SimulationError, match="set TMPDIR to a folder of a shorter name"):
        next(simulate(_graph(), _frames(1)))
    assert list(deep.iterdir()) == []


def test_simulate_file_replaced_while_it_is_read_is_refused(
    edge_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = netx_file.load

    def slowly(*args: object) -> Graph:
        found = load(*args)  # type: ignore[arg-type]
        netx_file.save(_graph(), edge_path)
        return found

    monkeypatch.setattr(netx_file, "load", slowly)
    with pytest.raises(NetxError, match="was replaced while it was read"):
        simulate(edge_path, _frames(1))


def test_simulate_file_replaced_later_is_simulated_as_it_was_read(edge_path: Path) -> None:
    expected = [result.code_tchw for result in simulate(edge_path, _frames(2))]
    results = simulate(edge_path, _frames(2))
    edge_path.write_bytes(b"another network")
    np.testing.assert_array_equal([result.code_tchw for result in results], expected)


def _limit_files(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.parametrize("size", [0, 100])
def test_simulate_full_disk_raises_and_leaves_nothing(
    edge_path: Path, tmp_path: Path, size: int
) -> None:
    """No file may be longer than this, shared memory included: what a full disk does."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = _script(edge_path, env=environment, preexec_fn=lambda: _limit_files(size))
    stdout, stderr = process.communicate(timeout=SOON_S)
    assert "result" not in stdout
    assert "SimulationError" in stderr
    assert list(folder.iterdir()) == []


def test_simulate_no_room_for_compiled_kernels_still_runs(edge_path: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
    process = _script(edge_path, env=environment, preexec_fn=lambda: _limit_files(30_000))
    assert process.stdout is not None
    while (line := process.stdout.readline()) and "result" not in line:
        pass
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=SOON_S)
    assert "result" in line, stderr
