"""What every command shares: where output goes, how progress looks, how errors end."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline.log_lines import JsonFormatter, PlainFormatter

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
def own_stdout() -> Iterator[TextIO]:
    """A stream on stdout that is ours alone.

    Whatever libraries and child processes print meanwhile lands on stderr, because the file
    descriptor itself is moved.
    """
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with os.fdopen(kept, "w", encoding="utf-8", closefd=False) as stream:
            yield stream
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


def configure_logging(verbose: bool) -> None:
    """Warnings on stderr; with verbose, what the libraries of this project say as well."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO if verbose else logging.WARNING)
    _log_as(PlainFormatter())


def log_json() -> None:
    """From here on each log record is a line of JSON."""
    _log_as(JsonFormatter())


def _log_as(formatter: logging.Formatter) -> None:
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
