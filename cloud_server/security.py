"""Who may speak to the server, and over what: listen addresses, TLS, bearer tokens, rates."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc

from cloud_server.metrics import Metrics
from splitcore.errors import UsageError
from splitcore.trust import LOOPBACK, read_pem, read_tokens, split_address

HEALTH = "/grpc.health.v1.Health/"


def check_listen(listen: str, encrypted: bool, insecure: bool) -> None:
    """Raise UsageError for an address that others can reach without encryption, unless said so."""
    host, _ = split_address("listen", listen)
    if host not in LOOPBACK and not encrypted and not insecure:
        raise UsageError(
            f"listen: {host} can be reached from other machines and the link is not encrypted; "
            "give a TLS certificate and key, or allow it as insecure"
        )


def server_credentials(
    cert: Path | None, key: Path | None, client_ca: Path | None
) -> grpc.ServerCredentials | None:
    """TLS from PEM files; client_ca makes clients show a certificate. None without any.

    Raises UsageError naming the files that cannot be used.
    """
    if client_ca is not None and cert is None:
        raise UsageError("TLS: a client CA wants a certificate and key of the server, too")
    pem = read_pem(client_ca, cert, key)
    if pem.chain is None or pem.key is None:
        return None
    return grpc.ssl_server_credentials(
        [(pem.key, pem.chain)],
        root_certificates=pem.authorities,
        require_client_auth=pem.authorities is not None,
    )


class Tokens:
    """The bearer tokens that a file lists."""

    def __init__(self, path: Path) -> None:
        self._digests = [hashlib.sha256(token.encode()).digest() for token in read_tokens(path)]

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
