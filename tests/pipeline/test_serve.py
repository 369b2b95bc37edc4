"""The serve command as its operator sees it: the line that says it is ready, and its log."""

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager

import grpc
import pytest

from splitcore import packet
from splitcore.codec.bitmap import Bitmap
from splitcore.packet import Greeting, Packet
from tests.tiny_bundle import make_bundle


@contextmanager
def serving(bundle, *options):
    command = [sys.executable, "-m", "pipeline.cli", "serve", str(bundle.path), *options]
    ports = ("--listen", "127.0.0.1:0", "--metrics-port", "0")
    with subprocess.Popen(
        [*command, *ports], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def bundle(tmp_path):
    return make_bundle(tmp_path / "tiny")


def test_ready_line_and_log_are_json_when_asked_for(bundle):
    with serving(bundle, "--json") as process:
        ready = json.loads(process.stdout.readline())
        assert ready["bundles"] == [str(bundle.path)]
        with urllib.request.urlopen(f"http://127.0.0.1:{ready['metrics_port']}/metrics") as reply:
            assert b"spikebottlenet_streams" in reply.read()
        bundle.cloud_path.write_bytes(b"x")
        logged = json.loads(process.stderr.readline())
    assert (logged["level"], logged["message"]) == ("error", "new bundle refused")
    assert logged["path"] == str(bundle.path)
    assert "not those the manifest names" in logged["why"]


def test_ready_line_and_log_are_for_people_otherwise(bundle):
    with serving(bundle) as process:
        ready = process.stdout.readline()
        address, metrics = ready.split("; ")[:2]
        assert address.startswith("listening on 127.0.0.1:")
        with urllib.request.urlopen(f"http://{metrics.removeprefix('metrics on ')}") as reply:
            assert b"spikebottlenet_streams" in reply.read()
        bundle.cloud_path.write_bytes(b"x")
        logged = process.stderr.readline()
    assert logged.startswith(
        f"ERROR cloud_server.catalogue: new bundle refused; path: {bundle.path}; why: "
    )


def test_peer_over_its_rate_is_told_when_to_come_again(bundle):
    greeting = Greeting(bytes.fromhex(bundle.digest), bytes(16))
    request = packet.pack_request(Packet(1, 0, Bitmap.id, bytes(24)), greeting)
    with serving(bundle, "--json", "--packets-per-s", "1") as process:
        address = json.loads(process.stdout.readline())["listening"]
        with grpc.insecure_channel(address, options=(("grpc.enable_retries", 0),)) as channel:
            classify = channel.unary_unary(packet.CLASSIFY)
            calls = [classify.future(request) for _ in range(8)]
            refused = [call for call in calls if call.code() is not grpc.StatusCode.OK]
            assert {call.code() for call in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
            assert all(packet.PUSHBACK in dict(call.trailing_metadata()) for call in refused)
