"""Attention over packed sequences, with a bias added to the logits."""
