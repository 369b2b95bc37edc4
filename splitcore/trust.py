"""What either end checks before it links up: its address, its PEM files, its token file.

gRPC would find out only on the wire, and say no more than that the other end cannot be reached.
"""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass
from pathlib import Path

from splitcore.errors import UsageError

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MIN_TOKEN = 16
_ADDRESS = re.compile(r"(\[[^\[\]]+\]|[^:\[\]]+):([0-9]{1,5})")


def split_address(what: str, address: str, lowest_port: int = 0) -> tuple[str, int]:
    """HOST:PORT as its parts; IPv6 in brackets. Raises UsageError."""
    found = _ADDRESS.fullmatch(address)
    if found is None or not lowest_port <= int(found[2]) < 1 << 16:
        raise UsageError(f"{what}: expected HOST:PORT, got {address!r}")
    return found[1], int(found[2])


@dataclass(frozen=True)
class Pem:
    """Contents of one end's PEM files: the authorities it trusts, its certificates, their key."""

    authorities: bytes | None
    chain: bytes | None
    key: bytes | None


def read_pem(authorities: Path | None, cert: Path | None, key: Path | None) -> Pem:
    """Read what is given. Raises UsageError naming the files that cannot be used."""
    if (cert is None) != (key is None):
        raise UsageError("TLS: a certificate and its key belong together; give both")
    pem = Pem(
        None if authorities is None else _read("TLS authorities", authorities),
        None if cert is None else _read("TLS certificate", cert),
        None if key is None else _read("TLS key", key),
    )
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if cert is not None:
        try:
            tls.load_cert_chain(cert, key, password="")  # else OpenSSL asks on the terminal
        except ssl.SSLError as error:
            raise UsageError(
                f"TLS: certificate {cert} and key {key} cannot be used ({_reason(error)}); "
                "do they belong together, is each of them whole and without a password?"
            ) from None
    if authorities is not None:
        try:
            tls.load_verify_locations(authorities)
        except ssl.SSLError as error:
            raise UsageError(
                f"TLS: authorities {authorities} cannot be used ({_reason(error)})"
            ) from None
    return pem


def read_tokens(path: Path) -> list[str]:
    """The tokens that a file lists, one a line; '#' begins a comment. Raises UsageError."""
    lines = [line.strip() for line in _read("token file", path).splitlines()]
    tokens = [line.decode("latin-1") for line in lines if line and not line.startswith(b"#")]
    good = [len(token) >= MIN_TOKEN and token.isascii() and token.isprintable() for token in tokens]
    if not good or not all(good):
        raise UsageError(
            f"token file: {path}: expected tokens of {MIN_TOKEN} or more letters, digits and "
            "signs of ASCII, one a line"
        )
    return tokens


def _read(what: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{what}: {path} cannot be read ({error.strerror})") from None


def _reason(error: ssl.SSLError) -> str:
    return error.reason or "no whole PEM"
