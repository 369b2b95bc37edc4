from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from pipeline import images
from splitcore.bundle import open_bundle
from splitcore.errors import DataError


def write_photographs(root, names, size):
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(5):
            Image.new("RGB", size, (int(name, 36) * 20, 0, 0)).save(root / name / f"{index}.png")
    return root


def test_photographs_of_another_size_are_scaled_to_the_bundle(digits_bundle, tmp_path):
    photographs = write_photographs(tmp_path / "photos", "0123456789", (48, 32))
    found = images.load(open_bundle(digits_bundle), str(photographs), None)
    assert found.data == "photos"
    assert found.images.shape == (10, 1, 8, 8)
    assert found.frames_ntchw.shape == (10, 4, 1, 8, 8)
    # red r is grey 0.299 r (ITU-R 601), and 6 bits of it enter
    grey = np.rint(found.labels_n * 20 * 0.299).astype(np.uint8)
    assert (found.frames_ntchw[:, :, 0, 0, 0] == (grey >> 2)[:, None]).all()


@pytest.mark.parametrize(
    ("classes", "told"), [("012345678", r"9 .*7, 8\)"), ("012345678a", r"10 .*8, a\)")]
)
def test_photographs_of_other_classes_are_refused(digits_bundle, tmp_path, classes, told):
    photographs = write_photographs(tmp_path / "photos", classes, (8, 8))
    with pytest.raises(DataError, match=told + r" of images .* expects 10 classes \(0.*9\)"):
        images.load(open_bundle(digits_bundle), str(photographs), None)


def test_a_bundle_trained_on_other_images_than_its_config_names_wants_them(digits_bundle):
    bundle = open_bundle(digits_bundle)
    told = replace(bundle, manifest=bundle.manifest.model_copy(update={"data": "photos"}))
    with pytest.raises(DataError, match="trained on photos, not on digits; give its images as"):
        images.load(told, None, None)
    assert images.load(told, "digits", 2).data == "digits"


@pytest.mark.parametrize(
    "training",
    [
        {},
        {"config": []},
        {"config": {"data": 3}},
        {"config": {"data": {"source": 3}}},
        {"config": {"data": {"source": "digits", "seed": "x"}}},
    ],
)
def test_bundle_that_does_not_say_its_data_is_refused_with_advice(digits_bundle, training):
    bundle = open_bundle(digits_bundle)
    silent = replace(bundle, manifest=bundle.manifest.model_copy(update={"training": training}))
    with pytest.raises(DataError, match="does not say what it was trained on; give --data"):
        images.load(silent, None, None)
