"""Where two records first differ: networks, layers, synapses compared to the last integer."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np


def difference(first: object, second: object, where: str = "") -> str | None:
    """The path of the first field that differs, with both values; None where all are equal.

    Looks into dataclasses, tuples and arrays (values, not their integer type).
    """
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        if np.array_equal(first, second):
            return None
        if first.shape != second.shape:
            return f"{where}: shape {first.shape} against {second.shape}"
        return f"{where}: {np.count_nonzero(first != second)} of {first.size} values differ"
    if type(first) is not type(second):
        return f"{where}: {type(first).__name__} against {type(second).__name__}"
    if is_dataclass(first):
        names = [field.name for field in fields(first) if field.init]
        pairs = [(name, getattr(first, name), getattr(second, name)) for name in names]
    elif isinstance(first, tuple) and isinstance(second, tuple) and len(first) == len(second):
        pairs = [(str(index), *pair) for index, pair in enumerate(zip(first, second, strict=True))]
    else:
        return None if first == second else f"{where}: {first!r} against {second!r}"
    found = (difference(one, other, f"{where}.{name}".lstrip(".")) for name, one, other in pairs)
    return next((text for text in found if text), None)
