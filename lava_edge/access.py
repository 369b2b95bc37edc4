"""How an edge may reach its server: address, TLS, client certificate, bearer token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grpc

from splitcore.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
_OPTIONS = (
    ("grpc.enable_retries", 0),  # the uplink retries itself, it knows what was answered
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection
    ("grpc.max_receive_message_length", 16 << 20),
)


@dataclass(frozen=True)
class Access:
    """tls_ca: PEM roots that sign the server (None with tls: the system's); tls_cert and tls_key:
    our own certificate, for servers that want one; token_file: its first line goes with each call;
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
        """What goes with each call."""
        return () if self.token_file is None else (("authorization", self._bearer()),)

    def _bearer(self) -> str:
        lines = (_read(self.token_file, "token file") or b"").split(b"\n")
        tokens = [line.strip() for line in lines if line.strip() and not line.startswith(b"#")]
        if not tokens or not tokens[0].isascii():
            raise UsageError(f"token file: {self.token_file}: expected a token in plain ASCII")
        return f"Bearer {tokens[0].decode()}"


def check_server(server: str, access: Access) -> None:
    """Raise UsageError for an address that is none, or one that plaintext must not go to."""
    host, _, port = server.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal() and 0 < int(port) < 65536):
        raise UsageError(f"server: expected HOST:PORT, got {server!r}")
    if host not in LOOPBACK and not access.encrypted and not access.insecure:
        raise UsageError(
            f"server: {host} is another machine and the link is not encrypted; use TLS, "
            "or allow it as insecure"
        )


def open_channel(server: str, access: Access) -> grpc.Channel:
    """A connection to be made on the first call. Raises UsageError for unreadable files."""
    if not access.encrypted:
        return grpc.insecure_channel(server, options=_OPTIONS)
    if (access.tls_cert is None) != (access.tls_key is None):
        raise UsageError("TLS: a certificate and its key belong together; give both")
    credentials = grpc.ssl_channel_credentials(
        *(_read(path, "TLS") for path in (access.tls_ca, access.tls_key, access.tls_cert))
    )
    return grpc.secure_channel(server, credentials, options=_OPTIONS)


def _read(path: Path | None, what: str) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be read ({error.strerror})") from None
