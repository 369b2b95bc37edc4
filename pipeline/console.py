"""What every command shares: where output goes, how progress looks, how errors end."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

EXIT_MISMATCH = 1  # engines that should agree did not
EXIT_INPUT = 2

stderr = Console(stderr=True)


def progress_bar() -> Progress:
    """A progress bar on stderr."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=stderr,
    )


@contextmanager
def json_on_stdout(enabled: bool) -> Iterator[list[dict[str, Any]]]:
    """Collect one result; with `enabled` stdout carries it alone.

    Libraries and child processes that print land on stderr meanwhile, because the file descriptor
    itself is moved.
    """
    results: list[dict[str, Any]] = []
    if not enabled:
        yield results
        return
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield results
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
    for result in results:
        sys.stdout.write(json.dumps(result, allow_nan=False) + "\n")
    sys.stdout.flush()


def configure_logging(verbose: bool) -> None:
    """Warnings on stderr; with verbose, what the libraries of this project say as well."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
    )
