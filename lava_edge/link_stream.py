"""One connection of an uplink, from hello to its end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc

from lava_edge.access import Access, open_channel
from lava_edge.outbox import Outbox, Pending
from splitcore import packet
from splitcore import wire_pb2 as wire
from splitcore.errors import PacketError, UsageError
from splitcore.packet import Greeting

GRPC_PREFIX_BYTES = 5  # compression flag and length, before each message
HTTP2_FRAME_BYTES, HTTP2_FRAME_MAX = 9, 16 << 10  # header of each DATA frame, its largest content
MESSAGE_BYTES = 32 << 10  # a message takes packets until it has reached this
MAX_READ = 1 << 31  # replies; `acked` counts them in 32 bits, so a stream ends well before that
MAX_PAUSE_S = 10.0  # however long a server asks us to stay away
_FATAL = (
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
)

Written = Callable[[int, int, int], None]
"""Told sample, step (0: all of it) and time.monotonic_ns once a packet's bytes are written."""


@dataclass(frozen=True)
class Broken:
    """Why a connection ended. fatal: trying again cannot help; pause_s: the server's wish."""

    text: str
    fatal: bool = False
    pause_s: float = 0.0

    @classmethod
    def of(cls, error: grpc.RpcError) -> Broken:
        """What a gRPC failure means to us."""
        assert isinstance(error, grpc.Call)
        code, details = error.code(), error.details()
        trailing: dict[str, object] = dict(error.trailing_metadata() or ())  # type: ignore
        if code is grpc.StatusCode.CANCELLED:
            return cls("it does not answer")
        if code is grpc.StatusCode.UNAVAILABLE and packet.KIND not in trailing:  # gRPC's own words
            return cls(f"it cannot be reached ({details}); does it run, is the address right?")
        if code is grpc.StatusCode.UNIMPLEMENTED:
            return cls("it is no spikebottlenet server", fatal=True)
        hint = str(trailing.get(packet.PUSHBACK, ""))
        pause_s = int(hint) / 1e3 if hint.isascii() and hint.isdecimal() else 0.0
        return cls(str(details), fatal=code in _FATAL, pause_s=min(MAX_PAUSE_S, pause_s))


class LinkStream:
    """Sends what an outbox holds as credit allows, and brings it the replies.

    `ending`: all is sent that ever will be; the stream then ends once everything is answered.
    quiet_since: time.monotonic() of the welcome or of a refusal, whatever else the server says.
    Its fields, like the outbox, belong to who holds the outbox's condition.
    """

    def __init__(
        self,
        outbox: Outbox,
        greeting: Greeting,
        on_welcome: Callable[[], None],
        on_written: Written | None = None,
    ) -> None:
        self._outbox, self._greeting, self._on_welcome = outbox, greeting, on_welcome
        self._on_written = on_written
        self._writing: list[tuple[int, int]] = []  # sample and step of the message under way
        self._call: grpc.Call | None = None
        self.welcomed = self.ending = self.cancelled = False
        self.quiet_since = time.monotonic()
        self._window = 0
        self._ended = False
        self._error: Exception | None = None  # of our own, in the thread that sends
        self._read = 0  # replies to packets
        self._acked = 0  # of them, as the server was told

    def cancel(self) -> None:
        """Cut the connection, now or as soon as there is one."""
        self.cancelled = True
        if self._call is not None:
            self._call.cancel()

    def run(
        self, server: str, access: Access, metadata: tuple[tuple[str, str], ...]
    ) -> Broken | None:
        """Connect and serve the outbox until the connection ends. Takes the condition itself.

        None where the stream has had its fill of replies: another goes on in its place. What goes
        wrong at our end, `on_written` included, is raised as it is.
        """
        broken = self._run(server, access, metadata)
        if self._error is not None:
            raise self._error
        return broken

    def _run(
        self, server: str, access: Access, metadata: tuple[tuple[str, str], ...]
    ) -> Broken | None:
        changed = self._outbox.changed
        try:
            channel = open_channel(server, access)
        except UsageError as error:  # a certificate file that was there on entry
            return Broken(str(error))
        try:
            call = channel.stream_stream(packet.STREAM)(self._requests(), metadata=metadata)
            with changed:
                self._call = call
                if self.cancelled:
                    call.cancel()
            for raw in call:
                reply = packet.unpack_reply(raw)
                with changed:
                    self._take(reply)
                    changed.notify_all()
        except grpc.RpcError as error:
            return Broken.of(error)
        except PacketError as error:
            return Broken(f"it sent what we cannot use ({error})")
        finally:
            with changed:
                self._ended = True
                changed.notify_all()
            channel.close()
        return None if self._filled else Broken("it ended the stream")

    @property
    def _filled(self) -> bool:
        """Whether it has had all the replies that it can count."""
        return self._read >= MAX_READ

    def _take(self, reply: wire.ToEdge) -> None:
        if reply.HasField("welcome") and not self.welcomed:
            self.quiet_since = time.monotonic()
            self._window = reply.welcome.window
            self.welcomed = True
            self._on_welcome()
        self._read += len(reply.answers) + len(reply.rejected)
        for answer in reply.answers:
            self._outbox.settle(answer)
        for rejected in reply.rejected:
            if self._outbox.reconsider(rejected):
                self.quiet_since = time.monotonic()

    def _requests(self) -> Iterator[bytes]:
        """What is sent. gRPC runs this in a thread of its own, where nobody sees an exception."""
        try:
            yield from self._outgoing()
        except Exception as error:
            with self._outbox.changed:
                self._error = error
                self.cancel()

    def _outgoing(self) -> Iterator[bytes]:
        """Hello, then packets as credit allows."""
        yield packet.pack_hello(self._greeting)
        while (raw := self._next()) is not None:
            yield raw
            if self._on_written is not None:  # gRPC asks for more once its send has completed
                written_ns = time.monotonic_ns()
                for sample, step in self._writing:
                    self._on_written(sample, step, written_ns)

    def _next(self) -> bytes | None:
        with self._outbox.changed:
            while not self._ended and not self._filled:
                if self.welcomed:
                    self._outbox.refill()
                    if raw := self._message():
                        return raw
                if self.ending and not self._outbox.pending:
                    return None
                self._outbox.changed.wait()
        return None

    def _message(self) -> bytes:
        outbox = self._outbox
        if not outbox.unsent:
            return b""
        self._writing = []
        parts: list[bytes] = []
        size = 0
        first: Pending | None = None
        held: list[int] = []  # no credit for them; steps of samples that have theirs go past
        credit = self._window - outbox.in_flight
        while outbox.unsent and size < MESSAGE_BYTES:
            entry = outbox.pending.get(outbox.unsent[0])
            if entry is None or entry.sent == len(entry.packets):
                outbox.unsent.popleft()
                continue
            if entry.sent == 0:
                if credit <= 0:
                    held.append(outbox.unsent.popleft())
                    continue
                credit -= len(entry.samples)
            first = first or entry
            self._writing.append((entry.packets[entry.sent].sample, entry.packets[entry.sent].step))
            parts.append(entry.take())
            size += len(parts[-1])
        outbox.unsent.extendleft(reversed(held))
        if first is None:
            return b""
        if self._read - self._acked >= max(1, self._window // 4):
            self._acked = self._read
            parts.append(packet.pack([], outbox.digest, acked=self._read))
        raw = b"".join(parts)
        frames = -(-(len(raw) + GRPC_PREFIX_BYTES) // HTTP2_FRAME_MAX)
        first.wire_bytes += GRPC_PREFIX_BYTES + frames * HTTP2_FRAME_BYTES + len(raw) - size
        return raw
