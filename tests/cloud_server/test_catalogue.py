"""New versions in a bundle's folder: what is served, what is refused and tried again."""

import asyncio
import contextlib
import os
import shutil

import pytest

from cloud_server.batching import BatchLimits
from cloud_server.catalogue import Catalogue, _stamp
from cloud_server.metrics import Metrics
from cloud_server.replicas import LocalReplicas, Replicas
from cloud_server.service import Service, ServiceLimits
from splitcore import tail
from splitcore.bundle import open_bundle
from splitcore.errors import BundleError, CodecError, LinkError, OverflowBoundError
from splitcore.packet import Greeting, pack_hello
from tests.link import CodeContext, Model
from tests.tiny_bundle import make_bundle

LOOK_S = 0.001


class Stand(Replicas):
    """Replicas that raise what `no_load` and `no_unload` hold, one a call, before they work."""

    def __init__(self) -> None:
        self.slots, self.ahead = 1, 0
        self.no_load: list[Exception] = []
        self.no_unload: list[Exception] = []
        self.loaded: list[str] = []
        self.unloaded: list[str] = []

    async def load(self, bundle):
        if self.no_load:
            raise self.no_load.pop(0)
        self.loaded.append(bundle.digest)
        return Model(CodeContext(bundle.manifest.spike_shape, bundle.manifest.code_rates))

    async def unload(self, digest):
        if self.no_unload:
            raise self.no_unload.pop(0)
        self.unloaded.append(digest)

    async def close(self):
        pass


class Watched:
    """A catalogue of folders that are looked at all the time."""

    def __init__(self, *paths, versions=1) -> None:
        self.replicas = Stand()
        self.service = Service(ServiceLimits(versions=versions), Metrics())
        self.catalogue = Catalogue(list(paths), self.service, self.replicas, BatchLimits())

    async def serves(self, *bundles):
        """Wait until these versions are in service, the newest last."""
        expected = [bundle.digest for bundle in bundles]
        while [one.digest.hex() for one in self.service.served] != expected:
            await asyncio.sleep(LOOK_S)

    @contextlib.asynccontextmanager
    async def watching(self):
        for bundle in self.catalogue.open():
            await self.catalogue.publish(bundle)
        watcher = asyncio.ensure_future(self.catalogue.watch(LOOK_S))
        try:
            yield
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)


def refusals(caplog):
    return [record.why for record in caplog.records if record.message == "new bundle refused"]


def run(job):
    asyncio.run(asyncio.wait_for(job, 60))


@pytest.mark.parametrize("error", [LinkError("ray: not there"), RuntimeError("out of memory")])
def test_version_that_cannot_be_loaded_is_tried_again(tmp_path, caplog, error):
    async def main():
        make_bundle(tmp_path / "model", seed=1)
        watched = Watched(tmp_path / "model")
        async with watched.watching():
            watched.replicas.no_load = [error] * 3
            await watched.serves(make_bundle(tmp_path / "model", seed=2))

    run(main())
    assert refusals(caplog) == [str(error)]  # said once, though met three times


@pytest.mark.parametrize("error", [BundleError("a"), OverflowBoundError("b"), CodecError("c")])
def test_version_that_can_never_be_loaded_is_not_tried_again(tmp_path, caplog, error):
    async def main():
        make_bundle(tmp_path / "model", seed=1)
        watched = Watched(tmp_path / "model")
        async with watched.watching():
            watched.replicas.no_load = [error] * 1000
            make_bundle(tmp_path / "model", seed=2)
            while not refusals(caplog):
                await asyncio.sleep(LOOK_S)
            for _ in range(20):
                await asyncio.sleep(LOOK_S)
            assert len(watched.replicas.no_load) == 999
            watched.replicas.no_load = []
            await watched.serves(make_bundle(tmp_path / "model", seed=3))

    run(main())


def test_another_reason_for_a_refusal_is_logged_too(tmp_path, caplog):
    async def main():
        make_bundle(tmp_path / "model", seed=1)
        watched = Watched(tmp_path / "model")
        async with watched.watching():
            watched.replicas.no_load = [LinkError("one"), LinkError("two"), LinkError("two")]
            await watched.serves(make_bundle(tmp_path / "model", seed=2))

    run(main())
    assert refusals(caplog) == ["one", "two"]


def test_version_copied_file_by_file_is_served_once_it_is_whole(tmp_path, caplog):
    async def main():
        make_bundle(tmp_path / "model", seed=1)
        newer = make_bundle(tmp_path / "newer", seed=2)
        watched = Watched(tmp_path / "model")
        async with watched.watching():
            for name in sorted(os.listdir(newer.path)):  # the manifest before the probe
                shutil.copy(newer.path / name, tmp_path / "model")
                if name == "manifest.json":
                    while not refusals(caplog):
                        await asyncio.sleep(LOOK_S)
            await watched.serves(newer)

    run(main())
    assert "copy or export the bundle again" in refusals(caplog)[0]


def test_damaged_version_is_read_once_and_served_when_it_is_mended(tmp_path, monkeypatch, caplog):
    opened = []

    def counted(path):
        opened.append(path)
        return open_bundle(path)

    async def main():
        make_bundle(tmp_path / "model", seed=1)
        watched = Watched(tmp_path / "model")
        async with watched.watching():
            monkeypatch.setattr("cloud_server.catalogue.open_bundle", counted)
            newer = make_bundle(tmp_path / "newer", seed=2)
            good = newer.cloud_path.read_bytes()
            newer.cloud_path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
            shutil.rmtree(tmp_path / "model")
            newer.path.rename(tmp_path / "model")
            while not refusals(caplog):
                await asyncio.sleep(LOOK_S)
            for _ in range(20):
                await asyncio.sleep(LOOK_S)
            assert len(opened) == 1
            (tmp_path / "model" / newer.cloud_path.name).write_bytes(good)
            await watched.serves(newer)

    run(main())


def test_weights_of_a_version_that_came_while_loading_never_serve_under_the_older_digest(
    tmp_path, monkeypatch
):
    first = make_bundle(tmp_path / "model", seed=1)
    load = tail.load

    def replaced_before_it_is_read(path):
        make_bundle(tmp_path / "model", seed=2)
        return load(path)

    monkeypatch.setattr("cloud_server.replicas.tail.load", replaced_before_it_is_read)

    async def main():
        replicas = LocalReplicas(1)
        with pytest.raises(BundleError, match="was replaced while it was read"):
            await replicas.load(first)
        await replicas.close()

    asyncio.run(main())


def test_folder_that_goes_while_it_is_looked_at_does_not_end_the_watch(tmp_path, monkeypatch):
    async def main():
        make_bundle(tmp_path / "model", seed=1)
        watched = Watched(tmp_path / "model")
        looks = []

        def replaced(path):
            looks.append(path)
            if len(looks) == 1:
                raise FileNotFoundError(2, "No such file or directory", str(path))
            return open_bundle(path)

        async with watched.watching():
            monkeypatch.setattr("cloud_server.catalogue.open_bundle", replaced)
            await watched.serves(make_bundle(tmp_path / "model", seed=2))

    run(main())


def test_version_that_comes_back_while_a_stream_uses_it_is_not_loaded_again(tmp_path):
    async def main():
        first = make_bundle(tmp_path / "model", seed=1)
        watched = Watched(tmp_path / "model")
        async with watched.watching():
            hello = pack_hello(Greeting(bytes.fromhex(first.digest), bytes(16)))
            stream = watched.service.greet(hello, print)
            second = make_bundle(tmp_path / "model", seed=2)
            await watched.serves(second)
            await watched.serves(make_bundle(tmp_path / "model", seed=1))
            stream.close()
            while watched.replicas.unloaded != [second.digest]:
                await asyncio.sleep(LOOK_S)
            await watched.serves(make_bundle(tmp_path / "model", seed=3))
            assert watched.replicas.loaded.count(first.digest) == 1

    run(main())


def test_version_that_comes_back_while_it_is_served_is_the_newest_again(tmp_path):
    async def main():
        model = tmp_path / "model"
        first = make_bundle(model, seed=1)
        watched = Watched(model, versions=2)
        async with watched.watching():
            second = make_bundle(model, seed=2)
            await watched.serves(first, second)
            make_bundle(model, seed=1)
            await watched.serves(second, first)
            third = make_bundle(model, seed=3)
            await watched.serves(first, third)
            assert watched.replicas.loaded == [first.digest, second.digest, third.digest]

    run(main())


def test_version_under_a_new_name_pushes_out_the_oldest_of_its_folder(tmp_path):
    async def main():
        model = tmp_path / "model"
        make_bundle(model, seed=1, name="run-1")
        watched = Watched(model)
        async with watched.watching():
            await watched.serves(make_bundle(model, seed=2, name="run-2"))

    run(main())


def test_version_with_the_name_of_another_folders_is_refused(tmp_path, caplog):
    async def main():
        one = make_bundle(tmp_path / "one", seed=1, name="one")
        two = make_bundle(tmp_path / "two", seed=2, name="two")
        watched = Watched(one.path, two.path)
        async with watched.watching():
            make_bundle(two.path, seed=3, name="one")
            while not refusals(caplog):
                await asyncio.sleep(LOOK_S)
            await watched.serves(one, two)

    run(main())
    two, one = tmp_path / "two", tmp_path / "one"
    assert refusals(caplog) == [f"{two}: its name, one, is that of {one}, too"]


def test_version_refused_for_its_name_is_served_once_the_name_is_free(tmp_path, caplog):
    async def main():
        one = make_bundle(tmp_path / "one", seed=1, name="one")
        two = make_bundle(tmp_path / "two", seed=2, name="two")
        watched = Watched(one.path, two.path)
        async with watched.watching():
            second = make_bundle(two.path, seed=3, name="one")
            while not refusals(caplog):
                await asyncio.sleep(LOOK_S)
            other = make_bundle(one.path, seed=4, name="other")
            while {each.digest.hex() for each in watched.service.served} != {
                second.digest,
                other.digest,
            }:
                await asyncio.sleep(LOOK_S)

    run(main())


def test_version_that_needs_larger_messages_than_are_read_is_refused(tmp_path, caplog):
    async def main():
        first = make_bundle(tmp_path / "model", seed=1)
        watched = Watched(tmp_path / "model")
        async with watched.watching():
            longer = first.manifest.model_copy(update={"steps": 64})
            (first.path / "manifest.json").write_text(longer.model_dump_json())
            while not refusals(caplog):
                await asyncio.sleep(LOOK_S)
            await watched.serves(first)

    run(main())
    # 64 KiB, and twice 64 samples: of 4 x 48 spikes at first, then of 64 x 48
    assert refusals(caplog) == [
        f"{tmp_path / 'model'}: needs messages of 114,688 bytes, this server was started for "
        "68,608; start it again"
    ]


def test_look_at_a_folder_whose_file_goes_meanwhile_leaves_nothing_open(tmp_path):
    (tmp_path / "gone").symlink_to("nowhere")
    assert _stamp(tmp_path) == ()  # what is left open is a warning, and that an error


def test_version_that_cannot_be_unloaded_does_not_end_the_watch(tmp_path, caplog):
    async def main():
        make_bundle(tmp_path / "model", seed=1)
        watched = Watched(tmp_path / "model")
        async with watched.watching():
            watched.replicas.no_unload = [RuntimeError("it will not go")]
            second = make_bundle(tmp_path / "model", seed=2)
            await watched.serves(second)
            while "bundle not unloaded" not in caplog.messages:
                await asyncio.sleep(LOOK_S)
            await watched.serves(make_bundle(tmp_path / "model", seed=3))
            while watched.replicas.unloaded != [second.digest]:
                await asyncio.sleep(LOOK_S)

    run(main())
