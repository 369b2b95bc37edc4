"""The place of a file or folder, looked at before the work whose outcome it is to hold."""

from __future__ import annotations

import tempfile
from pathlib import Path

from splitcore.errors import UsageError


def require_writable(out: Path) -> None:
    """Raise UsageError where nothing can be written beside `out`, whose folder may yet be made."""
    try:
        folder = next(each for each in out.absolute().parents if each.exists())
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{out}: cannot be written ({error.strerror})") from None
