"""A few hundred of scikit-learn's digits, for runs of a few seconds."""

from training.data import digits
from training.data.dataset import Dataset


def small_digits(train: int = 256) -> Dataset:
    """So many training images, and 64 each for validation and test."""
    whole = digits.load()
    return Dataset(
        "digits",
        whole.classes,
        whole.train.take(slice(0, train)),
        whole.validation.take(slice(0, 64)),
        whole.test.take(slice(0, 64)),
    )
