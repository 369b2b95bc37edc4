"""Who gets in: addresses, TLS and client certificates, tokens, rates, sizes, crowds."""

import subprocess
import sys
import threading
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cloud_server.batching import BatchLimits
from cloud_server.endpoint import ServerLimits
from cloud_server.metrics import Metrics
from cloud_server.security import (
    Rates,
    TokenInterceptor,
    Tokens,
    check_listen,
    server_credentials,
)
from cloud_server.server import running
from lava_edge.uplink import Patience, Uplink
from splitcore import packet
from splitcore.errors import LinkError, UsageError
from splitcore.packet import Greeting, Packet
from tests.cloud_server.certificates import Authority
from tests.link import check_answers, cloud, collect, until
from tests.tiny_bundle import make_bundle, random_code

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a-token-of-many-letters"
IMPATIENT = Patience(connect_s=2.0, stall_s=2.0, outage_s=4.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("theirs"), "theirs")


@pytest.fixture
def token_file(tmp_path):
    path = tmp_path / "tokens"
    path.write_text(f"# edges\nanother-token-of-letters\n{TOKEN}\n")
    return path


def write(path, text):
    path.write_text(text)
    return path


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.168.1.2:50051", "example.org:1"])
def test_plaintext_beyond_loopback_is_refused_unless_said(listen):
    with pytest.raises(UsageError, match="not encrypted"):
        check_listen(listen, encrypted=False, insecure=False)
    check_listen(listen, encrypted=True, insecure=False)
    check_listen(listen, encrypted=False, insecure=True)


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:50051", "[::1]:50051"])
def test_loopback_needs_no_encryption(listen):
    check_listen(listen, encrypted=False, insecure=False)


@pytest.mark.parametrize("listen", ["127.0.0.1", ":1", "127.0.0.1:-1", "127.0.0.1:65536", "a:²"])
def test_listen_address_that_is_none_is_refused(listen):
    with pytest.raises(UsageError, match="HOST:PORT"):
        check_listen(listen, encrypted=True, insecure=True)


def test_certificate_without_key_is_refused(authority):
    certificate, key = authority.issue("half")
    for cert, private in ((certificate, None), (None, key)):
        with pytest.raises(UsageError, match="belong together"):
            server_credentials(cert, private, None)


def test_certificate_files_that_are_none_are_refused(tmp_path, authority):
    certificate, key = authority.issue("files")
    junk = write(tmp_path / "junk", "no certificate")
    with pytest.raises(UsageError, match="PEM"):
        server_credentials(junk, key, None)
    with pytest.raises(UsageError, match="cannot be read"):
        server_credentials(certificate, tmp_path / "absent", None)


def broken(path, source):
    """A PEM file whose body is not what its first and last line say."""
    first, *_, last = source.read_text().splitlines()
    return write(path, f"{first}\nAAAA\n{last}\n")


def locked(path, source):
    """The same key under a password."""
    key = serialization.load_pem_private_key(source.read_bytes(), None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    lock = serialization.BestAvailableEncryption(b"secret")
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path.write_bytes(key.private_bytes(pem, pkcs8, lock))
    return path


def test_certificate_and_key_that_cannot_be_used_are_named(tmp_path, authority):
    certificate, key = authority.issue("good")
    _, other = authority.issue("other")
    for cert, private in (
        (certificate, other),
        (certificate, broken(tmp_path / "broken.key", key)),
        (certificate, locked(tmp_path / "locked.key", key)),
        (broken(tmp_path / "broken.pem", certificate), key),
    ):
        with pytest.raises(UsageError, match=f"{cert} and key {private} cannot be used"):
            server_credentials(cert, private, None)


def test_client_authority_that_cannot_be_used_is_named(tmp_path, authority):
    bad = broken(tmp_path / "ca.pem", authority.path)
    with pytest.raises(UsageError, match=f"authorities {bad} cannot be used"):
        server_credentials(*authority.issue("server"), bad)


def test_edge_refuses_files_that_cannot_be_used_before_it_connects(bundle, tmp_path, authority):
    certificate, key = authority.issue("edge")
    _, other = authority.issue("other")
    empty = write(tmp_path / "empty.pem", "")
    for files in (
        {"tls_ca": empty},  # for gRPC that is no CA given: the system's
        {"tls_ca": key},
        {"tls": True, "tls_cert": empty, "tls_key": key},
        {"tls": True, "tls_cert": certificate, "tls_key": other},
    ):
        with pytest.raises(UsageError, match="cannot be used"):
            Uplink("127.0.0.1:1", bundle, **files).__enter__()


def test_edge_refuses_a_token_that_no_header_can_carry(bundle, tmp_path):
    bad = write(tmp_path / "tokens", f"fleet7\t{TOKEN}\n")
    with pytest.raises(UsageError, match=f"token file: {bad}"):
        Uplink("127.0.0.1:1", bundle, token_file=bad)


def test_tls_link_gives_answers(bundle, authority):
    codes = random_code(20)
    credentials = server_credentials(*authority.issue("server"), None)
    with cloud([bundle], credentials=credentials) as server:
        with Uplink(server.address, bundle, tls_ca=authority.path) as uplink:
            check_answers(collect(uplink, codes), codes)


def test_plaintext_client_of_a_tls_server_gets_a_link_error(bundle, authority):
    credentials = server_credentials(*authority.issue("server"), None)
    with cloud([bundle], credentials=credentials) as server:
        with pytest.raises(LinkError, match="cannot be reached"):
            Uplink(server.address, bundle, patience=IMPATIENT).__enter__()


def test_expired_server_certificate_is_refused_by_the_edge(bundle, authority):
    credentials = server_credentials(*authority.issue("old", days=-1), None)
    with cloud([bundle], credentials=credentials) as server:
        with pytest.raises(LinkError, match="cannot be reached"):
            Uplink(server.address, bundle, tls_ca=authority.path, patience=IMPATIENT).__enter__()


def test_server_of_another_authority_is_refused_by_the_edge(bundle, authority, stranger):
    credentials = server_credentials(*stranger.issue("server"), None)
    with cloud([bundle], credentials=credentials) as server:
        with pytest.raises(LinkError, match="cannot be reached"):
            Uplink(server.address, bundle, tls_ca=authority.path, patience=IMPATIENT).__enter__()


def test_client_certificate_lets_in_and_others_stay_out(bundle, authority, stranger):
    codes = random_code(10)
    credentials = server_credentials(*authority.issue("server"), authority.path)
    with cloud([bundle], credentials=credentials) as server:
        certificate, key = authority.issue("edge")
        with Uplink(
            server.address, bundle, tls_ca=authority.path, tls_cert=certificate, tls_key=key
        ) as uplink:
            check_answers(collect(uplink, codes), codes)
        for issue in (stranger.issue("edge"), authority.issue("expired", days=-1), (None, None)):
            with pytest.raises(LinkError, match="cannot be reached"):
                Uplink(
                    server.address,
                    bundle,
                    tls_ca=authority.path,
                    tls_cert=issue[0],
                    tls_key=issue[1],
                    patience=IMPATIENT,
                ).__enter__()


@pytest.mark.parametrize(
    ("header", "accepted"),
    [
        (f"Bearer {TOKEN}", True),
        (f"bearer {TOKEN}", True),
        (f"Basic {TOKEN}", False),
        (TOKEN, False),
        (f"Bearer {TOKEN[:-1]}", False),
        (f"Bearer {TOKEN}x", False),
        ("Bearer ", False),
        ("", False),
        (b"Bearer \xff\xfe", False),
    ],
)
def test_only_a_listed_token_is_accepted(token_file, header, accepted):
    assert Tokens(token_file).accept(header) is accepted


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", f"{TOKEN}\nshort\n"])
def test_token_file_without_good_tokens_is_refused(tmp_path, text):
    with pytest.raises(UsageError, match="16 or more letters"):
        Tokens(write(tmp_path / "tokens", text))


def test_indented_comment_is_no_token(tmp_path):
    tokens = Tokens(write(tmp_path / "tokens", f"  # tokens of the fleet\n{TOKEN}\n"))
    assert not tokens.accept("Bearer # tokens of the fleet")


def test_token_lets_in_and_others_are_told_why(bundle, token_file, tmp_path):
    codes = random_code(10)
    interceptor = TokenInterceptor(Tokens(token_file), Metrics())
    with cloud([bundle], interceptors=(interceptor,)) as server:
        mine = write(tmp_path / "mine", TOKEN + "\n")
        with Uplink(server.address, bundle, token_file=mine) as uplink:
            check_answers(collect(uplink, codes), codes)
        wrong = write(tmp_path / "wrong", "some-token-of-many-letters\n")
        for given in (wrong, None):
            with pytest.raises(LinkError, match="wants a valid token"):
                Uplink(server.address, bundle, token_file=given).__enter__()


def test_call_without_token_is_refused_before_its_payload_is_read(bundle, token_file):
    metrics = Metrics()
    interceptor = TokenInterceptor(Tokens(token_file), metrics)
    with cloud([bundle], interceptors=(interceptor,)) as server:
        with grpc.insecure_channel(server.address) as channel:
            read = []

            def never_ending():
                yield packet.pack_hello(Greeting(bytes(32), bytes(16)))
                while len(read) < 1000:
                    read.append(1)
                    yield bytes(60_000)

            call = channel.stream_stream(packet.STREAM)(never_ending())
            with pytest.raises(grpc.RpcError) as refused:
                next(call)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
            too_large = bytes(8 << 20)  # read, it would have been refused for its size
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(packet.CLASSIFY)(too_large)
            assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
    assert server.metric("packets_total", bundle="tiny") == 0


def test_token_works_through_the_public_entry(bundle, tmp_path, token_file, authority):
    codes = random_code(5)
    certificate, key = authority.issue("entry")
    mine = write(tmp_path / "mine", TOKEN)
    with running(
        [bundle.path], token_file=token_file, tls_cert=certificate, tls_key=key, threads=1
    ) as server:
        with Uplink(server.address, bundle, token_file=mine, tls_ca=authority.path) as uplink:
            assert len(list(uplink.classify(enumerate(codes)))) == 5


def test_rates_make_a_fast_peer_pause_and_leave_others_alone():
    rates = Rates(packets_per_s=10)
    assert rates.wait_s("fast", 10) == 0
    assert rates.wait_s("fast", 5) == pytest.approx(0.5, abs=0.05)
    assert rates.wait_s("other", 1) == 0


def test_rates_remember_a_bounded_number_of_peers():
    rates = Rates(packets_per_s=10)
    for peer in range(3 * Rates.MAX_PEERS):
        rates.wait_s(str(peer), 1)
    assert len(rates._peers) == Rates.MAX_PEERS


def test_stream_over_its_rate_is_slowed_down_and_loses_nothing(bundle):
    codes = random_code(60)
    with cloud([bundle], limits=ServerLimits(packets_per_s=100.0)) as server:
        with Uplink(server.address, bundle) as uplink:
            check_answers(collect(uplink, codes), codes)


def test_unary_call_over_its_rate_gets_a_retry_hint(bundle):
    with cloud([bundle], limits=ServerLimits(packets_per_s=1.0)) as server:
        with grpc.insecure_channel(
            server.address, options=(("grpc.enable_retries", 0),)
        ) as channel:
            classify = channel.unary_unary(packet.CLASSIFY)
            greeting = Greeting(bytes.fromhex(bundle.digest), bytes(16))
            request = packet.pack_request(Packet(1, 0, 1, bytes(24)), greeting)
            classify(request)
            with pytest.raises(grpc.RpcError) as refused:
                classify(request)
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            hint = dict(refused.value.trailing_metadata())[packet.PUSHBACK]
            assert 0 < int(hint) < 2000


def test_oversized_message_is_refused_and_the_server_lives(bundle):
    with cloud([bundle], max_message=100_000) as server:
        with grpc.insecure_channel(server.address) as channel:
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(packet.CLASSIFY)(bytes(200_000))
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with Uplink(server.address, bundle) as uplink:
            assert len(list(uplink.classify(enumerate(random_code(3))))) == 3


def test_full_queue_refuses_unary_calls_with_a_retry_hint(bundle):
    batch = BatchLimits(slots=1, max_batch=1, max_queue=2)
    with cloud([bundle], batch=batch) as server:
        server.model.stalled = True
        with grpc.insecure_channel(
            server.address, options=(("grpc.enable_retries", 0),)
        ) as channel:
            classify = channel.unary_unary(packet.CLASSIFY)
            greeting = Greeting(bytes.fromhex(bundle.digest), bytes(16))

            def ask(sample: int) -> grpc.Future:
                packed = packet.pack_request(Packet(sample, 0, 1, bytes(24)), greeting)
                return classify.future(packed)

            calls = [ask(0)]
            until(lambda: server.model.running == 1)  # else two may find the queue full with it
            calls += [ask(sample) for sample in range(1, 8)]
            until(lambda: sum(call.done() for call in calls) == 5)  # 1 runs, 2 wait
            server.model.stalled = False
            codes = [call.code() for call in calls]
            assert codes.count(grpc.StatusCode.OK) == 3
            refused = next(call for call in calls if call.code() is not grpc.StatusCode.OK)
            assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert int(dict(refused.trailing_metadata())[packet.PUSHBACK]) >= 10


def _crowd(bundle, count, limit):
    codes = random_code(20)
    with cloud([bundle], limits=ServerLimits(streams=limit, hello_s=120)) as server:
        with Uplink(server.address, bundle) as uplink:
            command = [sys.executable, "-m", "tests.crowd", server.address, str(count)]
            crowd = subprocess.Popen(
                command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            try:
                assert crowd.stdout is not None
                assert crowd.stdout.readline() == b"open\n"
                # gRPC itself turns some of a large crowd away, before they are streams of ours.
                until(lambda: server.metric("streams") == limit)
                until(lambda: server.metric("errors_total", kind="overload") > 0)
                check_answers(collect(uplink, codes), codes)  # who was in is served on
            finally:
                crowd.communicate(b"")
            until(lambda: server.metric("streams") == 1)
        with Uplink(server.address, bundle) as uplink:  # and there is room again
            check_answers(collect(uplink, codes), codes)


def test_crowd_of_half_open_streams_does_not_shut_out_those_inside(bundle):
    _crowd(bundle, count=200, limit=32)


@pytest.mark.deep
def test_ten_thousand_half_open_streams_do_not_shut_out_those_inside(bundle):
    _crowd(bundle, count=10_000, limit=512)


def test_stream_without_hello_is_closed_in_time(bundle):
    with cloud([bundle], limits=ServerLimits(hello_s=0.1)) as server:
        with grpc.insecure_channel(server.address) as channel:
            hold = threading.Event()

            def nothing():
                hold.wait(20)
                yield from ()

            call = channel.stream_stream(packet.STREAM)(nothing())
            with pytest.raises(grpc.RpcError) as refused:
                next(call)
            hold.set()
            assert "none came within 0.1 s" in refused.value.details()
