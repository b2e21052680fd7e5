"""Batch normalisation as a scale and a shift of each channel."""
