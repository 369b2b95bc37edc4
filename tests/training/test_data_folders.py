import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from splitcore.errors import DataError
from training.data import class_folders, image_files
from training.data.sources import load, load_test


def encoded(color: int | tuple[int, int, int] = 0, size=(6, 4), kind="PNG", mode="RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, color).save(buffer, kind)
    return buffer.getvalue()


def write_folder(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def two_classes(each: int = 5, prefix: str = "") -> dict[str, bytes]:
    """Classes ant (images red 0 … each-1) and bee (red 100 … ), told apart by their red level."""
    return {
        f"{prefix}{name}/{index}.png": encoded((base + index, 0, 0))
        for name, base in (("ant", 0), ("bee", 100))
        for index in range(each)
    }


TRAIN_AND_TEST = {**two_classes(10, "train/"), **two_classes(3, "test/")}


def test_folder_with_train_and_test_keeps_the_test_images(tmp_path):
    dataset = load(write_folder(tmp_path / "bugs", TRAIN_AND_TEST))
    assert dataset.name == "bugs"
    assert dataset.classes == ("ant", "bee")
    assert (len(dataset.train), len(dataset.validation), len(dataset.test)) == (18, 2, 6)
    assert dataset.image_shape == (3, 4, 6)
    assert sorted(dataset.test.images[:, 0, 0, 0]) == [0, 1, 2, 100, 101, 102]


def test_labels_match_the_folder_of_each_image(tmp_path):
    dataset = load(write_folder(tmp_path, TRAIN_AND_TEST))
    for split in (dataset.train, dataset.validation, dataset.test):
        assert (split.labels_n == (split.images[:, 0, 0, 0] >= 100)).all()


def test_folder_of_classes_alone_is_split_by_seed_without_overlap(tmp_path):
    root = write_folder(tmp_path, two_classes(10))
    first, again, other = load(root, seed=1), load(root, seed=1), load(root, seed=2)
    assert (len(first.train), len(first.validation), len(first.test)) == (14, 2, 4)
    levels = [split.images[:, 0, 0, 0] for split in (first.train, first.validation, first.test)]
    assert sorted(np.concatenate(levels)) == [*range(10), *range(100, 110)]
    assert first.digest == again.digest
    assert first.digest != other.digest


@pytest.mark.parametrize("files", [TRAIN_AND_TEST, two_classes(10)])
def test_zip_and_folder_of_the_same_images_are_the_same_data(tmp_path, files):
    folder = load(write_folder(tmp_path / "folder", files))
    archive = load(write_zip(tmp_path / "files.zip", files))
    assert archive.digest == folder.digest


@pytest.mark.parametrize("files", [TRAIN_AND_TEST, two_classes(10)])
def test_test_images_alone_are_those_of_the_whole_set(tmp_path, files):
    root = write_folder(tmp_path, files)
    whole, part = load(root, seed=1), load_test(root, seed=1)
    assert (part.name, part.classes) == (whole.name, whole.classes)
    assert np.array_equal(part.split.images, whole.test.images)
    assert np.array_equal(part.split.labels_n, whole.test.labels_n)


def test_some_test_images_are_of_all_classes_and_no_others_are_read(tmp_path):
    root = write_folder(tmp_path, TRAIN_AND_TEST)
    for broken in ("train/ant/3.png", "train/bee/9.png", "test/ant/1.png", "test/bee/2.png"):
        (root / broken).write_bytes(b"no image")
    # two of red 0, 1, 2, 100, 101, 102: places 0 and 3
    part = load_test(root, image_shape=(3, 4, 6), samples=2)
    assert part.split.images[:, 0, 0, 0].tolist() == [0, 100]
    assert part.split.labels_n.tolist() == [0, 1]
    with pytest.raises(DataError, match=r"test/ant/1\.png: broken image"):
        load_test(root, image_shape=(3, 4, 6), samples=4)
    with pytest.raises(DataError, match="has 6 test images, 7 were asked for"):
        load_test(root, image_shape=(3, 4, 6), samples=7)


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_at_most_so_many_test_images_are_spread_or_all_of_fewer(tmp_path, write):
    root = write(tmp_path / "data.zip", TRAIN_AND_TEST)
    two, all_six = (load_test(root, at_most=count).split.labels_n for count in (2, 7))
    assert two.tolist() == [0, 1]
    assert all_six.tolist() == [0, 0, 0, 1, 1, 1]


def test_zip_with_a_wrapping_folder_and_resource_forks_is_read(tmp_path):
    files = {f"bugs/{name}": data for name, data in TRAIN_AND_TEST.items()}
    files |= {"__MACOSX/bugs/train/ant/._0.png": b"fork", "bugs/train/.DS_Store": b"x"}
    archive = load(write_zip(tmp_path / "bugs.zip", files))
    assert archive.digest == load(write_folder(tmp_path / "plain", TRAIN_AND_TEST)).digest


def test_grey_images_give_one_channel(tmp_path):
    files = {
        f"{name}/{index}.png": encoded(7, mode="L") for name in ("a", "b") for index in range(5)
    }
    assert load(write_folder(tmp_path, files)).image_shape == (1, 4, 6)


def test_image_shape_scales_converts_and_counts(tmp_path):
    files = two_classes(10) | {"ant/same.png": encoded(30, size=(2, 2), mode="L")}
    dataset = load(write_folder(tmp_path, files), image_shape=(1, 2, 2))
    assert dataset.image_shape == (1, 2, 2)
    assert dataset.resized == 20


def test_exif_orientation_turns_the_image_upright(tmp_path):
    image = Image.new("RGB", (6, 4))
    exif = image.getexif()
    exif[0x0112] = 6  # turn a quarter clockwise to see it upright
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=exif)
    files = {f"{name}/{index}.jpg": buffer.getvalue() for name in "ab" for index in range(5)}
    assert load(write_folder(tmp_path, files)).image_shape == (3, 6, 4)


def test_images_of_several_sizes_without_a_shape_are_refused_by_name(tmp_path):
    files = two_classes(5) | {"bee/big.png": encoded(size=(9, 9))}
    with pytest.raises(DataError, match=r"bee/big\.png: 9×9 pixels where the first image has 6×4"):
        load(write_folder(tmp_path, files))


def test_folder_without_images_is_refused(tmp_path):
    with pytest.raises(DataError, match="holds no images"):
        load(write_folder(tmp_path, {"ant/readme.txt": b"none"}))


def test_class_folder_without_images_is_refused_by_name(tmp_path):
    root = write_folder(tmp_path, TRAIN_AND_TEST)
    (root / "train" / "cow").mkdir()
    with pytest.raises(DataError, match="class folder train/cow holds no images"):
        load(root)


def test_different_classes_in_train_and_test_are_refused_by_name(tmp_path):
    files = TRAIN_AND_TEST | {"test/cow/0.png": encoded()}
    with pytest.raises(DataError, match="differ in their classes: cow"):
        load(write_folder(tmp_path, files))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("val/ant/0.png", "expected the folders train and test alone, found test, train, val"),
        ("loose.png", r"found test, train, loose\.png"),
        ("train/loose.png", r"train/loose\.png: lies in no class folder"),
        ("train/ant/deep/0.png", r"train/ant/deep/0\.png: lies in no class folder, or too deep"),
    ],
)
def test_images_outside_the_layout_are_refused_by_name(tmp_path, extra, message):
    with pytest.raises(DataError, match=message):
        load(write_folder(tmp_path, TRAIN_AND_TEST | {extra: encoded()}))


def test_train_without_test_is_refused(tmp_path):
    with pytest.raises(DataError, match="train and test alone, found train"):
        load(write_folder(tmp_path, two_classes(5, "train/") | {"loose.png": encoded()}))


def test_a_single_class_is_refused(tmp_path):
    with pytest.raises(DataError, match="at least two class folders, found 1"):
        load(write_folder(tmp_path, {"ant/0.png": encoded()}))


def test_too_few_images_to_hold_any_out_are_refused(tmp_path):
    with pytest.raises(DataError, match="too few to hold out"):
        load(write_folder(tmp_path, two_classes(1)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image at all",
        encoded()[:45],
        encoded(kind="JPEG", size=(64, 64))[:400],
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    ],
    ids=["empty", "text", "cut PNG", "cut JPEG", "PostScript"],
)
def test_broken_image_is_refused_by_name(tmp_path, data):
    files = two_classes(5) | {"bee/broken.png": data}
    with pytest.raises(DataError, match=r"bee/broken\.png: broken image"):
        load(write_folder(tmp_path / "folder", files), image_shape=(3, 4, 6))
    with pytest.raises(DataError, match=r"bee/broken\.png: broken image"):
        load(write_zip(tmp_path / "files.zip", files), image_shape=(3, 4, 6))


def test_sixteen_bit_image_is_refused_by_name(tmp_path):
    files = two_classes(5) | {"bee/deep.png": encoded(mode="I;16")}
    with pytest.raises(DataError, match=r"bee/deep\.png: expected 8 bits a channel"):
        load(write_folder(tmp_path, files))


@pytest.mark.parametrize("side", [7100, 10_000, 14_000])
def test_image_bomb_is_refused_before_it_is_decoded(tmp_path, side):
    bomb = encoded(size=(side, side), mode="1")
    files = two_classes(5) | {"bee/bomb.png": bomb}
    with pytest.raises(DataError, match=r"bee/bomb\.png: more than 50000000 pixels"):
        load(write_folder(tmp_path, files))


def test_file_larger_than_the_bound_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_FILE_BYTES", 1 << 20)
    files = two_classes(5) | {"bee/zeros.png": bytes(2 << 20)}
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(DataError, match=r"bee/zeros\.png: larger than 1 MiB"):
        load(path)
    with pytest.raises(DataError, match=r"bee/zeros\.png: larger than 1 MiB"):
        load(write_folder(tmp_path / "folder", files))


def test_shape_that_would_fill_the_memory_is_refused(tmp_path):
    with pytest.raises(DataError, match="take more than 8 GiB"):
        load(write_folder(tmp_path, two_classes(5)), image_shape=(3, 20_000, 20_000))


def test_train_and_test_images_that_would_fill_the_memory_together_are_refused(
    tmp_path, monkeypatch
):
    root = write_folder(tmp_path, TRAIN_AND_TEST)
    # The 20 images of train alone would fill it.
    monkeypatch.setattr("training.data.dataset.MAX_ARRAY_BYTES", 20 * 3 * 4 * 6)
    with pytest.raises(DataError, match=r"26 samples of shape \(3, 4, 6\) take more than"):
        load(root)
    assert len(load_test(root).split) == 6


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 0, 8)])
def test_impossible_image_shape_is_refused(tmp_path, shape):
    with pytest.raises(DataError, match="image shape: expected"):
        load(tmp_path, image_shape=shape)


def test_damaged_zip_is_refused(tmp_path):
    path = write_zip(tmp_path / "files.zip", TRAIN_AND_TEST)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match="neither a folder nor a readable zip file"):
        load(path)


def test_zip_member_with_a_changed_byte_is_refused_by_name(tmp_path):
    path = write_zip(tmp_path / "files.zip", {"bee/0.png": encoded(), **two_classes(5, "x/")})
    data = bytearray(path.read_bytes())
    data[50] ^= 1  # in the first member's data, behind a header of 30 bytes and its name
    path.write_bytes(data)
    with (
        image_files.open_source(path) as source,
        pytest.raises(DataError, match=r"bee/0\.png: damaged"),
    ):
        source.read(source.listing.images[0])


def test_zip_with_one_name_twice_is_refused(tmp_path):
    path = tmp_path / "twice.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ant/0.png", encoded())
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("ant/0.png", encoded(9))
    with pytest.raises(DataError, match=r"holds ant/0\.png twice"):
        load(path)


def test_pipe_in_place_of_an_image_is_refused_and_does_not_block(tmp_path):
    root = write_folder(tmp_path, two_classes(5))
    os.mkfifo(root / "bee" / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: no regular file"):
        load(root)


def test_links_to_the_folders_they_lie_in_are_not_followed(tmp_path):
    plain = load(write_folder(tmp_path / "plain", two_classes(5)))
    root = write_folder(tmp_path / "linked", two_classes(5))
    (root / "again").symlink_to(root)
    (root / "ant" / "loop").symlink_to(root)
    (root / "ant" / "self").symlink_to(root / "ant")
    assert load(root).digest == plain.digest


def test_more_folders_than_the_bound_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(image_files, "MAX_FOLDERS", 2)
    three = two_classes(5) | {"cat/0.png": encoded()}
    for path in (
        write_folder(tmp_path / "folder", three),
        write_zip(tmp_path / "files.zip", three),
    ):
        with pytest.raises(DataError, match="more than 2 folders"):
            load(path)


def test_zip_member_too_deep_is_refused_by_its_beginning(tmp_path):
    deep = two_classes(5, "pack/train/") | {"/".join("abcdefg") * 9: b""}
    with pytest.raises(DataError, match=r"files\.zip: a/b/c/d/e/…: lies too deep in folders"):
        load(write_zip(tmp_path / "files.zip", deep))


def test_zip_member_whose_own_header_names_it_by_no_text_is_refused(tmp_path):
    path = write_zip(tmp_path / "files.zip", {**two_classes(5), "bee/é.png": encoded()})
    path.write_bytes(path.read_bytes().replace("é".encode(), b"\xff\xff", 1))
    with pytest.raises(DataError, match=r"bee/é\.png: damaged"):
        load(path)


def test_zip_member_that_is_no_lzma_is_refused_by_name(tmp_path):
    path = tmp_path / "files.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, data in two_classes(5).items():
            archive.writestr(name, data)
    with zipfile.ZipFile(path) as archive:
        first = archive.infolist()[0]
    data = bytearray(path.read_bytes())
    data[30 + len(first.filename) + 4] = 0xFF  # lzma's properties, behind header, name and version
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"ant/0\.png: damaged"):
        load(path)


def test_class_name_that_cannot_be_printed_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a printable name"):
        load(write_folder(tmp_path, two_classes(5) | {"c\n/0.png": encoded()}))


def test_jpeg_cifar_is_not_called_cifar(tmp_path):
    images = tuple(image_files.PurePosixPath(f"{index}.jpg") for index in range(6000))
    classes = tuple(sorted(class_folders.CIFAR10_CLASSES))
    layout = class_folders.Layout(classes, (images,) * 10, ())
    assert class_folders._dataset_name(tmp_path / "mine.zip", layout) == "CIFAR-10-JPEG"
    fewer = class_folders.Layout(classes, (images,) * 9, ())
    assert class_folders._dataset_name(tmp_path / "mine.zip", fewer) == "mine"
