"""An edge as a process, to be killed: BUNDLE SERVER SPILL GROUP; prints when all is sent."""

import sys
import time
from pathlib import Path

from lava_edge.uplink import Uplink
from splitcore.bundle import open_bundle
from tests.tiny_bundle import STEPS, random_code

FIRST_BY_STEP, WHOLE, LAST_BY_STEP = range(20), range(20, 60), range(60, 70)
MAX_PENDING = 32  # the last by step find memory full
SAMPLES = 70


def main() -> None:
    """Send all samples and wait for the end."""
    bundle, server, spill, group = sys.argv[1:]
    codes = random_code(SAMPLES)
    options = {"spill": Path(spill), "group": int(group), "max_pending": MAX_PENDING}
    with Uplink(server, open_bundle(Path(bundle)), **options) as uplink:

        def send_by_step(samples: range) -> None:
            for step in range(STEPS):
                for sample in samples:
                    uplink.send_step(sample, step + 1, codes[sample][step])

        send_by_step(FIRST_BY_STEP)
        for sample in WHOLE:
            uplink.send(sample, codes[sample])
        send_by_step(LAST_BY_STEP)
        print("sent", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main()
