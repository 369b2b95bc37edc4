"""One stream on its socket: reads messages, writes replies, ends when it should."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable

import grpc

from cloud_server.security import Rates, peer_host
from cloud_server.service import Conversation, RefusedError, Replies, Reply, Service
from splitcore import packet
from splitcore.errors import PacketError

END = grpc.aio.EOF  # pyright: ignore[reportAttributeAccessIssue]  its stubs have forgotten it
MAX_REPLIES = 256  # in one message


class DrainingError(Exception):
    """The server is going away; the client should look for it again soon."""


class IdleError(Exception):
    """A client that says nothing and waits for nothing; it may come back when it has samples."""


class UnreadError(Exception):
    """A client that takes no replies; it should make its connection anew."""


class Exchange:
    """Joins a Conversation to the stream of a gRPC context.

    Replies that are ready together leave in one message. Reading pauses while the model's queue is
    full or the peer is over its rate, so that a fast client is slowed down and not refused.
    """

    def __init__(
        self, service: Service, context: grpc.aio.ServicerContext, rates: Rates | None
    ) -> None:
        self.last_active = time.monotonic()
        self.writing_since = math.inf  # when the write that waits for the client now was begun
        self._service, self._context, self._rates = service, context, rates
        self._replies: list[Reply] = []
        self._ended: Exception | None = None
        self._no_more = False
        self._changed = asyncio.Event()
        self._conversation: Conversation | None = None
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[Exception | None] | None = None
        self._cut: Exception | None = None

    async def run(self, hello_s: float) -> Exception | None:
        """Serve the stream to its end; returns what it ended with, if not with the client's will.

        Raises RefusedError for its hello, PacketError where none comes.
        """
        try:
            raw_hello = await asyncio.wait_for(self._context.read(), hello_s)
        except asyncio.TimeoutError:
            raise PacketError(f"hello: none came within {hello_s:g} s") from None
        if raw_hello is END:
            return None
        try:
            conversation = self._service.greet(raw_hello, self._reply)
        except PacketError as error:  # saying it again will not help
            raise RefusedError(str(error)) from None
        self._conversation = conversation
        self._reader = asyncio.ensure_future(self._read(conversation))
        self._writer = asyncio.ensure_future(self._write(conversation))
        try:
            return await self._writer
        except asyncio.CancelledError:
            if self._cut is None:
                raise
            return self._cut
        finally:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
            conversation.close()

    def end(self, error: DrainingError | IdleError) -> None:
        """Take no more packets; end with this once the samples already taken are answered."""
        if self._reader is not None:
            self._reader.cancel()
        self._ended = self._ended or error
        self._changed.set()

    def cut(self, error: Exception) -> None:
        """End with this error now, whatever is still being written."""
        assert self._writer is not None, "nothing is written before hello"
        self._cut = error
        self._writer.cancel()

    @property
    def waits(self) -> bool:
        """Whether samples of this stream wait for the model."""
        return self._conversation is not None and self._conversation.open > 0

    def _reply(self, replies: Replies | Exception) -> None:
        if isinstance(replies, Exception):
            self._ended = replies
        else:
            self._replies += replies
        self._changed.set()

    async def _read(self, conversation: Conversation) -> None:
        peer = peer_host(self._context.peer())
        try:
            while (raw := await self._context.read()) is not END:
                self.last_active = time.monotonic()
                packets = conversation.receive(raw)
                if self._rates is not None:
                    await asyncio.sleep(self._rates.wait_s(peer, packets))
                await conversation.served.batcher.room()
        except Exception as error:  # the writer tells the client and ends the stream
            self._ended = error
        self._no_more = True
        self._changed.set()

    async def _write(self, conversation: Conversation) -> Exception | None:
        # By themselves: while they wait behind a welcome that nobody reads, no status can be sent.
        await self._sent(self._context.send_initial_metadata(()))
        await self._sent(self._context.write(conversation.welcome()))
        while True:
            await self._changed.wait()
            self._changed.clear()
            while self._replies:
                ready, self._replies = self._replies[:MAX_REPLIES], self._replies[MAX_REPLIES:]
                conversation.given(len(ready))  # once written is too late: the client may be faster
                await self._sent(self._context.write(packet.pack_replies(ready)))
            if self._ended is not None and not isinstance(self._ended, DrainingError | IdleError):
                return self._ended
            if conversation.open == 0 and (self._no_more or self._ended is not None):
                return self._ended

    async def _sent(self, writing: Awaitable[None]) -> None:
        self.writing_since = time.monotonic()
        await writing
        self.writing_since = math.inf
        self.last_active = time.monotonic()
