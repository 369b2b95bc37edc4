"""A checkpoint that cannot be written leaves what was there."""

from pathlib import Path

import pytest

from splitcore.errors import UsageError
from training import checkpoint


def test_a_checkpoint_that_cannot_be_written_is_told_by_name(
    digits_run: Path, tmp_path: Path
) -> None:
    found = checkpoint.load(digits_run)
    with pytest.raises(UsageError, match=r"gone/checkpoint\S* cannot be written"):
        checkpoint.save_weights(tmp_path / "gone" / checkpoint.FILE, found)
    assert not list(tmp_path.iterdir())
