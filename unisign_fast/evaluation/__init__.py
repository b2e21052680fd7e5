"""Scores of texts: decoding a split, metrics, significance, tables."""
