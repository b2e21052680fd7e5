"""Evaluation: decoding of a split, metrics, significance, tables of scores."""
