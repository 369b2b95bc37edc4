"""The uplink's account of its samples: what waits, what was answered, what is lost.

A sample, or a group of them that travels in one packet, is on its way as one: sent, kept on disk,
answered and lost together. With a spill all that is whole is on disk before it is sent, and in
memory, too, while that has room.

    add ──> pending (in memory) ────────> unsent ──> the stream
      └───> spill (on disk) ── refill ──────^           │
    answers <── settle <── replies <────────────────────┘

Two threads share it: whoever calls a method or reads a field holds `changed`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lava_edge.spill import Spill
from splitcore import packet
from splitcore import wire_pb2 as wire
from splitcore.errors import DataError, LinkError, PacketError
from splitcore.packet import Packet

log = logging.getLogger(__name__)

MAX_REFUSED = 3  # sendings rejected before a sample counts as lost


@dataclass(frozen=True)
class Answer:
    """What the cloud said of one sample, and what asking it cost.

    payload_bits: the encoded spikes; envelope_bits: the packets around them; wire_bytes: both plus
    gRPC's and HTTP/2's framing of the messages they went in, modelled (5 bytes a message and 9 a
    DATA frame; no TCP, TLS, connection set-up or answers). Packets sent again count again. Of a
    group each sample bears an equal share.
    server_us: from arrival to answer, by the server's clock; round_trip_us: from `send` to answer,
    or from where it was read from the spill.
    """

    sample: int
    label: int
    scores: tuple[float, ...]
    server_us: int
    round_trip_us: int
    payload_bits: float
    envelope_bits: float
    wire_bytes: float


class Pending:
    """A sample or group on its way: its packets, and what sending them has cost so far.

    began: time.monotonic() at which each sample was given; steps: packets of one sent step by step;
    kept: whether the spill has it, too.
    """

    def __init__(
        self, samples: range, began: Sequence[float], steps: int, kept: bool = False
    ) -> None:
        self.samples, self.began, self._steps = samples, began, steps
        self.answers: dict[int, wire.Answer] = {}
        self.packets: list[Packet] = []
        self._messages: list[bytes] = []  # each packet as a ToCloud; joined they are one ToCloud
        self.kept = kept
        self.sent = 0  # packets that the present stream has had
        self.refused = 0  # sendings of which any packet was rejected
        self.payload_bits = self.envelope_bits = self.wire_bytes = 0

    @property
    def whole(self) -> bool:
        """Whether all its packets were given, so that an answer can be expected."""
        return bool(self.packets) and self.packets[-1].step in (0, self._steps)

    def add(self, one: Packet, digest: bytes) -> None:
        """One more packet of it."""
        self.packets.append(one)
        self._messages.append(packet.pack([one], digest))

    def take(self) -> bytes:
        """The next packet's bytes, which now count as sent."""
        raw, payload = self._messages[self.sent], len(self.packets[self.sent].payload)
        self.sent += 1
        self.payload_bits += 8 * payload
        self.envelope_bits += 8 * (len(raw) - payload)
        self.wire_bytes += len(raw)
        return raw


class Outbox:
    """Samples of one bundle, `steps` packets each where they come step by step."""

    def __init__(self, digest: bytes, steps: int, max_pending: int, spill: Spill | None) -> None:
        self.digest, self.spill = digest, spill
        self.changed = threading.Condition()
        self.pending: OrderedDict[int, Pending] = OrderedDict()  # by their first samples
        self.unsent: deque[int] = deque()
        self._first: dict[int, int] = {}  # of each sample in `pending`: the first of its group
        self.staged: dict[int, Pending] = {}  # begun, not whole, and memory had no room
        self.answers: deque[Answer] = deque()
        self.lost: dict[int, str] = {}  # why, by sample, in order
        self.untold: dict[int, str] = {}  # of them, those that no error has named yet
        self.trouble = "no answer yet"
        self.progress = time.monotonic()  # of the last answer, or when waiting for one began
        self._steps, self._max_pending = steps, max_pending

    def waiting(self) -> list[int]:
        """Samples without an answer, in memory and in the spill."""
        spilled = self.spill.unanswered if self.spill is not None else ()
        return list(dict.fromkeys((*self._first, *spilled)))

    def take_untold(self) -> dict[int, str]:
        """What was lost and named in no error yet, and why; an error will name it now."""
        untold, self.untold = self.untold, {}
        return untold

    def tell(self) -> str:
        """In words what was lost and no error has named yet; one will name it now."""
        damage = self.spill.take_damage() if self.spill is not None else []
        untold = self.take_untold()
        return "; ".join([*damage, *([told(untold)] if untold else [])])

    @property
    def expected(self) -> bool:
        """Whether an answer can come: to a sample in memory that was given whole."""
        return any(entry.whole for entry in self.pending.values())

    @property
    def owed(self) -> bool:
        """Whether any sample that was given whole waits for its answer."""
        return self.expected or (self.spill is not None and bool(self.spill.unanswered))

    @property
    def in_flight(self) -> int:
        """Samples that the present stream has had and not answered."""
        return sum(len(entry.samples) for entry in self.pending.values() if entry.sent)

    @property
    def full(self) -> bool:
        """Whether memory takes no further sample."""
        return len(self._first) >= self._max_pending

    @property
    def takes(self) -> bool:
        """Whether it takes another sample; with a spill it does, and loses it if that is full."""
        return self.spill is not None or not self.full

    def check_new(self, sample: int) -> None:
        """Raise DataError for a sample that is on its way already."""
        if sample in self._first or sample in self.staged:
            raise DataError(f"sample {sample}: is on its way already")
        if self.spill is not None and sample in self.spill.unanswered:
            raise DataError(f"sample {sample}: waits in the spill already")

    def begin(self, samples: range, began: Sequence[float]) -> None:
        """Samples whose packets follow; began: when each was given."""
        self._accept(samples)
        entry = Pending(samples, began, self._steps)
        self.refill()  # what has waited longer goes first
        if self.spill is not None and self.full:
            self.staged[samples[0]] = entry
        else:
            self._enter(entry)

    def add(self, sample: int, one: Packet) -> None:
        """One packet of samples that were begun. Rejected meanwhile, they need no more of them."""
        entry = self.pending.get(sample) or self.staged.get(sample)
        if entry is not None:
            owed = self.owed
            entry.add(one, self.digest)
            if entry.whole:
                self._keep(entry)
                if not owed:
                    self.progress = time.monotonic()
            if sample in self.pending:
                self.unsent.append(sample)
            self.changed.notify_all()

    def refill(self) -> None:
        """Bring samples from the spill while memory has room."""
        while self.spill is not None and not self.full:
            taken = self.spill.take()
            if taken is None:
                return
            samples = taken.samples
            if not taken.packets:
                self.spill.answered(samples)
                log.warning("lost %s: %s", named(samples), taken.problem)
                self.lose(samples, taken.problem)
                self.changed.notify_all()
                continue
            began = [time.monotonic()] * len(samples)
            entry = Pending(samples, began, self._steps, kept=True)
            self._enter(entry)
            for one in taken.packets:
                entry.add(one, self.digest)
            self.unsent.append(samples[0])

    def resend(self) -> None:
        """All that has no answer has to be sent (again): a new stream begins."""
        for entry in self.pending.values():
            entry.sent = 0
        self.unsent = deque(self.pending)

    def settle(self, answer: wire.Answer) -> None:
        """An answer came; a copy of one is dropped. Those of a group are given out together."""
        first = self._first.get(answer.sample)
        if first is None:
            return
        entry = self.pending[first]
        if answer.sample in entry.answers:
            return
        self.progress = time.monotonic()
        entry.answers[answer.sample] = answer
        share = len(entry.samples)
        if len(entry.answers) < share:
            return
        self._leave(entry)
        self.answers += (
            Answer(
                sample=sample,
                label=entry.answers[sample].label,
                scores=tuple(entry.answers[sample].scores),
                server_us=entry.answers[sample].server_us,
                round_trip_us=int(1e6 * (self.progress - began)),
                payload_bits=entry.payload_bits / share,
                envelope_bits=entry.envelope_bits / share,
                wire_bytes=entry.wire_bytes / share,
            )
            for sample, began in zip(entry.samples, entry.began, strict=True)
        )

    def reconsider(self, rejected: wire.Rejected) -> bool:
        """A packet arrived damaged: send it again, or count what it held as lost in the end.

        False where it is to be sent again already, because of another of its sample or group.
        Raises PacketError where no such sample waits: the damage may have hit the id, so which one
        to send again is not known, and the stream has to begin afresh.
        """
        first = self._first.get(rejected.sample)
        if first is None:
            raise PacketError("a packet was damaged on its way")
        entry = self.pending[first]
        if entry.sent == 0:
            return False
        # One sending counts once, though each step or each sample of a group can be refused apart:
        # what the server finds in one message it says together. A word that is late all the same
        # counts for the next sending.
        entry.refused += 1
        if entry.refused < MAX_REFUSED:
            entry.sent = 0
            self.unsent.append(first)
            return True
        self._leave(entry)
        log.warning("lost %s: %s", named(entry.samples), rejected.reason)
        self.lose(entry.samples, f"it refused them ({rejected.reason})")
        return True

    def lose(self, samples: Iterable[int], why: str) -> None:
        """They will not be answered."""
        for sample in samples:
            self.lost[sample] = self.untold[sample] = why

    def give_up(self) -> None:
        """What the spill does not have, and has no room for even now, is lost."""
        for entry in self.pending.values():
            if not (entry.kept or self._put(entry)):
                self.lose(entry.samples, self.trouble)
        self.lose(self.staged, self.trouble)
        self.staged.clear()
        self.pending.clear()
        self._first.clear()
        self.unsent.clear()

    def check_outage(self, server: str, outage_s: float) -> None:
        """Raise LinkError when samples have waited that long beside a spill, which keeps them."""
        quiet_s = time.monotonic() - self.progress
        if self.spill is not None and self.owed and quiet_s > outage_s:
            kept = list(self.spill.unanswered)
            alone = [
                sample
                for entry in self.pending.values()
                if entry.whole and not entry.kept
                for sample in entry.samples
            ]
            said = (
                f"server {server}: {self.trouble}",
                f"unanswered and kept in {self.spill.folder}: {named(kept)}" if kept else "",
                f"unanswered and in memory alone: {named(alone)}" if alone else "",
                self.tell(),
            )
            raise LinkError("; ".join(filter(None, said)))

    def _enter(self, entry: Pending) -> None:
        self.pending[entry.samples[0]] = entry
        self._first.update(dict.fromkeys(entry.samples, entry.samples[0]))

    def _leave(self, entry: Pending) -> None:
        del self.pending[entry.samples[0]]
        for sample in entry.samples:
            del self._first[sample]
        if entry.kept and self.spill is not None:
            self.spill.answered(entry.samples)

    def _keep(self, entry: Pending) -> None:
        """To disk with it, now that it is whole; lost where neither that nor memory has room."""
        if self.staged.pop(entry.samples[0], None) is not None:
            self.refill()
            if not self.full:
                self._enter(entry)
        entry.kept = self._put(entry)
        if not entry.kept and entry.samples[0] not in self.pending:
            log.warning("no room in the spill for %s", named(entry.samples))
            self.lose(entry.samples, "no room in the spill")

    def _put(self, entry: Pending) -> bool:
        if self.spill is None or not entry.whole:
            return False
        return self.spill.put(entry.packets, taken=entry.samples[0] in self.pending)

    def _accept(self, samples: Iterable[int]) -> None:
        """They are on their way: what was lost before is lost no longer."""
        for sample in samples:
            self.lost.pop(sample, None)
            self.untold.pop(sample, None)


def named(samples: Sequence[int]) -> str:
    """Sample ids in words, the first twenty of them."""
    shown = ", ".join(map(str, samples[:20]))
    more = f" and {len(samples) - 20} more" if len(samples) > 20 else ""
    return f"{len(samples)} samples: {shown}{more}" if len(samples) > 1 else f"sample {shown}"


def told(lost: dict[int, str]) -> str:
    """Lost samples in words, together where one reason took them."""
    by_reason: dict[str, list[int]] = {}
    for sample, why in lost.items():
        by_reason.setdefault(why, []).append(sample)
    return "; ".join(f"{why}; lost {named(samples)}" for why, samples in by_reason.items())
