"""The serve command: say where it listens, then serve until told to stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cloud_server.server import serve
from pipeline.console import own_stdout


def run(bundles: list[Path], *, listen: str, as_json: bool, **options: Any) -> None:
    """Serve until SIGTERM or Ctrl-C. One line on stdout says the bound address."""

    with own_stdout() as stdout:  # Ray prints there

        def ready(address: str) -> None:
            line = {"listening": address, "bundles": [str(bundle) for bundle in bundles]}
            text = json.dumps(line) if as_json else f"listening on {address}; stop with Ctrl-C"
            stdout.write(text + "\n")
            stdout.flush()

        serve(bundles, listen, ready=ready, **options)
