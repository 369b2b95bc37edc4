"""What README and docs tell a reader to type is run here, block by block, on a small bundle.

```sh                 run as it stands (but for the port), in a folder with a demo_out/bundle
```sh fresh-clone     needs a clone with nothing set up; tested is that it names make targets
```yaml file=NAME     written to NAME before the blocks of the same page run
```python             a sketch, parsed; its imports are done
"""

import json
import os
import re
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.main import get_command

from tests.conftest import CLI, ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)#\s]+)(?:#[^)]*)?\)")


PORT = "50061"  # in the pages; here any free one, as two pages may run at once


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    option: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        language, _, option = match["info"].strip().partition(" ")
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(page, line, language, option.strip(), match["text"]))
    return found


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
RUN_HERE = [block for block in BLOCKS if block.language == "sh" and not block.option]
FRESH_CLONE = [block for block in BLOCKS if block.language == "sh" and block.option]


FRESH_CLONE_COMMANDS = [
    line.split("#")[0].strip() for block in FRESH_CLONE for line in block.text.splitlines()
]


def name_of(block: Block) -> str:
    return f"{block.page.name}:{block.line}"


@pytest.fixture
def reader(tmp_path, digits_bundle) -> Path:
    """A folder with demo_out/bundle, the small one in place of the demo's, and what is shipped."""
    shutil.copytree(digits_bundle, tmp_path / "demo_out" / "bundle")
    (tmp_path / "netx_exports").symlink_to(ROOT / "netx_exports")
    return tmp_path


@pytest.mark.parametrize("block", RUN_HERE, ids=name_of)
def test_documented_commands_run(block, reader):
    for other in blocks_of(block.page):
        if other.option.startswith("file="):
            (reader / other.option.removeprefix("file=")).write_text(other.text)
    path = f"{CLI.parent}{os.pathsep}{os.environ['PATH']}"
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block.text.replace(PORT, str(free_port()))],
        cwd=reader,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr


def test_documents_hold_commands_that_are_run():
    assert {block.page.name for block in RUN_HERE} >= {"README.md", "training.md", "link.md"}


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_block_is_of_a_kind_that_is_checked(block):
    if block.language == "json":
        json.loads(block.text)
    elif block.language == "python":  # a sketch: it parses, and what it imports is there
        compile(block.text, name_of(block), "exec")
        for line in block.text.splitlines():
            if line.startswith(("import ", "from ")):
                exec(line)
    elif block.language == "yaml":
        assert re.fullmatch(r"file=[\w.-]+", block.option)
    else:
        kind = (block.language, block.option)
        assert kind in {("sh", ""), ("sh", "fresh-clone"), ("text", "")}


def test_fresh_clone_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert {"make demo", "make test"} <= set(FRESH_CLONE_COMMANDS)
    for command in FRESH_CLONE_COMMANDS:
        program, target = command.split()
        assert program == "make"
        assert target in targets


def test_continuous_integration_runs_the_test_command_of_the_readme():
    run = (ROOT / ".ci" / "run").read_text().splitlines()
    assert run[-1] == "exec make test"
    assert "make test" in FRESH_CLONE_COMMANDS


def test_readme_table_names_every_command_and_no_other():
    from pipeline.cli import app

    table = re.findall(r"^\| `spikebottlenet ([a-z]+)", (ROOT / "README.md").read_text(), re.M)
    assert sorted(table) == sorted(get_command(app).commands)  # type: ignore[attr-defined]


def test_every_field_of_a_config_is_in_the_table_of_the_training_page():
    from training.config import Bottleneck, Config, Data, Model, Recipe

    fields = {name for name in Config.model_fields if name not in {"data", "model", "recipe"}}
    for part in (Data, Model, Bottleneck, Recipe):
        fields |= {f"{part.__name__.lower()}.{name}" for name in part.model_fields}
    fields.remove("bottleneck")
    rows = re.findall(r"^\| (`.*?)\|", (ROOT / "docs" / "training.md").read_text(), re.M)
    told = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    assert fields <= told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    for target in LINK.findall(page.read_text()):
        assert "://" in target or (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_named_in_a_page_exist(page):
    named = re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.[a-z]+)`", page.read_text())
    for path in named:
        assert (ROOT / path).exists() or path.startswith(("demo_out/", "runs/")), path
