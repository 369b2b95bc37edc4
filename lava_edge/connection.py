"""One connection kept to one server: made, watched, made anew with jittered backoff, given up."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lava_edge.access import Access, open_channel
from lava_edge.link_stream import Broken, LinkStream, Written
from lava_edge.outbox import Outbox, named
from splitcore.errors import LinkError
from splitcore.packet import Greeting

log = logging.getLogger(__name__)

BACKOFF_FIRST_S, BACKOFF_LAST_S = 0.05, 2.0
WATCH_S = 0.1


@dataclass(frozen=True)
class Patience:
    """In seconds: connect_s for the first welcome, stall_s for any reply before the connection is
    made anew, outage_s without a single answer while samples wait before they count as lost."""

    connect_s: float = 5.0
    stall_s: float = 10.0
    outage_s: float = 30.0


class Connection:
    """Two threads: one holds the stream and makes it anew, one cuts it where it makes no progress.

    give_up: called, with the outbox's condition held, before the link fails: what is not on its way
    yet goes to the outbox, too. All fields belong to who holds that condition.
    """

    def __init__(
        self,
        server: str,
        access: Access,
        greeting: Greeting,
        outbox: Outbox,
        patience: Patience,
        on_written: Written | None,
        give_up: Callable[[], None],
    ) -> None:
        self.failure: LinkError | None = None
        self._server, self._access, self._greeting = server, access, greeting
        self._metadata = access.metadata
        self._outbox, self._changed = outbox, outbox.changed
        self._patience = patience
        self._on_written, self._give_up = on_written, give_up
        self._closed = self._welcomed = False
        self._over = threading.Event()  # closed, or failed
        self._stream: LinkStream | None = None
        self._threads = [
            threading.Thread(target=self._keep_connected, name="uplink", daemon=True),
            threading.Thread(target=self._watch, name="uplink-watch", daemon=True),
        ]

    @property
    def ended(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._closed or self.failure is not None

    def check_open(self) -> None:
        """Raise the LinkError that it failed with, or one that says it is closed."""
        if self.failure is not None:
            raise self.failure
        if self._closed:
            raise LinkError("uplink: it is closed")

    def open(self) -> None:
        """Begin. Without a spill wait for the welcome, or for the failure that stands in `failure`.

        Raises UsageError for files that cannot be used.
        """
        open_channel(self._server, self._access).close()  # bad files are the caller's error, now
        self._outbox.progress = time.monotonic()
        for thread in self._threads:
            thread.start()
        with self._changed:
            if self._outbox.spill is None:
                self._changed.wait_for(lambda: self._welcomed or self.failure is not None)

    def close(self) -> None:
        """End it. A server that does not end the stream within stall_s is left."""
        with self._changed:
            self._closed = True
            self._over.set()
            if self._stream is not None:
                self._stream.ending = True
                if self._outbox.pending or not self._stream.welcomed:
                    self._stream.cancel()
            self._changed.notify_all()
        running = [thread for thread in self._threads if thread.ident is not None]
        for thread in running:
            thread.join(self._patience.stall_s)
        with self._changed:
            if self._stream is not None:
                self._stream.cancel()
        for thread in running:
            thread.join()

    def _keep_connected(self) -> None:
        try:
            self._connect_until_ended()
        except Exception as error:
            log.exception("the link to %s ends", self._server)
            with self._changed:
                self._fail(f"it ended at our end ({type(error).__name__}: {error})")

    def _connect_until_ended(self) -> None:
        failures = 0
        while True:
            with self._changed:
                if self.ended:
                    return
                before = self._outbox.progress
                self._outbox.resend()
                stream = self._stream = LinkStream(
                    self._outbox, self._greeting, self._hello_answered, self._on_written
                )
            broken = stream.run(self._server, self._access, self._metadata)
            with self._changed:
                self._stream = None
                if self._closed:
                    return
                if broken is None:
                    continue
                failures = failures + 1 if self._outbox.progress == before else 0
                if broken.fatal or self._hopeless():
                    self._fail(broken.text)
                    return
                self._outbox.trouble = broken.text
                self._changed.wait_for(lambda: self.ended, self._pause_s(broken, failures))

    def _hopeless(self) -> bool:
        limit_s = self._patience.outage_s if self._welcomed else self._patience.connect_s
        waits = not self._welcomed or self._outbox.expected
        out_s = time.monotonic() - self._outbox.progress
        return self._outbox.spill is None and waits and out_s > limit_s

    def _pause_s(self, broken: Broken, failures: int) -> float:
        backoff_s = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2 ** min(failures, 10))
        pause_s = max(broken.pause_s, backoff_s * random.uniform(0.5, 1.0))
        log.info("link to %s: %s; again in %.2f s", self._server, broken.text, pause_s)
        return pause_s

    def _fail(self, why: str) -> None:
        outbox = self._outbox
        before = outbox.tell()
        outbox.trouble = why
        self._give_up()
        lost = list(outbox.take_untold())
        kept = tuple(outbox.spill.unanswered) if outbox.spill is not None else ()
        what = f"server {self._server}: {why}"
        what += f"; lost {named(lost)}" if lost else ""
        what += f"; kept on disk {named(kept)}" if kept else ""
        what += f"; {before}" if before else ""
        self.failure = LinkError(what)
        self._over.set()
        self._changed.notify_all()

    def _hello_answered(self) -> None:
        if not self._welcomed:
            self._welcomed, self._outbox.progress = True, time.monotonic()

    def _watch(self) -> None:
        """A connection that makes no progress is cut: blocked calls of gRPC cannot see that."""
        while not self._over.wait(WATCH_S):
            with self._changed:
                stream = self._stream
                if stream is None:
                    if self._hopeless():
                        self._fail(self._outbox.trouble)
                elif not stream.cancelled and (self._stalled(stream) or self._hopeless()):
                    stream.cancel()

    def _stalled(self, stream: LinkStream) -> bool:
        if stream.welcomed and not self._outbox.expected:
            return False
        limit_s = self._patience.stall_s if stream.welcomed else self._patience.connect_s
        return time.monotonic() - max(stream.quiet_since, self._outbox.progress) > limit_s
