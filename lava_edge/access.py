"""How an edge may reach its server: address, TLS, client certificate, bearer token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from splitcore.errors import UsageError
from splitcore.trust import LOOPBACK, read_pem, read_tokens, split_address

_OPTIONS = (
    ("grpc.enable_retries", 0),  # the uplink retries itself, it knows what was answered
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.max_receive_message_length", 16 << 20),
)
_HERE = (("grpc.enable_http_proxy", 0),)  # gRPC takes http_proxy's way to this very machine, too


@dataclass(frozen=True)
class Access:
    """tls_ca: PEM roots that sign the server (None with tls: the system's); tls_cert and tls_key:
    our own certificate, for servers that want one; token_file: its first token goes with each call;
    insecure: allow plaintext to other machines."""

    tls: bool = False
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    insecure: bool = False

    @property
    def encrypted(self) -> bool:
        """Whether any option asks for TLS."""
        return self.tls or any((self.tls_ca, self.tls_cert, self.tls_key))

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with each call. Raises UsageError for a file without good tokens."""
        if self.token_file is None:
            return ()
        return (("authorization", f"Bearer {read_tokens(self.token_file)[0]}"),)


def check_server(server: str, access: Access) -> None:
    """Raise UsageError for an address that is none, or one that plaintext must not go to."""
    host = _host(server)
    if host not in LOOPBACK and not access.encrypted and not access.insecure:
        raise UsageError(
            f"server: {host} is another machine and the link is not encrypted; use TLS, "
            "or allow it as insecure"
        )


def open_channel(server: str, access: Access) -> grpc.Channel:
    """A connection to be made on the first call. Raises UsageError for files of no use."""
    options = _OPTIONS + (_HERE if _host(server) in LOOPBACK else ())
    if not access.encrypted:
        return grpc.insecure_channel(server, options=options)
    pem = read_pem(access.tls_ca, access.tls_cert, access.tls_key)
    credentials = grpc.ssl_channel_credentials(pem.authorities, pem.key, pem.chain)
    return grpc.secure_channel(server, credentials, options=options)


def _host(server: str) -> str:
    return split_address("server", server, lowest_port=1)[0]
