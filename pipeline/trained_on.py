"""The images that a config trains on."""

from __future__ import annotations

from training.config import Config
from training.data import sources
from training.data.dataset import Dataset


def load(config: Config, data: str | None) -> Dataset:
    """Those of its data section, or in their place those that `data` names.

    Raises DataError saying what is wrong and where.
    """
    settings = config.data
    return sources.load(
        data or settings.source, settings.seed, settings.image_shape, config.model.steps
    )
