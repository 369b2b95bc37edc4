"""The serve command: say where it listens, then serve until told to stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloud_server.endpoint import ServerLimits
from cloud_server.metrics import METRICS_HOST
from cloud_server.server import Ready, serve
from pipeline.console import log_json, own_stdout


def run(
    bundles: list[Path], *, listen: str, as_json: bool, packets_per_s: int | None, **options: Any
) -> None:
    """Serve until SIGTERM or Ctrl-C. One line on stdout says what was bound; as_json: in JSON, as
    is the log."""
    if as_json:
        log_json()
    with own_stdout() as stdout:  # Ray prints there

        def ready(where: Ready) -> None:
            stdout.write(_as_json(where, bundles) if as_json else _in_words(where))
            stdout.flush()

        limits = ServerLimits(packets_per_s=packets_per_s)
        serve(bundles, listen, ready=ready, limits=limits, **options)


def _as_json(where: Ready, bundles: list[Path]) -> str:
    line = {
        "listening": where.address,
        "metrics_port": where.metrics_port,
        "bundles": [str(bundle) for bundle in bundles],
    }
    return json.dumps(line) + "\n"


def _in_words(where: Ready) -> str:
    port = where.metrics_port
    metrics = "" if port is None else f"metrics on {METRICS_HOST}:{port}/metrics; "
    return f"listening on {where.address}; {metrics}stop with Ctrl-C\n"
