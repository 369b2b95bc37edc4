"""Compiled functions, kept on disk for as long as nothing that is compiled into them changes.

numba keeps a function's machine code by the file that the function stands in. What it calls, and
the constants it names, are compiled into it as well and may stand in others: a caller of an edited
function would go on with the old one. Here a function is kept by all sources of this project that
its module imports, and those import in turn.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numba
from numba.core.caching import FunctionCache, IndexDataCacheFile
from numba.core.dispatcher import Dispatcher

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("splitcore", "measure", "training", "lava_edge", "cloud_server", "pipeline")

_COMMENT = re.compile(r"#[^\n]*")
_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(?P<base>\S+)[ \t]+)?import[ \t]+(?P<names>\([^)]*\)|[^\n]+)",
    re.MULTILINE,
)


def compiled(**options: Any) -> Callable[[Callable[..., Any]], Any]:
    """`numba.njit` with these options, kept on disk where there is a place and a source."""

    def decorate(function: Callable[..., Any]) -> Any:
        dispatcher = numba.njit(**options)(function)
        if isinstance(dispatcher, Dispatcher):  # else numba is told to compile nothing
            # RuntimeError is numba's word for no place, OSError is of sources in an archive.
            with contextlib.suppress(RuntimeError, OSError):
                dispatcher._cache = _Cache(function)  # pyright: ignore[reportAttributeAccessIssue]
        return dispatcher

    return decorate


class _Cache(FunctionCache):
    """numba's own, but for the stamp by which it knows old code."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__(function)
        self._cache_file = IndexDataCacheFile(
            cache_path=self.cache_path,
            filename_base=self._impl.filename_base,
            source_stamp=sources_digest(function.__module__),
        )


@lru_cache
def sources_digest(module: str) -> bytes:
    """sha256 of the sources of a module and of all of this project's that it stands on."""
    sources: dict[str, bytes] = {}
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = None if name in sources else _source(name)
        if path is not None:
            sources[name] = path.read_bytes()
            waiting += _imported(name, path, sources[name])
    assert sources, f"{module} is no module of this project: its code would be kept for ever"
    digest = hashlib.sha256()
    for name in sorted(sources):
        digest.update(f"{name} {len(sources[name])}\n".encode() + sources[name])
    return digest.digest()


def _source(module: str) -> Path | None:
    """The file of a module of this project; None of any other, and of what is no module."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    return next(
        (file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None
    )


def _imported(module: str, path: Path, source: bytes) -> list[str]:
    """Full names of what a module imports anywhere in it, of modules and of what is in them.

    Prose that reads like an import names no file; a parser would take longer than all the rest.
    """
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found: list[str] = []
    for match in _IMPORT.finditer(_COMMENT.sub("", source.decode("utf-8"))):
        names = [each.split()[0] for each in match["names"].strip("()").split(",") if each.strip()]
        base = match["base"]
        if base is None:
            found += names
            continue
        level = len(base) - len(base.lstrip("."))
        above = package[: len(package) - level + 1] if level else []
        whole = ".".join([*above, *base.lstrip(".").split(".")]).rstrip(".")
        found += [whole, *(f"{whole}.{name}" for name in names)]
    return found
