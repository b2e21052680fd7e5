"""Convolution over time on packed frames, stopping at clip boundaries."""
