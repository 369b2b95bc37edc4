"""Spikes to bytes and back: one file a codec, one registry."""
