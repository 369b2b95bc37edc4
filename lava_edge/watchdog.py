"""Starts the simulator's process, talks to it, and makes sure that nothing of it is left.

Whatever happens, leaving the `with` block kills the whole session of the simulator and removes its
shared memory and its scratch folder. What the simulator says on stderr ends up in the error.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lava_edge.channel import Kind, Record, unpack_record
from lava_edge.simulator import remove_shared_memory
from splitcore.errors import SimulationError

END_S = 2.0  # how long the simulator may take to end by itself
POLL_S = 0.25
READ_BYTES = 1 << 20
STDERR_BYTES = 4000
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ
PIPE_BYTES = 1 << 20


class Simulator:
    """One simulator process. Use as a context manager; frames go in by `send`, records come out."""

    def __init__(self, settings: dict[str, Any], stall_s: float) -> None:
        self._settings, self._stall_s = dict(settings), stall_s
        self._prefix = f"sbn_{secrets.token_hex(6)}_"
        self._scratch: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._fds: dict[str, int] = {}
        self._stderr: deque[bytes] = deque(maxlen=64)
        self._stopping = threading.Event()
        self._feed_lock = threading.Lock()

    def __enter__(self) -> Simulator:
        try:
            self._start()
        except OSError as error:
            self.close()
            raise SimulationError(f"the simulator could not be started: {error}") from None
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        self._scratch = tempfile.mkdtemp(prefix="spikebottlenet-")
        pipes = {name: os.pipe() for name in ("feed", "result", "control", "stderr")}
        theirs = {
            "feed": pipes["feed"][0],
            "result": pipes["result"][1],
            "control": pipes["control"][0],
            "stderr": pipes["stderr"][1],
        }
        self._fds = {
            "feed": pipes["feed"][1],
            "result": pipes["result"][0],
            "control": pipes["control"][1],
            "stderr": pipes["stderr"][0],
        }
        try:
            import fcntl

            for name in ("feed", "result"):
                with contextlib.suppress(OSError):  # a kernel may allow less
                    fcntl.fcntl(self._fds[name], _SET_PIPE_SIZE, PIPE_BYTES)
                os.set_blocking(self._fds[name], False)
            settings = {
                **self._settings,
                "prefix": self._prefix,
                "scratch": self._scratch,
                "feed_fd": theirs["feed"],
                "result_fd": theirs["result"],
                "control_fd": theirs["control"],
            }
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lava_edge.simulator", json.dumps(settings)],
                stdin=subprocess.DEVNULL,
                stdout=theirs["stderr"],
                stderr=theirs["stderr"],
                pass_fds=(theirs["feed"], theirs["result"], theirs["control"]),
                env=self._environment(),
                start_new_session=True,
            )
        finally:
            for fd in theirs.values():
                os.close(fd)
        threading.Thread(target=self._read_stderr, args=(self._fds["stderr"],), daemon=True).start()

    def _environment(self) -> dict[str, str]:
        assert self._scratch is not None
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "TMPDIR": self._scratch,
            "PYTHONPATH": os.pathsep.join(paths),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }

    def _read_stderr(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            while block := os.read(fd, 4096):
                self._stderr.append(block)

    def send(self, buffers: list[memoryview]) -> bool:
        """Write a batch to the feed; False when the simulator is being ended. Any thread."""
        with self._feed_lock:
            for buffer in buffers:
                view = buffer
                while view:
                    if self._stopping.is_set():
                        return False
                    if not _ready(self._fds["feed"], select.POLLOUT, POLL_S):
                        continue
                    try:
                        view = view[os.write(self._fds["feed"], view[:READ_BYTES]) :]
                    except BlockingIOError:
                        continue
                    except OSError:
                        return False  # the reader of results learns why
        return True

    def end_of_frames(self) -> None:
        """Close the feed."""
        with self._feed_lock:
            self._close("feed")

    def records(self, busy: Callable[[], bool]) -> Iterator[Record]:
        """Records as they come. Raises SimulationError when the simulator dies, fails or stalls.

        busy: whether an answer is owed; only then can silence be a stall.
        """
        assert self._process is not None
        buffer = bytearray()
        heard = time.monotonic()
        while True:
            if _ready(self._fds["result"], select.POLLIN, POLL_S):
                try:
                    block = os.read(self._fds["result"], READ_BYTES)
                except BlockingIOError:
                    continue
                if not block:
                    raise self._died()
                heard = time.monotonic()
                buffer += block
                while (record := unpack_record(buffer)) is not None:
                    if record.kind is Kind.ERROR:
                        text = record.payload.decode(errors="replace").strip()
                        raise SimulationError(f"the simulator failed: {_last(text)}")
                    yield record
                continue
            if self._process.poll() is not None:
                raise self._died()
            if not busy():
                heard = time.monotonic()
            elif time.monotonic() - heard > self._stall_s:
                raise SimulationError(
                    f"the simulator has not answered for {self._stall_s:g} s and was ended"
                )
            yield Record(Kind.READY, 0, 0, 0, 0, b"")  # lets the caller look around

    def _died(self) -> SimulationError:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(POLL_S)
        code = self._process.returncode
        if code is None:
            how = "closed its results"
        elif code < 0:
            how = f"was killed by signal {signal.Signals(-code).name}"
            if -code == signal.SIGBUS:
                how += " (no space left in shared memory)"
        else:
            how = f"ended with exit code {code}"
        said = _last(b"".join(self._stderr).decode(errors="replace").strip())
        return SimulationError(f"the simulator {how}{': ' + said if said else ''}")

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything. Safe to call twice; an interrupt waits until it is done."""
        with _no_interrupt():
            self._stopping.set()
            self._close("control")
            self.end_of_frames()
            if self._process is not None:
                self._end(self._process)
            for name in list(self._fds):
                self._close(name)
            remove_shared_memory(self._prefix)
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + END_S
        while process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(OSError, KeyError):
                if _ready(self._fds["result"], select.POLLIN, 0.02):
                    os.read(self._fds["result"], READ_BYTES)  # frees a writer
        # The group outlives its leader: kill what is left of it, whoever that is.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _close(self, name: str) -> None:
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)


def _ready(fd: int, event: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(timeout_s * 1000))


def _last(text: str) -> str:
    """The end of a long text; its last line says what happened."""
    return text[-STDERR_BYTES:]


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
