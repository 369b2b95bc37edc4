"""Synaptic ops, energy, links and planning, from data files whose every figure has a source."""
