"""Where downloads, and images read from zips, are kept."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """$SPIKEBOTTLENET_CACHE, or spikebottlenet below $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("SPIKEBOTTLENET_CACHE")
    if own:
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spikebottlenet"
