"""Spikes to bytes and back: one file a codec, one registry.

registry.py       encode_best, decode, codec_named: where callers begin
context.py        what both sides know before a payload: shape, rates, context model
bitmap.py         1  eight spikes a byte
events.py         2  gaps between spike addresses
bitmap_zstd.py    3  the bitmap through zstandard
rates.py          4  range coding at the channels' firing rates (constriction)
adaptive.py       5  range coding with counts learned from the payload itself
trained.py        6  range coding with the bundle's context model
range_coder.py    the binary range coder of 5 and 6
context_model.py  the trained context model: integers, file, fitting in context_fit.py
entropy.py        what a perfect coder would need under stated models
"""
