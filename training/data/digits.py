"""The embedded default: scikit-learn's handwritten digits, 1,797 real scans of 8×8.

Source: UCI "Optical Recognition of Handwritten Digits", its test part, as scikit-learn ships it.
"""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from training.data.dataset import Dataset, Split, hold_out

VALIDATION, TEST = 180, 360  # of 1,797; 1,257 are left to train on
LEVEL_MAX = 16  # a pixel counts the ink in a 4×4 block


def load(seed: int = 0) -> Dataset:
    """The digits, levels 0 … 16 scaled to 0 … 255 and split 1,257 / 180 / 360 by seed."""
    levels, labels = load_digits(return_X_y=True)
    images = np.rint(levels * (255 / LEVEL_MAX)).astype(np.uint8).reshape(-1, 1, 8, 8)
    everything = Split(images, labels)
    rest, test = hold_out(everything, TEST, seed, "digits")
    train, validation = hold_out(rest, VALIDATION, seed, "digits")
    return Dataset("digits", tuple(str(digit) for digit in range(10)), train, validation, test)
