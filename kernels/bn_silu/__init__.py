"""Batch normalization, SiLU, squeeze-and-excitation, and the convolution that reads the result."""
