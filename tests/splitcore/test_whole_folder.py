"""What is at a folder's place when it is replaced, and when that fails."""

import errno
import shutil
from pathlib import Path

import pytest

from splitcore.whole_folder import whole_folder


@pytest.fixture
def out(tmp_path):
    out = tmp_path / "out"
    with whole_folder(out) as scratch:
        (scratch / "old").write_text("old")
    return out


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_replaced_folder_holds_the_new_files_alone(out):
    with whole_folder(out) as scratch:
        (scratch / "new").write_text("new")
    assert names(out) == ["new"]
    assert names(out.parent) == ["out"]
    assert (out.stat().st_mode & 0o777, (out / "new").stat().st_mode & 0o777) == (0o755, 0o644)


def test_link_to_a_folder_stays_a_link(out):
    link = out.parent / "current"
    link.symlink_to(out.name)
    with whole_folder(link) as scratch:
        (scratch / "new").write_text("new")
    assert link.is_symlink()
    assert names(link) == names(out) == ["new"]


def test_older_folder_comes_back_where_the_new_one_cannot_take_its_place(out, monkeypatch):
    rename = Path.rename

    def full(path, target):
        if target == out and (path / "new").exists():
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="Input/output"), whole_folder(out) as scratch:
        (scratch / "new").write_text("new")
    assert names(out) == ["old"]
    assert names(out.parent) == ["out"]


def test_older_folder_is_whole_until_the_new_one_is_there(out, monkeypatch):
    """A process that is killed while it deletes the older one has lost nothing."""
    seen = []

    def deleted(path, **options):
        seen.append(names(out))

    with monkeypatch.context() as patch, whole_folder(out) as scratch:
        (scratch / "new").write_text("new")
        patch.setattr(shutil, "rmtree", deleted)
    assert seen[0] == ["new"]
