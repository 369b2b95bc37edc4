"""What a simulator run could leave behind, found by its own settings on the command line."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

PATIENCE_S = 20.0


@dataclass(frozen=True)
class Run:
    """One simulator process: its pid, which is its session too, and the settings it got."""

    pid: int
    settings: dict[str, object]

    def leftovers(self) -> list[str]:
        """Processes of its session, shared memory and files that are still there."""
        found = [f"process {pid}" for pid in session(self.pid)]
        found += [str(path) for path in Path("/dev/shm").glob(f"{self.settings['prefix']}*")]
        scratch = Path(str(self.settings["scratch"]))
        return found + ([str(scratch)] if scratch.exists() else [])

    def wait_gone(self) -> None:
        """Wait until nothing is left; fail naming what stays."""
        deadline = time.monotonic() + PATIENCE_S
        while (found := self.leftovers()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert found == []


def _stat(pid: int) -> list[str]:
    # The command name may hold anything; what follows its last parenthesis is split by spaces.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def session(sid: int) -> list[int]:
    """Living processes of a session (zombies wait for their parent and hold nothing)."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, _, its_session = _stat(int(entry.name))[:4]
            except OSError:
                continue
            if int(its_session) == sid and state != "Z":
                found.append(int(entry.name))
    return found


def simulators(parent: int | None = None) -> list[Run]:
    """Simulators that a process (this one by default) has started and that live."""
    runs = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            parts = (entry / "cmdline").read_bytes().decode().split("\0")
            started_by = int(_stat(int(entry.name))[1])
        except OSError:
            continue
        if "lava_edge.simulator" in parts and started_by == (parent or os.getpid()):
            runs.append(Run(int(entry.name), json.loads(parts[-2])))
    return runs


def only_simulator(parent: int | None = None) -> Run:
    """The one simulator there is; waits until it has started."""
    deadline = time.monotonic() + PATIENCE_S
    while not (runs := simulators(parent)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(runs) == 1
    return runs[0]
