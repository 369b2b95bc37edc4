"""The server whole: health, metrics, several bundles, swaps and drains under load, bad clients."""

import os
import signal
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from cloud_server.endpoint import SERVICE, ServerLimits
from cloud_server.server import running
from lava_edge.link_stream import Broken
from lava_edge.uplink import Uplink
from splitcore import packet
from splitcore.codec.registry import encode_best
from splitcore.errors import BundleError, LinkError, UsageError
from splitcore.packet import Greeting, Packet
from tests.link import QUICK, CodeContext, Relay, check_answers, cloud, collect, until
from tests.tiny_bundle import expected_scores, make_bundle, random_code, random_tail

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def health(address, service):
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        status = stub.Check(health_pb2.HealthCheckRequest(service=service)).status
        return health_pb2.HealthCheckResponse.ServingStatus.Name(status)


def scores_of(uplink, codes):
    answers = {answer.sample: answer.scores for answer in uplink.classify(enumerate(codes))}
    return np.float32([answers[k] for k in range(len(codes))])


def test_served_scores_are_those_of_the_reference(bundle):
    codes = random_code(80)
    with running([bundle.path], threads=2) as server, Uplink(server.address, bundle) as uplink:
        assert (scores_of(uplink, codes) == expected_scores(random_tail(), codes)).all()


def test_probe_of_the_bundle_is_answered_as_recorded(bundle):
    probe = bundle.probe()
    with running([bundle.path], threads=1) as server, Uplink(server.address, bundle) as uplink:
        assert (scores_of(uplink, probe.code_ntchw) == probe.scores_nk).all()


def test_two_bundles_are_served_at_once(bundle, tmp_path):
    other = make_bundle(tmp_path / "other", seed=5, name="other")
    codes = random_code(20)
    with running([bundle.path, other.path], threads=1) as server:
        with Uplink(server.address, bundle) as one, Uplink(server.address, other) as two:
            assert (scores_of(one, codes) == expected_scores(random_tail(0), codes)).all()
            assert (scores_of(two, codes) == expected_scores(random_tail(5), codes)).all()


def test_two_bundles_of_one_name_are_refused(bundle, tmp_path):
    twin = make_bundle(tmp_path / "twin", seed=6)
    with pytest.raises(UsageError, match="one name"), running([bundle.path, twin.path]):
        pass


def test_damaged_bundle_is_refused_before_anything_is_served(tmp_path):
    damaged = make_bundle(tmp_path / "damaged")
    damaged.cloud_path.write_bytes(b"x")
    with pytest.raises(BundleError, match=r"cloud\.safetensors"), running([damaged.path]):
        pass


def test_taken_port_is_a_clear_error(bundle):
    with running([bundle.path], threads=1) as server:
        with pytest.raises(LinkError, match="cannot be bound"):
            with running([bundle.path], listen=server.address, threads=1):
                pass


def test_health_tells_alive_from_ready(bundle):
    with cloud([bundle]) as server:
        assert health(server.address, "") == "SERVING"
        assert health(server.address, SERVICE) == "SERVING"
        stopping = threading.Event()

        async def not_ready():
            server.endpoint._ready = False
            await server.endpoint._health.set(SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
            stopping.set()

        server.call(lambda: server.loop.create_task(not_ready()))
        stopping.wait()
        assert health(server.address, "") == "SERVING"
        assert health(server.address, SERVICE) == "NOT_SERVING"
        with pytest.raises(LinkError, match="starting or being stopped"):
            Uplink(server.address, bundle, patience=QUICK).__enter__()


def test_reflection_lists_the_service(bundle):
    with cloud([bundle]) as server, grpc.insecure_channel(server.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        (reply,) = stub.ServerReflectionInfo(iter([request]))
        assert SERVICE in {one.name for one in reply.list_services_response.service}


def test_metrics_are_served_on_loopback(bundle):
    codes = random_code(10)
    with running([bundle.path], threads=1, metrics_port=0) as server:
        with Uplink(server.address, bundle) as uplink:
            answers = list(uplink.classify(enumerate(codes)))
        with urllib.request.urlopen(f"http://127.0.0.1:{server.metrics_port}/metrics") as reply:
            text = reply.read().decode()
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    bits = sum(answer.payload_bits for answer in answers)
    assert float(lines['spikebottlenet_answers_total{bundle="tiny"}']) == 10
    assert float(lines['spikebottlenet_payload_bits_total{bundle="tiny"}']) == bits
    assert float(lines['spikebottlenet_latency_seconds_count{bundle="tiny"}']) == 10
    assert float(lines["spikebottlenet_batch_samples_sum"]) == 10


def test_new_version_in_the_folder_is_served_without_dropping_a_call(tmp_path):
    path = tmp_path / "model"
    old = make_bundle(path, seed=1)
    codes = random_code(600)
    with running([path], threads=1, watch_s=0.02) as server, Uplink(server.address, old) as uplink:
        answers = {}

        def load_it():
            for answer in uplink.classify(enumerate(codes)):
                answers[answer.sample] = answer.scores

        loader = threading.Thread(target=load_it)
        loader.start()
        until(lambda: len(answers) > 20)
        new = make_bundle(path, seed=2)
        found = []

        def served():
            try:
                with Uplink(server.address, new) as fresh:
                    found.append(scores_of(fresh, codes[:20]))
                return True
            except LinkError:
                return False

        until(served)
        loader.join()
        ordered = np.float32([answers[k] for k in range(len(codes))])
        assert (ordered == expected_scores(random_tail(1), codes)).all()
        assert (found[0] == expected_scores(random_tail(2), codes[:20])).all()


def test_damaged_new_version_leaves_the_old_in_service(tmp_path, caplog):
    path = tmp_path / "model"
    old = make_bundle(path, seed=1)
    with running([path], threads=1, watch_s=0.02) as server:
        newer = make_bundle(tmp_path / "newer", seed=2)
        (path / "manifest.json").write_bytes((newer.path / "manifest.json").read_bytes())
        until(lambda: "new bundle refused" in caplog.messages)
        with Uplink(server.address, old) as uplink:
            assert len(list(uplink.classify(enumerate(random_code(20))))) == 20


def test_drain_answers_what_was_taken(bundle):
    codes = random_code(100)
    with cloud([bundle], limits=ServerLimits(grace_s=10)) as server:
        uplink = Uplink(server.address, bundle, patience=QUICK)
        uplink.__enter__()
        server.model.pause_s = 0.1
        for sample, code in enumerate(codes):
            uplink.send(sample, code)
        until(lambda: server.metric("packets_total", bundle="tiny") >= 64)
        taken = int(server.metric("packets_total", bundle="tiny"))
    assert server.metric("answers_total", bundle="tiny") >= taken
    uplink.close()
    answered = {answer.sample for answer in uplink._outbox.answers}
    assert len(answered) >= taken
    assert answered | set(uplink.lost) == set(range(100))
    assert not answered & set(uplink.lost)


def test_client_that_never_reads_is_stopped_at_its_credit(bundle):
    digest = bytes.fromhex(bundle.digest)
    context = CodeContext(bundle.manifest.spike_shape, bundle.manifest.code_rates)
    codec, payload = encode_best(random_code(1)[0], context)

    def requests():
        yield packet.pack_hello(Greeting(digest, bytes(16)))
        for sample in range(5000):
            yield packet.pack([Packet(sample, 0, codec, payload)], digest)

    with cloud([bundle]) as server:
        with grpc.insecure_channel(server.address) as channel:
            call = channel.stream_stream(packet.STREAM)(requests())
            until(lambda: server.metric("errors_total", kind="window") == 1)
            call.cancel()
        assert server.metric("packets_total", bundle="tiny") <= 2 * 64
        with Uplink(server.address, bundle) as uplink:
            assert len(list(uplink.classify(enumerate(random_code(5))))) == 5


@pytest.mark.parametrize("reads", [0, 1])
def test_client_that_stops_reading_gives_its_stream_back(bundle, reads):
    digest = bytes.fromhex(bundle.digest)
    context = CodeContext(bundle.manifest.spike_shape, bundle.manifest.code_rates)
    codec, payload = encode_best(random_code(1)[0], context)
    over = threading.Event()

    def requests():
        yield packet.pack_hello(Greeting(digest, bytes(16)))
        for sample in range(40):
            yield packet.pack([Packet(sample, 0, codec, payload)], digest)
        over.wait(60)

    narrow = (("grpc.http2.lookahead_bytes", 1), ("grpc.http2.bdp_probe", 0))
    with cloud([bundle], limits=ServerLimits(idle_s=0.2)) as server:
        with grpc.insecure_channel(server.address, options=narrow) as channel:
            call = channel.stream_stream(packet.STREAM)(requests())
            for _ in range(reads):
                next(call)
            until(lambda: server.metric("answers_total", bundle="tiny") == 40)
            server.call(lambda: server.loop.create_task(server.endpoint.sweep(0.01)))
            until(lambda: server.metric("errors_total", kind="unread") == 1)
            until(lambda: server.metric("streams") == 0)
            with pytest.raises(grpc.RpcError) as ended:  # and when it reads again, it is told
                list(call)
            over.set()
            assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
            assert ended.value.details() == "no reply was read for 0.2 s"


def test_slow_client_slows_nobody_else(bundle):
    codes = random_code(200)
    with cloud([bundle]) as server, Relay(server.address) as relay:
        with Uplink(relay.address, bundle) as slow, Uplink(server.address, bundle) as quick:
            relay.down_gate.clear()
            for sample, code in enumerate(codes[:50]):
                slow.send(sample, code)
            check_answers(collect(quick, codes), codes)
            relay.down_gate.set()
            check_answers({a.sample: a.label for a in slow.answers()}, codes[:50])


def test_silent_stream_is_closed_and_the_edge_comes_back(bundle):
    codes = random_code(4)
    limits = ServerLimits(idle_s=0.05)
    with running([bundle.path], threads=1, limits=limits) as server:
        with Uplink(server.address, bundle, patience=QUICK) as uplink:
            until(lambda: uplink._connection._stream is None)
            assert len(list(uplink.classify(enumerate(codes)))) == 4


def test_silent_stream_is_told_that_it_was_silent(bundle):
    over = threading.Event()

    def requests():
        yield packet.pack_hello(Greeting(bytes.fromhex(bundle.digest), bytes(16)))
        over.wait(60)

    with cloud([bundle], limits=ServerLimits(idle_s=0.2)) as server:
        with grpc.insecure_channel(server.address) as channel:
            call = channel.stream_stream(packet.STREAM)(requests())
            next(call)
            server.call(lambda: server.loop.create_task(server.endpoint.sweep(0.01)))
            with pytest.raises(grpc.RpcError) as ended:
                next(call)
            over.set()
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
        assert Broken.of(ended.value).text == "nothing was said for 0.2 s"  # no advice: it runs
        assert server.metric("errors_total", kind="idle") == 1


@pytest.mark.parametrize("raw", [b"", b"\xff" * 50, b"\x0a\x00", bytes(1000)])
def test_stream_that_begins_with_nonsense_is_refused(bundle, raw):
    with cloud([bundle]) as server, grpc.insecure_channel(server.address) as channel:
        call = channel.stream_stream(packet.STREAM)(iter([raw]))
        assert call.code() is grpc.StatusCode.FAILED_PRECONDITION


INTERRUPTED = """
import signal, sys, threading, time
from pathlib import Path
from cloud_server.endpoint import Endpoint
from cloud_server.server import running

opens = Endpoint.open
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

async def interrupted(self):
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    time.sleep(0.5)  # it ends the wait for the server, not what comes behind it
    await opens(self)

Endpoint.open = interrupted
try:
    with running([Path(sys.argv[1])], threads=1):
        pass
except KeyboardInterrupt:
    print("interrupted")
"""


def test_ctrl_c_while_a_server_starts_in_a_thread_leaves_none_behind(bundle):
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, str(bundle.path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        timeout=120,
    )
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n")


def test_sigterm_under_load_ends_the_process_cleanly(bundle):
    codes = random_code(50)
    script = (
        "import sys; from pathlib import Path; from cloud_server.server import serve;"
        "serve([Path(sys.argv[1])], ready=lambda at: print(at.address, flush=True), threads=1)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(bundle.path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        uplink = Uplink(address, bundle, patience=QUICK)
        uplink.__enter__()
        for sample, code in enumerate(codes):
            uplink.send(sample, code)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        uplink.close()
        answered = {answer.sample for answer in uplink._outbox.answers}
        assert answered | set(uplink.lost) == set(range(50))
        assert not answered & set(uplink.lost)
    finally:
        process.kill()
        process.communicate()
