"""Memory that was freed is not asked of the kernel again."""

import subprocess
import sys

from tests.conftest import ROOT

SCRIPT = """
import resource
import numpy as np
from training.allocator import keep_freed_memory

assert keep_freed_memory()

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        np.ones(16 << 20, dtype=np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def test_freed_memory_is_used_again() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 100  # 64 MiB ten times are 163,840 pages
