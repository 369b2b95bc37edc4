"""Imports go downhill, and what must run on a small device loads without torch and Lava."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

RANKS = {
    "splitcore": 0,
    "measure": 1,
    "training": 2,
    "lava_edge": 3,
    "cloud_server": 3,
    "pipeline": 4,
}
# The device runs no training code and the server none either, though their rank would allow it.
NEVER = {("lava_edge", "training"), ("cloud_server", "training")}
HEAVY = ("torch", "torchvision", "lava", "tensorboard")
# Modules that load with nothing of HEAVY, and what else they do without.
LIGHT = {
    "splitcore": ("grpc", "h5py"),
    "measure": ("grpc", "h5py"),
    "training.data": ("grpc", "h5py"),
    "lava_edge.reference": ("grpc",),
    "lava_edge.uplink": ("h5py",),
    "cloud_server.service": ("grpc", "h5py"),
}


def files_of(package: str) -> list[Path]:
    """Every source file of a package, or the one of a module."""
    path = ROOT / package.replace(".", "/")
    return sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]


def module_name(file: Path) -> str:
    """The name that this file is imported by."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imported_by(file: Path) -> set[str]:
    """Full names of the modules that a file imports, at any depth of its code."""
    inside = file.relative_to(ROOT).parent.parts
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
            found.add(".".join(part for part in (base, node.module) if part))
    return found


def breaches(package: str, imported: set[str]) -> list[str]:
    """The imports of a module of this package that go up, sideways or where they never may."""
    targets = {name: name.split(".")[0] for name in imported}
    return sorted(
        name
        for name, target in targets.items()
        if target == "tests"
        or (package, target) in NEVER
        or (target in RANKS and target != package and RANKS[target] >= RANKS[package])
    )


@pytest.mark.parametrize("package", RANKS)
def test_imports_of_a_package_only_go_down(package):
    files = files_of(package)
    assert len(files) > 1
    found = {str(file.relative_to(ROOT)): breaches(package, imported_by(file)) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


@pytest.mark.parametrize(
    ("package", "imported", "breach"),
    [
        ("splitcore", "measure.energy", True),
        ("lava_edge", "cloud_server.service", True),
        ("cloud_server", "lava_edge", True),
        ("lava_edge", "training.data", True),
        ("cloud_server", "training", True),
        ("pipeline", "tests.conftest", True),
        ("pipeline", "cloud_server.service", False),
        ("training", "splitcore.graph", False),
        ("training", "training.data", False),
        ("splitcore", "numpy", False),
    ],
)
def test_breach_is_seen_where_there_is_one(package, imported, breach):
    assert breaches(package, {imported}) == ([imported] if breach else [])


def test_imports_inside_functions_and_relative_ones_are_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "lava_edge" / "network" / "leaf.py"
    file.parent.mkdir(parents=True)
    file.write_text("def run():\n    import training.loop\n    from ..uplink import send\n")
    assert imported_by(file) == {"training.loop", "lava_edge.uplink"}


IMPORT_WITHOUT = """
import importlib, importlib.abc, sys
*modules, blocked = sys.argv[1:]
blocked = blocked.split(",")

class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ImportError(f"{name} is imported")

sys.meta_path.insert(0, Block())
for module in modules:
    importlib.import_module(module)
"""


def import_without(modules: list[str], blocked: tuple[str, ...]) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", IMPORT_WITHOUT, *modules, ",".join(blocked)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("package", LIGHT)
def test_light_module_loads_without_torch_and_lava(package):
    result = import_without(
        [module_name(file) for file in files_of(package)], (*HEAVY, *LIGHT[package])
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("package", ["splitcore", "measure", "cloud_server.service"])
def test_package_without_sockets_names_none(package):
    for file in files_of(package):
        assert not {name.split(".")[0] for name in imported_by(file)} & {"socket", "grpc"}, file


def test_module_that_needs_torch_does_not_load_without_it():
    result = import_without(["torch"], HEAVY)
    assert result.returncode == 1
    assert "torch is imported" in result.stderr
