"""The serve command: say where it listens, then serve until told to stop."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cloud_server.server import serve


def run(bundles: list[Path], *, listen: str, as_json: bool, **options: object) -> None:
    """Serve until SIGTERM or Ctrl-C. One line on stdout says the bound address."""

    def ready(address: str) -> None:
        line = {"listening": address, "bundles": [str(bundle) for bundle in bundles]}
        print(json.dumps(line) if as_json else f"listening on {address}; stop with Ctrl-C")
        sys.stdout.flush()

    given = {name: value for name, value in options.items() if value not in (None, False)}
    serve(bundles, listen, ready=ready, **given)  # type: ignore[arg-type]
