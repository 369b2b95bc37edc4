"""When silence of the simulator is a stall: on a clock that the test turns."""

import os
from typing import Any

import pytest

from lava_edge import watchdog
from lava_edge.channel import Channel, Kind
from splitcore.errors import SimulationError

STALL_S = 10.0


class Clock:
    """Stands in for the module `time`."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now


class Living:
    """A process that lives and says nothing."""

    def poll(self) -> None:
        return None


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(watchdog, "time", clock := Clock())
    monkeypatch.setattr(watchdog, "POLL_S", 0.01)
    return clock


@pytest.fixture
def starting():
    """What the simulator writes before it is ready, and its end as we see it."""
    result, theirs = os.pipe()
    os.set_blocking(result, False)
    simulator: Any = watchdog.Simulator({}, STALL_S, lambda path: None)
    simulator._fds, simulator._process = {"result": result}, Living()
    yield simulator, Channel(-1, theirs).write
    os.close(theirs)
    os.close(result)


@pytest.fixture
def said(starting):
    """The same of a simulator that is ready."""
    simulator, say = starting
    say(Kind.READY)
    return simulator, say


@pytest.mark.parametrize("kind", [Kind.STEP, None])
def test_pause_of_the_caller_is_no_silence_of_the_simulator(clock, said, kind):
    simulator, say = said
    records = simulator.records(busy=lambda: True)
    if kind is not None:
        say(kind)
        assert next(records).kind is kind
    else:
        assert next(records) is None
    clock.now += 5 * STALL_S
    for _ in range(3):
        assert next(records) is None
        clock.now += 0.3 * STALL_S
    assert next(records) is None


def test_silence_while_an_answer_is_owed_is_a_stall(clock, said):
    simulator, _ = said
    waited = iter(range(100))

    def busy() -> bool:
        clock.now += 0.4 * STALL_S  # passes while we poll, not while the caller does something else
        return next(waited) >= 0

    records = simulator.records(busy)
    for _ in range(3):
        assert next(records) is None
    with pytest.raises(SimulationError, match="has not answered for 10 s"):
        next(records)


def test_silence_while_nothing_is_owed_is_none(clock, said):
    simulator, _ = said

    def idle() -> bool:
        clock.now += 5 * STALL_S
        return False

    records = simulator.records(idle)
    assert [next(records) for _ in range(3)] == [None] * 3


def test_silence_of_a_start_is_a_stall_whatever_is_owed(clock, starting):
    simulator, _ = starting
    records = simulator.records(busy=lambda: False)
    assert next(records) is None
    polls = iter([None] * 3)

    def poll() -> None:
        clock.now += watchdog.START_S / 2
        return next(polls)

    simulator._process.poll = poll
    with pytest.raises(SimulationError, match="has not answered for 300 s"):
        list(records)
