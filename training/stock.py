"""Stock lava-dl, imported once and quietly: it prints of a CUDA toolkit and a camera data set."""

from __future__ import annotations

import contextlib
import io
from typing import Any

with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    from lava.lib.dl import slayer as _slayer

# Its annotations are those of its defaults (stride: int, norm: None), not of what it takes.
slayer: Any = _slayer

__all__ = ["slayer"]
