"""What a split spiking network is held against."""

from enum import Enum


class Rival(str, Enum):
    """By the name that the command line knows it by."""

    ANN = "ann"
    JPEG = "jpeg"
    BOTTLENET = "bottlenet"
    BOTTLENET_PLUS_PLUS = "bottlenet++"
    ONE_BIT = "one-bit"
