"""Configs that cannot be are refused in one line naming file and field."""

from pathlib import Path

import pytest

from splitcore.errors import ConfigError
from training import config

MODEL = {"backbone": "resnet8", "width": 8}


@pytest.mark.parametrize(
    "text",
    [
        "name: 2024-02-30",
        "[" * 3000,
        f"name: {'1' * 5000}",
        "name: \x00",
        "a: b: c",
        "name: a\nrecipe: {epochs: 40}\nrecipe: {epochs: 1}",
    ],
    ids=["date", "nested", "number", "control", "colons", "twice"],
)
def test_a_file_that_is_no_yaml_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"run\.yaml: no readable YAML"):
        config.load(path)


@pytest.mark.parametrize("section", ["data", "recipe"])
@pytest.mark.parametrize("seed", [-1, 1 << 70, "x"])
def test_a_seed_that_no_generator_takes_is_refused_by_name(section: str, seed: object) -> None:
    raw = {"name": "run", "model": MODEL, "recipe": {"epochs": 1}}
    raw = {**raw, section: {**raw.get(section, {}), "seed": seed}}  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match=rf"run: {section}\.seed: "):
        config.parse(raw, "run")
