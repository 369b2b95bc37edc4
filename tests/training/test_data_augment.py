import numpy as np
import pytest

from training.augmentation import changed, mixed
from training.config import Augment, Recipe
from training.data.augment import augment, cutout_mask, random_crop


@pytest.fixture
def images(rng):
    return rng.integers(1, 256, (64, 3, 8, 6), dtype=np.uint8)


@pytest.fixture
def rng():
    return np.random.default_rng(5)


def test_augment_same_generator_gives_the_same_batch(images):
    first, second = (augment(images, np.random.default_rng(1), cutout=3) for _ in range(2))
    assert (first == second).all()
    assert (first != augment(images, np.random.default_rng(2), cutout=3)).any()


def test_augment_keeps_shape_dtype_and_the_given_batch(images, rng):
    before = images.copy()
    changed = augment(images, rng, cutout=3)
    assert (changed.shape, changed.dtype) == (images.shape, np.uint8)
    assert (images == before).all()


def test_augment_with_nothing_switched_on_changes_nothing(images, rng):
    assert (augment(images, rng, padding=0, flip=False) == images).all()


def test_random_crop_shifts_each_image_by_its_own_offset_with_zeros(images, rng):
    cropped = random_crop(images, 2, rng)
    padded = np.pad(images, ((0, 0), (0, 0), (2, 2), (2, 2)))
    offsets = set()
    for index in range(len(images)):
        matches = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if (padded[index, :, top : top + 8, left : left + 6] == cropped[index]).all()
        ]
        assert len(matches) == 1
        offsets.update(matches)
    assert len(offsets) > 15  # of 25


def test_flip_mirrors_about_half_of_the_images_left_to_right(images, rng):
    flipped = augment(images, rng, padding=0)
    mirrored = (flipped == images[..., ::-1]).all(axis=(1, 2, 3))
    kept = (flipped == images).all(axis=(1, 2, 3))
    assert (mirrored ^ kept).all()
    assert 16 < mirrored.sum() < 48


def test_cutout_clears_one_square_in_all_channels(rng):
    mask = cutout_mask((200, 3, 8, 6), 3, rng)
    assert (mask == mask[:, :1]).all()
    rows, columns = mask[:, 0].any(axis=2), mask[:, 0].any(axis=1)
    assert (mask[:, 0] == rows[:, :, None] & columns[:, None, :]).all()
    assert set(rows.sum(axis=1)) == {2, 3}  # 2 where it reaches over the border
    inside = (rows.sum(axis=1) == 3) & (columns.sum(axis=1) == 3)
    assert (mask[inside, 0].sum(axis=(1, 2)) == 9).all()


def test_random_crop_to_a_side_takes_a_window_of_each_image(images, rng):
    cropped = random_crop(images, 0, rng, 5)
    assert cropped.shape == (*images.shape[:2], 5, 5)
    for image, part in zip(images, cropped, strict=True):
        places = [
            (top, left)
            for top in range(image.shape[1] - 4)
            for left in range(image.shape[2] - 4)
            if (image[:, top : top + 5, left : left + 5] == part).all()
        ]
        assert places


def test_augment_to_a_side_takes_no_padding_in(images, rng):
    assert augment(images, rng, padding=4, crop=5).all()  # these images hold no zero


def test_changed_shifts_all_steps_of_event_frames_alike(images, rng):
    frames = np.stack([images, images[..., ::-1]], axis=1)
    moved = changed(frames, Recipe(epochs=1, augment=Augment(padding=2)), rng)
    assert moved.shape == frames.shape
    shown = moved > 0
    assert (shown[:, 0] == shown[:, 1]).all()
    assert not shown.all()


def test_changed_crops_in_the_first_epochs_only(images, rng):
    recipe = Recipe(epochs=3, crop_epochs=1, augment=Augment(crop=5))
    assert changed(images, recipe, rng, 0).shape[2:] == (5, 5)
    assert changed(images, recipe, rng, 1) is images
    assert changed(images, recipe, rng) is images


def test_mixed_shares_of_images_are_the_shares_of_their_labels(rng):
    labels = np.arange(64) % 4
    images = _of_one_colour(labels, 60)
    recipe = Recipe(epochs=1, augment=Augment(mixup=1.0))
    both, shares = mixed(images, labels, 4, recipe, rng)
    assert (both.dtype, both.shape, shares.shape) == (np.uint8, images.shape, (64, 4))
    assert np.allclose(shares.sum(1), 1)
    assert np.allclose(both[:, 0, 0, 0], shares @ (60 * np.arange(4)), atol=0.501)
    assert ((shares > 0).sum(1) == 2).sum() > 30
    assert 0.4 < shares[np.arange(64), labels].mean() < 0.8


def test_mixed_takes_no_more_of_another_than_was_said_and_nothing_where_nothing_was(images, rng):
    labels = np.arange(64) % 4
    recipe = Recipe(epochs=1, augment=Augment(mixup=0.25))
    assert mixed(images, labels, 4, recipe, rng)[1][np.arange(64), labels].min() >= 0.75
    same, ids = mixed(images, labels, 4, Recipe(epochs=1), rng)
    assert same is images
    assert ids is labels


def _of_one_colour(labels: np.ndarray, step: int) -> np.ndarray:
    return np.broadcast_to((step * labels)[:, None, None, None], (len(labels), 3, 8, 6)).astype(
        np.uint8
    )


def test_cutmix_puts_one_box_of_another_image_and_labels_tell_its_area(rng):
    labels = np.arange(64) % 4
    recipe = Recipe(epochs=1, augment=Augment(cutmix=1.0))
    both, shares = mixed(_of_one_colour(labels, 60), labels, 4, recipe, rng)
    assert set(np.unique(both)) == {0, 60, 120, 180}  # pasted, not blended
    found = np.stack([(both[:, 0] == 60 * label).mean((1, 2)) for label in range(4)], 1)
    assert np.allclose(found, shares, atol=1e-6)
    assert ((shares > 0).sum(1) == 2).sum() > 30
    for image, label in zip(both[:, 0] // 60, labels, strict=True):
        rows, columns = np.nonzero(image != label)
        if len(rows):
            box = image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
            assert len(np.unique(box)) == 1


def test_cutmix_covers_no_more_than_was_said_and_boxes_lie_anywhere(rng):
    labels = np.arange(512) % 4
    recipe = Recipe(epochs=1, augment=Augment(cutmix=0.25))
    both, shares = mixed(_of_one_colour(labels, 60), labels, 4, recipe, rng)
    assert shares[np.arange(512), labels].min() >= 0.75
    covered = (both[:, 0] != 60 * labels[:, None, None]).mean(0)
    assert covered.min() > 0  # the corners too
    assert covered.max() < 0.25


def test_mixup_and_cutmix_together_are_each_the_lot_of_half_of_the_images(rng):
    labels = np.arange(256) % 2
    recipe = Recipe(epochs=1, augment=Augment(mixup=1.0, cutmix=1.0))
    both, shares = mixed(_of_one_colour(labels, 200), labels, 2, recipe, rng)
    of_two = (shares > 0).all(1)
    blended = np.array([len(np.unique(image)) == 1 for image in both[of_two]])
    assert 0.3 < blended.mean() < 0.7
    assert np.allclose(both.mean((1, 2, 3)), 200 * shares[:, 1], atol=0.501)


def test_mixup_alone_draws_no_boxes(images):
    ours, others = np.random.default_rng(0), np.random.default_rng(0)
    mixed(images, np.zeros(64, int), 4, Recipe(epochs=1, augment=Augment(mixup=0.5)), ours)
    others.permutation(64)
    others.uniform(0, 0.5, 64)
    assert ours.random() == others.random()
