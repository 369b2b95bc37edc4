"""Files that a stranger wrote: one NetxError with file and HDF5 path, whatever is in them."""

import itertools
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lava_edge import guarded_hdf5, netx_file
from splitcore.errors import NetxError
from splitcore.graph import Conv, Current, Dense, Graph, Identity, Input, Lif

CONV = Conv(np.full((3, 2, 3, 3), 4), padding=(1, 1))


def lif(name: str, channels: int, *currents: Current) -> Lif:
    return Lif(name, currents, np.full(channels, 3), 90, 1024)


def chain() -> Graph:
    dense = lif("dense", 4, Current("conv", Dense(np.full((4, 60), 2))))
    return Graph(Input((2, 4, 5)), (lif("conv", 3, Current("input", CONV)), dense))


def residual() -> Graph:
    first = lif("a", 3, Current("input", CONV))
    second = lif("b", 3, Current("a", Identity(4)), Current("a", Identity(2)))
    return Graph(Input((2, 4, 5), 6), (first, second))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "edge.net"


def replaced(file: h5py.File, name: str, value: object, **options) -> None:
    del file[name]
    file.create_dataset(name, data=value, **options)


def changed(path: Path, change: Callable[[h5py.File], None], graph: Graph | None = None) -> Path:
    netx_file.save(graph or chain(), path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def refused(path: Path, where: str, message: str) -> None:
    with pytest.raises(NetxError) as info:
        netx_file.load(path)
    text = str(info.value)
    assert text.startswith(f"{path}: {where}: "), text
    assert message in text
    assert "\n" not in text


def put(name: str, value: object, **options) -> Callable[[h5py.File], None]:
    return lambda file: replaced(file, name, value, **options)


WEIGHT = np.full((3, 2, 3, 3), 4, np.float32)

VALUES = [
    ("layer/1/weight", np.where(WEIGHT == 4, np.nan, 0), "finite"),
    ("layer/1/weight", WEIGHT * np.inf, "finite"),
    ("layer/1/weight", WEIGHT + 0.5, "whole numbers"),
    ("layer/1/weight", WEIGHT * 1e30, "below"),
    ("layer/1/weight", WEIGHT.astype(complex), "expected numbers"),
    ("layer/1/weight", WEIGHT[0], "expected O, I/groups, H, W"),
    ("layer/1/weight", np.array(["a", "b"], dtype="S1"), "expected numbers"),
    ("layer/1/weight", h5py.Empty("f4"), "expected a value"),
    ("layer/1/kernelSize", [5, 5], "expected (3, 3)"),
    ("layer/1/inChannels", 3, "expected (2,)"),
    ("layer/1/stride", [1, 1, 1], "one number or two"),
    ("layer/1/shape", [3, 4, 4], "expected (3, 4, 5), got [3, 4, 4]"),
    ("layer/1/groups", "one", "expected numbers"),
    ("layer/1/type", 7, "expected one string"),
    ("layer/1/type", "c" * 300, "more than 256"),
    ("layer/1/type", ["conv", "conv"], "expected one string"),
    ("layer/1/neuron/vThMant", [[90, 91, 92]], "one value for the whole layer"),
    ("layer/1/neuron/iDecay", np.nan, "finite"),
    ("layer/1/neuron/refDelay", 2, "layer 1: only 1 is supported"),
    ("layer/1/neuron/gradedSpike", True, "layer 1: only 0 is supported"),
    ("layer/1/neuron/type", "SDNN", "layer 1: neurons of kind 'SDNN' are not supported"),
    ("layer/3/weight", np.full((4, 59), 2.0), "expected (59,)"),
    ("layer/0/shape", [2, 4], "one size or C, H, W"),
]


@pytest.mark.parametrize(("name", "value", "message"), VALUES)
def test_load_of_wrong_value_names_its_path(path, name, value, message):
    where = "/layer/3/inFeatures" if name == "layer/3/weight" else f"/{name}"
    refused(changed(path, put(name, value)), where, message)


FIELDS = [
    ("layer/1/stride", [0, 1], "conv stride"),
    ("layer/1/groups", 0, "conv groups"),
    ("layer/1/groups", 2, "conv groups"),
    ("layer/1/groups", 3, "inChannels"),
    ("layer/1/weight", WEIGHT * 100, "conv weight"),
    ("layer/1/bias", [5000, 0, 0], "bias"),
    ("layer/1/bias", [5], "biases"),
    ("layer/1/neuron/vThMant", 1 << 18, "threshold"),
    ("layer/1/neuron/vDecay", 5000, "voltage_decay"),
    ("layer/0/shape", [0, 4, 5], "positive"),
]


@pytest.mark.parametrize(("name", "value", "message"), FIELDS)
def test_load_of_impossible_records_is_refused(path, name, value, message):
    with pytest.raises(NetxError, match=message) as info:
        netx_file.load(changed(path, put(name, value)))
    assert str(path) in str(info.value)


@pytest.mark.parametrize(
    "kind",
    ["pool", "convT", "unpool", "average", "concat", "dense_rec", "dense_comp", "input", "x"],
)
def test_load_of_unsupported_layer_names_index_and_kind(path, kind):
    graph = changed(path, put("layer/1/type", np.array([kind], dtype="S10")))
    refused(graph, "/layer/1/type", f"layer 1 is of kind {kind!r}, which is not supported")


def test_load_of_conv_delays_is_refused(path):
    def add(file):
        file["layer/1/delay"] = np.array([0.0, 1.0, 0.0])

    refused(changed(path, add), "/layer/1/delay", "delays on a conv are not supported")


def test_load_of_zero_conv_delays_is_harmless(path):
    def add(file):
        file["layer/1/delay"] = np.zeros(3)

    assert len(netx_file.load(changed(path, add)).layers) == 2


@pytest.mark.parametrize(("delay", "message"), [([63, 0, 0, 0], "delay"), ([1, 2, 3], "not fit")])
def test_load_of_bad_dense_delays_is_refused(path, delay, message):
    def add(file):
        file["layer/3/delay"] = np.array(delay)

    with pytest.raises(NetxError, match=message):
        netx_file.load(changed(path, add))


def test_load_of_weight_exponent_is_refused(path):
    def add(file):
        file["layer/1/neuron/weight_exp"] = np.float32(-1)

    refused(changed(path, add), "/layer/1/neuron/weight_exp", "only 0 is supported")


def test_load_of_unknown_member_is_refused(path):
    def add(file):
        file["layer/1/weight_rec"] = np.zeros((2, 2))

    refused(changed(path, add), "/layer/1/weight_rec", "unknown member")


def test_load_of_complex_weights_is_refused(path):
    def change(file):
        del file["layer/1/weight"]
        file["layer/1/weight/real"] = WEIGHT

    refused(changed(path, change), "/layer/1/weight", "expected a dataset")


@pytest.mark.parametrize("missing", ["type", "shape", "weight", "groups", "neuron"])
def test_load_of_missing_member_names_it(path, missing):
    def remove(file):
        del file[f"layer/1/{missing}"]

    refused(changed(path, remove), f"/layer/1/{missing}", "missing")


@pytest.mark.parametrize(
    ("version", "message"),
    [(2, "version 2, expected 1"), ("1", "version 1, expected 1"), ([1, 1], "one value")],
)
def test_load_of_unknown_version_is_refused(path, version, message):
    def change(file):
        file.attrs["spikebottlenet_version"] = np.bytes_(version) if version == "1" else version

    refused(changed(path, change), "/attribute spikebottlenet_version", message)


@pytest.mark.parametrize("value", ["text", np.zeros(100), h5py.Empty("f4")])
def test_load_of_odd_name_is_refused(path, value):
    def change(file):
        file["layer/1"].attrs["name"] = value

    with pytest.raises(NetxError, match="/layer/1/attribute name"):
        netx_file.load(changed(path, change))


def test_load_of_taken_name_is_refused(path):
    def change(file):
        file["layer/3"].attrs["name"] = np.bytes_(b"conv")

    with pytest.raises(NetxError, match="the name is taken"):
        netx_file.load(changed(path, change))


@pytest.mark.parametrize("source", [1, 2, 99, -2])
def test_load_of_cycle_or_unknown_source_is_refused(path, source):
    where = "network/layer/1/current/0/source"
    broken = changed(path, put(where, source), residual())
    refused(broken, f"/{where}", f"layer 1 cannot be driven by layer {source}")


def test_load_of_currents_that_do_not_meet_is_refused(path):
    def change(file):
        replaced(file, "network/layer/1/current/0/source", -1)
        for name in ("inChannels", "outChannels", "groups"):
            replaced(file, f"network/layer/1/current/0/{name}", 2)
        replaced(file, "network/layer/1/current/0/weight", np.full((2, 1, 1, 1), 4.0))

    with pytest.raises(NetxError, match="layer b: currents of shapes"):
        netx_file.load(changed(path, change, residual()))


def test_load_of_identity_with_two_weights_is_refused(path):
    def change(file):
        file["network/layer/1/current/0/weight"][1] = 6

    refused(
        changed(path, change, residual()),
        "/network/layer/1/current/0/attribute identity",
        "one weight for every channel",
    )


def test_load_of_layers_with_a_gap_is_refused(path):
    def change(file):
        file.move("layer/3", "layer/4")

    refused(changed(path, change), "/layer/3", "missing among 4 members")


def test_load_of_missing_flatten_is_refused(path):
    def change(file):
        del file["layer/2"]
        file.move("layer/3", "layer/2")

    refused(changed(path, change), "/layer/2", "flatten belongs before")


def test_load_of_file_without_layers_is_refused(path):
    with h5py.File(path, "w"):
        pass
    refused(path, "/layer", "missing")


def test_load_of_conv_without_input_block_is_refused(path):
    def change(file):
        del file["layer/0"]
        for index in (1, 2, 3):
            file.move(f"layer/{index}", f"layer/{index - 1}")

    refused(changed(path, change), "/layer/0/type", "height and width are unknown")


def test_load_of_thousands_of_layers_is_refused(path):
    def change(file):
        for index in range(guarded_hdf5.MAX_MEMBERS):
            file["layer"].create_group(f"more{index}")

    refused(changed(path, change), "/layer", "4,100 members are more than 4,096")


def outside(path: Path) -> Path:
    """Another good file that the hostile one may try to reach."""
    other = path.with_name("other.net")
    netx_file.save(chain(), other)
    return other


@pytest.mark.parametrize(
    "link",
    [
        lambda other: h5py.SoftLink("/layer/1/weight"),
        lambda other: h5py.SoftLink("/nowhere"),
        lambda other: h5py.ExternalLink(str(other), "/layer/1/weight"),
    ],
)
def test_load_of_link_is_not_followed(path, link):
    def change(file):
        del file["layer/1/weight"]
        file["layer/1/weight"] = link(outside(path))

    refused(changed(path, change), "/layer/1/weight", "a link to elsewhere is not followed")


def test_load_of_layer_group_through_external_link_is_not_followed(path):
    def change(file):
        del file["layer"]
        file["layer"] = h5py.ExternalLink(str(outside(path)), "/layer")

    refused(changed(path, change), "/layer", "a link to elsewhere is not followed")


def test_load_of_group_that_contains_itself_ends(path):
    def change(file):
        del file["layer/1/neuron"]
        file["layer/1/neuron"] = file["layer/1"]

    refused(changed(path, change), "/layer/1/neuron/type", "of kind 'conv'")


def test_load_of_external_storage_is_not_read(path):
    secret = path.with_name("secret")
    secret.write_bytes(WEIGHT.tobytes())

    def change(file):
        del file["layer/1/weight"]
        file["layer/1"].create_dataset(
            "weight", WEIGHT.shape, "f4", external=[(str(secret), 0, WEIGHT.nbytes)]
        )

    refused(changed(path, change), "/layer/1/weight", "external storage is not read")


def test_load_of_virtual_storage_is_not_read(path):
    def change(file):
        del file["layer/1/weight"]
        layout = h5py.VirtualLayout(WEIGHT.shape, "f4")
        layout[:] = h5py.VirtualSource(str(outside(path)), "layer/1/weight", WEIGHT.shape)
        file["layer/1"].create_virtual_dataset("weight", layout)

    refused(changed(path, change), "/layer/1/weight", "plain storage")


@pytest.mark.parametrize("options", [{"chunks": True}, {"compression": "gzip"}])
def test_load_of_chunked_or_compressed_data_is_refused(path, options):
    refused(changed(path, put("layer/1/weight", WEIGHT, **options)), "/layer/1/weight", "plain")


def test_load_of_chunked_bomb_is_refused(path):
    def change(file):
        del file["layer/1/weight"]
        shape = (1 << 15, 1 << 15, 1 << 10, 1 << 10)
        file["layer/1"].create_dataset("weight", shape, "f4", compression="gzip")

    refused(changed(path, change), "/layer/1/weight", "plain storage")


def test_load_of_declared_size_past_the_file_is_refused(path):
    def change(file):
        del file["layer/1/weight"]
        # Never written, so never allocated: a terabyte in a file of some kilobytes.
        file["layer/1"].create_dataset("weight", (1 << 10, 1 << 10, 1 << 9, 1 << 9), "f4")

    refused(changed(path, change), "/layer/1/weight", "declares 1,099,511,627,776 bytes")


def test_load_of_weights_that_many_layers_link_to_is_refused(path):
    """One matrix of 34 MB in 27 layers would take 3.7 GB of memory."""
    square = Dense(np.full((200, 200), 2))
    pairs = itertools.pairwise(["input", "a", "b", "c"])
    layers = (lif(name, 200, Current(source, square)) for source, name in pairs)

    def change(file):
        put("layer/1/weight", np.full((200, 200), 2.0))(file)  # float64, twice what the others had
        for layer in ("layer/2", "layer/3"):
            del file[layer]["weight"]
            file[layer]["weight"] = file["layer/1/weight"]

    graph = Graph(Input((200, 1, 1)), tuple(layers))
    refused(changed(path, change, graph), "/layer/3/weight", "no data may be linked to twice")


def test_load_of_int8_weights_peaks_at_a_small_multiple_of_the_network(path):
    """The network holds four bytes a synapse."""
    side = 1000
    graph = Graph(
        Input((side, 1, 1)), (lif("a", side, Current("input", Dense(np.full((side, side), 2)))),)
    )
    changed(path, put("layer/1/weight", np.full((side, side), 2, np.int8)), graph)
    tracemalloc.start()
    try:
        netx_file.load(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2.5 * 4 * side * side


def test_load_of_small_file_that_asks_for_all_memory_is_refused(path, monkeypatch):
    first = lif("l0", 1, Current("input", Conv(np.full((1, 1, 1, 1), 2), padding=(2000, 2000))))
    layers = [first, lif("l1", 1, Current("l0", Identity(2)))]
    with monkeypatch.context() as patch:
        patch.setattr(Graph, "require_room", lambda *_: None)
        netx_file.save(Graph(Input((1, 1, 1)), tuple(layers)), path)
    assert path.stat().st_size < 40_000
    with pytest.raises(NetxError, match=r"network: 512,\d+,\d+ values in each of 1 steps"):
        netx_file.load(path)


def test_load_of_two_networks_in_one_file_is_refused(tmp_path):
    """Stock NetX would run the chain, we the other one."""
    path, chain = tmp_path / "edge.net", tmp_path / "chain.net"
    entry, none = Input((1, 1, 1)), np.zeros(1, int)
    first = Lif("a", (Current("input", Identity(64)),), none, 10, 1024)
    meeting = (Current("a", Identity(64)), Current("input", Identity(2)))
    netx_file.save(Graph(entry, (first, Lif("b", meeting, none, 10, 1024))), path)
    netx_file.save(Graph(entry, (first,)), chain)
    with h5py.File(path, "r+") as file, h5py.File(chain) as other:
        other.copy("layer", file)
    refused(path, "/layer", "unknown member")


def test_load_of_an_input_past_all_memory_is_refused(path):
    change = put("layer/0/shape", [1 << 20, 1 << 20, 1 << 20])
    refused(changed(path, change), "/layer/0", "more than 67,108,864 values")


def test_load_of_padding_past_all_memory_is_refused(path):
    refused(changed(path, put("layer/1/padding", [1 << 20, 1 << 20])), "/layer/1", "padded source")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "no readable HDF5"), (b"PK\x03\x04" * 99, "no readable HDF5"), (None, "no such file")],
)
def test_load_of_no_hdf5_is_refused(path, content, message):
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NetxError, match=message):
        netx_file.load(path)


def test_load_of_folder_is_refused(tmp_path):
    with pytest.raises(NetxError, match="no such file"):
        netx_file.load(tmp_path)


@pytest.mark.parametrize("part", [0.1, 0.5, 0.9, 0.999])
def test_load_of_truncated_file_is_refused(path, part):
    netx_file.save(residual(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(NetxError, match=r"edge\.net: /: "):
        netx_file.load(path)


def test_load_of_user_block_is_refused(path):
    netx_file.save(chain(), path)
    path.write_bytes(bytes(512) + path.read_bytes())
    with pytest.raises(NetxError):
        netx_file.load(path)


def test_load_of_string_with_a_giant_length_is_refused(path):
    netx_file.save(chain(), path)
    with h5py.File(path) as file:
        place = file["layer/1/neuron/type"].id.get_offset()
    raw = bytearray(path.read_bytes())
    raw[place : place + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(raw)
    refused(path, "/layer/1/neuron/type", "a string of 4,294,967,295 bytes")


def test_load_of_string_heap_that_loops_is_refused(path):
    netx_file.save(chain(), path)
    raw = bytearray(path.read_bytes())
    heap = raw.index(b"GCOL")
    raw[heap + 24 : heap + 32] = (2**64 - 16).to_bytes(8, "little")  # next object: this one
    path.write_bytes(raw)
    refused(path, "/layer/1/neuron/type", "damaged string")


SEEDS = (chain(), residual())


@st.composite
def damaged(draw: st.DrawFn, files: tuple[bytes, ...]) -> bytes:
    """A good file with some bytes overwritten, flipped or cut off."""
    raw = bytearray(draw(st.sampled_from(files)))
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, len(raw) - 1))
        noise = draw(
            st.one_of(
                st.binary(min_size=1, max_size=8),
                st.sampled_from([b"\xff" * 4, b"\xff" * 8, b"\0" * 8, b"\x7f"]),
                st.integers(0, 7).map(lambda bit, old=raw[place]: bytes([old ^ 1 << bit])),
            )
        )
        raw[place : place + len(noise)] = noise
    if draw(st.integers(0, 9)) == 0:
        del raw[draw(st.integers(0, len(raw))) :]
    return bytes(raw)


@pytest.fixture(scope="module")
def good_files(tmp_path_factory) -> tuple[bytes, ...]:
    folder = tmp_path_factory.mktemp("good")
    found = []
    for index, graph in enumerate(SEEDS):
        netx_file.save(graph, folder / f"{index}.net")
        found.append((folder / f"{index}.net").read_bytes())
    return tuple(found)


def fuzzed(files: tuple[bytes, ...], path: Path, examples: int) -> None:
    outcomes = {"loaded": 0, "refused": 0}

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(damaged(files))
    def load(raw: bytes) -> None:
        path.write_bytes(raw)
        try:
            graph = netx_file.load(path)
        except NetxError as error:
            outcome = "refused" if str(error).startswith(f"{path}: /") else str(error)
        else:
            outcome = "loaded" if isinstance(graph, Graph) else repr(graph)
        outcomes[outcome] += 1

    load()
    assert min(outcomes.values()) > examples // 20, outcomes


@pytest.mark.timeout(60)
def test_load_of_damaged_bytes_gives_a_graph_or_a_netx_error(good_files, path):
    fuzzed(good_files, path, 300)


@pytest.mark.deep
@pytest.mark.timeout(3000)
def test_load_of_many_damaged_bytes_gives_a_graph_or_a_netx_error(good_files, path):
    fuzzed(good_files, path, 20_000)


def test_load_of_hostile_sizes_stays_within_memory(path):
    """A child that may take 400 MB beyond its imports refuses a file that asks for a terabyte."""

    def change(file):
        del file["layer/1/weight"]
        file["layer/1"].create_dataset("weight", (1 << 10, 1 << 10, 1 << 9, 1 << 9), "f4")

    changed(path, change)
    code = (
        "import resource, sys; from pathlib import Path; from lava_edge import netx_file\n"
        "from splitcore.errors import NetxError\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "limit = used + 400_000_000\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try:\n    netx_file.load(Path(sys.argv[1]))\n"
        "except NetxError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60
    )
    assert "declares 1,099,511,627,776 bytes" in done.stdout, done.stderr
