"""What images are for a network: how many values, and which classes they are told apart into."""

from __future__ import annotations

from dataclasses import dataclass

from splitcore.errors import DataError

NAMED_CLASSES = 10  # in a message


@dataclass(frozen=True)
class Kind:
    """image_shape: (C, H, W), or (T, C, H, W) of an event camera."""

    classes: tuple[str, ...]
    image_shape: tuple[int, ...]

    def __str__(self) -> str:
        more = ["…"] if len(self.classes) > NAMED_CLASSES else []
        names = ", ".join([*self.classes[:NAMED_CLASSES], *more])
        return f"{len(self.classes)} classes ({names}) of images {self.image_shape}"

    def require(self, found: Kind, source: object, user: object) -> None:
        """Raises DataError, naming both, where `source` has other images than `user` needs."""
        if found != self:
            raise DataError(f"{source}: {found}; {user} expects {self}")
