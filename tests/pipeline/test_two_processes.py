"""Edge and cloud as two processes: apart, together, and when the server dies under way."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline import results

DEADLINE_S = 60


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def _server(bundle: Path, port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "pipeline.cli", "serve", str(bundle), "--json"]
    with subprocess.Popen(
        [*command, "--listen", f"127.0.0.1:{port}"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline())["listening"] == f"127.0.0.1:{port}"
            yield process
        finally:
            process.kill()


def _edge(bundle: Path, port: int, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "pipeline.cli", "edge", str(bundle), "--json"]
    return subprocess.Popen(
        [*command, "--server", f"127.0.0.1:{port}", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_edge_connects_to_a_server_that_runs_alone(digits_bundle: Path) -> None:
    port = _free_port()
    with _server(digits_bundle, port) as server:
        out, err = _edge(digits_bundle, port, "--samples", "24").communicate(timeout=DEADLINE_S)
        result = json.loads(out)
        assert result["answered"] == 24, err
        assert result["payload_bits_mean"] > 0
        assert result["wire_bytes_mean"] * 8 > result["payload_bits_mean"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(DEADLINE_S) == 0


def test_edge_live_sends_step_by_step_and_is_answered_alike(digits_bundle: Path) -> None:
    port = _free_port()
    with _server(digits_bundle, port):
        whole = _result(_edge(digits_bundle, port, "--samples", "12"))
        live = _result(_edge(digits_bundle, port, "--samples", "12", "--live"))
    assert live["answered"] == 12
    assert live["code_spikes"] == whole["code_spikes"] > 0
    assert live["accuracy"] == whole["accuracy"]
    assert 0 < live["to_wire_us"]["median"] <= live["to_wire_us"]["p95"]


def test_edge_writes_a_result_whose_cloud_time_is_that_of_a_sample_alone(
    digits_bundle: Path, tmp_path: Path
) -> None:
    port, path = _free_port(), tmp_path / "result.json"
    with _server(digits_bundle, port):
        options = ("--samples", "24", "--result", str(path), "--profile", "seneca")
        answered = _result(_edge(digits_bundle, port, *options))
    written = results.load(path)
    assert written.details is not None
    assert answered["answered"] == written.samples == 24
    assert written.mismatched_spikes == written.prediction_mismatches == 0
    assert set(written.energy_pj) == {"loihi1", "cmos45_int8", "cmos45_fp32", "seneca"}
    assert written.spikes == answered["code_spikes"] > 0
    assert written.details.cloud_us is not None
    assert written.details.cloud_us > 0


def _result(edge: subprocess.Popen[str]) -> dict:
    out, err = edge.communicate(timeout=DEADLINE_S)
    assert edge.returncode == 0, err
    return json.loads(out)


def test_edge_carries_on_after_the_server_was_killed_and_started_again(
    digits_bundle: Path,
) -> None:
    port = _free_port()
    edge = None
    try:
        with _server(digits_bundle, port) as server:
            edge = _edge(digits_bundle, port, "--model", "stock")
            assert edge.stderr is not None
            began = time.monotonic()
            while not _answered(server) and time.monotonic() - began < DEADLINE_S:
                time.sleep(0.05)
            server.kill()
        with _server(digits_bundle, port):
            out, err = edge.communicate(timeout=2 * DEADLINE_S)
        assert edge.returncode == 0, err
        assert json.loads(out)["answered"] == 360
    finally:
        if edge is not None:
            edge.kill()


def _answered(server: subprocess.Popen[str]) -> bool:
    """Whether an edge has connected: the server holds a socket beside the listening one."""
    found = 0
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{server.pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            port = int(fields[1].split(":")[1], 16)
            listening = f":{server.args[-1].rsplit(':', 1)[1]}"  # type: ignore[index,union-attr]
            if port == int(listening[1:]) and fields[3] == "01":
                found += 1
    return found > 0


def test_edge_with_another_bundle_than_the_server_is_refused(
    digits_run: Path, digits_bundle: Path, tmp_path: Path
) -> None:
    import shutil

    other = Path(shutil.copytree(digits_bundle, tmp_path / "other"))
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"digits-small"', '"digits-other"', 1))
    port = _free_port()
    with _server(digits_bundle, port):
        edge = _edge(other, port, "--samples", "2")
        out, err = edge.communicate(timeout=DEADLINE_S)
    assert edge.returncode == 2
    assert out == ""
    assert "Traceback" not in err
    assert "is not served here" in err
