"""Clips: frame selection, keypoint normalisation and score-aware hand sampling."""
