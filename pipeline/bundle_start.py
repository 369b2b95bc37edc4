"""A bundle that a run begins with, in the place of another run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from lava_edge import netx_file
from splitcore import tail
from splitcore.bundle import Bundle
from splitcore.errors import ConfigError, DataError
from splitcore.graph import Lif
from training import config as configuration
from training.config import Config
from training.data.dataset import Dataset
from training.model import SplitModel
from training.unfold import begin_with_integers, require_shape

SETTLED = 512  # training images over which a bundle's norms find their statistics


@dataclass(frozen=True)
class BundleStart:
    """The integers of a bundle's layers by their names, and its readout's weight and bias.

    input_bits: of the pixels that its stem weighs, 0 for events. Decays and steps are not taken:
    the neurons are those of the config (see training.unfold). trained: the config of its training.
    """

    name: str
    trained: Any
    input_bits: int
    records: dict[str, Lif]
    readout: tuple[np.ndarray, np.ndarray]

    @classmethod
    def of(cls, bundle: Bundle) -> BundleStart:
        """Both halves of it. Raises BundleError for a damaged one."""
        manifest = bundle.manifest
        edge = netx_file.of_bundle(bundle)
        cloud = tail.of_bundle(bundle)
        layers = (*edge.layers, *cloud.graph.layers)
        return cls(
            manifest.name,
            manifest.training.get("config"),
            edge.input.message_bits,
            {layer.name: layer for layer in layers},
            (cloud.weight_kc, cloud.bias_k),
        )

    def require_fits(self, config: Config, dataset: Dataset) -> None:
        """Raise ConfigError where the network of a config cannot begin with it."""
        if config.model.neuron == "relu":
            raise ConfigError(f"{config.name}: an ANN cannot begin with a bundle")
        if config.model.input_bits != self.input_bits:
            raise ConfigError(
                f"{config.name}: model.input_bits: {config.model.input_bits}, but the bundle "
                f"{self.name} weighs pixels of {self.input_bits}; say input_bits: {self.input_bits}"
            )
        model = config.build(dataset.image_shape, len(dataset.classes))
        require_shape(model, self.records, self.readout, self.name)
        if self.name in config.teachers:
            self._trained(config)

    def network(self, config: Config, dataset: Dataset) -> SplitModel:
        """The bundle's own network, to teach a run that begins with it.

        Raises ConfigError where the run's backbone or neurons are others.
        """
        network = self._trained(config).build(dataset.image_shape, len(dataset.classes))
        self.begin(network, dataset)
        return network

    def _trained(self, config: Config) -> Config:
        own = configuration.parse(self.trained, f"bundle {self.name}: training.config")
        if own.model != config.model:
            raise ConfigError(
                f"{config.name}: teacher: the bundle {self.name} is of another model than the run; "
                "make their `model` sections alike, or learn from a run"
            )
        return own

    def begin(self, model: SplitModel, dataset: Dataset) -> None:
        """Give the model its integers. Raises ConfigError where they do not fit."""
        images = dataset.train.some(SETTLED).images
        begin_with_integers(model, self.records, self.readout, images, self.name)


def require_no_test_image_learned(bundle: Bundle, dataset: Dataset) -> None:
    """Raise DataError for a bundle of the same set, parted otherwise, or of other files of it.

    Test images here may have been its training images.
    """
    manifest = bundle.manifest
    if manifest.data == dataset.name and manifest.training.get("data_digest") != dataset.digest:
        raise DataError(
            f"--start {bundle.path}: was trained on {manifest.data} too, but not on these images "
            "held out alike: test images may be its training images; give its data.seed and files"
        )
