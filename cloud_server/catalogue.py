"""The bundle folders a server was given: open them, serve them, notice new versions of them."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import dataclass
from pathlib import Path

from cloud_server.batching import Batcher, BatchLimits
from cloud_server.predict import Part
from cloud_server.replicas import WARM_BATCH, Replicas
from cloud_server.service import Served, Service
from splitcore import spikes
from splitcore.bundle import Bundle, open_bundle
from splitcore.codec.bitmap import Bitmap
from splitcore.codec.context import largest_group
from splitcore.errors import InputError, SpikeBottleNetError, UsageError

log = logging.getLogger(__name__)


# Name, inode, size and mtime of every file; empty while a folder is being replaced.
_Stamp = tuple[tuple[str, int, int, int], ...]


@dataclass
class _Folder:
    path: Path
    seen: _Stamp = ()  # of the version in service, or of one that can never be
    refused: str | None = None  # why the one that is there now is not, as it was logged


class Catalogue:
    """Publishes the bundles of its folders to a Service, and new versions as they appear."""

    def __init__(
        self, paths: list[Path], service: Service, replicas: Replicas, limits: BatchLimits
    ) -> None:
        if not paths:
            raise UsageError("serve: expected at least one bundle")
        self._folders = [_Folder(path) for path in paths]
        self._service, self._replicas, self._limits = service, replicas, limits
        self._retired: list[Served] = []
        self.max_message_bytes = 0  # what the server reads at most; known once `open` was called

    def open(self) -> list[Bundle]:
        """Open every folder. Raises BundleError, and UsageError for two bundles of one name."""
        bundles = []
        for folder in self._folders:
            folder.seen = _stamp(folder.path)
            bundles.append(open_bundle(folder.path))
        names = [bundle.manifest.name for bundle in bundles]
        if len(set(names)) != len(names):
            raise UsageError(f"serve: two of the bundles have one name ({', '.join(names)})")
        self.max_message_bytes = max(map(message_limit, bundles))
        return bundles

    async def publish(self, bundle: Bundle) -> None:
        """Serve a bundle to new streams, as its folder's newest.

        It is loaded, unless it is in service or old streams still use it. Raises UsageError where
        a bundle of another folder has its name or its messages would not be read, and what loading
        it raises.
        """
        self._check(bundle)
        digest = bytes.fromhex(bundle.digest)
        known = [old for old in (*self._service.served, *self._retired) if old.digest == digest]
        served = known[0] if known else await self._load(bundle)
        served.folder = bundle.path
        self._retired = [old for old in self._retired if old is not served]
        self._retired += self._service.publish(served)
        log.info("bundle in service", extra={"bundle": served.name, "digest": bundle.digest})

    def _check(self, bundle: Bundle) -> None:
        name = bundle.manifest.name
        for other in self._service.served:
            if other.name == name and other.folder != bundle.path:
                raise UsageError(f"{bundle.path}: its name, {name}, is that of {other.folder}, too")
        needed = message_limit(bundle)
        if needed > self.max_message_bytes:
            raise UsageError(
                f"{bundle.path}: needs messages of {needed:,} bytes, this server was started for "
                f"{self.max_message_bytes:,}; start it again"
            )

    async def _load(self, bundle: Bundle) -> Served:
        engine = await self._replicas.load(bundle)
        batcher = Batcher(engine, self._limits)
        # A first batch tells the model's speed, from which streams get their credit.
        empty = (Part(0, Bitmap.id, bytes(spikes.packed_size(bundle.manifest.spike_shape))),)
        await asyncio.gather(*(batcher.submit_one(empty) for _ in range(WARM_BATCH)))
        batcher.on_batch = self._service.metrics.batch
        return Served.of(bundle, batcher)

    async def watch(self, every_s: float) -> None:
        """For ever: publish new versions, forget old ones that no stream uses any more.

        What fails is logged. A version that its own files keep out of service is tried again when
        one of them changes, since it may still be on its way there, or when another folder has a
        new version; any other at each look.
        """
        while True:
            await asyncio.sleep(every_s)
            for folder in self._folders:
                await self._look(folder)
            for served in [old for old in self._retired if not old.conversations]:
                if served.batcher.idle:
                    self._retired.remove(served)
                    await self._forget(served)

    async def _look(self, folder: _Folder) -> None:
        stamp = _stamp(folder.path)
        if stamp in (folder.seen, ()):
            return
        try:
            bundle = await asyncio.to_thread(open_bundle, folder.path)
            await self.publish(bundle)
        except Exception as error:  # the version in service goes on
            why = str(error)
            if why != folder.refused:
                folder.refused = why
                trace = None if isinstance(error, SpikeBottleNetError) else error
                extra = {"path": str(folder.path), "why": why}
                log.error("new bundle refused", exc_info=trace, extra=extra)
            if isinstance(error, InputError):
                folder.seen = stamp
        else:
            folder.seen, folder.refused = stamp, None
            for other in self._folders:
                if other.refused is not None:  # perhaps for a name that is free now
                    other.seen = ()

    async def _forget(self, served: Served) -> None:
        try:
            await self._replicas.unload(served.digest.hex())
        except Exception as error:
            log.error("bundle not unloaded", exc_info=error, extra={"bundle": served.name})
        else:
            log.info("bundle forgotten", extra={"bundle": served.name})

    @property
    def backlog(self) -> int:
        """Samples that wait, of all bundles."""
        return sum(served.batcher.backlog for served in (*self._service.served, *self._retired))


def _stamp(path: Path) -> _Stamp:
    try:
        with os.scandir(path) as entries:  # a file may go before its turn comes
            found = sorted((each.name, each.stat()) for each in entries)
    except OSError:
        return ()
    return tuple((name, at.st_ino, at.st_size, at.st_mtime_ns) for name, at in found)


def message_limit(bundle: Bundle) -> int:
    """Bytes of the largest message worth reading: an uplink fills 32 KiB, then adds one packet."""
    shape = bundle.manifest.spike_shape
    return (64 << 10) + 2 * largest_group(shape) * spikes.packed_size(shape)
