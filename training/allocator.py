"""Large tensors come and go with every layer; the memory under them should stay."""

from __future__ import annotations

import ctypes

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
_LARGEST_INT = 2**31 - 1


def keep_freed_memory() -> bool:
    """Tell the C library to keep what is freed for the next tensor; False where it cannot.

    glibc takes blocks above 32 MiB from the kernel one by one and gives each back at once: every
    layer then waits for pages to be zeroed again, a quarter of the time of a forward pass.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(
        mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, _LARGEST_INT)
    )
