"""Batches computed by Ray Serve replicas: one handle call a batch, no proxy of Serve's.

    our gRPC front ── batch of parts ── handle ──> replica: decode, tail ──> scores

A replica that dies takes its batch with it: the front sends that batch again, which is safe because
an answer depends on nothing but the packet. Ray's own processes talk over sockets that listen on
all addresses of the machine; see the documentation before using this on an open network.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Before Ray is imported: it reads these then, and would report usage to its makers otherwise.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError

from cloud_server.batching import Engine
from cloud_server.predict import Parts, Scored
from cloud_server.replicas import Replicas, load_predictor
from splitcore.bundle import MANIFEST, Bundle, Manifest
from splitcore.errors import LinkError, UsageError

log = logging.getLogger(__name__)

BATCHES_A_REPLICA = 2  # one computes while the next one travels
RETRIES = 4  # of a batch whose replica died
RETRY_S = 0.25
_QUIET = {"log_level": "WARNING", "enable_access_log": False}


def replica_files(bundle: Bundle) -> dict[str, bytes]:
    """By name what a replica needs of a bundle. Raises BundleError where it was replaced."""
    needed = (bundle.path / MANIFEST, bundle.cloud_path, bundle.context_path)
    files = {path.name: path.read_bytes() for path in needed if path is not None}
    bundle.require_unchanged()
    return files


class TailReplica:
    """One process with one bundle's decoder and tail, on one core. files: of `replica_files`."""

    def __init__(self, files: dict[str, bytes], digest: str) -> None:
        import torch

        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            manifest = Manifest.model_validate_json(files[MANIFEST])
            self._predict = load_predictor(Bundle(Path(folder), manifest, digest))

    def __call__(self, samples: Sequence[Parts]) -> Scored:
        """Scores of each sample, or the error that its payload deserves."""
        return self._predict(samples)

    def process(self) -> int:
        """The id of this process, for tests that end it."""
        return os.getpid()


class RayReplicas(Replicas):
    """Replicas of each bundle on Ray: on this machine, or on the cluster at `address`."""

    def __init__(self, address: str | None, replicas: tuple[int, int]) -> None:
        least, most = replicas
        if not 1 <= least <= most:
            raise UsageError(f"replicas: expected 1 ≤ least ≤ most, got {least} and {most}")
        self._least, self._most = least, most
        self._address = address
        self._folder: Path | None = None
        self._apps: dict[str, Any] = {}
        self.slots, self.ahead = BATCHES_A_REPLICA * most, 0

    async def load(self, bundle: Bundle) -> Engine:
        """See Replicas. Raises LinkError where Ray does not start or cannot be joined."""
        await asyncio.to_thread(load_predictor, bundle)  # what cannot be loaded starts nowhere
        if not ray.is_initialized():
            await asyncio.to_thread(self._start)
        handle = await asyncio.to_thread(self._deploy, bundle)
        self._apps[bundle.digest] = handle

        async def engine(samples: Sequence[Parts]) -> Scored:
            for left in range(RETRIES, -1, -1):
                try:
                    return await handle.remote(list(samples))
                except RayActorError:
                    if not left:
                        raise
                    log.warning("a replica died; its batch is sent again")
                    await asyncio.sleep(RETRY_S)
            raise AssertionError("unreachable")

        return engine

    async def unload(self, digest: str) -> None:
        """See Replicas."""
        if digest in self._apps:
            await asyncio.to_thread(serve.delete, _app(digest))
            del self._apps[digest]  # after it: what could not be deleted, `close` tries again

    async def close(self) -> None:
        """See Replicas. Ray itself goes too where we started it."""
        await asyncio.to_thread(self._stop)

    def _start(self) -> None:
        if self._address is None:
            # Ray's sockets lie below it: a long path would not fit their names.
            self._folder = Path(tempfile.mkdtemp(prefix="sbn-ray-"))
            token = self._folder / "token"
            token.touch(mode=0o600)
            token.write_text(secrets.token_hex(32))
            os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
        try:
            ray.init(
                address=self._address or "local",
                namespace="spikebottlenet",
                log_to_driver=False,
                logging_level=logging.WARNING,
                configure_logging=False,
                **({} if self._address else self._local_options()),
            )
            serve.start(proxy_location="Disabled", logging_config=_QUIET)
        except Exception as error:  # a bare one where Ray's processes do not come up in time
            where = self._address or "this machine"
            raise LinkError(f"ray: cannot be used on {where} ({error})") from None

    def _local_options(self) -> dict[str, Any]:
        return {
            "include_dashboard": False,
            "num_cpus": max(self._most, os.cpu_count() or 1) + 1,
            "object_store_memory": 128 << 20,
            "_temp_dir": str(self._folder),
        }

    def _deploy(self, bundle: Bundle) -> Any:
        deployment = serve.deployment(
            TailReplica,
            name="tail",
            ray_actor_options={"num_cpus": 0.5},
            max_ongoing_requests=BATCHES_A_REPLICA,
            autoscaling_config={
                "min_replicas": self._least,
                "max_replicas": self._most,
                "target_ongoing_requests": BATCHES_A_REPLICA,
            },
            logging_config=_QUIET,
        )
        app = deployment.bind(replica_files(bundle), bundle.digest)
        try:
            return serve.run(app, name=_app(bundle.digest), route_prefix=None)
        except (RayError, RuntimeError) as error:
            raise LinkError(f"ray: bundle {bundle.path} does not start there ({error})") from None

    def _stop(self) -> None:
        if ray.is_initialized():
            if self._address is None:
                serve.shutdown()
            else:
                for digest in self._apps:
                    serve.delete(_app(digest))
            ray.shutdown()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)


def _app(digest: str) -> str:
    return f"spikebottlenet-{digest[:16]}"
