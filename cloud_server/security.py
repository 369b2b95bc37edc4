"""Who may speak to the server, and over what: listen addresses, TLS, bearer tokens, rates."""

from __future__ import annotations

import hashlib
import hmac
import ssl
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from cloud_server.metrics import Metrics
from splitcore.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MIN_TOKEN = 16
HEALTH = "/grpc.health.v1.Health/"


def split_listen(listen: str) -> tuple[str, int]:
    """HOST:PORT as its parts. Raises UsageError."""
    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or int(port) > 65535:
        raise UsageError(f"listen: expected HOST:PORT, got {listen!r}")
    return host, int(port)


def check_listen(listen: str, encrypted: bool, insecure: bool) -> None:
    """Raise UsageError for an address that others can reach without encryption, unless said so."""
    host, _ = split_listen(listen)
    if host not in LOOPBACK and not encrypted and not insecure:
        raise UsageError(
            f"listen: {host} can be reached from other machines and the link is not encrypted; "
            "give a TLS certificate and key, or allow it as insecure"
        )


def _read(path: Path, what: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be read ({error.strerror})") from None


def server_credentials(
    cert: Path | None, key: Path | None, client_ca: Path | None
) -> grpc.ServerCredentials | None:
    """TLS from PEM files; client_ca makes clients show a certificate. None without any.

    Raises UsageError naming the files that cannot be used.
    """
    if cert is None and key is None and client_ca is None:
        return None
    if cert is None or key is None:
        raise UsageError("TLS: a certificate and its key belong together; give both")
    chain, private = _read(cert, "TLS certificate"), _read(key, "TLS key")
    if b"-----BEGIN CERTIFICATE" not in chain or b"PRIVATE KEY-----" not in private:
        raise UsageError(f"TLS: expected PEM files, a certificate in {cert} and a key in {key}")
    roots = _read(client_ca, "client CA") if client_ca is not None else None
    _check_tls(cert, key, client_ca)
    return grpc.ssl_server_credentials(
        [(private, chain)], root_certificates=roots, require_client_auth=roots is not None
    )


def _check_tls(cert: Path, key: Path, client_ca: Path | None) -> None:
    """gRPC would only say that it cannot bind the port."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        tls.load_cert_chain(cert, key, password="")  # else OpenSSL asks for one on the terminal
    except ssl.SSLError as error:
        raise UsageError(
            f"TLS: certificate {cert} and key {key} cannot be used ({error.reason}); "
            "do they belong together, is each of them whole and without a password?"
        ) from None
    try:
        if client_ca is not None:
            tls.load_verify_locations(client_ca)
    except ssl.SSLError as error:
        raise UsageError(f"TLS: client CA {client_ca} cannot be used ({error.reason})") from None


class Tokens:
    """The bearer tokens that a file lists, one a line; '#' begins a comment."""

    def __init__(self, path: Path) -> None:
        lines = _read(path, "token file").decode("utf-8", "replace").splitlines()
        tokens = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not tokens or min(map(len, tokens)) < MIN_TOKEN:
            raise UsageError(f"token file: {path}: expected tokens of {MIN_TOKEN} or more letters")
        self._digests = [hashlib.sha256(token.encode()).digest() for token in tokens]

    def accept(self, authorization: str | bytes) -> bool:
        """Whether an authorization header carries one of the tokens, in constant time."""
        given = authorization.encode() if isinstance(authorization, str) else authorization
        scheme, _, token = given.partition(b" ")
        digest = hashlib.sha256(token).digest()
        # All are compared whatever matches, over digests: time tells neither content nor length.
        matches = [hmac.compare_digest(digest, known) for known in self._digests]
        return any(matches) and scheme.lower() == b"bearer"


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls without a token before any message is read. Health stays open to probes."""

    def __init__(self, tokens: Tokens, metrics: Metrics) -> None:
        self._tokens, self._metrics = tokens, metrics
        # A unary handler would read its message before it could refuse; a stream need not.
        self._deny = grpc.stream_stream_rpc_method_handler(self._refuse)

    async def _refuse(self, _: object, context: grpc.aio.ServicerContext) -> None:
        self._metrics.failed("unauthenticated")
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, "this server wants a valid token")

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler:
        """Pass the call on, or the handler that refuses it."""
        method: str = handler_call_details.method  # type: ignore[attr-defined]
        metadata = handler_call_details.invocation_metadata or ()  # type: ignore[attr-defined]
        given = [value for key, value in metadata if key == "authorization"]
        if method.startswith(HEALTH) or (len(given) == 1 and self._tokens.accept(given[0])):
            return await continuation(handler_call_details)
        return self._deny


class Rates:
    """Packets a second by peer, as token buckets that hold one second's worth."""

    MAX_PEERS = 4096

    def __init__(self, packets_per_s: float) -> None:
        self._rate = packets_per_s
        self._peers: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait_s(self, peer: str, packets: int) -> float:
        """Take so many packets from the peer's bucket; how long the peer now has to pause."""
        now = time.monotonic()
        level, then = self._peers.pop(peer, (self._rate, now))
        level = min(self._rate, level + (now - then) * self._rate) - packets
        self._peers[peer] = (level, now)
        while len(self._peers) > self.MAX_PEERS:
            self._peers.popitem(last=False)
        return max(0.0, -level / self._rate)


def peer_host(peer: str) -> str:
    """The host of a gRPC peer such as ipv4:10.0.0.7:51234: one bucket for all its ports."""
    return peer.rpartition(":")[0]
