"""What several modules of these tests begin with."""

import pytest

from tests.training.small_digits import small_digits
from tests.training.small_frozen import fired_parent
from training.data.dataset import Dataset
from training.model import SplitModel


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Shared by the tests of a module, which do not change it."""
    return small_digits()


@pytest.fixture(scope="module")
def parent(data: Dataset) -> SplitModel:
    """An uncut network whose layers fire."""
    return fired_parent(data)
