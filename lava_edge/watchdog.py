"""Starts the simulator's process, talks to it, and makes sure that nothing of it is left.

Whatever happens, leaving the `with` block ends the whole session of the simulator and removes its
shared memory and its scratch folder. What the simulator said on stderr ends up in the error.
"""

from __future__ import annotations

import contextlib
import fcntl
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

START_S = 300.0  # to import Lava and compile kernels on a slow, busy machine
END_S = 3.0  # how long the simulator may take to clean up by itself
POLL_S = 0.25
READ_BYTES = PIPE_BYTES = 1 << 20
MESSAGE_CHARACTERS = 2000
MAX_SCRATCH = 107 - len("/pymp-12345678/listener-12345678")  # a socket's name has 107 bytes
_SET_PIPE_SIZE = 1031  # F_SETPIPE_SZ; the fcntl module of Python 3.10 names it only on some builds


class Simulator:
    """One simulator process. Use as a context manager; frames go in by `send`, records come out.

    write_edge: writes the network's file to the path it is given, in the scratch folder.
    """

    def __init__(
        self, settings: dict[str, Any], stall_s: float, write_edge: Callable[[Path], object]
    ) -> None:
        self._settings, self._stall_s, self._write_edge = settings, stall_s, write_edge
        self._prefix = f"sbn_{secrets.token_hex(6)}_"
        self._scratch: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._fds: dict[str, int] = {}
        self._said: deque[bytes] = deque(maxlen=64)
        self._listener: threading.Thread | None = None
        self._stopping = threading.Event()
        self._feed_lock = threading.Lock()

    @property
    def pid(self) -> int | None:
        """Process and session id of the simulator."""
        return None if self._process is None else self._process.pid

    @property
    def ending(self) -> bool:
        """Whether the simulator is being ended, so that nothing more can be sent."""
        return self._stopping.is_set()

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
        if len(os.fsencode(self._scratch)) > MAX_SCRATCH:
            raise OSError(
                f"{self._scratch} is too long for the sockets below it; set TMPDIR to a folder of "
                "a shorter name"
            )
        edge = Path(self._scratch) / "edge.net"
        self._write_edge(edge)
        feed, result, control, said = os.pipe(), os.pipe(), os.pipe(), os.pipe()
        self._fds = {"feed": feed[1], "result": result[0], "control": control[1]}
        theirs = {"feed_fd": feed[0], "result_fd": result[1], "control_fd": control[0]}
        self._listener = threading.Thread(target=self._listen, args=(said[0],), daemon=True)
        self._listener.start()
        try:
            for fd in (feed[1], result[0]):
                with contextlib.suppress(OSError):  # a kernel may allow less
                    fcntl.fcntl(fd, _SET_PIPE_SIZE, PIPE_BYTES)
                os.set_blocking(fd, False)
            places = {"prefix": self._prefix, "scratch": self._scratch, "path": str(edge)}
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "lava_edge.simulator",
                    json.dumps({**self._settings, **places, **theirs}),
                ],
                stdin=subprocess.DEVNULL,
                stdout=said[1],
                stderr=said[1],
                pass_fds=tuple(theirs.values()),
                env=self._environment(self._scratch),
                start_new_session=True,  # Ctrl-C reaches us, and we end the session
            )
        finally:
            for fd in (*theirs.values(), said[1]):
                os.close(fd)

    def _environment(self, scratch: str) -> dict[str, str]:
        root = str(Path(__file__).resolve().parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        return {
            **os.environ,
            **single,
            "TMPDIR": scratch,
            "PYTHONPATH": os.pathsep.join(paths),
            "NUMBA_CACHE_DIR": _kernel_cache(scratch),
        }

    def _listen(self, fd: int) -> None:
        with contextlib.suppress(OSError):
            while block := os.read(fd, 4096):
                self._said.append(block)
        os.close(fd)

    def send(self, buffers: list[memoryview]) -> bool:
        """Write a batch to the feed; False when the simulator is being ended. Any thread."""
        with self._feed_lock:
            for buffer in buffers:
                view = buffer
                while view:
                    if self.ending:
                        return False
                    if not _ready(self._fds["feed"], select.POLLOUT, POLL_S):
                        continue
                    try:
                        view = view[os.write(self._fds["feed"], view) :]
                    except BlockingIOError:
                        continue
                    except OSError:
                        return False  # nobody reads any more; who reads the results learns why
        return True

    def end_of_frames(self) -> None:
        """Close the feed. Any thread."""
        with self._feed_lock:
            self._close("feed")

    def records(self, busy: Callable[[], bool]) -> Iterator[Record | None]:
        """Records as they come, and None now and then so that the caller can look around.

        busy: whether an answer is owed; once it is ready, only then can silence be a stall.
        Raises SimulationError when the simulator dies, fails or stalls.
        """
        assert self._process is not None
        buffer = bytearray()
        heard = time.monotonic()
        limit_s, ready = max(START_S, self._stall_s), False
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
                        raise SimulationError(f"the simulator failed: {_end_of(text)}")
                    if record.kind is Kind.READY:
                        limit_s, ready = self._stall_s, True
                    else:
                        yield record
                        heard = time.monotonic()  # the caller's own pauses are no silence
            elif self._process.poll() is not None:
                raise self._died()
            elif ready and not busy():
                heard = time.monotonic()
            elif time.monotonic() - heard > limit_s:
                raise SimulationError(
                    f"the simulator has not answered for {limit_s:g} s and was ended"
                )
            asked = time.monotonic()
            yield None
            heard += time.monotonic() - asked

    def _died(self) -> SimulationError:
        assert self._process is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(POLL_S)
        code = self._process.returncode
        if code is None:
            how = "closed its results"
        elif code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            if -code == signal.SIGBUS:
                how += ": no space is left in /dev/shm"
        else:
            how = f"ended with exit code {code}"
        said = _end_of(b"".join(self._said).decode(errors="replace").strip())
        return SimulationError(f"the simulator {how}{'; it said: ' + said if said else ''}")

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
            self._close("result")
            remove_shared_memory(self._prefix)
            if self._scratch is not None:
                shutil.rmtree(self._scratch, ignore_errors=True)

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(END_S)
        # The session outlives its leader: end what is left of it, whatever state it is in.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if self._listener is not None:
            self._listener.join(POLL_S)

    def _close(self, name: str) -> None:
        fd = self._fds.pop(name, None)
        if fd is not None:
            os.close(fd)


def _kernel_cache(scratch: str) -> str:
    """A folder that outlives the run for compiled kernels, or the scratch folder where none can."""
    if "NUMBA_CACHE_DIR" in os.environ:
        return os.environ["NUMBA_CACHE_DIR"]
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    folder = base / "spikebottlenet" / "kernels"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except (OSError, RuntimeError):
        writable = False
    return str(folder) if writable else scratch


def _ready(fd: int, event: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(fd, event)
    return bool(poll.poll(timeout_s * 1000))


def _end_of(text: str) -> str:
    """The end of a long text; its last lines say what happened."""
    return text[-MESSAGE_CHARACTERS:]


@contextlib.contextmanager
def _no_interrupt() -> Iterator[None]:
    """Hold Ctrl-C back until the block is done. Only the main thread is ever interrupted."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    held: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: held.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if held and callable(handler):
            handler(held[0], None)
