"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """A scratch folder beside `out` that takes its place when the block ends well.

    Whatever was at `out`, or where it links to, is moved aside first and goes last; where the
    block raises, it stays and the scratch folder goes.
    """
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        yield scratch
        scratch.chmod(0o755)
        for file in scratch.iterdir():
            file.chmod(0o644)
        if out.exists():
            _replace(out, scratch)
        else:
            scratch.rename(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace(out: Path, scratch: Path) -> None:
    aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    out.rename(aside)  # what is empty may be renamed upon
    try:
        scratch.rename(out)
    except BaseException:
        aside.rename(out)
        raise
    shutil.rmtree(aside, ignore_errors=True)
