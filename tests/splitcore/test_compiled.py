"""Machine code on disk goes out of use with any source that is compiled into it."""

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from splitcore import compiled
from tests.conftest import ROOT

# Three modules: one calls the second, which is where the third's constant ends up.
CALLER = """
from splitcore import callee
from splitcore.compiled import compiled


@compiled(nogil=True)
def run(x):
    return callee.twice(x) + 1
"""
CALLEE = """
from splitcore.compiled import compiled
from .constant import (
    FACTOR,  # (of all of them)
)


@compiled()
def twice(x):
    return x * FACTOR
"""
CONSTANT = "FACTOR = 2\n"
RUN = """
from splitcore import caller
print(caller.run(20), sum(caller.run.stats.cache_hits.values()))
"""

ENCODE = """
from tests.splitcore.codec.test_golden import payloads
from splitcore.codec import registry
import splitcore
print(splitcore.__file__, payloads(registry.codec_named("adaptive"))["sample"])
"""


def run(code: str, folder: Path) -> list[str]:
    """What code prints that finds its modules in this folder first; machine code is kept there.

    Python keeps no byte code: it would take an edit of the same second and length for none.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "NUMBA_CACHE_DIR": str(folder / "kept"),
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A splitcore of four modules, run once."""
    folder = tmp_path / "splitcore"
    folder.mkdir()
    (folder / "__init__.py").touch()
    shutil.copy(ROOT / "splitcore" / "compiled.py", folder)
    for name, text in (("caller", CALLER), ("callee", CALLEE), ("constant", CONSTANT)):
        (folder / f"{name}.py").write_text(text)
    assert run(RUN, tmp_path) == ["41", "0"]
    return folder


def test_compiled_is_kept_while_its_sources_stay(package: Path) -> None:
    (package / "other.py").write_text("FACTOR = 3\n")
    assert run(RUN, package.parent) == ["41", "1"]


@pytest.mark.parametrize(
    ("module", "old", "new", "expected"),
    [
        ("callee", "x * FACTOR", "x * FACTOR + 5", "46"),
        ("constant", "2", "3", "61"),
        ("caller", "+ 1", "+ 2", "42"),
    ],
)
def test_compiled_after_an_edit_of_any_source_is_compiled_anew(
    package: Path, module: str, old: str, new: str, expected: str
) -> None:
    file = package / f"{module}.py"
    file.write_text(file.read_text().replace(old, new))
    assert run(RUN, package.parent) == [expected, "0"]


def test_codec_after_an_edit_of_the_range_coder_writes_other_bytes(tmp_path: Path) -> None:
    shutil.copytree(
        ROOT / "splitcore", tmp_path / "splitcore", ignore=shutil.ignore_patterns("__pycache__")
    )
    where, before = run(ENCODE, tmp_path)
    assert Path(where).is_relative_to(tmp_path)
    coder = tmp_path / "splitcore" / "codec" / "range_coder.py"
    text = coder.read_text()
    broken = text.replace("low += bound", "low += bound + 1", 1)
    assert broken != text
    coder.write_text(broken)
    assert run(ENCODE, tmp_path)[1] != before


def test_compiled_is_how_every_module_keeps_machine_code() -> None:
    caching = re.compile(r"\bcache\s*=\s*True")
    found = [
        file.relative_to(ROOT)
        for package in compiled.PACKAGES
        for file in (ROOT / package).rglob("*.py")
        if caching.search(file.read_text())
    ]
    assert found == []


def test_sources_of_a_module_are_all_that_a_parser_sees_it_import() -> None:
    for package in compiled.PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            source = file.read_bytes()
            name = ".".join(file.relative_to(ROOT).with_suffix("").parts)
            wanted: set[str] = set()
            for node in ast.walk(ast.parse(source)):
                match node:
                    case ast.Import(names=names):
                        wanted |= {each.name for each in names}
                    case ast.ImportFrom(module=str(base), names=names, level=0):
                        wanted |= {base, *(f"{base}.{each.name}" for each in names)}
                    case _:
                        continue
            missed = wanted.difference(compiled._imported(name, file, source))
            assert not missed, f"{name} imports {missed}"
