"""Continuous position bias between every joint and every sampled position."""
