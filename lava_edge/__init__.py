"""The edge half: NetX files, numpy reference, Lava simulator, uplink."""
