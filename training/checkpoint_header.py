"""What a checkpoint's header holds beside the weights, checked field by field before it is used."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from measure.profile import first_problem
from splitcore.bundle import possible
from splitcore.errors import ConfigError

ACCURACY = "validation_accuracy"


def _measured(row: dict[str, int | float]) -> dict[str, int | float]:
    if ACCURACY not in row:
        raise ValueError(f"expected {ACCURACY}")
    return row


Size = Annotated[int, Field(ge=1)]
Row = Annotated[dict[str, int | float], AfterValidator(_measured)]


class Header(BaseModel):
    """image_shape: (C, H, W), or (T, C, H, W) of an event camera; history: a row an epoch."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    config: dict[str, Any]
    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    image_shape: Annotated[
        tuple[Size, ...], Field(min_length=3, max_length=4), AfterValidator(possible)
    ]
    data_digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    epoch: Size  # epochs done
    history: list[Row]
    optimiser_groups: list[dict[str, Any]]


def parse(text: str, where: str) -> Header:
    """The header of a checkpoint. Raises ConfigError naming the field."""
    try:
        header = Header.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{where}: damaged header: {first_problem(error)}") from None
    if len(header.history) != header.epoch:
        raise ConfigError(
            f"{where}: damaged header: history: expected {header.epoch} epochs, "
            f"got {len(header.history)}"
        )
    return header
