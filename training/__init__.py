"""SLAYER blocks, backbones, bottleneck, training, and the lowering to integer records."""
