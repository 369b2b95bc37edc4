"""What either end checks before it links up: addresses, PEM files, token files."""

import pytest

from splitcore.errors import UsageError
from splitcore.trust import read_pem, read_tokens, split_address
from tests.cloud_server.certificates import Authority

TOKEN = "a-token-of-many-letters"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("ours"), "ours")


def write(path, content):
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("address", "parts"),
    [
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost:65535", ("localhost", 65535)),
        ("[::1]:50061", ("[::1]", 50061)),
    ],
)
def test_address_is_split_into_host_and_port(address, parts):
    assert split_address("listen", address) == parts


@pytest.mark.parametrize(
    "address",
    [
        "a",
        "a:",
        ":1",
        "a:-1",
        "a:65536",
        "a:²",
        "a:0x1",
        "::1:5",
        "[::1]",
        "[]:1",
        "a:" + "9" * 5000,
    ],
)
def test_address_that_is_none_is_refused(address):
    with pytest.raises(UsageError, match="server: expected HOST:PORT"):
        split_address("server", address)


def test_port_below_the_lowest_is_refused():
    with pytest.raises(UsageError, match="HOST:PORT"):
        split_address("server", "a:0", lowest_port=1)


def test_files_are_read_as_they_are(authority):
    cert, key = authority.issue("good")
    pem = read_pem(authority.path, cert, key)
    paths = (authority.path, cert, key)
    assert (pem.authorities, pem.chain, pem.key) == tuple(path.read_bytes() for path in paths)


@pytest.mark.parametrize("content", [b"", b"junk", b"# \xc3\xa9\n", b"{}"])
def test_authorities_without_a_certificate_are_refused(tmp_path, content):
    path = write(tmp_path / "ca.pem", content)
    with pytest.raises(UsageError, match=f"authorities {path} cannot be used"):
        read_pem(path, None, None)


@pytest.mark.parametrize("content", [b"", b"junk"])
def test_certificate_and_key_that_are_none_are_refused(tmp_path, authority, content):
    cert, key = authority.issue("half")
    bad = write(tmp_path / "bad.pem", content)
    for pair in ((bad, key), (cert, bad)):
        with pytest.raises(UsageError, match="certificate {} and key {} cannot".format(*pair)):
            read_pem(None, *pair)


def test_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(UsageError, match="absent cannot be read"):
        read_pem(tmp_path / "absent", None, None)
    with pytest.raises(UsageError, match="absent cannot be read"):
        read_tokens(tmp_path / "absent")


def test_tokens_are_the_lines_without_comments(tmp_path):
    text = f"  # of the fleet\n\n  {TOKEN} \r\nanother {TOKEN}\n#\n"
    path = write(tmp_path / "tokens", text.encode())
    assert read_tokens(path) == [TOKEN, f"another {TOKEN}"]


@pytest.mark.parametrize(
    "line", ["short", f"fleet7\t{TOKEN}", f"{TOKEN}\x00", f"{TOKEN}é", "", "# none"]
)
def test_token_that_no_header_can_carry_or_is_short_is_refused(tmp_path, line):
    path = write(tmp_path / "tokens", f"{line}\n".encode())
    with pytest.raises(UsageError, match=f"token file: {path}: expected tokens of 16 or more"):
        read_tokens(path)
