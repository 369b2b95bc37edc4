"""The edge's end of the link: send spikes, get each sample's answer once or learn that it is lost.

    send ──> outbox (bounded) ──> stream ──> cloud
                 ^ again after a reconnect     │
    answers <────┴── one a sample <────────────┘

The connection is made anew where it breaks (`lava_edge.connection`), and what was not answered is
sent again. A sample is answered once, or named: in `lost` and in the LinkError that ends the wait.
Time is the monotonic clock throughout, so that setting the wall clock changes nothing.
"""

from __future__ import annotations

import operator
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from lava_edge.access import Access, check_server
from lava_edge.connection import Connection, Patience
from lava_edge.link_stream import Written
from lava_edge.outbox import Answer, Outbox
from lava_edge.spill import Spill
from splitcore import packet
from splitcore.bundle import Bundle
from splitcore.codec import context
from splitcore.codec.registry import encode_best
from splitcore.errors import DataError, LinkError, UsageError
from splitcore.packet import Greeting, Packet
from splitcore.spikes import check_spikes

__all__ = ["Answer", "Patience", "Uplink"]


class _Given(NamedTuple):
    """A sample's code uint8 (T, C, H, W), and when it was given by time.monotonic()."""

    code_tchw: np.ndarray
    at: float


class Uplink:
    """One link to one server, as a context manager.

    Raises LinkError on entry when the server cannot be had (not with a spill: then samples wait on
    disk) or refuses us, UsageError for an impossible address or file. on_written is told sample,
    step (0: all of it) and time.monotonic_ns once gRPC has written a packet's bytes. `access` are
    the fields of Access: token_file, tls_ca and so on.

    group: how many whole samples with consecutive ids share a packet. What a packet costs around
    its spikes, and the last bits of a payload's last byte, are then paid once for all of them; the
    first waits for the last, or until `flush` or `answers` sends what there is.
    """

    def __init__(
        self,
        server: str,
        bundle: Bundle,
        *,
        spill: Path | None = None,
        spill_bytes: int = 256 << 20,
        max_pending: int = 256,
        group: int = 1,
        patience: Patience | None = None,
        on_written: Written | None = None,
        **access: Any,
    ) -> None:
        self._context = context.of_bundle(bundle)
        most = context.largest_group(self._context.shape)
        if not 1 <= group <= most:
            raise UsageError(f"group: expected 1 … {most} samples of this bundle, got {group}")
        self.server = server
        self._group = group
        rights = Access(**access)
        check_server(server, rights)
        digest = bytes.fromhex(bundle.digest)
        self._patience = patience or Patience()
        kept = None if spill is None else Spill(spill, digest, spill_bytes)
        self._outbox = Outbox(digest, self._context.shape[0], max_pending, kept)
        self._changed = self._outbox.changed  # guards all that follows, too
        self._past: dict[int, list[np.ndarray]] = {}  # steps sent of samples not yet complete
        self._gathered: dict[int, _Given] = {}  # what waits for its group to be complete
        self._sending = threading.Lock()  # held by the one thread that adds to what is gathered
        self._connection = Connection(
            server,
            rights,
            Greeting(digest, os.urandom(packet.SESSION_BYTES)),
            self._outbox,
            self._patience,
            on_written,
            self._give_up,
        )

    def __enter__(self) -> Uplink:
        self._connection.open()
        failure = self._connection.failure
        if failure is not None:
            self.close()
            raise failure
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the link. What is unanswered stays in the spill, or else counts as lost.

        A server that does not end the stream within stall_s is left.
        """
        try:
            self._connection.close()
        finally:
            with self._changed:
                self._give_up()
                if self._outbox.spill is not None:
                    self._outbox.spill.close()

    @property
    def lost(self) -> tuple[int, ...]:
        """Ids of samples that will not be answered."""
        with self._changed:
            return tuple(self._outbox.lost)

    @property
    def waiting(self) -> tuple[int, ...]:
        """Ids of samples not yet answered, those that an earlier run left in the spill included."""
        with self._changed:
            return (*self._outbox.waiting(), *self._gathered)

    def send(self, sample: int, code_tchw: np.ndarray) -> None:
        """Send one sample's spikes uint8 (T, C, H, W).

        Waits while too many are unanswered; with a spill it never waits, and a sample for which
        neither that nor memory has room is lost. With a group it waits for the others, or for a
        sample that is not the next. Raises DataError for a sample's number below 0 or above
        MAX_SAMPLE and for spikes that do not fit the bundle, LinkError when the link is closed or
        has failed, or where no answer can ever make room; the sample can be sent again then.
        """
        sample = _checked(sample)
        code = check_spikes(code_tchw, self._context.shape)
        if self._group > 1:
            code = code.copy()  # it is read when the group is complete; the caller may reuse it
        given = _Given(code, time.monotonic())
        with self._sending:
            with self._changed:
                self._check_new(sample)
                joins = not self._gathered or sample - 1 in self._gathered
            if not joins:
                self._send_gathered()
            with self._changed:
                self._gathered[sample] = given
                complete = len(self._gathered) == self._group
            if complete:
                try:
                    self._send_gathered()
                except BaseException:  # the caller has it still; what was gathered before waits on
                    with self._changed:
                        self._gathered.pop(sample, None)
                    raise

    def flush(self) -> None:
        """Send what waits for its group to be complete. Raises LinkError like `send`."""
        with self._sending:
            self._send_gathered()

    def send_step(self, sample: int, step: int, code_chw: np.ndarray) -> None:
        """Send time step `step` (1 … T, in order) of a sample, uint8 (C, H, W)."""
        steps, *shape = self._context.shape
        sample = _checked(sample)
        past = self._past.get(sample, [])
        if step != len(past) + 1:
            raise DataError(f"sample {sample}: expected step {len(past) + 1}, got {step}")
        code = check_spikes(code_chw, tuple(shape)).copy()  # later steps are coded by it
        past_tchw = np.array(past, dtype=np.uint8).reshape(len(past), *shape)
        one = Packet(sample, step, *encode_best(code[None], self._context, past_tchw))
        with self._changed:
            if step == 1:
                self._check_new(sample)
                self._wait_for_room()
                self._outbox.begin(range(sample, sample + 1), [time.monotonic()])
            else:
                self._connection.check_open()
            if step < steps:
                self._past[sample] = [*past, code]
            else:
                self._past.pop(sample, None)
            self._outbox.add(sample, one)

    def classify(self, samples: Iterable[tuple[int, np.ndarray]]) -> Iterator[Answer]:
        """Send (id, code_tchw) pairs and yield their answers as they come, in any order.

        Raises LinkError at the end naming what was lost.
        """
        for sample, code_tchw in samples:
            self.send(sample, code_tchw)
            while (ready := self._ready()) is not None:
                yield ready
        yield from self.answers()

    def answers(self) -> Iterator[Answer]:
        """Answers until nothing waits any more. Raises LinkError naming those that got none.

        A sample whose last step was not given yet is not waited for. A group that is not complete
        is sent first, unless another thread is sending.
        """
        if self._sending.acquire(blocking=False):
            try:
                self._send_gathered()
            finally:
                self._sending.release()
        outbox = self._outbox
        while True:
            with self._changed:
                while not outbox.answers and outbox.owed and self._connection.failure is None:
                    self._changed.wait(0.5)
                    outbox.check_outage(self.server, self._patience.outage_s)
                if not outbox.answers:
                    self._tell_lost()
                    return
                ready = outbox.answers.popleft()
            yield ready

    def _send_gathered(self) -> None:
        with self._changed:
            gathered = dict(self._gathered)
        if not gathered:
            return
        one = self._packed(gathered)
        with self._changed:
            self._wait_for_room()
            self._enter(one)

    # The rest runs with the condition held.

    def _ready(self) -> Answer | None:
        with self._changed:
            return self._outbox.answers.popleft() if self._outbox.answers else None

    def _check_new(self, sample: int) -> None:
        self._connection.check_open()
        self._outbox.check_new(sample)
        if sample in self._past or sample in self._gathered:
            raise DataError(f"sample {sample}: is on its way already")

    def _packed(self, gathered: dict[int, _Given]) -> Packet:
        codes = np.concatenate([given.code_tchw for given in gathered.values()])
        return Packet(min(gathered), 0, *encode_best(codes, self._context), len(gathered) - 1)

    def _enter(self, one: Packet) -> None:
        """What was gathered and packed goes on its way."""
        self._outbox.begin(one.samples, [given.at for given in self._gathered.values()])
        self._outbox.add(one.sample, one)
        self._gathered.clear()

    def _give_up(self) -> None:
        """The link is over: what it still holds goes to the spill, or is lost."""
        if self._gathered:
            try:
                self._enter(self._packed(self._gathered))
            except Exception as error:  # nothing may keep the link from ending
                self._outbox.lose(self._gathered, f"they cannot be packed ({error})")
                self._gathered.clear()
        self._outbox.give_up()

    def _wait_for_room(self) -> None:
        """Wait for room. Raises LinkError where no answer can ever make any."""

        def decided() -> bool:
            return self._outbox.takes or self._connection.ended

        limit_s = self._patience.outage_s
        if not self._changed.wait_for(lambda: decided() or self._outbox.expected, limit_s):
            raise LinkError(
                f"uplink: no room: for {limit_s:g} s none of the samples begun was given its last "
                "step; send fewer at once, or allow more to be pending"
            )
        self._changed.wait_for(decided)
        self._connection.check_open()

    def _tell_lost(self) -> None:
        if self._connection.failure is not None:
            raise self._connection.failure
        if lost := self._outbox.tell():
            raise LinkError(f"server {self.server}: {lost}")


def _checked(sample: int) -> int:
    try:
        number = operator.index(sample)
    except TypeError:
        raise DataError(f"sample: expected a whole number, got {sample!r}") from None
    if not 0 <= number <= packet.MAX_SAMPLE:
        raise DataError(f"sample {number}: expected a number in [0, {packet.MAX_SAMPLE}]")
    return number
