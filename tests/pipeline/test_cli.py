"""The command line: help that teaches, and one JSON object alone with --json."""

import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from torch.distributed.run import parse_args
from typer.main import get_command
from typer.testing import CliRunner

from measure import link, profile
from pipeline.cli import LINKS, PROFILES, SOURCES, _answer, app, bench, train
from splitcore.errors import UsageError
from training.data import sources


def _names(group: typer.Typer, *before: str) -> list[tuple[str, ...]]:
    return [(*before, name) for name in get_command(group).commands]  # type: ignore[attr-defined]


COMMANDS = [name for name in _names(app) if name != ("bench",)] + _names(bench, "bench")


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_of_every_command_teaches(command: tuple[str, ...]) -> None:
    done = _run(*command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


def test_torchrun_line_in_the_help_of_train_leaves_start_to_the_command() -> None:
    """torchrun would take a bare --start for its own --start-method."""
    (line,) = (row for row in str(train.__doc__).splitlines() if "torchrun --" in row)
    _, *options = line.replace(" N ", " 2 ").split()
    found = parse_args([*options, "--start", "bundle"])
    assert found.training_script_args[-2:] == ["--start", "bundle"]


def test_help_names_every_link_and_profile() -> None:
    assert LINKS.removesuffix(", or a JSON file.").split(", ") == list(link.names())
    assert PROFILES.removesuffix(", or a JSON file.").split(", ") == list(profile.names())
    assert all(name in SOURCES for name in sources.NAMES)


def test_version_names_the_engines_that_are_installed() -> None:
    done = _run("--version")
    assert done.returncode == 0, done.stderr
    ours, lava, lava_dl, torch = map(version, ("spikebottlenet", "lava-nc", "lava-dl", "torch"))
    assert (
        done.stdout == f"spikebottlenet {ours} (lava-nc {lava}, lava-dl {lava_dl}, torch {torch})\n"
    )


@pytest.mark.parametrize(
    "result",
    [
        {"mismatched_spikes": 1},
        {"mismatched_states": 1},
        {"probe": {"prediction_mismatches": 1}},
        {"bundles": [{"codecs": [{"mismatched_spikes": 0}, {"mismatched_spikes": 1}]}]},
    ],
)
def test_a_mismatch_anywhere_in_a_result_ends_with_1(
    result: dict, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as ended:
        _answer(False, lambda: result, str)
    assert ended.value.exit_code == 1
    assert capsys.readouterr().out
    _answer(False, lambda: {"mismatched_spikes": 0, "rows": [{"spikes": 3}]}, str)


@pytest.mark.parametrize("limit", ["nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(limit: str) -> None:
    arguments = ["plan", "none.json", "--link", "wifi", "--profile", "loihi1", "--max-loss", limit]
    done = CliRunner().invoke(app, arguments)
    assert isinstance(done.exception, UsageError)
    assert str(done.exception) == f"--max-loss {limit}: expected a finite number; leave it out"


def test_export_with_json_prints_one_object_alone(digits_run: Path, tmp_path: Path) -> None:
    done = _run("export", digits_run, "--out", tmp_path / "bundle", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == "digits"
    assert done.stdout.count("\n") == 1


def test_verify_with_json_finds_no_mismatch_in_any_engine(digits_bundle: Path) -> None:
    done = _run("verify", digits_bundle, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["engines"] == ["slayer", "reference", "leaf", "stock"]
    assert result["mismatched_spikes"] == 0
    assert result["prediction_mismatches"] == 0
    assert set(result["mismatched_states_by_engine"].values()) == {0}
    assert result["silent_layers"] == []
    assert result["stock_conv_routine"] == "lava"
