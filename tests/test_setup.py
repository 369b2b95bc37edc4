"""The search for Python 3.10 that every make target starts with."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

FIND = ROOT / ".ci" / "find-python"


@pytest.fixture
def bare(tmp_path) -> dict[str, str]:
    """An environment whose PATH is one empty folder and whose home holds no Python."""
    (tmp_path / "bin").mkdir()
    return {"PATH": str(tmp_path / "bin"), "HOME": str(tmp_path)}


def find(env: dict[str, str]) -> subprocess.CompletedProcess:
    return subprocess.run(["/bin/sh", FIND], env=env, capture_output=True, text=True, timeout=60)


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_missing_python_gives_one_line_of_help_and_exit_2(bare):
    result = find(bare)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Python 3.10 is needed and was not found: install it")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("text", ["echo 'not switched on' >&2; exit 127", "exit 1", "exec false"])
def test_python_that_does_not_run_is_passed_over(bare, text):
    script(Path(bare["PATH"]) / "python3.10", text)
    assert find(bare).returncode == 2


@pytest.mark.parametrize(
    "place", ["bin/python3.10", "bin/python3", ".pyenv/versions/3.10.99/bin/python", "else/where"]
)
def test_python_is_found_at_each_of_its_places(bare, tmp_path, place):
    script(tmp_path / place, f'exec "{sys.executable}" "$@"')
    if place == "else/where":
        bare["PYTHON"] = str(tmp_path / place)
    found = Path(find(bare).stdout.strip())
    assert found.exists()
    assert found.resolve() == Path(sys.executable).resolve()


def test_python_of_an_environment_is_given_as_its_base(bare):
    found = find({**bare, "PYTHON": sys.executable}).stdout.strip()
    assert Path(found).is_relative_to(sys.base_prefix)


@pytest.mark.parametrize("target", ["demo", "test", "lint"])
def test_make_without_python_exits_2_and_leaves_nothing(bare, tmp_path, target):
    make = shutil.which("make")
    assert make is not None
    clone = tmp_path / "clone"
    shutil.copytree(ROOT / ".ci", clone / ".ci")
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, clone)
    before = sorted(os.listdir(clone))
    result = subprocess.run([make, target], cwd=clone, env=bare, capture_output=True, text=True)
    assert result.returncode == 2
    assert "Python 3.10 is needed" in result.stderr
    assert sorted(os.listdir(clone)) == before
